//! How far an edited text is from the wanted one.

/// Fewest insertions, deletions and replacements of characters that turn `a` into `b`.
/// Cost: the product of the lengths in time, the shorter one in memory; what both begin and end with is free.
/// Source: Levenshtein 1966; Wagner and Fischer, JACM 21 (1974).
pub fn char_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let head = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[head..], &b[head..]);
    let tail = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[..a.len() - tail], &b[..b.len() - tail]);
    let (long, short) = if a.len() < b.len() { (b, a) } else { (a, b) };
    let mut row: Vec<usize> = (0..=short.len()).collect();
    for (i, x) in long.iter().enumerate() {
        let (mut diagonal, mut left) = (row[0], i + 1);
        row[0] = left;
        for (cell, y) in row[1..].iter_mut().zip(short) {
            let replaced = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = replaced.min(left + 1).min(*cell + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// 1 minus the distance over the longer length: 1 for equal texts, 0 for texts with nothing in common.
pub fn similarity(a: &str, b: &str) -> f64 {
    let longest = a.chars().count().max(b.chars().count());
    if longest == 0 { 1.0 } else { 1.0 - char_distance(a, b) as f64 / longest as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_distances() {
        for (a, b, d) in [
            ("kitten", "sitting", 3),
            ("", "abc", 3),
            ("flaw", "lawn", 2),
            ("né", "ne\u{301}", 2),
            ("a", "a", 0),
        ] {
            assert_eq!((char_distance(a, b), char_distance(b, a)), (d, d), "{a} {b}");
        }
        assert_eq!(
            (similarity("", ""), similarity("ab", "cd"), similarity("abcd", "abcx")),
            (1.0, 0.0, 0.75)
        );
    }

    /// The definition, by recursion.
    fn naive(a: &[char], b: &[char]) -> usize {
        match (a, b) {
            ([], rest) | (rest, []) => rest.len(),
            ([x, a1 @ ..], [y, b1 @ ..]) if x == y => naive(a1, b1),
            ([_, a1 @ ..], [_, b1 @ ..]) => 1 + naive(a1, b).min(naive(a, b1)).min(naive(a1, b1)),
        }
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_the_definition(a in "[abé]{0,6}", b in "[abé]{0,6}") {
            let chars = |s: &str| s.chars().collect::<Vec<_>>();
            prop_assert_eq!(char_distance(&a, &b), naive(&chars(&a), &chars(&b)));
        }
    }
}
