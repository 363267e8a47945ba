//! Fills a graph's inputs from a step.

use super::graph::Built;
use crate::error::{Error, ErrorKind, Result};
use crate::model::spec::QTemperature;
use crate::model::{PAGE_TOKENS, Span, Step};

/// Half floats for masks: added to a score, 0 keeps it and −∞ removes it.
const SEEN: u16 = 0;
const HIDDEN: u16 = 0xFC00;

impl Built {
    /// Fills all inputs. Time grows with rows times cells, for the masks.
    /// # Errors `InvalidArgument` when a token, position or cell is outside what the model or cache holds.
    pub(super) fn fill(&mut self, step: &Step<'_>) -> Result<()> {
        let outside = |e: truing_ggml::Error| Error::new(ErrorKind::InvalidArgument, e.to_string());
        if let Some(input) = self.inputs.tokens {
            self.graph.fill(input, |to: &mut [i32]| copy(to, step.tokens)).map_err(outside)?;
        }
        if let Some(input) = self.inputs.outputs {
            self.graph.fill(input, |to: &mut [i32]| copy(to, step.outputs)).map_err(outside)?;
        }
        if let Some(input) = self.inputs.positions {
            self.graph
                .fill(input, |to: &mut [i32]| each_row(step, to, |_, pos| index(pos)))
                .map_err(outside)?;
        }
        if let Some(input) = self.inputs.cells {
            self.graph.fill(input, |to: &mut [i64]| each_row(step, to, cell)).map_err(outside)?;
        }
        for (window, input) in &self.inputs.masks {
            let n_kv = self.shape.n_kv;
            self.graph.fill(*input, |to: &mut [u16]| mask(step, *window, n_kv, to)).map_err(outside)?;
        }
        for (t, input) in &self.inputs.temperatures {
            self.graph
                .fill(*input, |to: &mut [f32]| each_row(step, to, |_, pos| factor(t, pos)))
                .map_err(outside)?;
        }
        Ok(())
    }
}

/// Ids as ggml wants them; one that does not fit becomes negative and is refused.
fn copy(to: &mut [i32], from: &[u32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = i32::try_from(*from).unwrap_or(-1));
}

fn index(position: usize) -> i32 {
    i32::try_from(position).unwrap_or(-1)
}

/// Sets one value for each row, from its span and position.
fn each_row<V>(step: &Step<'_>, to: &mut [V], value: impl Fn(&Span<'_>, usize) -> V) {
    for span in step.spans {
        let rows = to.iter_mut().skip(span.first_row).take(span.n_rows);
        rows.enumerate().for_each(|(i, to)| *to = value(span, span.first_pos + i));
    }
}

fn cell(span: &Span<'_>, position: usize) -> i64 {
    let page = span.pages.get(position / PAGE_TOKENS);
    page.map_or(-1, |page| *page as i64 * PAGE_TOKENS as i64 + (position % PAGE_TOKENS) as i64)
}

fn factor(t: &QTemperature, position: usize) -> f32 {
    1.0 + t.scale * ((position / t.every.max(1)) as f32 + 1.0).ln()
}

/// Each row sees the cells of its own branch's positions up to its own, from the window's start on.
fn mask(step: &Step<'_>, window: Option<usize>, n_kv: usize, to: &mut [u16]) {
    to.fill(HIDDEN);
    for span in step.spans {
        let rows = to.chunks_exact_mut(n_kv).skip(span.first_row).take(span.n_rows);
        for (i, row) in rows.enumerate() {
            let end = span.first_pos + i + 1;
            let start = window.map_or(0, |w| end.saturating_sub(w));
            show(row, span.pages, start, end);
        }
    }
}

/// Shows the cells of positions `start..end`.
fn show(row: &mut [u16], pages: &[u32], start: usize, end: usize) {
    let mut position = start;
    while position < end {
        let until = end.min((position / PAGE_TOKENS + 1) * PAGE_TOKENS);
        if let Some(page) = pages.get(position / PAGE_TOKENS) {
            let first = *page as usize * PAGE_TOKENS + position % PAGE_TOKENS;
            if let Some(cells) = row.get_mut(first..first + until - position) {
                cells.fill(SEEN);
            }
        }
        position = until;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the mask means, cell by cell.
    fn sees(step: &Step<'_>, window: Option<usize>, row: usize, cell: usize) -> bool {
        let span = step.spans.iter().find(|s| (s.first_row..s.first_row + s.n_rows).contains(&row)).unwrap();
        let position = span.first_pos + row - span.first_row;
        (0..=position)
            .filter(|p| window.is_none_or(|w| position - p < w))
            .any(|p| span.pages[p / PAGE_TOKENS] as usize * PAGE_TOKENS + p % PAGE_TOKENS == cell)
    }

    #[test]
    fn a_row_sees_its_own_branch_up_to_itself_within_the_window() {
        let (one, two) = ([3, 0], [3, 1, 5]);
        let spans = [
            Span { first_row: 0, n_rows: 3, first_pos: 40, pages: &one, mix: &[] },
            Span { first_row: 3, n_rows: 5, first_pos: 61, pages: &two, mix: &[] },
        ];
        let step = Step { tokens: &[0; 8], spans: &spans, outputs: &[], taps: &[] };
        for window in [None, Some(1), Some(7), Some(33), Some(1000)] {
            let n_kv = 6 * PAGE_TOKENS;
            let mut got = vec![7; 8 * n_kv];
            mask(&step, window, n_kv, &mut got);
            for (i, value) in got.iter().enumerate() {
                let expected = if sees(&step, window, i / n_kv, i % n_kv) { SEEN } else { HIDDEN };
                assert_eq!(*value, expected, "window {window:?} row {} cell {}", i / n_kv, i % n_kv);
            }
        }
    }
}
