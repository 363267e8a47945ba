//! Matrix products with float weights: F32, F16, BF16. The order of operations is in `matmul`.

use super::matmul::{GROUP, Group, Rows};
use super::simd::{Op, Simd, array};

/// A float type.
pub trait Float: 'static {
    /// Bytes of a value.
    const BYTES: usize;

    /// One value, exactly.
    fn value(bytes: &[u8]) -> f32;

    /// Four dwords of 16 rows as the `16 / BYTES` values they hold, in order; the rest is undefined.
    fn values<S: Simd>(s: S, dwords: [S::I; 4]) -> [S::F; 8];
}

/// IEEE single.
pub struct F32;
/// IEEE half.
pub struct F16;
/// The upper half of a single.
pub struct Bf16;

impl Float for F32 {
    const BYTES: usize = 4;

    fn value(b: &[u8]) -> f32 {
        f32::from_le_bytes([b[0], b[1], b[2], b[3]])
    }

    #[inline(always)]
    fn values<S: Simd>(s: S, d: [S::I; 4]) -> [S::F; 8] {
        array!(8, |I| s.from_bits(d[I % 4]))
    }
}

impl Float for F16 {
    const BYTES: usize = 2;

    fn value(b: &[u8]) -> f32 {
        super::portable::f16_to_f32(u16::from_le_bytes([b[0], b[1]]))
    }

    #[inline(always)]
    fn values<S: Simd>(s: S, d: [S::I; 4]) -> [S::F; 8] {
        array!(8, |I| s.f16(s.shr(d[I / 2], 16 * (I % 2) as u32)))
    }
}

impl Float for Bf16 {
    const BYTES: usize = 2;

    fn value(b: &[u8]) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16)
    }

    #[inline(always)]
    fn values<S: Simd>(s: S, d: [S::I; 4]) -> [S::F; 8] {
        let high = s.splat_i(-0x1_0000);
        array!(8, |I| s.from_bits(if I % 2 == 0 { s.shl(d[I / 2], 16) } else { s.and(d[I / 2], high) }))
    }
}

/// [`Group`] for a float type; activations are f32 rows of `n_in` values.
pub struct Floats<'a, W>(pub Group<'a>, pub std::marker::PhantomData<W>);

impl<W: Float> Op for Floats<'_, W> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let g = self.0;
        g.check(g.n_in * W::BYTES, g.n_in * 4);
        // SAFETY: `check` has shown that weights, activations, tile and panel hold what is read and written.
        unsafe {
            if g.rows.len() == 1 {
                let acc = straight::<S, W>(s, g.weights, g.row_bytes, g.n_in, g.rows.ptr(0).cast());
                s.store(g.tile.as_mut_ptr(), acc);
            } else {
                unpack::<S, W>(s, g.weights, g.row_bytes, g.n_in, g.panel.as_mut_ptr().cast());
                tiles::<S>(s, g.panel.as_ptr().cast(), g.n_in, &g.rows, g.tile.as_mut_ptr());
            }
        }
    }
}

/// Value `k` of the 16 rows, read one by one: for the end of rows that are no multiple of 16 bytes.
#[inline(always)]
unsafe fn column<S: Simd, W: Float>(s: S, weights: &[u8], row_bytes: usize, k: usize) -> S::F {
    let mut column = [0.0; GROUP];
    for (r, out) in column.iter_mut().enumerate() {
        let from = r * row_bytes + k * W::BYTES;
        *out = W::value(&weights[from..from + W::BYTES]);
    }
    // SAFETY: the array has 16 values.
    unsafe { s.load(column.as_ptr()) }
}

#[inline(always)]
unsafe fn straight<S: Simd, W: Float>(
    s: S,
    weights: &[u8],
    row_bytes: usize,
    n_in: usize,
    x: *const f32,
) -> S::F {
    let step = 16 / W::BYTES;
    let mut acc = s.splat(0.0);
    // SAFETY: columns below `n_in` are within rows and activations.
    unsafe {
        for k in (0..n_in / step * step).step_by(step) {
            let w = W::values(s, s.load_rows(weights.as_ptr().add(k * W::BYTES), row_bytes));
            for (i, w) in w.iter().enumerate().take(step) {
                acc = s.fma(*w, s.splat(*x.add(k + i)), acc);
            }
        }
        for k in n_in / step * step..n_in {
            acc = s.fma(column::<S, W>(s, weights, row_bytes, k), s.splat(*x.add(k)), acc);
        }
    }
    acc
}

/// Unpacks a group into a panel `[n_in][16]`.
#[inline(always)]
unsafe fn unpack<S: Simd, W: Float>(s: S, weights: &[u8], row_bytes: usize, n_in: usize, panel: *mut f32) {
    let step = 16 / W::BYTES;
    // SAFETY: columns below `n_in` are within rows and panel.
    unsafe {
        for k in (0..n_in / step * step).step_by(step) {
            let w = W::values(s, s.load_rows(weights.as_ptr().add(k * W::BYTES), row_bytes));
            for (i, w) in w.iter().enumerate().take(step) {
                s.store(panel.add((k + i) * GROUP), *w);
            }
        }
        for k in n_in / step * step..n_in {
            s.store(panel.add(k * GROUP), column::<S, W>(s, weights, row_bytes, k));
        }
    }
}

#[inline(always)]
unsafe fn tiles<S: Simd>(s: S, panel: *const f32, n_in: usize, rows: &Rows<'_>, out: *mut f32) {
    let mut i = 0;
    // SAFETY: `i + T` is at most the number of rows, so activations and tile are there.
    unsafe {
        while S::TILE >= 16 && rows.len() - i >= 16 {
            tile::<S, 16>(s, panel, n_in, rows.ptrs(i), out.add(i * GROUP));
            i += 16;
        }
        while rows.len() - i >= 4 {
            tile::<S, 4>(s, panel, n_in, rows.ptrs(i), out.add(i * GROUP));
            i += 4;
        }
        while i < rows.len() {
            tile::<S, 1>(s, panel, n_in, rows.ptrs(i), out.add(i * GROUP));
            i += 1;
        }
    }
}

#[inline(always)]
unsafe fn tile<S: Simd, const T: usize>(
    s: S,
    panel: *const f32,
    n_in: usize,
    x: [*const u8; T],
    out: *mut f32,
) {
    let mut acc = [s.splat(0.0); T];
    for k in 0..n_in {
        // SAFETY: `k` is within the panel and the activations.
        unsafe {
            let w = s.load(panel.add(k * GROUP));
            for t in 0..T {
                acc[t] = s.fma(w, s.splat(x[t].cast::<f32>().add(k).read_unaligned()), acc[t]);
            }
        }
    }
    for (t, acc) in acc.iter().enumerate() {
        // SAFETY: the caller vouches for T rows of the tile.
        unsafe { s.store(out.add(t * GROUP), *acc) };
    }
}
