//! TOY-A and TOY-B: laws small enough to write down.

use super::law::Law;
use crate::token::TokenId;

/// TOY-A: tokens a, b, c (0 to 2) and the end (3). The next token depends on the last; after four tokens
/// the text ends. 121 texts.
#[derive(Clone, Copy, Debug)]
pub struct ToyA;

/// TOY-A.
pub fn toy_a() -> ToyA {
    ToyA
}

impl ToyA {
    /// Tokens before the end is forced.
    pub const MAX_TEXT: usize = 4;
    /// Rows: after a, b, c, at the start. Columns: a, b, c, end.
    const ROWS: [[f64; 4]; 4] = [
        [0.12, 0.58, 0.08, 0.22],
        [0.34, 0.10, 0.26, 0.30],
        [0.22, 0.18, 0.16, 0.44],
        [0.50, 0.30, 0.15, 0.05],
    ];
}

impl Law for ToyA {
    fn n_vocab(&self) -> usize {
        4
    }

    fn eos(&self) -> TokenId {
        3
    }

    fn probs(&self, prefix: &[TokenId], out: &mut [f64]) {
        let ended = prefix.len() >= Self::MAX_TEXT || prefix.contains(&self.eos());
        let row = match prefix.last() {
            _ if ended => [0.0, 0.0, 0.0, 1.0],
            Some(t) => Self::ROWS[*t as usize % 4],
            None => Self::ROWS[3],
        };
        out.copy_from_slice(&row);
    }
}

/// TOY-B: tokens x, y, m, k (0 to 3) and the end (4). Only y m k holds a k, and only two tokens ahead.
#[derive(Clone, Copy, Debug)]
pub struct ToyB;

/// TOY-B.
pub fn toy_b() -> ToyB {
    ToyB
}

impl Law for ToyB {
    fn n_vocab(&self) -> usize {
        5
    }

    fn eos(&self) -> TokenId {
        4
    }

    fn probs(&self, prefix: &[TokenId], out: &mut [f64]) {
        out.copy_from_slice(&match prefix {
            [] => [0.6, 0.4, 0.0, 0.0, 0.0],
            [0] | [1] => [0.0, 0.0, 0.9, 0.0, 0.1],
            [1, 2] => [0.0, 0.0, 0.0, 0.8, 0.2],
            _ => [0.0, 0.0, 0.0, 0.0, 1.0],
        });
    }
}
