//! A panic behind the border becomes a status, poisons what it went through, and nothing else.

#![allow(unsafe_code, reason = "calls as C makes them")]
#![allow(clippy::panic, reason = "what is tested")]

mod common;

use std::ffi::c_void;
use std::ptr::{null, null_mut};
use truing_capi::*;

unsafe extern "C-unwind" fn panics(_: *mut c_void, _: *const truing_event) -> i32 {
    panic!("out of the callback")
}

#[test]
fn a_panic_becomes_a_status_and_poisons_session_and_context() {
    let path = common::tiny();
    let path = path.to_str().expect("UTF-8");
    let (mut model, mut context, mut session, mut other) = (null_mut(), null_mut(), null_mut(), null_mut());
    let ids = [5_u32, 9, 13];
    // SAFETY: pointers, lengths and handles as the header asks for.
    unsafe {
        assert_eq!(truing_model_open(path.as_ptr().cast(), path.len(), null(), &raw mut model), TRUING_OK);
        assert_eq!(truing_context_new(model, null(), &raw mut context), TRUING_OK);
        assert_eq!(truing_session_new(context, null(), 0, null(), &raw mut session), TRUING_OK);
        assert_eq!(truing_session_feed(session, ids.as_ptr(), ids.len()), TRUING_OK);
        let options = truing_generate_options {
            struct_size: size_of::<truing_generate_options>(),
            on_event: Some(panics),
            on_logits: None,
            user_data: null_mut(),
            seed: 0,
            max_tokens: 8,
            deadline_ms: 0,
            flags: TRUING_GENERATE_IGNORE_EOS | TRUING_GENERATE_SHOW_SPECIAL,
            ..Default::default()
        };
        assert_eq!(truing_session_generate(session, &raw const options, null_mut()), TRUING_E_PANIC);
        let mut said = [0_u8; 200];
        let n = truing_last_error(said.as_mut_ptr().cast(), said.len());
        assert!(String::from_utf8_lossy(&said[..n]).contains("out of the callback"));
        assert_eq!(truing_session_feed(session, ids.as_ptr(), 1), TRUING_E_POISONED);
        assert_eq!(truing_session_new(context, null(), 0, null(), &raw mut other), TRUING_E_POISONED);
        truing_session_free(session);
        assert_eq!(truing_session_feed(session, ids.as_ptr(), 1), TRUING_E_BAD_HANDLE, "freed, once");
        truing_context_free(context);
        // the model was not touched
        assert_eq!(truing_context_new(model, null(), &raw mut context), TRUING_OK);
        assert_eq!(truing_session_new(context, null(), 0, null(), &raw mut session), TRUING_OK);
        truing_session_free(session);
        truing_context_free(context);
        truing_model_free(model);
    }
}

unsafe extern "C-unwind" fn panics_at_a_token(
    _: *mut c_void,
    _: *const truing_guarded,
    _: *mut usize,
) -> i32 {
    panic!("out of the guard")
}

unsafe extern "C-unwind" fn panics_at_a_text(
    _: *mut c_void,
    _: *const truing_candidate,
    _: *mut truing_score,
) -> i32 {
    panic!("out of the reward")
}

#[test]
fn a_panic_in_a_guard_or_reward_stops_at_the_border() {
    let path = common::tiny();
    let path = path.to_str().expect("UTF-8");
    let ids = [5_u32, 9, 13];
    let search = "[search]\nmethod = \"best_of\"\nsamples = 2\n[limits]\nmax_tokens = 4\n";
    // SAFETY: pointers, lengths and handles as the header asks for; zeros are values of both structs.
    unsafe {
        let mut guard = std::mem::zeroed::<truing_guard>();
        guard.struct_size = size_of::<truing_guard>();
        guard.check = Some(panics_at_a_token);
        let mut reward = std::mem::zeroed::<truing_reward>();
        reward.struct_size = size_of::<truing_reward>();
        reward.score = Some(panics_at_a_text);
        let (guards, rewards) = ([&raw const guard], [&raw const reward]);
        let guarded = truing_generate_options {
            guards: guards.as_ptr(),
            n_guards: 1,
            max_tokens: 8,
            ..Default::default()
        };
        let rewarded =
            truing_generate_options { rewards: rewards.as_ptr(), n_rewards: 1, ..Default::default() };
        for (profile, options, said) in
            [("", guarded, "out of the guard"), (search, rewarded, "out of the reward")]
        {
            let (mut model, mut context, mut session) = (null_mut(), null_mut(), null_mut());
            assert_eq!(
                truing_model_open(path.as_ptr().cast(), path.len(), null(), &raw mut model),
                TRUING_OK
            );
            assert_eq!(truing_context_new(model, null(), &raw mut context), TRUING_OK);
            let (text, len) = (profile.as_ptr().cast(), profile.len());
            assert_eq!(truing_session_new(context, text, len, null(), &raw mut session), TRUING_OK);
            assert_eq!(truing_session_feed(session, ids.as_ptr(), ids.len()), TRUING_OK);
            assert_eq!(truing_session_generate(session, &raw const options, null_mut()), TRUING_E_PANIC);
            let mut text = [0_u8; 200];
            let n = truing_last_error(text.as_mut_ptr().cast(), text.len());
            assert!(String::from_utf8_lossy(&text[..n]).contains(said));
            assert_eq!(truing_session_feed(session, ids.as_ptr(), 1), TRUING_E_POISONED);
            truing_session_free(session);
            truing_context_free(context);
            truing_model_free(model);
        }
    }
}
