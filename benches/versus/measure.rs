//! What is measured, the same for every engine.

use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Context of every measurement, in tokens.
pub const N_CTX: usize = 2048;
/// Length of the prompt of the first-token measurement.
pub const FIRST_PROMPT: usize = 32;

/// One measurement in a process of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// `llama.cpp`, `native` or `ggml`.
    pub engine: String,
    pub model: String,
    pub threads: usize,
    pub n_prompt: usize,
    pub n_gen: usize,
    pub depths: Vec<usize>,
    /// Stop after the first token of a short prompt: the start-up measurement.
    pub first_only: bool,
}

/// What a process measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    pub prefill_tok_s: f64,
    /// One for each depth of the plan.
    pub decode_tok_s: Vec<f64>,
    pub rss_anon_mib: f64,
}

/// An engine with an empty context.
pub trait Engine {
    /// Forgets everything after the first `len` tokens.
    fn cut(&mut self, len: usize) -> Result<(), String>;
    /// Evaluates `tokens` and reads the last row's best token.
    fn feed(&mut self, tokens: &[u32]) -> Result<u32, String>;
    fn n_vocab(&self) -> usize;
}

/// Runs the plan.
pub fn run(engine: &mut dyn Engine, plan: &Plan) -> Result<Figures, String> {
    let n_vocab = engine.n_vocab();
    let tokens =
        |n: usize| -> Vec<u32> { (0..n).map(|i| ((100 + i * 7919) % (n_vocab - 200)) as u32).collect() };
    if plan.first_only {
        engine.feed(&tokens(FIRST_PROMPT))?;
        return Ok(Figures { rss_anon_mib: rss_anon_mib(), ..Figures::default() });
    }
    engine.feed(&tokens(plan.n_prompt))?; // warm-up: pages, caches, thread pool
    engine.cut(0)?;
    let started = Instant::now();
    engine.feed(&tokens(plan.n_prompt))?;
    let prefill_tok_s = plan.n_prompt as f64 / started.elapsed().as_secs_f64();
    let mut decode_tok_s = Vec::new();
    for &depth in &plan.depths {
        engine.cut(0)?;
        engine.feed(&tokens(depth.max(1)))?;
        engine.feed(&[7])?;
        let started = Instant::now();
        for i in 0..plan.n_gen {
            engine.feed(&[200 + i as u32])?;
        }
        decode_tok_s.push(plan.n_gen as f64 / started.elapsed().as_secs_f64());
    }
    Ok(Figures { prefill_tok_s, decode_tok_s, rss_anon_mib: rss_anon_mib() })
}

/// The id of the largest logit.
pub fn best(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, &x) in logits.iter().enumerate() {
        if x > logits[best] {
            best = i;
        }
    }
    best as u32
}

/// Private memory of this process in MiB; NaN where the system does not tell.
pub fn rss_anon_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("RssAnon:"));
    let kib = line.and_then(|l| l.split_whitespace().nth(1)?.parse::<f64>().ok());
    kib.map_or(f64::NAN, |k| k / 1024.0)
}
