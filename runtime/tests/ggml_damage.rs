//! Models whose numbers are wrong: ggml aborts the process on a violated assertion, so each of these must be
//! refused or compute something, and never get that far.

#![cfg(feature = "ggml")]
#![allow(clippy::panic, reason = "a failed test")]

use std::path::PathBuf;
use truing::backend::{GgmlExecutor, GgmlOptions};
use truing::gguf::{GgufFile, Value};
use truing::model::{
    CancelFlag, Executor, ExecutorOptions, KvType, Model, ModelOptions, Span, Step, StepOut,
};

/// One of each kind of part: mixtures, fused and gated networks, soft-caps, windows, sinks, learned positions.
const STEMS: &[&str] = &[
    "llama-mixtral-s1-a-q4_0",
    "gemma2-s1-a-f16",
    "gpt-oss-s1-a-mxfp4",
    "gpt2-s1-a-f16",
    "phi4-longrope-long-s1-a-f16",
    "qwen2moe-s1-a-q8_0",
    "stablelm-12b-s1-a-q8_0",
    "apertus-s1-a-f16",
];

fn file(stem: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/archs/{stem}.gguf"));
    std::fs::read(path).expect("fixture")
}

/// Opens, computes a prompt and a token. What was reached: nothing, a spec, an executor, results.
fn run(bytes: &[u8]) -> usize {
    let Ok(file) = GgufFile::from_bytes("damaged", bytes) else { return 0 };
    let Ok(model) = Model::from_gguf(file, &ModelOptions::default()) else { return 0 };
    let options =
        ExecutorOptions { n_pages: 4, max_rows: 40, n_threads: 1, kv_type: KvType::F16, cpus: Vec::new() };
    let Ok(mut executor) = GgmlExecutor::new(model.spec_for(128), &options, &GgmlOptions::default()) else {
        return 1;
    };
    let tokens: Vec<u32> = (0..40).map(|i| i % model.shape().n_vocab.min(40) as u32).collect();
    let mut out = StepOut::default();
    let mut feed = |tokens: &[u32], first_pos| {
        let spans = [Span { first_row: 0, n_rows: tokens.len(), first_pos, pages: &[2, 0], mix: &[] }];
        let outputs = [tokens.len() as u32 - 1];
        let step = Step { tokens, spans: &spans, outputs: &outputs, taps: &[0] };
        executor.forward(&step, &CancelFlag::default(), &mut out)
    };
    let (prompt, token) = (feed(&tokens, 0), feed(&tokens[..1], 40));
    if prompt.is_ok() && token.is_ok() { 3 } else { 2 }
}

/// Where the number under each key of the metadata stands, and how many bytes it has.
fn numbers(bytes: &[u8]) -> Vec<(String, usize, usize)> {
    let file = GgufFile::from_bytes("fixture", bytes).expect("sound");
    let place =
        |key: &str| bytes.windows(key.len()).position(|w| w == key.as_bytes()).map(|at| at + key.len() + 4);
    let numbers = file.metadata().iter().filter_map(|(key, value)| {
        let size = match value {
            Value::U32(_) | Value::I32(_) | Value::F32(_) => 4,
            Value::U64(_) | Value::I64(_) | Value::F64(_) => 8,
            Value::Bool(_) => 1,
            _ => return None,
        };
        Some((key.to_owned(), place(key)?, size))
    });
    numbers.collect()
}

#[test]
fn wrong_hyperparameters_are_refused_or_computed() {
    let integers = [0, 1, 2, 3, 5, 8, 16, 33, 64, 100, 1 << 16, i32::MAX as u32, 1 << 31, u32::MAX];
    let floats = [0.0, -1.0, 1e-30, 0.5, 3e38, f32::INFINITY, f32::NAN].map(f32::to_bits);
    let mut reached = [0; 4];
    for stem in STEMS {
        let sound = file(stem);
        assert_eq!(run(&sound), 3, "{stem}");
        for (_, at, size) in numbers(&sound) {
            for value in integers.iter().chain(&floats) {
                let mut damaged = sound.clone();
                let value = u64::from(*value).to_le_bytes();
                damaged[at..at + size].copy_from_slice(&value[..size]);
                reached[run(&damaged)] += 1;
            }
        }
    }
    // All stages are reached, or the test would show little.
    assert!(reached[0] > 500 && reached[3] > 500, "{reached:?}");
    println!(
        "refused {}, no executor {}, failed {}, computed {}",
        reached[0], reached[1], reached[2], reached[3]
    );
}

#[test]
fn weights_that_are_not_numbers_are_computed() {
    for stem in STEMS {
        let sound = file(stem);
        let header = GgufFile::from_bytes(stem, &sound).expect("sound");
        let first = header.tensors().map(|t| t.data.offset()).min().expect("tensors");
        // 0xFF is NaN as f32, f16 and bf16; 0x7C is large or infinite.
        for (fill, every) in [(0xFF, 1), (0x7C, 1), (0xFF, 97), (0x7C, 13)] {
            let mut damaged = sound.clone();
            damaged[first..].iter_mut().step_by(every).for_each(|b| *b = fill);
            // Rope factors may be refused, nothing else.
            assert!([0, 3].contains(&run(&damaged)), "{stem}, {fill:x} every {every}");
        }
    }
}
