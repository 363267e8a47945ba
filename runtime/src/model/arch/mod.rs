//! From a GGUF file to a [`ModelSpec`]: one table entry for each architecture.
//!
//! Why: most decoders are the same transformer with a norm moved, a bias added or a window put in. An entry
//! ([`ArchEntry`]) says which of these apply, under the file format's own names of keys and tensors; one
//! builder reads any entry. A new architecture is an entry and a golden test.
//!
//! Everything read here is untrusted: each hyperparameter is checked against a range, each tensor for its
//! exact shape and a type its role allows, and an error names file, offset and key or tensor. What an
//! architecture has no use for is ignored, with one exception: layers beyond the declared number, since
//! dropping them would make another model of the file.
//!
//! Cost: proportional to the number of tensors, not to their size.
//!
//! Not covered, because the generic forward has no such part: recurrent and convolution layers, latent
//! attention (MLA), per-layer embeddings. Such files are refused by name.

mod builder;
mod hparams;
mod rope;
mod table;
mod tensors;

use super::spec::{ModelSpec, NormKind, RopePairing};
use crate::error::{Error, ErrorKind, Result};
use crate::gguf::GgufFile;
use hparams::Hparams;

/// What sets an architecture apart.
pub(super) struct ArchEntry {
    /// `general.architecture`.
    name: &'static str,
    /// Kind of all norms; also decides which epsilon is read.
    norm: NormKind,
    /// Whether norms have a bias.
    norm_bias: Need,
    /// Rotary pairing; `None`: learned absolute positions.
    pairing: Option<RopePairing>,
    /// Whether a layer turns its queries and keys.
    turns: fn(&LayerFacts) -> bool,
    /// Where frequency factors come from.
    freqs: Freqs,
    /// Anything odd about the rotation.
    rope_quirk: RopeQuirk,
    /// Sliding windows.
    window: Option<WindowRule>,
    /// Norm before attention.
    attn_norm: bool,
    /// Norm of attention's result, before the residual.
    attn_post_norm: Option<&'static str>,
    /// Norm before the feed-forward part.
    ffn_norm: FfnNorm,
    /// Norm of the feed-forward's result.
    ffn_post_norm: Option<&'static str>,
    /// Biases of Q, K and V.
    qkv_bias: Need,
    /// Bias of the attention's output.
    out_bias: Need,
    /// Norms of query and key heads.
    qk_norm: QkNorm,
    /// `attn_sinks` are there.
    sinks: bool,
    /// Norms before the last projection of either part (BitNet).
    sub_norms: bool,
    /// The residual stream.
    residual: ResidualRule,
    /// The dense feed-forward part, or the shared experts'.
    ffn: FfnKind,
    /// Biases of the feed-forward part.
    ffn_bias: Need,
    /// Activation.
    act: Act,
    /// Experts.
    moe: Option<MoeRule>,
    /// The output head.
    head: Head,
    /// Bias of the output head.
    head_bias: Need,
    /// Scales and soft-caps that are numbers.
    scales: fn(&Facts<'_>) -> Result<Scales>,
}

/// Whether a tensor is part of an architecture.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Used if it is there.
    Maybe,
    /// Its absence is an error.
    Yes,
    /// Not used, even if it is there.
    No,
}

/// Source of the rotary frequencies' divisors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Freqs {
    /// None are used.
    None,
    /// `rope_freqs`; or the long and short set if the scaling is `longrope`.
    Factors,
    /// The long and short set (Phi-3).
    LongShort,
}

/// Oddities of the rotation's parameters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RopeQuirk {
    None,
    /// Sections for images may be declared, but text never reads them (ERNIE 4.5).
    UnusedSections,
    /// `rope.scaling.alpha` stretches the base (Hunyuan).
    NtkAlpha,
}

/// What a rule may ask about a layer.
struct LayerFacts {
    il: usize,
    /// The layer has a window.
    local: bool,
    /// Some layer has a window.
    windowed: bool,
    /// `rope.scaling.finetuned`, true if missing.
    finetuned: bool,
}

/// Which layers have a window, and how it is given.
struct WindowRule {
    /// Only for models of so many layers (EXAONE 4).
    only_n_layer: Option<usize>,
    /// Width if the file does not say.
    default: Option<usize>,
    /// The width must be in the file.
    required: bool,
    /// Every so many layers the last is global, if the file does not say.
    every: usize,
    /// Base of local layers if the file does not say; `None`: the global one.
    local_base: Option<f32>,
    /// The linear scaling is for local layers, too.
    local_scaled: bool,
    /// YaRN is for local layers, too.
    local_yarn: bool,
}

/// Norm before the feed-forward part.
#[derive(Clone, Copy)]
enum FfnNorm {
    /// There is none.
    No,
    /// Under this name.
    Yes(&'static str),
    /// If it is not there, the part reads attention's norm (StableLM 2 12B).
    Maybe(&'static str),
}

/// Norms of query and key heads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum QkNorm {
    No,
    /// One gain for all heads.
    PerHead,
    /// The same, after RoPE.
    PerHeadAfterRope,
    /// A gain for each head, if it is there.
    EachHead,
    /// One statistic over all heads.
    Whole,
}

/// How the two parts join.
#[derive(Clone, Copy)]
enum ResidualRule {
    Sequential,
    /// One norm for both parts.
    ParallelShared,
    /// `use_parallel_residual` decides.
    ByKey,
    /// Shared if there is no norm before the feed-forward part.
    ByFfnNorm,
}

/// Shape of the dense feed-forward part.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FfnKind {
    /// `gate` and `up`.
    Gated,
    /// `up` alone.
    Plain,
    /// `up` holds both.
    Fused,
}

/// Activation, before a layer's own parameters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    Silu,
    Gelu,
    ReluSquared,
    SwigluOai,
    Xielu,
}

/// Experts.
#[derive(Clone, Copy)]
struct MoeRule {
    /// The architecture has no dense variant.
    always: bool,
    /// Width of an expert.
    width: ExpertWidth,
    /// The chosen weights are divided by their sum.
    normalise: bool,
    /// Router softmax over the chosen only.
    softmax_after: bool,
    /// Biases of router and experts.
    bias: Need,
    /// Experts that see every token.
    shared: Shared,
}

/// Where an expert's width is given.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ExpertWidth {
    /// `feed_forward_length`.
    Dense,
    /// `expert_feed_forward_length`, else `feed_forward_length / expert_used_count`.
    OwnOrShare,
    /// `expert_feed_forward_length`.
    Own,
}

/// Experts that see every token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shared {
    No,
    /// If `expert_shared_feed_forward_length` is above 0.
    ByKey,
    /// Always, weighed by a gate; as wide as the key says, else `feed_forward_length`.
    Gated,
}

/// Output head.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Head {
    Own,
    Tied,
    OwnOrTied,
}

/// What the functions of an entry may ask.
struct Facts<'a> {
    keys: hparams::Keys<'a>,
    n_layer: usize,
    n_embd: usize,
    n_head: usize,
    head_dim: usize,
}

/// Numbers that multiply or bound something.
struct Scales {
    embd: f32,
    residual: f32,
    logits: f32,
    attn: f32,
    attn_softcap: Option<f32>,
    logit_softcap: Option<f32>,
    /// `attention.temperature_scale`, 0.0: off.
    temperature: f32,
}

/// Tensor of rotary factors for long contexts; without it a spec is the same for all lengths.
pub(super) const LONG_FACTORS: &str = "rope_factors_long.weight";

/// Builds the spec of the model in `file`, for contexts of `n_ctx` tokens.
/// # Errors  `BadFile` naming key or tensor; `Unsupported` for an architecture without an entry.
pub(super) fn build(file: &GgufFile, n_ctx: usize) -> Result<ModelSpec> {
    let name = file.metadata().require_str("general.architecture")?;
    let entry = find(file, name)?;
    let hparams = Hparams::read(entry, file)?;
    builder::Builder::new(entry, &hparams, file, n_ctx).model()
}

fn find(file: &GgufFile, name: &str) -> Result<&'static ArchEntry> {
    table::ENTRIES.iter().find(|e| e.name == name).ok_or_else(|| {
        let why = table::REFUSED.iter().find(|(n, _)| *n == name).map_or("", |(_, why)| why);
        let supported: Vec<_> = supported().collect();
        let message =
            format!("architecture {name:?} is not supported{why}; supported: {}", supported.join(", "));
        Error::new(ErrorKind::Unsupported, message).at(file.path().display().to_string())
    })
}

/// Names of the architectures that can be run, as in `general.architecture`.
pub fn supported() -> impl Iterator<Item = &'static str> {
    table::ENTRIES.iter().map(|e| e.name)
}

#[cfg(test)]
mod tests;
