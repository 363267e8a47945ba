//! The feed-forward part: dense networks and mixtures of experts.

use super::graph::{Builder, place};
use super::weights::Use;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::model::spec::{Activation, DenseFfn, Ffn, Gating, Linear, MoeFfn};
use truing_ggml::{Gated, T, Unary};

/// The smallest normal half float: sums of weights below it count as this much, as in llama.cpp.
const LEAST_SUM: f32 = 6.103_515_6e-5;

impl Builder<'_> {
    pub(super) fn ffn(&mut self, ffn: &Ffn, x: T) -> Result<T> {
        match ffn {
            Ffn::Dense(dense) => self.dense(dense, x),
            Ffn::Moe(moe) => self.moe(moe, x),
        }
    }

    fn dense(&mut self, ffn: &DenseFfn, x: T) -> Result<T> {
        let up = self.linear(&ffn.up, x)?;
        let mut h = match &ffn.gate {
            _ if ffn.fused_gate => self.activate_halves(&ffn.act, up)?,
            Some(gate) => {
                let gate = self.linear(gate, x)?;
                self.activate_gated(&ffn.act, gate, up)?
            }
            None => self.activate(&ffn.act, up)?,
        };
        if let Some(norm) = &ffn.sub_norm {
            h = self.norm(norm, h)?;
        }
        self.linear(&ffn.down, h)
    }

    fn activate(&mut self, act: &Activation, x: T) -> Result<T> {
        Ok(match act {
            Activation::Silu => self.g.unary(Unary::Silu, x)?,
            Activation::Gelu => self.g.unary(Unary::Gelu, x)?,
            Activation::Relu => self.g.unary(Unary::Relu, x)?,
            Activation::ReluSquared => {
                let x = self.g.unary(Unary::Relu, x)?;
                self.g.sqr(x)?
            }
            Activation::Xielu { alpha_n, alpha_p, beta, eps } => {
                self.g.xielu(x, *alpha_n, *alpha_p, *beta, *eps)?
            }
            Activation::SwigluOai { .. } => {
                return Err(Error::new(ErrorKind::Unsupported, "this activation needs a gate"));
            }
        })
    }

    fn activate_gated(&mut self, act: &Activation, gate: T, up: T) -> Result<T> {
        if let Some(f) = gated(act) {
            return Ok(self.g.gated(f, gate, up)?);
        }
        let gate = self.activate(act, gate)?;
        Ok(self.g.mul(gate, up)?)
    }

    fn activate_halves(&mut self, act: &Activation, both: T) -> Result<T> {
        if let Some(f @ (Gated::Silu | Gated::Gelu | Gated::Relu)) = gated(act) {
            return Ok(self.g.gated_halves(f, both)?);
        }
        let n = self.g.dims(both)?[0] / 2;
        let (gate, up) = (self.columns(both, 0, n)?, self.columns(both, n, n)?);
        let gate = self.g.cont(gate)?;
        self.activate_gated(act, gate, up)
    }

    fn moe(&mut self, ffn: &MoeFfn, x: T) -> Result<T> {
        let [n_embd, n_rows, ..] = self.g.dims(x)?;
        let (chosen, weights) = self.route(ffn, x)?;
        let each = self.g.reshape(x, [n_embd, 1, n_rows, 1])?;
        let up = self.expert(&ffn.up, each, chosen)?;
        let gate = self.expert(&ffn.gate, each, chosen)?;
        let h = self.activate_gated(&ffn.act, gate, up)?;
        let out = self.expert(&ffn.down, h, chosen)?;
        let out = self.g.mul(out, weights)?;
        let mixed = self.sum_experts(out, ffn.n_used)?;
        let Some(shared) = &ffn.shared else { return Ok(mixed) };
        let mut all = self.dense(shared, x)?;
        if let Some(gate) = &ffn.shared_gate {
            let weight = self.weight(gate, Use::Product)?;
            let gate = self.g.mul_mat(weight, x).map_err(Error::from).at(|| place(gate))?;
            let gate = self.g.unary(Unary::Sigmoid, gate)?;
            all = self.g.mul(all, gate)?;
        }
        Ok(self.g.add(mixed, all)?)
    }

    /// The chosen experts `[n_used, n_rows]` and their weights `[1, n_used, n_rows]`.
    fn route(&mut self, ffn: &MoeFfn, x: T) -> Result<(T, T)> {
        let n_rows = self.g.dims(x)?[1];
        let scores = self.linear(&ffn.router, x)?;
        let probs = match ffn.gating {
            Gating::Softmax => self.g.soft_max(scores)?,
            Gating::Sigmoid => self.g.unary(Unary::Sigmoid, scores)?,
            Gating::SoftmaxAfterTopK => scores,
        };
        let order = ffn.choice_bias.as_ref().map_or(Ok(probs), |bias| self.add_vector(probs, bias))?;
        let chosen = self.g.top_k(order, ffn.n_used)?;
        let probs = self.g.reshape(probs, [1, ffn.n_expert, n_rows, 1])?;
        let weights = self.g.get_rows(probs, chosen)?;
        let mut weights = self.g.reshape(weights, [ffn.n_used, n_rows, 1, 1])?;
        if ffn.gating == Gating::SoftmaxAfterTopK {
            weights = self.g.soft_max(weights)?;
        }
        if ffn.normalise {
            let sum = self.g.sum_rows(weights)?;
            let sum = self.g.clamp(sum, LEAST_SUM, f32::INFINITY)?;
            weights = self.g.div(weights, sum)?;
        }
        if ffn.weight_scale != 1.0 {
            weights = self.g.scale(weights, ffn.weight_scale)?;
        }
        let weights = self.g.reshape(weights, [1, ffn.n_used, n_rows, 1])?;
        self.g.expand(weights)?;
        Ok((chosen, weights))
    }

    fn expert(&mut self, linear: &Linear, x: T, chosen: T) -> Result<T> {
        let weight = self.weight(&linear.weight, Use::Product)?;
        let mut y = self.g.mul_mat_id(weight, x, chosen).map_err(Error::from).at(|| place(&linear.weight))?;
        if linear.scale != 1.0 {
            y = self.g.scale(y, linear.scale)?;
        }
        if let Some(bias) = &linear.bias {
            let b = self.weight(bias, Use::Vector)?;
            y = self.g.add_id(y, b, chosen).map_err(Error::from).at(|| place(bias))?;
        }
        Ok(y)
    }

    /// The sum over experts of `[n_embd, n_used, n_rows]`, in the order in which they were chosen.
    fn sum_experts(&mut self, out: T, n_used: usize) -> Result<T> {
        let [n_embd, _, n_rows, _] = self.g.dims(out)?;
        self.g.expand(out)?;
        let (one, row) = (self.g.stride(out, 1)?, self.g.stride(out, 2)?);
        let mut sum = None;
        for i in 0..n_used {
            let part =
                self.g.view(out, [n_embd, n_rows, 1, 1], [row, row * n_rows, row * n_rows], i * one)?;
            sum = Some(match sum {
                None => part,
                Some(sum) => self.g.add(sum, part)?,
            });
        }
        match sum {
            Some(sum) if n_used == 1 => Ok(self.g.cont(sum)?),
            Some(sum) => Ok(sum),
            None => Err(Error::new(ErrorKind::Unsupported, "a mixture that uses no expert")),
        }
    }
}

fn gated(act: &Activation) -> Option<Gated> {
    match act {
        Activation::Silu => Some(Gated::Silu),
        Activation::Gelu => Some(Gated::Gelu),
        Activation::Relu => Some(Gated::Relu),
        Activation::SwigluOai { alpha, limit } => Some(Gated::SwigluOai { alpha: *alpha, limit: *limit }),
        Activation::ReluSquared | Activation::Xielu { .. } => None,
    }
}
