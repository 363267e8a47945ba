//! The cache folder: where a model's file is, and who may change it.
//!
//! `models/FILE` holds finished files only, `partial/NAME/` what a running or interrupted pull has so far,
//! `locks/NAME.lock` is held (by the operating system, so a dead process holds nothing) while one changes.

use super::catalog::{Catalog, Entry};
use super::client::PACKAGE_CLIENTS;
use crate::error::{Error, ErrorKind, Result};
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

/// A cache folder and what a pull may use beside it.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    pub(super) env: fn(&str) -> Option<OsString>,
    pub(super) package_clients: &'static [&'static [&'static str]],
}

/// Where a model is.
#[derive(Clone, Debug)]
pub enum Located {
    /// Here: a path the user gave, or the cache.
    File(PathBuf),
    /// In the catalog, not yet in the cache.
    Absent(Box<Entry>),
}

/// A catalog model and its place in the cache.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The model.
    pub entry: Entry,
    /// Its file, if it is in the cache.
    pub path: Option<PathBuf>,
}

/// What `rm` removed.
#[derive(Clone, Debug)]
pub struct Removed {
    /// The file that is gone.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// Takes the lock unless somebody keeps it: a process that is just being started holds a copy of every open
/// file for an instant, so one refusal means nothing.
fn lock_soon(lock: &File) -> bool {
    for attempt in 0..20 {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => {
                std::thread::sleep(std::time::Duration::from_millis(5 * (attempt + 1)));
            }
            _ => return true,
        }
    }
    false
}

impl Store {
    /// The cache of this user, as the environment says. Creates nothing.
    /// # Errors  `Io` if no variable tells where it should be.
    pub fn from_env() -> Result<Self> {
        let root = root(|key| std::env::var_os(key)).ok_or_else(|| {
            Error::new(ErrorKind::Io, "no cache folder: neither TRUING_HOME nor a home folder is set")
        })?;
        Ok(Self::at(root))
    }

    /// A cache in `root`, for tests and hosts with a place of their own.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), env: |key| std::env::var_os(key), package_clients: PACKAGE_CLIENTS }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the file of a model is or will be.
    pub fn path(&self, entry: &Entry) -> PathBuf {
        self.root.join("models").join(&entry.file)
    }

    /// The file of a model, if it is there with its right size. The hash was checked when it came and is not
    /// computed again: that would cost more than loading.
    pub fn cached(&self, entry: &Entry) -> Option<PathBuf> {
        let path = self.path(entry);
        let meta = fs::metadata(&path).ok()?;
        (meta.is_file() && meta.len() == entry.size_bytes).then_some(path)
    }

    pub(super) fn locate(&self, entry: &Entry) -> Result<Located> {
        Ok(match self.cached(entry) {
            Some(path) => Located::File(path),
            None => Located::Absent(Box::new(entry.clone())),
        })
    }

    /// All models of `catalog`, with their files.
    pub fn list(&self, catalog: &Catalog) -> Vec<Listed> {
        let listed = |entry: &Entry| Listed { path: self.cached(entry), entry: entry.clone() };
        catalog.models.iter().map(listed).collect()
    }

    /// Removes a model.
    /// # Errors  `Io` if it is not there, is being fetched, or cannot be removed.
    pub fn rm(&self, entry: &Entry) -> Result<Removed> {
        let path = self.path(entry);
        let Ok(meta) = fs::symlink_metadata(&path) else {
            return Err(Error::new(ErrorKind::Io, format!("{} is not in the cache", entry.name)));
        };
        let lock = self.lock_file(entry)?;
        if !lock_soon(&lock) {
            return Err(Error::new(ErrorKind::Io, format!("{} is being fetched right now", entry.name)));
        }
        fs::remove_file(&path).map_err(|e| io("remove", &path, e))?;
        Ok(Removed { path, bytes: meta.len() })
    }

    /// The folder for a pull of `entry`; only the holder of its lock may touch it.
    pub(super) fn partial(&self, entry: &Entry) -> PathBuf {
        self.root.join("partial").join(&entry.name)
    }

    /// Opens the lock file of a model. The lock goes with the returned file.
    pub(super) fn lock_file(&self, entry: &Entry) -> Result<File> {
        let folder = self.root.join("locks");
        create_folder(&folder)?;
        let path = folder.join(format!("{}.lock", entry.name));
        File::options().write(true).create(true).truncate(false).open(&path).map_err(|e| io("open", &path, e))
    }
}

/// A path the user gave, or the error that says what names there are.
pub(super) fn locate_path(catalog: &Catalog, text: &str) -> Result<Located> {
    let path = Path::new(text);
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => {
            Err(Error::new(ErrorKind::InvalidArgument, "expected a model file, found a folder").at(text))
        }
        Ok(_) => Ok(Located::File(path.to_path_buf())),
        Err(e) if looks_like_path(text) => Err(io("open", path, e)),
        Err(_) => catalog.require(text).map(|entry| Located::Absent(Box::new(entry.clone()))),
    }
}

fn looks_like_path(text: &str) -> bool {
    text.contains(['/', '\\']) || text.to_ascii_lowercase().ends_with(".gguf")
}

pub(super) fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| io("create", path, e))
}

pub(super) fn io(what: &str, path: &Path, e: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot {what} {}", path.display())).because(e)
}

/// The cache folder the environment asks for. An empty variable counts as unset.
fn root(env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let get = |key: &str| env(key).filter(|v| !v.is_empty()).map(PathBuf::from);
    let platform = || {
        if cfg!(windows) {
            get("LOCALAPPDATA").map(|p| p.join("truing"))
        } else if cfg!(target_os = "macos") {
            get("HOME").map(|p| p.join("Library/Caches/truing"))
        } else {
            // The XDG specification says that a relative path there is to be ignored.
            let xdg = get("XDG_CACHE_HOME").filter(|p| p.is_absolute());
            xdg.or_else(|| get("HOME").map(|p| p.join(".cache"))).map(|p| p.join("truing"))
        }
    };
    get("TRUING_HOME").or_else(platform)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_cache_folder_follows_the_environment() {
        type Case = (&'static [(&'static str, &'static str)], Option<&'static str>);
        let cases: [Case; 6] = [
            (&[("TRUING_HOME", "/t"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")], Some("/t")),
            (&[("TRUING_HOME", ""), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")], Some("/x/truing")),
            (&[("XDG_CACHE_HOME", "rel"), ("HOME", "/h")], Some("/h/.cache/truing")),
            (&[("HOME", "/h")], Some("/h/.cache/truing")),
            (&[("HOME", "")], None),
            (&[], None),
        ];
        for (vars, expected) in cases {
            let get = |key: &str| vars.iter().find(|(k, _)| *k == key).map(|(_, v)| OsString::from(v));
            assert_eq!(root(get), expected.map(PathBuf::from), "{vars:?}");
        }
    }

    #[test]
    fn a_path_is_a_path_and_a_name_is_a_name() {
        let catalog = Catalog::builtin().unwrap();
        let here = file!().rsplit('/').next().unwrap();
        let message = |text: &str| locate_path(catalog, text).unwrap_err().to_string();
        assert!(matches!(locate_path(catalog, "Cargo.toml").unwrap(), Located::File(_)));
        assert!(message("no/such.gguf").contains("cannot open no/such.gguf"));
        assert!(message("gone.gguf").contains("cannot open"));
        assert!(message("src").contains("found a folder"));
        assert!(message(here).contains("The catalog has: smollm2"));
    }
}
