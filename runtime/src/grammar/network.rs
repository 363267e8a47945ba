//! Rules as a network of small nondeterministic automata that call each other.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use super::alphabet::{Alphabet, ByteSet, Letter, Letters};
use super::charset::CharSet;
use super::expr::{Expr, Grammar, Rule};
use super::leftrec;
use crate::error::{Error, ErrorKind, Result};

/// Largest number of states of a network, 16 bytes each.
const MAX_STATES: usize = 1 << 18;
/// No text at all.
pub(super) const NEVER: u32 = u32::MAX;

pub(super) type StateId = u32;

/// A state of a rule's automaton.
#[derive(Clone, Debug)]
pub(super) enum State {
    /// Goes on in any of these without reading.
    Split(Box<[StateId]>),
    /// Reads one character of the set.
    Char { set: u32, to: StateId },
    /// Reads what the rule spells.
    Call { rule: u32, back: StateId },
    /// The rule is done.
    End,
}

/// The checked, compiled form of a grammar, before it runs.
pub(super) struct Network {
    pub alphabet: Alphabet,
    /// Letters of each character set.
    pub sets: Vec<Letters>,
    /// The letter of each set that is spelt shortest.
    pub shortest: Vec<Option<Letter>>,
    pub states: Vec<State>,
    /// First state of each rule.
    pub starts: Vec<StateId>,
    pub root: u32,
    /// Bytes each state needs at least to the end of its rule; `NEVER` if it cannot get there.
    pub need: Vec<u32>,
    /// Place of each rule in an order in which callers come before what they call first of all.
    pub rank: Vec<u32>,
}

impl Network {
    /// # Errors `TooComplex` beyond the size limits; `Unencodable` if no text of the grammar can be
    /// spelt with `available` bytes.
    pub fn new(grammar: &Grammar, available: &ByteSet) -> Result<Self> {
        let grammar = leftrec::without_left_recursion(grammar)?;
        let mut builder = Builder::default();
        builder.rules(&grammar)?;
        let (alphabet, sets) = Alphabet::new(&builder.sets, available)?;
        let shortest = sets.iter().map(|letters| {
            letters
                .iter()
                .copied()
                .filter(|&l| !alphabet.spelling(l).is_empty())
                .min_by_key(|&l| (alphabet.spelling(l).len(), !is_plain(alphabet.spelling(l))))
        });
        let mut this = Self {
            shortest: shortest.collect(),
            alphabet,
            sets,
            states: builder.states,
            starts: builder.starts,
            root: grammar.root as u32,
            need: Vec::new(),
            rank: Vec::new(),
        };
        this.need = this.needs();
        if this.need[this.starts[grammar.root] as usize] == NEVER {
            return Err(Error::new(
                ErrorKind::Unencodable,
                "every text of the grammar needs bytes the vocabulary cannot write",
            ));
        }
        this.rank = this.ranks()?;
        Ok(this)
    }

    pub fn is_nullable(&self, rule: u32) -> bool {
        self.need[self.starts[rule as usize] as usize] == 0
    }

    /// Bytes of the shortest character of `set`.
    pub fn set_need(&self, set: u32) -> u32 {
        self.shortest[set as usize].map_or(NEVER, |l| self.alphabet.spelling(l).len() as u32)
    }

    /// Shortest texts from every state, by Knuth's extension of Dijkstra's algorithm to grammars
    /// (Information Processing Letters 6, 1977): values are settled in ascending order.
    fn needs(&self) -> Vec<u32> {
        let n = self.states.len();
        let mut users: Vec<Vec<StateId>> = vec![Vec::new(); n];
        for (s, state) in self.states.iter().enumerate() {
            let mut uses = |t: StateId| users[t as usize].push(s as StateId);
            match state {
                State::Split(to) => to.iter().for_each(|&t| uses(t)),
                State::Char { to, .. } => uses(*to),
                State::Call { rule, back } => {
                    uses(*back);
                    uses(self.starts[*rule as usize]);
                }
                State::End => {}
            }
        }
        let mut settled = vec![NEVER; n];
        let ends = (0..n).filter(|&s| matches!(self.states[s], State::End));
        let mut queue: BinaryHeap<Reverse<(u32, StateId)>> =
            ends.map(|s| Reverse((0, s as StateId))).collect();
        while let Some(Reverse((value, s))) = queue.pop() {
            if settled[s as usize] != NEVER {
                continue;
            }
            settled[s as usize] = value;
            for &user in &users[s as usize] {
                let value = match &self.states[user as usize] {
                    State::Split(_) => value,
                    State::Char { set, .. } => value.saturating_add(self.set_need(*set)),
                    State::Call { rule, back } => {
                        let called = settled[self.starts[*rule as usize] as usize];
                        called.saturating_add(settled[*back as usize])
                    }
                    State::End => continue,
                };
                if value != NEVER && settled[user as usize] == NEVER {
                    queue.push(Reverse((value, user)));
                }
            }
        }
        settled
    }

    /// What `state` reaches without reading: character states, calls, and whether its rule may end.
    /// States that lead nowhere are left out.
    pub fn closure(&self, state: StateId) -> Closure {
        let mut out = Closure::default();
        let (mut stack, mut seen) = (vec![state], rustc_hash::FxHashSet::default());
        while let Some(s) = stack.pop() {
            if self.need[s as usize] == NEVER || !seen.insert(s) {
                continue;
            }
            match &self.states[s as usize] {
                State::Split(to) => stack.extend(to.iter().rev()),
                State::Char { .. } => out.chars.push(s),
                State::Call { rule, back } => {
                    out.calls.push((*rule, *back));
                    if self.is_nullable(*rule) {
                        stack.push(*back);
                    }
                }
                State::End => out.ends = true,
            }
        }
        out
    }

    fn ranks(&self) -> Result<Vec<u32>> {
        let calls: Vec<Vec<usize>> = self
            .starts
            .iter()
            .map(|&s| self.closure(s).calls.iter().map(|c| c.0 as usize).collect())
            .collect();
        let mut rank = vec![0; self.starts.len()];
        for (i, (group, calls_itself)) in leftrec::groups(&calls).into_iter().enumerate() {
            if calls_itself {
                return Err(Error::new(ErrorKind::Internal, "left recursion was not rewritten"));
            }
            group.iter().for_each(|&r| rank[r] = i as u32);
        }
        Ok(rank)
    }
}

fn is_plain(spelling: &[u8]) -> bool {
    spelling.iter().all(|b| b.is_ascii_alphanumeric())
}

/// See [`Network::closure`].
#[derive(Clone, Debug, Default)]
pub(super) struct Closure {
    pub chars: Vec<StateId>,
    /// (rule, state to go on in).
    pub calls: Vec<(u32, StateId)>,
    pub ends: bool,
}

impl Closure {
    /// Whether the rule can only end here.
    pub fn is_tail(&self) -> bool {
        self.ends && self.chars.is_empty() && self.calls.is_empty()
    }
}

#[derive(Default)]
struct Builder {
    states: Vec<State>,
    starts: Vec<StateId>,
    sets: Vec<CharSet>,
    known: FxHashMap<CharSet, u32>,
    /// Expressions that became rules of their own, by the number they will have.
    hoisted: Vec<Expr>,
    n_rules: usize,
}

impl Builder {
    fn rules(&mut self, grammar: &Grammar) -> Result<()> {
        self.n_rules = grammar.rules.len();
        for Rule { expr, .. } in &grammar.rules {
            self.rule(expr)?;
        }
        let mut done = 0;
        while done < self.hoisted.len() {
            let expr = std::mem::replace(&mut self.hoisted[done], Expr::empty());
            self.rule(&expr)?;
            done += 1;
        }
        Ok(())
    }

    fn rule(&mut self, expr: &Expr) -> Result<()> {
        let end = self.add(State::End)?;
        let start = self.expr(expr, end)?;
        self.starts.push(start);
        Ok(())
    }

    fn add(&mut self, state: State) -> Result<StateId> {
        if self.states.len() >= MAX_STATES {
            return Err(Error::new(
                ErrorKind::TooComplex,
                format!("the grammar takes more than {MAX_STATES} states; shorten its repetitions"),
            ));
        }
        self.states.push(state);
        Ok(self.states.len() as StateId - 1)
    }

    fn set(&mut self, set: &CharSet) -> u32 {
        if let Some(&id) = self.known.get(set) {
            return id;
        }
        let id = self.sets.len() as u32;
        self.sets.push(set.clone());
        self.known.insert(set.clone(), id);
        id
    }

    /// States that spell `expr` and go on in `to`; the first of them.
    fn expr(&mut self, expr: &Expr, to: StateId) -> Result<StateId> {
        match expr {
            Expr::Text(text) => text.chars().rev().try_fold(to, |to, c| {
                let set = self.set(&CharSet::one(c));
                self.add(State::Char { set, to })
            }),
            Expr::Class(set) => {
                let set = self.set(set);
                self.add(State::Char { set, to })
            }
            Expr::Rule(rule) => self.add(State::Call { rule: *rule as u32, back: to }),
            Expr::Seq(parts) => parts.iter().rev().try_fold(to, |to, part| self.expr(part, to)),
            Expr::Alt(options) => {
                let starts = options.iter().map(|o| self.expr(o, to)).collect::<Result<Box<_>>>()?;
                self.add(State::Split(starts))
            }
            Expr::Repeat { body, min, max } => self.repeat(body, *min, *max, to),
        }
    }

    fn repeat(&mut self, body: &Expr, min: u32, max: Option<u32>, to: StateId) -> Result<StateId> {
        let n_copies = max.unwrap_or(min.saturating_add(1));
        let hoisted;
        let body = if n_copies > 1 && body.size() > 1 {
            hoisted = Expr::Rule(self.n_rules + self.hoisted.len());
            self.hoisted.push(body.clone());
            &hoisted
        } else {
            body
        };
        let mut at = to;
        match max {
            None => {
                at = self.add(State::End)?; // becomes the loop
                let again = self.expr(body, at)?;
                self.states[at as usize] = State::Split([again, to].into());
            }
            Some(max) => {
                for _ in min..max {
                    let once = self.expr(body, at)?;
                    at = self.add(State::Split([once, to].into()))?;
                }
            }
        }
        for _ in 0..min {
            at = self.expr(body, at)?;
        }
        Ok(at)
    }
}
