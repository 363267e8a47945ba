//! One request while it runs: what to feed next, the text so far, when to end.

use super::{Event, Exactness, Finish, Limits, Outcome, Report, Request, Setting, StopFilter, Timings};
use crate::error::Result;
use crate::sampling::{BatchItem, Chain, DryBreakers, Extras, NextLogits, SamplingParams, Want};
use crate::token::{TokenId, TokenSet};
use crate::vocab::{Specials, Utf8Stream, Vocab};
use std::time::Instant;

/// Text and ids are reserved for this many tokens at most, so that `max_tokens` cannot be used to ask for
/// all memory.
const RESERVED_TOKENS: usize = 4096;
/// Bytes of text a token has on average, rounded up.
const BYTES_PER_TOKEN: usize = 8;

/// A request while it runs.
pub(super) struct Slot<B> {
    /// Index among the requests.
    pub index: usize,
    branch: B,
    keep_branch: bool,
    /// What the next step feeds: the prompt first, then the last sampled token.
    feed: Vec<TokenId>,
    chain: Chain,
    /// Tokens that may be sampled; `None`: all.
    allowed: Option<TokenSet>,
    limits: Limits,
    n_prompt: usize,
    n_cached: usize,
    seed: u64,
    utf8: Utf8Stream,
    stop: StopFilter,
    released: String,
    text: String,
    ids: Vec<TokenId>,
    logprob: f64,
    n_evals: u64,
    sampling_s: f64,
    timings: Timings,
    finish: Option<Finish>,
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
        let chain = chain(setting, &request, lm.n_vocab(), n_cached + request.tokens.len() + reserved)?;
        Ok(Self {
            index,
            branch: request.branch,
            keep_branch: request.keep_branch,
            n_prompt: n_cached + request.tokens.len(),
            n_cached,
            feed: request.tokens,
            chain,
            allowed: request.limits.ignore_eos.then(|| without_end_tokens(setting, lm.n_vocab())),
            stop: StopFilter::new(&request.limits.stop),
            limits: request.limits,
            seed: request.sampling.seed,
            utf8: Utf8Stream::default(),
            released: String::with_capacity(256),
            text: String::with_capacity(reserved * BYTES_PER_TOKEN),
            ids: Vec::with_capacity(reserved),
            logprob: 0.0,
            n_evals: 0,
            sampling_s: 0.0,
            timings: Timings::default(),
            finish: None,
        })
    }

    /// What the next forward pass evaluates for this request.
    pub fn item(&self) -> BatchItem<'_, B> {
        BatchItem { branch: &self.branch, tokens: &self.feed, want: Want::Last }
    }

    pub fn is_done(&self) -> bool {
        self.finish.is_some()
    }

    /// Ends the request, unless it has ended.
    pub fn finish(&mut self, why: Finish) {
        self.finish.get_or_insert(why);
    }

    /// Takes the logits after everything fed: samples, shows, decides whether to end.
    pub fn take_step(
        &mut self,
        logits: &[f32],
        forward_s: f64,
        n_evals: u64,
        setting: &Setting<'_>,
        sink: &mut dyn FnMut(usize, Event<'_>),
    ) -> Result<()> {
        let started = Instant::now();
        self.n_evals += n_evals.min(self.feed.len() as u64);
        let first = self.ids.is_empty() && self.feed.len() + self.n_cached == self.n_prompt;
        *(if first { &mut self.timings.prefill_s } else { &mut self.timings.decode_s }) += forward_s;
        if self.limits.max_tokens == Some(0) {
            self.finish(Finish::Length);
            return Ok(());
        }
        let sampled = self.chain.sample(logits, self.allowed.as_ref(), self.ids.len() as u64)?;
        self.chain.accept(sampled.token)?;
        self.logprob += sampled.logprob.unwrap_or(0.0);
        self.take_token(sampled.token, setting);
        let spent = started.elapsed().as_secs_f64();
        self.sampling_s += spent;
        self.timings.decode_s += spent;
        self.show(sink);
        Ok(())
    }

    fn take_token(&mut self, token: TokenId, setting: &Setting<'_>) {
        if setting.vocab.is_eog(token) && !self.limits.ignore_eos {
            self.finish(Finish::Eos);
            return;
        }
        self.ids.push(token);
        self.feed.clear();
        self.feed.push(token);
        self.read_token(token, setting);
        if self.stop.hit().is_some() {
            self.finish(Finish::Stop);
        } else if Some(self.ids.len()) == self.limits.max_tokens {
            self.finish(Finish::Length);
        } else if self.n_prompt + self.ids.len() >= setting.n_ctx {
            self.finish(Finish::ContextFull);
        }
    }

    /// Turns the token into text and releases what no stop string can claim any more.
    fn read_token(&mut self, token: TokenId, setting: &Setting<'_>) {
        let bytes = match self.limits.show_special {
            true => setting.vocab.token_piece(token),
            false => setting.vocab.token_bytes(token),
        };
        let Self { utf8, stop, released, .. } = self;
        utf8.push(bytes, |text| stop.push(text, released));
    }

    /// Passes released text on; at the end also what was held back.
    pub fn show(&mut self, sink: &mut dyn FnMut(usize, Event<'_>)) {
        if self.is_done() && self.stop.hit().is_none() {
            let Self { utf8, stop, released, .. } = self;
            utf8.flush(|text| stop.push(text, released));
            stop.finish(released);
        }
        if !self.released.is_empty() {
            sink(self.index, Event::Text(&self.released));
            self.text.push_str(&self.released);
            self.released.clear();
        }
    }

    /// The branch, if it is to be kept, and what became of the request.
    pub fn into_outcome(mut self, setting: &Setting<'_>) -> (Option<B>, Outcome) {
        let total = self.timings.prefill_s + self.timings.decode_s;
        self.timings.alignment_share = if total > 0.0 { self.sampling_s / total } else { 0.0 };
        let report = Report {
            finish: self.finish.unwrap_or(Finish::Cancelled),
            stop: self.stop.hit().map(str::to_owned),
            n_prompt: self.n_prompt,
            n_cached: self.n_cached,
            n_generated: self.ids.len(),
            n_evals: self.n_evals,
            logprob: self.logprob,
            exactness: Exactness::Unconstrained,
            seed: self.seed,
            model: setting.model_id.clone(),
            timings: self.timings,
        };
        (self.keep_branch.then_some(self.branch), Outcome { text: self.text, ids: self.ids, report })
    }
}

/// A chain that has seen the prompt, as penalties want it, and needs no more memory for `n_tokens`.
fn chain<B>(setting: &Setting<'_>, request: &Request<B>, n_vocab: usize, n_tokens: usize) -> Result<Chain> {
    let mut chain = Chain::new(&request.sampling, n_vocab)?;
    if request.sampling.dry.multiplier > 0.0 {
        chain.set_dry_breakers(dry_breakers(setting.vocab, &request.sampling)?);
    }
    chain.set_extras(Extras { logprob: true, log_z: false });
    chain.reserve(n_tokens);
    request.tokens.iter().try_for_each(|&t| chain.accept(t))?;
    Ok(chain)
}

fn dry_breakers(vocab: &Vocab, sampling: &SamplingParams) -> Result<DryBreakers> {
    let bytes = (0..vocab.len() as TokenId).map(|id| vocab.token_bytes(id));
    DryBreakers::new(&sampling.dry.breakers, bytes, |rest| {
        Ok(vocab.tokenize(&String::from_utf8_lossy(rest), Specials::NONE)?.ids)
    })
}

fn without_end_tokens(setting: &Setting<'_>, n_vocab: usize) -> TokenSet {
    let mut set = TokenSet::all(n_vocab);
    setting.vocab.eog_ids().iter().for_each(|&id| set.remove(id));
    set
}
