//! What a probe or vector was made for: it means nothing for anything else.
//!
//! The model's hash covers names, types and shapes of all tensors, and the data of each: whole if it is small
//! (norms and biases, which every kind of training changes), and its beginning, middle and end if it is
//! large. So a model is told from its fine-tunes and quantisations without reading all weights at start-up:
//! a millisecond or two, whatever the size. It does not notice a change of single weights in the middle of a
//! large matrix; that is a check against mistakes, not against someone who rewrites the model.

use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;
use sha2::{Digest, Sha256};

/// Bytes hashed at each of three places of a large tensor; tensors of up to three times this are hashed whole.
const SAMPLE_BYTES: usize = 4096;

/// Hashes, lower-case hex.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Of the weights.
    pub model: String,
    /// Of all token texts and kinds.
    pub tokenizer: String,
    /// Of the chat template.
    pub template: String,
    /// Of active adapters and control vectors; empty without.
    pub steering: String,
}

impl Identity {
    /// Of a model under a chat template and the adapters that are active.
    pub fn of(model: &Model, template: &str, steering: &str) -> Self {
        Self {
            model: model_hash(model),
            tokenizer: tokenizer_hash(model),
            template: hex(Sha256::new().chain_update(template)),
            steering: steering.to_owned(),
        }
    }

    /// Whether what was made for `self` may be used with `other`.
    /// # Errors `ProbeMismatch` naming what differs.
    pub fn check(&self, other: &Self) -> Result<()> {
        let pairs = [
            ("model", &self.model, &other.model),
            ("tokenizer", &self.tokenizer, &other.tokenizer),
            ("chat template", &self.template, &other.template),
            ("set of adapters", &self.steering, &other.steering),
        ];
        match pairs.into_iter().find(|(_, made_for, found)| made_for != found) {
            None => Ok(()),
            Some((what, made_for, found)) => Err(Error::new(
                ErrorKind::ProbeMismatch,
                format!(
                    "it was made for another {what}: expected {}, found {}; train it for this one",
                    short(made_for),
                    short(found)
                ),
            )),
        }
    }
}

fn short(hash: &str) -> &str {
    match hash.get(..12).unwrap_or(hash) {
        "" => "none",
        part => part,
    }
}

fn model_hash(model: &Model) -> String {
    let mut hash = Sha256::new();
    let mut tensors: Vec<_> = model.file().tensors().collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    for t in tensors {
        hash.update((t.name.len() as u64).to_le_bytes());
        hash.update(t.name.as_bytes());
        hash.update((t.ty as u32).to_le_bytes());
        t.used_dims().iter().for_each(|d| hash.update((*d as u64).to_le_bytes()));
        for part in sampled(&t.data) {
            hash.update(part);
        }
    }
    hex(hash)
}

/// The parts of a tensor's data that are hashed.
fn sampled(data: &[u8]) -> [&[u8]; 3] {
    let n = data.len();
    if n <= 3 * SAMPLE_BYTES {
        return [data, &[], &[]];
    }
    let middle = (n - SAMPLE_BYTES) / 2;
    [&data[..SAMPLE_BYTES], &data[middle..middle + SAMPLE_BYTES], &data[n - SAMPLE_BYTES..]]
}

fn tokenizer_hash(model: &Model) -> String {
    let vocab = model.vocab();
    let mut hash = Sha256::new();
    for id in 0..vocab.len() as crate::TokenId {
        let text = vocab.token_text(id);
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
        hash.update([u8::from(vocab.is_eog(id)), u8::from(vocab.token_bytes(id).is_empty())]);
    }
    hex(hash)
}

/// A finished hash as lower-case hex.
pub fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}
