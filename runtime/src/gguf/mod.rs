//! GGUF model files: mapped, proven sane, then used in place.
//!
//! A model file comes from anywhere, so every count, length, offset, type and size in it is checked with
//! checked arithmetic before it is used or sizes an allocation; what this module hands out needs no further
//! bounds check. Errors name the file, the offset and the field.
//!
//! Opening costs a walk over the header: time and memory grow with the number of keys and tensors and, for
//! time only, with the length of string arrays; never with the weights. Nothing here helps when the file is
//! truncated while it is mapped: the process gets `SIGBUS` (see `backing`).
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod backing;
mod cursor;
mod file;
mod hash;
mod header;
mod metadata;
mod split;
mod summary;
mod tensor;
mod types;
mod value;
mod writer;

pub use file::GgufFile;
pub use hash::sha256_file;
pub use metadata::Metadata;
pub use summary::{Pair, Summary, TensorLine, TypeTotal};
pub use tensor::{Bytes, Tensor};
pub use types::GgmlType;
pub use value::{Array, StrArray, Value, ValueType};
pub use writer::{Element, Encode, GgufWriter, RawStr};
