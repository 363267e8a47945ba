//! Searching and nudging on the command line, on the real models.
#![cfg(feature = "cli")]

mod common;

use serde_json::Value;
use std::process::{Command, Output};

fn truing(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_truing")).args(args).output().expect("the program starts")
}

fn model(name: &str) -> String {
    common::real_model(name).to_str().expect("UTF-8 path").to_owned()
}

fn json(args: &[&str]) -> Value {
    let output = truing(&[args, &["--json"]].concat());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| unreachable!("{e}: {message}"))
}

fn refused(args: &[&str], code: i32, words: &[&str]) {
    let output = truing(args);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{message}");
    words.iter().for_each(|w| assert!(message.contains(w), "expected {w:?} in {message:?}"));
}

const ASKED: &str = "Write one short sentence about an everyday scene that uses all of these words: \
    begin, brush, front, hair, mirror.
Sentence:";
const PROMPT: [&str; 4] = ["-p", ASKED, "--max-tokens", "64"];
const WORDS: &str = "keyword:begin|begins|began|beginning,brush|brushes|brushed|brushing,front,hair,mirror";

#[test]
fn a_search_says_more_of_the_words_than_the_likeliest_text() {
    let smollm2 = model("smollm2");
    let base = [&["generate", &smollm2, "--reward", WORDS], &PROMPT[..]].concat();
    let run = |more: &[&str]| json(&[&base[..], more].concat());
    let found = run(&["--search", "deal"]);
    let report = &found["report"]["search"];
    assert_eq!(
        (report["method"].as_str(), report["status"].as_str()),
        (Some("deal"), Some("done")),
        "{found}"
    );
    assert_eq!(report["rewards"][0]["value"].as_f64(), Some(1.0), "{found}");
    let text = found["text"].as_str().expect("text").to_lowercase();
    assert!(text.contains("brush") && text.contains("front"), "{text}");
    let plain = run(&["--search", "deal", "--lambda", "0"]);
    assert_eq!(plain["report"]["search"]["status"], "unsatisfied");
    let greedy = json(&[&["generate", &smollm2, "--temp", "0"], &PROMPT[..]].concat());
    assert_eq!(plain["text"], greedy["text"], "without weight it is the likeliest text");
    // the same seed gives the same text, and a better one is kept of more
    let of = |n: &str| run(&["--search", "best_of", "--draws", n, "--seed", "5"]);
    let (two, again, eight) = (of("2"), of("2"), of("8"));
    assert_eq!(two["text"], again["text"]);
    let reward = |v: &Value| v["report"]["search"]["reward"].as_f64().expect("reward");
    assert!(reward(&eight) >= reward(&two));
}

#[test]
fn a_search_keeps_to_hard_constraints() {
    let smollm2 = model("smollm2");
    let args = [
        &[
            "generate",
            &smollm2,
            "--search",
            "deal",
            "--reward",
            WORDS,
            "--exclude",
            "smiled",
            "--words",
            "..40",
        ],
        &PROMPT[..],
    ];
    let found = json(&args.concat());
    let text = found["text"].as_str().expect("text").to_lowercase();
    assert!(!text.split(|c: char| !c.is_alphabetic()).any(|w| w == "smiled"), "{text}");
    assert_eq!(found["report"]["constraints"]["satisfied"], true, "{found}");
}

#[test]
fn a_base_model_is_nudged_by_one_of_another_family() {
    let (base, nudger) = (model("gemma3-270m"), model("smollm2"));
    let found = json(&[
        "generate",
        &base,
        "--nudge",
        &nudger,
        "-p",
        "Give me three tips for staying healthy.",
        "--max-tokens",
        "60",
    ]);
    let nudge = &found["report"]["nudge"];
    let spans = nudge["spans"].as_array().expect("spans");
    let text = found["text"].as_str().expect("text");
    let said: String = spans
        .iter()
        .map(|s| {
            &text[s["start"].as_u64().expect("start") as usize..s["end"].as_u64().expect("end") as usize]
        })
        .collect();
    assert_eq!(said, text, "spans cover the text");
    let by = |who: &str| spans.iter().filter(|s| s["by"] == who).count();
    assert!(by("nudger") > 0 && by("base") > 0, "{found}");
    let rate = nudge["nudge_rate"].as_f64().expect("rate");
    assert!(rate > 0.0 && rate < 1.0, "{rate}");
    let logprob = found["report"]["logprob"].as_f64().expect("the base scores the text");
    assert!(logprob < 0.0 && logprob.is_finite(), "{logprob}");
}

#[test]
fn nudged_answers_keep_constraints_and_come_in_batches() {
    let (base, nudger) = (model("gemma3-270m"), model("smollm2"));
    let rows = std::env::temp_dir().join(format!("truing-nudged-{}.jsonl", std::process::id()));
    std::fs::write(&rows, "{\"id\": 7, \"prompt\": \"Name a fruit.\"}\n").expect("rows");
    let rows_path = rows.to_str().expect("UTF-8 path");
    let args = ["generate", &base, "--nudge", &nudger, "--batch", rows_path, "--max-tokens", "32"];
    let found = json(&[&args[..], &["--include", "basket", "--words", "..14"]].concat());
    std::fs::remove_file(&rows).expect("rows");
    assert_eq!(
        (&found["id"], &found["report"]["constraints"]["satisfied"]),
        (&7.into(), &true.into()),
        "{found}"
    );
    assert!(found["text"].as_str().expect("text").to_lowercase().contains("basket"), "{found}");
    let asked = ["generate", &base, "--nudge", &nudger, "-p", "x"];
    refused(&[&asked[..], &["--include", "a", "--beams", "2"]].concat(), 2, &["--nudge", "--beams"]);
    refused(&[&asked[..], &["--regex", "a+", "--grammar-mode", "exact"]].concat(), 2, &["mask"]);
}

#[test]
fn a_second_model_says_what_follows() {
    let smollm2 = model("smollm2");
    let asked = ["generate", &smollm2, "-p", "Name two rivers.", "--max-tokens", "6"];
    let search =
        ["--search", "transfer_q", "--candidates", "3", "--lookahead", "3", "--reward", "regex:[A-Z]"];
    let found = json(&[&asked[..], &search, &["--guide", &smollm2, "--guide-system", "Shout."]].concat());
    let report = &found["report"]["search"];
    assert_eq!(report["method"], "transfer_q", "{found}");
    assert!(report["n_evals"].as_u64().expect("evals") > 60, "the guide's rows count: {found}");
    refused(&[&asked[..], &search].concat(), 2, &["search.guide"]);
    let gemma = model("gemma3-270m");
    refused(&[&asked[..], &search, &["--guide", &gemma]].concat(), 1, &["search.guide", "vocabular"]);
}

#[test]
fn a_base_model_answers_by_exemplars_and_ends() {
    let base = model("gemma3-270m");
    let profile = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/profiles/urial.toml");
    let found = json(&[
        "generate",
        &base,
        "--profile",
        profile,
        "-p",
        "How do I boil an egg?",
        "--max-tokens",
        "200",
    ]);
    let text = found["text"].as_str().expect("text");
    assert!(!text.is_empty() && !text.contains("# Query:") && !text.ends_with("```"), "{text}");
    let plain = json(&[
        "generate",
        &base,
        "--raw",
        "--temp",
        "0",
        "-p",
        "How do I boil an egg?",
        "--max-tokens",
        "60",
    ]);
    assert_ne!(plain["text"], found["text"]);
}

#[test]
fn mistakes_are_refused_by_name() {
    let smollm2 = model("smollm2");
    let base = ["generate", &smollm2, "-p", "x"];
    let with = |more: &'static [&'static str]| [&base[..], more].concat();
    refused(&with(&["--search", "guess"]), 2, &["guess", "deal"]);
    refused(&with(&["--search", "deal"]), 2, &["reward"]);
    refused(&with(&["--reward", "json"]), 2, &["--search"]);
    refused(&with(&["--search", "deal", "--reward", "json", "--candidates", "0"]), 2, &["candidates"]);
    refused(&with(&["--search", "deal", "--reward", "regex:("]), 2, &["regex", "unclosed"]);
    refused(&with(&["--search", "deal", "--reward", "judge:Good?"]), 2, &["model"]);
    refused(&with(&["--search", "rejection_exact", "--reward", "0.5*json", "--alpha", "0"]), 2, &["alpha"]);
    refused(&with(&["--nudge-threshold", "0.2"]), 2, &["--nudge"]);
    let gemma = model("gemma3-270m");
    refused(&["generate", &smollm2, "-p", "x", "--nudge", &gemma], 1, &["nudger", "chat template"]);
}
