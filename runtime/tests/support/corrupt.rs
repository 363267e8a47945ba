//! The damaged files of `data/corrupt`, made from its base by the edits it lists.

#![allow(dead_code, reason = "each test uses a part")]

use serde_json::Value as Json;
use std::path::PathBuf;

/// One damaged file and what a loader must do with it.
pub struct Row {
    pub name: String,
    pub expect: String,
    /// In lower case; a refusal must say one of them.
    pub about: Vec<String>,
    pub bytes: Vec<u8>,
}

fn folder() -> PathBuf {
    match std::env::var_os("TRUING_GOLDEN") {
        Some(golden) => PathBuf::from(golden).join("corrupt"),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/corrupt"),
    }
}

/// The sound file.
pub fn base() -> Vec<u8> {
    std::fs::read(folder().join("base.gguf")).unwrap()
}

/// All of them.
pub fn rows() -> Vec<Row> {
    let base = base();
    let text = std::fs::read_to_string(folder().join("corrupt.jsonl")).unwrap();
    let row = |line: &str| {
        let json: Json = serde_json::from_str(line).unwrap();
        let text = |key: &str| json[key].as_str().unwrap().to_owned();
        let mut bytes = base.clone();
        json["edits"].as_array().unwrap().iter().for_each(|e| apply(&mut bytes, e));
        assert_eq!(sha256(&bytes), text("sha256"), "edits of {}", text("name"));
        let about =
            json["about"].as_array().unwrap().iter().map(|w| w.as_str().unwrap().to_lowercase()).collect();
        Row { name: text("name"), expect: text("expect"), about, bytes }
    };
    text.lines().map(row).collect()
}

/// `["write", offset, hex]`, `["splice", offset, n_removed, hex]` or `["truncate", length]`.
fn apply(bytes: &mut Vec<u8>, edit: &Json) {
    let number = |i: usize| edit[i].as_u64().unwrap() as usize;
    match edit[0].as_str().unwrap() {
        "write" => {
            let new = unhex(&edit[2]);
            bytes[number(1)..][..new.len()].copy_from_slice(&new);
        }
        "splice" => drop(bytes.splice(number(1)..number(1) + number(2), unhex(&edit[3]))),
        "truncate" => bytes.truncate(number(1)),
        other => panic!("edit {other}"),
    }
}

fn unhex(json: &Json) -> Vec<u8> {
    let text = json.as_str().unwrap();
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// A folder of its own that is removed with the value.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("truing-corrupt-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Writes a model file and answers its path.
    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(format!("{name}.gguf"));
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// xorshift64*: small, and the same everywhere.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Damages `bytes` one to four times, most of them in the header: flipped bits, odd numbers, cuts, removed and added bytes.
pub fn damage(rng: &mut Rng, bytes: &mut Vec<u8>, header: usize) {
    const ODD: [u64; 8] = [0, 1, 0x7f, 0xff, 1 << 31, 1 << 40, i64::MAX as u64, u64::MAX];
    for _ in 0..=rng.below(4) {
        let reach = if rng.below(8) == 0 { bytes.len() } else { header.min(bytes.len()) };
        let at = rng.below(reach);
        match rng.below(8) {
            0..=3 => bytes.iter_mut().skip(at).take(1).for_each(|b| *b ^= 1 << rng.below(8)),
            4 => {
                let odd = ODD[rng.below(ODD.len())].wrapping_add(rng.below(3) as u64).wrapping_sub(1);
                let width = [1, 2, 4, 8][rng.below(4)];
                bytes.iter_mut().skip(at).zip(&odd.to_le_bytes()[..width]).for_each(|(b, new)| *b = *new);
            }
            5 => bytes.truncate(at),
            6 => drop(bytes.drain(at..(at + rng.below(40)).min(bytes.len()))),
            _ => drop(bytes.splice(at..at, std::iter::repeat_n(rng.next() as u8, rng.below(40)))),
        }
    }
}
