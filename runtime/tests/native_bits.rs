//! The native executor on a real model: a row's logits have the same bits for any way of feeding its branch,
//! any company in the batch and any number of threads.

mod common;

use std::sync::Arc;
use truing::model::{Branch, Context, ContextOptions, ExecutorKind, KvType, Model, ModelOptions};
use truing::native::NativeExecutor;
use truing::sampling::{BatchItem, NextLogits, Want};

/// A small generator, so that failures repeat.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}

fn model() -> Arc<Model> {
    Model::open(common::real_model("smollm2"), &ModelOptions::default()).expect("model")
}

fn context(model: &Arc<Model>, n_threads: usize, set: Option<&str>, kv_type: KvType) -> Context {
    let options = ContextOptions {
        n_ctx: 256,
        n_kv_tokens: 2048,
        n_threads,
        executor: ExecutorKind::Native,
        instruction_set: set.map(str::to_owned),
        kv_type,
        ..ContextOptions::default()
    };
    Context::new(model, &options).expect("context")
}

fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|x| x.to_bits()).collect()
}

/// The last row's bits of a text fed in one piece on one thread.
fn plain(ctx: &mut Context, tokens: &[u32]) -> Vec<u32> {
    let branch = ctx.root().expect("root");
    ctx.eval(&[BatchItem { branch: &branch, tokens, want: Want::Last }]).expect("eval");
    bits(ctx.row(0))
}

/// Feeds all texts together in pieces of random length, some branches forked from longer ones and cut back.
fn ragged(ctx: &mut Context, texts: &[Vec<u32>], random: &mut Random) -> Vec<Vec<u32>> {
    let mut branches: Vec<Branch> = Vec::new();
    for _ in texts {
        let branch = match branches.last() {
            Some(last) if random.below(2) == 0 => ctx.fork(last).expect("fork"),
            _ => ctx.root().expect("root"),
        };
        ctx.truncate(&branch, 0).expect("cut");
        // Cells that are given back are written over.
        let n = 1 + random.below(70);
        let junk: Vec<u32> = (0..n).map(|_| random.below(40_000) as u32).collect();
        ctx.eval(&[BatchItem { branch: &branch, tokens: &junk, want: Want::Nothing }]).expect("junk");
        ctx.truncate(&branch, 0).expect("cut");
        branches.push(branch);
    }
    let mut fed = vec![0; texts.len()];
    let mut rows = vec![Vec::new(); texts.len()];
    while fed.iter().zip(texts).any(|(n, t)| *n < t.len()) {
        let mut turn: Vec<(usize, usize)> = Vec::new();
        for (i, text) in texts.iter().enumerate() {
            let most = [2, 5, 20, 100][random.below(4)];
            let n = random.below(most).min(text.len() - fed[i]);
            if n > 0 {
                turn.push((i, n));
            }
        }
        let items: Vec<_> = turn
            .iter()
            .map(|&(i, n)| BatchItem {
                branch: &branches[i],
                tokens: &texts[i][fed[i]..fed[i] + n],
                want: Want::Last,
            })
            .collect();
        if items.is_empty() {
            continue;
        }
        ctx.eval(&items).expect("eval");
        for (row, &(i, n)) in turn.iter().enumerate() {
            fed[i] += n;
            rows[i] = bits(ctx.row(row));
        }
    }
    rows
}

fn texts(random: &mut Random) -> Vec<Vec<u32>> {
    [1, 2, 31, 33, 64, 90, 130].map(|n| (0..n).map(|_| random.below(49_000) as u32).collect()).into()
}

#[test]
fn bits_do_not_depend_on_splits_company_or_threads() {
    let model = model();
    let mut random = Random(7);
    let texts = texts(&mut random);
    for (kv_type, n_rounds) in [(KvType::F16, 3), (KvType::Q8_0, 1)] {
        let mut alone = context(&model, 1, None, kv_type);
        let expected: Vec<_> = texts.iter().map(|t| plain(&mut alone, t)).collect();
        for n_threads in [1, 2, 3] {
            let mut ctx = context(&model, n_threads, None, kv_type);
            for round in 0..n_rounds {
                let found = ragged(&mut ctx, &texts, &mut random);
                for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    assert!(found == expected, "text {i}, {n_threads} threads, round {round}, {kv_type:?}");
                }
            }
        }
    }
}

/// Keys and values in 8 bits take half the memory, and logits move by little.
#[test]
fn eight_bits_are_half_the_memory_and_near_the_same_logits() {
    let model = model();
    let text: Vec<u32> = (0..60).map(|i| 100 + 911 * i % 40_000).collect();
    let [wide, narrow] = [KvType::F16, KvType::Q8_0].map(|kv_type| {
        let mut ctx = context(&model, 1, None, kv_type);
        let row = plain(&mut ctx, &text).into_iter().map(f32::from_bits).collect::<Vec<_>>();
        (ctx.memory_bytes().0, row)
    });
    assert!(narrow.0 * 100 < wide.0 * 56, "{} of {} bytes", narrow.0, wide.0);
    let size: f32 = wide.1.iter().map(|x| x * x).sum();
    let far: f32 = wide.1.iter().zip(&narrow.1).map(|(a, b)| (a - b) * (a - b)).sum();
    let off = (far / size).sqrt();
    assert!(off > 0.0 && off < 0.02, "{off}");
}

/// What is promised is one machine's bits; on instruction sets with the same operations they are the same.
#[test]
fn every_vector_instruction_set_gives_the_same_bits() {
    let model = model();
    let text: Vec<u32> = (0..40).map(|i| 100 + 911 * i % 40_000).collect();
    let sets = NativeExecutor::instruction_sets();
    for kv_type in [KvType::F16, KvType::Q8_0] {
        let row = |set: &&'static str| (*set, plain(&mut context(&model, 1, Some(set), kv_type), &text));
        let rows: Vec<_> = sets[1..].iter().map(row).collect();
        for pair in rows.windows(2) {
            assert!(pair[0].1 == pair[1].1, "{} and {}, {kv_type:?}", pair[0].0, pair[1].0);
        }
    }
}

#[test]
fn an_unknown_instruction_set_is_refused_by_name() {
    let options = ContextOptions {
        executor: ExecutorKind::Native,
        instruction_set: Some("mmx".into()),
        ..ContextOptions::default()
    };
    let message = Context::new(&model(), &options).map(|_| ()).expect_err("mmx").to_string();
    assert!(message.contains("mmx") && message.contains("portable"), "{message}");
}
