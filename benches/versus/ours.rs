//! truing as an engine.

use crate::measure::{self, Engine, Figures, N_CTX, Plan};
use std::path::Path;
use truing::model::{Branch, Context, ContextOptions, ExecutorKind, Model, ModelOptions};
use truing::sampling::{BatchItem, NextLogits, Want};

struct Ours {
    context: Context,
    branch: Branch,
}

pub fn measure(plan: &Plan) -> Result<Figures, String> {
    let text = |e: truing::Error| e.to_string();
    let (executor, instruction_set) = match plan.engine.as_str() {
        "ggml" => (ExecutorKind::Ggml, None),
        "native" => (ExecutorKind::Native, None),
        // `native-avx2`: with the features beyond that masked.
        other => (ExecutorKind::Native, Some(other.trim_start_matches("native-").to_owned())),
    };
    let model = Model::open(Path::new(&plan.model), &ModelOptions::default()).map_err(text)?;
    let n_threads = plan.threads;
    let options =
        ContextOptions { n_ctx: N_CTX, n_threads, executor, instruction_set, ..ContextOptions::default() };
    let mut context = Context::new(&model, &options).map_err(text)?;
    let branch = context.root().map_err(text)?;
    measure::run(&mut Ours { context, branch }, plan)
}

impl Engine for Ours {
    fn cut(&mut self, len: usize) -> Result<(), String> {
        self.context.truncate(&self.branch, len).map_err(|e| e.to_string())
    }

    fn feed(&mut self, tokens: &[u32]) -> Result<u32, String> {
        let item = BatchItem { branch: &self.branch, tokens, want: Want::Last };
        self.context.eval(&[item]).map_err(|e| e.to_string())?;
        Ok(measure::best(self.context.row(0)))
    }

    fn n_vocab(&self) -> usize {
        self.context.n_vocab()
    }
}
