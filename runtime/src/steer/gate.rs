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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Lets every token through its mask and takes even ones only, of which there may be so many.
    struct Even(Vec<TokenId>, usize);

    impl Constraint for Even {
        fn n_vocab(&self) -> usize {
            6
        }
        fn len(&self) -> usize {
            self.0.len()
        }
        fn mask(&mut self, _: &mut TokenSet) -> Result<()> {
            Ok(())
        }
        fn accept(&mut self, token: TokenId) -> Result<bool> {
            let takes = token.is_multiple_of(2) && self.0.len() < self.1;
            self.0.extend(takes.then_some(token));
            Ok(takes)
        }
        fn rollback(&mut self, n: usize) -> Result<()> {
            self.0.truncate(self.0.len() - n);
            Ok(())
        }
        fn fork(&self) -> Box<dyn Constraint> {
            Box::new(Self(self.0.clone(), self.1))
        }
        fn may_end(&self) -> bool {
            true
        }
        fn has_ended(&self) -> bool {
            false
        }
        fn forced(&mut self) -> Result<Option<TokenId>> {
            Ok(None)
        }
        fn witness_len(&mut self) -> Option<usize> {
            None
        }
        fn witness(&mut self, _: &mut Vec<TokenId>) -> bool {
            false
        }
    }

    #[test]
    fn what_the_constraint_refuses_is_not_said_whatever_the_mask_says() {
        let mut gate = Gate::new(Box::new(Even(Vec::new(), 3)), 6);
        let mut scratch = [0.0; 4];
        let row = [0.0f32, 5.0, 2.0, 4.0, 1.0, 3.0];
        // 1, 3 and 5 are likelier, and refused: 2 has e^2 of what 0, 2 and 4 weigh
        let (token, p) = gate.top(&[0, 4], &row, &mut scratch).unwrap();
        let expected = 2f64.exp() / (1.0 + 2f64.exp() + 1f64.exp());
        assert!(token == 2 && (p - expected).abs() < 1e-6, "{token} {p}");
        assert_eq!((gate.follow(&[0, 3, 2]).unwrap(), gate.follow(&[0, 2]).unwrap()), (1, 2));
        assert_eq!(gate.top(&[0, 3], &row, &mut scratch).unwrap_err().kind(), ErrorKind::Unsatisfiable);
        assert_eq!(gate.top(&[0, 0, 0], &row, &mut scratch).unwrap_err().kind(), ErrorKind::Unsatisfiable);
    }
}
