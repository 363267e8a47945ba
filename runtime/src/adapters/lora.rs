//! LoRA adapters in llama.cpp's format.
//!
//! GGUF with `general.type = "adapter"`, `adapter.type = "lora"`, `adapter.lora.alpha`, and for each changed matrix
//! `W [n_in, n_out]` the tensors `<name of W>.lora_a [n_in, rank]` and `.lora_b [rank, n_out]`. The product becomes
//! `Wx + w·(alpha/rank)·B(Ax)`, `w` being the request's weight; without the division if alpha is 0.
//! Source of the method: Hu et al. 2021, arXiv 2106.09685. Facts of the format: llama.cpp's adapter loader.

use super::bad;
use crate::error::{Error, ErrorKind, Result};
use crate::gguf::{GgufFile, Tensor};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Larger ranks are no low-rank change.
const MAX_RANK: usize = 4096;

/// The change of one matrix.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Name of the matrix.
    pub base: Arc<str>,
    /// `[n_in, rank]`
    pub a: Tensor,
    /// `[rank, n_out]`
    pub b: Tensor,
    /// Inner dimension.
    pub rank: usize,
    /// What `B(Ax)` is multiplied by, beside the request's weight.
    pub scale: f32,
}

/// An adapter whose tensors fit their base.
#[derive(Clone, Debug)]
pub struct Lora {
    /// Changes, in order of their names.
    pub pairs: Vec<Pair>,
}

impl Lora {
    pub(super) fn read(file: &GgufFile, base: &GgufFile) -> Result<Self> {
        let meta = file.metadata();
        let kind = meta.require_str("adapter.type")?;
        if kind != "lora" {
            let message = format!("adapter.type: expected \"lora\", found {kind:?}");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        if meta.get("adapter.alora.invocation_tokens").is_some() {
            let message = "adapter.alora.invocation_tokens: expected an adapter that is always on, found one that \
                           certain tokens turn on";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let (made_for, here) =
            (meta.require_str("general.architecture")?, base.metadata().require_str("general.architecture")?);
        if made_for != here {
            return Err(bad(format!(
                "general.architecture: expected an adapter for {here:?}, the model's, found one for {made_for:?}"
            )));
        }
        let alpha = meta.require_f32("adapter.lora.alpha")?;
        if !alpha.is_finite() {
            return Err(bad(format!("adapter.lora.alpha: expected a finite number, found {alpha}")));
        }
        let pairs = halves(file)?
            .into_iter()
            .map(|(name, halves)| pair(name, halves, alpha, base))
            .collect::<Result<Vec<_>>>()?;
        match pairs.is_empty() {
            true => Err(bad("expected tensors named .lora_a and .lora_b, found none")),
            false => Ok(Self { pairs }),
        }
    }
}

type Halves<'a> = [Option<&'a Tensor>; 2];

/// The two tensors of each changed matrix.
fn halves(file: &GgufFile) -> Result<BTreeMap<&str, Halves<'_>>> {
    let mut found: BTreeMap<&str, Halves<'_>> = BTreeMap::new();
    for tensor in file.tensors() {
        let half = |suffix: &str| tensor.name.strip_suffix(suffix);
        match (half(".lora_a"), half(".lora_b")) {
            (Some(base), _) => found.entry(base).or_default()[0] = Some(tensor),
            (_, Some(base)) => found.entry(base).or_default()[1] = Some(tensor),
            _ => {
                let message =
                    format!("tensor {}: expected a name that ends in .lora_a or .lora_b", tensor.name);
                return Err(bad(message));
            }
        }
    }
    Ok(found)
}

fn pair(name: &str, halves: Halves<'_>, alpha: f32, base: &GgufFile) -> Result<Pair> {
    let missing = |suffix: &str| bad(format!("tensor {name}{suffix} is missing, its other half is there"));
    let a = halves[0].ok_or_else(|| missing(".lora_a"))?;
    let b = halves[1].ok_or_else(|| missing(".lora_b"))?;
    let Some(w) = base.tensor(name) else {
        return Err(bad(format!("tensor {name}.lora_a: the model has no tensor {name}")));
    };
    let &[n_in, n_out] = w.used_dims() else {
        let message =
            format!("tensor {name}: adapters change matrices, found dimensions {:?}", w.used_dims());
        return Err(Error::new(ErrorKind::Unsupported, message));
    };
    // a rank of 1 is a dimension that files leave out
    let ([a_in, rank, 1, 1], [b_rank, b_out, 1, 1]) = (a.dims, b.dims) else {
        return Err(bad(format!(
            "tensor {name}: expected two matrices, found {:?} and {:?}",
            a.dims, b.dims
        )));
    };
    if (a_in, b_out) != (n_in, n_out) || rank != b_rank || rank > MAX_RANK {
        return Err(bad(format!(
            "tensor {name}: expected lora_a [{n_in}, rank] and lora_b [rank, {n_out}], found {:?} and {:?}",
            &a.dims[..2],
            &b.dims[..2]
        )));
    }
    let scale = if alpha == 0.0 { 1.0 } else { alpha / rank as f32 };
    Ok(Pair { base: Arc::clone(&w.name), a: a.clone(), b: b.clone(), rank, scale })
}
