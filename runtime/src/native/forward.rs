//! The generic forward pass: reads a plan, never an architecture's name.
//!
//! Each operator is one loop over the pool. In the last layer everything after the keys and values is
//! computed only for the rows whose logits or taps are wanted.

use super::NativeExecutor;
use super::kernels::{AddScaled, GROUP, Isa, Normalise, PutTile, Quantize, ScaleCap, record_bytes};
use super::linear::{Input, Matrix, Piece, embedding_row, products};
use super::low_rank::Low;
use super::plan::{LayerPlan, NormPlan, Plan};
use super::pool::Pool;
use super::profile::{OpKind, Profile};
use super::shared::Shared;
use super::work::{Acts, Row, Run, Scratch, TASK_QUERIES};
use crate::error::{Error, ErrorKind, Result};
use crate::model::spec::Residual;
use crate::model::{CancelFlag, Gate, PAGE_TOKENS, Step, StepOut};
use std::sync::Mutex;

/// Rows of cheap work a thread takes at a time.
const ROWS: usize = 8;

/// Who computes.
pub struct Engine {
    pub isa: Isa,
    pub pool: Pool,
    pub scratch: Vec<Scratch>,
    pub profile: Option<Profile>,
    pub low: Low,
}

impl Engine {
    /// Calls `f` with each row number below `n`.
    pub fn rows(&mut self, n: usize, f: impl Fn(usize, &mut Scratch) + Sync) -> Result<()> {
        self.pool.run(&mut self.scratch, n.div_ceil(ROWS), |i, own| {
            for row in i * ROWS..n.min((i + 1) * ROWS) {
                f(row, own);
            }
        })
    }

    /// As [`products`].
    pub fn products(
        &mut self,
        m: &[&Matrix],
        input: Input<'_>,
        put: impl Fn(Piece<'_>) + Sync,
    ) -> Result<()> {
        products((self.isa, &mut self.pool, &mut self.scratch, &mut self.low), m, input, put)
    }

    /// Ends an operator in the profile.
    pub fn lap(&mut self, kind: OpKind) {
        if let Some(profile) = &mut self.profile {
            profile.lap(kind);
        }
    }
}

/// Norms a row, which may be the identity.
pub fn norm_row(isa: Isa, norm: Option<&NormPlan>, x: &[f32], out: &mut [f32]) {
    match norm {
        Some(n) => {
            let (weight, bias) = (n.weight.as_deref(), n.bias.as_deref());
            isa.run(Normalise { kind: n.kind, eps: n.eps, weight, bias, x, out });
        }
        None => out.copy_from_slice(x),
    }
}

/// Norms `n` rows of `x` into `acts`, and rounds them to 8 bits if some matrix reads that.
pub fn norm_rows(
    engine: &mut Engine,
    norm: Option<&NormPlan>,
    x: &[f32],
    acts: &mut Acts,
    (n, width): (usize, usize),
    quantised: bool,
) -> Result<()> {
    let isa = engine.isa;
    let (out, records) = (Shared::new(&mut acts.x), Shared::new(&mut acts.records));
    engine.rows(n, |i, _| {
        // SAFETY: each row is handed to one call.
        let (out, record) = unsafe {
            (out.part(i * width, width), records.part(i * record_bytes(width), record_bytes(width)))
        };
        norm_row(isa, norm, &x[i * width..][..width], out);
        if quantised {
            isa.run(Quantize { x: out, record });
        }
    })
}

/// Norms rows in place (if there is a norm) and rounds them to 8 bits (if a matrix reads that).
pub fn prepare_rows(
    engine: &mut Engine,
    norm: Option<&NormPlan>,
    acts: &mut Acts,
    (n, width): (usize, usize),
    quantised: bool,
) -> Result<()> {
    if norm.is_none() && !quantised {
        return Ok(());
    }
    let isa = engine.isa;
    let (x, records) = (Shared::new(&mut acts.x), Shared::new(&mut acts.records));
    engine.rows(n, |i, _| {
        // SAFETY: each row is handed to one call.
        let (x, record) =
            unsafe { (x.part(i * width, width), records.part(i * record_bytes(width), record_bytes(width))) };
        if let Some(n) = norm {
            let (weight, bias) = (n.weight.as_deref(), n.bias.as_deref());
            isa.run(super::kernels::NormaliseInPlace { kind: n.kind, eps: n.eps, weight, bias, x });
        }
        if quantised {
            isa.run(Quantize { x, record });
        }
    })
}

/// Where pieces of a product go: rows of `width` values, from column `col` on.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub isa: Isa,
    pub out: &'a Shared<'a, f32>,
    pub width: usize,
    pub col: usize,
    /// Adds the piece times this; else it takes the place of what is there.
    pub add: Option<f32>,
}

impl<'a> Target<'a> {
    /// Whole rows of `width` values.
    pub fn rows(isa: Isa, out: &'a Shared<'a, f32>, width: usize) -> Self {
        Self { isa, out, width, col: 0, add: None }
    }

    /// Writes a piece; each is other columns.
    pub fn put(&self, piece: Piece<'_>) {
        let Piece { tile, n_cols, col, .. } = piece;
        let out = self.out.columns(self.width, tile.len() / GROUP, self.col + col, n_cols);
        self.isa.run(PutTile { tile, n_cols, out, stride: self.width, add: self.add });
    }
}

impl NativeExecutor {
    /// Computes a step. With a gate, false if it did not let the step go on after its layer.
    pub(super) fn run_step(
        &mut self,
        step: &Step<'_>,
        cancel: &CancelFlag,
        out: &mut StepOut,
        mut gate: Option<Gate<'_>>,
    ) -> Result<bool> {
        self.check(step)?;
        self.list_rows(step);
        self.start_adapters(step)?;
        if let Some(profile) = &mut self.engine.profile {
            profile.start();
        }
        let spec = std::sync::Arc::clone(&self.plan.spec);
        let (n, n_out) = (step.tokens.len(), step.outputs.len());
        out.logits.resize(n_out * spec.n_vocab, 0.0);
        out.hidden.resize(step.taps.len() * n_out * spec.n_embd, 0.0);
        self.turn_tables(n)?;
        self.embed(step)?;
        self.engine.lap(OpKind::Embed);
        let mut taps = step.taps.iter().enumerate().peekable();
        for il in 0..spec.layers.len() {
            if cancel.is_cancelled() {
                return Err(Error::new(ErrorKind::Cancelled, "cancelled before the next layer"));
            }
            let last = il + 1 == spec.layers.len();
            self.layer(il, step, last)?;
            self.control(il, if last { n_out } else { n })?;
            while let Some((tap, _)) = taps.next_if(|(_, layer)| **layer as usize == il) {
                let rows = &mut out.hidden[tap * n_out * spec.n_embd..][..n_out * spec.n_embd];
                for (i, row) in rows.chunks_exact_mut(spec.n_embd).enumerate() {
                    let from = if last { i } else { step.outputs[i] as usize };
                    row.copy_from_slice(&self.buffers.x[from * spec.n_embd..][..spec.n_embd]);
                }
            }
            if gate.as_mut().is_some_and(|(layer, go_on)| *layer as usize == il && !go_on(out)) {
                return Ok(false);
            }
        }
        self.head(n_out, &mut out.logits).map(|()| true)
    }

    /// What the context promises is checked all the same: a wrong page would be a wrong pointer.
    fn check(&self, step: &Step<'_>) -> Result<()> {
        let n = step.tokens.len();
        let wrong = |what: String| Err(Error::new(ErrorKind::InvalidArgument, what));
        if n > self.max_rows {
            return wrong(format!("expected at most {} rows, found {n}", self.max_rows));
        }
        let mut next = 0;
        for span in step.spans {
            let end = span.first_pos.checked_add(span.n_rows);
            let n_pages = end.filter(|e| *e <= i32::MAX as usize).map(|e| e.div_ceil(PAGE_TOKENS));
            let pages = n_pages.and_then(|n| span.pages.get(..n));
            let there = |pages: &[u32]| pages.iter().all(|p| (*p as usize) < self.kv.n_pages());
            if span.first_row != next || span.n_rows == 0 || !pages.is_some_and(there) {
                return wrong(format!("expected a span at row {next} over existing pages, found {span:?}"));
            }
            next += span.n_rows;
        }
        let ascending = step.outputs.is_sorted_by(|a, b| a < b);
        if next != n || !ascending || step.outputs.last().is_some_and(|o| *o as usize >= n) {
            return wrong(format!("expected spans over {n} rows and ascending outputs, found {next} rows"));
        }
        match step.tokens.iter().find(|t| **t as usize >= self.plan.spec.n_vocab) {
            Some(t) => wrong(format!("expected tokens below {}, found {t}", self.plan.spec.n_vocab)),
            None => Ok(()),
        }
    }

    fn list_rows(&mut self, step: &Step<'_>) {
        let b = &mut self.buffers;
        b.rows.clear();
        for (i, span) in step.spans.iter().enumerate() {
            b.rows.extend((0..span.n_rows).map(|j| Row {
                index: (span.first_row + j) as u32,
                span: i as u32,
                pos: (span.first_pos + j) as u32,
            }));
        }
        b.wanted.clear();
        b.wanted.extend(step.outputs.iter().map(|o| b.rows[*o as usize]));
        list_runs(&b.rows, &mut b.runs);
        list_runs(&b.wanted, &mut b.wanted_runs);
    }

    /// Cosines and sines of every row and rotation.
    fn turn_tables(&mut self, n: usize) -> Result<()> {
        let (rows, engine) = (&self.buffers.rows, &mut self.engine);
        for (rope, table) in self.plan.ropes.iter().zip(&mut self.buffers.turns) {
            let (half, table) = (rope.n_rot / 2, Shared::new(table));
            engine.rows(n, |i, _| {
                // SAFETY: each row is handed to one call.
                let (cos, sin) = unsafe { table.part(i * rope.n_rot, rope.n_rot) }.split_at_mut(half);
                for (j, f) in rope.frequency.iter().enumerate() {
                    let (s, c) = (f64::from(rows[i].pos) * f).sin_cos();
                    (cos[j], sin[j]) = (c as f32 * rope.magnitude, s as f32 * rope.magnitude);
                }
            })?;
        }
        Ok(())
    }

    fn embed(&mut self, step: &Step<'_>) -> Result<()> {
        let (plan, rows) = (&self.plan, &self.buffers.rows);
        let spec = &plan.spec;
        let (isa, width) = (self.engine.isa, spec.n_embd);
        let x = Shared::new(&mut self.buffers.x);
        let failure = Mutex::new(None);
        self.engine.rows(step.tokens.len(), |i, own| {
            // SAFETY: each row is handed to one call.
            let x = unsafe { x.part(i * width, width) };
            if let Err(e) = embed_row(plan, isa, step.tokens[i], rows[i].pos, x, &mut own.row) {
                *failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(e);
            }
        })?;
        failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn layer(&mut self, il: usize, step: &Step<'_>, last: bool) -> Result<()> {
        let n_embd = self.plan.spec.n_embd;
        let l = &self.plan.layers[il];
        let n = step.tokens.len();
        let reads_8 = l.attn.qkv.iter().any(Matrix::is_quantised) || l.residual == Residual::ParallelShared;
        norm_rows(
            &mut self.engine,
            l.attn_norm.as_ref(),
            &self.buffers.x,
            &mut self.buffers.h,
            (n, n_embd),
            reads_8,
        )?;
        self.engine.lap(OpKind::Norm);
        self.project(il, n)?;
        self.engine.lap(OpKind::Qkv);
        self.store_heads(il, step)?;
        self.engine.lap(OpKind::Heads);
        if last {
            self.keep_wanted();
        }
        let n = if last { step.outputs.len() } else { n };
        if n == 0 {
            return Ok(());
        }
        let l = &self.plan.layers[il];
        if l.residual == Residual::Parallel {
            norm_rows(
                &mut self.engine,
                l.ffn_norm.as_ref(),
                &self.buffers.x,
                &mut self.buffers.h2,
                (n, n_embd),
                true,
            )?;
            self.engine.lap(OpKind::Norm);
        }
        self.attend(il, step, last)?;
        self.engine.lap(OpKind::Attention);
        self.attention_out(il, n)?;
        self.engine.lap(OpKind::AttentionOut);
        self.feed_forward(il, n)
    }

    /// Query, key and value rows.
    fn project(&mut self, il: usize, n: usize) -> Result<()> {
        let a = &self.plan.layers[il].attn;
        let widths = a.widths();
        let total: usize = widths.iter().sum();
        let from = [0, widths[0], widths[0] + widths[1]];
        let out = Shared::new(&mut self.buffers.qkv);
        let input = self.buffers.h.input(n, self.plan.spec.n_embd);
        let [q, k, v] = &a.qkv;
        let target = Target::rows(self.engine.isa, &out, total);
        self.engine.products(&[q, k, v], input, |piece| {
            Target { col: from[piece.matrix], ..target }.put(piece);
        })
    }

    /// Moves the wanted rows to the front of what is still needed.
    fn keep_wanted(&mut self) {
        let (b, n_embd) = (&mut self.buffers, self.plan.spec.n_embd);
        let record = record_bytes(n_embd);
        for (i, row) in b.wanted.iter().enumerate() {
            let from = row.index as usize;
            b.x.copy_within(from * n_embd..(from + 1) * n_embd, i * n_embd);
            b.h.x.copy_within(from * n_embd..(from + 1) * n_embd, i * n_embd);
            b.h.records.copy_within(from * record..(from + 1) * record, i * record);
        }
        self.keep_wanted_weights();
    }

    /// Output projection of attention, its norm and its residual.
    fn attention_out(&mut self, il: usize, n: usize) -> Result<()> {
        let l = &self.plan.layers[il];
        let (out, width) = (&l.attn.output, l.attn.gathered());
        let (norm, quantised) = (l.attn.sub_norm.as_ref(), out.is_quantised());
        prepare_rows(&mut self.engine, norm, &mut self.buffers.gathered, (n, width), quantised)?;
        let input = self.buffers.gathered.input(n, width);
        add_product(
            &mut self.engine,
            l,
            l.attn_post_norm.as_ref(),
            out,
            input,
            &mut self.buffers.x,
            &mut self.buffers.y,
        )
    }

    /// The last norm and the output head.
    fn head(&mut self, n: usize, logits: &mut [f32]) -> Result<()> {
        let plan = &self.plan;
        let (spec, width) = (&plan.spec, plan.spec.n_embd);
        let quantised = plan.output.is_quantised();
        let b = &mut self.buffers;
        norm_rows(&mut self.engine, Some(&plan.output_norm), &b.x, &mut b.h, (n, width), quantised)?;
        let out = Shared::new(logits);
        let isa = self.engine.isa;
        let plain = spec.logit_scale == 1.0 && spec.logit_softcap.is_none();
        self.engine.products(&[&plan.output], b.h.input(n, width), |piece| {
            Target::rows(isa, &out, spec.n_vocab).put(piece);
            if !plain {
                piece.rows(|row, _| {
                    // SAFETY: the same columns as were just written, which no other piece has.
                    let x = unsafe { out.part(row * spec.n_vocab + piece.col, piece.n_cols) };
                    isa.run(ScaleCap { x, factor: spec.logit_scale, cap: spec.logit_softcap });
                });
            }
        })?;
        self.engine.lap(OpKind::Head);
        Ok(())
    }
}

/// Cuts rows into runs of one span that are small enough for an attention task whatever its heads.
fn list_runs(rows: &[Row], runs: &mut Vec<Run>) {
    runs.clear();
    for (i, row) in rows.iter().enumerate() {
        match runs.last_mut() {
            Some(run) if run.span == row.span && (run.n as usize) < TASK_QUERIES => run.n += 1,
            _ => runs.push(Run { span: row.span, first: i as u32, n: 1 }),
        }
    }
}

fn embed_row(plan: &Plan, isa: Isa, token: u32, pos: u32, x: &mut [f32], own: &mut [f32]) -> Result<()> {
    let spec = &plan.spec;
    let own = &mut own[..x.len()];
    embedding_row(&spec.tok_embd, token as usize, x)?;
    if spec.embd_scale != 1.0 {
        x.iter_mut().for_each(|v| *v *= spec.embd_scale);
    }
    if let Some(t) = &spec.pos_embd {
        embedding_row(t, pos as usize, own)?;
        isa.run(AddScaled { y: x, x: own, factor: 1.0 });
    }
    if plan.embd_norm.is_some() {
        own.copy_from_slice(x);
        norm_row(isa, plan.embd_norm.as_ref(), own, x);
    }
    Ok(())
}

/// Multiplies and adds the result to the residual stream, after a norm if there is one.
pub fn add_product(
    engine: &mut Engine,
    layer: &LayerPlan,
    norm: Option<&NormPlan>,
    matrix: &Matrix,
    input: Input<'_>,
    x: &mut [f32],
    y: &mut [f32],
) -> Result<()> {
    let (n, width, factor) = (input.len(), matrix.n_out, layer.residual_scale);
    if norm.is_none() {
        let (isa, x) = (engine.isa, Shared::new(x));
        let target = Target { add: Some(factor), ..Target::rows(isa, &x, width) };
        return engine.products(&[matrix], input, |piece| target.put(piece));
    }
    let (isa, out) = (engine.isa, Shared::new(y));
    engine.products(&[matrix], input, |piece| Target::rows(isa, &out, width).put(piece))?;
    add_rows(engine, norm, factor, y, x, (n, width))
}

/// Adds rows to the residual stream, after a norm if there is one.
pub fn add_rows(
    engine: &mut Engine,
    norm: Option<&NormPlan>,
    factor: f32,
    y: &[f32],
    x: &mut [f32],
    (n, width): (usize, usize),
) -> Result<()> {
    let (isa, x) = (engine.isa, Shared::new(x));
    engine.rows(n, |i, own| {
        // SAFETY: each row is handed to one call.
        let x = unsafe { x.part(i * width, width) };
        let y = &y[i * width..][..width];
        let normed = &mut own.row[..width];
        norm_row(isa, norm, y, normed);
        isa.run(AddScaled { y: x, x: normed, factor });
    })
}
