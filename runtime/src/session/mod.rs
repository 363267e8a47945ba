//! The decode loop: requests in, text and reports out, many at once.
//!
//! Every request owns a branch. One forward pass per step evaluates all running requests together, so eight
//! answers cost far less than eight runs; a request's text does not depend on who shares its batch, because
//! randomness is counted per request and position. Cost beyond the model's own: one pass over the vocabulary
//! per token. Loses when requests have very long prompts: a prompt is evaluated whole and delays the others
//! by that one step.

mod aligned;
mod beam;
mod conditioned;
mod fence;
#[cfg(test)]
mod guarded_tests;
mod law;
mod nudged;
mod plan;
mod report;
mod searched;
mod slot;
mod stop;

pub use aligned::{Aligned, Bans, OnMatch};
pub use beam::{BeamParams, MAX_BEAMS, beam};
pub use conditioned::{ExactOptions, ExactReport, Source, distortion, draw};
pub use fence::{ANSWER_MARKER, FenceStop, QUERY_MARKER};
pub use law::{Likelihood, law, sampling_bound, total_variation};
pub use nudged::{NudgePair, nudged};
pub use plan::{AlignPlan, heal, lexicon};
pub use report::{Exactness, Finish, Report, Timings};
pub use searched::{SearchPlan, searched};
pub use stop::StopFilter;

use crate::error::{Error, ErrorKind, Result};
use crate::guard::Watch;
use crate::model::CancelFlag;
use crate::sampling::{BatchItem, NextLogits, SamplingParams, Want};
use crate::token::TokenId;
use crate::vocab::Vocab;
use slot::{Reading, Slot};
use std::time::Instant;

/// Most requests in one batch: beyond this a CPU is busy with arithmetic and gains nothing. Also the bound of
/// the batch that is built on the stack at each step.
pub const MAX_PARALLEL: usize = 64;

/// When to end, and what to show.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Most tokens to produce; `None`: until the context is full.
    pub max_tokens: Option<usize>,
    /// Texts that end the generation; they are not part of the answer.
    pub stop: Vec<String>,
    /// The answer stands in a fence that the prompt has opened, and ends where it is closed.
    pub fenced: bool,
    /// Forbid the end token.
    pub ignore_eos: bool,
    /// Show control tokens as their text.
    pub show_special: bool,
}

/// One generation to run: what its branch holds already, what to feed, how to sample, when to end.
#[derive(Debug)]
pub struct Request<B> {
    /// A branch whose past is the start of the prompt (possibly empty).
    pub branch: B,
    /// The rest of the prompt, at least one token.
    pub tokens: Vec<TokenId>,
    /// Sampling settings; the seed among them.
    pub sampling: SamplingParams,
    /// When to end.
    pub limits: Limits,
    /// Hand the branch back at the end, as a conversation needs it. Otherwise its pages are free for the next
    /// request as soon as this one ends: a batch needs room for the requests that run together, not for all.
    pub keep_branch: bool,
    /// What the text must satisfy.
    pub aligned: Aligned,
}

/// What a caller sees while requests run.
#[derive(Debug)]
pub enum Event<'a> {
    /// Released text: final, valid UTF-8, never taken back.
    Text(&'a str),
    /// The generation ended; nothing follows for this request.
    Done(&'a Outcome),
}

/// A finished generation.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The text.
    pub text: String,
    /// The produced tokens, without the end token.
    pub ids: Vec<TokenId>,
    /// What happened.
    pub report: Report,
}

/// What the loop needs to know about its surroundings.
#[derive(Debug)]
pub struct Setting<'a> {
    /// The vocabulary of the model.
    pub vocab: &'a Vocab,
    /// Longest branch, in tokens.
    pub n_ctx: usize,
    /// Most requests in one batch, at least 1.
    pub n_parallel: usize,
    /// Stops all requests when set.
    pub cancel: CancelFlag,
    /// Identity of the model file, for reports.
    pub model_id: String,
}

/// Runs `requests` to their ends, at most `n_parallel` at a time, in order. `sink` gets the request's index
/// and its events; setting `cancel` in it ends the run before the next token. Returns for each request its
/// branch, if it asked to keep it (holding prompt and answer, all but the last sampled token), and its outcome.
/// # Errors
/// `ContextFull` before anything is evaluated when a prompt does not fit; the executor's errors.
/// Cancelling is no error: what was produced is returned with [`Finish::Cancelled`].
pub fn run<L: NextLogits>(
    lm: &mut L,
    setting: &Setting<'_>,
    requests: Vec<Request<L::Branch>>,
    sink: &mut dyn FnMut(usize, Event<'_>),
) -> Result<Vec<(Option<L::Branch>, Outcome)>> {
    let mut taps: Vec<u32> =
        requests.iter().filter_map(|r| r.aligned.watch.as_ref()).flat_map(Watch::layers).collect();
    taps.sort_unstable();
    taps.dedup();
    if taps.is_empty() {
        return run_all(lm, setting, requests, &taps, sink);
    }
    lm.set_taps(&taps)?;
    let done = run_all(lm, setting, requests, &taps, sink);
    lm.set_taps(&[])?;
    done
}

/// As [`run`]; the model keeps the states of layers `taps`.
fn run_all<L: NextLogits>(
    lm: &mut L,
    setting: &Setting<'_>,
    requests: Vec<Request<L::Branch>>,
    taps: &[u32],
    sink: &mut dyn FnMut(usize, Event<'_>),
) -> Result<Vec<(Option<L::Branch>, Outcome)>> {
    let n = requests.len();
    let mut waiting = Vec::with_capacity(n);
    for (i, request) in requests.into_iter().enumerate() {
        check_fits(lm, setting, &request)
            .map_err(|e| if n > 1 { e.at(format!("prompt {}", i + 1)) } else { e })?;
        waiting.push(Slot::new(i, lm, setting, request)?);
    }
    waiting.reverse(); // taken from the end
    let mut running: Vec<Slot<L::Branch>> = Vec::new();
    let mut finished: Vec<Option<(Option<L::Branch>, Outcome)>> = (0..n).map(|_| None).collect();
    while !(waiting.is_empty() && running.is_empty()) {
        while running.len() < setting.n_parallel.clamp(1, MAX_PARALLEL) {
            let Some(slot) = waiting.pop() else { break };
            running.push(slot);
        }
        step(lm, setting, &mut running, taps, sink)?;
        let mut i = 0;
        while i < running.len() {
            if running[i].is_done() {
                let mut slot = running.remove(i);
                slot.show(sink);
                slot.cut_kept(lm)?;
                let index = slot.index;
                let done = slot.into_outcome(setting);
                sink(index, Event::Done(&done.1));
                finished[index] = Some(done);
            } else {
                i += 1;
            }
        }
    }
    Ok(finished.into_iter().flatten().collect())
}

/// One forward pass over all running requests, then one token for each.
fn step<L: NextLogits>(
    lm: &mut L,
    setting: &Setting<'_>,
    running: &mut [Slot<L::Branch>],
    taps: &[u32],
    sink: &mut dyn FnMut(usize, Event<'_>),
) -> Result<()> {
    if setting.cancel.is_cancelled() {
        running.iter_mut().for_each(|s| s.finish(stopped(&setting.cancel)));
    }
    let started = Instant::now();
    for slot in running.iter_mut().filter(|s| !s.is_done()) {
        if let Some(len) = slot.cut.take() {
            lm.truncate(&slot.branch, len)?;
        }
        slot.open_side(lm)?;
    }
    let evals_before = lm.n_evals();
    let items = items(running);
    if items.is_empty() {
        return Ok(());
    }
    // a lone request may be refused before all layers of its prompt are computed
    let early = match items.len() {
        1 => running.iter().find(|s| !s.is_done()).and_then(Slot::early_layer),
        _ => None,
    };
    let evaluated = match early {
        None => lm.eval(&items).map(|()| true),
        Some(layer) => lm.eval_until(&items, layer, &mut |peek| {
            let state = |layer: u32| taps.binary_search(&layer).ok().and_then(|tap| peek(tap, 0));
            !running.iter().any(|s| !s.is_done() && s.refuses_early(&state))
        }),
    };
    drop(items);
    match evaluated {
        Ok(true) => {}
        Ok(false) => {
            let spent = (early.unwrap_or_default(), started.elapsed().as_secs_f64());
            return refuse_early(lm, setting, running, taps, spent, sink);
        }
        Err(e) if e.kind() == ErrorKind::Cancelled => {
            running.iter_mut().for_each(|s| s.finish(stopped(&setting.cancel)));
            return Ok(());
        }
        Err(e) => return Err(e),
    }
    let share = running.iter().filter(|s| !s.is_done()).count().max(1) as f64;
    let forward_s = started.elapsed().as_secs_f64() / share;
    let evals = lm.n_evals() - evals_before;
    let mut first = 0;
    let mut side: usize = running.iter().filter(|s| !s.is_done()).map(Slot::n_rows).sum();
    let lm = &*lm;
    let state = |row: usize, layer: u32| taps.binary_search(&layer).ok().and_then(|tap| lm.hidden(tap, row));
    for slot in running.iter_mut().filter(|s| !s.is_done()) {
        let n_rows = slot.n_rows();
        let of_row = |i: usize, layer: u32| state(first + i, layer);
        let of_side = |layer: u32| state(side, layer);
        let has_side = slot.side().is_some();
        let reading = Reading { state: &of_row, header: has_side.then_some(&of_side) };
        slot.take_step(|i| lm.row(first + i), reading, (forward_s, evals), setting, sink)?;
        first += n_rows;
        side += usize::from(has_side);
    }
    Ok(())
}

/// Ends the request whose prompt was refused by the states of its lower layers.
fn refuse_early<L: NextLogits>(
    lm: &L,
    setting: &Setting<'_>,
    running: &mut [Slot<L::Branch>],
    taps: &[u32],
    spent: (u32, f64),
    sink: &mut dyn FnMut(usize, Event<'_>),
) -> Result<()> {
    let state = |row: usize, layer: u32| taps.binary_search(&layer).ok().and_then(|tap| lm.hidden(tap, row));
    for slot in running.iter_mut().filter(|s| !s.is_done()) {
        slot.take_refusal(Reading { state: &state, header: None }, spent, setting, sink)?;
    }
    Ok(())
}

/// What a set flag means.
fn stopped(cancel: &CancelFlag) -> Finish {
    if cancel.is_late() { Finish::Deadline } else { Finish::Cancelled }
}

/// What the next forward pass evaluates: the requests' own branches, then the guards' side branches.
fn items<B>(running: &[Slot<B>]) -> heapless::Vec<BatchItem<'_, B>, { 2 * MAX_PARALLEL }> {
    let sides = running.iter().filter(|s| !s.is_done()).filter_map(Slot::side);
    let sides = sides.map(|(branch, tokens)| BatchItem { branch, tokens, want: Want::Last });
    running.iter().filter(|s| !s.is_done()).map(Slot::item).chain(sides).collect()
}

fn check_fits<L: NextLogits>(lm: &L, setting: &Setting<'_>, request: &Request<L::Branch>) -> Result<()> {
    let have = lm.len(&request.branch) + request.tokens.len() + request.aligned.prefix.len();
    if request.tokens.is_empty() {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            "the prompt is empty: expected at least one token",
        ));
    }
    if have >= setting.n_ctx {
        return Err(Error::new(
            ErrorKind::ContextFull,
            format!(
                "the prompt has {have} tokens, expected fewer than the context's {}; \
                 shorten it or raise --ctx-size",
                setting.n_ctx
            ),
        ));
    }
    Ok(())
}
