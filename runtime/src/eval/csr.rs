//! The constraint satisfaction rate: the mean over items of the mean over an item's constraints.
//!
//! A constraint may look at the text alone, at the prompt and the text, or at a prompt and all its texts;
//! the three are averaged apart as well, since a rate over the text alone says nothing about the others.
//! Source: Wang et al. 2024, arXiv 2403.06326 (ACT).

use std::collections::BTreeMap;

use serde::Serialize;

use super::stats::{Estimate, mean, rate};

/// What a constraint looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// f(y): the text alone.
    Text,
    /// f(x, y): the prompt, or what came with it, and the text.
    PromptAndText,
    /// f(x, {y_i}): a prompt and all texts for it.
    Group,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Text, Self::PromptAndText, Self::Group];

    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::PromptAndText => "prompt_and_text",
            Self::Group => "group",
        }
    }
}

/// Collects what became of constraints, item by item. An item is a text, or a group of texts.
#[derive(Clone, Debug, Default)]
pub struct Csr {
    items: Vec<Vec<(Scope, f64)>>,
    by_name: BTreeMap<(Scope, String), (f64, usize)>,
}

impl Csr {
    /// Adds an item with its constraints: scope, name, and 0 (broken) to 1 (kept). An item without constraints
    /// adds nothing.
    pub fn add(&mut self, constraints: impl IntoIterator<Item = (Scope, String, f64)>) {
        let mut item = Vec::new();
        for (scope, name, value) in constraints {
            item.push((scope, value));
            let (sum, n) = self.by_name.entry((scope, name)).or_default();
            (*sum, *n) = (*sum + value, *n + 1);
        }
        if !item.is_empty() {
            self.items.push(item);
        }
    }

    /// The rate over everything, or over one scope; `None` if no constraint is in it.
    pub fn rate(&self, scope: Option<Scope>, seed: u64) -> Option<Estimate> {
        let within = |item: &Vec<(Scope, f64)>| {
            let values: Vec<f64> =
                item.iter().filter(|(s, _)| scope.is_none_or(|want| *s == want)).map(|(_, v)| *v).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        mean(&self.items.iter().filter_map(within).collect::<Vec<_>>(), seed)
    }

    /// The rate of each constraint alone.
    pub fn by_constraint(&self) -> impl Iterator<Item = (Scope, &str, Estimate)> {
        self.by_name.iter().filter_map(|((scope, name), &(sum, n))| {
            let estimate = rate(sum.round() as usize, n)?;
            Some((*scope, name.as_str(), Estimate { value: sum / n as f64, ..estimate }))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn items_weigh_the_same_however_many_constraints_they_have() {
        let mut csr = Csr::default();
        let text = |name: &str, v: f64| (Scope::Text, name.to_owned(), v);
        csr.add([text("a", 1.0), text("b", 0.0), text("c", 0.0), text("d", 0.0)]);
        csr.add([text("a", 1.0), (Scope::PromptAndText, "p".to_owned(), 0.0)]);
        csr.add([(Scope::Group, "different".to_owned(), 0.5)]);
        csr.add([]);
        let value = |scope| csr.rate(scope, 1).unwrap().value;
        assert!((value(None) - (0.25 + 0.5 + 0.5) / 3.0).abs() < 1e-12);
        assert_eq!(value(Some(Scope::Text)), (0.25 + 1.0) / 2.0);
        assert_eq!((value(Some(Scope::PromptAndText)), value(Some(Scope::Group))), (0.0, 0.5));
        let columns: Vec<_> = csr.by_constraint().map(|(s, n, e)| (s, n, e.value)).collect();
        assert_eq!(columns[0], (Scope::Text, "a", 1.0));
        assert_eq!(columns.len(), 6);
        assert_eq!(Csr::default().rate(None, 1), None);
    }
}
