//! A shorter start than an automaton's own completion, where that one does not fit the limit.

use hashbrown::HashSet;
use rustc_hash::FxBuildHasher;

use crate::align::trie::TokenTrie;
use crate::grammar::Automaton;
use crate::token::TokenId;

/// Bounds on the search for a shorter start than the automaton's own completion.
const MAX_SEARCH_STATES: usize = 50_000;
const MAX_SEARCH_STEPS: usize = 20_000_000;

/// The fewest tokens that lead from `start` to acceptance, by breadth-first search over states.
/// `None` if there are none, or none was found before the search grew too large.
pub(super) fn shortest_tokens<A: Automaton>(
    a: &A,
    trie: &TokenTrie,
    start: A::State,
) -> Option<Vec<TokenId>> {
    // (state, where it came from, by which token)
    let mut seen = vec![(start, 0, 0)];
    let mut known: HashSet<A::State, FxBuildHasher> = HashSet::default();
    known.insert(start);
    let (mut at, mut steps, mut path) = (0, 0, Vec::new());
    while at < seen.len() && !a.accepts(seen[at].0) {
        if seen.len() > MAX_SEARCH_STATES || steps > MAX_SEARCH_STEPS {
            return None;
        }
        steps += trie.walk(
            seen[at].0,
            &mut path,
            |s, b| a.step(s, b),
            |id, s| {
                if known.insert(s) {
                    seen.push((s, at, id));
                }
            },
        );
        at += 1;
    }
    let mut tokens = Vec::new();
    seen.get(at)?;
    while at > 0 {
        let (_, from, token) = seen[at];
        tokens.push(token);
        at = from;
    }
    tokens.reverse();
    Some(tokens)
}
