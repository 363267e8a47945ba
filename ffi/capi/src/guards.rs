//! Guards of the caller's own.

use crate::log::UserData;
use crate::status::{Failure, Result};
use crate::text::{Versioned, listed, text};
use std::ffi::{c_char, c_void};
use std::sync::Arc;
use truing::guard::{Action, Alarm, Guard};
use truing::{Error, ErrorKind};

/// `truing_guard.action`: the text is taken back and goes on another way.
pub const TRUING_GUARD_BACKTRACK: u32 = 0;
/// `truing_guard.action`: the text is taken back and ends with the refusal: TRUING_FINISH_REFUSED.
pub const TRUING_GUARD_REFUSE: u32 = 1;
/// `truing_guard.action`: the text is taken back and ends: TRUING_FINISH_GUARDED.
pub const TRUING_GUARD_STOP: u32 = 2;

/// What a guard's function returns: nothing against the text so far.
pub const TRUING_GUARD_CLEAR: i32 = 0;
/// What a guard's function returns: the text from `*from` on is objected to.
pub const TRUING_GUARD_OBJECT: i32 = 1;
/// What a guard's function returns: not decided; what came since it was last clear is not shown yet.
pub const TRUING_GUARD_HOLD: i32 = 2;

/// What a guard is shown. Lives during the callback.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct truing_guarded {
    /// Size of the struct in the library; may be larger than in this header.
    pub struct_size: usize,
    /// The answer so far, `text_len` bytes without a zero: the last token may end within a character. Shorter than the
    /// last time if text was taken back.
    pub text: *const c_char,
    /// Bytes of `text`.
    pub text_len: usize,
    /// Where the last token begins in it.
    pub token_start: usize,
    /// Tokens of the answer.
    pub n_tokens: usize,
    /// The last token; TRUING_NO_TOKEN if there is none.
    pub token: u32,
    /// 1: the text ends here, and the last token was shown to the guard before. 0: a token was added.
    pub is_end: i32,
}

/// Judges an answer as it is made: called for every token, before it is shown, and once at the end. Returns a
/// TRUING_GUARD_…; `*from` is the first byte that is objected to, at first `token_start`. Any other value is a guard
/// that failed: nothing passes unjudged, the text is taken back and ends with the refusal. Rules as for
/// truing_event_fn.
pub type truing_guard_fn = Option<
    unsafe extern "C-unwind" fn(
        user_data: *mut c_void,
        guarded: *const truing_guarded,
        from: *mut usize,
    ) -> i32,
>;

/// A guard of the caller's own, beside those of the profile. Text is shown when all guards are clear of it and
/// `hold_tokens` of the profile (16) more tokens have come. Set `struct_size` and everything else to zero.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct truing_guard {
    /// `sizeof(truing_guard)`.
    pub struct_size: usize,
    /// Judges; must be there.
    pub check: truing_guard_fn,
    /// Handed to `check`.
    pub user_data: *mut c_void,
    /// What it is called in reports (UTF-8); NULL: "custom".
    pub name: *const c_char,
    /// Bytes of `name`, or TRUING_CSTR.
    pub name_len: usize,
    /// What happens when it objects: TRUING_GUARD_BACKTRACK, TRUING_GUARD_REFUSE or TRUING_GUARD_STOP.
    pub action: u32,
    /// 0; kept free.
    pub reserved: u32,
}

// SAFETY: `repr(C)`, `struct_size` first; an optional function, pointers and numbers may be anything or zero.
unsafe impl Versioned for truing_guard {
    const FIRST_SIZE: usize = size_of::<Self>();
}

type GuardFn = unsafe extern "C-unwind" fn(*mut c_void, *const truing_guarded, *mut usize) -> i32;

/// A guard that a function of the caller's judges for.
struct Custom {
    name: Arc<str>,
    action: Action,
    function: GuardFn,
    user_data: UserData,
    /// The answer so far, and where each token ends in it.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    last: Option<u32>,
    n_clear: usize,
}

/// The guards that a caller lists.
/// # Safety
/// `guards` has `n` pointers to structs that are as they say.
pub(crate) unsafe fn custom(guards: *const *const truing_guard, n: usize) -> Result<Vec<Box<dyn Guard>>> {
    // SAFETY: the caller's promise.
    let given = unsafe { listed(guards, n, "guards", "truing_guard") }?;
    // SAFETY: as above.
    given.into_iter().map(|guard| unsafe { one(guard) }).collect()
}

unsafe fn one(given: truing_guard) -> Result<Box<dyn Guard>> {
    let function =
        given.check.ok_or_else(|| Failure::invalid("truing_guard.check: expected a function, found NULL"))?;
    let name = match given.name.is_null() {
        true => "custom",
        // SAFETY: the caller's promise.
        false => unsafe { text(given.name, given.name_len, "truing_guard.name") }?,
    };
    let action = match given.action {
        TRUING_GUARD_BACKTRACK => Action::Backtrack,
        TRUING_GUARD_REFUSE => Action::Refuse,
        TRUING_GUARD_STOP => Action::Stop,
        other => {
            return Err(Failure::invalid(format!("guard {name}: action: expected 0 to 2, found {other}")));
        }
    };
    Ok(Box::new(Custom {
        name: name.into(),
        action,
        function,
        user_data: UserData(given.user_data),
        bytes: Vec::new(),
        ends: Vec::new(),
        last: None,
        n_clear: 0,
    }))
}

impl Custom {
    fn ask(&mut self, is_end: bool) -> truing::Result<Option<Alarm>> {
        let n_tokens = self.ends.len();
        let token_start = n_tokens.checked_sub(2).and_then(|i| self.ends.get(i)).copied().unwrap_or(0);
        let shown = truing_guarded {
            struct_size: size_of::<truing_guarded>(),
            text: self.bytes.as_ptr().cast(),
            text_len: self.bytes.len(),
            token_start,
            n_tokens,
            token: self.last.unwrap_or(crate::TRUING_NO_TOKEN),
            is_end: i32::from(is_end),
        };
        let mut from = token_start;
        // SAFETY: the caller gave this function for this; struct, text and number live until it returns.
        let code = unsafe { (self.function)(self.user_data.0, &raw const shown, &raw mut from) };
        match code {
            TRUING_GUARD_CLEAR => {
                self.n_clear = n_tokens;
                Ok(None)
            }
            TRUING_GUARD_HOLD => Ok(None),
            TRUING_GUARD_OBJECT => {
                // the token that the byte is in
                let from = self.ends.partition_point(|end| *end <= from).min(n_tokens.saturating_sub(1));
                Ok(Some(Alarm { from, score: None, threshold: None }))
            }
            other => {
                let message = format!("the guard {}: expected a TRUING_GUARD_…, found {other}", self.name);
                Err(Error::new(ErrorKind::InvalidArgument, message))
            }
        }
    }
}

impl Guard for Custom {
    fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    fn action(&self) -> Action {
        self.action
    }

    fn reserve(&mut self, n: usize) {
        self.ends.reserve(n);
        self.bytes.reserve(8 * n);
    }

    fn see_token(&mut self, token: u32, bytes: &[u8]) -> truing::Result<Option<Alarm>> {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
        self.last = Some(token);
        self.ask(false)
    }

    fn see_end(&mut self) -> truing::Result<Option<Alarm>> {
        self.ask(true)
    }

    fn n_clear(&self) -> usize {
        self.n_clear
    }

    fn rewind(&mut self, n: usize) -> truing::Result<()> {
        self.ends.truncate(n);
        self.bytes.truncate(self.ends.last().copied().unwrap_or(0));
        self.n_clear = self.n_clear.min(n);
        self.last = None;
        Ok(())
    }
}
