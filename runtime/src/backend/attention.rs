//! Self-attention over the cells of the cache.

use super::graph::{Builder, place};
use super::weights::Use;
use crate::error::{Result, ResultExt};
use crate::model::spec::{Attention, HeadNorm, HeadNormOver, QTemperature, Qkv, Rope, RopePairing};
use truing_ggml::{Attention as Scores, Rope as Turn, RopeMode, T, Type};

impl Builder<'_> {
    /// Queries for every row `[head_dim_k, n_head, n_rows]`; keys and values are written to the cache.
    pub(super) fn project(&mut self, il: usize, attn: &Attention, x: T) -> Result<T> {
        let (q, k, v) = self.qkv(attn, x)?;
        let q = self.place_heads(q, attn, attn.q_norm.as_ref(), attn.n_head)?;
        let k = self.place_heads(k, attn, attn.k_norm.as_ref(), attn.n_head_kv)?;
        let v = self.heads(v, attn.head_dim_v, attn.n_head_kv)?;
        let q = self.temper(attn.q_temperature, q)?;
        // In this order llama.cpp computes them, and nothing is reordered later.
        [q, v, k].into_iter().try_for_each(|t| self.g.expand(t))?;
        self.store(2 * il, k, attn.n_head_kv * attn.head_dim_k)?;
        self.store(2 * il + 1, v, attn.n_head_kv * attn.head_dim_v)?;
        Ok(q)
    }

    /// Rows of query, key and value heads as `[n_heads·head_dim, n_rows]`, not always contiguous.
    fn qkv(&mut self, attn: &Attention, x: T) -> Result<(T, T, T)> {
        let clamp = |b: &mut Self, t: T| match attn.clamp {
            Some(bound) => Ok::<T, crate::Error>(b.g.clamp(t, -bound, bound)?),
            None => Ok(t),
        };
        match &attn.qkv {
            Qkv::Separate { q, k, v } => {
                let (q, k, v) = (self.linear(q, x)?, self.linear(k, x)?, self.linear(v, x)?);
                Ok((clamp(self, q)?, clamp(self, k)?, clamp(self, v)?))
            }
            Qkv::Fused(qkv) => {
                let all = self.linear(qkv, x)?;
                let all = clamp(self, all)?;
                let n_q = attn.n_head * attn.head_dim_k;
                let n_k = attn.n_head_kv * attn.head_dim_k;
                let n_v = attn.n_head_kv * attn.head_dim_v;
                Ok((
                    self.columns(all, 0, n_q)?,
                    self.columns(all, n_q, n_k)?,
                    self.columns(all, n_q + n_k, n_v)?,
                ))
            }
        }
    }

    /// Values `first..first + n` of each row of f32.
    pub(super) fn columns(&mut self, t: T, first: usize, n: usize) -> Result<T> {
        let [width, n_rows, ..] = self.g.dims(t)?;
        let row = width * size_of::<f32>();
        Ok(self.g.view(t, [n, n_rows, 1, 1], [row, row * n_rows, row * n_rows], first * size_of::<f32>())?)
    }

    /// Rows as heads, with norm and rotation in the order of the architecture.
    fn place_heads(&mut self, t: T, attn: &Attention, norm: Option<&HeadNorm>, n_head: usize) -> Result<T> {
        let dim = attn.head_dim_k;
        let mut t = t;
        if let Some(n) = norm.filter(|n| n.over == HeadNormOver::Whole && !attn.norm_after_rope) {
            t = self.norm(&n.norm, t)?;
        }
        t = self.heads(t, dim, n_head)?;
        if let Some(n) = norm.filter(|n| n.over == HeadNormOver::PerHead && !attn.norm_after_rope) {
            t = self.norm(&n.norm, t)?;
        }
        if let Some(rope) = &attn.rope {
            t = self.turn(rope, t)?;
        }
        match norm.filter(|_| attn.norm_after_rope) {
            None => Ok(t),
            Some(n) if n.over == HeadNormOver::PerHead => self.norm(&n.norm, t),
            Some(n) => {
                let n_rows = self.shape.n_rows;
                let whole = self.g.reshape(t, [dim * n_head, n_rows, 1, 1])?;
                let whole = self.norm(&n.norm, whole)?;
                Ok(self.g.reshape(whole, [dim, n_head, n_rows, 1])?)
            }
        }
    }

    /// `[n_head·dim, n_rows]` as `[dim, n_head, n_rows]`, whatever the distance of rows.
    fn heads(&mut self, t: T, dim: usize, n_head: usize) -> Result<T> {
        let [_, n_rows, ..] = self.g.dims(t)?;
        let (value, row) = (size_of::<f32>(), self.g.row_stride(t)?);
        Ok(self.g.view(t, [dim, n_head, n_rows, 1], [dim * value, row, row * n_rows], 0)?)
    }

    fn turn(&mut self, rope: &Rope, t: T) -> Result<T> {
        let positions = match self.inputs.positions {
            Some(positions) => positions,
            None => self.g.input(Type::I32, [self.shape.n_rows, 1, 1, 1])?,
        };
        self.inputs.positions = Some(positions);
        let factors = rope.freq_factors.as_ref().map(|f| self.weight(f, Use::Vector)).transpose()?;
        let turn = Turn {
            n_dims: rope.n_rot,
            mode: match rope.pairing {
                RopePairing::Adjacent => RopeMode::Adjacent,
                RopePairing::Halves => RopeMode::Halves,
            },
            n_ctx_orig: rope.n_ctx_orig,
            freq_base: rope.freq_base,
            freq_scale: rope.freq_scale,
            ext_factor: rope.ext_factor,
            attn_factor: rope.attn_factor,
            beta_fast: rope.beta_fast,
            beta_slow: rope.beta_slow,
        };
        Ok(self.g.rope(t, positions, factors, &turn)?)
    }

    fn temper(&mut self, temperature: Option<QTemperature>, q: T) -> Result<T> {
        let Some(wanted) = temperature else { return Ok(q) };
        let known = self.inputs.temperatures.iter().find(|(t, _)| *t == wanted).map(|(_, input)| *input);
        let factors = match known {
            Some(input) => input,
            None => {
                let input = self.g.input(Type::F32, [1, 1, self.shape.n_rows, 1])?;
                self.inputs.temperatures.push((wanted, input));
                input
            }
        };
        Ok(self.g.mul(q, factors)?)
    }

    /// Writes heads `[dim, n_head, n_rows]`, `width` values a row, to cache tensor `index`.
    fn store(&mut self, index: usize, t: T, width: usize) -> Result<()> {
        let cells = match self.inputs.cells {
            Some(cells) => cells,
            None => self.g.index_input(Type::I64, self.shape.n_rows, self.parts.n_cells)?,
        };
        self.inputs.cells = Some(cells);
        let cache = self.g.cached(self.parts.cache, index)?;
        let (n_rows, stride) = (self.shape.n_rows, self.g.stride(t, 2)?);
        let rows = self.g.view(t, [width, n_rows, 1, 1], [stride, stride * n_rows, stride * n_rows], 0)?;
        let written = self.g.set_rows(cache, rows, cells)?;
        Ok(self.g.expand(written)?)
    }

    /// Attention of queries from [`Self::project`] and the output projection.
    pub(super) fn attend(&mut self, il: usize, attn: &Attention, q: T) -> Result<T> {
        let q = self.g.permute(q, [0, 2, 1, 3])?;
        let k = self.stored(2 * il, attn.head_dim_k, attn.n_head_kv)?;
        let v = self.stored(2 * il + 1, attn.head_dim_v, attn.n_head_kv)?;
        let mask = self.mask(attn.window)?;
        let sinks = attn.sinks.as_ref().map(|s| self.weight(s, Use::Vector)).transpose()?;
        let mixed = if self.parts.flash {
            let scores = Scores { scale: attn.scale, softcap: attn.softcap.unwrap_or(0.0), sinks };
            self.g.flash_attention(q, k, v, mask, &scores)?
        } else {
            self.scored_attention(attn, q, k, v, mask, sinks)?
        };
        let mut x = self.g.reshape(mixed, [attn.n_head * attn.head_dim_v, self.shape.n_rows, 1, 1])?;
        self.g.expand(x)?;
        if let Some(norm) = &attn.sub_norm {
            x = self.norm(norm, x)?;
        }
        self.linear(&attn.output, x).at(|| place(&attn.output.weight))
    }

    /// The twin that stores scores, for devices whose fused attention lacks a shape. `[dim, n_head, n_rows]`.
    fn scored_attention(
        &mut self,
        attn: &Attention,
        q: T,
        k: T,
        v: T,
        mask: T,
        sinks: Option<T>,
    ) -> Result<T> {
        let mut scores = self.g.mul_mat(k, q)?;
        let mut scale = attn.scale;
        if let Some(cap) = attn.softcap {
            scores = self.softcap(scores, scale, cap)?;
            scale = 1.0;
        }
        let probs = self.g.masked_soft_max(scores, mask, scale, sinks)?;
        let v = self.g.permute(v, [1, 0, 2, 3])?;
        let v = self.g.cont(v)?;
        let mixed = self.g.mul_mat(v, probs)?;
        let mixed = self.g.permute(mixed, [0, 2, 1, 3])?;
        Ok(self.g.cont(mixed)?)
    }

    /// The first `n_kv` cells of cache tensor `index` as `[dim, n_kv, n_head]`.
    fn stored(&mut self, index: usize, dim: usize, n_head: usize) -> Result<T> {
        let cache = self.g.cached(self.parts.cache, index)?;
        let cell = self.g.row_stride(cache)?;
        let n_kv = self.shape.n_kv;
        Ok(self.g.view(cache, [dim, n_kv, n_head, 1], [cell, cell / n_head, cell * n_kv], 0)?)
    }

    fn mask(&mut self, window: Option<usize>) -> Result<T> {
        if let Some((_, mask)) = self.inputs.masks.iter().find(|(w, _)| *w == window) {
            return Ok(*mask);
        }
        let mask = self.g.input(Type::F16, [self.shape.n_kv, self.shape.n_rows, 1, 1])?;
        self.inputs.masks.push((window, mask));
        Ok(mask)
    }
}
