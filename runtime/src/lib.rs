//! truing: an embedded, on-device runtime for aligned generation.
//!
//! It memory-maps quantised GGUF models and makes them do what the caller asked while they decode.

pub mod adapters;
pub mod align;
#[cfg(feature = "ggml")]
pub mod backend;
pub mod config;
pub mod engine;
pub mod error;
pub mod eval;
pub mod gguf;
pub mod grammar;
pub mod guard;
pub mod kernels;
pub mod model;
pub mod models;
pub mod native;
#[cfg(any(test, feature = "oracles"))]
pub mod oracles;
pub mod reward;
pub mod sampling;
pub mod search;
pub mod session;
pub mod steer;
pub mod template;
pub mod token;
pub mod vocab;

pub use error::{Error, ErrorKind, Result};
pub use token::{TokenId, TokenSet};
