//! llama.cpp as an engine, through its C interface.

use crate::measure::{self, Engine, Figures, N_CTX, Plan};
use llama_cpp_sys_2 as l;
use std::ffi::{CString, c_char, c_void};

struct Llama {
    model: *mut l::llama_model,
    ctx: *mut l::llama_context,
    n_vocab: usize,
    tokens: Vec<i32>,
}

unsafe extern "C" fn quiet(_: l::ggml_log_level, _: *const c_char, _: *mut c_void) {}

pub fn measure(plan: &Plan) -> Result<Figures, String> {
    let path = CString::new(plan.model.as_str()).map_err(|e| e.to_string())?;
    // SAFETY: llama.cpp's documented start-up sequence; every pointer is checked before use and stays owned by
    // `Llama`, whose drop frees the context before the model.
    let mut engine = unsafe {
        l::llama_log_set(Some(quiet), std::ptr::null_mut());
        l::llama_backend_init();
        let model = l::llama_model_load_from_file(path.as_ptr(), l::llama_model_default_params());
        if model.is_null() {
            return Err(format!("llama.cpp did not load {}", plan.model));
        }
        let mut params = l::llama_context_default_params();
        (params.n_ctx, params.n_batch, params.n_ubatch) = (N_CTX as u32, N_CTX as u32, 512);
        (params.n_threads, params.n_threads_batch) = (plan.threads as i32, plan.threads as i32);
        let ctx = l::llama_init_from_model(model, params);
        if ctx.is_null() {
            return Err("llama.cpp did not open a context".into());
        }
        let n_vocab = l::llama_vocab_n_tokens(l::llama_model_get_vocab(model)) as usize;
        Llama { model, ctx, n_vocab, tokens: Vec::new() }
    };
    measure::run(&mut engine, plan)
}

impl Engine for Llama {
    fn cut(&mut self, len: usize) -> Result<(), String> {
        // SAFETY: `ctx` is open. Removing from `len` to the end is always allowed for this memory type.
        let done = unsafe { l::llama_memory_seq_rm(l::llama_get_memory(self.ctx), 0, len as i32, -1) };
        if done || len > 0 {
            return if done { Ok(()) } else { Err("llama.cpp could not cut".into()) };
        }
        // SAFETY: as above.
        unsafe { l::llama_memory_clear(l::llama_get_memory(self.ctx), true) };
        Ok(())
    }

    fn feed(&mut self, tokens: &[u32]) -> Result<u32, String> {
        self.tokens.clear();
        self.tokens.extend(tokens.iter().map(|&t| t as i32));
        // SAFETY: the batch points at `self.tokens`, which outlives the call; the last row's logits are read
        // before the next decode, `n_vocab` of them as llama.cpp promises.
        unsafe {
            let batch = l::llama_batch_get_one(self.tokens.as_mut_ptr(), self.tokens.len() as i32);
            let status = l::llama_decode(self.ctx, batch);
            if status != 0 {
                return Err(format!("llama_decode: {status}"));
            }
            let logits = l::llama_get_logits_ith(self.ctx, -1);
            if logits.is_null() {
                return Err("no logits".into());
            }
            Ok(measure::best(std::slice::from_raw_parts(logits, self.n_vocab)))
        }
    }

    fn n_vocab(&self) -> usize {
        self.n_vocab
    }
}

impl Drop for Llama {
    fn drop(&mut self) {
        // SAFETY: both were created by llama.cpp and are freed once, context first.
        unsafe {
            l::llama_free(self.ctx);
            l::llama_model_free(self.model);
        }
    }
}
