//! A program that has llama.cpp, and so ggml, linked into itself loads libtruing.so, which has a ggml of its own. Both
//! compute the same model in turns: neither sees the other's names.
#![cfg(all(target_os = "linux", feature = "ggml"))]
#![allow(unsafe_code, reason = "two C libraries")]

mod common;

use llama_cpp_sys_2 as l;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};
use truing_capi as t;

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlerror() -> *const c_char;
}

/// All symbols at once, and visible to whatever is loaded later: the case in which names clash if they can.
const NOW_GLOBAL: c_int = 0x102;

struct Library(*mut c_void);

impl Library {
    fn open(path: &std::path::Path) -> Self {
        let path = CString::new(path.to_str().expect("UTF-8")).expect("no zero");
        // SAFETY: a text with its zero; an error text lives until the next call.
        unsafe {
            let library = dlopen(path.as_ptr(), NOW_GLOBAL);
            assert!(!library.is_null(), "{:?}", CStr::from_ptr(dlerror()));
            Self(library)
        }
    }

    /// The function `name`, which has the type `F`.
    unsafe fn get<F: Copy>(&self, name: &CStr) -> F {
        // SAFETY: an open library; the caller vouches for the type.
        unsafe {
            let found = dlsym(self.0, name.as_ptr());
            assert!(!found.is_null(), "{name:?}");
            assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
            std::mem::transmute_copy(&found)
        }
    }
}

unsafe extern "C" fn quiet(_: l::ggml_log_level, _: *const c_char, _: *mut c_void) {}

const PROMPT: &CStr = c"The capital of Japan is the city of";

struct Llama {
    model: *mut l::llama_model,
    context: *mut l::llama_context,
}

impl Llama {
    fn open(path: &CStr) -> Self {
        // SAFETY: texts with their zeros, results checked.
        unsafe {
            l::llama_log_set(Some(quiet), null_mut());
            l::llama_backend_init();
            let model = l::llama_model_load_from_file(path.as_ptr(), l::llama_model_default_params());
            assert!(!model.is_null());
            let params = l::llama_context_params { n_ctx: 64, ..l::llama_context_default_params() };
            let context = l::llama_init_from_model(model, params);
            assert!(!context.is_null());
            Self { model, context }
        }
    }

    /// Tokens of the prompt and the likeliest next one.
    fn next(&self) -> (Vec<u32>, usize) {
        // SAFETY: live handles; buffers with their lengths.
        unsafe {
            let vocab = l::llama_model_get_vocab(self.model);
            let mut ids = [0; 32];
            let (len, room) = (PROMPT.count_bytes() as i32, ids.len() as i32);
            let n = l::llama_tokenize(vocab, PROMPT.as_ptr(), len, ids.as_mut_ptr(), room, false, false);
            let ids = &mut ids[..usize::try_from(n).expect("tokens")];
            l::llama_memory_clear(l::llama_get_memory(self.context), true);
            let batch = l::llama_batch_get_one(ids.as_mut_ptr(), n);
            assert_eq!(l::llama_decode(self.context, batch), 0);
            let n_vocab = l::llama_vocab_n_tokens(vocab) as usize;
            let row = std::slice::from_raw_parts(l::llama_get_logits_ith(self.context, -1), n_vocab);
            (ids.iter().map(|id| *id as u32).collect(), best(row))
        }
    }
}

impl Drop for Llama {
    fn drop(&mut self) {
        // SAFETY: our own, freed once.
        unsafe {
            l::llama_free(self.context);
            l::llama_model_free(self.model);
        }
    }
}

fn best(row: &[f32]) -> usize {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).expect("a vocabulary")
}

#[test]
fn llama_cpp_and_truing_compute_in_one_process() {
    let path = common::real_model("smollm2");
    let path = CString::new(path.to_str().expect("UTF-8")).expect("no zero");
    let llama = Llama::open(&path);
    let (ids, expected) = llama.next();

    let library = Library::open(&common::prefix().join("lib/libtruing.so"));
    // SAFETY: the types are those of the functions that this very crate exports under these names; pointers, lengths
    // and handles as the header asks for.
    unsafe {
        let open: unsafe extern "C" fn(
            *const c_char,
            usize,
            *const t::truing_model_options,
            *mut *mut t::truing_model,
        ) -> i32 = library.get(c"truing_model_open");
        let context_new: unsafe extern "C" fn(
            *const t::truing_model,
            *const t::truing_context_options,
            *mut *mut t::truing_context,
        ) -> i32 = library.get(c"truing_context_new");
        let session_new: unsafe extern "C" fn(
            *mut t::truing_context,
            *const c_char,
            usize,
            *const t::truing_session_options,
            *mut *mut t::truing_session,
        ) -> i32 = library.get(c"truing_session_new");
        let feed: unsafe extern "C" fn(*mut t::truing_session, *const u32, usize) -> i32 =
            library.get(c"truing_session_feed");
        let logits: unsafe extern "C" fn(*mut t::truing_session, *mut f32, usize, *mut usize) -> i32 =
            library.get(c"truing_session_logits");

        let mut model = null_mut();
        assert_eq!(open(path.as_ptr(), usize::MAX, null(), &raw mut model), t::TRUING_OK);
        for executor in [t::TRUING_EXECUTOR_GGML, t::TRUING_EXECUTOR_NATIVE] {
            let options = t::truing_context_options {
                struct_size: size_of::<t::truing_context_options>(),
                n_ctx: 64,
                n_kv_tokens: 0,
                n_threads: 2,
                max_rows: 0,
                executor,
                kv_type: t::TRUING_KV_F16,
            };
            let (mut context, mut session) = (null_mut(), null_mut());
            assert_eq!(context_new(model, &raw const options, &raw mut context), t::TRUING_OK);
            assert_eq!(session_new(context, null(), 0, null(), &raw mut session), t::TRUING_OK);
            assert_eq!(feed(session, ids.as_ptr(), ids.len()), t::TRUING_OK);
            let mut row = vec![0.0_f32; 60_000];
            let mut n = 0;
            assert_eq!(logits(session, row.as_mut_ptr(), row.len(), &raw mut n), t::TRUING_OK);
            assert_eq!(best(&row[..n]), expected, "executor {executor}");
            assert_eq!(llama.next(), (ids.clone(), expected), "llama.cpp goes on as before");
        }
    }
}
