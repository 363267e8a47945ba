//! Independence Metropolis over masked draws: a chain whose law tends to the conditioned one.
//!
//! A new masked draw `x'` replaces `x` with probability `min(1, W(x') / W(x))`. Every state is valid, and the
//! total variation to the target after `k` steps is at most `(1 - P(L))^k`. It needs masked draws only, but
//! its states are dependent, and with a tiny `P(L)` they hardly move.

use super::particles::MaskedDraw;
use crate::sampling::random::{Purpose, Random};

/// The chain.
#[derive(Clone, Debug)]
pub struct Metropolis {
    state: MaskedDraw,
    random: Random,
    n_steps: u64,
    n_moved: u64,
}

impl Metropolis {
    /// A chain that begins at a masked draw. Chains of different `draw` are independent.
    pub fn new(first: MaskedDraw, seed: u64, draw: u32) -> Self {
        Self { state: first, random: Random::new(seed).with_draw(draw), n_steps: 0, n_moved: 0 }
    }

    /// One step towards `proposal`, an independent masked draw. True if the chain moved there.
    pub fn step(&mut self, proposal: MaskedDraw) -> bool {
        let u = self.random.uniform(self.n_steps, Purpose::Accept);
        self.n_steps += 1;
        // From a dead end, anything is an improvement; to one, nothing goes.
        let ratio = match self.state.log_weight {
            f64::NEG_INFINITY => f64::INFINITY,
            held => proposal.log_weight - held,
        };
        let moves = u.ln() < ratio;
        if moves {
            self.state = proposal;
            self.n_moved += 1;
        }
        moves
    }

    /// Where the chain stands.
    pub fn state(&self) -> &MaskedDraw {
        &self.state
    }

    /// Share of steps that moved.
    pub fn acceptance(&self) -> f64 {
        if self.n_steps == 0 { 0.0 } else { self.n_moved as f64 / self.n_steps as f64 }
    }
}
