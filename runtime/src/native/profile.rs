//! Where the time goes, by kind of operator.

use std::time::{Duration, Instant};

/// Kinds of operators, in the order of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum OpKind {
    /// Token embedding and rotation tables.
    Embed,
    /// Norms before the parts, with rounding to 8 bits.
    Norm,
    /// Query, key and value products.
    Qkv,
    /// Head norms, rotation, storing keys and values.
    Heads,
    /// Scores, softmax, weighted values.
    Attention,
    /// The output projection and its residual.
    AttentionOut,
    /// Router, gate and up products with the activation.
    FfnIn,
    /// The down product and its residual.
    FfnOut,
    /// Last norm and output head.
    Head,
}

impl OpKind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Embed,
        Self::Norm,
        Self::Qkv,
        Self::Heads,
        Self::Attention,
        Self::AttentionOut,
        Self::FfnIn,
        Self::FfnOut,
        Self::Head,
    ];

    /// A name for reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Norm => "norm",
            Self::Qkv => "qkv",
            Self::Heads => "heads",
            Self::Attention => "attention",
            Self::AttentionOut => "attention_out",
            Self::FfnIn => "ffn_in",
            Self::FfnOut => "ffn_out",
            Self::Head => "head",
        }
    }
}

/// Time spent in each kind since the last reset.
#[derive(Clone, Debug)]
pub struct Profile {
    spent: [Duration; OpKind::ALL.len()],
    last: Instant,
}

impl Default for Profile {
    fn default() -> Self {
        Self { spent: Default::default(), last: Instant::now() }
    }
}

impl Profile {
    /// Starts a step.
    pub(super) fn start(&mut self) {
        self.last = Instant::now();
    }

    /// Everything since the last call belongs to `kind`.
    pub(super) fn lap(&mut self, kind: OpKind) {
        let now = Instant::now();
        self.spent[kind as usize] += now - self.last;
        self.last = now;
    }

    /// Time by kind.
    pub fn spent(&self) -> impl Iterator<Item = (OpKind, Duration)> + '_ {
        OpKind::ALL.into_iter().map(|kind| (kind, self.spent[kind as usize]))
    }
}
