//! Models: what an architecture is, and the contract between context and executor.

mod arch;
mod branch;
mod context;
mod executor;
mod kv;
mod open;
mod options;
mod saved;
pub mod spec;

pub use arch::supported as supported_architectures;
pub use branch::Branch;
pub use context::{Context, ModelShape};
pub use executor::{CancelFlag, Executor, ExecutorOptions, Gate, KvType, PAGE_TOKENS, Span, Step, StepOut};
pub use open::{Model, ModelOptions};
pub use options::{ContextOptions, ExecutorKind};
pub use spec::ModelSpec;
