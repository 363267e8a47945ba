//! A second model in a search: it says what follows a token, behind its own prompt.
//!
//! Why: an aligned model's continuations are worth more as an outlook than the searched one's (Transfer Q*), and a
//! small model's cost less (look-ahead by a cheaper model). It must have the same vocabulary: tokens pass from one
//! to the other. Cost: a second context; a model that is already open is not loaded twice.

use super::prompt;
use crate::config::{RewardSection, SearchSection};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::model::{Context, ContextOptions, Model, PAGE_TOKENS};
use crate::reward::Reward;
use crate::sampling::NextLogits;
use crate::search::{Guide, GuideModel, Help, SearchMethod, SearchParams};
use crate::steer::same_vocabulary;
use crate::template::{ChatTemplate, Message, RenderOptions};
use crate::token::TokenId;
use crate::vocab::Vocab;
use std::sync::Arc;

/// What a profile says of the second model.
#[derive(Clone, Debug, Default)]
pub(super) struct GuideSection {
    pub name: Option<String>,
    pub system: Option<String>,
    pub reward: Option<RewardSection>,
}

impl GuideSection {
    /// # Errors `BadProfile` for what `method` has no use for, or needs and is not there.
    pub fn new(section: &SearchSection, method: SearchMethod) -> Result<Self> {
        use SearchMethod as M;
        let has_guide = section.guide.is_some();
        let needs_guide = matches!(method, M::TransferQ | M::TransferQIndirect);
        let needs_reward = matches!(method, M::TransferQIndirect | M::TransferQExact);
        let bad = |message: &str| Err(Error::new(ErrorKind::BadProfile, message.to_owned()));
        if needs_guide && !has_guide {
            return bad("transfer_q: expected search.guide to name a second model, found none");
        }
        if needs_reward && section.guide_reward.is_none() {
            return bad(
                "transfer_q: expected search.guide_reward, what the model was aligned for, found none",
            );
        }
        if method == M::TransferQExact && has_guide {
            return bad("transfer_q_exact: expected no search.guide: MODEL itself must be the aligned one");
        }
        if method.draws_texts() && has_guide {
            return bad(
                "search.guide: expected a method that weighs tokens, found one that draws whole texts",
            );
        }
        if section.guide_system.is_some() && !has_guide {
            return bad("search.guide_system: expected search.guide to name a second model, found none");
        }
        let reward = section.guide_reward.clone().filter(|_| needs_reward);
        Ok(Self { name: section.guide.clone(), system: section.guide_system.clone(), reward })
    }

    /// # Errors `BadProfile` if a second model is named and nothing asks it.
    pub fn refuse(section: &SearchSection) -> Result<()> {
        if section.guide.is_none() && section.guide_system.is_none() && section.guide_reward.is_none() {
            return Ok(());
        }
        let message = "search.guide: expected a search.method that asks a second model, found none";
        Err(Error::new(ErrorKind::BadProfile, message))
    }
}

/// The second model with room for its outlooks.
pub(super) struct GuideContext {
    model: Arc<Model>,
    context: Context,
    template: Option<ChatTemplate>,
    system: Option<String>,
}

impl GuideContext {
    pub fn new(
        model: Arc<Model>,
        vocab: &Vocab,
        system: Option<String>,
        (n_ctx, params): (usize, &SearchParams),
    ) -> Result<Self> {
        same_vocabulary(vocab, model.vocab()).at(|| "search.guide")?;
        let template = model.template()?.map(|_| prompt::template(&model, None)).transpose()?;
        let n_ctx = n_ctx.min(model.spec().n_ctx_train.max(1));
        let outlook = params.lookahead.saturating_add(2 * PAGE_TOKENS);
        let outlooks = params.candidates.saturating_mul(params.rollouts).saturating_mul(outlook);
        let n_kv_tokens = n_ctx.saturating_mul(2).saturating_add(outlooks);
        let options = ContextOptions { n_ctx, n_kv_tokens, ..ContextOptions::default() };
        let context = Context::new(&model, &options).at(|| "search.guide")?;
        Ok(Self { model, context, template, system })
    }

    fn tokens(&self, text: &str) -> Result<Vec<TokenId>> {
        let Some(template) = &self.template else {
            return Ok(prompt::raw(&self.model, text, false)?.ids);
        };
        let system = self.system.iter().map(|s| Message::new("system", s));
        let messages: Vec<Message> = system.chain([Message::new("user", text)]).collect();
        Ok(prompt::chat(&self.model, template, &messages, &RenderOptions::default(), false)?.ids)
    }
}

/// What helps a search, request by request.
pub struct Helper {
    pub(super) guide: Option<GuideContext>,
    pub(super) baseline: Option<Box<dyn Reward>>,
}

impl std::fmt::Debug for Helper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Helper").field("guide", &self.guide.is_some()).finish_non_exhaustive()
    }
}

impl Helper {
    /// Calls `f` with the help for a search behind `text`, the user's words.
    /// # Errors those of `f`; `ContextFull` if the guide's prompt does not fit; those of the guide.
    pub fn with<T>(
        &mut self,
        text: &str,
        stops: &[String],
        f: impl FnOnce(Help<'_>) -> Result<T>,
    ) -> Result<T> {
        let baseline: Option<&mut dyn Reward> = match &mut self.baseline {
            Some(baseline) => Some(&mut **baseline),
            None => None,
        };
        let Some(guide) = &mut self.guide else {
            return f(Help { baseline, ..Help::default() });
        };
        let tokens = guide.tokens(text).at(|| "search.guide")?;
        let branch = guide.context.root()?;
        let mut asked = GuideModel::new(&mut guide.context, guide.model.vocab(), (branch, &tokens), stops)
            .at(|| "search.guide")?;
        f(Help { guide: Some(&mut asked as &mut dyn Guide), baseline, ..Help::default() })
    }
}
