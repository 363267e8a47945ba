//! What an architecture is, as data. One generic forward per executor reads it.
//!
//! A new architecture is a new entry in the table that fills a [`ModelSpec`] from metadata and tensor
//! names, plus a golden test; never a new forward pass. Everything the forward must know is here, resolved
//! per layer: an executor never looks at the architecture's name or at metadata.
//!
//! Notation: `x` is the residual stream, `[n_embd]` a row. Shapes give the contiguous dimension first.

use crate::gguf::Tensor;

/// A whole model: the embedding, the layers, the output head. Immutable once built.
#[derive(Debug)]
pub struct ModelSpec {
    /// The architecture's name in the file (`general.architecture`), for messages only.
    pub arch: String,
    /// Number of tokens.
    pub n_vocab: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Context the model was trained for, in tokens.
    pub n_ctx_train: usize,
    /// Token embedding, `[n_embd, n_vocab]`.
    pub tok_embd: Tensor,
    /// Learned absolute positions, `[n_embd, n_ctx_train]`, added to the embedding (GPT-2).
    pub pos_embd: Option<Tensor>,
    /// The embedding is multiplied by this (1.0: not at all).
    pub embd_scale: f32,
    /// Norm on the embedding, before the first layer.
    pub embd_norm: Option<Norm>,
    /// The layers, first to last.
    pub layers: Vec<Layer>,
    /// Norm before the output head.
    pub output_norm: Norm,
    /// Output head, `[n_embd, n_vocab]`; the token embedding itself if tied.
    pub output: Tensor,
    /// Bias of the output head, `[n_vocab]`.
    pub output_bias: Option<Tensor>,
    /// Logits are multiplied by this (1.0: not at all).
    pub logit_scale: f32,
    /// `logit = c·tanh(logit/c)`, after the scale.
    pub logit_softcap: Option<f32>,
}

/// Root-mean-square or mean-and-variance normalisation.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Which of the two.
    pub kind: NormKind,
    /// Added under the root.
    pub eps: f32,
    /// Gain, `[n]`; `None`: not scaled (OLMo 1).
    pub weight: Option<Tensor>,
    /// Bias, `[n]`.
    pub bias: Option<Tensor>,
}

/// Kinds of [`Norm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x²) + eps)`.
    Rms,
    /// `(x − mean) / sqrt(var + eps)`.
    Layer,
}

/// A matrix product with its optional bias: `y = W·x·scale + b`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[n_in, n_out]`, any quantisation.
    pub weight: Tensor,
    /// `[n_out]`, f32 or f16.
    pub bias: Option<Tensor>,
    /// A factor on the product kept beside the weights (BitNet); 1.0 elsewhere.
    pub scale: f32,
}

/// One transformer layer.
#[derive(Debug)]
pub struct Layer {
    /// Norm before attention; `None` for post-norm architectures (OLMo 2, EXAONE 4).
    pub attn_norm: Option<Norm>,
    /// Self-attention.
    pub attn: Attention,
    /// Norm on attention's result, before the residual is added (Gemma 2/3, OLMo 2).
    pub attn_post_norm: Option<Norm>,
    /// Norm before the feed-forward part; `None` with [`Residual::ParallelShared`] and post-norm models.
    pub ffn_norm: Option<Norm>,
    /// Feed-forward part.
    pub ffn: Ffn,
    /// Norm on the feed-forward's result, before the residual is added.
    pub ffn_post_norm: Option<Norm>,
    /// How the two parts join the residual stream.
    pub residual: Residual,
    /// Each part's result is multiplied by this before it is added (Granite, MiniCPM; 1.0: not at all).
    pub residual_scale: f32,
}

/// How attention and feed-forward join the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// `x += attn(norm(x)); x += ffn(ffn_norm(x))`.
    Sequential,
    /// `x += attn(attn_norm(x)) + ffn(ffn_norm(x))`, both from the same `x` (GPT-NeoX).
    Parallel,
    /// `h = attn_norm(x); x += attn(h) + ffn(h)` (Phi-2, Cohere).
    ParallelShared,
}

/// Self-attention of one layer.
#[derive(Debug)]
pub struct Attention {
    /// Number of query heads.
    pub n_head: usize,
    /// Number of key and value heads; divides `n_head`.
    pub n_head_kv: usize,
    /// Width of a query or key head.
    pub head_dim_k: usize,
    /// Width of a value head.
    pub head_dim_v: usize,
    /// The projections into heads.
    pub qkv: Qkv,
    /// Values are clamped to ±this after the projection (and its bias).
    pub clamp: Option<f32>,
    /// Norm on queries, before RoPE unless `norm_after_rope`.
    pub q_norm: Option<HeadNorm>,
    /// Norm on keys, likewise.
    pub k_norm: Option<HeadNorm>,
    /// Q/K norms come after RoPE (Hunyuan).
    pub norm_after_rope: bool,
    /// Rotary position; `None`: no position in this layer (SmolLM3, Cohere 2's global layers).
    pub rope: Option<Rope>,
    /// Queries grow with their position; `None`: not at all.
    pub q_temperature: Option<QTemperature>,
    /// Factor on `q·k`.
    pub scale: f32,
    /// `s = c·tanh(s/c)` on scores after the scale, before the mask (Gemma 2).
    pub softcap: Option<f32>,
    /// A row sees itself and this many minus one before it; `None`: everything before.
    pub window: Option<usize>,
    /// One extra logit for each head in the softmax's denominator, `[n_head]` f32 (gpt-oss).
    pub sinks: Option<Tensor>,
    /// Norm on the concatenated heads, before the output projection (BitNet).
    pub sub_norm: Option<Norm>,
    /// The output projection, `[n_head·head_dim_v, n_embd]`.
    pub output: Linear,
}

/// The projections into query, key and value heads.
#[allow(clippy::large_enum_variant, reason = "one a layer")]
#[derive(Debug)]
pub enum Qkv {
    /// Three matrices.
    Separate {
        /// `[n_embd, n_head·head_dim_k]`
        q: Linear,
        /// `[n_embd, n_head_kv·head_dim_k]`
        k: Linear,
        /// `[n_embd, n_head_kv·head_dim_v]`
        v: Linear,
    },
    /// One matrix whose rows are all of Q, then all of K, then all of V.
    Fused(Linear),
}

/// A norm on query or key heads.
#[derive(Debug)]
pub struct HeadNorm {
    /// The norm. `PerHead`: its weight is `[head_dim]`, or `[head_dim, n_head]` when each head has its own.
    /// `Whole`: `[n_head·head_dim]`.
    pub norm: Norm,
    /// What one statistic covers.
    pub over: HeadNormOver,
}

/// What one statistic of a [`HeadNorm`] covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadNormOver {
    /// Each head by itself (Qwen 3, Gemma 3).
    PerHead,
    /// All heads together (OLMo 2).
    Whole,
}

/// Attention that sharpens with distance (Ministral 3, after Llama 4): once RoPE is applied, the query at
/// position `p` is multiplied by `1 + scale·ln(1 + floor(p / every))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QTemperature {
    /// Strength; finite.
    pub scale: f32,
    /// Positions in a step, at least 1.
    pub every: usize,
}

/// Rotary position embedding with its scaling resolved. The angle of pair `i` at position `p` follows
/// `ggml_rope_ext`: `theta = p · freq_base^(−2i/n_rot) / freq_factors[i]`, scaled by `freq_scale` and YaRN.
#[derive(Clone, Debug)]
pub struct Rope {
    /// Number of leading dimensions of a head that turn; even, at most `head_dim_k`.
    pub n_rot: usize,
    /// Which dimensions form a pair.
    pub pairing: RopePairing,
    /// Base of the geometric series.
    pub freq_base: f32,
    /// Positions are multiplied by this (1 / linear factor).
    pub freq_scale: f32,
    /// Divisors of each frequency, `[n_rot/2]` f32 (Llama 3, LongRoPE).
    pub freq_factors: Option<Tensor>,
    /// YaRN mix; 0.0: off.
    pub ext_factor: f32,
    /// Factor on the rotated magnitudes, before YaRN's own `1 + 0.1·ln(1/freq_scale)`, as ggml takes it.
    pub attn_factor: f32,
    /// YaRN's `beta_fast`.
    pub beta_fast: f32,
    /// YaRN's `beta_slow`.
    pub beta_slow: f32,
    /// The context the frequencies were trained for, in tokens.
    pub n_ctx_orig: usize,
}

/// Which dimensions of a head form a rotating pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairing {
    /// `(2i, 2i+1)`: ggml's normal mode (Llama as converted).
    Adjacent,
    /// `(i, i + n_rot/2)`: ggml's NeoX mode.
    Halves,
}

/// The feed-forward part of one layer.
#[allow(clippy::large_enum_variant, reason = "one a layer")]
#[derive(Debug)]
pub enum Ffn {
    /// One network for all tokens.
    Dense(DenseFfn),
    /// A router picks some experts for each token.
    Moe(MoeFfn),
}

/// `down(act(gate(x)) · up(x))`, or `down(act(up(x)))` without a gate.
#[derive(Debug)]
pub struct DenseFfn {
    /// `[n_embd, n_ff]`; `None` when not gated or when `up` holds gate and up together.
    pub gate: Option<Linear>,
    /// `[n_embd, n_ff]`, or `[n_embd, 2·n_ff]` with `fused_gate`: first the gate's rows, then up's (Phi-3).
    pub up: Linear,
    /// `up` holds both.
    pub fused_gate: bool,
    /// `[n_ff, n_embd]`
    pub down: Linear,
    /// Activation.
    pub act: Activation,
    /// Norm before `down` (BitNet).
    pub sub_norm: Option<Norm>,
}

/// Mixture of experts.
#[derive(Debug)]
pub struct MoeFfn {
    /// Number of experts.
    pub n_expert: usize,
    /// Experts used for each token.
    pub n_used: usize,
    /// `[n_embd, n_expert]`, with a bias for gpt-oss.
    pub router: Linear,
    /// `[n_embd, n_ff, n_expert]`
    pub gate: Linear,
    /// `[n_embd, n_ff, n_expert]`
    pub up: Linear,
    /// `[n_ff, n_embd, n_expert]`. Biases of experts are `[n_out, n_expert]`.
    pub down: Linear,
    /// Activation.
    pub act: Activation,
    /// How router scores become weights.
    pub gating: Gating,
    /// Added to the scores for the choice only, `[n_expert]`.
    pub choice_bias: Option<Tensor>,
    /// The chosen experts' weights are divided by their sum.
    pub normalise: bool,
    /// The weights are multiplied by this (1.0: not at all).
    pub weight_scale: f32,
    /// Experts that see every token; added to the result.
    pub shared: Option<DenseFfn>,
    /// `sigmoid(shared_gate·x)` multiplies the shared expert's result (Qwen 2 MoE), `[n_embd]` or `[n_embd, 1]`.
    pub shared_gate: Option<Tensor>,
}

/// How router scores become weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gating {
    /// Softmax over all experts, then the choice.
    Softmax,
    /// The choice by raw score, then softmax over the chosen (gpt-oss).
    SoftmaxAfterTopK,
    /// Sigmoid of each score.
    Sigmoid,
}

/// Activations of the feed-forward part; `g` is the gate (or up without one), `u` is up.
#[derive(Clone, Debug)]
pub enum Activation {
    /// `silu(g)·u`
    Silu,
    /// `gelu_tanh(g)·u`
    Gelu,
    /// `relu(g)·u`
    Relu,
    /// `relu(g)²·u`
    ReluSquared,
    /// gpt-oss: `g' = min(g, limit)`, `u' = clamp(u, ±limit)`, `g'·sigmoid(alpha·g')·(u'+1)`.
    SwigluOai {
        /// 1.702
        alpha: f32,
        /// 7.0
        limit: f32,
    },
    /// Apertus: the learned xIELU of this layer, as `ggml_xielu` takes it.
    Xielu {
        /// Negative side.
        alpha_n: f32,
        /// Positive side.
        alpha_p: f32,
        /// Linear part.
        beta: f32,
        /// Bound of the exponent.
        eps: f32,
    },
}
