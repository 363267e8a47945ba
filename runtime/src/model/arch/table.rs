//! The table of architectures. Facts are those of llama.cpp's converters and graphs, whose files these are.

use super::*;
use RopePairing::{Adjacent, Halves};

/// Llama as converted: pre-norms, rotary positions in adjacent pairs, SwiGLU; others say how they differ.
const LLAMA: ArchEntry = ArchEntry {
    name: "llama",
    norm: NormKind::Rms,
    norm_bias: Need::No,
    pairing: Some(Adjacent),
    turns: |_| true,
    freqs: Freqs::Factors,
    rope_quirk: RopeQuirk::None,
    window: None,
    attn_norm: true,
    attn_post_norm: None,
    ffn_norm: FfnNorm::Yes("ffn_norm"),
    ffn_post_norm: None,
    qkv_bias: Need::Maybe,
    out_bias: Need::Maybe,
    qk_norm: QkNorm::No,
    sinks: false,
    sub_norms: false,
    residual: ResidualRule::Sequential,
    ffn: FfnKind::Gated,
    ffn_bias: Need::Maybe,
    act: Act::Silu,
    moe: Some(MIXTRAL),
    head: Head::OwnOrTied,
    head_bias: Need::No,
    scales: plain,
};

/// Half-split pairs and no experts: most of what came after Llama.
const HALVES: ArchEntry = ArchEntry { pairing: Some(Halves), freqs: Freqs::None, moe: None, ..LLAMA };

/// LayerNorm with biases everywhere and a plain feed-forward part: the GPT line.
const GPT: ArchEntry = ArchEntry {
    norm: NormKind::Layer,
    norm_bias: Need::Yes,
    qkv_bias: Need::Yes,
    out_bias: Need::Yes,
    ffn: FfnKind::Plain,
    ffn_bias: Need::Yes,
    act: Act::Gelu,
    ..HALVES
};

/// Gemma: tied head, scaled embedding, tanh GELU.
const GEMMA: ArchEntry = ArchEntry { act: Act::Gelu, head: Head::Tied, scales: gemma, ..HALVES };

/// Norms after the parts instead of before.
const POST_NORM: ArchEntry = ArchEntry {
    attn_norm: false,
    attn_post_norm: Some("post_attention_norm"),
    ffn_norm: FfnNorm::No,
    ffn_post_norm: Some("post_ffw_norm"),
    ..HALVES
};

const MIXTRAL: MoeRule = MoeRule {
    always: false,
    width: ExpertWidth::Dense,
    normalise: true,
    softmax_after: false,
    bias: Need::No,
    shared: Shared::No,
};

const WINDOW: WindowRule = WindowRule {
    only_n_layer: None,
    default: None,
    required: false,
    every: 4,
    local_base: None,
    local_scaled: true,
    local_yarn: true,
};

/// Every architecture that can be run, by name.
pub(super) const ENTRIES: &[ArchEntry] = &[
    ArchEntry {
        name: "apertus",
        freqs: Freqs::Factors,
        qk_norm: QkNorm::PerHead,
        ffn: FfnKind::Plain,
        ffn_bias: Need::No,
        act: Act::Xielu,
        head: Head::Own,
        ..HALVES
    },
    ArchEntry { name: "arcee", ffn: FfnKind::Plain, act: Act::ReluSquared, moe: None, ..LLAMA },
    ArchEntry { name: "bitnet", sub_norms: true, head: Head::Tied, ..HALVES },
    ArchEntry {
        name: "cohere2",
        norm: NormKind::Layer,
        turns: |layer| layer.local,
        freqs: Freqs::None,
        window: Some(WindowRule { required: true, ..WINDOW }),
        ffn_norm: FfnNorm::No,
        residual: ResidualRule::ParallelShared,
        moe: None,
        head: Head::Tied,
        scales: |f| Ok(Scales { logits: f.keys.require_positive("logit_scale")?, ..plain(f)? }),
        ..LLAMA
    },
    ArchEntry {
        name: "ernie4_5",
        freqs: Freqs::None,
        rope_quirk: RopeQuirk::UnusedSections,
        moe: None,
        ..LLAMA
    },
    ArchEntry {
        name: "exaone4",
        turns: |layer| layer.local || !layer.windowed,
        freqs: Freqs::Factors,
        window: Some(WindowRule { only_n_layer: Some(64), default: Some(4096), ..WINDOW }),
        qk_norm: QkNorm::PerHead,
        ..POST_NORM
    },
    ArchEntry { name: "gemma", ..GEMMA },
    ArchEntry {
        name: "gemma2",
        window: Some(WindowRule { default: Some(4096), every: 2, ..WINDOW }),
        attn_post_norm: Some("post_attention_norm"),
        ffn_post_norm: Some("post_ffw_norm"),
        scales: gemma2,
        ..GEMMA
    },
    ArchEntry {
        name: "gemma3",
        window: Some(WindowRule { every: 6, local_base: Some(10_000.0), local_scaled: false, ..WINDOW }),
        attn_post_norm: Some("post_attention_norm"),
        ffn_post_norm: Some("post_ffw_norm"),
        qk_norm: QkNorm::PerHead,
        head: Head::OwnOrTied,
        scales: gemma3,
        ..GEMMA
    },
    ArchEntry {
        name: "glm4",
        freqs: Freqs::None,
        attn_post_norm: Some("post_attention_norm"),
        ffn_post_norm: Some("post_ffw_norm"),
        ffn: FfnKind::Fused,
        moe: None,
        ..LLAMA
    },
    ArchEntry { name: "gpt2", pairing: None, ..GPT },
    ArchEntry {
        name: "gpt-oss",
        window: Some(WindowRule { required: true, every: 2, ..WINDOW }),
        ffn_norm: FfnNorm::Yes("post_attention_norm"),
        out_bias: Need::Yes,
        sinks: true,
        act: Act::SwigluOai,
        moe: Some(MoeRule {
            always: true,
            width: ExpertWidth::Own,
            normalise: false,
            softmax_after: true,
            bias: Need::Yes,
            ..MIXTRAL
        }),
        head: Head::Own,
        ..HALVES
    },
    ArchEntry { name: "gptneox", residual: ResidualRule::ByKey, head: Head::Own, ..GPT },
    ArchEntry {
        name: "granite",
        turns: |layer| layer.finetuned,
        moe: Some(MoeRule { shared: Shared::ByKey, ..MIXTRAL }),
        scales: granite,
        ..LLAMA
    },
    ArchEntry {
        name: "granitemoe",
        moe: Some(MoeRule { shared: Shared::ByKey, ..MIXTRAL }),
        scales: granite,
        ..LLAMA
    },
    ArchEntry {
        name: "hunyuan-dense",
        rope_quirk: RopeQuirk::NtkAlpha,
        qk_norm: QkNorm::PerHeadAfterRope,
        ..HALVES
    },
    ArchEntry { name: "internlm2", freqs: Freqs::None, moe: None, head: Head::Own, ..LLAMA },
    LLAMA,
    ArchEntry { name: "minicpm", scales: minicpm, ..LLAMA },
    ArchEntry {
        name: "mistral3",
        scales: |f| {
            let temperature = f.keys.number("attention.temperature_scale")?.unwrap_or(0.0);
            Ok(Scales { temperature, ..plain(f)? })
        },
        ..LLAMA
    },
    ArchEntry {
        name: "nemotron",
        qkv_bias: Need::Maybe,
        out_bias: Need::Maybe,
        ffn_bias: Need::Maybe,
        act: Act::ReluSquared,
        head: Head::Own,
        ..GPT
    },
    ArchEntry {
        name: "olmo2",
        window: Some(WindowRule { local_scaled: false, local_yarn: false, ..WINDOW }),
        qk_norm: QkNorm::Whole,
        head: Head::Own,
        ..POST_NORM
    },
    ArchEntry {
        name: "olmoe",
        qk_norm: QkNorm::Whole,
        moe: Some(MoeRule { always: true, normalise: false, ..MIXTRAL }),
        head: Head::Own,
        ..HALVES
    },
    ArchEntry {
        name: "phi2",
        ffn_norm: FfnNorm::No,
        qkv_bias: Need::Maybe,
        residual: ResidualRule::ParallelShared,
        head: Head::Own,
        head_bias: Need::Yes,
        ..GPT
    },
    ArchEntry { name: "phi3", freqs: Freqs::LongShort, ffn: FfnKind::Fused, ..HALVES },
    ArchEntry { name: "qwen2", head_bias: Need::Maybe, ..HALVES },
    ArchEntry {
        name: "qwen2moe",
        moe: Some(MoeRule {
            always: true,
            width: ExpertWidth::OwnOrShare,
            normalise: false,
            shared: Shared::Gated,
            ..MIXTRAL
        }),
        head: Head::Own,
        ..HALVES
    },
    ArchEntry { name: "qwen3", qk_norm: QkNorm::PerHead, ..HALVES },
    ArchEntry {
        name: "qwen3moe",
        qk_norm: QkNorm::PerHead,
        moe: Some(MoeRule { always: true, width: ExpertWidth::OwnOrShare, ..MIXTRAL }),
        ..HALVES
    },
    ArchEntry { name: "seed_oss", ffn_norm: FfnNorm::Yes("post_attention_norm"), ..HALVES },
    ArchEntry {
        name: "smollm3",
        turns: |layer| (layer.il + 1) % 4 != 0,
        freqs: Freqs::None,
        moe: None,
        ..LLAMA
    },
    ArchEntry {
        name: "stablelm",
        norm: NormKind::Layer,
        norm_bias: Need::Yes,
        ffn_norm: FfnNorm::Maybe("ffn_norm"),
        qk_norm: QkNorm::EachHead,
        residual: ResidualRule::ByFfnNorm,
        head: Head::Own,
        ..HALVES
    },
    ArchEntry { name: "starcoder2", qkv_bias: Need::Maybe, ..GPT },
];

/// Architectures that are known and cannot be run, with the reason.
pub(super) const REFUSED: &[(&str, &str)] = &[
    ("falcon-h1", RECURRENT),
    ("gemma3n", PER_LAYER),
    ("gemma4", PER_LAYER),
    ("granitehybrid", RECURRENT),
    ("jamba", RECURRENT),
    ("lfm2", CONVOLUTION),
    ("lfm2moe", CONVOLUTION),
    ("mamba", RECURRENT),
    ("mamba2", RECURRENT),
    ("deepseek2", LATENT),
    ("minicpm3", LATENT),
    ("qwen35", RECURRENT),
    ("qwen3next", RECURRENT),
    ("rwkv7", RECURRENT),
];

const RECURRENT: &str = " (it has recurrent layers)";
const CONVOLUTION: &str = " (it has convolution layers)";
const LATENT: &str = " (it has latent attention)";
const PER_LAYER: &str = " (it has per-layer embeddings)";

/// A factor of which 0 means that there is none.
fn nonzero(factor: f32) -> f32 {
    if factor == 0.0 { 1.0 } else { factor }
}

fn plain(f: &Facts<'_>) -> Result<Scales> {
    Ok(Scales {
        embd: 1.0,
        residual: 1.0,
        logits: 1.0,
        attn: 1.0 / (f.head_dim as f32).sqrt(),
        attn_softcap: None,
        logit_softcap: None,
        temperature: 0.0,
    })
}

fn gemma(f: &Facts<'_>) -> Result<Scales> {
    Ok(Scales { embd: (f.n_embd as f32).sqrt(), ..plain(f)? })
}

/// The 27B models scale scores by the width of an equal part of the embedding, not of a head.
fn gemma_attn(f: &Facts<'_>, n_layer_27b: usize) -> f32 {
    let dim = if f.n_layer == n_layer_27b { f.n_embd / f.n_head } else { f.head_dim };
    1.0 / (dim.max(1) as f32).sqrt()
}

fn gemma2(f: &Facts<'_>) -> Result<Scales> {
    let cap = |name, default| f.keys.positive(name).map(|cap| Some(cap.unwrap_or(default)));
    Ok(Scales {
        attn: gemma_attn(f, 46),
        attn_softcap: cap("attn_logit_softcapping", 50.0)?,
        logit_softcap: cap("final_logit_softcapping", 30.0)?,
        ..gemma(f)?
    })
}

fn gemma3(f: &Facts<'_>) -> Result<Scales> {
    let logit_softcap = f.keys.number("final_logit_softcapping")?.filter(|cap| *cap > 0.0);
    Ok(Scales { attn: gemma_attn(f, 62), logit_softcap, ..gemma(f)? })
}

/// Granite divides by its logit scale.
fn granite(f: &Facts<'_>) -> Result<Scales> {
    let optional = |name| f.keys.number(name).map(|s| nonzero(s.unwrap_or(1.0)));
    let plain = plain(f)?;
    Ok(Scales {
        embd: optional("embedding_scale")?,
        residual: optional("residual_scale")?,
        logits: 1.0 / f.keys.require_positive("logit_scale")?,
        attn: f.keys.number("attention.scale")?.filter(|s| *s != 0.0).unwrap_or(plain.attn),
        ..plain
    })
}

/// As Granite, with defaults of its own.
fn minicpm(f: &Facts<'_>) -> Result<Scales> {
    let or = |name, default| f.keys.number(name).map(|s| nonzero(s.unwrap_or(default)));
    Ok(Scales {
        embd: or("embedding_scale", 12.0)?,
        residual: or("residual_scale", 1.4 / (f.n_layer as f32).sqrt())?,
        logits: 1.0 / f.keys.positive("logit_scale")?.unwrap_or(256.0 / f.n_embd as f32),
        ..plain(f)?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_sorted_apart_from_punctuation() {
        let names: Vec<_> = ENTRIES.iter().map(|e| e.name).collect();
        let mut unique = names.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), names.len());
        assert!(REFUSED.iter().all(|(n, _)| !names.contains(n)));
    }
}
