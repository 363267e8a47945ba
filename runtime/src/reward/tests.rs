//! The numbers of the specification, and the bounds on random texts.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::align::{Clause, Range, Unit};
use crate::oracles::{Law, ToyA, enumerate};
use crate::sampling::{Purpose, Random};

fn near(a: f64, b: f64, tolerance: f64) {
    assert!((a - b).abs() <= tolerance, "{a} instead of {b}");
}

fn open(text: &str) -> Candidate<'_> {
    Candidate { text, is_closed: false }
}

fn closed(text: &str) -> Candidate<'_> {
    Candidate { text, is_closed: true }
}

fn value(reward: &mut dyn Reward, candidate: Candidate<'_>) -> f64 {
    reward.score("", candidate).unwrap().value
}

#[test]
fn log_sigmoid_has_its_published_values() {
    for (x, y) in
        [(-4.0, -4.0181), (-2.0, -2.1269), (0.0, -std::f64::consts::LN_2), (2.0, -0.1269), (4.0, -0.0181)]
    {
        near(Transform::LogSigmoid(LogSigmoid { reference: 1.5 }).apply(x + 1.5), y, 1e-4);
    }
    assert!(log_sigmoid(80.0).is_finite() && log_sigmoid(-80.0).is_finite());
    let (a, b) = (0.3f64, -1.7f64);
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    near((log_sigmoid(a) + log_sigmoid(b)).exp(), sigmoid(a) * sigmoid(b), 1e-6);
}

#[test]
fn quantiles_interpolate() {
    near(quantile(&[8.0, 1.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0], 0.85), 6.95, 1e-12);
    assert_eq!(quantile(&[3.0], 0.85), 3.0);
}

#[test]
fn calibration_counts_ties_half_and_ignores_scale() {
    let base = [0.0, 1.0, 0.0, 2.0];
    let c = Calibration::new(&base).unwrap();
    for (r, u) in [(0.0, 0.25), (1.0, 0.625), (2.0, 0.875), (3.0, 1.0)] {
        assert_eq!(c.quantile_of(r), u);
    }
    let cubed: Vec<f64> = base.iter().map(|r| r.powi(3) * 7.0 - 2.0).collect();
    let d = Calibration::new(&cubed).unwrap();
    for r in [0.0, 0.5, 1.0, 2.0, 3.0f64] {
        assert_eq!(c.quantile_of(r).to_bits(), d.quantile_of(r.powi(3) * 7.0 - 2.0).to_bits());
    }
    assert_eq!(c.quantile_without(0.0), 0.5 / 3.0);
    assert!(Calibration::new(&[]).is_err() && Calibration::new(&[f64::NAN]).is_err());
}

#[test]
fn calibrated_rewards_of_base_texts_have_mean_one_half() {
    let texts = enumerate(&ToyA, 5, 1000).unwrap();
    let draw = |i: u64| {
        let mut u = Random::new(3).uniform(i, Purpose::Report);
        let at = texts.iter().position(|(_, p)| {
            u -= p;
            u < 0.0
        });
        let text = &texts[at.unwrap_or(texts.len() - 1)].0;
        (0..3).filter(|t| text.contains(t)).count() as f64 / 3.0
    };
    let c = Calibration::new(&(0..20_000).map(draw).collect::<Vec<_>>()).unwrap();
    let mean = (20_000..40_000).map(|i| c.quantile_of(draw(i))).sum::<f64>() / 20_000.0;
    near(mean, 0.5, 0.01);
    // the best of 4 of what has no ties stands at 4/5 on average
    let flat =
        Calibration::new(&(0..5_000).map(|i| Random::new(5).uniform(i, Purpose::Report)).collect::<Vec<_>>());
    let flat = flat.unwrap();
    let best = |i: u64| (0..4).map(|j| Random::new(9).uniform_at(i, Purpose::Report, j)).fold(0.0, f64::max);
    let mean = (0..20_000).map(|i| flat.quantile_of(best(i))).sum::<f64>() / 20_000.0;
    near(mean, 0.8, 0.01);
    assert_eq!(ToyA.n_vocab(), 4);
}

#[test]
fn keywords_count_whole_words_that_are_finished() {
    let clauses = || vec![Clause::any(["dog", "dogs"]), Clause::any(["cat"])];
    let mut soft = Keywords::new(clauses(), false).unwrap();
    let mut hard = Keywords::new(clauses(), true).unwrap();
    for (text, is_closed, value_soft) in [
        ("A dog and a cat", true, 1.0),
        ("A dog and a cat", false, 0.5),
        ("A dog and a cat.", false, 1.0),
        ("A catalog of Dogs.", false, 0.5),
        ("", true, 0.0),
    ] {
        let candidate = Candidate { text, is_closed };
        assert_eq!(value(&mut soft, candidate), value_soft, "{text}");
        assert_eq!(value(&mut hard, candidate), f64::from(u8::from(value_soft == 1.0)), "{text}");
    }
    assert!(soft.score("", open("dog, cat, ")).unwrap().is_decided());
    assert!(!soft.score("", open("dog ")).unwrap().is_decided());
    assert_eq!((soft.step(), hard.step()), (0.5, 1.0));
    assert!(Keywords::new(Vec::new(), false).is_err());
}

#[test]
fn lengths_fall_off_softly_or_at_once() {
    let range = Range { min: 2, max: Some(4) };
    let mut soft = LengthReward::new(Unit::Words, range, false).unwrap();
    let mut hard = LengthReward::new(Unit::Words, range, true).unwrap();
    for (text, expected) in [("a b c", 1.0), ("a b c d e", 0.75), ("a", 0.5), ("a b c d e f g h i", 0.0)] {
        assert_eq!(value(&mut soft, closed(text)), expected, "{text}");
        assert_eq!(value(&mut hard, closed(text)), f64::from(u8::from(expected == 1.0)), "{text}");
    }
    assert_eq!(value(&mut soft, open("a")), 1.0, "it can still grow");
    let over = hard.score("", open("a b c d e f")).unwrap();
    assert_eq!((over.hi, over.status), (0.0, Status::Violated));
    assert!(LengthReward::new(Unit::Words, Range { min: 3, max: Some(2) }, true).is_err());
    assert!(LengthReward::new(Unit::Words, Range::default(), true).is_err());
}

#[test]
fn patterns_search_match_or_forbid() {
    use PatternMode::{Forbid, Full, Search};
    for (mode, text, is_closed, expected) in [
        (Search, "tel 0123", true, 1.0),
        (Search, "tel", true, 0.0),
        (Search, "tel", false, 0.0),
        (Full, "0123", true, 1.0),
        (Full, "tel 0123", true, 0.0),
        (Forbid, "tel", true, 1.0),
        (Forbid, "tel 0123", true, 0.0),
    ] {
        let mut r = PatternReward::new("[0-9]{4}", mode).unwrap();
        assert_eq!(value(&mut r, Candidate { text, is_closed }), expected, "{mode:?} {text}");
    }
    let mut full = PatternReward::new("[0-9]{4}", Full).unwrap();
    assert_eq!(full.score("", open("01x")).unwrap().hi, 0.0);
    let mut forbid = PatternReward::new("[0-9]{4}", Forbid).unwrap();
    assert_eq!(forbid.score("", open("0123 ")).unwrap().hi, 0.0);
    assert!(PatternReward::new("a(b", Search).err().unwrap().to_string().contains("unclosed"));
}

#[test]
fn json_fails_parses_or_validates() {
    let schema =
        serde_json::json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}});
    let mut r = JsonReward::new(Some(&schema)).unwrap();
    for (text, expected) in [
        (r#" {"b": [1.5e3, "x\u00e9\n"], "a": 3} "#, 1.0),
        (r#"{"a": "x"}"#, 0.5),
        (r#"{"a": 3, "a": 4}"#, 0.0),
        (r#"{"a": 3} then"#, 0.0),
        (r#"{"a": 3"#, 0.0),
    ] {
        assert_eq!(value(&mut r, closed(text)), expected, "{text}");
    }
    assert_eq!(r.score("", open(r#"{"a": 3} t"#)).unwrap().hi, 0.0);
    assert_eq!(r.score("", open(r#"{"a": [tr"#)).unwrap().hi, 1.0);
    assert!(JsonReward::new(Some(&serde_json::json!({"type": "none"}))).is_err());
}

#[test]
fn repeated_words_lose() {
    let mut r = Repetition::new(3).unwrap();
    assert_eq!(value(&mut r, closed("a b c a b c a")), 3.0 / 5.0);
    assert_eq!(value(&mut r, closed("a b")), 1.0);
    assert!(Repetition::new(0).is_err());
}

fn part(reward: impl Reward + 'static, weight: f64) -> Part {
    Part { reward: Box::new(reward), weight, transform: Transform::None }
}

fn all_rewards() -> Vec<Box<dyn Reward>> {
    let words = || vec![Clause::any(["ab"]), Clause::any(["b a", "éa"]), Clause::any(["1"])];
    let range = |min, max| Range { min, max: Some(max) };
    let mut all: Vec<Box<dyn Reward>> = vec![
        Box::new(Keywords::new(words(), false).unwrap()),
        Box::new(Keywords::new(words(), true).unwrap()),
        Box::new(PatternReward::new("a+b|é", PatternMode::Search).unwrap()),
        Box::new(PatternReward::new("[ab .]*1?", PatternMode::Full).unwrap()),
        Box::new(PatternReward::new("ba{2}", PatternMode::Forbid).unwrap()),
        Box::new(JsonReward::new(None).unwrap()),
        Box::new(Repetition::new(2).unwrap()),
    ];
    for unit in Unit::ALL {
        for is_hard in [false, true] {
            all.push(Box::new(LengthReward::new(unit, range(1, 2), is_hard).unwrap()));
            all.push(Box::new(LengthReward::new(unit, range(3, 6), is_hard).unwrap()));
        }
    }
    for combine in [Combine::Sum, Combine::And, Combine::Min, Combine::Gate] {
        let log = Transform::LogSigmoid(LogSigmoid { reference: 0.4 });
        let gate = PatternReward::new("[^1]*", PatternMode::Full).unwrap();
        let words = Keywords::new(words(), false).unwrap();
        let length = LengthReward::new(Unit::Chars, range(2, 5), false).unwrap();
        let parts = vec![part(gate, 1.0), part(words, -2.0), Part { transform: log, ..part(length, 0.7) }];
        all.push(Box::new(Combined::new(parts, combine).unwrap()));
    }
    all
}

#[test]
fn no_continuation_leaves_the_bounds() {
    let alphabet =
        ["a", "b", " ", ".", "1", "é", "e\u{301}", "\u{301}", "\"", "[", "]", ",", "A", "🇫🇷", "\n", "'"];
    let mut all = all_rewards();
    let mut n_pairs = 0;
    for case in 0..1000u64 {
        let draw = |i: u32| Random::new(77).uniform_at(case, Purpose::Report, i);
        let n = 1 + (draw(0) * 8.0) as u32;
        // half of the texts are JSON-like, so that brackets meet
        let json = draw(1) < 0.3;
        let pick = |i: u32| match json {
            true => ["[", "1", ",", "]", "\"", "a", " "][(draw(2 + i) * 7.0) as usize],
            false => alphabet[(draw(2 + i) * alphabet.len() as f64) as usize],
        };
        let pieces: Vec<&str> = (0..n).map(pick).collect();
        let prefixes: Vec<String> = (0..=pieces.len()).map(|i| pieces[..i].concat()).collect();
        for reward in &mut all {
            let scores: Vec<Score> = prefixes.iter().map(|t| reward.score("", open(t)).unwrap()).collect();
            let (least, most) = reward.range();
            for (i, s) in scores.iter().enumerate() {
                let inside = |v: f64| s.lo <= v && v <= s.hi && least <= v && v <= most;
                assert!(inside(s.value), "{} of {:?}: {s:?}", reward.name(), prefixes[i]);
                for (j, later) in prefixes.iter().enumerate().skip(i) {
                    let end = reward.score("", closed(later)).unwrap();
                    let why =
                        format!("{} of {:?}, then {later:?}: {s:?}, {end:?}", reward.name(), prefixes[i]);
                    assert!(inside(end.value) && inside(scores[j].value), "{why}");
                    let settled = s.status == Status::Open || s.status == end.status;
                    assert!(
                        settled || s.status == Status::Violated && end.status != Status::Satisfied,
                        "{why}"
                    );
                    n_pairs += 1;
                }
            }
        }
    }
    assert!(n_pairs > 10_000, "{n_pairs}");
}

/// Gives what it is told, and counts how often it is asked.
struct Fixed(f64, std::rc::Rc<std::cell::Cell<usize>>);

impl Reward for Fixed {
    fn name(&self) -> &str {
        "fixed"
    }
    fn score(&mut self, _: &str, _: Candidate<'_>) -> Result<Score> {
        self.1.set(self.1.get() + 1);
        Ok(Score::fixed(self.0, true))
    }
}

#[test]
fn a_closed_gate_spares_the_costly_rewards() {
    let asked = std::rc::Rc::new(std::cell::Cell::new(0));
    let gate = PatternReward::new("a*", PatternMode::Full).unwrap();
    let parts = vec![part(gate, 1.0), part(Fixed(0.25, asked.clone()), 2.0)];
    let mut r = Combined::new(parts, Combine::Gate).unwrap();
    let texts = [closed("aa"), closed("ab"), closed("b")];
    let values: Vec<f64> = r.score_all("", &texts).unwrap().iter().map(|s| s.value).collect();
    assert_eq!(values, [0.5, GATE_CLOSED, GATE_CLOSED]);
    assert_eq!(asked.get(), 1);
}

#[test]
fn and_is_the_product_of_probabilities() {
    let asked = std::rc::Rc::new(std::cell::Cell::new(0));
    let parts = vec![part(Fixed(0.5, asked.clone()), 1.0), part(Fixed(0.25, asked.clone()), 1.0)];
    let mut r = Combined::new(parts, Combine::And).unwrap();
    near(value(&mut r, closed("")).exp(), 0.125, 1e-12);
    let none = part(Fixed(0.0, asked), 1.0);
    near(value(&mut Combined::new(vec![none], Combine::And).unwrap(), closed("")).exp(), 1e-3, 1e-12);
}

#[test]
fn a_score_that_is_no_number_is_an_error() {
    let asked = std::rc::Rc::new(std::cell::Cell::new(0));
    for v in [f64::NAN, f64::INFINITY] {
        let mut r = Combined::new(vec![part(Fixed(v, asked.clone()), 1.0)], Combine::Sum).unwrap();
        let e = r.score("", closed("x")).unwrap_err();
        assert!(e.kind() == ErrorKind::Reward && e.to_string().contains("reward fixed"), "{e}");
    }
    assert!(Combined::new(vec![part(Fixed(1.0, asked), f64::NAN)], Combine::Sum).is_err());
    assert!(Combined::new(Vec::new(), Combine::Sum).is_err());
}

/// Bytes as tokens, and a few words; every byte of a question is a token.
struct Bytewise(Vec<Vec<u8>>);

impl Bytewise {
    fn new() -> Self {
        let words = ["A", " b", "B", "Yes", " yes", "no", "NO"];
        let bytes = (0..=127u8).map(|b| vec![b]);
        Self(bytes.chain(words.map(|w| w.as_bytes().to_vec())).chain([Vec::new()]).collect())
    }
}

impl crate::align::TokenBytes for Bytewise {
    fn n_vocab(&self) -> usize {
        self.0.len()
    }
    fn bytes(&self, id: crate::token::TokenId) -> &[u8] {
        self.0.get(id as usize).map_or(&[], |t| t)
    }
    fn eog_ids(&self) -> &[crate::token::TokenId] {
        &[135]
    }
}

impl crate::steer::Tokenizer for Bytewise {
    fn encode(&self, text: &str) -> Result<Vec<crate::token::TokenId>> {
        Ok(text.bytes().map(|b| crate::token::TokenId::from(b & 127)).collect())
    }
}

/// The hash law over that many tokens, all of them told apart, its logits shifted by a number of each place.
#[derive(Clone, Copy)]
struct Shifted(f32);

impl Law for Shifted {
    fn n_vocab(&self) -> usize {
        136
    }
    fn eos(&self) -> crate::token::TokenId {
        135
    }
    fn probs(&self, prefix: &[crate::token::TokenId], out: &mut [f64]) {
        let mut logits = vec![0.0; out.len()];
        self.logits(prefix, &mut logits);
        out.iter_mut().zip(&logits).for_each(|(p, l)| *p = f64::from(*l).exp());
        let total: f64 = out.iter().sum();
        out.iter_mut().for_each(|p| *p /= total);
    }
    fn logits(&self, prefix: &[crate::token::TokenId], out: &mut [f32]) {
        let key = prefix.iter().fold(7u64, |h, t| h.wrapping_mul(1_000_003) ^ u64::from(*t));
        let shift = self.0 * (1 + prefix.len() % 3) as f32;
        let random = Random::new(key);
        out.iter_mut().enumerate().for_each(|(t, z)| {
            *z = (random.uniform_at(0, Purpose::Report, t as u32) * 4.0) as f32 + shift;
        });
    }
}

fn reader(shift: f32) -> Reader<crate::model::Context, Bytewise> {
    use crate::steer::Tokenizer;
    let lm = crate::oracles::paged(Shifted(shift), 64, 600, 64).unwrap();
    let tokens = Box::new(|text: &str| Ok([&[135], &Bytewise::new().encode(text)?[..]].concat()));
    Reader::new(lm, Bytewise::new(), tokens, 600).unwrap()
}

#[test]
fn an_implicit_reward_of_equal_models_is_nothing() {
    let texts = ["the cat", "the cat sat", "a dog", "the cat sat on", ""];
    let mut same = Implicit::new(reader(0.0), reader(0.0), 0.1).unwrap();
    let mut shifted = Implicit::new(reader(0.0), reader(3.0), 0.1).unwrap();
    for prompt in ["who?", "what?", "who?"] {
        for text in texts {
            assert_eq!(same.score(prompt, closed(text)).unwrap().value, 0.0);
            near(shifted.score(prompt, open(text)).unwrap().value, 0.0, 1e-4);
        }
    }
    // what is kept between texts is what would be computed anew
    let (mut kept, mut total) = (reader(0.0), 0.0);
    for text in texts {
        let fresh = reader(0.0).logprob("why?", text).unwrap();
        near(kept.logprob("why?", text).unwrap(), fresh, 1e-9);
        total += fresh;
    }
    assert!(total < -50.0);
    assert!(Implicit::new(reader(0.0), reader(0.0), 0.0).is_err());
}

fn asker() -> Asker<crate::model::Context, Bytewise> {
    use crate::steer::Tokenizer;
    let lm = crate::oracles::paged(Shifted(0.0), 64, 600, 64).unwrap();
    let ask = Box::new(|text: &str| Ok([&[135], &Bytewise::new().encode(text)?[..]].concat()));
    Asker::new(lm, Bytewise::new(), ask, 600).unwrap()
}

#[test]
fn a_judge_has_no_favourite_place() {
    let mut pairs = Pairwise::new(asker()).unwrap();
    for (a, b) in [("one", "two"), ("a", "a longer one"), ("x", "y")] {
        let forth = pairs.compare("which?", a, b).unwrap();
        assert_eq!(forth, -pairs.compare("which?", b, a).unwrap());
        assert!(forth != 0.0);
    }
    assert_eq!(pairs.compare("which?", "same", "same").unwrap(), 0.0);
    assert_eq!(pairs.off_topic(), 1.0, "a few tokens of many are little probability");
    let mut judge = YesNo::new(asker(), "Is it good?").unwrap();
    let first = value(&mut judge, closed("fine"));
    let other = value(&mut judge, closed("bad"));
    assert!(first > 0.0 && first < 1.0 && first != other);
    assert_eq!(value(&mut judge, closed("fine")), first, "the same text, the same score");
}
