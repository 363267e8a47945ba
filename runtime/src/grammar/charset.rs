//! Sets of Unicode scalar values as sorted ranges.

/// Sorted, disjoint, non-adjacent inclusive ranges of code points.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct CharSet(Vec<(u32, u32)>);

pub(crate) const MAX_CHAR: u32 = char::MAX as u32;
const SURROGATES: (u32, u32) = (0xD800, 0xDFFF);

impl CharSet {
    /// The scalar values in any of `ranges`; surrogates and what lies above U+10FFFF are left out.
    pub fn new(ranges: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut cut: Vec<(u32, u32)> = Vec::new();
        for (lo, hi) in ranges {
            let hi = hi.min(MAX_CHAR);
            cut.extend(
                [(lo, hi.min(SURROGATES.0 - 1)), (lo.max(SURROGATES.1 + 1), hi)]
                    .iter()
                    .filter(|(a, b)| a <= b),
            );
        }
        cut.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(cut.len());
        for (lo, hi) in cut {
            match merged.last_mut() {
                Some(last) if lo <= last.1.saturating_add(1) => last.1 = last.1.max(hi),
                _ => merged.push((lo, hi)),
            }
        }
        Self(merged)
    }

    /// One character.
    pub fn one(c: char) -> Self {
        Self(vec![(u32::from(c), u32::from(c))])
    }

    /// Every scalar value.
    pub fn all() -> Self {
        Self::new([(0, MAX_CHAR)])
    }

    /// The scalar values not in this set.
    pub fn negated(&self) -> Self {
        let mut gaps = Vec::with_capacity(self.0.len() + 1);
        let mut from = 0;
        for &(lo, hi) in &self.0 {
            if from < lo {
                gaps.push((from, lo - 1));
            }
            from = hi + 1;
        }
        if from <= MAX_CHAR {
            gaps.push((from, MAX_CHAR));
        }
        Self::new(gaps)
    }

    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.0
    }

    pub fn contains(&self, c: char) -> bool {
        let code = u32::from(c);
        let i = self.0.partition_point(|r| r.1 < code);
        self.0.get(i).is_some_and(|r| r.0 <= code)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_merge_and_leave_surrogates_out() {
        let s = CharSet::new([(5, 9), (1, 4), (0xD7FF, 0xE000), (7, 12)]);
        assert_eq!(s.ranges(), [(1, 12), (0xD7FF, 0xD7FF), (0xE000, 0xE000)]);
        assert_eq!(s.negated().ranges(), [(0, 0), (13, 0xD7FE), (0xE001, MAX_CHAR)]);
        assert_eq!(s.negated().negated(), s);
        assert!(CharSet::all().negated().is_empty());
    }
}
