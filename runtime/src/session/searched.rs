//! A search as a request: its text, and what it took.

use super::{Event, Exactness, Finish, Outcome, Report, Setting, Source, Timings};
use crate::align::{Constraint, Judge};
use crate::error::{Error, ErrorKind, Result};
use crate::reward::Reward;
use crate::sampling::NextLogits;
use crate::search::{self, End, Found, Help, SearchJob, SearchParams};
use std::sync::Arc;
use std::time::Instant;

/// What a request is searched for.
pub struct SearchPlan<'a, 'h> {
    /// What texts are scored by.
    pub reward: &'a mut dyn Reward,
    /// How they are looked for.
    pub params: &'a SearchParams,
    /// The prompt as rewards see it.
    pub prompt: &'a str,
    /// What every text must keep to.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Judges the text found, for the report.
    pub judge: Option<Arc<Judge>>,
    /// Other models that help.
    pub help: Help<'h>,
}

/// The text that a search finds behind `source`. `sink` gets it whole.
/// # Errors `ContextFull` before anything is evaluated when the prompt does not fit; as [`search::search`].
pub fn searched<L: NextLogits>(
    lm: &mut L,
    setting: &Setting<'_>,
    source: Source<L::Branch>,
    plan: SearchPlan<'_, '_>,
    sink: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome> {
    let started = Instant::now();
    let n_cached = lm.len(&source.branch);
    let n_prompt = n_cached + source.tokens.len();
    if n_prompt >= setting.n_ctx || source.tokens.is_empty() {
        let message = format!("expected a prompt of 1 to {} tokens, found {n_prompt}", setting.n_ctx - 1);
        return Err(Error::new(ErrorKind::ContextFull, message));
    }
    let max_tokens = source.max_tokens.min(plan.params.max_tokens).min(setting.n_ctx - n_prompt);
    let params = SearchParams { max_tokens, ..plan.params.clone() };
    let is_masked = plan.constraint.is_some();
    let job = SearchJob {
        branch: source.branch,
        tokens: &source.tokens,
        prompt: plan.prompt,
        constraint: plan.constraint,
    };
    let Found { ids, text, end, logprob, removed_nats, report: search, .. } =
        search::search(lm, setting.vocab, job, plan.reward, &params, plan.help)?;
    let report = Report {
        finish: match end {
            End::Eos => Finish::Eos,
            End::Stop => Finish::Stop,
            End::Length => Finish::Length,
        },
        stop: None,
        n_prompt,
        n_cached,
        n_generated: ids.len(),
        n_forced: 0,
        n_backtracks: 0,
        n_evals: search.n_evals,
        logprob,
        removed_nats: is_masked.then_some(removed_nats),
        exactness: Exactness::Biased,
        exact: None,
        constraints: plan.judge.and_then(|judge| judge.verdict(&text).ok()),
        guard: None,
        search: Some(search),
        nudge: None,
        seed: params.sampling.seed,
        model: setting.model_id.clone(),
        timings: Timings { decode_s: started.elapsed().as_secs_f64(), ..Timings::default() },
    };
    let outcome = Outcome { text, ids, report };
    sink(Event::Text(&outcome.text));
    sink(Event::Done(&outcome));
    Ok(outcome)
}
