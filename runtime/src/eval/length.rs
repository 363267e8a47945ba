//! Whether texts keep to the lengths asked for.

use serde::Serialize;

use crate::align::{Range, Unit, UnitCounts};

/// A text and the limit on its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Adherence {
    /// Whether the text was finished and its length is within the limits.
    pub adheres: bool,
    /// The length.
    pub count: u32,
    /// How far outside the limits it is; 0 inside.
    pub overshoot: u32,
}

/// Judges one limit. `is_finished`: whether the text came to its own end; one that was cut never adheres.
pub fn adherence(counts: &UnitCounts, unit: Unit, limit: Range, is_finished: bool) -> Adherence {
    let count = counts.get(unit);
    let above = limit.max.map_or(0, |max| count.saturating_sub(max));
    Adherence {
        adheres: is_finished && counts.keeps(unit, limit),
        count,
        overshoot: above.max(limit.min.saturating_sub(count)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::align::Meter;

    #[test]
    fn cut_texts_fail_and_overshoot_is_counted_on_both_sides() {
        let counts = Meter::new().unwrap().count("One two three four.");
        let limit = |text: &str| text.parse::<Range>().unwrap();
        for (unit, asked, finished, adheres, overshoot) in [
            (Unit::Words, "3..4", true, true, 0),
            (Unit::Words, "3..4", false, false, 0),
            (Unit::Words, "..2", true, false, 2),
            (Unit::Words, "9..", true, false, 5),
            (Unit::Sentences, "1", true, true, 0),
        ] {
            let a = adherence(&counts, unit, limit(asked), finished);
            assert_eq!((a.adheres, a.overshoot), (adheres, overshoot), "{asked}");
        }
        let open = Meter::new().unwrap().count("One two");
        assert!(!adherence(&open, Unit::Sentences, limit("1"), true).adheres, "the sentence is open");
    }
}
