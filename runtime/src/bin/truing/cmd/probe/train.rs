//! `truing probe train`.

use super::lists::{self, Source, Text};
use super::plot::{Plot, Series};
use super::samples::{self, Making};
use crate::args::{ModelArgs, PromptArgs};
use crate::exit::BadUsage;
use crate::{output, progress, prompt};
use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use truing::eval;
use truing::guard::train::{self, CalibrationSet, Curve, Method, Sample, TrainOptions, Trained};
use truing::guard::{Identity, Position, ProbeFile};

/// Train a probe from lists of texts that should and should not trigger it
#[derive(Debug, Args)]
#[command(after_help = "\
A list is a text file with one prompt a line, or JSONL: FILE:FIELD takes one field of each row [default: prompt],
FILE:FIELD:KEY=VALUE only rows whose KEY is VALUE. Rows may have a \"response\"; where a probe reads answers and a
row has none, the model answers itself.

Example:
  truing probe train -o harm.probe.gguf --positive harmful.jsonl --positive xstest.jsonl:prompt:label=unsafe \\
      --negative xstest.jsonl:prompt:label=safe --calibrate benign.jsonl")]
pub struct Train {
    #[command(flatten)]
    model: ModelArgs,
    /// Texts that should trigger it; repeatable
    #[arg(long, value_name = "LIST", required = true)]
    positive: Vec<Source>,
    /// Texts that should not; repeatable
    #[arg(long, value_name = "LIST")]
    negative: Vec<Source>,
    /// Texts that should not and that set the threshold, at SHARE of them or --alpha; repeatable: the highest counts
    /// [default: all negative ones]
    #[arg(long, value_name = "LIST[@SHARE]", value_parser = calibration)]
    calibrate: Vec<(Source, Option<f64>)>,
    /// Where the probe is written
    #[arg(short = 'o', long, value_name = "FILE")]
    out: PathBuf,
    /// Which hidden states it reads
    #[arg(long, value_enum, default_value_t)]
    position: PositionArg,
    /// How the direction is found
    #[arg(long, value_enum, default_value_t)]
    method: MethodArg,
    /// Share of benign texts that may trigger
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    alpha: f64,
    /// Inverse strength of the penalty of logistic regression
    #[arg(long, value_name = "C", default_value_t = train::DEFAULT_C)]
    c: f64,
    /// Layers to compare, from 0 [default: a tenth to eight tenths of the depth]
    #[arg(long, value_name = "A..B", value_parser = layer_range)]
    layers: Option<(u32, u32)>,
    /// Most layers of the probe; their scores are averaged
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    n_layers: u8,
    /// Tokens the model answers with, where answers are read and none is given
    #[arg(long, value_name = "N", default_value_t = 48)]
    respond: usize,
    /// First words of such answers, taken in turn
    #[arg(long, value_name = "LIST")]
    openers: Option<Source>,
    /// System message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Seed of the division into folds
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Also write PREFIX-roc.svg and PREFIX-position.svg
    #[arg(long, value_name = "PREFIX")]
    plot: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// `--position`.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum PositionArg {
    /// The last token of the prompt
    #[default]
    Prompt,
    /// Every token of the answer
    Response,
    /// An assistant header put after the answer so far
    Header,
}

impl PositionArg {
    pub fn position(self) -> Position {
        match self {
            Self::Prompt => Position::Prompt,
            Self::Response => Position::Response,
            Self::Header => Position::Header,
        }
    }
}

/// `--method`.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum MethodArg {
    #[default]
    Logistic,
    MeanDifference,
}

impl MethodArg {
    fn method(self) -> (Method, &'static str) {
        match self {
            Self::Logistic => (Method::Logistic, "logistic"),
            Self::MeanDifference => (Method::MeanDifference, "mean_difference"),
        }
    }
}

/// `LIST` or `LIST@SHARE`.
fn calibration(text: &str) -> Result<(Source, Option<f64>), String> {
    match text.rsplit_once('@').map(|(list, share)| (list, share.parse::<f64>())) {
        Some((list, Ok(share))) if share > 0.0 && share < 1.0 => Ok((list.parse()?, Some(share))),
        Some((_, Ok(_))) => Err("expected a share above 0 and below 1 after @".to_owned()),
        _ => Ok((text.parse()?, None)),
    }
}

pub fn layer_range(text: &str) -> Result<(u32, u32), String> {
    let (a, b) = text.split_once("..").ok_or("expected A..B")?;
    match (a.parse(), b.trim_start_matches('=').parse()) {
        (Ok(a), Ok(b)) if a <= b => Ok((a, b)),
        _ => Err("expected A..B, A at most B".to_owned()),
    }
}

/// Samples of one list.
struct List {
    name: String,
    label: bool,
    /// Numbers of its samples.
    range: std::ops::Range<usize>,
}

impl Train {
    pub fn run(self) -> Result<()> {
        let read = |sources: &[Source]| {
            sources.iter().map(|s| Ok((s.name(), s.read()?))).collect::<Result<Vec<_>>>()
        };
        let positive = lists::read_all(&self.positive, "--positive list")?;
        let sources: Vec<Source> = self.calibrate.iter().map(|c| c.0.clone()).collect();
        let (negative, calibrate) = (read(&self.negative)?, read(&sources)?);
        if negative.is_empty() && calibrate.is_empty() {
            return Err(BadUsage("expected at least one --negative or --calibrate list".into()).into());
        }
        let model = self.model.open()?;
        let prompt_args = prompt_args(self.system.clone());
        let position = self.position.position();
        let openers = self.openers.as_ref().map(Source::read).transpose()?.unwrap_or_default();
        let making = Making {
            model: &model,
            args: &prompt_args,
            position,
            respond: self.respond,
            openers: openers.into_iter().map(|t| t.prefix.unwrap_or(t.prompt)).collect(),
        };
        let mut context = samples::context(&self.model, &model)?;
        let (mut all, mut lists) = (Vec::<Sample>::new(), Vec::new());
        let mut add = |context: &mut _, groups: Vec<(String, Vec<Text>)>, label: bool| -> Result<_> {
            let from = all.len();
            for (name, texts) in groups {
                let samples = making.samples(context, &texts, label).with_context(|| name.clone())?;
                lists.push(List { name, label, range: all.len()..all.len() + samples.len() });
                all.extend(samples);
            }
            Ok::<_, anyhow::Error>(from..all.len())
        };
        add(&mut context, positive, true)?;
        add(&mut context, negative, false)?;
        let mut calibration = Vec::new();
        for (list, (_, share)) in calibrate.into_iter().zip(&self.calibrate) {
            let samples = add(&mut context, vec![list], false)?.collect();
            calibration.push(CalibrationSet { samples, alpha: share.unwrap_or(self.alpha) });
        }
        let n_layer = model.shape().n_layer;
        let (method, method_name) = self.method.method();
        let options = TrainOptions {
            position,
            header: match position {
                Position::Header => {
                    truing::guard::header_tokens(&model, &prompt::template(&model, &prompt_args)?)?
                }
                _ => Vec::new(),
            },
            method,
            c: self.c,
            alpha: self.alpha,
            layers: match self.layers {
                Some((a, b)) => (a..=b.min(n_layer as u32 - 1)).collect(),
                None => train::default_layers(n_layer),
            },
            n_layer,
            n_chosen: usize::from(self.n_layers),
            seed: self.seed,
        };
        let rounds = if position == Position::Response { 2 } else { 1 };
        let bar = progress::bar((rounds * all.len()) as u64, "texts");
        let trained = train::train(&mut context, &all, &calibration, &options, &mut |n| bar.inc(n as u64))?;
        bar.finish_and_clear();
        let template = prompt::template(&model, &prompt_args)?;
        let file = ProbeFile {
            probe: trained.probe.clone(),
            made_for: Identity::of(&model, template.source(), &self.model.run.steering_id(&model)?),
            method: method_name.into(),
        };
        file.save(&self.out)?;
        self.show(&trained, &all, &lists)
    }

    fn show(&self, trained: &Trained, samples: &[Sample], lists: &[List]) -> Result<()> {
        let (thresholds, quality) = (trained.probe.thresholds, &trained.probe.quality);
        let rate = |list: &List| {
            let above = list.range.clone().filter(|&i| trained.scores[i] > thresholds.hi).count();
            (above, list.range.len(), eval::rate(above, list.range.len()))
        };
        let labels: Vec<bool> = samples.iter().map(|s| s.label).collect();
        let curve = Curve::new(&trained.scores, &labels);
        let roc = roc(&curve);
        let by_token = by_token(trained, &labels);
        if let Some(prefix) = &self.plot {
            save(prefix, "roc", &roc)?;
            by_token.as_ref().map(|plot| save(prefix, "position", plot)).transpose()?;
        }
        if self.json {
            let rows: Vec<Value> = lists
                .iter()
                .map(|l| {
                    let (k, n, e) = rate(l);
                    json!({ "list": l.name, "positive": l.label, "n": n, "triggered": k, "rate": e })
                })
                .collect();
            let layers: Vec<Value> = trained
                .layers
                .iter()
                .map(|l| json!({ "layer": l.layer, "auroc": l.auroc, "tpr_at_1fpr": l.tpr }))
                .collect();
            return output::json(&json!({
                "path": self.out, "position": trained.probe.position(), "layers": trained.probe.layers(),
                "thresholds": thresholds, "metrics": quality, "compared": layers, "lists": rows,
            }));
        }
        output::line(&format!("{:>6} {:>8} {:>14}", "layer", "AUROC", "TPR at 1% FPR"))?;
        for l in &trained.layers {
            let mark = if trained.probe.layers().contains(&l.layer) { " <" } else { "" };
            output::line(&format!("{:>6} {:>8.4} {:>14.3}{mark}", l.layer, l.auroc, l.tpr))?;
        }
        output::line(&format!(
            "\nlayers {:?}: AUROC {:.4}, TPR {:.3} at 1 % FPR; threshold {:.3} (false alarms {}, {} benign texts)\n",
            trained.probe.layers(),
            quality.auroc,
            quality.tpr_at_1fpr,
            thresholds.hi,
            quality.alpha,
            quality.n_calibration
        ))?;
        output::line(&format!("{:<40} {:>8} {:>5} {:>9}", "list (out of fold)", "should", "n", "triggered"))?;
        for list in lists {
            let (k, n, e) = rate(list);
            let e = e.unwrap_or(eval::Estimate::exact(0.0));
            let should = if list.label { "trigger" } else { "not" };
            output::line(&format!(
                "{:<40} {should:>8} {n:>5} {k:>9}   {:.3} [{:.3}, {:.3}]",
                list.name, e.value, e.lo, e.hi
            ))?;
        }
        output::line(&format!("\n{}", roc.text()))?;
        if let Some(plot) = &by_token {
            output::line(&plot.text())?;
        }
        output::line(&format!("written to {}", self.out.display()))
    }
}

/// Prompts as `generate` makes them.
pub fn prompt_args(system: Option<String>) -> PromptArgs {
    PromptArgs {
        prompt: None,
        file: None,
        system,
        raw: false,
        chat_template: None,
        parse_special: false,
        exemplars: None,
    }
}

fn save(prefix: &Path, what: &str, plot: &Plot) -> Result<()> {
    let path = format!("{}-{what}.svg", prefix.display());
    std::fs::write(&path, plot.svg()).with_context(|| path.clone())
}

/// Hits against false alarms.
pub fn roc(curve: &Curve) -> Plot {
    Plot {
        title: format!("Hits against false alarms, AUROC {:.4}", curve.auroc()),
        x: "false alarms",
        y: "hits",
        series: vec![Series { name: "probe".into(), colour: "#1f77b4", points: curve.points() }],
        levels: Vec::new(),
    }
}

/// Mean level at each token of the answers, by label; none for probes that read one position.
fn by_token(trained: &Trained, labels: &[bool]) -> Option<Plot> {
    let longest = trained.traces.iter().map(Vec::len).max().filter(|n| *n > 0)?;
    let line = |label: bool, name: &str, colour| {
        let mean = |t: usize| {
            let values: Vec<f64> = trained
                .traces
                .iter()
                .zip(labels)
                .filter(|(_, l)| **l == label)
                .filter_map(|(trace, _)| trace.get(t))
                .filter(|v| v.is_finite())
                .map(|v| f64::from(*v))
                .collect();
            (!values.is_empty()).then(|| (t as f64, values.iter().sum::<f64>() / values.len() as f64))
        };
        Series { name: name.into(), colour, points: (0..longest).filter_map(mean).collect() }
    };
    Some(Plot {
        title: "Mean level against position in the answer".into(),
        x: "token",
        y: "level",
        series: vec![line(true, "positive", "#d62728"), line(false, "negative", "#2ca02c")],
        levels: vec![(f64::from(trained.probe.thresholds.hi), "threshold".into())],
    })
}
