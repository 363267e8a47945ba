//! The common form of all grammar texts: rules over characters.

use super::charset::CharSet;
use crate::error::{Error, ErrorKind, Result};

/// What a rule may spell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expr {
    /// These characters, in order; the empty text if there are none.
    Text(Box<str>),
    /// One character of the set.
    Class(CharSet),
    /// All of them, in order.
    Seq(Vec<Expr>),
    /// One of them; nothing at all if there are none.
    Alt(Vec<Expr>),
    /// `body` from `min` to `max` times; without `max`, any number from `min`.
    Repeat { body: Box<Expr>, min: u32, max: Option<u32> },
    /// What the rule of that number spells.
    Rule(usize),
}

impl Expr {
    pub fn empty() -> Self {
        Self::Text("".into())
    }

    /// The expression that spells nothing, not even the empty text.
    pub fn never() -> Self {
        Self::Alt(Vec::new())
    }

    pub fn is_never(&self) -> bool {
        matches!(self, Self::Alt(a) if a.is_empty())
    }

    pub fn is_empty_text(&self) -> bool {
        matches!(self, Self::Text(t) if t.is_empty())
    }

    /// `parts` in order, flattened where that is free.
    pub fn seq(parts: impl IntoIterator<Item = Expr>) -> Self {
        let mut flat = Vec::new();
        for part in parts {
            match part {
                Self::Seq(inner) => flat.extend(inner),
                e if e.is_empty_text() => {}
                e if e.is_never() => return e,
                e => flat.push(e),
            }
        }
        match flat.len() {
            0 => Self::empty(),
            1 => flat.swap_remove(0),
            _ => Self::Seq(flat),
        }
    }

    /// One of `options`, flattened.
    pub fn alt(options: impl IntoIterator<Item = Expr>) -> Self {
        let mut flat = Vec::new();
        for option in options {
            match option {
                Self::Alt(inner) => flat.extend(inner),
                e => flat.push(e),
            }
        }
        if flat.len() == 1 { flat.swap_remove(0) } else { Self::Alt(flat) }
    }

    /// Calls `f` with every rule mentioned.
    pub fn each_rule(&self, f: &mut impl FnMut(usize)) {
        match self {
            Self::Text(_) | Self::Class(_) => {}
            Self::Seq(parts) | Self::Alt(parts) => parts.iter().for_each(|p| p.each_rule(f)),
            Self::Repeat { body, .. } => body.each_rule(f),
            Self::Rule(r) => f(*r),
        }
    }

    /// Number of nodes, a measure of size.
    pub fn size(&self) -> usize {
        match self {
            Self::Text(_) | Self::Class(_) | Self::Rule(_) => 1,
            Self::Seq(parts) | Self::Alt(parts) => 1 + parts.iter().map(Self::size).sum::<usize>(),
            Self::Repeat { body, .. } => 1 + body.size(),
        }
    }
}

/// A named rule.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub name: String,
    pub expr: Expr,
}

/// A grammar that was read and checked; [`Grammar::compile`] makes an automaton of it.
///
/// Every rule it names is defined, and some finite text belongs to it.
#[derive(Clone, Debug)]
pub struct Grammar {
    pub(super) rules: Vec<Rule>,
    pub(super) root: usize,
}

impl Grammar {
    /// The grammar of `rules`, starting at rule `root`.
    /// # Errors `Unsatisfiable` if no finite text belongs to it.
    pub(super) fn new(rules: Vec<Rule>, root: usize) -> Result<Self> {
        let this = Self { rules, root };
        let productive = this.fixpoint(Expr::can_finish);
        if productive.get(root).is_some_and(|&p| p) {
            return Ok(this);
        }
        let name = this.rules.get(root).map_or("root", |r| r.name.as_str());
        Err(Error::new(
            ErrorKind::Unsatisfiable,
            format!(
                "the grammar has no finite text: every alternative of rule `{name}` needs a rule that never ends or a character that does not exist"
            ),
        ))
    }

    /// The least solution of "`holds` of a rule's expression, given which rules it holds for".
    pub(super) fn fixpoint(&self, holds: impl Fn(&Expr, &[bool]) -> bool) -> Vec<bool> {
        let n = self.rules.len();
        let (mut known, mut users) = (vec![false; n], vec![Vec::new(); n]);
        for (i, rule) in self.rules.iter().enumerate() {
            rule.expr.each_rule(&mut |r| {
                if let Some(u) = users.get_mut(r)
                    && u.last() != Some(&i)
                {
                    u.push(i);
                }
            });
        }
        let mut queue: Vec<usize> = (0..n).rev().collect();
        while let Some(i) = queue.pop() {
            if !known[i] && holds(&self.rules[i].expr, &known) {
                known[i] = true;
                queue.extend_from_slice(&users[i]);
            }
        }
        known
    }
}

impl Expr {
    /// Whether some text can be spelt, if the rules in `known` can.
    pub fn can_finish(&self, known: &[bool]) -> bool {
        match self {
            Self::Text(_) => true,
            Self::Class(set) => !set.is_empty(),
            Self::Seq(parts) => parts.iter().all(|p| p.can_finish(known)),
            Self::Alt(parts) => parts.iter().any(|p| p.can_finish(known)),
            Self::Repeat { body, min, .. } => *min == 0 || body.can_finish(known),
            Self::Rule(r) => known.get(*r).is_some_and(|&k| k),
        }
    }

    /// Whether the empty text can be spelt, if the rules in `known` can spell it.
    pub fn can_be_empty(&self, known: &[bool]) -> bool {
        match self {
            Self::Text(t) => t.is_empty(),
            Self::Class(_) => false,
            Self::Seq(parts) => parts.iter().all(|p| p.can_be_empty(known)),
            Self::Alt(parts) => parts.iter().any(|p| p.can_be_empty(known)),
            Self::Repeat { body, min, .. } => *min == 0 || body.can_be_empty(known),
            Self::Rule(r) => known.get(*r).is_some_and(|&k| k),
        }
    }
}
