//! A sampler chain allocates nothing per token once it has room: counted at the allocator.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use truing::TokenSet;
use truing::sampling::{
    Chain, Dry, DryBreakers, Dynatemp, Extras, Mirostat, Penalties, SamplerKind, SamplingParams, Xtc,
};

struct Counting;

thread_local! {
    /// Allocations of this thread; other tests run on theirs.
    static N: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system allocator unchanged; counting touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        N.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: `p` came from `System.alloc` with this layout.
        unsafe { System.dealloc(p, layout) }
    }
    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        N.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller keeps the contract of `GlobalAlloc::realloc`.
        unsafe { System.realloc(p, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const N_VOCAB: usize = 5000;
const N_TOKENS: usize = 600;

/// Rows that differ from step to step, sometimes nearly flat, so that all code paths come up.
fn fill(row: &mut [f32], step: usize) {
    let scale = [6.0, 2.0, 0.3][step % 3];
    let mut x = step as u64 + 1;
    for l in row {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        *l = ((x >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale;
    }
}

/// Allocations of the steps after the first `warm_up`.
fn allocations(params: &SamplingParams, warm_up: usize) -> u64 {
    let mut chain = Chain::new(params, N_VOCAB).expect("valid parameters");
    chain.set_dry_breakers(DryBreakers::from_sequences(vec![(3, vec![]), (4, vec![7])]));
    chain.set_extras(Extras { logprob: true, log_z: true });
    chain.reserve(N_TOKENS);
    let mut row = vec![0.0; N_VOCAB];
    let mut mask = TokenSet::all(N_VOCAB);
    let mut before = 0;
    for step in 0..N_TOKENS {
        if step == warm_up {
            before = N.with(Cell::get);
        }
        fill(&mut row, step);
        mask.remove(step as u32 % 97);
        let mask = (step % 2 == 0).then_some(&mask);
        let s = chain.sample(&row, mask, step as u64).expect("drawn");
        // Repeats, so that penalties and DRY have work; a rollback now and then.
        chain.accept(if step % 3 == 0 { s.token } else { step as u32 % 11 }).expect("in vocabulary");
        if step % 50 == 49 {
            chain.rollback(5).expect("was accepted");
        }
    }
    N.with(Cell::get) - before
}

fn everything() -> SamplingParams {
    SamplingParams {
        dynatemp: Dynatemp { range: 0.3, exponent: 1.0 },
        typical_p: 0.9,
        top_n_sigma: 3.0,
        penalties: Penalties { last_n: -1, repeat: 1.1, frequency: 0.1, presence: 0.1 },
        dry: Dry { multiplier: 0.8, last_n: -1, ..Dry::default() },
        xtc: Xtc { probability: 0.5, threshold: 0.05 },
        logit_bias: vec![(5, 1.0), (6, -1.0)],
        ..SamplingParams::default()
    }
}

#[test]
fn no_step_allocates_after_warm_up() {
    let reversed = SamplerKind::DEFAULT_ORDER.into_iter().rev().collect();
    let flat = SamplingParams { top_p: 0.99, ..SamplingParams::plain(1) };
    let cases = [
        ("greedy", SamplingParams::greedy()),
        ("temperature", SamplingParams { temperature: 0.7, ..SamplingParams::plain(1) }),
        ("default", SamplingParams::default()),
        ("top-p over a flat law", flat),
        ("typical over a flat law", SamplingParams { typical_p: 0.9, ..SamplingParams::plain(1) }),
        ("mirostat", SamplingParams { mirostat: Some(Mirostat::default()), ..SamplingParams::plain(1) }),
        ("everything", everything()),
        ("everything, backwards", SamplingParams { samplers: reversed, ..everything() }),
    ];
    for (name, params) in cases {
        assert_eq!(allocations(&params, 3), 0, "{name}");
    }
}

#[test]
fn the_counter_counts() {
    let before = N.with(Cell::get);
    std::hint::black_box(vec![0u8; 100]);
    assert_eq!(N.with(Cell::get) - before, 1);
}
