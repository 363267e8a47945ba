//! Sessions as bytes: the tokens, bound to their model. Keys and values are not saved but computed again when they are
//! needed, which gives the same bits with truing's own kernels, takes a kilobyte instead of megabytes, and has no
//! state in it that a damaged file could hurt with.

use crate::handle::take;
use crate::session::{truing_session, with};
use crate::status::{Failure, Result, TRUING_E_BAD_FILE, TRUING_E_VOCAB_MISMATCH, truing_status};
use crate::text::{put, slice};
use sha2::{Digest, Sha256};
use std::ffi::c_void;

/// Begins every saved session. The last character is the version.
const MAGIC: [u8; 8] = *b"TRUINGS1";
const ID_BYTES: usize = 64;
const SUM_BYTES: usize = 32;
const HEAD_BYTES: usize = MAGIC.len() + ID_BYTES + size_of::<u64>();

/// Saves the session's tokens to a buffer, with the identity of the model and a checksum: `*len_out` (may be NULL) gets
/// the number of bytes, also with TRUING_E_BUFFER_TOO_SMALL. Keys and values are not saved but computed again when
/// they are needed; profile, text and report of the last answer are not saved.
///
/// # Safety
/// `buf` has room for `cap` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_session_save(
    session: *mut truing_session,
    buf: *mut c_void,
    cap: usize,
    len_out: *mut usize,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        with(session, |session| {
            let state = take(&session.state, "session")?;
            let bytes = encode(session.room.opened.model.id(), state.sequence.tokens());
            put(&bytes, buf.cast::<u8>(), cap, len_out)
        })
    }
}

/// Makes the session hold the tokens that were saved. TRUING_E_BAD_FILE for bytes that are no saved session, of another
/// version, or damaged; TRUING_E_VOCAB_MISMATCH if another model saved them; TRUING_E_CONTEXT_FULL if they do not fit:
/// nothing changed then.
///
/// # Safety
/// `data` has `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_session_restore(
    session: *mut truing_session,
    data: *const c_void,
    len: usize,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        with(session, |session| {
            let bytes = slice(data.cast::<u8>(), len, "data")?;
            let tokens = decode(session.room.opened.model.id(), bytes)?;
            let (mut state, mut context) = session.enter()?;
            Ok(state.sequence.set(&mut *context, &tokens)?)
        })
    }
}

fn encode(id: &str, tokens: &[u32]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(id.as_bytes());
    bytes.extend((tokens.len() as u64).to_le_bytes());
    bytes.extend(tokens.iter().flat_map(|t| t.to_le_bytes()));
    let sum = Sha256::digest(&bytes);
    bytes.extend(sum);
    bytes
}

fn decode(id: &str, bytes: &[u8]) -> Result<Vec<u32>> {
    let bad = |message: String| Failure::new(TRUING_E_BAD_FILE, format!("saved session: {message}"));
    if bytes.get(..MAGIC.len()) != Some(&MAGIC[..]) {
        return Err(bad(format!("expected it to begin with {:?}", String::from_utf8_lossy(&MAGIC))));
    }
    if bytes.len() < HEAD_BYTES + SUM_BYTES {
        return Err(bad(format!(
            "expected at least {} bytes, found {}",
            HEAD_BYTES + SUM_BYTES,
            bytes.len()
        )));
    }
    let (content, sum) = bytes.split_at(bytes.len() - SUM_BYTES);
    if Sha256::digest(content)[..] != *sum {
        return Err(bad("the checksum does not match".into()));
    }
    let (head, rest) = content.split_at(HEAD_BYTES);
    let (saved_by, n) = head[MAGIC.len()..].split_at(ID_BYTES);
    if saved_by != id.as_bytes() {
        let message = format!(
            "saved session: expected one of model {id}, found one of {}",
            String::from_utf8_lossy(saved_by)
        );
        return Err(Failure::new(TRUING_E_VOCAB_MISMATCH, message));
    }
    let n = n.try_into().map_or(0, u64::from_le_bytes);
    let (words, odd) = rest.as_chunks::<4>();
    if words.len() as u64 != n || !odd.is_empty() {
        return Err(bad(format!("expected {n} tokens, found {} bytes of them", rest.len())));
    }
    Ok(words.iter().map(|word| u32::from_le_bytes(*word)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_comes_back_and_any_changed_bit_is_noticed() {
        let id = "ab".repeat(32);
        let saved = encode(&id, &[1, 70_000, u32::MAX]);
        assert_eq!(decode(&id, &saved).expect("sound"), [1, 70_000, u32::MAX]);
        for at in 0..saved.len() {
            let mut damaged = saved.clone();
            damaged[at] ^= 4;
            assert_eq!(decode(&id, &damaged).expect_err("damaged").status, TRUING_E_BAD_FILE, "byte {at}");
            assert_eq!(decode(&id, &saved[..at]).expect_err("cut").status, TRUING_E_BAD_FILE, "cut to {at}");
        }
        let other = decode(&"cd".repeat(32), &saved).expect_err("another model's");
        assert_eq!(other.status, TRUING_E_VOCAB_MISMATCH);
    }
}
