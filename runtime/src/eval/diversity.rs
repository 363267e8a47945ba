//! How much texts repeat themselves and one another.

use std::collections::{HashMap, HashSet};

use super::stats::Estimate;

/// Different n-grams among all n-grams of many texts: 1 if none is ever repeated.
/// Source: Li et al. 2016, arXiv 1510.03055 (distinct-n).
#[derive(Clone, Debug)]
pub struct Distinct {
    n: usize,
    /// By text: its n-grams with their counts.
    texts: Vec<HashMap<Vec<String>, usize>>,
}

impl Distinct {
    /// For n-grams of `n` words, letter case aside.
    pub fn new(n: usize) -> Self {
        Self { n: n.max(1), texts: Vec::new() }
    }

    /// Adds a text.
    pub fn add(&mut self, text: &str) {
        let words: Vec<String> = words(text);
        let mut grams = HashMap::new();
        for gram in words.windows(self.n) {
            *grams.entry(gram.to_vec()).or_default() += 1;
        }
        self.texts.push(grams);
    }

    /// The share, with a jackknife interval over texts; 1 without n-grams.
    /// Source: Efron and Stein, Annals of Statistics 9 (1981).
    pub fn estimate(&self) -> Estimate {
        let mut all: HashMap<&Vec<String>, usize> = HashMap::new();
        self.texts.iter().flatten().for_each(|(gram, n)| *all.entry(gram).or_default() += n);
        let total: usize = all.values().sum();
        let share = |different: usize, total: usize| match total {
            0 => 1.0,
            _ => different as f64 / total as f64,
        };
        let value = share(all.len(), total);
        let without = |text: &HashMap<Vec<String>, usize>| {
            let own = text.iter().filter(|(gram, n)| all.get(gram) == Some(n)).count();
            share(all.len() - own, total - text.values().sum::<usize>())
        };
        let n = self.texts.len() as f64;
        let others: Vec<f64> = self.texts.iter().map(without).collect();
        let centre = others.iter().sum::<f64>() / n.max(1.0);
        let variance = others.iter().map(|o| (o - centre).powi(2)).sum::<f64>() * (n - 1.0) / n.max(1.0);
        let half = 1.96 * variance.max(0.0).sqrt();
        Estimate { value, lo: (value - half).max(0.0), hi: (value + half).min(1.0) }
    }
}

fn words(text: &str) -> Vec<String> {
    let is_word = |c: char| c.is_alphanumeric() || c == '\'' || c == '’';
    text.split(|c| !is_word(c)).filter(|w| !w.is_empty()).map(str::to_lowercase).collect()
}

/// Share of `texts` that differ from all before them, white space and case aside; 1 without texts.
pub fn all_different<'a>(texts: impl IntoIterator<Item = &'a str>) -> f64 {
    let mut seen = HashSet::new();
    let (mut n, mut different) = (0usize, 0usize);
    for text in texts {
        n += 1;
        different += usize::from(seen.insert(words(text)));
    }
    if n == 0 { 1.0 } else { different as f64 / n as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_pairs_are_counted_within_and_across_texts() {
        let mut d = Distinct::new(2);
        d.add("The dog ran. The dog sat."); // the dog, dog ran, ran the, the dog, dog sat
        assert_eq!(d.estimate().value, 0.8);
        d.add("the DOG");
        let e = d.estimate();
        assert!((e.value - 4.0 / 6.0).abs() < 1e-12, "{e:?}");
        assert!(e.lo <= e.value && e.value <= e.hi);
    }

    #[test]
    fn short_texts_have_nothing_to_repeat() {
        let mut d = Distinct::new(4);
        d.add("three words only");
        assert_eq!(d.estimate().value, 1.0);
        assert_eq!(Distinct::new(2).estimate().value, 1.0);
    }

    #[test]
    fn copies_are_not_different() {
        assert_eq!(all_different(["a b", "A  b!", "c"]), 2.0 / 3.0);
        assert_eq!(all_different([]), 1.0);
    }
}
