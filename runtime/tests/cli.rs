//! The built program on a real model, driven as a user or a script would.
#![cfg(feature = "cli")]

mod common;

use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn truing(args: &[&str]) -> Output {
    truing_with(args, b"")
}

fn truing_with(args: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_truing"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // A program that refuses its arguments does not read stdin: a closed pipe is no failure here.
    let _ = child.stdin.take().expect("piped").write_all(stdin);
    child.wait_with_output().expect("the program ends")
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON value on stdout")
}

fn json_lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect()
}

/// Checks exit code and that the message says `words`.
fn refused(output: &Output, code: i32, words: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{message}");
    for word in words {
        assert!(message.contains(word), "expected {word:?} in {message:?}");
    }
    assert!(!message.contains("panicked"), "{message}");
}

fn smollm2() -> String {
    common::real_model("smollm2").to_str().expect("UTF-8 path").to_owned()
}

/// The model knows this one (greedy, as llama.cpp does).
const JAPAN: &str = "What is the capital of Japan?";

#[test]
fn generate_answers_from_the_real_model() {
    let model = smollm2();
    let answer =
        json(&truing(&["generate", &model, "-p", JAPAN, "--temp", "0", "--max-tokens", "24", "--json"]));
    assert!(answer["text"].as_str().expect("text").contains("Tokyo"), "{answer}");
    assert!(["eos", "length"].contains(&answer["finish"].as_str().expect("finish")), "{answer}");
    let report = &answer["report"];
    assert_eq!(report["n_generated"].as_u64(), answer["ids"].as_array().map(|ids| ids.len() as u64));
    assert!(report["logprob"].as_f64().expect("logprob") < 0.0);
    assert_eq!(report["exactness"], "unconstrained");
}

#[test]
fn events_add_up_to_the_text_and_threads_do_not_change_it() {
    let model = smollm2();
    let args = ["generate", &model, "-p", "Tell me a story.", "--seed", "7", "--max-tokens", "48"];
    let with = |more: &[&str]| truing(&[&args[..], more].concat());
    let whole = json(&with(&["--json", "-t", "1"]));
    let events = json_lines(&with(&["--events", "-t", "2"]));
    let (done, texts) = events.split_last().expect("events");
    let streamed: String = texts.iter().map(|e| e["text"].as_str().expect("text")).collect();
    assert_eq!(done["event"], "done");
    assert_eq!(streamed, whole["text"].as_str().expect("text"));
    assert_eq!(done["ids"], whole["ids"]);
    assert!(texts.len() > 10, "streamed token by token, not at the end");
}

#[test]
fn samples_and_batches_give_what_single_runs_give() {
    let model = smollm2();
    let args = ["generate", &model, "--max-tokens", "16", "--json"];
    let single = |prompt: &str, seed: &str| {
        json(&truing(&[&args[..], &["-p", prompt, "--seed", seed]].concat()))["text"].clone()
    };
    let samples = json_lines(&truing(&[&args[..], &["-p", JAPAN, "--seed", "5", "--samples", "3"]].concat()));
    let seeds: Vec<_> = samples.iter().map(|s| s["report"]["seed"].as_u64()).collect();
    assert_eq!(seeds, [Some(5), Some(6), Some(7)]);
    assert_eq!(samples[2]["text"], single(JAPAN, "7"));

    let rows =
        "{\"id\":\"a\",\"prompt\":\"Name a colour.\"}\n{\"id\":7,\"prompt\":\"Say hello.\",\"seed\":9}\n";
    let batch =
        json_lines(&truing_with(&[&args[..], &["--batch", "-", "--seed", "3"]].concat(), rows.as_bytes()));
    assert_eq!(batch[0]["id"], "a");
    assert_eq!(batch[1]["id"], 7);
    assert_eq!(batch[0]["text"], single("Name a colour.", "3"));
    assert_eq!(batch[1]["text"], single("Say hello.", "9"));
}

/// Regression: finished answers kept their pages, so a batch longer than the context's pages failed midway.
#[test]
fn a_batch_much_longer_than_the_context_is_answered_whole() {
    let model = smollm2();
    let rows: String = (0..40).map(|i| format!("{{\"id\":{i},\"prompt\":\"Say {i}.\"}}\n")).collect();
    let args = ["generate", &model, "-c", "96", "--parallel", "2", "--max-tokens", "3", "--batch", "-"];
    let answers = json_lines(&truing_with(&args, rows.as_bytes()));
    let ids: Vec<_> = answers.iter().map(|a| a["id"].as_u64()).collect();
    assert_eq!(ids, (0..40).map(Some).collect::<Vec<_>>());
}

#[test]
fn a_stop_text_ends_the_answer_and_is_not_shown() {
    let model = smollm2();
    let args =
        ["generate", &model, "-p", JAPAN, "--temp", "0", "--max-tokens", "24", "--json", "--stop", " Tokyo"];
    let answer = json(&truing(&args));
    assert_eq!(answer["finish"], "stop");
    assert_eq!(answer["report"]["stop"], " Tokyo");
    assert!(!answer["text"].as_str().expect("text").contains("Tokyo"), "{answer}");
}

#[test]
fn a_prompt_cut_inside_a_word_is_healed() {
    let model = smollm2();
    let go_on = |more: &[&str]| {
        let mut args = vec!["generate", &model, "--raw", "-p", "The largest ocean on Earth is the Pac"];
        args.extend(["--temp", "0", "--max-tokens", "12", "--json"]);
        args.extend(more);
        json(&truing(&args))["text"].as_str().expect("text").to_owned()
    };
    let (plain, healed) = (go_on(&[]), go_on(&["--heal"]));
    assert!(healed.starts_with("ific Ocean"), "{healed:?}, without healing {plain:?}");
    let asked = go_on(&["--heal", "--regex", "ific[a-z ]{8}"]);
    assert!(asked.starts_with("ific") && asked.len() == 12, "{asked:?}");
}

#[test]
fn tokens_go_both_ways() {
    let model = smollm2();
    let text = "Hello, wörld! <|im_end|>";
    let ids = |more: &[&str]| {
        json(&truing_with(&[&["tokenize", &model, "--json"], more].concat(), text.as_bytes()))["ids"].clone()
    };
    let plain = ids(&[]);
    let special = ids(&["--parse-special"]);
    assert!(plain.as_array().map(Vec::len) > special.as_array().map(Vec::len), "{plain} {special}");
    let back = json(&truing(&["detokenize", &model, "--json", "--ids", &special.to_string()]));
    assert_eq!(back["text"], text);
}

#[test]
fn score_of_a_completion_prefers_the_true_one() {
    let model = smollm2();
    let nll = |completion: &str| {
        let args = ["score", &model, "-p", JAPAN, "--completion", completion, "--json"];
        json(&truing(&args))["nll"].as_f64().expect("nll")
    };
    assert!(nll("The capital of Japan is Tokyo.") + 2.0 < nll("The capital of Japan is Osaka."));
}

#[test]
fn bad_requests_are_refused_with_the_documented_exit_codes() {
    let model = smollm2();
    refused(&truing(&["generate", &model, "--no-such-flag"]), 2, &["--no-such-flag"]);
    refused(&truing(&["generate", &model, "-p", "x", "--top-p", "7"]), 2, &["top_p", "7"]);
    refused(&truing(&["generate", "no-such-model", "-p", "x"]), 3, &["no-such-model"]);
    refused(&truing(&["generate", "/no/such/file.gguf", "-p", "x"]), 3, &["/no/such/file.gguf"]);
    refused(&truing_with(&["generate", &model], b"ab\xffcd"), 3, &["UTF-8", "offset 2"]);
    let long = "word ".repeat(300);
    refused(&truing(&["generate", &model, "-c", "128", "-p", &long]), 1, &["128", "--ctx-size"]);
    let ids = ["detokenize", &model, "--ids", "1,999999999"];
    assert_ne!(truing(&ids).status.code(), Some(0));
}

#[test]
fn a_file_that_is_no_model_is_refused_and_named() {
    let dir = std::env::temp_dir().join(format!("truing-cli-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let path = dir.join("noise.gguf");
    std::fs::write(&path, [7u8; 4096]).expect("a file");
    refused(&truing(&["generate", path.to_str().expect("UTF-8"), "-p", "x"]), 3, &["noise.gguf", "magic"]);
    std::fs::remove_dir_all(&dir).expect("removed");
}

#[test]
fn perplexity_is_near_the_exact_one() {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/perplexity.txt");
    // Exact perplexity in windows of 512 with f32 weights; the tolerance covers 8-bit activations.
    const EXACT: f64 = 47.152;
    let args = ["score", &smollm2(), "-f", text.to_str().expect("UTF-8"), "--ctx", "512", "--json"];
    let score = json(&truing(&args));
    let ppl = score["ppl"].as_f64().expect("ppl");
    assert!((ppl / EXACT - 1.0).abs() < 0.015, "{ppl}");
}

#[test]
fn constraints_from_flags_and_profiles_hold_on_the_real_model() {
    let model = smollm2();
    let ask = ["generate", &model, "-p", "Write one sentence about a picnic.", "--seed", "1", "--json"];
    let with = |more: &[&str]| json(&truing(&[&ask[..], more].concat()));
    let answer = with(&[
        "--include",
        "dog|dogs",
        "--include",
        "frisbee",
        "--exclude",
        "the",
        "--sentences",
        "1",
        "--words",
        "..20",
        "--max-tokens",
        "48",
    ]);
    let report = &answer["report"];
    assert_eq!(
        (report["constraints"]["satisfied"].as_bool(), &answer["finish"]),
        (Some(true), &"eos".into())
    );
    assert_eq!(report["exactness"], "biased");
    let text = answer["text"].as_str().expect("text").to_lowercase();
    assert!(text.contains("dog") && text.contains("frisbee"), "{text}");

    let date = with(&["--regex", "[0-9]{4}-[0-9]{2}-[0-9]{2}", "--temp", "0"]);
    let text = date["text"].as_str().expect("text");
    assert!(
        text.len() == 10 && text.as_bytes()[4] == b'-' && date["report"]["n_forced"].as_u64() >= Some(2),
        "{date}"
    );

    let folder = tempfile("profile");
    std::fs::write(folder.join("n.gbnf"), "root ::= \"yes\" | \"no\"").expect("written");
    let profile = folder.join("p.toml");
    std::fs::write(&profile, "[prompt]\nsystem = \"Answer.\"\n[constraints.grammar]\ngbnf = \"n.gbnf\"\n")
        .expect("written");
    let profile = profile.to_str().expect("UTF-8");
    assert!(["yes", "no"].contains(&with(&["--profile", profile])["text"].as_str().expect("text")));

    refused(
        &truing(&[&ask[..], &["--include", "dog", "--exclude", "dog"]].concat()),
        1,
        &["include clause 1", "dog"],
    );
    refused(&truing(&[&ask[..], &["--regex", "("]].concat()), 2, &["--regex", "unclosed"]);
    refused(&truing(&[&ask[..], &["--grammar", "x.txt"]].concat()), 2, &["--grammar", ".gbnf"]);
    std::fs::remove_dir_all(&folder).expect("removed");
}

/// A new folder of this name.
fn tempfile(name: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("truing-cli-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).expect("created");
    path
}

/// Every example profile keeps what it asks, with the prompt in its own comment.
#[test]
fn example_profiles_do_what_they_say() {
    let model = smollm2();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/profiles");
    let mut n = 0;
    for entry in std::fs::read_dir(folder).expect("profiles") {
        let path = entry.expect("entry").path();
        let text = std::fs::read_to_string(&path).expect("profile");
        let Some(prompt) =
            text.lines().find_map(|line| line.split("generate -p \"").nth(1)?.split('"').next())
        else {
            continue; // one for conversations
        };
        let path = path.to_str().expect("UTF-8");
        let answer =
            json(&truing(&["generate", &model, "-p", prompt, "--profile", path, "--seed", "1", "--json"]));
        let report = &answer["report"];
        assert_eq!(report["constraints"]["satisfied"], true, "{path}: {answer}");
        assert_eq!(answer["finish"], "eos", "{path}: {answer}");
        let text = answer["text"].as_str().expect("text");
        if text.starts_with('{') {
            serde_json::from_str::<Value>(text).expect("JSON");
        }
        n += 1;
    }
    assert!(n >= 7, "{n} profiles were run");
}
