//! What adapters add while a step is computed: `Σ w·s·B(Ax)` to products, `w·d` to states.
//!
//! Each row has its own weights, so requests under different adapters share a batch, and a row's bits depend on
//! that row alone. `Ax` of all rows is computed before a product, `B(…)` is added to each tile as it leaves the
//! kernel. A weight of 0 is skipped: its rows have the bits they have without adapters. All buffers are made when
//! adapters are set; a step allocates nothing.

use super::NativeExecutor;
use super::kernels::{AddScaled, Dot, GROUP, Isa};
use super::linear::{Input, Matrix, floats};
use super::pool::Pool;
use super::shared::Shared;
use crate::adapters::{Adapter, AdapterKind, ControlVector, Lora, MAX_ADAPTERS, Pair};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Step;
use std::sync::Arc;

/// One adapter's change of one matrix.
#[derive(Debug)]
pub struct LowRank {
    /// Which of the adapters.
    pub adapter: usize,
    /// `[rank][n_in]`, shared by the parts of a fused matrix.
    pub a: Arc<[f32]>,
    /// `[rank][n_out]`
    pub b: Vec<f32>,
    pub rank: usize,
    pub scale: f32,
}

/// The adapters' part of a step.
#[derive(Debug, Default)]
pub struct Low {
    n_adapters: usize,
    /// Some weight of the step is not 0.
    is_active: bool,
    /// Weights of the step's rows, `[rows][n_adapters]`.
    mix: Vec<f32>,
    /// `Ax` of the product under way: for each matrix `[rows][ranks]`.
    inner: Vec<f32>,
    /// Where each matrix begins in `inner`.
    first: [usize; 4],
    /// Directions after layers, by adapter.
    control: Vec<(usize, ControlVector)>,
}

impl Low {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        4 * (self.mix.len() + self.inner.len())
    }

    /// Takes the weights of a step's rows.
    fn start(&mut self, step: &Step<'_>) -> Result<()> {
        self.is_active = false;
        for span in step.spans {
            if !span.mix.is_empty() && span.mix.len() != self.n_adapters {
                let message = format!("expected {} weights, found {}", self.n_adapters, span.mix.len());
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
            let rows = span.first_row * self.n_adapters..(span.first_row + span.n_rows) * self.n_adapters;
            for row in self.mix[rows].chunks_exact_mut(self.n_adapters.max(1)) {
                match span.mix {
                    [] => row.fill(0.0),
                    mix => row.copy_from_slice(mix),
                }
            }
            self.is_active |= span.mix.iter().any(|w| *w != 0.0);
        }
        Ok(())
    }

    fn weight(&self, row: usize, part: &LowRank) -> f32 {
        self.mix[row * self.n_adapters + part.adapter] * part.scale
    }

    /// Computes `Ax` of every row for the matrices of a product.
    pub fn project<T: Send>(
        &mut self,
        (isa, pool, scratch): (Isa, &mut Pool, &mut [T]),
        matrices: &[&Matrix],
        input: Input<'_>,
    ) -> Result<()> {
        if !self.is_active || matrices.iter().all(|m| m.low.is_empty()) {
            return Ok(());
        }
        let n = input.len();
        let mut from = 0;
        for (m, matrix) in matrices.iter().enumerate() {
            self.first[m] = from;
            from += n * matrix.ranks();
        }
        let mut inner = std::mem::take(&mut self.inner);
        let (out, low) = (Shared::new(&mut inner), &*self);
        let done = pool.run(scratch, n, |i, _| {
            let x = &input.x[i * input.width..][..input.width];
            for (m, matrix) in matrices.iter().enumerate() {
                let mut at = low.first[m] + i * matrix.ranks();
                for part in &matrix.low {
                    // SAFETY: the place of this matrix, row and part, which no other call has.
                    let out = unsafe { out.part(at, part.rank) };
                    at += part.rank;
                    if low.weight(i, part) != 0.0 {
                        let rows = part.a.chunks_exact(input.width);
                        out.iter_mut().zip(rows).for_each(|(o, a)| *o = isa.run(Dot(a, x)));
                    }
                }
            }
        });
        self.inner = inner;
        done
    }

    /// Adds the parts of matrix number `m` to the tile of its group `g`, `[rows][16]`.
    pub fn add(&self, m: usize, matrix: &Matrix, g: usize, tile: &mut [f32]) {
        if !self.is_active || matrix.low.is_empty() {
            return;
        }
        let (col, n_cols) = (g * GROUP, (matrix.n_out - g * GROUP).min(GROUP));
        for (i, row) in tile.chunks_exact_mut(GROUP).enumerate() {
            let mut at = self.first[m] + i * matrix.ranks();
            for part in &matrix.low {
                let w = self.weight(i, part);
                let inner = &self.inner[at..at + part.rank];
                at += part.rank;
                if w == 0.0 {
                    continue;
                }
                for (x, b) in inner.iter().zip(part.b.chunks_exact(matrix.n_out)) {
                    let factor = w * x;
                    row[..n_cols].iter_mut().zip(&b[col..]).for_each(|(y, b)| *y += factor * b);
                }
            }
        }
    }
}

impl NativeExecutor {
    /// Takes the weights of the step's rows.
    pub(super) fn start_adapters(&mut self, step: &Step<'_>) -> Result<()> {
        self.engine.low.start(step)
    }

    /// Keeps the weights of the wanted rows alone, as the rows themselves.
    pub(super) fn keep_wanted_weights(&mut self) {
        let low = &mut self.engine.low;
        if !low.is_active {
            return;
        }
        for (i, row) in self.buffers.wanted.iter().enumerate() {
            let from = row.index as usize * low.n_adapters;
            low.mix.copy_within(from..from + low.n_adapters, i * low.n_adapters);
        }
    }

    /// Adds the control vectors of layer `il` to the first `n` rows of the residual stream.
    pub(super) fn control(&mut self, il: usize, n: usize) -> Result<()> {
        let low = std::mem::take(&mut self.engine.low);
        let done = self.add_directions(&low, il, n);
        self.engine.low = low;
        done
    }

    fn add_directions(&mut self, low: &Low, il: usize, n: usize) -> Result<()> {
        if !low.is_active {
            return Ok(());
        }
        let (isa, n_embd) = (self.engine.isa, self.plan.spec.n_embd);
        for (adapter, control) in &low.control {
            let Some((_, d)) = control.directions.iter().find(|(layer, _)| *layer as usize == il) else {
                continue;
            };
            let x = Shared::new(&mut self.buffers.x);
            self.engine.rows(n, |i, _| {
                let factor = low.mix[i * low.n_adapters + adapter];
                if factor != 0.0 {
                    // SAFETY: each row is handed to one call.
                    let x = unsafe { x.part(i * n_embd, n_embd) };
                    isa.run(AddScaled { y: x, x: d, factor });
                }
            })?;
        }
        Ok(())
    }

    /// Puts `adapters` in the place of those there were.
    /// # Errors `Unsupported` for tensors that are not read as matrices, `BadFile` for numbers that are not finite;
    /// nothing has changed then.
    pub(super) fn swap_adapters(&mut self, adapters: &[Arc<Adapter>]) -> Result<()> {
        if adapters.len() > MAX_ADAPTERS {
            let message = format!("expected at most {MAX_ADAPTERS} adapters, found {}", adapters.len());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let (mut parts, mut control) = (Vec::new(), Vec::new());
        for (i, adapter) in adapters.iter().enumerate() {
            match &adapter.kind {
                AdapterKind::Lora(lora) => self.parts_of(i, lora, &mut parts)?,
                AdapterKind::Control(vector) => {
                    self.check_control(vector)?;
                    control.push((i, vector.clone()));
                }
            }
        }
        let mut most = 0;
        let mut number = 0;
        self.plan.each_matrix_mut(&mut |matrix| {
            let own = parts.extract_if(.., |(at, _)| *at == number);
            matrix.low = own.map(|(_, part)| part).collect();
            most = most.max(matrix.ranks());
            number += 1;
        });
        self.engine.low = Low {
            n_adapters: adapters.len(),
            mix: vec![0.0; self.max_rows * adapters.len()],
            inner: vec![0.0; 4 * most * self.max_rows],
            control,
            ..Low::default()
        };
        Ok(())
    }

    fn check_control(&self, vector: &ControlVector) -> Result<()> {
        let spec = &self.plan.spec;
        let fits =
            |(layer, d): &(u32, Vec<f32>)| (*layer as usize) < spec.layers.len() && d.len() == spec.n_embd;
        match vector.directions.iter().all(fits) {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::BadFile, "a control vector of another model")),
        }
    }

    fn parts_of(&self, adapter: usize, lora: &Lora, parts: &mut Vec<(usize, LowRank)>) -> Result<()> {
        for pair in &lora.pairs {
            let a: Arc<[f32]> = finite(&pair.a)?.into();
            let b = finite(&pair.b)?;
            let before = parts.len();
            for (number, matrix) in self.plan.matrices_in_order().enumerate() {
                if matrix.name == pair.base && matrix.n_in == pair.a.dims[0] {
                    parts.push((number, part(adapter, pair, matrix, &a, &b)));
                }
            }
            if parts.len() == before {
                let message = format!("tensor {}: adapters on it are not supported", pair.base);
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
        }
        Ok(())
    }
}

fn finite(t: &crate::gguf::Tensor) -> Result<Vec<f32>> {
    let values = floats(t, t.n_values())?;
    match values.iter().find(|v| !v.is_finite()) {
        Some(v) => {
            let message = format!("tensor {}: expected finite numbers, found {v}", t.name);
            Err(Error::new(ErrorKind::BadFile, message))
        }
        None => Ok(values),
    }
}

/// The part of `B` that stands beside `matrix`, which may be some rows of a fused one.
fn part(adapter: usize, pair: &Pair, matrix: &Matrix, a: &Arc<[f32]>, b: &[f32]) -> LowRank {
    let rank = pair.rank;
    let rows = &b[matrix.first_row() * rank..][..matrix.n_out * rank];
    let mut turned = vec![0.0; rows.len()];
    for (col, row) in rows.chunks_exact(rank).enumerate() {
        row.iter().enumerate().for_each(|(k, v)| turned[k * matrix.n_out + col] = *v);
    }
    LowRank { adapter, a: Arc::clone(a), b: turned, rank, scale: pair.scale }
}
