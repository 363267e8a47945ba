//! The executor against llama.cpp's answers on tiny models, and against itself.

use super::{GgmlExecutor, GgmlOptions};
use crate::model::{
    CancelFlag, Executor, ExecutorOptions, KvType, Model, ModelOptions, Span, Step, StepOut,
};
use crate::{ErrorKind, TokenId};
use std::path::{Path, PathBuf};

/// The tiny models of the repository, or with `TRUING_GOLDEN` the whole reference set.
fn folder() -> PathBuf {
    match std::env::var_os("TRUING_GOLDEN") {
        Some(golden) => Path::new(&golden).join("archs"),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/archs"),
    }
}

const N_CTX: usize = 128;

fn options() -> ExecutorOptions {
    ExecutorOptions { n_pages: 12, max_rows: 128, n_threads: 1, kv_type: KvType::F16 }
}

fn executor(model: &Model, ggml: &GgmlOptions) -> GgmlExecutor {
    GgmlExecutor::new(model.spec_for(N_CTX), &options(), ggml).unwrap()
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

    /// Feeds `ids`; logits of `outputs`.
    fn feed(&mut self, ex: &mut GgmlExecutor, ids: &[TokenId], outputs: &[u32], taps: &[u32]) -> StepOut {
        let spans = [Span { first_row: 0, n_rows: ids.len(), first_pos: self.len, pages: &self.pages }];
        let mut out = StepOut::default();
        ex.forward(&Step { tokens: ids, spans: &spans, outputs, taps }, &CancelFlag::default(), &mut out)
            .unwrap();
        self.len += ids.len();
        out
    }

    fn feed_last(&mut self, ex: &mut GgmlExecutor, ids: &[TokenId]) -> Vec<f32> {
        self.feed(ex, ids, &[ids.len() as u32 - 1], &[]).logits
    }
}

fn distance(a: &[f32], b: &[f32]) -> (f64, f64) {
    assert_eq!(a.len(), b.len());
    let diffs = || a.iter().zip(b).map(|(a, b)| (*a as f64 - *b as f64).abs());
    (diffs().fold(0.0, f64::max), (diffs().map(|d| d * d).sum::<f64>() / a.len() as f64).sqrt())
}

struct Golden {
    stem: String,
    /// Token ids and logits after the last one.
    sequences: Vec<(Vec<TokenId>, Vec<f32>)>,
    /// Largest over llama.cpp's own variations.
    noise_max: f64,
    noise_rms: f64,
}

fn goldens() -> Vec<Golden> {
    let mut found: Vec<Golden> =
        std::fs::read_dir(folder()).unwrap().filter_map(|e| golden(&e.unwrap().path())).collect();
    found.sort_by(|a, b| a.stem.cmp(&b.stem));
    found
}

fn golden(path: &Path) -> Option<Golden> {
    let stem = path.file_name()?.to_str()?.strip_prefix("golden_")?.strip_suffix(".json")?.to_owned();
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let numbers = |v: &serde_json::Value| -> Vec<f64> {
        v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    };
    let sequences = json.get("sequences")?.as_array()?.iter().map(|s| {
        (
            numbers(&s["ids"]).iter().map(|i| *i as TokenId).collect(),
            numbers(&s["fa_off"]).iter().map(|x| *x as f32).collect(),
        )
    });
    let most = |key: &str| {
        json["noise"].as_object().unwrap().values().filter_map(|n| n[key].as_f64()).fold(0.0, f64::max)
    };
    Some(Golden { stem, sequences: sequences.collect(), noise_max: most("max_abs"), noise_rms: most("rms") })
}

#[test]
fn every_architecture_agrees_with_the_reference() {
    let (mut n_run, mut failures) = (0, Vec::new());
    for golden in goldens() {
        let path = folder().join(format!("{}.gguf", golden.stem));
        let model = match Model::open(&path, &ModelOptions::default()) {
            Ok(model) => model,
            Err(e) if e.kind() == ErrorKind::Unsupported => {
                println!("{:32} not run: {e}", golden.stem);
                continue;
            }
            Err(e) => panic!("{}: {e}", golden.stem),
        };
        n_run += 1;
        for flash in [true, false] {
            let ggml = GgmlOptions { flash, ..GgmlOptions::default() };
            let mut ex = match GgmlExecutor::new(model.spec_for(N_CTX), &options(), &ggml) {
                Ok(ex) => ex,
                Err(e) => {
                    failures.push(format!("{}: {e}", golden.stem));
                    continue;
                }
            };
            for (ids, expected) in &golden.sequences {
                let got = Line::new(&[0, 1, 2, 3]).feed_last(&mut ex, ids);
                let (max, rms) = distance(&got, expected);
                println!(
                    "{:32} flash {flash:5} n {:2} rms/noise {:6.3} max/noise {:6.3}",
                    golden.stem,
                    ids.len(),
                    rms / golden.noise_rms,
                    max / golden.noise_max
                );
                if !(rms <= 2.0 * golden.noise_rms && max <= 3.0 * golden.noise_max) {
                    failures.push(format!(
                        "{} flash {flash} n {}: rms {rms:.2e} max {max:.2e}",
                        golden.stem,
                        ids.len()
                    ));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(n_run >= 20, "only {n_run} models were run");
}
