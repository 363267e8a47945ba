//! Guards on the production loop, with models whose words and hidden states are known.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::align::{HoldBack, Phrase};
use crate::config::Recovery;
use crate::gguf::{GgufFile, GgufWriter};
use crate::guard::{
    Action, Alarm, Direction, Guard, PhraseGuard, Policy, Position, Probe, ProbeGuard, Quality, States,
    Thresholds, Watch,
};
use crate::oracles::{Law, Toy, paged};
use crate::sampling::{Purpose, Random};
use std::sync::Arc;

const EOS: TokenId = 2;
/// The token of byte 0.
const BYTES: TokenId = 3;
const WORDS: [&str; 4] = ["ab", "X!", "no", "sorry"];
const N_VOCAB: usize = 3 + 256 + WORDS.len();
/// Ends a turn and opens the assistant's.
const HEADER: [TokenId; 2] = [1, 0];
const PROMPT: [TokenId; 3] = [50, 51, 52];

fn vocab() -> Vocab {
    let mut texts: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    texts.extend((0..256).map(|b| format!("<0x{b:02X}>")));
    texts.extend(WORDS.map(String::from));
    let kinds: Vec<i32> = [2, 3, 3].into_iter().chain([6; 256]).chain([1; WORDS.len()]).collect();
    let scores = vec![0f32; texts.len()];
    let mut w = GgufWriter::new();
    w.set("tokenizer.ggml.model", "llama").unwrap();
    w.set("tokenizer.ggml.tokens", &texts).unwrap();
    w.set("tokenizer.ggml.token_type", &kinds).unwrap();
    w.set("tokenizer.ggml.scores", &scores).unwrap();
    w.set("tokenizer.ggml.eos_token_id", &EOS).unwrap();
    Vocab::from_gguf(&GgufFile::from_bytes("toy", &w.to_bytes()).unwrap()).unwrap()
}

fn ids(text: &str) -> Vec<TokenId> {
    text.bytes().map(|b| BYTES + TokenId::from(b)).collect()
}

/// Says a script byte by byte, whatever it said before; after a header, another one. Bytes of `X` and `!` are harm:
/// their hidden states lie on one side of a direction, those of all others on the other side.
#[derive(Clone)]
struct Talker {
    script: Vec<TokenId>,
    after_header: Vec<TokenId>,
    /// Harm of the prompt's last token.
    prompt: f32,
    noise: f32,
}

impl Talker {
    fn new(script: &str) -> Self {
        Self { script: ids(script), after_header: ids("no."), prompt: -4.0, noise: 1.0 }
    }

    /// What it says after this text.
    fn next(&self, prefix: &[TokenId]) -> TokenId {
        let header = prefix.windows(2).rposition(|w| w == HEADER);
        let (script, said) = match header {
            Some(at) => (&self.after_header, prefix.len() - at - 2),
            None => (&self.script, prefix.len().saturating_sub(PROMPT.len())),
        };
        let token = script.get(said).copied().unwrap_or(EOS);
        // once it was turned aside it means no harm
        let turned = prefix.contains(&(BYTES + TokenId::from(b'z')));
        if turned && is_harm(token) { BYTES + TokenId::from(b'b') } else { token }
    }
}

fn is_harm(token: TokenId) -> bool {
    [b'X', b'!'].iter().any(|b| token == BYTES + TokenId::from(*b)) || token == BYTES + 256 + 1
}

impl Law for Talker {
    fn n_vocab(&self) -> usize {
        N_VOCAB
    }
    fn eos(&self) -> TokenId {
        EOS
    }
    fn probs(&self, prefix: &[TokenId], out: &mut [f64]) {
        // every past gives other odds, so that a wrong past shows in the log-probability
        let past = prefix.iter().fold(7u64, |h, t| (h ^ u64::from(*t)).wrapping_mul(0x0100_0000_01B3));
        let best = 0.5 + 0.4 * Random::new(past).uniform(0, Purpose::Search);
        out.fill((1.0 - best) / 2.0 / (out.len() - 2) as f64);
        out[(BYTES + TokenId::from(b'z')) as usize] = (1.0 - best) / 2.0; // the second best
        out[self.next(prefix) as usize] = best;
        let total: f64 = out.iter().sum();
        out.iter_mut().for_each(|p| *p /= total);
    }
    fn n_embd(&self) -> usize {
        8
    }
    fn hidden(&self, prefix: &[TokenId], layer: u32, out: &mut [f32]) {
        let Some(&last) = prefix.last() else { return };
        let harm = match prefix.len() == PROMPT.len() {
            true => self.prompt,
            false if is_harm(last) => 4.0,
            false => -4.0,
        };
        let past = prefix.iter().fold(u64::from(layer), |h, t| (h ^ u64::from(*t)).wrapping_mul(0x9E37_79B9));
        let random = Random::new(past);
        for (i, h) in out.iter_mut().enumerate() {
            *h = self.noise * (random.uniform(i as u64, Purpose::Search) as f32 - 0.5);
        }
        out[0] += harm;
    }
}

fn probe(position: Position) -> Arc<Probe> {
    let direction = |layer| Direction {
        layer,
        weight: (0..8).map(|i| if i == 0 { 1.0 } else { 0.0 }).collect(),
        mean: vec![0.0; 8],
        inv_std: vec![1.0; 8],
        bias: 0.0,
    };
    let thresholds = Thresholds { lo: -1.0, hi: 1.0 };
    Arc::new(Probe::new(position, vec![direction(2), direction(5)], thresholds, Quality::default()).unwrap())
}

fn policy(recovery: Recovery) -> Policy {
    Policy {
        recovery,
        refusal: "sorry".into(),
        refusal_ids: ids("sorry").into(),
        refusal_after: ids("\n\nsorry").into(),
        header: HEADER.into(),
        ..Policy::default()
    }
}

fn reading(position: Position, action: Action, recovery: Recovery) -> Watch {
    let guard = ProbeGuard::new("probe".into(), action, probe(position), None);
    Watch::new(vec![Box::new(guard)], policy(recovery).into())
}

/// What a caller saw, piece by piece, and what came of it.
struct Seen {
    pieces: Vec<String>,
    outcome: Outcome,
}

impl Seen {
    fn text(&self) -> &str {
        &self.outcome.text
    }
    fn guard(&self) -> &crate::guard::GuardReport {
        self.outcome.report.guard.as_ref().unwrap()
    }
}

fn answer<L: NextLogits>(lm: &mut L, watch: Option<Watch>, prefix: &[TokenId], max_tokens: usize) -> Seen {
    let aligned = Aligned { watch, prefix: prefix.to_vec(), ..Aligned::default() };
    ask(lm, aligned, max_tokens)
}

fn ask<L: NextLogits>(lm: &mut L, aligned: Aligned, max_tokens: usize) -> Seen {
    let vocab = vocab();
    let setting = Setting {
        vocab: &vocab,
        n_ctx: 2048,
        n_parallel: 1,
        cancel: CancelFlag::default(),
        model_id: String::new(),
    };
    let request = Request {
        branch: lm.root().unwrap(),
        tokens: PROMPT.to_vec(),
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::plain(3) },
        limits: Limits { max_tokens: Some(max_tokens), ..Limits::default() },
        keep_branch: false,
        aligned,
    };
    let mut pieces = Vec::new();
    let mut sink = |_: usize, event: Event<'_>| {
        if let Event::Text(text) = event {
            pieces.push(text.to_owned());
        }
    };
    let done = run(lm, &setting, vec![request], &mut sink).unwrap();
    let outcome = done.into_iter().next().unwrap().1;
    assert_eq!(pieces.concat(), outcome.text, "what is shown is the text");
    Seen { pieces, outcome }
}

/// Judges the first tokens only, as the guards that deep prefixes walk past.
struct FirstTokensOnly(ProbeGuard, usize);

impl Guard for FirstTokensOnly {
    fn name(&self) -> Arc<str> {
        "first tokens".into()
    }
    fn action(&self) -> Action {
        Action::Refuse
    }
    fn layers(&self) -> &[u32] {
        self.0.layers()
    }
    fn see_state(&mut self, at: usize, states: &States<'_>) -> crate::Result<Option<Alarm>> {
        self.1 = at + 1;
        if at < 5 { self.0.see_state(at, states) } else { Ok(None) }
    }
    fn n_clear(&self) -> usize {
        self.1
    }
    fn rewind(&mut self, n: usize) -> crate::Result<()> {
        self.0.rewind(n)
    }
}

#[test]
fn harm_is_caught_at_any_depth_and_never_shown() {
    for depth in [0, 5, 50, 500] {
        let script = format!("{}{}", "a".repeat(depth), "X".repeat(40));
        for (position, watched) in [(Position::Response, true), (Position::Header, false)] {
            let watch = reading(position, Action::Refuse, Recovery::Stop);
            let mut law = Talker::new(&script);
            if position == Position::Header {
                // the state after a header says what came before it
                law.after_header = Vec::new();
            }
            if !watched {
                continue;
            }
            let seen = answer(&mut Toy::new(law), Some(watch), &[], 600);
            assert_eq!(seen.outcome.report.finish, Finish::Refused, "depth {depth}");
            assert!(!seen.text().contains('X'), "depth {depth}: {:?}", seen.text());
            assert!(seen.text().ends_with("sorry"));
            let event = &seen.guard().events[0];
            assert!(event.n_tokens <= depth + 8 && !event.retract_advised, "{event:?}");
        }
        let blind =
            FirstTokensOnly(ProbeGuard::new("p".into(), Action::Refuse, probe(Position::Response), None), 0);
        let watch = Watch::new(vec![Box::new(blind)], policy(Recovery::Stop).into());
        let seen = answer(&mut Toy::new(Talker::new(&script)), Some(watch), &[], 600);
        assert_eq!(seen.text().contains('X'), depth >= 5, "a guard of the first tokens at depth {depth}");
    }
}

#[test]
fn a_prompt_is_refused_before_anything_is_drawn() {
    let law = Talker { prompt: 4.0, ..Talker::new("aaaa") };
    let mut lm = Toy::new(law);
    let seen = answer(&mut lm, Some(reading(Position::Prompt, Action::Refuse, Recovery::Stop)), &[], 50);
    assert_eq!((seen.text(), seen.outcome.report.finish), ("sorry", Finish::Refused));
    assert_eq!((lm.n_calls(), seen.outcome.ids.len()), (1, 0));
    assert!(seen.guard().prompt_score.unwrap() > 1.0);
    let calm = answer(
        &mut Toy::new(Talker::new("aaaa")),
        Some(reading(Position::Prompt, Action::Refuse, Recovery::Stop)),
        &[],
        50,
    );
    assert_eq!((calm.text(), calm.outcome.report.finish), ("aaaa", Finish::Eos));
}

/// Reads the marks of a header: harm before it.
#[derive(Clone)]
struct HeaderReader(Talker);

impl Law for HeaderReader {
    fn n_vocab(&self) -> usize {
        N_VOCAB
    }
    fn eos(&self) -> TokenId {
        EOS
    }
    fn probs(&self, prefix: &[TokenId], out: &mut [f64]) {
        self.0.probs(prefix, out);
    }
    fn n_embd(&self) -> usize {
        8
    }
    fn hidden(&self, prefix: &[TokenId], _: u32, out: &mut [f32]) {
        let n_harm = prefix.iter().filter(|t| is_harm(**t)).count();
        out.fill(0.0);
        out[0] = if prefix.ends_with(&HEADER) && n_harm >= 3 { 4.0 } else { -4.0 };
    }
}

#[test]
fn a_header_on_a_fork_finds_harm_and_leaves_the_answer_alone() {
    for depth in [0, 5, 50, 500] {
        let script = format!("{}{}", "a".repeat(depth), "X".repeat(60));
        let mut lm = Toy::new(HeaderReader(Talker::new(&script)));
        let watch = reading(Position::Header, Action::Refuse, Recovery::Stop);
        let seen = answer(&mut lm, Some(watch), &[], 700);
        assert_eq!(seen.outcome.report.finish, Finish::Refused, "depth {depth}");
        assert!(!seen.text().contains('X'), "depth {depth}");
    }
    // nothing to object to: the text and its log-probability are those without a guard
    let script = "a".repeat(100) + ". b.";
    let mut lm = paged(HeaderReader(Talker::new(&script)), 64, 1024, 64).unwrap();
    let plain = answer(&mut lm, None, &[], 300);
    let watched = answer(&mut lm, Some(reading(Position::Header, Action::Refuse, Recovery::Stop)), &[], 300);
    assert_eq!(watched.outcome.ids, plain.outcome.ids);
    assert_eq!(watched.outcome.report.logprob.to_bits(), plain.outcome.report.logprob.to_bits());
}

/// Log-probability of `ids` and the end after the prompt, computed from the law alone.
fn logprob_of(law: &Talker, ids: &[TokenId], ended: bool) -> f64 {
    let mut past = PROMPT.to_vec();
    let mut sum = 0.0;
    let mut logits = vec![0f32; N_VOCAB];
    for &t in ids.iter().chain(ended.then_some(&EOS)) {
        law.logits(&past, &mut logits);
        let all: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum::<f64>().ln();
        sum += f64::from(logits[t as usize]) - all;
        past.push(t);
    }
    sum
}

#[test]
fn after_a_backtrack_everything_is_as_if_the_text_had_been_fresh() {
    // harm that is said once at any place: the second-best token is taken there, the script goes on
    for depth in [0, 3, 40, 200] {
        let script = format!("{}. {}{}", "a".repeat(depth), "X".repeat(4), "b".repeat(30));
        let law = Talker::new(&script);
        let mut lm = paged(law.clone(), 64, 1024, 64).unwrap();
        let watch = reading(Position::Response, Action::Backtrack, Recovery::Resample);
        let seen = answer(&mut lm, Some(watch), &[], 400);
        let report = &seen.outcome.report;
        assert!(report.n_backtracks > 0, "depth {depth}");
        let expected = logprob_of(&law, &seen.outcome.ids, report.finish == Finish::Eos);
        assert!((report.logprob - expected).abs() < 1e-5, "depth {depth}: {} {expected}", report.logprob);
        assert_eq!(lm.pages().1, 64, "all pages are free again");
    }
}

#[test]
fn guards_that_were_rewound_judge_as_fresh_ones() {
    let mut random = 1u64;
    let mut below = |n: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % n
    };
    let phrases = [Phrase::from("aXb"), Phrase::from("bb!")];
    let filter = HoldBack::by_push(&phrases).unwrap();
    for _ in 0..300 {
        let mut token = || ["a", "b", "X", "!", "é"][below(5)].as_bytes().to_vec();
        let kept: Vec<Vec<u8>> = (0..12).map(|_| token()).collect();
        let (first, second): (Vec<_>, Vec<_>) =
            ((0..15).map(|_| token()).collect(), (0..15).map(|_| token()).collect());
        let make = || -> [Box<dyn Guard>; 2] {
            [
                Box::new(PhraseGuard::with_filter("p".into(), Action::Backtrack, filter.clone())),
                Box::new(ProbeGuard::new("h".into(), Action::Backtrack, probe(Position::Response), None)),
            ]
        };
        let show = |guard: &mut Box<dyn Guard>, at: usize, bytes: &[u8]| {
            let harm = if bytes == b"X" || bytes == b"!" { 2.0 } else { -1.0 };
            let state = [harm + at as f32 * 0.01, 0.3, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0];
            let a = guard.see_token(0, bytes).unwrap();
            let b = guard.see_state(at, &|_| Some(&state)).unwrap();
            (a, b, guard.n_clear())
        };
        let keep = below(kept.len() + 1);
        for (mut used, mut fresh) in make().into_iter().zip(make()) {
            for (at, bytes) in kept.iter().chain(&first).enumerate() {
                show(&mut used, at, bytes);
            }
            used.rewind(keep).unwrap();
            for (at, bytes) in kept[..keep].iter().enumerate() {
                show(&mut fresh, at, bytes);
            }
            for (i, bytes) in second.iter().enumerate() {
                let (a, b) = (show(&mut used, keep + i, bytes), show(&mut fresh, keep + i, bytes));
                assert_eq!(a, b, "{kept:?} {keep} {second:?}");
            }
            assert_eq!(used.see_end().unwrap(), fresh.see_end().unwrap());
        }
    }
}

#[test]
fn a_given_beginning_is_judged_as_if_it_had_been_generated() {
    let mut n_dropped = 0;
    for trial in 0..200u64 {
        let random = Random::new(trial);
        let n = 1 + (random.uniform(0, Purpose::Search) * 30.0) as usize;
        let rate = random.uniform(1, Purpose::Search);
        let text: String = (0..n as u64)
            .map(|i| if random.uniform(9 + i, Purpose::Search) < rate { 'X' } else { 'a' })
            .collect();
        // generated: the same text comes from the model
        let watch = reading(Position::Response, Action::Backtrack, Recovery::Stop);
        let generated = answer(&mut Toy::new(Talker::new(&text)), Some(watch), &[], n);
        let alarmed = !generated.guard().events.is_empty();
        // given: it is put there; the model would say something harmless
        let watch = reading(Position::Response, Action::Backtrack, Recovery::Stop);
        let law = Talker::new(&format!("{}done", "b".repeat(n)));
        let given = answer(&mut Toy::new(law), Some(watch), &ids(&text), 100);
        assert_eq!(!given.guard().events.is_empty(), alarmed, "{text}");
        let expected = if alarmed { format!("{}done", "b".repeat(n)) } else { "done".to_owned() };
        assert_eq!(given.text(), expected, "{text}");
        n_dropped += u32::from(alarmed);
    }
    assert!((40..160).contains(&n_dropped), "{n_dropped} of 200 were dropped: too few to tell");
}

#[test]
fn phrases_in_a_given_beginning_drop_it_even_when_the_answer_completes_them() {
    let guard = || PhraseGuard::new("p".into(), Action::Backtrack, &[Phrase::from("step one")]).unwrap();
    let watch = || Watch::new(vec![Box::new(guard())], policy(Recovery::Prefix).into());
    let mut lm = Toy::new(Talker::new("harmless"));
    let seen = answer(&mut lm, Some(watch()), &ids("so: step one is"), 50);
    assert_eq!((seen.text(), seen.outcome.report.finish), ("harmless", Finish::Eos));
    // "step " is given, "one" is generated: the phrase begins in what was given
    let law = Talker { script: ids("harm one more"), ..Talker::new("") };
    let mut lm = Toy::new(law);
    let seen = answer(&mut lm, Some(watch()), &ids("step "), 50);
    assert_eq!(seen.text(), "harm one more", "the model says its script from the beginning");
    assert_eq!(seen.guard().events.len(), 1);
}

#[test]
fn the_ways_out_lead_where_they_say() {
    let script = format!("good. {}", "X".repeat(40));
    let run_with = |recovery, hold| {
        let guard = ProbeGuard::new("probe".into(), Action::Backtrack, probe(Position::Response), None);
        let policy = Policy { hold_tokens: hold, ..policy(recovery) };
        let watch = Watch::new(vec![Box::new(guard)], policy.into());
        answer(&mut Toy::new(Talker::new(&script)), Some(watch), &[], 60)
    };
    let stopped = run_with(Recovery::Stop, 16);
    assert_eq!((stopped.text(), stopped.outcome.report.finish), ("good.\n\nsorry", Finish::Refused));
    let reopened = run_with(Recovery::Header, 16);
    assert_eq!((reopened.text(), reopened.outcome.report.finish), ("good.no.", Finish::Eos));
    // the refusal's words are said, then the script goes on with harm until the tries are used up
    let said = run_with(Recovery::Prefix, 16);
    assert!(said.text().starts_with("good.\n\nsorry"), "{:?}", said.text());
    assert!(!said.text().contains('X') && said.outcome.report.finish == Finish::Refused);
    assert_eq!(said.text().matches("sorry").count(), 1);
    // with nothing held, harm is shown before it is recognised: the report says so
    let late = run_with(Recovery::Stop, 0);
    assert!(late.guard().events[0].retract_advised && late.text().contains('X'));
}

#[test]
fn a_turn_opened_anew_stays_in_the_past_of_all_that_follows() {
    let script = format!("good. {}", "X".repeat(40));
    let law = Talker { after_header: ids(&format!("ok. {}", "X".repeat(40))), ..Talker::new(&script) };
    let mut lm = paged(law.clone(), 64, 1024, 64).unwrap();
    let watch = reading(Position::Response, Action::Backtrack, Recovery::Header);
    let seen = answer(&mut lm, Some(watch), &[], 80);
    assert_eq!((seen.text(), seen.outcome.report.finish), ("good.ok.ok.\n\nsorry", Finish::Refused));
    // the odds of every token depend on all before it, headers included
    let (mut past, mut expected) = (PROMPT.to_vec(), 0.0);
    let mut probs = vec![0.0; N_VOCAB];
    for (i, part) in ["good.", "ok.", "ok."].into_iter().enumerate() {
        if i > 0 {
            past.extend(HEADER);
        }
        for token in ids(part) {
            law.probs(&past, &mut probs);
            expected += probs[token as usize].ln();
            past.push(token);
        }
    }
    let found = seen.outcome.report.logprob;
    assert!((found - expected).abs() < 1e-5, "{found} {expected}");
}

#[test]
fn what_is_not_judged_is_not_shown() {
    let script = "a".repeat(100);
    let seen = answer(
        &mut Toy::new(Talker::new(&script)),
        Some(reading(Position::Response, Action::Refuse, Recovery::Stop)),
        &[],
        100,
    );
    assert_eq!(seen.text(), script);
    // sixteen tokens are held until the end, all else comes token by token
    assert_eq!(seen.pieces.last().unwrap().len(), 16);
    assert!(seen.pieces[..seen.pieces.len() - 1].iter().all(|p| p.len() == 1));
    // harm in the very last token that may come is seen before the text ends
    let script = format!("{}{}", "a".repeat(20), "X".repeat(12));
    for max_tokens in 23..32 {
        let watch = reading(Position::Response, Action::Refuse, Recovery::Stop);
        let seen = answer(&mut Toy::new(Talker::new(&script)), Some(watch), &[], max_tokens);
        assert_eq!(seen.outcome.report.finish, Finish::Refused, "{max_tokens}");
    }
}

/// A guard that breaks.
struct Broken {
    error: bool,
}

impl Guard for Broken {
    fn name(&self) -> Arc<str> {
        "broken".into()
    }
    fn action(&self) -> Action {
        Action::Backtrack
    }
    fn layers(&self) -> &[u32] {
        &[2]
    }
    fn see_state(&mut self, at: usize, _: &States<'_>) -> crate::Result<Option<Alarm>> {
        match self.error && at == 3 {
            true => Err(crate::Error::new(ErrorKind::Internal, "lost")),
            false => Ok(None),
        }
    }
    fn n_clear(&self) -> usize {
        usize::MAX
    }
    fn rewind(&mut self, _: usize) -> crate::Result<()> {
        Ok(())
    }
}

#[test]
fn a_guard_that_fails_refuses_and_says_so() {
    let watch = |error| Watch::new(vec![Box::new(Broken { error })], policy(Recovery::Prefix).into());
    let seen = answer(&mut Toy::new(Talker::new("aaaaaaaaaa")), Some(watch(true)), &[], 50);
    assert_eq!((seen.text(), seen.outcome.report.finish), ("sorry", Finish::Refused));
    assert!(seen.guard().events[0].failed.as_ref().unwrap().contains("lost"));
    let fine = answer(&mut Toy::new(Talker::new("aaaaaaaaaa")), Some(watch(false)), &[], 50);
    assert_eq!(fine.text(), "aaaaaaaaaa");
    // states that are no numbers
    let law = Talker { noise: f32::NAN, ..Talker::new("aaaaaaaaaa") };
    let watch = reading(Position::Response, Action::Backtrack, Recovery::Prefix);
    let seen = answer(&mut Toy::new(law), Some(watch), &[], 50);
    assert_eq!((seen.text(), seen.outcome.report.finish), ("sorry", Finish::Refused));
    // a model without hidden states cannot be watched: the run is refused
    struct Stateless;
    impl NextLogits for Stateless {
        type Branch = ();
        fn n_vocab(&self) -> usize {
            N_VOCAB
        }
        fn root(&mut self) -> crate::Result<()> {
            Ok(())
        }
        fn fork(&mut self, (): &()) -> crate::Result<()> {
            Ok(())
        }
        fn truncate(&mut self, (): &(), _: usize) -> crate::Result<()> {
            Ok(())
        }
        fn len(&self, (): &()) -> usize {
            0
        }
        fn eval(&mut self, _: &[BatchItem<'_, ()>]) -> crate::Result<()> {
            Ok(())
        }
        fn row(&self, _: usize) -> &[f32] {
            &[]
        }
        fn n_evals(&self) -> u64 {
            0
        }
    }
    let vocab = vocab();
    let setting = Setting {
        vocab: &vocab,
        n_ctx: 64,
        n_parallel: 1,
        cancel: CancelFlag::default(),
        model_id: String::new(),
    };
    let request = Request {
        branch: (),
        tokens: PROMPT.to_vec(),
        sampling: SamplingParams::plain(1),
        limits: Limits::default(),
        keep_branch: false,
        aligned: Aligned {
            watch: Some(reading(Position::Response, Action::Refuse, Recovery::Stop)),
            ..Aligned::default()
        },
    };
    let error = run(&mut Stateless, &setting, vec![request], &mut |_, _| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

/// Allows everything and writes nothing down.
#[derive(Clone)]
struct Anything(usize);

impl crate::align::Constraint for Anything {
    fn n_vocab(&self) -> usize {
        N_VOCAB
    }
    fn len(&self) -> usize {
        self.0
    }
    fn mask(&mut self, _: &mut crate::TokenSet) -> crate::Result<()> {
        Ok(())
    }
    fn accept(&mut self, _: TokenId) -> crate::Result<bool> {
        self.0 += 1;
        Ok(true)
    }
    fn rollback(&mut self, n: usize) -> crate::Result<()> {
        let too_far = || crate::Error::new(ErrorKind::Internal, "rolled back too far");
        self.0 = self.0.checked_sub(n).ok_or_else(too_far)?;
        Ok(())
    }
    fn fork(&self) -> Box<dyn crate::align::Constraint> {
        Box::new(self.clone())
    }
    fn may_end(&self) -> bool {
        true
    }
    fn has_ended(&self) -> bool {
        false
    }
    fn forced(&mut self) -> crate::Result<Option<TokenId>> {
        Ok(None)
    }
    fn witness_len(&mut self) -> Option<usize> {
        None
    }
    fn witness(&mut self, _: &mut Vec<TokenId>) -> bool {
        false
    }
}

#[test]
fn under_a_constraint_no_free_text_takes_the_place_of_an_answer() {
    for recovery in [Recovery::Stop, Recovery::Prefix, Recovery::Header] {
        let script = format!("good. {}", "X".repeat(40));
        let aligned = Aligned {
            constraint: Some(Box::new(Anything(0))),
            watch: Some(reading(Position::Response, Action::Backtrack, recovery)),
            ..Aligned::default()
        };
        let seen = ask(&mut Toy::new(Talker::new(&script)), aligned, 60);
        assert_eq!(seen.outcome.report.finish, Finish::RefusedUnderGrammar, "{recovery:?}");
        assert_eq!(seen.text(), "good.", "{recovery:?}");
    }
}

#[test]
fn a_watched_answer_does_not_depend_on_its_company() {
    let vocab = vocab();
    let setting = |n_parallel| Setting {
        vocab: &vocab,
        n_ctx: 2048,
        n_parallel,
        cancel: CancelFlag::default(),
        model_id: String::new(),
    };
    let texts = |n_parallel: usize| -> Vec<(String, Finish)> {
        let script = format!("aa. bb. {}. cc", "X".repeat(9));
        let mut lm = paged(Talker::new(&script), 256, 1024, 64).unwrap();
        let recoveries = [Recovery::Stop, Recovery::Header, Recovery::Prefix, Recovery::Resample];
        let requests = (0..12usize)
            .map(|i| Request {
                branch: lm.root().unwrap(),
                tokens: PROMPT.to_vec(),
                sampling: SamplingParams { temperature: 0.0, ..SamplingParams::plain(i as u64) },
                limits: Limits { max_tokens: Some(10 + i * 3), ..Limits::default() },
                keep_branch: false,
                aligned: Aligned {
                    watch: (i % 5 != 4).then(|| {
                        let position = if i % 2 == 0 { Position::Response } else { Position::Header };
                        reading(position, Action::Backtrack, recoveries[i % 4])
                    }),
                    prefix: if i % 3 == 0 { ids("aX") } else { Vec::new() },
                    ..Aligned::default()
                },
            })
            .collect();
        let done = run(&mut lm, &setting(n_parallel), requests, &mut |_, _| ()).unwrap();
        done.into_iter().map(|(_, o)| (o.text, o.report.finish)).collect()
    };
    let alone = texts(1);
    assert!(alone.iter().any(|t| t.1 == Finish::Refused) && alone.iter().any(|t| t.1 != Finish::Refused));
    assert_eq!(texts(5), alone);
    assert_eq!(texts(12), alone);
}

/// Streams of all kinds of chunks under phrase guards: nothing of a forbidden phrase is ever cleared.
/// `TRUING_STREAMS`: how many; a million take some minutes.
#[test]
fn no_stream_clears_any_part_of_a_phrase() {
    let n: u64 = std::env::var("TRUING_STREAMS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let letters = ["a", "a", "a", "b", "b", "c", "é", "\u{301}", "A", " "];
    let mut n_matches = 0;
    let sets: Vec<(Vec<Phrase>, HoldBack)> = (0..60 + n / 1000)
        .map(|set| {
            let random = Random::new(set << 32);
            let below = |at: u64, n: usize| (random.uniform(at, Purpose::Search) * n as f64) as usize;
            let phrase = |i: u64| {
                let text: String =
                    (0..1 + below(i, 4) as u64).map(|k| ["a", "b", "é"][below(10 + 10 * i + k, 3)]).collect();
                Phrase { boundary: crate::align::Boundary::None, ..Phrase::from(text.as_str()) }
            };
            let phrases: Vec<Phrase> = (1..2 + below(0, 3) as u64).map(phrase).collect();
            let fresh = HoldBack::by_push(&phrases).unwrap();
            (phrases, fresh)
        })
        .collect();
    for stream in 0..n {
        let random = Random::new(stream);
        let mut at = 0u64;
        let mut below = |n: usize| {
            at += 1;
            (random.uniform(at, Purpose::Search) * n as f64) as usize
        };
        let (phrases, fresh) = &sets[below(sets.len())];
        let text: String = (0..below(24)).map(|_| letters[below(letters.len())]).collect();
        let mut guard = PhraseGuard::with_filter("p".into(), Action::Backtrack, fresh.clone());
        let (mut ends, mut end) = (Vec::new(), 0);
        let mut alarm = None;
        while end < text.len() && alarm.is_none() {
            let to = (end + 1 + below(3)).min(text.len()); // bytes: characters are cut too
            alarm = guard.see_token(0, &text.as_bytes()[end..to]).unwrap();
            end = to;
            ends.push(end);
            // folded as the guard folds: case and composed characters
            let clear = guard.n_clear();
            assert!(clear <= ends.len());
            let cleared = if clear == 0 { 0 } else { ends[clear - 1] };
            let shown = folded(&text.as_bytes()[..cleared]);
            assert!(
                !phrases.iter().any(|p| shown.contains(&folded(p.text.as_bytes()))),
                "{phrases:?} {text:?}"
            );
        }
        if alarm.is_none() {
            alarm = guard.see_end().unwrap();
        }
        let whole = folded(text.as_bytes());
        let has = phrases.iter().any(|p| whole.contains(&folded(p.text.as_bytes())));
        if let Some(alarm) = alarm {
            n_matches += 1;
            assert!(guard.n_clear() <= alarm.from, "{phrases:?} {text:?}: {} {alarm:?}", guard.n_clear());
        }
        // a mark after the phrase makes it another text
        if !text.contains('\u{301}') {
            assert_eq!(alarm.is_some(), has, "{phrases:?} {text:?}");
        }
        if alarm.is_none() {
            assert_eq!(guard.n_clear(), ends.len(), "{phrases:?} {text:?}");
        }
    }
    assert!(n_matches * 4 > n && n_matches < n, "{n_matches} of {n}");
}

fn folded(text: &[u8]) -> String {
    use unicode_normalization::UnicodeNormalization;
    String::from_utf8_lossy(text).to_lowercase().nfd().filter(|c| *c != '\u{fffd}').collect()
}
