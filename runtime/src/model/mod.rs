//! Models: what an architecture is, and the contract between context and executor.

mod branch;
mod context;
mod executor;
mod kv;
pub mod spec;

pub use branch::Branch;
pub use context::{Context, ModelShape};
pub use executor::{CancelFlag, Executor, ExecutorOptions, KvType, PAGE_TOKENS, Span, Step, StepOut};
pub use spec::ModelSpec;
