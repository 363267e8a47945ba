//! Harm in prompts and answers: where it is caught, and what follows.

use super::*;

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
