//! A pool of threads for steps of some microseconds, on machines that others use too.
//!
//! Why: a token takes some two hundred short parallel loops. Threads that meet at barriers stall all
//! together when the system takes one core away (measured: two threads beside two busy processes fall to a
//! twentieth of their speed). Here a loop's pieces are taken one by one by whoever is free; a worker that is
//! not running when a loop starts is not waited for; only a worker that was interrupted within a piece is.
//! When that happens the pool works alone for a while, longer each time it happens again.
//!
//! Workers spin for about as long as the gap between two loops and then park, so an idle context costs
//! nothing. The caller takes part. Which thread does which piece never changes a result.

use crate::error::{Error, ErrorKind, Result};
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread, ThreadId};
use std::time::{Duration, Instant};

/// Turns of the spin loop before a worker parks: some 100 µs, more than the gap between two loops.
const SPINS_IDLE: u32 = 4000;
/// Turns before the caller, done with its own pieces, parks until the last worker is.
const SPINS_JOIN: u32 = 2000;
/// A caller that waits longer than this for a piece was held up by a lost core.
const LATE: Duration = Duration::from_micros(400);
/// How long the pool works alone after that: at first, and at most.
const ALONE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(160));

/// The loop being run. Valid while `State::OPEN` is set or a worker is inside.
#[derive(Clone, Copy)]
struct Job {
    data: *const (),
    call: unsafe fn(*const (), usize, usize),
    n: usize,
}

/// `generation << 32 | open << 31 | workers inside`.
struct State;

impl State {
    const OPEN: u64 = 1 << 31;
    const INSIDE: u64 = Self::OPEN - 1;

    fn generation(state: u64) -> u64 {
        state >> 32
    }
}

struct Shared {
    state: AtomicU64,
    job: UnsafeCell<Job>,
    next: AtomicUsize,
    failed: AtomicBool,
    stop: AtomicBool,
    /// The caller is parked until nobody is inside.
    joining: AtomicBool,
    /// Whom to wake then. Locked only on that slow path and when the caller's thread changes.
    caller: Mutex<Option<Thread>>,
    parked: Vec<AtomicBool>,
}

// SAFETY: `job` is written by the one caller while the state is closed and nobody is inside, and read by
// workers only after entering, which the state orders (release on opening, acquire on entering).
// What `data` points to is shared between threads by contract of `Pool::run`, which asks for `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it belongs to a thread.
unsafe impl Send for Shared {}

/// Threads that share loops with their caller.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    caller: Option<ThreadId>,
    alone_until: Option<Instant>,
    alone: Duration,
}

impl Pool {
    /// A pool in which `n_threads` compute, the caller among them. `cpus`: the processors that its own threads may run
    /// on, where the system can be told; none: any. Where the caller's thread runs is its own business.
    /// # Errors `Backend` if the system gives no thread.
    pub fn new(n_threads: usize, cpus: &[usize]) -> Result<Self> {
        let n_workers = n_threads.saturating_sub(1);
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(Job { data: std::ptr::null(), call: |_, _, _| (), n: 0 }),
            next: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            joining: AtomicBool::new(false),
            caller: Mutex::new(None),
            parked: (0..n_workers).map(|_| AtomicBool::new(false)).collect(),
        });
        let mut pool = Self { shared, workers: Vec::new(), caller: None, alone_until: None, alone: ALONE.0 };
        for index in 0..n_workers {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new().name(format!("truing-{}", index + 1));
            let cpus = cpus.to_vec();
            let thread = thread.spawn(move || {
                if !cpus.is_empty() {
                    let _ = super::cores::pin(&cpus); // a wish: without it the thread computes elsewhere
                }
                work(&shared, index);
            });
            pool.workers.push(thread.map_err(|e| {
                Error::new(ErrorKind::Backend, format!("thread {} of {n_threads}", index + 2)).because(e)
            })?);
        }
        Ok(pool)
    }

    /// Threads that compute, the caller among them.
    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `f(i, own)` for every `i` below `n`, on any thread and in any order; `own` is one of `each`,
    /// which no other call uses at the same time. Panics if `each` is shorter than the number of threads.
    /// # Errors `Internal` if a call panicked; the others were done or not.
    pub fn run<T: Send>(&mut self, each: &mut [T], n: usize, f: impl Fn(usize, &mut T) + Sync) -> Result<()> {
        assert!(each.len() >= self.n_threads());
        let each = Each(each.as_mut_ptr());
        let call = |i: usize, worker: usize| {
            // SAFETY: `worker` is below the length and belongs to the calling thread alone while it runs.
            f(i, unsafe { &mut *each.at(worker) })
        };
        self.run_indexed(n, &call)
    }

    fn run_indexed<F: Fn(usize, usize) + Sync>(&mut self, n: usize, f: &F) -> Result<()> {
        if n <= 1 || self.workers.is_empty() || self.is_alone() {
            let done = catch_unwind(AssertUnwindSafe(|| (0..n).for_each(|i| f(i, 0))));
            return done.map_err(|_| panicked());
        }
        unsafe fn call<F: Fn(usize, usize)>(data: *const (), i: usize, worker: usize) {
            // SAFETY: `data` is the `f` of the running loop.
            unsafe { (*data.cast::<F>())(i, worker) }
        }
        self.open(Job { data: std::ptr::from_ref(f).cast(), call: call::<F>, n });
        take(&self.shared, 0);
        self.close();
        if self.shared.failed.swap(false, Relaxed) { Err(panicked()) } else { Ok(()) }
    }

    fn open(&mut self, job: Job) {
        let shared = &*self.shared;
        // SAFETY: the state is closed and nobody is inside: `close` has seen to that.
        unsafe { *shared.job.get() = job };
        let me = std::thread::current();
        if self.caller != Some(me.id()) {
            self.caller = Some(me.id());
            *shared.caller.lock().unwrap_or_else(PoisonError::into_inner) = Some(me);
        }
        shared.next.store(0, Relaxed);
        let generation = State::generation(shared.state.load(Relaxed)) + 1;
        shared.state.store(generation << 32 | State::OPEN, SeqCst);
        for (worker, parked) in self.workers.iter().zip(&shared.parked) {
            if parked.load(SeqCst) {
                worker.thread().unpark();
            }
        }
    }

    /// Lets nobody in any more and waits until nobody is inside.
    fn close(&mut self) {
        let shared = &*self.shared;
        shared.state.fetch_and(!State::OPEN, AcqRel);
        let inside = || shared.state.load(Acquire) & State::INSIDE != 0;
        for _ in 0..SPINS_JOIN {
            if !inside() {
                return self.alone = ALONE.0.max(self.alone - self.alone / 1024);
            }
            std::hint::spin_loop();
        }
        let start = Instant::now();
        shared.joining.store(true, SeqCst);
        while shared.state.load(SeqCst) & State::INSIDE != 0 {
            std::thread::park();
        }
        shared.joining.store(false, Relaxed);
        let now = Instant::now();
        if now - start > LATE {
            self.alone_until = now.checked_add(self.alone);
            self.alone = (self.alone * 2).min(ALONE.1);
        }
    }

    fn is_alone(&mut self) -> bool {
        let Some(until) = self.alone_until else { return false };
        if Instant::now() < until {
            return true;
        }
        self.alone_until = None;
        false
    }
}

/// The first element of a slice of which each thread uses its own.
struct Each<T>(*mut T);

impl<T> Each<T> {
    fn at(&self, i: usize) -> *mut T {
        self.0.wrapping_add(i)
    }
}

// SAFETY: each thread reaches another element, and the elements may be sent.
unsafe impl<T: Send> Sync for Each<T> {}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for worker in &self.workers {
            worker.thread().unpark();
        }
        for worker in self.workers.drain(..) {
            // A worker catches what its pieces throw; there is no one left to tell of anything else.
            let _ = worker.join();
        }
    }
}

fn panicked() -> Error {
    Error::new(ErrorKind::Internal, "expected a computation to end, found a panic in it")
}

/// Takes pieces until none is left.
fn take(shared: &Shared, worker: usize) {
    // SAFETY: the caller of the loop holds it open, or the worker is inside, so the job stays as it is.
    let job = unsafe { *shared.job.get() };
    let done = catch_unwind(AssertUnwindSafe(|| {
        loop {
            let i = shared.next.fetch_add(1, Relaxed);
            if i >= job.n {
                break;
            }
            // SAFETY: `data` is the loop's own `f`, which lives until nobody is inside.
            unsafe { (job.call)(job.data, i, worker) };
        }
    }));
    if done.is_err() {
        shared.next.store(job.n, Relaxed);
        shared.failed.store(true, Relaxed);
    }
}

/// A worker's life.
fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    while !shared.stop.load(Relaxed) {
        let state = shared.state.load(Acquire);
        if State::generation(state) == seen || state & State::OPEN == 0 {
            wait(shared, index, seen);
            continue;
        }
        if shared.state.compare_exchange(state, state + 1, AcqRel, Relaxed).is_err() {
            continue;
        }
        seen = State::generation(state);
        take(shared, index + 1);
        let left = shared.state.fetch_sub(1, SeqCst) - 1;
        if left & State::INSIDE == 0 && shared.joining.load(SeqCst) {
            let caller = shared.caller.lock().unwrap_or_else(PoisonError::into_inner);
            caller.iter().for_each(Thread::unpark);
        }
    }
}

/// Spins, then parks, until there is a loop this worker has not seen, or may be one.
fn wait(shared: &Shared, index: usize, seen: u64) {
    let news = |state: u64| State::generation(state) != seen && state & State::OPEN != 0;
    for _ in 0..SPINS_IDLE {
        if news(shared.state.load(Relaxed)) || shared.stop.load(Relaxed) {
            return;
        }
        std::hint::spin_loop();
    }
    shared.parked[index].store(true, SeqCst);
    while !news(shared.state.load(SeqCst)) && !shared.stop.load(SeqCst) {
        std::thread::park();
    }
    shared.parked[index].store(false, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_done_once() {
        for n_threads in [1, 2, 5] {
            let mut pool = Pool::new(n_threads, &[]).unwrap();
            let mut each = vec![0usize; n_threads];
            for n in [0, 1, 2, 7, 100, 1000].repeat(20) {
                let counts: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                let before: usize = each.iter().sum();
                pool.run(&mut each, n, |i, own| {
                    counts[i].fetch_add(1, Relaxed);
                    *own += 1;
                })
                .unwrap();
                assert!(counts.iter().all(|c| c.load(Relaxed) == 1));
                assert_eq!(each.iter().sum::<usize>() - before, n);
            }
        }
    }

    #[test]
    fn a_panic_in_a_piece_is_an_error_and_the_pool_goes_on() {
        let mut pool = Pool::new(3, &[]).unwrap();
        for n in [1, 50] {
            let failed = pool.run(&mut [(); 3], n, |i, ()| assert_ne!(i, n / 2));
            assert_eq!(failed.map_err(|e| e.kind()), Err(ErrorKind::Internal));
            pool.run(&mut [(); 3], 50, |_, ()| ()).unwrap();
        }
    }

    #[test]
    fn a_pool_may_move_between_threads_and_rest_between_loops() {
        let mut pool = Pool::new(2, &[]).unwrap();
        for _ in 0..20 {
            pool = std::thread::spawn(move || {
                let sum = AtomicUsize::new(0);
                let slow = |i: usize, (): &mut ()| {
                    std::thread::sleep(Duration::from_micros(300));
                    sum.fetch_add(i, Relaxed);
                };
                pool.run(&mut [(); 2], 10, slow).unwrap();
                assert_eq!(sum.load(Relaxed), 45);
                pool
            })
            .join()
            .unwrap();
        }
    }
}
