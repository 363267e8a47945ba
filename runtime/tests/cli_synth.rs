//! Data out on the command line: whole files or none, keys in their order, models that cannot do it refused.
#![cfg(feature = "cli")]

mod common;

use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output};

fn truing(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_truing")).args(args).output().expect("the program starts")
}

fn model(name: &str) -> String {
    common::real_model(name).to_str().expect("UTF-8 path").to_owned()
}

/// A folder of its own for each test.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("truing-synth-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("folder");
    folder
}

fn rows(path: &std::path::Path) -> (Vec<Value>, String) {
    let text = std::fs::read_to_string(path).expect("output");
    assert!(text.is_empty() || text.ends_with('\n'));
    (text.lines().map(|l| serde_json::from_str(l).expect("an object a line")).collect(), text)
}

#[test]
fn prompts_are_made_up_and_written_whole() {
    let folder = folder("prompts");
    let out = folder.join("prompts.jsonl");
    let path = out.to_str().expect("UTF-8 path");
    let smollm2 = model("smollm2");
    let args = ["synth", "prompts", &smollm2, "-n", "10", "--max-tokens", "40", "--out", path];
    let done = truing(&args);
    let message = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success() && message.contains("of 10 prompts"), "{message}");
    let (first, text) = rows(&out);
    assert!(!first.is_empty(), "{message}");
    for row in &first {
        let prompt = row["prompt"].as_str().expect("prompt");
        assert!(!prompt.contains('\n') && !prompt.ends_with(':'), "{prompt:?}");
        assert!((3..=80).contains(&prompt.split_whitespace().count()), "{prompt:?}");
    }
    assert!(text.starts_with("{\"id\":\"synth-00000\",\"prompt\":"), "{text}");
    // the same seed makes the same file
    assert!(truing(&args).status.success());
    assert_eq!(rows(&out).1, text);
    assert_eq!(std::fs::read_dir(&folder).expect("folder").count(), 1, "nothing is left beside it");
    // a base model has no place where users write
    let gemma = model("gemma3-270m");
    let refused = truing(&["synth", "prompts", &gemma, "-n", "2", "--out", path]);
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && message.contains("template"), "{message}");
    assert_eq!(rows(&out).1, text, "what was there stays");
    std::fs::remove_dir_all(&folder).expect("folder");
}

#[test]
fn pairs_are_better_and_worse() {
    let folder = folder("pairs");
    let (data, out) = (folder.join("rows.jsonl"), folder.join("pairs.jsonl"));
    let asked = "{\"id\": 1, \"prompt\": \"Write a sentence with the words cat and moon.\", \"concepts\": [\"cat\", \
                 \"moon\"], \"forms\": {\"cat\": [\"cat\", \"cats\"], \"moon\": [\"moon\"]}}\n";
    std::fs::write(&data, asked).expect("rows");
    let smollm2 = model("smollm2");
    let base = ["synth", "pairs", &smollm2, "--data", data.to_str().expect("UTF-8 path")];
    let more =
        ["--out", out.to_str().expect("UTF-8 path"), "--max-tokens", "12", "--samples", "6", "--temp", "1.2"];
    let run = |args: &[&str]| {
        let done = truing(&[&base[..], &more, args].concat());
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let (code, message) = run(&["--source", "csr"]);
    assert_eq!(code, Some(0), "{message}");
    let (pairs, _) = rows(&out);
    assert_eq!(pairs.len(), 1, "{message}");
    let (c, r) = (pairs[0]["csr_c"].as_f64().expect("csr"), pairs[0]["csr_r"].as_f64().expect("csr"));
    assert!(c > r && pairs[0]["p_pref"].as_f64() == Some(0.5 + (c - r) / 2.0), "{pairs:?}");
    let (code, message) = run(&["--source", "rm", "--reward", "length:words=..3", "--agree", "csr"]);
    assert_eq!(code, Some(0), "{message}");
    for (args, word) in [
        (&["--source", "implicit"][..], "--reference"),
        (&["--source", "rm"], "--reward"),
        (&["--source", "guess"], "guess"),
    ] {
        let (code, message) = run(args);
        assert!(code == Some(2) && message.contains(word), "{word}: {message}");
    }
    std::fs::remove_dir_all(&folder).expect("folder");
}
