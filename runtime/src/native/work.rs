//! Buffers of a forward pass and what each thread needs for itself.

use super::kernels::{HeadShape, Query, State, record_bytes};
use super::linear::{Input, ProductScratch};
use super::plan::{FfnPlan, LayerPlan, Plan};

/// Query vectors one attention task handles at most, unless one row alone has more heads.
pub const TASK_QUERIES: usize = 32;

/// Activations as f32 rows and as 8-bit records.
#[derive(Debug, Default)]
pub struct Acts {
    pub x: Vec<f32>,
    pub records: Vec<u8>,
}

impl Acts {
    fn new(n_rows: usize, width: usize) -> Self {
        Self { x: vec![0.0; n_rows * width], records: vec![0; n_rows * record_bytes(width)] }
    }

    /// The first `n` rows of `width` values as a product's input.
    pub fn input(&self, n: usize, width: usize) -> Input<'_> {
        Input { x: &self.x, records: &self.records, width, n, index: None }
    }

    fn bytes(&self) -> usize {
        4 * self.x.len() + self.records.len()
    }
}

/// Where a row stands.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its number in the step.
    pub index: u32,
    /// Its span.
    pub span: u32,
    /// Its position in the branch.
    pub pos: u32,
}

/// Some neighbouring rows of one span.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub span: u32,
    /// First of the rows, in the list the run was made from.
    pub first: u32,
    pub n: u32,
}

/// Everything between the embedding and the logits. Rows are padded to whole vectors nowhere: kernels do
/// not read past the end.
#[derive(Debug, Default)]
pub struct Buffers {
    /// The residual stream, `[rows][n_embd]`.
    pub x: Vec<f32>,
    /// What a part reads: the residual stream, normed.
    pub h: Acts,
    /// The same for the feed-forward part when both parts read the same stream.
    pub h2: Acts,
    /// A part's result before it is normed and added, `[rows][n_embd]`.
    pub y: Vec<f32>,
    /// Query, key and value rows side by side.
    pub qkv: Vec<f32>,
    /// Quantised queries, `[rows][n_head][pairs_k · 2]`.
    pub q: Vec<i16>,
    /// Their factors, `[rows][n_head]`.
    pub q_scale: Vec<f32>,
    /// What the heads gathered.
    pub gathered: Acts,
    /// Inner rows of the feed-forward part, `[rows · slots][n_ff]`.
    pub inner: Acts,
    /// Cosines, then sines, of each rotation: `[rows][n_rot]`.
    pub turns: Vec<Vec<f32>>,
    pub moe: MoeBuffers,
    /// All rows, and those whose logits or taps are wanted.
    pub rows: Vec<Row>,
    pub wanted: Vec<Row>,
    pub runs: Vec<Run>,
    pub wanted_runs: Vec<Run>,
}

/// Who goes to which expert.
#[derive(Debug, Default)]
pub struct MoeBuffers {
    /// Router scores, `[rows][n_expert]`.
    pub scores: Vec<f32>,
    /// Chosen experts and their weights, `[rows][n_used]`.
    pub chosen: Vec<u32>,
    pub weights: Vec<f32>,
    /// Slots sorted by expert: expert `e` has those from `first[e]` to `first[e + 1]`.
    pub first: Vec<u32>,
    /// The row of each slot.
    pub row: Vec<u32>,
    /// The slot of each row's choice, `[rows][n_used]`.
    pub slot: Vec<u32>,
    /// Results, `[slots][n_embd]`.
    pub out: Vec<f32>,
    /// Result of the shared expert.
    pub shared: Vec<f32>,
}

impl Buffers {
    /// Room for `r` rows.
    pub fn new(plan: &Plan, r: usize) -> Self {
        let n_embd = plan.spec.n_embd;
        let most = |f: &dyn Fn(&LayerPlan) -> usize| plan.layers.iter().map(f).max().unwrap_or(0);
        let slots = most(&|l| l.ffn.slots());
        Self {
            x: vec![0.0; r * n_embd],
            h: Acts::new(r, n_embd),
            h2: Acts::new(r, n_embd),
            y: vec![0.0; r * n_embd],
            qkv: vec![0.0; r * most(&|l| l.attn.widths().iter().sum())],
            q: vec![0; r * most(&|l| l.attn.n_head * l.attn.shape.pairs_k() * 2)],
            q_scale: vec![0.0; r * most(&|l| l.attn.n_head)],
            gathered: Acts::new(r, most(&|l| l.attn.gathered())),
            inner: Acts::new(r * slots, most(&|l| l.ffn.n_ff())),
            turns: plan.ropes.iter().map(|rope| vec![0.0; r * rope.n_rot]).collect(),
            moe: MoeBuffers::new(plan, r, slots),
            rows: Vec::with_capacity(r),
            wanted: Vec::with_capacity(r),
            runs: Vec::with_capacity(r),
            wanted_runs: Vec::with_capacity(r),
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let floats =
            [&self.x, &self.y, &self.qkv, &self.q_scale, &self.moe.scores, &self.moe.out, &self.moe.shared];
        let floats: usize = floats.into_iter().chain(&self.turns).map(|v| 4 * v.len()).sum();
        let acts: usize = [&self.h, &self.h2, &self.gathered, &self.inner].map(Acts::bytes).iter().sum();
        floats + acts + 2 * self.q.len()
    }
}

impl MoeBuffers {
    fn new(plan: &Plan, r: usize, slots: usize) -> Self {
        let n_expert = plan.layers.iter().map(|l| match &l.ffn {
            FfnPlan::Moe(m) => m.experts.len(),
            FfnPlan::Dense(_) => 0,
        });
        let n_expert = n_expert.max().unwrap_or(0);
        if n_expert == 0 {
            return Self::default();
        }
        let n_embd = plan.spec.n_embd;
        Self {
            scores: vec![0.0; r * n_expert],
            chosen: vec![0; r * slots],
            weights: vec![0.0; r * slots],
            first: vec![0; n_expert + 1],
            row: vec![0; r * slots],
            slot: vec![0; r * slots],
            out: vec![0.0; r * slots * n_embd],
            shared: vec![0.0; r * n_embd],
        }
    }
}

/// What a thread needs for itself.
#[derive(Debug, Default)]
pub struct Scratch {
    pub product: ProductScratch,
    pub queries: Vec<Query>,
    pub states: Vec<State>,
    /// Weighted values of a task's queries.
    pub values: Vec<f32>,
    /// A page in 16 bits, where pages are kept in 8.
    pub page: Vec<u8>,
    /// One row of any width.
    pub row: Vec<f32>,
    pub order: Vec<u32>,
}

// SAFETY: the pointers in `queries` are written and read within one task.
unsafe impl Send for Scratch {}

impl AsMut<ProductScratch> for Scratch {
    fn as_mut(&mut self) -> &mut ProductScratch {
        &mut self.product
    }
}

impl Scratch {
    /// Room for steps of `r` rows.
    pub fn new(plan: &Plan, r: usize, packed: bool) -> Self {
        let most = |f: &dyn Fn(&LayerPlan) -> usize| plan.layers.iter().map(f).max().unwrap_or(0);
        let queries = most(&|l| l.attn.group()).max(TASK_QUERIES);
        let padded = most(&|l| HeadShape::padded_v(l.attn.shape));
        let slots = r * most(&|l| l.ffn.slots());
        let n_expert = most(&|l| if let FfnPlan::Moe(m) = &l.ffn { m.experts.len() } else { 0 });
        Self {
            product: ProductScratch::new(plan.matrices(), slots.max(r)),
            queries: Vec::with_capacity(queries),
            states: Vec::with_capacity(queries),
            values: vec![0.0; queries * padded],
            page: vec![0; if packed { most(&|l| HeadShape::page_bytes(l.attn.shape)) } else { 0 }],
            row: vec![0.0; plan.spec.n_embd],
            order: Vec::with_capacity(n_expert),
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.product.bytes() + 4 * (self.values.len() + self.row.len()) + self.page.len()
    }
}
