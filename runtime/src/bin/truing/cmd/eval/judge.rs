//! What a text is worth: named scores, by the rules of each suite.

use super::suite::Suite;
use jsonschema::Draft;
use serde::Deserialize;
use serde_json::Value;
use truing::align::{Meter, Range, Unit, read_grammar};
use truing::eval::{self, Instruction};
use truing::grammar::Machine;

/// A score of one row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Score {
    /// `k` of `n` cases came out well; rows add up.
    Share { k: usize, n: usize },
    /// A number whose mean over rows is the figure.
    Number(f64),
}

/// Scores by name, in the order in which they are shown.
pub type Scores = Vec<(String, Score)>;

fn yes(name: &str, is_so: bool) -> (String, Score) {
    (name.to_owned(), Score::Share { k: usize::from(is_so), n: 1 })
}

fn number(name: &str, value: f64) -> (String, Score) {
    (name.to_owned(), Score::Number(value))
}

/// A text that a grammar must accept (`viable` is `None`), or refuse after so many characters.
#[derive(Debug, Clone)]
pub struct Validity {
    pub text: String,
    pub viable: Option<usize>,
}

/// What a row's texts are measured against.
pub enum Judge {
    Keywords { concepts: Vec<Vec<String>> },
    Length { limits: Vec<(Unit, Range)> },
    Schema { schema: Value, draft: Draft, tests: Vec<(String, bool)> },
    Grammar { tests: Vec<Validity> },
    Ifeval { instructions: Vec<Instruction> },
    Number { expected: String },
    Edit { kind: String, input: String, output: String },
}

/// A text to judge.
pub struct Answer<'a> {
    pub text: &'a str,
    /// It came to its own end.
    pub is_finished: bool,
}

impl Judge {
    /// Scores of a generated text. `machine`: the row's grammar. An empty text scores 0, as any other.
    pub fn score(&self, answer: &Answer<'_>, meter: &Meter, machine: Option<&Machine>) -> Scores {
        let text = answer.text;
        match self {
            Self::Keywords { concepts } => {
                let coverage = eval::coverage(text, concepts);
                vec![yes("coverage_hard", coverage.hard()), number("coverage_soft", coverage.soft())]
            }
            Self::Length { limits } => length(limits, answer, meter),
            Self::Schema { schema, draft, .. } => schema_scores(schema, *draft, answer),
            Self::Grammar { .. } => {
                let accepted = machine.and_then(|m| read_grammar(m, text).ok()).is_some_and(|v| v.satisfied);
                let mut scores = vec![yes("finished", answer.is_finished)];
                if answer.is_finished {
                    scores.push(yes("finished_accepted", accepted));
                }
                scores.push(yes("accepted", accepted));
                scores
            }
            Self::Ifeval { instructions } => ifeval(instructions, text),
            Self::Number { expected } => {
                let found = eval::last_number(text);
                vec![
                    yes("exact_number", found.as_ref() == Some(expected)),
                    yes("has_number", found.is_some()),
                ]
            }
            Self::Edit { kind, input, output } => edit(kind, input, output, text.trim()),
        }
    }

    /// The score by which two ways of generating are compared.
    pub const fn main_score(suite: Suite) -> &'static str {
        match suite {
            Suite::Keywords => "coverage_hard",
            Suite::Length => "adherence",
            Suite::Jsonschema => "valid",
            Suite::Grammar => "accepted",
            Suite::Distribution => "within_bound",
            Suite::Ifeval => "strict_row",
            Suite::Frontier => "reward",
            Suite::Gsm8k => "exact_number",
            Suite::Edits => "exact_match",
            Suite::Safety => "refused",
        }
    }
}

fn length(limits: &[(Unit, Range)], answer: &Answer<'_>, meter: &Meter) -> Scores {
    let counts = meter.count(answer.text);
    let each: Vec<_> =
        limits.iter().map(|&(u, r)| (u, eval::adherence(&counts, u, r, answer.is_finished))).collect();
    let all = each.iter().all(|(_, a)| a.adheres);
    let mut scores = vec![yes("adherence", all)];
    for (unit, a) in each {
        scores.push(yes(&format!("adherence_{}", unit.name()), a.adheres));
        scores.push(number(&format!("overshoot_{}", unit.name()), f64::from(a.overshoot)));
    }
    scores
}

/// Levels of brackets that a JSON text is read to: parsers in use stop at some hundreds or thousands.
const MAX_NESTING: usize = 2048;

/// JSON that may be nested deeper than the parser's own limit of 128.
fn deep_json(text: &str) -> Option<Value> {
    let mut depth = 0usize;
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => depth += 1, // those in strings count, too: they only make the bound stricter
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth > MAX_NESTING {
            return None;
        }
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.disable_recursion_limit();
    let value = Value::deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    Some(value)
}

/// Whether a finished text is JSON of the schema, by a validator that shares nothing with the enforcement. `draft`:
/// which one a schema without `$schema` is of.
fn schema_scores(schema: &Value, draft: Draft, answer: &Answer<'_>) -> Scores {
    let is_valid = || {
        let value = deep_json(answer.text)?;
        let options = jsonschema::options().should_validate_formats(true);
        let options = if schema.get("$schema").is_some() { options } else { options.with_draft(draft) };
        Some(options.build(schema).ok()?.is_valid(&value))
    };
    let is_valid = is_valid().unwrap_or(false);
    let mut scores = vec![yes("finished", answer.is_finished)];
    if answer.is_finished {
        scores.push(yes("finished_valid", is_valid));
    }
    scores.push(yes("valid", is_valid));
    scores
}

fn ifeval(instructions: &[Instruction], text: &str) -> Scores {
    let strict: Vec<bool> = instructions.iter().map(|i| i.holds(text)).collect();
    let loose: Vec<bool> = instructions.iter().map(|i| i.holds_loosely(text)).collect();
    let count = |v: &[bool]| v.iter().filter(|b| **b).count();
    let n = instructions.len();
    let mut scores = vec![
        yes("strict_row", count(&strict) == n),
        ("strict_check".to_owned(), Score::Share { k: count(&strict), n }),
        yes("loose_row", count(&loose) == n),
        ("loose_check".to_owned(), Score::Share { k: count(&loose), n }),
    ];
    scores.extend(instructions.iter().zip(strict).map(|(i, holds)| yes(&i.name, holds)));
    scores
}

fn edit(kind: &str, input: &str, output: &str, text: &str) -> Scores {
    let distance = eval::char_distance(text, output) as f64;
    vec![
        yes("exact_match", text == output.trim()),
        yes(&format!("exact_match {kind}"), text == output.trim()),
        number("char_distance", distance),
        number("similarity", eval::similarity(text, output)),
        // what leaving the input as it is would score
        number("similarity_of_input", eval::similarity(input, output)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_read_deeper_than_usual_but_not_without_end() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(serde_json::from_str::<Value>(&nested(200)).is_err());
        assert!(deep_json(&nested(200)).is_some() && deep_json(&nested(MAX_NESTING)).is_some());
        for bad in [nested(MAX_NESTING + 1), "[".repeat(200), "[1] 2".to_owned(), String::new()] {
            assert!(deep_json(&bad).is_none());
        }
        assert_eq!(deep_json("{\"a\": \"[[\"}"), Some(serde_json::json!({"a": "[["})));
    }
}
