//! Damaged files that load, run: each executor of this build computes what it may or says why not. Nothing
//! in a file is used as an index unchecked, and no token is chosen from logits that are no numbers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what must hold by unwrapping it")]

#[path = "support/corrupt.rs"]
mod support;

use support::{Rng, base, damage, rows};
use truing::gguf::GgufFile;
use truing::model::{Context, ContextOptions, ExecutorKind, Model, ModelOptions};
use truing::sampling::{NextLogits, SamplingParams};
use truing::session::{self, Aligned, Limits, Request, Setting};

const EXECUTORS: &[ExecutorKind] = &[
    ExecutorKind::Native,
    #[cfg(feature = "ggml")]
    ExecutorKind::Ggml,
];

/// Four greedy tokens after `prompt`.
fn run(model: &Model, executor: ExecutorKind, prompt: &[u32]) -> truing::Result<Vec<u32>> {
    let options =
        ContextOptions { n_ctx: 32, max_rows: 8, n_threads: 1, executor, ..ContextOptions::default() };
    let mut context = Context::new(model, &options)?;
    let branch = context.root()?;
    let setting = Setting {
        vocab: model.vocab(),
        n_ctx: context.n_ctx(),
        n_parallel: 1,
        cancel: context.cancel_flag(),
        model_id: model.id().to_owned(),
    };
    let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let limits = Limits { max_tokens: Some(4), ..Limits::default() };
    let request = Request {
        branch,
        tokens: prompt.to_vec(),
        sampling,
        limits,
        keep_branch: false,
        aligned: Aligned::default(),
    };
    let done = session::run(&mut context, &setting, vec![request], &mut |_, _| ())?;
    Ok(done.into_iter().flat_map(|(_, outcome)| outcome.ids).collect())
}

fn open(name: &str, bytes: &[u8]) -> truing::Result<std::sync::Arc<Model>> {
    Model::from_gguf(GgufFile::from_bytes(name, bytes)?, &ModelOptions::default())
}

#[test]
fn what_loads_runs_or_says_why_not() {
    for row in rows().iter().filter(|row| row.expect != "reject") {
        let Ok(model) = open(&row.name, &row.bytes) else { continue };
        for executor in EXECUTORS {
            let outcome = run(&model, *executor, &[70, 80, 90]);
            let in_vocabulary = outcome.as_ref().is_ok_and(|ids| ids.iter().all(|id| *id < 263));
            match &*row.name {
                // Every logit is NaN: there is no token to choose.
                "weights_nan" => assert!(outcome.is_err(), "{executor:?}: {outcome:?}"),
                "weights_inf" => assert!(outcome.is_err() || in_vocabulary, "{executor:?}: {outcome:?}"),
                name => assert!(in_vocabulary, "{name}, {executor:?}: {outcome:?}"),
            }
        }
    }
}

#[test]
fn random_damage_never_crashes_a_run() {
    let base = base();
    let mut rng = Rng(0x7275_6e21_7275_6e21);
    let mut ran = 0;
    for _ in 0..1500 {
        let mut bytes = base.clone();
        damage(&mut rng, &mut bytes, 5280);
        let Ok(model) = open("damaged", &bytes) else { continue };
        for executor in EXECUTORS {
            ran += usize::from(run(&model, *executor, &[1, 2, 3]).is_ok());
        }
    }
    assert!(ran > 50, "only {ran} ran");
}
