//! Lists of texts: plain text, one a line, or JSONL rows.

use crate::args;
use crate::exit::{BadInput, BadUsage};
use crate::rows::Row;
use anyhow::Result;
use std::path::Path;
use std::str::FromStr;

/// `FILE`, `FILE:FIELD` or `FILE:FIELD:KEY=VALUE`: where texts come from.
#[derive(Debug, Clone)]
pub struct Source {
    pub file: String,
    field: Option<String>,
    only: Option<(String, String)>,
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.splitn(3, ':');
        let file = parts.next().unwrap_or_default().to_owned();
        let field = parts.next().map(str::to_owned);
        let only = match parts.next().map(|p| p.split_once('=')) {
            None => None,
            Some(Some((key, value))) => Some((key.to_owned(), value.to_owned())),
            Some(None) => return Err("expected FILE:FIELD:KEY=VALUE".to_owned()),
        };
        match file.is_empty() {
            true => Err("expected FILE, FILE:FIELD or FILE:FIELD:KEY=VALUE".to_owned()),
            false => Ok(Self { file, field, only }),
        }
    }
}

/// One text, with an answer if its row has one.
#[derive(Debug, Clone)]
pub struct Text {
    pub prompt: String,
    pub response: Option<String>,
    /// First words of the answer that the row asks to be forced.
    pub prefix: Option<String>,
}

impl Source {
    /// What it is called in tables.
    pub fn name(&self) -> String {
        let stem = Path::new(&self.file).file_stem().map(|s| s.to_string_lossy().into_owned());
        let mut name = stem.unwrap_or_else(|| self.file.clone());
        for part in self.field.iter().filter(|f| *f != "prompt").chain(self.only.iter().map(|(_, v)| v)) {
            name = format!("{name}:{part}");
        }
        name
    }

    /// All its texts, in order; equal prompts with equal prefixes count once.
    pub fn read(&self) -> Result<Vec<Text>> {
        let is_jsonl = self.field.is_some()
            || Path::new(&self.file).extension().is_some_and(|e| e.eq_ignore_ascii_case("jsonl"));
        let mut texts: Vec<Text> = match is_jsonl {
            true => self.rows()?,
            false => {
                let text = args::read_text(Path::new(&self.file))?;
                let lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
                lines.map(|l| Text { prompt: l.to_owned(), response: None, prefix: None }).collect()
            }
        };
        let mut seen = std::collections::HashSet::new();
        texts.retain(|t| seen.insert((t.prompt.clone(), t.prefix.clone())));
        match texts.is_empty() {
            true => Err(BadInput(format!("{}: no texts", self.file)).into()),
            false => Ok(texts),
        }
    }

    fn rows(&self) -> Result<Vec<Text>> {
        let field = self.field.as_deref().unwrap_or("prompt");
        let mut texts = Vec::new();
        for row in Row::read_all(Path::new(&self.file))? {
            if let Some((key, value)) = &self.only {
                let found = row.get(key).ok_or_else(|| row.bad(format_args!("key `{key}` is missing")))?;
                let found = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
                if found != *value {
                    continue;
                }
            }
            let maybe = |key: &str| row.get(key).map(|_| row.text(key).map(str::to_owned)).transpose();
            texts.push(Text {
                prompt: row.text(field)?.to_owned(),
                response: maybe("response")?,
                prefix: maybe("prefix")?,
            });
        }
        Ok(texts)
    }
}

/// Reads several sources; none is a mistake of the caller.
pub fn read_all(sources: &[Source], what: &str) -> Result<Vec<(String, Vec<Text>)>> {
    if sources.is_empty() {
        return Err(BadUsage(format!("expected at least one {what}")).into());
    }
    sources.iter().map(|s| Ok((s.name(), s.read()?))).collect()
}
