//! `truing score`: how likely the model finds a text.

use super::logits::log_sum_exp;
use crate::args::{self, ModelArgs, PromptArgs};
use crate::exit::BadUsage;
use crate::{output, progress, prompt};
use anyhow::Result;
use clap::Args;
use serde_json::json;
use std::sync::Arc;
use truing::TokenId;
use truing::model::{Context, Model};
use truing::sampling::{BatchItem, NextLogits, Want};
use truing::vocab::Specials;

/// Tokens whose logits are held at once: a row of 262 144 logits is a megabyte.
const ROWS_AT_ONCE: usize = 32;

/// Measure how likely the model finds a text: perplexity of a file, or of a completion after a prompt.
#[derive(Debug, Args)]
#[command(after_help = "\
With -f alone the text is cut into windows of --ctx tokens (the first is BOS where the model wants one), each
scored on its own, all but its first token. With --completion the completion's tokens are scored after the prompt.

Examples:
  truing score -f book.txt --ctx 512
  truing score -p \"What is 2+2?\" --completion \"4\" --eos --json")]
pub struct Score {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Window in tokens for a file
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..))]
    ctx: u32,
    /// Score this text after the prompt
    #[arg(long, value_name = "TEXT")]
    completion: Option<String>,
    /// Count the end token after the completion
    #[arg(long, requires = "completion")]
    eos: bool,
    /// Print one JSON object: n, nll (sum, nats), ppl, logprobs
    #[arg(long)]
    json: bool,
}

impl Score {
    pub fn run(self) -> Result<()> {
        let model = self.model.open()?;
        let logprobs = match &self.completion {
            Some(completion) => self.completion_logprobs(&model, completion)?,
            None => self.window_logprobs(&model)?,
        };
        let (n, nll) = (logprobs.len(), -logprobs.iter().sum::<f64>());
        let ppl = (nll / n.max(1) as f64).exp();
        match self.json {
            true => output::json(&json!({ "n": n, "nll": nll, "ppl": ppl, "logprobs": logprobs })),
            false => output::line(&format!("{n} tokens, {nll:.3} nats, perplexity {ppl:.4}")),
        }
    }

    fn completion_logprobs(&self, model: &Arc<Model>, completion: &str) -> Result<Vec<f64>> {
        let vocab = model.vocab();
        let mut tokens = prompt::tokens(model, &self.prompt, &self.prompt.text()?)?;
        let first = tokens.len();
        let options = Specials { add_bos_eos: false, parse_special: self.prompt.parse_special };
        tokens.extend(vocab.tokenize(completion, options)?.ids);
        if self.eos {
            let end = vocab.eot().or(vocab.eos());
            tokens.push(end.ok_or_else(|| BadUsage("--eos: this model has no end token".into()))?);
        }
        if first == 0 || tokens.len() == first {
            return Err(BadUsage("nothing to score: prompt or completion has no tokens".into()).into());
        }
        score(&mut self.context(model, tokens.len())?, &tokens, first)
    }

    fn window_logprobs(&self, model: &Arc<Model>) -> Result<Vec<f64>> {
        let text = match &self.prompt.file {
            Some(path) if path.as_os_str() != "-" => args::read_text(path)?,
            _ => self.prompt.text()?,
        };
        let vocab = model.vocab();
        let options = Specials { add_bos_eos: false, parse_special: self.prompt.parse_special };
        let tokens = vocab.tokenize(&text, options)?.ids;
        let bos = vocab.adds_bos().then(|| vocab.bos()).flatten();
        let n_text = self.ctx as usize - usize::from(bos.is_some());
        let mut context = self.context(model, self.ctx as usize)?;
        let bar = progress::bar(tokens.len() as u64, "scoring");
        let mut logprobs = Vec::with_capacity(tokens.len());
        for window in tokens.chunks(n_text) {
            let window: Vec<TokenId> = bos.into_iter().chain(window.iter().copied()).collect();
            if window.len() > 1 {
                logprobs.extend(score(&mut context, &window, 1)?);
            }
            bar.inc(window.len() as u64);
        }
        bar.finish_and_clear();
        Ok(logprobs)
    }

    /// A context that holds `n` tokens, unless a size was asked for.
    fn context(&self, model: &Arc<Model>, n: usize) -> Result<Context> {
        let mut run = self.model.run.clone();
        run.ctx_size = run.ctx_size.or(u32::try_from(n).ok());
        run.context(model, 1)
    }
}

/// Natural log-probabilities of `tokens[first..]`, each after all before it, on an empty branch.
fn score(context: &mut Context, tokens: &[TokenId], first: usize) -> Result<Vec<f64>> {
    let branch = context.root()?;
    if first > 1 {
        context.eval(&[BatchItem { branch: &branch, tokens: &tokens[..first - 1], want: Want::Nothing }])?;
    }
    let mut logprobs = Vec::with_capacity(tokens.len() - first);
    let inputs = &tokens[first - 1..tokens.len() - 1];
    let mut targets = tokens[first..].iter();
    for chunk in inputs.chunks(ROWS_AT_ONCE) {
        context.eval(&[BatchItem { branch: &branch, tokens: chunk, want: Want::All }])?;
        for (i, &target) in (0..chunk.len()).zip(&mut targets) {
            let row = context.row(i);
            logprobs.push(f64::from(row[target as usize]) - log_sum_exp(row));
        }
    }
    Ok(logprobs)
}
