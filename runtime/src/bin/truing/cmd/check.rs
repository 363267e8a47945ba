//! `truing check`: whether given texts satisfy constraints.

use crate::args::{self, ConstraintArgs};
use crate::exit::{BadInput, BadUsage};
use crate::output;
use crate::rows::Row;
use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use truing::align::{Constraints, Judge, Verdict};
use truing::config::ConstraintSection;
use truing::eval::{Csr, Scope, all_different};

/// Seed of the intervals.
const SEED: u64 = 1;

/// Check texts against constraints: what generation enforces, asked of texts that are there.
#[derive(Debug, Args)]
#[command(after_help = "\
A file is one text (a line end at its end does not count), a .jsonl file many: objects with a text under --field.
A row may hold further constraints for itself under \"constraints\", written as in a profile's [constraints].
Exit code 1 if a text does not satisfy its constraints.

Examples:
  truing check story.txt --sentences 3..5 --exclude \"as an AI\"
  truing check answers.jsonl --profile pitch.toml --json
  echo '{\"a\": 1}' | truing check --json-schema schema.json")]
pub struct Check {
    /// Texts; `-`, or none: stdin
    files: Vec<PathBuf>,
    #[command(flatten)]
    constraints: ConstraintArgs,
    /// Read JSON objects, one a line, with the text under this key [default for .jsonl: text]
    #[arg(long, value_name = "KEY")]
    field: Option<String>,
    /// Texts for one prompt (rows of equal \"prompt\") must differ from one another
    #[arg(long)]
    distinct: bool,
    /// Print one JSON object: n, n_satisfied, csr, constraints, texts
    #[arg(long)]
    json: bool,
}

/// A text to check.
struct Item {
    id: Value,
    text: String,
    prompt: Option<String>,
    /// What is asked of this text alone.
    own: Option<Asked>,
}

/// Constraints, and who judges them.
struct Asked {
    judge: Judge,
    schema: Option<jsonschema::Validator>,
}

/// A text with its verdicts.
struct Checked {
    item: Item,
    verdict: Verdict,
    /// What came of the row's own constraints.
    own: Option<Verdict>,
}

impl Check {
    pub fn run(self) -> Result<()> {
        let (_, asked) = self.constraints.resolve()?;
        let items = self.items()?;
        if asked.is_empty() && !self.distinct && items.iter().all(|i| i.own.is_none()) {
            return Err(
                BadUsage("nothing to check: give constraints, or a --profile that has some".into()).into()
            );
        }
        let asked = Asked::new(&asked)?;
        let checked: Vec<Checked> = items
            .into_iter()
            .map(|item| {
                let verdict = asked.verdict(&item.text)?;
                let own = item.own.as_ref().map(|own| own.verdict(&item.text)).transpose()?;
                Ok(Checked { item, verdict, own })
            })
            .collect::<Result<_>>()?;
        let csr = self.csr(&checked);
        let n_satisfied = checked.iter().filter(|c| c.is_satisfied()).count();
        match self.json {
            true => output::json(&report(&checked, &csr, n_satisfied))?,
            false => show(&checked, &csr, n_satisfied)?,
        }
        let n_groups_failed =
            csr.by_constraint().filter(|(s, _, e)| *s == Scope::Group && e.value < 1.0).count();
        match (checked.len() - n_satisfied, n_groups_failed) {
            (0, 0) => Ok(()),
            (0, _) => anyhow::bail!("texts for one prompt are equal"),
            (n, _) => anyhow::bail!("{n} of {} texts do not satisfy their constraints", checked.len()),
        }
    }

    fn items(&self) -> Result<Vec<Item>> {
        let stdin = [PathBuf::from("-")];
        let files = if self.files.is_empty() { &stdin[..] } else { &self.files };
        let mut items = Vec::new();
        for path in files {
            let is_rows = self.field.is_some() || path.extension().is_some_and(|e| e == "jsonl");
            match is_rows {
                true => items.extend(self.rows(path)?),
                false => items.push(whole(path)?),
            }
        }
        Ok(items)
    }

    fn rows(&self, path: &Path) -> Result<Vec<Item>> {
        let field = self.field.as_deref().unwrap_or("text");
        let item = |row: Row| {
            let own = row.get("constraints").map(|section| row_constraints(&row, section)).transpose()?;
            Ok(Item {
                id: row.id(),
                text: row.text(field)?.to_owned(),
                prompt: row.get("prompt").map(Value::to_string),
                own,
            })
        };
        Row::read_all(path)?.into_iter().map(item).collect()
    }

    /// What became of each constraint, by what it looks at.
    fn csr(&self, checked: &[Checked]) -> Csr {
        let mut csr = Csr::default();
        let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let held = |is: bool| f64::from(u8::from(is));
        for c in checked {
            let text = c.verdict.constraints().map(|(name, is)| (Scope::Text, name, held(is)));
            let own = c.own.iter().flat_map(Verdict::constraints);
            csr.add(text.chain(own.map(|(name, is)| (Scope::PromptAndText, name, held(is)))));
            if let Some(prompt) = &c.item.prompt {
                groups.entry(prompt).or_default().push(&c.item.text);
            }
        }
        for texts in groups.into_values().filter(|t| self.distinct && t.len() > 1) {
            csr.add([(Scope::Group, "distinct".to_owned(), all_different(texts))]);
        }
        csr
    }
}

impl Asked {
    fn new(asked: &Constraints) -> Result<Self> {
        let schema = match &asked.shape {
            Some(truing::align::Shape::JsonSchema(text)) => Some(validator(text)?),
            Some(truing::align::Shape::Lark(_)) => {
                return Err(
                    BadUsage("texts cannot be checked against a Lark grammar; GBNF can".into()).into()
                );
            }
            _ => None,
        };
        Ok(Self { judge: Judge::new(asked)?, schema })
    }

    fn verdict(&self, text: &str) -> Result<Verdict> {
        let verdict = self.judge.verdict(text)?;
        let Some(schema) = &self.schema else { return Ok(verdict) };
        let value = serde_json::from_str::<Value>(text);
        // where JSON breaks off is known; where a value leaves its schema has no place in the text
        let refused_at =
            value.as_ref().err().filter(|e| !e.is_eof()).map(|e| offset(text, e.line(), e.column()));
        let satisfied = value.is_ok_and(|v| schema.is_valid(&v));
        Ok(verdict.with_grammar(truing::align::GrammarVerdict { satisfied, refused_at }))
    }
}

/// A validator for a schema, as independent of the enforcement as can be.
fn validator(schema: &str) -> Result<jsonschema::Validator> {
    let value: Value = serde_json::from_str(schema).map_err(|e| BadInput(format!("JSON schema: {e}")))?;
    let built = jsonschema::options().should_validate_formats(true).build(&value);
    Ok(built.map_err(|e| BadInput(format!("JSON schema: {e}")))?)
}

/// Byte of a place that `serde_json` names: lines and columns (in bytes) from 1.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (before + column.saturating_sub(1)).min(text.len())
}

fn whole(path: &Path) -> Result<Item> {
    let text = match path.as_os_str() == "-" {
        true => args::read_stdin()?,
        false => args::read_text(path)?,
    };
    let text = text.strip_suffix('\n').map_or(&*text, |t| t.strip_suffix('\r').unwrap_or(t)).to_owned();
    Ok(Item { id: path.display().to_string().into(), text, prompt: None, own: None })
}

fn row_constraints(row: &Row, section: &Value) -> Result<Asked> {
    let section: ConstraintSection = serde_json::from_value(section.clone())
        .map_err(|e| row.bad(format_args!("key `constraints`: {e}")))?;
    let asked = section.build(&mut |file| {
        let read = std::fs::read_to_string(row.beside(file));
        read.map_err(|e| truing::Error::new(truing::ErrorKind::Io, e.to_string()).at(file.to_owned()))
    });
    let asked = asked.map_err(|e| row.bad(format_args!("key `constraints`: {e}")))?;
    Asked::new(&asked).map_err(|e| row.bad(format_args!("key `constraints`: {e}")))
}

impl Checked {
    fn is_satisfied(&self) -> bool {
        self.verdict.satisfied && self.own.as_ref().is_none_or(|own| own.satisfied)
    }

    fn json(&self) -> Value {
        let mut row = Map::new();
        row.insert("id".into(), self.item.id.clone());
        row.insert("satisfied".into(), self.is_satisfied().into());
        row.insert("verdict".into(), serde_json::to_value(&self.verdict).unwrap_or_default());
        if let Some(own) = &self.own {
            row.insert("own_verdict".into(), serde_json::to_value(own).unwrap_or_default());
        }
        row.into()
    }
}

fn report(checked: &[Checked], csr: &Csr, n_satisfied: usize) -> Value {
    let mut rates = Map::new();
    let scopes = [None].into_iter().chain(Scope::ALL.map(Some));
    for scope in scopes {
        if let Some(rate) = csr.rate(scope, SEED) {
            rates.insert(
                scope.map_or("all", Scope::name).into(),
                serde_json::to_value(rate).unwrap_or_default(),
            );
        }
    }
    let constraints: Vec<Value> = csr
        .by_constraint()
        .map(|(scope, name, e)| {
            json!({ "scope": scope.name(), "name": name, "value": e.value, "lo": e.lo, "hi": e.hi })
        })
        .collect();
    let texts: Vec<Value> = checked.iter().map(Checked::json).collect();
    json!({
        "n": checked.len(), "n_satisfied": n_satisfied, "csr": rates, "constraints": constraints, "texts": texts,
    })
}

fn show(checked: &[Checked], csr: &Csr, n_satisfied: usize) -> Result<()> {
    for c in checked {
        let id = c.item.id.as_str().map_or_else(|| c.item.id.to_string(), str::to_owned);
        output::line(&format!("{id}: {}", if c.is_satisfied() { "satisfied" } else { "NOT satisfied" }))?;
        for verdict in [Some(&c.verdict), c.own.as_ref()].into_iter().flatten() {
            lines(verdict).try_for_each(|line| output::line(&format!("  {line}")))?;
        }
    }
    if checked.len() > 1 {
        output::line(&format!("{n_satisfied} of {} texts satisfy everything", checked.len()))?;
        for (scope, name, e) in csr.by_constraint() {
            let (value, lo, hi) = (100.0 * e.value, 100.0 * e.lo, 100.0 * e.hi);
            output::line(&format!("  {value:5.1} % [{lo:.1}, {hi:.1}]  {name} ({})", scope.name()))?;
        }
    }
    match csr.rate(None, SEED) {
        Some(e) => output::line(&format!("constraint satisfaction rate {:.1} %", 100.0 * e.value)),
        None => Ok(()),
    }
}

/// A verdict for people, a line for each constraint, then the length.
fn lines(verdict: &Verdict) -> impl Iterator<Item = String> {
    let mark = |is: bool| if is { "ok  " } else { "FAIL" };
    let places = |places: &[truing::align::Place]| -> String {
        places.iter().map(|p| format!(" {:?} at {}..{}", p.phrase, p.start, p.end)).collect()
    };
    let mut out = Vec::new();
    for c in &verdict.include {
        let any = c.any.join("|");
        out.push(format!("{} include {any}: {} times{}", mark(c.satisfied), c.times, places(&c.places)));
    }
    if let Some(e) = &verdict.exclude {
        out.push(format!("{} exclude: {} found{}", mark(e.satisfied), e.times, places(&e.places)));
    }
    for l in &verdict.length {
        let max = l.max.map_or_else(String::new, |m| m.to_string());
        out.push(format!("{} {}: {} in {}..{max}", mark(l.satisfied), l.unit, l.count, l.min));
    }
    if let Some(g) = &verdict.grammar {
        let what = match (g.satisfied, g.refused_at) {
            (true, _) => "accepted".to_owned(),
            (false, Some(at)) => format!("left at byte {at}"),
            (false, None) => "not complete, or not valid".to_owned(),
        };
        out.push(format!("{} grammar: {what}", mark(g.satisfied)));
    }
    let n = &verdict.counts;
    out.push(format!(
        "     {} words, {} sentences, {} characters, {} graphemes, {} bytes",
        n.words, n.sentences, n.chars, n.graphemes, n.bytes
    ));
    out.into_iter()
}
