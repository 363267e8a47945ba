//! Nudging: a base model writes, and a smaller aligned model supplies words wherever the base is unsure.
//!
//! Round by round: the nudger proposes some words; the base reads them word by word, and takes over behind the first
//! one where it agrees with the next or is sure of its own; it goes on while it is sure. The exchange is text: each
//! model follows it in its own tokens, and evaluates again only what the other has added. Most nudges are a word or
//! two, so reading a word at a time costs less than reading the proposal at once. A proposal that the base went along
//! with is not proposed anew, only its end.
//! Source: Fei, Razeghi, Singh 2025, arXiv 2410.09300, and the behaviour of its public implementation.

use super::encoding::{Encoding, Tokenizer};
use super::voice::{Speaker, Top, Voice};
use crate::error::Result;
use crate::sampling::NextLogits;
use crate::token::TokenId;
use serde::{Deserialize, Serialize};

/// What happens to a proposal that the base accepts nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnNone {
    /// All but its last word is taken, which is probably cut off.
    #[default]
    DropLast,
    /// All of it is taken.
    AcceptAll,
}

/// What the base's end means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BaseEnd {
    /// Nothing: base models end where they please. The nudger is asked again.
    #[default]
    Nudge,
    /// The answer is over.
    Stop,
}

/// Settings of nudging.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NudgeParams {
    /// The base is unsure below this probability of its likeliest token.
    pub threshold: f64,
    /// Tokens of a nudger's proposal.
    pub nudge_tokens: usize,
    /// Tokens of the base between two looks at repetitions.
    pub base_tokens: usize,
    /// Longest answer, in tokens of the base.
    pub max_tokens: usize,
    /// Most proposals.
    pub max_rounds: usize,
    /// Whether agreement on a word hands over, too.
    pub agree: bool,
    /// What happens to a proposal that the base accepts nowhere.
    pub on_none: OnNone,
    /// What the base's end means.
    pub base_eos: BaseEnd,
}

impl Default for NudgeParams {
    fn default() -> Self {
        Self {
            threshold: 0.4,
            nudge_tokens: 16,
            base_tokens: 16,
            max_tokens: 512,
            max_rounds: 150,
            agree: true,
            on_none: OnNone::default(),
            base_eos: BaseEnd::default(),
        }
    }
}

/// Why a nudged answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NudgeFinish {
    /// The nudger ended it.
    NudgerEos,
    /// The base ended it, and was allowed to.
    BaseEos,
    /// The same nudge came four times running.
    Repeated,
    /// Most proposals were made.
    Rounds,
    /// Most tokens were written.
    Length,
    /// The caller wanted no more.
    Stopped,
}

/// Who wrote a part of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The nudger.
    Nudger,
    /// The base.
    Base,
}

/// A part of the text, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// Who wrote it.
    pub by: By,
    /// First byte.
    pub start: usize,
    /// The byte behind it.
    pub end: usize,
}

/// What nudging did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NudgeReport {
    /// Why the answer ended.
    pub finish: NudgeFinish,
    /// Proposals made.
    pub n_rounds: usize,
    /// Share of the text's tokens that the nudger supplied.
    pub nudge_rate: f64,
    /// Who wrote what.
    pub spans: Vec<Span>,
    /// Rows the base evaluated, its prompt counted.
    pub base_evals: u64,
    /// Rows the nudger evaluated, its prompt counted.
    pub nudger_evals: u64,
    /// What deserves attention.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<&'static str>,
}

/// A nudged answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Nudged {
    /// The text.
    pub text: String,
    /// Its tokens in the base's vocabulary.
    pub ids: Vec<TokenId>,
    /// What happened.
    pub report: NudgeReport,
}

/// The same nudge so often running ends the answer.
const MAX_SAME: usize = 3;
/// A repeated end of at least so many characters is cut off.
const REPEATED_CHARS: usize = 30;
/// A chunk of more words than this that was said before ends the base's run.
const REPEATED_WORDS: usize = 5;
/// Above this share of nudged tokens, a pair tends to do worse than expected.
const HIGH_RATE: f64 = 0.2;
/// So many bytes without a blank make words useless as a unit.
const NO_BLANK_BYTES: usize = 64;

struct Exchange<'p, B: NextLogits, N: NextLogits, T: Tokenizer, U: Tokenizer> {
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
    /// The last token of the last proposal, which the nudger has said but not read.
    proposed: Option<Top>,
    has_long_words: bool,
}

/// A place where the base may take over.
struct Boundary<'d> {
    /// Bytes of the proposal up to there.
    end: usize,
    /// The proposal's next word.
    word: &'d str,
}

/// The ends of the proposal's words but the last.
fn boundaries(proposal: &str) -> Vec<Boundary<'_>> {
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

/// Answers with `base`, nudged by `nudger`. `sink` is given each part of the text as it is settled, and says whether
/// it wants more.
/// # Errors `InvalidArgument` naming a parameter; `ContextFull` if a prompt does not fit; `Unencodable`; those of the
/// models.
pub fn nudge<B: NextLogits, N: NextLogits, T: Tokenizer, U: Tokenizer>(
    base: Speaker<'_, B, T>,
    nudger: Speaker<'_, N, U>,
    params: &NudgeParams,
    sink: &mut dyn FnMut(By, &str) -> bool,
) -> Result<Nudged> {
    params.validate()?;
    let before = (base.lm.n_evals(), nudger.lm.n_evals());
    let mut exchange = Exchange {
        base: Voice::new(base).map_err(|e| e.at("base"))?,
        nudger: Voice::new(nudger).map_err(|e| e.at("nudger"))?,
        params,
        said: Encoding::default(),
        heard: Encoding::default(),
        spans: Vec::new(),
        n_base_tokens: 0,
        last_nudge: String::new(),
        n_same: 0,
        proposed: None,
        has_long_words: false,
    };
    let (mut n_rounds, mut shown) = (0, 0);
    let finish = loop {
        if n_rounds == params.max_rounds {
            break NudgeFinish::Rounds;
        }
        n_rounds += 1;
        let finish = exchange.round()?;
        let settled = n_settled(exchange.said.text());
        let wants_more = exchange.show(&mut shown, settled, sink);
        if let Some(finish) = finish.or((!wants_more).then_some(NudgeFinish::Stopped)) {
            break finish;
        }
    };
    let n_kept = without_repeated_end(exchange.said.text()).len();
    exchange.show(&mut shown, n_kept, sink);
    exchange.finish(finish, n_rounds, before)
}

impl NudgeParams {
    /// # Errors `InvalidArgument` naming the field.
    pub fn validate(&self) -> Result<()> {
        if !self.threshold.is_finite() {
            return Err(crate::reward::bad("nudge.threshold", "a finite number", self.threshold));
        }
        for (name, n) in [
            ("nudge.nudge_tokens", self.nudge_tokens),
            ("nudge.base_tokens", self.base_tokens),
            ("nudge.max_tokens", self.max_tokens),
            ("nudge.max_rounds", self.max_rounds),
        ] {
            if n == 0 {
                return Err(crate::reward::bad(name, "at least 1", n));
            }
        }
        Ok(())
    }
}

impl<B: NextLogits, N: NextLogits, T: Tokenizer, U: Tokenizer> Exchange<'_, B, N, T, U> {
    /// One proposal and what the base makes of it.
    fn round(&mut self) -> Result<Option<NudgeFinish>> {
        if self.is_full() {
            return Ok(Some(NudgeFinish::Length));
        }
        let (proposal, has_ended) = self.propose()?;
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
        let whole = self.said.with(&self.base.tokenizer, &proposal)?;
        for Boundary { end, word } in boundaries(&proposal) {
            let nudge = &proposal[..end];
            let said = self.said.with(&self.base.tokenizer, nudge)?;
            let top = self.base_at(&whole, &said)?;
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
        let n = self.heard.ids().len();
        let mut bytes = Vec::new();
        let mut n_said = 0;
        let mut top = match self.proposed.filter(|_| self.nudger.held().starts_with(self.heard.ids())) {
            // the text went on as was proposed: so does the proposal
            Some(top) if self.nudger.held().len() - n < self.params.nudge_tokens => {
                for &token in &self.nudger.held()[n..] {
                    bytes.extend_from_slice(self.nudger.tokenizer.bytes(token));
                }
                n_said = self.nudger.held().len() - n;
                top
            }
            _ => {
                self.nudger.say(self.heard.ids(), n)?;
                self.nudger.top(n)?
            }
        };
        self.proposed = None;
        loop {
            if self.nudger.is_end(top.token) {
                return Ok((whole_characters(bytes), true));
            }
            bytes.extend_from_slice(self.nudger.tokenizer.bytes(top.token));
            n_said += 1;
            if n_said >= self.params.nudge_tokens {
                self.proposed = Some(top);
                return Ok((whole_characters(bytes), false));
            }
            top = self.nudger.push(top.token)?;
        }
    }

    /// What the base would say behind `said`, a beginning of the proposal. It reads on from the last place it was asked
    /// at where its tokens begin those of the whole; else it is asked aside, so that it can read on later.
    fn base_at(&mut self, whole: &Encoding, said: &Encoding) -> Result<Top> {
        let n = said.ids().len();
        match whole.ids().starts_with(said.ids()) {
            true => {
                self.base.say(said.ids(), n)?;
                self.base.top(n)
            }
            false => self.base.top_aside(said.ids()),
        }
    }

    /// Whether the base takes over where it would say `top` and the nudger's next word is `word`.
    fn hands_over(&self, top: Top, word: &str) -> bool {
        let text = self.base.tokenizer.bytes(top.token);
        let agrees = !self.base.is_end(top.token) && !text.is_empty() && word.as_bytes().starts_with(text);
        self.params.agree && agrees || top.p >= self.params.threshold
    }

    /// Appends a nudge, and what the base says behind it if it takes over there.
    fn take(&mut self, nudge: &str, over: Option<(&Encoding, Top)>) -> Result<Option<NudgeFinish>> {
        self.n_same = if nudge == self.last_nudge { self.n_same + 1 } else { 0 };
        self.last_nudge = nudge.to_owned();
        if self.n_same >= MAX_SAME {
            return Ok(Some(NudgeFinish::Repeated));
        }
        self.append(By::Nudger, nudge)?;
        match over {
            None => Ok(None),
            Some((_, top)) if self.base.is_end(top.token) => Ok(self.ended_by_base()),
            Some((said, top)) => self.run_base(said, top),
        }
    }

    fn ended_by_base(&self) -> Option<NudgeFinish> {
        (self.params.base_eos == BaseEnd::Stop).then_some(NudgeFinish::BaseEos)
    }

    /// The base goes on with `top` as long as it is sure.
    fn run_base(&mut self, said: &Encoding, top: Top) -> Result<Option<NudgeFinish>> {
        let n_before = said.ids().len();
        self.base.hold(said.ids())?;
        let (mut run, mut chunk): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
        let mut next = top;
        let (mut n, mut finish) = (0, None);
        loop {
            let bytes = self.base.tokenizer.bytes(next.token);
            chunk.extend_from_slice(bytes);
            n += 1;
            if n_before + n >= self.params.max_tokens || self.base.room(n_before + n) <= 1 {
                run.append(&mut chunk);
                break;
            }
            if n % self.params.base_tokens == 0 {
                let again = contains(&run, &chunk);
                if !again {
                    let text = String::from_utf8_lossy(&chunk).into_owned();
                    let is_old =
                        text.split_whitespace().count() > REPEATED_WORDS && self.said.text().contains(&text);
                    run.append(&mut chunk);
                    if is_old {
                        break;
                    }
                } else {
                    n -= self.params.base_tokens;
                    chunk.clear();
                    break;
                }
            }
            next = self.base.push(next.token)?;
            if self.base.is_end(next.token) {
                finish = self.ended_by_base();
            }
            if self.base.is_end(next.token) || next.p < self.params.threshold {
                run.append(&mut chunk);
                break;
            }
        }
        let text = whole_characters(run);
        self.n_base_tokens += n;
        self.append(By::Base, &text)?;
        Ok(finish)
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

    /// Hands on the text between `shown` and `to`.
    fn show(&self, shown: &mut usize, to: usize, sink: &mut dyn FnMut(By, &str) -> bool) -> bool {
        let mut wants_more = true;
        for span in &self.spans {
            let (from, end) = (span.start.max(*shown), span.end.min(to));
            if from < end {
                wants_more &= sink(span.by, &self.said.text()[from..end]);
                *shown = end;
            }
        }
        wants_more
    }

    fn finish(mut self, finish: NudgeFinish, n_rounds: usize, before: (u64, u64)) -> Result<Nudged> {
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
        let report = NudgeReport {
            finish,
            n_rounds,
            nudge_rate,
            spans: self.spans,
            base_evals: self.base.n_evals() - before.0,
            nudger_evals: self.nudger.n_evals() - before.1,
            warnings,
        };
        Ok(Nudged { text, ids, report })
    }
}

/// The characters that are complete; half a one at the end is held back.
fn whole_characters(bytes: Vec<u8>) -> String {
    match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => {
            let unfinished = e.utf8_error().error_len().is_none();
            let valid = e.utf8_error().valid_up_to();
            let bytes = e.into_bytes();
            String::from_utf8_lossy(if unfinished { &bytes[..valid] } else { &bytes }).into_owned()
        }
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && text.windows(part.len()).any(|w| w == part)
}

/// Bytes of `text` that stay whatever follows: its end may be the beginning of a repetition, which is cut off.
fn n_settled(text: &str) -> usize {
    let bytes = text.as_bytes();
    let n = bytes.len();
    let same = |distance: usize| {
        let pairs = bytes[..n - distance].iter().rev().zip(bytes.iter().rev());
        pairs.take(distance).take_while(|(a, b)| a == b).count()
    };
    let held = (REPEATED_CHARS..n).map(same).max().unwrap_or(0);
    let at = n - held;
    (0..=at).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0)
}

/// `text` without an end of [`REPEATED_CHARS`] or more that stands before itself.
fn without_repeated_end(mut text: &str) -> &str {
    'again: loop {
        let n = text.len();
        for size in REPEATED_CHARS..=n / 2 {
            let (from, before) = (n - size, n - 2 * size);
            if text.is_char_boundary(from)
                && text.as_bytes()[before..from] == text.as_bytes()[from..]
                && text[from..].chars().count() >= REPEATED_CHARS
            {
                text = &text[..from];
                continue 'again;
            }
        }
        return text;
    }
}
