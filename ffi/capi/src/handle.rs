//! Handles, and the one guard that every export runs in.

use crate::status::{
    Failure, Result, TRUING_E_BAD_HANDLE, TRUING_E_BUSY, TRUING_E_PANIC, TRUING_E_POISONED, TRUING_OK,
    remember, truing_status,
};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{addr_of, addr_of_mut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};

/// Runs `f`. No panic passes; a failure is remembered and becomes its status.
pub fn guard(f: impl FnOnce() -> Result) -> truing_status {
    let failure = match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(())) => return TRUING_OK,
        Ok(Err(failure)) => failure,
        Err(panic) => Failure::new(TRUING_E_PANIC, panic_text(&*panic)),
    };
    // remembering allocates: should even that panic, the status still arrives
    let _ = catch_unwind(|| remember(&failure.message));
    failure.status
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("a bug in truing: {}", text.unwrap_or("a panic without a text"))
}

/// What a handle points to. The mark lies behind what allocators write into freed memory, so that a freed handle is
/// told from a live one as long as its memory is not in use again.
#[repr(C)]
pub struct Handle<T> {
    unused: [usize; 2],
    mark: u64,
    poisoned: AtomicBool,
    value: T,
}

/// What C sees of a handle: nothing.
pub type Opaque = [u8; 0];

/// A type of handle.
pub trait Kind {
    /// For messages.
    const NAME: &'static str;
    /// Tells live handles of this type from anything else; never 0.
    const MARK: u64;
}

impl<T: Kind> Handle<T> {
    /// Gives a value to the caller of the C interface.
    pub fn give(value: T) -> *mut Self {
        let handle = Self { unused: [0; 2], mark: T::MARK, poisoned: AtomicBool::new(false), value };
        Box::into_raw(Box::new(handle))
    }

    /// The handle behind a pointer.
    /// # Safety
    /// `pointer` is NULL, or points to at least as many readable bytes as a handle has. Not freed while borrowed.
    unsafe fn get<'h>(pointer: *const Self) -> Result<&'h Self> {
        if pointer.is_null() {
            return Err(Failure::invalid(format!("expected a {}, found NULL", T::NAME)));
        }
        if !pointer.is_aligned() {
            return Err(bad_handle::<T>());
        }
        // SAFETY: the caller's promise. The read is volatile because freed memory may be asked about, too.
        let mark = unsafe { addr_of!((*pointer).mark).read_volatile() };
        if mark != T::MARK {
            return Err(bad_handle::<T>());
        }
        // SAFETY: the mark shows that `give` made it and `free` did not take it back.
        Ok(unsafe { &*pointer })
    }

    /// Runs `f` on the value, in the guard. A panic poisons the handle.
    /// # Safety
    /// As [`Handle::get`].
    pub unsafe fn with(pointer: *const Self, f: impl FnOnce(&T) -> Result) -> truing_status {
        // SAFETY: the caller's promise.
        guard(|| unsafe { Self::within(pointer, f) })
    }

    /// As [`with`](Self::with), for a second handle of a call, whose guard is there already.
    /// # Safety
    /// As [`Handle::get`].
    pub unsafe fn within(pointer: *const Self, f: impl FnOnce(&T) -> Result) -> Result {
        // SAFETY: the caller's promise.
        let handle = unsafe { Self::get(pointer) }?;
        if handle.poisoned.load(Ordering::Acquire) {
            let message = format!("this {} failed before and can only be freed", T::NAME);
            return Err(Failure::new(TRUING_E_POISONED, message));
        }
        let poison = PoisonOnPanic(&handle.poisoned);
        let done = f(&handle.value);
        std::mem::forget(poison);
        done
    }

    /// Takes the value back. NULL is fine. `is_idle` says whether no call uses the value; otherwise it stays.
    /// # Safety
    /// As [`Handle::get`]; nobody uses the pointer again.
    pub unsafe fn free(pointer: *mut Self, is_idle: impl FnOnce(&T) -> bool) {
        if pointer.is_null() {
            return;
        }
        guard(|| {
            // SAFETY: the caller's promise.
            let handle = unsafe { Self::get(pointer) }?;
            if !is_idle(&handle.value) {
                let message = format!("a {} cannot be freed while a call uses it", T::NAME);
                return Err(Failure::new(TRUING_E_BUSY, message));
            }
            // SAFETY: a live handle, which nobody else uses; the mark is wiped before the memory is given back.
            unsafe {
                addr_of_mut!((*pointer).mark).write_volatile(0);
                drop(Box::from_raw(pointer));
            }
            Ok(())
        });
    }
}

struct PoisonOnPanic<'h>(&'h AtomicBool);

impl Drop for PoisonOnPanic<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn bad_handle<T: Kind>() -> Failure {
    let message = format!("expected a live {}, found something else or one that was freed", T::NAME);
    Failure::new(TRUING_E_BAD_HANDLE, message)
}

/// Takes what one thread at a time may use; does not wait.
pub fn take<'m, T>(mutex: &'m Mutex<T>, name: &str) -> Result<MutexGuard<'m, T>> {
    match mutex.try_lock() {
        Ok(taken) => Ok(taken),
        Err(TryLockError::WouldBlock) => {
            let message =
                format!("the {name} is in use by another call: one thread at a time, and no callback");
            Err(Failure::new(TRUING_E_BUSY, message))
        }
        Err(TryLockError::Poisoned(_)) => {
            Err(Failure::new(TRUING_E_POISONED, format!("the {name} failed before and can only be freed")))
        }
    }
}

/// Whether nobody uses what `mutex` protects.
pub fn is_idle<T>(mutex: &Mutex<T>) -> bool {
    !matches!(mutex.try_lock(), Err(TryLockError::WouldBlock))
}
