//! Any bytes as calls of the C interface, in any order, with arguments that are right, wrong or absent: every call
//! returns a status that there is, none with a bug of ours, and all memory comes back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::ffi::{c_char, c_void};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;
use truing::guard::{Direction, Identity, Position, Probe, ProbeFile, Quality, Thresholds};
use truing_capi::*;

static MODEL: &[u8] = include_bytes!("../../tests/data/archs/llama-s1-a-f32.gguf");

fuzz_target!(|data: &[u8]| run(data));

/// Opened once: what it is made of is another target's business.
struct Shared {
    model: usize,
    probes: [Vec<u8>; 2],
}

fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        let mut model = null_mut();
        // SAFETY: bytes with their length.
        let opened = unsafe { truing_model_open_memory(MODEL.as_ptr().cast(), MODEL.len(), null(), &raw mut model) };
        assert_eq!(opened, TRUING_OK);
        Shared { model: model as usize, probes: [Position::Prompt, Position::Response].map(probe) }
    })
}

fn probe(position: Position) -> Vec<u8> {
    let file = truing::gguf::GgufFile::from_bytes("model", MODEL).expect("the model");
    let model = truing::model::Model::from_gguf(file, &truing::model::ModelOptions::default()).expect("the model");
    let n = model.spec().n_embd;
    let direction =
        Direction { layer: 0, weight: vec![0.5; n], mean: vec![0.0; n], inv_std: vec![1.0; n], bias: 0.0 };
    let probe = Probe::new(position, vec![direction], Thresholds { lo: 0.0, hi: 1.0 }, Quality::default());
    let made_for = Identity::of(&model, "", "");
    let file = ProbeFile { probe: probe.expect("a probe"), made_for, method: "logistic".into() };
    file.to_bytes().expect("bytes")
}

/// The input, a byte at a time; zeros when it is used up.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().map_or((0, &[][..]), |(b, rest)| (*b, rest));
        self.0 = rest;
        first
    }

    fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn text(&mut self) -> &'a [u8] {
        const TEXTS: [&[u8]; 6] =
            [b"", b"abc", b"a b\n\xe2\x82\xac", b"\xff\xfe", b"[{\"role\":\"user\",\"content\":\"x\"}]", b"{"];
        let i = self.below(TEXTS.len() + 2);
        match TEXTS.get(i) {
            Some(text) => text,
            None => {
                let n = self.below(60).min(self.0.len());
                let (text, rest) = self.0.split_at(n);
                self.0 = rest;
                text
            }
        }
    }

    fn ids(&mut self) -> Vec<u32> {
        let n = self.below(9);
        (0..n).map(|_| self.one_of(&[5, 9, 40, 77, 200, 3, 12, u32::MAX])).collect()
    }
}

const PROFILES: [&str; 9] = [
    "",
    "[limits]\nmax_tokens = 3\n[sampling]\nseed = 1\ntemperature = 1.0",
    "{\"limits\": {\"max_tokens\": 5}}",
    "[limits]\nmax_tokens = 9\n[constraints]\ngrammar = { regex = \"[a-c]{2,4}\" }",
    "[limits]\nmax_tokens = 6\n[constraints]\ninclude = [\"ab\"]\n[search]\nmethod = \"beam\"\nbeams = 2",
    "[limits]\nmax_tokens = 4\n[search]\nmethod = \"best_of\"\nsamples = 2\n[[reward]]\nkind = \"keyword\"\nany = [[\"a\"]]",
    "[limits]\nmax_tokens = 4\n[search]\nmethod = \"deal\"\ncandidates = 2\nlookahead = 2",
    "[limits]\nmax_tokens = 6\n[[guard]]\nkind = \"phrases\"\naction = \"backtrack\"\nphrases = [\"a\", \"e\"]",
    "[limits]\nmax_tokens = 6\n[sampling.mirostat]\ntau = 5.0\neta = 0.1",
];

/// What callbacks of one generation do, by turns.
struct Moves {
    bytes: Vec<u8>,
    at: usize,
    session: *mut truing_session,
}

impl Moves {
    /// # Safety
    /// `user_data` is the `Moves` of a call that runs.
    unsafe fn next(user_data: *mut c_void) -> u8 {
        // SAFETY: the caller's promise; callbacks come one at a time.
        let moves = unsafe { &mut *user_data.cast::<Self>() };
        moves.at += 1;
        let byte = moves.bytes.get(moves.at % moves.bytes.len().max(1)).copied().unwrap_or(0);
        if byte == 77 {
            // SAFETY: a live session; the call comes from within one of its own.
            let status = unsafe { truing_session_feed(moves.session, null(), 0) };
            assert_eq!(status, TRUING_E_BUSY, "a callback does not get into its own session");
        }
        byte
    }
}

unsafe extern "C-unwind" fn on_event(user_data: *mut c_void, _: *const truing_event) -> i32 {
    // SAFETY: the call hands over its moves.
    i32::from(unsafe { Moves::next(user_data) } == 1)
}

unsafe extern "C-unwind" fn on_logits(user_data: *mut c_void, _: *const u32, _: usize, row: *mut f32, n: usize) -> i32 {
    // SAFETY: as above; the library hands over `n` logits.
    let (byte, row) = unsafe { (Moves::next(user_data), std::slice::from_raw_parts_mut(row, n)) };
    row[usize::from(byte) % n] = match byte % 5 {
        0 => f32::NAN,
        1 => f32::INFINITY,
        2 => f32::NEG_INFINITY,
        _ => 9.0,
    };
    i32::from(byte == 3)
}

unsafe extern "C-unwind" fn on_reward(
    user_data: *mut c_void,
    asked: *const truing_candidate,
    said: *mut truing_score,
) -> i32 {
    // SAFETY: as above; both structs live during the call.
    let (byte, asked, said) = unsafe { (Moves::next(user_data), &*asked, &mut *said) };
    said.value = match byte {
        200 => f64::NAN,
        201 => 99.0,
        // the same text, the same score
        _ => (asked.text_len % 7) as f64 / 7.0,
    };
    i32::from(byte == 2)
}

unsafe extern "C-unwind" fn on_guard(user_data: *mut c_void, shown: *const truing_guarded, from: *mut usize) -> i32 {
    // SAFETY: as above.
    let (byte, shown) = unsafe { (Moves::next(user_data), &*shown) };
    assert!(shown.token_start <= shown.text_len);
    // SAFETY: as above.
    unsafe { *from = usize::from(byte) };
    match byte % 16 {
        0 => TRUING_GUARD_OBJECT,
        1 | 2 => TRUING_GUARD_HOLD,
        3 => 1000,
        _ => TRUING_GUARD_CLEAR,
    }
}

struct Walk<'a> {
    input: Input<'a>,
    model: *mut truing_model,
    context: *mut truing_context,
    sessions: [*mut truing_session; 3],
    probe: *mut truing_probe,
    cancel: *mut truing_cancel,
    saved: Vec<u8>,
}

fn check(call: &str, status: truing_status) {
    assert!(STATUSES.iter().any(|(known, _)| *known == status), "{call} returned {status}");
    let bugs = [TRUING_E_PANIC, TRUING_E_INTERNAL, TRUING_E_POISONED, TRUING_E_BUSY, TRUING_E_BAD_HANDLE];
    let mut text = [0_u8; 400];
    // SAFETY: `text` has room for its length.
    let n = unsafe { truing_last_error(text.as_mut_ptr().cast::<c_char>(), text.len()) };
    assert!(!bugs.contains(&status), "{call}: {status}: {}", String::from_utf8_lossy(&text[..n.min(399)]));
}

impl Walk<'_> {
    fn generate(&mut self, session: *mut truing_session) -> truing_status {
        let i = &mut self.input;
        let mut moves = Moves { bytes: Vec::new(), at: 0, session };
        // SAFETY: zeros are values of these structs.
        let (mut reward, mut guard, mut result) = unsafe {
            (
                std::mem::zeroed::<truing_reward>(),
                std::mem::zeroed::<truing_guard>(),
                std::mem::zeroed::<truing_result>(),
            )
        };
        let n = i.below(12);
        moves.bytes = (0..n).map(|_| i.byte()).collect();
        let user_data = (&raw mut moves).cast::<c_void>();
        reward.struct_size = size_of::<truing_reward>() - i.one_of(&[0, 0, 0, 8]);
        reward.score = i.one_of(&[Some(on_reward as _), Some(on_reward as _), None]);
        reward.user_data = user_data;
        reward.weight = i.one_of(&[0.0, 1.0, -2.0, f64::NAN]);
        reward.flags = u32::from(i.byte() % 5);
        guard.struct_size = size_of::<truing_guard>();
        guard.check = i.one_of(&[Some(on_guard as _), Some(on_guard as _), None]);
        guard.user_data = user_data;
        guard.action = u32::from(i.byte() % 4);
        result.struct_size = size_of::<truing_result>();
        let (rewards, guards) = ([&raw const reward, null()], [&raw const guard, &raw const guard]);
        let options = truing_generate_options {
            struct_size: size_of::<truing_generate_options>() - i.one_of(&[0, 0, 0, 32, 40]),
            on_event: i.one_of(&[None, Some(on_event as _)]),
            on_logits: i.one_of(&[None, None, Some(on_logits as _)]),
            user_data,
            seed: u64::from(i.byte()),
            max_tokens: i.one_of(&[0, 1, 4, 12]),
            deadline_ms: i.one_of(&[0, 0, 0, u64::MAX]),
            flags: u32::from(i.byte() % 9),
            rewards: rewards.as_ptr(),
            n_rewards: i.one_of(&[0, 0, 1, 2]),
            guards: guards.as_ptr(),
            n_guards: i.one_of(&[0, 0, 1, 2]),
            ..Default::default()
        };
        // SAFETY: a live session or NULL; structs with their sizes; lists with their lengths.
        unsafe { truing_session_generate(session, &raw const options, &raw mut result) }
    }

    fn session(&mut self, at: usize) -> truing_status {
        // SAFETY: our own handle, not used again.
        unsafe { truing_session_free(self.sessions[at]) };
        self.sessions[at] = null_mut();
        let profile = match self.input.below(PROFILES.len() + 1) {
            i if i < PROFILES.len() => PROFILES[i].as_bytes(),
            _ => self.input.text(),
        };
        let out = &raw mut self.sessions[at];
        // SAFETY: a live context; a text with its length.
        unsafe { truing_session_new(self.context, profile.as_ptr().cast(), profile.len(), null(), out) }
    }

    fn probe(&mut self) -> truing_status {
        // SAFETY: our own handle, not used again.
        unsafe { truing_probe_free(self.probe) };
        self.probe = null_mut();
        let mut bytes = shared().probes[self.input.below(2)].clone();
        if self.input.below(3) == 0 {
            let at = (self.input.below(256) * 8 + self.input.below(8)) % bytes.len();
            bytes[at] ^= self.input.byte();
        }
        let out = &raw mut self.probe;
        // SAFETY: a live model; bytes with their length.
        unsafe { truing_probe_open_memory(self.model, bytes.as_ptr().cast(), bytes.len(), out) }
    }

    fn step(&mut self) {
        let at = self.input.below(3);
        let session = self.sessions[at];
        let op = self.input.below(24);
        let (text, ids) = match op {
            2 | 4 | 13..=15 => (self.input.text(), Vec::new()),
            1 | 3 | 16..=19 => (&[][..], self.input.ids()),
            _ => (&[][..], Vec::new()),
        };
        let (data, len) = (text.as_ptr().cast::<c_char>(), text.len());
        let mut buf = vec![0_u8; self.input.one_of(&[0, 1, 7, 300, 5000])];
        let (to, cap, mut n) = (buf.as_mut_ptr(), buf.len(), 0);
        let flags = u32::from(self.input.byte() % 5);
        // SAFETY: live handles or NULL; buffers with their lengths.
        let (call, status) = unsafe {
            match op {
                0 => ("new", self.session(at)),
                1 => ("feed", truing_session_feed(session, ids.as_ptr(), ids.len())),
                2 => ("feed_text", truing_session_feed_text(session, data, len, flags)),
                3 => ("prompt", truing_session_prompt(session, ids.as_ptr(), ids.len())),
                4 => ("chat", truing_session_prompt_chat(session, data, len, null())),
                5 => ("truncate", truing_session_truncate(session, self.input.below(70))),
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
                    let i = self.input.below(256);
                    if let Some(byte) = self.saved.get_mut(i) {
                        *byte ^= self.input.byte();
                    }
                    ("restore", truing_session_restore(session, self.saved.as_ptr().cast(), self.saved.len()))
                }
                12 => ("cancel", truing_session_cancel(session)),
                13 => ("tokenize", truing_tokenize(self.model, data, len, flags, to.cast(), cap / 4, &raw mut n)),
                14 => ("metadata", truing_model_metadata(self.model, data, len, to.cast(), cap, &raw mut n)),
                15 => ("render", truing_chat_render(self.model, data, len, null(), to.cast(), cap, &raw mut n)),
                16 => {
                    let (ids, n_ids) = (ids.as_ptr(), ids.len());
                    ("detokenize", truing_detokenize(self.model, ids, n_ids, flags, to.cast(), cap, &raw mut n))
                }
                17 => {
                    let mut options = std::mem::zeroed::<truing_embed_options>();
                    options.struct_size = size_of::<truing_embed_options>();
                    options.pooling = flags;
                    let (ids, n_ids, given) = (ids.as_ptr(), ids.len(), &raw const options);
                    ("embed", truing_context_embed_tokens(self.context, ids, n_ids, given, to.cast(), cap / 4))
                }
                18 => {
                    let n_prompt = self.input.below(10);
                    let (ids, n_ids, to) = (ids.as_ptr(), ids.len(), to.cast());
                    let (c, p) = (self.context, self.probe);
                    ("probe", truing_context_probe(c, p, ids, n_ids, n_prompt, to, cap / 4, &raw mut n))
                }
                19 => ("tokens", truing_session_tokens(session, to.cast(), cap / 4, &raw mut n)),
                20 => {
                    let mut score = 0.0;
                    ("session_probe", truing_session_probe(session, self.probe, &raw mut score))
                }
                21 => ("probe_open", self.probe()),
                22 if !self.cancel.is_null() => ("request", truing_cancel_request(self.cancel)),
                22 => ("cancel_new", truing_cancel_new(session, &raw mut self.cancel)),
                _ => ("generate", self.generate(session)),
            }
        };
        check(call, status);
    }
}

fn context(model: *mut truing_model, input: &mut Input<'_>) -> *mut truing_context {
    let options = truing_context_options {
        struct_size: size_of::<truing_context_options>(),
        n_ctx: input.one_of(&[64, 48, 7]),
        n_kv_tokens: input.one_of(&[0, 256, 512]), // sometimes too little
        n_threads: 1,
        max_rows: input.one_of(&[0, 3, 16]),
        executor: TRUING_EXECUTOR_NATIVE,
        kv_type: TRUING_KV_F16,
    };
    let mut context = null_mut();
    // SAFETY: a live model, a struct with its size.
    let made = unsafe { truing_context_new(model, &raw const options, &raw mut context) };
    check("context", made);
    context
}

fn run(data: &[u8]) {
    let model = shared().model as *mut truing_model;
    let mut input = Input(data);
    let context = context(model, &mut input);
    let mut walk = Walk {
        input,
        model,
        context,
        sessions: [null_mut(); 3],
        probe: null_mut(),
        cancel: null_mut(),
        saved: Vec::new(),
    };
    for _ in 0..64 {
        if walk.input.0.is_empty() {
            break;
        }
        walk.step();
    }
    // SAFETY: live handles or NULL, freed once; zeros are a value.
    unsafe {
        walk.sessions.iter().for_each(|s| truing_session_free(*s));
        truing_cancel_free(walk.cancel);
        truing_probe_free(walk.probe);
        if !context.is_null() {
            let mut memory = std::mem::zeroed::<truing_memory>();
            memory.struct_size = size_of::<truing_memory>();
            assert_eq!(truing_context_get_memory(context, &raw mut memory), TRUING_OK);
            assert_eq!(memory.n_kv_tokens_free, memory.n_kv_tokens, "all pages came back");
        }
        truing_context_free(context);
    }
}
