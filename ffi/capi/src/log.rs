//! Messages for a log, to whoever an instance was told.

use std::ffi::{c_char, c_void};

/// Something odd that is no failure.
pub const TRUING_LOG_WARNING: u32 = 1;
/// What was chosen or opened.
pub const TRUING_LOG_INFO: u32 = 2;

/// Takes a message. `level`: `TRUING_LOG_…`; `text`: `len` bytes of UTF-8 without a zero, valid during the call.
/// Called on the thread that made the call which has something to say, while that call runs.
pub type truing_log_fn =
    Option<unsafe extern "C-unwind" fn(user_data: *mut c_void, level: u32, text: *const c_char, len: usize)>;

/// Where the messages of an instance go.
#[derive(Clone, Copy, Default)]
pub(crate) struct Log {
    function: truing_log_fn,
    user_data: UserData,
}

/// A caller's pointer, handed back untouched.
#[derive(Clone, Copy)]
pub(crate) struct UserData(pub *mut c_void);

impl Default for UserData {
    fn default() -> Self {
        Self(std::ptr::null_mut())
    }
}

// SAFETY: truing never looks behind the pointer; the header asks callers to give one that the functions it is handed
// to may use from any thread that calls into the instance.
unsafe impl Send for UserData {}
// SAFETY: as above.
unsafe impl Sync for UserData {}

impl Log {
    pub fn new(function: truing_log_fn, user_data: *mut c_void) -> Self {
        Self { function, user_data: UserData(user_data) }
    }

    pub fn warn(&self, text: &str) {
        self.say(TRUING_LOG_WARNING, text);
    }

    pub fn info(&self, text: &str) {
        self.say(TRUING_LOG_INFO, text);
    }

    fn say(&self, level: u32, text: &str) {
        if let Some(function) = self.function {
            // SAFETY: the caller gave this function for this; the text lives until it returns.
            unsafe { function(self.user_data.0, level, text.as_ptr().cast(), text.len()) };
        }
    }
}
