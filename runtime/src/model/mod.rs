//! Models: what an architecture is, and the contract between context and executor.

mod executor;
pub mod spec;

pub use executor::{CancelFlag, Executor, ExecutorOptions, KvType, PAGE_TOKENS, Span, Step, StepOut};
pub use spec::ModelSpec;
