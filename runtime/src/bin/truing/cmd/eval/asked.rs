//! From what a row asks to the constraint of its request.

use super::suite::Asked;
use std::sync::Arc;
use truing::align::{Constraints, Lexicon, Wording};
use truing::config::{self, ConstraintSection};
use truing::session::{AlignPlan, Aligned};

/// Puts rows' constraints beside those of the profile.
pub struct Planner<'a> {
    pub section: &'a ConstraintSection,
    pub base: &'a Constraints,
    pub lexicon: Arc<Lexicon>,
}

impl Planner<'_> {
    /// The constraint of a row with this many tokens of room. Where the row is content with parts, the shape is
    /// given up first, then the wording.
    /// # Errors Those of the constraints: what is unsupported or cannot be satisfied.
    pub fn aligned(&self, asked: &Asked, max_tokens: usize) -> truing::Result<Aligned> {
        let whole = self.plan(asked, max_tokens);
        if whole.is_ok() || !asked.in_parts {
            return whole;
        }
        let words = Asked { wording: asked.wording.clone(), ..Asked::default() };
        let shape = Asked { shape: asked.shape.clone(), ..Asked::default() };
        let parts = [words, shape, Asked::default()];
        parts.iter().find_map(|part| self.plan(part, max_tokens).ok()).map_or(whole, Ok)
    }

    fn plan(&self, asked: &Asked, max_tokens: usize) -> truing::Result<Aligned> {
        let mut constraints = self.base.clone();
        add(&mut constraints.wording, &asked.wording);
        if let Some((kind, text)) = &asked.shape {
            constraints.shape = Some(config::shape(*kind, text)?);
        }
        match AlignPlan::new(self.section, constraints, &self.lexicon)? {
            Some(plan) => plan.aligned(max_tokens),
            None => Ok(Aligned::default()),
        }
    }
}

/// Asks for both: clauses and exclusions add up, lengths narrow.
fn add(base: &mut Wording, more: &Wording) {
    base.include.extend(more.include.iter().cloned());
    base.exclude.extend(more.exclude.iter().cloned());
    for (limit, other) in base.length.iter_mut().zip(more.length) {
        limit.min = limit.min.max(other.min);
        limit.max = [limit.max, other.max].into_iter().flatten().min();
    }
}
