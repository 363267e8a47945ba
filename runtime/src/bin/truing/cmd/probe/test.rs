//! `truing probe test` and `truing probe inspect`.

use super::lists::Source;
use super::samples::{self, Making};
use super::train::{prompt_args, roc};
use crate::args::ModelArgs;
use crate::exit::{BadInput, BadUsage};
use crate::{output, progress, prompt};
use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;
use truing::eval;
use truing::guard::train::{Curve, Place, Sample, read_states};
use truing::guard::{Identity, Position, ProbeFile, Smoothed, header_tokens};

/// Score lists of texts that a probe has not been trained on
#[derive(Debug, Args)]
pub struct Test {
    /// The probe
    #[arg(value_name = "PROBE")]
    probe: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    /// Texts that should trigger it; repeatable
    #[arg(long, value_name = "LIST")]
    positive: Vec<Source>,
    /// Texts that should not; repeatable
    #[arg(long, value_name = "LIST")]
    negative: Vec<Source>,
    /// Another threshold
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    threshold: Option<f32>,
    /// Tokens the model answers with, where answers are read and none is given
    #[arg(long, value_name = "N", default_value_t = 48)]
    respond: usize,
    /// First words of such answers, taken in turn
    #[arg(long, value_name = "LIST")]
    openers: Option<Source>,
    /// System message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Show what is in a probe's file
#[derive(Debug, Args)]
pub struct Inspect {
    /// The probe
    #[arg(value_name = "PROBE")]
    probe: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn open(path: &std::path::Path) -> Result<ProbeFile> {
    ProbeFile::open(path).map_err(|e| BadInput(e.to_string()).into())
}

impl Test {
    pub fn run(self) -> Result<()> {
        if self.positive.is_empty() && self.negative.is_empty() {
            return Err(BadUsage("expected at least one --positive or --negative list".into()).into());
        }
        let file = open(&self.probe)?;
        let model = self.model.open()?;
        let args = prompt_args(self.system.clone());
        let template = prompt::template(&model, &args)?;
        let here = Identity::of(&model, template.source(), &self.model.run.steering_id(&model)?);
        file.made_for
            .check(&here)
            .map_err(|e| BadInput(e.at(self.probe.display().to_string()).to_string()))?;
        let openers = self.openers.as_ref().map(Source::read).transpose()?.unwrap_or_default();
        let making = Making {
            model: &model,
            args: &args,
            position: file.probe.position(),
            respond: self.respond,
            openers: openers.into_iter().map(|t| t.prefix.unwrap_or(t.prompt)).collect(),
        };
        let mut context = samples::context(&self.model, &model)?;
        let header = match file.probe.position() {
            Position::Header => header_tokens(&model, &template)?,
            _ => Vec::new(),
        };
        let lists = self.positive.iter().map(|s| (s, true)).chain(self.negative.iter().map(|s| (s, false)));
        let mut rows = Vec::new();
        let (mut scores, mut labels) = (Vec::new(), Vec::new());
        for (source, label) in lists {
            let texts = source.read()?;
            let samples = making.samples(&mut context, &texts, label).with_context(|| source.name())?;
            let found = score(&mut context, &samples, &file, &header)?;
            labels.extend(found.iter().map(|_| label));
            scores.extend_from_slice(&found);
            rows.push((source.name(), label, found));
        }
        self.show(&file, &rows, &Curve::new(&scores, &labels))
    }

    fn show(&self, file: &ProbeFile, rows: &[(String, bool, Vec<f32>)], curve: &Curve) -> Result<()> {
        let threshold = self.threshold.unwrap_or(file.probe.thresholds.hi);
        let rate = |scores: &[f32]| {
            let above = scores.iter().filter(|s| **s > threshold).count();
            (above, eval::rate(above, scores.len()))
        };
        let both = !self.positive.is_empty() && !self.negative.is_empty();
        if self.json {
            let lists: Vec<Value> = rows
                .iter()
                .map(|(name, label, scores)| {
                    let (k, e) = rate(scores);
                    json!({ "list": name, "positive": label, "n": scores.len(), "triggered": k, "rate": e, "scores": scores })
                })
                .collect();
            return output::json(&json!({
                "path": self.probe, "threshold": threshold, "lists": lists,
                "auroc": both.then(|| curve.auroc()), "tpr_at_1fpr": both.then(|| curve.tpr_at(0.01)),
            }));
        }
        output::line(&format!("{:<40} {:>8} {:>5} {:>9}", "list", "should", "n", "triggered"))?;
        for (name, label, scores) in rows {
            let (k, e) = rate(scores);
            let e = e.unwrap_or(eval::Estimate::exact(0.0));
            let should = if *label { "trigger" } else { "not" };
            let n = scores.len();
            output::line(&format!(
                "{name:<40} {should:>8} {n:>5} {k:>9}   {:.3} [{:.3}, {:.3}]",
                e.value, e.lo, e.hi
            ))?;
        }
        if both {
            output::line(&format!("TPR {:.3} at 1 % FPR\n\n{}", curve.tpr_at(0.01), roc(curve).text()))?;
        }
        Ok(())
    }
}

/// What is thresholded, for each sample.
fn score(
    context: &mut truing::model::Context,
    samples: &[Sample],
    file: &ProbeFile,
    header: &[truing::TokenId],
) -> Result<Vec<f32>> {
    let position = file.probe.position();
    let mut levels = vec![f32::NEG_INFINITY; samples.len()];
    let mut smoothed = vec![Smoothed::default(); samples.len()];
    let mut failed = None;
    let bar = progress::bar(samples.len() as u64, "texts");
    let mut visit = |place: Place, states: &[&[f32]]| match file.probe.score(|i| states.get(i).copied()) {
        Ok(score) => {
            let level = match position {
                Position::Response => smoothed[place.sample].push(score),
                _ => score,
            };
            levels[place.sample] = levels[place.sample].max(level);
        }
        Err(e) => failed = Some(e),
    };
    let at = (position, header);
    read_states(context, samples, at, file.probe.layers(), &mut visit, &mut |n| bar.inc(n as u64))?;
    bar.finish_and_clear();
    match failed {
        Some(e) => Err(e.into()),
        None => Ok(levels),
    }
}

impl Inspect {
    pub fn run(self) -> Result<()> {
        let file = open(&self.probe)?;
        let (p, q, id) = (&file.probe, &file.probe.quality, &file.made_for);
        if self.json {
            return output::json(&json!({
                "path": self.probe, "position": p.position(), "method": file.method, "layers": p.layers(),
                "n_embd": p.n_embd(), "thresholds": p.thresholds, "metrics": q,
                "made_for": { "model_sha256": id.model, "tokenizer_sha256": id.tokenizer,
                              "template_sha256": id.template, "steering_id": id.steering },
            }));
        }
        let layers: Vec<String> = p.layers().iter().map(u32::to_string).collect();
        for (name, value) in [
            ("reads", format!("{}, layers {}, width {}", p.position().name(), layers.join(" "), p.n_embd())),
            ("method", file.method.clone()),
            (
                "thresholds",
                format!("acts above {:.3}, suspicious above {:.3}", p.thresholds.hi, p.thresholds.lo),
            ),
            ("calibrated", format!("{} of benign texts may trigger, set with {}", q.alpha, q.n_calibration)),
            ("trained on", format!("{} positive, {} negative", q.n_positive, q.n_negative)),
            ("out of fold", format!("AUROC {:.4}, TPR {:.3} at 1 % FPR", q.auroc, q.tpr_at_1fpr)),
            ("made for model", id.model.clone()),
            ("  tokenizer", id.tokenizer.clone()),
            ("  template", id.template.clone()),
            ("  adapters", if id.steering.is_empty() { "none".into() } else { id.steering.clone() }),
        ] {
            output::line(&format!("{name:<16} {value}"))?;
        }
        Ok(())
    }
}
