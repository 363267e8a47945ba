//! Goes along a constraint at random and checks what every constraint promises.

use std::sync::{Arc, OnceLock};

use truing::TokenSet;
use truing::align::{Constraint, Lexicon, ListVocab};

/// The vocabulary of all bytes, some words and an end.
pub fn lexicon() -> &'static Lexicon {
    static LEXICON: OnceLock<Lexicon> = OnceLock::new();
    LEXICON.get_or_init(|| {
        let words = ["the", " dog", "</think>", "\": ", "{\"", "é", "12"].map(|w| w.as_bytes().to_vec());
        Lexicon::new(Arc::new(ListVocab::new((0..=255u8).map(|b| vec![b]).chain(words))))
    })
}

/// Draws tokens by the bits of `seed`. With a limit the text must end within it; what is undone must be as before.
pub fn drive(c: &mut dyn Constraint, limit: Option<usize>, mut seed: u64) {
    let mut set = TokenSet::all(c.n_vocab());
    for _ in 0..limit.unwrap_or(24) {
        if c.has_ended() {
            break;
        }
        set.fill();
        if c.mask(&mut set).is_err() {
            return;
        }
        let before = set.clone();
        loop {
            let allowed: Vec<u32> = set.iter().take(4096).collect();
            if allowed.is_empty() {
                assert!(limit.is_none(), "nothing may follow after {} tokens", c.len());
                return;
            }
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let token = allowed[(seed >> 33) as usize % allowed.len()];
            let n = c.len();
            match c.accept(token) {
                Ok(true) => break,
                Ok(false) => assert_eq!(c.len(), n),
                Err(_) => return,
            }
            set.remove(token);
        }
        if seed >> 60 == 0 {
            c.rollback(1).expect("one was accepted");
            set.fill();
            if c.mask(&mut set).is_ok() {
                assert_eq!(set, before, "undoing changed the mask");
            }
            return;
        }
    }
    assert!(limit.is_none() || c.has_ended(), "the limit passed without an end");
}
