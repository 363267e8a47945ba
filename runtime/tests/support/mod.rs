//! What several test programs share.
#![allow(dead_code, reason = "each uses a part")]

mod dequant;
pub mod real;
pub mod reference;
pub mod tiny;
