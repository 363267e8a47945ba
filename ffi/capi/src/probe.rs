//! Probes: what a linear reader sees in a model's hidden states.

use crate::context::{Shared as Context, truing_context};
use crate::handle::{Handle, Kind, Opaque, take};
use crate::model::{Opened, Shared as Model, truing_model};
use crate::session::{truing_session, with_state};
use crate::status::{Failure, Result, TRUING_E_PROBE_MISMATCH, TRUING_E_UNSUPPORTED, truing_status};
use crate::text::{Versioned, put, put_struct, set, slice, text, wanted};
use std::ffi::{c_char, c_void};
use std::path::Path;
use std::sync::Arc;
use truing::engine::{self, prompt};
use truing::guard::{Identity, Position, Probe, ProbeFile, Setup};

/// A trained reader of one model's hidden states. Const: any number of threads may use it at once. It keeps what it
/// needs of its model, which may be freed before it.
pub struct truing_probe(Opaque);

/// A probe, and what is put behind a text before it reads.
pub(crate) struct Loaded {
    probe: Probe,
    header: Vec<u32>,
    /// The model it belongs to.
    model: Arc<Opened>,
}

impl Kind for Loaded {
    const NAME: &'static str = "probe";
    const MARK: u64 = 0x7472_7569_6e67_5031;
}

/// `truing_probe_info.position`: it reads the last token of the prompt.
pub const TRUING_PROBE_PROMPT: u32 = 0;
/// `truing_probe_info.position`: it reads every token of the answer.
pub const TRUING_PROBE_RESPONSE: u32 = 1;
/// `truing_probe_info.position`: it reads the last token of an assistant's header put behind the answer.
pub const TRUING_PROBE_HEADER: u32 = 2;

/// What a probe is. Set `struct_size` before the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct truing_probe_info {
    /// `sizeof(truing_probe_info)`.
    pub struct_size: usize,
    /// TRUING_PROBE_…: which token's hidden states it reads.
    pub position: u32,
    /// Layers it reads.
    pub n_layers: u32,
    /// From here on a score is suspicious.
    pub threshold_low: f32,
    /// Above this a guard acts.
    pub threshold_high: f32,
    /// Area under the curve of hits against false alarms, on examples that it was not trained with.
    pub auroc: f32,
    /// Hits at 1 % false alarms, 0 to 1.
    pub hits_at_1_percent: f32,
}

// SAFETY: `repr(C)`, `struct_size` first, numbers only.
unsafe impl Versioned for truing_probe_info {
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// Checks that a probe is for this model and gives it to the caller.
/// # Safety
/// `out` is NULL or writable.
unsafe fn load(opened: &Model, file: ProbeFile, out: *mut *mut truing_probe) -> Result {
    let out = wanted(out, "out")?;
    let template = prompt::template(&opened.model, None).ok();
    let source = template.as_ref().map_or("", |t| t.source());
    file.made_for.check(&Identity::of(&opened.model, source, ""))?;
    let setup = Setup { model: &opened.model, template: template.as_ref(), steering: "" };
    let header = engine::probe_header(&file.probe, setup)?;
    check_shape(opened, &file.probe)?;
    let loaded = Loaded { probe: file.probe, header, model: Arc::clone(opened) };
    // SAFETY: the caller's promise.
    unsafe { set(out, Handle::give(loaded).cast()) };
    Ok(())
}

fn check_shape(opened: &Opened, probe: &Probe) -> Result {
    let (n_embd, n_layer) = (opened.model.spec().n_embd, opened.model.spec().layers.len());
    let deepest = probe.layers().last().map_or(0, |l| *l as usize);
    if probe.n_embd() == n_embd && deepest < n_layer {
        return Ok(());
    }
    let message = format!(
        "expected a probe for {n_layer} layers of width {n_embd}, found layer {deepest} of width {}",
        probe.n_embd()
    );
    Err(Failure::new(TRUING_E_PROBE_MISMATCH, message))
}

/// Opens a probe file (as `truing probe train` writes it) for `model`. TRUING_E_PROBE_MISMATCH if it was made for
/// another model, quantisation or chat template. `*out`: to be freed with truing_probe_free.
///
/// # Safety
/// `path` has `path_len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_probe_open(
    model: *const truing_model,
    path: *const c_char,
    path_len: usize,
    out: *mut *mut truing_probe,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        Handle::with(truing_model::cast(model), |opened: &Model| {
            load(opened, ProbeFile::open(Path::new(text(path, path_len, "path")?))?, out)
        })
    }
}

/// As truing_probe_open, of `len` bytes in memory, which are copied.
///
/// # Safety
/// `data` has `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_probe_open_memory(
    model: *const truing_model,
    data: *const c_void,
    len: usize,
    out: *mut *mut truing_probe,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        Handle::with(truing_model::cast(model), |opened: &Model| {
            load(opened, ProbeFile::from_bytes(slice(data.cast(), len, "data")?)?, out)
        })
    }
}

/// Frees a probe; NULL is fine.
///
/// # Safety
/// `probe` is NULL or a probe that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_probe_free(probe: *mut truing_probe) {
    // SAFETY: the caller's promise.
    unsafe { Handle::<Loaded>::free(probe.cast(), |_| true) };
}

/// Runs `f` on a probe.
/// # Safety
/// As [`Handle::with`].
unsafe fn with(probe: *const truing_probe, f: impl FnOnce(&Loaded) -> Result) -> truing_status {
    // SAFETY: the caller's promise.
    unsafe { Handle::with(probe.cast::<Handle<Loaded>>(), f) }
}

/// What the probe is, into `*info`.
///
/// # Safety
/// `info` has `info->struct_size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_probe_get_info(
    probe: *const truing_probe,
    info: *mut truing_probe_info,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        with(probe, |Loaded { probe, .. }| {
            let found = truing_probe_info {
                struct_size: 0,
                position: match probe.position() {
                    Position::Prompt => TRUING_PROBE_PROMPT,
                    Position::Response => TRUING_PROBE_RESPONSE,
                    Position::Header => TRUING_PROBE_HEADER,
                },
                n_layers: probe.layers().len() as u32,
                threshold_low: probe.thresholds.lo,
                threshold_high: probe.thresholds.hi,
                auroc: probe.quality.auroc,
                hits_at_1_percent: probe.quality.tpr_at_1fpr,
            };
            put_struct(&found, wanted(info, "info")?, "truing_probe_info")
        })
    }
}

/// Scores of a prompt and its answer (log-odds, as they are: above `threshold_high` a guard acts). `ids`: `n` tokens,
/// the first `n_prompt` of which (at least one) are the prompt, as truing_chat_tokenize gives it. A prompt probe gives
/// one score and does not look at the answer, a header probe one for all of it, a response probe one for each token of
/// the answer. `*n_out` (may be NULL) gets their number, also with TRUING_E_BUFFER_TOO_SMALL, in which case nothing
/// is computed. TRUING_E_VOCAB_MISMATCH if the context is of another model.
///
/// # Safety
/// `ids` has `n` ids, `scores` room for `cap` floats.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_context_probe(
    context: *mut truing_context,
    probe: *const truing_probe,
    ids: *const u32,
    n: usize,
    n_prompt: usize,
    scores: *mut f32,
    cap: usize,
    n_out: *mut usize,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        with(probe, |loaded| {
            let ids = slice(ids, n, "ids")?;
            let (prompt, answer) =
                ids.split_at_checked(n_prompt).filter(|_| n_prompt > 0).ok_or_else(|| {
                    Failure::invalid(format!("n_prompt: expected 1 to {n} (n), found {n_prompt}"))
                })?;
            let n_scores = if loaded.probe.position() == Position::Response { answer.len() } else { 1 };
            if cap < n_scores {
                return put(&vec![0.0; n_scores], scores, cap, n_out);
            }
            inside(context, |room: &Context| {
                loaded.check(&room.opened)?;
                let mut context = take(&room.context, "context")?;
                context.set_cancel_flag(truing::model::CancelFlag::default());
                let probe = (&loaded.probe, &loaded.header[..]);
                put(&engine::probe_scores(&mut context, probe, prompt, answer)?, scores, cap, n_out)
            })
        })
    }
}

/// Runs `f` on a context within another handle's guard.
/// # Safety
/// As [`Handle::with`].
unsafe fn inside(context: *mut truing_context, f: impl FnOnce(&Context) -> Result) -> Result {
    // SAFETY: the caller's promise.
    unsafe { Handle::within(context.cast::<Handle<Context>>().cast_const(), f) }
}

/// The score of the session's last token into `*score`: of the prompt that stands there, or of the answer so far.
/// Computes what has to be computed; what is there already is not computed again. Not for header probes:
/// TRUING_E_UNSUPPORTED.
///
/// # Safety
/// `score` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_session_probe(
    session: *mut truing_session,
    probe: *const truing_probe,
    score: *mut f32,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        with_state(session, |session, state, context| {
            let score = wanted(score, "score")?;
            Handle::within(probe.cast::<Handle<Loaded>>(), |loaded| {
                loaded.check(&session.room.opened)?;
                if loaded.probe.position() == Position::Header {
                    let message = "a header probe reads behind a text: use truing_context_probe";
                    return Err(Failure::new(TRUING_E_UNSUPPORTED, message));
                }
                let read = engine::with_taps(context, loaded.probe.layers(), |context| {
                    state.sequence.logits(context)?;
                    engine::score_row(context, &loaded.probe, 0)
                });
                set(score, session.settle(read)?);
                Ok(())
            })
        })
    }
}

impl Loaded {
    fn check(&self, opened: &Opened) -> Result {
        if Arc::ptr_eq(&self.model.model, &opened.model) || self.model.model.id() == opened.model.id() {
            return Ok(());
        }
        let message = "the probe was opened for another model";
        Err(Failure::new(crate::status::TRUING_E_VOCAB_MISMATCH, message))
    }
}
