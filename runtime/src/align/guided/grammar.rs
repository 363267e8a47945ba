//! Grammars as given, compiled for a vocabulary.

use std::sync::{Arc, Mutex};

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use super::completion::{Hints, Search};
use super::guard::NumberGuard;
use super::guide::{Guide, bytes_factory};
use super::schema::{self, Strict};
use super::text::{Guided, Shared};
use crate::align::bytewise::Limits;
use crate::align::constraint::Constraint;
use crate::error::{Error, ErrorKind, Result};

/// Bytes of white space that JSON text may hold at one place, if any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Whitespace {
    /// None.
    Compact,
    /// None, or one space behind `:` and `,`: what models write on one line.
    #[default]
    Single,
    /// Up to 20 spaces, tabs and line ends wherever JSON allows them.
    Flexible,
}

/// How JSON text may look and where it lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JsonOptions {
    /// White space in the JSON text.
    pub whitespace: Whitespace,
    /// Free text comes first, up to and with the first occurrence of this marker; up to four bytes of
    /// white space may follow it. As for a model that reasons before it answers.
    pub after: Option<String>,
    /// This marker follows the JSON text (up to four bytes of white space before it), then free text.
    pub until: Option<String>,
}

/// A function a model may call.
#[derive(Clone, Debug)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// JSON Schema of its arguments.
    pub parameters: Value,
}

/// A grammar compiled for one vocabulary; gives a constraint for each text.
pub struct GuidedGrammar {
    shared: Arc<Shared>,
    tokens: Arc<Matcher>,
    bytes: Mutex<Matcher>,
    /// A completion of the empty text, and its length in tokens without the end.
    opening: Vec<u8>,
    n_opening: usize,
    notes: Vec<String>,
}

impl GuidedGrammar {
    /// JSON text that `schema` (JSON Schema, drafts 4 to 2020-12) accepts: see the module's documentation for
    /// what is narrower than the schema.
    /// # Errors `Unsupported` with keyword and place for a keyword that is not enforced; `BadProfile` for what is
    /// no schema; `Unsatisfiable` if it accepts nothing; `TooComplex` if it is too large.
    pub fn json_schema(guide: &Arc<Guide>, schema: &Value, options: &JsonOptions) -> Result<Self> {
        let strict = schema::strict(schema)?;
        let compiled = Self::json(guide, &strict, options);
        compiled
            .map_err(|e| schema::locate(e, schema, |s| Self::json(guide, s, options).err()).at("JSON schema"))
    }

    /// As [`GuidedGrammar::json_schema`], from text.
    /// # Errors As there; `BadProfile` with line and column if `text` is no JSON.
    pub fn json_schema_str(guide: &Arc<Guide>, text: &str, options: &JsonOptions) -> Result<Self> {
        let schema: Value = serde_json::from_str(text).map_err(|e| {
            Error::new(ErrorKind::BadProfile, format!("expected JSON: {e}")).at("JSON schema")
        })?;
        Self::json_schema(guide, &schema, options)
    }

    /// One call of one of `tools`: `{"name": NAME, "arguments": ARGUMENTS}`.
    /// # Errors As [`GuidedGrammar::json_schema`], with the tool's name; `InvalidArgument` without any tool.
    pub fn tools(guide: &Arc<Guide>, tools: &[Tool], options: &JsonOptions) -> Result<Self> {
        if tools.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "expected at least one tool, found none"));
        }
        let strict = schema::strict_tools(tools)?;
        Self::json(guide, &strict, options).map_err(|e| e.at("tools"))
    }

    fn json(guide: &Arc<Guide>, strict: &Strict, options: &JsonOptions) -> Result<Self> {
        let mut schema = strict.schema.clone();
        if let Some(root) = schema.as_object_mut() {
            root.insert("x-guidance".into(), layout(options.whitespace));
        }
        let marker = options.after.clone().unwrap_or_default();
        let grammar = match (&options.after, &options.until) {
            (None, None) => TopLevelGrammar::from_json_schema(schema),
            (after, until) => TopLevelGrammar::from_lark(frame(after.as_deref(), until.as_deref(), &schema)?),
        };
        let guard = NumberGuard::new(!marker.is_empty());
        let hints =
            Hints { marker: marker.into_bytes(), strings: strict.samples.clone(), looks_ahead: false };
        let build = Build { guide, wide: true, guard, hints };
        let mut this = build.run(grammar)?;
        this.notes.clone_from(&strict.notes);
        Ok(this)
    }

    /// A text of the language of `grammar`, in the engine's dialect of Lark.
    /// Terminals (names in capitals, regular expressions, strings) match as much as they can: `/[a-z]*/ "b"` never accepts
    /// `ab`. Text that cannot be completed is refused only where a limit is set.
    /// # Errors `BadProfile` with line and column; `Unsupported` for `max_tokens` and `stop` options (their
    /// effect cannot be undone), control tokens and `%json`; `Unsatisfiable` if no text of the language was found;
    /// `TooComplex`.
    pub fn lark(guide: &Arc<Guide>, grammar: &str) -> Result<Self> {
        refuse_directives(grammar)?;
        let hints = Hints { looks_ahead: true, ..Hints::default() };
        let build = Build { guide, wide: false, guard: NumberGuard::off(), hints };
        build.run(TopLevelGrammar::from_lark(grammar.into())).map_err(|e| e.at("Lark grammar"))
    }

    /// A constraint on one text.
    /// # Errors `Unsatisfiable` if no text of the language is known that fits into the limit.
    pub fn constraint(&self, limits: Limits) -> Result<Box<dyn Constraint>> {
        if let Some(max) = limits.max_tokens
            && self.n_opening + 1 > max
        {
            return Err(Error::new(
                ErrorKind::Unsatisfiable,
                format!(
                    "the shortest known text that satisfies the constraint takes {} tokens with its end, but only {max} are allowed",
                    self.n_opening + 1
                ),
            ));
        }
        let bytes = self.bytes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).deep_clone();
        let (shared, fresh) = (Arc::clone(&self.shared), Arc::clone(&self.tokens));
        Ok(Box::new(Guided::new(shared, fresh, bytes, self.opening.clone(), limits)))
    }

    /// A shortest known text of the language.
    pub fn example(&self) -> &[u8] {
        &self.opening
    }

    /// What the schema says that does not constrain the text, such as formats that no draft defines.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

impl std::fmt::Debug for GuidedGrammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuidedGrammar")
            .field("example", &String::from_utf8_lossy(&self.opening))
            .finish_non_exhaustive()
    }
}

/// Longest text that may be needed to satisfy a grammar, in bytes.
const MAX_OPENING: usize = 1 << 16;

struct Build<'a> {
    guide: &'a Arc<Guide>,
    wide: bool,
    guard: NumberGuard,
    hints: Hints,
}

impl Build<'_> {
    fn run(self, grammar: TopLevelGrammar) -> Result<GuidedGrammar> {
        let (tokens, bytes) = compile([self.guide.factory(self.wide)?, bytes_factory()?], &grammar)?;
        let trie = self.guide.trie();
        let cost = |t: &[u8]| trie.tokenize(t).map(|t| t.len());
        let search =
            Search { matcher: &bytes, max_bytes: MAX_OPENING, guard: self.guard, hints: &self.hints };
        let opening = search.cheapest(cost).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsatisfiable,
                "no text that this vocabulary can spell is known to satisfy the constraint",
            )
        })?;
        let n_opening = cost(&opening).unwrap_or(usize::MAX);
        let shared = Shared { guide: Arc::clone(self.guide), guard: self.guard, hints: self.hints };
        Ok(GuidedGrammar {
            shared: Arc::new(shared),
            tokens: Arc::new(tokens),
            bytes: Mutex::new(bytes),
            opening,
            n_opening,
            notes: Vec::new(),
        })
    }
}

/// Stack for the engine's compiler, which recurses over references and nested schemas.
const COMPILER_STACK: usize = 64 << 20;

/// The grammar over both vocabularies, each on a thread of its own.
fn compile(factories: [&ParserFactory; 2], grammar: &TopLevelGrammar) -> Result<(Matcher, Matcher)> {
    std::thread::scope(|s| {
        let [first, second] = factories.map(|factory| {
            let thread = std::thread::Builder::new().stack_size(COMPILER_STACK);
            thread.spawn_scoped(s, move || matcher(factory, grammar.clone()))
        });
        let join = |thread: std::io::Result<std::thread::ScopedJoinHandle<'_, _>>| {
            let thread = thread
                .map_err(|e| Error::new(ErrorKind::OutOfMemory, "no thread for the grammar").because(e))?;
            thread.join().unwrap_or_else(|_| Err("the engine failed".into())).map_err(|m: String| refusal(&m))
        };
        let (first, second) = (join(first), join(second));
        Ok((first?, second?))
    })
}

fn matcher(factory: &ParserFactory, grammar: TopLevelGrammar) -> std::result::Result<Matcher, String> {
    let parser = factory.create_parser(grammar).map_err(|e| format!("{e:#}"))?;
    if !parser.parser.grammar().lexer_spec().can_rollback() {
        return Err("options max_tokens= and stop= cannot be undone and are not supported".into());
    }
    let mut matcher = Matcher::new(Ok(parser));
    // a grammar whose first mask is empty shows it only now
    matcher.compute_mask_or_eos().map_err(|e| e.to_string())?;
    Ok(matcher)
}

/// Gives the engine's message a kind.
fn refusal(message: &str) -> Error {
    let line = message.lines().next().unwrap_or_default().trim();
    let has = |words: &[&str]| words.iter().any(|w| message.contains(w));
    let kind = if has(&["nsatisfiable", "NoExtension"]) {
        ErrorKind::Unsatisfiable
    } else if has(&[
        "too large",
        "too big",
        "too many",
        "too complex",
        "TooComplex",
        "fuel",
        "limit",
        "Unable to determine",
    ]) {
        ErrorKind::TooComplex
    } else if has(&["not supported", "not disjoint", "only supported", "Unimplemented", "look", "nsupported"])
    {
        ErrorKind::Unsupported
    } else if line.starts_with("panic") {
        ErrorKind::Internal
    } else {
        ErrorKind::BadProfile
    };
    let known = REFUSALS.iter().find(|(start, ..)| line.starts_with(start));
    match known {
        Some((_, keyword, why)) => Error::new(kind, format!("keyword {keyword:?}: {why}")),
        None if line == "NoExtensionBias" => {
            Error::new(kind, "no text satisfies the constraint: nothing may come first")
        }
        None => Error::new(kind, line),
    }
}

/// How refusals of the engine begin, which keyword they concern, and why.
const REFUSALS: [(&str, &str, &str); 4] = [
    ("oneOf constraints", "oneOf", "its branches are not known to exclude each other"),
    (
        "min/maxProperties",
        "minProperties",
        "a count of properties is supported only if all listed ones are required",
    ),
    ("circular references", "$ref", "a reference to a schema around it needs to stand alone"),
    ("patternProperty regexes", "patternProperties", "two patterns may match the same name"),
];

fn layout(whitespace: Whitespace) -> Value {
    let (item, key) = match whitespace {
        Whitespace::Single => (", ?", ": ?"),
        _ => (",", ":"),
    };
    let mut layout = json!({
        "item_separator": item,
        "key_separator": key,
        "whitespace_flexible": false,
        // one spelling for each string: with \u a listed name could pass for another one
        "json_allowed_escapes": "nrbtf\\\"",
    });
    if whitespace == Whitespace::Flexible {
        layout["whitespace_pattern"] = json!(r"[\x20\x0A\x0D\x09]{1,20}");
    }
    layout
}

/// The Lark grammar of a schema between free texts.
fn frame(after: Option<&str>, until: Option<&str>, schema: &Value) -> Result<String> {
    let free = |marker: &str| -> Result<String> {
        if marker.is_empty() || marker.len() > usize::from(u16::MAX) {
            let n = marker.len();
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("expected a marker of 1 to 65535 bytes, found {n}"),
            ));
        }
        Ok(Value::from(marker).to_string())
    };
    let mut rules = String::from("start:");
    let mut more = String::new();
    if let Some(marker) = after {
        let marker = free(marker)?;
        rules.push_str(" before");
        more.push_str(&format!("before[suffix={marker}]: /(?s:.*)/\n"));
    }
    rules.push_str(if after.is_some() { " space? answer" } else { " answer" });
    if let Some(marker) = until {
        let marker = free(marker)?;
        rules.push_str(" space? end rest?");
        more.push_str(&format!("end: {marker}\nrest: /(?s:.+)/\n"));
    }
    Ok(format!("{rules}\n{more}space: /[ \\t\\r\\n]{{1,4}}/\nanswer: %json {schema}\n"))
}

/// Refuses, with their line, control tokens and embedded schemas: neither is checked here.
fn refuse_directives(grammar: &str) -> Result<()> {
    for (i, line) in grammar.lines().enumerate() {
        let code = without_literals(line);
        let found = ["%json", "<"].into_iter().find(|d| code.contains(d));
        if let Some(directive) = found {
            let what = if directive == "<" { "control tokens are" } else { "%json is" };
            let message = format!("line {}: {what} not supported", i + 1);
            return Err(Error::new(ErrorKind::Unsupported, message).at("Lark grammar"));
        }
    }
    Ok(())
}

/// A line of Lark without strings, regular expressions and comments.
fn without_literals(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '/' if chars.peek() == Some(&'/') => break,
            '"' | '/' => {
                while let Some(inner) = chars.next() {
                    match inner {
                        '\\' => drop(chars.next()),
                        _ if inner == c => break,
                        _ => {}
                    }
                }
            }
            _ => out.push(c),
        }
    }
    out
}
