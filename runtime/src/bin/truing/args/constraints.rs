//! Flags for constraints: everything `[constraints]` of a profile can say.

use super::{GuardArgs, read_text};
use crate::exit::{BadInput, BadUsage};
use anyhow::Result;
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use truing::align::{Constraints, Range, Scope, Shape};
use truing::config::{
    self, ConstraintSection, GrammarKind, IncludeEntry, Mode, OnExclude, PhraseEntry, Profile,
};
use truing::guard::GuardPlan;
use truing::model::Model;
use truing::template::ChatTemplate;

/// What the text must satisfy. Flags stand over the profile.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Constraints")]
pub struct ConstraintArgs {
    /// A profile (TOML or JSON): system message, sampling, limits, constraints
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// Say this; alternatives are separated by '|': --include 'dog|dogs'; repeatable
    #[arg(long, value_name = "PHRASE")]
    pub include: Vec<String>,
    /// The --include phrases must come in this order
    #[arg(long)]
    pub ordered: bool,
    /// Never say this; repeatable
    #[arg(long, value_name = "PHRASE")]
    pub exclude: Vec<String>,
    /// What becomes of an excluded phrase
    #[arg(long, value_enum, value_name = "WHAT")]
    pub on_exclude: Option<OnExcludeArg>,
    /// Do not show the beginning of an excluded phrase either
    #[arg(long)]
    pub hold_partial: bool,
    /// Words in the answer: "5", "5..9", "5.." or "..9"
    #[arg(long, value_name = "RANGE")]
    pub words: Option<Range>,
    /// Sentences in the answer
    #[arg(long, value_name = "RANGE")]
    pub sentences: Option<Range>,
    /// Characters (Unicode scalar values) in the answer
    #[arg(long, value_name = "RANGE")]
    pub chars: Option<Range>,
    /// Characters as people see them (grapheme clusters)
    #[arg(long, value_name = "RANGE")]
    pub graphemes: Option<Range>,
    /// Bytes in the answer
    #[arg(long, value_name = "RANGE")]
    pub bytes: Option<Range>,
    /// Tokens in the answer, the ending one not counted
    #[arg(long, value_name = "RANGE")]
    pub tokens: Option<Range>,
    /// Keep to a grammar; the kind is told by the extension: .gbnf or .lark
    #[arg(long, value_name = "FILE", group = "shape")]
    pub grammar: Option<PathBuf>,
    /// Answer with JSON that this schema accepts: a file, or the schema itself
    #[arg(long, value_name = "FILE|JSON", group = "shape")]
    pub json_schema: Option<String>,
    /// The whole answer matches this regular expression
    #[arg(long, value_name = "PATTERN", group = "shape")]
    pub regex: Option<String>,
    /// How constraints are kept: masked token by token, or drawn from the exact conditional law
    #[arg(long, value_enum, value_name = "MODE")]
    pub grammar_mode: Option<ModeArg>,
    /// Constraints begin after this text, e.g. '</think>'
    #[arg(long, value_name = "TEXT")]
    pub after: Option<String>,
    /// Constraints end at this text
    #[arg(long, value_name = "TEXT")]
    pub until: Option<String>,
    /// Which part --include, --exclude and lengths are about, with --after
    #[arg(long, value_enum, value_name = "PART")]
    pub scope: Option<ScopeArg>,
    /// Logits added to what leads to a missing phrase at the token limit; less before it [default: 10]
    #[arg(long, value_name = "X")]
    pub pressure: Option<f32>,
    #[command(flatten)]
    pub guards: GuardArgs,
}

/// `--on-exclude`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum OnExcludeArg {
    /// Never draw what would complete it
    Mask,
    /// Take it back and go on another way
    Backtrack,
    /// End before it
    Stop,
}

/// `--grammar-mode`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ModeArg {
    /// One pass; valid but biased
    Mask,
    /// The model's own law conditioned on the constraint
    Exact,
    /// Approaches that law with particles
    Smc,
}

/// `--scope`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ScopeArg {
    /// What follows --after
    Strict,
    /// What comes before it
    Free,
    /// All
    All,
}

impl ConstraintArgs {
    /// The profile with the flags put over it, and the constraints it asks for.
    pub fn resolve(&self) -> Result<(Profile, Constraints)> {
        let mut profile = match &self.profile {
            Some(path) => {
                let at = |e: truing::Error| BadInput(e.at(path.display().to_string()).to_string());
                Profile::parse(&read_text(path)?).map_err(at)?
            }
            None => Profile::default(),
        };
        self.put_over(&mut profile.constraints)?;
        let folder = self.profile.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        profile.place_files(folder);
        let asked = profile.constraints.build(&mut |file| {
            let path = folder.join(file);
            std::fs::read_to_string(&path).map_err(|e| {
                truing::Error::new(truing::ErrorKind::Io, e.to_string()).at(path.display().to_string())
            })
        });
        let mut asked = asked.map_err(|e| match e.kind() {
            truing::ErrorKind::Io => anyhow::Error::from(BadInput(e.to_string())),
            _ => e.into(),
        })?;
        if let Some(shape) = self.shape()? {
            asked.shape = Some(shape);
        }
        Ok((profile, asked))
    }

    /// Adds the adapters of the profile to `run`.
    pub fn add_adapters(&self, run: &mut super::RunArgs) -> Result<()> {
        let Some(path) = &self.profile else { return Ok(()) };
        let at = |e: truing::Error| BadInput(e.at(path.display().to_string()).to_string());
        let profile = Profile::parse(&read_text(path)?).map_err(at)?;
        run.add_adapters(&profile, path.parent().unwrap_or(Path::new("")))
    }

    /// The guards of profile and flags, made ready; phrases that they mask are added to `asked`. `template`: none
    /// for plain continuation.
    pub fn guards(
        &self,
        profile: &Profile,
        asked: &mut Constraints,
        (model, run): (&Model, &super::RunArgs),
        template: Option<&ChatTemplate>,
    ) -> Result<Option<GuardPlan>> {
        let folder = self.profile.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        let plan = self.guards.plan(profile, folder, (model, run), template)?;
        let masked = plan.as_ref().map_or(&[][..], GuardPlan::masked);
        if !masked.is_empty() && profile.constraints.on_exclude != OnExclude::Mask {
            let message = "guards mask phrases, constraints take them back: expected on_exclude = \"mask\"";
            return Err(BadUsage(message.into()).into());
        }
        asked.wording.exclude.extend(masked.iter().cloned());
        Ok(plan)
    }

    fn put_over(&self, c: &mut ConstraintSection) -> Result<()> {
        let phrases = |text: &String| text.split('|').map(PhraseEntry::from).collect();
        c.include.extend(self.include.iter().map(|text| IncludeEntry::Any(phrases(text))));
        c.exclude.extend(self.exclude.iter().map(|text| PhraseEntry::from(text.as_str())));
        c.ordered |= self.ordered;
        c.hold_partial |= self.hold_partial;
        let l = &mut c.length;
        for (field, given) in [
            (&mut l.words, self.words),
            (&mut l.sentences, self.sentences),
            (&mut l.chars, self.chars),
            (&mut l.graphemes, self.graphemes),
            (&mut l.bytes, self.bytes),
            (&mut l.tokens, self.tokens),
        ] {
            *field = given.or(*field);
        }
        c.after = self.after.clone().or(c.after.take());
        c.until = self.until.clone().or(c.until.take());
        c.pressure = self.pressure.unwrap_or(c.pressure);
        match self.on_exclude {
            None => {}
            Some(OnExcludeArg::Mask) => c.on_exclude = OnExclude::Mask,
            Some(OnExcludeArg::Backtrack) => c.on_exclude = OnExclude::Backtrack,
            Some(OnExcludeArg::Stop) => c.on_exclude = OnExclude::Stop,
        }
        match self.scope {
            None => {}
            Some(ScopeArg::Strict) => c.scope = Scope::Strict,
            Some(ScopeArg::Free) => c.scope = Scope::Free,
            Some(ScopeArg::All) => c.scope = Scope::All,
        }
        if let Some(mode) = self.grammar_mode {
            c.grammar.get_or_insert_default().mode = match mode {
                ModeArg::Mask => Mode::Mask,
                ModeArg::Exact => Mode::Exact,
                ModeArg::Smc => Mode::Smc,
            };
        }
        Ok(())
    }

    /// The grammar given by a flag.
    fn shape(&self) -> Result<Option<Shape>> {
        let (kind, text, name) = match (&self.grammar, &self.json_schema, &self.regex) {
            (Some(path), _, _) => (grammar_kind(path)?, read_text(path)?, path.display().to_string()),
            (_, Some(text), _)
                if text.trim_start().starts_with(['{', 't', 'f']) && !Path::new(text).exists() =>
            {
                (GrammarKind::JsonSchema, text.clone(), "--json-schema".to_owned())
            }
            (_, Some(path), _) => (GrammarKind::JsonSchema, read_text(Path::new(path))?, path.clone()),
            (_, _, Some(pattern)) => (GrammarKind::Regex, pattern.clone(), "--regex".to_owned()),
            (None, None, None) => return Ok(None),
        };
        Ok(Some(config::shape(kind, &text).map_err(|e| e.at(name))?))
    }
}

fn grammar_kind(path: &Path) -> Result<GrammarKind> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("gbnf") => Ok(GrammarKind::Gbnf),
        Some("lark") => Ok(GrammarKind::Lark),
        Some("json") => Ok(GrammarKind::JsonSchema),
        _ => {
            Err(BadUsage(format!("--grammar: expected a .gbnf or .lark file, found {}", path.display()))
                .into())
        }
    }
}
