//! How little a text repeats itself.

use super::{Candidate, Reward, Score, bad};
use crate::error::Result;
use std::collections::HashSet;

/// Different n-grams of words among all of them, letter case aside; 1 where there are fewer than `n` words.
pub struct Repetition {
    n: usize,
}

impl Repetition {
    /// # Errors `InvalidArgument` for n-grams of no or more than 16 words.
    pub fn new(n: usize) -> Result<Self> {
        match n {
            1..=16 => Ok(Self { n }),
            _ => Err(bad("repetition.n", "1 to 16 words", n)),
        }
    }
}

/// Share of different ones among the `n`-grams of `text`'s words.
pub(super) fn distinct(text: &str, n: usize) -> f64 {
    let is_word = |c: char| c.is_alphanumeric() || c == '\'' || c == '’';
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split(|c| !is_word(c)).filter(|w| !w.is_empty()).collect();
    let grams: HashSet<&[&str]> = words.windows(n).collect();
    match words.len().checked_sub(n) {
        Some(more) => grams.len() as f64 / (more + 1) as f64,
        None => 1.0,
    }
}

impl Reward for Repetition {
    fn name(&self) -> &str {
        "repetition"
    }

    fn score(&mut self, _: &str, candidate: Candidate<'_>) -> Result<Score> {
        let value = distinct(candidate.text, self.n);
        Ok(match candidate.is_closed {
            true => Score::fixed(value, true),
            false => Score::open(value, (0.0, 1.0)),
        })
    }
}
