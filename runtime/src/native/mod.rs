//! The native CPU executor: own kernels, own thread pool, weights read where they lie in the map.
//!
//! Why: ggml's CPU path re-reads packed weights for every row and leaves most of the vector units idle. Here
//! weights are unpacked once for all rows of a step, attention runs in 16-bit integers, and threads share
//! loops piece by piece. **A row's result depends on that row alone**: its logits have the same bits for any
//! batch, thread count and page layout, which is what makes "same seed, same text" hold.
//!
//! Cost: beside the weights, which stay in the map, keys and values (2 bytes a value and 8 a head and
//! position, or half of that, see `kernels::kv8`) and buffers for `max_rows` rows. Nothing is done at start-up that grows with the weights.
//!
//! It loses to a GPU on long prompts, and to nothing known on short ones. Weight types without a kernel here
//! go through ggml's dot products, see `kernels::foreign`; in a build without ggml they are refused at construction.
#![allow(unsafe_code)]
#![allow(
    clippy::excessive_precision,
    clippy::manual_div_ceil,
    clippy::manual_is_multiple_of,
    clippy::needless_range_loop,
    clippy::neg_cmp_op_on_partial_ord,
    clippy::out_of_bounds_indexing,
    clippy::wrong_self_convention,
    reason = "kernels are written lane by lane, with constants unrolled by macros"
)]

mod attend;
mod cores;
mod feed;
mod forward;
pub mod kernels;
mod kv;
mod limits;
mod linear;
mod low_rank;
mod plan;
mod pool;
mod profile;
mod shared;
mod work;

use crate::adapters::Adapter;
use crate::error::{Error, ErrorKind, Result};
use crate::model::spec::ModelSpec;
use crate::model::{CancelFlag, Executor, ExecutorOptions, Gate, KvType, Step, StepOut};
pub use cores::{Cores, parse_cpus, pin};
use forward::Engine;
use kernels::Isa;
use kv::KvStore;
pub use limits::Limits;
use plan::Plan;
use pool::Pool;
use profile::Profile;
use std::sync::Arc;
use std::time::Duration;
use work::{Buffers, Scratch};

/// Bytes of a page of keys and values, [`PAGE_TOKENS`](crate::model::PAGE_TOKENS) positions in all layers.
/// # Errors As [`NativeExecutor::new`].
pub fn kv_page_bytes(spec: &ModelSpec, kv_type: KvType) -> Result<usize> {
    let packed = is_packed(kv_type)?;
    let page = |a: &crate::model::spec::Attention| {
        let shape = kernels::HeadShape { dim_k: a.head_dim_k, dim_v: a.head_dim_v };
        kv::record_bytes(shape, packed) * a.n_head_kv
    };
    Ok(spec.layers.iter().map(|l| page(&l.attn)).sum())
}

/// Whether keys and values are kept in 8 bits.
fn is_packed(kv_type: KvType) -> Result<bool> {
    match kv_type {
        KvType::F16 => Ok(false),
        KvType::Q8_0 => Ok(true),
        other => {
            let message = format!("expected keys and values of 16 or 8 bits, found {other:?}");
            Err(Error::new(ErrorKind::Unsupported, message))
        }
    }
}

/// Runs forward passes on the CPU.
pub struct NativeExecutor {
    plan: Plan,
    engine: Engine,
    buffers: Buffers,
    kv: KvStore,
    max_rows: usize,
}

impl NativeExecutor {
    /// An executor for a model, with the best kernels this processor runs.
    /// # Errors `Unsupported` if a tensor's type or the storage of keys and values has no kernel here,
    /// `BadFile` if tensors contradict each other, `InvalidArgument` for sizes of zero, `OutOfMemory`.
    pub fn new(spec: &Arc<ModelSpec>, options: &ExecutorOptions) -> Result<Self> {
        Self::with_isa(spec, options, Isa::detect())
    }

    /// As [`NativeExecutor::new`] with the kernels of one instruction set.
    /// # Errors As there.
    pub fn with_isa(spec: &Arc<ModelSpec>, options: &ExecutorOptions, isa: Isa) -> Result<Self> {
        if options.max_rows == 0 || options.n_threads == 0 {
            let message = format!("expected rows and threads above 0, found {options:?}");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let packed = is_packed(options.kv_type)?;
        let plan = Plan::new(spec)?;
        let heads = plan.layers.iter().map(|l| (l.attn.n_head_kv, l.attn.shape));
        let kv = KvStore::new(options.n_pages, packed, heads)?;
        let pool = Pool::new(options.n_threads, &options.cpus)?;
        let scratch = (0..options.n_threads).map(|_| Scratch::new(&plan, options.max_rows, packed)).collect();
        let buffers = Buffers::new(&plan, options.max_rows);
        let engine = Engine { isa, pool, scratch, profile: None, low: low_rank::Low::default() };
        Ok(Self { plan, engine, buffers, kv, max_rows: options.max_rows })
    }

    /// As [`NativeExecutor::new`] with the kernels of the instruction set of this name.
    /// # Errors As there, and `InvalidArgument` if this processor has no such instruction set.
    pub fn with_instruction_set(
        spec: &Arc<ModelSpec>,
        options: &ExecutorOptions,
        name: &str,
    ) -> Result<Self> {
        let isa = Isa::all().into_iter().find(|isa| isa.name() == name).ok_or_else(|| {
            let known = Self::instruction_sets().join(", ");
            Error::new(ErrorKind::InvalidArgument, format!("instruction set: expected {known}, found {name}"))
        })?;
        Self::with_isa(spec, options, isa)
    }

    /// Names of the instruction sets this processor has kernels for, the best last.
    pub fn instruction_sets() -> Vec<&'static str> {
        Isa::all().into_iter().map(Isa::name).collect()
    }

    /// Whether this processor has vector instructions the kernels use; without, everything is slow.
    pub fn has_vectors() -> bool {
        Isa::all().len() > 1
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.engine.isa
    }
}

impl Executor for NativeExecutor {
    fn name(&self) -> &'static str {
        "native"
    }

    fn n_threads(&self) -> usize {
        self.engine.pool.n_threads()
    }

    fn n_pages(&self) -> usize {
        self.kv.n_pages()
    }

    fn max_rows(&self) -> usize {
        self.max_rows
    }

    fn forward(&mut self, step: &Step<'_>, cancel: &CancelFlag, out: &mut StepOut) -> Result<()> {
        self.run_step(step, cancel, out, None).map(|_| ())
    }

    fn forward_until(
        &mut self,
        step: &Step<'_>,
        cancel: &CancelFlag,
        out: &mut StepOut,
        gate: Gate<'_>,
    ) -> Result<bool> {
        self.run_step(step, cancel, out, Some(gate))
    }

    fn set_adapters(&mut self, adapters: &[Arc<Adapter>]) -> Result<()> {
        self.swap_adapters(adapters)
    }

    fn copy_page(&mut self, from: u32, to: u32, _n_cells: usize) -> Result<()> {
        self.kv.copy_page(from, to)
    }

    fn page_layout(&self) -> Option<(usize, String)> {
        Some((self.kv.page_bytes(), self.kv.layout()))
    }

    fn read_page(&self, page: u32, out: &mut Vec<u8>) -> Result<()> {
        self.kv.read_page(page, out)
    }

    fn write_page(&mut self, page: u32, bytes: &[u8]) -> Result<()> {
        self.kv.write_page(page, bytes)
    }

    fn set_profiling(&mut self, on: bool) {
        self.engine.profile = on.then(Profile::default);
    }

    fn op_times(&self) -> Vec<(&'static str, Duration)> {
        let spent = self.engine.profile.iter().flat_map(Profile::spent);
        spent.map(|(kind, time)| (kind.name(), time)).collect()
    }

    fn memory_bytes(&self) -> (usize, usize) {
        let scratch: usize = self.engine.scratch.iter().map(Scratch::bytes).sum();
        (self.kv.bytes(), self.buffers.bytes() + scratch + self.engine.low.bytes())
    }
}
