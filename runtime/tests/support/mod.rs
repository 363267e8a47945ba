//! What several test programs share.

mod dequant;
pub mod reference;
pub mod tiny;
