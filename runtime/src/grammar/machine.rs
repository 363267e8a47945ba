//! A grammar running over bytes: a nondeterministic pushdown automaton made deterministic as it goes.
//!
//! A configuration is the set of all positions the text so far can be at: pairs of a character state and
//! a frame, plus the place inside an unfinished UTF-8 character. A frame says where a rule returns to:
//! a set of (state, frame) pairs, one frame for all callers of a rule at the same position, as in
//! Earley's columns and graph-structured stacks. Frames and configurations are interned, so equal ones
//! are one number, transitions are remembered in rows, and a state of the text is a `u32`. Nothing is
//! guessed: there is no separate lexer, no longest match, and all parses live side by side, so exactly the
//! texts of the grammar are accepted and exactly their prefixes are viable. A regular grammar ends up
//! with finitely many configurations, that is, with its deterministic automaton.
//! A call in last position reuses the caller's frame, so right recursion needs no stack.
//!
//! Cost: 3 to 4 ns a byte on a known transition, without locks; a new one takes about a microsecond under a
//! lock. It loses on ambiguous grammars, where configurations grow with the text (as Earley's do), and
//! on counted repetitions, where each count is a configuration of its own.
//! Source: Earley, CACM 13 (1970); Scott and Johnstone, "GLL parsing" (2010) for the shared stacks.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::alphabet::{ByteSet, Decoded, intersects};
use super::arena::Arena;
use super::automaton::{Automaton, Completion};
use super::expr::Grammar;
use super::network::{Closure, NEVER, Network, State, StateId};
use crate::error::{Error, ErrorKind, Result};

type FrameId = u32;
/// The frame of the root rule: returning to it accepts.
const BOTTOM: FrameId = 0;

/// A character state and where its rule returns to.
type Item = (StateId, FrameId);

const UNKNOWN: u32 = 0;
const DEAD: u32 = 1;
const FIRST: u32 = 2;

/// Memory for configurations, rows and frames of one machine, in bytes.
const MAX_MEMORY: usize = 96 << 20;

struct Config {
    /// Inside which unfinished character.
    node: Option<u16>,
    accepts: bool,
    /// Bytes of the shortest completion.
    need: u32,
    /// The item on it; 0 if `accepts`.
    best: u32,
    items: Box<[Item]>,
    /// By byte class: `UNKNOWN`, `DEAD`, or `FIRST +` a configuration.
    row: OnceLock<Box<[AtomicU32]>>,
}

/// A grammar as an automaton over bytes.
pub struct Machine {
    net: Network,
    available: ByteSet,
    configs: Arena<Config>,
    grower: Mutex<Grower>,
    is_full: AtomicBool,
    start: u32,
}

impl Grammar {
    /// The automaton of this grammar, for a vocabulary that can write `available` bytes one at a time:
    /// texts with other bytes are not accepted, so that whatever is viable can be completed.
    /// # Errors `TooComplex` beyond the size limits; `Unencodable` if no text is left.
    pub fn compile(&self, available: &ByteSet) -> Result<Machine> {
        let net = Network::new(self, available)?;
        let mut grower = Grower::new(&net);
        let configs = Arena::new();
        let start = net.starts[net.root as usize];
        let start = grower.advance(&net, &configs, &[(start, BOTTOM)]);
        let is_full = AtomicBool::new(false);
        match start {
            Some(start) => Ok(Machine {
                net,
                available: *available,
                configs,
                grower: Mutex::new(grower),
                is_full,
                start,
            }),
            None => {
                Err(Error::new(ErrorKind::Internal, "a grammar that passed its checks has no first state"))
            }
        }
    }
}

impl Machine {
    fn config(&self, state: u32) -> Option<&Config> {
        self.configs.get(state)
    }

    /// Number of configurations found so far.
    pub fn n_states(&self) -> usize {
        self.grower.lock().unwrap_or_else(PoisonError::into_inner).n_configs as usize
    }

    /// Finds the transition of `config` on `byte` and remembers it.
    #[cold]
    fn explore(&self, config: &Config, byte: u8, cell: &AtomicU32) -> Option<u32> {
        let mut grower = self.grower.lock().unwrap_or_else(PoisonError::into_inner);
        if grower.memory > MAX_MEMORY {
            self.is_full.store(true, Ordering::Relaxed);
            return None;
        }
        let to = grower.step(&self.net, &self.configs, config, byte);
        cell.store(to.map_or(DEAD, |t| t + FIRST), Ordering::Release);
        to
    }

    fn row<'a>(&self, config: &'a Config) -> &'a [AtomicU32] {
        config.row.get_or_init(|| {
            let n = self.net.alphabet.n_byte_classes();
            self.grower.lock().unwrap_or_else(PoisonError::into_inner).memory += n * size_of::<AtomicU32>();
            (0..n).map(|_| AtomicU32::new(UNKNOWN)).collect()
        })
    }
}

impl Automaton for Machine {
    type State = u32;
    const COMPLETION: Completion = Completion::Exact;

    fn start(&self) -> u32 {
        self.start
    }

    fn step(&self, state: u32, byte: u8) -> Option<u32> {
        let config = self.config(state)?;
        let cell = &self.row(config)[self.net.alphabet.byte_class(byte)];
        match cell.load(Ordering::Acquire) {
            UNKNOWN => self.explore(config, byte, cell),
            DEAD => None,
            to => Some(to - FIRST),
        }
    }

    fn accepts(&self, state: u32) -> bool {
        self.config(state).is_some_and(|c| c.accepts)
    }

    fn at_least(&self, state: u32) -> u32 {
        self.config(state).map_or(NEVER, |c| c.need)
    }

    fn complete(&self, state: u32, out: &mut Vec<u8>) -> bool {
        let from = out.len();
        let mut at = state;
        while !self.accepts(at) {
            let written = out.len();
            let next = self
                .config(at)
                .filter(|c| self.write_best(c, out))
                .and_then(|_| self.run(at, &out[written..]));
            let Some(next) = next else {
                out.truncate(from);
                return false;
            };
            at = next;
        }
        true
    }

    fn may_write(&self, byte: u8) -> bool {
        self.available[usize::from(byte)]
    }

    fn probes(&self, out: &mut Vec<u8>) {
        let mut seen = [false; 256];
        let plain = (b'a'..=b'z').chain(b'0'..=b'9').chain(b' '..=b'~').chain(0..=255);
        out.extend(plain.filter(|&b| !std::mem::replace(&mut seen[self.net.alphabet.byte_class(b)], true)));
    }

    fn check(&self) -> Result<()> {
        if self.is_full.load(Ordering::Relaxed) {
            let mib = MAX_MEMORY >> 20;
            return Err(Error::new(
                ErrorKind::TooComplex,
                format!("the grammar needs more than {mib} MiB of parser states for this text"),
            ));
        }
        Ok(())
    }
}

impl Machine {
    /// Appends the character, or its rest, with which the shortest completion goes on.
    fn write_best(&self, config: &Config, out: &mut Vec<u8>) -> bool {
        let Some(&(state, _)) = config.items.get(config.best as usize) else { return false };
        let State::Char { set, .. } = self.net.states[state as usize] else { return false };
        match (config.node, self.net.shortest[set as usize]) {
            (Some(node), _) => self.net.alphabet.finish(node, &self.net.sets[set as usize], out),
            (None, Some(letter)) => {
                out.extend_from_slice(self.net.alphabet.spelling(letter));
                true
            }
            (None, None) => false,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct FrameKey {
    /// (state to go on in, its frame), ascending.
    returns: Box<[Item]>,
    /// Whether the text may end on returning.
    is_bottom: bool,
}

#[derive(PartialEq, Eq, Hash)]
struct ConfigKey {
    node: Option<u16>,
    accepts: bool,
    items: Box<[Item]>,
}

/// What finds new configurations; one thread at a time.
struct Grower {
    frames: Vec<FrameKey>,
    /// Bytes needed from each frame to acceptance.
    frame_need: Vec<u32>,
    frame_ids: HashMap<FrameKey, FrameId, FxBuildHasher>,
    config_ids: HashMap<ConfigKey, u32, FxBuildHasher>,
    closures: Vec<Option<Arc<Closure>>>,
    n_configs: u32,
    memory: usize,
    // scratch
    work: Vec<Item>,
    seen: hashbrown::HashSet<Item, FxBuildHasher>,
    /// Returns wanted from each rule called at this position, by (rank, rule).
    calls: std::collections::BTreeMap<(u32, u32), (Vec<Item>, bool)>,
}

impl Grower {
    fn new(net: &Network) -> Self {
        let bottom = FrameKey { returns: Box::default(), is_bottom: true };
        Self {
            frames: vec![bottom.clone()],
            frame_need: vec![0],
            frame_ids: std::iter::once((bottom, BOTTOM)).collect(),
            config_ids: HashMap::default(),
            closures: vec![None; net.states.len()],
            n_configs: 0,
            memory: 0,
            work: Vec::new(),
            seen: hashbrown::HashSet::default(),
            calls: std::collections::BTreeMap::new(),
        }
    }

    /// The configuration after `byte`; `None` if there is none.
    fn step(&mut self, net: &Network, configs: &Arena<Config>, from: &Config, byte: u8) -> Option<u32> {
        let set_of = |state: StateId| match net.states[state as usize] {
            State::Char { set, to } => Some((&net.sets[set as usize], to)),
            _ => None,
        };
        match net.alphabet.step(from.node, byte) {
            Decoded::Invalid => None,
            Decoded::Inside(node) => {
                let reach = net.alphabet.reach(node);
                let alive = |&&(s, _): &&Item| set_of(s).is_some_and(|(set, _)| intersects(set, reach));
                let items: Box<[Item]> = from.items.iter().filter(alive).copied().collect();
                (!items.is_empty()).then(|| {
                    self.intern(net, configs, ConfigKey { node: Some(node), accepts: false, items })
                })?
            }
            Decoded::Letter(letter) => {
                let reads = |&(s, frame): &Item| {
                    set_of(s).filter(|(set, _)| set.binary_search(&letter).is_ok()).map(|(_, to)| (to, frame))
                };
                let targets: Vec<Item> = from.items.iter().filter_map(reads).collect();
                self.advance(net, configs, &targets)
            }
        }
    }

    /// The configuration reached by being at all of `targets` at once.
    fn advance(&mut self, net: &Network, configs: &Arena<Config>, targets: &[Item]) -> Option<u32> {
        let (mut items, mut accepts) = (Vec::new(), false);
        self.work.clear();
        self.seen.clear();
        self.calls.clear();
        self.work.extend_from_slice(targets);
        while let Some((state, frame)) = self.work.pop() {
            if !self.seen.insert((state, frame)) {
                continue;
            }
            let closure = self.closure(net, state);
            items.extend(closure.chars.iter().map(|&c| (c, frame)));
            self.want(net, &closure, frame);
            if closure.ends {
                let FrameKey { returns, is_bottom } = &self.frames[frame as usize];
                accepts |= is_bottom;
                self.work.extend_from_slice(returns);
            }
        }
        // A rule called here cannot return here: empty spellings were stepped over in the closures. So
        // its frame is complete once all its callers are, and callers come first in rank.
        while let Some(((_, rule), (returns, is_bottom))) = self.calls.pop_first() {
            let frame = self.frame(net, returns, is_bottom);
            let closure = self.closure(net, net.starts[rule as usize]);
            items.extend(closure.chars.iter().map(|&c| (c, frame)));
            self.want(net, &closure, frame);
        }
        items.sort_unstable();
        items.dedup();
        if items.is_empty() && !accepts {
            return None;
        }
        self.intern(net, configs, ConfigKey { node: None, accepts, items: items.into() })
    }

    /// The closure of `state`, computed when first asked for.
    fn closure(&mut self, net: &Network, state: StateId) -> Arc<Closure> {
        let memory = &mut self.memory;
        let known = self.closures[state as usize].get_or_insert_with(|| {
            let closure = net.closure(state);
            *memory += closure.chars.len() * 4 + closure.calls.len() * 8 + 64;
            Arc::new(closure)
        });
        Arc::clone(known)
    }

    /// Notes the rules `closure` calls, and where they return to.
    fn want(&mut self, net: &Network, closure: &Closure, frame: FrameId) {
        for &(rule, back) in &closure.calls {
            let is_tail = self.closure(net, back).is_tail();
            let (returns, is_bottom) = self.calls.entry((net.rank[rule as usize], rule)).or_default();
            if is_tail {
                returns.extend_from_slice(&self.frames[frame as usize].returns);
                *is_bottom |= self.frames[frame as usize].is_bottom;
            } else {
                returns.push((back, frame));
            }
        }
    }

    fn frame(&mut self, net: &Network, mut returns: Vec<Item>, is_bottom: bool) -> FrameId {
        returns.sort_unstable();
        returns.dedup();
        let key = FrameKey { returns: returns.into(), is_bottom };
        if let Some(&id) = self.frame_ids.get(&key) {
            return id;
        }
        let id = self.frames.len() as FrameId;
        let via = |&(s, f): &Item| net.need[s as usize].saturating_add(self.frame_need[f as usize]);
        let need = if is_bottom { 0 } else { key.returns.iter().map(via).min().unwrap_or(NEVER) };
        self.memory += 2 * (key.returns.len() * size_of::<Item>() + 48);
        self.frames.push(key.clone());
        self.frame_need.push(need);
        self.frame_ids.insert(key, id);
        id
    }

    /// The number of a configuration; `None` if the table is full.
    fn intern(&mut self, net: &Network, configs: &Arena<Config>, key: ConfigKey) -> Option<u32> {
        if let Some(&id) = self.config_ids.get(&key) {
            return Some(id);
        }
        let cost = |&(state, frame): &Item| match net.states[state as usize] {
            State::Char { set, to } => {
                let first = key.node.map_or_else(|| net.set_need(set), |n| net.alphabet.left(n));
                first.saturating_add(net.need[to as usize]).saturating_add(self.frame_need[frame as usize])
            }
            _ => NEVER,
        };
        let best = key.items.iter().map(cost).enumerate().min_by_key(|&(_, c)| c);
        let (best, need) = if key.accepts { (0, 0) } else { best.map_or((0, NEVER), |(i, c)| (i as u32, c)) };
        let config = Config {
            node: key.node,
            accepts: key.accepts,
            need,
            best,
            items: key.items.clone(),
            row: OnceLock::new(),
        };
        let id = self.n_configs;
        self.memory += 2 * (key.items.len() * size_of::<Item>() + size_of::<Config>());
        if !configs.push(id, config) {
            return None;
        }
        self.n_configs += 1;
        self.config_ids.insert(key, id);
        Some(id)
    }
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("n_states", &self.n_states()).finish_non_exhaustive()
    }
}
