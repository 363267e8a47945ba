//! The feed-forward part: one network, or a mixture of experts.

use super::NativeExecutor;
use super::forward::{Engine, Target, add_product, add_rows, norm_rows, prepare_rows};
use super::kernels::{Activate, ActivateInPlace, AddScaled, Dot, Isa, Sigmoid, Softmax};
use super::linear::{Input, Matrix, paired};
use super::plan::{DensePlan, FfnPlan, MoePlan};
use super::profile::OpKind;
use super::shared::Shared;
use super::work::{Acts, MoeBuffers};
use crate::error::Result;
use crate::model::spec::{Activation, Gating, Residual};

impl NativeExecutor {
    /// Adds the feed-forward part of layer `il` to the first `n` rows of the residual stream.
    pub(super) fn feed_forward(&mut self, il: usize, n: usize) -> Result<()> {
        let l = &self.plan.layers[il];
        let n_embd = self.plan.spec.n_embd;
        let (b, engine) = (&mut self.buffers, &mut self.engine);
        if l.residual == Residual::Sequential {
            norm_rows(engine, l.ffn_norm.as_ref(), &b.x, &mut b.h, (n, n_embd), true)?;
            engine.lap(OpKind::Norm);
        }
        let h = if l.residual == Residual::Parallel { &b.h2 } else { &b.h };
        let input = h.input(n, n_embd);
        match &l.ffn {
            FfnPlan::Dense(f) => {
                dense_inner(engine, f, input, &mut b.inner)?;
                engine.lap(OpKind::FfnIn);
                let inner = b.inner.input(n, f.down.n_in);
                add_product(engine, l, l.ffn_post_norm.as_ref(), &f.down, inner, &mut b.x, &mut b.y)?;
            }
            FfnPlan::Moe(m) => {
                mixture(engine, m, input, &mut b.inner, &mut b.moe, &mut b.y)?;
                add_rows(engine, l.ffn_post_norm.as_ref(), l.residual_scale, &b.y, &mut b.x, (n, n_embd))?;
            }
        }
        engine.lap(OpKind::FfnOut);
        Ok(())
    }
}

/// `act(gate)·up` of all rows of a network, normed and rounded for `down`.
fn dense_inner(engine: &mut Engine, f: &DensePlan, input: Input<'_>, inner: &mut Acts) -> Result<()> {
    let (n, n_ff) = (input.len(), f.down.n_in);
    activated(engine, f.gate.as_ref(), &f.up, &f.act, input, &Shared::new(&mut inner.x[..n * n_ff]))?;
    prepare_rows(engine, f.sub_norm.as_ref(), inner, (n, n_ff), f.down.is_quantised())
}

/// `act(gate)·up`, or `act(up)`, into rows as wide as `up` gives.
fn activated(
    engine: &mut Engine,
    gate: Option<&Matrix>,
    up: &Matrix,
    act: &Activation,
    input: Input<'_>,
    out: &Shared<'_, f32>,
) -> Result<()> {
    let (isa, width) = (engine.isa, up.n_out);
    match gate {
        Some(gate) => {
            let parts = (isa, &mut engine.pool, &mut engine.scratch[..], &mut engine.low);
            let join = |g: &mut [f32], u: &[f32]| isa.run(ActivateInPlace { act, x: g, up: Some(u) });
            paired(parts, [gate, up], input, join, |piece| Target::rows(isa, out, width).put(piece))
        }
        None => engine.products(&[up], input, |piece| {
            piece.rows(|row, values| {
                // SAFETY: each piece is other columns, and each row of it another row.
                let out = unsafe { out.part(row * width + piece.col, piece.n_cols) };
                isa.run(Activate { act, gate: values, up: None, out });
            });
        }),
    }
}

/// The mixture's result for all rows into `y`.
fn mixture(
    engine: &mut Engine,
    m: &MoePlan,
    input: Input<'_>,
    inner: &mut Acts,
    b: &mut MoeBuffers,
    y: &mut [f32],
) -> Result<()> {
    let (n, n_expert, n_embd) = (input.n, m.experts.len(), input.width);
    let isa = engine.isa;
    {
        let scores = Shared::new(&mut b.scores);
        engine.products(&[&m.router], input, |piece| Target::rows(isa, &scores, n_expert).put(piece))?;
    }
    choose(engine, m, n, b)?;
    sort_slots(m, n, b);
    experts_inner(engine, m, input, inner, b)?;
    prepare_rows(engine, None, inner, (n * m.n_used, m.n_ff), m.experts[0].down.is_quantised())?;
    engine.lap(OpKind::FfnIn);
    experts_out(engine, m, inner, b, n_embd)?;
    sum_experts(engine, m, b, y, (n, n_embd))?;
    if let Some(shared) = &m.shared {
        dense_inner(engine, shared, input, inner)?;
        let out = Shared::new(&mut b.shared);
        let inner = inner.input(n, shared.down.n_in);
        engine.products(&[&shared.down], inner, |piece| Target::rows(isa, &out, n_embd).put(piece))?;
        add_shared(engine, m, input, &b.shared, y)?;
    }
    Ok(())
}

/// Picks each row's experts and their weights.
fn choose(engine: &mut Engine, m: &MoePlan, n: usize, b: &mut MoeBuffers) -> Result<()> {
    let (isa, n_expert) = (engine.isa, m.experts.len());
    let (scores, chosen) = (Shared::new(&mut b.scores), Shared::new(&mut b.chosen));
    let weights = Shared::new(&mut b.weights);
    engine.rows(n, |i, own| {
        // SAFETY: each row is handed to one call.
        let (scores, chosen, weights) = unsafe {
            (
                scores.part(i * n_expert, n_expert),
                chosen.part(i * m.n_used, m.n_used),
                weights.part(i * m.n_used, m.n_used),
            )
        };
        choose_row(isa, m, scores, &mut own.order, chosen, weights);
    })
}

fn choose_row(
    isa: Isa,
    m: &MoePlan,
    scores: &mut [f32],
    order: &mut Vec<u32>,
    chosen: &mut [u32],
    weights: &mut [f32],
) {
    match m.gating {
        Gating::Softmax => isa.run(Softmax(scores)),
        Gating::Sigmoid => scores.iter_mut().for_each(|x| *x = isa.run(Sigmoid(*x))),
        Gating::SoftmaxAfterTopK => {}
    }
    let rank = |e: u32| scores[e as usize] + m.choice_bias.as_ref().map_or(0.0, |b| b[e as usize]);
    order.clear();
    order.extend(0..scores.len() as u32);
    // Ties go to the lower number; equal ranks cannot change places in an unstable sort that compares both.
    order.sort_unstable_by(|a, b| rank(*b).total_cmp(&rank(*a)).then(a.cmp(b)));
    chosen.copy_from_slice(&order[..m.n_used]);
    for (w, e) in weights.iter_mut().zip(chosen) {
        *w = scores[*e as usize];
    }
    if m.gating == Gating::SoftmaxAfterTopK {
        isa.run(Softmax(weights));
    }
    if m.normalise {
        let sum: f32 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= sum);
    }
    weights.iter_mut().for_each(|w| *w *= m.weight_scale);
}

/// Lists slots by expert, rows ascending.
fn sort_slots(m: &MoePlan, n: usize, b: &mut MoeBuffers) {
    let first = &mut b.first[..m.experts.len() + 1];
    first.fill(0);
    for e in &b.chosen[..n * m.n_used] {
        first[*e as usize + 1] += 1;
    }
    for e in 1..first.len() {
        first[e] += first[e - 1];
    }
    for (i, e) in b.chosen[..n * m.n_used].iter().enumerate() {
        // `first[e]` runs through the expert's slots and is put back below.
        let slot = first[*e as usize];
        first[*e as usize] += 1;
        b.row[slot as usize] = (i / m.n_used) as u32;
        b.slot[i] = slot;
    }
    first.copy_within(..m.experts.len(), 1);
    first[0] = 0;
}

fn experts_inner(
    engine: &mut Engine,
    m: &MoePlan,
    input: Input<'_>,
    inner: &mut Acts,
    b: &MoeBuffers,
) -> Result<()> {
    for (e, expert) in m.experts.iter().enumerate() {
        let (from, to) = (b.first[e] as usize, b.first[e + 1] as usize);
        if from < to {
            let rows = Input { index: Some(&b.row[from..to]), ..input };
            let out = Shared::new(&mut inner.x[from * m.n_ff..to * m.n_ff]);
            activated(engine, Some(&expert.gate), &expert.up, &m.act, rows, &out)?;
        }
    }
    Ok(())
}

fn experts_out(
    engine: &mut Engine,
    m: &MoePlan,
    inner: &Acts,
    b: &mut MoeBuffers,
    n_embd: usize,
) -> Result<()> {
    let (isa, record) = (engine.isa, super::kernels::record_bytes(m.n_ff));
    for (e, expert) in m.experts.iter().enumerate() {
        let (from, to) = (b.first[e] as usize, b.first[e + 1] as usize);
        if from < to {
            let (x, records) = (&inner.x[from * m.n_ff..], &inner.records[from * record..]);
            let rows = Input { x, records, width: m.n_ff, n: to - from, index: None };
            let out = Shared::new(&mut b.out[from * n_embd..to * n_embd]);
            engine.products(&[&expert.down], rows, |piece| Target::rows(isa, &out, n_embd).put(piece))?;
        }
    }
    Ok(())
}

/// `y = Σ weight·expert`, in the order of the choice.
fn sum_experts(
    engine: &mut Engine,
    m: &MoePlan,
    b: &MoeBuffers,
    y: &mut [f32],
    (n, n_embd): (usize, usize),
) -> Result<()> {
    let (isa, y) = (engine.isa, Shared::new(y));
    engine.rows(n, |i, _| {
        // SAFETY: each row is handed to one call.
        let y = unsafe { y.part(i * n_embd, n_embd) };
        y.fill(0.0);
        for k in i * m.n_used..(i + 1) * m.n_used {
            let x = &b.out[b.slot[k] as usize * n_embd..][..n_embd];
            isa.run(AddScaled { y, x, factor: b.weights[k] });
        }
    })
}

fn add_shared(
    engine: &mut Engine,
    m: &MoePlan,
    input: Input<'_>,
    shared: &[f32],
    y: &mut [f32],
) -> Result<()> {
    let (isa, n_embd, y) = (engine.isa, input.width, Shared::new(y));
    engine.rows(input.n, |i, _| {
        // SAFETY: each row is handed to one call.
        let y = unsafe { y.part(i * n_embd, n_embd) };
        let x = &input.x[i * n_embd..][..n_embd];
        let gate = m.shared_gate.as_ref().map_or(1.0, |g| isa.run(Sigmoid(isa.run(Dot(g, x)))));
        isa.run(AddScaled { y, x: &shared[i * n_embd..][..n_embd], factor: gate });
    })
}
