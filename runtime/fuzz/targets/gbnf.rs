//! Any text as a GBNF grammar: it is refused, or gives an automaton that keeps what it promises.

#![no_main]

mod drive;

use libfuzzer_sys::fuzz_target;
use truing::align::{Bytewise, Limits};
use truing::grammar::Grammar;

fuzz_target!(|text: &str| run(text));

fn run(text: &str) {
    let Ok(grammar) = Grammar::gbnf(text) else { return };
    let Ok(machine) = grammar.compile(&[true; 256]) else { return };
    let limits = Limits { max_tokens: Some(24), ..Limits::default() };
    let Ok(mut c) = Bytewise::new(machine, drive::lexicon().trie().clone(), limits) else { return };
    drive::drive(&mut c, Some(24), text.len() as u64);
}
