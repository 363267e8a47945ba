//! A model made ready to run: matrices with their kernels, small tensors as f32, rotations as frequencies.
//!
//! Nothing here is proportional to the weights: matrices stay in the map, only norms and biases are copied.

use super::kernels::HeadShape;
use super::linear::{Matrix, floats, reads};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::gguf::Tensor;
use crate::model::spec::*;
use std::sync::Arc;

/// A norm with its weights at hand.
#[derive(Debug)]
pub struct NormPlan {
    pub kind: NormKind,
    pub eps: f32,
    pub weight: Option<Vec<f32>>,
    pub bias: Option<Vec<f32>>,
}

impl NormPlan {
    /// A norm over `n` values, or over `n` of them at a time if its weight is shorter than the row.
    fn new(norm: &Norm, n: usize) -> Result<Self> {
        let values = |t: &Option<Tensor>| t.as_ref().map(|t| floats(t, n)).transpose();
        Ok(Self { kind: norm.kind, eps: norm.eps, weight: values(&norm.weight)?, bias: values(&norm.bias)? })
    }

    fn maybe(norm: &Option<Norm>, n: usize) -> Result<Option<Self>> {
        norm.as_ref().map(|norm| Self::new(norm, n)).transpose()
    }
}

/// A norm on heads: one statistic for each `width` values.
#[derive(Debug)]
pub struct HeadNormPlan {
    pub norm: NormPlan,
    pub width: usize,
}

impl HeadNormPlan {
    fn maybe(norm: &Option<HeadNorm>, head_dim: usize, n_head: usize) -> Result<Option<Self>> {
        let Some(h) = norm else { return Ok(None) };
        let width = match h.over {
            HeadNormOver::PerHead => head_dim,
            HeadNormOver::Whole => head_dim * n_head,
        };
        // A weight may be one for all heads or one for each.
        let n = h.norm.weight.as_ref().or(h.norm.bias.as_ref()).map_or(width, Tensor::n_values);
        if n != width && n != head_dim * n_head {
            let message = format!("head norm: expected {width} or {} values, found {n}", head_dim * n_head);
            return Err(Error::new(ErrorKind::BadFile, message));
        }
        Ok(Some(Self { norm: NormPlan::new(&h.norm, n)?, width }))
    }
}

/// A rotation: position `p` turns pair `i` by `p · frequency[i]` and multiplies it by `magnitude`.
#[derive(Debug, PartialEq)]
pub struct RopePlan {
    pub n_rot: usize,
    pub pairing: RopePairing,
    pub frequency: Vec<f64>,
    pub magnitude: f32,
}

impl RopePlan {
    /// Source: YaRN (Peng et al. 2023, arXiv 2309.00071), with the conventions of `ggml_rope_ext`.
    fn new(r: &Rope) -> Result<Self> {
        let half = r.n_rot / 2;
        let factors = r.freq_factors.as_ref().map(|t| floats(t, half)).transpose()?;
        let base = f64::from(r.freq_base);
        let scale = f64::from(r.freq_scale);
        let corner = |beta: f32| {
            let turns = r.n_ctx_orig as f64 / (f64::from(beta) * std::f64::consts::TAU);
            r.n_rot as f64 * turns.ln() / (2.0 * base.ln())
        };
        let low = corner(r.beta_fast).floor().max(0.0);
        let high = corner(r.beta_slow).ceil().min(r.n_rot as f64 - 1.0);
        let frequency = |i: usize| {
            let plain = base.powf(-2.0 * i as f64 / r.n_rot as f64);
            let plain = plain / factors.as_ref().map_or(1.0, |f| f64::from(f[i]));
            if r.ext_factor == 0.0 {
                return plain * scale;
            }
            let ramp = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            let mix = (1.0 - ramp) * f64::from(r.ext_factor);
            plain * (scale * (1.0 - mix) + mix)
        };
        let grown = if r.ext_factor == 0.0 { 1.0 } else { 1.0 + 0.1 * (1.0 / scale).ln() };
        let magnitude = r.attn_factor * grown as f32;
        Ok(Self {
            n_rot: r.n_rot,
            pairing: r.pairing,
            frequency: (0..half).map(frequency).collect(),
            magnitude,
        })
    }
}

/// The feed-forward part with one network.
#[derive(Debug)]
pub struct DensePlan {
    pub gate: Option<Matrix>,
    pub up: Matrix,
    pub down: Matrix,
    pub act: Activation,
    pub sub_norm: Option<NormPlan>,
}

impl DensePlan {
    fn new(f: &DenseFfn, n_embd: usize) -> Result<Self> {
        let n_ff = f.down.weight.dims[0];
        let down = Matrix::whole(&f.down, n_ff, n_embd)?;
        let (gate, up) = match (&f.gate, f.fused_gate) {
            (Some(gate), _) => {
                (Some(Matrix::whole(gate, n_embd, n_ff)?), Matrix::whole(&f.up, n_embd, n_ff)?)
            }
            (None, true) => (Some(Matrix::part(&f.up, 0, 2)?), Matrix::part(&f.up, 1, 2)?),
            (None, false) => (None, Matrix::whole(&f.up, n_embd, n_ff)?),
        };
        let fits =
            [Some(&up), gate.as_ref()].into_iter().flatten().all(|m| (m.n_in, m.n_out) == (n_embd, n_ff));
        if !fits {
            let message = format!("expected {n_embd} inputs and {n_ff} outputs twice");
            return Err(Error::new(ErrorKind::BadFile, message).at(&*f.up.weight.name));
        }
        if gate.is_none() && matches!(f.act, Activation::SwigluOai { .. }) {
            return Err(
                Error::new(ErrorKind::Unsupported, "this activation needs a gate").at(&*f.up.weight.name)
            );
        }
        Ok(Self { gate, up, down, act: f.act.clone(), sub_norm: NormPlan::maybe(&f.sub_norm, n_ff)? })
    }

    fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        self.gate.iter().chain([&self.up, &self.down])
    }

    fn matrices_mut(&mut self) -> impl Iterator<Item = &mut Matrix> {
        self.gate.iter_mut().chain([&mut self.up, &mut self.down])
    }
}

/// One expert.
#[derive(Debug)]
pub struct Expert {
    pub gate: Matrix,
    pub up: Matrix,
    pub down: Matrix,
}

/// A mixture of experts.
#[derive(Debug)]
pub struct MoePlan {
    pub router: Matrix,
    pub experts: Vec<Expert>,
    pub n_used: usize,
    pub n_ff: usize,
    pub act: Activation,
    pub gating: Gating,
    pub choice_bias: Option<Vec<f32>>,
    pub normalise: bool,
    pub weight_scale: f32,
    pub shared: Option<DensePlan>,
    pub shared_gate: Option<Vec<f32>>,
}

impl MoePlan {
    fn new(m: &MoeFfn, n_embd: usize) -> Result<Self> {
        let (n, n_ff) = (m.n_expert, m.down.weight.dims[0]);
        if n == 0 || m.n_used == 0 || m.n_used > n {
            let message = format!("expected 1 to {n} experts a token, found {}", m.n_used);
            return Err(Error::new(ErrorKind::BadFile, message));
        }
        let expert = |i: usize| -> Result<Expert> {
            let (gate, up) = (Matrix::part(&m.gate, i, n)?, Matrix::part(&m.up, i, n)?);
            let down = Matrix::part(&m.down, i, n)?;
            let shapes = [(gate.n_in, gate.n_out), (up.n_in, up.n_out), (down.n_out, down.n_in)];
            if shapes != [(n_embd, n_ff); 3] {
                let message = format!("experts: expected {:?} three times, found {shapes:?}", (n_embd, n_ff));
                return Err(Error::new(ErrorKind::BadFile, message).at(&*m.gate.weight.name));
            }
            Ok(Expert { gate, up, down })
        };
        Ok(Self {
            router: Matrix::whole(&m.router, n_embd, n)?,
            experts: (0..n).map(expert).collect::<Result<_>>()?,
            n_used: m.n_used,
            n_ff,
            act: m.act.clone(),
            gating: m.gating,
            choice_bias: m.choice_bias.as_ref().map(|t| floats(t, n)).transpose()?,
            normalise: m.normalise,
            weight_scale: m.weight_scale,
            shared: m.shared.as_ref().map(|f| DensePlan::new(f, n_embd)).transpose()?,
            shared_gate: m.shared_gate.as_ref().map(|t| floats(t, n_embd)).transpose()?,
        })
    }
}

/// The feed-forward part.
#[allow(clippy::large_enum_variant, reason = "one a layer")]
#[derive(Debug)]
pub enum FfnPlan {
    Dense(DensePlan),
    Moe(MoePlan),
}

impl FfnPlan {
    /// Width of its inner rows: the widest of them.
    pub fn n_ff(&self) -> usize {
        match self {
            Self::Dense(f) => f.down.n_in,
            Self::Moe(m) => m.n_ff.max(m.shared.as_ref().map_or(0, |f| f.down.n_in)),
        }
    }

    /// Inner rows of one row.
    pub fn slots(&self) -> usize {
        match self {
            Self::Dense(_) => 1,
            Self::Moe(m) => m.n_used,
        }
    }

    fn matrices(&self) -> Box<dyn Iterator<Item = &Matrix> + '_> {
        match self {
            Self::Dense(f) => Box::new(f.matrices()),
            Self::Moe(m) => {
                let experts = m.experts.iter().flat_map(|e| [&e.gate, &e.up, &e.down]);
                Box::new(experts.chain([&m.router]).chain(m.shared.iter().flat_map(DensePlan::matrices)))
            }
        }
    }
}

/// Self-attention of one layer.
#[derive(Debug)]
pub struct AttentionPlan {
    pub n_head: usize,
    pub n_head_kv: usize,
    pub shape: HeadShape,
    /// Query, key, value.
    pub qkv: [Matrix; 3],
    pub clamp: Option<f32>,
    pub q_norm: Option<HeadNormPlan>,
    pub k_norm: Option<HeadNormPlan>,
    pub norm_after_rope: bool,
    /// Which of the model's rotations.
    pub rope: Option<usize>,
    pub q_temperature: Option<QTemperature>,
    pub scale: f32,
    pub softcap: Option<f32>,
    pub window: Option<usize>,
    pub sinks: Option<Vec<f32>>,
    pub sub_norm: Option<NormPlan>,
    pub output: Matrix,
}

impl AttentionPlan {
    fn new(a: &Attention, n_embd: usize, ropes: &mut Vec<RopePlan>) -> Result<Self> {
        let shape = HeadShape { dim_k: a.head_dim_k, dim_v: a.head_dim_v };
        if a.n_head_kv == 0 || !a.n_head.is_multiple_of(a.n_head_kv) || shape.dim_k == 0 || shape.dim_v == 0 {
            let message = format!("attention: found {} and {} heads of {shape:?}", a.n_head, a.n_head_kv);
            return Err(Error::new(ErrorKind::BadFile, message));
        }
        let widths = [a.n_head * shape.dim_k, a.n_head_kv * shape.dim_k, a.n_head_kv * shape.dim_v];
        Ok(Self {
            n_head: a.n_head,
            n_head_kv: a.n_head_kv,
            shape,
            qkv: qkv(&a.qkv, n_embd, widths)?,
            clamp: a.clamp,
            q_norm: HeadNormPlan::maybe(&a.q_norm, shape.dim_k, a.n_head).at(|| "q norm")?,
            k_norm: HeadNormPlan::maybe(&a.k_norm, shape.dim_k, a.n_head_kv).at(|| "k norm")?,
            norm_after_rope: a.norm_after_rope,
            rope: a.rope.as_ref().map(|r| rope(r, shape.dim_k, ropes)).transpose()?,
            q_temperature: a.q_temperature,
            scale: a.scale,
            softcap: a.softcap,
            window: a.window,
            sinks: a.sinks.as_ref().map(|t| floats(t, a.n_head)).transpose()?,
            sub_norm: NormPlan::maybe(&a.sub_norm, a.n_head * shape.dim_v)?,
            output: Matrix::whole(&a.output, a.n_head * shape.dim_v, n_embd)?,
        })
    }

    /// Query heads of a key-value head.
    pub fn group(&self) -> usize {
        self.n_head / self.n_head_kv
    }

    /// Widths of query, key and value rows.
    pub fn widths(&self) -> [usize; 3] {
        [&self.qkv[0], &self.qkv[1], &self.qkv[2]].map(|m| m.n_out)
    }

    /// Width of what all heads gather.
    pub fn gathered(&self) -> usize {
        self.n_head * self.shape.dim_v
    }
}

/// The number of this rotation among the model's, added if it is new.
fn rope(r: &Rope, head_dim: usize, ropes: &mut Vec<RopePlan>) -> Result<usize> {
    if !r.n_rot.is_multiple_of(2) || r.n_rot > head_dim {
        let message = format!("rope: expected an even n_rot of at most {head_dim}, found {}", r.n_rot);
        return Err(Error::new(ErrorKind::BadFile, message));
    }
    let plan = RopePlan::new(r)?;
    if let Some(i) = ropes.iter().position(|other| *other == plan) {
        return Ok(i);
    }
    ropes.push(plan);
    Ok(ropes.len() - 1)
}

fn qkv(qkv: &Qkv, n_embd: usize, widths: [usize; 3]) -> Result<[Matrix; 3]> {
    match qkv {
        Qkv::Separate { q, k, v } => Ok([
            Matrix::whole(q, n_embd, widths[0])?,
            Matrix::whole(k, n_embd, widths[1])?,
            Matrix::whole(v, n_embd, widths[2])?,
        ]),
        Qkv::Fused(all) => {
            let n: usize = widths.iter().sum();
            let bias = all.bias.as_ref().map(|b| floats(b, n)).transpose()?;
            if all.weight.dims[0] != n_embd || all.weight.n_values() != n_embd * n || all.scale != 1.0 {
                let message = format!("expected [{n_embd}, {n}], found {:?}", all.weight.dims);
                return Err(Error::new(ErrorKind::BadFile, message).at(&*all.weight.name));
            }
            let part = |from: usize, width: usize| {
                let bias = bias.as_ref().map(|b| b[from..from + width].to_vec());
                Ok::<_, Error>(Matrix::rows(&all.weight, from, width)?.with_bias(bias))
            };
            Ok([part(0, widths[0])?, part(widths[0], widths[1])?, part(widths[0] + widths[1], widths[2])?])
        }
    }
}

/// One layer.
#[derive(Debug)]
pub struct LayerPlan {
    pub attn_norm: Option<NormPlan>,
    pub attn: AttentionPlan,
    pub attn_post_norm: Option<NormPlan>,
    pub ffn_norm: Option<NormPlan>,
    pub ffn: FfnPlan,
    pub ffn_post_norm: Option<NormPlan>,
    pub residual: Residual,
    pub residual_scale: f32,
}

impl LayerPlan {
    fn new(l: &Layer, n_embd: usize, ropes: &mut Vec<RopePlan>) -> Result<Self> {
        Ok(Self {
            attn_norm: NormPlan::maybe(&l.attn_norm, n_embd)?,
            attn: AttentionPlan::new(&l.attn, n_embd, ropes)?,
            attn_post_norm: NormPlan::maybe(&l.attn_post_norm, n_embd)?,
            ffn_norm: NormPlan::maybe(&l.ffn_norm, n_embd)?,
            ffn: match &l.ffn {
                Ffn::Dense(f) => FfnPlan::Dense(DensePlan::new(f, n_embd)?),
                Ffn::Moe(m) => FfnPlan::Moe(MoePlan::new(m, n_embd)?),
            },
            ffn_post_norm: NormPlan::maybe(&l.ffn_post_norm, n_embd)?,
            residual: l.residual,
            residual_scale: l.residual_scale,
        })
    }
}

/// A whole model.
#[derive(Debug)]
pub struct Plan {
    pub spec: Arc<ModelSpec>,
    pub ropes: Vec<RopePlan>,
    pub embd_norm: Option<NormPlan>,
    pub layers: Vec<LayerPlan>,
    pub output_norm: NormPlan,
    pub output: Matrix,
}

impl Plan {
    /// # Errors `Unsupported` if a tensor has a type without a kernel, `BadFile` if shapes contradict.
    pub fn new(spec: &Arc<ModelSpec>) -> Result<Self> {
        for t in std::iter::once(&spec.tok_embd).chain(&spec.pos_embd) {
            if !reads(t.ty) {
                let message = format!("expected a type with a native kernel, found {}", t.ty);
                return Err(Error::new(ErrorKind::Unsupported, message).at(&*t.name));
            }
        }
        let mut ropes = Vec::new();
        let layer =
            |(i, l): (usize, &Layer)| LayerPlan::new(l, spec.n_embd, &mut ropes).at(|| format!("layer {i}"));
        let layers = spec.layers.iter().enumerate().map(layer).collect::<Result<_>>()?;
        let output = Linear { weight: spec.output.clone(), bias: None, scale: 1.0 };
        let bias = spec.output_bias.as_ref().map(|b| floats(b, spec.n_vocab)).transpose()?;
        Ok(Self {
            spec: Arc::clone(spec),
            ropes,
            embd_norm: NormPlan::maybe(&spec.embd_norm, spec.n_embd)?,
            layers,
            output_norm: NormPlan::new(&spec.output_norm, spec.n_embd)?,
            output: Matrix::whole(&output, spec.n_embd, spec.n_vocab)?.with_bias(bias),
        })
    }

    /// All matrices.
    pub fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let layers = self
            .layers
            .iter()
            .flat_map(|l| l.attn.qkv.iter().chain([&l.attn.output]).chain(l.ffn.matrices()));
        layers.chain([&self.output])
    }

    /// The matrices that adapters may change, in a fixed order; those of experts are not among them.
    pub fn matrices_in_order(&self) -> impl Iterator<Item = &Matrix> {
        let layers = self.layers.iter().flat_map(|l| {
            let dense = match &l.ffn {
                FfnPlan::Dense(f) => Some(f),
                FfnPlan::Moe(_) => None,
            };
            let ffn = dense.into_iter().flat_map(DensePlan::matrices);
            l.attn.qkv.iter().chain([&l.attn.output]).chain(ffn)
        });
        layers.chain([&self.output])
    }

    /// Calls `f` with each matrix, in the order of [`Plan::matrices_in_order`].
    pub fn each_matrix_mut(&mut self, f: &mut dyn FnMut(&mut Matrix)) {
        for l in &mut self.layers {
            l.attn.qkv.iter_mut().chain([&mut l.attn.output]).for_each(&mut *f);
            if let FfnPlan::Dense(ffn) = &mut l.ffn {
                ffn.matrices_mut().for_each(&mut *f);
            }
        }
        f(&mut self.output);
    }
}
