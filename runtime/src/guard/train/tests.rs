//! The trainer on hidden states whose law is known: two Gaussians a known distance apart along a known direction.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::oracles::{Law, Toy};

/// Distance of the classes; the best area under the curve is `Φ(δ/√2)` = 0.9933, the best hits at 1 % are 0.880.
const DELTA: f64 = 3.5;
const CLASS: TokenId = 1000;

/// A prompt is `[class, number]`. At the informative layer the state is `±(δ/2)u + ε`, elsewhere `ε`; dimensions
/// are scaled by 10^(−2..2).
struct Gaussians {
    n_embd: usize,
    informative: u32,
    seed: u64,
    shuffled: bool,
}

fn normal(random: Random, at: u64) -> f64 {
    let u = random.uniform(at, Purpose::Search).max(1e-300);
    let v = random.uniform(at, Purpose::Report);
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

impl Gaussians {
    fn direction(&self) -> Vec<f64> {
        let random = Random::new(self.seed ^ 0xD1);
        let u: Vec<f64> = (0..self.n_embd).map(|i| normal(random, i as u64)).collect();
        let norm = u.iter().map(|x| x * x).sum::<f64>().sqrt();
        u.iter().map(|x| x / norm).collect()
    }

    fn scale(&self, i: usize) -> f64 {
        10f64.powf(-2.0 + 4.0 * i as f64 / self.n_embd as f64)
    }
}

impl Law for Gaussians {
    fn n_vocab(&self) -> usize {
        4096
    }
    fn eos(&self) -> TokenId {
        4095
    }
    fn probs(&self, _: &[TokenId], out: &mut [f64]) {
        out.fill(1.0 / out.len() as f64);
    }
    fn n_embd(&self) -> usize {
        self.n_embd
    }
    fn hidden(&self, prefix: &[TokenId], layer: u32, out: &mut [f32]) {
        let (class, number) = (prefix[0] - CLASS, u64::from(prefix[1]));
        // every token before counts, so that a state read from the wrong place is another one
        let past = prefix.iter().skip(2).fold(0u64, |h, t| (h ^ u64::from(*t)).wrapping_mul(0x9E37_79B9));
        let random = Random::new((self.seed << 20 | number << 8 | u64::from(layer)) ^ past << 40);
        let sign = if class == 1 { 0.5 } else { -0.5 };
        let u = self.direction();
        for (i, h) in out.iter_mut().enumerate() {
            let signal = if layer == self.informative { sign * DELTA * u[i] } else { 0.0 };
            *h = ((signal + normal(random, i as u64)) * self.scale(i)) as f32;
        }
    }
}

fn options(method: Method) -> TrainOptions {
    TrainOptions {
        position: Position::Prompt,
        header: Vec::new(),
        method,
        c: DEFAULT_C,
        alpha: 0.01,
        layers: (0..8).collect(),
        n_layer: 8,
        n_chosen: 1,
        seed: 5,
    }
}

fn run(law: Gaussians, n: u32, options: &TrainOptions) -> Trained {
    let shuffle = Random::new(law.seed ^ 0x5F);
    let samples: Vec<Sample> = (0..2 * n)
        .map(|i| {
            let class = i % 2;
            let label = match law.shuffled {
                true => shuffle.uniform(u64::from(i), Purpose::Search) < 0.5,
                false => class == 1,
            };
            Sample { prompt: vec![CLASS + class, i], response: Vec::new(), label }
        })
        .collect();
    train(&mut Toy::new(law), &samples, &[], options, &mut |_| ()).unwrap()
}

#[test]
fn the_direction_is_found_and_dimensions_of_any_size_count_alike() {
    for method in [Method::Logistic, Method::MeanDifference] {
        let law = Gaussians { n_embd: 32, informative: 4, seed: 3, shuffled: false };
        let (u, scales) = (law.direction(), (0..32).map(|i| law.scale(i)).collect::<Vec<f64>>());
        let trained = run(law, 128, &options(method));
        let d = &trained.probe.directions()[0];
        // back to the space without scales
        let w: Vec<f64> =
            (0..32).map(|i| f64::from(d.weight[i]) * f64::from(d.inv_std[i]) * scales[i]).collect();
        let norm = w.iter().map(|x| x * x).sum::<f64>().sqrt();
        let cosine = w.iter().zip(&u).map(|(a, b)| a * b).sum::<f64>() / norm;
        assert!(cosine >= 0.95, "{method:?}: {cosine}");
    }
}

#[test]
fn the_informative_layer_is_chosen_and_separates_nearly_as_well_as_can_be() {
    let mut n_right = 0;
    for seed in 0..20 {
        let law = Gaussians { n_embd: 64, informative: 5, seed, shuffled: false };
        let trained = run(law, 100, &options(Method::MeanDifference));
        n_right += u32::from(trained.probe.layers() == [5]);
    }
    assert!(n_right >= 19, "{n_right} of 20");
    let law = Gaussians { n_embd: 256, informative: 5, seed: 77, shuffled: false };
    let trained = run(law, 128, &options(Method::Logistic));
    assert!(trained.probe.quality.auroc >= 0.95, "{:?}", trained.probe.quality);
}

#[test]
fn shuffled_labels_leave_nothing_to_find() {
    for seed in [1, 2, 3] {
        let law = Gaussians { n_embd: 64, informative: 5, seed, shuffled: true };
        let one = TrainOptions { layers: vec![5], ..options(Method::Logistic) };
        let trained = run(law, 200, &one);
        assert!(trained.probe.quality.tpr_at_1fpr <= 0.05, "{:?}", trained.probe.quality);
    }
}

#[test]
fn the_conformal_rate_of_false_alarms_is_kept() {
    // 2000 repetitions, n = 199, alpha 1 %: the mean rate is at most 0.01; KL bound for a false failure of 1e-6
    let (n, n_repetitions) = (199u64, 2000u64);
    let mut n_alarms = 0;
    for repetition in 0..n_repetitions {
        let random = Random::new(repetition + 11);
        let scores: Vec<f32> = (0..n).map(|i| normal(random, i) as f32).collect();
        let tau = conformal(&scores, 0.01).unwrap();
        n_alarms += u64::from(normal(random, n + 1) as f32 > tau);
    }
    let p = n_alarms as f64 / n_repetitions as f64;
    let kl = p * (p / 0.01).max(1e-12).ln() + (1.0 - p) * ((1.0 - p) / 0.99).ln();
    assert!(p <= 0.01 || n_repetitions as f64 * kl < 14.5, "{p}");
    assert!(n_alarms > 0, "a threshold that nothing exceeds");
}

#[test]
fn too_few_texts_are_refused_by_name() {
    let sample = |label| Sample { prompt: vec![CLASS, 1], response: Vec::new(), label };
    let mut lm = Toy::new(Gaussians { n_embd: 8, informative: 0, seed: 1, shuffled: false });
    let few: Vec<Sample> = (0..100).map(|i| sample(i % 3 == 0)).collect();
    let error = train(&mut lm, &few, &[], &options(Method::Logistic), &mut |_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let enough: Vec<Sample> = (0..160).map(|i| sample(i % 2 == 0)).collect();
    let error = train(&mut lm, &enough, &[], &options(Method::Logistic), &mut |_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CalibrationTooSmall, "80 benign texts for 1 %");
}

#[test]
fn packs_read_what_single_texts_read() {
    // texts of many lengths that begin alike: packing and sharing must not change a state
    let law = || Gaussians { n_embd: 6, informative: 0, seed: 9, shuffled: false };
    let samples: Vec<Sample> = (0..40)
        .map(|i| Sample {
            prompt: vec![CLASS, i / 8, 3, i % 8 + 10],
            response: (0..(i * 37) % 90).collect(),
            label: false,
        })
        .collect();
    for position in [Position::Prompt, Position::Response, Position::Header] {
        let read = |samples: &[Sample]| {
            let mut found = Vec::new();
            let mut visit = |place: Place, states: &[&[f32]]| {
                found.push((place.sample, place.token, states.concat()));
            };
            let mut lm = Toy::new(law());
            read_states(&mut lm, samples, (position, &[7, 8]), &[0, 2], &mut visit, &mut |_| ()).unwrap();
            found.sort_by_key(|f| (f.0, f.1));
            found
        };
        let together = read(&samples);
        let alone: Vec<_> = (0..samples.len())
            .flat_map(|i| read(&samples[i..=i]).into_iter().map(move |(_, t, s)| (i, t, s)))
            .collect();
        assert_eq!(together, alone, "{position:?}");
    }
}
