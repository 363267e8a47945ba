//! Sessions: text that grows by turns, under a profile.

use crate::context::{Room, Shared as SharedContext, truing_context};
use crate::guard::{Handle, Kind, Opaque, is_idle, take};
use crate::model::Opened;
use crate::status::{
    Failure, Result, TRUING_E_CANCELLED, TRUING_E_DEADLINE, TRUING_E_NOT_FOUND, truing_status,
};
use crate::text::{Versioned, put, put_text, read_options, set, slice, text, wanted};
use crate::vocab::{Chat, tokens_of, truing_chat_options};
use std::ffi::c_char;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use truing::config::{Method, Profile};
use truing::engine::{Sequence, Settings};
use truing::model::{Branch, CancelFlag, Context};
use truing::session::Outcome;
use truing::{Error, ErrorKind};

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
    pub settings: Settings,
    system: Option<String>,
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

/// How a session is made. Set `struct_size` and everything else to zero.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct truing_session_options {
    /// `sizeof(truing_session_options)`.
    pub struct_size: usize,
    /// Folder in which files that the profile names are looked for (UTF-8); NULL: a profile that names files is
    /// refused, and the library reads none.
    pub profile_folder: *const c_char,
    /// Bytes of `profile_folder`, or TRUING_CSTR.
    pub profile_folder_len: usize,
}

// SAFETY: `repr(C)`, `struct_size` first; a pointer may be anything.
unsafe impl Versioned for truing_session_options {
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// A profile made ready.
/// # Safety
/// The pointers are as described at [`truing_session_new`].
unsafe fn ready(
    opened: &Opened,
    profile: *const c_char,
    profile_len: usize,
    given: *const truing_session_options,
) -> Result<(Settings, Option<String>)> {
    // SAFETY: the caller's promise.
    let (profile, folder) = unsafe {
        let profile = if profile.is_null() { "" } else { text(profile, profile_len, "profile")? };
        let folder = match read_options(given, "truing_session_options")? {
            Some(o) if !o.profile_folder.is_null() => {
                Some(PathBuf::from(text(o.profile_folder, o.profile_folder_len, "profile_folder")?))
            }
            _ => None,
        };
        (profile, folder)
    };
    let profile = Profile::parse(profile).map_err(|e| e.at("profile"))?;
    profile.sampling.validate(opened.model.spec().n_vocab).map_err(|e| e.at("profile: sampling"))?;
    if let Some(section) = foreign(&profile) {
        let message = format!("profile: {section} is not part of this interface yet");
        return Err(Failure::new(crate::status::TRUING_E_UNSUPPORTED, message));
    }
    let asked = profile.constraints.build(&mut |file| read(folder.as_deref(), file))?;
    let mut settings = Settings::new(&profile, asked, || opened.lexicon())?;
    if profile.search.method == Method::Greedy {
        settings.sampling.temperature = 0.0;
    }
    Ok((settings, profile.prompt.system))
}

/// What a profile asks for that a session does not do: refused, never ignored.
fn foreign(profile: &Profile) -> Option<&'static str> {
    let prompt = &profile.prompt;
    let asked = [
        ("[[guard]]", !profile.guard.is_empty()),
        ("[nudge]", profile.nudge.is_some()),
        ("a reward that asks a model", profile.reward.iter().any(|r| r.model.is_some() || r.base.is_some())),
        (
            "a reward's schema in a file",
            profile.reward.iter().any(|r| r.schema.as_ref().is_some_and(is_file)),
        ),
        ("prompt.prefill", prompt.prefill.is_some() || prompt.prefill_policy.is_some()),
        ("prompt.exemplars", prompt.instruction.is_some() || !prompt.exemplars.is_empty()),
    ];
    asked.into_iter().find(|(_, is_asked)| *is_asked).map(|(name, _)| name)
}

/// Whether a schema is written as the name of a file.
fn is_file(schema: &serde_json::Value) -> bool {
    schema.as_str().is_some_and(|text| !text.trim_start().starts_with('{'))
}

fn read(folder: Option<&Path>, file: &str) -> truing::Result<String> {
    let Some(folder) = folder else {
        let message = format!("names the file {file:?}: expected its text, or options with a profile_folder");
        return Err(Error::new(ErrorKind::BadProfile, message));
    };
    let path = folder.join(file);
    std::fs::read_to_string(&path)
        .map_err(|e| Error::new(ErrorKind::Io, e.to_string()).at(path.display().to_string()))
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
            let (settings, system) = ready(&room.opened, profile, profile_len, options)?;
            let sequence = Sequence::new(&mut *take(&room.context, "context")?, room.n_ctx)?;
            let state = Mutex::new(State { sequence, settings, system, asked: String::new(), last: None });
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
            let (settings, system) = ready(&session.room.opened, profile, profile_len, options)?;
            (state.settings, state.system) = (settings, system);
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
        with(session, |session| {
            let ids = slice(ids, n, "ids")?;
            let (mut state, context) = session.enter()?;
            Ok(state.sequence.push(&*context, ids)?)
        })
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
        with(session, |session| {
            let ids = tokens_of(&session.room.opened, text(data, len, "text")?, flags)?;
            let (mut state, context) = session.enter()?;
            Ok(state.sequence.push(&*context, &ids)?)
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
        with(session, |session| {
            let ids = slice(ids, n, "ids")?;
            let (mut state, mut context) = session.enter()?;
            Ok(state.sequence.set(&mut *context, ids)?)
        })
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
        with(session, |session| {
            let messages = text(messages, messages_len, "messages")?;
            let (mut state, mut context) = session.enter()?;
            let opened = &session.room.opened;
            let chat = Chat::read(opened, messages, options, state.system.as_deref())?;
            state.sequence.set(&mut *context, &chat.tokens(opened)?)?;
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
    unsafe {
        with(session, |session| {
            let (mut state, mut context) = session.enter()?;
            Ok(state.sequence.truncate(&mut *context, n)?)
        })
    }
}

/// Computes keys and values of all tokens but the last, so that an answer begins sooner.
///
/// # Safety
/// `session` is a session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_session_prefill(session: *mut truing_session) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        with(session, |session| {
            let (mut state, mut context) = session.enter()?;
            let done = state.sequence.prefill(&mut *context);
            session.settle(done)
        })
    }
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
        with(session, |session| {
            let (mut state, mut context) = session.enter()?;
            let n_vocab = session.room.opened.model.spec().n_vocab;
            if cap < n_vocab {
                set(n_out, n_vocab);
                let message = format!("expected room for {n_vocab} logits, found {cap}");
                return Err(Failure::new(crate::status::TRUING_E_BUFFER_TOO_SMALL, message));
            }
            let row = session.settle(state.sequence.logits(&mut *context))?;
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
                .map_err(|e| Failure::new(crate::status::TRUING_E_INTERNAL, e.to_string()))?;
            put_text(report.as_bytes(), buf, cap, len_out)
        })
    }
}

impl State {
    fn last(&self) -> Result<&Outcome> {
        self.last.as_ref().ok_or_else(|| Failure::new(TRUING_E_NOT_FOUND, "the session has no answer yet"))
    }
}

/// Asks the session's running call to stop, within one layer's time; with none running, the next one. From any
/// thread, also from a callback or a signal handler. The call returns TRUING_E_CANCELLED, which uses the request up.
/// The session must not be freed meanwhile; where that cannot be sure, use a truing_cancel.
///
/// # Safety
/// `session` is a session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_session_cancel(session: *const truing_session) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        with(session, |session| {
            session.cancel.cancel();
            Ok(())
        })
    }
}

/// A way to cancel a session that may outlive it. Const: any number of threads may use it.
pub struct truing_cancel(Opaque);

impl Kind for CancelFlag {
    const NAME: &'static str = "cancel handle";
    const MARK: u64 = 0x7472_7569_6e67_5831;
}

/// Makes a handle that cancels the session's calls. `*out`: to be freed with truing_cancel_free, before or after the
/// session.
///
/// # Safety
/// `session` is a session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_cancel_new(
    session: *const truing_session,
    out: *mut *mut truing_cancel,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        with(session, |session| {
            set(wanted(out, "out")?, Handle::give(session.cancel.clone()).cast());
            Ok(())
        })
    }
}

/// As truing_session_cancel; does nothing if the session is gone.
///
/// # Safety
/// `cancel` is a cancel handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_cancel_request(cancel: *const truing_cancel) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        Handle::with(cancel.cast::<Handle<CancelFlag>>(), |flag| {
            flag.cancel();
            Ok(())
        })
    }
}

/// Frees a cancel handle; NULL is fine.
///
/// # Safety
/// `cancel` is NULL or a cancel handle that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_cancel_free(cancel: *mut truing_cancel) {
    // SAFETY: the caller's promise.
    unsafe { Handle::<CancelFlag>::free(cancel.cast(), |_| true) };
}
