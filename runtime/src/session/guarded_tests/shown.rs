//! What is shown, kept and judged when guards take text back.

use super::*;

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
