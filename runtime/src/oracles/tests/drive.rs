//! Production samplers over the oracles: the laws they draw from, and fakes that must fail.

use crate::oracles::*;
use crate::sampling::{
    BatchItem, Chain, Dry, Dynatemp, Mirostat, NextLogits, Penalties, SamplerKind, SamplingParams, Want, Xtc,
};
use crate::token::{TokenId, TokenSet};
use std::collections::HashMap;

/// One text: sampled token by token under `mask`, until the end or `max_tokens`.
fn text<M: NextLogits>(
    model: &mut M,
    chain: &mut Chain,
    eos: TokenId,
    max_tokens: usize,
    mask: impl Fn(&[TokenId]) -> Option<TokenSet>,
) -> Vec<TokenId> {
    let branch = model.root().expect("root");
    let mut tokens = Vec::new();
    let mut last = eos;
    while tokens.len() < max_tokens && (tokens.is_empty() || last != eos) {
        model.eval(&[BatchItem { branch: &branch, tokens: &[last], want: Want::Last }]).expect("eval");
        let mask = mask(&tokens);
        last = chain.sample(model.row(0), mask.as_ref(), tokens.len() as u64).expect("drawn").token;
        chain.accept(last).expect("in vocabulary");
        tokens.push(last);
    }
    chain.rollback(tokens.len()).expect("was accepted");
    tokens
}

/// How often each outcome came, in the order of `outcomes`; the rest last.
fn tally<'a>(outcomes: impl Iterator<Item = &'a [TokenId]>, texts: &[Vec<TokenId>]) -> Vec<u64> {
    let index: HashMap<&[TokenId], usize> = outcomes.enumerate().map(|(i, o)| (o, i)).collect();
    let mut counts = vec![0; index.len() + 1];
    for t in texts {
        counts[index.get(&t[..]).copied().unwrap_or(index.len())] += 1;
    }
    counts
}

const N: u32 = 20_000;
const ALPHA: f64 = 1e-8;

fn r1_texts(params: &SamplingParams, mask: impl Fn(&[TokenId]) -> Option<TokenSet>) -> Vec<Vec<TokenId>> {
    let instance = r1();
    let mut model = Toy::new(instance.model.clone());
    let mut chain = Chain::new(params, 8).expect("valid");
    (0..N)
        .map(|i| {
            chain.set_attempt(i);
            text(&mut model, &mut chain, instance.eos(), instance.max_tokens, &mask)
        })
        .collect()
}

#[test]
fn masked_sampling_follows_the_masked_law_and_not_the_target() {
    let instance = r1();
    let exact = Exact::new(&instance);
    let all = exact.sequences();
    let texts = r1_texts(&SamplingParams::plain(1), |prefix| Some(exact.mask(prefix)));
    assert!(texts.iter().all(|t| instance.accepts(t)));
    let counts = tally(all.iter().map(|s| &s.tokens[..]), &texts);
    let law = |f: fn(&Sequence) -> f64| all.iter().map(f).chain([0.0]).collect::<Vec<_>>();
    let (masked, target) = (law(|s| s.masked), law(|s| s.target));
    cell_test(&counts, &masked, ALPHA).expect("masked law");
    tv_test(&counts, &masked, ALPHA).expect("masked law");
    assert!(cell_test(&counts, &target, ALPHA).is_err() && tv_test(&counts, &target, ALPHA).is_err());
}

#[test]
fn unmasked_sampling_follows_the_model() {
    let instance = r1();
    let all = enumerate(&instance.model, instance.max_tokens, 1 << 20).expect("few texts");
    let rest = 1.0 - all.iter().map(|e| e.1).sum::<f64>();
    let law: Vec<f64> = all.iter().map(|e| e.1).chain([rest]).collect();
    let counts = tally(all.iter().map(|e| &e.0[..]), &r1_texts(&SamplingParams::plain(2), |_| None));
    cell_test(&counts, &law, ALPHA).expect("law of the model");
    // A fake that samples too cold is seen.
    let cold = SamplingParams { temperature: 0.5, ..SamplingParams::plain(2) };
    let counts = tally(all.iter().map(|e| &e.0[..]), &r1_texts(&cold, |_| None));
    assert!(cell_test(&counts, &law, ALPHA).is_err());
}

#[test]
fn a_mask_that_forgets_the_end_rule_leaves_the_language() {
    let instance = r1();
    let exact = Exact::new(&instance);
    let texts = r1_texts(&SamplingParams::plain(1), |prefix| {
        let mut mask = exact.mask(prefix);
        mask.insert(instance.eos());
        Some(mask)
    });
    assert!(texts.iter().any(|t| !instance.accepts(t)));
}

#[test]
fn the_same_seed_gives_the_same_texts_through_pages_and_without() {
    let instance = r1();
    let exact = Exact::new(&instance);
    let mut plain = Toy::new(instance.model.clone());
    let mut context = paged(instance.model.clone(), 4, 64, 8).expect("context");
    let mut chain = Chain::new(&SamplingParams::plain(5), 8).expect("valid");
    for attempt in 0..500 {
        chain.set_attempt(attempt);
        let mask = |prefix: &[TokenId]| Some(exact.mask(prefix));
        let a = text(&mut plain, &mut chain, instance.eos(), 5, mask);
        let b = text(&mut context, &mut chain, instance.eos(), 5, mask);
        assert_eq!(a, b);
    }
    // Long texts cross pages.
    let (law, mut chain) = (HashLaw::new(40), Chain::new(&SamplingParams::plain(6), 40).expect("valid"));
    let mut context = paged(law, 8, 200, 8).expect("context");
    let mut plain = Toy::new(law);
    let a = text(&mut plain, &mut chain, 39, 150, |_| None);
    assert_eq!(a, text(&mut context, &mut chain, 39, 150, |_| None));
}

#[test]
fn greedy_decoding_of_toy_a_is_abab() {
    let mut chain = Chain::new(&SamplingParams::greedy(), 4).expect("valid");
    let tokens = text(&mut Toy::new(toy_a()), &mut chain, 3, 10, |_| None);
    assert_eq!(tokens, [0, 1, 0, 1, 3]);
}

/// The row after `prefix` of R1, and a sampler with what it should do to it.
struct SamplerCase {
    name: &'static str,
    params: SamplingParams,
    prefix: &'static [TokenId],
    /// The law by its definition, from the exact probabilities.
    law: fn(&[f64]) -> Vec<f64>,
}

fn normalised(mut p: Vec<f64>) -> Vec<f64> {
    let total: f64 = p.iter().sum();
    p.iter_mut().for_each(|p| *p /= total);
    p
}

/// Ids by falling probability.
fn ranked(p: &[f64]) -> Vec<usize> {
    let mut ids: Vec<usize> = (0..p.len()).collect();
    ids.sort_by(|a, b| p[*b].total_cmp(&p[*a]));
    ids
}

fn only(p: &[f64], keep: &[usize]) -> Vec<f64> {
    normalised(p.iter().enumerate().map(|(i, p)| if keep.contains(&i) { *p } else { 0.0 }).collect())
}

fn power_law(p: &[f64], power: f64) -> Vec<f64> {
    normalised(p.iter().map(|p| p.powf(power)).collect())
}

fn entropy(p: &[f64]) -> f64 {
    p.iter().map(|p| -p * p.ln()).sum()
}

fn nucleus(p: &[f64], share: f64) -> Vec<f64> {
    let ids = ranked(p);
    let n = (1..=p.len()).find(|n| ids[..*n].iter().map(|i| p[*i]).sum::<f64>() >= share);
    only(p, &ids[..n.unwrap_or(p.len())])
}

fn typical(p: &[f64], share: f64) -> Vec<f64> {
    let h = entropy(p);
    let mut ids = ranked(p);
    ids.sort_by(|a, b| (-p[*a].ln() - h).abs().total_cmp(&(-p[*b].ln() - h).abs()));
    let n = (1..=p.len()).find(|n| ids[..*n].iter().map(|i| p[*i]).sum::<f64>() > share);
    only(p, &ids[..n.unwrap_or(p.len())])
}

fn sigma(p: &[f64], n: f64) -> Vec<f64> {
    let logits: Vec<f64> = p.iter().map(|p| p.ln()).collect();
    let mean = logits.iter().sum::<f64>() / p.len() as f64;
    let deviation = (logits.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / p.len() as f64).sqrt();
    let best = logits.iter().fold(f64::MIN, |m, l| m.max(*l));
    only(p, &(0..p.len()).filter(|i| logits[*i] >= best - n * deviation).collect::<Vec<_>>())
}

/// Mixture of "nothing happens" and "all tokens above `threshold` but the least are gone".
fn xtc(p: &[f64], probability: f64, threshold: f64) -> Vec<f64> {
    let ids = ranked(p);
    let top = ids.iter().filter(|i| p[**i] >= threshold).count();
    let acted = only(p, &ids[top.saturating_sub(1)..]);
    p.iter().zip(acted).map(|(p, a)| (1.0 - probability) * p + probability * a).collect()
}

fn penalised(p: &[f64], counts: &[(usize, f64)]) -> Vec<f64> {
    let mut logits: Vec<f64> = p.iter().map(|p| p.ln()).collect();
    for (t, delta) in counts {
        logits[*t] -= delta;
    }
    normalised(logits.iter().map(|l| l.exp()).collect())
}

fn sampler_cases() -> Vec<SamplerCase> {
    let plain = || SamplingParams::plain(77);
    let penalties = Penalties { last_n: 3, repeat: 1.0, frequency: 0.4, presence: 0.3 };
    vec![
        SamplerCase {
            name: "temperature",
            params: SamplingParams { temperature: 1.7, ..plain() },
            prefix: &[0],
            law: |p| power_law(p, 1.0 / 1.7),
        },
        SamplerCase {
            name: "dynatemp",
            params: SamplingParams { dynatemp: Dynatemp { range: 0.8, exponent: 1.5 }, ..plain() },
            prefix: &[0],
            law: |p| power_law(p, 1.0 / (0.2 + 1.6 * (entropy(p) / (p.len() as f64).ln()).powf(1.5))),
        },
        SamplerCase {
            name: "top_k",
            params: SamplingParams { top_k: 3, ..plain() },
            prefix: &[1],
            law: |p| only(p, &ranked(p)[..3]),
        },
        SamplerCase {
            name: "top_p",
            params: SamplingParams { top_p: 0.6, ..plain() },
            prefix: &[2],
            law: |p| nucleus(p, 0.6),
        },
        SamplerCase {
            name: "min_p",
            params: SamplingParams { min_p: 0.3, ..plain() },
            prefix: &[3],
            law: |p| only(p, &(0..p.len()).filter(|i| p[*i] >= 0.3 * p[ranked(p)[0]]).collect::<Vec<_>>()),
        },
        SamplerCase {
            name: "typical",
            params: SamplingParams { typical_p: 0.5, ..plain() },
            prefix: &[4],
            law: |p| typical(p, 0.5),
        },
        SamplerCase {
            name: "top_n_sigma",
            params: SamplingParams { top_n_sigma: 0.9, ..plain() },
            prefix: &[5],
            law: |p| sigma(p, 0.9),
        },
        SamplerCase {
            name: "xtc",
            params: SamplingParams { xtc: Xtc { probability: 0.4, threshold: 0.12 }, ..plain() },
            prefix: &[6],
            law: |p| xtc(p, 0.4, 0.12),
        },
        SamplerCase {
            name: "penalties",
            params: SamplingParams { penalties, ..plain() },
            // The window holds the last three: 2 twice, 1 once.
            prefix: &[5, 2, 1, 2],
            law: |p| penalised(p, &[(2, 1.1), (1, 0.7)]),
        },
        SamplerCase {
            name: "dry",
            params: SamplingParams { dry: Dry { multiplier: 0.6, base: 1.5, ..Dry::default() }, ..plain() },
            // 0 1 2 stood before 3: three tokens repeated, one beyond the allowed two.
            prefix: &[0, 1, 2, 3, 0, 1, 2],
            law: |p| penalised(p, &[(3, 0.6 * 1.5)]),
        },
        SamplerCase {
            name: "mirostat",
            params: SamplingParams { mirostat: Some(Mirostat { tau: 1.4, eta: 0.1 }), ..plain() },
            prefix: &[],
            law: |p| only(p, &(0..p.len()).filter(|i| -p[*i].log2() <= 2.8).collect::<Vec<_>>()),
        },
        SamplerCase {
            name: "logit_bias",
            params: SamplingParams { logit_bias: vec![(1, 1.0), (2, f32::NEG_INFINITY)], ..plain() },
            prefix: &[0],
            law: |p| penalised(p, &[(1, -1.0), (2, f64::INFINITY)]),
        },
        SamplerCase {
            name: "temperature before top_p",
            params: SamplingParams {
                temperature: 2.0,
                top_p: 0.7,
                samplers: vec![SamplerKind::Temperature, SamplerKind::TopP],
                ..plain()
            },
            prefix: &[1],
            law: |p| nucleus(&power_law(p, 0.5), 0.7),
        },
        SamplerCase {
            name: "temperature after top_p",
            params: SamplingParams { temperature: 2.0, top_p: 0.7, ..plain() },
            prefix: &[1],
            law: |p| power_law(&nucleus(p, 0.7), 0.5),
        },
    ]
}

#[test]
fn every_sampler_draws_from_the_law_of_its_definition() {
    let model = r1().model;
    for case in sampler_cases() {
        let mut probs = vec![0.0; 8];
        let mut logits = vec![0.0; 8];
        model.probs(case.prefix, &mut probs);
        model.logits(case.prefix, &mut logits);
        let mut chain = Chain::new(&case.params, 8).expect("valid");
        case.prefix.iter().for_each(|t| chain.accept(*t).expect("in vocabulary"));
        let mut counts = vec![0; 8];
        for pos in 0..50_000 {
            counts[chain.sample(&logits, None, pos).expect("drawn").token as usize] += 1;
        }
        cell_test(&counts, &(case.law)(&probs), ALPHA).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        // The fake that does nothing must fail, so each case is one where the sampler matters.
        assert!(cell_test(&counts, &probs, ALPHA).is_err(), "{} changes nothing", case.name);
    }
}

#[test]
fn repetition_divides_positive_logits_and_multiplies_negative_ones() {
    let penalties = Penalties { repeat: 2.0, ..Default::default() };
    let params = SamplingParams { penalties, ..SamplingParams::plain(3) };
    let mut chain = Chain::new(&params, 3).expect("valid");
    [0, 1].iter().for_each(|t| chain.accept(*t).expect("in vocabulary"));
    let logits = [1.0, -1.0, 0.5];
    let law = normalised([0.5f64, -2.0, 0.5].map(f64::exp).to_vec());
    let mut counts = vec![0; 3];
    for pos in 0..50_000 {
        counts[chain.sample(&logits, None, pos).expect("drawn").token as usize] += 1;
    }
    cell_test(&counts, &law, ALPHA).expect("penalised law");
    let fake = normalised([0.5f64, -0.5, 0.5].map(f64::exp).to_vec());
    assert!(cell_test(&counts, &fake, ALPHA).is_err(), "dividing a negative logit raises it");
}

#[test]
fn mirostat_steers_surprise_to_its_target() {
    // A row of 512 tokens of falling probability: plain sampling has about 5.4 bits of surprise.
    let logits: Vec<f32> = (0..512).map(|i| -1.2 * (1.0 + i as f32).ln()).collect();
    let surprise = |params: &SamplingParams| {
        let mut chain = Chain::new(params, 512).expect("valid");
        let mut sum = 0.0;
        for pos in 0..6_000 {
            let s = chain.sample(&logits, None, pos).expect("drawn");
            chain.accept(s.token).expect("in vocabulary");
            sum -= s.prob.log2();
        }
        sum / 6_000.0
    };
    for tau in [2.0f32, 3.5] {
        let steered =
            SamplingParams { mirostat: Some(Mirostat { tau, eta: 0.1 }), ..SamplingParams::plain(9) };
        let found = surprise(&steered);
        assert!((found - f64::from(tau)).abs() < 0.1, "{tau} {found}");
    }
    assert!(surprise(&SamplingParams::plain(9)) > 4.5);
}
