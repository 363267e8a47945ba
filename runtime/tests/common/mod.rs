//! What integration tests share.
#![allow(dead_code, clippy::panic)] // each test binary uses a part

use std::path::PathBuf;

/// The file of a catalog model, fetched into the cache if it is not there yet.
pub fn real_model(name: &str) -> PathBuf {
    truing::models::resolve_or_pull(name, &mut truing::models::Quiet)
        .unwrap_or_else(|e| panic!("this test needs the model {name}: {e}"))
}
