//! What guards cost: probes beside decoding, the phrase automaton a byte, taking text back, memory.
//!
//! `cargo run --release -p truing-benches --bin guards`, with `smollm2` in the cache. Every timed way gives the text of
//! plain decoding, which is checked: the guards here watch and never object. Targets: a response probe 0.5 % of the
//! time, a header probe every 16 tokens 10 %, the automaton 10 ns a byte at 1000 phrases, rollback 1 ms at 2048 tokens,
//! 4 MiB of memory.

#![allow(clippy::panic, reason = "a bench without its model cannot go on")]
#![allow(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;
use truing::align::{HoldBack, Phrase};
use truing::engine::prompt;
use truing::guard::{
    Action, Direction, PhraseGuard, Policy, Position, Probe, ProbeGuard, Quality, Thresholds, Watch,
    header_tokens,
};
use truing::model::{Context, ContextOptions, Model, ModelOptions};
use truing::sampling::{BatchItem, NextLogits, SamplingParams, Want};
use truing::session::{self, Aligned, Limits, Outcome, Request, Setting};
use truing::template::{Message, RenderOptions};

const N_CTX: usize = 4096;
const N_TOKENS: usize = 256;
const REPS: usize = 7;

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged, which upholds the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above; `at` came from `System`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A probe of two layers that reads everything and never objects.
fn probe(model: &Model, position: Position) -> Arc<Probe> {
    let shape = model.shape();
    let direction = |layer: usize| Direction {
        layer: layer as u32,
        weight: (0..shape.n_embd).map(|i| (i as f32).sin()).collect(),
        mean: vec![0.1; shape.n_embd],
        inv_std: vec![0.5; shape.n_embd],
        bias: 0.0,
    };
    let directions = vec![direction(shape.n_layer / 2), direction(7 * shape.n_layer / 10)];
    let thresholds = Thresholds { lo: 1e30, hi: 1e30 };
    Arc::new(Probe::new(position, directions, thresholds, Quality::default()).expect("probe"))
}

fn phrases(n: usize) -> Vec<Phrase> {
    let word = |i: usize| ["never", "mind", "the", "grey", "shore", "quite", "often", "turning"][i % 8];
    (0..n).map(|i| Phrase::from(format!("{} {} {i}", word(i), word(i / 8)).as_str())).collect()
}

struct Rig {
    model: Arc<Model>,
    context: Context,
    tokens: Vec<u32>,
    policy: Arc<Policy>,
}

impl Rig {
    fn new() -> Self {
        let path = truing::models::cached("smollm2").unwrap_or_else(|| panic!("truing pull smollm2"));
        let model = Model::open(&path, &ModelOptions::default()).expect("model");
        let options =
            ContextOptions { n_ctx: N_CTX, n_kv_tokens: 3 * N_CTX, n_threads: 1, ..Default::default() };
        let context = Context::new(&model, &options).expect("context");
        let template = prompt::template(&model, None).expect("template");
        let messages = [Message::new("user", "Tell me about the history of bridges, at length.")];
        let tokens =
            prompt::chat(&model, &template, &messages, &RenderOptions::default(), false).expect("prompt").ids;
        let header = header_tokens(&model, &template).expect("header").into();
        let policy = Arc::new(Policy { header, hold_tokens: 16, ..Policy::default() });
        Self { model, context, tokens, policy }
    }

    /// Seconds of decoding, and the outcome.
    fn run(&mut self, watch: Option<Watch>) -> (f64, Outcome) {
        let setting = Setting {
            vocab: self.model.vocab(),
            n_ctx: N_CTX,
            n_parallel: 1,
            cancel: self.context.cancel_flag(),
            model_id: String::new(),
        };
        let request = Request {
            branch: self.context.root().expect("branch"),
            tokens: self.tokens.clone(),
            sampling: SamplingParams { temperature: 0.0, ..SamplingParams::plain(1) },
            limits: Limits { max_tokens: Some(N_TOKENS), ignore_eos: true, ..Limits::default() },
            keep_branch: false,
            aligned: Aligned { watch, ..Aligned::default() },
        };
        let started = Instant::now();
        let done = session::run(&mut self.context, &setting, vec![request], &mut |_, _| {}).expect("text");
        (started.elapsed().as_secs_f64(), done.into_iter().next().expect("one").1)
    }

    fn watch(&self, position: Position) -> Watch {
        let guard = ProbeGuard::new("p".into(), Action::Backtrack, probe(&self.model, position), None);
        Watch::new(vec![Box::new(guard)], Arc::clone(&self.policy))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn probes(rig: &mut Rig) {
    let (_, text) = rig.run(None);
    let (mut plain, mut shares) = (Vec::new(), Vec::new());
    let mut ratios: [Vec<f64>; 2] = Default::default();
    for _ in 0..REPS {
        let (seconds, _) = rig.run(None);
        plain.push(seconds);
        for (i, position) in [Position::Response, Position::Header].into_iter().enumerate() {
            let watch = rig.watch(position);
            let (watched, outcome) = rig.run(Some(watch));
            assert_eq!(outcome.ids, text.ids, "guards that do not object change nothing");
            ratios[i].push(watched / seconds - 1.0);
            if i == 0 {
                shares.push(outcome.report.guard.expect("guarded").time_share);
            }
        }
    }
    let [response, header] = ratios.map(median);
    println!("decode of {N_TOKENS} tokens, 1 thread: {:.2} s", median(plain));
    println!(
        "response probe, 2 layers: {:.3} % of the time by its own clock, {:+.2} % whole (target 0.5)",
        100.0 * median(shares),
        100.0 * response
    );
    println!("header probe every 16 tokens: {:+.2} % (target 10)", 100.0 * header);
}

fn automaton() {
    let text = "the grey shore was often quite far from never minding that turning, said the 12th man. "
        .repeat(4000);
    let fresh = HoldBack::by_push(&phrases(1000)).expect("phrases");
    let mut times = Vec::new();
    for _ in 0..REPS {
        let mut filter = fresh.clone();
        let mut out = String::with_capacity(text.len());
        let started = Instant::now();
        for piece in text.as_bytes().chunks(4) {
            assert!(filter.push(piece, &mut out).is_none());
        }
        assert!(filter.finish(&mut out).is_none());
        times.push(started.elapsed().as_secs_f64());
        assert_eq!(out, text);
    }
    println!(
        "phrase automaton, 1000 phrases: {:.1} ns a byte (target 10)",
        1e9 * median(times) / text.len() as f64
    );
}

fn rollback(rig: &mut Rig) {
    const N: usize = 2048;
    let tokens: Vec<u32> = (0..N as u32).map(|i| 100 + i % 1000).collect();
    let guard = PhraseGuard::new("p".into(), Action::Backtrack, &phrases(1000)).expect("phrases");
    let probe = ProbeGuard::new("q".into(), Action::Backtrack, probe(&rig.model, Position::Response), None);
    let mut watch = Watch::new(vec![Box::new(guard), Box::new(probe)], Arc::clone(&rig.policy));
    watch.reserve(N);
    let state = vec![0.5; rig.model.shape().n_embd];
    let (mut pages, mut states) = (Vec::new(), Vec::new());
    let branch = rig.context.root().expect("branch");
    for rep in 0..REPS {
        let from = if rep == 0 { 0 } else { N / 2 };
        rig.context
            .eval(&[BatchItem { branch: &branch, tokens: &tokens[from..], want: Want::Nothing }])
            .expect("eval");
        for (i, token) in tokens.iter().enumerate().skip(from) {
            watch.at_token(*token, b"some");
            watch.at_state(i, &|_| Some(&state));
        }
        let started = Instant::now();
        rig.context.truncate(&branch, N / 2).expect("cut");
        pages.push(started.elapsed().as_secs_f64());
        let started = Instant::now();
        watch.rewind(N / 2).expect("rewind");
        states.push(started.elapsed().as_secs_f64());
    }
    println!(
        "taking 1024 of {N} tokens back: {:.4} ms for the cache, {:.3} ms for a phrase guard and a probe (target 1)",
        1e3 * median(pages),
        1e3 * median(states)
    );
}

fn memory(rig: &Rig) {
    let before = HELD.load(Relaxed);
    let guard = PhraseGuard::new("p".into(), Action::Backtrack, &phrases(1000)).expect("phrases");
    let probe = ProbeGuard::new("q".into(), Action::Backtrack, probe(&rig.model, Position::Response), None);
    let mut watch = Watch::new(vec![Box::new(guard), Box::new(probe)], Arc::clone(&rig.policy));
    watch.reserve(4096);
    let held = HELD.load(Relaxed) - before;
    println!("memory, 1000 phrases, a probe, 4096 tokens: {:.2} MiB (target 4)", held as f64 / 1048576.0);
    drop(watch);
}

fn main() {
    let mut rig = Rig::new();
    automaton();
    memory(&rig);
    rollback(&mut rig);
    probes(&mut rig);
}
