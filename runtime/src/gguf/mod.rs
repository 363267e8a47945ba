//! GGUF files, memory-mapped and validated before anything is used.

mod tensor;
mod types;

pub use tensor::{Bytes, Tensor};
pub use types::GgmlType;
