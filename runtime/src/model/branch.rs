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
}

impl Branch {
    pub(super) fn new(slot: SlotId, bin: &Arc<Bin>) -> Self {
        Self { slot, bin: Arc::clone(bin) }
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
