//! Decoding with taps and adapters allocates nothing once warm, on any thread.

#![allow(unsafe_code, clippy::panic, reason = "an allocator that counts; support panics as tests do")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use support::tiny;
use truing::adapters::{Adapter, ControlVector};
use truing::gguf::GgufWriter;
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

/// A LoRA of rank 4 on two matrices.
fn lora(model: &Model) -> Vec<u8> {
    let mut w = GgufWriter::new();
    w.set("general.type", "adapter").expect("key");
    w.set("general.architecture", "llama").expect("key");
    w.set("adapter.type", "lora").expect("key");
    w.set("adapter.lora.alpha", &4.0f32).expect("key");
    for name in ["blk.0.attn_q.weight", "blk.1.ffn_gate.weight"] {
        let t = model.file().tensor(name).expect("tensor");
        w.tensor_f32(&format!("{name}.lora_a"), &[t.dims[0], 4], &vec![0.01; 4 * t.dims[0]]).expect("a");
        w.tensor_f32(&format!("{name}.lora_b"), &[4, t.dims[1]], &vec![0.01; 4 * t.dims[1]]).expect("b");
    }
    w.to_bytes()
}

/// No test harness: the count is of all threads.
fn main() {
    let path = tiny::folder().join("llama-s1-a-q8_0.gguf");
    let model = Model::open(path, &ModelOptions::default()).expect("model");
    let options = ContextOptions {
        n_ctx: 256,
        n_kv_tokens: 1024,
        n_threads: 2,
        executor: ExecutorKind::Native,
        ..ContextOptions::default()
    };
    let mut ctx = Context::new(&model, &options).expect("context");
    let vector = ControlVector { directions: vec![(1, vec![0.01; model.shape().n_embd])] };
    let control =
        Adapter::from_bytes("c", &vector.to_bytes("llama").expect("bytes"), model.file()).expect("fits");
    let lora = Adapter::from_bytes("l", &lora(&model), model.file()).expect("fits");
    ctx.set_adapters(vec![Arc::new(control), Arc::new(lora)], &[1.0, 0.5]).expect("adapters");
    ctx.set_taps(&[0, 1]).expect("taps");
    let trunk = ctx.root().expect("root");
    ctx.eval(&[BatchItem { branch: &trunk, tokens: &[5; 40], want: Want::Last }]).expect("prompt");
    let branches = [ctx.fork(&trunk).expect("a"), ctx.fork(&trunk).expect("b"), trunk];
    let step = |ctx: &mut Context, n: usize| {
        let item = |i: usize| BatchItem { branch: &branches[i], tokens: &[2], want: Want::Last };
        ctx.eval(&[item(0), item(1), item(2)][..n]).expect("step");
        assert!(ctx.hidden(1, 0).is_some());
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
