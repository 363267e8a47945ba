//! Strings that know which of their bytes the caller wrote.
//!
//! Every operation a template can do to a string is made of slices and appends, and both carry that knowledge
//! along. So when rendering ends, it is plain for each byte whether it comes from the template or from a message,
//! whatever the template did in between.

use super::budget::{Budget, Run};
use std::ops::Range;
use std::sync::Arc;

/// Who wrote a string.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Template,
    Caller,
    /// The caller wrote these byte ranges: ascending, not empty, not touching.
    Both(Arc<[Range<usize>]>),
}

/// An immutable string and its origin. Compares by its characters only.
#[derive(Clone, Debug)]
pub(super) struct Text {
    text: Arc<str>,
    origin: Origin,
}

impl Text {
    /// Text of the template.
    pub(super) fn own(text: &str) -> Self {
        Self { text: text.into(), origin: Origin::Template }
    }

    /// Text of the caller.
    pub(super) fn caller(text: &str) -> Self {
        Self { text: text.into(), origin: Origin::Caller }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// The runs of one origin: whether the caller's, and the text.
    pub(super) fn runs(&self) -> impl Iterator<Item = (bool, &str)> {
        self.runs_in(0..self.text.len())
    }

    /// As [`runs`](Self::runs), of a byte range on character borders (what is not there is left out).
    fn runs_in(&self, range: Range<usize>) -> impl Iterator<Item = (bool, &str)> {
        let (whole, marked): (Option<bool>, &[Range<usize>]) = match &self.origin {
            Origin::Template => (Some(false), &[]),
            Origin::Caller => (Some(true), &[]),
            Origin::Both(ranges) => (None, ranges),
        };
        let first = marked.partition_point(|r| r.end <= range.start);
        let mut marked = marked[first..].iter();
        let mut next = marked.next();
        let mut at = range.start;
        std::iter::from_fn(move || {
            if at >= range.end {
                return None;
            }
            let (caller, end) = match (whole, next) {
                (Some(caller), _) => (caller, range.end),
                (None, Some(r)) if r.start <= at => (true, r.end.min(range.end)),
                (None, Some(r)) => (false, r.start.min(range.end)),
                (None, None) => (false, range.end),
            };
            if caller && whole.is_none() {
                next = marked.next();
            }
            let run = (caller, self.text.get(at..end)?);
            at = end;
            Some(run)
        })
    }

    /// A part, by bytes on character borders.
    pub(super) fn slice(&self, budget: &Budget, range: Range<usize>) -> Run<Self> {
        let mut out = Builder::new(budget);
        out.push_slice(self, range)?;
        Ok(out.finish())
    }

    /// Each run changed by `f`, which must not depend on its neighbours.
    pub(super) fn map(&self, budget: &Budget, f: impl Fn(&str) -> String) -> Run<Self> {
        let mut out = Builder::new(budget);
        for (caller, run) in self.runs() {
            out.push(caller, &f(run))?;
        }
        Ok(out.finish())
    }
}

/// Puts a [`Text`] together, paying for each byte.
pub(super) struct Builder<'b> {
    budget: &'b Budget,
    text: String,
    caller: Vec<Range<usize>>,
}

impl<'b> Builder<'b> {
    pub(super) fn new(budget: &'b Budget) -> Self {
        Self { budget, text: String::new(), caller: Vec::new() }
    }

    pub(super) fn budget(&self) -> &'b Budget {
        self.budget
    }

    /// Appends text that the caller did or did not write.
    pub(super) fn push(&mut self, caller: bool, text: &str) -> Run<()> {
        self.budget.alloc(text.len())?;
        let start = self.text.len();
        self.text.push_str(text);
        if caller && !text.is_empty() {
            match self.caller.last_mut() {
                Some(last) if last.end == start => last.end = self.text.len(),
                _ => {
                    self.budget.alloc(size_of::<Range<usize>>())?;
                    self.caller.push(start..self.text.len());
                }
            }
        }
        Ok(())
    }

    /// Appends text of the template.
    pub(super) fn push_own(&mut self, text: &str) -> Run<()> {
        self.push(false, text)
    }

    pub(super) fn push_text(&mut self, text: &Text) -> Run<()> {
        self.push_slice(text, 0..text.text.len())
    }

    pub(super) fn push_slice(&mut self, text: &Text, range: Range<usize>) -> Run<()> {
        for (caller, run) in text.runs_in(range) {
            self.push(caller, run)?;
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Text {
        let origin = match self.caller.as_slice() {
            [] => Origin::Template,
            [all] if all.len() == self.text.len() => Origin::Caller,
            _ => Origin::Both(self.caller.into()),
        };
        Text { text: self.text.into(), origin }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &Text) -> String {
        text.runs().map(|(caller, run)| if caller { format!("<{run}>") } else { run.to_owned() }).collect()
    }

    #[test]
    fn slices_and_appends_keep_the_origin_of_each_byte() {
        let budget = Budget::for_input(0);
        let mut out = Builder::new(&budget);
        for (caller, part) in
            [(false, "ab"), (true, "cé"), (true, "d"), (false, ""), (true, ""), (false, "e")]
        {
            out.push(caller, part).unwrap();
        }
        let text = out.finish();
        assert_eq!(shown(&text), "ab<céd>e");
        assert_eq!(shown(&text.slice(&budget, 1..3).unwrap()), "b<c>");
        assert_eq!(shown(&text.slice(&budget, 3..6).unwrap()), "<éd>");
        assert_eq!(shown(&text.slice(&budget, 6..7).unwrap()), "e");
        assert_eq!(shown(&text.map(&budget, str::to_uppercase).unwrap()), "AB<CÉD>E");
        let mut twice = Builder::new(&budget);
        twice.push_slice(&text, 2..6).unwrap();
        twice.push_text(&text).unwrap();
        assert_eq!(shown(&twice.finish()), "<céd>ab<céd>e");
    }

    #[test]
    fn bytes_are_paid_for_before_they_are_made() {
        let budget = Budget::for_input(0);
        let mut out = Builder::new(&budget);
        let part = "x".repeat(1 << 20);
        let n = (0..100).take_while(|_| out.push_own(&part).is_ok()).count();
        assert_eq!(n, 8);
    }
}
