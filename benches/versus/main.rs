//! Times truing and llama.cpp side by side on the same file.
//!
//! `versus MODEL [--threads 1,2] [--reps 5] [--prompt 512] [--gen 128] [--depths 0,1024] [--executors native,ggml]
//! [--pin CPUS]`
//!
//! Each figure comes from a process of its own. The engines take turns, repetition by repetition, so that a
//! drifting machine hits both; a table of medians and of the median of the pairwise ratios is printed, and the
//! raw figures as JSON lines on request (`--json`). Figures: prefill of N tokens on an empty context, decode
//! at each depth, seconds from starting the process to the first token of a 32-token prompt, and private
//! memory (`RssAnon`) at the end with a context of 2048.
//!
//! `native-avx2` and the like are truing's executor with that instruction set's kernels.
//!
//! llama.cpp runs with its own defaults: memory-mapped weights, flash attention on auto, weight repacking on.

mod llama;
mod measure;
mod ours;
mod table;

use measure::{Figures, Plan};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.split_first() {
        Some((flag, rest)) if flag == "--child" => child(rest),
        _ => parent(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("versus: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Measures one engine once and prints its figures as a JSON line.
fn child(args: &[String]) -> Result<(), String> {
    let plan: Plan =
        serde_json::from_str(args.first().ok_or("expected a plan")?).map_err(|e| e.to_string())?;
    let figures: Figures = match plan.engine.as_str() {
        "llama.cpp" => llama::measure(&plan)?,
        _ => ours::measure(&plan)?,
    };
    println!("{}", serde_json::to_string(&figures).map_err(|e| e.to_string())?);
    Ok(())
}

fn parent(args: &[String]) -> Result<(), String> {
    let options = table::Options::parse(args)?;
    table::run(&options)
}
