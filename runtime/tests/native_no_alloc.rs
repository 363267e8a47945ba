//! A decoded token on the native executor allocates nothing once warm, on any thread.

#![allow(unsafe_code, reason = "an allocator that counts")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use truing::model::{Context, ContextOptions, ExecutorKind, Model, ModelOptions};
use truing::sampling::{BatchItem, NextLogits, Want};

struct Counting;

static N: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged, which upholds the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        N.fetch_add(1, Relaxed);
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

/// No test harness: the count is of all threads.
fn main() {
    let model = Model::open(common::real_model("smollm2"), &ModelOptions::default()).expect("model");
    let options = ContextOptions {
        n_ctx: 256,
        n_kv_tokens: 1024,
        n_threads: 2,
        executor: ExecutorKind::Native,
        ..ContextOptions::default()
    };
    let mut ctx = Context::new(&model, &options).expect("context");
    let trunk = ctx.root().expect("root");
    ctx.eval(&[BatchItem { branch: &trunk, tokens: &[500; 40], want: Want::Last }]).expect("prompt");
    let branches = [ctx.fork(&trunk).expect("a"), ctx.fork(&trunk).expect("b"), trunk];
    let step = |ctx: &mut Context, n: usize| {
        let item = |i: usize| BatchItem { branch: &branches[i], tokens: &[2], want: Want::Last };
        ctx.eval(&[item(0), item(1), item(2)][..n]).expect("step");
    };
    (1..=3).for_each(|n| step(&mut ctx, n));
    // a thread of the pool that has not begun yet allocates when it does
    std::thread::sleep(std::time::Duration::from_millis(300));
    (1..=3).for_each(|n| step(&mut ctx, n));
    let before = N.load(Relaxed);
    for i in 0..80 {
        step(&mut ctx, 1 + i % 3);
    }
    assert_eq!(N.load(Relaxed) - before, 0, "allocations in 80 steps");
}
