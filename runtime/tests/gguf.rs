//! Opening model files: split ones, ranges, what is no file, and headers that lie in ways of their own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what must hold by unwrapping it")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use truing::gguf::{GgmlType, GgufFile, GgufWriter, Value};
use truing::{Error, ErrorKind};

/// A folder of its own that is removed with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("truing-gguf-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The error of `outcome`, which must be of `kind` and say all of `words`.
fn refused(outcome: Result<GgufFile, Error>, kind: ErrorKind, words: &[&str]) -> Error {
    let e = outcome.map(drop).unwrap_err();
    let text = e.to_string();
    assert_eq!(e.kind(), kind, "{text}");
    assert!(words.iter().all(|w| text.contains(w)), "{words:?} in: {text}");
    e
}

/// Part `no` of a model split into `count`, with `tensors`, each of one value.
fn part(no: u16, count: u16, n_tensors: i32, tensors: &[&str]) -> GgufWriter<'static> {
    let mut w = GgufWriter::new();
    if no == 0 {
        w.set("general.architecture", "test").unwrap();
    }
    w.set("split.no", &no).unwrap();
    w.set("split.count", &count).unwrap();
    w.set("split.tensors.count", &n_tensors).unwrap();
    for name in tensors {
        w.tensor_f32(name, &[1], &[f32::from(no)]).unwrap();
    }
    w
}

fn three_parts(folder: &Scratch) -> [PathBuf; 3] {
    let parts = [part(0, 3, 4, &["a"]), part(1, 3, 4, &["b", "c"]), part(2, 3, 4, &["d"])];
    let paths = [1, 2, 3].map(|n| folder.path(&format!("m-0000{n}-of-00003.gguf")));
    parts.iter().zip(&paths).for_each(|(w, path)| w.save(path).unwrap());
    paths
}

#[test]
fn any_part_of_a_split_model_opens_all_of_it() {
    let folder = Scratch::new("split");
    let mut ids = Vec::new();
    for path in three_parts(&folder) {
        let file = GgufFile::open(&path).unwrap();
        assert_eq!((file.n_shards(), file.path()), (3, &*path));
        assert_eq!(file.metadata().require_str("general.architecture").unwrap(), "test");
        let found: Vec<_> = file.tensors().map(|t| (&*t.name, t.as_f32().unwrap()[0])).collect();
        assert_eq!(found, [("a", 0.0), ("b", 1.0), ("c", 1.0), ("d", 2.0)]);
        ids.push(file.content_id());
    }
    assert!(ids.windows(2).all(|w| w[0] == w[1]));
}

#[test]
fn a_split_model_that_does_not_fit_together_is_refused() {
    let folder = Scratch::new("odd-split");
    let [one, two, three] = three_parts(&folder);
    let check = |kind, words: &[&str]| drop(refused(GgufFile::open(&one), kind, words));

    fs::rename(&two, folder.path("away")).unwrap();
    check(ErrorKind::Io, &["part 2 of the 3", "m-00002-of-00003.gguf"]);
    for (odd, words) in [
        (part(1, 4, 4, &["b", "c"]), &["m-00002-of-00003.gguf", "split.count", "expected 3", "found 4"][..]),
        (part(2, 3, 4, &["b", "c"]), &["m-00002-of-00003.gguf", "split.no", "expected 1", "found 2"]),
        (part(1, 3, 4, &["b", "a"]), &["duplicate tensor", "'a'"]),
        (part(1, 3, 4, &["b"]), &["split.tensors.count", "expected 4", "found 3"]),
    ] {
        odd.save(&two).unwrap();
        check(ErrorKind::BadFile, words);
    }
    fs::rename(folder.path("away"), &two).unwrap();
    assert!(GgufFile::open(&one).is_ok());

    let renamed = folder.path("other.gguf");
    fs::copy(&three, &renamed).unwrap();
    refused(
        GgufFile::open(&renamed),
        ErrorKind::BadFile,
        &["part 3 of 3", "-00003-of-00003.gguf", "other.gguf"],
    );
    let bytes = fs::read(&one).unwrap();
    refused(GgufFile::from_bytes("m", &bytes), ErrorKind::Unsupported, &["split into 3"]);
    part(3, 3, 4, &["b"]).save(&two).unwrap();
    refused(GgufFile::open(&two), ErrorKind::BadFile, &["split.no", "below split.count 3", "found 3"]);
}

#[test]
fn a_whole_model_may_have_the_name_of_a_part() {
    let folder = Scratch::new("part-name");
    let path = folder.path("m-00001-of-00001.gguf");
    part(0, 1, 1, &["a"]).save(&path).unwrap();
    assert_eq!(GgufFile::open(&path).unwrap().n_shards(), 1);
    let path = folder.path("m-00001-of-00007.gguf");
    GgufWriter::new().save(&path).unwrap();
    assert_eq!(GgufFile::open(&path).unwrap().n_shards(), 1);
}

#[test]
fn a_range_of_a_file_opens_in_place() {
    let folder = Scratch::new("range");
    let mut w = GgufWriter::new();
    w.set("text", "inside").unwrap();
    w.tensor_f32("t", &[2], &[1.0, 2.0]).unwrap();
    let model = w.to_bytes();
    let path = folder.path("package");
    for lead in [0, 4, 64, 65_536, 131_076] {
        let mut package = vec![0xaa; lead];
        package.extend(&model);
        package.extend([0xbb; 100]);
        fs::write(&path, &package).unwrap();
        let file = File::open(&path).unwrap();
        let open = |offset, len| GgufFile::from_file_range("asset", &file, offset, len);
        let opened = open(lead as u64, model.len() as u64).unwrap();
        assert_eq!(opened.tensor("t").unwrap().as_f32(), Some(&[1.0, 2.0][..]), "at {lead}");
        assert_eq!(opened.metadata().require_str("text").unwrap(), "inside");
        assert_eq!((opened.size_bytes(), opened.path()), (model.len() as u64, Path::new("asset")));
        assert_eq!(opened.tensor("t").unwrap().data.region().as_ptr() as usize % 4096, 0);
        refused(open(lead as u64, model.len() as u64 - 25), ErrorKind::BadFile, &["asset", "'t'", "end"]);
        refused(open(lead as u64, package.len() as u64 + 1), ErrorKind::Io, &["asset"]);
        refused(open(u64::MAX - 3, 100), ErrorKind::Io, &["asset"]);
        refused(open(lead as u64 + 1, 10), ErrorKind::InvalidArgument, &["multiple of 4"]);
        refused(open(lead as u64, 0), ErrorKind::BadFile, &["magic", "truncated"]);
    }
}

#[test]
fn what_is_no_model_file_is_said_to_be_none() {
    let folder = Scratch::new("no-file");
    refused(GgufFile::open(&folder.path("gone.gguf")), ErrorKind::Io, &["gone.gguf"]);
    refused(GgufFile::open(&folder.0), ErrorKind::Io, &["folder"]);
    fs::write(folder.path("empty"), "").unwrap();
    refused(GgufFile::open(&folder.path("empty")), ErrorKind::BadFile, &["empty", "magic"]);
    #[cfg(unix)]
    {
        refused(GgufFile::open(Path::new("/dev/null")), ErrorKind::Io, &["/dev/null", "device"]);
        let socket = folder.path("s");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        refused(GgufFile::open(&socket), ErrorKind::Io, &["device or pipe"]);
    }
}

/// A header with one pair, whose value (from its type on) is `value`.
fn with_value(value: &[u8]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend([0u64, 1, 1].map(u64::to_le_bytes).concat());
    bytes.push(b'k');
    bytes.extend(value);
    bytes
}

/// `depth` arrays, each the only element of the one before, around an empty array of u8.
fn nested(depth: usize) -> Vec<u8> {
    let mut value = 9u32.to_le_bytes().to_vec();
    for _ in 1..depth {
        value.extend([&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat());
    }
    value.extend([0; 12]);
    with_value(&value)
}

#[test]
fn nested_arrays_are_read_to_a_bounded_depth() {
    for depth in 1..=4 {
        let file = GgufFile::from_bytes("m", &nested(depth)).unwrap();
        let mut value = file.metadata().get("k").unwrap().clone();
        let mut seen = 0;
        while let Value::Array(a) = &value {
            seen += 1;
            let Some(inner) = a.iter().next() else { break };
            value = inner;
        }
        assert_eq!(seen, depth);
    }
    for depth in [5, 100_000] {
        let outcome = GgufFile::from_bytes("m", &nested(depth));
        refused(outcome, ErrorKind::BadFile, &["offset", "'k'", "nested deeper than 4"]);
    }
}

#[test]
fn rows_of_arrays_come_back() {
    let mut w = GgufWriter::new();
    w.set("rows", &vec![vec![1u8], vec![], vec![2, 3]]).unwrap();
    let file = GgufFile::from_bytes("m", &w.to_bytes()).unwrap();
    let Some(Value::Array(rows)) = file.metadata().get("rows") else { panic!("no array") };
    let lens: Vec<_> = rows.iter().map(|row| if let Value::Array(a) = row { a.len() } else { 99 }).collect();
    assert_eq!(lens, [1, 0, 2]);
}

#[test]
fn booleans_are_0_or_1() {
    let scalar = |b| with_value(&[&7u32.to_le_bytes()[..], &[b]].concat());
    assert!(GgufFile::from_bytes("m", &scalar(1)).is_ok());
    refused(GgufFile::from_bytes("m", &scalar(2)), ErrorKind::BadFile, &["offset 37", "'k'", "found 2"]);
    let array = [&9u32.to_le_bytes()[..], &7u32.to_le_bytes(), &3u64.to_le_bytes(), &[0, 1, 7]].concat();
    refused(
        GgufFile::from_bytes("m", &with_value(&array)),
        ErrorKind::BadFile,
        &["offset 51", "'k'", "found 7"],
    );
}

#[test]
fn counts_beyond_the_limits_are_refused() {
    for (at, limit, field) in [(8, 1u64 << 18, "tensor count"), (16, 1 << 16, "metadata kv count")] {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.resize(16 << 20, 0); // large enough to hold what is claimed
        bytes[at..at + 8].copy_from_slice(&(limit + 1).to_le_bytes());
        let limit = limit.to_string();
        refused(GgufFile::from_bytes("m", &bytes), ErrorKind::BadFile, &[field, &limit, "at most"]);
    }
}

#[test]
fn version_2_reads_as_version_3_does() {
    let mut w = GgufWriter::new();
    w.tensor_f32("t", &[1], &[5.0]).unwrap();
    let mut bytes = w.to_bytes();
    bytes[4] = 2;
    let file = GgufFile::from_bytes("m", &bytes).unwrap();
    assert_eq!((file.version(), file.tensor("t").unwrap().as_f32()), (2, Some(&[5.0][..])));
    for version in [[1, 0, 0, 0], [0, 0, 0, 3], [0, 0, 0, 2], [4, 0, 0, 0]] {
        bytes[4..8].copy_from_slice(&version);
        refused(
            GgufFile::from_bytes("m", &bytes),
            ErrorKind::Unsupported,
            &["offset 4: version", "expected"],
        );
    }
}

#[test]
fn adjacent_tensors_may_touch_but_not_overlap() {
    let mut w = GgufWriter::with_alignment(8).unwrap();
    w.tensor_f32("first", &[2], &[1.0, 2.0]).unwrap();
    w.tensor("second", GgmlType::I8, &[8], vec![3; 8]).unwrap();
    let mut bytes = w.to_bytes();
    assert!(GgufFile::from_bytes("m", &bytes).is_ok());
    let name = bytes.windows(6).position(|w| w == b"second").unwrap();
    let offset = name + 6 + 4 + 8 + 4;
    assert_eq!(bytes[offset], 8);
    bytes[offset] = 0;
    let place = format!("offset {offset}: offset of tensor 'second'");
    refused(GgufFile::from_bytes("m", &bytes), ErrorKind::BadFile, &[&place, "overlaps tensor 'first'"]);
    bytes[offset] = 12;
    bytes.resize(bytes.len() + 8, 0); // room, so that the alignment alone is wrong
    refused(
        GgufFile::from_bytes("m", &bytes),
        ErrorKind::BadFile,
        &[&place, "multiple of the alignment 8", "12"],
    );
}

#[test]
fn a_tensor_name_twice_is_found_where_it_stands() {
    let mut w = GgufWriter::new();
    w.tensor_f32("one", &[1], &[1.0]).unwrap();
    w.tensor_f32("two", &[1], &[2.0]).unwrap();
    let mut bytes = w.to_bytes();
    let second = bytes.windows(3).position(|w| w == b"two").unwrap();
    bytes[second..second + 3].copy_from_slice(b"one");
    let place = format!("m: offset {}: name of tensor 1: duplicate tensor name 'one'", second - 8);
    refused(GgufFile::from_bytes("m", &bytes), ErrorKind::BadFile, &[&place]);
}

#[test]
fn the_content_id_sees_the_header_and_the_length() {
    let id = |name: &str, value: f32, extra: usize| {
        let mut w = GgufWriter::new();
        w.tensor_f32(name, &[1], &[value]).unwrap();
        let mut bytes = w.to_bytes();
        bytes.resize(bytes.len() + extra, 0);
        GgufFile::from_bytes("m", &bytes).unwrap().content_id()
    };
    assert_eq!(id("a", 1.0, 0), id("a", 2.0, 0), "weights are not part of it");
    assert_ne!(id("a", 1.0, 0), id("b", 1.0, 0));
    assert_ne!(id("a", 1.0, 0), id("a", 1.0, 8));
}

#[test]
fn the_full_hash_reports_progress() {
    let folder = Scratch::new("hash");
    let path = folder.path("f");
    fs::write(&path, b"abc").unwrap();
    let mut calls = Vec::new();
    let hash = truing::gguf::sha256_file(&path, |done, total| calls.push((done, total))).unwrap();
    assert_eq!(hash[..4], [0xba, 0x78, 0x16, 0xbf]); // FIPS 180-2, "abc"
    assert_eq!(calls.last(), Some(&(3, 3)));
    let e = truing::gguf::sha256_file(&folder.path("gone"), |_, _| ()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Io);
}
