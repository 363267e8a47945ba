//! The ggml executor: one graph for every architecture, on the CPU or on a GPU that ggml drives.
//!
//! Why: ggml has a kernel for every quantisation and backends for GPUs; this module gives it the forward pass
//! that a [`ModelSpec`](crate::model::ModelSpec) describes. Operations follow the order in which llama.cpp
//! builds the same architectures, so on the same instruction set results are mostly the same bits.
//!
//! Cost: weights are used where they are mapped. A graph is built once for each shape (rows, cells, outputs,
//! taps) and reused; a decode step builds nothing and allocates nothing. Keys and values take memory as they
//! are written. Intermediate results grow with rows times width, masks with rows times cells.
//!
//! Loses when: branches with long private pasts share a step, for attention looks at the mask of every cell
//! up to the last used one; the native executor reads only a branch's own pages. And ggml's sums depend on
//! the number of rows and, beyond 512 cells, on the number of threads, so bitwise equality over batches and
//! thread counts is the native executor's promise, not this one's.

#![allow(unsafe_code)]

mod attention;
mod executor;
mod ffn;
mod graph;
mod head;
mod inputs;
mod weights;

#[cfg(test)]
mod tests;

pub use executor::{GgmlExecutor, GgmlOptions};
pub use truing_ggml::{Device, DeviceKind};

use crate::error::{Error, ErrorKind};

impl From<truing_ggml::Error> for Error {
    fn from(e: truing_ggml::Error) -> Self {
        let kind = match e.kind() {
            truing_ggml::ErrorKind::Unsupported | truing_ggml::ErrorKind::Invalid => ErrorKind::Unsupported,
            truing_ggml::ErrorKind::OutOfMemory => ErrorKind::OutOfMemory,
            _ => ErrorKind::Backend,
        };
        Error::new(kind, e.to_string())
    }
}
