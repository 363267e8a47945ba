//! Every architecture against llama.cpp on tiny models with random weights, and branches against fresh runs.
//!
//! The folder here holds a part of the golden models; `TRUING_GOLDEN` names a folder whose `archs/` is used
//! instead. Bounds: twice the rms and three times the largest difference that llama.cpp shows to itself and
//! to exact arithmetic on the same file. A wrong rotation, mask, scale or order stands far above.

#![allow(clippy::panic, reason = "a failed test")]

mod support;

use support::reference::Reference;
use support::tiny::{self, Tiny};
use truing::ErrorKind;
use truing::model::{Context, Executor, PAGE_TOKENS};
use truing::sampling::{BatchItem, NextLogits, Want};

/// Architectures whose parts the generic forward does not have.
const REFUSED: &[&str] = &["falcon-h1", "gemma4", "granitehybrid", "lfm2", "mamba2", "minicpm3", "qwen35"];

/// Rows a step, small enough that the longest sequence takes several. ggml gets twice as many: its sums depend
/// on them, and llama.cpp's noise was measured on whole sequences.
const MAX_ROWS: usize = 64;

/// An executor under test.
struct Kind {
    name: &'static str,
    /// Makes one with room for so many pages, or `None` if it does not read the file's types.
    make: fn(&Tiny, usize) -> Option<Box<dyn Executor>>,
    /// A row has the same bits in any batch.
    bitwise: bool,
}

const KINDS: &[Kind] = &[
    Kind { name: "reference", make: reference, bitwise: true },
    #[cfg(feature = "ggml")]
    Kind { name: "ggml", make: ggml, bitwise: false },
    Kind { name: "native", make: native, bitwise: true },
];

/// `None` for what native says it does not support; any other failure is one.
fn native(tiny: &Tiny, n_pages: usize) -> Option<Box<dyn Executor>> {
    use truing::model::{ExecutorOptions, KvType};
    let options =
        ExecutorOptions { n_pages, max_rows: MAX_ROWS, n_threads: 2, kv_type: KvType::F16, cpus: Vec::new() };
    match truing::native::NativeExecutor::new(tiny.model.spec_for(tiny.n_ctx), &options) {
        Ok(made) => Some(Box::new(made)),
        Err(e) if e.kind() == ErrorKind::Unsupported => None,
        Err(e) => panic!("{}: {e}", tiny.name),
    }
}

fn reference(tiny: &Tiny, n_pages: usize) -> Option<Box<dyn Executor>> {
    Some(Box::new(Reference::new(tiny.model.spec_for(tiny.n_ctx), n_pages, MAX_ROWS)?))
}

#[cfg(feature = "ggml")]
fn ggml(tiny: &Tiny, n_pages: usize) -> Option<Box<dyn Executor>> {
    use truing::backend::{GgmlExecutor, GgmlOptions};
    use truing::model::{ExecutorOptions, KvType};
    let options = ExecutorOptions {
        n_pages,
        max_rows: 2 * MAX_ROWS,
        n_threads: 1,
        kv_type: KvType::F16,
        cpus: Vec::new(),
    };
    let made = GgmlExecutor::new(tiny.model.spec_for(tiny.n_ctx), &options, &GgmlOptions::default());
    Some(Box::new(made.unwrap_or_else(|e| panic!("{}: {e}", tiny.name))))
}

/// A context of an executor for a model, with room for several branches.
fn context(kind: &Kind, tiny: &Tiny) -> Option<Context> {
    Some(tiny::context(tiny, (kind.make)(tiny, 6 * tiny.n_ctx / PAGE_TOKENS)?))
}

fn models() -> Vec<Tiny> {
    let mut models = Vec::new();
    for path in tiny::files() {
        let name = path.file_name().expect("name").to_string_lossy().into_owned();
        let refused = REFUSED.iter().any(|r| name.starts_with(r));
        match tiny::load(&path) {
            Ok(tiny) if !refused => models.push(tiny),
            Err(e) if refused => {
                assert_eq!(e.kind(), ErrorKind::Unsupported);
                assert!(e.to_string().contains("supported: apertus"), "{e}");
            }
            other => panic!("{name}: {:?}", other.map(|t| t.name)),
        }
    }
    assert!(models.len() >= 30, "{} models", models.len());
    models
}

/// What leaves the bounds, if anything. Differences below what single precision and f16 keys can promise
/// are no complaint.
fn complaint(tiny: &Tiny, what: &str, found: &[f32], expected: &[f64], times: f64) -> Option<String> {
    let d = tiny::distance(found, expected);
    let (max, rms) = (times * tiny.noise_max, times * tiny.noise_rms);
    let bad = d.rms > (2.0 * rms).max(1e-3) || d.max > (3.0 * max).max(5e-3);
    bad.then(|| format!("{}, {what}: {d:.4?}, noise {max:.4} rms {rms:.4}", tiny.name))
}

/// Where the executor's logits are too far from llama.cpp's.
fn complaints(kind: &Kind, tiny: &Tiny) -> Option<Vec<String>> {
    let mut ctx = context(kind, tiny)?;
    let check = |s: &tiny::Sequence| {
        let (_, row) = tiny::run(&mut ctx, &s.ids);
        complaint(tiny, &format!("{} tokens", s.ids.len()), &row, &s.logits, 1.0)
    };
    Some(tiny.sequences.iter().filter_map(check).collect())
}

#[test]
fn logits_are_within_noise_of_llama_cpp() {
    let models = models();
    for kind in KINDS {
        let made: Vec<_> = models.iter().filter_map(|t| complaints(kind, t)).collect();
        assert!(made.len() * 10 >= models.len() * 9, "{}: {} of {}", kind.name, made.len(), models.len());
        let complaints = made.concat();
        assert!(complaints.is_empty(), "{}:\n{}", kind.name, complaints.join("\n"));
    }
}

/// The bounds would be worth nothing if they let a wrong hyperparameter pass.
#[test]
fn a_wrong_hyperparameter_is_noticed() {
    type Change = fn(f32) -> f32;
    let cases: [(&str, &str, Change); 3] = [
        ("llama-freqs-s1-a-f16", "llama.rope.freq_base", |base| base * 1.1),
        ("gemma2-s1-a-f16", "gemma2.attn_logit_softcapping", |cap| cap * 1.2),
        ("granitemoe-s1-a-q8_0", "granitemoe.residual_scale", |scale| scale * 1.2),
    ];
    for (stem, key, change) in cases {
        let path = tiny::folder().join(format!("{stem}.gguf"));
        let tiny = tiny::load_edited(&path, |bytes| {
            let at = bytes.windows(key.len()).position(|w| w == key.as_bytes()).expect("key") + key.len() + 4;
            let value = f32::from_le_bytes(bytes[at..at + 4].try_into().expect("f32"));
            bytes[at..at + 4].copy_from_slice(&change(value).to_le_bytes());
        });
        let found = complaints(&KINDS[0], &tiny.expect("edited")).expect("context");
        assert!(!found.is_empty(), "{key} changed and nothing noticed");
    }
}

/// Two rows that should be the same: to the bit, or within the model's noise.
fn assert_same(kind: &Kind, tiny: &Tiny, what: &str, found: &[f32], expected: &[f32]) {
    if kind.bitwise {
        assert!(found == expected, "{}: {}, {what}: not the same bits", kind.name, tiny.name);
    }
    let expected: Vec<f64> = expected.iter().map(|x| f64::from(*x)).collect();
    // Both rows carry noise.
    if let Some(complaint) = complaint(tiny, what, found, &expected, 2.0) {
        panic!("{}: {complaint}", kind.name);
    }
}

/// Runs `check` for every executor and model.
fn everywhere(check: impl Fn(&Kind, &Tiny, &mut Context)) {
    let models = models();
    for kind in KINDS {
        for tiny in &models {
            if let Some(mut ctx) = context(kind, tiny) {
                check(kind, tiny, &mut ctx);
            }
        }
    }
}

#[test]
fn prompts_packed_in_one_batch_answer_as_alone() {
    everywhere(|kind, tiny, ctx| {
        let long = &tiny.sequences[2].ids;
        let prompts = [&long[..40], &long[60..63], &long[5..6], &long[30..80]];
        let alone: Vec<_> = prompts.iter().map(|ids| tiny::run(ctx, ids).1).collect();
        let branches: Vec<_> = prompts.iter().map(|_| ctx.root().expect("root")).collect();
        let items: Vec<_> = (branches.iter().zip(prompts))
            .map(|(branch, tokens)| BatchItem { branch, tokens, want: Want::Last })
            .collect();
        ctx.eval(&items).expect("packed");
        for (i, alone) in alone.iter().enumerate() {
            assert_same(kind, tiny, &format!("packed prompt {i}"), ctx.row(i), alone);
        }
    });
}

#[test]
fn all_rows_of_a_prompt_are_those_of_its_beginnings() {
    everywhere(|kind, tiny, ctx| {
        let ids = &tiny.sequences[1].ids;
        let branch = ctx.root().expect("root");
        ctx.eval(&[BatchItem { branch: &branch, tokens: ids, want: Want::All }]).expect("eval");
        let rows: Vec<_> = (0..ids.len()).map(|i| ctx.row(i).to_vec()).collect();
        for n in [1, 8, ids.len()] {
            let (_, row) = tiny::run(ctx, &ids[..n]);
            assert_same(kind, tiny, &format!("row {n}"), &rows[n - 1], &row);
        }
    });
}

#[test]
fn a_cut_branch_goes_on_as_if_it_had_never_been_longer() {
    everywhere(|kind, tiny, ctx| {
        let ids = &tiny.sequences[2].ids;
        let (_, fresh) = tiny::run(ctx, ids);
        let branch = ctx.root().expect("root");
        tiny::append(ctx, &branch, &ids[..41]);
        let detour: Vec<u32> = ids.iter().rev().take(70).copied().collect();
        tiny::append(ctx, &branch, &detour);
        ctx.truncate(&branch, 41).expect("truncate");
        let row = tiny::append(ctx, &branch, &ids[41..]);
        assert_same(kind, tiny, "after a cut of 70 tokens", &row, &fresh);
    });
}

#[test]
fn forks_go_their_own_ways() {
    everywhere(|kind, tiny, ctx| {
        let ids = &tiny.sequences[2].ids;
        let other: Vec<u32> = ids[..45].iter().chain(ids[..20].iter()).copied().collect();
        let (_, fresh) = tiny::run(ctx, ids);
        let (_, fresh_other) = tiny::run(ctx, &other);
        let (trunk, _) = tiny::run(ctx, &ids[..45]);
        let fork = ctx.fork(&trunk).expect("fork");
        let items = [
            BatchItem { branch: &fork, tokens: &other[45..], want: Want::Last },
            BatchItem { branch: &trunk, tokens: &ids[45..], want: Want::Last },
        ];
        ctx.eval(&items).expect("both");
        assert_same(kind, tiny, "fork", ctx.row(0), &fresh_other);
        assert_same(kind, tiny, "trunk", ctx.row(1), &fresh);
    });
}

#[test]
fn a_cancelled_prefill_leaves_its_branch_as_it_was() {
    everywhere(|kind, tiny, ctx| {
        let ids = &tiny.sequences[2].ids;
        let (_, fresh) = tiny::run(ctx, ids);
        let (branch, _) = tiny::run(ctx, &ids[..50]);
        ctx.cancel_flag().cancel();
        let cancelled = ctx.eval(&[BatchItem { branch: &branch, tokens: &ids[..30], want: Want::Last }]);
        assert_eq!(cancelled.expect_err("cancelled").kind(), ErrorKind::Cancelled);
        ctx.cancel_flag().reset();
        assert_eq!(ctx.len(&branch), 50);
        let row = tiny::append(ctx, &branch, &ids[50..]);
        assert_same(kind, tiny, "after cancelling", &row, &fresh);
    });
}

#[test]
fn hidden_states_do_not_depend_on_how_the_prompt_is_fed() {
    everywhere(|kind, tiny, ctx| {
        let last = tiny.model.shape().n_layer as u32 - 1;
        ctx.set_taps(&[0, last]).expect("taps");
        let ids = &tiny.sequences[1].ids;
        let (whole, _) = tiny::run(ctx, ids);
        let hidden: Vec<_> = (0..2).map(|t| ctx.hidden(t, 0).expect("hidden").to_vec()).collect();
        assert!(hidden[0] != hidden[1] && hidden.iter().flatten().all(|x| x.is_finite()));
        ctx.truncate(&whole, ids.len() - 1).expect("truncate");
        tiny::append(ctx, &whole, &ids[ids.len() - 1..]);
        for (t, before) in hidden.iter().enumerate() {
            let after = ctx.hidden(t, 0).expect("hidden");
            let size = before.iter().fold(0f32, |m, x| m.max(x.abs()));
            let off = before.iter().zip(after).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(if kind.bitwise { off == 0.0 } else { off < 0.05 * size }, "{}: {off}", tiny.name);
        }
    });
}
