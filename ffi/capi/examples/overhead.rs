//! What the C interface costs over the Rust one: the same answers by both, by turns, in one process.
//!
//! `cargo run --release -p truing-capi --example overhead -- MODEL.gguf [PAIRS] [TOKENS]`
//!
//! One thread computes, and what counts is the processor's time that it took (Linux; elsewhere the clock on the wall), so
//! that other programs on the machine disturb as little as they can. Who goes first changes from pair to pair.

#![allow(unsafe_code, reason = "calls as C makes them")]

use std::error::Error;
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};
use truing::config::Profile;
use truing::engine::{self, Sequence, Settings};
use truing::model::{Branch, Context, ContextOptions, Model, ModelOptions};
use truing::session::Event;
use truing::vocab::Specials;
use truing_capi::*;

const PROMPT: &str = "Once upon a time there was a";

fn profile(n_tokens: usize) -> String {
    format!("[sampling]\nseed = 5\n[limits]\nmax_tokens = {n_tokens}\n")
}

/// Processor time of this process.
#[cfg(target_os = "linux")]
fn now() -> Duration {
    #[repr(C)]
    struct Time {
        s: std::ffi::c_long,
        ns: std::ffi::c_long,
    }
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut Time) -> i32;
    }
    const PROCESS: i32 = 2;
    let mut time = Time { s: 0, ns: 0 };
    // SAFETY: the struct is the system's `timespec`.
    unsafe { clock_gettime(PROCESS, &raw mut time) };
    Duration::new(time.s as u64, time.ns as u32)
}

/// Time since some moment.
#[cfg(not(target_os = "linux"))]
fn now() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

struct Rust {
    model: std::sync::Arc<Model>,
    context: Context,
    settings: Settings,
    sequence: Sequence<Branch>,
    prompt: Vec<u32>,
}

impl Rust {
    fn new(path: &str, n_tokens: usize) -> Result<Self, Box<dyn Error>> {
        let model = Model::open(path, &ModelOptions::default())?;
        let mut context =
            Context::new(&model, &ContextOptions { n_ctx: 1024, n_threads: 1, ..ContextOptions::default() })?;
        let profile = Profile::parse(&profile(n_tokens))?;
        let mut settings = Settings::plain(profile.sampling, truing::session::Limits::default());
        settings.limits.max_tokens = Some(n_tokens);
        settings.limits.ignore_eos = true;
        let prompt = model.vocab().tokenize(PROMPT, Specials::NONE)?.ids;
        let sequence = Sequence::new(&mut context, 1024)?;
        Ok(Self { model, context, settings, sequence, prompt })
    }

    fn answer(&mut self) -> Result<(Duration, usize), Box<dyn Error>> {
        let Self { model, context, settings, sequence, prompt } = self;
        sequence.set(context, prompt)?;
        let mut n_bytes = 0;
        let started = now();
        let job = settings.job(sequence.tokens().to_vec(), 1024)?;
        let setting = engine::setting(model, context, 1);
        sequence.generate(context, &setting, settings, job, &mut |event| {
            if let Event::Text(text) = event {
                n_bytes += text.len();
            }
        })?;
        Ok((now() - started, n_bytes))
    }
}

fn check(status: truing_status) -> Result<(), String> {
    match status {
        TRUING_OK => Ok(()),
        _ => Err(format!("status {status}")),
    }
}

unsafe extern "C-unwind" fn count(user_data: *mut c_void, event: *const truing_event) -> i32 {
    // SAFETY: `answer` hands over a number that lives through the call; the library an event.
    unsafe {
        if (*event).kind == TRUING_EVENT_TEXT {
            *user_data.cast::<usize>() += (*event).text_len;
        }
    }
    0
}

struct C {
    model: *mut truing_model,
    context: *mut truing_context,
    session: *mut truing_session,
    prompt: Vec<u32>,
}

impl C {
    fn new(path: &str, n_tokens: usize, prompt: Vec<u32>) -> Result<Self, Box<dyn Error>> {
        let mut c = Self { model: null_mut(), context: null_mut(), session: null_mut(), prompt };
        let profile = profile(n_tokens);
        let options = truing_context_options {
            struct_size: size_of::<truing_context_options>(),
            n_ctx: 1024,
            n_kv_tokens: 0,
            n_threads: 1,
            max_rows: 0,
            executor: 0,
            kv_type: 0,
        };
        // SAFETY: pointers and lengths as the header asks for.
        unsafe {
            check(truing_model_open(path.as_ptr().cast(), path.len(), null(), &raw mut c.model))?;
            check(truing_context_new(c.model, &raw const options, &raw mut c.context))?;
            let text = profile.as_ptr().cast();
            check(truing_session_new(c.context, text, profile.len(), null(), &raw mut c.session))?;
        }
        Ok(c)
    }

    fn answer(&mut self) -> Result<(Duration, usize), Box<dyn Error>> {
        let mut n_bytes = 0_usize;
        let options = truing_generate_options {
            struct_size: size_of::<truing_generate_options>(),
            on_event: Some(count),
            on_logits: None,
            user_data: (&raw mut n_bytes).cast(),
            seed: 0,
            max_tokens: 0,
            deadline_ms: 0,
            flags: TRUING_GENERATE_IGNORE_EOS,
            ..Default::default()
        };
        // SAFETY: pointers, lengths and handles as the header asks for.
        unsafe {
            check(truing_session_prompt(self.session, self.prompt.as_ptr(), self.prompt.len()))?;
            let started = now();
            check(truing_session_generate(self.session, &raw const options, null_mut()))?;
            Ok((now() - started, n_bytes))
        }
    }

    /// Time of a session on a warm context.
    fn new_session(&self) -> Result<Duration, Box<dyn Error>> {
        let (mut session, profile) = (null_mut(), profile(64));
        let started = Instant::now();
        // SAFETY: as above.
        unsafe {
            let text = profile.as_ptr().cast();
            check(truing_session_new(self.context, text, profile.len(), null(), &raw mut session))?;
            let took = started.elapsed();
            truing_session_free(session);
            Ok(took)
        }
    }
}

impl Drop for C {
    fn drop(&mut self) {
        // SAFETY: our own handles, freed once.
        unsafe {
            truing_session_free(self.session);
            truing_context_free(self.context);
            truing_model_free(self.model);
        }
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let path = args.get(1).ok_or("expected: overhead MODEL.gguf [PAIRS] [TOKENS]")?;
    let n_pairs = args.get(2).map_or(Ok(11), |n| n.parse())?;
    let n_tokens: usize = args.get(3).map_or(Ok(64), |n| n.parse())?;
    let mut rust = Rust::new(path, n_tokens)?;
    let mut c = C::new(path, n_tokens, rust.prompt.clone())?;
    rust.answer()?;
    c.answer()?;
    let (mut by_rust, mut by_c, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..n_pairs {
        let first = if i % 2 == 0 { Some(rust.answer()?) } else { None };
        let (b, b_bytes) = c.answer()?;
        let (a, a_bytes) = match first {
            Some(answer) => answer,
            None => rust.answer()?,
        };
        assert_eq!(a_bytes, b_bytes, "the same text by both");
        by_rust.push(a.as_secs_f64() * 1e6 / n_tokens as f64);
        by_c.push(b.as_secs_f64() * 1e6 / n_tokens as f64);
        ratios.push(b.as_secs_f64() / a.as_secs_f64());
    }
    let mut sessions = Vec::new();
    for _ in 0..101 {
        sessions.push(c.new_session()?.as_secs_f64() * 1e6);
    }
    println!(
        "µs a token, medians of {n_pairs}: Rust {:.1}, C {:.1}; ratio {:.4}; truing_session_new {:.1} µs",
        median(&mut by_rust),
        median(&mut by_c),
        median(&mut ratios),
        median(&mut sessions)
    );
    Ok(())
}
