//! Data that answers become: prompts a model has made up, pairs of a better and a worse answer, and the file they are
//! written to.
//!
//! Why: a model aligned while decoding can teach another. What is exported must be worth it: prompts that are prompts
//! and differ from each other, pairs whose difference two opinions agree on. Cost: near duplicates are found by
//! comparing with all prompts kept so far, quadratic and fine for some ten thousands.
//! Source: Xu et al. 2024 (Magpie); Wang et al. 2024, arXiv 2403.06326 (ACT); the soft labels of SPA/Selfie.

use crate::error::{Error, ErrorKind, Result};
use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// A file of JSON lines that is there whole or not at all: it is written beside its place and moved there at the end.
#[derive(Debug)]
pub struct LineFile {
    path: PathBuf,
    part: PathBuf,
    out: Option<BufWriter<File>>,
}

impl LineFile {
    /// # Errors `Io` if its folder cannot be written to.
    pub fn create(path: &Path) -> Result<Self> {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if name.is_empty() {
            let message = format!("expected a file to write to, found {:?}", path.display().to_string());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let part = path.with_file_name(format!(".{name}.{}.part", std::process::id()));
        let out = File::create(&part).map_err(|e| io(&part, e))?;
        Ok(Self { path: path.to_owned(), part, out: Some(BufWriter::new(out)) })
    }

    /// Appends a line. Keys come in the order in which the type has them.
    /// # Errors `Io`.
    pub fn push(&mut self, row: &impl Serialize) -> Result<()> {
        let Some(out) = &mut self.out else { return Ok(()) };
        let mut line = serde_json::to_vec(row).map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?;
        line.push(b'\n');
        out.write_all(&line).map_err(|e| io(&self.part, e))
    }

    /// Puts the file in its place, in one step.
    /// # Errors `Io`; what stood there before stays then.
    pub fn finish(mut self) -> Result<()> {
        let Some(out) = self.out.take() else { return Ok(()) };
        let file = out.into_inner().map_err(|e| io(&self.part, e.into_error()))?;
        file.sync_all().map_err(|e| io(&self.part, e))?;
        drop(file);
        std::fs::rename(&self.part, &self.path).map_err(|e| io(&self.path, e))
    }
}

impl Drop for LineFile {
    /// Leaves nothing behind, unless it was finished.
    fn drop(&mut self) {
        self.out = None;
        let _ = std::fs::remove_file(&self.part);
    }
}

fn io(path: &Path, e: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, e.to_string()).at(path.display().to_string())
}

/// Why a prompt was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejected {
    /// It did not come to an end within its limit.
    CutOff,
    /// It ends with a colon: what it is about is missing.
    EndsWithColon,
    /// Fewer words than a prompt has.
    TooShort,
    /// More words.
    TooLong,
    /// Written in other letters than asked for.
    Language,
    /// One like it was kept before.
    NearDuplicate,
}

/// Keeps prompts that are whole, of a prompt's length, in the letters asked for, and unlike those kept before.
#[derive(Clone, Debug)]
pub struct PromptFilter {
    /// Fewest and most words.
    pub words: (usize, usize),
    /// Most that two prompts may share: Jaccard index of their character trigrams.
    pub max_overlap: f64,
    /// Whether nine of ten letters must be ASCII, as they are in English.
    pub is_ascii: bool,
    kept: Vec<FxHashSet<[char; 3]>>,
}

impl Default for PromptFilter {
    fn default() -> Self {
        Self { words: (3, 80), max_overlap: 0.7, is_ascii: true, kept: Vec::new() }
    }
}

impl PromptFilter {
    /// Keeps `text`, or says why not. `is_whole`: it came to its own end.
    /// # Errors The reason.
    pub fn keep(&mut self, text: &str, is_whole: bool) -> std::result::Result<(), Rejected> {
        let n_words = text.split_whitespace().count();
        if !is_whole {
            return Err(Rejected::CutOff);
        }
        if text.trim_end().ends_with([':', '：']) {
            return Err(Rejected::EndsWithColon);
        }
        if n_words < self.words.0 {
            return Err(Rejected::TooShort);
        }
        if n_words > self.words.1 {
            return Err(Rejected::TooLong);
        }
        let letters = text.chars().filter(|c| c.is_alphabetic());
        let (n, ascii) = letters.fold((0u32, 0u32), |(n, a), c| (n + 1, a + u32::from(c.is_ascii())));
        if self.is_ascii && 10 * ascii < 9 * n.max(1) {
            return Err(Rejected::Language);
        }
        let trigrams = trigrams(text);
        if self.kept.iter().any(|k| jaccard(k, &trigrams) > self.max_overlap) {
            return Err(Rejected::NearDuplicate);
        }
        self.kept.push(trigrams);
        Ok(())
    }
}

fn trigrams(text: &str) -> FxHashSet<[char; 3]> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let chars: Vec<char> = words.join(" ").chars().flat_map(char::to_lowercase).collect();
    chars.windows(3).filter_map(|w| <[char; 3]>::try_from(w).ok()).collect()
}

fn jaccard(a: &FxHashSet<[char; 3]>, b: &FxHashSet<[char; 3]>) -> f64 {
    let both = a.intersection(b).count();
    let all = a.len() + b.len() - both;
    if all == 0 { 1.0 } else { both as f64 / all as f64 }
}

/// Whose preference a pair holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairSource {
    /// The constraint satisfaction rate.
    Csr,
    /// The log-ratio of an aligned model and its reference.
    Implicit,
    /// A model that judges.
    Judge,
    /// A reward model, or other rewards.
    Rm,
}

/// A better and a worse answer to one prompt: a line of an export. Keys are written in this order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// The prompt.
    pub prompt: String,
    /// The better answer.
    pub chosen: String,
    /// The worse one.
    pub rejected: String,
    /// Whose preference it is.
    pub source: PairSource,
    /// Score of the better answer.
    pub score_c: f64,
    /// Score of the worse one.
    pub score_r: f64,
    /// Share of constraints that the better answer keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csr_c: Option<f64>,
    /// The same of the worse one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csr_r: Option<f64>,
    /// Probability that the better answer is better.
    pub p_pref: f64,
    /// How far a second opinion ranks the answers alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
    /// Identity of the model that answered.
    pub model_sha: String,
    /// How it answered.
    pub decoder: String,
    /// With what settings.
    pub params: serde_json::Value,
    /// Seed of the first answer's draw.
    pub seed: u64,
    /// Version of this program.
    pub truing_version: String,
}

impl Pair {
    /// The same pair with its labels the other way round.
    pub fn swapped(&self) -> Self {
        Self {
            chosen: self.rejected.clone(),
            rejected: self.chosen.clone(),
            score_c: self.score_r,
            score_r: self.score_c,
            csr_c: self.csr_r,
            csr_r: self.csr_c,
            p_pref: 1.0 - self.p_pref,
            ..self.clone()
        }
    }
}

/// Which pairs are worth exporting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairFilter {
    /// Preferences closer to a half than this are none.
    pub margin: f64,
    /// Least agreement of a second opinion, where there is one.
    pub min_agreement: f64,
}

impl Default for PairFilter {
    fn default() -> Self {
        Self { margin: 0.05, min_agreement: 0.5 }
    }
}

impl PairFilter {
    /// Why `pair` is not worth it, if it is not.
    pub fn objection(&self, pair: &Pair) -> Option<&'static str> {
        if pair.chosen == pair.rejected {
            return Some("equal_texts");
        }
        if pair.score_c == pair.score_r || !pair.p_pref.is_finite() {
            return Some("tie");
        }
        if (pair.p_pref - 0.5).abs() < self.margin {
            return Some("undecided");
        }
        pair.agreement.is_some_and(|a| a < self.min_agreement).then_some("low_agreement")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pair() -> Pair {
        Pair {
            prompt: "Why?".into(),
            chosen: "Because of \"x\".\nTwo lines".into(),
            rejected: "No.".into(),
            source: PairSource::Implicit,
            score_c: 1.5,
            score_r: -0.5,
            csr_c: None,
            csr_r: None,
            p_pref: 0.88,
            agreement: Some(1.0),
            model_sha: "ab".into(),
            decoder: "sample".into(),
            params: serde_json::json!({ "temperature": 0.8 }),
            seed: 3,
            truing_version: "0".into(),
        }
    }

    #[test]
    fn a_line_is_read_back_and_its_keys_have_their_order() {
        let line = serde_json::to_string(&pair()).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Pair>(&line).unwrap(), pair());
        let keys =
            ["prompt", "chosen", "rejected", "source", "score_c", "p_pref", "agreement", "model_sha", "seed"];
        let places: Vec<usize> = keys.iter().map(|k| line.find(&format!("\"{k}\":")).unwrap()).collect();
        assert!(places.is_sorted() && !line.contains("csr_c"), "{line}");
        let swapped = pair().swapped();
        assert!(
            (swapped.p_pref - 0.12).abs() < 1e-12
                && swapped.chosen == "No."
                && swapped.swapped().score_c == 1.5
        );
    }

    #[test]
    fn pairs_without_a_difference_are_not_exported() {
        let filter = PairFilter::default();
        assert_eq!(filter.objection(&pair()), None);
        for (pair, why) in [
            (Pair { rejected: pair().chosen, ..pair() }, "equal_texts"),
            (Pair { score_r: 1.5, ..pair() }, "tie"),
            (Pair { p_pref: f64::NAN, ..pair() }, "tie"),
            (Pair { p_pref: 0.54, ..pair() }, "undecided"),
            (Pair { p_pref: 0.46, ..pair() }, "undecided"),
            (Pair { agreement: Some(0.4), ..pair() }, "low_agreement"),
        ] {
            assert_eq!(filter.objection(&pair), Some(why));
        }
        assert_eq!(filter.objection(&Pair { p_pref: 0.56, agreement: None, ..pair() }), None);
    }

    #[test]
    fn prompts_are_whole_short_and_unlike() {
        let mut filter = PromptFilter::default();
        let long = "word ".repeat(81);
        for (text, is_whole, expected) in [
            ("How do I boil an egg?", true, Ok(())),
            ("how do I  boil an Egg?", true, Err(Rejected::NearDuplicate)),
            ("How do I boil two eggs at once?", true, Ok(())),
            ("Name a river in France", false, Err(Rejected::CutOff)),
            ("Translate the following text:", true, Err(Rejected::EndsWithColon)),
            ("Hello there", true, Err(Rejected::TooShort)),
            (&long, true, Err(Rejected::TooLong)),
            ("Почему небо синее днём?", true, Err(Rejected::Language)),
            ("1 + 1 = 2 ?", true, Err(Rejected::Language)),
        ] {
            assert_eq!(filter.keep(text, is_whole), expected, "{text:?}");
        }
        filter.is_ascii = false;
        assert_eq!(filter.keep("Почему небо синее днём?", true), Ok(()));
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let folder = std::env::temp_dir().join(format!("truing-lines-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("out.jsonl");
        let n_files = || std::fs::read_dir(&folder).unwrap().count();
        std::fs::write(&path, "old\n").unwrap();
        let mut file = LineFile::create(&path).unwrap();
        file.push(&pair()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old\n", "nothing is seen before the end");
        drop(file);
        assert_eq!((std::fs::read_to_string(&path).unwrap().as_str(), n_files()), ("old\n", 1));
        let mut file = LineFile::create(&path).unwrap();
        file.push(&1).unwrap();
        file.push(&"two").unwrap();
        file.finish().unwrap();
        assert_eq!((std::fs::read_to_string(&path).unwrap().as_str(), n_files()), ("1\n\"two\"\n", 1));
        assert_eq!(LineFile::create(&folder.join("no/such/x")).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(LineFile::create(Path::new("/")).unwrap_err().kind(), ErrorKind::InvalidArgument);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
