//! From the constraints of a profile to what each request of one model carries.

use super::aligned::{Aligned, Bans, OnMatch};
use super::conditioned::ExactOptions;
use crate::align::{
    Constraint, Constraints, Healing, HoldBack, Judge, Lexicon, Limits, TokenBytes, TokenTrie,
};
use crate::config::{ConstraintSection, Mode, OnExclude};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;
use crate::token::TokenId;
use std::sync::{Arc, Mutex, PoisonError};

/// The vocabulary of a model as constraints see it.
struct ModelTokens(Arc<Model>);

impl TokenBytes for ModelTokens {
    fn n_vocab(&self) -> usize {
        self.0.vocab().len()
    }
    fn bytes(&self, id: TokenId) -> &[u8] {
        self.0.vocab().token_bytes(id)
    }
    fn eog_ids(&self) -> &[TokenId] {
        self.0.vocab().eog_ids()
    }
}

/// The vocabulary of `model` made ready for constraints: 10 to 100 ms, once a model.
pub fn lexicon(model: &Arc<Model>) -> Arc<Lexicon> {
    Arc::new(Lexicon::new(Arc::new(ModelTokens(Arc::clone(model)))))
}

/// `aligned` for a text that begins with `prefix`, taken back from the end of the prompt: see
/// [`taken_back`](crate::align::taken_back). Its constraint must know a token limit lower by the bytes of `prefix`.
/// # Errors `Unencodable` if no tokens spell `prefix`.
pub fn heal(aligned: Aligned, trie: &Arc<TokenTrie>, prefix: Vec<u8>) -> Result<Aligned> {
    let n_healed = prefix.len();
    let healing = Healing::new(Arc::clone(trie), prefix, aligned.constraint)?;
    Ok(Aligned { constraint: Some(Box::new(healing)), n_healed, ..aligned })
}

/// Constraints made ready for the requests of one model.
#[derive(Debug)]
pub struct AlignPlan {
    /// What is masked.
    masked: Constraints,
    judge: Arc<Judge>,
    bans: Option<Bans>,
    pressure: f32,
    mode: Mode,
    exact: ExactOptions,
    lexicon: Arc<Lexicon>,
    /// Wordings at their start, by token limit, the last one used at the end: what one request has found out, its
    /// masks above all, serves the next ones.
    compiled: Compiled,
}

/// Most token limits for which a constraint is kept.
const MAX_COMPILED: usize = 4;

#[derive(Default)]
struct Compiled(Mutex<heapless::Vec<(usize, Box<dyn Constraint>), MAX_COMPILED>>);

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled").finish_non_exhaustive()
    }
}

impl AlignPlan {
    /// The plan for `section`, whose constraints are `asked`; `None` if nothing is asked.
    /// # Errors Those of the phrases and grammars; `BadProfile` for what cannot be combined.
    pub fn new(
        section: &ConstraintSection,
        asked: Constraints,
        lexicon: &Arc<Lexicon>,
    ) -> Result<Option<Self>> {
        if asked.is_empty() {
            return Ok(None);
        }
        let judge = Arc::new(Judge::new(&asked)?);
        let phrases = asked.wording.exclude.clone();
        let on_match = match section.on_exclude {
            OnExclude::Stop => OnMatch::Stop,
            _ => OnMatch::Backtrack,
        };
        let is_masked = section.on_exclude == OnExclude::Mask;
        let mut masked = asked;
        if !is_masked {
            masked.wording.exclude.clear();
        }
        let is_filtered = !phrases.is_empty() && (!is_masked || section.hold_partial);
        if is_filtered && masked.after.is_some() {
            let message = "excluded phrases that are held back cannot be limited to a part of the text: \
                           expected on_exclude = \"mask\" without hold_partial, or no `after`";
            return Err(Error::new(ErrorKind::BadProfile, message));
        }
        // a text that ends at a phrase ends right before it; one that goes on is cut between tokens
        let make = if on_match == OnMatch::Stop { HoldBack::new } else { HoldBack::by_push };
        let filter = is_filtered.then(|| make(&phrases)).transpose()?;
        Ok(Some(Self {
            masked,
            judge,
            bans: filter.map(|filter| Bans { filter, on_match }),
            pressure: section.pressure,
            mode: section.mode(),
            exact: exact_options(section),
            lexicon: Arc::clone(lexicon),
            compiled: Compiled::default(),
        }))
    }

    /// What a request with this many tokens of room carries; `max_tokens` counts the ending token.
    /// # Errors `Unsatisfiable` if no text within the limits is known, before the model is asked anything.
    pub fn aligned(&self, max_tokens: usize) -> Result<Aligned> {
        let constraint = match self.masked.is_empty() {
            true => None,
            false => Some(self.constraint(max_tokens)?),
        };
        Ok(Aligned {
            constraint,
            bans: self.bans.clone(),
            pressure: self.pressure,
            n_healed: 0,
            judge: Some(Arc::clone(&self.judge)),
            ..Aligned::default()
        })
    }

    /// The constraint of a text of at most so many tokens, at its start.
    fn constraint(&self, max_tokens: usize) -> Result<Box<dyn Constraint>> {
        let limits = Limits {
            max_tokens: Some(max_tokens),
            allow_dead_ends: self.mode != Mode::Mask,
            ..Limits::default()
        };
        if self.masked.shape.is_some() {
            // its tables grow as they are used and have limits: what one request may do must not depend on others
            return self.masked.compile(&self.lexicon, limits);
        }
        let mut compiled = self.compiled.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = compiled.iter().position(|(limit, _)| *limit == max_tokens) {
            compiled[at..].rotate_left(1);
        } else {
            let constraint = self.masked.compile(&self.lexicon, limits)?;
            if compiled.is_full() {
                compiled.remove(0);
            }
            let _ = compiled.push((max_tokens, constraint));
        }
        let newest = compiled.last().map(|(_, constraint)| constraint.fork());
        newest.ok_or_else(|| Error::new(ErrorKind::Internal, "a constraint was compiled and is not there"))
    }

    /// Settings of exact sampling.
    pub fn exact(&self) -> &ExactOptions {
        &self.exact
    }

    /// Judges finished texts.
    pub fn judge(&self) -> &Judge {
        &self.judge
    }

    /// How the constraint is kept.
    pub fn mode(&self) -> Mode {
        self.mode
    }
}

fn exact_options(section: &ConstraintSection) -> ExactOptions {
    let default = ExactOptions::default();
    let Some(given) = &section.grammar else { return default };
    ExactOptions {
        seed_draws: given.seed_draws.unwrap_or(default.seed_draws),
        max_draws: given.max_draws.unwrap_or(default.max_draws),
        node_cache_bytes: given
            .node_cache_mib
            .map_or(default.node_cache_bytes, |mib| mib.saturating_mul(1 << 20)),
        on_exhausted: given.on_exhausted,
        particles: given.particles.unwrap_or(default.particles),
    }
}
