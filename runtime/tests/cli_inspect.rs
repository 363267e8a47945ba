//! `truing inspect` from outside: exit codes, and what is printed where.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what must hold by unwrapping it")]

#[path = "support/corrupt.rs"]
mod support;

use std::path::Path;
use std::process::{Command, Output};

fn inspect(path: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_truing")).arg("inspect").arg(path).args(more).output().unwrap()
}

#[test]
fn damaged_files_exit_with_3_and_a_message() {
    let scratch = support::Scratch::new("inspect");
    for row in support::rows() {
        let path = scratch.write(&row.name, &row.bytes);
        let out = inspect(&path, &["--json"]);
        let said = String::from_utf8(out.stderr).unwrap().to_lowercase();
        // An architecture or tokenizer that truing lacks is no damage: such a file can be looked at.
        let foreign = ["arch_unknown", "tokenizer_unknown", "pre_unknown"].contains(&&*row.name);
        match (&*row.expect, out.status.code()) {
            ("load" | "either", Some(0)) => assert_eq!(said, ""),
            ("reject", Some(0)) if foreign => {
                let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
                assert_eq!(json["supported"], false, "{}", row.name);
                let why = json["why_not"].as_str().unwrap().to_lowercase();
                assert!(row.about.iter().any(|word| why.contains(word)), "{}: {why}", row.name);
            }
            ("reject" | "either", Some(3)) => {
                let named = said.contains(&row.name) && row.about.iter().any(|word| said.contains(word));
                assert!(named && said.lines().count() == 1, "{}: {said}", row.name);
            }
            (_, code) => panic!("{}: exit code {code:?}: {said}", row.name),
        }
    }
}

#[test]
fn a_model_is_shown_for_people_and_for_programs() {
    let scratch = support::Scratch::new("inspect-sound");
    let path = scratch.write("sound", &support::base());
    let out = inspect(&path, &["--json"]);
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(
        (json["architecture"].as_str(), json["tensors"].as_array().unwrap().len()),
        (Some("llama"), 11)
    );
    assert_eq!(
        (json["version"].as_u64(), json["size_bytes"].as_u64()),
        (Some(3), Some(support::base().len() as u64))
    );
    // One layer, two heads of 16 keys and 16 values, two bytes each.
    assert_eq!(json["plan"]["kv_bytes_per_1024_tokens"], 2 * (16 + 16) * 2 * 1024);
    let tokens =
        json["metadata"].as_array().unwrap().iter().find(|p| p["key"] == "tokenizer.ggml.tokens").unwrap();
    assert_eq!((tokens["len"].as_u64(), tokens["value"].as_array().unwrap().len()), (Some(263), 8));
    let text = String::from_utf8(inspect(&path, &[]).stdout).unwrap();
    for part in ["11 tensors", "blk.0.ffn_down.weight", "32 × 263", "general.architecture", "F32"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[test]
fn what_is_not_there_is_said() {
    let out = inspect(Path::new("no/such/model.gguf"), &[]);
    assert!(!out.status.success() && out.stdout.is_empty());
    assert!(String::from_utf8(out.stderr).unwrap().contains("model.gguf"));
}
