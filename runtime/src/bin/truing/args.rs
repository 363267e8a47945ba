//! Arguments that several commands share, and what they turn into.

mod adapters;
mod constraints;
mod guard;
mod steer;

pub use adapters::Weighted;
pub use constraints::ConstraintArgs;
pub use guard::GuardArgs;
pub use steer::{SteerArgs, beams};

use crate::exit::{BadInput, BadUsage};
use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use truing::TokenId;
use truing::config::Profile;
use truing::model::{Context, ContextOptions, ExecutorKind, KvType, Model, ModelOptions};
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
    /// Storage of keys and values: q8_0 takes half the memory, and is not lossless
    #[arg(long, value_enum, default_value_t, value_name = "TYPE", help_heading = "Running")]
    pub cache_type: CacheArg,
    /// Processors to run on: a list (0-3,6) or a mask (0x4f) [default: any; the fast ones where kinds differ]
    #[arg(long, value_name = "CPUS", value_parser = parse_cpus, help_heading = "Running")]
    pub cpu_mask: Option<Cpus>,
    /// Instruction set of the native kernels, for measurements [default: the best this processor has]
    #[arg(long, value_name = "NAME", hide = true)]
    pub instruction_set: Option<String>,
    /// Add a LoRA adapter (GGUF), at SCALE of its strength [default: 1]; repeatable
    #[arg(long, value_name = "FILE[:SCALE]", help_heading = "Running")]
    pub lora: Vec<Weighted>,
    /// Add a control vector (GGUF) at this strength [default: 1]; repeatable
    #[arg(long, value_name = "FILE[:SCALE]", help_heading = "Running")]
    pub control: Vec<Weighted>,
}

/// `--cache-type`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum CacheArg {
    /// 16 bits a value
    #[default]
    F16,
    /// 8 bits a value, in blocks of 32 with a scale
    #[value(name = "q8_0")]
    Q8_0,
}

impl CacheArg {
    fn kv_type(self) -> KvType {
        match self {
            Self::F16 => KvType::F16,
            Self::Q8_0 => KvType::Q8_0,
        }
    }
}

/// Numbers of processors.
#[derive(Debug, Clone)]
pub struct Cpus(Vec<usize>);

fn parse_cpus(text: &str) -> Result<Cpus, String> {
    truing::native::parse_cpus(text).map(Cpus).map_err(|e| e.to_string())
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

/// Opens the model of that path or name.
pub fn open_named(name: &str) -> Result<Arc<Model>> {
    open_model(&crate::cmd::pull::ensure(Some(name))?)
}

/// What a second model needs beside its file: vocabulary, keys and values, intermediate results.
const SECOND_MODEL_BYTES: u64 = 96 << 20;

/// Opens a second model, beside one that is open.
pub fn open_second(name: &str) -> Result<Arc<Model>> {
    let path = crate::cmd::pull::ensure(Some(name))?;
    let size = std::fs::metadata(&path).map_or(0, |m| m.len()).saturating_add(SECOND_MODEL_BYTES);
    // asked for and given back: without room the process would end in the middle of a small allocation
    let has_room = usize::try_from(size).is_ok_and(|n| Vec::<u8>::new().try_reserve_exact(n).is_ok());
    if !has_room {
        let mib = size >> 20;
        let message = format!("{name}: expected {mib} MiB of memory for a second model, found less");
        return Err(truing::Error::new(truing::ErrorKind::OutOfMemory, message).into());
    }
    open_model(&path)
}

/// Opens the models that a search's rewards ask.
pub fn open_rewards(search: &mut truing::engine::Search) -> Result<()> {
    let mut failed = None;
    let opened = search.open_models(&mut |name| {
        open_second(name).map_err(|e| {
            let error = truing::Error::new(truing::ErrorKind::BadFile, e.to_string());
            failed = Some(e);
            error
        })
    });
    match failed {
        Some(e) => Err(e),
        None => Ok(opened?),
    }
}

impl RunArgs {
    /// A context for `n_parallel` branches of the chosen length.
    pub fn context(&self, model: &Arc<Model>, n_parallel: usize) -> Result<Context> {
        let n_ctx = self.n_ctx(model);
        if let Some(Cpus(cpus)) = &self.cpu_mask {
            // this thread computes, too; threads that it starts run where it may
            truing::native::pin(cpus).map_err(|e| BadUsage(format!("--cpu-mask: {e}")))?;
        }
        let options = ContextOptions {
            n_ctx,
            n_kv_tokens: n_ctx.saturating_mul(n_parallel),
            n_threads: self.threads.map_or(0, usize::from),
            kv_type: self.cache_type.kv_type(),
            instruction_set: self.instruction_set.clone(),
            executor: match self.executor {
                ExecutorArg::Auto => ExecutorKind::Auto,
                ExecutorArg::Native => ExecutorKind::Native,
                ExecutorArg::Ggml => ExecutorKind::Ggml,
            },
            ..ContextOptions::default()
        };
        let mut context = Context::new(model, &options)?;
        self.set_adapters(&mut context, model)?;
        Ok(context)
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
    /// What a profile puts before the query of a base model
    #[arg(skip)]
    pub exemplars: Option<truing::engine::Exemplars>,
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
            fenced: truing::engine::Exemplars::new(&profile.prompt).is_some(),
            max_tokens: self.max_tokens.or(profile.limits.max_tokens),
            stop: stop.clone(),
            ignore_eos: self.ignore_eos,
            show_special: self.special,
        }
    }
}
