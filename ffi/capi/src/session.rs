//! Sessions: text that grows by turns, under a profile.

use crate::context::{Room, Shared as SharedContext, truing_context};
use crate::handle::{Handle, Kind, Opaque, is_idle, take};
use crate::profile::{Ready, truing_session_options};
use crate::status::{
    Failure, Result, TRUING_E_BUFFER_TOO_SMALL, TRUING_E_CANCELLED, TRUING_E_DEADLINE, TRUING_E_INTERNAL,
    TRUING_E_NOT_FOUND, truing_status,
};
use crate::text::{put, put_text, set, slice, text, wanted};
use crate::vocab::{Chat, tokens_of, truing_chat_options};
use std::ffi::c_char;
use std::sync::{Arc, Mutex, MutexGuard};
use truing::ErrorKind;
use truing::engine::Sequence;
use truing::model::{Branch, CancelFlag, Context};
use truing::session::Outcome;

/// Text that grows by turns: tokens, their keys and values, and the profile that answers are made under. One thread at
/// a time, except for truing_session_cancel. A call that finds it (or its context) in use returns TRUING_E_BUSY.
pub struct truing_session(Opaque);

/// A session.
pub(crate) struct Session {
    pub room: Arc<Room>,
    pub cancel: CancelFlag,
    pub state: Mutex<State>,
}

/// What one call at a time changes.
pub(crate) struct State {
    pub sequence: Sequence<Branch>,
    pub profile: Ready,
    /// What the user said last, for rewards that look at it.
    pub asked: String,
    /// Of the last answer.
    pub last: Option<Outcome>,
}

impl Kind for Session {
    const NAME: &'static str = "session";
    const MARK: u64 = 0x7472_7569_6e67_5331;
}

impl Session {
    /// Session and context for one call.
    pub fn enter(&self) -> Result<(MutexGuard<'_, State>, MutexGuard<'_, Context>)> {
        let state = take(&self.state, "session")?;
        let mut context = take(&self.room.context, "context")?;
        context.set_cancel_flag(self.cancel.clone());
        Ok((state, context))
    }

    /// What a call that was stopped returns; the request to stop is used up.
    pub fn settle<T>(&self, done: truing::Result<T>) -> Result<T> {
        done.map_err(|e| match e.kind() {
            ErrorKind::Cancelled => self.stopped(),
            _ => e.into(),
        })
    }

    /// The failure of a call that was stopped; the request to stop is used up.
    pub fn stopped(&self) -> Failure {
        let is_late = self.cancel.is_late();
        self.cancel.reset();
        match is_late {
            true => Failure::new(TRUING_E_DEADLINE, "the deadline passed"),
            false => Failure::new(TRUING_E_CANCELLED, "cancelled"),
        }
    }
}

/// Makes an empty session. `profile`: TOML, or JSON if it begins with `{`; NULL: llama.cpp's sampling defaults, seed 0,
/// no constraint. Everything in a profile is described in the project's README. The seed is the profile's; the same
/// seed gives the same text. `options` may be NULL. `*out`: to be freed with truing_session_free.
///
/// Constraints need the vocabulary in another form: 10 to 100 ms, once a model, at the first session that has some.
/// A search (`search.method`) or exact drawing keeps texts side by side: give the context `n_kv_tokens` for them.
///
/// # Safety
/// `profile` has `profile_len` bytes; the other pointers are as described.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_session_new(
    context: *mut truing_context,
    profile: *const c_char,
    profile_len: usize,
    options: *const truing_session_options,
    out: *mut *mut truing_session,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        Handle::with(context.cast::<Handle<SharedContext>>().cast_const(), |room: &Arc<Room>| {
            let out = wanted(out, "out")?;
            let profile = Ready::read(&room.opened, profile, profile_len, options)?;
            let sequence = Sequence::new(&mut *take(&room.context, "context")?, room.n_ctx)?;
            let state = Mutex::new(State { sequence, profile, asked: String::new(), last: None });
            let session = Session { room: Arc::clone(room), cancel: CancelFlag::default(), state };
            set(out, Handle::give(session).cast());
            Ok(())
        })
    }
}

/// Frees a session; NULL is fine. Refused (the handle lives on, and truing_last_error says so) when called from a
/// callback of the session's own call.
///
/// # Safety
/// `session` is NULL or a session that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_session_free(session: *mut truing_session) {
    // SAFETY: the caller's promise.
    unsafe { Handle::<Session>::free(session.cast(), |s| is_idle(&s.state)) };
}

/// Runs `f` on a session.
/// # Safety
/// As [`Handle::with`].
pub(crate) unsafe fn with(
    session: *const truing_session,
    f: impl FnOnce(&Session) -> Result,
) -> truing_status {
    // SAFETY: the caller's promise.
    unsafe { Handle::with(session.cast::<Handle<Session>>(), f) }
}

/// Runs `f` on a session's state and its context, which nobody else uses meanwhile.
/// # Safety
/// As [`Handle::with`].
pub(crate) unsafe fn with_state(
    session: *const truing_session,
    f: impl FnOnce(&Session, &mut State, &mut Context) -> Result,
) -> truing_status {
    // SAFETY: the caller's promise.
    unsafe {
        with(session, |session| {
            let (mut state, mut context) = session.enter()?;
            f(session, &mut state, &mut context)
        })
    }
}

/// Gives the session another profile; tokens stay. On failure the old one stays.
///
/// # Safety
/// As truing_session_new.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_session_set_profile(
    session: *mut truing_session,
    profile: *const c_char,
    profile_len: usize,
    options: *const truing_session_options,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        with(session, |session| {
            let mut state = take(&session.state, "session")?;
            state.profile = Ready::read(&session.room.opened, profile, profile_len, options)?;
            Ok(())
        })
    }
}

/// Appends `n` tokens. Nothing is computed yet: that happens when it is needed, or with truing_session_prefill.
/// `ids` is read during the call, and may be NULL if `n` is 0. TRUING_E_CONTEXT_FULL if they do not fit,
/// TRUING_E_INVALID_ARGUMENT for ids that are no tokens; nothing changed then.
///
/// # Safety
/// `ids` has `n` ids.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_session_feed(
    session: *mut truing_session,
    ids: *const u32,
    n: usize,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        with_state(session, |_, state, context| Ok(state.sequence.push(context, slice(ids, n, "ids")?)?))
    }
}

/// Appends a text, as it is: no chat template. `flags`: TRUING_TOKENIZE_… or 0. As truing_session_feed.
///
/// # Safety
/// `data` has `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_session_feed_text(
    session: *mut truing_session,
    data: *const c_char,
    len: usize,
    flags: u32,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        with_state(session, |session, state, context| {
            let ids = tokens_of(&session.room.opened, text(data, len, "text")?, flags)?;
            Ok(state.sequence.push(context, &ids)?)
        })
    }
}

/// Makes the session hold exactly these tokens, keeping the keys and values of what it already holds of their
/// beginning. As truing_session_feed.
///
/// # Safety
/// `ids` has `n` ids.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_session_prompt(
    session: *mut truing_session,
    ids: *const u32,
    n: usize,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        with_state(session, |_, state, context| Ok(state.sequence.set(context, slice(ids, n, "ids")?)?))
    }
}

/// Makes the session hold exactly the prompt of a conversation, keeping the keys and values of what it already holds
/// of its beginning: give all messages each turn, only what is new is computed. `messages`: a JSON array of objects
/// with "role" and "content" (and what else the template knows). The profile's system message goes first if the
/// messages begin with none. What users wrote never becomes a control token. `options` may be NULL.
///
/// # Safety
/// `messages` has `messages_len` bytes; `options` is as its struct says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_session_prompt_chat(
    session: *mut truing_session,
    messages: *const c_char,
    messages_len: usize,
    options: *const truing_chat_options,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        with_state(session, |session, state, context| {
            let messages = text(messages, messages_len, "messages")?;
            let opened = &session.room.opened;
            let chat = Chat::read(opened, messages, options, state.profile.system.as_deref())?;
            state.sequence.set(context, &chat.tokens(opened)?)?;
            state.asked = chat.asked().to_owned();
            Ok(())
        })
    }
}

/// Cuts the session to its first `n` tokens.
///
/// # Safety
/// `session` is a session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_session_truncate(session: *mut truing_session, n: usize) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe { with_state(session, |_, state, context| Ok(state.sequence.truncate(context, n)?)) }
}

/// Computes keys and values of all tokens but the last, so that an answer begins sooner.
///
/// # Safety
/// `session` is a session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_session_prefill(session: *mut truing_session) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe { with_state(session, |session, state, context| session.settle(state.sequence.prefill(context))) }
}

/// All tokens of the session: prompts and answers. `*n_out` (may be NULL) gets their number, also with
/// TRUING_E_BUFFER_TOO_SMALL.
///
/// # Safety
/// `ids` has room for `cap` ids.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_session_tokens(
    session: *mut truing_session,
    ids: *mut u32,
    cap: usize,
    n_out: *mut usize,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        with(session, |session| put(take(&session.state, "session")?.sequence.tokens(), ids, cap, n_out))
    }
}

/// Logits of the token after the last one (natural log, unnormalised), one for each token of the vocabulary; computes
/// what has to be computed. `*n_out` (may be NULL) gets their number, also with TRUING_E_BUFFER_TOO_SMALL, in which case nothing
/// is computed.
///
/// # Safety
/// `logits` has room for `cap` floats.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_session_logits(
    session: *mut truing_session,
    logits: *mut f32,
    cap: usize,
    n_out: *mut usize,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        with_state(session, |session, state, context| {
            let n_vocab = session.room.opened.model.spec().n_vocab;
            if cap < n_vocab {
                set(n_out, n_vocab);
                let message = format!("expected room for {n_vocab} logits, found {cap}");
                return Err(Failure::new(TRUING_E_BUFFER_TOO_SMALL, message));
            }
            let row = session.settle(state.sequence.logits(context))?;
            put(row, logits, cap, n_out)
        })
    }
}

/// Text of the last answer, valid UTF-8; TRUING_E_NOT_FOUND before the first.
///
/// # Safety
/// `buf` has room for `cap` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_session_text(
    session: *mut truing_session,
    buf: *mut c_char,
    cap: usize,
    len_out: *mut usize,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        with(session, |session| {
            let state = take(&session.state, "session")?;
            put_text(state.last()?.text.as_bytes(), buf, cap, len_out)
        })
    }
}

/// Report of the last answer as JSON: why it ended, counts, log-probability, how it relates to the model's own
/// distribution, what became of each constraint, times. TRUING_E_NOT_FOUND before the first answer.
///
/// # Safety
/// `buf` has room for `cap` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_session_report(
    session: *mut truing_session,
    buf: *mut c_char,
    cap: usize,
    len_out: *mut usize,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        with(session, |session| {
            let state = take(&session.state, "session")?;
            let report = serde_json::to_string(&state.last()?.report)
                .map_err(|e| Failure::new(TRUING_E_INTERNAL, e.to_string()))?;
            put_text(report.as_bytes(), buf, cap, len_out)
        })
    }
}

impl State {
    fn last(&self) -> Result<&Outcome> {
        self.last.as_ref().ok_or_else(|| Failure::new(TRUING_E_NOT_FOUND, "the session has no answer yet"))
    }
}
