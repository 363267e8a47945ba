//! The scorers on real data: what is known of the sets must come out. With `TRUING_DATA` set to a folder of the
//! whole sets, those are read instead of the parts that lie beside the tests.

use serde_json::Value;
use std::path::PathBuf;
use truing::eval::{self, Instruction};

fn folder() -> (PathBuf, bool) {
    match std::env::var_os("TRUING_DATA") {
        Some(folder) => (folder.into(), true),
        None => (PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/eval"), false),
    }
}

fn rows(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder().0.join(name)).expect("the data set");
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().expect("a list").iter().map(|v| v.as_str().expect("a text").to_owned()).collect()
}

#[test]
fn human_sentences_cover_their_concepts() {
    let (mut covered, mut n) = (0, 0);
    for row in rows("commongen_dev.jsonl") {
        let forms: Vec<Vec<String>> =
            texts(&row["concepts"]).iter().map(|name| texts(&row["forms"][name])).collect();
        for reference in texts(&row["references"]) {
            n += 1;
            covered += usize::from(eval::coverage(&reference, &forms).hard());
        }
    }
    // 99.5 % of the whole set; the part keeps all eight sentences that do not
    assert_eq!((covered, n), if folder().1 { (1597, 1605) } else { (419, 427) });
}

#[test]
fn every_instruction_of_the_set_is_known() {
    let mut n = 0;
    for row in rows("ifeval_verifiable.jsonl") {
        for check in row["checks"].as_array().expect("checks") {
            let instruction = Instruction::parse(check).expect("a known check");
            assert!(!instruction.holds("  \n"), "{check} holds for a blank response");
            n += 1;
        }
    }
    assert!(n >= 48, "{n} checks");
}

#[test]
fn edited_texts_are_near_their_inputs() {
    for row in rows("edits.jsonl") {
        let (input, output) =
            (row["input"].as_str().expect("input"), row["output"].as_str().expect("output"));
        let ours = eval::similarity(input, output);
        // the set's ratio counts matching blocks, ours single characters: close for texts that differ little
        let theirs = row["similarity"].as_f64().expect("similarity");
        assert!((ours - theirs).abs() < 0.25 && ours < 1.0, "{}: {ours} against {theirs}", row["id"]);
    }
}
