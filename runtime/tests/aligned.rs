//! The decode loop under constraints, on a tiny model: what is forced, what is taken back, what is shown.

#![allow(clippy::panic, reason = "a failed test")]

mod support;

use std::sync::Arc;
use support::reference::Reference;
use support::tiny;
use truing::align::{Constraints, HoldBack, Lexicon, Limits, Phrase, Shape};
use truing::config::Profile;
use truing::grammar::Grammar;
use truing::model::{Branch, Context, Model};
use truing::sampling::{BatchItem, NextLogits, SamplingParams, Want};
use truing::session::{self, AlignPlan, Aligned, Bans, Event, Finish, OnMatch, Outcome, Request, Setting};
use truing::{ErrorKind, TokenId};

const N_CTX: usize = 96;

struct Rig {
    model: Arc<Model>,
    context: Context,
    lexicon: Arc<Lexicon>,
}

const PROMPT: [TokenId; 4] = [5, 40, 77, 130];

impl Rig {
    fn new() -> Self {
        let tiny = tiny::load(&tiny::folder().join("llama-s1-a-f32.gguf")).expect("model");
        let executor = Reference::new(tiny.model.spec_for(N_CTX), 24, N_CTX).expect("f32");
        let context = Context::with_executor(Box::new(executor), tiny.model.shape(), N_CTX).expect("context");
        let lexicon = session::lexicon(&tiny.model);
        Self { model: tiny.model, context, lexicon }
    }

    fn request(&mut self, seed: u64, aligned: Aligned) -> Request<Branch> {
        Request {
            branch: self.context.root().expect("branch"),
            tokens: PROMPT.to_vec(),
            sampling: SamplingParams::plain(seed),
            limits: session::Limits { max_tokens: Some(60), ..session::Limits::default() },
            keep_branch: true,
            aligned,
        }
    }

    /// Answers together; each with what was streamed.
    fn run(&mut self, requests: Vec<Request<Branch>>) -> Vec<(Outcome, String, Branch)> {
        let mut streamed = vec![String::new(); requests.len()];
        let setting = Setting {
            vocab: self.model.vocab(),
            n_ctx: N_CTX,
            n_parallel: 3,
            cancel: self.context.cancel_flag(),
            model_id: String::new(),
        };
        let mut sink = |i: usize, event: Event<'_>| {
            if let Event::Text(text) = event {
                streamed[i].push_str(text);
            }
        };
        let done = session::run(&mut self.context, &setting, requests, &mut sink).expect("answers");
        let each = done.into_iter().zip(streamed);
        each.map(|((branch, outcome), text)| (outcome, text, branch.expect("kept"))).collect()
    }

    fn regex(&self, pattern: &str) -> Aligned {
        let asked = Constraints {
            shape: Some(Shape::Grammar(Grammar::regex(pattern).expect("pattern"))),
            ..Constraints::default()
        };
        let limits = Limits { max_tokens: Some(60), ..Limits::default() };
        asked.compile(&self.lexicon, limits).expect("satisfiable").into()
    }

    /// Checks the reported log-probability, for one of the tokens that end a text.
    fn check_logprob(&mut self, outcome: &Outcome) {
        let ends = self.model.vocab().eog_ids().to_vec();
        let want: Vec<f64> = ends.iter().map(|&e| self.logprob(&outcome.ids, Some(e))).collect();
        let found = outcome.report.logprob;
        assert!(want.iter().any(|w| (w - found).abs() < 1e-3), "{found}, expected one of {want:?}");
    }

    /// The sum of log-probabilities of `ids` and an end token after the prompt, computed token by token.
    fn logprob(&mut self, ids: &[TokenId], end: Option<TokenId>) -> f64 {
        let branch = self.context.root().expect("branch");
        let tokens: Vec<TokenId> = PROMPT.iter().chain(ids).copied().collect();
        let targets: Vec<TokenId> = ids.iter().copied().chain(end).collect();
        self.context.eval(&[BatchItem { branch: &branch, tokens: &tokens, want: Want::All }]).expect("rows");
        let row = |i: usize| self.context.row(PROMPT.len() - 1 + i);
        targets.iter().enumerate().map(|(i, &t)| f64::from(row(i)[t as usize]) - log_sum_exp(row(i))).sum()
    }
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(max) + row.iter().map(|x| f64::from(x - max).exp()).sum::<f64>().ln()
}

#[test]
fn forced_tokens_are_taken_without_a_draw_and_counted_as_if_drawn() {
    let mut rig = Rig::new();
    let aligned = rig.regex("[0-9]{2}-[0-9]{2}");
    let request = rig.request(3, aligned);
    let (outcome, streamed, branch) = rig.run(vec![request]).remove(0);
    let report = &outcome.report;
    assert_eq!((outcome.text.len(), report.finish), (5, Finish::Eos));
    assert_eq!(streamed, outcome.text);
    assert!(Grammar::regex("[0-9]{2}-[0-9]{2}").is_ok() && outcome.text.as_bytes()[2] == b'-');
    assert!(report.n_forced >= 1, "the dash stands alone");
    assert_eq!(rig.context.len(&branch), PROMPT.len() + outcome.ids.len());
    rig.check_logprob(&outcome);
    assert!(report.removed_nats.expect("masked") > 0.0);
    // a forced token costs nothing but its own row
    assert_eq!(report.n_evals, (PROMPT.len() + outcome.ids.len()) as u64);
}

fn banned(rig: &Rig, on_match: OnMatch) -> Aligned {
    let phrases = [Phrase { boundary: truing::align::Boundary::None, ..Phrase::from("ba") }];
    let filter = HoldBack::by_push(&phrases).expect("phrases");
    Aligned { bans: Some(Bans { filter, on_match }), ..rig.regex("[ab]{24}") }
}

#[test]
fn an_excluded_phrase_is_taken_back_before_anyone_sees_it() {
    let mut rig = Rig::new();
    let mut n_backtracks = 0;
    let requests: Vec<_> = (0..9)
        .map(|seed| {
            let aligned = banned(&rig, OnMatch::Backtrack);
            rig.request(seed, aligned)
        })
        .collect();
    let done = rig.run(requests);
    for (outcome, streamed, branch) in &done {
        let report = &outcome.report;
        assert_eq!(*streamed, outcome.text);
        assert!(!outcome.text.contains("ba"), "{:?}", outcome.text);
        assert!(report.finish == Finish::Eos && outcome.text.len() == 24, "{:?}", report.finish);
        assert_eq!(rig.context.len(branch), PROMPT.len() + outcome.ids.len());
        n_backtracks += report.n_backtracks;
        rig.check_logprob(outcome);
    }
    assert!(n_backtracks > 9, "the phrase came {n_backtracks} times");
    // alone each says the same
    let aligned = banned(&rig, OnMatch::Backtrack);
    let request = rig.request(4, aligned);
    let alone = rig.run(vec![request]).remove(0).0;
    assert_eq!(
        (alone.ids, alone.report.n_backtracks),
        (done[4].0.ids.clone(), done[4].0.report.n_backtracks)
    );
}

#[test]
fn an_excluded_phrase_can_end_the_text() {
    let mut rig = Rig::new();
    let requests: Vec<_> = (0..6)
        .map(|seed| {
            let aligned = banned(&rig, OnMatch::Stop);
            rig.request(seed, aligned)
        })
        .collect();
    let mut stopped = 0;
    for (outcome, streamed, _) in rig.run(requests) {
        assert_eq!(streamed, outcome.text);
        assert!(!outcome.text.contains("ba"), "{:?}", outcome.text);
        stopped += usize::from(outcome.report.finish == Finish::Excluded);
    }
    assert!(stopped > 0);
}

fn plan(rig: &Rig, profile: &str) -> truing::Result<AlignPlan> {
    let profile = Profile::parse(profile)?;
    let asked = profile.constraints.build(&mut |file| panic!("no file is named, but {file} is read"))?;
    AlignPlan::new(&profile.constraints, asked, &rig.lexicon).map(|plan| plan.expect("something is asked"))
}

#[test]
fn a_profile_is_kept_by_every_seed_within_its_budget() {
    let mut rig = Rig::new();
    let profile = "[constraints]\ninclude = [\"dog\", [\"cat\", \"cow\"]]\n\
                   exclude = [{ text = \"e\", boundary = \"none\" }]\n\
                   length = { words = \"3..7\", sentences = 1 }\nnorm = \"none\"\n";
    let used = plan(&rig, profile).expect("satisfiable");
    let request = |rig: &mut Rig, seed, plan: &AlignPlan| {
        let mut request = rig.request(seed, plan.aligned(40).expect("room"));
        request.limits.max_tokens = Some(40);
        request
    };
    let requests: Vec<_> = (0..12).map(|seed| request(&mut rig, seed, &used)).collect();
    let done: Vec<_> = rig.run(requests).into_iter().map(|(outcome, text, _)| (outcome, text)).collect();
    // what other requests have found out about the constraint changes nothing
    for limit in 41..48 {
        used.aligned(limit).expect("room");
    }
    let fresh = plan(&rig, profile).expect("satisfiable");
    for plan in [&used, &fresh] {
        let again = request(&mut rig, 5, plan);
        assert_eq!(rig.run(vec![again])[0].0.ids, done[5].0.ids);
    }
    for (outcome, streamed) in done {
        let verdict = outcome.report.constraints.as_ref().expect("a verdict");
        assert!(verdict.satisfied, "{:?}: {verdict:?}", outcome.text);
        assert_eq!((outcome.report.finish, streamed == outcome.text), (Finish::Eos, true));
        assert!(outcome.text.contains("dog") || outcome.text.to_lowercase().contains("dog"));
        assert!(outcome.ids.len() < 40 && !outcome.text.to_lowercase().contains('e'));
    }
}

#[test]
fn the_impossible_is_refused_before_the_model_is_asked() {
    let rig = Rig::new();
    let long = "a ".repeat(40);
    for (profile, words) in [
        ("[constraints]\ninclude = [\"dog\"]\nexclude = [\"dog\"]".to_owned(), "dog"),
        (format!("[constraints]\ninclude = [\"{}\"]", long.trim()), "40 are allowed"),
        ("[constraints]\nlength = { words = 3, chars = 2 }".to_owned(), "length"),
        ("[constraints]\ninclude = [\"dog\"]\ngrammar = { regex = \"[a-c]+\" }".to_owned(), "satisf"),
    ] {
        let refused = plan(&rig, &profile).and_then(|plan| plan.aligned(40).map(|_| ()));
        let error = refused.expect_err(&profile);
        assert_eq!(error.kind(), ErrorKind::Unsatisfiable, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    assert_eq!(rig.context.n_evals(), 0);
}
