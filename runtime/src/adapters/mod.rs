//! What is added to a model while it computes: LoRA adapters to its matrices, control vectors to its states.
//!
//! The weights in the file stay as they are, so several adapters share one model, each request has its own
//! weights for them (a row of a mixing table), and changing them costs nothing but the keys and values that
//! were computed before. Cost per token: a LoRA of rank `r` on a matrix `[n_in, n_out]` takes `r·(n_in + n_out)`
//! multiplications, a control vector `n_embd` a layer. A weight of 0 is skipped, bit for bit.
//!
//! It loses against a merged model when one adapter is always on: merging costs nothing per token. Keys, values
//! and probes belong to the weights they were made under: see [`steering_id`].

mod control;
mod lora;

pub use control::{ControlVector, MEASURED_LAYER};
pub use lora::{Lora, Pair};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::gguf::GgufFile;
use sha2::{Digest, Sha256};
use std::path::Path;

/// Most adapters of a context: their weights are looked at for every row.
pub const MAX_ADAPTERS: usize = 64;

/// A LoRA adapter or a control vector, proven to fit its model.
#[derive(Debug)]
pub struct Adapter {
    /// What it adds.
    pub kind: AdapterKind,
    /// Hash of its tensors, lower-case hex.
    pub id: String,
}

/// What an adapter adds.
#[derive(Debug)]
pub enum AdapterKind {
    /// Low-rank changes of matrices.
    Lora(Lora),
    /// A direction for each of some layers.
    Control(ControlVector),
}

impl Adapter {
    /// Reads an adapter for the model in `base`: LoRA (`general.type = "adapter"`) or control vector
    /// (`general.architecture = "controlvector"`).
    /// # Errors `Io`; `BadFile` naming the key or tensor that is missing, misshapen or made for another base;
    /// `Unsupported` for kinds of adapters that are not there.
    pub fn open(path: &Path, base: &GgufFile) -> Result<Self> {
        Self::read(&GgufFile::open(path)?, base).at(|| path.display().to_string())
    }

    /// As [`Adapter::open`], of bytes.
    /// # Errors As there.
    pub fn from_bytes(name: &str, bytes: &[u8], base: &GgufFile) -> Result<Self> {
        Self::read(&GgufFile::from_bytes(name, bytes)?, base).at(|| name.to_owned())
    }

    fn read(file: &GgufFile, base: &GgufFile) -> Result<Self> {
        let meta = file.metadata();
        let kind = match (meta.str("general.type")?, meta.str("general.architecture")?) {
            (_, Some(control::ARCHITECTURE)) => AdapterKind::Control(ControlVector::read(file, base)?),
            (Some("adapter"), _) => AdapterKind::Lora(Lora::read(file, base)?),
            (kind, architecture) => {
                let (kind, architecture) = (kind.unwrap_or("none"), architecture.unwrap_or("none"));
                return Err(bad(format!(
                    "expected general.type adapter or general.architecture controlvector, found {kind} and \
                     {architecture}"
                )));
            }
        };
        Ok(Self { kind, id: hash(file) })
    }

    /// Whether it is a control vector.
    pub fn is_control(&self) -> bool {
        matches!(self.kind, AdapterKind::Control(_))
    }
}

fn hash(file: &GgufFile) -> String {
    let mut tensors: Vec<_> = file.tensors().collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let mut hash = Sha256::new();
    for t in tensors {
        hash.update((t.name.len() as u64).to_le_bytes());
        hash.update(t.name.as_bytes());
        hash.update((t.ty as u32).to_le_bytes());
        hash.update((t.data.len() as u64).to_le_bytes());
        hash.update(&t.data[..]);
    }
    if let Ok(Some(alpha)) = file.metadata().f32("adapter.lora.alpha") {
        hash.update(alpha.to_le_bytes());
    }
    crate::guard::identity::hex(hash)
}

/// Identity of what is added under `weights` (one for each adapter): what keys, values and probes were made for.
/// Empty if nothing is added. The order of adapters does not count.
pub fn steering_id<'a>(weighted: impl IntoIterator<Item = (&'a Adapter, f32)>) -> String {
    let mut active: Vec<(&str, u32)> =
        weighted.into_iter().filter(|(_, w)| *w != 0.0).map(|(a, w)| (a.id.as_str(), w.to_bits())).collect();
    if active.is_empty() {
        return String::new();
    }
    active.sort_unstable();
    let mut hash = Sha256::new();
    for (id, weight) in active {
        hash.update(id.as_bytes());
        hash.update(weight.to_le_bytes());
    }
    crate::guard::identity::hex(hash)
}

/// Checks the weights of one request for `n` adapters.
/// # Errors `InvalidArgument`.
pub fn check_weights(weights: &[f32], n: usize) -> Result<()> {
    if weights.len() == n && weights.iter().all(|w| w.is_finite()) {
        return Ok(());
    }
    let message = format!("adapters: expected {n} finite weights, found {weights:?}");
    Err(Error::new(ErrorKind::InvalidArgument, message))
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::BadFile, message)
}
