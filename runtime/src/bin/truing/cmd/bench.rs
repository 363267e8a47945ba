//! `truing bench`: how fast this machine runs a model.

use crate::args::ModelArgs;
use crate::{output, progress};
use anyhow::Result;
use clap::Args;
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};
use truing::TokenId;
use truing::gguf::Tensor;
use truing::model::spec::{Ffn, Layer};
use truing::model::{Context, Model};
use truing::native::Limits;
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
    /// Time spent in each kind of operator, of all repetitions
    #[arg(long)]
    profile_ops: bool,
    /// Leave out measuring the machine's limits
    #[arg(long)]
    no_limits: bool,
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
            if rep == 1 && self.profile_ops {
                context.set_profiling(true);
            }
            let rate = self.measure(&mut context)?;
            if rep > 0 {
                rates.push(rate);
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        let rss_anon_mib = rss_anon_mib();
        let limits = (!self.no_limits).then(|| Limits::measure(context.n_threads()));
        let rates = Rates {
            prefill_tok_s: median(rates.iter().map(|r| r.prefill_tok_s)),
            decode_tok_s: median(rates.iter().map(|r| r.decode_tok_s)),
        };
        let shares = limits.map(|l| Shares::of(&model, &rates, l));
        self.print(&Measured { path: &path, context: &context, load_s, rss_anon_mib, rates, limits, shares })
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

    fn print(&self, m: &Measured<'_>) -> Result<()> {
        let (pp, tg) = (m.rates.prefill_tok_s, m.rates.decode_tok_s);
        let (name, threads) = (m.context.executor_name(), m.context.n_threads());
        let times = m.context.op_times();
        if self.json {
            let ms = |(name, time): &(&str, Duration)| ((*name).to_owned(), json!(time.as_secs_f64() * 1e3));
            return output::json(&json!({
                "model": m.path, "executor": name, "threads": threads,
                "n_prompt": self.n_prompt, "n_gen": self.n_gen, "depth": self.depth, "reps": self.reps,
                "pp_tok_s": pp, "tg_tok_s": tg, "load_s": m.load_s, "rss_anon_mib": m.rss_anon_mib,
                "kv_mib": m.context.memory_bytes().0 as f64 / f64::from(1 << 20),
                "int8_gop_s": m.limits.map(|l| l.int8_gop_s), "read_gb_s": m.limits.map(|l| l.read_gb_s),
                "pp_share_of_int8": m.shares.as_ref().map(|s| s.prefill),
                "tg_share_of_read": m.shares.as_ref().map(|s| s.decode),
                "op_ms": times.iter().map(ms).collect::<serde_json::Map<_, _>>(),
            }));
        }
        let of = |share: fn(&Shares) -> f64, what: &str| match &m.shares {
            Some(s) => format!("  {:>3.0} % of {what}", 100.0 * share(s)),
            None => String::new(),
        };
        let (n_prompt, n_gen, depth) = (self.n_prompt, self.n_gen, self.depth);
        output::line(&format!("{} on {name}, {threads} threads", m.path.display()))?;
        let share = of(|s| s.prefill, "the machine's 8-bit products");
        output::line(&format!("  prefill {n_prompt:>6} tokens  {pp:>9.1} tok/s{share}"))?;
        let share = of(|s| s.decode, "its memory's rate");
        output::line(&format!("  decode  {n_gen:>6} tokens  {tg:>9.1} tok/s{share}, at depth {depth}"))?;
        if let Some(l) = m.limits {
            let (ops, bytes) = (l.int8_gop_s, l.read_gb_s);
            output::line(&format!("  limits  {ops:.0} 10^9 8-bit operations/s, {bytes:.1} GB/s"))?;
        }
        output::line(&format!("  load    {:.3} s", m.load_s))?;
        if let Some(mib) = m.rss_anon_mib {
            let kv = m.context.memory_bytes().0 as f64 / f64::from(1 << 20);
            output::line(&format!(
                "  private memory {mib:.1} MiB; keys and values have room for {kv:.1} MiB"
            ))?;
        }
        let total: f64 = times.iter().map(|(_, t)| t.as_secs_f64()).sum();
        for (name, time) in &times {
            let (ms, share) = (time.as_secs_f64() * 1e3, 100.0 * time.as_secs_f64() / total.max(1e-9));
            output::line(&format!("  {name:<14} {ms:>10.1} ms {share:>5.1} %"))?;
        }
        Ok(())
    }
}

/// What is printed.
struct Measured<'a> {
    path: &'a Path,
    context: &'a Context,
    load_s: f64,
    rss_anon_mib: Option<f64>,
    rates: Rates,
    limits: Option<Limits>,
    shares: Option<Shares>,
}

/// Rates over what the machine's limits allow the products with the weights; 1 is the limit.
struct Shares {
    prefill: f64,
    decode: f64,
}

impl Shares {
    fn of(model: &Model, rates: &Rates, limits: Limits) -> Self {
        let (mut values, mut bytes) = (0.0, 0.0);
        let spec = model.spec();
        for t in model.file().tensors().filter(|t| t.dims.len() > 1) {
            let is = |other: &Tensor| *t.name == *other.name;
            if is(&spec.tok_embd) && !is(&spec.output) || spec.pos_embd.as_ref().is_some_and(is) {
                continue;
            }
            // Of the experts a token meets only some.
            let used = |l: &Layer| match &l.ffn {
                Ffn::Moe(m) if t.name.contains("_exps") => Some(m.n_used as f64 / m.n_expert.max(1) as f64),
                _ => None,
            };
            let part = spec.layers.iter().find_map(used).unwrap_or(1.0);
            bytes += t.data.len() as f64 * part;
            // The output head computes one row of a prompt.
            values += if is(&spec.output) { 0.0 } else { t.n_values() as f64 * part };
        }
        Self {
            prefill: rates.prefill_tok_s * 2.0 * values / (limits.int8_gop_s * 1e9),
            decode: rates.decode_tok_s * bytes / (limits.read_gb_s * 1e9),
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
