//! Text to token ids and back, and chat templates.

use crate::handle::Handle;
use crate::model::{Opened, truing_model};
use crate::status::{Failure, Result, truing_status};
use crate::text::{Versioned, put, put_text, read_options, set, slice, text, wanted};
use serde_json::{Map, Value as Json};
use std::ffi::c_char;
use truing::engine::prompt;
use truing::template::{ChatTemplate, Message, RenderOptions};
use truing::vocab::{Specials, Tokens};

/// Add the begin (and end) token that the model expects around a text.
pub const TRUING_TOKENIZE_BOS_EOS: u32 = 1;
/// Read control tokens that the text spells, such as <|im_end|>, as tokens. Only for text that no user wrote.
pub const TRUING_TOKENIZE_SPECIAL: u32 = 2;
/// Spell control tokens out.
pub const TRUING_DETOKENIZE_SPECIAL: u32 = 1;

/// Checks that only known bits are set.
pub(crate) fn check_flags(flags: u32, known: u32) -> Result {
    match flags & !known {
        0 => Ok(()),
        other => Err(Failure::invalid(format!("flags: expected bits of {known:#x}, found {other:#x}"))),
    }
}

/// Tokens of a text; what the vocabulary cannot write is left out and told to the log.
pub(crate) fn tokens_of(opened: &Opened, text: &str, flags: u32) -> Result<Vec<u32>> {
    check_flags(flags, TRUING_TOKENIZE_BOS_EOS | TRUING_TOKENIZE_SPECIAL)?;
    let specials = Specials {
        add_bos_eos: flags & TRUING_TOKENIZE_BOS_EOS != 0,
        parse_special: flags & TRUING_TOKENIZE_SPECIAL != 0,
    };
    Ok(told(opened, opened.model.vocab().tokenize(text, specials)?))
}

/// Tells of bytes that the vocabulary cannot write.
fn told(opened: &Opened, tokens: Tokens) -> Vec<u32> {
    if let Some((offset, byte)) = tokens.unencodable.first() {
        let n = tokens.unencodable.len();
        opened.log.warn(&format!(
            "this vocabulary has no token for {n} of the text's bytes, which are left out; the first is {byte:#04x} \
             at offset {offset}"
        ));
    }
    tokens.ids
}

/// Token ids of a text. `flags`: TRUING_TOKENIZE_… or 0. `*n_out` (may be NULL) gets the number of ids, also with
/// TRUING_E_BUFFER_TOO_SMALL, which a call with `cap` 0 gives on purpose; the text never has more ids than bytes
/// plus 2. Bytes that the vocabulary cannot write are left out and told to the model's log.
///
/// # Safety
/// `data` has `len` bytes, `ids` room for `cap` ids.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_tokenize(
    model: *const truing_model,
    data: *const c_char,
    len: usize,
    flags: u32,
    ids: *mut u32,
    cap: usize,
    n_out: *mut usize,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        Handle::with(truing_model::cast(model), |opened| {
            put(&tokens_of(opened, text(data, len, "text")?, flags)?, ids, cap, n_out)
        })
    }
}

/// Text of token ids: bytes, not always UTF-8, because a token may end within a character. `flags`:
/// TRUING_DETOKENIZE_… or 0. `*len_out` (may be NULL) gets the number of bytes, also with
/// TRUING_E_BUFFER_TOO_SMALL.
///
/// # Safety
/// `ids` has `n` ids, `buf` room for `cap` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_detokenize(
    model: *const truing_model,
    ids: *const u32,
    n: usize,
    flags: u32,
    buf: *mut c_char,
    cap: usize,
    len_out: *mut usize,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        Handle::with(truing_model::cast(model), |opened| {
            check_flags(flags, TRUING_DETOKENIZE_SPECIAL)?;
            let ids = slice(ids, n, "ids")?;
            let with_special = flags & TRUING_DETOKENIZE_SPECIAL != 0;
            put_text(&opened.model.vocab().detokenize(ids, with_special)?, buf, cap, len_out)
        })
    }
}

/// Bytes that one token adds to a text; none for control tokens.
///
/// # Safety
/// `buf` has room for `cap` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_token_bytes(
    model: *const truing_model,
    id: u32,
    buf: *mut c_char,
    cap: usize,
    len_out: *mut usize,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        Handle::with(truing_model::cast(model), |opened| {
            let n_vocab = opened.model.spec().n_vocab;
            if id as usize >= n_vocab {
                return Err(Failure::invalid(format!("id: expected a token below {n_vocab}, found {id}")));
            }
            put_text(opened.model.vocab().token_bytes(id), buf, cap, len_out)
        })
    }
}

/// An id that no token has: the model has no token of this role.
pub const TRUING_NO_TOKEN: u32 = u32::MAX;

/// Tokens with a role; TRUING_NO_TOKEN for those the model lacks. Set `struct_size` before the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct truing_special_tokens {
    /// `sizeof(truing_special_tokens)`.
    pub struct_size: usize,
    /// Begin of text.
    pub bos: u32,
    /// End of text.
    pub eos: u32,
    /// End of turn.
    pub eot: u32,
    /// 0; kept free.
    pub reserved: u32,
}

// SAFETY: `repr(C)`, `struct_size` first, numbers only.
unsafe impl Versioned for truing_special_tokens {
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// The model's tokens with a role into `*tokens`.
///
/// # Safety
/// `tokens` has `tokens->struct_size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_model_get_special_tokens(
    model: *const truing_model,
    tokens: *mut truing_special_tokens,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        Handle::with(truing_model::cast(model), |opened| {
            let vocab = opened.model.vocab();
            let id = |id: Option<u32>| id.unwrap_or(TRUING_NO_TOKEN);
            let found = truing_special_tokens {
                struct_size: 0,
                bos: id(vocab.bos()),
                eos: id(vocab.eos()),
                eot: id(vocab.eot()),
                reserved: 0,
            };
            crate::text::put_struct(&found, wanted(tokens, "tokens")?, "truing_special_tokens")
        })
    }
}

/// Whether the token ends a text or turn, into `*is_end`: 1 or 0.
///
/// # Safety
/// `is_end` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_token_is_end(
    model: *const truing_model,
    id: u32,
    is_end: *mut i32,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        Handle::with(truing_model::cast(model), |opened| {
            set(wanted(is_end, "is_end")?, i32::from(opened.model.vocab().is_eog(id)));
            Ok(())
        })
    }
}

/// How messages become a prompt. Set `struct_size` and everything else to zero.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct truing_chat_options {
    /// `sizeof(truing_chat_options)`.
    pub struct_size: usize,
    /// A chat template (Jinja) instead of the model's; NULL: the model's.
    pub chat_template: *const c_char,
    /// Bytes of `chat_template`, or TRUING_CSTR.
    pub chat_template_len: usize,
    /// Variables for the template as a JSON object; NULL: none. `tools`, `documents`, `enable_thinking` and
    /// `add_generation_prompt` (default true) are known to most templates.
    pub variables_json: *const c_char,
    /// Bytes of `variables_json`, or TRUING_CSTR.
    pub variables_json_len: usize,
    /// TRUING_TOKENIZE_SPECIAL: control tokens that the messages spell are meant. Otherwise they stay text.
    pub flags: u32,
    /// 0; kept free.
    pub reserved: u32,
}

// SAFETY: `repr(C)`, `struct_size` first; numbers and pointers may be anything.
unsafe impl Versioned for truing_chat_options {
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// A conversation as it came, and how it becomes a prompt.
pub(crate) struct Chat {
    template: ChatTemplate,
    messages: Vec<Message>,
    options: RenderOptions,
    parse_special: bool,
}

impl Chat {
    /// Reads messages and options. `system`: goes before them if they begin with none.
    /// # Safety
    /// The pointers are as the options' struct says.
    pub unsafe fn read(
        opened: &Opened,
        messages: &str,
        given: *const truing_chat_options,
        system: Option<&str>,
    ) -> Result<Self> {
        // SAFETY: the caller's promise.
        let given = unsafe { read_options(given, "truing_chat_options") }?;
        let bad = |e: serde_json::Error| Failure::invalid(format!("messages: {e}"));
        let mut messages: Vec<Message> = serde_json::from_str(messages).map_err(bad)?;
        if messages.first().is_none_or(|m| m.role() != "system")
            && let Some(system) = system
        {
            messages.insert(0, Message::new("system", system));
        }
        let mut options = RenderOptions::default();
        let (mut source, mut flags) = (None, 0);
        if let Some(given) = given {
            // SAFETY: the caller's promise.
            unsafe {
                if !given.chat_template.is_null() {
                    source = Some(text(given.chat_template, given.chat_template_len, "chat_template")?);
                }
                if !given.variables_json.is_null() {
                    let json = text(given.variables_json, given.variables_json_len, "variables_json")?;
                    options = render_options(json)?;
                }
            }
            flags = given.flags;
            check_flags(flags, TRUING_TOKENIZE_SPECIAL)?;
        }
        let template = prompt::template(&opened.model, source)?;
        Ok(Self { template, messages, options, parse_special: flags != 0 })
    }

    /// What the user said last.
    pub fn asked(&self) -> &str {
        let last = self.messages.iter().rev().find(|m| m.role() == "user");
        last.and_then(|m| m.content()).unwrap_or_default()
    }

    /// The prompt's tokens.
    pub fn tokens(&self, opened: &Opened) -> Result<Vec<u32>> {
        let Self { template, messages, options, parse_special } = self;
        Ok(told(opened, prompt::chat(&opened.model, template, messages, options, *parse_special)?))
    }
}

fn render_options(json: &str) -> Result<RenderOptions> {
    let mut variables: Map<String, Json> =
        serde_json::from_str(json).map_err(|e| Failure::invalid(format!("variables_json: {e}")))?;
    let mut taken = |name: &str| variables.remove(name).filter(|v| !v.is_null());
    let flag = |name: &str, value: Option<Json>| match value {
        None => Ok(None),
        Some(Json::Bool(b)) => Ok(Some(b)),
        Some(other) => {
            Err(Failure::invalid(format!("variables_json: {name}: expected true or false, found {other}")))
        }
    };
    let (tools, documents) = (taken("tools"), taken("documents"));
    let opens = flag("add_generation_prompt", taken("add_generation_prompt"))?;
    let enable_thinking = flag("enable_thinking", taken("enable_thinking"))?;
    Ok(RenderOptions {
        tools,
        documents,
        add_generation_prompt: opens.unwrap_or(true),
        enable_thinking,
        variables,
        now: None,
    })
}

/// The text that the chat template makes of messages, a JSON array of objects with "role" and "content". For looking
/// at: as a prompt use truing_session_prompt_chat, which keeps what users wrote apart from control tokens.
///
/// # Safety
/// `messages` has `messages_len` bytes, `options` is as its struct says, `buf` has room for `cap` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_chat_render(
    model: *const truing_model,
    messages: *const c_char,
    messages_len: usize,
    options: *const truing_chat_options,
    buf: *mut c_char,
    cap: usize,
    len_out: *mut usize,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        Handle::with(truing_model::cast(model), |opened| {
            let messages = text(messages, messages_len, "messages")?;
            let chat = Chat::read(opened, messages, options, None)?;
            let rendered = chat.template.render(&chat.messages, &chat.options)?;
            put_text(rendered.as_bytes(), buf, cap, len_out)
        })
    }
}

/// The token ids of a conversation that the model is to continue; as truing_chat_render, but ids. `*n_out` as for
/// truing_tokenize.
///
/// # Safety
/// As truing_chat_render; `ids` has room for `cap` ids.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_chat_tokenize(
    model: *const truing_model,
    messages: *const c_char,
    messages_len: usize,
    options: *const truing_chat_options,
    ids: *mut u32,
    cap: usize,
    n_out: *mut usize,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        Handle::with(truing_model::cast(model), |opened| {
            let messages = text(messages, messages_len, "messages")?;
            let tokens = Chat::read(opened, messages, options, None)?.tokens(opened)?;
            put(&tokens, ids, cap, n_out)
        })
    }
}
