//! What steering costs: rows a token of look-ahead search, best of N beside separate runs, nudging beside plain
//! decoding, a shared prefix.
//!
//! `cargo run --release -p truing-benches --bin steering -- [DATA.jsonl [ROWS]]`, with the models `smollm2` and
//! `gemma3-270m` in the cache; `nudging` in place of the arguments measures that alone. DATA holds rows `{prompt, concepts, forms}`; without it a few are built in. Everything
//! timed is checked: searches with and without their short cuts must give the same text.

#![allow(clippy::panic, reason = "a bench without its models cannot go on")]

use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;
use truing::align::Clause;
use truing::config::NudgeSection;
use truing::engine::{Nudging, Prefixes, prompt};
use truing::model::{Context, ContextOptions, Model, ModelOptions};
use truing::reward::Keywords;
use truing::sampling::{BatchItem, NextLogits, SamplingParams, Want};
use truing::search::{Found, Help, SearchJob, SearchMethod, SearchParams, search};
use truing::session::Limits;
use truing::template::{Message, RenderOptions};

const BUILT_IN: [(&str, [&str; 3]); 3] = [
    ("dog frisbee catch", ["dog|dogs", "frisbee|frisbees", "catch|catches|caught"]),
    ("horse field run", ["horse|horses", "field|fields", "run|runs|running|ran"]),
    ("girl guitar play", ["girl|girls", "guitar|guitars", "play|plays|playing|played"]),
];
const N_CTX: usize = 2048;

fn open(name: &str) -> Arc<Model> {
    let path = truing::models::cached(name).unwrap_or_else(|| panic!("truing pull {name}"));
    Model::open(&path, &ModelOptions::default()).expect("model")
}

fn context(model: &Model, branches: usize) -> Context {
    let options = ContextOptions { n_ctx: N_CTX, n_kv_tokens: N_CTX * branches, ..ContextOptions::default() };
    Context::new(model, &options).expect("context")
}

fn chat(model: &Model, text: &str) -> Vec<u32> {
    let template = prompt::template(model, None).expect("template");
    let messages = [Message::new("user", text)];
    prompt::chat(model, &template, &messages, &RenderOptions::default(), false).expect("prompt").ids
}

/// Prompts with the words their answers should use.
fn rows() -> Vec<(String, Vec<Clause>)> {
    let mut args = std::env::args().skip(1);
    let Some(path) = args.next() else {
        let prompt = |words: &str| format!("Write one short sentence that uses all of these words: {words}.");
        let clauses = |c: &[&str]| c.iter().map(|c| Clause::any(c.split('|'))).collect();
        return BUILT_IN.iter().map(|(words, c)| (prompt(words), clauses(c))).collect();
    };
    let most = args.next().and_then(|n| n.parse().ok()).unwrap_or(20);
    let text = std::fs::read_to_string(path).expect("data");
    let row = |line: &str| {
        let row: Value = serde_json::from_str(line).expect("row");
        let concepts = row["concepts"].as_array().expect("concepts").iter();
        let clause = |c: &Value| {
            let forms = row["forms"][c.as_str().expect("text")].as_array().expect("forms");
            let forms: Vec<&str> = forms.iter().filter_map(Value::as_str).collect();
            Clause::any(forms)
        };
        let names: Vec<&str> =
            row["concepts"].as_array().expect("concepts").iter().filter_map(Value::as_str).collect();
        let asked = format!(
            "Write one short sentence that uses all of these words: {}.\nSentence:",
            names.join(", ")
        );
        (row["prompt"].as_str().map_or(asked, str::to_owned), concepts.map(clause).collect())
    };
    text.lines().take(most).map(row).collect()
}

fn found(ctx: &mut Context, model: &Model, prompt: &str, words: &[Clause], params: &SearchParams) -> Found {
    let tokens = chat(model, prompt);
    let branch = ctx.root().expect("branch");
    let job = SearchJob { branch, tokens: &tokens, prompt, constraint: None };
    let mut reward = Keywords::new(words.to_vec(), false).expect("reward");
    search(ctx, model.vocab(), job, &mut reward, params, Help::default()).expect("search")
}

/// Rows and seconds a committed token, of the naive search and with its short cuts.
fn look_ahead(model: &Model) {
    let rows = rows();
    let mut ctx = context(model, 3);
    let ways = [("naive", false, false), ("winner kept", true, false), ("winner kept, pruned", true, true)];
    let mut texts: Vec<Vec<u32>> = Vec::new();
    println!("look-ahead, k = 5, l = 16, {} rows of keywords:", rows.len());
    let mut base = 0.0;
    for (name, reuses, prunes) in ways {
        let params = SearchParams { reuses, prunes, max_tokens: 64, ..SearchParams::default() };
        let (mut evals, mut tokens) = (0, 0);
        let started = Instant::now();
        for (i, (prompt, words)) in rows.iter().enumerate() {
            let found = found(&mut ctx, model, prompt, words, &params);
            evals += found.report.n_evals - chat(model, prompt).len() as u64;
            tokens += found.ids.len() as u64 + 1;
            match texts.get(i) {
                Some(ids) => assert_eq!(*ids, found.ids, "short cuts change nothing"),
                None => texts.push(found.ids),
            }
        }
        let per_token = evals as f64 / tokens as f64;
        base = if base == 0.0 { per_token } else { base };
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "  {name:<22} {per_token:7.2} rows a token ({:.1} times fewer), {seconds:6.1} s",
            base / per_token
        );
    }
}

/// Eight texts of 64 tokens in one search, and one after the other.
fn best_of(model: &Model) {
    let mut ctx = context(model, 10);
    let words = [Clause::any(["nothing like this"])];
    let sampling = SamplingParams {
        seed: 3,
        logit_bias: vec![(model.vocab().eos().unwrap_or(0), f32::NEG_INFINITY)],
        ..SamplingParams::default()
    };
    let run = |ctx: &mut Context, samples: usize| {
        let params = SearchParams {
            samples,
            max_tokens: 64,
            sampling: sampling.clone(),
            ..SearchParams::of(SearchMethod::BestOf)
        };
        let started = Instant::now();
        let found = found(ctx, model, "Tell me a story about the sea.", &words, &params);
        assert_eq!(found.drafts.len(), samples);
        started.elapsed().as_secs_f64()
    };
    run(&mut ctx, 1);
    let together = run(&mut ctx, 8);
    let apart: f64 = (0..8).map(|_| run(&mut ctx, 1)).sum();
    println!("best of 8, 64 tokens: {together:.2} s, eight runs {apart:.2} s, ratio {:.2}", together / apart);
}

/// Seconds of a pass over `n` tokens that gives all rows, the least of several.
fn pass(ctx: &mut Context, n: usize) -> f64 {
    let branch = ctx.root().expect("branch");
    let tokens: Vec<u32> = (0..n as u32).map(|i| 100 + i).collect();
    ctx.eval(&[BatchItem { branch: &branch, tokens: &tokens, want: Want::Nothing }]).expect("eval");
    let mut least = f64::INFINITY;
    for _ in 0..8 {
        ctx.truncate(&branch, n).expect("cut");
        let started = Instant::now();
        ctx.eval(&[BatchItem { branch: &branch, tokens: &tokens, want: Want::All }]).expect("eval");
        least = least.min(started.elapsed().as_secs_f64());
    }
    least
}

fn nudging(base: &Model, nudger: &Model) {
    let (mut ctx, mut other) = (context(base, 2), context(nudger, 1));
    let lengths = [1, 2, 4, 8, 16];
    for (name, ctx) in [("base", &mut ctx), ("nudger", &mut other)] {
        let times: Vec<String> =
            lengths.iter().map(|n| format!("{n}: {:.1}", 1000.0 * pass(ctx, *n))).collect();
        println!("pass of so many tokens, {name}, ms: {}", times.join(", "));
    }
    let limits = Limits { max_tokens: Some(128), ..Limits::default() };
    let questions = [
        "Give me three tips for staying healthy.",
        "Explain how rain forms, in some detail.",
        "What should I see in Rome, and why?",
        "Write a short story about a lighthouse keeper.",
    ];
    let mut lines = Vec::new();
    for drafts in [true, false] {
        let section = NudgeSection { drafts: Some(drafts), ..NudgeSection::by("smollm2") };
        let (mut nudged_s, mut plain_s, mut n_tokens, mut rate, mut n_rounds) = (0.0, 0.0, 0, 0.0, 0);
        let (mut base_evals, mut nudger_evals) = (0, 0);
        for (i, question) in questions.into_iter().enumerate() {
            let started = Instant::now();
            let mut pair = Nudging { base: (base, &mut ctx), nudger: (nudger, &mut other), plans: None };
            let outcome = pair.answer(&section, (None, question), &limits, &mut |_| {}).expect("answer");
            nudged_s += started.elapsed().as_secs_f64();
            let nudge = outcome.report.nudge.expect("nudged");
            rate += nudge.nudge_rate / questions.len() as f64;
            n_rounds += nudge.n_rounds;
            base_evals += nudge.base_evals + nudge.scoring_evals;
            nudger_evals += nudge.nudger_evals;
            match lines.get(i) {
                None => lines.push(outcome.text),
                Some(text) => assert_eq!(*text, outcome.text, "drafts change nothing"),
            }
            let n = outcome.ids.len().max(1);
            n_tokens += n;
            let text = section.prompt(None, question).expect("prompt");
            let started = Instant::now();
            let branch = ctx.root().expect("branch");
            let mut next = prompt::raw(base, &text, false).expect("tokens").ids;
            for _ in 0..n {
                ctx.eval(&[BatchItem { branch: &branch, tokens: &next, want: Want::Last }]).expect("eval");
                next = vec![truing::kernels::argmax(ctx.row(0), None).expect("token")];
            }
            plain_s += started.elapsed().as_secs_f64();
        }
        println!(
            "nudging{}: {nudged_s:.2} s for {n_tokens} tokens in {n_rounds} rounds, plain decoding {plain_s:.2} s, \
             ratio {:.2}; nudge rate {rate:.2}; rows: base {base_evals}, nudger {nudger_evals}",
            if drafts { "" } else { " without drafts" },
            nudged_s / plain_s
        );
    }
}

fn prefix(model: &Model) {
    let mut ctx = context(model, 3);
    let mut prefixes = Prefixes::new(8);
    let shared: Vec<u32> = chat(model, &"The quick brown fox jumps over the lazy dog. ".repeat(110));
    let shared = &shared[..shared.len().min(1000)];
    let mut first_token = |end: &str| {
        let tokens = [shared, &chat(model, end)].concat();
        let started = Instant::now();
        let (branch, n) = prefixes.begin_and_keep(&mut ctx, &tokens, shared.len()).expect("prefix");
        ctx.eval(&[BatchItem { branch: &branch, tokens: &tokens[n..], want: Want::Last }]).expect("eval");
        started.elapsed().as_secs_f64()
    };
    let (first, second) = (first_token("Why?"), first_token("How?"));
    println!(
        "prefix of {} tokens: first token after {first:.3} s, of the second request {second:.3} s ({:.0} %)",
        shared.len(),
        100.0 * second / first
    );
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("nudging") {
        return nudging(&open("gemma3-270m"), &open("smollm2"));
    }
    let (small, large) = (open("smollm2"), open("gemma3-270m"));
    prefix(&small);
    best_of(&small);
    nudging(&large, &small);
    look_ahead(&small);
}
