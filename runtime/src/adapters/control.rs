//! Control vectors in llama.cpp's format: a direction for each of some layers, added to the residual stream after
//! the layer, at every position.
//!
//! GGUF with `general.architecture = "controlvector"` and tensors `direction.<k>`, f32 `[n_embd]`, `k` at least 1.
//! Without more, `direction.k` is added after the layer of number `k`, counted from 0, as llama.cpp does. Its
//! generator stores the difference that it measured after layer `j` as `direction.(j+1)`; others store where they
//! measured. Files written here say so by a key, [`MEASURED_LAYER`]: the layers, in order of `k`, after which each
//! direction was measured, and there it is added.

use super::bad;
use crate::error::Result;
use crate::gguf::{GgmlType, GgufFile, GgufWriter, Tensor};
use std::path::Path;

/// `general.architecture` of such files.
pub const ARCHITECTURE: &str = "controlvector";
/// Key of the layers after which the directions were measured.
pub const MEASURED_LAYER: &str = "truing.cvec.measured_layer";

/// Directions that fit a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlVector {
    /// Layer (from 0) and what is added after it, `[n_embd]`; ascending layers.
    pub directions: Vec<(u32, Vec<f32>)>,
}

impl ControlVector {
    pub(super) fn read(file: &GgufFile, base: &GgufFile) -> Result<Self> {
        let architecture = base.metadata().require_str("general.architecture")?;
        let hint = file.metadata().str("controlvector.model_hint")?.filter(|hint| !hint.is_empty());
        if hint.is_some_and(|hint| hint != architecture) {
            return Err(bad(format!(
                "controlvector.model_hint: expected {architecture:?}, the model's, found {hint:?}"
            )));
        }
        let number = |key: &str| base.metadata().require_u32(&format!("{architecture}.{key}"));
        let (n_embd, n_layer) = (number("embedding_length")? as usize, number("block_count")?);
        let mut found: Vec<(u32, &Tensor)> =
            file.tensors().map(|t| Ok((layer_of(t)?, t))).collect::<Result<_>>()?;
        found.sort_unstable_by_key(|(k, _)| *k);
        let measured = file.metadata().u32_array(MEASURED_LAYER)?;
        if measured.as_ref().is_some_and(|m| m.len() != found.len() || !m.is_sorted_by(|a, b| a < b)) {
            return Err(bad(format!(
                "{MEASURED_LAYER}: expected {} ascending layers, found {measured:?}",
                found.len()
            )));
        }
        let mut directions = Vec::with_capacity(found.len());
        for (i, (k, tensor)) in found.into_iter().enumerate() {
            let layer = measured.as_ref().map_or(k, |m| m[i]);
            if layer >= n_layer {
                return Err(bad(format!(
                    "tensor {}: expected a layer below {n_layer}, found {layer}",
                    tensor.name
                )));
            }
            directions.push((layer, values(tensor, n_embd)?));
        }
        match directions.is_empty() {
            true => Err(bad("expected tensors named direction.1 and so on, found none")),
            false => Ok(Self { directions }),
        }
    }

    /// Writes the file, whole or not at all; layers of 0 cannot be stored.
    /// # Errors `Io`; `InvalidArgument` for texts and layers that do not fit the format.
    pub fn save(&self, path: &Path, architecture: &str) -> Result<()> {
        self.writer(architecture)?.save(path)
    }

    /// The file in memory.
    /// # Errors `InvalidArgument` as for [`ControlVector::save`].
    pub fn to_bytes(&self, architecture: &str) -> Result<Vec<u8>> {
        Ok(self.writer(architecture)?.to_bytes())
    }

    fn writer(&self, architecture: &str) -> Result<GgufWriter<'static>> {
        let layers: Vec<u32> = self.directions.iter().map(|(layer, _)| *layer).collect();
        if layers.first() == Some(&0) {
            return Err(crate::error::Error::new(
                crate::error::ErrorKind::InvalidArgument,
                "expected layers above 0: the format has no place for the first",
            ));
        }
        let mut w = GgufWriter::new();
        w.set("general.architecture", ARCHITECTURE)?;
        w.set("controlvector.model_hint", architecture)?;
        w.set("controlvector.layer_count", &(self.directions.len() as u32))?;
        w.set(MEASURED_LAYER, &layers[..])?;
        for (layer, values) in &self.directions {
            w.tensor_f32(&format!("direction.{layer}"), &[values.len()], values)?;
        }
        Ok(w)
    }
}

/// The number in `direction.<k>`.
fn layer_of(t: &Tensor) -> Result<u32> {
    let number = t.name.strip_prefix("direction.").and_then(|k| k.parse::<u32>().ok()).filter(|k| *k > 0);
    number.ok_or_else(|| bad(format!("tensor {}: expected direction.1, direction.2 and so on", t.name)))
}

fn values(t: &Tensor, n_embd: usize) -> Result<Vec<f32>> {
    if t.ty != GgmlType::F32 || t.used_dims() != [n_embd] || t.data.len() != 4 * n_embd {
        let found = format!("{} {:?}", t.ty, t.used_dims());
        return Err(bad(format!("tensor {}: expected f32 [{n_embd}], found {found}", t.name)));
    }
    let values: Vec<f32> =
        t.data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    match values.iter().find(|v| !v.is_finite()) {
        Some(v) => Err(bad(format!("tensor {}: expected finite numbers, found {v}", t.name))),
        None => Ok(values),
    }
}
