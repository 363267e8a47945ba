//! Rows of a data file: JSON objects, one a line, read with the place of every mistake.

use crate::args;
use crate::exit::{BadInput, BadUsage};
use anyhow::Result;
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// A row and where it stands.
#[derive(Debug, Clone)]
pub struct Row {
    place: String,
    /// Where the file lies: other files that the row names lie beside it.
    folder: PathBuf,
    object: Map<String, Value>,
}

impl Row {
    /// All rows of a JSONL file.
    pub fn read_all(path: &Path) -> Result<Vec<Self>> {
        let text = match path.as_os_str() == "-" {
            true => args::read_stdin()?,
            false => args::read_text(path)?,
        };
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let rows: Vec<Self> = lines
            .map(|(i, line)| {
                let place = format!("{}:{}", path.display(), i + 1);
                match serde_json::from_str(line) {
                    Ok(Value::Object(object)) => Ok(Self { place, folder: folder.clone(), object }),
                    Ok(_) => Err(BadInput(format!("{place}: expected an object")).into()),
                    Err(e) => Err(BadInput(format!("{place}: {e}")).into()),
                }
            })
            .collect::<Result<_>>()?;
        if rows.is_empty() {
            return Err(BadUsage(format!("{}: no rows", path.display())).into());
        }
        unique(&rows)?;
        Ok(rows)
    }

    /// The row's `id`, else its place.
    pub fn id(&self) -> Value {
        self.object.get("id").cloned().unwrap_or_else(|| self.place.clone().into())
    }

    /// A mistake in this row.
    pub fn bad(&self, message: impl std::fmt::Display) -> anyhow::Error {
        BadInput(format!("{}: {message}", self.place)).into()
    }

    /// A value, if the row has it and it is not null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|v| !v.is_null())
    }

    /// A value that must be there.
    pub fn need(&self, key: &str) -> Result<&Value> {
        self.get(key).ok_or_else(|| self.bad(format_args!("key `{key}` is missing")))
    }

    /// A text that must be there.
    pub fn text(&self, key: &str) -> Result<&str> {
        let value = self.need(key)?;
        value.as_str().ok_or_else(|| self.wrong(key, "a text", value))
    }

    /// A list that must be there.
    pub fn list(&self, key: &str) -> Result<&[Value]> {
        let value = self.need(key)?;
        value.as_array().map(Vec::as_slice).ok_or_else(|| self.wrong(key, "a list", value))
    }

    /// A list of texts that must be there.
    pub fn texts(&self, key: &str) -> Result<Vec<String>> {
        let text =
            |v: &Value| v.as_str().map(str::to_owned).ok_or_else(|| self.wrong(key, "a list of texts", v));
        self.list(key)?.iter().map(text).collect()
    }

    /// `key` is of the wrong kind.
    pub fn wrong(&self, key: &str, expected: &str, found: &Value) -> anyhow::Error {
        let found: String = found.to_string().chars().take(60).collect();
        self.bad(format_args!("key `{key}`: expected {expected}, found {found}"))
    }

    /// The path of a file that the row names: it lies beside the row's own.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The text of a file that the row names.
    pub fn file(&self, key: &str) -> Result<String> {
        let name = self.text(key)?;
        args::read_text(&self.beside(name)).map_err(|e| self.bad(format_args!("key `{key}`: {e}")))
    }
}

/// Two rows of one name would be scored as one.
fn unique(rows: &[Row]) -> Result<()> {
    let mut seen = HashSet::new();
    for row in rows {
        let id = row.id();
        if !seen.insert(id.to_string()) {
            return Err(row.bad(format_args!("key `id`: {id} was there before")));
        }
    }
    Ok(())
}
