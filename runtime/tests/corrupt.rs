//! Damaged model files: each row of `data/corrupt/corrupt.jsonl` makes a file from `base.gguf` and says what
//! a loader must do with it. `TRUING_GOLDEN` names a folder whose `corrupt/` is used instead.

use serde_json::Value as Json;
use std::path::PathBuf;
use truing::ErrorKind;
use truing::gguf::GgufFile;

struct Row {
    name: String,
    expect: String,
    about: Vec<String>,
    bytes: Vec<u8>,
}

/// Rows whose fault is not in the file's structure but in what it means as a model.
const MODEL_LEVEL: &[&str] = &[
    "dims_0",
    "dims_wrong",
    "missing_tensor",
    "missing_norm",
    "no_tensors",
    "missing_architecture",
    "missing_block_count",
    "missing_embedding_length",
    "missing_attention_head_count",
    "missing_attention_layer_norm_rms_epsilon",
    "missing_ggml_model",
    "missing_ggml_tokens",
    "missing_ggml_merges",
    "arch_unknown",
    "arch_number",
    "blocks_string",
    "blocks_0",
    "blocks_many",
    "embedding_0",
    "heads_0",
    "heads_5",
    "eps_nan",
    "rope_dims_odd",
    "rope_dims_big",
    "tokens_empty",
    "tokens_numbers",
    "tokens_short",
    "token_types_short",
    "tokenizer_unknown",
    "pre_unknown",
];

fn folder() -> PathBuf {
    match std::env::var_os("TRUING_GOLDEN") {
        Some(golden) => PathBuf::from(golden).join("corrupt"),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/corrupt"),
    }
}

fn base() -> Vec<u8> {
    std::fs::read(folder().join("base.gguf")).unwrap()
}

fn rows() -> Vec<Row> {
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

/// What is wrong with the outcome of loading `row`, if anything.
fn complaint(row: &Row, outcome: Result<(), truing::Error>) -> Option<String> {
    let text = match (&*row.expect, outcome) {
        ("reject", Ok(())) => return Some("loads".into()),
        ("load", Err(e)) => return Some(format!("is refused: {e}")),
        (_, Ok(())) => return None,
        (_, Err(e)) if !matches!(e.kind(), ErrorKind::BadFile | ErrorKind::Unsupported) => {
            return Some(format!("kind {:?}: {e}", e.kind()));
        }
        (_, Err(e)) => e.to_string(),
    };
    let said = text.to_lowercase();
    let named = row.about.iter().any(|word| said.contains(word)) && said.contains(&row.name);
    (!named).then(|| format!("does not name the file and one of {:?}: {text}", row.about))
}

#[test]
fn every_damaged_structure_meets_its_expectation() {
    let rows = rows();
    assert!(rows.len() >= 114 && MODEL_LEVEL.iter().all(|n| rows.iter().any(|r| r.name == *n)));
    let complaints: Vec<_> = rows
        .iter()
        .filter_map(|row| {
            let outcome = GgufFile::from_bytes(&row.name, &row.bytes);
            let found = if MODEL_LEVEL.contains(&&*row.name) {
                outcome.err().map(|e| format!("has a sound structure, but: {e}"))
            } else {
                complaint(row, outcome.map(drop))
            };
            found.map(|c| format!("{}: {c}", row.name))
        })
        .collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
