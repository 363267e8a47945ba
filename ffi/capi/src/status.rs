//! What a call returns, and the text behind a failure.

use crate::text::copy_out;
use std::cell::RefCell;
use std::ffi::{CStr, c_char};
use truing::{Error, ErrorKind};

/// What a call returns: `TRUING_OK` or one of `TRUING_E_…`. Numbers never change their meaning and are never used
/// again; new ones may come.
pub type truing_status = i32;

/// Done.
pub const TRUING_OK: truing_status = 0;
/// An argument is outside its documented range, or a pointer is NULL that must not be.
pub const TRUING_E_INVALID_ARGUMENT: truing_status = 1;
/// Reading or writing failed.
pub const TRUING_E_IO: truing_status = 2;
/// A model or saved session is damaged or not what it claims to be.
pub const TRUING_E_BAD_FILE: truing_status = 3;
/// Sound, but asks for something that this build does not do.
pub const TRUING_E_UNSUPPORTED: truing_status = 4;
/// The tokens do not fit the context.
pub const TRUING_E_CONTEXT_FULL: truing_status = 5;
/// No key-value page is left: the context needs more `n_kv_tokens`.
pub const TRUING_E_KV_EXHAUSTED: truing_status = 6;
/// Memory could not be had.
pub const TRUING_E_OUT_OF_MEMORY: truing_status = 7;
/// Two parts that must share a vocabulary or model do not.
pub const TRUING_E_VOCAB_MISMATCH: truing_status = 8;
/// The text cannot be written with this vocabulary.
pub const TRUING_E_UNENCODABLE: truing_status = 9;
/// A chat template is missing, or refuses the messages.
pub const TRUING_E_TEMPLATE: truing_status = 10;
/// A profile is malformed or contradicts itself.
pub const TRUING_E_BAD_PROFILE: truing_status = 11;
/// A constraint cannot be satisfied.
pub const TRUING_E_UNSATISFIABLE: truing_status = 12;
/// A constraint needs more states, memory or draws than allowed.
pub const TRUING_E_TOO_COMPLEX: truing_status = 13;
/// Cancelled, by a cancel request or a callback that returned non-zero.
pub const TRUING_E_CANCELLED: truing_status = 14;
/// The executor failed.
pub const TRUING_E_BACKEND: truing_status = 15;
/// A bug in truing: an invariant did not hold.
pub const TRUING_E_INTERNAL: truing_status = 16;
/// A reward is no number, or outside its bounds.
pub const TRUING_E_REWARD: truing_status = 17;
/// A probe was made for another model, chat template or shape.
pub const TRUING_E_PROBE_MISMATCH: truing_status = 18;
/// Too few examples to set a threshold with.
pub const TRUING_E_CALIBRATION_TOO_SMALL: truing_status = 19;
/// Nothing that was tried helps.
pub const TRUING_E_NO_USEFUL_REGIME: truing_status = 20;
/// The handle, or the context behind it, is in use by another call: of another thread, or of a callback's caller.
pub const TRUING_E_BUSY: truing_status = 64;
/// The pointer is no handle of this type, or one that was freed.
pub const TRUING_E_BAD_HANDLE: truing_status = 65;
/// The handle failed in an earlier call (`TRUING_E_PANIC`); all it is good for is to be freed.
pub const TRUING_E_POISONED: truing_status = 66;
/// A bug in truing was caught at the border; the handle is poisoned.
pub const TRUING_E_PANIC: truing_status = 67;
/// The buffer is too small; the length it needs was written.
pub const TRUING_E_BUFFER_TOO_SMALL: truing_status = 68;
/// The text is not UTF-8.
pub const TRUING_E_BAD_UTF8: truing_status = 69;
/// `struct_size` is smaller than the first version of the struct, or bytes behind what this version knows are set.
pub const TRUING_E_STRUCT_SIZE: truing_status = 70;
/// The deadline passed; what was generated stands.
pub const TRUING_E_DEADLINE: truing_status = 71;
/// There is nothing of this name or index.
pub const TRUING_E_NOT_FOUND: truing_status = 72;

/// Name of each status and its number.
/// cbindgen:ignore
pub const STATUSES: [(truing_status, &CStr); 30] = [
    (TRUING_OK, c"TRUING_OK"),
    (TRUING_E_INVALID_ARGUMENT, c"TRUING_E_INVALID_ARGUMENT"),
    (TRUING_E_IO, c"TRUING_E_IO"),
    (TRUING_E_BAD_FILE, c"TRUING_E_BAD_FILE"),
    (TRUING_E_UNSUPPORTED, c"TRUING_E_UNSUPPORTED"),
    (TRUING_E_CONTEXT_FULL, c"TRUING_E_CONTEXT_FULL"),
    (TRUING_E_KV_EXHAUSTED, c"TRUING_E_KV_EXHAUSTED"),
    (TRUING_E_OUT_OF_MEMORY, c"TRUING_E_OUT_OF_MEMORY"),
    (TRUING_E_VOCAB_MISMATCH, c"TRUING_E_VOCAB_MISMATCH"),
    (TRUING_E_UNENCODABLE, c"TRUING_E_UNENCODABLE"),
    (TRUING_E_TEMPLATE, c"TRUING_E_TEMPLATE"),
    (TRUING_E_BAD_PROFILE, c"TRUING_E_BAD_PROFILE"),
    (TRUING_E_UNSATISFIABLE, c"TRUING_E_UNSATISFIABLE"),
    (TRUING_E_TOO_COMPLEX, c"TRUING_E_TOO_COMPLEX"),
    (TRUING_E_CANCELLED, c"TRUING_E_CANCELLED"),
    (TRUING_E_BACKEND, c"TRUING_E_BACKEND"),
    (TRUING_E_INTERNAL, c"TRUING_E_INTERNAL"),
    (TRUING_E_REWARD, c"TRUING_E_REWARD"),
    (TRUING_E_PROBE_MISMATCH, c"TRUING_E_PROBE_MISMATCH"),
    (TRUING_E_CALIBRATION_TOO_SMALL, c"TRUING_E_CALIBRATION_TOO_SMALL"),
    (TRUING_E_NO_USEFUL_REGIME, c"TRUING_E_NO_USEFUL_REGIME"),
    (TRUING_E_BUSY, c"TRUING_E_BUSY"),
    (TRUING_E_BAD_HANDLE, c"TRUING_E_BAD_HANDLE"),
    (TRUING_E_POISONED, c"TRUING_E_POISONED"),
    (TRUING_E_PANIC, c"TRUING_E_PANIC"),
    (TRUING_E_BUFFER_TOO_SMALL, c"TRUING_E_BUFFER_TOO_SMALL"),
    (TRUING_E_BAD_UTF8, c"TRUING_E_BAD_UTF8"),
    (TRUING_E_STRUCT_SIZE, c"TRUING_E_STRUCT_SIZE"),
    (TRUING_E_DEADLINE, c"TRUING_E_DEADLINE"),
    (TRUING_E_NOT_FOUND, c"TRUING_E_NOT_FOUND"),
];

/// A failed call: its status and the text for `truing_last_error`.
#[derive(Debug)]
pub(crate) struct Failure {
    pub status: truing_status,
    pub message: String,
}

pub(crate) type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    pub fn new(status: truing_status, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(TRUING_E_INVALID_ARGUMENT, message)
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        let code = e.kind().code();
        // a kind that the header does not name yet must not look like success or like another
        let known = STATUSES.iter().any(|(status, _)| *status == code);
        let status = if known { code } else { ErrorKind::Internal.code() };
        Self::new(status, e.to_string())
    }
}

thread_local! {
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Remembers the text of a failure for this thread.
pub(crate) fn remember(message: &str) {
    LAST.with_borrow_mut(|last| {
        last.clear();
        last.push_str(message);
    });
}

/// Copies the text of the last failed call of this thread, with a terminating zero, into `buf` of `cap` bytes; cut
/// off if it is longer. Returns the length of the whole text without the zero: 0 if no call has failed. Never fails
/// and changes nothing; `buf` may be NULL if `cap` is 0. Calls that succeed leave the text as it is.
///
/// # Safety
/// `buf` must have room for `cap` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_last_error(buf: *mut c_char, cap: usize) -> usize {
    let len = std::panic::catch_unwind(|| {
        LAST.with_borrow(|last| {
            // SAFETY: the caller's promise about `buf` and `cap`.
            unsafe { copy_out(last.as_bytes(), buf.cast(), cap) };
            last.len()
        })
    });
    len.unwrap_or(0)
}

/// The name of a status, such as "TRUING_E_IO"; "unknown status" for a number that is none. Lives for ever.
#[unsafe(no_mangle)]
pub extern "C" fn truing_status_name(status: truing_status) -> *const c_char {
    let known = STATUSES.iter().find(|(number, _)| *number == status);
    known.map_or(c"unknown status", |(_, name)| name).as_ptr()
}
