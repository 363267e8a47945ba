//! Exact algorithms over R1, where every law is known; each with a fake that must fail.

use super::cars::AtNew;
use super::trie::{NodeId, ROOT};
use super::*;
use crate::error::ErrorKind;
use crate::oracles::{
    Exact, Instance, Masks, Sequence, Toy, ToyBranch, cell_test, mean_test, paged, r1, random_instance,
    total_variation,
};
use crate::sampling::{BatchItem, Purpose, Random, Want};
use std::collections::HashMap;

const ALPHA: f64 = 1e-8;

/// A model that has read the token that begins a text, its branch, and the logits after it.
fn started<M: NextLogits>(mut model: M, eos: TokenId) -> (M, M::Branch, Vec<f32>) {
    let branch = model.root().expect("root");
    model.eval(&[BatchItem { branch: &branch, tokens: &[eos], want: Want::Last }]).expect("eval");
    let logits = model.row(0).to_vec();
    (model, branch, logits)
}

/// An instance with all its laws and counts of its texts.
struct Lab<'a> {
    exact: &'a Exact<'a>,
    all: Vec<Sequence>,
    index: HashMap<Vec<TokenId>, usize>,
}

impl<'a> Lab<'a> {
    fn new(exact: &'a Exact<'a>) -> Self {
        let all = exact.sequences();
        let index = all.iter().enumerate().map(|(i, s)| (s.tokens.clone(), i)).collect();
        Self { exact, all, index }
    }

    fn instance(&self) -> &'a Instance {
        self.exact.instance()
    }

    fn model(&self) -> (Toy<crate::oracles::Markov>, ToyBranch, Vec<f32>) {
        started(Toy::new(self.instance().model.clone()), self.instance().eos())
    }

    fn law(&self, f: impl Fn(&Sequence) -> f64) -> Vec<f64> {
        self.all.iter().map(f).collect()
    }

    fn target(&self) -> Vec<f64> {
        self.law(|s| s.target)
    }

    fn masked(&self) -> Vec<f64> {
        self.law(|s| s.masked)
    }

    /// Counts by text; a text outside the language panics.
    fn counts(&self, texts: impl Iterator<Item = Vec<TokenId>>) -> Vec<u64> {
        let mut counts = vec![0; self.all.len()];
        texts.for_each(|t| counts[self.index[&t]] += 1);
        counts
    }

    fn params(&self, seed: u64) -> CarsParams {
        CarsParams {
            seed,
            max_tokens: self.instance().max_tokens,
            max_draws: 100_000,
            ..CarsParams::default()
        }
    }

    /// The `k`-th samples of `n` fresh samplers, and the mean number of draws of all samples.
    fn cars(
        &self,
        n: u64,
        k: usize,
        mut source: Masks<'_>,
        change: impl Fn(&mut CarsParams),
        at_new: AtNew,
    ) -> (Vec<u64>, f64) {
        let (mut model, branch, logits) = self.model();
        let start = Start { branch: &branch, logits: &logits };
        let (mut draws, mut texts) = (0.0, Vec::new());
        for seed in 0..n {
            let mut params = self.params(seed);
            change(&mut params);
            let mut cars = Cars::new(params, logits.len()).expect("valid");
            cars.at_new = at_new;
            let mut sample = || cars.sample(&mut model, &start, &mut source);
            let last = (0..k).map(|_| sample()).last().expect("k is at least 1");
            if let Ok(s) = last {
                draws += f64::from(s.draws) / n as f64;
                texts.push(s.tokens);
            }
        }
        (self.counts(texts.into_iter()), draws)
    }
}

#[test]
fn the_first_sample_has_the_conditioned_law() {
    let instance = r1();
    let exact = Exact::new(&instance);
    let lab = Lab::new(&exact);
    // Draws a sample: see the table of R1.
    for (seeds, expected) in [(0, 7.5), (4, 6.4)] {
        let change = |p: &mut CarsParams| p.seed_draws = seeds;
        let (counts, draws) = lab.cars(20_000, 1, Masks::viable(&exact), change, AtNew::Raw);
        cell_test(&counts, &lab.target(), ALPHA).expect("target law");
        assert!(cell_test(&counts, &lab.masked(), ALPHA).is_err());
        assert!((draws - expected).abs() < 0.15, "{seeds} {draws}");
    }
}

#[test]
fn a_mask_at_new_prefixes_would_give_the_masked_law() {
    let instance = r1();
    let exact = Exact::new(&instance);
    let lab = Lab::new(&exact);
    let unseeded = |p: &mut CarsParams| p.seed_draws = 0;
    let (counts, _) = lab.cars(20_000, 1, Masks::viable(&exact), unseeded, AtNew::Masked);
    assert!(cell_test(&counts, &lab.target(), ALPHA).is_err());
    cell_test(&counts, &lab.masked(), ALPHA).expect("masked law");
    let shares: Vec<f64> = counts.iter().map(|c| *c as f64 / 20_000.0).collect();
    let distance = total_variation(&shares, &lab.target());
    assert!((distance - 0.532).abs() < 0.02, "{distance}");
    // Seeded, it is still wrong.
    let (counts, _) = lab.cars(20_000, 1, Masks::viable(&exact), |_| (), AtNew::Masked);
    assert!(cell_test(&counts, &lab.target(), ALPHA).is_err());
}

#[test]
fn later_samples_have_the_same_law() {
    let instance = r1();
    let exact = Exact::new(&instance);
    let lab = Lab::new(&exact);
    for (k, n) in [(2, 8_000), (5, 5_000), (20, 3_000)] {
        let (counts, _) = lab.cars(n, k, Masks::viable(&exact), |_| (), AtNew::Raw);
        cell_test(&counts, &lab.target(), ALPHA).unwrap_or_else(|e| panic!("sample {k}: {e}"));
    }
}

#[test]
fn dead_ends_cost_draws_and_not_exactness() {
    for seed in 0..3 {
        let instance = random_instance(seed);
        let exact = Exact::new(&instance);
        let lab = Lab::new(&exact);
        for source in [Masks::viable(&exact), Masks::loose(&exact)] {
            let (counts, _) = lab.cars(6_000, 1, source, |_| (), AtNew::Raw);
            cell_test(&counts, &lab.target(), ALPHA).expect("target law");
        }
    }
}

#[test]
fn the_budget_does_not_bend_the_law() {
    let instance = r1();
    let exact = Exact::new(&instance);
    let lab = Lab::new(&exact);
    for max_draws in [1, 2, 8] {
        let change = |p: &mut CarsParams| p.max_draws = max_draws;
        let (counts, _) = lab.cars(20_000, 1, Masks::viable(&exact), change, AtNew::Raw);
        let n: u64 = counts.iter().sum();
        assert!(n > 1_000 && n < 20_000, "{max_draws} {n}");
        cell_test(&counts, &lab.target(), ALPHA).expect("target law given success");
    }
}

/// Compares the bound of a node, and of all below, with the exact future of its prefix.
fn check_bounds<B>(cars: &Cars<B>, exact: &Exact<'_>, id: NodeId, prefix: &mut Vec<TokenId>) {
    let node = cars.trie.node(id);
    let future = exact.future(prefix);
    assert!(node.theta >= future * (1.0 - 5e-6), "{prefix:?}: {} below {future}", node.theta);
    for (token, child, _) in &node.children {
        prefix.push(*token);
        check_bounds(cars, exact, *child, prefix);
        prefix.pop();
    }
}

#[test]
fn bounds_fall_to_the_probability_of_the_language() {
    let mut instance = r1();
    // By the table of R1, 0.0935310 after 60 000 draws. With two tokens everything is soon visited, and what
    // is left is single precision.
    for (max_tokens, loose, n_draws, tolerance) in
        [(5, false, 60_000, 4e-4), (5, true, 20_000, 1e-2), (2, true, 5_000, 1e-6)]
    {
        instance.max_tokens = max_tokens;
        let exact = Exact::new(&instance);
        let lab = Lab::new(&exact);
        let (mut model, branch, logits) = lab.model();
        let start = Start { branch: &branch, logits: &logits };
        let mut source = if loose { Masks::loose(&exact) } else { Masks::viable(&exact) };
        let mut cars = Cars::new(lab.params(3), 8).expect("valid");
        let (mut before, mut next_check) = (1.0, 0);
        while cars.n_draws() < n_draws {
            cars.sample(&mut model, &start, &mut source).expect("sample");
            assert!(cars.theta_root() <= before);
            before = cars.theta_root();
            if cars.n_draws() >= next_check {
                check_bounds(&cars, &exact, ROOT, &mut Vec::new());
                next_check += n_draws / 10;
            }
        }
        assert!((before / exact.p_language() - 1.0).abs() < tolerance, "{max_tokens} {before}");
    }
}

#[test]
fn samples_do_not_depend_on_memory_or_pages() {
    let instance = r1();
    let exact = Exact::new(&instance);
    let lab = Lab::new(&exact);
    let texts = |cache: usize, through_pages: bool| -> Vec<ExactSample> {
        let params = CarsParams { node_cache_bytes: cache, ..lab.params(11) };
        let mut cars_toy = Cars::new(params, 8).expect("valid");
        let mut cars_paged = Cars::new(params, 8).expect("valid");
        let mut source = Masks::viable(&exact);
        let (mut toy, branch, logits) = lab.model();
        let context = paged(instance.model.clone(), 64, 64, 8).expect("context");
        let (mut context, root, _) = started(context, instance.eos());
        (0..400)
            .map(|_| match through_pages {
                false => cars_toy.sample(&mut toy, &Start { branch: &branch, logits: &logits }, &mut source),
                true => {
                    cars_paged.sample(&mut context, &Start { branch: &root, logits: &logits }, &mut source)
                }
            })
            .map(|s| s.expect("sample"))
            .collect()
    };
    let base = texts(64 << 20, false);
    assert_eq!(base, texts(0, false));
    assert_eq!(base, texts(64 << 20, true));
    for s in &base {
        let expected = lab.all[lab.index[&s.tokens]].model.ln();
        assert!((s.logprob - expected).abs() < 1e-5);
    }
}

/// Forbids everything after a few tokens.
struct Nothing(TokenSet, usize);

impl MaskSource for Nothing {
    fn ends(&self) -> &TokenSet {
        &self.0
    }

    fn mask(&mut self, prefix: &[TokenId], set: &mut TokenSet) -> Result<()> {
        set.remove(7);
        if prefix.len() >= self.1 {
            set.clear();
        }
        Ok(())
    }
}

#[test]
fn an_empty_language_is_refused_and_a_small_budget_reported() {
    let instance = r1();
    let exact = Exact::new(&instance);
    let lab = Lab::new(&exact);
    let (mut model, branch, logits) = lab.model();
    let start = Start { branch: &branch, logits: &logits };
    let mut ends = TokenSet::none(8);
    ends.insert(7);
    for depth in [0, 2] {
        let mut source = Nothing(ends.clone(), depth);
        let mut cars = Cars::new(lab.params(1), 8).expect("valid");
        let error = cars.sample(&mut model, &start, &mut source).expect_err("nothing to say");
        assert_eq!(error.kind(), ErrorKind::Unsatisfiable, "{error}");
        assert_eq!(cars.expected_draws().map(f64::is_nan), Some(true));
        let smc = Smc::new(SmcParams { max_tokens: 5, ..SmcParams::default() }).expect("valid");
        let error = smc.sample(&mut model, start, &mut source, 0).expect_err("nothing to say");
        assert_eq!(error.kind(), ErrorKind::Unsatisfiable, "{error}");
    }
    let mut source = Masks::viable(&exact);
    let failed = (0..50).find_map(|seed| {
        let mut cars = Cars::new(CarsParams { max_draws: 1, ..lab.params(seed) }, 8).expect("valid");
        cars.sample(&mut model, &start, &mut source).err()
    });
    let error = failed.expect("one draw rarely suffices");
    assert!(error.kind() == ErrorKind::TooComplex && error.to_string().contains("within 1 draws"), "{error}");
    for bad in [
        CarsParams { temperature: 0.0, ..CarsParams::default() },
        CarsParams { max_tokens: 0, ..CarsParams::default() },
        CarsParams { max_draws: 0, ..CarsParams::default() },
    ] {
        assert!(Cars::<ToyBranch>::new(bad, 8).is_err());
    }
    let short = Start { branch: &branch, logits: &logits[1..] };
    let mut cars = Cars::new(lab.params(1), 8).expect("valid");
    let error = cars.sample(&mut model, &short, &mut source).expect_err("short row");
    assert_eq!(error.kind(), ErrorKind::VocabMismatch);
}

#[test]
fn temperature_is_part_of_the_law() {
    let instance = r1();
    let exact = Exact::new(&instance);
    let lab = Lab::new(&exact);
    // At temperature 2 the law of a text is the product of square roots of weights, normalised a token at a
    // time.
    let rows: Vec<Vec<f64>> = (0..8)
        .map(|prev| {
            let w: Vec<f64> = instance.model.row(prev).iter().map(|p| p.sqrt()).collect();
            let total: f64 = w.iter().sum();
            w.iter().map(|w| w / total).collect()
        })
        .collect();
    let prob = |s: &Sequence| {
        let prevs = std::iter::once(&7).chain(&s.tokens);
        prevs.zip(&s.tokens).map(|(prev, t)| rows[*prev as usize][*t as usize]).product::<f64>()
    };
    let total: f64 = lab.all.iter().map(prob).sum();
    let (counts, _) = lab.cars(10_000, 1, Masks::viable(&exact), |p| p.temperature = 2.0, AtNew::Raw);
    cell_test(&counts, &lab.law(|s| prob(s) / total), ALPHA).expect("law at temperature 2");
    assert!(cell_test(&counts, &lab.target(), ALPHA).is_err());
}

fn smc_params(lab: &Lab<'_>, particles: usize) -> SmcParams {
    SmcParams { seed: 5, max_tokens: lab.instance().max_tokens, particles, ..SmcParams::default() }
}

#[test]
fn masked_draws_have_the_masked_law_and_unbiased_weights() {
    let instance = r1();
    let exact = Exact::new(&instance);
    let lab = Lab::new(&exact);
    let (mut model, branch, logits) = lab.model();
    let start = Start { branch: &branch, logits: &logits };
    let mut source = Masks::viable(&exact);
    let n = 20_000;
    let draws = masked_draws(&mut model, start, &mut source, &smc_params(&lab, n), 0).expect("draws");
    let counts = lab.counts(draws.iter().map(|d| d.tokens.clone()));
    cell_test(&counts, &lab.masked(), ALPHA).expect("masked law");
    for d in &draws {
        let s = &lab.all[lab.index[&d.tokens]];
        assert!((d.log_weight - s.weight.ln()).abs() < 1e-5 && (d.logprob - s.model.ln()).abs() < 1e-5);
    }
    let mean = |f: &dyn Fn(&MaskedDraw) -> f64| draws.iter().map(f).sum::<f64>() / n as f64;
    mean_test(mean(&|d| d.log_weight.exp()), exact.p_language(), n as u64, ALPHA).expect("E[W] = P(L)");
    // A fake that forgets the probability of ending at the limit.
    let forgets = |d: &MaskedDraw| {
        let end = instance.model.row(d.tokens[d.tokens.len() - 2] as usize)[7];
        d.log_weight.exp() / if d.tokens.len() == 5 { end } else { 1.0 }
    };
    assert!(mean_test(mean(&forgets), exact.p_language(), n as u64, ALPHA).is_err());
    // With the text attached: E[W·1{x}] = P(x).
    for s in lab.all.iter().filter(|s| s.model > 2e-3) {
        let found = mean(&|d| if d.tokens == s.tokens { d.log_weight.exp() } else { 0.0 });
        mean_test(found, s.model, n as u64, ALPHA).expect("E[W 1x] = P(x)");
    }
    // Loose masks meet dead ends, which weigh nothing.
    let loose =
        masked_draws(&mut model, start, &mut Masks::loose(&exact), &smc_params(&lab, n), 0).expect("draws");
    let dead = loose.iter().filter(|d| d.log_weight == f64::NEG_INFINITY).count();
    let mean: f64 = loose.iter().map(|d| d.log_weight.exp()).sum::<f64>() / n as f64;
    assert!(dead > 100, "{dead}");
    mean_test(mean, exact.p_language(), n as u64, ALPHA).expect("E[W] = P(L)");
}

#[test]
fn more_particles_come_nearer_and_the_estimate_is_unbiased() {
    let instance = r1();
    let exact = Exact::new(&instance);
    let lab = Lab::new(&exact);
    let (mut model, branch, logits) = lab.model();
    let start = Start { branch: &branch, logits: &logits };
    let target = exact.next_target(&[]);
    // The table of R1: distance of the first token; noise at 3000 runs is about 0.02.
    for (particles, expected, tolerance) in
        [(1, 0.140, 0.03), (4, 0.094, 0.03), (8, 0.059, 0.03), (64, 0.015, 0.03)]
    {
        let smc = Smc::new(smc_params(&lab, particles)).expect("valid");
        let (n, mut first, mut z) = (3_000, [0.0; 8], 0.0);
        for draw in 0..n {
            let mut source = Masks::viable(&exact);
            let s = smc.sample(&mut model, start, &mut source, draw).expect("sample");
            assert!(lab.index.contains_key(&s.tokens) && s.ess <= particles as f64 + 1e-9);
            first[s.tokens[0] as usize] += 1.0 / f64::from(n);
            z += s.log_z.exp() / f64::from(n);
        }
        let distance = total_variation(&first, &target);
        assert!((distance - expected).abs() < tolerance, "{particles} {distance}");
        mean_test(z, exact.p_language(), u64::from(n), ALPHA).expect("E[Z] = P(L)");
    }
}

#[test]
fn resampling_keeps_the_estimate_unbiased_with_finished_and_dead_texts() {
    let instance = random_instance(4);
    let exact = Exact::new(&instance);
    let lab = Lab::new(&exact);
    let (mut model, branch, logits) = lab.model();
    let start = Start { branch: &branch, logits: &logits };
    let smc = Smc::new(SmcParams { resample_below: 1.0, ..smc_params(&lab, 6) }).expect("valid");
    let n = 5_000;
    let z = |draw| {
        // No particle left is an estimate of 0.
        smc.sample(&mut model, start, &mut Masks::loose(&exact), draw).map_or(0.0, |s| s.log_z.exp())
    };
    let mean = (0..n).map(z).sum::<f64>() / f64::from(n);
    mean_test(mean, exact.p_language(), u64::from(n), ALPHA).expect("E[Z] = P(L)");
}

#[test]
fn metropolis_leaves_the_target_law_as_it_is() {
    let instance = r1();
    let exact = Exact::new(&instance);
    let lab = Lab::new(&exact);
    let n = 20_000;
    let random = Random::new(21);
    // Independent texts by exact probabilities.
    let pick = |purpose, i: u64, law: &[f64]| {
        let mut u = random.uniform(i, purpose);
        let at = law.iter().position(|p| {
            u -= p;
            u < 0.0
        });
        &lab.all[at.unwrap_or(law.len() - 1)]
    };
    let draw = |s: &Sequence, log_weight: f64| MaskedDraw {
        tokens: s.tokens.clone(),
        log_weight,
        logprob: s.model.ln(),
    };
    let after_a_step = |weight: fn(&Sequence) -> f64| {
        let one = |i| {
            let from = pick(Purpose::Token, i, &lab.target());
            let to = pick(Purpose::Search, i, &lab.masked());
            let mut chain = Metropolis::new(draw(from, weight(from).ln()), 8, i as u32);
            let moved = chain.step(draw(to, weight(to).ln()));
            assert_eq!(chain.acceptance(), f64::from(u8::from(moved)));
            chain.state().tokens.clone()
        };
        lab.counts((0..n).map(one))
    };
    cell_test(&after_a_step(|s| s.weight), &lab.target(), ALPHA).expect("target law");
    assert!(cell_test(&after_a_step(|s| s.model), &lab.target(), ALPHA).is_err(), "P in place of W");
    // From a dead end any text is taken, to one none.
    let s = &lab.all[0];
    let mut chain = Metropolis::new(draw(s, f64::NEG_INFINITY), 8, 0);
    assert!(chain.step(draw(s, -3.0)) && !chain.step(draw(s, f64::NEG_INFINITY)));
}

#[test]
fn the_distortion_report_finds_the_divergences() {
    let instance = r1();
    let exact = Exact::new(&instance);
    let lab = Lab::new(&exact);
    let (kl, log_p) = (exact.masked_divergence(), exact.p_language().ln());
    let reverse: f64 = lab.all.iter().map(|s| s.target * (s.target / s.masked).ln()).sum();
    // All texts, as often as the masked law has them.
    let often = |s: &Sequence| std::iter::repeat_n(s.weight.ln(), (s.masked * 1e5).round() as usize);
    let all: Vec<f64> = lab.all.iter().flat_map(often).collect();
    let report = Distortion::estimate(&all, |_| Interval { low: 0.0, high: 0.0 }).expect("many draws");
    for (found, expected) in [
        (report.kl_masked_target, kl),
        (report.kl_target_masked, reverse),
        (report.log_p_language, log_p),
        (report.ess / all.len() as f64, exact.effective_share()),
    ] {
        assert!((found - expected).abs() < 3e-3, "{found} {expected}");
    }
    assert!(report.dead_share == 0.0 && !report.is_poor());
}

#[test]
fn the_interval_of_the_divergence_holds_it_in_most_cases() {
    let instance = r1();
    let exact = Exact::new(&instance);
    let lab = Lab::new(&exact);
    let (mut model, branch, logits) = lab.model();
    let start = Start { branch: &branch, logits: &logits };
    let kl = exact.masked_divergence();
    let (mut held, mut fake_held) = (0, 0);
    for i in 0..100 {
        let draws =
            masked_draws(&mut model, start, &mut Masks::viable(&exact), &smc_params(&lab, 300), i * 300)
                .expect("draws");
        let weights: Vec<f64> = draws.iter().map(|d| d.log_weight).collect();
        let report = Distortion::new(&weights, u64::from(i)).expect("many draws");
        let Interval { low, high } = report.kl_interval;
        held += u32::from((low..=high).contains(&kl));
        // A fake that reports the removed mass as the divergence.
        let removed = -weights.iter().sum::<f64>() / weights.len() as f64;
        fake_held += u32::from((low..=high).contains(&removed));
    }
    assert!(held >= 90 && fake_held == 0, "{held} {fake_held}");
}

#[test]
fn dead_ends_are_counted_apart() {
    let inf = f64::NEG_INFINITY;
    let report = Distortion::new(&[-1.0, inf, -1.0, inf], 1).expect("two ended");
    assert_eq!((report.dead_share, report.kl_masked_target, report.ess), (0.5, 0.0, 2.0));
    assert!((report.log_p_language - (-1.0 - 2f64.ln())).abs() < 1e-12);
    assert!((report.kl_target_masked - 2f64.ln()).abs() < 1e-12, "half of the masked law is elsewhere");
    assert!(Distortion::new(&[-1.0], 1).is_none() && Distortion::new(&[inf, inf], 1).is_none());
    // Weights whose exponentials underflow.
    let report = Distortion::new(&[-2000.0, -2001.0, -2000.0], 1).expect("all ended");
    assert!(report.kl_masked_target.is_finite() && report.log_p_language < -1999.0);
}
