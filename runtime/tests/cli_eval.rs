//! `truing check` and `truing eval`, driven as a user or a script would.
#![cfg(feature = "cli")]

mod common;

use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Output, Stdio};

fn truing(args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_truing"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let _ = child.stdin.take().expect("piped").write_all(stdin.as_bytes());
    child.wait_with_output().expect("the program ends")
}

/// The JSON on stdout, and the exit code.
fn json(args: &[&str], stdin: &str) -> (Value, i32) {
    let output = truing(&[args, &["--json"]].concat(), stdin);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    let value = serde_json::from_slice(&output.stdout);
    (value.unwrap_or_else(|e| unreachable!("{e}: {message}")), output.status.code().expect("a code"))
}

fn refused(args: &[&str], stdin: &str, code: i32, words: &[&str]) {
    let output = truing(args, stdin);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{message}");
    words.iter().for_each(|w| assert!(message.contains(w), "expected {w:?} in {message:?}"));
}

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

fn smollm2() -> String {
    common::real_model("smollm2").to_str().expect("UTF-8 path").to_owned()
}

/// Runs a suite over rows on the real model.
fn eval(suite: &str, rows: &[Value], more: &[&str]) -> Value {
    let model = smollm2();
    let (value, code) = json(&[&["eval", suite, &model, "--data", "-"], more].concat(), &lines(rows));
    assert_eq!((code, value["suite"].as_str()), (0, Some(suite)), "{value}");
    assert_eq!(value["n"].as_u64(), value["rows"].as_array().map(|r| r.len() as u64));
    value
}

fn figure(value: &Value, name: &str) -> f64 {
    let metric = &value["metrics"][name];
    let [at, lo, hi] = ["value", "lo", "hi"].map(|k| metric[k].as_f64().unwrap_or(f64::NAN));
    assert!(lo <= at && at <= hi, "{name}: {metric}");
    at
}

#[test]
fn a_text_is_checked_clause_by_clause() {
    let args =
        ["check", "--include", "dog|dogs", "--include", "cat", "--exclude", "frisbee", "--words", "..6"];
    let (report, code) = json(&args, "The dog caught a frisbee. He ran!\n");
    assert_eq!((code, &report["n"], &report["n_satisfied"]), (1, &json!(1), &json!(0)));
    let verdict = &report["texts"][0]["verdict"];
    assert_eq!(verdict["include"][0]["places"], json!([{"start": 4, "end": 7, "phrase": "dog"}]));
    assert_eq!(verdict["include"][1]["satisfied"], false);
    assert_eq!(verdict["exclude"]["places"][0]["start"], 17);
    assert_eq!(verdict["length"][0]["count"], 7);
    assert_eq!((&verdict["counts"]["sentences"], &verdict["counts"]["bytes"]), (&json!(2), &json!(33)));
    assert_eq!(report["csr"]["all"]["value"], 0.25);
    assert!(truing(&args[..3], "a dog").status.success());
}

#[test]
fn rows_are_checked_with_their_own_constraints_and_against_each_other() {
    let own = json!({"include": ["sun"], "length": {"words": "..3"}});
    let rows = lines(&[
        json!({"id": "a", "prompt": "p", "out": "The sun.", "constraints": own}),
        json!({"id": "b", "prompt": "p", "out": "The  sun!"}),
        json!({"id": "c", "prompt": "q", "out": "Rain and sun and wind.", "constraints": own}),
    ]);
    let args = ["check", "--field", "out", "--sentences", "1", "--distinct"];
    let (report, code) = json(&args, &rows);
    assert_eq!((code, &report["n_satisfied"]), (1, &json!(2)), "{report}");
    let rate = |scope: &str| report["csr"][scope]["value"].as_f64().expect("a rate");
    assert_eq!((rate("text"), rate("prompt_and_text"), rate("group")), (1.0, 0.75, 0.5));
    assert_eq!(report["texts"][2]["own_verdict"]["length"][0]["satisfied"], false);
    refused(
        &args[..3],
        "{\"out\": \"x\", \"constraints\": {\"inclde\": []}}\n",
        3,
        &["-:1", "constraints", "inclde"],
    );
    refused(&args[..5], "{\"id\": 1}\n", 3, &["-:1", "`out` is missing"]);
    refused(&["check"], "x", 2, &["nothing to check"]);
}

#[test]
fn json_is_checked_by_a_validator() {
    let schema = r#"{"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}"#;
    let verdict = |text: &str| {
        let (report, code) = json(&["check", "--json-schema", schema], text);
        let grammar = report["texts"][0]["verdict"]["grammar"].clone();
        assert_eq!(grammar["satisfied"], code == 0);
        grammar
    };
    assert_eq!(verdict("{\"b\": 1, \"a\": 2}\n")["satisfied"], true);
    assert_eq!(verdict("{\"a\": 1.5}")["satisfied"], false);
    assert_eq!(verdict("{\"a\": x}")["refused_at"], 6);
}

#[test]
fn keywords_are_covered_and_plain_prompting_stands_beside() {
    let text = include_str!("data/eval/commongen_dev.jsonl");
    let rows: Vec<Value> = text.lines().take(3).map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let value = eval("keywords", &rows, &["--compare", "--max-tokens", "40"]);
    assert_eq!((figure(&value, "coverage_hard"), figure(&value, "ended")), (1.0, 1.0), "{value}");
    for name in ["coverage_soft", "logprob_per_token", "distinct_2", "distinct_3", "distinct_4", "words"] {
        assert!(figure(&value, name).is_finite());
    }
    for (row, given) in value["rows"].as_array().expect("rows").iter().zip(&rows) {
        assert_eq!((&row["id"], &row["finish"], &row["status"]), (&given["id"], &json!("eos"), &json!("ok")));
        assert!(!row["text"].as_str().expect("text").is_empty());
    }
    assert!(value["plain"]["metrics"]["coverage_hard"]["value"].as_f64().expect("plain") <= 1.0);
    assert_eq!(value["paired"]["metric"], "coverage_hard");
}

#[test]
fn texts_that_come_whole_are_scored_too() {
    let text = include_str!("data/eval/commongen_dev.jsonl");
    let rows: Vec<Value> = text.lines().take(1).map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let value = eval("keywords", &rows, &["--beams", "2", "--lookahead", "2", "--max-tokens", "24"]);
    assert_eq!(
        (figure(&value, "coverage_hard"), &value["arm"]),
        (1.0, &json!("beams, constrained")),
        "{value}"
    );

    let row = json!({"id": 1, "prompt": "Is snow white?", "grammar": "root ::= \"Yes\" | \"No\"",
                     "accept": ["Yes", "No"]});
    let value = eval("grammar", &[row], &["--grammar-mode", "exact", "--max-tokens", "8"]);
    assert_eq!((figure(&value, "finished_accepted"), &value["arm"]), (1.0, &json!("conditioned")), "{value}");
    let model = smollm2();
    let both = ["eval", "keywords", &model, "--data", "-", "--grammar-mode", "exact", "--beams", "2"];
    refused(&both, &lines(&rows), 2, &["exclude each other"]);
}

#[test]
fn lengths_are_kept() {
    let rows = [
        json!({"id": 1, "prompt": "Tell me about rivers.", "words": "8..12"}),
        json!({"id": 2, "prompt": "Tell me about rivers.", "sentences": "2"}),
        json!({"id": 3, "prompt": "Say something.", "checks": [
            {"check": "length_constraints:number_words", "relation": "less than", "num_words": 6}]}),
        json!({"id": 4, "prompt": "Say something.", "checks": [{"check": "punctuation:no_comma"}]}),
    ];
    let value = eval("length", &rows, &[]);
    assert_eq!((value["n"].as_u64(), figure(&value, "adherence")), (Some(3), 1.0), "{value}");
    let words = |i: usize| {
        let text = value["rows"][i]["text"].as_str().expect("text");
        text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).count()
    };
    assert!((8..=12).contains(&words(0)) && words(2) < 6, "{value}");
}

#[test]
fn grammars_and_schemas_decide_what_is_written() {
    let grammar = "root ::= \"yes\" | \"no, \" [a-z]{3}";
    let row = json!({"id": "g", "prompt": "Is it?", "grammar": grammar, "accept": ["yes", "no, abc"],
                     "reject": [{"text": "yes!", "viable": 3}, {"text": "no, ab", "viable": 6}]});
    let value = eval("grammar", &[row, json!({"id": "bad", "grammar": "root ::= x"})], &[]);
    for name in ["accepted", "texts_accepted", "texts_refused_in_place"] {
        assert_eq!(figure(&value, name), 1.0, "{value}");
    }
    assert_eq!((figure(&value, "refused"), &value["rows"][1]["status"]), (0.5, &json!("refused")));

    let schema = json!({"type": "object", "required": ["age"], "additionalProperties": false,
                        "properties": {"age": {"type": "integer", "minimum": 1, "maximum": 99}}});
    let rows = [
        json!({"id": "s", "schema": schema, "tests": [
            {"valid": true, "data": {"age": 3}}, {"valid": false, "data": {"age": 0}}]}),
        json!({"id": "u", "schema": {"not": {"uniqueItems": true}}}),
    ];
    let value = eval("jsonschema", &rows, &[]);
    for name in ["finished_valid", "valid_accepted", "invalid_refused"] {
        assert_eq!(figure(&value, name), 1.0, "{value}");
    }
    assert_eq!((figure(&value, "compiled"), figure(&value, "refused")), (0.5, 0.5));
    let answer: Value = serde_json::from_str(value["rows"][0]["text"].as_str().expect("text")).expect("JSON");
    assert!((1..=99).contains(&answer["age"].as_i64().expect("age")));
    assert!(value["rows"][1]["error"].as_str().is_some_and(|e| e.contains("not")), "{value}");
}

#[test]
fn instructions_and_edits_are_scored() {
    let rows = [
        json!({"id": 1, "prompt": "Write a poem. No commas!", "checks": [
            {"check": "punctuation:no_comma"}, {"check": "detectable_format:title"}]}),
        json!({"id": 2, "prompt": "Shout hello.", "checks": [{"check": "change_case:english_capital"}]}),
    ];
    let value = eval("ifeval", &rows, &["--max-tokens", "32"]);
    for name in ["strict_row", "strict_check", "loose_row", "change_case:english_capital"] {
        assert_eq!(figure(&value, name), 1.0, "{value}");
    }
    let text = include_str!("data/eval/edits.jsonl");
    let rows: Vec<Value> = text.lines().take(1).map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let value = eval("edits", &rows, &["--max-tokens", "8"]);
    let (exact, far) = (figure(&value, "exact_match"), figure(&value, "char_distance"));
    assert!(exact == 0.0 && far > 0.0, "eight tokens are not the whole sentence: {value}");
}

#[test]
fn mistakes_in_data_are_named() {
    let model = smollm2();
    let run = |suite: &str, rows: &str, code: i32, words: &[&str]| {
        refused(&["eval", suite, &model, "--data", "-"], rows, code, words);
    };
    run("poems", "", 2, &["poems", "keywords"]);
    run("keywords", "", 2, &["no rows"]);
    run("keywords", "{\"id\": 1, \"prompt\": \"x\"}\n", 3, &["-:1", "`concepts` is missing"]);
    run("keywords", "\n{\"id\": 1\n", 3, &["-:2", "EOF"]);
    run("keywords", "{\"concepts\": [\"a\"], \"forms\": {\"b\": [\"b\"]}}", 3, &["-:1", "forms", "\"a\""]);
    run("length", "{\"prompt\": \"x\", \"words\": \"9..b\"}", 3, &["-:1", "words", "9..b"]);
    run("ifeval", "{\"prompt\": \"x\", \"checks\": [{\"check\": \"a:b\"}]}", 3, &["-:1", "checks", "a:b"]);
    run("edits", "{\"id\":1,\"input\":\"\",\"output\":3}", 3, &["-:1", "output", "3"]);
    run("grammar", "{\"id\":1,\"file\":\"/no/such.gbnf\"}", 3, &["-:1", "file", "/no/such.gbnf"]);
    run("length", "{\"id\":1,\"prompt\":\"x\"}\n{\"id\":1,\"prompt\":\"y\"}\n", 3, &["-:2", "`id`"]);
}
