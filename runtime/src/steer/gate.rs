//! What a model may say under a constraint, wherever the text has gone.

use crate::align::Constraint;
use crate::error::{Error, ErrorKind, Result};
use crate::kernels;
use crate::token::{TokenId, TokenSet};

/// A constraint that follows a text which grows and is cut.
pub struct Gate {
    constraint: Box<dyn Constraint>,
    /// What it has accepted.
    ids: Vec<TokenId>,
    mask: TokenSet,
}

impl Gate {
    /// `constraint`: at its start. `n_vocab`: of the model's rows.
    pub fn new(constraint: Box<dyn Constraint>, n_vocab: usize) -> Self {
        Self { constraint, ids: Vec::new(), mask: TokenSet::all(n_vocab) }
    }

    /// Moves to behind `ids`; the number of those that can be said, all if nothing stands against them.
    pub fn follow(&mut self, ids: &[TokenId]) -> Result<usize> {
        let same = self.ids.iter().zip(ids).take_while(|(a, b)| a == b).count();
        self.constraint.rollback(self.ids.len() - same)?;
        self.ids.truncate(same);
        for &id in &ids[same..] {
            if !self.constraint.accept(id)? {
                break;
            }
            self.ids.push(id);
        }
        Ok(self.ids.len())
    }

    /// The likeliest allowed token behind `ids` by `row`, and its share of what is allowed.
    /// # Errors `Unsatisfiable` if `ids` cannot be said, or nothing may follow them.
    pub fn top(&mut self, ids: &[TokenId], row: &[f32], scratch: &mut [f64]) -> Result<(TokenId, f64)> {
        if self.follow(ids)? < ids.len() {
            return Err(Error::new(ErrorKind::Unsatisfiable, "the text so far does not keep the constraint"));
        }
        self.mask.fill();
        self.constraint.mask(&mut self.mask)?;
        while let Some(token) = kernels::argmax(row, Some(&self.mask)) {
            if self.constraint.accept(token)? {
                self.constraint.rollback(1)?;
                let lse = kernels::log_sum_exp(row, Some(&self.mask), scratch);
                return Ok((token, (f64::from(row[token as usize]) - lse).exp()));
            }
            self.mask.remove(token);
        }
        Err(Error::new(ErrorKind::Unsatisfiable, "expected a token that may come next, found all masked"))
    }
}
