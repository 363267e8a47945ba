//! Nudged answers: the two models, their prompts and what both must keep to.

use super::prompt;
use crate::align::Constraints;
use crate::config::{ConstraintSection, Mode, NudgeSection, OnExclude};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::model::{Context, Model};
use crate::sampling::{Lent, NextLogits};
use crate::session::{AlignPlan, Event, Limits, NudgePair, Outcome, lexicon, nudged};
use crate::steer::Speaker;
use crate::template::{Message, RenderOptions};
use crate::token::TokenId;
use std::sync::Arc;

/// The constraints of a nudged answer, for each model in its own tokens: a text passes from one to the other, and
/// both must be able to go on with it.
#[derive(Debug)]
pub struct NudgePlans {
    base: AlignPlan,
    nudger: AlignPlan,
}

/// Tokens that the nudger may take for one of the base's: limits are the base's, whose tokens may be longer.
const TOKENS_A_TOKEN: usize = 8;

impl NudgePlans {
    /// The plans for `asked`; `None` if nothing is asked. Excluded phrases are masked: there is nothing to take back
    /// from a text that two models write.
    /// # Errors those of the constraints; `BadProfile` for another mode than `mask`.
    pub fn new(
        section: &ConstraintSection,
        asked: &Constraints,
        base: &Arc<Model>,
        nudger: &Arc<Model>,
    ) -> Result<Option<Self>> {
        if section.mode() != Mode::Mask {
            let message = "nudging takes the likeliest tokens: expected mode = \"mask\", found another";
            return Err(Error::new(ErrorKind::BadProfile, message));
        }
        let mut section = section.clone();
        (section.on_exclude, section.hold_partial) = (OnExclude::Mask, false);
        let of = |model| AlignPlan::new(&section, asked.clone(), &lexicon(model));
        Ok(match (of(base)?, of(nudger).at(|| "nudger")?) {
            (Some(base), Some(nudger)) => Some(Self { base, nudger }),
            _ => None,
        })
    }
}

/// The two models of a nudged answer.
#[derive(Debug)]
pub struct Nudging<'a> {
    /// The one that writes.
    pub base: (&'a Model, &'a mut Context),
    /// The smaller, aligned one.
    pub nudger: (&'a Model, &'a mut Context),
    /// What the text must satisfy.
    pub plans: Option<&'a NudgePlans>,
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
        let mut params = section.params(limits.max_tokens)?;
        let chat = |model: &Model| {
            let template = prompt::template(model, None)?;
            let system = system.map(|s| Message::new("system", s));
            let messages: Vec<Message> = system.into_iter().chain([Message::new("user", text)]).collect();
            prompt::chat(model, &template, &messages, &RenderOptions::default(), false)
        };
        let nudger_tokens = chat(self.nudger.0).at(|| "nudger")?;
        let base = self.base.0;
        let model_id = base.id().to_owned();
        let base_tokens = match base.template()?.is_some() && section.base_prompt.is_none() {
            true => chat(base).at(|| "base")?,
            false => prompt::raw(base, &section.prompt(system, text)?, false)?,
        };
        params.max_tokens =
            params.max_tokens.min(self.base.1.n_ctx().saturating_sub(base_tokens.ids.len()).max(1));
        let mut base = speaker(&mut self.base, &base_tokens)?;
        base.scores = true;
        let mut nudger = speaker(&mut self.nudger, &nudger_tokens)?;
        let mut judge = None;
        if let Some(plans) = self.plans {
            let aligned = plans.base.aligned(params.max_tokens)?;
            (base.constraint, judge) = (aligned.constraint, aligned.judge);
            let most = params.max_tokens.saturating_mul(TOKENS_A_TOKEN);
            nudger.constraint = plans.nudger.aligned(most).at(|| "nudger")?.constraint;
        }
        let stop = limits.stop.clone();
        nudged(NudgePair { base, nudger, model_id, stop, judge }, &params, sink)
    }
}

fn speaker<'s>(
    (model, context): &'s mut (&Model, &mut Context),
    tokens: &'s [TokenId],
) -> Result<Speaker<'s, Lent<'s, Context>, &'s crate::vocab::Vocab>> {
    let n_ctx = context.n_ctx();
    let branch = context.root()?;
    Ok(Speaker::new(Lent(context), model.vocab(), branch, tokens, n_ctx))
}
