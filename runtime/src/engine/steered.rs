//! Searches by rewards and nudged answers: what a profile asks for, made ready.

use super::prompt;
use super::rewards::model_reward;
use crate::align::Clause;
use crate::config::{NudgeSection, Profile, RewardKind, RewardSection};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::model::{Context, Model};
use crate::reward::{Combine, Combined, Part};
use crate::sampling::{Lent, NextLogits, SamplingParams};
use crate::search::{SearchMethod, SearchParams, plain_sampling};
use crate::session::{Event, Limits, NudgePair, Outcome, nudged};
use crate::steer::Speaker;
use crate::template::{Message, RenderOptions};
use serde_json::Value;
use std::sync::Arc;

/// A search by rewards.
#[derive(Clone, Debug)]
pub struct Search {
    /// How texts are looked for.
    pub params: SearchParams,
    rewards: Vec<RewardSection>,
    combine: Option<Combine>,
    /// Phrases for keyword rewards that name none.
    include: Vec<Clause>,
    /// The models that rewards name.
    models: Vec<(String, Arc<Model>)>,
}

impl Search {
    /// The search that `profile` asks for, if it does. `include`: the phrases of its constraints; `read` gives the
    /// text of a file named in it.
    /// # Errors `BadProfile` if there is nothing to reward; those of the rewards.
    pub fn new(
        profile: &Profile,
        include: &[Clause],
        read: &mut dyn FnMut(&str) -> Result<String>,
    ) -> Result<Option<Self>> {
        let search = Self::waiting(profile, include, read)?;
        match &search {
            Some(search) if search.rewards.is_empty() => search.reward(&[]).map(|_| ())?,
            _ => {}
        }
        Ok(search)
    }

    /// As [`new`](Self::new), but what is rewarded may come later, with each job.
    /// # Errors As there.
    pub fn waiting(
        profile: &Profile,
        include: &[Clause],
        read: &mut dyn FnMut(&str) -> Result<String>,
    ) -> Result<Option<Self>> {
        let Some(params) = profile.search.params() else { return Ok(None) };
        if let SearchMethod::TransferQ | SearchMethod::TransferQIndirect | SearchMethod::TransferQExact =
            params.method
        {
            let message = "search.method = \"transfer_q…\": it needs a second model, which a profile cannot name yet; \
                           expected another method, such as \"controlled\"";
            return Err(Error::new(ErrorKind::BadProfile, message));
        }
        let mut rewards = profile.reward.clone();
        if rewards.is_empty() && !include.is_empty() {
            rewards.push(RewardSection::of(RewardKind::Keyword));
        }
        for (i, reward) in rewards.iter_mut().enumerate() {
            inline(reward, read).at(|| format!("reward {}", i + 1))?;
        }
        let combine = profile.search.combine;
        let search = Self { params, rewards, combine, include: include.to_vec(), models: Vec::new() };
        let needs_rows = include.is_empty() && search.takes_include();
        if !search.rewards.is_empty() && !needs_rows && search.names().next().is_none() {
            search.reward(&[])?; // so that mistakes are found before anything is evaluated
        }
        Ok(Some(search))
    }

    /// Names of the models that rewards ask.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.rewards.iter().flat_map(|r| r.model.iter().chain(&r.base)).map(String::as_str)
    }

    /// Opens the models that rewards ask, by `open`.
    /// # Errors those of `open`, and of the rewards that were waiting for their models.
    pub fn open_models(&mut self, open: &mut dyn FnMut(&str) -> Result<Arc<Model>>) -> Result<()> {
        let mut models: Vec<(String, Arc<Model>)> = Vec::new();
        for name in self.names() {
            if !models.iter().any(|(n, _)| n == name) {
                models.push((name.to_owned(), open(name)?));
            }
        }
        self.models = models;
        match self.include.is_empty() && self.takes_include() {
            true => Ok(()),
            false => self.reward(&[]).map(|_| ()),
        }
    }

    /// Whether a keyword reward leaves its words to the caller.
    fn takes_include(&self) -> bool {
        self.rewards.iter().any(|r| r.kind == RewardKind::Keyword && r.any.is_empty())
    }

    /// The rewards as one. `more`: phrases of this request.
    /// # Errors `BadProfile` without rewards; those of the rewards.
    pub fn reward(&self, more: &[Clause]) -> Result<Combined> {
        self.reward_with(more, Vec::new())
    }

    /// As [`reward`](Self::reward), with the caller's own among them.
    /// # Errors As there.
    pub fn reward_with(&self, more: &[Clause], own: Vec<Part>) -> Result<Combined> {
        let include: Vec<Clause> = self.include.iter().chain(more).cloned().collect();
        if self.rewards.is_empty() && own.is_empty() {
            let message =
                "[search]: expected something to reward ([[reward]], or phrases to include), found nothing";
            return Err(Error::new(ErrorKind::BadProfile, message));
        }
        let part = |(i, section): (usize, &RewardSection)| {
            let place = || format!("reward {}", i + 1);
            let rule = section.rule(&include, &mut |_| Err(no_file())).at(place)?;
            let reward = match rule {
                Some(rule) => rule,
                None => model_reward(section, &|name| self.model(name)).at(place)?,
            };
            Ok(Part { reward, weight: section.weight, transform: section.transform().at(place)? })
        };
        let mut parts: Vec<Part> = self.rewards.iter().enumerate().map(part).collect::<Result<_>>()?;
        parts.extend(own);
        let usual = if parts.len() == 1 { Combine::Sum } else { Combine::And };
        Combined::new(parts, self.combine.unwrap_or(usual))
    }

    /// The settings with a request's sampling, stop strings and limit.
    pub fn params_with(&self, sampling: &SamplingParams, limits: &Limits) -> SearchParams {
        SearchParams {
            stop: limits.stop.clone(),
            max_tokens: limits.max_tokens.unwrap_or(self.params.max_tokens),
            sampling: match self.params.method {
                // its law is the model's own
                SearchMethod::RejectionExact => plain_sampling(sampling.seed),
                _ => sampling.clone(),
            },
            ..self.params.clone()
        }
    }

    fn model(&self, name: &str) -> Result<Arc<Model>> {
        let found = self.models.iter().find(|(n, _)| n == name);
        found.map(|(_, m)| Arc::clone(m)).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                format!("model {name}: expected it to be opened before the search"),
            )
        })
    }

    /// Branches a context needs room for, each of `n_ctx` tokens.
    pub fn n_branches(&self, n_ctx: usize) -> usize {
        let p = &self.params;
        if p.method.draws_texts() {
            return p.samples.max(4) + 2;
        }
        let outlooks = p.beams * p.candidates * p.rollouts;
        let tokens = outlooks.saturating_mul(p.lookahead + 2 * crate::model::PAGE_TOKENS);
        2 * p.beams + 1 + tokens.div_ceil(n_ctx.max(1))
    }
}

/// Puts the text of a schema's file in the place of its name.
fn inline(reward: &mut RewardSection, read: &mut dyn FnMut(&str) -> Result<String>) -> Result<()> {
    let Some(Value::String(text)) = &reward.schema else { return Ok(()) };
    let bad = |e: serde_json::Error| Error::new(ErrorKind::BadProfile, format!("schema: {e}"));
    let text = if text.trim_start().starts_with('{') { text.clone() } else { read(text)? };
    reward.schema = Some(serde_json::from_str(&text).map_err(bad)?);
    Ok(())
}

fn no_file() -> Error {
    Error::new(ErrorKind::Internal, "a file that was not read before")
}

/// The two models of a nudged answer.
#[derive(Debug)]
pub struct Nudging<'a> {
    /// The one that writes.
    pub base: (&'a Model, &'a mut Context),
    /// The smaller, aligned one.
    pub nudger: (&'a Model, &'a mut Context),
}

impl Nudging<'_> {
    /// Answers `text`. A base with a chat template is shown it that way, unless the profile has a prompt for it.
    /// # Errors `Template` if the nudger has no chat template; as [`nudged`].
    pub fn answer(
        &mut self,
        section: &NudgeSection,
        (system, text): (Option<&str>, &str),
        limits: &Limits,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome> {
        let params = section.params(limits.max_tokens)?;
        let chat = |model: &Model| {
            let template = prompt::template(model, None)?;
            let system = system.map(|s| Message::new("system", s));
            let messages: Vec<Message> = system.into_iter().chain([Message::new("user", text)]).collect();
            prompt::chat(model, &template, &messages, &RenderOptions::default(), false)
        };
        let nudger_tokens = chat(self.nudger.0).at(|| "nudger")?;
        let base = self.base.0;
        let base_tokens = match base.template()?.is_some() && section.base_prompt.is_none() {
            true => chat(base).at(|| "base")?,
            false => prompt::raw(base, &section.prompt(system, text)?, false)?,
        };
        let pair = NudgePair {
            base: speaker(&mut self.base, &base_tokens)?,
            nudger: speaker(&mut self.nudger, &nudger_tokens)?,
            model_id: base.id().to_owned(),
            stop: limits.stop.clone(),
        };
        nudged(pair, &params, sink)
    }
}

fn speaker<'s>(
    (model, context): &'s mut (&Model, &mut Context),
    tokens: &'s [crate::token::TokenId],
) -> Result<Speaker<'s, Lent<'s, Context>, &'s crate::vocab::Vocab>> {
    let n_ctx = context.n_ctx();
    let branch = context.root()?;
    Ok(Speaker { lm: Lent(context), tokenizer: model.vocab(), branch, tokens, n_ctx })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_that_needs_a_second_model_is_refused() {
        for method in ["transfer_q", "transfer_q_indirect", "transfer_q_exact"] {
            let text = format!("[search]\nmethod = \"{method}\"\n[[reward]]\nkind = \"repetition\"\n");
            let profile = Profile::parse(&text).expect(method);
            let refused = Search::new(&profile, &[], &mut |_| Ok(String::new())).expect_err(method);
            assert!(refused.kind() == ErrorKind::BadProfile && refused.to_string().contains("second model"));
        }
        let profile = Profile::parse("[search]\nguide = \"smollm2\"\n").expect_err("an unknown key");
        assert!(profile.to_string().contains("guide"), "{profile}");
    }
}
