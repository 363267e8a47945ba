//! From what a row asks to the constraint of its request.

use super::suite::Asked;
use std::sync::Arc;
use truing::align::{Constraints, Lexicon, Wording};
use truing::config::{self, ConstraintSection};
use truing::session::AlignPlan;

/// Puts rows' constraints beside those of the profile.
pub struct Planner<'a> {
    pub section: &'a ConstraintSection,
    pub base: &'a Constraints,
    pub lexicon: Arc<Lexicon>,
}

impl Planner<'_> {
    /// The plan of a row with this many tokens of room; none if it asks nothing. Where the row is content with parts,
    /// the shape is given up first, then the wording.
    /// # Errors Those of the constraints: what is unsupported or cannot be satisfied.
    pub fn plan(&self, asked: &Asked, max_tokens: usize) -> truing::Result<Option<AlignPlan>> {
        let whole = self.whole(asked, max_tokens);
        if whole.is_ok() || !asked.in_parts {
            return whole;
        }
        let words = Asked { wording: asked.wording.clone(), ..Asked::default() };
        let shape = Asked { shape: asked.shape.clone(), ..Asked::default() };
        let parts = [words, shape, Asked::default()];
        parts.iter().find_map(|part| self.whole(part, max_tokens).ok()).map_or(whole, Ok)
    }

    fn whole(&self, asked: &Asked, max_tokens: usize) -> truing::Result<Option<AlignPlan>> {
        let mut constraints = self.base.clone();
        add(&mut constraints.wording, &asked.wording);
        if let Some((kind, text)) = &asked.shape {
            constraints.shape = Some(config::shape(*kind, text)?);
        }
        let plan = AlignPlan::new(self.section, constraints, &self.lexicon)?;
        if let Some(plan) = &plan {
            plan.aligned(max_tokens)?; // satisfiable within the limit
        }
        Ok(plan)
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
