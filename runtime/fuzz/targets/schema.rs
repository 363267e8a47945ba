//! Any text as a JSON Schema: it is refused, or gives a constraint whose texts end in time and are JSON.

#![no_main]

mod drive;

use libfuzzer_sys::fuzz_target;
use truing::align::{GuidedGrammar, JsonOptions, Limits};

fuzz_target!(|text: &str| run(text));

fn run(text: &str) {
    let guide = drive::lexicon().guide().expect("a vocabulary with an end");
    let Ok(grammar) = GuidedGrammar::json_schema_str(&guide, text, &JsonOptions::default()) else { return };
    serde_json::from_slice::<serde_json::Value>(grammar.example()).expect("the example is JSON");
    let n = grammar.example().len() + 20;
    let Ok(mut c) = grammar.constraint(Limits { max_tokens: Some(n), ..Limits::default() }) else { return };
    drive::drive(&mut *c, Some(n), text.len() as u64);
}
