//! Arguments that several commands share, and what they turn into.

use crate::exit::{BadInput, BadUsage};
use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use truing::TokenId;
use truing::align::{Constraints, Range, Scope, Shape};
use truing::config::{
    self, ConstraintSection, GrammarKind, IncludeEntry, Mode, OnExclude, PhraseEntry, Profile,
};
use truing::model::{Context, ContextOptions, ExecutorKind, Model, ModelOptions};
use truing::sampling::{Mirostat, SamplerKind, SamplingParams};
use truing::session::Limits;

/// Which model, and how to run it.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// Path to a GGUF file, or a name from `truing list` [default: the catalog's default model]
    pub model: Option<String>,
    #[command(flatten)]
    pub run: RunArgs,
}

/// How to run a model.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Threads [default: one per physical core]
    #[arg(short = 't', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512), help_heading = "Running")]
    pub threads: Option<u16>,
    /// Context in tokens: prompt and answer together [default: the model's, at most 4096]
    #[arg(short = 'c', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Running")]
    pub ctx_size: Option<u32>,
    /// What computes
    #[arg(long, value_enum, default_value_t, help_heading = "Running")]
    pub executor: ExecutorArg,
}

/// `--executor`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ExecutorArg {
    /// The fastest that supports the model
    #[default]
    Auto,
    /// truing's own CPU kernels
    Native,
    /// ggml
    Ggml,
}

/// Largest context taken without being asked for: enough for a conversation, small in memory.
const DEFAULT_CTX: usize = 4096;

impl ModelArgs {
    /// Opens the model, fetching it first if it is in the catalog and not here yet.
    pub fn open(&self) -> Result<Arc<Model>> {
        let path = self.path()?;
        open_model(&path)
    }

    /// Where the model file lies; fetches it when needed.
    pub fn path(&self) -> Result<PathBuf> {
        crate::cmd::pull::ensure(self.model.as_deref())
    }
}

/// Opens a model file; any failure is one of the input.
pub fn open_model(path: &Path) -> Result<Arc<Model>> {
    Model::open(path, &ModelOptions::default()).map_err(|e| BadInput(e.to_string()).into())
}

impl RunArgs {
    /// A context for `n_parallel` branches of the chosen length.
    pub fn context(&self, model: &Arc<Model>, n_parallel: usize) -> Result<Context> {
        let n_ctx = self.n_ctx(model);
        let options = ContextOptions {
            n_ctx,
            n_kv_tokens: n_ctx.saturating_mul(n_parallel),
            n_threads: self.threads.map_or(0, usize::from),
            executor: match self.executor {
                ExecutorArg::Auto => ExecutorKind::Auto,
                ExecutorArg::Native => ExecutorKind::Native,
                ExecutorArg::Ggml => ExecutorKind::Ggml,
            },
            ..ContextOptions::default()
        };
        Ok(Context::new(model, &options)?)
    }

    /// The context length in tokens.
    pub fn n_ctx(&self, model: &Model) -> usize {
        self.ctx_size.map_or_else(|| model.spec().n_ctx_train.min(DEFAULT_CTX), |n| n as usize)
    }
}

/// Where the prompt comes from.
#[derive(Debug, Clone, Args)]
pub struct PromptArgs {
    /// The prompt
    #[arg(short = 'p', long, value_name = "TEXT", conflicts_with = "file")]
    pub prompt: Option<String>,
    /// Read the prompt from a file; `-` is stdin
    #[arg(short = 'f', long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// System message
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub system: Option<String>,
    /// Continue the text as it is: no chat template
    #[arg(long)]
    pub raw: bool,
    /// Use this chat template instead of the model's
    #[arg(long, value_name = "FILE", conflicts_with = "raw")]
    pub chat_template: Option<PathBuf>,
    /// Read control tokens such as <|im_end|> in the prompt's text as tokens
    #[arg(long)]
    pub parse_special: bool,
}

impl PromptArgs {
    /// The prompt's text: `-p`, `-f`, or stdin when it is not a terminal.
    pub fn text(&self) -> Result<String> {
        self.text_if_any()?
            .ok_or_else(|| BadUsage("no prompt: give one with -p TEXT, -f FILE, or on stdin".into()).into())
    }

    /// As [`PromptArgs::text`]; `None` when there is none and stdin is a terminal.
    pub fn text_if_any(&self) -> Result<Option<String>> {
        match (&self.prompt, &self.file) {
            (Some(text), _) => Ok(Some(text.clone())),
            (None, Some(path)) if path.as_os_str() != "-" => read_text(path).map(Some),
            (None, None) if std::io::stdin().is_terminal() => Ok(None),
            _ => read_stdin().map(Some),
        }
    }
}

/// A text file; unreadable or not UTF-8 is a fault of the input.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| BadInput(format!("{}: {e}", path.display())))?;
    utf8(bytes).with_context(|| path.display().to_string())
}

/// All of stdin as text.
pub fn read_stdin() -> Result<String> {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("stdin")?;
    utf8(bytes).context("stdin")
}

fn utf8(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        BadInput(format!("not UTF-8: byte {:#04x} at offset {at}", e.as_bytes()[at])).into()
    })
}

/// How to choose tokens. Names and defaults follow llama.cpp.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Temperature; 0 takes the likeliest token always [default: 0.8]
    #[arg(long, visible_alias = "temperature", value_name = "T")]
    pub temp: Option<f32>,
    /// Keep the K likeliest tokens; 0: all [default: 40]
    #[arg(long, value_name = "K")]
    pub top_k: Option<u32>,
    /// Keep the likeliest tokens that together have this probability; 1: all [default: 0.95]
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// Drop tokens less likely than this times the likeliest; 0: none [default: 0.05]
    #[arg(long, value_name = "P")]
    pub min_p: Option<f32>,
    /// Locally typical sampling with this mass; 1: off [default: 1]
    #[arg(long, visible_alias = "typical-p", value_name = "P")]
    pub typical: Option<f32>,
    /// Keep logits within N standard deviations of the best; negative: off [default: -1]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub top_n_sigma: Option<f32>,
    /// Divide or multiply logits of tokens seen lately; 1: off [default: 1]
    #[arg(long, value_name = "X")]
    pub repeat_penalty: Option<f32>,
    /// Tokens the penalties look back over; 0: off, -1: all [default: 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub repeat_last_n: Option<i32>,
    /// Subtract this for each time a token was seen lately [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub frequency_penalty: Option<f32>,
    /// Subtract this from every token seen lately [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub presence_penalty: Option<f32>,
    /// DRY: strength against repeated sequences; 0: off [default: 0]
    #[arg(long, value_name = "X")]
    pub dry_multiplier: Option<f32>,
    /// DRY: growth with the length of the repetition [default: 1.75]
    #[arg(long, value_name = "X")]
    pub dry_base: Option<f32>,
    /// DRY: repetitions up to this length are free [default: 2]
    #[arg(long, value_name = "N")]
    pub dry_allowed_length: Option<u32>,
    /// XTC: chance to drop the likeliest tokens; 0: off [default: 0]
    #[arg(long, value_name = "P")]
    pub xtc_probability: Option<f32>,
    /// XTC: tokens at least this likely may be dropped [default: 0.1]
    #[arg(long, value_name = "P")]
    pub xtc_threshold: Option<f32>,
    /// Mirostat version 2 (the only one): steers surprise towards --mirostat-ent
    #[arg(long, value_name = "2", value_parser = clap::value_parser!(u8).range(2..=2))]
    pub mirostat: Option<u8>,
    /// Mirostat: target surprise in bits [default: 5]
    #[arg(long, value_name = "TAU")]
    pub mirostat_ent: Option<f32>,
    /// Mirostat: learning rate [default: 0.1]
    #[arg(long, value_name = "ETA")]
    pub mirostat_lr: Option<f32>,
    /// Add X to a token's logit; repeatable: --logit-bias 15043+1, --logit-bias 15043-inf
    #[arg(short = 'l', long, value_name = "ID±X")]
    pub logit_bias: Vec<String>,
    /// Order of the samplers, separated by ';'
    #[arg(long, value_name = "LIST")]
    pub samplers: Option<String>,
    /// Seed of the draws; the same seed gives the same text [default: drawn and reported]
    #[arg(short = 's', long, value_name = "N")]
    pub seed: Option<u64>,
}

impl SamplingArgs {
    /// The settings: the profile's, llama.cpp's defaults where it says nothing, with what was given put over them.
    pub fn params(&self, profile: &Profile) -> Result<SamplingParams> {
        let mut params = profile.sampling.clone();
        if params.seed == SamplingParams::default().seed {
            params.seed = fresh_seed(); // nobody chose one
        }
        self.over(params)
    }

    /// `params` with what was given put over them.
    pub fn over(&self, mut params: SamplingParams) -> Result<SamplingParams> {
        fn set<T>(field: &mut T, given: Option<T>) {
            if let Some(value) = given {
                *field = value;
            }
        }
        set(&mut params.seed, self.seed);
        set(&mut params.temperature, self.temp);
        set(&mut params.top_k, self.top_k.map(|k| k as usize));
        set(&mut params.top_p, self.top_p);
        set(&mut params.min_p, self.min_p);
        set(&mut params.typical_p, self.typical);
        set(&mut params.top_n_sigma, self.top_n_sigma.map(|n| n.max(0.0)));
        set(&mut params.penalties.repeat, self.repeat_penalty);
        set(&mut params.penalties.last_n, self.repeat_last_n);
        set(&mut params.penalties.frequency, self.frequency_penalty);
        set(&mut params.penalties.presence, self.presence_penalty);
        set(&mut params.dry.multiplier, self.dry_multiplier);
        set(&mut params.dry.base, self.dry_base);
        set(&mut params.dry.allowed_length, self.dry_allowed_length);
        set(&mut params.xtc.probability, self.xtc_probability);
        set(&mut params.xtc.threshold, self.xtc_threshold);
        if self.mirostat.is_some() {
            let default = Mirostat::default();
            params.mirostat = Some(Mirostat {
                tau: self.mirostat_ent.unwrap_or(default.tau),
                eta: self.mirostat_lr.unwrap_or(default.eta),
            });
        }
        for bias in &self.logit_bias {
            params.logit_bias.push(parse_bias(bias)?);
        }
        if let Some(list) = &self.samplers {
            params.samplers = list.split([';', ',']).map(parse_sampler).collect::<Result<_>>()?;
        }
        Ok(params)
    }
}

/// A seed that differs from run to run; the report says which it was.
fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library keys each hasher state with fresh randomness from the system.
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    random & 0xffff_ffff // short enough to read and to type again
}

/// `ID+X` or `ID-X`, as llama.cpp writes it.
fn parse_bias(text: &str) -> Result<(TokenId, f32)> {
    let split = text.find(['+', '-']).map(|at| text.split_at(at));
    let parsed = split.and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse::<f32>().ok()?)));
    parsed.filter(|(_, bias)| !bias.is_nan()).ok_or_else(|| {
        BadUsage(format!("--logit-bias: expected ID+X or ID-X such as 15043-1.5, found {text:?}")).into()
    })
}

fn parse_sampler(name: &str) -> Result<SamplerKind> {
    serde_json::from_value(name.trim().into()).map_err(|e| BadUsage(format!("--samplers: {e}")).into())
}

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
    /// Most logits added to what leads to a missing phrase when the token limit comes near [default: 2]
    #[arg(long, value_name = "X")]
    pub pressure: Option<f32>,
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

/// When to end.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Ending")]
pub struct LimitArgs {
    /// Most tokens to produce [default: until the model ends or the context is full]
    #[arg(short = 'n', long, visible_alias = "n-predict", value_name = "N")]
    pub max_tokens: Option<usize>,
    /// End at this text, which is not part of the answer; repeatable
    #[arg(long, visible_alias = "reverse-prompt", value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Never let the model end by itself
    #[arg(long)]
    pub ignore_eos: bool,
    /// Show control tokens in the answer
    #[arg(long)]
    pub special: bool,
}

impl LimitArgs {
    /// The limits: those of the profile with the flags put over them.
    pub fn limits(&self, profile: &Profile) -> Limits {
        let stop = if self.stop.is_empty() { &profile.limits.stop } else { &self.stop };
        Limits {
            max_tokens: self.max_tokens.or(profile.limits.max_tokens),
            stop: stop.clone(),
            ignore_eos: self.ignore_eos,
            show_special: self.special,
        }
    }
}
