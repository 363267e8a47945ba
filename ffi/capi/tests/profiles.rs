//! Profiles over the C interface: files are found beside the profile, guards watch, and what is not done is refused.

#![allow(unsafe_code, reason = "calls as C makes them")]

mod common;

use std::ptr::{null, null_mut};
use truing_capi::*;

/// A tiny model, opened.
struct Opened {
    model: *mut truing_model,
    context: *mut truing_context,
}

impl Opened {
    fn new() -> Self {
        let path = common::tiny();
        let path = path.to_str().expect("UTF-8");
        let (mut model, mut context) = (null_mut(), null_mut());
        // SAFETY: pointers and lengths as the header asks for.
        unsafe {
            let opened = truing_model_open(path.as_ptr().cast(), path.len(), null(), &raw mut model);
            assert_eq!(opened, TRUING_OK);
            assert_eq!(truing_context_new(model, null(), &raw mut context), TRUING_OK);
        }
        Self { model, context }
    }

    /// Status of a session under `profile`, whose answer is given to `see`.
    fn answer(&self, profile: &str, folder: Option<&str>, see: impl FnOnce(&str)) -> truing_status {
        let mut session = null_mut();
        let options = truing_session_options {
            struct_size: size_of::<truing_session_options>(),
            profile_folder: folder.map_or(null(), |f| f.as_ptr().cast()),
            profile_folder_len: folder.map_or(0, str::len),
        };
        let mut report = vec![0_u8; 1 << 16];
        let mut n = 0;
        // SAFETY: pointers, lengths and handles as the header asks for.
        unsafe {
            let (text, len) = (profile.as_ptr().cast(), profile.len());
            let made = truing_session_new(self.context, text, len, &raw const options, &raw mut session);
            if made != TRUING_OK {
                return made;
            }
            assert_eq!(truing_session_feed(session, [5_u32, 9, 13].as_ptr(), 3), TRUING_OK);
            let done = truing_session_generate(session, null(), null_mut());
            if done == TRUING_OK {
                let (to, cap) = (report.as_mut_ptr().cast(), report.len());
                assert_eq!(truing_session_report(session, to, cap, &raw mut n), TRUING_OK);
                see(&String::from_utf8_lossy(&report[..n]));
            }
            truing_session_free(session);
            done
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: our own handles, freed once.
        unsafe {
            truing_context_free(self.context);
            truing_model_free(self.model);
        }
    }
}

#[test]
fn files_are_looked_for_beside_the_profile_and_nowhere_else() {
    let folder = common::scratch().join(format!("profile-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("pitch.schema.json"), r#"{"type": "object"}"#).expect("written");
    let folder = folder.to_str().expect("UTF-8");
    let profile = "[search]\nmethod = \"best_of\"\nsamples = 2\n[limits]\nmax_tokens = 4\n[[reward]]\n\
                   kind = \"schema\"\nschema = \"pitch.schema.json\"\n";
    let opened = Opened::new();
    let mut seen = 0;
    let status = opened.answer(profile, Some(folder), |report| {
        assert!(report.contains("\"search\""), "{report}");
        seen += 1;
    });
    assert_eq!((status, seen), (TRUING_OK, 1));
    assert_eq!(opened.answer(profile, None, |_| ()), TRUING_E_BAD_PROFILE, "no folder, no file");
    assert_eq!(opened.answer(profile, Some("/no/such/folder"), |_| ()), TRUING_E_IO);
}

#[test]
fn guards_of_a_profile_watch_the_answer() {
    let opened = Opened::new();
    let base = "[limits]\nmax_tokens = 12\n[sampling]\ntemperature = 1.0\nseed = 3\n";
    let mut plain = String::new();
    let status = opened.answer(base, None, |report| plain = report.to_owned());
    assert_eq!(status, TRUING_OK);
    assert!(!plain.contains("\"guard\":{"), "{plain}");
    // every letter is objected to, so any answer is
    let phrases = (b'a'..=b'z').map(|c| format!("\"{}\"", c as char)).collect::<Vec<_>>().join(", ");
    let guarded = format!(
        "{base}[[guard]]\nkind = \"phrases\"\nname = \"letters\"\naction = \"stop\"\nphrases = [{phrases}]\n"
    );
    let mut report = String::new();
    assert_eq!(opened.answer(&guarded, None, |r| report = r.to_owned()), TRUING_OK);
    assert!(report.contains("\"guard\":{"), "{report}");
    let probe = "[[guard]]\nkind = \"probe\"\npath = \"none.gguf\"\n";
    assert_eq!(opened.answer(probe, Some("."), |_| ()), TRUING_E_PROBE_MISMATCH, "no template, no probe");
}

#[test]
fn what_a_session_does_not_do_is_refused() {
    let opened = Opened::new();
    for profile in [
        "[nudge]\nmodel = \"smollm2\"\n",
        "[control]\npath = \"c.gguf\"\n",
        "[adapters.a]\npath = \"a.gguf\"\n",
        "[prompt]\nprefill = \"Sure\"\n",
        "[search]\nmethod = \"best_of\"\n[[reward]]\nkind = \"judge\"\nmodel = \"smollm2\"\n",
    ] {
        assert_eq!(opened.answer(profile, None, |_| ()), TRUING_E_UNSUPPORTED, "{profile}");
    }
}
