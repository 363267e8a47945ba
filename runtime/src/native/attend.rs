//! The attention stage: head norms, rotation, storing keys and values, and the loops over pages.

use super::NativeExecutor;
use super::kernels::{
    AttendPage, Finish, Isa, NormaliseInPlace, PackCell, QuantizeQuery, Query, State, StoreCell, Turn,
    UnpackPage,
};
use super::kv::Pages;
use super::plan::{AttentionPlan, HeadNormPlan, RopePlan};
use super::shared::Shared;
use super::work::{Row, Run, Scratch, TASK_QUERIES};
use crate::error::Result;
use crate::model::{PAGE_TOKENS, Span, Step};

/// What one layer's tasks share.
#[derive(Clone, Copy)]
struct Stage<'a> {
    a: &'a AttentionPlan,
    isa: Isa,
    pages: Pages,
    spans: &'a [Span<'a>],
    rows: &'a [Row],
}

/// Some query heads of some rows, which share a key-value head.
#[derive(Clone, Copy)]
struct Task {
    run: Run,
    kv_head: usize,
    first_head: usize,
    n_heads: usize,
}

impl NativeExecutor {
    /// Finishes heads and stores keys and values of all rows.
    pub(super) fn store_heads(&mut self, il: usize, step: &Step<'_>) -> Result<()> {
        let a = &self.plan.layers[il].attn;
        let b = &mut self.buffers;
        let rope = a.rope.map(|i| (&self.plan.ropes[i], &b.turns[i][..]));
        let stage =
            Stage { a, isa: self.engine.isa, pages: self.kv.layer(il), spans: step.spans, rows: &b.rows };
        let width: usize = a.widths().iter().sum();
        let query = a.n_head * a.shape.pairs_k() * 2;
        let (qkv, q, q_scale) = (Shared::new(&mut b.qkv), Shared::new(&mut b.q), Shared::new(&mut b.q_scale));
        self.engine.rows(step.tokens.len(), |i, _| {
            // SAFETY: each row is handed to one call.
            let (qkv, q, q_scale) = unsafe {
                (qkv.part(i * width, width), q.part(i * query, query), q_scale.part(i * a.n_head, a.n_head))
            };
            let turn = rope.map(|(rope, table)| (rope, &table[i * rope.n_rot..][..rope.n_rot]));
            stage.store_row(stage.rows[i], qkv, turn, q, q_scale);
        })
    }

    /// What the heads gather, for all rows or for the wanted ones.
    pub(super) fn attend(&mut self, il: usize, step: &Step<'_>, wanted: bool) -> Result<()> {
        let a = &self.plan.layers[il].attn;
        let b = &mut self.buffers;
        let (rows, runs) = if wanted { (&b.wanted, &b.wanted_runs) } else { (&b.rows, &b.runs) };
        let stage = Stage { a, isa: self.engine.isa, pages: self.kv.layer(il), spans: step.spans, rows };
        // Rows of a run are split so that a task has some thirty queries; heads only when there is little to do.
        let rows_a_task = (TASK_QUERIES / a.group()).max(1);
        let n_tiles: usize = runs.iter().map(|run| (run.n as usize).div_ceil(rows_a_task)).sum();
        // heads that are apart would unpack the same pages
        let least = if stage.pages.packed { 1 } else { 4 };
        let few = n_tiles * a.n_head_kv < least * self.engine.pool.n_threads();
        let heads_a_task = if few && self.engine.pool.n_threads() > 1 { 1 } else { a.group() };
        let splits = a.group() / heads_a_task;
        let out = Shared::new(&mut b.gathered.x);
        let (q, q_scale) = (&b.q[..], &b.q_scale[..]);
        let tiles = TASK_QUERIES.div_ceil(rows_a_task);
        self.engine.pool.run(&mut self.engine.scratch, runs.len() * tiles * a.n_head_kv * splits, |i, own| {
            let (i, split) = (i / splits, i % splits);
            let (i, kv_head) = (i / a.n_head_kv, i % a.n_head_kv);
            let (run, from) = (runs[i / tiles], i % tiles * rows_a_task);
            if from >= run.n as usize {
                return;
            }
            let n = rows_a_task.min(run.n as usize - from) as u32;
            let run = Run { first: run.first + from as u32, n, ..run };
            let first_head = kv_head * a.group() + split * heads_a_task;
            stage.attend(Task { run, kv_head, first_head, n_heads: heads_a_task }, (q, q_scale), own, &out);
        })
    }
}

impl Stage<'_> {
    fn store_row(
        &self,
        row: Row,
        qkv: &mut [f32],
        turn: Option<(&RopePlan, &[f32])>,
        q_out: &mut [i16],
        q_scale: &mut [f32],
    ) {
        let a = self.a;
        if let Some(c) = a.clamp {
            qkv.iter_mut().for_each(|x| *x = x.clamp(-c, c));
        }
        let [wq, wk, _] = a.widths();
        let (q, kv) = qkv.split_at_mut(wq);
        let (k, v) = kv.split_at_mut(wk);
        for (heads, norm) in [(&mut *q, &a.q_norm), (&mut *k, &a.k_norm)] {
            if a.norm_after_rope {
                self.turn(heads, turn);
                self.head_norm(heads, norm.as_ref());
            } else {
                self.head_norm(heads, norm.as_ref());
                self.turn(heads, turn);
            }
        }
        if let Some(t) = a.q_temperature {
            let factor = 1.0 + t.scale * (1.0 + (row.pos as usize / t.every.max(1)) as f32).ln();
            q.iter_mut().for_each(|x| *x *= factor);
        }
        let one = a.shape.pairs_k() * 2;
        for (i, q) in q.chunks_exact(a.shape.dim_k).enumerate() {
            q_scale[i] = self.isa.run(QuantizeQuery { x: q, out: &mut q_out[i * one..][..one] });
        }
        let page = self.spans[row.span as usize].pages[row.pos as usize / PAGE_TOKENS];
        let cell = row.pos as usize % PAGE_TOKENS;
        let heads = k.chunks_exact(a.shape.dim_k).zip(v.chunks_exact(a.shape.dim_v));
        for (head, (key, value)) in heads.enumerate() {
            let page = self.pages.record(page, head);
            match self.pages.packed {
                true => self.isa.run(PackCell { shape: a.shape, cell, key, value, page }),
                false => self.isa.run(StoreCell { shape: a.shape, cell, key, value, page }),
            }
        }
    }

    fn head_norm(&self, heads: &mut [f32], norm: Option<&HeadNormPlan>) {
        let Some(HeadNormPlan { norm, width }) = norm else { return };
        for (i, x) in heads.chunks_exact_mut(*width).enumerate() {
            // One weight for all heads, or one for each.
            let part = |w: &Option<Vec<f32>>| w.as_ref().map(|w| i * width % w.len());
            let (at_w, at_b) = (part(&norm.weight), part(&norm.bias));
            let weight = norm.weight.as_ref().zip(at_w).map(|(w, at)| &w[at..at + width]);
            let bias = norm.bias.as_ref().zip(at_b).map(|(b, at)| &b[at..at + width]);
            self.isa.run(NormaliseInPlace { kind: norm.kind, eps: norm.eps, weight, bias, x });
        }
    }

    fn turn(&self, heads: &mut [f32], turn: Option<(&RopePlan, &[f32])>) {
        let Some((rope, table)) = turn else { return };
        let (cos, sin) = table.split_at(rope.n_rot / 2);
        self.isa.run(Turn { heads, dim: self.a.shape.dim_k, pairing: rope.pairing, cos, sin });
    }

    fn attend(&self, task: Task, (q, q_scale): (&[i16], &[f32]), own: &mut Scratch, out: &Shared<'_, f32>) {
        let a = self.a;
        let rows = &self.rows[task.run.first as usize..][..task.run.n as usize];
        let span = self.spans[task.run.span as usize];
        let n = rows.len() * task.n_heads;
        let padded = a.shape.padded_v();
        own.states.clear();
        own.states.resize(n, State::EMPTY);
        own.values[..n * padded].fill(0.0);
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return };
        let last_page = last.pos as usize / PAGE_TOKENS;
        for page in self.sees(first).0 / PAGE_TOKENS..=last_page {
            let record = |page: usize| self.pages.record(span.pages[page], task.kv_head).cast_const();
            own.queries.clear();
            for row in rows {
                let (from, to) = self.sees(row);
                let within = |p: usize| p.saturating_sub(page * PAGE_TOKENS).min(PAGE_TOKENS) as u32;
                for head in task.first_head..task.first_head + task.n_heads {
                    let i = row.index as usize * a.n_head + head;
                    own.queries.push(Query {
                        q: q[i * a.shape.pairs_k() * 2..].as_ptr().cast(),
                        scale: q_scale[i] * a.scale,
                        from: within(from),
                        to: within(to),
                    });
                }
            }
            let mut ahead = (page < last_page).then(|| record(page + 1));
            let mut at = record(page);
            if self.pages.packed {
                let (packed, ahead) = (at, ahead.take());
                self.isa.run(UnpackPage { shape: a.shape, packed, ahead, page: &mut own.page });
                at = own.page.as_ptr();
            }
            self.isa.run(AttendPage {
                shape: a.shape,
                page: at,
                ahead,
                queries: &own.queries,
                softcap: a.softcap,
                states: &mut own.states,
                values: &mut own.values,
            });
        }
        for i in 0..n {
            let (row, head) =
                (task.run.first as usize + i / task.n_heads, task.first_head + i % task.n_heads);
            let at = row * a.gathered() + head * a.shape.dim_v;
            // SAFETY: each row and head belong to one task.
            let out = unsafe { out.part(at, a.shape.dim_v) };
            let sink = a.sinks.as_ref().map(|s| s[head]);
            self.isa.run(Finish {
                state: own.states[i],
                sink,
                values: &own.values[i * padded..][..padded],
                out,
            });
        }
    }

    /// The positions a row sees: first, and one past the last.
    fn sees(&self, row: &Row) -> (usize, usize) {
        let end = row.pos as usize + 1;
        (self.a.window.map_or(0, |w| end.saturating_sub(w.max(1))), end)
    }
}
