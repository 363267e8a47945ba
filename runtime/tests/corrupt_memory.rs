//! A damaged file never costs memory that it does not hold: the largest block asked for while opening each
//! row of `data/corrupt` is measured by an allocator that counts.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what must hold by unwrapping it")]
#![allow(unsafe_code)]

#[path = "support/corrupt.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use truing::model::{Model, ModelOptions};

/// The system's allocator, and the peak of bytes held since it was last set.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grow(n: usize) {
    let held = HELD.fetch_add(n, Relaxed) + n;
    PEAK.fetch_max(held, Relaxed);
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller upholds `alloc`'s contract, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: `ptr` came from `alloc` above with this layout, so from the system.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The peak of bytes held above the start while `f` runs. One test in this file, so nobody else allocates.
fn peak_of<T>(f: impl FnOnce() -> T) -> usize {
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    drop(f());
    PEAK.load(Relaxed) - before
}

#[test]
fn no_damage_costs_memory_that_the_file_does_not_hold() {
    let rows = support::rows();
    let scratch = support::Scratch::new("memory");
    for row in &rows {
        let path = scratch.write(&row.name, &row.bytes);
        let peak = peak_of(|| Model::open(&path, &ModelOptions::default()).map(drop));
        // A sound model of this size takes 60 kB; a trusted count of 2^32 would take gigabytes.
        assert!(peak < 1 << 20, "{}: {peak} bytes", row.name);
    }
    assert!(peak_of(|| vec![0u8; 1 << 21]) >= 1 << 21, "the allocator counts");
}
