//! Which of the words asked for a text uses (CommonGen's rule, with a table of inflected forms).

/// Which concepts a text covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// One for each concept.
    pub covered: Vec<bool>,
}

impl Coverage {
    /// Share of concepts covered, 0..=1; 1 if nothing was asked.
    pub fn soft(&self) -> f64 {
        let n = self.covered.iter().filter(|&&c| c).count();
        if self.covered.is_empty() { 1.0 } else { n as f64 / self.covered.len() as f64 }
    }

    /// Whether all are covered.
    pub fn hard(&self) -> bool {
        self.covered.iter().all(|&c| c)
    }
}

/// A concept is covered if one of its forms is a whole word of `text`, letter case aside; a trailing `'s` does
/// not count to the word. `concepts`: the accepted forms of each.
pub fn coverage(text: &str, concepts: &[Vec<String>]) -> Coverage {
    let text = text.to_lowercase();
    let words: std::collections::HashSet<&str> =
        text.split(|c: char| !c.is_alphabetic()).filter(|w| !w.is_empty()).collect();
    let said = |form: &String| words.contains(form.to_lowercase().as_str());
    Coverage { covered: concepts.iter().map(|forms| forms.iter().any(said)).collect() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn concepts(lists: &[&str]) -> Vec<Vec<String>> {
        lists.iter().map(|l| l.split('|').map(str::to_owned).collect()).collect()
    }

    #[test]
    fn three_of_four() {
        let asked = concepts(&["dog|dogs", "catch|catches|caught", "frisbee|frisbees", "throw|throws"]);
        let c = coverage("A dog catches the frisbees", &asked);
        assert_eq!((c.soft(), c.hard()), (0.75, false));
    }

    #[test]
    fn whole_words_whatever_their_case() {
        let asked = concepts(&["cat"]);
        for (text, hit) in [
            ("The catalog", false),
            ("CAT.", true),
            ("the cat's tail", true),
            ("the cat’s tail", true),
            ("a cat-like pet", true),
            ("bobcat", false),
            ("", false),
        ] {
            assert_eq!(coverage(text, &asked).hard(), hit, "{text:?}");
        }
    }
}
