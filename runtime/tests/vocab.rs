//! Tokenizers against llama.cpp's answers, on the two real models and on tiny vocabularies of all rule sets.
//!
//! The rows here are a part of the golden data; `TRUING_GOLDEN` names a folder with all of it.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a failed test")]

mod common;

use serde_json::Value;
use std::path::{Path, PathBuf};
use truing::gguf::GgufFile;
use truing::vocab::{Specials, Vocab};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn golden() -> Option<PathBuf> {
    std::env::var_os("TRUING_GOLDEN").map(PathBuf::from)
}

fn vocab(path: &Path) -> Vocab {
    let file = GgufFile::open(path).unwrap_or_else(|e| panic!("{e}"));
    Vocab::from_gguf(&file).unwrap_or_else(|e| panic!("{e}"))
}

fn real(name: &str) -> Vocab {
    vocab(&common::real_model(name))
}

fn ids(row: &Value, key: &str) -> Vec<u32> {
    let list = row[key].as_array().unwrap_or_else(|| panic!("{key} of {row}"));
    list.iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|d| d[0] << 4 | d[1]).collect()
}

/// Checks one row both ways; says what is wrong.
fn check(vocab: &Vocab, row: &Value) -> Result<(), String> {
    let text = row["text"].as_str().unwrap();
    for (specials, kind) in [(Specials::ALL, "special"), (Specials::NONE, "plain")] {
        let expected = ids(row, &format!("ids_{kind}"));
        let found = vocab.tokenize(text, specials).map_err(|e| e.to_string())?;
        if *found != expected {
            return Err(format!("{kind} {text:?}: expected {expected:?}, found {:?}", found.ids));
        }
        let bytes = match row[format!("detok_{kind}_hex")].as_str() {
            Some(digits) => hex(digits),
            None => text.as_bytes().to_vec(),
        };
        let decoded = vocab.detokenize(&found, true).map_err(|e| e.to_string())?;
        if decoded != bytes {
            let shown = String::from_utf8_lossy(&decoded);
            return Err(format!("{kind} {text:?}: decoded to {shown:?}"));
        }
        if kind == "plain" {
            check_losses(vocab, text, &found)?;
        }
    }
    Ok(())
}

/// What is missing from the tokens is what is reported as missing.
fn check_losses(vocab: &Vocab, text: &str, found: &truing::vocab::Tokens) -> Result<(), String> {
    let mut written: Vec<u8> = found.iter().flat_map(|id| vocab.token_bytes(*id)).copied().collect();
    if vocab.adds_space_prefix() || written.len() + found.unencodable.len() != text.len() {
        // A blank was added, or U+2581 became blanks: nothing may be lost all the same.
        return match found.unencodable.is_empty() {
            true => Ok(()),
            false => Err(format!("{text:?}: {:?} reported", found.unencodable)),
        };
    }
    for (at, byte) in &found.unencodable {
        written.insert(*at, *byte);
    }
    match written == text.as_bytes() {
        true => Ok(()),
        false => Err(format!("{text:?}: losses {:?} do not fit", found.unencodable)),
    }
}

fn check_rows(name: &str) {
    let vocab = real(name);
    let file = format!("tokenize_{name}.jsonl");
    let path = golden().map_or_else(|| data().join("vocab").join(&file), |g| g.join(&file));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let rows = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    let rows: Vec<Value> = rows.filter(|r| r["text"].is_string()).collect();
    let wrong: Vec<String> = rows.iter().filter_map(|r| check(&vocab, r).err()).collect();
    println!("{name}: {} of {} rows agree", rows.len() - wrong.len(), rows.len());
    assert!(rows.len() > 500, "{} has {} rows", path.display(), rows.len());
    assert!(wrong.is_empty(), "{name}: {} of {} rows differ:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

#[test]
fn smollm2_agrees_with_llama_cpp() {
    check_rows("smollm2");
}

#[test]
fn gemma3_agrees_with_llama_cpp() {
    check_rows("gemma3");
}

#[test]
fn tiny_vocabularies_agree_with_llama_cpp() {
    let path = golden().map_or_else(|| data().join("vocab"), |g| g.join("archs"));
    let text = std::fs::read_to_string(path.join("golden_tokenizers.json")).unwrap();
    let groups: Vec<Value> = serde_json::from_str(&text).unwrap();
    let places = [path, data().join("vocab"), data().join("archs")];
    let mut pres = std::collections::BTreeSet::new();
    for group in &groups {
        let files = group["files"].as_array().unwrap().iter().map(|f| f.as_str().unwrap());
        let found: Vec<PathBuf> = files
            .filter_map(|f| places.iter().map(|p| p.join(format!("{f}.gguf"))).find(|p| p.exists()))
            .collect();
        assert!(!found.is_empty(), "no file for {}", group["files"]);
        for file in found {
            let vocab = vocab(&file);
            pres.insert(vocab.pre_name().unwrap_or_default().to_owned());
            for case in group["cases"].as_array().unwrap() {
                check(&vocab, case).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            }
        }
    }
    println!("rule sets: {pres:?}");
    assert!(pres.len() >= 14, "{pres:?}");
}
