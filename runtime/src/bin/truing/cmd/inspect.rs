//! `truing inspect`: what is in a model file, and what truing will do with it.

use crate::exit::BadInput;
use crate::output;
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use serde_json::Value as Json;
use std::fmt::Write as _;
use std::sync::Arc;
use truing::ErrorKind;
use truing::gguf::{GgufFile, Pair, Summary, TensorLine, TypeTotal};
use truing::model::{Context, ContextOptions, ExecutorKind, KvType, Model, ModelOptions};
use truing::models::{self, Catalog, Quiet};

/// Show what is in a model file and what truing will do with it.
///
/// Works on any sound GGUF file, also of an architecture that truing does not run.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Path to a GGUF file, or a name from `truing list` [default: the catalog's default model]
    model: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Inspect {
    /// Prints the report; a file that claims to be a model but is damaged is an error after that.
    pub fn run(self) -> Result<()> {
        let name = match &self.model {
            Some(name) => name,
            None => &Catalog::builtin()?.default,
        };
        let path = models::resolve_or_pull(name, &mut Quiet)?;
        let file = GgufFile::open(&path)?;
        let (report, damage) = Report::of(file);
        if self.json {
            output::json(&report)?;
        } else {
            output::text(&report.to_text())?;
        }
        damage.map_or(Ok(()), |message| Err(BadInput(message).into()))
    }
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    file: Summary,
    /// `general.architecture`.
    architecture: Option<String>,
    /// Whether truing can run it.
    supported: bool,
    /// Why not.
    why_not: Option<String>,
    /// How it will run; `None` if it is no model that truing can run.
    plan: Option<Plan>,
}

/// What truing will do with a model.
#[derive(Serialize)]
struct Plan {
    /// Hash of the header.
    id: String,
    n_layer: usize,
    n_embd: usize,
    n_head: usize,
    n_head_kv: usize,
    n_vocab: usize,
    /// Context the model was trained for, in tokens.
    n_ctx_train: usize,
    /// Layers that see only a window, and the window in tokens.
    n_layer_windowed: usize,
    window: Option<usize>,
    tokenizer: String,
    pre: Option<String>,
    chat_template: bool,
    /// Bytes of keys and values for 1024 tokens, at 16 bits.
    kv_bytes_per_1024_tokens: usize,
    /// The same with `--cache-type q8_0`, where the native executor runs it.
    kv_q8_0_bytes_per_1024_tokens: Option<usize>,
    executors: Vec<ExecutorLine>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct ExecutorLine {
    name: &'static str,
    runs: bool,
    /// It is taken unless another is asked for.
    default: bool,
    why_not: Option<String>,
}

impl Report {
    /// The report, and what to complain about when the file is no sound model but says it is one.
    fn of(file: GgufFile) -> (Self, Option<String>) {
        let summary = Summary::of(&file);
        let text = |key| file.metadata().str_lossy(key).ok().flatten().map(|s| s.into_owned());
        let architecture = text("general.architecture");
        // Adapters, vocabularies and the like are sound files of another kind.
        let kind = text("general.type").filter(|kind| kind != "model");
        let mut report = Self { file: summary, architecture, supported: false, why_not: None, plan: None };
        if let Some(kind) = kind {
            report.why_not = Some(format!("the file holds no model: its general.type is {kind:?}"));
            return (report, None);
        }
        match Model::from_gguf(file, &ModelOptions::default()) {
            Ok(model) => {
                let plan = Plan::of(&model);
                report.supported = plan.executors.iter().any(|e| e.runs);
                report.why_not = (!report.supported).then(|| "no executor of this build runs it".into());
                report.plan = Some(plan);
                (report, None)
            }
            Err(e) => {
                report.why_not = Some(e.to_string());
                let damage = (e.kind() != ErrorKind::Unsupported).then(|| e.to_string());
                (report, damage)
            }
        }
    }

    fn to_text(&self) -> String {
        let mut out = String::new();
        self.write_head(&mut out);
        match &self.plan {
            Some(plan) => plan.write(&mut out),
            None => {
                section(&mut out, "truing does not run it", &[vec![self.why_not.clone().unwrap_or_default()]])
            }
        }
        section(&mut out, "metadata", &self.file.metadata.iter().map(pair_row).collect::<Vec<_>>());
        section(&mut out, "types", &self.type_rows());
        section(&mut out, "tensors", &self.file.tensors.iter().map(tensor_row).collect::<Vec<_>>());
        out
    }

    fn write_head(&self, out: &mut String) {
        let f = &self.file;
        let files = if f.n_files == 1 { String::new() } else { format!(" in {} files", f.n_files) };
        let line = format!(
            "{}: GGUF version {}, {}{files}, {} tensors with {} values, {} keys\n",
            plain(&f.path),
            f.version,
            output::size(f.size_bytes),
            f.tensors.len(),
            count(f.n_values),
            f.metadata.len(),
        );
        out.push_str(&line);
    }

    fn type_rows(&self) -> Vec<Vec<String>> {
        let all = self.file.tensor_bytes.max(1) as f64;
        let row = |t: &TypeTotal| {
            let share = format!("{:.1} %", 100.0 * t.size_bytes as f64 / all);
            let tensors = format!("{} tensors", t.n_tensors);
            let bits = format!("{:.2} bits a value", 8.0 * t.size_bytes as f64 / t.n_values.max(1) as f64);
            vec![t.ty.clone(), tensors, count(t.n_values), output::size(t.size_bytes), share, bits]
        };
        self.file.types.iter().map(row).collect()
    }
}

impl Plan {
    fn of(model: &Arc<Model>) -> Self {
        let (spec, vocab) = (model.spec(), model.vocab());
        let attn = || spec.layers.iter().map(|l| &l.attn);
        let values = |a: &truing::model::spec::Attention| a.n_head_kv * (a.head_dim_k + a.head_dim_v);
        Self {
            id: model.id().to_owned(),
            n_layer: spec.layers.len(),
            n_embd: spec.n_embd,
            n_head: attn().map(|a| a.n_head).max().unwrap_or(0),
            n_head_kv: attn().map(|a| a.n_head_kv).max().unwrap_or(0),
            n_vocab: spec.n_vocab,
            n_ctx_train: spec.n_ctx_train,
            n_layer_windowed: attn().filter(|a| a.window.is_some()).count(),
            window: attn().find_map(|a| a.window),
            tokenizer: vocab.model_name().to_owned(),
            pre: vocab.pre_name().map(str::to_owned),
            chat_template: model.template().is_ok_and(|t| t.is_some()),
            kv_bytes_per_1024_tokens: attn().map(values).sum::<usize>() * 2 * 1024,
            kv_q8_0_bytes_per_1024_tokens: truing::native::kv_page_bytes(spec, KvType::Q8_0)
                .ok()
                .map(|bytes| bytes * 1024 / truing::model::PAGE_TOKENS),
            executors: executors(model),
            warnings: vocab.warnings().to_vec(),
        }
    }

    fn write(&self, out: &mut String) {
        let window = match self.window {
            Some(w) => format!(", {} layers see a window of {w}", self.n_layer_windowed),
            None => String::new(),
        };
        let pre = self.pre.as_ref().map(|p| format!(", pre-tokenizer {p}")).unwrap_or_default();
        let mut rows = vec![
            vec!["layers".into(), format!("{} of width {}", self.n_layer, self.n_embd)],
            vec!["heads".into(), format!("{}, {} of keys and values", self.n_head, self.n_head_kv)],
            vec!["context".into(), format!("trained for {} tokens{window}", self.n_ctx_train)],
            vec!["vocabulary".into(), format!("{} tokens, tokenizer {}{pre}", self.n_vocab, self.tokenizer)],
            vec!["chat template".into(), if self.chat_template { "yes" } else { "none" }.into()],
            vec![
                "keys and values".into(),
                match self.kv_q8_0_bytes_per_1024_tokens {
                    Some(half) => {
                        let (whole, half) = (self.kv_bytes_per_1024_tokens as u64, half as u64);
                        format!("{} for 1024 tokens, {} as q8_0", output::size(whole), output::size(half))
                    }
                    None => format!("{} for 1024 tokens", output::size(self.kv_bytes_per_1024_tokens as u64)),
                },
            ],
        ];
        for e in &self.executors {
            let runs = match &e.why_not {
                Some(why) => format!("no: {why}"),
                None if e.default => "runs it, the default".into(),
                None => "runs it".into(),
            };
            rows.push(vec![format!("executor {}", e.name), runs]);
        }
        rows.extend(self.warnings.iter().map(|w| vec!["warning".into(), w.clone()]));
        rows.push(vec!["id".into(), self.id.clone()]);
        section(out, "what truing does with it", &rows);
    }
}

/// Which executors take the model and which one is the default, found by making them for a short context.
fn executors(model: &Arc<Model>) -> Vec<ExecutorLine> {
    let make = |executor| {
        let options =
            ContextOptions { n_ctx: 64, max_rows: 1, n_threads: 1, executor, ..ContextOptions::default() };
        Context::new(model, &options)
    };
    let chosen = make(ExecutorKind::Auto).map(|context| context.executor_name());
    let line = |(name, executor)| {
        let why_not = make(executor).err().map(|e| e.to_string());
        ExecutorLine {
            name,
            runs: why_not.is_none(),
            default: chosen.as_ref().is_ok_and(|c| *c == name),
            why_not,
        }
    };
    [("native", ExecutorKind::Native), ("ggml", ExecutorKind::Ggml)].map(line).into()
}

fn pair_row(pair: &Pair) -> Vec<String> {
    let ty = match (&pair.value, pair.len) {
        (Json::Array(_), Some(n)) => format!("{} [{n}]", pair.ty),
        _ => pair.ty.clone(),
    };
    vec![pair.key.clone(), ty, value_text(pair)]
}

/// Characters of a value that are shown on its line.
const VALUE_WIDTH: usize = 72;

fn value_text(pair: &Pair) -> String {
    let whole = match &pair.value {
        Json::String(s) => s.clone(),
        Json::Array(items) => {
            let shown: Vec<_> = items.iter().map(Json::to_string).collect();
            let more = if pair.len.is_some_and(|n| n > items.len()) { ", …" } else { "" };
            format!("{}{more}", shown.join(", "))
        }
        other => other.to_string(),
    };
    let cut: String = whole.chars().take(VALUE_WIDTH).collect();
    match pair.len {
        Some(n) if cut.len() < whole.len() && pair.value.is_string() => format!("{cut}… ({n} bytes)"),
        _ if cut.len() < whole.len() => format!("{cut}…"),
        _ => cut,
    }
}

fn tensor_row(t: &TensorLine) -> Vec<String> {
    let dims: Vec<_> = t.dims.iter().map(ToString::to_string).collect();
    vec![
        t.name.clone(),
        t.ty.clone(),
        dims.join(" × "),
        output::size(t.size_bytes as u64),
        format!("at {}", t.offset),
    ]
}

/// A headed table: columns padded to their widest cell, the last one left as it is.
fn section(out: &mut String, title: &str, rows: &[Vec<String>]) {
    if rows.is_empty() {
        return;
    }
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| plain(cell)).collect()).collect();
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |i: usize| rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count().min(48)).max().unwrap_or(0);
    let widths: Vec<_> = (0..n_columns).map(width).collect();
    // Writing to a string does not fail.
    let _ = writeln!(out, "\n{title}");
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, w)| format!("{cell:w$}"));
        let _ = writeln!(out, "  {}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

/// A file's text for a terminal: control characters, which could move its cursor, are escaped.
fn plain(text: &str) -> String {
    let escape = |c: char| match c {
        '"' | '\'' | '\\' => c.to_string(),
        c => c.escape_debug().to_string(),
    };
    text.chars().map(escape).collect()
}

/// `134.5 M`.
fn count(n: u64) -> String {
    match n {
        0..1000 => n.to_string(),
        1000..1_000_000 => format!("{:.1} k", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", n as f64 / 1e6),
        _ => format!("{:.2} G", n as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use truing::gguf::GgufWriter;

    fn report(build: impl FnOnce(&mut GgufWriter<'_>)) -> (Report, Option<String>) {
        let mut w = GgufWriter::new();
        build(&mut w);
        Report::of(GgufFile::from_bytes("m.gguf", &w.to_bytes()).unwrap())
    }

    #[test]
    fn an_unknown_architecture_is_shown_and_no_error() {
        let (report, damage) = report(|w| {
            w.set("general.architecture", "zebra").unwrap();
            w.set("evil", "a\u{1b}[2Jb\n").unwrap();
            w.set("list", &(0..20u32).collect::<Vec<_>>()).unwrap();
            w.tensor_f32("stripes", &[2, 3], &[0.0; 6]).unwrap();
        });
        assert_eq!((damage, report.supported), (None, false));
        let text = report.to_text();
        for part in [
            "zebra",
            "array of u32 [20]",
            "0, 1, 2, 3, 4, 5, 6, 7, …",
            "stripes",
            "2 × 3",
            "24 B",
            "100.0 %",
            "does not run it",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(text.contains("a\\u{1b}[2Jb\\n") && !text.contains('\u{1b}'));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["architecture"], "zebra");
        assert!(json["why_not"].as_str().unwrap().contains("zebra") && json["plan"].is_null());
    }

    #[test]
    fn damage_is_an_error_and_another_kind_of_file_is_not() {
        let (_, damage) = report(|w| w.set("general.architecture", "llama").unwrap());
        assert!(damage.unwrap().contains("llama.block_count"));
        let (report, damage) = report(|w| {
            w.set("general.architecture", "llama").unwrap();
            w.set("general.type", "adapter").unwrap();
        });
        assert_eq!(damage, None);
        assert!(report.why_not.unwrap().contains("adapter"));
    }
}
