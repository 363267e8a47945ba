//! An opened model: the mapped file and what was found in it.

use super::arch;
use super::context::ModelShape;
use super::spec::ModelSpec;
use crate::error::{Error, ErrorKind, Result};
use crate::gguf::GgufFile;
use crate::vocab::Vocab;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// How to open a model.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ModelOptions {}

/// A model file, mapped and proven sane: its architecture and weights (still in the file) and its chat
/// template. Nothing is read that is proportional to the weights. Shared by all contexts.
#[derive(Debug)]
pub struct Model {
    file: GgufFile,
    spec: Arc<ModelSpec>,
    /// The spec for contexts longer than those of `spec`, where rotary factors depend on it (LongRoPE).
    long: Option<Arc<ModelSpec>>,
    vocab: Vocab,
    /// Hash of the header, computed when first asked for.
    id: OnceLock<String>,
}

impl Model {
    /// Opens the model at `path`; of a split model, any part.
    /// # Errors  `Io` if the file cannot be read; `BadFile` if it is damaged, naming offset and key or
    /// tensor; `Unsupported` for architectures and types that are not there.
    pub fn open(path: impl AsRef<Path>, options: &ModelOptions) -> Result<Arc<Self>> {
        Self::from_gguf(GgufFile::open(path.as_ref())?, options)
    }

    /// As [`Model::open`], of a file that is already mapped: an asset inside an archive, or bytes.
    /// # Errors  `BadFile`, `Unsupported`.
    pub fn from_gguf(file: GgufFile, _options: &ModelOptions) -> Result<Arc<Self>> {
        let spec = arch::build(&file, 0)?;
        let has_long = file.tensor(arch::LONG_FACTORS).is_some();
        let long = has_long.then(|| arch::build(&file, usize::MAX).map(Arc::new)).transpose()?;
        let vocab = Vocab::from_gguf(&file)?;
        if vocab.len() > spec.n_vocab {
            let message =
                format!("tokenizer: expected at most {} tokens, found {}", spec.n_vocab, vocab.len());
            return Err(Error::new(ErrorKind::BadFile, message));
        }
        Ok(Arc::new(Self { spec: Arc::new(spec), long, vocab, id: OnceLock::new(), file }))
    }

    /// The architecture, for contexts up to the length the model was first trained for.
    pub fn spec(&self) -> &Arc<ModelSpec> {
        &self.spec
    }

    /// The architecture for contexts of `n_ctx` tokens.
    pub fn spec_for(&self, n_ctx: usize) -> &Arc<ModelSpec> {
        let n_ctx_orig = self.spec.layers.iter().find_map(|l| Some(l.attn.rope.as_ref()?.n_ctx_orig));
        self.long.as_ref().filter(|_| n_ctx_orig.is_some_and(|orig| n_ctx > orig)).unwrap_or(&self.spec)
    }

    /// Sizes a context needs.
    pub fn shape(&self) -> ModelShape {
        let spec = &self.spec;
        ModelShape { n_vocab: spec.n_vocab, n_embd: spec.n_embd, n_layer: spec.layers.len() }
    }

    /// The file and its metadata.
    pub fn file(&self) -> &GgufFile {
        &self.file
    }

    /// The vocabulary.
    pub fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    /// Identity of the file, lower-case hex: a hash of its header, not of the weights.
    pub fn id(&self) -> &str {
        self.id.get_or_init(|| self.file.content_id().iter().map(|b| format!("{b:02x}")).collect())
    }

    /// Source of the chat template, if there is one.
    /// # Errors  `BadFile` if it is not a string of UTF-8.
    pub fn template(&self) -> Result<Option<&str>> {
        self.file.metadata().str("tokenizer.chat_template")
    }
}
