//! The C interface of truing: checks what a caller hands over, runs it in a guard, delegates.
//!
//! `include/truing.h` is generated from this crate and is the documentation for callers; see there for ownership and
//! threads. Nothing here is global but the text of a thread's last failure. Every export runs in [`handle::guard`]: no
//! panic passes the border, and one poisons its handle.
#![allow(unsafe_code, reason = "a C interface is pointers")]
#![allow(non_camel_case_types, reason = "types have the names that C sees")]

mod cancel;
mod context;
mod generate;
mod guards;
mod handle;
mod log;
mod model;
mod probe;
mod profile;
mod rewards;
mod saved;
mod session;
mod status;
mod text;
mod version;
mod vocab;

pub use cancel::*;
pub use context::*;
pub use generate::*;
pub use guards::*;
pub use log::{TRUING_LOG_INFO, TRUING_LOG_WARNING, truing_log_fn};
pub use model::*;
pub use probe::*;
pub use profile::truing_session_options;
pub use rewards::*;
pub use saved::*;
pub use session::*;
pub use status::*;
pub use version::*;
pub use vocab::*;
