//! `truing bench`: how fast this machine runs a model.

use crate::args::ModelArgs;
use crate::{output, progress};
use anyhow::Result;
use clap::Args;
use serde_json::json;
use std::time::Instant;
use truing::TokenId;
use truing::model::Context;
use truing::sampling::{BatchItem, NextLogits, Want};

/// Measure prefill and decode rate, load time and memory.
#[derive(Debug, Args)]
pub struct Bench {
    #[command(flatten)]
    model: ModelArgs,
    /// Prompt tokens
    #[arg(short = 'p', long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    n_prompt: u32,
    /// Generated tokens
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    n_gen: u32,
    /// Tokens in the context before each measurement
    #[arg(short = 'd', long, value_name = "N", default_value_t = 0)]
    depth: u32,
    /// Repetitions after one that does not count; medians are reported
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    reps: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// One repetition.
struct Rates {
    prefill_tok_s: f64,
    decode_tok_s: f64,
}

impl Bench {
    pub fn run(self) -> Result<()> {
        let path = self.model.path()?;
        let started = Instant::now();
        let model = crate::args::open_model(&path)?;
        let mut run = self.model.run.clone();
        let need = self.depth + self.n_prompt + self.n_gen;
        run.ctx_size = Some(run.ctx_size.unwrap_or(need).max(need));
        let mut context = run.context(&model, 1)?;
        let load_s = started.elapsed().as_secs_f64();
        let bar = progress::bar(u64::from(self.reps) + 1, "measuring");
        let mut rates = Vec::new();
        for rep in 0..=self.reps {
            let rate = self.measure(&mut context)?;
            if rep > 0 {
                rates.push(rate);
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        self.print(&path, &context, load_s, &rates)
    }

    fn measure(&self, context: &mut Context) -> Result<Rates> {
        let n_vocab = context.n_vocab() as u32;
        let token = |i: u32| (100 + i.wrapping_mul(7919)) % n_vocab;
        let branch = context.root()?;
        let before: Vec<TokenId> = (0..self.depth).map(token).collect();
        if !before.is_empty() {
            context.eval(&[BatchItem { branch: &branch, tokens: &before, want: Want::Nothing }])?;
        }
        let prompt: Vec<TokenId> = (0..self.n_prompt).map(token).collect();
        let started = Instant::now();
        context.eval(&[BatchItem { branch: &branch, tokens: &prompt, want: Want::Last }])?;
        let prefill_tok_s = f64::from(self.n_prompt) / started.elapsed().as_secs_f64();
        context.truncate(&branch, self.depth as usize)?;
        if self.depth == 0 {
            context.eval(&[BatchItem { branch: &branch, tokens: &[token(0)], want: Want::Last }])?;
        }
        let started = Instant::now();
        for i in 0..self.n_gen {
            let next = [token(i + 1)];
            context.eval(&[BatchItem { branch: &branch, tokens: &next, want: Want::Last }])?;
        }
        let decode_tok_s = f64::from(self.n_gen) / started.elapsed().as_secs_f64();
        Ok(Rates { prefill_tok_s, decode_tok_s })
    }

    fn print(&self, path: &std::path::Path, context: &Context, load_s: f64, rates: &[Rates]) -> Result<()> {
        let pp = median(rates.iter().map(|r| r.prefill_tok_s));
        let tg = median(rates.iter().map(|r| r.decode_tok_s));
        let rss = rss_anon_mib();
        if self.json {
            return output::json(&json!({
                "model": path, "executor": context.executor_name(), "threads": context.n_threads(),
                "n_prompt": self.n_prompt, "n_gen": self.n_gen, "depth": self.depth, "reps": self.reps,
                "pp_tok_s": pp, "tg_tok_s": tg, "load_s": load_s, "rss_anon_mib": rss,
            }));
        }
        let threads = context.n_threads();
        output::line(&format!("{} on {}, {threads} threads", path.display(), context.executor_name()))?;
        output::line(&format!("  prefill {:>6} tokens  {pp:>9.1} tok/s", self.n_prompt))?;
        output::line(&format!(
            "  decode  {:>6} tokens  {tg:>9.1} tok/s  at depth {}",
            self.n_gen, self.depth
        ))?;
        output::line(&format!("  load    {load_s:.3} s"))?;
        match rss {
            Some(mib) => output::line(&format!("  private memory {mib:.1} MiB")),
            None => Ok(()),
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Private memory of this process in MiB, where the system tells (Linux).
fn rss_anon_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("RssAnon:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}
