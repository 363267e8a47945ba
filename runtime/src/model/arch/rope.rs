//! Rotary position parameters with their scaling resolved.
//!
//! The scaling follows llama.cpp, whose converted files these are: linear scaling divides positions; YaRN
//! (Peng et al. 2023, arXiv 2309.00071) mixes scaled and unscaled frequencies and sharpens attention;
//! LongRoPE (Ding et al. 2024, arXiv 2402.13753) divides each frequency by a factor of its own, from a set
//! for long and one for short contexts.

use super::hparams::{Keys, unsupported};
use super::{ArchEntry, Freqs, RopeQuirk};
use crate::error::Result;

/// Rotation of the global layers, and what differs in local ones.
pub(super) struct RopeParams {
    pub(super) n_rot: usize,
    pub(super) freq_base: f32,
    pub(super) freq_scale: f32,
    pub(super) yarn: Yarn,
    pub(super) n_ctx_orig: usize,
    /// Divisors come as a long and a short set.
    pub(super) long_short: bool,
    pub(super) finetuned: bool,
    pub(super) local_base: f32,
    pub(super) local_scale: f32,
    pub(super) local_yarn: Yarn,
}

/// YaRN's parameters; with `ext_factor` 0.0 only `attn_factor` matters.
#[derive(Clone, Copy)]
pub(super) struct Yarn {
    pub(super) ext_factor: f32,
    pub(super) attn_factor: f32,
    pub(super) beta_fast: f32,
    pub(super) beta_slow: f32,
}

/// Kinds of scaling.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scaling {
    None,
    Linear,
    Yarn,
    LongRope,
}

const OFF: Yarn = Yarn { ext_factor: 0.0, attn_factor: 1.0, beta_fast: 32.0, beta_slow: 1.0 };

impl RopeParams {
    pub(super) fn read(
        keys: &Keys<'_>,
        entry: &ArchEntry,
        head_dim: usize,
        n_ctx_train: usize,
    ) -> Result<Self> {
        if entry.rope_quirk != RopeQuirk::UnusedSections {
            refuse_sections(keys)?;
        }
        let scaling = scaling(keys)?;
        let n_rot = n_rot(keys, head_dim)?;
        let freq_base = freq_base(keys, entry, head_dim)?;
        let factor = factor(keys)?;
        let freq_scale = if scaling == Scaling::None { 1.0 } else { 1.0 / factor };
        let yarn = yarn(keys, scaling, factor, freq_base)?;
        let n_ctx_orig = n_ctx_orig(keys, scaling, n_ctx_train)?;
        let rule = entry.window.as_ref();
        let local_base =
            keys.positive("rope.freq_base_swa")?.or(rule.and_then(|r| r.local_base)).unwrap_or(freq_base);
        Ok(Self {
            n_rot,
            freq_base,
            freq_scale,
            yarn,
            n_ctx_orig,
            long_short: entry.freqs == Freqs::LongShort || scaling == Scaling::LongRope,
            finetuned: keys.flag("rope.scaling.finetuned")?.unwrap_or(true),
            local_base,
            local_scale: if rule.is_some_and(|r| !r.local_scaled) { 1.0 } else { freq_scale },
            local_yarn: if rule.is_some_and(|r| !r.local_yarn) { OFF } else { yarn },
        })
    }
}

fn scaling(keys: &Keys<'_>) -> Result<Scaling> {
    match keys.text("rope.scaling.type")? {
        None | Some("linear") => Ok(Scaling::Linear),
        Some("none") => Ok(Scaling::None),
        Some("yarn") => Ok(Scaling::Yarn),
        Some("longrope") => Ok(Scaling::LongRope),
        Some(other) => {
            let expected = "expected none, linear, yarn or longrope";
            Err(unsupported(keys, "rope.scaling.type", &format!("{expected}, found {other:?}")))
        }
    }
}

/// Positions in several dimensions (images) are not implemented.
fn refuse_sections(keys: &Keys<'_>) -> Result<()> {
    let name = "rope.dimension_sections";
    if keys.ints(name)?.is_none_or(|sections| sections.iter().all(|s| *s == 0)) {
        return Ok(());
    }
    Err(unsupported(keys, name, "positions in several dimensions are not supported"))
}

fn n_rot(keys: &Keys<'_>, head_dim: usize) -> Result<usize> {
    let name = "rope.dimension_count";
    let n_rot = keys.int(name, 1..=head_dim)?.unwrap_or(head_dim);
    if n_rot % 2 == 0 {
        return Ok(n_rot);
    }
    Err(keys.bad(name, format!("expected an even number of rotating dimensions, found {n_rot}")))
}

fn freq_base(keys: &Keys<'_>, entry: &ArchEntry, head_dim: usize) -> Result<f32> {
    let base = keys.positive("rope.freq_base")?.unwrap_or(10_000.0);
    match keys.number("rope.scaling.alpha")? {
        Some(alpha) if alpha > 0.0 && head_dim > 2 && entry.rope_quirk == RopeQuirk::NtkAlpha => {
            let stretched = base * alpha.powf(head_dim as f32 / (head_dim - 2) as f32);
            let fits = stretched.is_finite() && stretched > 0.0;
            fits.then_some(stretched).ok_or_else(|| keys.bad("rope.scaling.alpha", "the base overflows"))
        }
        _ => Ok(base),
    }
}

/// By how much contexts are stretched; 1.0: not at all.
fn factor(keys: &Keys<'_>) -> Result<f32> {
    let name = if keys.contains("rope.scaling.factor") { "rope.scaling.factor" } else { "rope.scale_linear" };
    let factor = keys.number(name)?.filter(|f| *f != 0.0).unwrap_or(1.0);
    if (1e-3..=1e6).contains(&factor) {
        return Ok(factor);
    }
    Err(keys.bad(name, format!("expected a rope scaling factor of 0.001 to 1000000, found {factor}")))
}

fn yarn(keys: &Keys<'_>, scaling: Scaling, factor: f32, freq_base: f32) -> Result<Yarn> {
    let attn_factor = keys.positive("rope.scaling.attn_factor")?.unwrap_or(1.0);
    if scaling != Scaling::Yarn {
        return Ok(Yarn { attn_factor, ..OFF });
    }
    if freq_base <= 1.0 {
        return Err(keys.bad("rope.freq_base", format!("expected above 1 with yarn, found {freq_base}")));
    }
    let log_mul = keys.number("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0);
    Ok(Yarn {
        ext_factor: 1.0,
        attn_factor: attn_factor * sharpening(factor, log_mul),
        beta_fast: keys.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(OFF.beta_fast),
        beta_slow: keys.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(OFF.beta_slow),
    })
}

/// What remains of YaRN's magnitude factor once the `1 + 0.1·ln(factor)` that the rotation itself applies is
/// taken out. `log_mul` divides the model's own factor (DeepSeek's `mscale_all_dim`); 0.0: it has none.
fn sharpening(factor: f32, log_mul: f32) -> f32 {
    let mscale = |mul: f32| if factor <= 1.0 { 1.0 } else { 0.1 * mul * factor.ln() + 1.0 };
    let own = if log_mul == 0.0 { mscale(1.0) } else { mscale(1.0) / mscale(log_mul) };
    own / (1.0 + 0.1 * factor.ln())
}

fn n_ctx_orig(keys: &Keys<'_>, scaling: Scaling, n_ctx_train: usize) -> Result<usize> {
    let name = "rope.scaling.original_context_length";
    let given = keys.int(name, 0..=u32::MAX as usize)?.filter(|n| *n > 0).unwrap_or(n_ctx_train);
    if given == 0 && matches!(scaling, Scaling::Yarn | Scaling::LongRope) {
        return Err(keys.bad(name, "expected the rope's original context, found none"));
    }
    Ok(given.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yarn_alone_leaves_magnitudes_to_the_rotation() {
        assert_eq!(sharpening(4.0, 0.0), 1.0);
        assert_eq!(sharpening(1.0, 0.0), 1.0);
        let expected = 1.0 / (1.0 + 0.1 * 4f32.ln());
        assert!((sharpening(4.0, 1.0) - expected).abs() < 1e-6);
    }
}
