//! The trace table of the specification, texts that two tokenizers share, and sums of logits.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::align::TokenBytes;
use crate::error::{ErrorKind, Result};
use crate::oracles::{HashLaw, Law, Toy, paged};
use crate::sampling::{BatchItem, Lent, NextLogits, Purpose, Random, Want};
use crate::token::TokenId;
use proptest::prelude::*;

/// Tokens are these texts and an end; text is encoded by the longest token that fits.
struct Words(Vec<&'static str>, Vec<TokenId>);

impl Words {
    fn new(list: &[&'static str]) -> Self {
        Self(list.to_vec(), vec![list.len() as TokenId])
    }
}

impl TokenBytes for Words {
    fn n_vocab(&self) -> usize {
        self.0.len() + 1
    }
    fn bytes(&self, id: TokenId) -> &[u8] {
        self.0.get(id as usize).map_or(&[], |t| t.as_bytes())
    }
    fn eog_ids(&self) -> &[TokenId] {
        &self.1
    }
}

impl Tokenizer for Words {
    fn encode(&self, mut text: &str) -> Result<Vec<TokenId>> {
        let mut ids = Vec::new();
        while !text.is_empty() {
            let fits = (0..self.0.len()).filter(|i| text.starts_with(self.0[*i]));
            let best = fits.max_by_key(|i| (self.0[*i].len(), usize::MAX - i)).expect("a token");
            ids.push(best as TokenId);
            text = &text[self.0[best].len()..];
        }
        Ok(ids)
    }
}

/// What is said after which text: the likeliest token (empty: the end) and its probability. The rest is spread over
/// filler tokens, the last ones.
#[derive(Clone)]
struct Scripted {
    words: Vec<&'static str>,
    says: Vec<(&'static str, &'static str, f64)>,
}

const FILLERS: usize = 10;

impl Law for Scripted {
    fn n_vocab(&self) -> usize {
        self.words.len() + 1
    }
    fn eos(&self) -> TokenId {
        self.words.len() as TokenId
    }
    fn probs(&self, prefix: &[TokenId], out: &mut [f64]) {
        let text: String = prefix.iter().filter_map(|t| self.words.get(*t as usize)).copied().collect();
        let (next, p) = self.says.iter().find(|(t, ..)| *t == text).map_or(("", 1.0), |(_, n, p)| (*n, *p));
        out.fill(0.0);
        let first = self.words.len() - FILLERS;
        out[first..self.words.len()].fill((1.0 - p) / FILLERS as f64);
        let token = self.words.iter().position(|w| *w == next).unwrap_or(self.words.len());
        out[token] = p;
    }
}

const WORDS: [&str; 18] = [
    "Sure", ",", " the", " answer", " is", " 12", ".", " I", "?0", "?1", "?2", "?3", "?4", "?5", "?6", "?7",
    "?8", "?9",
];

fn toy_n() -> (Scripted, Scripted) {
    let nudger = vec![
        ("", "Sure", 0.9),
        ("Sure", ",", 0.9),
        ("Sure,", " the", 0.9),
        ("Sure, the", " answer", 0.9),
        ("Sure, the answer", " is", 0.9),
        ("Sure, the answer is", " 12", 0.9),
        ("Sure, the answer is 12", ".", 0.9),
    ];
    let base = vec![
        ("Sure,", " I", 0.20),
        ("Sure, the", " answer", 0.30),
        ("Sure, the answer", " is", 0.90),
        ("Sure, the answer is", " 12", 0.80),
        ("Sure, the answer is 12", ".", 0.35),
    ];
    let of = |says| Scripted { words: WORDS.to_vec(), says };
    (of(base), of(nudger))
}

fn speaker<'a, L: NextLogits>(
    lm: &'a mut L,
    tokenizer: &'a Words,
    prompt: &'a [TokenId],
) -> Speaker<'a, Lent<'a, L>, &'a Words> {
    let branch = lm.root().unwrap();
    Speaker::new(Lent(lm), tokenizer, branch, prompt, 4096)
}

fn nudged(params: &NudgeParams) -> (Nudged, [u64; 2]) {
    let (base, nudger) = toy_n();
    let words = Words::new(&WORDS);
    let (mut base, mut nudger) = (Toy::new(base), Toy::new(nudger));
    let prompt = [WORDS.len() as TokenId];
    let found = nudge(
        speaker(&mut base, &words, &prompt),
        speaker(&mut nudger, &words, &prompt),
        params,
        &mut |_, _| true,
    );
    (found.unwrap(), [base.n_evals(), nudger.n_evals()])
}

fn of(nudged: &Nudged, by: By) -> Vec<&str> {
    let spans = nudged.report.spans.iter().filter(|s| s.by == by);
    spans.map(|s| &nudged.text[s.start..s.end]).collect()
}

#[test]
fn traces_are_those_of_the_specification() {
    let params = |threshold, agree| NudgeParams {
        threshold,
        agree,
        nudge_tokens: 4,
        base_tokens: 4,
        ..NudgeParams::default()
    };
    for (threshold, agree, nudger, base) in [
        (0.40, true, vec!["Sure, the", "."], vec![" answer is 12"]),
        (0.36, true, vec!["Sure, the", "."], vec![" answer is 12"]),
        (0.40, false, vec!["Sure, the", " answer", "."], vec![" is 12"]),
        (0.35, true, vec!["Sure, the"], vec![" answer is 12."]),
        (0.30, false, vec!["Sure, the"], vec![" answer is 12."]),
        (0.31, false, vec!["Sure, the", " answer"], vec![" is 12."]),
    ] {
        // 0.35 and 0.30 as single-precision logits give them back
        let (found, _) = nudged(&params(threshold - 1e-6, agree));
        let place = format!("threshold {threshold} agree {agree}");
        assert_eq!(found.text, "Sure, the answer is 12.", "{place}");
        assert_eq!(found.report.finish, NudgeFinish::NudgerEos, "{place}");
        assert_eq!((of(&found, By::Nudger), of(&found, By::Base)), (nudger, base), "{place}");
        assert_eq!(Words::new(&WORDS).encode(&found.text).unwrap(), found.ids);
    }
    // a sure base is never asked twice: one pass over the proposal, then a token at a time
    let (found, evals) = nudged(&params(0.40, true));
    assert_eq!((evals[0], found.report.base_evals), (evals[0], evals[0]));
    assert!(evals[0] <= 1 + 4 + 3 + 1, "{evals:?}");
}

#[test]
fn a_short_answer_is_the_nudgers_alone() {
    let (found, [base, _]) = nudged(&NudgeParams::default());
    assert_eq!((of(&found, By::Nudger), base), (vec!["Sure, the answer is 12."], 0));
    assert_eq!(found.report.nudge_rate, 1.0);
    assert!(found.report.warnings.contains(&"high_intervention"));
}

#[test]
fn caps_and_repetitions_end_an_answer() {
    let says = vec![("", "a", 0.9), ("a", " b", 0.9), ("a b", " b", 0.9)];
    let mut words = vec!["a", " b"];
    words.extend(&WORDS[8..]);
    let law = Scripted { words: words.clone(), says };
    // after `a b b …` the nudger says ` b` for ever, the base nothing it is sure of
    #[derive(Clone)]
    struct Loop(Scripted);
    impl Law for Loop {
        fn n_vocab(&self) -> usize {
            self.0.n_vocab()
        }
        fn eos(&self) -> TokenId {
            self.0.eos()
        }
        fn probs(&self, prefix: &[TokenId], out: &mut [f64]) {
            let last = if prefix.is_empty() { &[][..] } else { &[0, 1][..] };
            self.0.probs(last, out);
        }
    }
    let quiet = Scripted { words: words.clone(), says: vec![] };
    let tokens = Words(words, vec![12]);
    let run = |params: &NudgeParams| {
        let (mut base, mut nudger) = (Toy::new(quiet.clone()), Toy::new(Loop(law.clone())));
        let prompt = [12];
        let (base, nudger) = (speaker(&mut base, &tokens, &prompt), speaker(&mut nudger, &tokens, &prompt));
        nudge(base, nudger, params, &mut |_, _| true).unwrap()
    };
    let params = NudgeParams { threshold: 1.1, nudge_tokens: 4, ..NudgeParams::default() };
    let found = run(&params);
    // "a b b" by the first round, then " b b b" three times, and the fourth is the end
    assert_eq!((found.report.finish, found.report.n_rounds), (NudgeFinish::Repeated, 5));
    assert_eq!(found.text, "a b b b b b b b b b b b");
    assert_eq!(run(&NudgeParams { max_rounds: 2, ..params }).report.finish, NudgeFinish::Rounds);
    let capped = run(&NudgeParams { max_tokens: 5, ..params });
    assert_eq!(capped.report.finish, NudgeFinish::Length);
    assert!(capped.report.warnings.contains(&"nudger_never_ended"));
    // the base wants to end at once, and is believed if asked to be
    let stop = NudgeParams { base_eos: BaseEnd::Stop, threshold: 0.5, ..params };
    assert_eq!(run(&stop).report.finish, NudgeFinish::BaseEos);
    assert_eq!(run(&NudgeParams { on_none: OnNone::AcceptAll, max_rounds: 1, ..params }).text, "a b b b");
}

#[test]
fn a_nudger_that_is_the_base_says_what_the_base_says() {
    // tokens that begin with a blank, so that words and tokens agree
    let names: Vec<&'static str> = vec![" a", " b", " c", " d", " e", " f", " g", " h"];
    let tokens = Words::new(&names);
    for seed in 0..60u64 {
        let threshold = Random::new(seed).uniform(0, Purpose::Report) * 0.8;
        let law = Salted(HashLaw::new(9), seed);
        let mut greedy = Toy::new(law);
        let branch = greedy.root().unwrap();
        let (mut ids, mut next) = (Vec::new(), 8);
        for _ in 0..60 {
            greedy.eval(&[BatchItem { branch: &branch, tokens: &[next], want: Want::Last }]).unwrap();
            next = crate::kernels::argmax(greedy.row(0), None).unwrap();
            if next == 8 {
                break;
            }
            ids.push(next);
        }
        // behind the production pages, so that a wrong cut is a wrong text
        let (mut base, mut nudger) = (paged(law, 64, 1000, 64).unwrap(), paged(law, 64, 1000, 64).unwrap());
        let params = NudgeParams { threshold, nudge_tokens: 5, max_tokens: 60, ..NudgeParams::default() };
        let (base, nudger) = (speaker(&mut base, &tokens, &[8]), speaker(&mut nudger, &tokens, &[8]));
        let found = nudge(base, nudger, &params, &mut |_, _| true).unwrap();
        let n = found.ids.len().min(ids.len());
        assert_eq!(found.ids[..n], ids[..n], "seed {seed}");
        let stopped = matches!(found.report.finish, NudgeFinish::Length | NudgeFinish::Repeated);
        assert!(found.ids.len() == ids.len() || stopped, "seed {seed} {:?}", found.report);
    }
}

/// A law of its own for each seed, that agrees with the others at most places.
#[derive(Clone, Copy)]
struct Kin {
    n_vocab: usize,
    seed: u64,
}

impl Law for Kin {
    fn n_vocab(&self) -> usize {
        self.n_vocab
    }
    fn eos(&self) -> TokenId {
        self.n_vocab as TokenId - 1
    }
    fn probs(&self, prefix: &[TokenId], out: &mut [f64]) {
        let law = HashLaw::new(self.n_vocab);
        // one place in six is its own; all are sharp enough to be sure of now and then
        let place =
            prefix.iter().fold(prefix.len() as u64, |h, t| h.wrapping_mul(31).wrapping_add(u64::from(*t)));
        let own = Random::new(self.seed).uniform(place, Purpose::Report) < 0.17;
        let salt = if own { (self.seed % 5) as TokenId } else { 5 };
        law.probs(&[&[salt], &prefix[prefix.len().saturating_sub(3)..]].concat(), out);
        out.iter_mut().for_each(|p| *p = p.powi(3));
        let end = self.n_vocab - 1;
        out[end] *= if prefix.len() < 40 { 0.02 } else { 1.0 };
        let total: f64 = out.iter().sum();
        out.iter_mut().for_each(|p| *p /= total);
    }
}

/// Words of one to three tokens.
const PIECES: [&str; 15] =
    [" a", " b", " c", "d", "e", " f", "g", " h,", "\n", " the", ".", "the", " ", "t", "h"];

/// What two kin say together, each in its own tokens: the nudger's are the pieces in another order, and shorter ones.
fn kin(seed: u64, params: &NudgeParams, scores: bool, constraint: &[&str]) -> Nudged {
    let mut other: Vec<&'static str> = PIECES.to_vec();
    other.reverse();
    other.extend(["a", "b", "c", "f", ","]);
    let (own, other) = (Words::new(&PIECES), Words::new(&other));
    let mut base = paged(Kin { n_vocab: own.n_vocab(), seed }, 64, 4000, 64).unwrap();
    let mut nudger = paged(Renamed(Kin { n_vocab: own.n_vocab(), seed: seed + 1 }), 64, 4000, 64).unwrap();
    let (eos, other_eos) = ([own.n_vocab() as TokenId - 1], [other.n_vocab() as TokenId - 1]);
    let mut base = speaker(&mut base, &own, &eos);
    let mut nudger = speaker(&mut nudger, &other, &other_eos);
    base.scores = scores;
    if !constraint.is_empty() {
        let of = |list: &Words, max_tokens| {
            let asked = crate::align::Constraints {
                wording: crate::align::Wording {
                    include: vec![crate::align::Clause::any(constraint.iter().copied())],
                    ..Default::default()
                },
                ..Default::default()
            };
            let lexicon =
                crate::align::Lexicon::new(std::sync::Arc::new(crate::align::ListVocab::new(&list.0)));
            let limits = crate::align::Limits { max_tokens: Some(max_tokens), ..Default::default() };
            asked.compile(&lexicon, limits).unwrap()
        };
        base.constraint = Some(of(&own, params.max_tokens));
        nudger.constraint = Some(of(&other, 8 * params.max_tokens));
    }
    nudge(base, nudger, params, &mut |_, _| true).unwrap()
}

/// The first law's tokens in the second vocabulary: what it would say is said in the same pieces.
#[derive(Clone, Copy)]
struct Renamed(Kin);

impl Law for Renamed {
    fn n_vocab(&self) -> usize {
        PIECES.len() + 6
    }
    fn eos(&self) -> TokenId {
        PIECES.len() as TokenId + 5
    }
    fn probs(&self, prefix: &[TokenId], out: &mut [f64]) {
        let n = PIECES.len();
        let old = |t: &TokenId| if (*t as usize) < n { (n - 1) as TokenId - t } else { t % 3 };
        let prefix: Vec<TokenId> = prefix.iter().map(old).collect();
        let mut probs = vec![0.0; n + 1];
        self.0.probs(&prefix, &mut probs);
        out.fill(1e-6);
        (0..n).for_each(|i| out[n - 1 - i] = probs[i]);
        out[n + 5] = probs[n];
        let total: f64 = out.iter().sum();
        out.iter_mut().for_each(|p| *p /= total);
    }
}

#[test]
fn drafts_save_passes_and_change_nothing() {
    let mut n_guessed = 0;
    for seed in 0..150 {
        let threshold = 0.2 + 0.5 * Random::new(seed).uniform(0, Purpose::Report);
        let params = NudgeParams {
            threshold,
            nudge_tokens: 7,
            base_tokens: 5,
            max_tokens: 70,
            ..NudgeParams::default()
        };
        let with = kin(seed, &params, false, &[]);
        let without = kin(seed, &NudgeParams { drafts: false, ..params }, false, &[]);
        assert_eq!((&with.text, &with.ids), (&without.text, &without.ids), "seed {seed}");
        assert_eq!(with.report.spans, without.report.spans, "seed {seed}");
        assert_eq!(with.report.finish, without.report.finish, "seed {seed}");
        // a row that was guessed in vain is a row more
        assert!(with.report.base_evals >= without.report.base_evals, "seed {seed}");
        n_guessed += u64::from(with.report.base_evals > without.report.base_evals);
    }
    assert!(
        n_guessed > 20,
        "{n_guessed} texts with wrong guesses: the pairs do not disagree enough to test anything"
    );
}

#[test]
fn a_nudged_text_is_scored_by_the_base() {
    for seed in 0..60 {
        let params =
            NudgeParams { threshold: 0.5, nudge_tokens: 7, max_tokens: 50, ..NudgeParams::default() };
        let drafts = seed % 2 == 0;
        let found = kin(seed, &NudgeParams { drafts, ..params }, true, &[]);
        let law = Kin { n_vocab: PIECES.len() + 1, seed };
        let mut row = vec![0.0; law.n_vocab()];
        let expected: f64 = (0..found.ids.len())
            .map(|i| {
                law.probs(&found.ids[..i], &mut row);
                row[found.ids[i] as usize].ln()
            })
            .sum();
        let logprob = found.logprob.unwrap();
        assert!(
            (logprob - expected).abs() < 1e-3 * (1.0 + expected.abs()),
            "seed {seed}: {logprob} {expected}"
        );
        let plain = kin(seed, &NudgeParams { drafts, ..params }, false, &[]);
        assert_eq!((plain.text, plain.logprob), (found.text, None), "seed {seed}: scoring changes nothing");
    }
}

#[test]
fn both_models_keep_the_constraint() {
    let (mut n_plain, mut n_nudged) = (0, 0);
    for seed in 0..60 {
        let params =
            NudgeParams { threshold: 0.5, nudge_tokens: 6, max_tokens: 40, ..NudgeParams::default() };
        let has = |n: &Nudged| n.text.contains("the e");
        n_plain += usize::from(has(&kin(seed, &params, false, &[])));
        let found = kin(seed, &params, seed % 2 == 0, &["the e"]);
        let is_cut =
            found.report.finish == NudgeFinish::Repeated || found.report.finish == NudgeFinish::Rounds;
        assert!(has(&found) || is_cut, "seed {seed}: {:?} {:?}", found.text, found.report);
        n_nudged += usize::from(has(&found) && found.report.spans.iter().any(|s| s.by == By::Nudger));
        let off = kin(seed, &NudgeParams { drafts: false, ..params }, false, &["the e"]);
        assert_eq!(found.text, off.text, "seed {seed}");
    }
    assert!(n_plain < 25 && n_nudged > 45, "{n_plain} without, {n_nudged} with");
}

/// Another law for each seed.
#[derive(Clone, Copy)]
struct Salted(HashLaw, u64);

impl Law for Salted {
    fn n_vocab(&self) -> usize {
        self.0.n_vocab()
    }
    fn eos(&self) -> TokenId {
        self.0.eos()
    }
    fn probs(&self, prefix: &[TokenId], out: &mut [f64]) {
        let salt = (self.1 % 8) as TokenId;
        self.0.probs(&[&[salt, (self.1 / 8) as TokenId % 8], prefix].concat(), out);
    }
}

proptest! {
    #[test]
    fn appending_gives_the_tokens_of_the_whole(parts in proptest::collection::vec("[ab \n]{0,6}", 1..8)) {
        let words = Words::new(&["a", "b", " ", "\n", "ab", " a", " b", "ba", "  ", " ab", "aba"]);
        let mut grown = Encoding::default();
        for part in &parts {
            grown = grown.with(&words, part).unwrap();
            prop_assert_eq!(grown.ids(), words.encode(grown.text()).unwrap());
        }
    }
}

fn softmax(row: &[f32]) -> Vec<f64> {
    let total: f64 = row.iter().map(|z| f64::from(*z).exp()).sum();
    row.iter().map(|z| f64::from(*z).exp() / total).collect()
}

fn joined(rule: &MixRule, rows: &[&[f32]]) -> Vec<f32> {
    let norms: Vec<f64> =
        rows.iter().map(|r| r.iter().map(|z| f64::from(*z).exp()).sum::<f64>().ln()).collect();
    let mut out = vec![0.0; rows[0].len()];
    rule.join(rows, &norms, &mut out);
    out
}

#[test]
fn sums_of_logits_have_their_values() {
    let (base, expert, anti) = ([2.0f32, 1.0, 0.0], [0.0f32, 2.0, 0.0], [1.0f32, 0.0, 0.0]);
    let proxy = MixRule::Proxy { alpha: 1.0 };
    let found = softmax(&joined(&proxy, &[&base, &expert, &anti]));
    found.iter().zip([0.1142, 0.8438, 0.0420]).for_each(|(f, e)| assert!((f - e).abs() < 1e-4, "{found:?}"));
    assert_eq!(joined(&proxy, &[&base, &expert, &expert]), base);
    let logs = |p: &[f32]| p.iter().map(|p| p.ln()).collect::<Vec<f32>>();
    let (expert, amateur) = (logs(&[0.5, 0.3, 0.15, 0.05]), logs(&[0.4, 0.1, 0.3, 0.2]));
    for (a, best) in [(0.1, 1), (0.7, 0)] {
        let row = joined(&MixRule::Contrastive { a }, &[&expert, &amateur]);
        assert_eq!(crate::kernels::argmax(&row, None), Some(best), "{row:?}");
    }
    let product = softmax(&joined(&MixRule::Product { weights: vec![1.0, 1.0] }, &[&expert, &amateur]));
    let total = 0.2 + 0.03 + 0.045 + 0.01;
    product.iter().zip([0.2, 0.03, 0.045, 0.01]).for_each(|(f, e)| assert!((f - e / total).abs() < 1e-5));
    let mixture = softmax(&joined(&MixRule::Mixture { weights: vec![0.5, 0.5] }, &[&expert, &amateur]));
    mixture.iter().zip([0.45, 0.2, 0.225, 0.125]).for_each(|(f, e)| assert!((f - e).abs() < 1e-5));
    let soft = joined(&MixRule::SoftContrastive { b: 0.0 }, &[&expert, &amateur]);
    assert_eq!(soft, expert);
}

#[test]
fn mixed_models_follow_their_own_prompts() {
    let law = HashLaw::new(12);
    let prompts: [&[TokenId]; 3] = [&[11, 1, 2], &[11, 5], &[11, 3, 4, 5, 6]];
    let mut models: Vec<_> = (0..3).map(|_| paged(law, 64, 200, 16).unwrap()).collect();
    let members = models.iter_mut().zip(prompts).map(|(m, p)| (m, p.to_vec())).collect();
    let mut mix = Mix::new(members, MixRule::Proxy { alpha: 0.7 }).unwrap();
    let trunk = mix.root().unwrap();
    mix.eval(&[BatchItem { branch: &trunk, tokens: &[11, 1], want: Want::Nothing }]).unwrap();
    mix.eval(&[BatchItem { branch: &trunk, tokens: &[2], want: Want::Last }]).unwrap();
    let expected = |text: &[TokenId]| {
        let row = |p: &[TokenId]| {
            let mut row = vec![0.0; 12];
            law.logits(&[&p[1..], text].concat(), &mut row);
            row
        };
        let rows = prompts.map(row);
        joined(&MixRule::Proxy { alpha: 0.7 }, &[&rows[0], &rows[1], &rows[2]])
    };
    assert_eq!(mix.row(0), expected(&[]));
    let fork = mix.fork(&trunk).unwrap();
    mix.eval(&[
        BatchItem { branch: &trunk, tokens: &[7, 8], want: Want::All },
        BatchItem { branch: &fork, tokens: &[9], want: Want::Last },
    ])
    .unwrap();
    assert_eq!((mix.row(0), mix.row(1)), (&expected(&[7])[..], &expected(&[7, 8])[..]));
    assert_eq!(mix.row(2), expected(&[9]));
    // back into the prompt and forward again, as a decode loop does that must redraw its first token
    mix.truncate(&trunk, 2).unwrap();
    mix.eval(&[BatchItem { branch: &trunk, tokens: &[2, 4], want: Want::Last }]).unwrap();
    assert_eq!((mix.row(0), mix.len(&trunk)), (&expected(&[4])[..], 4));
    let early = mix.root().unwrap();
    let e = mix.eval(&[BatchItem { branch: &early, tokens: &[11], want: Want::Last }]).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn what_cannot_be_mixed_is_refused() {
    let mut toys: Vec<_> = [12, 12, 10].map(|n| Toy::new(HashLaw::new(n))).into_iter().collect();
    let mut members: Vec<_> = toys.iter_mut().map(|t| (t, vec![0])).collect();
    let last = members.pop().unwrap();
    let e = Mix::new(members, MixRule::Proxy { alpha: 1.0 }).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{e}");
    let mut other = Toy::new(HashLaw::new(12));
    let pair = vec![(&mut other, vec![0]), last];
    let e = Mix::new(pair, MixRule::Contrastive { a: 0.1 }).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::VocabMismatch, "{e}");
    let one = vec![(&mut other, vec![0])];
    assert!(Mix::new(one, MixRule::Mixture { weights: vec![0.0] }).is_err());
    let (a, b) = (Words::new(&["a", "b"]), Words::new(&["a", "c"]));
    assert!(same_vocabulary(&a, &a).is_ok());
    assert!(same_vocabulary(&a, &b).unwrap_err().to_string().contains("token 1"));
}
