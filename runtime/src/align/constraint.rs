//! The interface of every hard constraint, whatever decides it.

use crate::error::Result;
use crate::token::{TokenId, TokenSet};

/// What may come next in one text, token by token, with a past that can be undone.
///
/// Contract, on which promise 1 (hard means hard) rests:
/// - a token outside the mask is never accepted;
/// - with a token limit set, the mask is never empty before the text has ended, and some accepted text
///   within the limit begins with every accepted prefix (the witness rule);
/// - after `accept` n times and `rollback(n)`, everything answers as before, bit for bit.
///
/// A mask may be wider than what can be completed where deciding that for every token would cost too
/// much; [`accept`](Constraint::accept) then refuses the drawn token and the caller draws again without
/// it. Sampling from a mask and redrawing after a refusal is sampling from the narrower mask.
pub trait Constraint: Send {
    /// Size of the vocabulary.
    fn n_vocab(&self) -> usize;

    /// Number of tokens accepted and not rolled back, an ending token included.
    fn len(&self) -> usize;

    /// Whether nothing has been accepted yet.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes from `set` what may not come next. Tokens that end the text stay only where it may end.
    /// # Errors `TooComplex` if the constraint outgrew its limits.
    fn mask(&mut self, set: &mut TokenSet) -> Result<()>;

    /// Takes `token` as the next one. `false` if it cannot be completed within the limits: nothing has
    /// changed then, and another token must be chosen.
    /// # Errors `TooComplex` as for `mask`; nothing has changed.
    fn accept(&mut self, token: TokenId) -> Result<bool>;

    /// Undoes the last `n` accepted tokens.
    /// # Errors `InvalidArgument` if fewer were accepted; nothing has changed.
    fn rollback(&mut self, n: usize) -> Result<()>;

    /// An independent copy with the same past.
    fn fork(&self) -> Box<dyn Constraint>;

    /// Whether the text may end here.
    fn may_end(&self) -> bool;

    /// Whether an ending token was accepted.
    fn has_ended(&self) -> bool;

    /// The only token allowed next, if there is just one: it can be taken without asking the model.
    fn forced(&mut self) -> Result<Option<TokenId>>;

    /// Appends tokens that lead straight on to what must still be said: a hint for samplers that want to say
    /// it in good time. None by default.
    fn advancing(&mut self, _out: &mut Vec<TokenId>) {}

    /// Which of the things to be said have been said, as bits: what a search keeps apart. 0 by default.
    fn met(&self) -> u64 {
        0
    }

    /// Length in tokens, the ending token counted, of a completion known to exist; 0 after the end.
    /// `None` if none is known.
    fn witness_len(&mut self) -> Option<usize>;

    /// Writes a completion of `witness_len` tokens to `out`, without the ending token.
    /// False, with `out` empty, if none is known.
    fn witness(&mut self, out: &mut Vec<TokenId>) -> bool;
}
