//! How a context is made, and with which executor.

use super::executor::{Executor, ExecutorOptions, KvType, PAGE_TOKENS};
use super::open::Model;
use super::spec::ModelSpec;
use crate::error::{Error, ErrorKind, Result};
use crate::native::{Cores, NativeExecutor};
use std::sync::Arc;

/// How a context is made. Zeros stand for the defaults named.
#[derive(Clone, Debug, Default)]
pub struct ContextOptions {
    /// The most tokens a branch may hold; 0: what the model was trained for, at most 4096.
    pub n_ctx: usize,
    /// Tokens that all branches together may hold, counting what forks share once; 0: `n_ctx`.
    pub n_kv_tokens: usize,
    /// Threads that compute; 0: one for each physical core, of the fast kind where kinds differ, see [`Cores`].
    pub n_threads: usize,
    /// Processors that threads of truing's own kernels may run on; empty: any, or the fast ones if `n_threads` is 0.
    /// The calling thread is among those that compute and stays where it is.
    pub cpus: Vec<usize>,
    /// The most rows of one forward pass; 0: 512. Longer prompts take several.
    pub max_rows: usize,
    /// Storage of keys and values.
    pub kv_type: KvType,
    /// Who computes.
    pub executor: ExecutorKind,
    /// ggml's name of the device that computes; `None`: the processor.
    pub device: Option<String>,
    /// Name of the instruction set of truing's own kernels, see [`NativeExecutor::instruction_sets`]; `None`:
    /// the best this processor has. For tests and measurements.
    pub instruction_set: Option<String>,
}

/// Who computes forward passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExecutorKind {
    /// truing's own kernels if they have all the model needs and the processor has vector instructions for
    /// them, ggml's otherwise and for its devices.
    #[default]
    Auto,
    /// ggml's kernels; reads every type of tensor.
    Ggml,
    /// truing's own kernels: a row's logits have the same bits in any batch and for any number of threads.
    Native,
}

/// Context length where neither the caller nor the model asks for less.
const DEFAULT_N_CTX: usize = 4096;
/// More positions than this no model has, and no memory holds.
const MAX_N_CTX: usize = 1 << 24;
const DEFAULT_MAX_ROWS: usize = 512;

impl ContextOptions {
    /// Context length for `model`.
    pub(super) fn n_ctx_of(&self, model: &Model) -> Result<usize> {
        let spec = model.spec();
        let trained = if spec.n_ctx_train == 0 { DEFAULT_N_CTX } else { spec.n_ctx_train };
        let n_ctx = if self.n_ctx == 0 { trained.min(DEFAULT_N_CTX) } else { self.n_ctx };
        let most = spec.pos_embd.as_ref().map_or(MAX_N_CTX, |p| p.dims[1]);
        if n_ctx <= most {
            return Ok(n_ctx);
        }
        let message = format!("n_ctx: expected at most {most} for this model, found {n_ctx}");
        Err(Error::new(ErrorKind::InvalidArgument, message))
    }

    /// What the executor is made with.
    pub(super) fn executor_options(&self, n_ctx: usize) -> Result<ExecutorOptions> {
        let n_tokens = if self.n_kv_tokens == 0 { n_ctx } else { self.n_kv_tokens };
        let n_pages = n_tokens.div_ceil(PAGE_TOKENS);
        if u32::try_from(n_pages.saturating_mul(PAGE_TOKENS)).is_err() {
            let message = format!("n_kv_tokens: expected less than 2^32, found {n_tokens}");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let usual = if self.n_threads == 0 { Cores::detect() } else { Cores::default() };
        Ok(ExecutorOptions {
            n_pages,
            max_rows: if self.max_rows == 0 { DEFAULT_MAX_ROWS } else { self.max_rows },
            n_threads: if self.n_threads == 0 { usual.n_threads } else { self.n_threads },
            kv_type: self.kv_type,
            cpus: if self.cpus.is_empty() { usual.cpus } else { self.cpus.clone() },
        })
    }
}

/// Makes the executor that the options ask for.
pub(super) fn make_executor(
    model: &Model,
    n_ctx: usize,
    options: &ContextOptions,
) -> Result<Box<dyn Executor>> {
    let spec = model.spec_for(n_ctx);
    let sizes = options.executor_options(n_ctx)?;
    match options.executor {
        ExecutorKind::Native => native(spec, &sizes, options),
        ExecutorKind::Ggml => ggml(spec, &sizes, options),
        ExecutorKind::Auto if options.device.is_some() || !NativeExecutor::has_vectors() => {
            ggml(spec, &sizes, options).or_else(|e| match options.device {
                None => native(spec, &sizes, options).map_err(|_| e),
                Some(_) => Err(e),
            })
        }
        ExecutorKind::Auto => match native(spec, &sizes, options) {
            Err(e) if e.kind() == ErrorKind::Unsupported => ggml(spec, &sizes, options).map_err(|_| e),
            made => made,
        },
    }
}

fn native(
    spec: &Arc<ModelSpec>,
    sizes: &ExecutorOptions,
    options: &ContextOptions,
) -> Result<Box<dyn Executor>> {
    let made = match &options.instruction_set {
        None => NativeExecutor::new(spec, sizes)?,
        Some(name) => NativeExecutor::with_instruction_set(spec, sizes, name)?,
    };
    Ok(Box::new(made))
}

#[cfg(feature = "ggml")]
fn ggml(
    spec: &Arc<ModelSpec>,
    sizes: &ExecutorOptions,
    options: &ContextOptions,
) -> Result<Box<dyn Executor>> {
    let ggml = crate::backend::GgmlOptions { device: options.device.clone(), ..Default::default() };
    Ok(Box::new(crate::backend::GgmlExecutor::new(spec, sizes, &ggml)?))
}

#[cfg(not(feature = "ggml"))]
fn ggml(_: &Arc<ModelSpec>, _: &ExecutorOptions, _: &ContextOptions) -> Result<Box<dyn Executor>> {
    Err(Error::new(ErrorKind::Unsupported, "expected the ggml executor, found a build without it"))
}
