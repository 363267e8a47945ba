//! A token costs no allocation, on neither side of the interface.
//!
//! A program of its own, without the usual frame for tests: that has a thread which allocates as it likes, and the
//! count is of all threads.

#![allow(unsafe_code, reason = "an allocator that counts, and calls as C makes them")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering};
use truing_capi::*;

struct Counting;

/// Of all threads.
static N: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged, which upholds the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        N.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        N.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above; `at` came from `System`.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations seen at each event.
struct Seen {
    counts: [usize; 64],
    n: usize,
}

unsafe extern "C-unwind" fn count(user_data: *mut c_void, _: *const truing_event) -> i32 {
    // SAFETY: the test hands over a `Seen` that lives through the call.
    let seen = unsafe { &mut *user_data.cast::<Seen>() };
    if let Some(slot) = seen.counts.get_mut(seen.n) {
        *slot = N.load(Ordering::Relaxed);
        seen.n += 1;
    }
    0
}

unsafe extern "C-unwind" fn leave(_: *mut c_void, _: *const u32, _: usize, _: *mut f32, _: usize) -> i32 {
    0
}

fn main() {
    let path = common::tiny();
    let path = path.to_str().expect("UTF-8");
    let profile = "[sampling]\nseed = 5\ntemperature = 1.0\n[limits]\nmax_tokens = 48\n";
    let (mut model, mut context, mut session) = (null_mut(), null_mut(), null_mut());
    let options = truing_context_options {
        struct_size: size_of::<truing_context_options>(),
        n_ctx: 64,
        n_kv_tokens: 0,
        n_threads: 1, // a second thread allocates when it starts, whenever that is
        max_rows: 0,
        executor: TRUING_EXECUTOR_NATIVE,
        kv_type: TRUING_KV_F16,
    };
    let ids = [5_u32, 9, 13];
    let mut seen = Seen { counts: [0; 64], n: 0 };
    // SAFETY: pointers, lengths and handles as the header asks for.
    unsafe {
        assert_eq!(truing_model_open(path.as_ptr().cast(), path.len(), null(), &raw mut model), TRUING_OK);
        assert_eq!(truing_context_new(model, &raw const options, &raw mut context), TRUING_OK);
        let made =
            truing_session_new(context, profile.as_ptr().cast(), profile.len(), null(), &raw mut session);
        assert_eq!(made, TRUING_OK);
        for on_logits in [None, Some(leave as _)] {
            assert_eq!(truing_session_prompt(session, ids.as_ptr(), ids.len()), TRUING_OK);
            seen.n = 0;
            let generate = truing_generate_options {
                struct_size: size_of::<truing_generate_options>(),
                on_event: Some(count),
                on_logits,
                user_data: (&raw mut seen).cast(),
                seed: 0,
                max_tokens: 0,
                deadline_ms: 60_000,
                flags: TRUING_GENERATE_IGNORE_EOS | TRUING_GENERATE_SHOW_SPECIAL,
                ..Default::default()
            };
            assert_eq!(truing_session_generate(session, &raw const generate, null_mut()), TRUING_OK);
            // the first tokens make buffers grow to their size; the last event comes with the finished text
            let counts = &seen.counts[4..seen.n - 1];
            assert!(counts.len() > 16, "{} events", seen.n);
            assert!(counts.iter().all(|n| *n == counts[0]), "{counts:?}");
        }
        truing_session_free(session);
        truing_context_free(context);
        truing_model_free(model);
    }
}
