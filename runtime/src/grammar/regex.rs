//! Regular expressions as grammars of one rule: the whole text must match.

use regex_syntax::hir::{Class, Hir, HirKind, Look};

use super::charset::CharSet;
use super::expr::{Expr, Grammar, Rule};
use crate::error::{Error, ErrorKind, Result};

/// Deepest nesting of groups and repetitions.
const MAX_DEPTH: u32 = 128;

impl Grammar {
    /// The texts that match `pattern` from end to end, in the syntax of the `regex` crate: `.` is not a
    /// line end unless `(?s)`, classes are Unicode. `^` first and `$` last are allowed and change nothing.
    /// # Errors `BadProfile` with the place for what cannot be read; `Unsupported` for word boundaries,
    /// inner anchors and bytes that are not UTF-8; `TooComplex`; `Unsatisfiable` if nothing can match.
    pub fn regex(pattern: &str) -> Result<Self> {
        let mut parser = regex_syntax::ParserBuilder::new().nest_limit(MAX_DEPTH).build();
        let hir = parser.parse(pattern).map_err(|e| Error::new(ErrorKind::BadProfile, e.to_string()))?;
        let expr = from_hir(without_ends(&hir))?;
        Self::new(vec![Rule { name: "regex".to_owned(), expr }], 0)
    }
}

/// The parts of `hir` between an anchor at the start and one at the end.
fn without_ends(hir: &Hir) -> &[Hir] {
    let mut parts = match hir.kind() {
        HirKind::Concat(parts) => parts.as_slice(),
        _ => std::slice::from_ref(hir),
    };
    let is = |h: &Hir, look| matches!(h.kind(), HirKind::Look(l) if *l == look);
    if let [first, rest @ ..] = parts
        && is(first, Look::Start)
    {
        parts = rest;
    }
    if let [rest @ .., last] = parts
        && is(last, Look::End)
    {
        parts = rest;
    }
    parts
}

fn from_hir(parts: &[Hir]) -> Result<Expr> {
    Ok(Expr::seq(parts.iter().map(one).collect::<Result<Vec<_>>>()?))
}

fn one(hir: &Hir) -> Result<Expr> {
    Ok(match hir.kind() {
        HirKind::Empty => Expr::empty(),
        HirKind::Literal(l) => match std::str::from_utf8(&l.0) {
            Ok(text) => Expr::Text(text.into()),
            Err(_) => return Err(unsupported("bytes that are not UTF-8")),
        },
        HirKind::Class(Class::Unicode(c)) => {
            Expr::Class(CharSet::new(c.iter().map(|r| (u32::from(r.start()), u32::from(r.end())))))
        }
        HirKind::Class(Class::Bytes(c)) if c.is_ascii() => {
            Expr::Class(CharSet::new(c.iter().map(|r| (u32::from(r.start()), u32::from(r.end())))))
        }
        HirKind::Class(Class::Bytes(_)) => return Err(unsupported("bytes that are not UTF-8")),
        HirKind::Look(look) => {
            return Err(unsupported(&format!("the assertion {look:?} inside the pattern")));
        }
        HirKind::Repetition(r) => Expr::Repeat { body: Box::new(one(&r.sub)?), min: r.min, max: r.max },
        HirKind::Capture(c) => one(&c.sub)?,
        HirKind::Concat(parts) => from_hir(parts)?,
        HirKind::Alternation(options) => Expr::alt(options.iter().map(one).collect::<Result<Vec<_>>>()?),
    })
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("regular expression: {what} cannot be enforced"))
}
