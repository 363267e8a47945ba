//! A nudged answer as a request: who wrote what, and what it took.

use super::{Event, Exactness, Finish, Outcome, Report, StopFilter, Timings};
use crate::align::Judge;
use crate::error::{ErrorKind, Result};
use crate::sampling::NextLogits;
use crate::steer::{NudgeFinish, NudgeParams, Nudged, Speaker, Tokenizer, nudge};
use std::sync::Arc;
use std::time::Instant;

/// The two models of an answer.
pub struct NudgePair<'a, B: NextLogits, N: NextLogits, T: Tokenizer> {
    /// The one that writes.
    pub base: Speaker<'a, B, T>,
    /// The one that knows how to answer.
    pub nudger: Speaker<'a, N, T>,
    /// Identity of the base's file.
    pub model_id: String,
    /// Texts that end the answer; not part of it.
    pub stop: Vec<String>,
    /// Judges the text, for the report.
    pub judge: Option<Arc<Judge>>,
}

/// The answer of a nudged model. `sink` gets text as it is settled, nothing that may still become a stop string.
/// # Errors As [`nudge`].
pub fn nudged<B: NextLogits, N: NextLogits, T: Tokenizer>(
    pair: NudgePair<'_, B, N, T>,
    params: &NudgeParams,
    sink: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome> {
    let started = Instant::now();
    let n_cached = pair.base.lm.len(&pair.base.branch);
    let n_prompt = n_cached + pair.base.tokens.len();
    let mut stop = StopFilter::new(&pair.stop);
    let (mut text, mut released) = (String::new(), String::new());
    let found = nudge(pair.base, pair.nudger, params, &mut |_, part| {
        stop.push(part, &mut released);
        if !released.is_empty() {
            sink(Event::Text(&released));
            text.push_str(&released);
            released.clear();
        }
        stop.hit().is_none()
    });
    let Nudged { ids, logprob, report: nudge, .. } = match found {
        Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
        found => found?,
    };
    stop.finish(&mut released);
    sink(Event::Text(&released));
    text.push_str(&released);
    let finish = match nudge.finish {
        _ if stop.hit().is_some() => Finish::Stop,
        NudgeFinish::NudgerEos | NudgeFinish::BaseEos => Finish::Eos,
        NudgeFinish::Repeated | NudgeFinish::Rounds | NudgeFinish::Length => Finish::Length,
        NudgeFinish::Stopped => Finish::Cancelled,
    };
    let report = Report {
        finish,
        stop: stop.hit().map(str::to_owned),
        n_prompt,
        n_cached,
        n_generated: ids.len(),
        n_forced: 0,
        n_backtracks: 0,
        n_evals: nudge.base_evals + nudge.nudger_evals + nudge.scoring_evals,
        logprob: logprob.unwrap_or(f64::NAN),
        removed_nats: None,
        exactness: Exactness::Biased,
        exact: None,
        constraints: pair.judge.and_then(|judge| judge.verdict(&text).ok()),
        search: None,
        guard: None,
        nudge: Some(nudge),
        seed: 0,
        model: pair.model_id,
        timings: Timings { decode_s: started.elapsed().as_secs_f64(), ..Timings::default() },
    };
    let outcome = Outcome { text, ids, report };
    sink(Event::Done(&outcome));
    Ok(outcome)
}
