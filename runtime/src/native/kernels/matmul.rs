//! Matrix products over groups of 16 output rows.
//!
//! One function does all: for 16 neighbouring rows of the matrix and any number of activation rows it fills
//! a tile `[n][16]`. A single row is computed straight from the packed weights (decoding is bound by memory,
//! so they are read once and nothing is written); for more rows the group is unpacked once into a panel in
//! the cache, which all rows then share.
//!
//! **The order of operations is part of the contract.** For quantised types, output `o` of activation row
//! `r` is, over blocks `b` of 32 values in order,
//! `acc = fma(t, scale_r[b], acc)` with `t = Σ q·a` (exact, integer) `· scale_o[b]`
//! (two halves: `t = fma(i₁, scale₁, i₀·scale₀)`), then with minima `acc = fma(min_o[b], sum_r[b], acc)`
//! (for each half). For float types `acc = fma(w[k], x[k], acc)` over `k` in order. Nothing depends on how
//! many rows there are or where they stand, so neither do the bits.

use super::acts::{BLOCK, at};
use super::dot::block_dots;
use super::format::{Block, Format, Shape};
use super::simd::{Op, Simd, array, prefetch};
use std::marker::PhantomData;

/// Output rows of a group: the lanes of a vector.
pub const GROUP: usize = 16;

/// Activation rows of a product: records or float rows, `stride` bytes apart.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    data: &'a [u8],
    stride: usize,
    index: Option<&'a [u32]>,
    n: usize,
}

impl<'a> Rows<'a> {
    /// The first `n` rows in `data`. Panics if they are not there.
    pub fn new(data: &'a [u8], stride: usize, n: usize) -> Self {
        assert!(n.checked_mul(stride).is_some_and(|bytes| bytes <= data.len()));
        Self { data, stride, index: None, n }
    }

    /// Rows of f32 values, `[n][width]`.
    pub fn floats(data: &'a [f32], width: usize, n: usize) -> Self {
        // SAFETY: any four bytes of an f32 are four bytes.
        let bytes = unsafe { std::slice::from_raw_parts(data.as_ptr().cast(), size_of_val(data)) };
        Self::new(bytes, width * size_of::<f32>(), n)
    }

    /// Only the rows named by `index`, in its order. Panics if one is not there.
    pub fn pick(self, index: &'a [u32]) -> Self {
        assert!(self.index.is_none() && index.iter().all(|&i| (i as usize) < self.n));
        Self { index: Some(index), n: index.len(), ..self }
    }

    /// Rows `from..from + n`. Panics if they are not there.
    pub fn range(self, from: usize, n: usize) -> Self {
        assert!(from.checked_add(n).is_some_and(|end| end <= self.n));
        match self.index {
            Some(index) => Self { index: Some(&index[from..from + n]), n, ..self },
            None => Self { data: &self.data[from * self.stride..], n, ..self },
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Row `i`, `stride` bytes.
    pub(super) fn row(&self, i: usize) -> &'a [u8] {
        let row = self.index.map_or(i, |index| index[i] as usize);
        &self.data[row * self.stride..][..self.stride]
    }

    #[inline(always)]
    pub(super) fn ptr(&self, i: usize) -> *const u8 {
        let row = self.index.map_or(i, |index| index[i] as usize);
        self.data[row * self.stride..].as_ptr()
    }

    #[inline(always)]
    pub(super) fn ptrs<const T: usize>(&self, from: usize) -> [*const u8; T] {
        std::array::from_fn(|t| self.ptr(from + t))
    }
}

/// 16 rows of a matrix against some activation rows.
pub struct Group<'a> {
    /// The 16 rows of weights, `row_bytes` apart.
    pub weights: &'a [u8],
    /// Bytes of a row.
    pub row_bytes: usize,
    /// Values of a row.
    pub n_in: usize,
    /// The activations.
    pub rows: Rows<'a>,
    /// The result, `[rows.len()][16]`.
    pub tile: &'a mut [f32],
    /// Room for the unpacked group: `panel_bytes(n_in)`.
    pub panel: &'a mut [u8],
}

impl Group<'_> {
    pub(super) fn check(&self, row_bytes: usize, activation_bytes: usize) {
        assert!(self.row_bytes == row_bytes && self.weights.len() >= GROUP * row_bytes);
        assert!(self.rows.stride >= activation_bytes && self.tile.len() >= self.rows.len() * GROUP);
        assert!(self.panel.len() >= panel_bytes(self.n_in));
    }

    /// The number of blocks in a row.
    fn check_format<F: Format>(&self) -> usize {
        let n_blocks = self.n_in / BLOCK;
        assert!(self.n_in.is_multiple_of(BLOCK * F::BLOCKS));
        self.check(n_blocks / F::BLOCKS * F::BYTES, n_blocks * (BLOCK + at::SIZE));
        n_blocks
    }
}

/// Bytes of the largest panel of a group with `n_in` values a row.
pub const fn panel_bytes(n_in: usize) -> usize {
    n_in.next_multiple_of(BLOCK) / BLOCK * (32 * GROUP + 4 * 64 + BLOCK * 64)
}

/// [`Group`] of at most `T` activation rows for a quantised type: straight from the packed weights.
pub struct Straight<'a, F, const T: usize>(pub Group<'a>, pub PhantomData<F>);

impl<F: Format, const T: usize> Op for Straight<'_, F, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let g = self.0;
        let n_blocks = g.check_format::<F>();
        let n = g.rows.len();
        assert!((1..=T).contains(&n) && (T == 1 || S::TOGETHER));
        if T > 1 && !S::TOGETHER {
            // Spares the compiler what the line above rules out.
            return;
        }
        // Rows that are missing repeat the last; what they give is not stored.
        let records = std::array::from_fn(|t| g.rows.ptr(t.min(n - 1)));
        // SAFETY: the checks have shown that weights, activations and tile hold what is read and written.
        unsafe {
            let acc = straight::<S, F, T>(s, g.weights.as_ptr(), g.row_bytes, n_blocks, records);
            for t in 0..n {
                s.store(g.tile.as_mut_ptr().add(t * GROUP), acc[t]);
            }
        }
    }
}

/// Unpacks a [`Group`] of a quantised type into its panel.
pub struct Unpack<'a, 'b, F>(pub &'a mut Group<'b>, pub PhantomData<F>);

impl<F: Format> Op for Unpack<'_, '_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n_blocks = self.0.check_format::<F>();
        let g = self.0;
        // SAFETY: the checks have shown that weights and panel hold what is read and written.
        unsafe { unpack::<S, F>(s, g.weights.as_ptr(), g.row_bytes, n_blocks, g.panel.as_mut_ptr()) };
    }
}

/// The tile of a [`Group`] from its panel, which must have been unpacked from a format of this shape.
pub struct FromPanel<'a, Sh> {
    /// The group.
    pub group: Group<'a>,
    /// The format's [`Format::SHIFT`].
    pub shift: u32,
    /// The format's shape.
    pub shape: PhantomData<Sh>,
}

impl<Sh: Shape> Op for FromPanel<'_, Sh> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let g = self.group;
        let n_blocks = g.n_in / BLOCK;
        g.check(g.row_bytes, n_blocks * (BLOCK + at::SIZE));
        // SAFETY: the check has shown that panel, activations and tile hold what is read and written.
        unsafe { tiles::<S, Sh>(s, self.shift, g.panel.as_ptr(), n_blocks, &g.rows, g.tile.as_mut_ptr()) };
    }
}

/// Calls `$body` with `$j` each of the blocks of a storage block, unrolled.
macro_rules! each_block {
    ($format:ident, |$j:ident| $body:expr) => {{
        macro_rules! at {
            ($value:literal) => {{
                const $j: usize = $value;
                $body
            }};
        }
        at!(0);
        if $format::BLOCKS == 8 {
            at!(1);
            at!(2);
            at!(3);
            at!(4);
            at!(5);
            at!(6);
            at!(7);
        }
    }};
}

/// The weights after a group, asked for while the group is read: its rows are too short and too many for
/// the processor to guess what comes next. Small groups go to the first cache, where large ones would push
/// out what they are waiting for.
#[derive(Clone, Copy)]
struct Ahead {
    from: *const u8,
    near: bool,
}

impl Ahead {
    #[inline(always)]
    fn new(weights: *const u8, row_bytes: usize) -> Self {
        let group = GROUP * row_bytes;
        Self { from: weights.wrapping_add(group), near: group <= 8 << 10 }
    }

    #[inline(always)]
    fn ask(self, from: usize, n: usize) {
        for line in 0..n.div_ceil(64) {
            let p = self.from.wrapping_add(from + 64 * line);
            if self.near { prefetch::<true>(p) } else { prefetch::<false>(p) }
        }
    }
}

/// A few activation rows, straight from the packed weights.
#[inline(always)]
unsafe fn straight<S: Simd, F: Format, const T: usize>(
    s: S,
    weights: *const u8,
    row_bytes: usize,
    n_blocks: usize,
    records: [*const u8; T],
) -> [S::F; T] {
    let mut acc = [s.splat(0.0); T];
    let ahead = Ahead::new(weights, row_bytes);
    for unit in 0..n_blocks / F::BLOCKS {
        ahead.ask(unit * GROUP * F::BYTES, GROUP * F::BYTES);
        // SAFETY: `unit` is within the row.
        unsafe {
            let p = weights.add(unit * F::BYTES);
            if T == 1 {
                each_block!(F, |J| {
                    let block = F::block(s, p, row_bytes, J);
                    acc = step::<S, F::Shape, T>(
                        s,
                        F::SHIFT,
                        &block,
                        &records,
                        n_blocks,
                        unit * F::BLOCKS + J,
                        acc,
                    );
                });
            } else {
                for j in 0..F::BLOCKS {
                    let block = F::block(s, p, row_bytes, j);
                    acc = step::<S, F::Shape, T>(
                        s,
                        F::SHIFT,
                        &block,
                        &records,
                        n_blocks,
                        unit * F::BLOCKS + j,
                        acc,
                    );
                }
            }
        }
    }
    acc
}

/// Block `b` of `T` records.
#[inline(always)]
unsafe fn step<S: Simd, Sh: Shape, const T: usize>(
    s: S,
    shift: u32,
    block: &Block<S>,
    records: &[*const u8; T],
    n_blocks: usize,
    b: usize,
    acc: [S::F; T],
) -> [S::F; T] {
    let (mut q, mut meta) = (*records, *records);
    // SAFETY: the caller vouches for `n_blocks` blocks, of which `b` is one.
    unsafe {
        for t in 0..T {
            q[t] = records[t].add(b * BLOCK);
            meta[t] = records[t].add(n_blocks * BLOCK + b * at::SIZE);
        }
        block_dots::<S, Sh, T>(s, shift, block, q, meta, acc)
    }
}

/// Bytes of one unpacked block in a panel.
const fn panel_block<Sh: Shape>() -> usize {
    let vectors = if Sh::HALVES { 2 } else { 1 };
    32 * GROUP + 64 * vectors * if Sh::MINS { 2 } else { 1 }
}

/// Unpacks a group into a panel: for each block `q`, scales, minima. Not unrolled: all rows share it.
#[inline(always)]
unsafe fn unpack<S: Simd, F: Format>(
    s: S,
    weights: *const u8,
    row_bytes: usize,
    n_blocks: usize,
    panel: *mut u8,
) {
    let ahead = Ahead::new(weights, row_bytes);
    for b in 0..n_blocks {
        ahead.ask(b * GROUP * F::BYTES / F::BLOCKS, GROUP * F::BYTES / F::BLOCKS);
        // SAFETY: block `b` is within the row, the panel has room for `n_blocks` blocks.
        unsafe {
            let unit = weights.add(b / F::BLOCKS * F::BYTES);
            let block = F::block(s, unit, row_bytes, b % F::BLOCKS);
            store_block::<S, F::Shape>(s, panel.add(b * panel_block::<F::Shape>()), &block);
        }
    }
}

#[inline(always)]
unsafe fn store_block<S: Simd, Sh: Shape>(s: S, out: *mut u8, block: &Block<S>) {
    let halves = if Sh::HALVES { 2 } else { 1 };
    // SAFETY: the caller vouches for a panel block.
    unsafe {
        for (i, q) in block.q.iter().enumerate() {
            s.store_i(out.add(64 * i), *q);
        }
        for i in 0..halves {
            s.store(out.add(512 + 64 * i).cast(), block.scale[i]);
            if Sh::MINS {
                s.store(out.add(512 + 64 * (halves + i)).cast(), block.min[i]);
            }
        }
    }
}

/// All activation rows against a panel, in tiles of as many rows as the registers hold.
#[inline(always)]
unsafe fn tiles<S: Simd, Sh: Shape>(
    s: S,
    shift: u32,
    panel: *const u8,
    n_blocks: usize,
    rows: &Rows<'_>,
    out: *mut f32,
) {
    let mut i = 0;
    // SAFETY: `i + T` is at most the number of rows, so records and tile are there.
    unsafe {
        macro_rules! step {
            ($t:literal) => {{
                tile::<S, Sh, $t>(s, shift, panel, n_blocks, rows.ptrs(i), out.add(i * GROUP));
                i += $t;
            }};
        }
        while S::TOGETHER && rows.len() - i >= 8 {
            step!(8);
        }
        while rows.len() - i >= 4 {
            step!(4);
        }
        while rows.len() > i {
            step!(1);
        }
        debug_assert!(i == rows.len());
    }
}

#[inline(always)]
unsafe fn tile<S: Simd, Sh: Shape, const T: usize>(
    s: S,
    shift: u32,
    panel: *const u8,
    n_blocks: usize,
    records: [*const u8; T],
    out: *mut f32,
) {
    let mut acc = [s.splat(0.0); T];
    for b in 0..n_blocks {
        // SAFETY: block `b` is within the panel and the records.
        unsafe {
            let block = load_block::<S, Sh>(s, panel.add(b * panel_block::<Sh>()));
            acc = step::<S, Sh, T>(s, shift, &block, &records, n_blocks, b, acc);
        }
    }
    for (t, acc) in acc.iter().enumerate() {
        // SAFETY: the caller vouches for T rows of the tile.
        unsafe { s.store(out.add(t * GROUP), *acc) };
    }
}

#[inline(always)]
unsafe fn load_block<S: Simd, Sh: Shape>(s: S, p: *const u8) -> Block<S> {
    // SAFETY: the caller vouches for a panel block.
    unsafe {
        let q = array!(8, |I| s.load_i(p.add(64 * I)));
        let halves = if Sh::HALVES { 2 } else { 1 };
        let scale = array!(2, |I| s.load(p.add(512 + 64 * (I % halves)).cast()));
        let min = array!(2, |I| if Sh::MINS {
            s.load(p.add(512 + 64 * (halves + I % halves)).cast())
        } else {
            s.splat(0.0)
        });
        Block { q, scale, min }
    }
}
