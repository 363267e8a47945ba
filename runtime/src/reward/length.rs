//! How near a text's length is to what was asked.

use super::{Candidate, Reward, Score, Status, bad};
use crate::align::{Meter, Range, Unit};
use crate::error::Result;

/// 1 for a length in the range. Outside it, soft: 1 less the overshoot over the most, or what is missing over the
/// least, at least 0; hard: 0. Open text that is not too long yet has 1, since it can still end in time.
pub struct LengthReward {
    meter: Meter,
    unit: Unit,
    range: Range,
    is_hard: bool,
}

impl LengthReward {
    /// # Errors `InvalidArgument` for a range that nothing satisfies or that asks nothing.
    pub fn new(unit: Unit, range: Range, is_hard: bool) -> Result<Self> {
        if !range.is_active() || range.max.is_some_and(|max| max < range.min || max == 0) {
            let found = format!("{}..{:?}", range.min, range.max);
            return Err(bad("length", "a range that some text keeps", found));
        }
        Ok(Self { meter: Meter::new()?, unit, range, is_hard })
    }

    fn value(&self, n: u32) -> f64 {
        let Range { min, max } = self.range;
        let off = match max {
            Some(max) if n > max => f64::from(n - max) / f64::from(max),
            _ if n < min => f64::from(min - n) / f64::from(min),
            _ => return 1.0,
        };
        if self.is_hard { 0.0 } else { (1.0 - off).max(0.0) }
    }

    /// How much of a count what follows may take back: a full stop may turn out to be a decimal point.
    fn slack(&self) -> u32 {
        match self.unit {
            Unit::Sentences => 2,
            Unit::Words | Unit::Graphemes => 1,
            Unit::Chars | Unit::Bytes => 0,
        }
    }
}

impl Reward for LengthReward {
    fn name(&self) -> &str {
        "length"
    }

    fn score(&mut self, _: &str, candidate: Candidate<'_>) -> Result<Score> {
        let counts = self.meter.count(candidate.text);
        let n = counts.get(self.unit);
        if candidate.is_closed {
            return Ok(Score::fixed(self.value(n), counts.keeps(self.unit, self.range)));
        }
        let least = n.saturating_sub(self.slack());
        let is_over = |n: u32| self.range.max.is_some_and(|max| n > max);
        let hi = if is_over(least) { self.value(least) } else { 1.0 };
        let value = if is_over(n) { self.value(n) } else { 1.0 };
        let status = if is_over(least) { Status::Violated } else { Status::Open };
        Ok(Score { value, lo: 0.0, hi, status })
    }
}
