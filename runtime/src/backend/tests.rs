//! What the executor promises beyond agreeing with the reference (see `tests/archs.rs` for that).

use super::{GgmlExecutor, GgmlOptions};
use crate::gguf::GgmlType;
use crate::model::{
    CancelFlag, Executor, ExecutorOptions, KvType, Model, ModelOptions, PAGE_TOKENS, Span, Step, StepOut,
};
use crate::{ErrorKind, TokenId};
use std::path::Path;
use std::sync::Arc;

const N_CTX: usize = 128;

fn open(stem: &str) -> Arc<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/archs/{stem}.gguf"));
    Model::open(path, &ModelOptions::default()).unwrap()
}

fn options() -> ExecutorOptions {
    ExecutorOptions { n_pages: 12, max_rows: 128, n_threads: 1, kv_type: KvType::F16, cpus: Vec::new() }
}

fn executor(model: &Model, options: &ExecutorOptions, ggml: &GgmlOptions) -> GgmlExecutor {
    GgmlExecutor::new(model.spec_for(N_CTX), options, ggml).unwrap()
}

fn ids(n: usize) -> Vec<TokenId> {
    (0..n).map(|i| (7 + i * 31 % 290) as TokenId).collect()
}

/// One branch whose pages are given.
struct Line {
    pages: Vec<u32>,
    len: usize,
}

impl Line {
    fn new(pages: &[u32]) -> Self {
        Self { pages: pages.to_vec(), len: 0 }
    }

    /// Logits after the last of `ids`.
    fn feed(&mut self, ex: &mut GgmlExecutor, ids: &[TokenId]) -> Vec<f32> {
        let spans =
            [Span { first_row: 0, n_rows: ids.len(), first_pos: self.len, pages: &self.pages, mix: &[] }];
        let step = Step { tokens: ids, spans: &spans, outputs: &[ids.len() as u32 - 1], taps: &[] };
        let mut out = StepOut::default();
        ex.forward(&step, &CancelFlag::default(), &mut out).unwrap();
        self.len += ids.len();
        out.logits
    }
}

/// Largest difference over the standard deviation of `b`.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let mean = b.iter().sum::<f32>() / b.len() as f32;
    let spread = (b.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / b.len() as f32).sqrt();
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / spread
}

#[test]
fn block_layouts_are_those_of_ggml() {
    let mut n_types = 0;
    for number in 0..1000 {
        let (ours, theirs) = (GgmlType::from_u32(number), truing_ggml::Type::from_number(number));
        assert_eq!(ours.is_some(), theirs.is_some(), "type {number}: {ours:?}, {theirs:?}");
        let (Some(ours), Some(theirs)) = (ours, theirs) else { continue };
        let layout = (theirs.block_values(), theirs.block_bytes());
        assert_eq!((ours.block_values(), ours.block_bytes()), layout, "{ours}");
        for n in [0, 1, 32, 256, 1000, 4096] {
            assert_eq!(ours.bytes_for(n), theirs.row_bytes(n), "{ours}: {n} values");
        }
        n_types += 1;
    }
    assert!(n_types >= 35, "only {n_types} types");
}

#[test]
fn fused_attention_agrees_with_its_twin_that_stores_scores() {
    for stem in
        ["llama-s1-a-f32", "gemma2-s1-a-f16", "gpt-oss-s1-a-mxfp4", "olmo3-s1-a-f16", "mistral3-s1-a-f16"]
    {
        let model = open(stem);
        let run = |flash| {
            let mut ex = executor(&model, &options(), &GgmlOptions { flash, ..GgmlOptions::default() });
            Line::new(&[3, 0, 2]).feed(&mut ex, &ids(90))
        };
        let off = distance(&run(true), &run(false));
        assert!(off < 0.1, "{stem}: {off}");
    }
}

#[test]
fn storage_of_keys_and_values_changes_little() {
    let model = open("qwen3-s1-a-f16");
    let run = |kv_type| {
        Line::new(&[0, 1, 2]).feed(
            &mut executor(&model, &ExecutorOptions { kv_type, ..options() }, &GgmlOptions::default()),
            &ids(90),
        )
    };
    let full = run(KvType::F32);
    for (kv_type, most) in [(KvType::F16, 0.1), (KvType::Q8_0, 0.3)] {
        let off = distance(&run(kv_type), &full);
        assert!(off > 0.0 && off < most, "{kv_type:?}: {off}");
    }
}

#[test]
fn rearranged_weights_agree_with_those_in_place() {
    for stem in ["llama-s1-a-q4_0", "gemma3-270m-s1-a-q4_0"] {
        let model = open(stem);
        let run = |rearrange| {
            let mut ex = executor(&model, &options(), &GgmlOptions { rearrange, ..GgmlOptions::default() });
            (ex.private_weight_bytes(), Line::new(&[0, 1, 2]).feed(&mut ex, &ids(40)))
        };
        let ((in_place, a), (copied, b)) = (run(false), run(true));
        assert!(in_place < copied, "{stem}: {in_place} and {copied} bytes copied");
        let off = distance(&b, &a);
        assert!(off < 0.1, "{stem}: {off}");
    }
}

#[test]
fn a_step_of_a_known_shape_builds_no_graph() {
    let model = open("llama-s1-a-q4_0");
    let mut ex = executor(&model, &options(), &GgmlOptions::default());
    let mut line = Line::new(&[0, 1, 2, 3]);
    line.feed(&mut ex, &ids(20));
    line.feed(&mut ex, &ids(1));
    let n_builds = ex.n_builds();
    (0..90).for_each(|_| drop(line.feed(&mut ex, &ids(1))));
    assert_eq!(ex.n_builds(), n_builds);
    // Checking guesses of a few lengths between single steps keeps all their graphs.
    let mut line = Line::new(&[4, 5, 6]);
    for round in 0..5 {
        for n in [1, 3, 1, 5] {
            line.feed(&mut ex, &ids(n));
        }
        assert!(round == 0 || ex.n_builds() == n_builds + 2);
    }
}

#[test]
fn logits_of_many_rows_are_those_of_each() {
    for stem in ["gemma2-s1-a-f16", "granitemoe-s1-a-q8_0"] {
        let model = open(stem);
        let mut ex = executor(&model, &options(), &GgmlOptions::default());
        let tokens = ids(100);
        // More rows than one part of the head takes, and not a multiple.
        let outputs: Vec<u32> = (0..100).filter(|i| i % 7 != 3).collect();
        assert!(outputs.len() > super::head::part_rows(model.shape().n_vocab));
        let spans = [Span { first_row: 0, n_rows: 100, first_pos: 0, pages: &[0, 1, 2, 3], mix: &[] }];
        let mut out = StepOut::default();
        let step = Step { tokens: &tokens, spans: &spans, outputs: &outputs, taps: &[0] };
        ex.forward(&step, &CancelFlag::default(), &mut out).unwrap();
        let n_vocab = model.shape().n_vocab;
        assert_eq!(out.logits.len(), outputs.len() * n_vocab);
        assert_eq!(out.hidden.len(), outputs.len() * model.shape().n_embd);
        for i in [0, 1, 50, outputs.len() - 1] {
            let alone = Line::new(&[5, 6, 7, 8]).feed(&mut ex, &tokens[..outputs[i] as usize + 1]);
            let off = distance(&out.logits[i * n_vocab..][..n_vocab], &alone);
            assert!(off < 0.1, "{stem}: row {i}: {off}");
        }
    }
}

#[test]
fn a_copied_page_holds_the_same_keys_and_values() {
    let model = open("gemma3-s1-a-q8_0");
    let mut ex = executor(&model, &options(), &GgmlOptions::default());
    let mut line = Line::new(&[0, 1]);
    line.feed(&mut ex, &ids(50));
    // Another branch overwrites what stands behind the copied cells.
    Line::new(&[7, 8]).feed(&mut ex, &ids(64)[10..]);
    ex.copy_page(1, 8, 50 - PAGE_TOKENS).unwrap();
    let mut copy = Line { pages: vec![0, 8], len: 50 };
    let (a, b) = (line.feed(&mut ex, &[5]), copy.feed(&mut ex, &[5]));
    assert!(distance(&b, &a) < 1e-5, "{}", distance(&b, &a));
    assert!(ex.copy_page(0, 12, 1).is_err() && ex.copy_page(0, 1, 33).is_err());
}

#[test]
fn a_flag_set_while_a_prompt_runs_stops_it_between_two_operations() {
    let model = open("gemma3-s1-a-q8_0");
    let mut ex = executor(&model, &options(), &GgmlOptions::default());
    let asked = std::cell::Cell::new(0);
    // The graph has hundreds of operations: the flag is seen well before the last.
    let tokens = ids(100);
    let spans = [Span { first_row: 0, n_rows: 100, first_pos: 0, pages: &[0, 1, 2, 3], mix: &[] }];
    let step = Step { tokens: &tokens, spans: &spans, outputs: &[99], taps: &[] };
    let mut out = StepOut::default();
    let outcome = ex.forward_until(&step, &mut out, &|| {
        asked.set(asked.get() + 1);
        asked.get() == 20
    });
    assert_eq!(outcome.err().map(|e| e.kind()), Some(ErrorKind::Cancelled));
    assert_eq!(asked.get(), 20);
    let n_asked = {
        asked.set(0);
        ex.forward_until(&step, &mut out, &|| {
            asked.set(asked.get() + 1);
            false
        })
        .unwrap();
        asked.get()
    };
    assert!(n_asked > 100, "{n_asked}");
}

#[test]
fn steps_that_do_not_hold_together_are_refused() {
    let model = open("gpt2-s1-a-f16");
    let mut ex = executor(&model, &options(), &GgmlOptions::default());
    let pages = [0, 1, 2, 3];
    let span = |first_row, n_rows, first_pos| Span { first_row, n_rows, first_pos, pages: &pages, mix: &[] };
    let n_vocab = model.shape().n_vocab as TokenId;
    type Case<'a> = (&'a str, &'a [TokenId], &'a [Span<'a>], &'a [u32]);
    let cases: [Case<'_>; 8] = [
        ("no rows", &[], &[], &[]),
        ("too many rows", &[1; 129], &[span(0, 129, 0)], &[]),
        ("rows without span", &[1, 2], &[span(0, 1, 0)], &[]),
        ("spans that overlap", &[1, 2], &[span(0, 2, 0), span(1, 1, 5)], &[]),
        ("a token outside", &[n_vocab], &[span(0, 1, 0)], &[0]),
        ("an output outside", &[1], &[span(0, 1, 0)], &[1]),
        ("a position without page", &[1], &[span(0, 1, 4 * PAGE_TOKENS)], &[0]),
        (
            "a page outside",
            &[1],
            &[Span { first_row: 0, n_rows: 1, first_pos: 0, pages: &[12], mix: &[] }],
            &[0],
        ),
    ];
    let mut out = StepOut::default();
    for (what, tokens, spans, outputs) in cases {
        let step = Step { tokens, spans, outputs, taps: &[] };
        let result = ex.forward(&step, &CancelFlag::default(), &mut out);
        assert_eq!(result.expect_err(what).kind(), ErrorKind::InvalidArgument, "{what}");
    }
    assert!(Line::new(&pages).feed(&mut ex, &ids(5)).iter().all(|x| x.is_finite()));
}
