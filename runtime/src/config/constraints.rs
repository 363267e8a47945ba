//! `[constraints]`: what the text must satisfy, as written in a profile.

use crate::align::{Boundary, Case, Clause, Constraints, Norm, Phrase, Range, Scope, Shape, Tool, Unit};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::grammar::Grammar;
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

/// `[constraints]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConstraintSection {
    /// Clauses: each must be met by one of its phrases.
    pub include: Vec<IncludeEntry>,
    /// Clauses must be met in this order, without overlap.
    pub ordered: bool,
    /// Phrases that must not occur.
    pub exclude: Vec<PhraseEntry>,
    /// What becomes of an excluded phrase.
    pub on_exclude: OnExclude,
    /// Show no beginning of an excluded phrase either, until it is clear that it is none.
    pub hold_partial: bool,
    /// For phrases that say nothing else: whole words or anywhere.
    pub boundary: Boundary,
    /// For phrases that say nothing else: whether letter case matters.
    pub case: Case,
    /// For phrases that say nothing else: which spellings count as one.
    pub norm: Norm,
    /// Lengths.
    pub length: LengthSection,
    /// The shape of the text.
    pub grammar: Option<GrammarSection>,
    /// The text is free up to and including the first occurrence of this.
    pub after: Option<String>,
    /// The text is free again from the first occurrence of this where it could end.
    pub until: Option<String>,
    /// Which part wording and lengths are about.
    pub scope: Scope,
    /// Logits added to what leads to a missing clause, growing up to this at the token limit, and up to twice this
    /// after an end that the model wanted too early; then to the end of the text. 0: none.
    pub pressure: f32,
}

impl Default for ConstraintSection {
    fn default() -> Self {
        Self {
            include: Vec::new(),
            ordered: false,
            exclude: Vec::new(),
            on_exclude: OnExclude::default(),
            hold_partial: false,
            boundary: Boundary::default(),
            case: Case::default(),
            norm: Norm::default(),
            length: LengthSection::default(),
            grammar: None,
            after: None,
            until: None,
            scope: Scope::default(),
            pressure: 10.0,
        }
    }
}

/// What becomes of an excluded phrase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExclude {
    /// The token that would complete it is never drawn.
    #[default]
    Mask,
    /// It is found when it is complete, and the text goes back to where it began.
    Backtrack,
    /// It is found when it is complete, and the text ends before it.
    Stop,
}

/// A clause: a phrase, a list of phrases, or a table.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a phrase, a list of phrases, or a table {any, at_least, at_most}")]
pub enum IncludeEntry {
    /// This phrase.
    One(String),
    /// One of these.
    Any(Vec<PhraseEntry>),
    /// One of these, so many times.
    Counted(CountedClause),
}

/// A clause with counts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountedClause {
    /// One of these.
    pub any: Vec<PhraseEntry>,
    /// At least so often.
    #[serde(default = "one")]
    pub at_least: u32,
    /// At most so often.
    #[serde(default)]
    pub at_most: Option<u32>,
}

const fn one() -> u32 {
    1
}

/// A phrase: its text, or a table.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a phrase, or a table {text, boundary, case, norm}")]
pub enum PhraseEntry {
    /// Compared as the section says.
    Text(String),
    /// Compared as the table says.
    Detailed(DetailedPhrase),
}

/// A phrase and how it is compared.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetailedPhrase {
    /// The phrase.
    pub text: String,
    /// Whole words or anywhere.
    #[serde(default)]
    pub boundary: Option<Boundary>,
    /// Whether letter case matters.
    #[serde(default)]
    pub case: Option<Case>,
    /// Which spellings count as one.
    #[serde(default)]
    pub norm: Option<Norm>,
}

impl From<&str> for PhraseEntry {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// Limits on the length, each `"a..b"`, `"a.."`, `"..b"` or a number.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LengthSection {
    /// In tokens, the ending one not counted.
    #[serde(deserialize_with = "range")]
    pub tokens: Option<Range>,
    /// In words.
    #[serde(deserialize_with = "range")]
    pub words: Option<Range>,
    /// In sentences.
    #[serde(deserialize_with = "range")]
    pub sentences: Option<Range>,
    /// In Unicode scalar values.
    #[serde(deserialize_with = "range")]
    pub chars: Option<Range>,
    /// In grapheme clusters.
    #[serde(deserialize_with = "range")]
    pub graphemes: Option<Range>,
    /// In bytes of UTF-8.
    #[serde(deserialize_with = "range")]
    pub bytes: Option<Range>,
}

fn range<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<Range>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a number or a range such as \"5..9\"")]
    enum Entry {
        Number(u32),
        Text(String),
    }
    match Entry::deserialize(from)? {
        Entry::Number(n) => Ok(Some(Range::exactly(n))),
        Entry::Text(text) => text.parse().map(Some).map_err(|e: Error| de::Error::custom(e)),
    }
}

/// How a constraint is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Every token is masked: one pass, valid, biased.
    #[default]
    Mask,
    /// Drawn from the model's own law conditioned on the constraint.
    Exact,
    /// Approaches that law with the number of particles.
    Smc,
}

/// The kind of an inline grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrammarKind {
    /// JSON Schema.
    JsonSchema,
    /// The notation of llama.cpp.
    Gbnf,
    /// Lark, in llguidance's dialect.
    Lark,
    /// A regular expression that the whole text matches.
    Regex,
}

/// `grammar`: one source and how it is kept.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrammarSection {
    /// A JSON Schema: a file, or the schema itself.
    pub json_schema: Option<Value>,
    /// A file in GBNF.
    pub gbnf: Option<String>,
    /// A file in Lark.
    pub lark: Option<String>,
    /// A regular expression.
    pub regex: Option<String>,
    /// Kind of `text`.
    pub kind: Option<GrammarKind>,
    /// A grammar written here.
    pub text: Option<String>,
    /// Tools, one of which is called: the text is `{"name": NAME, "arguments": ARGUMENTS}`.
    pub tools: Vec<ToolEntry>,
    /// How it is kept, with all other constraints.
    pub mode: Mode,
    /// `exact`: masked draws made first.
    pub seed_draws: Option<u32>,
    /// `exact`: draws a text may take.
    pub max_draws: Option<u32>,
    /// `exact`: memory for visited prefixes.
    pub node_cache_mib: Option<usize>,
    /// `exact`: what to do when draws run out.
    pub on_exhausted: OnExhausted,
    /// `smc`: texts at once.
    pub particles: Option<usize>,
}

/// A tool that can be called.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolEntry {
    /// Its name.
    pub name: String,
    /// JSON Schema of its arguments.
    pub parameters: Value,
}

/// What to do when exact sampling runs out of draws.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExhausted {
    /// Fail.
    #[default]
    Error,
    /// Go on with `smc`; the report says so.
    Smc,
}

impl GrammarSection {
    /// The shape asked for, if any; `read` reads files.
    fn shape(&self, read: &mut dyn FnMut(&str) -> Result<String>) -> Result<Option<Shape>> {
        let mut given: Vec<(GrammarKind, Option<&str>, &str)> = Vec::new(); // kind, file, text
        let schema = self.json_schema.as_ref();
        let inline = schema.filter(|v| !v.is_string()).map(Value::to_string);
        given.extend(schema.and_then(Value::as_str).map(|file| (GrammarKind::JsonSchema, Some(file), "")));
        given.extend(inline.as_deref().map(|text| (GrammarKind::JsonSchema, None, text)));
        given.extend(self.gbnf.as_deref().map(|file| (GrammarKind::Gbnf, Some(file), "")));
        given.extend(self.lark.as_deref().map(|file| (GrammarKind::Lark, Some(file), "")));
        given.extend(self.regex.as_deref().map(|text| (GrammarKind::Regex, None, text)));
        match (self.kind, &self.text) {
            (Some(kind), Some(text)) => given.push((kind, None, text)),
            (None, None) => {}
            _ => return Err(bad("`kind` and `text` of a grammar go together")),
        }
        if !self.tools.is_empty() {
            let tool = |t: &ToolEntry| Tool { name: t.name.clone(), parameters: t.parameters.clone() };
            return match given.is_empty() {
                true => Ok(Some(Shape::ToolCall(self.tools.iter().map(tool).collect()))),
                false => Err(bad("more than one grammar: `tools` is one")),
            };
        }
        match given[..] {
            [] => Ok(None),
            [(kind, None, text)] => shape(kind, text).map(Some),
            [(kind, Some(file), _)] => shape(kind, &read(file)?).at(|| file).map(Some),
            _ => Err(bad("more than one grammar: expected one of json_schema, gbnf, lark, regex, text")),
        }
    }
}

/// The shape that a grammar text describes.
/// # Errors those of the kind.
pub fn shape(kind: GrammarKind, text: &str) -> Result<Shape> {
    Ok(match kind {
        GrammarKind::Gbnf => Shape::Grammar(Grammar::gbnf(text)?),
        GrammarKind::Regex => Shape::Grammar(Grammar::regex(text)?),
        GrammarKind::JsonSchema => Shape::JsonSchema(text.to_owned()),
        GrammarKind::Lark => Shape::Lark(text.to_owned()),
    })
}

impl ConstraintSection {
    /// The constraints this asks for. `read` gives the text of a file named here.
    /// # Errors `BadProfile` and those of the grammars, naming the key.
    pub fn build(&self, read: &mut dyn FnMut(&str) -> Result<String>) -> Result<Constraints> {
        let mut out = Constraints {
            tokens: self.length.tokens.unwrap_or_default(),
            after: self.after.clone(),
            until: self.until.clone(),
            scope: self.scope,
            ..Constraints::default()
        };
        if let Some(grammar) = &self.grammar {
            out.shape = grammar.shape(read).at(|| "constraints.grammar")?;
        }
        let wording = &mut out.wording;
        wording.ordered = self.ordered;
        wording.include = self.include.iter().map(|entry| self.clause(entry)).collect();
        wording.exclude = self.exclude.iter().map(|p| self.phrase(p)).collect();
        let l = &self.length;
        for (unit, range) in [
            (Unit::Words, l.words),
            (Unit::Sentences, l.sentences),
            (Unit::Chars, l.chars),
            (Unit::Graphemes, l.graphemes),
            (Unit::Bytes, l.bytes),
        ] {
            wording.length[unit as usize] = range.unwrap_or_default();
        }
        Ok(out)
    }

    /// How the constraint is kept.
    pub fn mode(&self) -> Mode {
        self.grammar.as_ref().map_or(Mode::Mask, |g| g.mode)
    }

    fn clause(&self, entry: &IncludeEntry) -> Clause {
        let phrases = |list: &[PhraseEntry]| list.iter().map(|p| self.phrase(p)).collect::<Vec<_>>();
        match entry {
            IncludeEntry::One(text) => Clause::any([self.phrase(&PhraseEntry::Text(text.clone()))]),
            IncludeEntry::Any(list) => Clause::any(phrases(list)),
            IncludeEntry::Counted(c) => {
                Clause { any: phrases(&c.any), at_least: c.at_least, at_most: c.at_most }
            }
        }
    }

    /// The phrase of an entry, compared as this section says where the entry says nothing.
    pub(crate) fn phrase(&self, entry: &PhraseEntry) -> Phrase {
        let (text, own) = match entry {
            PhraseEntry::Text(text) => (text, None),
            PhraseEntry::Detailed(p) => (&p.text, Some(p)),
        };
        Phrase {
            text: text.clone(),
            boundary: own.and_then(|p| p.boundary).unwrap_or(self.boundary),
            case: own.and_then(|p| p.case).unwrap_or(self.case),
            norm: own.and_then(|p| p.norm).unwrap_or(self.norm),
        }
    }
}

fn bad(message: &str) -> Error {
    Error::new(ErrorKind::BadProfile, message)
}

#[cfg(test)]
mod tests {
    use super::super::Profile;
    use super::*;

    fn parse(text: &str) -> Result<Constraints> {
        Profile::parse(text)?.constraints.build(&mut |file| match file {
            "n.gbnf" => Ok("root ::= [0-9]+".to_owned()),
            _ => Err(Error::new(ErrorKind::Io, "no such file")),
        })
    }

    #[test]
    fn everything_that_can_be_asked_is_read() {
        let text = r#"
            [constraints]
            include = ["dog", ["frisbee", "disc"], { any = ["run", { text = "Ran", case = "exact" }], at_least = 2 }]
            exclude = ["as an AI", { text = "ß", boundary = "none", norm = "none" }]
            length = { sentences = "2", words = "..40", tokens = 30 }
            grammar = { gbnf = "n.gbnf", mode = "exact" }
            after = "</think>"
            scope = "all"
        "#;
        let c = parse(text).expect("valid");
        let clauses: Vec<_> = c.wording.include.iter().map(|c| (c.any.len(), c.at_least)).collect();
        assert_eq!(clauses, [(1, 1), (2, 1), (2, 2)]);
        assert_eq!(c.wording.include[2].any[1].case, Case::Exact);
        assert_eq!(c.wording.exclude[1].boundary, Boundary::None);
        assert_eq!(c.wording.length[Unit::Sentences as usize], Range::exactly(2));
        assert_eq!(c.wording.length[Unit::Words as usize], Range { min: 0, max: Some(40) });
        assert_eq!(c.tokens, Range::exactly(30));
        assert!(matches!(c.shape, Some(Shape::Grammar(_))) && c.scope == Scope::All);
        assert_eq!(Profile::parse(text).expect("valid").constraints.mode(), Mode::Exact);
    }

    #[test]
    fn mistakes_name_the_place() {
        for (text, words) in [
            ("[constraints]\ninclude = [3]", ["line 2", "phrase"]),
            ("[constraints.length]\nwords = \"x..2\"", ["line 2", "x..2"]),
            ("[constraints]\nlength = { word = 2 }", ["line 2", "word"]),
            ("[constraints]\nexclude = [{ text = \"a\", cas = \"fold\" }]", ["line 2", "phrase"]),
            ("[constraints.grammar]\nmode = \"exactly\"", ["line 2", "exactly"]),
            ("[constraints.grammar]\ngbnf = \"none\"", ["constraints.grammar", "no such file"]),
            ("[constraints.grammar]\nregex = \"(\"", ["constraints.grammar", "unclosed"]),
            ("[constraints.grammar]\nregex = \"a\"\ngbnf = \"n.gbnf\"", ["grammar", "more than one"]),
            ("[constraints.grammar]\ntext = \"a\"", ["grammar", "together"]),
        ] {
            let message = parse(text).expect_err(text).to_string();
            assert!(words.iter().all(|w| message.contains(w)), "{text:?} gave {message:?}");
        }
    }
}
