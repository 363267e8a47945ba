//! Reads any entry of the table into a spec.

use super::hparams::{Hparams, Keys, layer_numbers, unsupported};
use super::rope::{RopeParams, Yarn};
use super::tensors::{Role, Tensors};
use super::{
    Act, ArchEntry, ExpertWidth, Facts, FfnKind, FfnNorm, Freqs, Head, LONG_FACTORS, LayerFacts, MoeRule,
    Need, QkNorm, ResidualRule, Scales, Shared,
};
use crate::error::Result;
use crate::gguf::{GgufFile, Tensor};
use crate::model::spec::{
    Activation, Attention, DenseFfn, Ffn, Gating, HeadNorm, HeadNormOver, Layer, Linear, ModelSpec, MoeFfn,
    Norm, QTemperature, Qkv, Residual, Rope, RopePairing,
};

/// A model under construction.
pub(super) struct Builder<'a> {
    entry: &'a ArchEntry,
    h: &'a Hparams,
    keys: Keys<'a>,
    tensors: Tensors<'a>,
    n_ctx: usize,
}

impl<'a> Builder<'a> {
    pub(super) fn new(entry: &'a ArchEntry, h: &'a Hparams, file: &'a GgufFile, n_ctx: usize) -> Self {
        let keys = Keys { meta: file.metadata(), arch: entry.name };
        Self { entry, h, keys, tensors: Tensors { file }, n_ctx }
    }

    pub(super) fn model(&self) -> Result<ModelSpec> {
        let h = self.h;
        let scales = (self.entry.scales)(&self.facts())?;
        let table = [h.n_embd, h.n_vocab];
        let tok_embd = self.tensors.need("token_embd.weight", &table, Role::Matrix)?;
        let pos_embd = match self.entry.pairing {
            Some(_) => None,
            None => Some(self.positions()?),
        };
        let activations = self.activations()?;
        let layers = activations
            .into_iter()
            .enumerate()
            .map(|(il, act)| self.layer(il, act, &scales))
            .collect::<Result<_>>()?;
        Ok(ModelSpec {
            arch: self.entry.name.into(),
            n_vocab: h.n_vocab,
            n_embd: h.n_embd,
            n_ctx_train: h.n_ctx_train,
            output: self.head(&tok_embd)?,
            output_bias: self.vector("output.bias", h.n_vocab, self.entry.head_bias)?,
            tok_embd,
            pos_embd,
            embd_scale: scales.embd,
            embd_norm: None,
            layers,
            output_norm: self.norm("output_norm", h.n_embd)?,
            logit_scale: scales.logits,
            logit_softcap: scales.logit_softcap,
        })
    }

    fn facts(&self) -> Facts<'a> {
        let h = self.h;
        Facts {
            keys: self.keys,
            n_layer: h.n_layer,
            n_embd: h.n_embd,
            n_head: h.n_head[0],
            head_dim: h.head_dim_k,
        }
    }

    fn positions(&self) -> Result<Tensor> {
        let dims = [self.h.n_embd, self.h.n_ctx_train];
        self.tensors.need("position_embd.weight", &dims, Role::Matrix)
    }

    fn head(&self, tok_embd: &Tensor) -> Result<Tensor> {
        let need = match self.entry.head {
            Head::Own => Need::Yes,
            Head::Tied => Need::No,
            Head::OwnOrTied => Need::Maybe,
        };
        let dims = [self.h.n_embd, self.h.n_vocab];
        let own = self.tensors.get("output.weight", &dims, Role::Matrix, need)?;
        Ok(own.unwrap_or_else(|| tok_embd.clone()))
    }

    /// The activation of each layer.
    fn activations(&self) -> Result<Vec<Activation>> {
        let n = self.h.n_layer;
        let same = match self.entry.act {
            Act::Silu => Activation::Silu,
            Act::Gelu => Activation::Gelu,
            Act::ReluSquared => Activation::ReluSquared,
            Act::SwigluOai => Activation::SwigluOai { alpha: 1.702, limit: 7.0 },
            Act::Xielu => return self.xielu(),
        };
        Ok(vec![same; n])
    }

    fn xielu(&self) -> Result<Vec<Activation>> {
        let read = |key| layer_numbers(self.keys.meta, key, self.h.n_layer);
        let (alpha_n, alpha_p) = (read("xielu.alpha_n")?, read("xielu.alpha_p")?);
        let (beta, eps) = (read("xielu.beta")?, read("xielu.eps")?);
        let numbers = alpha_n.into_iter().zip(alpha_p).zip(beta.into_iter().zip(eps));
        Ok(numbers
            .map(|((alpha_n, alpha_p), (beta, eps))| Activation::Xielu { alpha_n, alpha_p, beta, eps })
            .collect())
    }

    fn layer(&self, il: usize, act: Activation, scales: &Scales) -> Result<Layer> {
        let (e, n) = (self.entry, self.h.n_embd);
        let ffn_norm = self.ffn_norm(il)?;
        Ok(Layer {
            attn_norm: e.attn_norm.then(|| self.norm(&blk(il, "attn_norm"), n)).transpose()?,
            attn: self.attention(il, scales)?,
            attn_post_norm: e.attn_post_norm.map(|name| self.norm(&blk(il, name), n)).transpose()?,
            ffn: self.ffn(il, act)?,
            ffn_post_norm: e.ffn_post_norm.map(|name| self.norm(&blk(il, name), n)).transpose()?,
            residual: self.residual(ffn_norm.is_some())?,
            residual_scale: scales.residual,
            ffn_norm,
        })
    }

    fn ffn_norm(&self, il: usize) -> Result<Option<Norm>> {
        match self.entry.ffn_norm {
            FfnNorm::No => Ok(None),
            FfnNorm::Yes(name) => self.norm(&blk(il, name), self.h.n_embd).map(Some),
            FfnNorm::Maybe(name) => {
                let there = self.tensors.file.tensor(&weight(&blk(il, name))).is_some();
                there.then(|| self.norm(&blk(il, name), self.h.n_embd)).transpose()
            }
        }
    }

    fn residual(&self, has_ffn_norm: bool) -> Result<Residual> {
        Ok(match self.entry.residual {
            ResidualRule::Sequential => Residual::Sequential,
            ResidualRule::ParallelShared => Residual::ParallelShared,
            ResidualRule::ByKey if self.keys.require_flag("use_parallel_residual")? => Residual::Parallel,
            ResidualRule::ByKey => Residual::Sequential,
            ResidualRule::ByFfnNorm if has_ffn_norm => Residual::Sequential,
            ResidualRule::ByFfnNorm => Residual::ParallelShared,
        })
    }

    fn attention(&self, il: usize, scales: &Scales) -> Result<Attention> {
        let (e, h) = (self.entry, self.h);
        let (n_head, n_head_kv) = (h.n_head[il], h.n_head_kv[il]);
        let n_out = n_head * h.head_dim_v;
        let sinks = if e.sinks { Need::Yes } else { Need::No };
        let sub_norm = e.sub_norms.then(|| self.norm(&blk(il, "attn_sub_norm"), n_out));
        Ok(Attention {
            n_head,
            n_head_kv,
            head_dim_k: h.head_dim_k,
            head_dim_v: h.head_dim_v,
            qkv: self.qkv(il)?,
            clamp: None,
            q_norm: self.head_norm(&blk(il, "attn_q_norm"), n_head)?,
            k_norm: self.head_norm(&blk(il, "attn_k_norm"), n_head_kv)?,
            norm_after_rope: e.qk_norm == QkNorm::PerHeadAfterRope,
            rope: self.rope(il)?,
            q_temperature: self.temperature(scales.temperature)?,
            scale: scales.attn,
            softcap: scales.attn_softcap,
            window: h.window.filter(|_| h.local[il]),
            sinks: self.tensors.get(&weight(&blk(il, "attn_sinks")), &[n_head], Role::F32, sinks)?,
            sub_norm: sub_norm.transpose()?,
            output: self.linear(&blk(il, "attn_output"), n_out, h.n_embd, e.out_bias)?,
        })
    }

    fn qkv(&self, il: usize) -> Result<Qkv> {
        let (h, bias) = (self.h, self.entry.qkv_bias);
        let q = h.n_head[il] * h.head_dim_k;
        let (k, v) = (h.n_head_kv[il] * h.head_dim_k, h.n_head_kv[il] * h.head_dim_v);
        let fused = blk(il, "attn_qkv");
        if self.tensors.file.tensor(&weight(&fused)).is_none() {
            return Ok(Qkv::Separate {
                q: self.linear(&blk(il, "attn_q"), h.n_embd, q, bias)?,
                k: self.linear(&blk(il, "attn_k"), h.n_embd, k, bias)?,
                v: self.linear(&blk(il, "attn_v"), h.n_embd, v, bias)?,
            });
        }
        let apart = bias_of(&blk(il, "attn_q"));
        if self.tensors.file.tensor(&apart).is_some() {
            let message = "a bias of Q apart from a fused QKV matrix is not supported";
            return Err(unsupported(&self.keys, &apart, message));
        }
        self.linear(&fused, h.n_embd, q + k + v, bias).map(Qkv::Fused)
    }

    fn head_norm(&self, name: &str, n_head: usize) -> Result<Option<HeadNorm>> {
        let dim = self.h.head_dim_k;
        let (dims, over, need) = match self.entry.qk_norm {
            QkNorm::No => return Ok(None),
            QkNorm::PerHead | QkNorm::PerHeadAfterRope => (vec![dim], HeadNormOver::PerHead, Need::Yes),
            QkNorm::EachHead => (vec![dim, n_head], HeadNormOver::PerHead, Need::Maybe),
            QkNorm::Whole => (vec![n_head * dim], HeadNormOver::Whole, Need::Yes),
        };
        let Some(gain) = self.tensors.get(&weight(name), &dims, Role::Vector, need)? else { return Ok(None) };
        let bias = self.tensors.maybe(&bias_of(name), &dims, Role::Vector)?;
        let norm = Norm { kind: self.entry.norm, eps: self.h.eps, weight: Some(gain), bias };
        Ok(Some(HeadNorm { norm, over }))
    }

    fn rope(&self, il: usize) -> Result<Option<Rope>> {
        let (Some(r), Some(pairing)) = (&self.h.rope, self.entry.pairing) else { return Ok(None) };
        let local = self.h.local[il];
        let windowed = self.h.window.is_some();
        if !(self.entry.turns)(&LayerFacts { il, local, windowed, finetuned: r.finetuned }) {
            return Ok(None);
        }
        let (freq_base, freq_scale, yarn) = match local {
            true => (r.local_base, r.local_scale, r.local_yarn),
            false => (r.freq_base, r.freq_scale, r.yarn),
        };
        self.turn(r, pairing, freq_base, freq_scale, yarn).map(Some)
    }

    fn turn(
        &self,
        r: &RopeParams,
        pairing: RopePairing,
        freq_base: f32,
        freq_scale: f32,
        yarn: Yarn,
    ) -> Result<Rope> {
        Ok(Rope {
            n_rot: r.n_rot,
            pairing,
            freq_base,
            freq_scale,
            freq_factors: self.freq_factors(r)?,
            ext_factor: yarn.ext_factor,
            attn_factor: yarn.attn_factor,
            beta_fast: yarn.beta_fast,
            beta_slow: yarn.beta_slow,
            n_ctx_orig: r.n_ctx_orig,
        })
    }

    /// The long set of factors is for contexts beyond the original one.
    fn freq_factors(&self, r: &RopeParams) -> Result<Option<Tensor>> {
        let name = match (self.entry.freqs, r.long_short) {
            (Freqs::None, _) => return Ok(None),
            (_, false) => "rope_freqs.weight",
            (_, true) if self.n_ctx > r.n_ctx_orig => LONG_FACTORS,
            (_, true) => "rope_factors_short.weight",
        };
        self.tensors.freq_factors(name, r.n_rot / 2)
    }

    fn temperature(&self, scale: f32) -> Result<Option<QTemperature>> {
        let every = self.h.rope.as_ref().map_or(1, |r| r.n_ctx_orig);
        Ok((scale != 0.0).then_some(QTemperature { scale, every }))
    }

    fn ffn(&self, il: usize, act: Activation) -> Result<Ffn> {
        match self.entry.moe {
            Some(rule) if rule.always || self.h.n_expert > 0 => self.moe(il, &rule, act).map(Ffn::Moe),
            _ => self.dense(il, "", self.n_ff(il)?, act).map(Ffn::Dense),
        }
    }

    /// Width of the dense part, which must be given.
    fn n_ff(&self, il: usize) -> Result<usize> {
        match &self.h.n_ff {
            Some(n_ff) => Ok(n_ff[il]),
            None => self.keys.require_int("feed_forward_length", 1..=usize::MAX),
        }
    }

    /// The dense part, or with a suffix the shared experts.
    fn dense(&self, il: usize, suffix: &str, n_ff: usize, act: Activation) -> Result<DenseFfn> {
        let (e, n) = (self.entry, self.h.n_embd);
        let part = |name: &str| blk(il, &format!("{name}{suffix}"));
        let gate = match e.ffn {
            FfnKind::Gated => Some(self.linear(&part("ffn_gate"), n, n_ff, e.ffn_bias)?),
            FfnKind::Plain | FfnKind::Fused => None,
        };
        let fused_gate = e.ffn == FfnKind::Fused;
        let n_up = if fused_gate { 2 * n_ff } else { n_ff };
        let sub_norm = e.sub_norms.then(|| self.norm(&blk(il, "ffn_sub_norm"), n_ff));
        Ok(DenseFfn {
            gate,
            up: self.linear(&part("ffn_up"), n, n_up, e.ffn_bias)?,
            fused_gate,
            down: self.linear(&part("ffn_down"), n_ff, n, e.ffn_bias)?,
            act,
            sub_norm: sub_norm.transpose()?,
        })
    }

    fn moe(&self, il: usize, rule: &MoeRule, act: Activation) -> Result<MoeFfn> {
        let (h, n) = (self.h, self.h.n_embd);
        if h.n_expert == 0 {
            return Err(self.keys.bad("expert_count", "missing or 0: expected at least 1 expert"));
        }
        let n_ff = self.expert_width(il, rule.width)?;
        let part = |name: &str| blk(il, name);
        let (shared, shared_gate) = self.shared(il, rule.shared, &act)?;
        Ok(MoeFfn {
            n_expert: h.n_expert,
            n_used: h.n_used[il],
            router: self.linear(&part("ffn_gate_inp"), n, h.n_expert, rule.bias)?,
            gate: self.experts(&part("ffn_gate_exps"), n, n_ff, rule.bias)?,
            up: self.experts(&part("ffn_up_exps"), n, n_ff, rule.bias)?,
            down: self.experts(&part("ffn_down_exps"), n_ff, n, rule.bias)?,
            act,
            gating: if rule.softmax_after { Gating::SoftmaxAfterTopK } else { Gating::Softmax },
            choice_bias: None,
            normalise: rule.normalise,
            weight_scale: 1.0,
            shared,
            shared_gate,
        })
    }

    fn expert_width(&self, il: usize, width: ExpertWidth) -> Result<usize> {
        let own = self.keys.int("expert_feed_forward_length", 0..=1 << 24)?.filter(|n| *n > 0);
        match (width, own) {
            (ExpertWidth::Own | ExpertWidth::OwnOrShare, Some(own)) => Ok(own),
            (ExpertWidth::Own, None) => self.keys.require_int("expert_feed_forward_length", 1..=1 << 24),
            (ExpertWidth::OwnOrShare, None) => Ok((self.n_ff(il)? / self.h.n_used[il]).max(1)),
            (ExpertWidth::Dense, _) => self.n_ff(il),
        }
    }

    fn shared(
        &self,
        il: usize,
        rule: Shared,
        act: &Activation,
    ) -> Result<(Option<DenseFfn>, Option<Tensor>)> {
        let given = self.keys.int("expert_shared_feed_forward_length", 0..=1 << 24)?.filter(|n| *n > 0);
        let n_ff = match (rule, given) {
            (Shared::No, _) | (Shared::ByKey, None) => return Ok((None, None)),
            (_, Some(given)) => given,
            (Shared::Gated, None) => self.n_ff(il)?,
        };
        let experts = self.dense(il, "_shexp", n_ff, act.clone())?;
        let need = if rule == Shared::Gated { Need::Yes } else { Need::No };
        let gate = weight(&blk(il, "ffn_gate_inp_shexp"));
        Ok((Some(experts), self.tensors.get(&gate, &[self.h.n_embd], Role::Vector, need)?))
    }

    fn norm(&self, name: &str, n: usize) -> Result<Norm> {
        Ok(Norm {
            kind: self.entry.norm,
            eps: self.h.eps,
            weight: Some(self.tensors.need(&weight(name), &[n], Role::Vector)?),
            bias: self.vector(&bias_of(name), n, self.entry.norm_bias)?,
        })
    }

    fn vector(&self, name: &str, n: usize, need: Need) -> Result<Option<Tensor>> {
        self.tensors.get(name, &[n], Role::Vector, need)
    }

    fn linear(&self, name: &str, n_in: usize, n_out: usize, bias: Need) -> Result<Linear> {
        Ok(Linear {
            weight: self.tensors.need(&weight(name), &[n_in, n_out], Role::Matrix)?,
            bias: self.vector(&bias_of(name), n_out, bias)?,
            scale: self.tensors.factor(&format!("{name}.scale"))?,
        })
    }

    fn experts(&self, name: &str, n_in: usize, n_out: usize, bias: Need) -> Result<Linear> {
        let n = self.h.n_expert;
        Ok(Linear {
            weight: self.tensors.need(&weight(name), &[n_in, n_out, n], Role::Matrix)?,
            bias: self.tensors.get(&bias_of(name), &[n_out, n], Role::Vector, bias)?,
            scale: self.tensors.factor(&format!("{name}.scale"))?,
        })
    }
}

/// Name of a part of a layer.
fn blk(il: usize, name: &str) -> String {
    format!("blk.{il}.{name}")
}

fn weight(name: &str) -> String {
    format!("{name}.weight")
}

fn bias_of(name: &str) -> String {
    format!("{name}.bias")
}
