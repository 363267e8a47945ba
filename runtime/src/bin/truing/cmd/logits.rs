//! `truing logits`: the model's scores for the next token.

use super::tokenize::parse_ids;
use crate::args::{ModelArgs, PromptArgs};
use crate::exit::BadUsage;
use crate::output;
use crate::prompt;
use anyhow::Result;
use clap::Args;
use serde_json::json;
use truing::TokenId;
use truing::sampling::{BatchItem, NextLogits, Want};

/// Show the model's scores for the token after a prompt.
#[derive(Debug, Args)]
pub struct Logits {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Token ids to evaluate instead of a prompt, separated by commas or spaces
    #[arg(long, value_name = "IDS", conflicts_with_all = ["prompt", "file", "system"])]
    ids: Option<String>,
    /// How many of the highest logits to show
    #[arg(long, value_name = "K", default_value_t = 10)]
    top: usize,
    /// Print one JSON object: n, lse (log-sum-exp), sum, top
    #[arg(long)]
    json: bool,
}

impl Logits {
    pub fn run(self) -> Result<()> {
        let model = self.model.open()?;
        let tokens = match &self.ids {
            Some(ids) => parse_ids(ids).map_err(BadUsage)?,
            None => prompt::tokens(&model, &self.prompt, &self.prompt.text()?)?,
        };
        let mut context = self.model.run.context(&model, 1)?;
        let branch = context.root()?;
        context.eval(&[BatchItem { branch: &branch, tokens: &tokens, want: Want::Last }])?;
        let logits = context.row(0);
        let top = highest(logits, self.top);
        if self.json {
            let sum: f64 = logits.iter().map(|&x| f64::from(x)).sum();
            return output::json(&json!({
                "n": tokens.len(), "n_vocab": logits.len(), "lse": log_sum_exp(logits), "sum": sum, "top": top,
            }));
        }
        let lse = log_sum_exp(logits);
        output::line("     id      logit  probability  token")?;
        for (id, logit) in top {
            let piece = String::from_utf8_lossy(model.vocab().token_bytes(id)).into_owned();
            let p = (f64::from(logit) - lse).exp();
            output::line(&format!("{id:>7}  {logit:>9.4}  {p:>11.6}  {piece:?}"))?;
        }
        Ok(())
    }
}

/// The `k` largest logits, largest first, ties by lower id.
fn highest(logits: &[f32], k: usize) -> Vec<(TokenId, f32)> {
    let mut all: Vec<(TokenId, f32)> = (0..).zip(logits.iter().copied()).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(k);
    all
}

/// `ln Σ exp(logit)` in f64.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        return f64::NEG_INFINITY;
    }
    f64::from(max) + logits.iter().map(|&x| f64::from(x - max).exp()).sum::<f64>().ln()
}
