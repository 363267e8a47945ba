//! A branch that remembers its tokens: text that grows by turns, evaluating only what is new.

use super::{Job, Search, Settings};
use crate::error::{Error, ErrorKind, Result};
use crate::sampling::{BatchItem, NextLogits, Want};
use crate::session::{self, Aligned, Event, Outcome, Request, SearchPlan, Setting};
use crate::token::TokenId;

/// Tokens, and a branch that holds the keys and values of the first of them. What the branch does not hold yet
/// is evaluated when it is needed. All calls want the `lm` that the sequence was made in.
///
/// A call that fails leaves the tokens as they were; keys and values may have to be computed again.
#[derive(Debug)]
pub struct Sequence<B> {
    tokens: Vec<TokenId>,
    branch: B,
    n_ctx: usize,
}

impl<B> Sequence<B> {
    /// An empty sequence that may grow to `n_ctx` tokens.
    /// # Errors  Those of [`NextLogits::root`].
    pub fn new<L: NextLogits<Branch = B>>(lm: &mut L, n_ctx: usize) -> Result<Self> {
        Ok(Self { tokens: Vec::new(), branch: lm.root()?, n_ctx })
    }

    /// The tokens: prompts and answers.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Tokens whose keys and values are there.
    pub fn n_evaluated<L: NextLogits<Branch = B>>(&self, lm: &L) -> usize {
        lm.len(&self.branch)
    }

    /// Appends `tokens`.
    /// # Errors  `ContextFull` if they do not fit, `InvalidArgument` for ids that are no tokens.
    pub fn push<L: NextLogits<Branch = B>>(&mut self, lm: &L, tokens: &[TokenId]) -> Result<()> {
        self.check(lm.n_vocab(), self.tokens.len(), tokens)?;
        self.tokens.extend_from_slice(tokens);
        Ok(())
    }

    /// Cuts the sequence to its first `len` tokens.
    /// # Errors  `InvalidArgument` if there are fewer.
    pub fn truncate<L: NextLogits<Branch = B>>(&mut self, lm: &mut L, len: usize) -> Result<()> {
        if len > self.tokens.len() {
            let message = format!("expected at most {} tokens, found {len}", self.tokens.len());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let evaluated = lm.len(&self.branch);
        lm.truncate(&self.branch, evaluated.min(len))?;
        self.tokens.truncate(len);
        Ok(())
    }

    /// Makes the sequence hold exactly `tokens`, keeping what it holds of their beginning.
    /// # Errors  As [`push`](Self::push).
    pub fn set<L: NextLogits<Branch = B>>(&mut self, lm: &mut L, tokens: &[TokenId]) -> Result<()> {
        self.check(lm.n_vocab(), 0, tokens)?;
        let shared = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let keep = shared.min(tokens.len().saturating_sub(1));
        self.truncate(lm, keep)?;
        self.tokens.extend_from_slice(&tokens[keep..]);
        Ok(())
    }

    /// Evaluates all tokens but the last, so that an answer begins sooner.
    /// # Errors  Those of the executor.
    pub fn prefill<L: NextLogits<Branch = B>>(&mut self, lm: &mut L) -> Result<()> {
        let from = lm.len(&self.branch);
        let end = self.tokens.len().saturating_sub(1);
        match self.tokens.get(from..end) {
            None | Some([]) => Ok(()),
            Some(tokens) => lm.eval(&[BatchItem { branch: &self.branch, tokens, want: Want::Nothing }]),
        }
    }

    /// Logits of the token after the last one, `[n_vocab]`, natural log, unnormalised.
    /// # Errors  `InvalidArgument` for an empty sequence; those of the executor.
    pub fn logits<'l, L: NextLogits<Branch = B>>(&mut self, lm: &'l mut L) -> Result<&'l [f32]> {
        let tokens = self.rest(lm)?;
        lm.eval(&[BatchItem { branch: &self.branch, tokens, want: Want::Last }])?;
        Ok(lm.row(0))
    }

    /// Answers as `job` says and appends the answer's tokens. `job` is one that `settings` made for the tokens held;
    /// its own list of tokens is not looked at. Cancelling is no error; the text so far stands.
    /// # Errors  Those of [`session::run`], [`session::draw`], [`session::beam`] and [`session::searched`].
    pub fn generate<L: NextLogits<Branch = B>>(
        &mut self,
        lm: &mut L,
        setting: &Setting<'_>,
        settings: &Settings,
        job: Job,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome> {
        let outcome = match &settings.search {
            Some(search) => self.search(lm, setting, search, job, sink)?,
            None if settings.whole().is_none() => return self.stream(lm, setting, job, sink),
            None => self.whole(lm, setting, settings, job, sink)?,
        };
        self.tokens.extend_from_slice(&outcome.ids);
        Ok(outcome)
    }

    /// As [`generate`](Self::generate), always token by token.
    /// # Errors  Those of [`session::run`].
    pub fn stream<L: NextLogits<Branch = B>>(
        &mut self,
        lm: &mut L,
        setting: &Setting<'_>,
        job: Job,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome> {
        let tokens = self.rest(lm)?.to_vec();
        // not a fork: the two together could need a page more than there is
        let branch = std::mem::replace(&mut self.branch, lm.root()?);
        let Job { sampling, limits, aligned, .. } = job;
        let request = Request { branch, tokens, sampling, limits, keep_branch: true, aligned };
        let done = session::run(lm, setting, vec![request], &mut |_, event| sink(event))?;
        let Some((Some(branch), outcome)) = done.into_iter().next() else { return Err(lost()) };
        self.branch = branch;
        self.tokens.extend_from_slice(&outcome.ids);
        // a text that was just taken back is shorter than what the branch holds
        let n = self.tokens.len().min(lm.len(&self.branch));
        lm.truncate(&self.branch, n)?;
        Ok(outcome)
    }

    /// Searches by rewards.
    fn search<L: NextLogits<Branch = B>>(
        &mut self,
        lm: &mut L,
        setting: &Setting<'_>,
        search: &Search,
        mut job: Job,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome> {
        if search.has_guide() {
            let message = "search.guide: expected a request of its own, found a conversation";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        self.prefill(lm)?;
        job.tokens = self.rest(lm)?.to_vec();
        let mut reward = search.reward_with(&[], std::mem::take(&mut job.rewards))?;
        let params = search.params_with(&job.sampling, &job.limits);
        let prompt = std::mem::take(&mut job.prompt);
        let Aligned { constraint, judge, .. } = std::mem::take(&mut job.aligned);
        let mut helper = search.helper(setting.vocab, self.n_ctx)?;
        let source = job.into_source(lm.fork(&self.branch)?);
        helper.with(&prompt, &params.stop, |help| {
            let (reward, params, prompt) = (&mut reward, &params, &*prompt);
            let plan = SearchPlan { reward, params, prompt, constraint, judge, help };
            session::searched(lm, setting, source, plan, sink)
        })
    }

    fn whole<L: NextLogits<Branch = B>>(
        &mut self,
        lm: &mut L,
        setting: &Setting<'_>,
        settings: &Settings,
        mut job: Job,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome> {
        let Some((plan, beams)) = settings.whole() else { return Err(lost()) };
        self.prefill(lm)?;
        job.tokens = self.rest(lm)?.to_vec();
        let seed = job.sampling.seed;
        let source = job.into_source(lm.fork(&self.branch)?);
        if let Some(n) = beams {
            return session::beam(lm, setting, plan, source, n, sink);
        }
        let drawn = session::draw(lm, setting, plan, source, &[seed], &mut |_, event| sink(event))?;
        drawn.into_iter().next().ok_or_else(lost)
    }

    /// What is to be evaluated before anything can follow: at least one token, which the branch does not hold.
    fn rest<L: NextLogits<Branch = B>>(&self, lm: &mut L) -> Result<&[TokenId]> {
        let Some(last) = self.tokens.len().checked_sub(1) else {
            let message = "the prompt is empty: expected at least one token";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        };
        let from = lm.len(&self.branch).min(last);
        lm.truncate(&self.branch, from)?;
        Ok(&self.tokens[from..])
    }

    fn check(&self, n_vocab: usize, held: usize, tokens: &[TokenId]) -> Result<()> {
        if let Some(id) = tokens.iter().find(|id| **id as usize >= n_vocab) {
            let message = format!("expected token ids below {n_vocab}, found {id}");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        if tokens.len() > self.n_ctx.saturating_sub(held) {
            let message = format!(
                "expected at most {} tokens (n_ctx), found {held} held and {} to add",
                self.n_ctx,
                tokens.len()
            );
            return Err(Error::new(ErrorKind::ContextFull, message));
        }
        Ok(())
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::Internal, "the answer got lost")
}
