//! The parent: runs measurements in turn and prints the table.

use crate::measure::{FIRST_PROMPT, Figures, Plan};
use std::process::{Command, Stdio};
use std::time::Instant;

/// What to compare.
pub struct Options {
    models: Vec<String>,
    executors: Vec<String>,
    threads: Vec<usize>,
    depths: Vec<usize>,
    reps: usize,
    n_prompt: usize,
    n_gen: usize,
    pin: Option<String>,
    json: bool,
}

impl Options {
    /// Reads the command line.
    pub fn parse(args: &[String]) -> Result<Self, String> {
        let mut o = Self {
            models: Vec::new(),
            executors: vec!["ggml".into()],
            threads: vec![1, 2],
            depths: vec![0, 1024],
            reps: 5,
            n_prompt: 512,
            n_gen: 128,
            pin: None,
            json: false,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().cloned().ok_or(format!("{arg}: expected a value"));
            match arg.as_str() {
                "--executors" => o.executors = list(&value()?)?,
                "--threads" => o.threads = list(&value()?)?,
                "--depths" => o.depths = list(&value()?)?,
                "--reps" => o.reps = number(&value()?)?,
                "--prompt" => o.n_prompt = number(&value()?)?,
                "--gen" => o.n_gen = number(&value()?)?,
                "--pin" => o.pin = Some(value()?),
                "--json" => o.json = true,
                model if !model.starts_with('-') => o.models.push(model.into()),
                other => return Err(format!("unknown option {other}")),
            }
        }
        match o.models.is_empty() {
            true => Err("expected: versus MODEL.gguf [MODEL.gguf ...] [options]".into()),
            false => Ok(o),
        }
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("expected a number, found {text:?}"))
}

fn list<T: std::str::FromStr>(text: &str) -> Result<Vec<T>, String> {
    text.split(',').map(number).collect()
}

/// Measures everything and prints the tables.
pub fn run(options: &Options) -> Result<(), String> {
    for model in &options.models {
        for &threads in &options.threads {
            compare(options, model, threads)?;
        }
    }
    Ok(())
}

/// One engine's repetitions.
struct Series {
    engine: String,
    rates: Vec<Figures>,
    first_s: Vec<f64>,
}

fn compare(options: &Options, model: &str, threads: usize) -> Result<(), String> {
    let engines = std::iter::once("llama.cpp").chain(options.executors.iter().map(String::as_str));
    let mut series: Vec<Series> =
        engines.map(|e| Series { engine: e.into(), rates: Vec::new(), first_s: Vec::new() }).collect();
    for rep in 0..=options.reps {
        for s in &mut series {
            let plan = Plan {
                engine: s.engine.clone(),
                model: model.into(),
                threads,
                n_prompt: options.n_prompt,
                n_gen: options.n_gen,
                depths: options.depths.clone(),
                first_only: false,
            };
            let first = Plan { first_only: true, ..plan.clone() };
            let (_, first_s) = measure(options, &first)?;
            let (figures, _) = measure(options, &plan)?;
            if options.json {
                println!("{}", serde_json::json!({ "plan": plan, "first_s": first_s, "figures": figures }));
            }
            if rep > 0 {
                s.first_s.push(first_s);
                s.rates.push(figures);
            }
        }
    }
    print(options, model, threads, &series);
    Ok(())
}

/// Runs one measurement in a process of its own; also the seconds it took from start to end.
fn measure(options: &Options, plan: &Plan) -> Result<(Figures, f64), String> {
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    let plan = serde_json::to_string(plan).map_err(|e| e.to_string())?;
    let mut command = match &options.pin {
        Some(cpus) => {
            let mut c = Command::new("taskset");
            c.args(["-c", cpus]).arg(me);
            c
        }
        None => Command::new(me),
    };
    let started = Instant::now();
    let output =
        command.args(["--child", &plan]).stderr(Stdio::inherit()).output().map_err(|e| e.to_string())?;
    let seconds = started.elapsed().as_secs_f64();
    if !output.status.success() {
        return Err(format!("a measurement failed: {plan}"));
    }
    let figures = serde_json::from_slice(&output.stdout).map_err(|e| e.to_string())?;
    Ok((figures, seconds))
}

fn print(options: &Options, model: &str, threads: usize, series: &[Series]) {
    println!(
        "\n{model}, {threads} thread(s), medians of {}; ratio: median of pairs, to {}",
        options.reps, series[0].engine
    );
    println!("{:<26}{}", "", series.iter().map(|s| format!("{:>24}", s.engine)).collect::<String>());
    let rate = |f: &Figures| f.prefill_tok_s;
    row(&format!("prefill {} tok/s", options.n_prompt), series, |s| s.rates.iter().map(rate).collect());
    for (i, depth) in options.depths.iter().enumerate() {
        let name = format!("decode @{depth} tok/s");
        row(&name, series, |s| s.rates.iter().map(|f| f.decode_tok_s[i]).collect());
    }
    row(&format!("first token of {FIRST_PROMPT}, s"), series, |s| s.first_s.clone());
    row("private memory MiB", series, |s| s.rates.iter().map(|f| f.rss_anon_mib).collect());
}

fn row(name: &str, series: &[Series], values: impl Fn(&Series) -> Vec<f64>) {
    let base = values(&series[0]);
    print!("{name:<26}");
    for (i, s) in series.iter().enumerate() {
        let own = values(s);
        let ratio = median(own.iter().zip(&base).map(|(a, b)| a / b).collect());
        match i {
            0 => print!("{:>24.3}", median(own)),
            _ => print!("{:>14.3} ({ratio:>6.3}×)", median(own)),
        }
    }
    println!();
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
