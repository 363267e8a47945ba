//! Sequences that grow by turns: what is kept is not evaluated again, and keeping changes no answer.

#![allow(clippy::panic, reason = "a failed test")]

mod support;

use std::time::{Duration, Instant};
use support::tiny;
use truing::ErrorKind;
use truing::config::Profile;
use truing::engine::{self, Adjusted, Pooling, Sequence, Settings};
use truing::model::{Branch, CancelFlag, Context, ContextOptions, Model};
use truing::sampling::NextLogits;
use truing::session::{self, Finish, Outcome};

const N_CTX: usize = 64;

struct Rig {
    model: std::sync::Arc<Model>,
    context: Context,
    settings: Settings,
}

impl Rig {
    fn new(profile: &str) -> Self {
        let model = tiny::load(&tiny::folder().join("llama-s1-a-f32.gguf")).expect("model").model;
        let profile = Profile::parse(profile).expect("profile");
        let asked = profile.constraints.build(&mut |_| panic!("no file is named")).expect("constraints");
        let settings = Settings::new(&profile, asked, || session::lexicon(&model)).expect("settings");
        let n_kv_tokens = N_CTX * (settings.n_branches(1) + 3); // texts stand side by side
        let options = ContextOptions { n_ctx: N_CTX, n_kv_tokens, n_threads: 1, ..Default::default() };
        let context = Context::new(&model, &options).expect("context");
        Self { model, context, settings }
    }

    fn sequence(&mut self) -> Sequence<Branch> {
        Sequence::new(&mut self.context, N_CTX).expect("a sequence")
    }

    fn answer(&mut self, sequence: &mut Sequence<Branch>) -> truing::Result<Outcome> {
        let job = self.settings.job(sequence.tokens().to_vec(), N_CTX)?;
        let setting = engine::setting(&self.model, &self.context, 1);
        sequence.generate(&mut self.context, &setting, &self.settings, job, &mut |_| ())
    }
}

const SAMPLED: &str = "[limits]\nmax_tokens = 6\n[sampling]\nseed = 3\ntemperature = 1.0";
const WORDED: &str = "[limits]\nmax_tokens = 12\n[constraints]\ngrammar = { regex = \"[a-c]{2,4}\" }\n";

#[test]
fn a_second_turn_evaluates_only_what_is_new_and_answers_as_from_scratch() {
    for profile in [
        SAMPLED.to_owned(),
        format!("{WORDED}[search]\nmethod = \"beam\"\nbeams = 2\n"),
        WORDED.replace("]{2,4}\"", "]{2,4}\", mode = \"exact\", max_draws = 100000, on_exhausted = \"smc\""),
    ] {
        let mut rig = Rig::new(&profile);
        let mut grown = rig.sequence();
        grown.push(&rig.context, &[5, 9, 13, 8]).expect("fits");
        let first = rig.answer(&mut grown).expect("an answer");
        assert_eq!(grown.tokens()[4..], first.ids[..]);
        let mut turn = grown.tokens().to_vec();
        turn.extend([7, 7, 30]);
        grown.set(&mut rig.context, &turn).expect("fits");
        let kept = grown.n_evaluated(&rig.context);
        assert!((4 - 1..=turn.len() - 3).contains(&kept), "{kept} of {}", turn.len());
        let second = rig.answer(&mut grown).expect("an answer");

        let mut fresh = rig.sequence();
        fresh.push(&rig.context, &turn).expect("fits");
        assert_eq!(rig.answer(&mut fresh).expect("an answer").text, second.text, "{profile}");
    }
}

#[test]
fn logits_are_those_of_the_whole_sequence_whatever_was_evaluated_before() {
    let mut rig = Rig::new(SAMPLED);
    let mut parts = rig.sequence();
    parts.push(&rig.context, &[5, 9]).expect("fits");
    parts.logits(&mut rig.context).expect("logits");
    parts.push(&rig.context, &[13, 8, 21]).expect("fits");
    parts.prefill(&mut rig.context).expect("evaluated");
    assert_eq!(parts.n_evaluated(&rig.context), 4);
    let by_parts = parts.logits(&mut rig.context).expect("logits").to_vec();
    let again = parts.logits(&mut rig.context).expect("logits").to_vec();
    let mut whole = rig.sequence();
    whole.push(&rig.context, &[5, 9, 13, 8, 21]).expect("fits");
    let at_once = whole.logits(&mut rig.context).expect("logits");
    assert!(by_parts == at_once && again == at_once);
}

#[test]
fn what_cannot_be_held_is_refused_and_nothing_changes() {
    let mut rig = Rig::new(SAMPLED);
    let n_vocab = rig.context.n_vocab() as u32;
    let mut s = rig.sequence();
    let nothing = rig.answer(&mut s).expect_err("nothing to continue");
    assert!(nothing.to_string().contains("empty"), "{nothing}");
    s.push(&rig.context, &[5; N_CTX]).expect("fits exactly");
    for (tokens, kind) in [(&[5][..], ErrorKind::ContextFull), (&[n_vocab], ErrorKind::InvalidArgument)] {
        assert_eq!(s.push(&rig.context, tokens).expect_err("refused").kind(), kind);
    }
    assert_eq!(s.set(&mut rig.context, &[5; N_CTX + 1]).expect_err("refused").kind(), ErrorKind::ContextFull);
    assert_eq!(s.tokens().len(), N_CTX);
    assert!(s.truncate(&mut rig.context, N_CTX + 1).is_err());
    s.truncate(&mut rig.context, N_CTX - 3).expect("shorter");
    assert_eq!(rig.answer(&mut s).expect("an answer").report.finish, Finish::ContextFull);
}

#[test]
fn changed_logits_are_what_is_drawn_from_and_the_caller_sees_the_tokens() {
    let mut rig = Rig::new(SAMPLED);
    let mut s = rig.sequence();
    s.push(&rig.context, &[5, 9, 13]).expect("fits");
    let mut seen = Vec::new();
    let answer = |rig: &mut Rig, s: &mut Sequence<Branch>, adjust: &mut dyn FnMut(&[u32], &mut [f32])| {
        let job = rig.settings.job(s.tokens().to_vec(), N_CTX).expect("a job");
        let setting = engine::setting(&rig.model, &rig.context, 1);
        let mut lm = Adjusted::new(&mut rig.context, &s.tokens()[..0], N_CTX, |ids, row| {
            adjust(ids, row);
            Ok(())
        });
        s.generate(&mut lm, &setting, &rig.settings, job, &mut |_| ()).expect("an answer")
    };
    let forced = answer(&mut rig, &mut s, &mut |ids, row| {
        seen.push(ids.to_vec());
        row.fill(f32::NEG_INFINITY);
        row[40 + ids.len() % 2] = 1.0;
    });
    assert_eq!(forced.ids, [41, 40, 41, 40, 41, 40]);
    assert_eq!(seen[0], [5, 9, 13]);
    assert_eq!(seen[5], [5, 9, 13, 41, 40, 41, 40, 41]);

    let mut t = rig.sequence();
    t.push(&rig.context, &[5, 9, 13]).expect("fits");
    let untouched = answer(&mut rig, &mut t, &mut |_, _| ());
    let mut plain = rig.sequence();
    plain.push(&rig.context, &[5, 9, 13]).expect("fits");
    assert_eq!(rig.answer(&mut plain).expect("an answer").ids, untouched.ids);
}

#[test]
fn an_embedding_times_the_output_head_is_the_logits() {
    let mut rig = Rig::new(SAMPLED);
    let tokens: Vec<u32> = (0..40).map(|i| 5 + i * 3).collect(); // more than a chunk
    let spec = rig.model.spec().clone();
    let embed = |rig: &mut Rig, tokens: &[u32], pooling, normalise| {
        let mut out = vec![0.0; spec.n_embd];
        engine::embed(&rig.model, &mut rig.context, tokens, pooling, normalise, &mut out).expect("a vector");
        out
    };
    let last = embed(&mut rig, &tokens, Pooling::Last, false);
    let mut s = rig.sequence();
    s.push(&rig.context, &tokens).expect("fits");
    let logits = s.logits(&mut rig.context).expect("logits").to_vec();
    let head = spec.output.as_f32().expect("f32").chunks_exact(spec.n_embd);
    for (row, logit) in head.zip(&logits) {
        let product: f64 = row.iter().zip(&last).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
        assert!((product - f64::from(*logit)).abs() < 1e-3 * (1.0 + product.abs()), "{product} for {logit}");
    }
    let each: Vec<_> = (1..=40).map(|n| embed(&mut rig, &tokens[..n], Pooling::Last, false)).collect();
    let mean = embed(&mut rig, &tokens, Pooling::Mean, false);
    for (i, x) in mean.iter().enumerate() {
        let sum: f32 = each.iter().map(|v| v[i]).sum();
        assert!((sum / 40.0 - x).abs() < 1e-4, "{x} at {i}");
    }
    assert_eq!(embed(&mut rig, &tokens, Pooling::First, false), each[0]);
    let length: f32 = embed(&mut rig, &tokens, Pooling::Mean, true).iter().map(|x| x * x).sum();
    assert!((length - 1.0).abs() < 1e-5, "{length}");
}

#[test]
fn a_deadline_ends_a_text_and_says_so() {
    let mut rig = Rig::new("[limits]\nmax_tokens = 6");
    let mut s = rig.sequence();
    s.push(&rig.context, &[5, 9, 13]).expect("fits");
    let flag = CancelFlag::default();
    rig.context.set_cancel_flag(flag.clone());
    flag.set_deadline(Some(Instant::now()));
    assert_eq!(rig.answer(&mut s).expect("an answer").report.finish, Finish::Deadline);
    flag.set_deadline(Some(Instant::now() + Duration::from_secs(3600)));
    flag.cancel();
    assert_eq!(rig.answer(&mut s).expect("an answer").report.finish, Finish::Cancelled);
    flag.reset();
    assert_eq!(rig.answer(&mut s).expect("an answer").ids.len(), 6);
}
