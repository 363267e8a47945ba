//! Whole pages of a branch as bytes, and back: what a constant beginning of prompts costs once.
//!
//! Only whole pages are given away: the rest of a last one may hold cells of texts that were there before.

use super::branch::Branch;
use super::context::Context;
use super::executor::PAGE_TOKENS;
use crate::error::{Error, ErrorKind, Result};
use crate::sampling::NextLogits;

impl Context {
    /// How keys and values lie in a page: one saved under another layout cannot be restored. `None` if the executor
    /// cannot save pages, or the branches are under adapters.
    pub fn page_layout(&self) -> Option<(usize, String)> {
        let (bytes, layout) = self.executor.page_layout()?;
        Some((bytes, format!("{} {layout}", self.executor.name())))
    }

    /// Keys and values of the first `n_pages` pages of `branch`.
    /// # Errors `Unsupported` if the executor cannot; `InvalidArgument` if the branch has not so many whole pages, or is
    /// under adapters.
    pub fn save_pages(&self, branch: &Branch, n_pages: usize) -> Result<Vec<u8>> {
        self.check_plain(branch)?;
        let n_whole = self.len(branch) / PAGE_TOKENS;
        if n_pages > n_whole {
            let message = format!("expected at most {n_whole} whole pages, found {n_pages}");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let mut bytes = Vec::new();
        for &page in &self.books.pages_of(branch.slot)[..n_pages] {
            self.executor.read_page(page, &mut bytes)?;
        }
        Ok(bytes)
    }

    /// Puts saved pages into `branch`, which must be empty.
    /// # Errors `InvalidArgument` for bytes that are not whole pages or a branch that is not empty; `ContextFull`;
    /// `KvExhausted`; `Unsupported`. Nothing has changed then.
    pub fn load_pages(&mut self, branch: &Branch, bytes: &[u8]) -> Result<()> {
        self.check_plain(branch)?;
        let invalid = |message: String| Err(Error::new(ErrorKind::InvalidArgument, message));
        let page_bytes = self.executor.page_layout().map_or(0, |(bytes, _)| bytes);
        if page_bytes == 0 {
            let message = "this executor's keys and values cannot be restored";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        if !bytes.len().is_multiple_of(page_bytes) || self.len(branch) != 0 {
            let found = format!("found {} bytes and {} tokens", bytes.len(), self.len(branch));
            return invalid(format!("expected pages of {page_bytes} bytes for an empty branch, {found}"));
        }
        let n_tokens = bytes.len() / page_bytes * PAGE_TOKENS;
        if n_tokens > self.n_ctx() {
            let message = format!("expected at most {} tokens (n_ctx), found {n_tokens}", self.n_ctx());
            return Err(Error::new(ErrorKind::ContextFull, message));
        }
        self.copies.clear();
        let growth = match self.books.grow(branch.slot, n_tokens, &mut self.copies) {
            Ok(growth) => growth,
            Err(short) => {
                let message = format!("expected {} key-value pages, found {} free", short.needed, short.free);
                return Err(Error::new(ErrorKind::KvExhausted, message));
            }
        };
        let pages = self.books.pages(&growth).iter();
        let written = pages
            .zip(bytes.chunks_exact(page_bytes))
            .try_for_each(|(page, bytes)| self.executor.write_page(*page, bytes));
        match written {
            Ok(()) => self.books.commit(&growth),
            Err(_) => self.books.rollback(&growth),
        }
        written
    }

    /// Keys and values under adapters are others.
    fn check_plain(&self, branch: &Branch) -> Result<()> {
        self.check_branch(branch)?;
        match branch.mix.weights.is_empty() {
            true => Ok(()),
            false => {
                let message = "pages under adapters are not saved: expected a branch without";
                Err(Error::new(ErrorKind::InvalidArgument, message))
            }
        }
    }
}
