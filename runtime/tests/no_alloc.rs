//! A context's own part of a decode step allocates nothing once warm.

#![allow(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use truing::model::{CancelFlag, Context, Executor, ModelShape, PAGE_TOKENS, Step, StepOut};
use truing::sampling::{BatchItem, NextLogits, Want};

struct Counting;

thread_local! {
    static N: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator unchanged, which upholds the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        N.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above; `at` came from `System`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Answers zeros.
struct Zeros;

impl Executor for Zeros {
    fn n_pages(&self) -> usize {
        256
    }

    fn max_rows(&self) -> usize {
        512
    }

    fn forward(&mut self, step: &Step<'_>, _: &CancelFlag, out: &mut StepOut) -> truing::Result<()> {
        out.logits.resize(step.outputs.len() * 10, 0.0);
        Ok(())
    }

    fn copy_page(&mut self, _: u32, _: u32, _: usize) -> truing::Result<()> {
        Ok(())
    }

    fn memory_bytes(&self) -> (usize, usize) {
        (0, 0)
    }
}

#[test]
fn decoding_allocates_nothing_after_the_first_steps() {
    let shape = ModelShape { n_vocab: 10, n_embd: 1, n_layer: 1 };
    let mut ctx = Context::with_executor(Box::new(Zeros), shape, 2048).expect("context");
    let trunk = ctx.root().expect("root");
    ctx.eval(&[BatchItem { branch: &trunk, tokens: &[1; 50], want: Want::Last }]).expect("prompt");
    let branches = [ctx.fork(&trunk).expect("a"), ctx.fork(&trunk).expect("b"), trunk];
    let step = |ctx: &mut Context, n: usize| {
        let item = |i: usize| BatchItem { branch: &branches[i], tokens: &[2], want: Want::Last };
        ctx.eval(&[item(0), item(1), item(2)][..n]).expect("step");
    };
    (1..=3).for_each(|n| step(&mut ctx, n));
    let before = N.with(Cell::get);
    for i in 0..10 * PAGE_TOKENS {
        step(&mut ctx, 1 + i % 3);
    }
    assert_eq!(N.with(Cell::get) - before, 0, "allocations in {} steps", 10 * PAGE_TOKENS);
}
