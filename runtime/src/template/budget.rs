//! What one rendering may cost. A template comes with a file from anywhere, so every step it takes and every byte
//! it makes is paid for beforehand; what cannot be paid ends the rendering with an error.

use std::cell::Cell;
use std::fmt;

/// Steps that a rendering has whatever its input: about 0.1 s of work.
const BASE_STEPS: u64 = 1 << 20;
/// Steps for each byte of input. A message is 30 bytes or more and costs a few hundred steps.
const STEPS_PER_BYTE: u64 = 64;
/// Bytes that a rendering may make whatever its input.
const BASE_BYTES: u64 = 8 << 20;
/// How often each byte of the input may be copied on its way (stripped, joined, captured, written).
const COPIES: u64 = 64;
/// Bytes handled for the price of one step.
const BYTES_PER_STEP: u64 = 64;
/// How deep statements, expressions and macro calls may nest while running. Bounds the stack.
const MAX_DEPTH: u32 = 240;

/// Why a rendering stopped.
#[derive(Debug)]
pub(super) struct Fail {
    pub(super) message: String,
    /// Line of the template, from 1; 0 where not known yet.
    pub(super) line: u32,
}

/// Result of anything a template does.
pub(super) type Run<T> = Result<T, Fail>;

impl Fail {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), line: 0 }
    }

    /// Sets the line unless an inner place has done so.
    pub(super) fn on_line(mut self, line: u32) -> Self {
        if self.line == 0 {
            self.line = line;
        }
        self
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.message),
            line => write!(f, "line {line}: {}", self.message),
        }
    }
}

/// Shorthand for an error.
pub(super) fn fail<T>(message: impl Into<String>) -> Run<T> {
    Err(Fail::new(message))
}

/// What is left of one rendering's means.
#[derive(Debug)]
pub(super) struct Budget {
    steps: Cell<u64>,
    bytes: Cell<u64>,
    depth: Cell<u32>,
}

impl Budget {
    /// The means for an input of `input_bytes`.
    pub(super) fn for_input(input_bytes: usize) -> Self {
        let input = input_bytes as u64;
        Self {
            steps: Cell::new(BASE_STEPS.saturating_add(input.saturating_mul(STEPS_PER_BYTE))),
            bytes: Cell::new(BASE_BYTES.saturating_add(input.saturating_mul(COPIES))),
            depth: Cell::new(0),
        }
    }

    /// Pays for `n` steps.
    pub(super) fn step(&self, n: u64) -> Run<()> {
        match self.steps.get().checked_sub(n) {
            Some(left) => {
                self.steps.set(left);
                Ok(())
            }
            None => {
                self.steps.set(0);
                fail("the template takes more steps than it may")
            }
        }
    }

    /// Pays for looking through `n` bytes or items.
    pub(super) fn scan(&self, n: usize) -> Run<()> {
        self.step(1 + n as u64 / BYTES_PER_STEP)
    }

    /// Pays for making `n` bytes, before they are made.
    pub(super) fn alloc(&self, n: usize) -> Run<()> {
        self.scan(n)?;
        match self.bytes.get().checked_sub(n as u64) {
            Some(left) => {
                self.bytes.set(left);
                Ok(())
            }
            None => {
                self.bytes.set(0);
                fail("the template makes more data than it may")
            }
        }
    }

    /// Goes one level deeper for as long as `f` runs.
    pub(super) fn deeper<T>(&self, f: impl FnOnce() -> Run<T>) -> Run<T> {
        let depth = self.depth.get();
        if depth >= MAX_DEPTH {
            return fail("the template nests deeper than it may");
        }
        self.depth.set(depth + 1);
        let result = f();
        self.depth.set(depth);
        result
    }
}
