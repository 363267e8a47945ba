//! The mask, the limit and the undoing of [`Bytewise`], against enumeration over toy vocabularies.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;

use super::bytewise::{Bytewise, Limits};
use super::constraint::Constraint;
use super::trie::{ListVocab, TokenBytes, TokenTrie};
use crate::grammar::{Automaton, Dfa};
use crate::token::{TokenId, TokenSet};

/// The golden instance R1 of the oracle specification: bytes a, b, c; two to six of them; an even
/// number of `a`; never `cb`.
fn r1() -> (Dfa, Arc<TokenTrie>) {
    // state = (bytes 0..=6) * 4 + (odd a) * 2 + (last is c)
    let accepts: Vec<bool> = (0..28).map(|s| s / 4 >= 2 && s & 2 == 0).collect();
    let mut edges = Vec::new();
    for s in 0u32..24 {
        for byte in *b"abc" {
            if byte == b'b' && s & 1 == 1 {
                continue;
            }
            let odd = (s >> 1 & 1) ^ u32::from(byte == b'a');
            edges.push((s, byte, (s / 4 + 1) * 4 + odd * 2 + u32::from(byte == b'c')));
        }
    }
    let vocab = ListVocab::new(["a", "b", "c", "ab", "bc", "ca", "abc"]);
    (Dfa::new(&accepts, edges), Arc::new(TokenTrie::new(Arc::new(vocab))))
}

fn most(n: usize) -> Limits {
    Limits { max_tokens: Some(n), ..Limits::default() }
}

const R1_END: TokenId = 7;

fn masked(c: &mut dyn Constraint) -> Vec<TokenId> {
    let mut set = TokenSet::all(c.n_vocab());
    c.mask(&mut set).unwrap();
    set.iter().collect()
}

/// Whether some accepted sequence of at most `left` tokens, the end counted, starts at `state`.
fn completable(d: &Dfa, v: &dyn TokenBytes, state: u32, left: usize) -> bool {
    left > 0
        && (d.accepts(state)
            || (0..v.n_vocab() as TokenId).any(|t| {
                let b = v.bytes(t);
                !b.is_empty() && d.run(state, b).is_some_and(|s| completable(d, v, s, left - 1))
            }))
}

/// Visits every sequence the constraint admits; checks each mask against enumeration; counts the ended ones.
fn explore(c: &mut dyn Constraint, d: &Dfa, v: &dyn TokenBytes, state: u32, left: usize) -> usize {
    let allowed = masked(c);
    assert!(!allowed.is_empty(), "empty mask with {left} tokens left");
    let mut ended = 0;
    for t in 0..v.n_vocab() as TokenId {
        let next = if v.eog_ids().contains(&t) {
            d.accepts(state)
        } else {
            !v.bytes(t).is_empty() && d.run(state, v.bytes(t)).is_some_and(|s| completable(d, v, s, left - 1))
        };
        assert_eq!(allowed.contains(&t), next, "token {t}, state {state}, {left} left");
        assert_eq!(c.accept(t).unwrap(), next);
        if !next {
            continue;
        }
        match d.run(state, v.bytes(t)) {
            _ if c.has_ended() => ended += 1,
            Some(s) => ended += explore(c, d, v, s, left - 1),
            None => unreachable!(),
        }
        c.rollback(1).unwrap();
        assert_eq!(masked(c), allowed, "the mask after taking token {t} back");
    }
    ended
}

#[test]
fn r1_admits_exactly_its_502_token_sequences() {
    let (d, trie) = r1();
    let mut c = Bytewise::new(d.clone(), Arc::clone(&trie), most(5)).unwrap();
    let start = d.start();
    assert_eq!(explore(&mut c, &d, trie.vocab(), start, 5), 502);
}

#[test]
fn a_limit_below_the_shortest_text_is_refused_before_the_first_token() {
    let (d, trie) = r1();
    let max = |n| Bytewise::new(d.clone(), Arc::clone(&trie), most(n));
    assert!(max(2).is_ok(), "`bc` and the end");
    let e = max(1).err().unwrap();
    assert_eq!(e.kind(), crate::ErrorKind::Unsatisfiable);
    assert!(e.to_string().contains("only 1 are allowed"), "{e}");
}

#[test]
fn an_empty_language_is_refused() {
    let (_, trie) = r1();
    for (accepts, edges) in [(vec![false], vec![(0, b'a', 0)]), (vec![false, true], vec![(0, b'z', 1)])] {
        let e = Bytewise::new(Dfa::new(&accepts, edges), Arc::clone(&trie), Limits::default()).err().unwrap();
        assert_eq!(e.kind(), crate::ErrorKind::Unsatisfiable);
    }
}

#[test]
fn the_end_can_be_undone_and_nothing_follows_it() {
    let (d, trie) = r1();
    let mut c = Bytewise::new(d, trie, Limits::default()).unwrap();
    assert!(c.accept(4).unwrap() && c.may_end());
    let before = masked(&mut c);
    assert!(c.accept(R1_END).unwrap() && c.has_ended());
    assert_eq!((masked(&mut c), c.accept(1).unwrap(), c.witness_len()), (vec![], false, Some(0)));
    c.rollback(0).unwrap();
    assert!(c.has_ended(), "undoing nothing changes nothing");
    c.rollback(1).unwrap();
    assert_eq!((masked(&mut c), c.len()), (before, 1));
    assert!(c.rollback(2).is_err() && c.len() == 1);
}

#[test]
fn forks_are_independent() {
    let (d, trie) = r1();
    let mut a = Bytewise::new(d, trie, most(5)).unwrap();
    assert!(a.accept(0).unwrap());
    let mut b = a.fork();
    let before = masked(&mut a);
    assert!(b.accept(1).unwrap() && b.accept(0).unwrap());
    assert_eq!((masked(&mut a), b.len(), a.len()), (before, 3, 1));
}

#[test]
fn a_single_allowed_token_is_forced() {
    let (d, trie) = r1();
    let mut c = Bytewise::new(d, trie, most(3)).unwrap();
    assert_eq!(c.forced().unwrap(), None);
    assert!(c.accept(0).unwrap() && c.accept(0).unwrap());
    assert_eq!(c.forced().unwrap(), Some(R1_END), "`aa` with one token left");
}

/// A random automaton over a, b, c and a random vocabulary; single bytes are not always tokens.
fn instance() -> impl Strategy<Value = (Dfa, Vec<String>, usize)> {
    let dfa = (3usize..8).prop_flat_map(|n| {
        let edge = (0..n as u32, 0u8..3, 0..n as u32).prop_map(|(f, b, t)| (f, b'a' + b, t));
        (prop::collection::vec(prop::bool::weighted(0.3), n), prop::collection::vec(edge, n..3 * n))
    });
    let token = prop::collection::vec(prop::sample::select(vec!['a', 'b', 'c']), 1..4)
        .prop_map(|c| c.into_iter().collect::<String>());
    (dfa, prop::collection::vec(token, 2..7), 1usize..6)
        .prop_map(|((accepts, edges), tokens, max)| (Dfa::new(&accepts, edges), tokens, max))
}

/// A random walk through `c`: fails on an empty mask or a broken limit.
fn wander(c: &mut dyn Constraint, picks: &[u16], max: usize) -> Result<(), TestCaseError> {
    for (i, &p) in picks.iter().enumerate() {
        let allowed = masked(c);
        prop_assert!(!allowed.is_empty(), "empty mask after {i} tokens");
        let token = allowed[usize::from(p) % allowed.len()];
        prop_assert!(c.accept(token).unwrap(), "token {token} of the mask refused");
        prop_assert!(c.len() <= max);
        if c.has_ended() {
            return Ok(());
        }
    }
    prop_assert!(c.len() < max, "the limit passed without an end");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn no_mask_is_empty_and_no_limit_broken((d, tokens, max) in instance(), picks in prop::collection::vec(any::<u16>(), 8)) {
        let trie = Arc::new(TokenTrie::new(Arc::new(ListVocab::new(&tokens))));
        match Bytewise::new(d.clone(), Arc::clone(&trie), most(max)) {
            Ok(mut c) => {
                let need = c.witness_len().unwrap();
                prop_assert!(need <= max);
                wander(&mut c, &picks, max)?;
                // at the tightest limit that is not refused
                let mut tight = Bytewise::new(d, trie, most(need)).unwrap();
                wander(&mut tight, &picks, need)?;
            }
            Err(e) => prop_assert_eq!(e.kind(), crate::ErrorKind::Unsatisfiable),
        }
    }

    #[test]
    fn masks_hold_only_what_can_be_completed((d, tokens, max) in instance(), picks in prop::collection::vec(any::<u16>(), 8)) {
        let trie = Arc::new(TokenTrie::new(Arc::new(ListVocab::new(&tokens))));
        let Ok(mut c) = Bytewise::new(d.clone(), Arc::clone(&trie), most(max)) else { return Ok(()) };
        let mut state = d.start();
        for (i, p) in picks.iter().enumerate() {
            let allowed = masked(&mut c);
            for &t in &allowed {
                let next = d.run(state, trie.vocab().bytes(t));
                prop_assert!(next.is_some_and(|s| trie.vocab().eog_ids().contains(&t) && d.accepts(s) || completable(&d, trie.vocab(), s, max - i - 1)));
            }
            let token = allowed[usize::from(*p) % allowed.len()];
            c.accept(token).unwrap();
            if c.has_ended() { break }
            state = d.run(state, trie.vocab().bytes(token)).unwrap();
        }
    }
}
