//! The executor: storage for keys and values, graphs by shape, and the step itself.

use super::graph::{Built, Ending, Parts, Shape};
use super::head::Head;
use super::weights::ModelWeights;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::model::spec::ModelSpec;
use crate::model::{CancelFlag, Executor, ExecutorOptions, KvType, PAGE_TOKENS, Step, StepOut};
use std::sync::Arc;
use truing_ggml::{Backend, Cache, Device, Memory, Outcome, Type};

/// Cells that attention looks at are a multiple of this, so that a graph serves many steps.
const CELL_STEP: usize = 256;

/// Steps of at most this many rows keep their graphs; larger ones share the memory of one graph.
const SMALL_ROWS: usize = 32;

/// Graphs of small steps that are kept: decoding, a few depths of verification, lookahead.
const N_SMALL: usize = 6;

/// What is ggml's own in how an executor is made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GgmlOptions {
    /// Name of the device as [`Device::name`] gives it; `None`: the processor.
    pub device: Option<String>,
    /// Weights are copied into the arrangement that ggml's CPU kernels like best, where there is one. Costs
    /// private memory of about the weights' size and a start-up time proportional to them.
    pub rearrange: bool,
    /// Attention without storing scores; without it, memory grows with heads times rows times cells.
    pub flash: bool,
    /// 0..=100: how long idle threads poll before they sleep.
    pub spin: u32,
}

impl Default for GgmlOptions {
    fn default() -> Self {
        Self { device: None, rearrange: false, flash: true, spin: 50 }
    }
}

/// Runs forward passes with ggml.
pub struct GgmlExecutor {
    // Graphs go before what they refer to.
    small: Vec<Built>,
    large: Option<Built>,
    head: Option<Head>,
    backend: Backend,
    cache: Cache,
    weights: ModelWeights,
    spec: Arc<ModelSpec>,
    device: Device,
    flash: bool,
    n_pages: usize,
    max_rows: usize,
    bounce: Vec<u8>,
    normed: Vec<f32>,
    n_builds: usize,
}

impl GgmlExecutor {
    /// An executor over `spec`, with everything the graph needs proven to be there.
    /// # Errors `InvalidArgument` for sizes of 0 or an unknown device; `Unsupported` naming layer and tensor
    /// when the device cannot compute something; `OutOfMemory`.
    pub fn new(spec: &Arc<ModelSpec>, options: &ExecutorOptions, ggml: &GgmlOptions) -> Result<Self> {
        let n_cells = cells(options)?;
        let device = find_device(ggml.device.as_deref())?;
        let backend = Backend::new(device, options.n_threads, ggml.spin)?;
        let weights = ModelWeights::load(device, spec, ggml.rearrange).at(|| spec.arch.clone())?;
        let cache = Cache::new(device, &kv_tensors(spec, options.kv_type, n_cells)?)?;
        let executor = Self {
            small: Vec::with_capacity(N_SMALL),
            large: None,
            head: None,
            backend,
            cache,
            weights,
            spec: spec.clone(),
            device,
            flash: ggml.flash,
            n_pages: options.n_pages,
            max_rows: options.max_rows,
            bounce: Vec::new(),
            normed: Vec::new(),
            n_builds: 0,
        };
        executor.check(n_cells)?;
        Ok(executor)
    }

    /// Builds what the largest and the smallest step need, without memory.
    fn check(&self, n_cells: usize) -> Result<()> {
        for n_rows in [1, self.max_rows] {
            let taps = (0..self.spec.layers.len() as u32).collect();
            let shape = Shape { n_rows, n_kv: n_cells, n_outputs: n_rows.div_ceil(2), taps };
            self.parts().check(shape).at(|| self.spec.arch.clone())?;
        }
        Ok(())
    }

    /// Bytes of weights that were copied instead of used in place.
    pub fn private_weight_bytes(&self) -> usize {
        self.weights.weights.private_bytes()
    }

    /// Number of graphs built so far; steps of a known shape build none.
    pub fn n_builds(&self) -> usize {
        self.n_builds
    }

    /// Computes a step unless `stop`, asked after every operation, says so.
    pub(super) fn forward_until(
        &mut self,
        step: &Step<'_>,
        out: &mut StepOut,
        stop: &dyn Fn() -> bool,
    ) -> Result<()> {
        check_step(step, self.max_rows)?;
        if stop() {
            return Err(cancelled());
        }
        self.ready(step)?;
        let small = if step.tokens.len() <= SMALL_ROWS { self.small.first_mut() } else { None };
        let Some(built) = small.or(self.large.as_mut()) else {
            return Err(Error::new(ErrorKind::Internal, "no graph for this step"));
        };
        built.fill(step)?;
        let outcome = self.backend.compute(&mut built.graph, Some(&mut self.cache), stop)?;
        if outcome == Outcome::Stopped {
            return Err(cancelled());
        }
        let ending = read(built, out, &mut self.normed)?;
        if let Some(Ending::Hidden(_)) = ending {
            self.finish_logits(out, stop)?;
        }
        Ok(())
    }

    /// Logits from the hidden states that the graph ended with.
    fn finish_logits(&mut self, out: &mut StepOut, stop: &dyn Fn() -> bool) -> Result<()> {
        if self.head.is_none() {
            self.head = Some(Head::new(self.parts())?);
        }
        let (n_embd, n_vocab) = (self.spec.n_embd, self.spec.n_vocab);
        let Some(head) = &mut self.head else { return Ok(()) };
        match head.run(&mut self.backend, &self.normed, n_embd, (&mut out.logits, n_vocab), stop)? {
            Outcome::Done => Ok(()),
            Outcome::Stopped => Err(cancelled()),
        }
    }

    fn parts(&self) -> Parts<'_> {
        Parts {
            spec: &self.spec,
            weights: &self.weights,
            cache: &self.cache,
            device: self.device,
            n_cells: self.n_pages * PAGE_TOKENS,
            flash: self.flash,
        }
    }

    /// Cells up to the last one in use, rounded up.
    fn n_kv(&self, step: &Step<'_>) -> usize {
        let used = step
            .spans
            .iter()
            .flat_map(|s| s.pages.iter().take((s.first_pos + s.n_rows).div_ceil(PAGE_TOKENS)));
        let last = used.max().map_or(0, |page| (*page as usize + 1) * PAGE_TOKENS);
        last.next_multiple_of(CELL_STEP).min(self.n_pages * PAGE_TOKENS)
    }

    /// Moves the graph for this step to the front of its list, building it if there is none.
    fn ready(&mut self, step: &Step<'_>) -> Result<()> {
        let n_kv = self.n_kv(step);
        let fits = |b: &Built| {
            let s = &b.shape;
            s.n_rows == step.tokens.len()
                && s.n_kv == n_kv
                && s.n_outputs == step.outputs.len()
                && s.taps == step.taps
        };
        let is_small = step.tokens.len() <= SMALL_ROWS;
        if !is_small && self.large.as_ref().is_some_and(fits) {
            return Ok(());
        }
        if is_small && let Some(i) = self.small.iter().position(fits) {
            self.small[..=i].rotate_right(1);
            return Ok(());
        }
        let old = match is_small {
            true if self.small.len() == N_SMALL => self.small.pop(),
            true => None,
            false => self.large.take(),
        };
        let memory = match old.and_then(|b| b.graph.into_memory()) {
            Some(memory) => memory,
            None => Memory::new(self.device)?,
        };
        let shape = Shape {
            n_rows: step.tokens.len(),
            n_kv,
            n_outputs: step.outputs.len(),
            taps: step.taps.to_vec(),
        };
        let built = self.parts().build(shape, memory)?;
        self.n_builds += 1;
        if is_small {
            self.small.insert(0, built);
        } else {
            self.large = Some(built);
        }
        Ok(())
    }
}

impl Executor for GgmlExecutor {
    fn name(&self) -> &'static str {
        "ggml"
    }

    fn n_pages(&self) -> usize {
        self.n_pages
    }

    fn max_rows(&self) -> usize {
        self.max_rows
    }

    fn forward(&mut self, step: &Step<'_>, cancel: &CancelFlag, out: &mut StepOut) -> Result<()> {
        self.forward_until(step, out, &|| cancel.is_cancelled())
    }

    fn copy_page(&mut self, from: u32, to: u32, n_cells: usize) -> Result<()> {
        let (from, to) = (from as usize, to as usize);
        if from.max(to) >= self.n_pages || n_cells > PAGE_TOKENS {
            let message = format!("expected pages below {} and at most {PAGE_TOKENS} cells", self.n_pages);
            return Err(Error::new(ErrorKind::Internal, format!("{message}, found {from}, {to}, {n_cells}")));
        }
        for index in 0..2 * self.spec.layers.len() {
            self.cache.copy_rows(index, from * PAGE_TOKENS, to * PAGE_TOKENS, n_cells, &mut self.bounce)?;
        }
        Ok(())
    }

    fn memory_bytes(&self) -> (usize, usize) {
        let graphs: usize = self.small.iter().chain(&self.large).map(|b| b.graph.memory_bytes()).sum();
        let head = self.head.as_ref().map_or(0, Head::memory_bytes);
        (self.cache.n_bytes(), graphs + head)
    }
}

fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "the forward pass was cancelled")
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

fn cells(options: &ExecutorOptions) -> Result<usize> {
    let n_cells = options.n_pages.checked_mul(PAGE_TOKENS).filter(|n| *n > 0 && *n < i32::MAX as usize);
    let rows_fit = (1..i32::MAX as usize).contains(&options.max_rows);
    n_cells.filter(|_| rows_fit).ok_or_else(|| {
        invalid(format!(
            "expected pages and rows above 0, found {} and {}",
            options.n_pages, options.max_rows
        ))
    })
}

fn find_device(name: Option<&str>) -> Result<Device> {
    let Some(name) = name else { return Ok(Device::cpu()?) };
    let all = Device::all()?;
    all.iter().find(|d| d.name() == name).copied().ok_or_else(|| {
        let names: Vec<String> = all.iter().map(|d| d.name()).collect();
        invalid(format!("expected a device of {}, found {name:?}", names.join(", ")))
    })
}

/// Keys and values of every layer, a row a cell.
fn kv_tensors(spec: &ModelSpec, kv_type: KvType, n_cells: usize) -> Result<Vec<(Type, [usize; 4])>> {
    let ty = match kv_type {
        KvType::F16 => Type::F16,
        KvType::F32 => Type::F32,
        KvType::Q8_0 => Type::Q8_0,
    };
    let mut tensors = Vec::with_capacity(2 * spec.layers.len());
    for (il, layer) in spec.layers.iter().enumerate() {
        let attn = &layer.attn;
        for dim in [attn.head_dim_k, attn.head_dim_v] {
            if !dim.is_multiple_of(ty.block_values()) {
                let message = format!("layer {il}: heads of {dim} do not fill blocks of {ty:?}");
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
            tensors.push((ty, [dim * attn.n_head_kv, n_cells, 1, 1]));
        }
    }
    Ok(tensors)
}

/// The context has checked a step; this keeps a mistake there from reading or writing elsewhere.
fn check_step(step: &Step<'_>, max_rows: usize) -> Result<()> {
    let n_rows = step.tokens.len();
    if n_rows == 0 || n_rows > max_rows {
        return Err(invalid(format!("expected 1 to {max_rows} rows, found {n_rows}")));
    }
    let mut next = 0;
    for span in step.spans {
        if span.first_row != next || span.n_rows == 0 {
            return Err(invalid(format!("expected a span from row {next}, found {span:?}")));
        }
        next += span.n_rows;
    }
    if next != n_rows {
        return Err(invalid(format!("expected spans over {n_rows} rows, found {next}")));
    }
    let ascending = step.outputs.is_sorted_by(|a, b| a < b) && step.taps.is_sorted_by(|a, b| a < b);
    if !ascending || step.outputs.last().is_some_and(|o| *o as usize >= n_rows) {
        return Err(invalid(format!("expected ascending rows below {n_rows}, found {:?}", step.outputs)));
    }
    Ok(())
}

/// Copies results out; normed hidden states go to `normed`.
fn read(built: &Built, out: &mut StepOut, normed: &mut Vec<f32>) -> Result<Option<Ending>> {
    let (n_outputs, n_vocab, n_embd) = (built.shape.n_outputs, built.n_vocab, built.n_embd);
    out.logits.resize(n_outputs * n_vocab, 0.0);
    match built.ending {
        None => {}
        Some(Ending::Logits(logits)) => built.graph.read(logits, 0, &mut out.logits)?,
        Some(Ending::Hidden(hidden)) => {
            normed.resize(n_outputs * n_embd, 0.0);
            built.graph.read(hidden, 0, normed)?;
        }
    }
    let each = n_outputs * n_embd;
    out.hidden.resize(built.shape.taps.len() * each, 0.0);
    if each > 0 {
        for (tensor, to) in built.hidden.iter().zip(out.hidden.chunks_exact_mut(each)) {
            built.graph.read(*tensor, 0, to)?;
        }
    }
    Ok(built.ending)
}
