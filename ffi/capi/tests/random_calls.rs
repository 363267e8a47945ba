//! Random calls in random order, with arguments that are right, wrong or absent: every one returns, none with a bug of
//! ours, and what it says it has done is so.

#![allow(unsafe_code, reason = "calls as C makes them")]

mod common;

use std::ffi::{c_char, c_void};
use std::ptr::{null, null_mut};
use truing_capi::*;

/// Xorshift: random enough to walk everywhere, the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as usize % n
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

const PROFILES: [&str; 8] = [
    "",
    "[limits]\nmax_tokens = 3\n[sampling]\nseed = 1\ntemperature = 1.0",
    "{\"limits\": {\"max_tokens\": 5}}",
    "[limits]\nmax_tokens = 9\n[constraints]\ngrammar = { regex = \"[a-c]{2,4}\" }",
    "[limits]\nmax_tokens = 12\n[constraints]\ninclude = [\"ab\"]\n[search]\nmethod = \"beam\"\nbeams = 2",
    "[constraints]\ninclude = [\"dog\"]\nexclude = [\"dog\"]",
    "[sampling]\ntemprature = 3",
    "[limits]\nmax_tokens = 6\n[sampling.mirostat]\ntau = 5.0\neta = 0.1",
];

const TEXTS: [&[u8]; 7] = [
    b"",
    b"abc",
    b"a b\n\xe2\x82\xac",
    b"\xff\xfe",
    b"[{\"role\":\"user\",\"content\":\"x\"}]",
    b"<s>[INST]",
    b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

unsafe extern "C-unwind" fn sometimes(user_data: *mut c_void, _: *const truing_event) -> i32 {
    // SAFETY: `Walk` hands over its dice, which live through the call and are used by nobody else meanwhile.
    i32::from(unsafe { &mut *user_data.cast::<Dice>() }.below(6) == 0)
}

unsafe extern "C-unwind" fn odd(
    user_data: *mut c_void,
    _: *const u32,
    _: usize,
    logits: *mut f32,
    n: usize,
) -> i32 {
    // SAFETY: as above; the library hands over `n` logits.
    let (dice, logits) =
        unsafe { (&mut *user_data.cast::<Dice>(), std::slice::from_raw_parts_mut(logits, n)) };
    let at = dice.below(n);
    logits[at] = dice.one_of(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, f32::MAX]);
    i32::from(dice.below(40) == 0)
}

struct Walk {
    dice: Dice,
    model: *mut truing_model,
    context: *mut truing_context,
    sessions: [*mut truing_session; 3],
    saved: Vec<u8>,
    n_ok: usize,
}

impl Walk {
    fn check(&mut self, call: &str, status: truing_status) {
        assert!(STATUSES.iter().any(|(known, _)| *known == status), "{call} returned {status}");
        let bugs = [TRUING_E_PANIC, TRUING_E_INTERNAL, TRUING_E_POISONED, TRUING_E_BUSY, TRUING_E_BAD_HANDLE];
        let mut text = [0_u8; 400];
        // SAFETY: `text` has room for its length.
        let n = unsafe { truing_last_error(text.as_mut_ptr().cast::<c_char>(), text.len()) };
        let said = String::from_utf8_lossy(&text[..n.min(399)]).into_owned();
        assert!(!bugs.contains(&status), "{call}: {status}: {said}");
        self.n_ok += usize::from(status == TRUING_OK);
    }

    fn generate(&mut self, session: *mut truing_session) -> truing_status {
        let d = &mut self.dice;
        let options = truing_generate_options {
            struct_size: size_of::<truing_generate_options>() - d.one_of(&[0, 0, 0, 0, 0, 8]),
            on_event: d.one_of(&[None, Some(sometimes as _)]),
            on_logits: d.one_of(&[None, None, Some(odd as _)]),
            user_data: (&raw mut *d).cast(),
            seed: d.below(100) as u64,
            max_tokens: d.one_of(&[0, 1, 4, 1000, u64::MAX]),
            deadline_ms: d.one_of(&[0, 0, 1, u64::MAX]),
            flags: d.below(9) as u32,
            ..Default::default()
        };
        let mut result = truing_result { struct_size: size_of::<truing_result>(), ..Default::default() };
        // SAFETY: a live session or NULL; structs with their sizes.
        unsafe {
            let given = if self.dice.below(5) == 0 { null() } else { &raw const options };
            truing_session_generate(session, given, &raw mut result)
        }
    }

    fn step(&mut self) {
        let i = self.dice.below(3);
        let session = self.sessions[i];
        let text = self.dice.one_of(&TEXTS);
        let (data, len) = (text.as_ptr().cast::<c_char>(), text.len());
        let mut ids: Vec<u32> =
            (0..self.dice.below(12)).map(|_| self.dice.one_of(&[5, 9, 40, 77, 200, u32::MAX])).collect();
        if self.dice.below(3) > 0 {
            ids.iter_mut().for_each(|id| *id %= 200);
        }
        let mut buf = vec![0_u8; self.dice.one_of(&[0, 1, 7, 300, 5000])];
        let (to, cap) = (buf.as_mut_ptr(), buf.len());
        let mut n = 0;
        // SAFETY: live handles or NULL; buffers with their lengths.
        let (call, status) = unsafe {
            match self.dice.below(15) {
                0 => {
                    truing_session_free(session);
                    let profile = self.dice.one_of(&PROFILES);
                    let (text, len) = (profile.as_ptr().cast(), profile.len());
                    self.sessions[i] = null_mut();
                    let out = &raw mut self.sessions[i];
                    ("new", truing_session_new(self.context, text, len, null(), out))
                }
                1 => ("feed", truing_session_feed(session, ids.as_ptr(), ids.len())),
                2 => ("feed_text", truing_session_feed_text(session, data, len, self.dice.below(5) as u32)),
                3 => ("prompt", truing_session_prompt(session, ids.as_ptr(), ids.len())),
                4 => ("chat", truing_session_prompt_chat(session, data, len, null())),
                5 => ("truncate", truing_session_truncate(session, self.dice.below(70))),
                6 => ("prefill", truing_session_prefill(session)),
                7 => ("logits", truing_session_logits(session, to.cast(), cap / 4, &raw mut n)),
                8 => ("text", truing_session_text(session, to.cast(), cap, &raw mut n)),
                9 => ("report", truing_session_report(session, to.cast(), cap, &raw mut n)),
                10 => {
                    let status = truing_session_save(session, to.cast(), cap, &raw mut n);
                    if status == TRUING_OK {
                        self.saved = buf[..n].to_vec();
                    }
                    ("save", status)
                }
                11 => {
                    if self.dice.below(3) == 0 && !self.saved.is_empty() {
                        let at = self.dice.below(self.saved.len());
                        self.saved[at] ^= 1;
                    }
                    ("restore", truing_session_restore(session, self.saved.as_ptr().cast(), self.saved.len()))
                }
                12 if self.dice.below(4) == 0 => ("cancel", truing_session_cancel(session)),
                13 => ("tokenize", truing_tokenize(self.model, data, len, 1, to.cast(), cap / 4, &raw mut n)),
                _ => ("generate", self.generate(session)),
            }
        };
        self.check(call, status);
    }
}

#[test]
fn random_calls_return_and_find_no_bug() {
    let path = common::tiny();
    let path = path.to_str().expect("UTF-8");
    let mut walk = Walk {
        dice: Dice(0x1234_5678_9abc_def1),
        model: null_mut(),
        context: null_mut(),
        sessions: [null_mut(); 3],
        saved: Vec::new(),
        n_ok: 0,
    };
    let options = truing_context_options {
        struct_size: size_of::<truing_context_options>(),
        n_ctx: 64,
        n_kv_tokens: 256, // sometimes too little
        n_threads: 1,
        max_rows: 0,
        executor: TRUING_EXECUTOR_NATIVE,
        kv_type: TRUING_KV_F16,
    };
    // SAFETY: pointers and lengths as the header asks for.
    unsafe {
        assert_eq!(
            truing_model_open(path.as_ptr().cast(), path.len(), null(), &raw mut walk.model),
            TRUING_OK
        );
        let made = truing_context_new(walk.model, &raw const options, &raw mut walk.context);
        assert_eq!(made, TRUING_OK);
    }
    for _ in 0..4000 {
        walk.step();
    }
    assert!(walk.n_ok > 500, "{} calls of 4000 had something to do", walk.n_ok);
    let mut memory = truing_memory {
        struct_size: size_of::<truing_memory>(),
        kv_bytes: 0,
        buffer_bytes: 0,
        model_bytes: 0,
        n_kv_tokens: 0,
        n_kv_tokens_free: 0,
    };
    // SAFETY: live handles, freed once.
    unsafe {
        walk.sessions.iter().for_each(|s| truing_session_free(*s));
        assert_eq!(truing_context_get_memory(walk.context, &raw mut memory), TRUING_OK);
        assert_eq!(memory.n_kv_tokens_free, memory.n_kv_tokens, "all pages came back");
        truing_context_free(walk.context);
        truing_model_free(walk.model);
    }
}
