//! From what a caller asks for to one constraint.
//!
//! Everything that can be an automaton over bytes becomes one product, so that all parts can be completed
//! together; two masks that were merely intersected could leave each part alive and both together dead.

use std::sync::Arc;

use serde::Deserialize;

use super::both::Both;
use super::bytewise::{Bytewise, Limits};
use super::constraint::Constraint;
use super::guided::{GuidedGrammar, JsonOptions, Tool};
use super::lexical::{Range, Unit, Wording, WordingAutomaton};
use super::lexicon::Lexicon;
use super::staged::{Anything, FreePart, Staged};
use super::together::Together;
use super::trie::TokenTrie;
use crate::error::{Error, ErrorKind, Result};
use crate::grammar::{Automaton, Grammar};

/// Which part of the text wording and lengths are about, when the constraint begins after a marker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// What follows the marker.
    #[default]
    Strict,
    /// What comes before it.
    Free,
    /// All of it, markers included.
    All,
}

/// The shape of a text.
#[derive(Clone, Debug)]
pub enum Shape {
    /// A grammar or regular expression, enforced by an automaton over bytes.
    Grammar(Grammar),
    /// A JSON Schema.
    JsonSchema(String),
    /// A grammar in Lark, in the dialect of llguidance.
    Lark(String),
    /// A call of one of these tools: `{"name": NAME, "arguments": ARGUMENTS}`.
    ToolCall(Vec<Tool>),
}

/// What is asked of a text. Empty by default: everything is allowed.
#[derive(Clone, Debug, Default)]
pub struct Constraints {
    /// Words to use and to avoid, lengths.
    pub wording: Wording,
    /// Length in tokens, the ending one not counted.
    pub tokens: Range,
    /// The shape.
    pub shape: Option<Shape>,
    /// The text is free up to and including the first occurrence of this.
    pub after: Option<String>,
    /// The text is free again from the first occurrence of this at a place where it could end.
    pub until: Option<String>,
    /// What the wording is about.
    pub scope: Scope,
}

impl Constraints {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.shape.is_none() && self.after.is_none() && !self.tokens.is_active() && self.wording.is_empty()
    }

    /// The constraint over the vocabulary of `lexicon`. `limits` are those of the generation; lengths in tokens
    /// are added to them.
    /// # Errors
    /// As [`Wording::compile`] and [`Grammar::compile`]; `BadProfile` for markers that cannot be used;
    /// `Unsatisfiable` if no accepted text within the limits is known.
    pub fn compile(&self, lexicon: &Lexicon, limits: Limits) -> Result<Box<dyn Constraint>> {
        let limits = self.limits(limits)?;
        let grammar = match &self.shape {
            None => None,
            Some(Shape::Grammar(grammar)) => Some(grammar),
            Some(shape) => return self.guided(shape, lexicon, limits),
        };
        let trie = lexicon.trie();
        let free_words = self.after.is_some() && self.scope == Scope::Free;
        match (&self.after, self.has_wording(), grammar) {
            (None, _, _) if self.until.is_some() => {
                Err(bad("`until` needs `after`: the text before is not constrained otherwise"))
            }
            (None, true, None) => finish(self.words(trie)?, trie, limits),
            (None, false, None) => finish(Anything, trie, limits),
            (None, false, Some(g)) => finish(g.compile(&trie.single_bytes())?, trie, limits),
            (None, true, Some(g)) => finish(self.both(g, trie)?, trie, limits),
            (Some(_), true, None) if free_words => self.staged(self.words(trie)?, Anything, trie, limits),
            (Some(_), true, Some(g)) if free_words => {
                self.staged(self.words(trie)?, g.compile(&trie.single_bytes())?, trie, limits)
            }
            (Some(_), true, Some(g)) if self.scope == Scope::All => {
                let staged = self.stages(Anything, g.compile(&trie.single_bytes())?)?;
                finish(Both::new(staged, self.words(trie)?), trie, limits)
            }
            (Some(_), true, None) if self.scope == Scope::All => finish(self.words(trie)?, trie, limits),
            (Some(_), true, None) => self.staged(Anything, self.words(trie)?, trie, limits),
            (Some(_), true, Some(g)) => self.staged(Anything, self.both(g, trie)?, trie, limits),
            (Some(_), false, Some(g)) => {
                self.staged(Anything, g.compile(&trie.single_bytes())?, trie, limits)
            }
            (Some(_), false, None) => self.staged(Anything, Anything, trie, limits),
        }
    }

    /// With a shape that is no automaton: its engine, and the rest beside it.
    fn guided(&self, shape: &Shape, lexicon: &Lexicon, limits: Limits) -> Result<Box<dyn Constraint>> {
        let guide = lexicon.guide()?;
        let options =
            JsonOptions { after: self.after.clone(), until: self.until.clone(), ..JsonOptions::default() };
        let grammar = match shape {
            Shape::JsonSchema(text) => GuidedGrammar::json_schema_str(&guide, text, &options)?,
            Shape::ToolCall(tools) => GuidedGrammar::tools(&guide, tools, &options)?,
            Shape::Lark(_) if self.after.is_some() => {
                return Err(bad("`after` cannot be put before a Lark grammar: write the free part in Lark"));
            }
            Shape::Lark(text) => GuidedGrammar::lark(&guide, text)?,
            Shape::Grammar(_) => return Err(Error::new(ErrorKind::Internal, "expected a guided shape")),
        };
        // exact samplers keep the limit themselves, and must not lose what could have been completed
        let own =
            Limits { max_tokens: limits.max_tokens.filter(|_| !limits.allow_dead_ends), ..Limits::default() };
        if !self.has_wording() && limits.min_tokens == 0 {
            return grammar.constraint(own);
        }
        let rest = Self { shape: None, tokens: Range::default(), ..self.clone() };
        if !limits.allow_dead_ends {
            let free = Limits { max_tokens: None, ..limits };
            let (first, second) = (grammar.constraint(Limits::default())?, rest.compile(lexicon, free)?);
            if let Some(both) = Together::proven(first, second, lexicon.trie(), limits.max_tokens)? {
                return Ok(Box::new(both));
            }
        }
        let (first, second) = (grammar.constraint(own)?, rest.compile(lexicon, limits)?);
        Ok(Box::new(Together::new(first, second, lexicon.trie())))
    }

    fn has_wording(&self) -> bool {
        !self.wording.is_empty()
    }

    fn words(&self, trie: &TokenTrie) -> Result<WordingAutomaton> {
        WordingAutomaton::for_vocab(&self.wording, trie)
    }

    fn both(
        &self,
        grammar: &Grammar,
        trie: &TokenTrie,
    ) -> Result<Both<crate::grammar::Machine, WordingAutomaton>> {
        Ok(Both::new(grammar.compile(&trie.single_bytes())?, self.words(trie)?))
    }

    fn stages<F: FreePart, S: Automaton>(&self, free: F, strict: S) -> Result<Staged<F, S>> {
        Staged::new(free, self.after.as_deref().unwrap_or_default(), strict, self.until.as_deref())
    }

    fn staged<F: FreePart + 'static, S: Automaton + 'static>(
        &self,
        free: F,
        strict: S,
        trie: &Arc<TokenTrie>,
        limits: Limits,
    ) -> Result<Box<dyn Constraint>> {
        finish(self.stages(free, strict)?, trie, limits)
    }

    /// The generation's limits and those on tokens together.
    fn limits(&self, limits: Limits) -> Result<Limits> {
        let Range { min, max } = self.tokens;
        if max.is_some_and(|m| m < min) {
            return Err(bad("length in tokens: the lower limit is above the upper one"));
        }
        // lengths do not count the ending token, limits do
        let own = max.map(|m| m as usize + 1);
        let max_tokens = own.into_iter().chain(limits.max_tokens).min();
        Ok(Limits { max_tokens, min_tokens: limits.min_tokens.max(min as usize), ..limits })
    }
}

impl Wording {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        let lengths = Unit::ALL.iter().any(|&u| self.length[u as usize].is_active());
        self.include.is_empty() && self.exclude.is_empty() && !lengths
    }
}

fn finish<A: Automaton + 'static>(
    automaton: A,
    trie: &Arc<TokenTrie>,
    limits: Limits,
) -> Result<Box<dyn Constraint>> {
    Ok(Box::new(Bytewise::new(automaton, Arc::clone(trie), limits)?))
}

fn bad(message: &str) -> Error {
    Error::new(ErrorKind::BadProfile, message)
}
