//! Attention in 16-bit integers over pages of 32 positions.
//!
//! Why: f16 keys and values must be widened before every product; as integers two of them go into each lane
//! of a multiply-add, sums are exact, and a row's result depends on no order. Keys and queries are scaled so
//! that their Euclidean norm is at most [`NORM`]; by Cauchy and Schwarz no sum of products can then leave 32
//! bits, and the rounding (about `norm / 46 300 / √12` a value) is below that of f16. Values are scaled by
//! their largest magnitude, and a page's probabilities by their sum, to the same end.
//!
//! A page of one key-value head is one record:
//! keys `[dim pair][position][2]` i16, key scales `[32]` f32, value scales `[32]` f32,
//! values `[position pair][dim][2]` i16. Keys are padded to even widths, values to multiples of 16.
//!
//! The softmax is online: a row visits its pages in order and keeps the largest score, the sum and the
//! weighted values. What it computes depends on its own query and the positions it sees, not on the batch or
//! on where the pages lie. Positions it must not see have weight zero, whatever their cells hold.
//!
//! Loses when a head is very wide and the context short: the last page is computed whole.

use super::simd::{Op, Simd, array, prefetch};
use super::vector::{exp, load_at, softcap, store_at};
use crate::model::spec::RopePairing;

/// Positions of a page.
pub const PAGE: usize = crate::model::PAGE_TOKENS;
const _: () = assert!(PAGE == 32, "scores of a page are two vectors");

/// The largest Euclidean norm of a quantised key or query: its square stays below 2^31 after rounding.
const NORM: f32 = 46_300.0;
/// The largest magnitude of an i16, symmetric.
const LIMIT: f32 = 32_767.0;
/// The largest sum of a page's weights: times [`LIMIT`] it stays below 2^31 after rounding.
const WEIGHTS: f32 = 65_500.0;
/// Below this a row is zero, so that reciprocals stay finite.
pub(super) const TINY: f32 = 1e-30;

/// Sizes of one key-value head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Width of a key.
    pub dim_k: usize,
    /// Width of a value.
    pub dim_v: usize,
}

impl HeadShape {
    /// Pairs of a key's values.
    pub const fn pairs_k(self) -> usize {
        self.dim_k.div_ceil(2)
    }

    /// A value's width in the record.
    pub const fn padded_v(self) -> usize {
        self.dim_v.next_multiple_of(16)
    }

    /// Bytes of a quantised query.
    pub const fn query_bytes(self) -> usize {
        self.pairs_k() * 4
    }

    pub(super) const fn scales_at(self) -> usize {
        self.pairs_k() * PAGE * 4
    }

    pub(super) const fn values_at(self) -> usize {
        self.scales_at() + 2 * PAGE * 4
    }

    /// Bytes of a page.
    pub const fn page_bytes(self) -> usize {
        self.values_at() + self.padded_v() * PAGE * 2
    }
}

/// The factor that brings a row of this largest magnitude and norm to integers, and its inverse.
/// NaN or infinity: the integers are zero and the inverse is NaN, which reaches every score.
fn factor(largest: f32, norm: f32) -> (f32, f32) {
    if largest < TINY {
        return (0.0, 0.0);
    }
    if largest < f32::INFINITY && norm < f32::INFINITY {
        let f = (LIMIT / largest).min(NORM / norm);
        return (f, 1.0 / f);
    }
    (0.0, f32::NAN)
}

/// Largest magnitude and Euclidean norm; NaN counts as larger than infinity.
#[inline(always)]
pub(super) fn extent<S: Simd>(s: S, x: &[f32]) -> (f32, f32) {
    let (mut largest, mut square) = (s.splat_i(0), s.splat(0.0));
    let mut i = 0;
    while i < x.len() {
        let v = load_at(s, x, i);
        largest = s.max_i(largest, s.and(s.bits(v), s.splat_i(i32::MAX)));
        square = s.fma(v, v, square);
        i += 16;
    }
    (f32::from_bits(s.largest_i(largest) as u32), s.sum(square).sqrt())
}

/// Writes `x·factor` rounded to i16: 16 values, those past the end zero.
#[inline(always)]
fn round_16<S: Simd>(s: S, x: &[f32], i: usize, factor: f32) -> [i16; 16] {
    let mut out = [0; 16];
    if factor > 0.0 {
        // SAFETY: the array has 16 values.
        unsafe { s.store_i16(out.as_mut_ptr(), s.round(s.mul(load_at(s, x, i), s.splat(factor)))) };
    }
    out
}

/// Quantises a query. `x`: `[dim_k]`; `out`: `[pairs_k · 2]`. Returns the factor of its integers.
pub struct QuantizeQuery<'a> {
    /// The query.
    pub x: &'a [f32],
    /// Its integers.
    pub out: &'a mut [i16],
}

impl Op for QuantizeQuery<'_> {
    type Out = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (largest, norm) = extent(s, self.x);
        let (f, inverse) = factor(largest, norm);
        for (i, out) in self.out.chunks_mut(16).enumerate() {
            out.copy_from_slice(&round_16(s, self.x, 16 * i, f)[..out.len()]);
        }
        inverse
    }
}

/// Turns the first `2·cos.len()` values of each head of `dim` values.
pub struct Turn<'a> {
    /// Heads side by side.
    pub heads: &'a mut [f32],
    /// Width of a head.
    pub dim: usize,
    /// Which values turn together.
    pub pairing: RopePairing,
    /// Cosines of the pairs.
    pub cos: &'a [f32],
    /// Their sines.
    pub sin: &'a [f32],
}

impl Op for Turn<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let half = self.cos.len();
        for head in self.heads.chunks_exact_mut(self.dim) {
            let head = &mut head[..2 * half];
            match self.pairing {
                RopePairing::Halves => {
                    let (x, y) = head.split_at_mut(half);
                    for (((x, y), c), s) in x.iter_mut().zip(y).zip(self.cos).zip(self.sin) {
                        (*x, *y) = (*x * c - *y * s, *x * s + *y * c);
                    }
                }
                RopePairing::Adjacent => {
                    for ((pair, c), s) in head.chunks_exact_mut(2).zip(self.cos).zip(self.sin) {
                        (pair[0], pair[1]) = (pair[0] * c - pair[1] * s, pair[0] * s + pair[1] * c);
                    }
                }
            }
        }
    }
}

/// Stores a key and a value in one cell of a page.
pub struct StoreCell<'a> {
    /// Sizes.
    pub shape: HeadShape,
    /// Position in the page.
    pub cell: usize,
    /// `[dim_k]`
    pub key: &'a [f32],
    /// `[dim_v]`
    pub value: &'a [f32],
    /// The page's record, `[page_bytes]`. Others may write other cells of it meanwhile.
    pub page: *mut u8,
}

impl Op for StoreCell<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let shape = self.shape;
        assert!(self.cell < PAGE && self.key.len() == shape.dim_k && self.value.len() == shape.dim_v);
        let (largest, norm) = extent(s, self.key);
        let (f, inverse_k) = factor(largest, norm);
        for i in (0..shape.dim_k).step_by(16) {
            let q = round_16(s, self.key, i, f);
            for (j, pair) in q.chunks_exact(2).enumerate().take(shape.pairs_k() - i / 2) {
                let at = ((i / 2 + j) * PAGE + self.cell) * 4;
                // SAFETY: the pair is below `pairs_k`, the cell below PAGE: inside the keys.
                unsafe { self.page.add(at).cast::<[i16; 2]>().write_unaligned([pair[0], pair[1]]) };
            }
        }
        let (largest, _) = extent(s, self.value);
        let (f, inverse_v) = factor(largest, 0.0);
        for i in (0..shape.dim_v).step_by(16) {
            for (j, q) in round_16(s, self.value, i, f).into_iter().enumerate() {
                let at =
                    shape.values_at() + ((self.cell / 2 * shape.padded_v() + i + j) * 2 + self.cell % 2) * 2;
                // SAFETY: `i + j` is below `padded_v`: inside the values.
                unsafe { self.page.add(at).cast::<i16>().write_unaligned(q) };
            }
        }
        let at = shape.scales_at() + 4 * self.cell;
        // SAFETY: both scales are inside the record.
        unsafe {
            self.page.add(at).cast::<f32>().write_unaligned(inverse_k);
            self.page.add(at + 4 * PAGE).cast::<f32>().write_unaligned(inverse_v);
        }
    }
}

/// What a query has gathered so far.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// The largest score seen.
    pub largest: f32,
    /// The sum of `e^(score − largest)`.
    pub sum: f32,
}

impl State {
    /// Nothing seen.
    pub const EMPTY: Self = Self { largest: f32::NEG_INFINITY, sum: 0.0 };
}

/// One query at one page: `from..to` are the positions in the page that it sees; nothing is done if empty.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// The integers, `[query_bytes]`.
    pub q: *const u8,
    /// Their factor times the attention's scale.
    pub scale: f32,
    /// First position seen.
    pub from: u32,
    /// One past the last.
    pub to: u32,
}

/// Several queries at one page.
pub struct AttendPage<'a> {
    /// Sizes.
    pub shape: HeadShape,
    /// The page's record.
    pub page: *const u8,
    /// The record that will be read next, if any: it is asked for meanwhile.
    pub ahead: Option<*const u8>,
    /// The queries.
    pub queries: &'a [Query],
    /// Cap on scores.
    pub softcap: Option<f32>,
    /// What each has gathered.
    pub states: &'a mut [State],
    /// Weighted values, `[queries][padded_v]`.
    pub values: &'a mut [f32],
}

impl Op for AttendPage<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.queries.len();
        let padded = self.shape.padded_v();
        assert!(self.states.len() >= n && self.values.len() >= n * padded);
        let (states, values) = (self.states.as_mut_ptr(), self.values.as_mut_ptr());
        let mut page = Page { shape: self.shape, at: self.page, ahead: self.ahead, softcap: self.softcap };
        let mut i = 0;
        // SAFETY: the page holds a record and the queries their integers, as their makers promise; states
        // and values have been checked.
        unsafe {
            macro_rules! step {
                ($t:literal) => {{
                    attend::<S, $t>(s, page, &self.queries[i..i + $t], states.add(i), values.add(i * padded));
                    page.ahead = None;
                    i += $t;
                }};
            }
            while S::QUERIES >= 4 && n - i >= 4 {
                step!(4);
            }
            if S::QUERIES >= 4 && n - i == 3 {
                step!(3);
            }
            if S::QUERIES >= 4 && n - i == 2 {
                step!(2);
            }
            while i < n {
                step!(1);
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Page {
    shape: HeadShape,
    at: *const u8,
    ahead: Option<*const u8>,
    softcap: Option<f32>,
}

impl Page {
    /// Asks for bytes `from..from + n` of the record that comes next.
    #[inline(always)]
    fn ask(self, from: usize, n: usize) {
        if let Some(p) = self.ahead {
            for line in (0..n).step_by(64) {
                prefetch::<true>(p.wrapping_add(from + line));
            }
        }
    }
}

#[inline(always)]
unsafe fn attend<S: Simd, const T: usize>(
    s: S,
    job: Page,
    queries: &[Query],
    states: *mut State,
    values: *mut f32,
) {
    let shape = job.shape;
    let padded = shape.padded_v();
    let mut weights = [[0i16; PAGE]; T];
    let mut scale = [(0.0, 0.0); T];
    // SAFETY: see the caller.
    unsafe {
        let scores = scores::<S, T>(s, job, queries);
        let scales = job.at.add(shape.scales_at()).cast::<f32>();
        for t in 0..T {
            if queries[t].from < queries[t].to {
                let state = &mut *states.add(t);
                scale[t] = weigh(s, scores[t], &queries[t], job.softcap, scales, state, &mut weights[t]);
            }
        }
        job.ask(shape.scales_at(), 2 * PAGE * 4);
        let mut d = 0;
        while d + 64 <= padded {
            let sums = gather::<S, T, 4>(s, job, d, &weights);
            add_values::<S, T, 4>(s, queries, &scale, sums, values.add(d), padded);
            d += 64;
        }
        while d < padded {
            let sums = gather::<S, T, 1>(s, job, d, &weights);
            add_values::<S, T, 1>(s, queries, &scale, sums, values.add(d), padded);
            d += 16;
        }
    }
}

/// `q·k` of each query with the page's positions.
#[inline(always)]
unsafe fn scores<S: Simd, const T: usize>(s: S, page: Page, queries: &[Query]) -> [[S::I; 2]; T] {
    let keys = page.at;
    let mut acc = [[s.splat_i(0); 2]; T];
    for i in 0..page.shape.pairs_k() {
        page.ask(i * PAGE * 4, PAGE * 4);
        // SAFETY: pair `i` is within keys and queries.
        unsafe {
            let k = array!(2, |H| s.load_i(keys.add(i * PAGE * 4 + 64 * H)));
            for t in 0..T {
                let q = s.splat_at(queries[t].q.add(4 * i));
                acc[t] = [s.dot2(acc[t][0], k[0], q), s.dot2(acc[t][1], k[1], q)];
            }
        }
    }
    acc
}

/// Turns scores into a page's weights in integers and updates the state. Returns the factor of what was
/// gathered before and that of the weights.
#[inline(always)]
unsafe fn weigh<S: Simd>(
    s: S,
    scores: [S::I; 2],
    query: &Query,
    cap: Option<f32>,
    scales: *const f32,
    state: &mut State,
    weights: &mut [i16; PAGE],
) -> (f32, f32) {
    let partial = query.from > 0 || query.to < PAGE as u32;
    // SAFETY: both rows of scales have 32 values, the arrays as many as are read or written.
    unsafe {
        let k = array!(2, |H| s.load(scales.add(16 * H)));
        let mut x = array!(2, |H| s.mul(s.mul(s.to_f32(scores[H]), s.splat(query.scale)), k[H]));
        if let Some(cap) = cap {
            x = array!(2, |H| softcap(s, x[H], cap));
        }
        if partial {
            x = array!(2, |H| seen::<S>(s, query, 16 * H as i32, x[H], f32::NEG_INFINITY));
        }
        let page_largest = s.largest(s.max(x[0], x[1]));
        let largest = if page_largest > state.largest { page_largest } else { state.largest };
        let mut back = [0.0f32; 1];
        store_at(s, &mut back, 0, exp(s, s.splat(state.largest - largest)));
        let p = array!(2, |H| exp(s, s.sub(x[H], s.splat(largest))));
        *state = State { largest, sum: state.sum.mul_add(back[0], s.sum(s.add(p[0], p[1]))) };
        let mut w = array!(2, |H| s.mul(p[H], s.load(scales.add(PAGE + 16 * H))));
        if partial {
            w = array!(2, |H| seen::<S>(s, query, 16 * H as i32, w[H], 0.0));
        }
        let (top, sum) = (s.largest(s.max(w[0], w[1])), s.sum(s.add(w[0], w[1])));
        if sum < TINY {
            return (back[0], 0.0);
        }
        if !(sum < f32::INFINITY) {
            return (f32::NAN, f32::NAN);
        }
        let f = (LIMIT / top).min(WEIGHTS / sum);
        s.store_i16(weights.as_mut_ptr(), s.round(s.mul(w[0], s.splat(f))));
        s.store_i16(weights.as_mut_ptr().add(16), s.round(s.mul(w[1], s.splat(f))));
        (back[0], 1.0 / f)
    }
}

/// `x` where the query sees the position, `other` elsewhere.
#[inline(always)]
fn seen<S: Simd>(s: S, query: &Query, first: i32, x: S::F, other: f32) -> S::F {
    const LANES: [i32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    // SAFETY: the array is 64 bytes.
    let at = s.add_i(unsafe { s.load_i(LANES.as_ptr().cast()) }, s.splat_i(first));
    let after = s.gt_i(at, s.splat_i(query.from as i32 - 1));
    let before = s.gt_i(s.splat_i(query.to as i32), at);
    s.select(after, s.select(before, x, s.splat(other)), s.splat(other))
}

/// `Σ weight·value` over the page for `16·C` dimensions from `d` on.
#[inline(always)]
unsafe fn gather<S: Simd, const T: usize, const C: usize>(
    s: S,
    page: Page,
    d: usize,
    weights: &[[i16; PAGE]; T],
) -> [[S::I; C]; T] {
    let padded = page.shape.padded_v();
    let v = page.at.wrapping_add(page.shape.values_at() + 4 * d);
    let mut acc = [[s.splat_i(0); C]; T];
    for j in 0..PAGE / 2 {
        page.ask(page.shape.values_at() + 4 * (j * padded + d), 64 * C);
        // SAFETY: pair `j` and `16·C` dimensions are within the values.
        unsafe {
            let mut row = [s.splat_i(0); C];
            for (c, row) in row.iter_mut().enumerate() {
                *row = s.load_i(v.add(4 * (j * padded + 16 * c)));
            }
            for t in 0..T {
                let w = s.splat_at(weights[t].as_ptr().add(2 * j).cast());
                for c in 0..C {
                    acc[t][c] = s.dot2(acc[t][c], row[c], w);
                }
            }
        }
    }
    acc
}

/// `values = values·back + sums·factor` for the queries that saw something.
#[inline(always)]
unsafe fn add_values<S: Simd, const T: usize, const C: usize>(
    s: S,
    queries: &[Query],
    scale: &[(f32, f32); T],
    sums: [[S::I; C]; T],
    values: *mut f32,
    padded: usize,
) {
    for t in 0..T {
        if queries[t].from >= queries[t].to {
            continue;
        }
        let (back, factor) = scale[t];
        for c in 0..C {
            // SAFETY: the caller vouches for `16·C` dimensions of T queries.
            unsafe {
                let p = values.add(t * padded + 16 * c);
                let old = s.mul(s.load(p), s.splat(back));
                s.store(p, s.fma(s.to_f32(sums[t][c]), s.splat(factor), old));
            }
        }
    }
}

/// Ends a query: divides by the sum, to which a sink may add.
pub struct Finish<'a> {
    /// What was gathered.
    pub state: State,
    /// One more score, without a value.
    pub sink: Option<f32>,
    /// Weighted values, at least as long as `out`.
    pub values: &'a [f32],
    /// The result, `[dim_v]`.
    pub out: &'a mut [f32],
}

impl Op for Finish<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let State { largest, sum } = self.state;
        let mut factor = 1.0 / sum;
        if let Some(sink) = self.sink {
            let top = if sink > largest { sink } else { largest };
            let mut both = [0.0f32; 2];
            store_at(s, &mut both[..1], 0, exp(s, s.splat(largest - top)));
            store_at(s, &mut both[1..], 0, exp(s, s.splat(sink - top)));
            factor = both[0] / sum.mul_add(both[0], both[1]);
        }
        for i in (0..self.out.len()).step_by(16) {
            let v = s.mul(load_at(s, self.values, i), s.splat(factor));
            store_at(s, self.out, i, v);
        }
    }
}
