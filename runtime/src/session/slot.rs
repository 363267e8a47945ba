//! One request while it runs: what to feed next, the text so far, when to end.

mod guarded;

use super::aligned::{Endings, MAX_BACKTRACKS, Masks, OnMatch, Outlet};
use super::{Event, Exactness, Finish, Limits, Outcome, Report, Request, Setting, StopFilter, Timings};
use crate::align::{Judge, Match};
use crate::error::Result;
use crate::sampling::{BatchItem, Chain, DryBreakers, Extras, NextLogits, Sampled, SamplingParams, Want};
use crate::token::TokenId;
use crate::vocab::{Specials, Vocab};
use guarded::Guarded;
use std::sync::Arc;
use std::time::Instant;

pub(super) use guarded::Reading;

/// Text and ids are reserved for this many tokens at most, so that `max_tokens` cannot be used to ask for
/// all memory.
const RESERVED_TOKENS: usize = 4096;
/// Bytes of text a token has on average, rounded up.
const BYTES_PER_TOKEN: usize = 8;
/// Most forced tokens fed in one pass.
const MAX_FORCED: usize = 256;

/// What is known of a produced token.
#[derive(Clone, Copy)]
struct Mark {
    /// Raw bytes of the text before it.
    start: u64,
    /// Bytes the outlet had released after it; kept only under guards.
    released: usize,
    logprob: f64,
    log_z: f64,
}

/// A request while it runs.
pub(super) struct Slot<B> {
    /// Index among the requests.
    pub index: usize,
    pub branch: B,
    keep_branch: bool,
    /// What the next step feeds: the prompt first, then what was produced since.
    feed: Vec<TokenId>,
    /// Tokens at the end of `feed` that nobody drew and whose rows are wanted.
    n_forced: usize,
    /// Length the branch must be cut to before the next step.
    pub cut: Option<usize>,
    chain: Chain,
    masks: Masks,
    outlet: Outlet,
    limits: Limits,
    n_prompt: usize,
    n_cached: usize,
    last_of_prompt: TokenId,
    seed: u64,
    text: String,
    ids: Vec<TokenId>,
    marks: Vec<Mark>,
    /// Log-probability of the end token.
    end_logprob: f64,
    n_backtracks: u32,
    /// Produced tokens that the branch holds.
    n_fed: usize,
    n_total_forced: usize,
    judge: Option<Arc<Judge>>,
    n_evals: u64,
    sampling_s: f64,
    timings: Timings,
    /// What to end with once the forced tokens were evaluated.
    ending: Option<Finish>,
    finish: Option<Finish>,
    /// What watches the answer.
    guarded: Option<Box<Guarded<B>>>,
    /// Produced tokens that nothing may take back, and tokens that were fed between them and the next.
    floor: usize,
    n_inserted: usize,
}

impl<B> Slot<B> {
    pub fn new<L: NextLogits<Branch = B>>(
        index: usize,
        lm: &L,
        setting: &Setting<'_>,
        request: Request<B>,
    ) -> Result<Self> {
        let reserved = request.limits.max_tokens.unwrap_or(RESERVED_TOKENS).min(RESERVED_TOKENS);
        let n_cached = lm.len(&request.branch);
        let n_prompt = n_cached + request.tokens.len();
        let chain = chain(setting, &request, lm.n_vocab(), n_prompt + reserved)?;
        let forbidden = match request.limits.ignore_eos {
            true => setting.vocab.eog_ids().to_vec(),
            false => Vec::new(),
        };
        let budget = request.limits.max_tokens.unwrap_or(usize::MAX).min(setting.n_ctx - n_prompt);
        let aligned = request.aligned;
        let stop = StopFilter::new(&request.limits.stop);
        let stop = if request.limits.fenced { stop.in_fence() } else { stop };
        let outlet = Outlet::new(aligned.bans, stop, aligned.n_healed);
        let guarded = Guarded::new(aligned.watch, aligned.prefix, &outlet, reserved).map(Box::new);
        Ok(Self {
            index,
            branch: request.branch,
            keep_branch: request.keep_branch,
            n_prompt,
            n_cached,
            last_of_prompt: request.tokens.last().copied().unwrap_or_default(),
            feed: request.tokens,
            n_forced: 0,
            cut: None,
            chain,
            masks: Masks::new(
                aligned.constraint,
                aligned.pressure,
                lm.n_vocab(),
                forbidden,
                endings(setting.vocab),
                budget,
            ),
            outlet,
            limits: request.limits,
            seed: request.sampling.seed,
            text: String::with_capacity(reserved * BYTES_PER_TOKEN),
            ids: Vec::with_capacity(reserved),
            marks: Vec::with_capacity(reserved),
            end_logprob: 0.0,
            n_backtracks: 0,
            n_fed: 0,
            n_total_forced: 0,
            judge: aligned.judge,
            n_evals: 0,
            sampling_s: 0.0,
            timings: Timings::default(),
            ending: None,
            finish: None,
            guarded,
            floor: 0,
            n_inserted: 0,
        })
    }

    /// What the next forward pass evaluates for this request.
    pub fn item(&self) -> BatchItem<'_, B> {
        let want = if self.wants_all() { Want::All } else { Want::Last };
        BatchItem { branch: &self.branch, tokens: &self.feed, want }
    }

    /// Rows the next forward pass gives for this request.
    pub fn n_rows(&self) -> usize {
        if self.wants_all() { self.feed.len() } else { 1 }
    }

    fn wants_all(&self) -> bool {
        self.n_forced > 0 || self.guarded.as_ref().is_some_and(|g| g.is_reading_prefix())
    }

    pub fn is_done(&self) -> bool {
        self.finish.is_some()
    }

    /// Ends the request, unless it has ended.
    pub fn finish(&mut self, why: Finish) {
        self.finish.get_or_insert(why);
    }

    /// Takes the logits after everything fed, `row(0)` to `row(n_rows - 1)`: samples, shows, decides whether
    /// to end.
    pub fn take_step<'r>(
        &mut self,
        row: impl Fn(usize) -> &'r [f32],
        reading: Reading<'_, 'r>,
        (forward_s, n_evals): (f64, u64),
        setting: &Setting<'_>,
        sink: &mut dyn FnMut(usize, Event<'_>),
    ) -> Result<()> {
        let started = Instant::now();
        self.n_evals += n_evals.min(self.feed.len() as u64);
        let first = self.ids.is_empty();
        *(if first { &mut self.timings.prefill_s } else { &mut self.timings.decode_s }) += forward_s;
        self.step(row, reading, setting)?;
        let spent = started.elapsed().as_secs_f64();
        self.sampling_s += spent;
        self.timings.decode_s += spent;
        self.show(sink);
        Ok(())
    }

    fn step<'r>(
        &mut self,
        row: impl Fn(usize) -> &'r [f32],
        reading: Reading<'_, 'r>,
        setting: &Setting<'_>,
    ) -> Result<()> {
        if self.limits.max_tokens == Some(0) {
            self.finish(Finish::Length);
            return Ok(());
        }
        self.n_fed = self.ids.len();
        let n_rows = self.n_rows();
        self.judge_forced(&row)?;
        if self.guarded.is_some() && !self.consult(&row, reading, setting)? {
            return Ok(());
        }
        if let Some(why) = self.ending.take() {
            self.finish(why);
            return Ok(());
        }
        if self.ids.is_empty() && self.n_backtracks == 0 {
            self.masks.prepare(0)?;
        }
        let logits = row(n_rows - 1);
        self.feed.clear();
        self.n_forced = 0;
        let Some(sampled) = self.choose(logits, setting)? else { return self.leave_dead_end() };
        let mark = Mark {
            start: self.outlet.n_seen(),
            released: 0,
            logprob: sampled.logprob.unwrap_or(0.0),
            log_z: sampled.log_z.unwrap_or(0.0),
        };
        self.take_token(sampled.token, mark, setting)?;
        self.force(setting)
    }

    /// Enters what the rows say about the tokens nobody drew.
    fn judge_forced<'r>(&mut self, row: &impl Fn(usize) -> &'r [f32]) -> Result<()> {
        let from = self.ids.len() - self.n_forced;
        let before = self.n_rows() - 1 - self.n_forced;
        for i in 0..self.n_forced {
            let logprob = self.chain.logprob(row(before + i), self.ids[from + i])?;
            let mark = &mut self.marks[from + i];
            (mark.logprob, mark.log_z) = (logprob, logprob);
        }
        Ok(())
    }

    /// Draws the next token; none if nothing may come next.
    fn choose(&mut self, logits: &[f32], setting: &Setting<'_>) -> Result<Option<Sampled>> {
        if self.masks.is_pressed() {
            let is_closed = self.ids.last().is_some_and(|&t| ends_sentence(setting.vocab.token_bytes(t)));
            self.chain.set_step_bias(self.masks.press(self.ids.len(), logits, is_closed));
        }
        let mut refused = 0;
        loop {
            if self.masks.is_dead_end() && !self.masks.lift(self.ids.len())? {
                return Ok(None);
            }
            // a place asked again must not give the same number again
            self.chain.set_attempt(self.n_backtracks << 20 | refused);
            let sampled = self.chain.sample(logits, self.masks.allowed(), self.ids.len() as u64)?;
            if self.masks.take(sampled.token)? {
                self.chain.accept(sampled.token)?;
                return Ok(Some(sampled));
            }
            refused += 1;
        }
    }

    fn take_token(&mut self, token: TokenId, mark: Mark, setting: &Setting<'_>) -> Result<()> {
        if setting.vocab.is_eog(token) && !self.limits.ignore_eos {
            self.end_logprob = mark.logprob;
            return self.end(Finish::Eos, setting);
        }
        self.ids.push(token);
        self.marks.push(mark);
        self.feed.push(token);
        let bytes = bytes_of(setting.vocab, token, self.limits.show_special);
        let found = self.outlet.push(bytes);
        if !self.watch_token(token, bytes, setting)? {
            return Ok(());
        }
        if let Some(found) = found {
            return self.matched(found);
        }
        if self.outlet.stop().hit().is_some() {
            self.finish(Finish::Stop);
        } else if Some(self.ids.len()) == self.limits.max_tokens {
            return self.end(Finish::Length, setting);
        } else if self.n_prompt + self.n_inserted + self.ids.len() >= setting.n_ctx {
            return self.end(Finish::ContextFull, setting);
        }
        Ok(())
    }

    /// The text is over: what was held is let out, unless an excluded phrase turns out to be complete.
    fn end(&mut self, why: Finish, setting: &Setting<'_>) -> Result<()> {
        if let Some(found) = self.outlet.finish() {
            return match why {
                // the end was taken by the constraint as a token, too
                Finish::Eos => self.matched_at_end(found),
                _ => self.matched(found),
            };
        }
        if self.watch_end(why, setting)? {
            self.finish(why);
        }
        Ok(())
    }

    /// Takes the next tokens as long as there is no choice.
    fn force(&mut self, setting: &Setting<'_>) -> Result<()> {
        while self.finish.is_none() && self.cut.is_none() {
            let forced = self.masks.prepare(self.ids.len())?.filter(|&t| !setting.vocab.is_eog(t));
            let Some(token) = forced.filter(|_| self.n_forced < MAX_FORCED) else { return Ok(()) };
            if !self.masks.take(token)? {
                return Ok(()); // a dead end, found at the next step
            }
            self.chain.accept(token)?;
            let mark = Mark { start: self.outlet.n_seen(), released: 0, logprob: 0.0, log_z: 0.0 };
            self.n_forced += 1;
            self.n_total_forced += 1;
            self.take_token(token, mark, setting)?;
        }
        if (self.n_forced > 0 || self.awaits_state()) && self.cut.is_none() {
            // the rows of the forced tokens are still wanted, the guards' of the last
            self.ending = self.finish.take();
        }
        Ok(())
    }

    fn matched(&mut self, found: Match) -> Result<()> {
        if self.outlet.on_match() == Some(OnMatch::Stop) {
            self.finish(Finish::Excluded);
            return Ok(());
        }
        let begin = self.marks.partition_point(|m| m.start <= found.start).saturating_sub(1);
        if !self.is_final(begin) && !self.masks.has_avoided(begin) {
            return self.go_back(begin, true);
        }
        // another way from there was tried, or cannot be: then without the token that completes the phrase
        self.go_back(self.ids.len().saturating_sub(1), false)
    }

    /// Whether token `n` has been shown.
    fn is_final(&self, n: usize) -> bool {
        n < self.floor.max(self.n_shown())
            || self.marks.get(n).is_none_or(|m| m.start < self.outlet.n_final())
    }

    /// As `matched`, when it was the end of the text that completed the phrase.
    fn matched_at_end(&mut self, found: Match) -> Result<()> {
        if let Some(constraint) = &mut self.masks.constraint {
            constraint.rollback(1)?;
        }
        self.chain.rollback(1)?;
        self.end_logprob = 0.0;
        self.matched(found)
    }

    /// Takes the text back to before token `n`, and refuses that token there.
    fn go_back(&mut self, n: usize, is_begin: bool) -> Result<()> {
        self.n_backtracks += 1;
        if self.n_backtracks > MAX_BACKTRACKS || self.is_final(n) {
            self.finish(Finish::Excluded);
            return Ok(());
        }
        let len = self.ids.len();
        self.masks.cut(n, len, self.ids[n], is_begin)?;
        self.chain.rollback(len - n)?;
        self.outlet.rewind(self.marks[n].start)?;
        self.rewind_watch(n)?;
        self.ids.truncate(n);
        self.marks.truncate(n);
        self.feed_again(n);
        self.masks.prepare(n)?;
        Ok(())
    }

    /// Feeds the last of `n` tokens again, since its row is gone, and those that were never fed.
    fn feed_again(&mut self, n: usize) {
        self.feed.clear();
        let base = self.n_prompt + self.n_inserted;
        let Some(last) = n.checked_sub(1).filter(|_| n > self.floor) else {
            self.feed.push(self.last_of_prompt);
            (self.n_forced, self.cut) = (0, Some(base + n - 1));
            return;
        };
        let keep = last.min(self.n_fed);
        self.feed.extend_from_slice(&self.ids[keep..]);
        self.n_forced = self.feed.len() - 1;
        self.cut = Some(base + keep);
    }

    /// Nothing may come next: goes back one token, if that has not been shown.
    fn leave_dead_end(&mut self) -> Result<()> {
        let last = self.ids.len().wrapping_sub(1);
        if self.n_backtracks >= MAX_BACKTRACKS || self.is_final(last) {
            self.finish(Finish::DeadEnd);
            return Ok(());
        }
        self.go_back(last, false)
    }

    /// Passes released text on.
    pub fn show(&mut self, sink: &mut dyn FnMut(usize, Event<'_>)) {
        if self.guarded.is_some() {
            return self.show_cleared(sink);
        }
        if matches!(self.finish, Some(Finish::Cancelled | Finish::Deadline)) {
            self.outlet.finish();
        }
        if !self.outlet.released.is_empty() {
            sink(self.index, Event::Text(&self.outlet.released));
            self.text.push_str(&self.outlet.released);
            self.outlet.released.clear();
        }
    }

    /// The branch, if it is to be kept, and what became of the request.
    pub fn into_outcome(mut self, setting: &Setting<'_>) -> (Option<B>, Outcome) {
        let total = self.timings.prefill_s + self.timings.decode_s;
        self.timings.alignment_share = if total > 0.0 { self.sampling_s / total } else { 0.0 };
        let is_masked = self.masks.constraint.is_some() || self.n_backtracks > 0;
        let report = Report {
            finish: self.finish.unwrap_or(Finish::Cancelled),
            stop: self.outlet.stop().hit().map(str::to_owned),
            n_prompt: self.n_prompt,
            n_cached: self.n_cached,
            n_generated: self.ids.len(),
            n_forced: self.n_total_forced,
            n_backtracks: self.n_backtracks,
            n_evals: self.n_evals,
            logprob: self.marks.iter().map(|m| m.logprob).sum::<f64>() + self.end_logprob,
            removed_nats: is_masked.then(|| -self.marks.iter().map(|m| m.log_z).sum::<f64>()),
            exactness: if is_masked { Exactness::Biased } else { Exactness::Unconstrained },
            exact: None,
            constraints: self.judge.as_ref().and_then(|judge| judge.verdict(&self.text).ok()),
            guard: self.guarded.map(|g| g.into_report(total)),
            search: None,
            nudge: None,
            seed: self.seed,
            model: setting.model_id.clone(),
            timings: self.timings,
        };
        (self.keep_branch.then_some(self.branch), Outcome { text: self.text, ids: self.ids, report })
    }
}

/// The bytes that a token adds to the text.
fn bytes_of(vocab: &Vocab, token: TokenId, show_special: bool) -> &[u8] {
    if show_special { vocab.token_piece(token) } else { vocab.token_bytes(token) }
}

fn endings(vocab: &Vocab) -> Endings {
    let full_stop = vocab.tokenize(".", Specials::NONE).ok();
    Endings { text: vocab.eog_ids().to_vec(), sentence: full_stop.and_then(|t| t.ids.first().copied()) }
}

/// Whether a sentence ends with `bytes`: a full stop or its like, quotes and brackets closed behind it.
fn ends_sentence(bytes: &[u8]) -> bool {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let text = text.trim_end_matches(|c: char| c.is_whitespace() || "\"'”’)]»".contains(c));
    text.ends_with(['.', '!', '?', '…', '。', '！', '？'])
}

/// A chain that has seen the prompt, as penalties want it where the prompt is not constant, and needs no more memory for `n_tokens`.
fn chain<B>(setting: &Setting<'_>, request: &Request<B>, n_vocab: usize, n_tokens: usize) -> Result<Chain> {
    let mut chain = Chain::new(&request.sampling, n_vocab)?;
    if request.sampling.dry.multiplier > 0.0 {
        chain.set_dry_breakers(dry_breakers(setting.vocab, &request.sampling)?);
    }
    let log_z = request.aligned.constraint.is_some() || request.aligned.bans.is_some();
    chain.set_extras(Extras { logprob: true, log_z });
    chain.reserve(n_tokens);
    // the exemplars of a fenced answer are constant: punishing their words would punish every word of the language
    let prompt = if request.limits.fenced { &[][..] } else { &request.tokens };
    prompt.iter().chain(&request.aligned.prefix).try_for_each(|&t| chain.accept(t))?;
    Ok(chain)
}

fn dry_breakers(vocab: &Vocab, sampling: &SamplingParams) -> Result<DryBreakers> {
    let bytes = (0..vocab.len() as TokenId).map(|id| vocab.token_bytes(id));
    DryBreakers::new(&sampling.dry.breakers, bytes, |rest| {
        Ok(vocab.tokenize(&String::from_utf8_lossy(rest), Specials::NONE)?.ids)
    })
}
