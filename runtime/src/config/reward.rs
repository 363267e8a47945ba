//! `[[reward]]`: what a search likes, as written in a profile.

use crate::align::{Boundary, Case, Clause, Norm, Phrase, Range, Unit};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::reward::{
    JsonReward, Keywords, LengthReward, LogSigmoid, PatternMode, PatternReward, Repetition, Reward, Transform,
};
use serde::Deserialize;
use serde_json::Value;

/// `[[reward]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardSection {
    /// What is rewarded.
    pub kind: RewardKind,
    /// Its weight among several; below 0 to avoid it.
    #[serde(default = "one")]
    pub weight: f64,
    /// How its scale is put on that of others.
    #[serde(default)]
    pub transform: TransformKind,
    /// `lsc`: the reward that counts as just good.
    #[serde(default)]
    pub reference: Option<f64>,
    /// All or nothing, instead of by shares.
    #[serde(default)]
    pub hard: bool,
    /// `keyword`: lists of which each wants one phrase; without it, those of `constraints.include`.
    #[serde(default)]
    pub any: Vec<Vec<String>>,
    /// `keyword`: whole words or anywhere.
    #[serde(default)]
    pub boundary: Boundary,
    /// `keyword`: whether letter case matters.
    #[serde(default)]
    pub case: Case,
    /// `length`: what is counted.
    #[serde(default)]
    pub unit: Option<LengthUnit>,
    /// `length`: `"a..b"`.
    #[serde(default)]
    pub range: Option<String>,
    /// `regex`: the pattern.
    #[serde(default)]
    pub pattern: Option<String>,
    /// `regex`: what it is about.
    #[serde(default)]
    pub mode: PatternMode,
    /// `schema`: a JSON Schema: a file, or the schema itself; without it, any JSON.
    #[serde(default)]
    pub schema: Option<Value>,
    /// `repetition`: words of the n-grams that should differ.
    #[serde(default)]
    pub n: Option<usize>,
    /// `model`, `judge`, `relevance`, `implicit`: the model that is asked; for `judge` and `relevance` the one that
    /// writes if none is named.
    #[serde(default)]
    pub model: Option<String>,
    /// `implicit`: the model that was not aligned.
    #[serde(default)]
    pub base: Option<String>,
    /// `implicit`: strength.
    #[serde(default)]
    pub beta: Option<f64>,
    /// `judge`: what is asked about the answer, to be answered with yes or no.
    #[serde(default)]
    pub question: Option<String>,
    /// `model`: number of the label whose score counts.
    #[serde(default)]
    pub label: usize,
}

const fn one() -> f64 {
    1.0
}

/// What is rewarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardKind {
    /// Phrases that occur.
    Keyword,
    /// A length.
    Length,
    /// A regular expression.
    Regex,
    /// JSON, of a schema.
    #[serde(alias = "json")]
    Schema,
    /// Words that differ.
    Repetition,
    /// The score of a reward or classifier model.
    Model,
    /// A model's yes or no to a question.
    Judge,
    /// How much likelier an aligned model finds the text than one that was not aligned.
    Implicit,
    /// How near the text is to the prompt.
    Relevance,
}

/// How scales are put on one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransformKind {
    /// As it is.
    #[default]
    None,
    /// Log-sigmoid, centred.
    Lsc,
}

/// A unit of length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LengthUnit {
    /// Words.
    Words,
    /// Sentences.
    Sentences,
    /// Unicode scalar values.
    Chars,
    /// Grapheme clusters.
    Graphemes,
    /// Bytes.
    Bytes,
}

impl From<LengthUnit> for Unit {
    fn from(unit: LengthUnit) -> Self {
        match unit {
            LengthUnit::Words => Self::Words,
            LengthUnit::Sentences => Self::Sentences,
            LengthUnit::Chars => Self::Chars,
            LengthUnit::Graphemes => Self::Graphemes,
            LengthUnit::Bytes => Self::Bytes,
        }
    }
}

impl RewardSection {
    /// A section that says no more than its kind.
    pub fn of(kind: RewardKind) -> Self {
        Self {
            kind,
            weight: 1.0,
            transform: TransformKind::None,
            reference: None,
            hard: false,
            any: Vec::new(),
            boundary: Boundary::default(),
            case: Case::default(),
            unit: None,
            range: None,
            pattern: None,
            mode: PatternMode::default(),
            schema: None,
            n: None,
            model: None,
            base: None,
            beta: None,
            question: None,
            label: 0,
        }
    }

    /// Reads `KIND` or `KIND:WHAT`, as on a command line: `keyword:dog|dogs,frisbee`, `length:words=..20`,
    /// `regex:PATTERN`, `schema:FILE`, `repetition:3`, `judge:QUESTION`; `2*KIND…` for a weight.
    /// # Errors `InvalidArgument` saying what is expected.
    pub fn parse(text: &str) -> Result<Self> {
        let weighted = text.split_once('*').and_then(|(w, rest)| Some((w.trim().parse::<f64>().ok()?, rest)));
        if let Some((weight, rest)) = weighted {
            return Ok(Self { weight, ..Self::parse(rest)? });
        }
        let (kind, what) = text.split_once(':').map_or((text, None), |(k, w)| (k, Some(w)));
        let kind: RewardKind = serde_json::from_value(kind.into())
            .map_err(|e| Error::new(ErrorKind::InvalidArgument, format!("{text:?}: {e}")))?;
        let mut section = Self::of(kind);
        let Some(what) = what else { return Ok(section) };
        match kind {
            RewardKind::Keyword => {
                let clause = |c: &str| c.split('|').map(|p| p.trim().to_owned()).collect();
                section.any = what.split(',').map(clause).collect();
            }
            RewardKind::Length => {
                let (unit, range) = what.split_once('=').unwrap_or(("words", what));
                section.unit = Some(serde_json::from_value(unit.into()).map_err(|e| {
                    Error::new(ErrorKind::InvalidArgument, format!("length unit {unit:?}: {e}"))
                })?);
                section.range = Some(range.to_owned());
            }
            RewardKind::Regex => section.pattern = Some(what.to_owned()),
            RewardKind::Schema => section.schema = Some(Value::String(what.to_owned())),
            RewardKind::Repetition => {
                let n = what.parse().map_err(|_| bad_value("repetition", "a number of words", what));
                section.n = Some(n?);
            }
            RewardKind::Judge => section.question = Some(what.to_owned()),
            RewardKind::Model | RewardKind::Relevance | RewardKind::Implicit => {
                section.model = Some(what.to_owned());
            }
        }
        Ok(section)
    }

    /// Reads names of files as seen from `folder`.
    pub fn place_files(&mut self, folder: &std::path::Path) {
        if let Some(Value::String(file)) = &mut self.schema
            && !file.trim_start().starts_with('{')
        {
            *file = folder.join(&*file).to_string_lossy().into_owned();
        }
    }

    /// The transform asked for.
    /// # Errors `BadProfile` if its reference is missing.
    pub fn transform(&self) -> Result<Transform> {
        match (self.transform, self.reference) {
            (TransformKind::None, _) => Ok(Transform::None),
            (TransformKind::Lsc, Some(reference)) if reference.is_finite() => {
                Ok(Transform::LogSigmoid(LogSigmoid { reference }))
            }
            (TransformKind::Lsc, _) => Err(bad("transform = \"lsc\" needs a `reference`")),
        }
    }

    /// The reward, if a rule gives it; `None` for those that ask a model. `include`: the phrases for a `keyword`
    /// that names none; `read` gives the text of a file named here.
    /// # Errors `BadProfile` and `InvalidArgument` naming the key; those of patterns and schemas.
    pub fn rule(
        &self,
        include: &[Clause],
        read: &mut dyn FnMut(&str) -> Result<String>,
    ) -> Result<Option<Box<dyn Reward>>> {
        Ok(Some(match self.kind {
            RewardKind::Keyword => {
                Box::new(Keywords::new(self.clauses(include), self.hard).at(|| "keyword")?)
            }
            RewardKind::Length => {
                let (Some(unit), Some(range)) = (self.unit, &self.range) else {
                    return Err(bad("kind = \"length\" needs `unit` and `range`"));
                };
                let range: Range = range.parse()?;
                Box::new(LengthReward::new(unit.into(), range, self.hard)?)
            }
            RewardKind::Regex => {
                let pattern =
                    self.pattern.as_deref().ok_or_else(|| bad("kind = \"regex\" needs `pattern`"))?;
                Box::new(PatternReward::new(pattern, self.mode).at(|| "regex")?)
            }
            RewardKind::Schema => {
                let read_schema = |file: &str, text: String| {
                    serde_json::from_str::<Value>(&text)
                        .map_err(|e| Error::new(ErrorKind::BadProfile, e.to_string()).at(file.to_owned()))
                };
                let schema = match &self.schema {
                    Some(Value::String(text)) if text.trim_start().starts_with('{') => {
                        Some(read_schema("schema", text.clone())?)
                    }
                    Some(Value::String(file)) => Some(read_schema(file, read(file)?)?),
                    other => other.clone(),
                };
                Box::new(JsonReward::new(schema.as_ref())?)
            }
            RewardKind::Repetition => Box::new(Repetition::new(self.n.unwrap_or(3))?),
            RewardKind::Model | RewardKind::Judge | RewardKind::Implicit | RewardKind::Relevance => {
                return Ok(None);
            }
        }))
    }

    fn clauses(&self, include: &[Clause]) -> Vec<Clause> {
        if self.any.is_empty() {
            return include.to_vec();
        }
        let phrase = |text: &String| Phrase {
            text: text.clone(),
            boundary: self.boundary,
            case: self.case,
            norm: Norm::default(),
        };
        self.any.iter().map(|phrases| Clause::any(phrases.iter().map(phrase))).collect()
    }
}

fn bad(message: &str) -> Error {
    Error::new(ErrorKind::BadProfile, message)
}

fn bad_value(what: &str, expected: &str, found: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("{what}: expected {expected}, found {found:?}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::Profile;
    use crate::reward::Candidate;

    fn value(section: &RewardSection, text: &str) -> f64 {
        let mut read = |_: &str| Ok(r#"{"type": "integer"}"#.to_owned());
        let mut reward = section.rule(&[Clause::any(["cat"])], &mut read).unwrap().unwrap();
        reward.score("", Candidate { text, is_closed: true }).unwrap().value
    }

    #[test]
    fn flags_and_profiles_say_the_same() {
        for (flag, toml, text, expected) in [
            (
                "keyword:dog|dogs,cat",
                "kind = \"keyword\"\nany = [[\"dog\", \"dogs\"], [\"cat\"]]",
                "Dogs",
                0.5,
            ),
            ("keyword", "kind = \"keyword\"", "a cat", 1.0),
            ("length:words=..2", "kind = \"length\"\nunit = \"words\"\nrange = \"..2\"", "a b c", 0.5),
            ("regex:[0-9]+", "kind = \"regex\"\npattern = \"[0-9]+\"", "a 3", 1.0),
            ("schema:n.json", "kind = \"schema\"\nschema = \"n.json\"", "\"x\"", 0.5),
            ("json", "kind = \"json\"", "[1]", 1.0),
            ("repetition:1", "kind = \"repetition\"\nn = 1", "a a", 0.5),
        ] {
            let profile = Profile::parse(&format!("[[reward]]\n{toml}\n")).expect(toml);
            assert_eq!(value(&profile.reward[0], text), expected, "{toml}");
            assert_eq!(value(&RewardSection::parse(flag).expect(flag), text), expected, "{flag}");
        }
    }

    #[test]
    fn mistakes_name_what_is_missing() {
        let rule = |text: &str| {
            let section = Profile::parse(&format!("[[reward]]\n{text}"))?.reward.remove(0);
            section.transform()?;
            section.rule(&[], &mut |_| Ok(String::new())).map(|_| ())
        };
        for (text, word) in [
            ("kind = \"keywords\"", "keywords"),
            ("kind = \"keyword\"", "keywords"),
            ("kind = \"length\"", "range"),
            ("kind = \"length\"\nunit = \"words\"\nrange = \"3..1\"", "range"),
            ("kind = \"regex\"", "pattern"),
            ("kind = \"regex\"\npattern = \"(\"", "unclosed"),
            ("kind = \"json\"\nschema = { type = \"none\" }", "schema"),
            ("kind = \"json\"\ntransform = \"lsc\"", "reference"),
            ("kind = \"json\"\nwieght = 2", "wieght"),
        ] {
            let message = rule(text).expect_err(text).to_string();
            assert!(message.contains(word), "{text:?} gave {message:?}");
        }
        assert_eq!(RewardSection::parse("-0.5*regex:2*3").unwrap().weight, -0.5);
        assert!(RewardSection::parse("wish").is_err() && RewardSection::parse("length:ells=3").is_err());
    }
}
