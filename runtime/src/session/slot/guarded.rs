//! A slot under guards: what they are told, and what their orders do to the text.
//!
//! The outlet is not drained as it fills; text is shown when the guards have cleared its tokens. To take text
//! back, a fresh outlet reads the kept tokens again: the same tokens give the same state, so nothing has to be
//! saved at every token, and a backtrack costs the kept text once.

use super::super::aligned::Outlet;
use super::super::{Event, Finish, Setting};
use super::{Mark, Slot, bytes_of};
use crate::error::Result;
use crate::guard::{GuardReport, Order, Watch};
use crate::sampling::NextLogits;
use crate::token::TokenId;

/// Where the hidden states of a step are found.
#[derive(Clone, Copy)]
pub struct Reading<'a, 'r> {
    /// State of row `i` of this slot after a layer.
    pub state: &'a dyn Fn(usize, u32) -> Option<&'r [f32]>,
    /// State after an assistant header on the slot's side branch, if it was asked for.
    pub header: Option<&'a dyn Fn(u32) -> Option<&'r [f32]>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The prompt is being read.
    Prompt,
    /// The given beginning of the answer is being read.
    Prefix,
    /// The answer is under way.
    Answer,
}

/// What a slot keeps for its guards.
pub struct Guarded<B> {
    watch: Watch,
    /// The outlet before the first token.
    fresh: Outlet,
    stage: Stage,
    /// The given beginning of the answer; empty once it was dropped.
    prefix: Vec<TokenId>,
    /// The token before the prefix.
    before_prefix: TokenId,
    /// Bytes and tokens shown.
    n_shown_bytes: usize,
    n_shown: usize,
    /// A fork that gets an assistant header, and what it is fed.
    side: Option<B>,
    side_feed: Vec<TokenId>,
}

impl<B> Guarded<B> {
    pub fn new(watch: Option<Watch>, prefix: Vec<TokenId>, outlet: &Outlet, reserved: usize) -> Option<Self> {
        let mut watch = match watch {
            None if prefix.is_empty() => return None,
            None => Watch::new(Vec::new(), Default::default()),
            Some(watch) => watch,
        };
        watch.reserve(prefix.len() + reserved);
        Some(Self {
            watch,
            fresh: outlet.clone(),
            stage: Stage::Prompt,
            prefix,
            before_prefix: TokenId::default(),
            n_shown_bytes: 0,
            n_shown: 0,
            side: None,
            side_feed: Vec::new(),
        })
    }

    pub fn is_reading_prefix(&self) -> bool {
        self.stage == Stage::Prefix
    }

    pub fn into_report(self, total_s: f64) -> GuardReport {
        self.watch.into_report(total_s)
    }
}

impl<B> Slot<B> {
    /// Tokens of the answer that were shown.
    pub(super) fn n_shown(&self) -> usize {
        self.guarded.as_ref().map_or(0, |g| g.n_shown)
    }

    /// Whether the last token's state must be seen before the text may end.
    pub(super) fn awaits_state(&self) -> bool {
        let reads = self.guarded.as_ref().is_some_and(|g| g.watch.layers().next().is_some());
        reads && self.finish.is_some() && !self.feed.is_empty()
    }

    /// Forks the branch for an assistant header, if the guards want to see one after what is fed next.
    pub fn open_side<L: NextLogits<Branch = B>>(&mut self, lm: &mut L) -> Result<()> {
        let Some(g) = &mut self.guarded else { return Ok(()) };
        g.side = None;
        if self.finish.is_some() || g.stage != Stage::Answer || self.ids.is_empty() || !g.watch.wants_header()
        {
            return Ok(());
        }
        g.side = Some(lm.fork(&self.branch)?);
        g.side_feed.clear();
        g.side_feed.extend_from_slice(&self.feed);
        g.side_feed.extend_from_slice(&g.watch.policy().header);
        Ok(())
    }

    /// The layer after which this request may be refused, if its prompt is fed next and nobody keeps its branch.
    pub fn early_layer(&self) -> Option<u32> {
        let g = self.guarded.as_ref().filter(|g| g.stage == Stage::Prompt && !self.keep_branch)?;
        g.watch.early_layer()
    }

    /// Whether its guards refuse the prompt by the states of the lower layers.
    pub fn refuses_early(&self, states: &crate::guard::States<'_>) -> bool {
        self.guarded.as_ref().is_some_and(|g| g.watch.refuses_early(states))
    }

    /// Ends the request whose prompt was refused after `layer`.
    pub fn take_refusal<'r>(
        &mut self,
        reading: Reading<'_, 'r>,
        (layer, forward_s): (u32, f64),
        setting: &Setting<'_>,
        sink: &mut dyn FnMut(usize, Event<'_>),
    ) -> Result<()> {
        self.timings.prefill_s += forward_s;
        let last = self.n_rows() - 1;
        let Some(g) = &mut self.guarded else { return Ok(()) };
        g.watch.set_left_after(layer);
        let order = g.watch.at_prompt(&|layer| (reading.state)(last, layer), &[]);
        g.stage = Stage::Answer;
        self.obey(order, setting)?;
        self.finish(Finish::Refused); // whatever the order: nothing may be drawn
        self.show(sink);
        Ok(())
    }

    /// Takes what guards have taken back out of a branch that is handed on.
    /// # Errors Those of the model.
    pub fn cut_kept<L: NextLogits<Branch = B>>(&mut self, lm: &mut L) -> Result<()> {
        let Some(g) = self.guarded.as_ref().filter(|_| self.keep_branch) else { return Ok(()) };
        let mut len = self.cut.take().unwrap_or(usize::MAX).min(lm.len(&self.branch));
        if !g.prefix.is_empty() || self.n_inserted > 0 {
            // tokens that are not of the text stand between: whoever takes the branch knows the prompt only
            len = len.min(self.n_prompt - g.prefix.len());
        }
        lm.truncate(&self.branch, len)
    }

    /// The fork and what it is fed.
    pub fn side(&self) -> Option<(&B, &[TokenId])> {
        let g = self.guarded.as_ref()?;
        Some((g.side.as_ref()?, &g.side_feed))
    }

    /// Shows the guards what a step brought. False if nothing is to be drawn from it.
    pub(super) fn consult<'r>(
        &mut self,
        row: &impl Fn(usize) -> &'r [f32],
        reading: Reading<'_, 'r>,
        setting: &Setting<'_>,
    ) -> Result<bool> {
        let n_rows = self.n_rows();
        let n_ids = self.ids.len();
        let Some(g) = &mut self.guarded else { return Ok(true) };
        match g.stage {
            Stage::Prompt => {
                let last = n_rows - 1;
                let order = g.watch.at_prompt(&|layer| (reading.state)(last, layer), row(last));
                g.stage = Stage::Answer;
                if order != Order::Go {
                    self.obey(order, setting)?;
                    return Ok(false);
                }
                self.feed_prefix(setting)
            }
            Stage::Prefix => {
                g.stage = Stage::Answer;
                for i in 0..n_rows {
                    if g.watch.at_state(i, &|layer| (reading.state)(i, layer)) != Order::Go {
                        self.drop_prefix(setting)?;
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Stage::Answer => {
                let n_before = g.prefix.len() + n_ids;
                // before anything was produced there is only the prompt's last token, read again
                for i in (0..n_rows).filter(|i| n_ids + i >= n_rows) {
                    let order = g.watch.at_state(n_before + i - n_rows, &|layer| (reading.state)(i, layer));
                    if order != Order::Go {
                        self.obey(order, setting)?;
                        return Ok(false);
                    }
                }
                if let Some(header) = reading.header {
                    let order = g.watch.at_header(&|layer| header(layer));
                    if order != Order::Go {
                        self.obey(order, setting)?;
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }

    /// Feeds the given beginning of the answer, if there is one. False if it is fed.
    fn feed_prefix(&mut self, setting: &Setting<'_>) -> Result<bool> {
        let Some(g) = &mut self.guarded else { return Ok(true) };
        let Some(&last) = g.prefix.last() else { return Ok(true) };
        g.before_prefix = std::mem::replace(&mut self.last_of_prompt, last);
        self.n_prompt += g.prefix.len();
        for &token in &g.prefix {
            if g.watch.at_token(token, setting.vocab.token_bytes(token)) != Order::Go {
                // nothing of it was fed yet
                self.drop_prefix(setting)?;
                return Ok(false);
            }
        }
        g.stage = Stage::Prefix;
        self.feed.clear();
        self.feed.extend_from_slice(&g.prefix);
        Ok(false)
    }

    /// Answers from the empty beginning instead of the given one.
    fn drop_prefix(&mut self, setting: &Setting<'_>) -> Result<()> {
        let len = self.ids.len();
        self.masks.cut_freely(0, len)?;
        let Some(g) = &mut self.guarded else { return Ok(()) };
        let n = std::mem::take(&mut g.prefix).len();
        g.watch.rewind(0)?;
        g.watch.set_guarded();
        self.chain.rollback(len + n)?;
        self.n_prompt -= n;
        self.last_of_prompt = g.before_prefix;
        self.n_backtracks += 1;
        self.keep(0, setting);
        self.feed_again(0);
        Ok(())
    }

    /// Tells the guards of a token that was just taken. False if an order has changed the course.
    pub(super) fn watch_token(
        &mut self,
        token: TokenId,
        bytes: &[u8],
        setting: &Setting<'_>,
    ) -> Result<bool> {
        let Some(g) = &mut self.guarded else { return Ok(true) };
        if let Some(mark) = self.marks.last_mut() {
            mark.released = self.outlet.released.len();
        }
        match g.watch.at_token(token, bytes) {
            Order::Go => Ok(true),
            order => self.obey(order, setting).map(|()| false),
        }
    }

    /// Tells the guards that the text ends. False if an order has changed the course.
    pub(super) fn watch_end(&mut self, why: Finish, setting: &Setting<'_>) -> Result<bool> {
        let Some(g) = &mut self.guarded else { return Ok(true) };
        let order = g.watch.at_end();
        if order == Order::Go {
            return Ok(true);
        }
        if why == Finish::Eos {
            // the end was taken as a token, too
            if let Some(constraint) = &mut self.masks.constraint {
                constraint.rollback(1)?;
            }
            self.chain.rollback(1)?;
            self.end_logprob = 0.0;
        }
        self.obey(order, setting)?;
        Ok(false)
    }

    /// The text was cut to its first `n` tokens for another reason.
    pub(super) fn rewind_watch(&mut self, n: usize) -> Result<()> {
        match &mut self.guarded {
            Some(g) => g.watch.rewind(g.prefix.len() + n),
            None => Ok(()),
        }
    }

    fn obey(&mut self, order: Order, setting: &Setting<'_>) -> Result<()> {
        self.ending = None;
        self.finish = None;
        let n_prefix = self.guarded.as_ref().map_or(0, |g| g.prefix.len());
        let (to, is_end) = match order {
            Order::Go => return Ok(()),
            Order::Resample(to) | Order::Header(to) | Order::Prefix(to) => (to, false),
            Order::Refuse(to) | Order::Stop(to) => (to, true),
        };
        if !is_end && to < n_prefix && self.n_shown() == 0 {
            return self.drop_prefix(setting);
        }
        let n = to.saturating_sub(n_prefix).max(self.n_shown()).max(self.floor).min(self.ids.len());
        let is_constrained = self.masks.constraint.is_some();
        match order {
            Order::Refuse(_) if !is_constrained => self.end_at(n, Finish::Refused, setting),
            Order::Refuse(_) => self.end_at(n, Finish::RefusedUnderGrammar, setting),
            Order::Stop(_) => self.end_at(n, Finish::Guarded, setting),
            _ if is_constrained && matches!(order, Order::Header(_) | Order::Prefix(_)) => {
                self.end_at(n, Finish::RefusedUnderGrammar, setting)
            }
            Order::Header(_) => self.reopen(n, setting),
            Order::Prefix(_) => self.say_refusal(n, setting),
            _ => self.draw_again(n, setting),
        }
    }

    /// Takes the text back to its first `n` tokens; what is refused there is not changed.
    fn take_back(&mut self, n: usize, banned: Option<TokenId>, setting: &Setting<'_>) -> Result<()> {
        let len = self.ids.len();
        match banned {
            Some(token) => self.masks.cut(n, len, token, false)?,
            None => self.masks.cut_freely(n, len)?,
        }
        self.chain.rollback(len - n)?;
        self.n_backtracks += 1;
        self.rewind_watch(n)?;
        self.keep(n, setting);
        self.feed_again(n);
        self.masks.prepare(n)?;
        Ok(())
    }

    /// Keeps the first `n` tokens of the text, and what the outlet has made of them.
    fn keep(&mut self, n: usize, setting: &Setting<'_>) {
        self.ids.truncate(n);
        self.marks.truncate(n);
        let Some(g) = &self.guarded else { return };
        self.outlet = g.fresh.clone();
        for &token in &self.ids {
            self.outlet.push(bytes_of(setting.vocab, token, self.limits.show_special));
        }
    }

    fn draw_again(&mut self, n: usize, setting: &Setting<'_>) -> Result<()> {
        let banned = self.ids.get(n).copied();
        self.take_back(n, banned, setting)
    }

    /// Ends the turn after `n` tokens and opens a new one.
    fn reopen(&mut self, n: usize, setting: &Setting<'_>) -> Result<()> {
        let Some(header) = self.guarded.as_ref().map(|g| g.watch.policy().header.clone()) else {
            return Ok(());
        };
        if self.n_prompt + self.n_inserted + n + header.len() + 1 >= setting.n_ctx {
            return self.end_at(n, Finish::Refused, setting);
        }
        self.take_back(n, None, setting)?;
        self.feed.extend_from_slice(&header);
        self.n_forced = 0; // the header's rows say nothing of the text
        self.n_inserted += header.len();
        self.floor = n;
        self.last_of_prompt = header.last().copied().unwrap_or(self.last_of_prompt);
        Ok(())
    }

    /// Says the refusal's words after `n` tokens; the model goes on from there.
    fn say_refusal(&mut self, n: usize, setting: &Setting<'_>) -> Result<()> {
        let Some(policy) = self.guarded.as_ref().map(|g| g.watch.policy().clone()) else { return Ok(()) };
        let words = if n == 0 { &policy.refusal_ids } else { &policy.refusal_after };
        if self.n_prompt + self.n_inserted + n + words.len() + 1 >= setting.n_ctx {
            return self.end_at(n, Finish::Refused, setting);
        }
        self.take_back(n, None, setting)?;
        if self.outlet.released.trim_end().ends_with(&*policy.refusal) {
            return self.end_at(n, Finish::Refused, setting); // it was said and did not help
        }
        if let Some(g) = &mut self.guarded {
            g.watch.exempt_next(words.len());
        }
        for &token in words.iter() {
            if self.finish.is_some() {
                break;
            }
            self.chain.accept(token)?;
            let mark = Mark { start: self.outlet.n_seen(), released: 0, logprob: 0.0, log_z: 0.0 };
            self.n_forced += 1;
            self.n_total_forced += 1;
            self.take_token(token, mark, setting)?;
        }
        Ok(())
    }

    /// Ends the text after `n` tokens.
    fn end_at(&mut self, n: usize, why: Finish, setting: &Setting<'_>) -> Result<()> {
        self.take_back(n, None, setting)?;
        self.feed.clear();
        self.n_forced = 0;
        self.outlet.finish();
        if why == Finish::Refused
            && let Some(g) = &self.guarded
        {
            let (released, refusal) = (&mut self.outlet.released, &g.watch.policy().refusal);
            if !released.trim_end().ends_with(&**refusal) {
                if !released.trim_end().is_empty() {
                    released.push_str("\n\n");
                }
                released.push_str(refusal);
            }
        }
        self.finish(why);
        Ok(())
    }

    /// Passes on what the guards have cleared.
    pub(super) fn show_cleared(&mut self, sink: &mut dyn FnMut(usize, Event<'_>)) {
        let is_whole = self.finish.is_some_and(|f| !matches!(f, Finish::Cancelled | Finish::Deadline));
        let Some(g) = &mut self.guarded else { return };
        let cleared = g.watch.n_clear(is_whole).saturating_sub(g.prefix.len()).min(self.marks.len());
        let released = &self.outlet.released;
        let until = match cleared.checked_sub(1).and_then(|i| self.marks.get(i)) {
            _ if is_whole => released.len(),
            Some(mark) => mark.released,
            None => 0,
        };
        if cleared > g.n_shown {
            g.n_shown = cleared;
            g.watch.set_shown(g.prefix.len() + cleared);
        }
        if let Some(text) = released.get(g.n_shown_bytes..until).filter(|t| !t.is_empty()) {
            sink(self.index, Event::Text(text));
            self.text.push_str(text);
            g.n_shown_bytes = until;
        }
    }
}
