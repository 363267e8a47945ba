//! The chain against its definitions: a naive twin that sorts everything in double precision.

mod naive;

use super::*;
use crate::token::{TokenId, TokenSet};
use naive::{Case, naive_law};
use proptest::prelude::*;

/// Number of random cases; more by the environment.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(1500)
}

/// Logits: continuous, or on a grid so that many are equal.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    let one = || prop_oneof![9 => -8f32..8.0, 1 => Just(f32::NEG_INFINITY), 1 => Just(f32::NAN)];
    prop_oneof![
        3 => proptest::collection::vec(one(), 2..90),
        2 => proptest::collection::vec((-6i32..6).prop_map(|x| x as f32 * 0.75), 2..90),
        1 => proptest::collection::vec(one(), 2000..2300),
    ]
}

fn sometimes<T: Clone + std::fmt::Debug + 'static>(
    off: T,
    on: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = T> {
    prop_oneof![2 => Just(off), 1 => on]
}

prop_compose! {
    fn truncation()(
        temperature in prop_oneof![1 => Just(0.0f32), 2 => Just(1.0f32), 3 => 0.2f32..3.0],
        range in sometimes(0.0, 0.1f32..1.0), exponent in 0.3f32..2.0,
        top_k in sometimes(0, 1usize..40), top_p in sometimes(1.0, 0.0f32..1.0),
        min_p in sometimes(0.0, 0.001f32..1.0), typical_p in sometimes(1.0, 0.05f32..1.0),
        top_n_sigma in sometimes(0.0, 0.1f32..3.0), min_keep in sometimes(0, 0usize..8),
        seed in any::<u64>(),
    ) -> SamplingParams {
        let dynatemp = Dynatemp { range, exponent };
        SamplingParams {
            seed, temperature, dynatemp, top_k, top_p, min_p, typical_p, top_n_sigma, min_keep,
            ..SamplingParams::default()
        }
    }
}

prop_compose! {
    fn repetition()(
        repeat in sometimes(1.0, 0.5f32..2.0), frequency in sometimes(0.0, -0.5f32..1.0),
        presence in sometimes(0.0, -0.5f32..1.0), last_n in prop_oneof![Just(-1), 0..12i32],
        multiplier in sometimes(0.0, 0.1f32..3.0), allowed_length in 0u32..4,
        dry_last_n in prop_oneof![Just(-1), 0..40i32],
    ) -> (Penalties, Dry) {
        let dry = Dry { multiplier, allowed_length, last_n: dry_last_n, ..Dry::default() };
        (Penalties { last_n, repeat, frequency, presence }, dry)
    }
}

prop_compose! {
    fn params()(
        truncation in truncation(), (penalties, dry) in repetition(),
        xtc in sometimes((0.0, 0.1), (0.3f32..1.0, 0.01f32..0.6)),
        mirostat in prop_oneof![5 => Just(None), 1 => (0.5f32..6.0).prop_map(Some)],
        shuffled in Just(SamplerKind::DEFAULT_ORDER.to_vec()).prop_shuffle(),
        default_order in any::<bool>(),
        logit_bias in proptest::collection::vec((0..2u32, prop_oneof![-3f32..3.0, Just(f32::NEG_INFINITY)]), 0..3),
    ) -> SamplingParams {
        SamplingParams {
            penalties, dry, logit_bias,
            xtc: Xtc { probability: xtc.0, threshold: xtc.1 },
            mirostat: mirostat.map(|tau| Mirostat { tau, eta: 0.1 }),
            samplers: if default_order { truncation.samplers.clone() } else { shuffled },
            ..truncation
        }
    }
}

/// A set of `n` tokens, or none, from the bits of `seed`.
fn mask(n: usize, seed: u64) -> Option<TokenSet> {
    let random = Random::new(seed);
    let share = [0.0, 0.5, 0.1][(seed % 3) as usize];
    (share > 0.0).then(|| {
        let mut set = TokenSet::none(n);
        let chosen = |t: &TokenId| random.uniform(u64::from(*t), Purpose::Search) < share;
        (0..n as TokenId).filter(chosen).for_each(|t| set.insert(t));
        set
    })
}

fn breakers() -> DryBreakers {
    DryBreakers::from_sequences(vec![(5, vec![]), (6, vec![1, 2]), (6, vec![1])])
}

fn chain(params: &SamplingParams, n_vocab: usize, history: &[TokenId]) -> Chain {
    let mut chain = Chain::new(params, n_vocab).expect("valid parameters");
    chain.set_dry_breakers(breakers());
    history.iter().for_each(|t| chain.accept(*t).expect("in vocabulary"));
    chain
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_global_rejects: 1 << 20, ..ProptestConfig::default() })]

    #[test]
    fn the_law_is_that_of_the_definitions(
        logits in logits(), params in params(), seed in any::<u64>(), pos in 0u64..100,
        history in proptest::collection::vec(0u32..8, 0..40),
    ) {
        let n = logits.len();
        let history: Vec<TokenId> = history.into_iter().filter(|t| (*t as usize) < n).collect();
        let mask = mask(n, seed);
        let case = Case { params: &params, logits: &logits, mask: mask.as_ref(), history: &history, breakers: &breakers(), pos };
        let mut chain = chain(&params, n, &history);
        let got = chain.law(&logits, mask.as_ref(), pos);
        let Some(expect) = naive_law(&case) else {
            prop_assert!(got.is_err());
            return Ok(());
        };
        // Decisions closer than rounding may fall either way.
        prop_assume!(expect.margin > 1e-4);
        let got = got.expect("something to draw");
        let ids = |law: &[(TokenId, f64)]| law.iter().map(|e| e.0).collect::<Vec<_>>();
        prop_assert_eq!(ids(&got), ids(&expect.law));
        for (g, e) in got.iter().zip(&expect.law) {
            prop_assert!((g.1 - e.1).abs() < 2e-4 * e.1 + 1e-9, "{:?} {:?}", g, e);
        }
        // The token drawn is the one at its number in the cumulated law.
        let sampled = chain.sample(&logits, mask.as_ref(), pos).expect("something to draw");
        let u = Random::new(params.seed).uniform(pos, Purpose::Token);
        let mut below = 0.0;
        for (id, p) in &got {
            if *id == sampled.token {
                prop_assert!(below - 1e-5 <= u && u <= below + p + 1e-5, "{} {} {}", below, u, p);
                prop_assert!((sampled.prob - p).abs() < 1e-5);
            }
            below += p;
        }
        prop_assert!(got.iter().any(|(id, p)| *id == sampled.token && *p > 0.0));
    }

    #[test]
    fn rollback_and_fork_restore_the_state(
        params in params(), logits in logits(), tokens in proptest::collection::vec(0u32..8, 1..60), cut in 0usize..60, seed in any::<u64>(),
    ) {
        let n = logits.len().max(8);
        let mut logits = logits;
        logits.resize(n, 0.5);
        let mut params = params;
        params.logit_bias.clear();
        let mask = mask(n, seed).filter(|m| m.iter().any(|t| logits[t as usize] > f32::NEG_INFINITY));
        let cut = cut % tokens.len();
        // Sampling before every accept moves Mirostat, too.
        let mut straight = chain(&params, n, &[]);
        let mut forked = None;
        for (i, t) in tokens.iter().enumerate() {
            if i == cut {
                forked = Some(straight.fork());
            }
            let sampled = straight.sample(&logits, mask.as_ref(), i as u64).expect("drawn");
            straight.accept(if i % 2 == 0 { sampled.token } else { *t }).expect("in vocabulary");
        }
        let mut forked = forked.expect("cut is below the length");
        forked.set_dry_breakers(breakers());
        let expect = forked.law(&logits, mask.as_ref(), cut as u64).expect("drawn");
        straight.rollback(tokens.len() - cut).expect("was accepted");
        prop_assert_eq!(straight.n_accepted(), cut);
        prop_assert_eq!(straight.law(&logits, mask.as_ref(), cut as u64).expect("drawn"), expect);
        prop_assert!(straight.rollback(cut + 1).is_err());
    }

    #[test]
    fn extras_are_those_of_the_untruncated_softmax(logits in logits(), seed in any::<u64>(), params in params()) {
        let finite = |t: TokenId| logits[t as usize] > f32::NEG_INFINITY;
        let n = logits.len();
        let mask = mask(n, seed);
        let weight = |t: TokenId| if finite(t) { f64::from(logits[t as usize]).exp() } else { 0.0 };
        let total: f64 = (0..n as TokenId).map(weight).sum();
        let allowed: f64 = mask.as_ref().map_or(total, |m| m.iter().map(weight).sum());
        let params = SamplingParams { logit_bias: vec![], ..params };
        let mut chain = chain(&params, n, &[1, 1, 0, 1, 1]);
        chain.set_extras(Extras { logprob: true, log_z: true });
        prop_assume!(allowed > 0.0);
        let s = chain.sample(&logits, mask.as_ref(), 3).expect("drawn");
        let (logprob, log_z) = (s.logprob.expect("asked"), s.log_z.expect("asked"));
        prop_assert!((logprob - (weight(s.token) / total).ln()).abs() < 1e-5);
        prop_assert!((log_z - (allowed / total).ln()).abs() < 1e-5);
    }
}

#[test]
fn gumbel_draws_follow_the_same_law_and_share_noise() {
    let logits = [0.0, 1.0, 2.0, -1.0];
    let mut chain = Chain::new(&SamplingParams::plain(3), 4).expect("valid");
    chain.set_draw(Draw::Gumbel);
    let law = chain.law(&logits, None, 0).expect("drawn");
    let mut counts = [0u32; 4];
    for pos in 0..20_000 {
        let all = chain.sample(&logits, None, pos).expect("drawn").token;
        counts[all as usize] += 1;
        // Without a loser, the winner stays.
        let mut mask = TokenSet::all(4);
        mask.remove((all + 1) % 4);
        assert_eq!(chain.sample(&logits, Some(&mask), pos).expect("drawn").token, all);
    }
    for (id, p) in law {
        let share = f64::from(counts[id as usize]) / 20_000.0;
        assert!((share - p).abs() < 5.0 * (p * (1.0 - p) / 20_000.0).sqrt(), "{id} {share} {p}");
    }
}

#[test]
fn a_row_nothing_can_be_drawn_from_is_an_error() {
    use crate::error::ErrorKind;
    let mut chain = Chain::new(&SamplingParams::default(), 3).expect("valid");
    let none = TokenSet::none(3);
    let cases: [(&[f32], Option<&TokenSet>, ErrorKind); 6] = [
        (&[0.0; 2], None, ErrorKind::VocabMismatch),
        (&[0.0; 3], Some(&TokenSet::all(4)), ErrorKind::VocabMismatch),
        (&[0.0; 3], Some(&none), ErrorKind::Unsatisfiable),
        (&[f32::NEG_INFINITY; 3], None, ErrorKind::InvalidArgument),
        (&[f32::NAN; 3], None, ErrorKind::InvalidArgument),
        (&[0.0, f32::INFINITY, 0.0], None, ErrorKind::InvalidArgument),
    ];
    for (row, mask, kind) in cases {
        let error = chain.sample(row, mask, 0).expect_err("nothing to draw");
        assert_eq!(error.kind(), kind, "{error}");
    }
    // A bias that bans all that is left is found, too.
    let params = SamplingParams { logit_bias: vec![(0, f32::NEG_INFINITY)], ..SamplingParams::greedy() };
    let mut chain = Chain::new(&params, 2).expect("valid");
    let mut only = TokenSet::none(2);
    only.insert(0);
    assert_eq!(
        chain.sample(&[0.0, 0.0], Some(&only), 0).expect_err("banned").kind(),
        ErrorKind::InvalidArgument
    );
    assert_eq!(chain.sample(&[0.0, 0.0], None, 0).expect("token 1").token, 1);
    assert!(chain.accept(2).is_err());
}

#[test]
fn extreme_temperatures_stay_finite() {
    for t in [f32::MIN_POSITIVE / 8.0, 1e-30, 1e30, f32::MAX] {
        let params = SamplingParams { temperature: t, ..SamplingParams::plain(1) };
        let mut chain = Chain::new(&params, 3).expect("valid");
        let s = chain.sample(&[1.0, 3.0, -2.0], None, 0).expect("drawn");
        assert!(s.prob > 0.0 && s.prob <= 1.0, "{t} {s:?}");
        if t < 1.0 {
            assert_eq!(s.token, 1);
        } else {
            assert!((s.prob - 1.0 / 3.0).abs() < 1e-6);
        }
    }
}

#[test]
fn greedy_takes_the_lowest_of_equals() {
    let mut chain = Chain::new(&SamplingParams::greedy(), 2000).expect("valid");
    let mut row = vec![0.0; 2000];
    for i in [70, 1500] {
        row[i] = 2.5;
    }
    assert_eq!(chain.sample(&row, None, 0).expect("drawn").token, 70);
    let mut mask = TokenSet::all(2000);
    mask.remove(70);
    assert_eq!(chain.sample(&row, Some(&mask), 0).expect("drawn").token, 1500);
}

#[test]
fn breakers_are_found_inside_tokens_and_across_them() {
    let tokens: [&[u8]; 5] = [b"a", b"x\n", b"\n- ", b"\n", b"- b"];
    let tail = |rest: &[u8]| Ok(vec![if rest == b"- " { 7 } else { 8 }]);
    let found = DryBreakers::new(&["\n- ".to_string()], tokens.into_iter(), tail).expect("tokenizes");
    // Token 2 holds the breaker; 1 and 3 end with its start.
    let expect = DryBreakers::from_sequences(vec![(2, vec![]), (1, vec![7]), (3, vec![7])]);
    assert_eq!(format!("{found:?}"), format!("{expect:?}"));
}
