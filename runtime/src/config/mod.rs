//! Profiles: everything a caller may ask of a generation, as data. TOML for people, the same tree as JSON for
//! programs. Parsed once into validated types; a key that is not known is an error, never ignored.

mod adapters;
mod constraints;
mod guard;
mod reward;
mod search;

pub use adapters::{AdapterSection, ExpertSection};
pub use constraints::{
    ConstraintSection, CountedClause, DetailedPhrase, GrammarKind, GrammarSection, IncludeEntry,
    LengthSection, Mode, OnExclude, OnExhausted, PhraseEntry, ToolEntry, shape,
};

pub use guard::{GuardAction, GuardKind, GuardSection, PrefillPolicy, Recovery};
pub use reward::{LengthUnit, RewardKind, RewardSection, TransformKind};
pub use search::{BASE_PROMPT, Method, NudgeSection, SearchSection};

use crate::error::{Error, ErrorKind, Result};
use crate::sampling::SamplingParams;
use serde::Deserialize;
use std::collections::BTreeMap;

/// A profile.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Profile {
    /// What it is for, for messages.
    pub name: Option<String>,
    /// What goes before the user's text.
    pub prompt: PromptSection,
    /// How tokens are chosen; llama.cpp's defaults where nothing is said.
    pub sampling: SamplingParams,
    /// When to end.
    pub limits: LimitSection,
    /// What the text must satisfy.
    pub constraints: ConstraintSection,
    /// How texts are looked for.
    pub search: SearchSection,
    /// What watches the answer as it is decoded.
    pub guard: Vec<GuardSection>,
    /// LoRA adapters by the name that requests may weigh them under.
    pub adapters: BTreeMap<String, AdapterSection>,
    /// A control vector.
    pub control: Option<AdapterSection>,
    /// A safer expert for the first tokens.
    pub expert: Option<ExpertSection>,
    /// What a search likes.
    pub reward: Vec<RewardSection>,
    /// A smaller, aligned model that helps.
    pub nudge: Option<NudgeSection>,
}

/// `[prompt]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptSection {
    /// The system message.
    pub system: Option<String>,
    /// For base models: what conversations they are to continue, above the exemplars.
    pub instruction: Option<String>,
    /// For base models: queries with the answers that show how to answer.
    pub exemplars: Vec<Exemplar>,
    /// First words of the answer.
    pub prefill: Option<String>,
    /// What becomes of them; `inspect` under guards, `trust` without.
    pub prefill_policy: Option<PrefillPolicy>,
}

/// A query and how it is answered.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exemplar {
    /// What is asked.
    pub query: String,
    /// What is answered.
    pub answer: String,
}

/// `[limits]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSection {
    /// Most tokens to produce.
    pub max_tokens: Option<usize>,
    /// Texts that end the generation; not part of it.
    pub stop: Vec<String>,
}

impl Profile {
    /// Reads a profile: JSON if it starts with `{`, TOML otherwise.
    /// # Errors `BadProfile` naming line, column and key.
    pub fn parse(text: &str) -> Result<Self> {
        match text.trim_start().starts_with('{') {
            true => serde_json::from_str(text).map_err(|e| bad(e.line(), e.column(), &e.to_string())),
            false => toml::from_str(text).map_err(|e| {
                let (line, column) = position(text, e.span().map_or(0, |s| s.start));
                bad(line, column, e.message())
            }),
        }
    }

    /// Reads names of files that rewards give as seen from `folder`, where the profile lies: for
    /// [`Settings::new`](crate::engine::Settings::new), which reads them as they are named.
    pub fn place_files(&mut self, folder: &std::path::Path) {
        self.reward.iter_mut().for_each(|reward| reward.place_files(folder));
    }
}

fn bad(line: usize, column: usize, message: &str) -> Error {
    let message = message.split(" at line ").next().unwrap_or(message); // serde_json repeats the place
    Error::new(ErrorKind::BadProfile, format!("line {line}, column {column}: {message}"))
}

/// Line and column, both from 1, of byte `offset`.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOML: &str = "name = \"calm\"\n[prompt]\nsystem = \"Be brief.\"\n[sampling]\ntemperature = 0.3\n\
                        [limits]\nmax_tokens = 9\nstop = [\"END\"]\n";
    const JSON: &str = r#"{"name": "calm", "prompt": {"system": "Be brief."},
        "sampling": {"temperature": 0.3}, "limits": {"max_tokens": 9, "stop": ["END"]}}"#;

    #[test]
    fn toml_and_json_say_the_same() {
        for text in [TOML, JSON] {
            let p = Profile::parse(text).expect(text);
            assert_eq!(p.prompt.system.as_deref(), Some("Be brief."));
            assert_eq!((p.sampling.temperature, p.sampling.top_k), (0.3, 40));
            assert_eq!((p.limits.max_tokens, p.limits.stop), (Some(9), vec!["END".to_owned()]));
        }
    }

    #[test]
    fn mistakes_are_named_with_line_and_key() {
        let cases = [
            ("[prompt]\nsytem = \"x\"\n", "line 2", "sytem"),
            ("[sampling]\ntemperature = \"hot\"\n", "line 2", "invalid type"),
            ("[limits]\n\nmax_tokens = -1\n", "line 3", "-1"),
            ("{\"limits\": {\n\"max_token\": 3}}", "line 2", "max_token"),
            ("[prompt\n", "line 1", "]"),
        ];
        for (text, place, word) in cases {
            let message = Profile::parse(text).expect_err(text).to_string();
            assert!(message.contains(place) && message.contains(word), "{text:?} gave {message:?}");
        }
    }
}
