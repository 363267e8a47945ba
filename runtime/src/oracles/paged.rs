//! Laws behind the production context: its pages hold the tokens, so a wrong page is a wrong text.

use super::law::{Law, text};
use crate::error::Result;
use crate::model::{CancelFlag, Context, Executor, ModelShape, PAGE_TOKENS, Span, Step, StepOut};
use crate::token::TokenId;

/// An executor whose key-value cells are token ids.
struct LawExecutor<L> {
    law: L,
    cells: Vec<TokenId>,
    max_rows: usize,
}

/// A context of `n_pages` pages and `n_ctx` tokens a branch that plays `law`, at most `max_rows` tokens a
/// forward pass.
/// # Errors those of [`Context::with_executor`].
pub fn paged<L: Law + Send + 'static>(
    law: L,
    n_pages: usize,
    n_ctx: usize,
    max_rows: usize,
) -> Result<Context> {
    let shape = ModelShape { n_vocab: law.n_vocab(), n_embd: law.n_embd().max(1), n_layer: 8 };
    let cells = vec![TokenId::MAX; n_pages * PAGE_TOKENS];
    Context::with_executor(Box::new(LawExecutor { law, cells, max_rows }), shape, n_ctx)
}

fn cell(pages: &[u32], pos: usize) -> usize {
    pages[pos / PAGE_TOKENS] as usize * PAGE_TOKENS + pos % PAGE_TOKENS
}

impl<L: Law> LawExecutor<L> {
    /// The tokens of the branch up to and including `pos`, as its pages have them.
    fn past(&self, span: &Span<'_>, pos: usize) -> Vec<TokenId> {
        (0..=pos).map(|p| self.cells[cell(span.pages, p)]).collect()
    }
}

impl<L: Law + Send> Executor for LawExecutor<L> {
    fn n_pages(&self) -> usize {
        self.cells.len() / PAGE_TOKENS
    }

    fn max_rows(&self) -> usize {
        self.max_rows
    }

    fn forward(&mut self, step: &Step<'_>, _: &CancelFlag, out: &mut StepOut) -> Result<()> {
        for span in step.spans {
            for i in 0..span.n_rows {
                self.cells[cell(span.pages, span.first_pos + i)] = step.tokens[span.first_row + i];
            }
        }
        out.logits.clear();
        out.hidden.clear();
        let n_embd = self.law.n_embd();
        out.hidden.resize(step.taps.len() * step.outputs.len() * n_embd.max(1), 0.0);
        for (i, row) in step.outputs.iter().map(|r| *r as usize).enumerate() {
            let Some(span) = step.spans.iter().rfind(|s| s.first_row <= row) else { continue };
            let past = self.past(span, span.first_pos + row - span.first_row);
            let start = out.logits.len();
            out.logits.resize(start + self.law.n_vocab(), 0.0);
            self.law.logits(text(&self.law, &past), &mut out.logits[start..]);
            for (tap, layer) in step.taps.iter().enumerate().filter(|_| n_embd > 0) {
                let at = (tap * step.outputs.len() + i) * n_embd;
                self.law.hidden(&past, *layer, &mut out.hidden[at..at + n_embd]);
            }
        }
        Ok(())
    }

    fn copy_page(&mut self, from: u32, to: u32, n_cells: usize) -> Result<()> {
        for i in 0..n_cells {
            self.cells[cell(&[to], i)] = self.cells[cell(&[from], i)];
        }
        Ok(())
    }

    fn memory_bytes(&self) -> (usize, usize) {
        (std::mem::size_of_val(&*self.cells), 0)
    }
}
