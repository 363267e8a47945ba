//! Texts on their way: what they say, what they cost, what may come next; grown together, one forward pass a token.

use crate::align::{Constraint, TokenBytes};
use crate::error::{Error, ErrorKind, Result};
use crate::kernels::{self, Candidate as Logit};
use crate::reward::Candidate;
use crate::sampling::{BatchItem, Chain, NextLogits, Want};
use crate::token::{TokenId, TokenSet};
use std::borrow::Cow;
use std::rc::Rc;

/// Bits of a draw's number that count refusals at one place.
const REFUSAL_BITS: u32 = 10;

/// Why a text is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The model ended it.
    Eos,
    /// A stop string came.
    Stop,
    /// The token limit.
    Length,
}

/// The likeliest tokens after a text, under the mask.
#[derive(Clone, Debug, Default)]
pub(super) struct Menu {
    /// Tokens with their log-probabilities under the masked law, best first, equal ones by id.
    pub best: Vec<(TokenId, f64)>,
    /// Logarithm of the mass of what is allowed.
    pub log_z: f64,
}

/// A text on its way. Its branch holds the prompt and the first `n_fed` tokens.
pub(super) struct Path<B> {
    pub branch: B,
    /// Tokens, without the ending one.
    pub ids: Vec<TokenId>,
    n_fed: usize,
    text: Vec<u8>,
    /// Byte offset before each token.
    starts: Vec<usize>,
    /// By token, an ending one included: log-probability under the masked law, and logarithm of the mask's mass.
    logprobs: Vec<(f64, f64)>,
    /// `menus[i]`: what may follow the first `first_menu + i` tokens.
    menus: Vec<Rc<Menu>>,
    first_menu: usize,
    constraint: Option<Box<dyn Constraint>>,
    pub end: Option<End>,
    /// Bytes of the text that are there to stay: up to a stop string, or what may still become one.
    n_visible: usize,
    /// Draws its tokens, if they are drawn.
    pub chain: Option<Chain>,
    /// Number of its draws: different numbers, independent texts.
    pub draw_no: u32,
    /// What the next token is drawn from.
    row: Option<Row>,
}

/// A row of logits.
#[derive(Clone, Copy, Debug)]
enum Row {
    /// The one behind the prompt, which is kept.
    First,
    /// One of the last forward pass.
    At(usize),
}

impl<B> Path<B> {
    /// Tokens, an ending one included.
    pub fn n_tokens(&self) -> usize {
        self.logprobs.len()
    }

    /// Log-probability of the first `n` tokens under the masked law.
    pub fn logprob(&self, n: usize) -> f64 {
        self.logprobs.iter().take(n).map(|(l, _)| l).sum()
    }

    /// Log-probability of all tokens under the model's own law.
    pub fn raw_logprob(&self) -> f64 {
        self.logprobs.iter().map(|(l, z)| l + z).sum()
    }

    /// Log-probability that the masks have removed, negated.
    pub fn removed_nats(&self) -> f64 {
        -self.logprobs.iter().map(|(_, z)| z).sum::<f64>()
    }

    /// Token `i`; none at an ending one.
    pub fn token(&self, i: usize) -> Option<TokenId> {
        self.ids.get(i).copied()
    }

    pub fn is_closed(&self) -> bool {
        self.end.is_some()
    }

    /// The text as a reward sees it: whole characters, nothing from a stop string on. A stop string that has begun
    /// would take back what it covers, so that is not seen either while the text is open.
    pub fn text(&self) -> Cow<'_, str> {
        let bytes = &self.text[..self.n_visible];
        match std::str::from_utf8(bytes) {
            Ok(text) => text.into(),
            // half a character at the end of open text is not there yet
            Err(e) if e.error_len().is_none() && !self.is_closed() => {
                String::from_utf8_lossy(&bytes[..e.valid_up_to()])
            }
            Err(_) => String::from_utf8_lossy(bytes),
        }
    }

    /// What may come next, if it is known.
    pub fn menu(&self) -> Option<&Rc<Menu>> {
        self.menu_at(self.ids.len())
    }

    /// What may follow the first `n` tokens, if it is known.
    pub fn menu_at(&self, n: usize) -> Option<&Rc<Menu>> {
        self.menus.get(n.checked_sub(self.first_menu)?)
    }

    fn candidate<'a>(&self, text: &'a str) -> Candidate<'a> {
        Candidate { text, is_closed: self.is_closed() }
    }
}

/// The texts of several paths, for a reward.
pub(super) fn with_candidates<B, T>(
    paths: &[&Path<B>],
    f: impl FnOnce(&[Candidate<'_>]) -> Result<T>,
) -> Result<T> {
    let texts: Vec<Cow<'_, str>> = paths.iter().map(|p| p.text()).collect();
    let all: Vec<Candidate<'_>> = paths.iter().zip(&texts).map(|(p, t)| p.candidate(t)).collect();
    f(&all)
}

/// Grows paths over one model.
pub(super) struct Grower<'a, L: NextLogits> {
    pub lm: &'a mut L,
    vocab: &'a dyn TokenBytes,
    stops: Vec<Vec<u8>>,
    /// Tokens before the text.
    n_prompt: usize,
    pub max_tokens: usize,
    /// Tokens of a menu.
    n_menu: usize,
    mask: TokenSet,
    scratch: Vec<f64>,
    best: Vec<Logit>,
    first_row: Vec<f32>,
}

impl<'a, L: NextLogits> Grower<'a, L> {
    pub fn new(
        lm: &'a mut L,
        vocab: &'a dyn TokenBytes,
        stops: &[String],
        (max_tokens, n_menu): (usize, usize),
    ) -> Self {
        let n_vocab = lm.n_vocab();
        Self {
            lm,
            vocab,
            stops: stops.iter().filter(|s| !s.is_empty()).map(|s| s.clone().into_bytes()).collect(),
            n_prompt: 0,
            max_tokens,
            n_menu: n_menu.min(n_vocab),
            mask: TokenSet::all(n_vocab),
            scratch: vec![0.0; n_vocab.div_ceil(kernels::BLOCK)],
            best: Vec::new(),
            first_row: Vec::new(),
        }
    }

    /// The empty text after a prompt: `branch` holds its beginning, `tokens` are the rest, at least one.
    pub fn start(
        &mut self,
        branch: L::Branch,
        tokens: &[TokenId],
        constraint: Option<Box<dyn Constraint>>,
    ) -> Result<Path<L::Branch>> {
        self.lm.eval(&[BatchItem { branch: &branch, tokens, want: Want::Last }])?;
        self.n_prompt = self.lm.len(&branch);
        let mut path = Path {
            branch,
            ids: Vec::new(),
            n_fed: 0,
            text: Vec::new(),
            starts: Vec::new(),
            logprobs: Vec::new(),
            menus: Vec::new(),
            first_menu: 0,
            constraint,
            end: None,
            n_visible: 0,
            chain: None,
            draw_no: 0,
            row: Some(Row::First),
        };
        self.first_row = self.lm.row(0).to_vec();
        self.read_row(&mut path, 0)?;
        Ok(path)
    }

    /// A copy of the first `n` tokens.
    pub fn fork(&mut self, path: &Path<L::Branch>, n: usize) -> Result<Path<L::Branch>> {
        let mut copy = Path {
            branch: self.lm.fork(&path.branch)?,
            ids: path.ids.clone(),
            n_fed: path.n_fed,
            text: path.text.clone(),
            starts: path.starts.clone(),
            logprobs: path.logprobs.clone(),
            menus: path.menus.clone(),
            first_menu: path.first_menu,
            constraint: path.constraint.as_ref().map(|c| c.fork()),
            end: path.end,
            n_visible: path.n_visible,
            chain: path.chain.as_ref().map(Chain::fork),
            draw_no: path.draw_no,
            row: path.row,
        };
        self.cut(&mut copy, n)?;
        Ok(copy)
    }

    /// Cuts to the first `n` tokens.
    pub fn cut(&mut self, path: &mut Path<L::Branch>, n: usize) -> Result<()> {
        let n_tokens = path.n_tokens();
        if n >= n_tokens {
            return Ok(());
        }
        if let Some(constraint) = &mut path.constraint {
            constraint.rollback(n_tokens - n)?;
        }
        if let Some(chain) = &mut path.chain {
            chain.rollback(n_tokens - n)?;
        }
        if n < path.n_fed {
            self.lm.truncate(&path.branch, self.n_prompt + n)?;
            path.n_fed = n;
        }
        (path.end, path.row) = (None, None);
        path.logprobs.truncate(n);
        if let Some(&start) = path.starts.get(n) {
            path.text.truncate(start);
            path.starts.truncate(n);
            path.ids.truncate(n);
        }
        path.n_visible = path.text.len() - self.n_held(&path.text);
        path.menus.truncate((n + 1).saturating_sub(path.first_menu));
        Ok(())
    }

    /// Forgets menus before the first `n` tokens: they are not asked for again.
    pub fn settle(path: &mut Path<L::Branch>, n: usize) {
        let gone = n.saturating_sub(path.first_menu).min(path.menus.len());
        path.menus.drain(..gone);
        path.first_menu += gone;
    }

    /// Appends `token`, which the menu or a draw has allowed.
    pub fn push(&mut self, path: &mut Path<L::Branch>, token: TokenId, logprob: (f64, f64)) -> Result<()> {
        if let Some(constraint) = &mut path.constraint
            && !constraint.accept(token)?
        {
            return Err(Error::new(ErrorKind::Internal, "a token that was accepted is refused"));
        }
        if let Some(chain) = &mut path.chain {
            chain.accept(token)?;
        }
        path.logprobs.push(logprob);
        path.row = None;
        if self.vocab.eog_ids().contains(&token) {
            (path.end, path.n_visible) = (Some(End::Eos), path.text.len());
            return Ok(());
        }
        let before = path.text.len();
        path.ids.push(token);
        path.starts.push(before);
        path.text.extend_from_slice(self.vocab.bytes(token));
        (path.end, path.n_visible) = match self.find_stop(&path.text, before) {
            Some(begin) => (Some(End::Stop), begin),
            None if path.ids.len() >= self.max_tokens => (Some(End::Length), path.text.len()),
            None => (None, path.text.len() - self.n_held(&path.text)),
        };
        Ok(())
    }

    /// Bytes at the end of `text` that may still become a stop string.
    fn n_held(&self, text: &[u8]) -> usize {
        let longest = self.stops.iter().map(Vec::len).max().unwrap_or(1) - 1;
        let from = text.len().saturating_sub(longest);
        let begins = |at: &usize| self.stops.iter().any(|s| s.starts_with(&text[*at..]));
        (from..text.len()).find(begins).map_or(0, |at| text.len() - at)
    }

    /// Where a stop string begins that is complete behind `before`.
    fn find_stop(&self, text: &[u8], before: usize) -> Option<usize> {
        let first = |stop: &Vec<u8>| {
            let from = (before + 1).saturating_sub(stop.len());
            let found = text[from..].windows(stop.len()).position(|w| w == &stop[..]);
            found.map(|at| (from + at + stop.len(), from + at))
        };
        self.stops.iter().filter_map(first).min().map(|(_, begin)| begin)
    }

    /// Evaluates the tokens of open paths whose continuation is not known, in one pass; nothing for closed ones.
    pub fn feed(&mut self, paths: &mut [&mut Path<L::Branch>]) -> Result<()> {
        let needs = |p: &Path<L::Branch>| {
            let known = if p.chain.is_some() { p.row.is_some() } else { p.menu().is_some() };
            !p.is_closed() && !known
        };
        let items: Vec<BatchItem<'_, L::Branch>> = paths
            .iter()
            .filter(|p| needs(p))
            .map(|p| BatchItem { branch: &p.branch, tokens: &p.ids[p.n_fed..], want: Want::Last })
            .collect();
        if items.is_empty() {
            return Ok(());
        }
        self.lm.eval(&items)?;
        drop(items);
        for (row, path) in paths.iter_mut().filter(|p| needs(p)).enumerate() {
            path.n_fed = path.ids.len();
            path.row = Some(Row::At(row));
            self.read_row(path, row)?;
        }
        Ok(())
    }

    /// Makes the menu of row `row`, unless the path draws.
    fn read_row(&mut self, path: &mut Path<L::Branch>, row: usize) -> Result<()> {
        if path.chain.is_some() {
            return Ok(());
        }
        let menu = Rc::new(self.menu(&mut path.constraint, row)?);
        if path.first_menu + path.menus.len() != path.ids.len() {
            path.menus.clear(); // tokens were pushed whose menus nobody asked for
            path.first_menu = path.ids.len();
        }
        path.menus.push(menu);
        Ok(())
    }

    /// The best tokens of a row that the constraint lets through.
    fn menu(&mut self, constraint: &mut Option<Box<dyn Constraint>>, row: usize) -> Result<Menu> {
        let Self { lm, mask, scratch, best, n_menu, .. } = self;
        let row = lm.row(row);
        let whole = kernels::log_sum_exp(row, None, scratch);
        let Some(constraint) = constraint else {
            best.clear();
            kernels::top_k(row, None, *n_menu, best);
            return Menu::new(best, whole, whole);
        };
        mask.fill();
        constraint.mask(mask)?;
        loop {
            best.clear();
            kernels::top_k(row, Some(mask), *n_menu, best);
            let mut n_refused = 0;
            for token in best.iter().map(|c| c.id) {
                if constraint.accept(token)? {
                    constraint.rollback(1)?;
                } else {
                    mask.remove(token);
                    n_refused += 1;
                }
            }
            if n_refused == 0 {
                let masked = kernels::log_sum_exp(row, Some(mask), scratch);
                return Menu::new(best, masked, whole);
            }
        }
    }

    /// Draws the next token of each open path from the row of the last pass, which must be theirs.
    pub fn draw(&mut self, paths: &mut [&mut Path<L::Branch>]) -> Result<()> {
        for path in paths.iter_mut().filter(|p| !p.is_closed()) {
            let Some(row) = path.row else {
                return Err(Error::new(ErrorKind::Internal, "a draw without a row"));
            };
            let (token, logprob) = self.draw_one(path, row)?;
            self.push(path, token, logprob)?;
        }
        Ok(())
    }

    fn draw_one(&mut self, path: &mut Path<L::Branch>, row: Row) -> Result<(TokenId, (f64, f64))> {
        let Self { lm, mask, first_row, .. } = self;
        let row = match row {
            Row::First => first_row,
            Row::At(i) => lm.row(i),
        };
        let Some(chain) = &mut path.chain else {
            return Err(Error::new(ErrorKind::Internal, "a draw without a sampler"));
        };
        chain.set_attempt(path.draw_no << REFUSAL_BITS);
        let place = path.ids.len() as u64;
        let Some(constraint) = &mut path.constraint else {
            let s = chain.sample(row, None, place)?;
            return Ok((s.token, (s.logprob.unwrap_or(0.0), 0.0)));
        };
        mask.fill();
        constraint.mask(mask)?;
        for refusals in 0u32.. {
            if mask.is_empty() {
                break;
            }
            // a place asked again must not give the same number again
            chain.set_attempt(path.draw_no << REFUSAL_BITS | refusals & ((1 << REFUSAL_BITS) - 1));
            let s = chain.sample(row, Some(mask), place)?;
            if constraint.accept(s.token)? {
                constraint.rollback(1)?;
                let z = s.log_z.unwrap_or(0.0);
                return Ok((s.token, (s.logprob.unwrap_or(0.0) - z, z)));
            }
            mask.remove(s.token);
        }
        Err(no_candidate())
    }
}

impl Menu {
    fn new(best: &[Logit], masked: f64, whole: f64) -> Result<Self> {
        if best.is_empty() || !masked.is_finite() {
            return Err(no_candidate());
        }
        let best = best.iter().map(|c| (c.id, f64::from(c.logit) - masked)).collect();
        Ok(Self { best, log_z: (masked - whole).min(0.0) })
    }
}

fn no_candidate() -> Error {
    Error::new(ErrorKind::Unsatisfiable, "expected a token that may come next, found all masked")
}
