//! Handles to sequences.

use super::kv::SlotId;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A sequence in a [`Context`](super::Context): tokens and the keys and values computed for them.
///
/// A handle is the only way to its sequence and cannot be copied; `fork` makes another sequence. Dropping
/// it, from any thread and also after the context is gone, ends the sequence: the context takes the pages
/// back when it is next used.
#[derive(Debug)]
pub struct Branch {
    pub(super) slot: SlotId,
    bin: Arc<Bin>,
    pub(super) mix: Mix,
}

/// The adapters that a branch is computed under.
#[derive(Clone, Debug, Default)]
pub(super) struct Mix {
    /// Which set of adapters of the context.
    pub generation: u64,
    /// A weight for each; empty: none is active.
    pub weights: Arc<[f32]>,
}

impl Branch {
    pub(super) fn new(slot: SlotId, bin: &Arc<Bin>, mix: Mix) -> Self {
        Self { slot, bin: Arc::clone(bin), mix }
    }

    /// Whether the branch belongs to the context of this bin.
    pub(super) fn is_of(&self, bin: &Arc<Bin>) -> bool {
        Arc::ptr_eq(&self.bin, bin)
    }
}

impl Drop for Branch {
    fn drop(&mut self) {
        self.bin.throw(self.slot);
    }
}

/// Slots of dropped branches, waiting for their context. A decode step looks at one flag only.
#[derive(Debug, Default)]
pub(super) struct Bin {
    full: AtomicBool,
    slots: Mutex<Vec<SlotId>>,
}

impl Bin {
    fn throw(&self, slot: SlotId) {
        // Nothing that could panic runs under the lock, so a poisoned one is still sound.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
        self.full.store(true, Ordering::Release);
    }

    /// Hands every waiting slot to `take`.
    pub(super) fn empty(&self, take: impl FnMut(SlotId)) {
        if self.full.swap(false, Ordering::Acquire) {
            self.slots.lock().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(take);
        }
    }
}
