//! Time of one sampler step per vocabulary size, beside naive rivals whose answers are checked to agree.
//!
//! `cargo bench -p truing-benches --bench sampling`

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use truing::sampling::{Chain, Dry, Mirostat, Penalties, SamplingParams};
use truing::{TokenSet, kernels};

/// A row like a model's: most logits in a bell around -4, a few hundred far above.
fn row(n_vocab: usize) -> Vec<f32> {
    let mut x = 0x1234_5678_9ABC_DEF1u64;
    let mut uniform = || {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (x >> 40) as f32 / (1 << 24) as f32
    };
    let mut row: Vec<f32> =
        (0..n_vocab).map(|_| (0..6).map(|_| uniform()).sum::<f32>() * 2.5 - 11.5).collect();
    for _ in 0..n_vocab / 200 {
        let i = (uniform() * n_vocab as f32) as usize % n_vocab;
        row[i] += 14.0 * uniform();
    }
    row
}

fn cases() -> Vec<(&'static str, SamplingParams)> {
    let default = SamplingParams::default;
    let penalties = Penalties { repeat: 1.1, frequency: 0.1, presence: 0.1, ..Penalties::default() };
    vec![
        ("greedy", SamplingParams::greedy()),
        ("temperature", SamplingParams { temperature: 0.8, ..SamplingParams::plain(1) }),
        ("default", default()),
        ("default and penalties", SamplingParams { penalties, ..default() }),
        (
            "default and dry 1024",
            SamplingParams { dry: Dry { multiplier: 0.8, last_n: 1024, ..Dry::default() }, ..default() },
        ),
        ("top_p", SamplingParams { top_p: 0.95, ..SamplingParams::plain(1) }),
        ("min_p", SamplingParams { min_p: 0.05, ..SamplingParams::plain(1) }),
        ("typical", SamplingParams { typical_p: 0.9, ..SamplingParams::plain(1) }),
        ("top_n_sigma", SamplingParams { top_n_sigma: 1.0, ..SamplingParams::plain(1) }),
        ("mirostat", SamplingParams { mirostat: Some(Mirostat::default()), ..SamplingParams::plain(1) }),
    ]
}

/// What a straightforward sampler does: one softmax and a full sort.
fn naive_sort(row: &[f32]) -> (u32, f32) {
    let max = row.iter().copied().fold(f32::MIN, f32::max);
    let total: f32 = row.iter().map(|l| (l - max).exp()).sum();
    let mut all: Vec<(u32, f32)> =
        row.iter().enumerate().map(|(i, l)| (i as u32, (l - max).exp() / total)).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all[0]
}

fn step(c: &mut Criterion) {
    for n_vocab in [49_152, 262_144] {
        let row = row(n_vocab);
        let mut group = c.benchmark_group(format!("step/{n_vocab}"));
        let best = naive_sort(&row).0;
        assert_eq!(Some(best), kernels::argmax(&row, None));
        group.bench_function("naive softmax and sort", |b| b.iter(|| naive_sort(black_box(&row))));
        let mut sparse = TokenSet::none(n_vocab);
        (0..n_vocab as u32).step_by(997).for_each(|t| sparse.insert(t));
        let mut half = TokenSet::all(n_vocab);
        (0..n_vocab as u32).step_by(2).for_each(|t| half.remove(t));
        for (name, params) in cases() {
            let mut chain = Chain::new(&params, n_vocab).expect("valid");
            (0..1100).for_each(|i| chain.accept(i * 7 % 350).expect("in vocabulary"));
            for (mask_name, mask) in
                [("all", None), ("mask half", Some(&half)), ("mask 1 in 997", Some(&sparse))]
            {
                let mut pos = 0;
                group.bench_function(BenchmarkId::new(name, mask_name), |b| {
                    b.iter(|| {
                        pos += 1;
                        chain.sample(black_box(&row), mask, pos).expect("drawn")
                    });
                });
            }
        }
        group.finish();
    }
}

fn slice_kernels(c: &mut Criterion) {
    for n_vocab in [49_152, 262_144] {
        let row = row(n_vocab);
        let mut sums = vec![0.0; n_vocab.div_ceil(kernels::BLOCK)];
        let mut probs = vec![0.0; n_vocab];
        let mut top = Vec::with_capacity(n_vocab + 4096);
        let mut group = c.benchmark_group(format!("kernel/{n_vocab}"));
        let naive = row.iter().map(|l| f64::from(*l).exp()).sum::<f64>().ln();
        assert!((naive - kernels::log_sum_exp(&row, None, &mut sums)).abs() < 1e-5);
        group.bench_function("argmax", |b| b.iter(|| kernels::argmax(black_box(&row), None)));
        group.bench_function("log_sum_exp", |b| {
            b.iter(|| kernels::log_sum_exp(black_box(&row), None, &mut sums))
        });
        group.bench_function("softmax", |b| {
            b.iter(|| kernels::softmax(black_box(&row), None, &mut probs, &mut sums))
        });
        group.bench_function("top_k 40", |b| {
            b.iter(|| {
                top.clear();
                kernels::top_k(black_box(&row), None, 40, &mut top);
            });
        });
        group.bench_function("naive log_sum_exp", |b| {
            b.iter(|| {
                let row = black_box(&row);
                let max = row.iter().copied().fold(f32::MIN, f32::max);
                max + row.iter().map(|l| (l - max).exp()).sum::<f32>().ln()
            });
        });
        group.finish();
    }
}

criterion_group!(benches, step, slice_kernels);
criterion_main!(benches);
