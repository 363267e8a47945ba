//! The tables, by enumeration.

use crate::oracles::*;
use crate::sampling::{BatchItem, NextLogits, Want};
use crate::token::TokenId;
use std::collections::BTreeSet;

fn near(found: f64, expected: f64, tolerance: f64, what: &str) {
    assert!((found - expected).abs() < tolerance, "{what}: expected {expected}, found {found}");
}

/// Share of {a, b, c} in a TOY-A text, and whether it holds a c.
fn cover(tokens: &[TokenId]) -> (f64, bool) {
    let kinds: BTreeSet<_> = tokens.iter().filter(|t| **t < 3).collect();
    (kinds.len() as f64 / 3.0, kinds.contains(&2))
}

fn toy_a_texts() -> Vec<(Vec<TokenId>, f64)> {
    enumerate(&toy_a(), ToyA::MAX_TEXT + 1, 1000).expect("few texts")
}

#[test]
fn toy_a_has_the_law_of_its_table() {
    let texts = toy_a_texts();
    let sum = |f: &dyn Fn(&[TokenId]) -> f64| texts.iter().map(|(t, p)| p * f(t)).sum::<f64>();
    let is = |b: bool| f64::from(u8::from(b));
    assert_eq!(texts.len(), 121);
    near(sum(&|_| 1.0), 1.0, 1e-12, "mass");
    near(sum(&|t| cover(t).0), 0.599767, 1e-6, "E[cov]");
    for (n, p) in [(0.0, 0.05), (1.0, 0.304712), (2.0, 0.441274), (3.0, 0.204014)] {
        near(sum(&|t| is((cover(t).0 * 3.0 - n).abs() < 0.1)), p, 1e-6, "law of cov");
    }
    near(sum(&|t| is(cover(t).1)), 0.407169, 1e-6, "P(has c)");
    near(sum(&|t| is(t == [0, 1, 2, 3])), 0.033176, 1e-6, "P(abc)");
}

#[test]
fn toy_a_has_the_tilted_laws_of_its_table() {
    let texts = toy_a_texts();
    for (alpha, z, cov, kl) in [
        (1.0, 1.889311, 0.671837, 0.035625),
        (0.5, 3.825014, 0.737601, 0.133639),
        (0.25, 18.695525, 0.842873, 0.443206),
    ] {
        let tilted: Vec<f64> = texts.iter().map(|(t, p)| p * (cover(t).0 / alpha).exp()).collect();
        let total: f64 = tilted.iter().sum();
        near(total, z, 1e-5, "Z");
        let law = || texts.iter().zip(&tilted).map(|((t, p), w)| (t, *p, w / total));
        near(law().map(|(t, _, q)| q * cover(t).0).sum(), cov, 1e-6, "E under the tilt");
        near(law().map(|(_, p, q)| q * (q / p).ln()).sum(), kl, 1e-6, "KL");
        if alpha == 0.25 {
            near(law().filter(|e| *e.0 == [0, 1, 2, 3]).map(|e| e.2).sum(), 0.096887, 1e-6, "tilted P(abc)");
            for (t, p) in [0.559262, 0.285393, 0.152670, 0.002674].into_iter().enumerate() {
                let first = law().filter(|e| e.0[0] == t as TokenId).map(|e| e.2).sum();
                near(first, p, 1e-6, "first token");
            }
        }
    }
}

#[test]
fn conditioning_toy_a_is_not_masking_its_dead_ends() {
    let texts = toy_a_texts();
    let full: Vec<_> = texts.iter().filter(|(t, _)| cover(t).0 > 0.9).collect();
    let mass: f64 = full.iter().map(|e| e.1).sum();
    let conditioned: Vec<f64> = full.iter().map(|e| e.1 / mass).collect();
    // Masked: at each step only tokens from which full cover can still be reached.
    let masked: Vec<f64> = full
        .iter()
        .map(|(text, _)| {
            (0..text.len())
                .map(|i| {
                    let mut probs = [0.0; 4];
                    toy_a().probs(&text[..i], &mut probs);
                    let viable = |t: usize| {
                        full.iter().any(|(f, _)| f.len() > i && f[..i] == text[..i] && f[i] as usize == t)
                    };
                    probs[text[i] as usize] / (0..4).filter(|t| viable(*t)).map(|t| probs[t]).sum::<f64>()
                })
                .product()
        })
        .collect();
    let abc = full.iter().position(|(t, _)| *t == [0, 1, 2, 3]).expect("abc covers all");
    near(conditioned[abc], 0.162617, 1e-6, "conditioned P(abc)");
    near(masked[abc], 0.063960, 1e-6, "masked P(abc)");
    near(total_variation(&conditioned, &masked), 0.378023, 1e-6, "distance");
}

#[test]
fn toy_b_rewards_only_look_ahead() {
    let texts = enumerate(&toy_b(), 4, 100).expect("few texts");
    let rewarded: f64 = texts.iter().filter(|(t, _)| t.contains(&3)).map(|e| e.1).sum();
    near(texts.iter().map(|e| e.1).sum(), 1.0, 1e-12, "mass");
    near(rewarded, 0.4 * 0.9 * 0.8, 1e-12, "P(k)");
    assert_eq!(texts.len(), 5);
    assert!(enumerate(&toy_b(), 4, 2).is_err());
}

#[test]
fn r1_has_the_values_of_its_table() {
    let instance = r1();
    let exact = Exact::new(&instance);
    let all = exact.sequences();
    let sum = |f: &dyn Fn(&Sequence) -> f64| all.iter().map(f).sum::<f64>();
    assert_eq!(all.len(), 502);
    near(exact.p_language(), 0.09351481796454, 1e-13, "P(L)");
    near(sum(&|s| s.model), exact.p_language(), 1e-13, "mass of the texts");
    near(sum(&|s| s.masked * s.weight), exact.p_language(), 1e-13, "E[W]");
    near(sum(&|s| s.target), 1.0, 1e-12, "target mass");
    near(sum(&|s| s.masked), 1.0, 1e-12, "masked mass");
    near(exact.masked_distance(), 0.5268357920, 1e-9, "distance of sequences");
    let strings = exact.strings();
    assert_eq!(strings.len(), 208);
    let (target, masked): (Vec<f64>, Vec<f64>) = strings.values().copied().unzip();
    near(total_variation(&target, &masked), 0.4797399669, 1e-9, "distance of strings");
    let first = total_variation(&exact.next_target(&[]), &exact.next_masked(&[]));
    near(first, 0.1436614027, 1e-9, "distance of the first token");
    near(exact.masked_divergence(), 1.0045473187, 1e-9, "KL");
    near(
        sum(&|s| s.masked * (s.masked / s.target).ln()),
        exact.masked_divergence(),
        1e-9,
        "KL by enumeration",
    );
    near(exact.effective_share(), 0.2715685, 1e-7, "ESS/N");
}

/// Every token sequence within the budget that ends, tried one by one.
fn by_brute_force(instance: &Instance) -> Vec<(Vec<TokenId>, f64)> {
    let mut texts = enumerate(&instance.model, instance.max_tokens, 1 << 20).expect("few texts");
    texts.retain(|(t, _)| instance.accepts(t));
    texts
}

#[test]
fn dynamic_programming_agrees_with_brute_force() {
    for instance in [r1()].into_iter().chain((0..6).map(random_instance)) {
        let exact = Exact::new(&instance);
        let (all, brute) = (exact.sequences(), by_brute_force(&instance));
        assert!(all.iter().map(|s| &s.tokens).eq(brute.iter().map(|e| &e.0)));
        for (s, (_, p)) in all.iter().zip(&brute) {
            near(s.model, *p, 1e-15, "probability");
            near(s.masked * s.weight, *p, 1e-15, "masked times weight");
        }
        near(brute.iter().map(|e| e.1).sum(), exact.p_language(), 1e-12, "P(L)");
        // Next-token laws against sums over the texts, at every prefix of a few texts.
        for s in all.iter().step_by(7) {
            for i in 0..s.tokens.len() {
                let prefix = &s.tokens[..i];
                let with =
                    |p: &[TokenId]| brute.iter().filter(|e| e.0.starts_with(p)).map(|e| e.1).sum::<f64>();
                let law = exact.next_target(prefix);
                let mask = exact.mask(prefix);
                for (t, p) in law.iter().enumerate() {
                    let longer = [prefix, &[t as TokenId]].concat();
                    near(*p, with(&longer) / with(prefix), 1e-9, "next token");
                    assert_eq!(mask.contains(t as TokenId), with(&longer) > 0.0);
                }
            }
        }
        assert_eq!(exact.future(&all[0].tokens), 0.0, "nothing follows the end");
    }
}

#[test]
fn random_instances_are_detectably_distorted_and_repeatable() {
    let mut seen = BTreeSet::new();
    for seed in 0..30 {
        let (a, b) = (random_instance(seed), random_instance(seed));
        assert_eq!(format!("{a:?}"), format!("{b:?}"));
        seen.insert(format!("{a:?}"));
        let exact = Exact::new(&a);
        assert!((0.02..=0.9).contains(&exact.p_language()) && exact.masked_distance() >= 0.2, "seed {seed}");
        assert!(
            (4..=8).contains(&a.tokens.len()) && (3..=8).contains(&a.dfa.n_states()) && a.max_tokens <= 6
        );
        assert!(a.tokens.iter().all(|t| (1..=3).contains(&t.len())));
    }
    assert_eq!(seen.len(), 30);
}

#[test]
fn a_hash_law_notices_any_change_of_the_past() {
    let law = HashLaw::new(30);
    let row = |prefix: &[TokenId]| {
        let mut out = vec![0.0; 30];
        law.logits(prefix, &mut out);
        out
    };
    let base = row(&[1, 2, 3, 4]);
    for other in [&[1, 2, 3][..], &[1, 2, 4, 3], &[2, 1, 3, 4], &[0, 1, 2, 3, 4], &[1, 2, 3, 5], &[2, 3, 4]] {
        assert_ne!(base, row(other));
    }
    assert!(base[..16].iter().all(|l| (0.0..8.0).contains(l)) && base[16..].iter().all(|l| *l == 0.0));
    let mut probs = vec![0.0; 30];
    law.probs(&[1], &mut probs);
    near(probs.iter().sum(), 1.0, 1e-12, "mass");
}

#[test]
fn a_script_is_played_through_every_tokenisation() {
    let instance = r1();
    let script = Script::new(instance.tokens.clone(), b"abca");
    let texts = enumerate(&script, 6, 1 << 20).expect("few texts");
    let on: Vec<_> = texts.iter().filter(|(t, _)| instance.bytes(t) == b"abca").collect();
    // a|ab|abc, then b|bc or c|ca, ...: all ways to cut "abca" into tokens of R1.
    assert_eq!(on.len(), 6);
    near(on.iter().map(|e| e.1).sum(), 1.0, 1e-4, "mass on the script");
    let changed = script.with_override(1, 2);
    let mut probs = vec![0.0; 8];
    changed.probs(&[0], &mut probs);
    assert!(probs[2] > 0.999);
}

#[test]
fn toys_keep_the_contract_of_models() {
    let mut toy = Toy::new(toy_a());
    let (a, b) = (toy.root().expect("root"), toy.root().expect("root"));
    let item = |branch, tokens, want| BatchItem { branch, tokens, want };
    for bad in [
        vec![item(&a, &[3][..], Want::Last), item(&b, &[], Want::Last)],
        vec![item(&a, &[3], Want::Last), item(&a, &[0], Want::Last)],
        vec![item(&a, &[3], Want::Last), item(&b, &[4], Want::Last)],
    ] {
        assert!(toy.eval(&bad).is_err());
        assert_eq!((toy.len(&a), toy.len(&b), toy.n_evals()), (0, 0, 0));
    }
    toy.eval(&[item(&a, &[3, 0, 1], Want::All), item(&b, &[3], Want::Nothing)]).expect("valid");
    assert_eq!((toy.len(&a), toy.len(&b), toy.n_evals(), toy.n_calls()), (3, 1, 4, 1));
    let after = |toy: &Toy<ToyA>, i: usize| toy.row(i)[0].exp();
    for (i, p) in [0.5f32, 0.12, 0.34].into_iter().enumerate() {
        assert!((after(&toy, i) - p).abs() < 1e-6);
    }
    let fork = toy.fork(&a).expect("fork");
    toy.truncate(&a, 1).expect("shorter");
    assert!(toy.truncate(&a, 2).is_err());
    assert_eq!((toy.len(&a), toy.len(&fork)), (1, 3));
}
