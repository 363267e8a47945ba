//! The output head in parts, for steps that want logits of many rows.
//!
//! Why: 512 rows over a vocabulary of 262,144 are half a gigabyte of logits. The caller asked for them and
//! pays for them; a second copy among the intermediate results would double that. So beyond a few rows the
//! main graph ends with the normed hidden states, and this graph turns some of them at a time into logits.

use super::graph::Parts;
use crate::error::Result;
use truing_ggml::{Backend, Graph, Memory, Outcome, T};

/// Logits of one part take about this much.
const PART_BYTES: usize = 16 << 20;

/// Rows of a part.
pub(super) fn part_rows(n_vocab: usize) -> usize {
    (PART_BYTES / (size_of::<f32>() * n_vocab.max(1))).clamp(8, 64)
}

/// Turns hidden states into logits, some rows at a time.
pub(super) struct Head {
    graph: Graph,
    /// `[n_embd, n_rows]`
    x: T,
    /// `[n_vocab, n_rows]`
    logits: T,
    n_rows: usize,
}

impl Head {
    pub(super) fn new(parts: Parts<'_>) -> Result<Self> {
        let n_rows = part_rows(parts.spec.n_vocab);
        let (mut graph, x, logits) = parts.head(n_rows)?;
        graph.allocate(Memory::new(parts.device)?)?;
        Ok(Self { graph, x, logits, n_rows })
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.graph.memory_bytes()
    }

    /// `hidden` `[rows][n_embd]` to `logits` `[rows][n_vocab]`.
    pub(super) fn run(
        &mut self,
        backend: &mut Backend,
        hidden: &[f32],
        n_embd: usize,
        (logits, n_vocab): (&mut [f32], usize),
        stop: &dyn Fn() -> bool,
    ) -> Result<Outcome> {
        let parts = hidden.chunks(self.n_rows * n_embd).zip(logits.chunks_mut(self.n_rows * n_vocab));
        for (hidden, logits) in parts {
            self.graph.fill(self.x, |to: &mut [f32]| {
                let (rows, rest) = to.split_at_mut(hidden.len());
                rows.copy_from_slice(hidden);
                rest.fill(0.0);
            })?;
            if backend.compute(&mut self.graph, None, stop)? == Outcome::Stopped {
                return Ok(Outcome::Stopped);
            }
            self.graph.read(self.logits, 0, logits)?;
        }
        Ok(Outcome::Done)
    }
}
