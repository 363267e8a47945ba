//! Instructions whose following a program can check (IFEval).
//!
//! Each check is read from its upstream name and arguments and then asked about raw responses. An empty
//! response follows nothing. What upstream leaves to tools for natural language is done by rule here: sentences
//! ([`SENTENCE_RULE`]) and the split into words that finds words in capitals.
//! Source: Zhou et al. 2023, arXiv 2311.07911, and its published checkers.

mod parse;
mod rules;
#[cfg(test)]
mod tests;

use regex_automata::meta::Regex;

/// How sentences are counted when an instruction asks for a number of them.
pub const SENTENCE_RULE: &str = "[.!?], white space, capital letter";

/// Which counts are enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// So many or more.
    AtLeast,
    /// Fewer.
    LessThan,
}

impl Relation {
    /// Whether `n` is enough, measured against `limit`.
    pub const fn holds(self, n: usize, limit: usize) -> bool {
        match self {
            Self::AtLeast => n >= limit,
            Self::LessThan => n < limit,
        }
    }
}

/// Words that must or must not occur, as they were written and as patterns.
#[derive(Clone, Debug)]
pub struct Words {
    /// As they were written.
    pub words: Vec<String>,
    patterns: Vec<Regex>,
}

/// What to check.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the upstream names say it; the module's source describes each")]
pub enum Check {
    NoComma,
    NumberWords { relation: Relation, n: usize },
    NumberSentences { relation: Relation, n: usize },
    NumberParagraphs { n: usize },
    NthParagraphFirstWord { n: usize, nth: usize, first_word: String },
    KeywordsExist(Words),
    KeywordFrequency { keyword: Words, relation: Relation, n: usize },
    ForbiddenWords(Words),
    LetterFrequency { letter: String, relation: Relation, n: usize },
    AllCapitals,
    AllLowercase,
    CapitalWords { relation: Relation, n: usize },
    BulletLists { n: usize },
    HighlightedSections { n: usize },
    Title,
    JsonFormat,
    MultipleSections { splitter: Words, n: usize },
    ConstrainedResponse,
    Placeholders { n: usize },
    Postscript { marker: String },
    RepeatPrompt { prompt: String },
    TwoResponses,
    EndsWith { phrase: String },
    Quotation,
}

/// A check with its upstream name.
#[derive(Clone, Debug)]
pub struct Instruction {
    /// Upstream name, such as `keywords:existence`.
    pub name: String,
    /// What it checks.
    pub check: Check,
}

impl Instruction {
    /// Whether the raw `response` follows the instruction.
    pub fn holds(&self, response: &str) -> bool {
        !response.trim().is_empty() && self.check.holds(response)
    }

    /// Whether the response follows it as it is, or without its first line, its last line, or its asterisks.
    pub fn holds_loosely(&self, response: &str) -> bool {
        loosened(response).iter().any(|r| self.holds(r))
    }
}

/// The response, and what is left of it without its first line, its last line, or its asterisks.
pub fn loosened(response: &str) -> [String; 4] {
    let after_first = response.split_once('\n').map_or("", |p| p.1).trim();
    let before_last = response.rsplit_once('\n').map_or("", |p| p.0).trim();
    [response.to_owned(), after_first.to_owned(), before_last.to_owned(), response.replace('*', "")]
}
