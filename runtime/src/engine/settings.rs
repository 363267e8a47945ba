//! A profile made ready for one model.

use super::{Job, PrefixStore, Search};
use crate::align::{Constraints, Lexicon, TokenTrie, taken_back};
use crate::config::{ExpertSection, Method, Mode, PrefillPolicy, Profile};
use crate::error::{Error, ErrorKind, Result};
use crate::guard::{ExpertRule, GuardPlan, prefill};
use crate::sampling::SamplingParams;
use crate::session::{AlignPlan, Aligned, BeamParams, Limits, heal};
use crate::token::TokenId;
use std::sync::Arc;

/// Branches that exact sampling keeps, and the prompt's.
const EXACT_BRANCHES: usize = 10;

/// Shorter contexts than this are not reckoned with when room for outlooks is made.
const MIN_CTX: usize = 512;

/// What every answer under one profile shares.
#[derive(Debug)]
pub struct Settings {
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// When to end.
    pub limits: Limits,
    /// A search with texts side by side; needs a constraint that is masked.
    pub beams: Option<BeamParams>,
    /// A search by rewards.
    pub search: Option<Search>,
    /// Where the constant beginning of prompts is kept, and its tokens.
    pub kept: Option<(PrefixStore, Vec<TokenId>)>,
    /// How the first tokens are mixed with those of a job's expert.
    pub expert: Option<ExpertRule>,
    /// Heals the ends of prompts with the tokens of this tree.
    healing: Option<Arc<TokenTrie>>,
    plan: Option<AlignPlan>,
    guards: Option<GuardPlan>,
    /// The profile asks for guards: without them nothing may run.
    needs_guards: bool,
    /// The profile asks for adapters, which are the context's.
    needs_adapters: bool,
    /// First words of every answer, and what becomes of such words.
    prefill: Vec<TokenId>,
    prefill_policy: Option<PrefillPolicy>,
}

impl Settings {
    /// The settings that `profile` asks for. `asked`: its constraints, as built; `lexicon`: the vocabulary made
    /// ready for constraints, asked for only if there are some. Files that rewards name are read as they are named:
    /// [`Profile::place_files`] places them beside the profile.
    /// # Errors  `BadProfile` for what cannot be combined; those of phrases and grammars.
    pub fn new(
        profile: &Profile,
        asked: Constraints,
        lexicon: impl FnOnce() -> Arc<Lexicon>,
    ) -> Result<Self> {
        let search = Search::new(profile, &asked.wording.include, &mut |file| {
            std::fs::read_to_string(file)
                .map_err(|e| Error::new(ErrorKind::Io, e.to_string()).at(file.to_owned()))
        })?;
        Self::with_search(profile, asked, lexicon, search)
    }

    /// As [`new`](Self::new), with the search made by the caller, who may add rewards to each job.
    /// # Errors  As there.
    pub fn with_search(
        profile: &Profile,
        asked: Constraints,
        lexicon: impl FnOnce() -> Arc<Lexicon>,
        search: Option<Search>,
    ) -> Result<Self> {
        let plan = match asked.is_empty() {
            true => None,
            false => AlignPlan::new(&profile.constraints, asked, &lexicon())?,
        };
        let is_search = profile.search.method == Method::Beam;
        if is_search && plan.as_ref().is_none_or(|plan| plan.mode() != Mode::Mask) {
            let message =
                "search.method = \"beam\": expected a constraint with mode = \"mask\" to search under";
            return Err(Error::new(ErrorKind::BadProfile, message));
        }
        if is_search {
            profile.search.beam_params().validate()?; // before anything is reckoned with them
        }
        Ok(Self {
            sampling: profile.sampling.clone(),
            limits: Limits {
                max_tokens: profile.limits.max_tokens,
                stop: profile.limits.stop.clone(),
                ..Limits::default()
            },
            beams: is_search.then_some(profile.search.beam_params()),
            search,
            kept: None,
            expert: profile.expert.as_ref().map(ExpertSection::rule),
            healing: None,
            plan,
            guards: None,
            needs_guards: !profile.guard.is_empty() || profile.prompt.prefill.is_some(),
            needs_adapters: !profile.adapters.is_empty()
                || profile.control.is_some()
                || profile.expert.is_some(),
            prefill: Vec::new(),
            prefill_policy: profile.prompt.prefill_policy,
        })
    }

    /// No constraints, no search.
    pub fn plain(sampling: SamplingParams, limits: Limits) -> Self {
        Self {
            sampling,
            limits,
            beams: None,
            search: None,
            kept: None,
            expert: None,
            healing: None,
            plan: None,
            guards: None,
            needs_guards: false,
            needs_adapters: false,
            prefill: Vec::new(),
            prefill_policy: None,
        }
    }

    /// From here on the last tokens of a prompt are spelled again if longer ones could stand there: for prompts that
    /// are to be continued as they are. Not for texts that are searched or drawn from the conditioned law.
    pub fn heal_prompts(&mut self, lexicon: &Lexicon) {
        self.healing = Some(Arc::clone(lexicon.trie()));
    }

    /// Takes the guards that the profile asks for, made by [`GuardPlan::new`], and the first words of every answer.
    pub fn set_guards(&mut self, guards: Option<GuardPlan>, prefill: Vec<TokenId>) {
        self.guards = guards;
        self.prefill = prefill;
        self.needs_guards = false;
    }

    /// Says that the context has the adapters that the profile asks for.
    pub fn set_adapted(&mut self) {
        self.needs_adapters = false;
    }

    /// What becomes of an answer's beginning that the caller gives.
    pub fn set_prefill_policy(&mut self, policy: PrefillPolicy) {
        self.prefill_policy = Some(policy);
    }

    /// The guards, if there are some.
    pub fn guards(&self) -> Option<&GuardPlan> {
        self.guards.as_ref()
    }

    /// The constraints, if there are some.
    pub fn plan(&self) -> Option<&AlignPlan> {
        self.plan.as_ref()
    }

    /// The plan, if texts come whole: drawn from the conditioned law, or searched with so many beams.
    pub fn whole(&self) -> Option<(&AlignPlan, Option<BeamParams>)> {
        let plan = self.plan.as_ref().filter(|plan| self.beams.is_some() || plan.mode() != Mode::Mask)?;
        Some((plan, self.beams))
    }

    /// Branches a context needs room for, when `n_parallel` texts are drawn together.
    pub fn n_branches(&self, n_parallel: usize) -> usize {
        let n_parallel = if self.expert.is_some() { 2 * n_parallel } else { n_parallel };
        if let Some(search) = &self.search {
            return search.n_branches(MIN_CTX);
        }
        match self.whole() {
            Some((_, Some(beams))) => beams.n_branches(),
            Some((plan, None)) => EXACT_BRANCHES + plan.exact().particles,
            // beside each text the fork that an assistant header is tried on
            None if self.guards.is_some() => 2 * n_parallel,
            None => n_parallel,
        }
    }

    /// What a text after `n_prompt` tokens must satisfy, in a context of `n_ctx`.
    /// # Errors  `Unsatisfiable` if no text within the limits is known.
    pub fn aligned(&self, n_prompt: usize, limits: &Limits, n_ctx: usize) -> Result<Aligned> {
        let room = n_ctx.saturating_sub(n_prompt);
        match &self.plan {
            Some(plan) => plan.aligned(limits.max_tokens.unwrap_or(usize::MAX).min(room)),
            None => Ok(Aligned::default()),
        }
    }

    /// These settings on a prompt, in a context of `n_ctx` tokens.
    /// # Errors  `Unsatisfiable` if no text within the limits is known.
    pub fn job(&self, tokens: Vec<TokenId>, n_ctx: usize) -> Result<Job> {
        self.job_with(tokens, self.sampling.clone(), self.limits.clone(), n_ctx)
    }

    /// As [`job`](Self::job) with other sampling and limits.
    /// # Errors  As there.
    pub fn job_with(
        &self,
        tokens: Vec<TokenId>,
        sampling: SamplingParams,
        limits: Limits,
        n_ctx: usize,
    ) -> Result<Job> {
        self.job_from((tokens, self.prefill.clone()), sampling, limits, n_ctx)
    }

    /// As [`job_with`](Self::job_with), for an answer that begins with the tokens of `prefix`.
    /// # Errors  As there; `InvalidArgument` for a prefix that the policy rejects and for settings that guards do
    /// not allow; `BadProfile` if guards were asked for and not made, or do not go with the way of searching.
    pub fn job_from(
        &self,
        (tokens, prefix): (Vec<TokenId>, Vec<TokenId>),
        sampling: SamplingParams,
        limits: Limits,
        n_ctx: usize,
    ) -> Result<Job> {
        let is_guarded = self.guards.is_some() || !prefix.is_empty();
        let bad = |message: &str| Err(Error::new(ErrorKind::BadProfile, message));
        if self.needs_guards {
            return bad("the profile asks for guards or a prefill, which were not made ready");
        }
        if self.needs_adapters {
            return bad("the profile asks for adapters or an expert, which were not made ready");
        }
        if is_guarded && (self.whole().is_some() || self.search.is_some() || self.healing.is_some()) {
            return bad("guards and a prefill do not go with texts that are searched, drawn whole or healed");
        }
        if let Some(guards) = &self.guards {
            guards.check_sampling(&sampling, limits.ignore_eos)?;
        }
        let usual = if self.guards.is_some() { PrefillPolicy::Inspect } else { PrefillPolicy::Trust };
        let fed = prefill(self.prefill_policy.unwrap_or(usual), tokens, prefix)?;
        let n_prompt = fed.prompt.len() + fed.inspected.len();
        if let Some(trie) = self.healing.as_ref().filter(|_| self.whole().is_none() && self.search.is_none())
        {
            return self.healed(trie, fed.prompt, sampling, limits, n_ctx);
        }
        let mut aligned = self.aligned(n_prompt, &limits, n_ctx)?;
        aligned.watch = self.guards.as_ref().map(GuardPlan::watch);
        aligned.prefix = fed.inspected;
        Ok(Job {
            prompt: String::new(),
            tokens: fed.prompt,
            sampling,
            limits,
            aligned,
            mix: None,
            rewards: Vec::new(),
            expert: None,
        })
    }

    /// A job whose prompt ends in tokens that may be spelled again.
    fn healed(
        &self,
        trie: &Arc<TokenTrie>,
        mut tokens: Vec<TokenId>,
        sampling: SamplingParams,
        limits: Limits,
        n_ctx: usize,
    ) -> Result<Job> {
        let (n, prefix) = taken_back(&tokens, trie);
        tokens.truncate(tokens.len() - n);
        // what the prefix may take at most, a token a byte, is not the constraint's to spend
        let rest = Limits {
            max_tokens: limits.max_tokens.map(|m| m.saturating_sub(prefix.len())),
            ..limits.clone()
        };
        let aligned = self.aligned(tokens.len() + prefix.len(), &rest, n_ctx)?;
        let aligned = if prefix.is_empty() { aligned } else { heal(aligned, trie, prefix)? };
        Ok(Job {
            prompt: String::new(),
            tokens,
            sampling,
            limits,
            aligned,
            mix: None,
            rewards: Vec::new(),
            expert: None,
        })
    }
}
