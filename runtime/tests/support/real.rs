//! Golden data of the two real models, and measures of distance from exact arithmetic.

use serde_json::Value as Json;
use std::path::PathBuf;
use truing::model::{Branch, Context};
use truing::sampling::{BatchItem, NextLogits, Want};

/// Rows asked for at a time: 262 144 logits of 4 bytes each are a megabyte a row.
const CHUNK: usize = 64;

/// A prompt and what the model answers when all weights are single-precision.
pub struct Prompt {
    pub id: String,
    pub ids: Vec<u32>,
    /// ln Σ exp(logit) at the last position.
    pub lse: f64,
    /// The largest logits of the last position.
    pub top: Vec<(usize, f64)>,
    /// Logits spread over the vocabulary.
    pub probe: Vec<(usize, f64)>,
    /// `ln p(ids[i+1] | ids[..=i])`; empty for short prompts.
    pub logprobs: Vec<f64>,
}

/// A greedy path.
pub struct Path {
    pub prompt_ids: Vec<u32>,
    pub ids: Vec<u32>,
    /// Best minus second logit, as quantised.
    pub gap: Vec<f64>,
    /// The path's token minus the best other one, in exact arithmetic.
    pub exact_margin: Vec<f64>,
}

/// The folder of golden files: thinned copies here, or `TRUING_GOLDEN`.
pub fn read(name: &str) -> String {
    let folder = match std::env::var_os("TRUING_GOLDEN") {
        Some(golden) => PathBuf::from(golden),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden"),
    };
    std::fs::read_to_string(folder.join(name)).expect("golden file")
}

pub fn json(text: &str) -> Json {
    serde_json::from_str(text).expect("json")
}

pub fn numbers(json: &Json) -> Vec<f64> {
    json.as_array().into_iter().flatten().map(|x| x.as_f64().expect("number")).collect()
}

pub fn ids(json: &Json) -> Vec<u32> {
    numbers(json).into_iter().map(|x| x as u32).collect()
}

pub fn prompts(model: &str) -> Vec<Prompt> {
    let pairs = |json: &Json| {
        let pair = |p: &Json| (p[0].as_u64().expect("id") as usize, p[1].as_f64().expect("logit"));
        json.as_array().expect("pairs").iter().map(pair).collect()
    };
    let prompt = |p: &Json| {
        let exact = &p["exact_f32"];
        Prompt {
            id: p["id"].as_str().expect("id").into(),
            ids: ids(&p["ids"]),
            lse: exact["lse"].as_f64().expect("lse"),
            top: pairs(&exact["top"]),
            probe: pairs(&exact["probe"]),
            logprobs: numbers(&exact["logprobs"]),
        }
    };
    json(&read(&format!("logits_{model}.json")))["prompts"]
        .as_array()
        .expect("prompts")
        .iter()
        .map(prompt)
        .collect()
}

pub fn paths(model: &str) -> Vec<Path> {
    let path = |line: &str| {
        let p = json(line);
        Path {
            prompt_ids: ids(&p["prompt_ids"]),
            ids: ids(&p["ids"]),
            gap: numbers(&p["gap"]),
            exact_margin: numbers(&p["exact_margin"]),
        }
    };
    read(&format!("greedy_{model}.jsonl")).lines().map(path).collect()
}

/// ln Σ exp of a row.
pub fn lse(row: &[f32]) -> f64 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(max) + row.iter().map(|x| f64::from((x - max).exp())).sum::<f64>().ln()
}

pub fn argmax(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

pub fn rms(x: &[f64]) -> f64 {
    (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64).sqrt()
}

pub fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

/// Appends `ids` and gives every row to `see`, with its index.
pub fn all_rows(ctx: &mut Context, branch: &Branch, ids: &[u32], mut see: impl FnMut(usize, &[f32])) {
    for (c, tokens) in ids.chunks(CHUNK).enumerate() {
        ctx.eval(&[BatchItem { branch, tokens, want: Want::All }]).expect("eval");
        (0..tokens.len()).for_each(|i| see(c * CHUNK + i, ctx.row(i)));
    }
}

/// `ln p(ids[i+1] | ids[..=i])` for every token but the first, and the last row.
pub fn score(ctx: &mut Context, ids: &[u32]) -> (Vec<f64>, Vec<f32>) {
    let branch = ctx.root().expect("root");
    let mut logprobs = Vec::new();
    let mut last = Vec::new();
    all_rows(ctx, &branch, ids, |i, row| match ids.get(i + 1) {
        Some(next) => logprobs.push(f64::from(row[*next as usize]) - lse(row)),
        None => last = row.to_vec(),
    });
    (logprobs, last)
}

/// KL(exact ‖ found) over the exact model's best tokens, all others counted as one: at most the true one.
pub fn kl(prompt: &Prompt, found: &[f32]) -> f64 {
    let z = lse(found);
    let pairs =
        prompt.top.iter().map(|(i, exact)| ((exact - prompt.lse).exp(), (f64::from(found[*i]) - z).exp()));
    let (p, q): (Vec<f64>, Vec<f64>) = pairs.unzip();
    let rest = (1.0 - p.iter().sum::<f64>(), 1.0 - q.iter().sum::<f64>());
    let term = |(p, q): (f64, f64)| if p > 0.0 { p * (p / q.max(1e-30)).ln() } else { 0.0 };
    p.into_iter().zip(q).map(term).sum::<f64>() + term(rest)
}

/// Differences from the exact logits spread over the vocabulary.
pub fn spread(prompt: &Prompt, found: &[f32]) -> f64 {
    let off: Vec<f64> = prompt.probe.iter().map(|(i, exact)| f64::from(found[*i]) - exact).collect();
    rms(&off)
}
