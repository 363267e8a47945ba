//! A constant beginning of prompts on disk: exemplars or a system message are evaluated once, by the first process.
//!
//! Why: prefilling a thousand tokens takes a second, reading their keys and values some milliseconds. A file is valid
//! for one model file, one executor and layout of its cache, and exactly its tokens at the beginning of a prompt; its
//! name is a hash of all that, it says so again inside, and a checksum covers every byte. Whatever does not agree is
//! refused with the reason, and the tokens are evaluated as without it. Cost: some 20 KB a token on disk. It loses for
//! beginnings of a few dozen tokens, and where disks are slower than the model.

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::model::{Branch, Context, Model, PAGE_TOKENS};
use crate::sampling::{BatchItem, NextLogits, Want};
use crate::token::TokenId;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

const MAGIC: &[u8; 8] = b"TRUINGKV";
const VERSION: u32 = 1;
const SUM_BYTES: usize = 32;

/// What became of a saved beginning.
#[derive(Debug)]
pub enum Kept {
    /// It was read from disk.
    Loaded,
    /// There was none: it was evaluated and saved.
    Saved,
    /// It could not be used, or not saved; it was evaluated.
    Refused(Error),
    /// It is shorter than a page, or the executor cannot save: nothing is kept.
    TooShort,
}

/// Where beginnings are kept.
#[derive(Clone, Debug)]
pub struct PrefixStore {
    folder: PathBuf,
    last: Arc<Mutex<Option<Kept>>>,
}

impl PrefixStore {
    /// A store in `folder`, which is made when something is saved.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), last: Arc::default() }
    }

    /// What became of the last beginning, once.
    pub fn take_last(&self) -> Option<Kept> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A branch that holds the whole pages of `prefix`, and how many tokens these are; [`take_last`](Self::take_last)
    /// says where they came from.
    /// # Errors those of the model; what is wrong with a file is none.
    pub fn begin(&self, model: &Model, context: &mut Context, prefix: &[TokenId]) -> Result<(Branch, usize)> {
        let (branch, n, kept) = self.find(model, context, prefix)?;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        Ok((branch, n))
    }

    fn find(
        &self,
        model: &Model,
        context: &mut Context,
        prefix: &[TokenId],
    ) -> Result<(Branch, usize, Kept)> {
        let branch = context.root()?;
        let n_pages = prefix.len() / PAGE_TOKENS;
        let Some((_, layout)) = context.page_layout().filter(|_| n_pages > 0) else {
            return Ok((branch, 0, Kept::TooShort));
        };
        let tokens = &prefix[..n_pages * PAGE_TOKENS];
        let head = match head(model, &layout, tokens) {
            Ok(head) => head,
            Err(e) => return evaluated(context, branch, tokens, Kept::Refused(e)),
        };
        let path = self.folder.join(format!("{}.kv", hex(&Sha256::digest(&head)[..16])));
        let read = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => Some(Err(io(e))),
            Ok(bytes) => Some(Ok(bytes)),
        };
        let Some(read) = read else {
            let (branch, n, _) = evaluated(context, branch, tokens, Kept::Saved)?;
            let saved =
                context.save_pages(&branch, n_pages).and_then(|pages| self.save(&path, &head, &pages));
            let kept =
                saved.map_or_else(|e| Kept::Refused(e.at(path.display().to_string())), |()| Kept::Saved);
            return Ok((branch, n, kept));
        };
        let loaded = read
            .and_then(|bytes| payload(&bytes, &head).and_then(|pages| context.load_pages(&branch, pages)));
        match loaded.at(|| path.display().to_string()) {
            Ok(()) => Ok((branch, tokens.len(), Kept::Loaded)),
            Err(e) => evaluated(context, branch, tokens, Kept::Refused(e)),
        }
    }

    /// Writes a file beside its place and moves it there.
    fn save(&self, path: &Path, head: &[u8], pages: &[u8]) -> Result<()> {
        std::fs::create_dir_all(&self.folder).map_err(io)?;
        let part = path.with_extension(format!("{}.part", std::process::id()));
        let sum = Sha256::new().chain_update(head).chain_update(pages).finalize();
        let write = || {
            let mut file = std::fs::File::create(&part)?;
            [head, pages, &sum[..]].iter().try_for_each(|bytes| file.write_all(bytes))?;
            file.sync_all()?;
            std::fs::rename(&part, path)
        };
        write().map_err(|e| {
            let _ = std::fs::remove_file(&part);
            io(e)
        })
    }
}

fn io(e: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, e.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn evaluated(
    context: &mut Context,
    branch: Branch,
    tokens: &[TokenId],
    kept: Kept,
) -> Result<(Branch, usize, Kept)> {
    context.eval(&[BatchItem { branch: &branch, tokens, want: Want::Nothing }])?;
    Ok((branch, tokens.len(), kept))
}

/// What a file begins with: all that its keys and values depend on. The model's identity is of its header alone, so
/// the file's size and time stand beside it: a model whose weights were changed in place is another one.
fn head(model: &Model, layout: &str, tokens: &[TokenId]) -> Result<Vec<u8>> {
    let file = std::fs::metadata(model.file().path()).map_err(io).at(|| "model file")?;
    let changed = file.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let (id, size, time) = (model.id(), file.len(), changed.as_nanos());
    let about = format!("{id} {size} {time} {} {layout}", env!("CARGO_PKG_VERSION"));
    let mut head = Vec::with_capacity(24 + about.len() + 4 * tokens.len());
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&(about.len() as u64).to_le_bytes());
    head.extend_from_slice(about.as_bytes());
    head.extend_from_slice(&(tokens.len() as u64).to_le_bytes());
    tokens.iter().for_each(|t| head.extend_from_slice(&t.to_le_bytes()));
    Ok(head)
}

/// The pages of a file that begins with `head`.
fn payload<'b>(bytes: &'b [u8], head: &[u8]) -> Result<&'b [u8]> {
    let bad = |message: String| Err(Error::new(ErrorKind::BadFile, message));
    if bytes.len() < MAGIC.len() + 4 || &bytes[..MAGIC.len()] != MAGIC {
        return bad("saved prefix: expected a file that begins with TRUINGKV, found another".into());
    }
    let version = &bytes[MAGIC.len()..MAGIC.len() + 4];
    if version != VERSION.to_le_bytes() {
        return bad(format!("saved prefix: expected version {VERSION}, found bytes {version:?}"));
    }
    if bytes.len() < head.len() + SUM_BYTES {
        let least = head.len() + SUM_BYTES;
        return bad(format!(
            "saved prefix is truncated: expected at least {least} bytes, found {}",
            bytes.len()
        ));
    }
    let (body, sum) = bytes.split_at(bytes.len() - SUM_BYTES);
    if Sha256::digest(body).as_slice() != sum {
        return bad("saved prefix is truncated or damaged: its checksum does not agree".into());
    }
    match body.strip_prefix(head) {
        Some(pages) => Ok(pages),
        None => bad("saved prefix is stale: it is of another model, executor, cache layout or text".into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn files_that_do_not_agree_are_refused_by_name() {
        let head = [&MAGIC[..], &VERSION.to_le_bytes(), b"about this model"].concat();
        let other = [&MAGIC[..], &VERSION.to_le_bytes(), b"about that model"].concat();
        let file = |head: &[u8]| {
            let body = [head, b"pages"].concat();
            [&body[..], &Sha256::digest(&body)].concat()
        };
        assert_eq!(payload(&file(&head), &head).unwrap(), b"pages");
        let mut newer = file(&head);
        newer[8] = 2;
        let mut damaged = file(&head);
        let at = damaged.len() - 34;
        damaged[at] ^= 1;
        for (bytes, word) in [
            (&b"GGUF and more than that"[..], "TRUINGKV"),
            (&[], "TRUINGKV"),
            (&newer, "version 1"),
            (&file(&head)[..40], "truncated"),
            (&file(&head)[..file(&head).len() - 1], "truncated or damaged"),
            (&damaged, "damaged"),
            (&file(&other), "stale"),
        ] {
            let e = payload(bytes, &head).unwrap_err();
            assert!(e.kind() == ErrorKind::BadFile && e.to_string().contains(word), "{word}: {e}");
        }
    }
}
