//! Answers: streamed to a callback, stopped by it, by another thread or by a deadline.

use crate::context::Room;
use crate::guards::{custom, truing_guard};
use crate::model::Opened;
use crate::profile::Ready;
use crate::rewards::{parts, truing_reward};
use crate::session::{Session, State, truing_session, with};
use crate::status::{Failure, Result, TRUING_E_UNSUPPORTED, truing_status};
use crate::text::{Versioned, check_struct, put_struct, read_options};
use std::ffi::{c_char, c_void};
use std::time::{Duration, Instant};
use truing::engine::{self, Adjusted, Job, Settings, prompt};
use truing::guard::{GuardPlan, Setup};
use truing::model::Context;
use truing::session::{Event, Finish, Limits, Outcome};
use truing::{Error, ErrorKind};

/// The model ended its turn.
pub const TRUING_FINISH_EOS: i32 = 1;
/// `max_tokens` was reached.
pub const TRUING_FINISH_LENGTH: i32 = 2;
/// A stop text was reached.
pub const TRUING_FINISH_STOP: i32 = 3;
/// The context is full.
pub const TRUING_FINISH_CONTEXT_FULL: i32 = 4;
/// An excluded phrase came and could not be taken back, or was to end the text.
pub const TRUING_FINISH_EXCLUDED: i32 = 5;
/// Nothing more was allowed, and the text does not satisfy the constraint.
pub const TRUING_FINISH_DEAD_END: i32 = 6;
/// Cancelled; the text so far stands.
pub const TRUING_FINISH_CANCELLED: i32 = 7;
/// The deadline passed; the text so far stands.
pub const TRUING_FINISH_DEADLINE: i32 = 8;
/// A guard objected; the text ends with the refusal.
pub const TRUING_FINISH_REFUSED: i32 = 9;
/// A guard objected, and under the constraints there is no refusal to write.
pub const TRUING_FINISH_REFUSED_UNDER_GRAMMAR: i32 = 10;
/// A guard objected and was to end the text.
pub const TRUING_FINISH_GUARDED: i32 = 11;

const fn code(finish: Finish) -> i32 {
    match finish {
        Finish::Eos => TRUING_FINISH_EOS,
        Finish::Length => TRUING_FINISH_LENGTH,
        Finish::Stop => TRUING_FINISH_STOP,
        Finish::ContextFull => TRUING_FINISH_CONTEXT_FULL,
        Finish::Excluded => TRUING_FINISH_EXCLUDED,
        Finish::DeadEnd => TRUING_FINISH_DEAD_END,
        Finish::Cancelled => TRUING_FINISH_CANCELLED,
        Finish::Deadline => TRUING_FINISH_DEADLINE,
        Finish::Refused => TRUING_FINISH_REFUSED,
        Finish::RefusedUnderGrammar => TRUING_FINISH_REFUSED_UNDER_GRAMMAR,
        Finish::Guarded => TRUING_FINISH_GUARDED,
    }
}

/// Text was released: valid UTF-8, never taken back.
pub const TRUING_EVENT_TEXT: u32 = 1;
/// The answer ended; nothing follows.
pub const TRUING_EVENT_DONE: u32 = 2;

/// What happened during a generation. Lives during the callback.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct truing_event {
    /// Size of the struct in the library; may be larger than in this header.
    pub struct_size: usize,
    /// TRUING_EVENT_…. More kinds may come: ignore those you do not know.
    pub kind: u32,
    /// TRUING_EVENT_DONE: TRUING_FINISH_…; 0 otherwise.
    pub finish: i32,
    /// TRUING_EVENT_TEXT: the text, `text_len` bytes without a zero. TRUING_EVENT_DONE: the whole text.
    pub text: *const c_char,
    /// Bytes of `text`.
    pub text_len: usize,
}

/// Takes an event. Returns 0 to go on, anything else to stop: then no other event comes, and truing_session_generate
/// returns TRUING_E_CANCELLED. Called on the thread that called truing_session_generate, between two tokens.
///
/// It may use the model, and cancel; other calls on the session or its context return TRUING_E_BUSY. It must return:
/// no longjmp out of it, and a C++ exception that leaves it ends the process (truing.hpp catches and rethrows them).
pub type truing_event_fn =
    Option<unsafe extern "C-unwind" fn(user_data: *mut c_void, event: *const truing_event) -> i32>;

/// Changes logits before a token is drawn. `ids`: all `n` tokens so far; `logits`: `n_vocab` values (natural log,
/// unnormalised) to change in place; -INFINITY forbids a token. Constraints still hold afterwards. Returns 0 to go on,
/// anything else to stop with TRUING_E_CANCELLED. Rules as for truing_event_fn. It is called once for each place, also
/// for tokens that a constraint forces; NaN counts as forbidden.
pub type truing_logits_fn = Option<
    unsafe extern "C-unwind" fn(
        user_data: *mut c_void,
        ids: *const u32,
        n: usize,
        logits: *mut f32,
        n_vocab: usize,
    ) -> i32,
>;

/// `truing_generate_options.flags`: `seed` counts.
pub const TRUING_GENERATE_SEED: u32 = 1;
/// `truing_generate_options.flags`: the model may not end by itself.
pub const TRUING_GENERATE_IGNORE_EOS: u32 = 2;
/// `truing_generate_options.flags`: control tokens are shown in the text.
pub const TRUING_GENERATE_SHOW_SPECIAL: u32 = 4;

/// How to answer. Set `struct_size` and everything else to zero: then the profile decides.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct truing_generate_options {
    /// `sizeof(truing_generate_options)`.
    pub struct_size: usize,
    /// Takes events; may be NULL.
    pub on_event: truing_event_fn,
    /// Changes logits; may be NULL. Not with a search or exact drawing: TRUING_E_UNSUPPORTED.
    pub on_logits: truing_logits_fn,
    /// Handed to the callbacks.
    pub user_data: *mut c_void,
    /// Seed of the draws, with TRUING_GENERATE_SEED.
    pub seed: u64,
    /// Most tokens of the answer; 0: the profile's `limits.max_tokens`.
    pub max_tokens: u64,
    /// Milliseconds after which the call stops with TRUING_E_DEADLINE; 0: none.
    pub deadline_ms: u64,
    /// TRUING_GENERATE_….
    pub flags: u32,
    /// 0; kept free.
    pub reserved: u32,
    /// `n_rewards` pointers to rewards beside those of the profile; its `search.method` must be one that looks for
    /// rewards, TRUING_E_UNSUPPORTED otherwise. May be NULL if `n_rewards` is 0.
    pub rewards: *const *const truing_reward,
    /// How many.
    pub n_rewards: usize,
    /// `n_guards` pointers to guards beside those of the profile, asked in order; the first objection counts. Not with
    /// a search or exact drawing: TRUING_E_UNSUPPORTED. Bounds of guarded requests hold: temperature at most 1,
    /// `top_p` at least 0.5, no TRUING_GENERATE_IGNORE_EOS. May be NULL if `n_guards` is 0.
    pub guards: *const *const truing_guard,
    /// How many.
    pub n_guards: usize,
}

// SAFETY: `repr(C)`, `struct_size` first; optional functions, pointers and numbers may be anything or zero.
unsafe impl Versioned for truing_generate_options {
    const FIRST_SIZE: usize = std::mem::offset_of!(Self, rewards);
}

impl Default for truing_generate_options {
    fn default() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            on_event: None,
            on_logits: None,
            user_data: std::ptr::null_mut(),
            seed: 0,
            max_tokens: 0,
            deadline_ms: 0,
            flags: 0,
            reserved: 0,
            rewards: std::ptr::null(),
            n_rewards: 0,
            guards: std::ptr::null(),
            n_guards: 0,
        }
    }
}

/// What an answer was. Set `struct_size` before the call. The report (truing_session_report) says more.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct truing_result {
    /// `sizeof(truing_result)`.
    pub struct_size: usize,
    /// TRUING_FINISH_….
    pub finish: i32,
    /// 1: the text satisfies the constraints; 0: it does not; -1: there are none.
    pub satisfied: i32,
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Prompt tokens whose keys and values were there already.
    pub n_cached: usize,
    /// Tokens of the answer.
    pub n_generated: usize,
    /// Bytes of the text.
    pub text_len: usize,
    /// Log-probability (natural) of the answer under the model's own distribution.
    pub logprob: f64,
    /// Seconds for the prompt.
    pub prefill_s: f64,
    /// Seconds for the answer.
    pub decode_s: f64,
}

// SAFETY: `repr(C)`, `struct_size` first, numbers only.
unsafe impl Versioned for truing_result {
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// Answers: continues the session's tokens under its profile and appends the answer's. Needs at least one token.
///
/// `options` and `result` may be NULL. TRUING_OK when the answer ended by itself or a limit, see `result->finish`; TRUING_E_CANCELLED
/// and TRUING_E_DEADLINE when it was stopped: what was generated stands, and `result`, text and report are there, unless
/// the profile asks for a search or exact drawing, which have nothing to show before they end.
/// TRUING_E_UNSATISFIABLE before anything is computed if no text within the limits satisfies the constraints.
/// On other failures the session's tokens are as before. Nothing is allocated for a token.
///
/// # Safety
/// The pointers are as their structs say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_session_generate(
    session: *mut truing_session,
    options: *const truing_generate_options,
    result: *mut truing_result,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        with(session, |session| {
            check_struct(result, "truing_result")?;
            let given = read_options(options, "truing_generate_options")?.unwrap_or_default();
            let (mut state, mut context) = session.enter()?;
            let _deadline = Deadline::new(session, given.deadline_ms);
            let was_stopped = answer(session, &mut state, &mut context, given)?;
            if let Some(outcome) = &state.last {
                put_struct(&result_of(outcome), result, "truing_result")?;
            }
            if was_stopped { Err(session.stopped()) } else { Ok(()) }
        })
    }
}

fn result_of(outcome: &Outcome) -> truing_result {
    let r = &outcome.report;
    truing_result {
        struct_size: 0,
        finish: code(r.finish),
        satisfied: r.constraints.as_ref().map_or(-1, |v| i32::from(v.satisfied)),
        n_prompt: r.n_prompt,
        n_cached: r.n_cached,
        n_generated: r.n_generated,
        text_len: outcome.text.len(),
        logprob: r.logprob,
        prefill_s: r.timings.prefill_s,
        decode_s: r.timings.decode_s,
    }
}

/// Clears the deadline at the end of the call, however it ends.
struct Deadline<'s>(&'s Session);

impl<'s> Deadline<'s> {
    fn new(session: &'s Session, ms: u64) -> Self {
        let moment = (ms > 0).then(|| Instant::now().checked_add(Duration::from_millis(ms))).flatten();
        session.cancel.set_deadline(moment);
        Self(session)
    }
}

impl Drop for Deadline<'_> {
    fn drop(&mut self) {
        self.0.cancel.set_deadline(None);
    }
}

fn job(room: &Room, state: &State, given: &truing_generate_options) -> Result<Job> {
    let settings = &state.profile.settings;
    let (mut sampling, mut limits): (_, Limits) = (settings.sampling.clone(), settings.limits.clone());
    let known = TRUING_GENERATE_SEED | TRUING_GENERATE_IGNORE_EOS | TRUING_GENERATE_SHOW_SPECIAL;
    crate::vocab::check_flags(given.flags, known)?;
    if given.flags & TRUING_GENERATE_SEED != 0 {
        sampling.seed = given.seed;
    }
    if given.max_tokens > 0 {
        limits.max_tokens = Some(usize::try_from(given.max_tokens).unwrap_or(usize::MAX));
    }
    limits.ignore_eos |= given.flags & TRUING_GENERATE_IGNORE_EOS != 0;
    limits.show_special |= given.flags & TRUING_GENERATE_SHOW_SPECIAL != 0;
    let mut job = settings.job_with(state.sequence.tokens().to_vec(), sampling, limits, room.n_ctx)?;
    job.prompt.clone_from(&state.asked);
    Ok(job)
}

/// Gives a job the caller's own rewards and guards.
/// # Safety
/// The lists are as the struct says.
unsafe fn add_own(
    job: &mut Job,
    given: &truing_generate_options,
    settings: &Settings,
    opened: &Opened,
) -> Result {
    // SAFETY: the caller's promise.
    let (rewards, guards) =
        unsafe { (parts(given.rewards, given.n_rewards)?, custom(given.guards, given.n_guards)?) };
    if !rewards.is_empty() && settings.search.is_none() {
        let message = "rewards: expected a profile whose search.method looks for them, such as \"deal\"";
        return Err(Failure::new(TRUING_E_UNSUPPORTED, message));
    }
    job.rewards = rewards;
    if guards.is_empty() {
        return Ok(());
    }
    refuse_whole(settings, "guards")?;
    if settings.guards().is_none() {
        let template = prompt::template(&opened.model, None).ok();
        let setup = Setup { model: &opened.model, template: template.as_ref(), steering: "" };
        let plan = GuardPlan::bare(setup)?;
        plan.check_sampling(&job.sampling, job.limits.ignore_eos)?;
        job.aligned.watch = Some(plan.watch());
    }
    if let Some(watch) = &mut job.aligned.watch {
        guards.into_iter().for_each(|guard| watch.add(guard));
    }
    Ok(())
}

/// Refuses what needs texts that come token by token.
fn refuse_whole(settings: &Settings, what: &str) -> Result {
    if settings.whole().is_none() && settings.search.is_none() {
        return Ok(());
    }
    let message = format!("{what}: not with a search or exact drawing, which look at whole texts");
    Err(Failure::new(TRUING_E_UNSUPPORTED, message))
}

/// Answers. Whether it was stopped: by a request, a callback or the deadline.
/// # Safety
/// What `given` points to is as its struct says.
unsafe fn answer(
    session: &Session,
    state: &mut State,
    context: &mut Context,
    given: truing_generate_options,
) -> Result<bool> {
    let mut job = job(&session.room, state, &given)?;
    let opened = &session.room.opened;
    // SAFETY: the caller's promise.
    unsafe { add_own(&mut job, &given, &state.profile.settings, opened) }?;
    let setting = engine::setting(&opened.model, context, 1);
    let mut told = Told { function: given.on_event, user_data: given.user_data, session, has_stopped: false };
    let mut sink = |event: Event<'_>| told.take(&event);
    let State { sequence, profile: Ready { settings, .. }, .. } = state;
    let done = match given.on_logits {
        None => sequence.generate(context, &setting, settings, job, &mut sink),
        Some(function) => {
            refuse_whole(settings, "on_logits")?;
            let held = sequence.n_evaluated(context);
            let tokens = sequence.tokens()[..held].to_vec();
            let mut lm =
                Adjusted::new(context, &tokens, session.room.n_ctx, |ids: &[u32], row: &mut [f32]| {
                    adjust(function, given.user_data, ids, row)
                });
            sequence.generate(&mut lm, &setting, settings, job, &mut sink)
        }
    };
    let outcome = session.settle(done)?;
    let is_stopped = matches!(outcome.report.finish, Finish::Cancelled | Finish::Deadline);
    state.last = Some(outcome);
    Ok(is_stopped || told.has_stopped)
}

type LogitsFn = unsafe extern "C-unwind" fn(*mut c_void, *const u32, usize, *mut f32, usize) -> i32;

fn adjust(function: LogitsFn, user_data: *mut c_void, ids: &[u32], row: &mut [f32]) -> truing::Result<()> {
    // SAFETY: the caller gave this function for this; both slices live until it returns.
    let code = unsafe { function(user_data, ids.as_ptr(), ids.len(), row.as_mut_ptr(), row.len()) };
    if code != 0 {
        return Err(Error::new(ErrorKind::Cancelled, "stopped by on_logits"));
    }
    row.iter_mut().filter(|x| x.is_nan()).for_each(|x| *x = f32::NEG_INFINITY);
    Ok(())
}

/// Who is told what happens.
struct Told<'s> {
    function: truing_event_fn,
    user_data: *mut c_void,
    session: &'s Session,
    /// The callback wants no more.
    has_stopped: bool,
}

impl Told<'_> {
    fn take(&mut self, event: &Event<'_>) {
        let Some(function) = self.function.filter(|_| !self.has_stopped) else { return };
        let (kind, finish, text) = match event {
            Event::Text(text) => (TRUING_EVENT_TEXT, 0, *text),
            Event::Done(outcome) => (TRUING_EVENT_DONE, code(outcome.report.finish), outcome.text.as_str()),
        };
        let event = truing_event {
            struct_size: size_of::<truing_event>(),
            kind,
            finish,
            text: text.as_ptr().cast(),
            text_len: text.len(),
        };
        // SAFETY: the caller gave this function for this; event and text live until it returns.
        if unsafe { function(self.user_data, &raw const event) } != 0 {
            self.has_stopped = true;
            self.session.cancel.cancel();
        }
    }
}
