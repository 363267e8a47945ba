//! The interface between a context, which keeps the books, and an executor, which computes.
//!
//! The context owns pages, branches and validation; the executor owns key-value storage and arithmetic.
//! A step reaches the executor only when every id, position and page in it has been checked.

use crate::adapters::Adapter;
use crate::error::{Error, ErrorKind, Result};
use crate::token::TokenId;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Tokens in a key-value page. Small enough that a copy on write is cheap, large enough that a page table
/// stays short.
pub const PAGE_TOKENS: usize = 32;

/// A run of rows that belong to one branch and follow one another.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// Index of the run's first row in the step.
    pub first_row: usize,
    /// Number of rows, at least 1.
    pub n_rows: usize,
    /// Position of the first row: what the branch held before. Row `i` has position `first_pos + i`.
    pub first_pos: usize,
    /// The branch's page table, covering positions `0..first_pos + n_rows`. Position `p` lives in cell
    /// `pages[p / PAGE_TOKENS] · PAGE_TOKENS + p % PAGE_TOKENS`. Pages being written are this branch's alone.
    pub pages: &'a [u32],
    /// The branch's weights for the executor's adapters; empty: none is active.
    pub mix: &'a [f32],
}

/// One forward pass over rows of several branches. A row sees its own branch's past and itself, nothing else.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Tokens, `[n_rows]`; all below `n_vocab`.
    pub tokens: &'a [TokenId],
    /// The runs, in row order, covering all rows.
    pub spans: &'a [Span<'a>],
    /// Rows whose logits are wanted, ascending.
    pub outputs: &'a [u32],
    /// Layers whose hidden state after the layer is wanted at the rows in `outputs`, ascending.
    pub taps: &'a [u32],
}

/// Results of a step, in buffers that are kept between steps.
#[derive(Debug, Default)]
pub struct StepOut {
    /// Logits, `[outputs.len()][n_vocab]`, natural log, unnormalised.
    pub logits: Vec<f32>,
    /// Hidden states, `[taps.len()][outputs.len()][n_embd]`: the residual stream after the layer.
    pub hidden: Vec<f32>,
}

/// A request to stop, safe to set from any thread, and a moment at which it is set by itself. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct CancelFlag(Arc<Stop>);

#[derive(Debug, Default)]
struct Stop {
    asked: AtomicBool,
    /// Nanoseconds since `epoch()`; 0: never.
    deadline: AtomicU64,
}

/// The moment that deadlines are counted from.
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

impl CancelFlag {
    /// Asks the running call to stop within one layer's time.
    pub fn cancel(&self) {
        self.0.asked.store(true, Ordering::Relaxed);
    }

    /// Whether a stop was asked for, or the deadline has passed.
    pub fn is_cancelled(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed) || self.is_late()
    }

    /// Whether the deadline has passed.
    pub fn is_late(&self) -> bool {
        let deadline = self.0.deadline.load(Ordering::Relaxed);
        deadline != 0 && epoch().elapsed().as_nanos() >= u128::from(deadline)
    }

    /// Stops the running call at `moment`; `None`: never.
    pub fn set_deadline(&self, moment: Option<Instant>) {
        let nanos = |m: Instant| u64::try_from(m.saturating_duration_since(epoch()).as_nanos());
        let deadline = moment.map_or(0, |m| nanos(m).unwrap_or(u64::MAX).max(1));
        self.0.deadline.store(deadline, Ordering::Relaxed);
    }

    /// Takes the request back; a deadline stays.
    pub fn reset(&self) {
        self.0.asked.store(false, Ordering::Relaxed);
    }
}

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// 16-bit floats: 2 bytes a value.
    #[default]
    F16,
    /// 32-bit floats: 4 bytes a value, for reference.
    F32,
    /// Blocks of 32 8-bit integers with a scale: 1.06 bytes a value.
    Q8_0,
}

/// What every executor is made with.
#[derive(Clone, Debug)]
pub struct ExecutorOptions {
    /// Key-value pages to make room for.
    pub n_pages: usize,
    /// The most rows of one step; buffers for intermediate results grow with it.
    pub max_rows: usize,
    /// Threads that compute; at least 1.
    pub n_threads: usize,
    /// Storage of keys and values.
    pub kv_type: KvType,
    /// Processors that the executor's own threads may run on, where it and the system can say so; empty: any.
    pub cpus: Vec<usize>,
}

/// A layer, and who says after it whether the step goes on.
pub type Gate<'a> = (u32, &'a mut dyn FnMut(&StepOut) -> bool);

/// Runs forward passes over one model and keeps its keys and values.
pub trait Executor: Send {
    /// What computes, for reports: `native`, `ggml`.
    fn name(&self) -> &'static str {
        "other"
    }

    /// Threads that compute.
    fn n_threads(&self) -> usize {
        1
    }

    /// Number of key-value pages this executor has room for.
    fn n_pages(&self) -> usize;

    /// The most rows one step may have; the context splits longer prompts.
    fn max_rows(&self) -> usize;

    /// Computes a step into `out`, resizing its buffers as needed (no allocation once they are large enough).
    /// # Errors `Cancelled` when `cancel` was set, checked at least once a layer; `Backend` when computing
    /// failed. Keys and values written for the step's own rows may then hold anything; nothing else changed.
    fn forward(&mut self, step: &Step<'_>, cancel: &CancelFlag, out: &mut StepOut) -> Result<()>;

    /// As [`Executor::forward`], but after the gate's layer shows it the taps so far; if it says no, the rest is not
    /// computed and the result is false. Executors that cannot stop compute everything.
    /// # Errors As there.
    fn forward_until(
        &mut self,
        step: &Step<'_>,
        cancel: &CancelFlag,
        out: &mut StepOut,
        _gate: Gate<'_>,
    ) -> Result<bool> {
        self.forward(step, cancel, out).map(|()| true)
    }

    /// Puts `adapters` in the place of those there were; spans name their weights in the same order.
    /// # Errors `Unsupported` by executors that have none and for tensors they cannot change; nothing changed then.
    fn set_adapters(&mut self, adapters: &[Arc<Adapter>]) -> Result<()> {
        if adapters.is_empty() {
            return Ok(());
        }
        let message = format!("the {} executor has no adapters: use the native one", self.name());
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    /// Copies the first `n_cells` cells of page `from` to page `to`, in every layer.
    /// # Errors `Backend`.
    fn copy_page(&mut self, from: u32, to: u32, n_cells: usize) -> Result<()>;

    /// Bytes of a page's keys and values in all layers, and how they lie there; `None` if pages cannot be saved.
    fn page_layout(&self) -> Option<(usize, String)> {
        None
    }

    /// Appends the keys and values of `page`, all layers, to `out`: `page_layout` bytes.
    /// # Errors `Unsupported` without a layout; `InvalidArgument` if there is no such page.
    fn read_page(&self, _page: u32, _out: &mut Vec<u8>) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "this executor's keys and values cannot be saved"))
    }

    /// Takes the keys and values of `page` from `bytes`, as [`read_page`](Self::read_page) gave them.
    /// # Errors As there; `InvalidArgument` for another number of bytes.
    fn write_page(&mut self, _page: u32, _bytes: &[u8]) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "this executor's keys and values cannot be restored"))
    }

    /// Bytes of private memory for keys and values and for intermediate results.
    fn memory_bytes(&self) -> (usize, usize);

    /// Starts (anew) or stops timing operators; executors that cannot time theirs ignore it.
    fn set_profiling(&mut self, _on: bool) {}

    /// Kinds of operators and the time spent in each since profiling was started, in the order of a layer.
    fn op_times(&self) -> Vec<(&'static str, Duration)> {
        Vec::new()
    }
}
