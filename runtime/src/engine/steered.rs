//! Searches by rewards: what a profile asks for, made ready.

use super::guided::{GuideContext, GuideSection, Helper};
use super::rewards::model_reward;
use crate::align::Clause;
use crate::config::{Profile, RewardKind, RewardSection};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::model::Model;
use crate::reward::{Combine, Combined, Part};
use crate::sampling::SamplingParams;
use crate::search::{SearchMethod, SearchParams, plain_sampling};
use crate::session::Limits;
use crate::vocab::Vocab;
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
    /// A second model that helps, and the reward it was aligned for.
    guide: GuideSection,
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
        let Some(params) = profile.search.params() else {
            return GuideSection::refuse(&profile.search).map(|()| None);
        };
        let guide = GuideSection::new(&profile.search, params.method)?;
        let mut rewards = profile.reward.clone();
        if rewards.is_empty() && !include.is_empty() {
            rewards.push(RewardSection::of(RewardKind::Keyword));
        }
        for (i, reward) in rewards.iter_mut().enumerate() {
            inline(reward, read).at(|| format!("reward {}", i + 1))?;
        }
        let combine = profile.search.combine;
        let search = Self { params, rewards, combine, include: include.to_vec(), guide, models: Vec::new() };
        let needs_rows = include.is_empty() && search.takes_include();
        if !search.rewards.is_empty() && !needs_rows && search.names().next().is_none() {
            search.reward(&[])?; // so that mistakes are found before anything is evaluated
        }
        Ok(Some(search))
    }

    /// Names of the models that rewards ask, and of the one that helps.
    fn names(&self) -> impl Iterator<Item = &str> {
        let rewards = self.rewards.iter().chain(&self.guide.reward);
        rewards.flat_map(|r| r.model.iter().chain(&r.base)).chain(&self.guide.name).map(String::as_str)
    }

    /// Whether a second model says what follows.
    pub fn has_guide(&self) -> bool {
        self.guide.name.is_some()
    }

    /// What helps the search of a model with this vocabulary, ready for requests of up to `n_ctx` tokens.
    /// # Errors `VocabMismatch` if the guide has another vocabulary; those of its context and of the reward.
    pub fn helper(&self, vocab: &Vocab, n_ctx: usize) -> Result<Helper> {
        let guide = match &self.guide.name {
            Some(name) => Some(GuideContext::new(
                self.model(name).at(|| "search.guide")?,
                vocab,
                self.guide.system.clone(),
                (n_ctx, &self.params),
            )?),
            None => None,
        };
        let baseline = match &self.guide.reward {
            Some(section) => Some(self.part(section, &self.include).at(|| "search.guide_reward")?.reward),
            None => None,
        };
        Ok(Helper { guide, baseline })
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
            self.part(section, &include).at(|| format!("reward {}", i + 1))
        };
        let mut parts: Vec<Part> = self.rewards.iter().enumerate().map(part).collect::<Result<_>>()?;
        parts.extend(own);
        let usual = if parts.len() == 1 { Combine::Sum } else { Combine::And };
        Combined::new(parts, self.combine.unwrap_or(usual))
    }

    fn part(&self, section: &RewardSection, include: &[Clause]) -> Result<Part> {
        let reward = match section.rule(include, &mut |_| Err(no_file()))? {
            Some(rule) => rule,
            None => model_reward(section, &|name| self.model(name))?,
        };
        Ok(Part { reward, weight: section.weight, transform: section.transform()? })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_that_lacks_its_second_model_is_refused() {
        let search = |text: &str| {
            let text = format!("[search]\n{text}\n[[reward]]\nkind = \"repetition\"\n");
            let profile = Profile::parse(&text).map_err(|e| e.to_string())?;
            Search::new(&profile, &[], &mut |_| Ok(String::new())).map_err(|e| e.to_string())
        };
        let reward = "guide_reward = { kind = \"length\", unit = \"words\", range = \"..9\" }";
        for (text, word) in [
            ("method = \"transfer_q\"".to_owned(), "search.guide"),
            ("method = \"transfer_q_indirect\"\nguide = \"m\"".to_owned(), "guide_reward"),
            ("method = \"transfer_q_exact\"".to_owned(), "guide_reward"),
            (format!("method = \"transfer_q_exact\"\nguide = \"m\"\n{reward}"), "MODEL itself"),
            ("method = \"best_of\"\nguide = \"m\"".to_owned(), "weighs tokens"),
            ("guide = \"m\"".to_owned(), "search.method"),
            ("method = \"deal\"\nguide_system = \"Be kind.\"".to_owned(), "search.guide"),
        ] {
            let message = search(&text).expect_err(&text);
            assert!(message.contains(word), "{text}: {message}");
        }
        for text in [
            "method = \"transfer_q\"\nguide = \"m\"".to_owned(),
            "method = \"deal\"\nguide = \"m\"\nguide_system = \"Be kind.\"".to_owned(),
            format!("method = \"transfer_q_indirect\"\nguide = \"m\"\n{reward}"),
            format!("method = \"transfer_q_exact\"\n{reward}"),
        ] {
            let search = search(&text).expect(&text).expect("a search");
            assert_eq!(search.has_guide(), !text.contains("exact"), "{text}");
        }
    }
}
