//! Any lines as phrases to exclude and to include, over a text: nothing excluded is released, whatever the chunks.

#![no_main]

mod drive;

use libfuzzer_sys::fuzz_target;
use truing::align::{Bytewise, Clause, HoldBack, Limits, Phrase, Wording};

fuzz_target!(|text: &str| run(text));

fn run(text: &str) {
    let mut lines = text.lines();
    let body = lines.next().unwrap_or_default();
    let phrases: Vec<Phrase> = lines.take(6).map(Phrase::from).collect();
    if let Ok(mut filter) = HoldBack::new(&phrases) {
        hold_back(&mut filter, body);
    }
    let (include, exclude) = phrases.split_at(phrases.len() / 2);
    let include = include.iter().map(|p| Clause::any([p.clone()])).collect();
    let wording = Wording { include, exclude: exclude.to_vec(), ..Wording::default() };
    let Ok(automaton) = wording.compile(&[true; 256]) else { return };
    let limits = Limits { max_tokens: Some(60), ..Limits::default() };
    let Ok(mut c) = Bytewise::new(automaton, drive::lexicon().trie().clone(), limits) else { return };
    drive::drive(&mut c, Some(60), text.len() as u64);
}

/// What is released is a beginning of the text, all of it if nothing was found.
fn hold_back(filter: &mut HoldBack, body: &str) {
    let mut out = String::new();
    for chunk in body.as_bytes().chunks(3) {
        if filter.push(chunk, &mut out).is_some() {
            assert!(body.starts_with(&out));
            return;
        }
        assert!(body.starts_with(&out));
    }
    if filter.finish(&mut out).is_none() {
        assert_eq!(out, body);
    }
}
