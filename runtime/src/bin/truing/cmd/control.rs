//! `truing control`: control vectors from lists of prompts, how strong they may be, and what they do.

use super::probe::lists::{self, Source, Text};
use super::probe::plot::{Plot, Series};
use super::probe::samples::{self, Making};
use super::probe::train::prompt_args;
use crate::args::{LimitArgs, ModelArgs, SamplingArgs, Weighted};
use crate::exit::{BadInput, BadUsage};
use crate::{interrupt, output, progress, prompt};
use anyhow::{Context as _, Result};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use truing::adapters::Adapter;
use truing::config::Profile;
use truing::engine::{self, Job, Settings};
use truing::guard::control::{self, ControlMethod, Fit, GRID, Point};
use truing::guard::train::Sample;
use truing::guard::{Position, refusal};
use truing::model::{Context, Model};
use truing::vocab::Specials;

/// Train, measure and try control vectors: directions added to the states of a model
#[derive(Debug, Args)]
pub struct Control {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Train(Train),
    Sweep(Sweep),
    Apply(Apply),
}

impl Control {
    pub fn run(self) -> Result<()> {
        match self.action {
            Action::Train(train) => train.run(),
            Action::Sweep(sweep) => sweep.run(),
            Action::Apply(apply) => apply.run(),
        }
    }
}

/// `--method`.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum MethodArg {
    /// Difference of the lists' means
    #[default]
    MeanDifference,
    /// First principal component of the differences of pairs
    Pca,
}

/// Find a control vector: towards the positive prompts, away from the negative ones
#[derive(Debug, Args)]
#[command(after_help = "\
A list is a text file with one prompt a line, or JSONL: FILE:FIELD takes one field of each row [default: prompt],
FILE:FIELD:KEY=VALUE only rows whose KEY is VALUE. Strength 1 is 1 % of the median norm of the states.

Example:
  truing control train -o calm.gguf --positive calm.txt --negative angry.txt
  truing control sweep --vector calm.gguf --positive angry.txt --benign chat.jsonl
  truing generate --control calm.gguf:8 -p \"How was your day?\"")]
struct Train {
    #[command(flatten)]
    model: ModelArgs,
    /// Prompts to steer towards; repeatable
    #[arg(long, value_name = "LIST", required = true)]
    positive: Vec<Source>,
    /// Prompts to steer away from; repeatable
    #[arg(long, value_name = "LIST", required = true)]
    negative: Vec<Source>,
    /// Where the vector is written
    #[arg(short = 'o', long, value_name = "FILE")]
    out: PathBuf,
    /// How the direction is found
    #[arg(long, value_enum, default_value_t)]
    method: MethodArg,
    /// Layers that get one, from 1 [default: four to six tenths of the depth]
    #[arg(long, value_name = "A..B", value_parser = super::probe::train::layer_range)]
    layers: Option<(u32, u32)>,
    /// Most prompts of each list
    #[arg(long, value_name = "N", default_value_t = 256)]
    limit: usize,
    /// System message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Measure a control vector at strengths from 0 to 24: what it gains, what it costs, where the knee is
#[derive(Debug, Args)]
struct Sweep {
    #[command(flatten)]
    model: ModelArgs,
    /// The control vector
    #[arg(long, value_name = "FILE")]
    vector: PathBuf,
    /// Prompts that should be answered otherwise; repeatable
    #[arg(long, value_name = "LIST", required = true)]
    positive: Vec<Source>,
    /// Prompts whose answers should not change; repeatable
    #[arg(long, value_name = "LIST", required = true)]
    benign: Vec<Source>,
    /// How answers that are wanted begin; repeatable [default: as refusals do]
    #[arg(long, value_name = "TEXT")]
    wanted: Vec<String>,
    /// Gain that a nat of divergence is worth
    #[arg(long, value_name = "X", default_value_t = control::DEFAULT_KAPPA)]
    kappa: f64,
    /// Strengths, the first of them 0 [default: 0,2,..,24]
    #[arg(long, value_name = "X,...", value_delimiter = ',', allow_negative_numbers = true)]
    grid: Vec<f32>,
    /// Most prompts of each list
    #[arg(long, value_name = "N", default_value_t = 64)]
    limit: usize,
    /// System message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Also write this SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Answer a prompt without a control vector and with it
#[derive(Debug, Args)]
struct Apply {
    #[command(flatten)]
    model: ModelArgs,
    /// The control vector
    #[arg(long, value_name = "FILE[:STRENGTH]", required = true)]
    vector: Weighted,
    /// The prompt
    #[arg(short = 'p', long, value_name = "TEXT")]
    prompt: String,
    /// System message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    limits: LimitArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Prompts of `lists`, at most `limit` of them, as samples of `label`.
fn read(
    (model, system): (&Arc<Model>, &Option<String>),
    context: &mut Context,
    lists: &[Source],
    limit: usize,
    label: bool,
) -> Result<Vec<Sample>> {
    let args = prompt_args(system.clone());
    let making = Making { model, args: &args, position: Position::Prompt, respond: 0, openers: Vec::new() };
    let texts: Vec<Text> =
        lists::read_all(lists, "list")?.into_iter().flat_map(|(_, t)| t).take(limit).collect();
    making.samples(context, &texts, label)
}

impl Train {
    fn run(self) -> Result<()> {
        let model = self.model.open()?;
        let mut context = samples::context(&self.model, &model)?;
        let of = (&model, &self.system);
        let mut all = read(of, &mut context, &self.positive, self.limit, true)?;
        all.extend(read(of, &mut context, &self.negative, self.limit, false)?);
        let n_layer = model.shape().n_layer as u32;
        let (from, to) = self.layers.unwrap_or(((4 * n_layer).div_ceil(10).max(1), 6 * n_layer / 10));
        if from == 0 || to >= n_layer {
            let message = format!("--layers: expected layers from 1 to {}, found {from}..{to}", n_layer - 1);
            return Err(BadUsage(message).into());
        }
        let layers: Vec<u32> = (from..=to.max(from)).collect();
        let (method, name) = match self.method {
            MethodArg::MeanDifference => (ControlMethod::MeanDifference, "mean difference"),
            MethodArg::Pca => (ControlMethod::Pca, "principal component"),
        };
        let bar = progress::bar(all.len() as u64, "prompts");
        let vector = control::train(&mut context, &all, &layers, method, &mut |n| bar.inc(n as u64))?;
        bar.finish_and_clear();
        let architecture = model.file().metadata().require_str("general.architecture")?;
        vector.save(&self.out, architecture)?;
        let n_positive = all.iter().filter(|s| s.label).count();
        if self.json {
            return output::json(&json!({
                "path": self.out, "method": name, "layers": layers, "n_positive": n_positive,
                "n_negative": all.len() - n_positive,
            }));
        }
        output::line(&format!(
            "{name} of {n_positive} and {} prompts at layers {from} to {}; written to {}",
            all.len() - n_positive,
            to.max(from),
            self.out.display()
        ))
    }
}

impl Sweep {
    fn run(self) -> Result<()> {
        let model = self.model.open()?;
        let adapter = open(&self.vector, &model)?;
        let mut context = self.model.run.without_adapters().context(&model, 17)?;
        let of = (&model, &self.system);
        let positive = read(of, &mut context, &self.positive, self.limit, true)?;
        let benign = read(of, &mut context, &self.benign, self.limit, false)?;
        let grid = if self.grid.is_empty() { GRID.to_vec() } else { self.grid.clone() };
        if grid.first() != Some(&0.0) {
            return Err(BadUsage("--grid: expected strengths that begin with 0".into()).into());
        }
        let starts = match self.wanted.is_empty() {
            true => refusal::start_tokens(model.vocab())?,
            false => first_tokens(&model, &self.wanted)?,
        };
        context.set_adapters(vec![adapter], &[0.0]).map_err(|e| BadInput(e.to_string()))?;
        let bar = progress::bar((grid.len() * (positive.len() + benign.len())) as u64, "prompts");
        let mut set = |context: &mut Context, strength: f32| context.set_adapter_weights(&[strength]);
        let count = &mut |n: usize| bar.inc(n as u64);
        let points = control::sweep(&mut context, (&positive, &benign), &starts, &grid, &mut set, count)?;
        bar.finish_and_clear();
        let fit = control::fit(&points, self.kappa);
        self.show(&points, fit.as_ref().ok())?;
        fit.map(|_| ()).map_err(Into::into)
    }

    fn show(&self, points: &[Point], fit: Option<&Fit>) -> Result<()> {
        let plot = plot(points, fit);
        if let Some(path) = &self.plot {
            std::fs::write(path, plot.svg()).with_context(|| path.display().to_string())?;
        }
        if self.json {
            return output::json(&json!({ "vector": self.vector, "points": points, "fit": fit }));
        }
        output::line(&format!(
            "{:>8} {:>10} {:>8} {:>10} {:>8}",
            "strength", "P(comply)", "gain", "KL, nats", "utility"
        ))?;
        for p in points {
            let utility = p.gain - self.kappa * p.cost;
            output::line(&format!(
                "{:>8.1} {:>10.4} {:>8.4} {:>10.4} {utility:>8.4}",
                p.strength, p.comply, p.gain, p.cost
            ))?;
        }
        output::line(&format!("\n{}", plot.text()))?;
        let Some(fit) = fit else { return Ok(()) };
        output::line(&format!(
            "gain = {:.4} strength (R2 {:.2}), divergence = {:.6} strength^2 (R2 {:.2})",
            fit.a, fit.r2_gain, fit.b, fit.r2_cost
        ))?;
        match fit.best {
            Some(best) => output::line(&format!(
                "best strength {best:.1}: {:.1} points gained at {:.3} nats",
                100.0 * fit.gain,
                fit.cost
            )),
            None => output::line("the fits are poor (R2 below 0.8): go by the table"),
        }
    }
}

fn plot(points: &[Point], fit: Option<&Fit>) -> Plot {
    let line = |name: &str, colour, of: &dyn Fn(&Point) -> f64| Series {
        name: name.into(),
        colour,
        points: points.iter().map(|p| (f64::from(p.strength), of(p))).collect(),
    };
    let best = fit.and_then(|f| f.best);
    Plot {
        title: best.map_or("Control vector".to_owned(), |b| format!("Control vector, best strength {b:.1}")),
        x: "strength",
        y: "gain, divergence",
        series: vec![line("gain", "#1f77b4", &|p| p.gain), line("divergence, nats", "#d62728", &|p| p.cost)],
        levels: vec![(control::MAX_COST, "most divergence".into())],
    }
}

fn first_tokens(model: &Model, texts: &[String]) -> Result<Vec<truing::TokenId>> {
    let mut ids = Vec::new();
    for text in texts {
        ids.extend(model.vocab().tokenize(text, Specials::NONE)?.ids.first());
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

fn open(path: &Path, model: &Model) -> Result<Arc<Adapter>> {
    let adapter = Adapter::open(path, model.file()).map_err(|e| BadInput(e.to_string()))?;
    match adapter.is_control() {
        true => Ok(Arc::new(adapter)),
        false => Err(BadInput(format!("{}: expected a control vector", path.display())).into()),
    }
}

impl Apply {
    fn run(self) -> Result<()> {
        let model = self.model.open()?;
        let adapter = open(&self.vector.path, &model)?;
        let mut context = self.model.run.without_adapters().context(&model, 3)?;
        context.set_adapters(vec![adapter], &[0.0]).map_err(|e| BadInput(e.to_string()))?;
        interrupt::on_ctrl_c(context.cancel_flag())?;
        let profile = Profile::default();
        let settings = Settings::plain(self.sampling.params(&profile)?, self.limits.limits(&profile));
        let tokens = prompt::tokens(&model, &prompt_args(self.system.clone()), &self.prompt)?;
        let job = |weight: f32| -> Result<Job> {
            Ok(Job { mix: Some(vec![weight]), ..settings.job(tokens.clone(), context.n_ctx())? })
        };
        let jobs = vec![job(0.0)?, job(self.vector.scale)?];
        let outcomes = engine::run(&model, &mut context, &settings, jobs, 2, &mut |_, _| {})?;
        let strengths = [0.0, self.vector.scale];
        if self.json {
            let rows = strengths.iter().zip(&outcomes).map(|(s, o)| json!({ "strength": s, "text": o.text }));
            return output::json(&rows.collect::<Value>());
        }
        for (strength, outcome) in strengths.iter().zip(&outcomes) {
            output::line(&format!("strength {strength}:\n{}\n", outcome.text.trim_end()))?;
        }
        Ok(())
    }
}
