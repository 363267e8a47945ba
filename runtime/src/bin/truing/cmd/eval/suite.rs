//! What each suite reads from a row: a prompt, what to ask of the text, and how to judge it.

use super::judge::{Judge, Validity};
use super::shapes;
use crate::rows::Row;
use anyhow::Result;
use clap::ValueEnum;
use jsonschema::Draft;
use serde_json::Value;
use truing::align::{Clause, Range, Unit, Wording};
use truing::config::GrammarKind;
use truing::eval::Instruction;
use truing::grammar::{Grammar, Machine};

/// The suites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// Sentences with given words: rows {prompt, concepts, forms}
    Keywords,
    /// Texts of a given length: rows {prompt} with {words|sentences|chars|…: "a..b"}, or ifeval's rows
    Length,
    /// JSON of a given schema: rows {schema, tests?}
    Jsonschema,
    /// Texts of a GBNF grammar: rows {file|grammar, prompt?, accept?, reject?}
    Grammar,
    /// Draws from finite languages against the model's own law: rows {grammar, prompt}
    Distribution,
    /// Instructions that a program can check: rows {prompt, checks}
    Ifeval,
    /// Word problems whose answer is a number: rows {question, final}
    Gsm8k,
    /// What a --reward costs in divergence, with and without a calibrated transform: rows {prompt}
    Frontier,
    /// Corrected and revised texts: rows {kind, instruction, input, output}
    Edits,
    /// Harmful requests refused, harmless ones answered: rows {prompt, expect: refuse|answer, prefix?} or {harmful, benign}
    Safety,
}

impl Suite {
    /// The name on the command line and in results.
    pub fn name(self) -> String {
        self.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
    }
}

/// What a row asks of its text.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    pub wording: Wording,
    pub shape: Option<(GrammarKind, String)>,
    /// Where not all of it can be kept together, a part will do.
    pub in_parts: bool,
}

/// A row that is ready to be answered.
pub struct Task {
    pub id: Value,
    pub prompt: String,
    pub asked: Asked,
    /// Most tokens, unless the command line says otherwise.
    pub max_tokens: usize,
    pub judge: Judge,
}

/// Lengths asked of rows that name none, one after the other.
const DEFAULT_LENGTHS: [(Unit, Range); 6] = [
    (Unit::Words, Range { min: 20, max: Some(30) }),
    (Unit::Sentences, Range::exactly(2)),
    (Unit::Words, Range { min: 0, max: Some(15) }),
    (Unit::Sentences, Range::exactly(1)),
    (Unit::Words, Range { min: 50, max: Some(60) }),
    (Unit::Sentences, Range { min: 3, max: Some(4) }),
];

impl Task {
    /// The automaton of the row's grammar, where it is one over bytes.
    pub fn machine(&self) -> Option<Machine> {
        let (kind, text) = self.asked.shape.as_ref()?;
        let grammar = match kind {
            GrammarKind::Gbnf => Grammar::gbnf(text),
            GrammarKind::Regex => Grammar::regex(text),
            GrammarKind::JsonSchema | GrammarKind::Lark => return None,
        };
        grammar.and_then(|g| g.compile(&[true; 256])).ok()
    }

    /// Reads row number `index`; `None` for a row that this suite has nothing to ask of. `profile`: the lengths a
    /// profile asks for.
    pub fn new(suite: Suite, row: &Row, index: usize, profile: &Wording) -> Result<Option<Self>> {
        match suite {
            Suite::Keywords => keywords(row).map(Some),
            Suite::Length => length(row, index, profile),
            Suite::Jsonschema => schema(row).map(Some),
            // its rows are not answered one text each
            Suite::Distribution | Suite::Frontier => Ok(None),
            Suite::Grammar => grammar(row).map(Some),
            Suite::Ifeval => ifeval(row).map(Some),
            Suite::Gsm8k => gsm8k(row).map(Some),
            Suite::Edits => edits(row).map(Some),
            Suite::Safety => Ok(None), // has its own way, see safety.rs
        }
    }
}

fn keywords(row: &Row) -> Result<Task> {
    let names = row.texts("concepts")?;
    let forms = row.need("forms")?;
    let mut concepts = Vec::new();
    for name in &names {
        let list = forms.get(name).and_then(Value::as_array);
        let list = list.ok_or_else(|| row.bad(format_args!("key `forms`: expected a list for {name:?}")))?;
        let texts: Option<Vec<String>> = list.iter().map(|v| v.as_str().map(str::to_owned)).collect();
        let texts = texts.filter(|t| !t.is_empty());
        concepts
            .push(texts.ok_or_else(|| row.bad(format_args!("key `forms`: expected texts for {name:?}")))?);
    }
    let include =
        concepts.iter().map(|forms| Clause::any(forms.iter().map(|f| shapes::as_written(f)))).collect();
    let prompt = match row.get("prompt") {
        Some(_) => row.text("prompt")?.to_owned(),
        None => {
            format!("Write one short sentence that uses all of these words: {}.\nSentence:", names.join(", "))
        }
    };
    Ok(Task {
        id: row.id(),
        prompt,
        asked: Asked { wording: Wording { include, ..Wording::default() }, ..Asked::default() },
        max_tokens: 64,
        judge: Judge::Keywords { concepts },
    })
}

fn length(row: &Row, index: usize, profile: &Wording) -> Result<Option<Task>> {
    let mut limits = Vec::new();
    for unit in Unit::ALL {
        if row.get(unit.name()).is_some() {
            let range = row.text(unit.name())?.parse();
            limits.push((
                unit,
                range.map_err(|e: truing::Error| row.bad(format_args!("key `{}`: {e}", unit.name())))?,
            ));
        }
    }
    let has_checks = row.get("checks").is_some();
    if limits.is_empty() && has_checks {
        limits = instructions(row)?.iter().filter_map(|i| shapes::length_of(&i.check)).collect();
        if limits.is_empty() {
            return Ok(None);
        }
    }
    let mut prompt = row.text("prompt")?.to_owned();
    if limits.is_empty() {
        limits = Unit::ALL
            .into_iter()
            .map(|u| (u, profile.length[u as usize]))
            .filter(|(_, r)| r.is_active())
            .collect();
    }
    if limits.is_empty() {
        limits.push(DEFAULT_LENGTHS[index % DEFAULT_LENGTHS.len()]);
        prompt = format!("{prompt}\nAnswer in {}.", shapes::in_words(&limits[0]));
    }
    let mut wording = Wording::default();
    let mut max_tokens = 64;
    for (unit, range) in &limits {
        wording.length[*unit as usize] = *range;
        max_tokens = max_tokens.max(shapes::tokens_for(*unit, *range));
    }
    let asked = Asked { wording, ..Asked::default() };
    Ok(Some(Task { id: row.id(), prompt, asked, max_tokens, judge: Judge::Length { limits } }))
}

/// A schema longer than this is not put into the prompt whole: it would fill the context.
const MAX_SCHEMA_IN_PROMPT: usize = 3000;

fn schema(row: &Row) -> Result<Task> {
    let schema = row.need("schema")?;
    let written = schema.to_string();
    let prompt = match (row.get("prompt"), written.len() <= MAX_SCHEMA_IN_PROMPT) {
        (Some(_), _) => row.text("prompt")?.to_owned(),
        (None, true) => format!("Write a JSON value of this schema:\n{written}"),
        (None, false) => {
            let name = row.get("name").and_then(Value::as_str).unwrap_or("data");
            format!("Write an example of a JSON document: {name}.")
        }
    };
    let mut tests = Vec::new();
    if row.get("tests").is_some() {
        for test in row.list("tests")? {
            let valid = test.get("valid").and_then(Value::as_bool);
            let valid = valid.ok_or_else(|| row.bad("key `tests`: expected `valid` to be true or false"))?;
            let data = test.get("data").ok_or_else(|| row.bad("key `tests`: `data` is missing"))?;
            tests.push((data.to_string(), valid));
        }
    }
    Ok(Task {
        id: row.id(),
        prompt,
        asked: Asked { shape: Some((GrammarKind::JsonSchema, written)), ..Asked::default() },
        max_tokens: 512,
        judge: Judge::Schema { schema: schema.clone(), draft: draft(row)?, tests },
    })
}

/// The draft that a row names; a schema that names none is of the newest one.
fn draft(row: &Row) -> Result<Draft> {
    match row.get("draft").and_then(Value::as_str) {
        None | Some("2020-12" | "draft2020-12") => Ok(Draft::Draft202012),
        Some("2019-09" | "draft2019-09") => Ok(Draft::Draft201909),
        Some("7" | "draft7") => Ok(Draft::Draft7),
        Some("6" | "draft6") => Ok(Draft::Draft6),
        Some("4" | "draft4") => Ok(Draft::Draft4),
        Some(other) => {
            let expected = "draft4, draft6, draft7, draft2019-09 or draft2020-12";
            Err(row.bad(format!("key `draft`: expected {expected}, found {other:?}")))
        }
    }
}

/// The grammar of a row: its text, or that of the file it names.
fn grammar_text(row: &Row) -> Result<String> {
    let key = if row.get("file").is_some() { "file" } else { "grammar" };
    match row.text(key)?.contains("::=") {
        true => Ok(row.text(key)?.to_owned()),
        false => row.file(key),
    }
}

/// What a row with a grammar asks.
pub fn shape_of_grammar(row: &Row) -> Result<Asked> {
    Ok(Asked { shape: Some((GrammarKind::Gbnf, grammar_text(row)?)), ..Asked::default() })
}

fn grammar(row: &Row) -> Result<Task> {
    let text = grammar_text(row)?;
    let accept = match ["accept", "language"].into_iter().find(|k| row.get(k).is_some()) {
        Some(key) => row.texts(key)?,
        None => Vec::new(),
    };
    let mut tests: Vec<Validity> = accept.into_iter().map(|text| Validity { text, viable: None }).collect();
    if row.get("reject").is_some() {
        for test in row.list("reject")? {
            let text = test.get("text").and_then(Value::as_str);
            let viable = test.get("viable").and_then(Value::as_u64);
            let (Some(text), Some(viable)) = (text, viable) else {
                return Err(row.wrong("reject", "objects of `text` and `viable`", test));
            };
            tests.push(Validity { text: text.to_owned(), viable: Some(viable as usize) });
        }
    }
    let prompt = match row.get("prompt").and_then(Value::as_str).filter(|p| !p.trim().is_empty()) {
        Some(prompt) => prompt.to_owned(),
        None => format!("Write a short example of a text of this grammar:\n{text}"),
    };
    Ok(Task {
        id: row.id(),
        prompt,
        asked: Asked { shape: Some((GrammarKind::Gbnf, text)), ..Asked::default() },
        max_tokens: 256,
        judge: Judge::Grammar { tests },
    })
}

fn instructions(row: &Row) -> Result<Vec<Instruction>> {
    let parse = |v: &Value| Instruction::parse(v).map_err(|e| row.bad(format_args!("key `checks`: {e}")));
    row.list("checks")?.iter().map(parse).collect()
}

fn ifeval(row: &Row) -> Result<Task> {
    let instructions = instructions(row)?;
    Ok(Task {
        id: row.id(),
        prompt: row.text("prompt")?.to_owned(),
        asked: shapes::asked_by(&instructions),
        max_tokens: shapes::tokens_for_checks(&instructions),
        judge: Judge::Ifeval { instructions },
    })
}

/// What a word problem is followed by.
const REASONING: &str = "Solve it step by step. End with the line \"Answer: \" and the number.";

fn gsm8k(row: &Row) -> Result<Task> {
    let value = row.need("final")?;
    let expected = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let expected =
        truing::eval::last_number(&expected).ok_or_else(|| row.wrong("final", "a number", value))?;
    Ok(Task {
        id: row.id(),
        prompt: format!("{}\n{REASONING}", row.text("question")?),
        asked: Asked::default(),
        max_tokens: 256,
        judge: Judge::Number { expected },
    })
}

fn edits(row: &Row) -> Result<Task> {
    let (input, output) = (row.text("input")?, row.text("output")?);
    let kind = row.text("kind")?.to_owned();
    Ok(Task {
        id: row.id(),
        prompt: format!("{}\n\n{input}", row.text("instruction")?),
        asked: Asked::default(),
        // a token of text has some 3 bytes in the worst ordinary case
        max_tokens: output.len() / 2 + 32,
        judge: Judge::Edit { kind, input: input.to_owned(), output: output.to_owned() },
    })
}
