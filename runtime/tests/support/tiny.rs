//! The tiny golden models: random weights in every architecture, with llama.cpp's logits.

use serde_json::Value as Json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use truing::gguf::GgufFile;
use truing::model::{Branch, Context, Executor, Model, ModelOptions};
use truing::sampling::{BatchItem, NextLogits, Want};

/// One model and what llama.cpp answers.
pub struct Tiny {
    pub name: String,
    pub model: Arc<Model>,
    pub n_ctx: usize,
    pub sequences: Vec<Sequence>,
    /// Differences that llama.cpp shows to itself and to exact arithmetic, largest: absolute, and rms.
    pub noise_max: f64,
    pub noise_rms: f64,
}

pub struct Sequence {
    pub ids: Vec<u32>,
    /// All logits of the last position.
    pub logits: Vec<f64>,
}

/// The folder of tiny models: the fixtures here, or `$TRUING_GOLDEN/archs`, which has them all.
pub fn folder() -> PathBuf {
    match std::env::var_os("TRUING_GOLDEN") {
        Some(golden) => PathBuf::from(golden).join("archs"),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/archs"),
    }
}

/// Model files, in order of name.
pub fn files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder()).expect("folder of tiny models");
    let mut files: Vec<_> = entries.map(|e| e.expect("entry").path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "gguf"));
    files.sort();
    files
}

fn stem(path: &Path) -> String {
    path.file_stem().expect("stem").to_string_lossy().into_owned()
}

/// Opens a model and reads its golden file.
pub fn load(path: &Path) -> truing::Result<Tiny> {
    let model = Model::open(path, &ModelOptions::default())?;
    Ok(with_golden(model, path))
}

/// The same, with the file's bytes changed by `edit`.
pub fn load_edited(path: &Path, edit: impl FnOnce(&mut Vec<u8>)) -> truing::Result<Tiny> {
    let mut bytes = std::fs::read(path).expect("file");
    edit(&mut bytes);
    let file = GgufFile::from_bytes(&path.display().to_string(), &bytes)?;
    Ok(with_golden(Model::from_gguf(file, &ModelOptions::default())?, path))
}

fn with_golden(model: Arc<Model>, path: &Path) -> Tiny {
    let name = stem(path);
    let text = std::fs::read_to_string(path.with_file_name(format!("golden_{name}.json"))).expect("golden");
    let golden: Json = serde_json::from_str(&text).expect("json");
    let noise = golden["noise"].as_object().expect("noise");
    let largest = |key: &str| noise.values().filter_map(|n| n[key].as_f64()).fold(0.0, f64::max);
    let floats = |json: &Json| json.as_array().expect("floats").iter().filter_map(Json::as_f64).collect();
    let sequence = |s: &Json| Sequence {
        ids: s["ids"].as_array().expect("ids").iter().map(|i| i.as_u64().expect("id") as u32).collect(),
        logits: floats(&s["fa_off"]),
    };
    Tiny {
        name,
        model,
        n_ctx: golden["n_ctx"].as_u64().expect("n_ctx") as usize,
        sequences: golden["sequences"].as_array().expect("sequences").iter().map(sequence).collect(),
        noise_max: largest("max_abs"),
        noise_rms: largest("rms"),
    }
}

/// How far two rows of logits are apart.
#[derive(Clone, Copy, Debug, Default)]
pub struct Distance {
    pub max: f64,
    pub rms: f64,
}

pub fn distance(found: &[f32], expected: &[f64]) -> Distance {
    assert_eq!(found.len(), expected.len());
    let off = || found.iter().zip(expected).map(|(f, e)| (f64::from(*f) - e).abs());
    assert!(off().all(|d| !d.is_nan()));
    let square: f64 = off().map(|d| d * d).sum();
    Distance { max: off().fold(0.0, f64::max), rms: (square / expected.len() as f64).sqrt() }
}

/// A context over the executor for one model.
pub fn context(tiny: &Tiny, executor: Box<dyn Executor>) -> Context {
    Context::with_executor(executor, tiny.model.shape(), tiny.n_ctx).expect("context")
}

/// Appends `ids` to the branch and returns the logits after the last.
pub fn append(ctx: &mut Context, branch: &Branch, ids: &[u32]) -> Vec<f32> {
    ctx.eval(&[BatchItem { branch, tokens: ids, want: Want::Last }]).expect("eval");
    ctx.row(0).to_vec()
}

/// Evaluates `ids` on a new branch and returns it with the logits after the last.
pub fn run(ctx: &mut Context, ids: &[u32]) -> (Branch, Vec<f32>) {
    let branch = ctx.root().expect("root");
    let row = append(ctx, &branch, ids);
    (branch, row)
}
