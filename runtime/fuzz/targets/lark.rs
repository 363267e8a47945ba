//! Any text as a Lark grammar: it is refused, or gives a constraint whose texts end in time.

#![no_main]

mod drive;

use libfuzzer_sys::fuzz_target;
use truing::align::{GuidedGrammar, Limits};

fuzz_target!(|text: &str| run(text));

fn run(text: &str) {
    let guide = drive::lexicon().guide().expect("a vocabulary with an end");
    let Ok(grammar) = GuidedGrammar::lark(&guide, text) else { return };
    let Ok(mut c) = grammar.constraint(Limits { max_tokens: Some(40), ..Limits::default() }) else { return };
    drive::drive(&mut *c, Some(40), text.len() as u64);
}
