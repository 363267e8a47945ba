//! Models: opening them from wherever they lie, and what their files say.

use crate::handle::{Handle, Kind, Opaque, guard};
use crate::log::{Log, truing_log_fn};
use crate::status::{Failure, Result, TRUING_E_IO, TRUING_E_NOT_FOUND, truing_status};
use crate::text::{Versioned, put_text, read_options, set, slice, text, wanted};
use serde_json::{Value as Json, json};
use std::ffi::{c_char, c_void};
use std::sync::{Arc, OnceLock};
use truing::align::Lexicon;
use truing::gguf::{GgufFile, Value};
use truing::model::{Model, ModelOptions};
use truing::session;

/// An opened model. Const: any number of threads may use it at once. Contexts keep what they need of it, so it may be
/// freed before them.
pub struct truing_model(Opaque);

/// A model and what is made of it once.
pub(crate) struct Opened {
    pub model: Arc<Model>,
    pub log: Log,
    lexicon: OnceLock<Arc<Lexicon>>,
}

pub(crate) type Shared = Arc<Opened>;

impl Kind for Shared {
    const NAME: &'static str = "model";
    const MARK: u64 = 0x7472_7569_6e67_4d31;
}

impl Opened {
    /// The vocabulary made ready for constraints, when first asked for.
    pub fn lexicon(&self) -> Arc<Lexicon> {
        Arc::clone(self.lexicon.get_or_init(|| session::lexicon(&self.model)))
    }
}

impl truing_model {
    pub(crate) fn cast(pointer: *const Self) -> *const Handle<Shared> {
        pointer.cast()
    }
}

/// How to open a model. Set `struct_size` to `sizeof(truing_model_options)` and everything else to zero.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct truing_model_options {
    /// `sizeof(truing_model_options)`.
    pub struct_size: usize,
    /// Takes messages of the model and of all that is made of it; may be NULL.
    pub log: truing_log_fn,
    /// Handed to `log`.
    pub log_user_data: *mut c_void,
}

// SAFETY: `repr(C)`, `struct_size` first; an optional function and a pointer may be anything or zero.
unsafe impl Versioned for truing_model_options {
    const FIRST_SIZE: usize = size_of::<Self>();
}

fn log_of(options: Option<truing_model_options>) -> Log {
    options.map_or(Log::default(), |o| Log::new(o.log, o.log_user_data))
}

/// Opens what `read` finds and gives it to the caller.
/// # Safety
/// `given` as its struct says, `out` NULL or writable.
unsafe fn open(
    given: *const truing_model_options,
    out: *mut *mut truing_model,
    read: impl FnOnce() -> Result<GgufFile>,
) -> Result {
    let out = wanted(out, "out")?;
    // SAFETY: the caller's promise.
    let log = log_of(unsafe { read_options(given, "truing_model_options") }?);
    let model = Model::from_gguf(read()?, &ModelOptions::default())?;
    model.vocab().warnings().iter().for_each(|w| log.warn(w));
    let arch = model.file().metadata().str("general.architecture").ok().flatten().unwrap_or("?").to_owned();
    log.info(&format!("opened {} ({arch})", model.file().path().display()));
    let opened: Shared = Arc::new(Opened { model, log, lexicon: OnceLock::new() });
    // SAFETY: the caller's promise.
    unsafe { set(out, Handle::give(opened).cast()) };
    Ok(())
}

/// Opens the GGUF file at `path` (UTF-8); of a split model, any part. The file is mapped, not read: opening takes
/// milliseconds, and the file must not be written to or cut while the model lives.
///
/// `path_len`: bytes, or TRUING_CSTR. `options` may be NULL. `*out`: the model, to be freed with truing_model_free.
///
/// # Safety
/// `path` has `path_len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_model_open(
    path: *const c_char,
    path_len: usize,
    options: *const truing_model_options,
    out: *mut *mut truing_model,
) -> truing_status {
    // SAFETY: the caller's promises.
    guard(|| unsafe {
        let path = text(path, path_len, "path")?;
        open(options, out, || Ok(GgufFile::open(path.as_ref())?))
    })
}

/// Opens a model that lies in an open file: `len` bytes from `offset` on, a multiple of 4 (an uncompressed Android
/// asset: AAsset_openFileDescriptor64 gives all three). It is mapped; `fd` stays the caller's and may be closed as
/// soon as the call returns. Not on Windows: TRUING_E_UNSUPPORTED.
///
/// # Safety
/// `fd` is open for reading.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_model_open_fd(
    fd: i32,
    offset: u64,
    len: u64,
    options: *const truing_model_options,
    out: *mut *mut truing_model,
) -> truing_status {
    // SAFETY: the caller's promises.
    guard(|| unsafe { open(options, out, || from_fd(fd, offset, len)) })
}

#[cfg(unix)]
unsafe fn from_fd(fd: i32, offset: u64, len: u64) -> Result<GgufFile> {
    use std::os::fd::{BorrowedFd, OwnedFd};
    if fd < 0 {
        return Err(Failure::invalid(format!("fd: expected an open file, found {fd}")));
    }
    // SAFETY: not -1; that it is open until the call returns is the caller's promise.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let own: OwnedFd =
        borrowed.try_clone_to_owned().map_err(|e| Failure::new(TRUING_E_IO, format!("fd {fd}: {e}")))?;
    Ok(GgufFile::from_file_range(&format!("fd {fd}"), &own.into(), offset, len)?)
}

#[cfg(not(unix))]
unsafe fn from_fd(_: i32, _: u64, _: u64) -> Result<GgufFile> {
    let message = "opening by file descriptor is for Unix; use truing_model_open_read";
    Err(Failure::new(crate::status::TRUING_E_UNSUPPORTED, message))
}

/// Opens a model that lies in memory. The bytes are copied once; the caller's may go as soon as the call returns.
///
/// # Safety
/// `data` has `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_model_open_memory(
    data: *const c_void,
    len: usize,
    options: *const truing_model_options,
    out: *mut *mut truing_model,
) -> truing_status {
    // SAFETY: the caller's promises.
    guard(|| unsafe {
        let bytes = slice(data.cast::<u8>(), len, "data")?;
        open(options, out, || Ok(GgufFile::from_bytes("memory", bytes)?))
    })
}

/// Reads `n` bytes of a model from `offset` on into `to`. Returns 0, or anything else if that failed. Called on the
/// opening thread, in order, before truing_model_open_read returns, never after.
pub type truing_read_fn = Option<
    unsafe extern "C-unwind" fn(user_data: *mut c_void, offset: u64, to: *mut c_void, n: usize) -> i32,
>;

/// Bytes asked for in one call.
const READ_BYTES: usize = 1 << 20;

/// Opens a model of `len` bytes that `read` delivers, from an archive, a network, an encrypted store. All of it is
/// read into memory that the model owns, by a megabyte or less at a time: weights must lie still and at hand.
///
/// # Safety
/// `read` may be called with `user_data`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_model_open_read(
    read: truing_read_fn,
    user_data: *mut c_void,
    len: u64,
    options: *const truing_model_options,
    out: *mut *mut truing_model,
) -> truing_status {
    // SAFETY: the caller's promises.
    guard(|| unsafe {
        let Some(read) = read else { return Err(Failure::invalid("read: expected a function, found NULL")) };
        open(options, out, || {
            let file = GgufFile::from_reader("read callback", len, |offset, to| {
                let to_read = to.len().min(READ_BYTES);
                match read(user_data, offset, to.as_mut_ptr().cast(), to_read) {
                    0 => Ok(to_read),
                    code => Err(std::io::Error::other(format!("the read callback returned {code}"))),
                }
            })?;
            Ok(file)
        })
    })
}

/// Frees a model; NULL is fine. Contexts made of it go on.
///
/// # Safety
/// `model` is NULL or a model that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_model_free(model: *mut truing_model) {
    // SAFETY: the caller's promise.
    unsafe { Handle::<Shared>::free(model.cast(), |_| true) };
}

/// Sizes of a model. Set `struct_size` before the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct truing_model_sizes {
    /// `sizeof(truing_model_sizes)`.
    pub struct_size: usize,
    /// Tokens of the vocabulary: length of a row of logits.
    pub n_vocab: usize,
    /// Width of a hidden state: length of an embedding.
    pub n_embd: usize,
    /// Layers.
    pub n_layer: usize,
    /// Context the model was trained for, in tokens; 0 if the file does not say.
    pub n_ctx_train: usize,
    /// Bytes of the model file, all parts together. Mapped ones are no private memory.
    pub file_bytes: u64,
}

// SAFETY: `repr(C)`, `struct_size` first, numbers only.
unsafe impl Versioned for truing_model_sizes {
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// Sizes of the model into `*sizes`.
///
/// # Safety
/// `sizes` has `sizes->struct_size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_model_get_sizes(
    model: *const truing_model,
    sizes: *mut truing_model_sizes,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        Handle::with(truing_model::cast(model), |opened| {
            let (shape, spec) = (opened.model.shape(), opened.model.spec());
            let found = truing_model_sizes {
                struct_size: 0,
                n_vocab: shape.n_vocab,
                n_embd: shape.n_embd,
                n_layer: shape.n_layer,
                n_ctx_train: spec.n_ctx_train,
                file_bytes: opened.model.file().size_bytes(),
            };
            crate::text::put_struct(&found, wanted(sizes, "sizes")?, "truing_model_sizes")
        })
    }
}

/// Identity of the model file: a hash of its header in lower-case hex, 64 characters. The same for the same file
/// wherever it lies; saved sessions are bound to it.
///
/// # Safety
/// `buf` has room for `cap` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_model_id(
    model: *const truing_model,
    buf: *mut c_char,
    cap: usize,
    len_out: *mut usize,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        Handle::with(truing_model::cast(model), |opened| {
            put_text(opened.model.id().as_bytes(), buf, cap, len_out)
        })
    }
}

/// A value of the model's metadata as JSON: a number, true, false, a string, or for arrays
/// `{"type": "string", "n": 49152}` with the first 16 values in `"first"`. Bytes that are no UTF-8 become U+FFFD.
/// TRUING_E_NOT_FOUND if there is no such key.
///
/// # Safety
/// `key` has `key_len` bytes, `buf` room for `cap`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_model_metadata(
    model: *const truing_model,
    key: *const c_char,
    key_len: usize,
    buf: *mut c_char,
    cap: usize,
    len_out: *mut usize,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        Handle::with(truing_model::cast(model), |opened| {
            let key = text(key, key_len, "key")?;
            let value = opened.model.file().metadata().get(key);
            let value =
                value.ok_or_else(|| Failure::new(TRUING_E_NOT_FOUND, format!("no metadata {key:?}")))?;
            put_text(to_json(value).to_string().as_bytes(), buf, cap, len_out)
        })
    }
}

/// Name of metadata entry `index`, in the order of the file; TRUING_E_NOT_FOUND behind the last.
///
/// # Safety
/// `buf` has room for `cap` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_model_metadata_key(
    model: *const truing_model,
    index: usize,
    buf: *mut c_char,
    cap: usize,
    len_out: *mut usize,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        Handle::with(truing_model::cast(model), |opened| {
            let entry = opened.model.file().metadata().iter().nth(index);
            let message = || Failure::new(TRUING_E_NOT_FOUND, format!("no metadata entry {index}"));
            put_text(entry.ok_or_else(message)?.0.as_bytes(), buf, cap, len_out)
        })
    }
}

/// Values of an array that are shown.
const SHOWN: usize = 16;

fn to_json(value: &Value) -> Json {
    match value {
        Value::Bool(b) => json!(b),
        Value::Str(bytes) => json!(String::from_utf8_lossy(bytes)),
        Value::Array(array) => json!({
            "type": array.elem().to_string(),
            "n": array.len(),
            "first": array.iter().take(SHOWN).map(|v| to_json(&v)).collect::<Vec<_>>(),
        }),
        number => match number.as_int() {
            Some(n) => json!(n as i64), // u64 beyond that do not occur in metadata
            None => json!(number.as_float()),
        },
    }
}
