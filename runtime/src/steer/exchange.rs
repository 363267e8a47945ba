//! The two models of a nudged answer, round by round.

use super::encoding::{Encoding, Tokenizer};
use super::nudge::{BaseEnd, By, NudgeFinish, NudgeParams, NudgeReport, Nudged, OnNone, Span};
use super::repeats::{contains, n_settled, whole_characters, without_repeated_end};
use super::voice::{Speaker, Top, Voice};
use crate::error::{ErrorKind, Result};
use crate::sampling::NextLogits;
use crate::token::TokenId;

/// The same nudge so often running ends the answer.
const MAX_SAME: usize = 3;
/// A chunk of more words than this that was said before ends the base's run.
const REPEATED_WORDS: usize = 5;
/// Above this share of nudged tokens, a pair tends to do worse than expected.
const HIGH_RATE: f64 = 0.2;
/// So many bytes without a blank make words useless as a unit.
const NO_BLANK_BYTES: usize = 64;

pub(super) struct Exchange<'p, B: NextLogits, N: NextLogits, T: Tokenizer, U: Tokenizer> {
    base: Voice<B, T>,
    nudger: Voice<N, U>,
    params: &'p NudgeParams,
    /// The text in the base's tokens, and in the nudger's.
    said: Encoding,
    heard: Encoding,
    spans: Vec<Span>,
    n_base_tokens: usize,
    last_nudge: String,
    n_same: usize,
    has_long_words: bool,
    /// Bytes that were handed on.
    shown: usize,
    /// Rows that were evaluated before.
    before: (u64, u64),
}

/// A place where the base may take over.
pub(super) struct Boundary<'d> {
    /// Bytes of the proposal up to there.
    pub end: usize,
    /// The proposal's next word.
    pub word: &'d str,
}

/// The ends of the proposal's words but the last.
pub(super) fn boundaries(proposal: &str) -> Vec<Boundary<'_>> {
    let n_blanks = proposal.len() - proposal.trim_start_matches(' ').len();
    let mut places = Vec::new();
    let mut at = n_blanks;
    for word in proposal[n_blanks..].split(' ') {
        // blanks in a row leave empty words between them: these are no places to take over
        if at > n_blanks && !word.is_empty() {
            places.push(Boundary { end: at - 1, word: &proposal[at - 1..at + word.len()] });
        }
        at += word.len() + 1;
    }
    places
}

impl<'p, B: NextLogits, N: NextLogits, T: Tokenizer, U: Tokenizer> Exchange<'p, B, N, T, U> {
    pub fn new(base: Speaker<'_, B, T>, nudger: Speaker<'_, N, U>, params: &'p NudgeParams) -> Result<Self> {
        let before = (base.lm.n_evals(), nudger.lm.n_evals());
        Ok(Self {
            base: Voice::new(base).map_err(|e| e.at("base"))?,
            nudger: Voice::new(nudger).map_err(|e| e.at("nudger"))?,
            params,
            said: Encoding::default(),
            heard: Encoding::default(),
            spans: Vec::new(),
            n_base_tokens: 0,
            last_nudge: String::new(),
            n_same: 0,
            has_long_words: false,
            shown: 0,
            before,
        })
    }

    /// One proposal and what the base makes of it.
    pub fn round(&mut self) -> Result<Option<NudgeFinish>> {
        if self.is_full() {
            return Ok(Some(NudgeFinish::Length));
        }
        let (proposal, has_ended) = match self.propose() {
            // the constraint counts in tokens, and the nudger's differ: what it cannot go on with, the base can
            Err(e) if e.kind() == ErrorKind::Unsatisfiable => return self.go_on_from(""),
            proposed => proposed?,
        };
        let sayable = self.sayable(&proposal)?;
        if sayable.len() < proposal.len() {
            return self.go_on_from(sayable);
        }
        if has_ended {
            self.append(By::Nudger, &proposal)?;
            return Ok(Some(NudgeFinish::NudgerEos));
        }
        self.has_long_words |= proposal.len() >= NO_BLANK_BYTES && !proposal.contains(' ');
        let words = proposal.trim_start_matches(' ');
        if !words.contains(' ') {
            // no end of a word is known: all of it is taken unchecked
            return self.take(&proposal, None);
        }
        if self.params.drafts {
            let whole = self.said.with(&self.base.tokenizer, &proposal)?;
            self.base.draft.set(whole.ids());
        }
        for Boundary { end, word } in boundaries(&proposal) {
            let nudge = &proposal[..end];
            let said = self.said.with(&self.base.tokenizer, nudge)?;
            let top = self.base.top_after(said.ids())?;
            if self.hands_over(top, word) {
                return self.take(nudge, Some((&said, top)));
            }
        }
        // the last word is probably cut off
        let nudge = match (self.params.on_none, proposal.rfind(' ')) {
            (OnNone::DropLast, Some(at)) => &proposal[..at],
            _ => &proposal,
        };
        self.take(nudge, None)
    }

    fn is_full(&self) -> bool {
        let (n, m) = (self.said.ids().len(), self.heard.ids().len());
        n >= self.params.max_tokens
            || self.base.room(n) <= self.params.nudge_tokens * 2
            || self.nudger.room(m) <= self.params.nudge_tokens * 2
    }

    /// What the nudger says next, in whole characters, and whether it has ended.
    fn propose(&mut self) -> Result<(String, bool)> {
        let mut ids = self.heard.ids().to_vec();
        let (n, mut bytes, mut has_ended) = (ids.len(), Vec::new(), false);
        while ids.len() - n < self.params.nudge_tokens && !has_ended {
            let top = self.nudger.top_after(&ids)?;
            has_ended = self.nudger.is_end(top.token);
            if !has_ended {
                bytes.extend_from_slice(self.nudger.tokenizer.bytes(top.token));
                ids.push(top.token);
            }
        }
        if self.params.drafts {
            self.nudger.draft.set(&ids); // where the text leaves it, the next proposal may come back to it
        }
        Ok((whole_characters(bytes), has_ended))
    }

    /// As many words of `proposal` as the base's constraint lets stand.
    fn sayable<'d>(&mut self, proposal: &'d str) -> Result<&'d str> {
        let ends = boundaries(proposal).into_iter().rev().map(|b| b.end);
        for end in std::iter::once(proposal.len()).chain(ends) {
            let said = self.said.with(&self.base.tokenizer, &proposal[..end])?;
            if self.base.n_sayable(said.ids())? == said.ids().len() {
                return Ok(&proposal[..end]);
            }
        }
        Ok("")
    }

    /// The base goes on behind `nudge`, sure or not, and its end is one.
    fn go_on_from(&mut self, nudge: &str) -> Result<Option<NudgeFinish>> {
        let said = self.said.with(&self.base.tokenizer, nudge)?;
        let top = self.base.top_after(said.ids())?;
        let finish = self.take(nudge, Some((&said, top)))?;
        Ok(finish.or(self.base.is_end(top.token).then_some(NudgeFinish::BaseEos)))
    }

    /// Whether the base takes over where it would say `top` and the nudger's next word is `word`.
    fn hands_over(&self, top: Top, word: &str) -> bool {
        let text = self.base.tokenizer.bytes(top.token);
        let agrees = !self.base.is_end(top.token) && !text.is_empty() && word.as_bytes().starts_with(text);
        self.params.agree && agrees || top.p >= self.params.threshold
    }

    /// Appends a nudge, and what the base says behind it if it takes over there.
    fn take(&mut self, nudge: &str, over: Option<(&Encoding, Top)>) -> Result<Option<NudgeFinish>> {
        let is_same = nudge == self.last_nudge && !nudge.is_empty();
        self.n_same = if is_same { self.n_same + 1 } else { 0 };
        self.last_nudge = nudge.to_owned();
        if self.n_same >= MAX_SAME {
            return Ok(Some(NudgeFinish::Repeated));
        }
        self.append(By::Nudger, nudge)?;
        match over {
            None => Ok(None),
            Some((_, top)) if self.base.is_end(top.token) => Ok(self.ended_by_base()),
            Some((said, top)) => self.run_base(said.ids().to_vec(), top),
        }
    }

    fn ended_by_base(&self) -> Option<NudgeFinish> {
        (self.params.base_eos == BaseEnd::Stop).then_some(NudgeFinish::BaseEos)
    }

    /// The base goes on behind `ids` with `next` as long as it is sure.
    fn run_base(&mut self, mut ids: Vec<TokenId>, mut next: Top) -> Result<Option<NudgeFinish>> {
        let (mut run, mut chunk): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
        let (mut n, mut finish) = (0, None);
        loop {
            chunk.extend_from_slice(self.base.tokenizer.bytes(next.token));
            ids.push(next.token);
            n += 1;
            if ids.len() >= self.params.max_tokens || self.base.room(ids.len()) <= 1 {
                run.append(&mut chunk);
                break;
            }
            if n % self.params.base_tokens == 0 {
                if contains(&run, &chunk) {
                    n -= self.params.base_tokens;
                    chunk.clear();
                    break;
                }
                let is_old = self.was_said(&chunk);
                run.append(&mut chunk);
                if is_old {
                    break;
                }
            }
            next = self.base.top_after(&ids)?;
            if self.base.is_end(next.token) {
                finish = self.ended_by_base();
            }
            if self.base.is_end(next.token) || next.p < self.params.threshold {
                run.append(&mut chunk);
                break;
            }
        }
        self.n_base_tokens += n;
        self.append(By::Base, &whole_characters(run))?;
        Ok(finish)
    }

    /// Whether so many words were said before just so.
    fn was_said(&self, chunk: &[u8]) -> bool {
        let text = String::from_utf8_lossy(chunk);
        text.split_whitespace().count() > REPEATED_WORDS && self.said.text().contains(&*text)
    }

    fn append(&mut self, by: By, text: &str) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let start = self.said.text().len();
        self.said = self.said.with(&self.base.tokenizer, text)?;
        self.heard = self.heard.with(&self.nudger.tokenizer, text)?;
        self.spans.push(Span { by, start, end: start + text.len() });
        Ok(())
    }

    /// Hands on what will not change any more.
    pub fn show_settled(&mut self, sink: &mut dyn FnMut(By, &str) -> bool) -> bool {
        self.show(n_settled(self.said.text()), sink)
    }

    /// Hands on all that stays.
    pub fn show_rest(&mut self, sink: &mut dyn FnMut(By, &str) -> bool) {
        self.show(without_repeated_end(self.said.text()).len(), sink);
    }

    fn show(&mut self, to: usize, sink: &mut dyn FnMut(By, &str) -> bool) -> bool {
        let mut wants_more = true;
        for span in &self.spans {
            let (from, end) = (span.start.max(self.shown), span.end.min(to));
            if from < end {
                wants_more &= sink(span.by, &self.said.text()[from..end]);
                self.shown = end;
            }
        }
        wants_more
    }

    pub fn finish(mut self, finish: NudgeFinish, n_rounds: usize) -> Result<Nudged> {
        let n_tokens = self.said.ids().len();
        let text = without_repeated_end(self.said.text()).to_owned();
        self.spans.retain_mut(|s| {
            s.end = s.end.min(text.len());
            s.start < s.end
        });
        let nudge_rate = match n_tokens {
            0 => 0.0,
            n => (1.0 - self.n_base_tokens as f64 / n as f64).clamp(0.0, 1.0),
        };
        let is_capped = matches!(finish, NudgeFinish::Rounds | NudgeFinish::Length);
        let warnings = [
            ("high_intervention", nudge_rate > HIGH_RATE),
            ("nudger_never_ended", is_capped),
            ("no_blanks", self.has_long_words),
            ("threshold_out_of_range", !(self.params.threshold > 0.0 && self.params.threshold <= 1.0)),
        ];
        let warnings = warnings.into_iter().filter(|(_, is_so)| *is_so).map(|(w, _)| w).collect();
        let ids = match text.len() == self.said.text().len() {
            true => self.said.ids().to_vec(),
            false => Encoding::default().with(&self.base.tokenizer, &text)?.ids().to_vec(),
        };
        let base_evals = self.base.n_evals() - self.before.0;
        let logprob = self.base.score(&ids)?;
        let report = NudgeReport {
            finish,
            n_rounds,
            nudge_rate,
            spans: self.spans,
            base_evals,
            nudger_evals: self.nudger.n_evals() - self.before.1,
            scoring_evals: self.base.n_evals() - self.before.0 - base_evals,
            warnings,
        };
        Ok(Nudged { text, ids, logprob, report })
    }
}
