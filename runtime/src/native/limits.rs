//! The two limits of a machine that matter here: 8-bit dot products and reading memory.
//!
//! Prefill cannot be faster than the first, decode not than the second; a rate next to its limit says how
//! much is left. Measured with the kernels' own instructions, on as many threads as compute. On a machine
//! that others use too the result is what they left over.

use super::kernels::{Dots, Isa, Read};
use std::time::{Duration, Instant};

/// What the processor does at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// 8-bit multiplications and additions, 10⁹ a second.
    pub int8_gop_s: f64,
    /// Bytes read from memory, 10⁹ a second.
    pub read_gb_s: f64,
}

/// More than any cache holds.
const READ_BYTES: usize = 128 << 20;
/// Measurements of each limit; the best counts.
const REPS: usize = 5;

impl Limits {
    /// Measures both with `n_threads` threads; takes about half a second, and 128 MiB meanwhile.
    pub fn measure(n_threads: usize) -> Self {
        let isa = Isa::detect();
        let n_threads = n_threads.max(1);
        let turns = 1 << 20;
        let n_ops = Dots { turns }.n_ops() * n_threads;
        let dots = best(n_threads, |_| isa.run(Dots { turns }));
        let data = vec![1u8; READ_BYTES];
        let part = READ_BYTES / n_threads;
        let read = best(n_threads, |i| isa.run(Read(&data[i * part..(i + 1) * part])));
        let rate = |n: usize, t: Duration| n as f64 / t.as_secs_f64().max(1e-9) / 1e9;
        Self { int8_gop_s: rate(n_ops, dots), read_gb_s: rate(part * n_threads, read) }
    }
}

/// The shortest time in which all threads have done `f`.
fn best(n_threads: usize, f: impl Fn(usize) -> i32 + Sync) -> Duration {
    let once = || {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for i in 1..n_threads {
                let f = &f;
                scope.spawn(move || std::hint::black_box(f(i)));
            }
            std::hint::black_box(f(0));
        });
        started.elapsed()
    };
    (0..REPS).map(|_| once()).min().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_a_processor() {
        for n_threads in [0, 2] {
            let limits = Limits::measure(n_threads);
            assert!(limits.int8_gop_s > 0.01 && limits.int8_gop_s.is_finite(), "{limits:?}");
            assert!(limits.read_gb_s > 0.01 && limits.read_gb_s.is_finite(), "{limits:?}");
        }
    }
}
