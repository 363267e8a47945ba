//! A context: branches of token sequences over one executor.
//!
//! Why: everything above (sampling, search, guards, exact draws) needs the same four things: append tokens
//! to some sequences in one forward pass, fork, cut, and read logits. This is the [`NextLogits`] of real
//! models. It keeps the books and checks every argument; the executor only computes.
//!
//! Promises: a batch that fails, for any reason, leaves every branch as it was and gives its pages back. A
//! row sees its own branch's past only. Models with a sliding window keep all cells, so `truncate` is exact
//! to any depth; the window saves them time, not memory.
//!
//! Cost: beside the forward pass, O(tokens + branches) a batch and no heap allocation once buffers have
//! grown. Batches larger than the executor's `max_rows` are computed in several steps.
//!
//! Loses when: a very long prompt asks for all rows; `Want::All` keeps `n_tokens · n_vocab` floats.

use super::branch::{Bin, Branch, Mix};
use super::executor::{CancelFlag, Executor, Gate, Span, Step, StepOut};
use super::kv::{Growth, KvBooks, PageCopy};
use super::open::Model;
use super::options::{ContextOptions, make_executor};
use crate::adapters::{Adapter, check_weights, steering_id};
use crate::error::{Error, ErrorKind, Result};
use crate::sampling::{BatchItem, GoOn, NextLogits, Want};
use crate::token::TokenId;
use std::sync::Arc;

/// Sizes a context needs to know of its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelShape {
    /// Number of tokens: the length of a row of logits.
    pub n_vocab: usize,
    /// Width of a hidden state.
    pub n_embd: usize,
    /// Number of layers.
    pub n_layer: usize,
}

/// Branches over one executor. Used from one thread at a time; [`CancelFlag`] works from any.
pub struct Context {
    pub(super) executor: Box<dyn Executor>,
    pub(super) shape: ModelShape,
    n_ctx: usize,
    taps: Vec<u32>,
    cancel: CancelFlag,
    pub(super) books: KvBooks,
    bin: Arc<Bin>,
    pub(super) growths: Vec<Growth>,
    pub(super) copies: Vec<PageCopy>,
    step: StepBuffers,
    /// Results of the last batch; `part` holds those of one step when there are several.
    out: StepOut,
    part: StepOut,
    n_rows: usize,
    batch: u64,
    n_evals: u64,
    adapters: Vec<Arc<Adapter>>,
    /// What new branches are computed under.
    mix: Mix,
}

impl Context {
    /// A context over `model`.
    /// # Errors  `InvalidArgument` for sizes out of range; `Unsupported` if the build has no such executor or
    /// it cannot run the model; `OutOfMemory`.
    pub fn new(model: &Model, options: &ContextOptions) -> Result<Self> {
        let n_ctx = options.n_ctx_of(model)?;
        let executor = make_executor(model, n_ctx, options)?;
        Self::with_executor(executor, model.shape(), n_ctx)
    }

    /// A context of `n_ctx` tokens a branch over any executor.
    /// # Errors `InvalidArgument` if a size is zero or the executor has no room.
    pub fn with_executor(executor: Box<dyn Executor>, shape: ModelShape, n_ctx: usize) -> Result<Self> {
        let least = n_ctx.min(shape.n_vocab).min(shape.n_embd).min(shape.n_layer);
        if least.min(executor.n_pages()).min(executor.max_rows()) == 0 {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "expected sizes above 0, found n_ctx {n_ctx}, {shape:?}, {} pages, {} rows a step",
                    executor.n_pages(),
                    executor.max_rows()
                ),
            ));
        }
        let books = KvBooks::new(executor.n_pages(), n_ctx);
        Ok(Self {
            executor,
            shape,
            n_ctx,
            taps: Vec::new(),
            cancel: CancelFlag::default(),
            books,
            bin: Arc::default(),
            growths: Vec::new(),
            copies: Vec::new(),
            step: StepBuffers::default(),
            out: StepOut::default(),
            part: StepOut::default(),
            n_rows: 0,
            batch: 0,
            n_evals: 0,
            adapters: Vec::new(),
            mix: Mix::default(),
        })
    }

    /// The most tokens a branch may hold.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// What computes, for reports: `native`, `ggml`.
    pub fn executor_name(&self) -> &'static str {
        self.executor.name()
    }

    /// Threads that compute.
    pub fn n_threads(&self) -> usize {
        self.executor.n_threads()
    }

    /// A flag that stops the running `eval` within one layer's time. It stays set until it is reset.
    pub fn cancel_flag(&self) -> CancelFlag {
        self.cancel.clone()
    }

    /// Listens to `flag` from now on: the one who asks for the next batches may be another.
    pub fn set_cancel_flag(&mut self, flag: CancelFlag) {
        self.cancel = flag;
    }

    /// Pages in all, and pages free now; a page holds [`PAGE_TOKENS`](super::PAGE_TOKENS) tokens.
    pub fn pages(&mut self) -> (usize, usize) {
        self.collect();
        (self.books.n_pages(), self.books.n_free_pages())
    }

    /// Private memory for keys and values and for intermediate results, in bytes.
    pub fn memory_bytes(&self) -> (usize, usize) {
        self.executor.memory_bytes()
    }

    /// Starts (anew) or stops timing operators, see [`Context::op_times`].
    pub fn set_profiling(&mut self, on: bool) {
        self.executor.set_profiling(on);
    }

    /// Kinds of operators and the time spent in each since profiling was started; empty if the executor does
    /// not time them.
    pub fn op_times(&self) -> Vec<(&'static str, std::time::Duration)> {
        self.executor.op_times()
    }

    /// Sets the layers whose hidden states the next batches keep, in ascending order; none: keep nothing.
    /// # Errors `InvalidArgument` if a layer does not exist or the order is not ascending.
    pub fn set_taps(&mut self, layers: &[u32]) -> Result<()> {
        let in_range = layers.iter().all(|l| (*l as usize) < self.shape.n_layer);
        if !in_range || !layers.is_sorted_by(|a, b| a < b) {
            let expected = format!("expected ascending layers below {}", self.shape.n_layer);
            return Err(Error::new(ErrorKind::InvalidArgument, format!("{expected}, found {layers:?}")));
        }
        self.taps.clear();
        self.taps.extend_from_slice(layers);
        self.n_rows = 0;
        Ok(())
    }

    /// The layers set by [`Context::set_taps`].
    pub fn taps(&self) -> &[u32] {
        &self.taps
    }

    /// Puts `adapters` in the place of those there were, each with the weight that new branches give it. Branches
    /// made before are of no more use: their keys and values were computed under others, and evaluating one is an
    /// error.
    /// # Errors `Unsupported` if the executor has none or not for these tensors; `InvalidArgument` for weights that
    /// are not finite. Nothing has changed then.
    pub fn set_adapters(&mut self, adapters: Vec<Arc<Adapter>>, weights: &[f32]) -> Result<()> {
        check_weights(weights, adapters.len())?;
        self.executor.set_adapters(&adapters)?;
        self.adapters = adapters;
        self.mix = Mix { generation: self.mix.generation + 1, weights: weights.into() };
        Ok(())
    }

    /// The weights of the adapters for branches made from now on: a row of a mixing table. Forks keep those of the
    /// branch they were made of.
    /// # Errors `InvalidArgument` unless there is one finite weight for each adapter.
    pub fn set_adapter_weights(&mut self, weights: &[f32]) -> Result<()> {
        check_weights(weights, self.adapters.len())?;
        self.mix.weights = weights.into();
        Ok(())
    }

    /// The adapters, with the weights of new branches.
    pub fn adapters(&self) -> impl Iterator<Item = (&Adapter, f32)> {
        self.adapters.iter().map(|a| &**a).zip(self.mix.weights.iter().copied())
    }

    /// Identity of what is added to branches made from now on, see [`steering_id`]; empty if nothing is.
    pub fn steering_id(&self) -> String {
        steering_id(self.adapters())
    }

    /// Number of rows of the last batch.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Hidden state at row `row` of the last batch: the residual stream after the `tap`th layer given to
    /// [`Context::set_taps`], `[n_embd]`. `None` if there is no such tap or row.
    pub fn hidden(&self, tap: usize, row: usize) -> Option<&[f32]> {
        let at = (tap * self.n_rows + row) * self.shape.n_embd;
        (tap < self.taps.len() && row < self.n_rows)
            .then(|| self.out.hidden.get(at..at + self.shape.n_embd))?
    }

    /// Takes back what dropped branches held.
    fn collect(&mut self) {
        self.bin.empty(|slot| self.books.free(slot));
    }

    pub(super) fn check_branch(&self, branch: &Branch) -> Result<()> {
        if branch.is_of(&self.bin) {
            if branch.mix.generation == self.mix.generation {
                return Ok(());
            }
            let message =
                "expected a branch made under the adapters that are set, found one made under others";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Err(Error::new(ErrorKind::InvalidArgument, "expected a branch of this context, found another's"))
    }

    fn check_batch(&mut self, batch: &[BatchItem<'_, Branch>]) -> Result<()> {
        if batch.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "expected at least one item, found none"));
        }
        self.batch += 1;
        for (i, item) in batch.iter().enumerate() {
            self.check_item(item).map_err(|e| e.at(format!("batch item {i}")))?;
        }
        Ok(())
    }

    fn check_item(&mut self, item: &BatchItem<'_, Branch>) -> Result<()> {
        self.check_branch(item.branch)?;
        let invalid = |message: String| Err(Error::new(ErrorKind::InvalidArgument, message));
        if !self.books.enter_batch(item.branch.slot, self.batch) {
            return invalid("expected each branch once, found it again".into());
        }
        if item.tokens.is_empty() {
            return invalid("expected at least one token, found none".into());
        }
        if let Some(id) = item.tokens.iter().find(|id| **id as usize >= self.shape.n_vocab) {
            return invalid(format!("expected token ids below {}, found {id}", self.shape.n_vocab));
        }
        let (len, n) = (self.books.len(item.branch.slot), item.tokens.len());
        if n > self.n_ctx - len {
            let found = format!("found {len} held and {n} to add");
            let message = format!("expected at most {} tokens (n_ctx), {found}", self.n_ctx);
            return Err(Error::new(ErrorKind::ContextFull, message));
        }
        Ok(())
    }

    /// Reserves pages for every item, or for none.
    fn grow(&mut self, batch: &[BatchItem<'_, Branch>]) -> Result<()> {
        self.growths.clear();
        self.copies.clear();
        for item in batch {
            match self.books.grow(item.branch.slot, item.tokens.len(), &mut self.copies) {
                Ok(growth) => self.growths.push(growth),
                Err(short) => {
                    self.rollback();
                    let found = format!("found {} of {} free", short.free, self.books.n_pages());
                    let message = format!("expected {} key-value pages, {found}", short.needed);
                    return Err(Error::new(ErrorKind::KvExhausted, message));
                }
            }
        }
        Ok(())
    }

    fn rollback(&mut self) {
        self.growths.iter().rev().for_each(|g| self.books.rollback(g));
    }

    /// As `run`, in one step that may stop after a layer.
    fn run_until(
        &mut self,
        batch: &[BatchItem<'_, Branch>],
        layer: u32,
        go_on: &mut GoOn<'_>,
    ) -> Result<bool> {
        for PageCopy { from, to, n_cells } in &self.copies {
            self.executor.copy_page(*from, *to, *n_cells)?;
        }
        let (n_embd, n_rows) = (self.shape.n_embd, batch.iter().map(wanted_rows).sum::<usize>());
        let n_known = self.taps.iter().filter(|tap| **tap <= layer).count();
        let mut gate = |out: &StepOut| {
            go_on(&|tap: usize, row: usize| {
                let at = (tap * n_rows + row) * n_embd;
                (tap < n_known && row < n_rows).then(|| out.hidden.get(at..at + n_embd))?
            })
        };
        let mut out = std::mem::take(&mut self.out);
        let done = self.run_gated(batch, &mut Cursor::default(), &mut out, Some((layer, &mut gate)));
        self.out = out;
        self.n_evals += batch.iter().map(|item| item.tokens.len() as u64).sum::<u64>();
        let went_on = done?;
        self.n_rows = n_rows;
        Ok(went_on)
    }

    /// Computes the reserved growths, in as many steps as the executor's row limit asks for.
    fn run(&mut self, batch: &[BatchItem<'_, Branch>]) -> Result<()> {
        for PageCopy { from, to, n_cells } in &self.copies {
            self.executor.copy_page(*from, *to, *n_cells)?;
        }
        let n_tokens: usize = batch.iter().map(|item| item.tokens.len()).sum();
        let n_rows = batch.iter().map(wanted_rows).sum();
        if n_tokens <= self.executor.max_rows() {
            let mut out = std::mem::take(&mut self.out);
            let done = self.run_step(batch, &mut Cursor::default(), &mut out);
            self.out = out;
            done?;
        } else {
            self.run_parts(batch, n_rows)?;
        }
        self.n_rows = n_rows;
        self.n_evals += n_tokens as u64;
        Ok(())
    }

    /// Runs several steps and puts their rows together.
    fn run_parts(&mut self, batch: &[BatchItem<'_, Branch>], n_rows: usize) -> Result<()> {
        let n_embd = self.shape.n_embd;
        self.out.logits.clear();
        self.out.hidden.clear();
        self.out.hidden.resize(self.taps.len() * n_rows * n_embd, 0.0);
        let mut part = std::mem::take(&mut self.part);
        let mut cursor = Cursor::default();
        let mut n_done = 0;
        while cursor.item < batch.len() {
            self.run_step(batch, &mut cursor, &mut part)?;
            let n = self.step.outputs.len();
            self.out.logits.extend_from_slice(&part.logits);
            for (tap, states) in part.hidden.chunks_exact((n * n_embd).max(1)).enumerate() {
                let at = (tap * n_rows + n_done) * n_embd;
                self.out.hidden[at..at + n * n_embd].copy_from_slice(states);
            }
            n_done += n;
        }
        self.part = part;
        Ok(())
    }

    /// One forward pass over the rows from `cursor` on.
    fn run_step(
        &mut self,
        batch: &[BatchItem<'_, Branch>],
        cursor: &mut Cursor,
        out: &mut StepOut,
    ) -> Result<()> {
        self.run_gated(batch, cursor, out, None).map(|_| ())
    }

    /// As `run_step`; false if the gate has stopped it.
    fn run_gated(
        &mut self,
        batch: &[BatchItem<'_, Branch>],
        cursor: &mut Cursor,
        out: &mut StepOut,
        gate: Option<Gate<'_>>,
    ) -> Result<bool> {
        if self.cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "cancelled before a forward pass"));
        }
        let max_rows = self.executor.max_rows();
        let mut spans = reuse(std::mem::take(&mut self.step.spans));
        self.step.fill(&self.books, &self.growths, batch, cursor, max_rows, &mut spans);
        let StepBuffers { tokens, outputs, .. } = &self.step;
        let step = Step { tokens, spans: &spans, outputs, taps: &self.taps };
        let done = match gate {
            None => self.executor.forward(&step, &self.cancel, out).map(|()| true),
            Some(gate) => self.executor.forward_until(&step, &self.cancel, out, gate),
        };
        self.step.spans = reuse(spans);
        let went_on = done?;
        self.check_results(out).map(|()| went_on)
    }

    /// An executor that returned too little is caught here, not where a row is read.
    fn check_results(&self, out: &StepOut) -> Result<()> {
        let n = self.step.outputs.len();
        let expected = (n * self.shape.n_vocab, n * self.taps.len() * self.shape.n_embd);
        let found = (out.logits.len(), out.hidden.len());
        if found == expected {
            return Ok(());
        }
        let message = format!("executor: expected {expected:?} logits and hidden values, found {found:?}");
        Err(Error::new(ErrorKind::Internal, message))
    }
}

impl NextLogits for Context {
    type Branch = Branch;

    fn n_vocab(&self) -> usize {
        self.shape.n_vocab
    }

    fn root(&mut self) -> Result<Branch> {
        self.collect();
        Ok(Branch::new(self.books.root(), &self.bin, self.mix.clone()))
    }

    fn fork(&mut self, branch: &Branch) -> Result<Branch> {
        self.check_branch(branch)?;
        self.collect();
        Ok(Branch::new(self.books.fork(branch.slot), &self.bin, branch.mix.clone()))
    }

    fn truncate(&mut self, branch: &Branch, len: usize) -> Result<()> {
        self.check_branch(branch)?;
        let held = self.books.len(branch.slot);
        if len > held {
            let message = format!("truncate: expected at most {held} tokens, found {len}");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        self.books.truncate(branch.slot, len);
        Ok(())
    }

    /// 0 for a branch of another context.
    fn len(&self, branch: &Branch) -> usize {
        if branch.is_of(&self.bin) { self.books.len(branch.slot) } else { 0 }
    }

    fn eval(&mut self, batch: &[BatchItem<'_, Branch>]) -> Result<()> {
        self.collect();
        self.n_rows = 0;
        self.check_batch(batch)?;
        self.grow(batch)?;
        let done = self.run(batch);
        match done {
            Ok(()) => self.growths.iter().for_each(|g| self.books.commit(g)),
            Err(_) => self.rollback(),
        }
        done
    }

    fn eval_until(
        &mut self,
        batch: &[BatchItem<'_, Branch>],
        layer: u32,
        go_on: &mut GoOn<'_>,
    ) -> Result<bool> {
        let n_tokens: usize = batch.iter().map(|item| item.tokens.len()).sum();
        if n_tokens > self.executor.max_rows() {
            return self.eval(batch).map(|()| true); // several passes: only the last could stop
        }
        self.collect();
        self.n_rows = 0;
        self.check_batch(batch)?;
        self.grow(batch)?;
        let done = self.run_until(batch, layer, go_on);
        match done {
            Ok(true) => self.growths.iter().for_each(|g| self.books.commit(g)),
            Ok(false) | Err(_) => self.rollback(),
        }
        done
    }

    fn row(&self, i: usize) -> &[f32] {
        assert!(i < self.n_rows, "row {i} of {}", self.n_rows);
        &self.out.logits[i * self.shape.n_vocab..(i + 1) * self.shape.n_vocab]
    }

    fn n_evals(&self) -> u64 {
        self.n_evals
    }

    fn set_taps(&mut self, layers: &[u32]) -> Result<()> {
        Self::set_taps(self, layers)
    }

    fn hidden(&self, tap: usize, row: usize) -> Option<&[f32]> {
        Self::hidden(self, tap, row)
    }
}

fn wanted_rows(item: &BatchItem<'_, Branch>) -> usize {
    match item.want {
        Want::Nothing => 0,
        Want::Last => 1,
        Want::All => item.tokens.len(),
    }
}

/// How far a batch has been computed.
#[derive(Default)]
struct Cursor {
    item: usize,
    /// Tokens of `item` already computed.
    offset: usize,
}

/// The parts of a [`Step`], kept for their capacity.
#[derive(Default)]
struct StepBuffers {
    tokens: Vec<TokenId>,
    outputs: Vec<u32>,
    spans: Vec<Span<'static>>,
}

impl StepBuffers {
    /// Describes the next at most `max_rows` rows and moves the cursor behind them.
    fn fill<'a>(
        &mut self,
        books: &'a KvBooks,
        growths: &[Growth],
        batch: &'a [BatchItem<'_, Branch>],
        cursor: &mut Cursor,
        max_rows: usize,
        spans: &mut Vec<Span<'a>>,
    ) {
        self.tokens.clear();
        self.outputs.clear();
        while let (Some(item), Some(growth)) = (batch.get(cursor.item), growths.get(cursor.item)) {
            let n = (item.tokens.len() - cursor.offset).min(max_rows - self.tokens.len());
            if n == 0 {
                break;
            }
            let first_row = self.tokens.len();
            let first_pos = growth.len_before + cursor.offset;
            let n_pages = (first_pos + n).div_ceil(super::PAGE_TOKENS);
            spans.push(Span {
                first_row,
                n_rows: n,
                first_pos,
                pages: &books.pages(growth)[..n_pages],
                mix: &item.branch.mix.weights,
            });
            self.tokens.extend_from_slice(&item.tokens[cursor.offset..cursor.offset + n]);
            cursor.offset += n;
            let complete = cursor.offset == item.tokens.len();
            match item.want {
                Want::All => self.outputs.extend(first_row as u32..(first_row + n) as u32),
                Want::Last if complete => self.outputs.push((first_row + n - 1) as u32),
                _ => {}
            }
            if complete {
                *cursor = Cursor { item: cursor.item + 1, offset: 0 };
            }
        }
    }
}

/// Empties the vector and keeps its memory for spans of another lifetime: collecting in place reuses the
/// allocation, and no element is ever converted.
fn reuse<'b>(mut spans: Vec<Span<'_>>) -> Vec<Span<'b>> {
    spans.clear();
    spans.into_iter().map_while(|_| None).collect()
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("n_ctx", &self.n_ctx)
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "context_tests.rs"]
mod tests;
