//! From texts to what a probe reads: templated prompts, and answers given or made by the model itself.

use super::lists::Text;
use crate::args::{ModelArgs, PromptArgs};
use crate::{interrupt, progress, prompt};
use anyhow::Result;
use std::sync::Arc;
use truing::TokenId;
use truing::guard::Position;
use truing::guard::train::Sample;
use truing::model::{Context, Model};
use truing::sampling::{NextLogits, SamplingParams};
use truing::session::{self, Aligned, Event, Limits, Request, Setting};
use truing::vocab::Specials;

/// Answers computed together.
const PARALLEL: usize = 16;

/// How samples are made.
pub struct Making<'a> {
    pub model: &'a Arc<Model>,
    pub args: &'a PromptArgs,
    pub position: Position,
    /// Tokens that the model answers with where no answer is given.
    pub respond: usize,
    /// First words of those answers, taken in turn.
    pub openers: Vec<String>,
}

/// A context with room for packs.
pub fn context(args: &ModelArgs, model: &Arc<Model>) -> Result<Context> {
    args.run.context(model, PARALLEL)
}

impl Making<'_> {
    /// Samples of `label` for `texts`.
    pub fn samples(&self, context: &mut Context, texts: &[Text], label: bool) -> Result<Vec<Sample>> {
        let vocab = self.model.vocab();
        let plain = |text: &str| -> Result<Vec<TokenId>> { Ok(vocab.tokenize(text, Specials::NONE)?.ids) };
        let mut samples = Vec::with_capacity(texts.len());
        for (i, text) in texts.iter().enumerate() {
            let prompt = prompt::tokens(self.model, self.args, &text.prompt)?;
            let response = match (&text.response, &text.prefix) {
                _ if self.position == Position::Prompt => Vec::new(),
                (Some(response), _) => plain(response)?,
                (None, Some(prefix)) => plain(prefix)?,
                (None, None) => match self.openers.get(i % (self.openers.len() + 1)) {
                    Some(opener) => plain(opener)?,
                    None => Vec::new(), // each turn has one answer that nothing was put before
                },
            };
            samples.push(Sample { prompt, response, label });
        }
        let made: Vec<usize> =
            (0..texts.len()).filter(|&i| self.respond > 0 && texts[i].response.is_none()).collect();
        if self.position != Position::Prompt && !made.is_empty() {
            self.respond_to(context, &mut samples, &made)?;
        }
        Ok(samples)
    }

    /// Lets the model go on with the answers of the samples at `made`, taking the likeliest token always.
    fn respond_to(&self, context: &mut Context, samples: &mut [Sample], made: &[usize]) -> Result<()> {
        let cancel = context.cancel_flag();
        interrupt::on_ctrl_c(cancel.clone())?;
        let setting = Setting {
            vocab: self.model.vocab(),
            n_ctx: context.n_ctx(),
            n_parallel: PARALLEL,
            cancel,
            model_id: String::new(),
        };
        let bar = progress::bar(made.len() as u64, "answers");
        for chunk in made.chunks(4 * PARALLEL) {
            let requests = chunk
                .iter()
                .map(|&i| {
                    Ok(Request {
                        branch: context.root()?,
                        tokens: [&samples[i].prompt[..], &samples[i].response].concat(),
                        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::plain(1) },
                        limits: Limits { max_tokens: Some(self.respond), ..Limits::default() },
                        keep_branch: false,
                        aligned: Aligned::default(),
                    })
                })
                .collect::<Result<Vec<_>>>()?;
            let mut sink = |_: usize, event: Event<'_>| {
                if matches!(event, Event::Done(_)) {
                    bar.inc(1);
                }
            };
            let done = session::run(context, &setting, requests, &mut sink)?;
            for (&i, (_, outcome)) in chunk.iter().zip(done) {
                samples[i].response.extend(outcome.ids);
                if samples[i].response.is_empty() {
                    // an answer that ends at once still has a last token to read
                    samples[i].response.extend(self.model.vocab().eog_ids().first());
                }
            }
        }
        bar.finish_and_clear();
        Ok(())
    }
}
