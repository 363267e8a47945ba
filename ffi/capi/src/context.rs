//! Contexts: memory for keys and values, and the threads that compute.

use crate::handle::{Handle, Kind, Opaque, is_idle, take};
use crate::model::{Shared as Model, truing_model};
use crate::status::{Failure, Result, truing_status};
use crate::text::{Versioned, put_struct, read_options, set, slice, slice_mut, text, wanted};
use std::ffi::c_char;
use std::sync::{Arc, Mutex};
use truing::engine::{self, Pooling};
use truing::model::{Context, ContextOptions, ExecutorKind, KvType};

/// Room for keys and values, and the threads that compute with one model. Sessions share it: one call at a time over
/// all of them, others get TRUING_E_BUSY. Sessions keep what they need of it, so it may be freed before them. For
/// generations that run at the same time make a context for each.
pub struct truing_context(Opaque);

/// A context and the model it computes with.
pub(crate) struct Room {
    pub opened: Model,
    pub context: Mutex<Context>,
    pub n_ctx: usize,
}

pub(crate) type Shared = Arc<Room>;

impl Kind for Shared {
    const NAME: &'static str = "context";
    const MARK: u64 = 0x7472_7569_6e67_4331;
}

/// The fastest that supports the model.
pub const TRUING_EXECUTOR_AUTO: u32 = 0;
/// truing's own kernels: the same bits for any number of threads.
pub const TRUING_EXECUTOR_NATIVE: u32 = 1;
/// ggml's kernels.
pub const TRUING_EXECUTOR_GGML: u32 = 2;

/// Keys and values as 16-bit floats.
pub const TRUING_KV_F16: u32 = 0;
/// Keys and values as 32-bit floats; executor ggml.
pub const TRUING_KV_F32: u32 = 1;
/// Keys and values as 8-bit integers with scales: half the memory of 16 bits, and not lossless.
pub const TRUING_KV_Q8_0: u32 = 2;

/// How a context is made. Set `struct_size` and everything else to zero for the defaults named.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct truing_context_options {
    /// `sizeof(truing_context_options)`.
    pub struct_size: usize,
    /// Most tokens of a session; 0: what the model was trained for, at most 4096.
    pub n_ctx: usize,
    /// Tokens that all sessions (and the texts a search keeps side by side) may hold together, counting what they
    /// share once; 0: `n_ctx`. Memory is touched only as it is used.
    pub n_kv_tokens: usize,
    /// Threads that compute; 0: one for each physical core, of the fast kind where kinds differ.
    pub n_threads: usize,
    /// Most rows of one forward pass; 0: 512. Smaller takes less memory, larger evaluates prompts faster.
    pub max_rows: usize,
    /// TRUING_EXECUTOR_….
    pub executor: u32,
    /// TRUING_KV_….
    pub kv_type: u32,
}

// SAFETY: `repr(C)`, `struct_size` first, numbers only.
unsafe impl Versioned for truing_context_options {
    const FIRST_SIZE: usize = size_of::<Self>();
}

fn context_options(given: Option<truing_context_options>) -> Result<ContextOptions> {
    let Some(given) = given else { return Ok(ContextOptions::default()) };
    let executor = match given.executor {
        TRUING_EXECUTOR_AUTO => ExecutorKind::Auto,
        TRUING_EXECUTOR_NATIVE => ExecutorKind::Native,
        TRUING_EXECUTOR_GGML => ExecutorKind::Ggml,
        other => return Err(Failure::invalid(format!("executor: expected 0 to 2, found {other}"))),
    };
    let kv_type = match given.kv_type {
        TRUING_KV_F16 => KvType::F16,
        TRUING_KV_F32 => KvType::F32,
        TRUING_KV_Q8_0 => KvType::Q8_0,
        other => return Err(Failure::invalid(format!("kv_type: expected 0 to 2, found {other}"))),
    };
    if given.n_threads > MAX_THREADS {
        let message = format!("n_threads: expected at most {MAX_THREADS}, found {}", given.n_threads);
        return Err(Failure::invalid(message));
    }
    if given.max_rows > MAX_ROWS {
        return Err(Failure::invalid(format!(
            "max_rows: expected at most {MAX_ROWS}, found {}",
            given.max_rows
        )));
    }
    Ok(ContextOptions {
        n_ctx: given.n_ctx,
        n_kv_tokens: given.n_kv_tokens,
        n_threads: given.n_threads,
        max_rows: given.max_rows,
        kv_type,
        executor,
        ..ContextOptions::default()
    })
}

/// As the command line.
const MAX_THREADS: usize = 512;
/// Buffers grow with the rows of a pass; more than this gains nothing.
const MAX_ROWS: usize = 1 << 16;

/// Makes a context. `options` may be NULL. `*out`: to be freed with truing_context_free.
///
/// # Safety
/// The pointers are as described.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_context_new(
    model: *const truing_model,
    options: *const truing_context_options,
    out: *mut *mut truing_context,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        Handle::with(truing_model::cast(model), |opened: &Model| {
            let out = wanted(out, "out")?;
            let made = context_options(read_options(options, "truing_context_options")?)?;
            let context = Context::new(&opened.model, &made)?;
            opened.log.info(&format!(
                "context of {} tokens, executor {}, {} threads",
                context.n_ctx(),
                context.executor_name(),
                context.n_threads()
            ));
            let n_ctx = context.n_ctx();
            let room = Room { opened: Arc::clone(opened), context: Mutex::new(context), n_ctx };
            set(out, Handle::<Shared>::give(Arc::new(room)).cast());
            Ok(())
        })
    }
}

/// Frees a context; NULL is fine. Its memory goes with its last session. Refused (the handle lives on, and
/// truing_last_error says so) when called from a callback of a call that uses the context.
///
/// # Safety
/// `context` is NULL or a context that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_context_free(context: *mut truing_context) {
    // SAFETY: the caller's promise.
    unsafe { Handle::<Shared>::free(context.cast(), |room| is_idle(&room.context)) };
}

/// Memory of a context and of what it is made of. Set `struct_size` before the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct truing_memory {
    /// `sizeof(truing_memory)`.
    pub struct_size: usize,
    /// Bytes for keys and values; the system gives them as they are first used.
    pub kv_bytes: u64,
    /// Bytes for intermediate results.
    pub buffer_bytes: u64,
    /// Bytes of the model file: mapped, shared between processes, and dropped by the system when it needs room; for
    /// a model opened from memory or through a callback, private.
    pub model_bytes: u64,
    /// Tokens for which there is room.
    pub n_kv_tokens: usize,
    /// Tokens for which there is room now.
    pub n_kv_tokens_free: usize,
}

// SAFETY: `repr(C)`, `struct_size` first, numbers only.
unsafe impl Versioned for truing_memory {
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// Memory of the context into `*memory`.
///
/// # Safety
/// `memory` has `memory->struct_size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_context_get_memory(
    context: *mut truing_context,
    memory: *mut truing_memory,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        Handle::with(context.cast::<Handle<Shared>>().cast_const(), |room| {
            let mut context = take(&room.context, "context")?;
            let (kv, buffers) = context.memory_bytes();
            let (pages, free) = context.pages();
            let found = truing_memory {
                struct_size: 0,
                kv_bytes: kv as u64,
                buffer_bytes: buffers as u64,
                model_bytes: room.opened.model.file().size_bytes(),
                n_kv_tokens: pages * truing::model::PAGE_TOKENS,
                n_kv_tokens_free: free * truing::model::PAGE_TOKENS,
            };
            put_struct(&found, wanted(memory, "memory")?, "truing_memory")
        })
    }
}

/// The mean over all tokens.
pub const TRUING_POOLING_MEAN: u32 = 1;
/// The first token.
pub const TRUING_POOLING_FIRST: u32 = 2;
/// The last token.
pub const TRUING_POOLING_LAST: u32 = 3;
/// What the model's file declares; TRUING_E_UNSUPPORTED if it declares nothing.
pub const TRUING_POOLING_MODEL: u32 = 0;

/// How an embedding is made. Set `struct_size` and everything else to zero.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct truing_embed_options {
    /// `sizeof(truing_embed_options)`.
    pub struct_size: usize,
    /// TRUING_POOLING_….
    pub pooling: u32,
    /// Not 0: scaled to length 1.
    pub normalise: u32,
    /// TRUING_TOKENIZE_…, for the text.
    pub flags: u32,
    /// 0; kept free.
    pub reserved: u32,
}

// SAFETY: `repr(C)`, `struct_size` first, numbers only.
unsafe impl Versioned for truing_embed_options {
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// The embedding of a text: hidden states behind the last layer and the output norm, made one by `options->pooling`
/// (`options` NULL: what the model declares). `values` gets `n` floats; `n` must be the model's `n_embd`.
///
/// # Safety
/// `data` has `len` bytes, `values` room for `n` floats.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_context_embed(
    context: *mut truing_context,
    data: *const c_char,
    len: usize,
    options: *const truing_embed_options,
    values: *mut f32,
    n: usize,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        Handle::with(context.cast::<Handle<Shared>>().cast_const(), |room| {
            let flags =
                read_options(options, "truing_embed_options")?.map_or(0, |o: truing_embed_options| o.flags);
            let tokens = crate::vocab::tokens_of(&room.opened, text(data, len, "text")?, flags)?;
            embed(room, &tokens, options, values, n)
        })
    }
}

/// As truing_context_embed, of token ids.
///
/// # Safety
/// `ids` has `n_ids` ids, `values` room for `n` floats.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_context_embed_tokens(
    context: *mut truing_context,
    ids: *const u32,
    n_ids: usize,
    options: *const truing_embed_options,
    values: *mut f32,
    n: usize,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        Handle::with(context.cast::<Handle<Shared>>().cast_const(), |room| {
            embed(room, slice(ids, n_ids, "ids")?, options, values, n)
        })
    }
}

unsafe fn embed(
    room: &Room,
    tokens: &[u32],
    given: *const truing_embed_options,
    values: *mut f32,
    n: usize,
) -> Result {
    // SAFETY: the caller's promises.
    let (given, values) =
        unsafe { (read_options(given, "truing_embed_options")?, slice_mut(values, n, "values")?) };
    let pooling = match given.map_or(TRUING_POOLING_MODEL, |o| o.pooling) {
        TRUING_POOLING_MEAN => Pooling::Mean,
        TRUING_POOLING_FIRST => Pooling::First,
        TRUING_POOLING_LAST => Pooling::Last,
        TRUING_POOLING_MODEL => Pooling::declared(&room.opened.model)?.ok_or_else(|| {
            let message =
                "pooling: the model declares none; choose TRUING_POOLING_MEAN or TRUING_POOLING_LAST";
            Failure::new(crate::status::TRUING_E_UNSUPPORTED, message)
        })?,
        other => return Err(Failure::invalid(format!("pooling: expected 0 to 3, found {other}"))),
    };
    let mut context = take(&room.context, "context")?;
    context.set_cancel_flag(truing::model::CancelFlag::default());
    let normalise = given.is_some_and(|o| o.normalise != 0);
    // computed aside: nothing is written unless all succeeds
    let mut found = vec![0.0; values.len()];
    engine::embed(&room.opened.model, &mut context, tokens, pooling, normalise, &mut found)?;
    values.copy_from_slice(&found);
    Ok(())
}
