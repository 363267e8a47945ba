//! Work on single rows: norms, activations, sums. Element by element the order of operations does not
//! matter; sums run over four accumulators of 16 lanes, chunk `i` in accumulator `i mod 4`, on every machine.

use super::simd::{Op, Simd};
use crate::model::spec::{Activation, NormKind};

/// The first `x.len()` lanes, the rest zero.
#[inline(always)]
fn load_part<S: Simd>(s: S, x: &[f32]) -> S::F {
    let mut lanes = [0.0f32; 16];
    let n = x.len().min(16);
    lanes[..n].copy_from_slice(&x[..n]);
    // SAFETY: the array has 16 values.
    unsafe { s.load(lanes.as_ptr()) }
}

#[inline(always)]
fn store_part<S: Simd>(s: S, out: &mut [f32], v: S::F) {
    let mut lanes = [0.0f32; 16];
    // SAFETY: the array has 16 values.
    unsafe { s.store(lanes.as_mut_ptr(), v) };
    let n = out.len().min(16);
    out[..n].copy_from_slice(&lanes[..n]);
}

/// Sixteen values from `i` on, or what is left of them and zeros.
#[inline(always)]
pub(super) fn load_at<S: Simd>(s: S, x: &[f32], i: usize) -> S::F {
    if i + 16 <= x.len() {
        // SAFETY: just checked.
        unsafe { s.load(x.as_ptr().add(i)) }
    } else {
        load_part(s, x.get(i..).unwrap_or_default())
    }
}

/// Writes 16 values from `i` on, or what there is room for.
#[inline(always)]
pub(super) fn store_at<S: Simd>(s: S, out: &mut [f32], i: usize, v: S::F) {
    if i + 16 <= out.len() {
        // SAFETY: just checked.
        unsafe { s.store(out.as_mut_ptr().add(i), v) }
    } else {
        store_part(s, out.get_mut(i..).unwrap_or_default(), v);
    }
}

/// `e^x` within 2 units in the last place; 0 below −87.3, and e^88 above 88; NaN stays NaN.
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    let x = s.min(s.splat(88.0), x);
    let tiny = s.gt(s.splat(-87.3), x);
    let x = s.max(s.splat(-87.3), x);
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let nf = s.to_f32(n);
    // ln 2 in two parts, the first with few bits, so that n·ln 2 is exact enough (Cephes).
    let r = s.fma(nf, s.splat(-0.693_359_4), x);
    let r = s.fma(nf, s.splat(2.121_944_4e-4), r);
    let p = s.splat(1.987_569_1e-4);
    let p = s.fma(p, r, s.splat(1.398_199_9e-3));
    let p = s.fma(p, r, s.splat(8.333_452e-3));
    let p = s.fma(p, r, s.splat(4.166_579_6e-2));
    let p = s.fma(p, r, s.splat(1.666_666_5e-1));
    let p = s.fma(p, r, s.splat(0.5));
    let y = s.add(s.fma(p, s.mul(r, r), r), s.splat(1.0));
    let scale = s.from_bits(s.shl(s.add_i(n, s.splat_i(127)), 23));
    s.select(tiny, s.splat(0.0), s.mul(y, scale))
}

#[inline(always)]
fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

/// `c·tanh(x/c)`
#[inline(always)]
pub(super) fn softcap<S: Simd>(s: S, x: S::F, cap: f32) -> S::F {
    // tanh(y) = 1 − 2 / (e^2y + 1)
    let e = exp(s, s.mul(x, s.splat(2.0 / cap)));
    let t = s.sub(s.splat(1.0), s.div(s.splat(2.0), s.add(e, s.splat(1.0))));
    s.mul(t, s.splat(cap))
}

/// The sum over a row of what `$f` makes of each 16 values and the lanes' accumulator.
macro_rules! reduce {
    ($s:ident, $x:expr, |$acc:ident, $v:ident, $i:ident| $f:expr) => {{
        let mut acc = [$s.splat(0.0); 4];
        let mut $i = 0;
        while $i < $x.len() {
            let $acc = acc[$i / 16 % 4];
            let $v = load_at($s, $x, $i);
            acc[$i / 16 % 4] = $f;
            $i += 16;
        }
        $s.sum($s.add($s.add(acc[0], acc[1]), $s.add(acc[2], acc[3])))
    }};
}

/// Root-mean-square or layer norm of a row, then gain and bias.
pub struct Normalise<'a> {
    /// Which.
    pub kind: NormKind,
    /// Added under the root.
    pub eps: f32,
    /// Gain, as long as the row.
    pub weight: Option<&'a [f32]>,
    /// Bias, as long as the row.
    pub bias: Option<&'a [f32]>,
    /// The row.
    pub x: &'a [f32],
    /// The result, as long.
    pub out: &'a mut [f32],
}

/// [`Normalise`] of a row in its own place.
pub struct NormaliseInPlace<'a> {
    /// Which.
    pub kind: NormKind,
    /// Added under the root.
    pub eps: f32,
    /// Gain, as long as the row.
    pub weight: Option<&'a [f32]>,
    /// Bias, as long as the row.
    pub bias: Option<&'a [f32]>,
    /// The row.
    pub x: &'a mut [f32],
}

impl Op for Normalise<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (mean, scale) = statistics(s, self.kind, self.eps, self.x);
        for i in (0..self.x.len()).step_by(16) {
            let y = normed(s, load_at(s, self.x, i), (mean, scale), self.weight, self.bias, i);
            store_at(s, self.out, i, y);
        }
    }
}

impl Op for NormaliseInPlace<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (mean, scale) = statistics(s, self.kind, self.eps, self.x);
        for i in (0..self.x.len()).step_by(16) {
            let y = normed(s, load_at(s, self.x, i), (mean, scale), self.weight, self.bias, i);
            store_at(s, self.x, i, y);
        }
    }
}

#[inline(always)]
fn normed<S: Simd>(
    s: S,
    x: S::F,
    (mean, scale): (f32, f32),
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    i: usize,
) -> S::F {
    let mut y = s.mul(s.sub(x, s.splat(mean)), s.splat(scale));
    if let Some(w) = weight {
        y = s.mul(y, load_at(s, w, i));
    }
    if let Some(b) = bias {
        y = s.add(y, load_at(s, b, i));
    }
    y
}

/// Mean (zero for [`NormKind::Rms`]) and the reciprocal of the deviation.
#[inline(always)]
fn statistics<S: Simd>(s: S, kind: NormKind, eps: f32, x: &[f32]) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = match kind {
        NormKind::Rms => 0.0,
        NormKind::Layer => reduce!(s, x, |acc, v, i| s.add(acc, v)) / n,
    };
    let square = if kind == NormKind::Rms {
        reduce!(s, x, |acc, v, i| s.fma(v, v, acc))
    } else {
        // Zeros past the end must stay zeros once the mean is taken off.
        reduce!(s, x, |acc, v, i| {
            let mut d = [0.0f32; 16];
            let end = x.len().min(i + 16);
            store_at(s, &mut d[..end - i], 0, s.sub(v, s.splat(mean)));
            let d = load_at(s, &d, 0);
            s.fma(d, d, acc)
        })
    };
    (mean, 1.0 / (square / n + eps).sqrt())
}

/// `out = act(gate)·up`, or `act(gate)` without `up`; any length. `out` may be longer: the rest stays.
pub struct Activate<'a> {
    /// Which.
    pub act: &'a Activation,
    /// What goes through the curve.
    pub gate: &'a [f32],
    /// What it is multiplied with, as long.
    pub up: Option<&'a [f32]>,
    /// The result.
    pub out: &'a mut [f32],
}

impl Op for Activate<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let out = &mut self.out[..self.gate.len()];
        let mut i = 0;
        while i < self.gate.len() {
            let g = load_at(s, self.gate, i);
            let u = match self.up {
                Some(up) => load_at(s, up, i),
                None => s.splat(1.0),
            };
            store_at(s, out, i, activate(s, self.act, g, u));
            i += 16;
        }
    }
}

/// [`Activate`] with the result in the gate's place.
pub struct ActivateInPlace<'a> {
    /// Which.
    pub act: &'a Activation,
    /// What goes through the curve, and the result.
    pub x: &'a mut [f32],
    /// What it is multiplied with, as long.
    pub up: Option<&'a [f32]>,
}

impl Op for ActivateInPlace<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for i in (0..self.x.len()).step_by(16) {
            let u = match self.up {
                Some(up) => load_at(s, up, i),
                None => s.splat(1.0),
            };
            store_at(s, self.x, i, activate(s, self.act, load_at(s, self.x, i), u));
        }
    }
}

#[inline(always)]
fn activate<S: Simd>(s: S, act: &Activation, g: S::F, u: S::F) -> S::F {
    let zero = s.splat(0.0);
    match *act {
        Activation::Silu => s.mul(s.mul(g, sigmoid(s, g)), u),
        Activation::Gelu => {
            // x·(1 + tanh(y))/2 = x·sigmoid(2y), y = √(2/π)·(x + 0.044715·x³)
            let cube = s.mul(s.mul(g, g), g);
            let y2 = s.mul(s.splat(1.595_769_1), s.fma(s.splat(0.044_715), cube, g));
            s.mul(s.mul(g, sigmoid(s, y2)), u)
        }
        Activation::Relu => s.mul(s.max(zero, g), u),
        Activation::ReluSquared => {
            let r = s.max(zero, g);
            s.mul(s.mul(r, r), u)
        }
        Activation::SwigluOai { alpha, limit } => {
            let g = s.min(s.splat(limit), g);
            let u = s.max(s.splat(-limit), s.min(s.splat(limit), u));
            s.mul(s.mul(g, sigmoid(s, s.mul(s.splat(alpha), g))), s.add(u, s.splat(1.0)))
        }
        Activation::Xielu { alpha_n, alpha_p, beta, eps } => {
            let softplus = |a: f32| a.exp().ln_1p();
            let positive = s.mul(s.mul(s.splat(softplus(alpha_p)), g), g);
            // e^m − 1 by its series where it would cancel.
            let m = s.min(s.splat(eps), g);
            let series = s.fma(s.mul(m, m), s.fma(m, s.splat(1.0 / 6.0), s.splat(0.5)), m);
            let direct = s.sub(exp(s, m), s.splat(1.0));
            let grown = s.select(s.gt(s.splat(-0.01), m), direct, series);
            let negative = s.mul(s.sub(grown, g), s.splat(beta + softplus(alpha_n)));
            s.mul(s.fma(s.splat(beta), g, s.select(s.gt(g, zero), positive, negative)), u)
        }
    }
}

/// `y = y + factor·x`
pub struct AddScaled<'a> {
    /// What grows.
    pub y: &'a mut [f32],
    /// What is added, as long.
    pub x: &'a [f32],
    /// Its factor.
    pub factor: f32,
}

impl Op for AddScaled<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut i = 0;
        while i < self.x.len() {
            let y = s.fma(load_at(s, self.x, i), s.splat(self.factor), load_at(s, self.y, i));
            store_at(s, self.y, i, y);
            i += 16;
        }
    }
}

/// Puts a tile `[rows][16]`, of which `n_cols` columns count, in rows `stride` values apart.
pub struct PutTile<'a> {
    /// The tile.
    pub tile: &'a [f32],
    /// Columns that count, at most 16.
    pub n_cols: usize,
    /// The first row's first value. All rows' columns must be there, and this thread's alone.
    pub out: *mut f32,
    /// Values from row to row.
    pub stride: usize,
    /// Adds the tile times this to what is there; else it takes its place.
    pub add: Option<f32>,
}

impl Op for PutTile<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let factor = s.splat(self.add.unwrap_or(1.0));
        for (i, row) in self.tile.chunks_exact(16).enumerate() {
            // SAFETY: the maker vouches for the columns of every row.
            let out = unsafe { std::slice::from_raw_parts_mut(self.out.add(i * self.stride), self.n_cols) };
            let mut value = load_at(s, row, 0);
            if self.add.is_some() {
                value = s.fma(value, factor, load_at(s, out, 0));
            }
            store_at(s, out, 0, value);
        }
    }
}

/// `x = c·tanh(factor·x/c)`, or `x = factor·x` without a cap.
pub struct ScaleCap<'a> {
    /// The row.
    pub x: &'a mut [f32],
    /// Its factor.
    pub factor: f32,
    /// The cap.
    pub cap: Option<f32>,
}

impl Op for ScaleCap<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut i = 0;
        while i < self.x.len() {
            let mut y = s.mul(load_at(s, self.x, i), s.splat(self.factor));
            if let Some(cap) = self.cap {
                y = softcap(s, y, cap);
            }
            store_at(s, self.x, i, y);
            i += 16;
        }
    }
}

/// Softmax of a short row, in place.
pub struct Softmax<'a>(pub &'a mut [f32]);

impl Op for Softmax<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let largest = self.0.iter().copied().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
        let mut sum = 0.0;
        for x in self.0.iter_mut() {
            let mut lane = [0.0f32; 1];
            store_at(s, &mut lane, 0, exp(s, s.splat(*x - largest)));
            *x = lane[0];
            sum += *x;
        }
        for x in self.0.iter_mut() {
            *x /= sum;
        }
    }
}

/// The dot product of two rows as long as each other.
pub struct Dot<'a>(pub &'a [f32], pub &'a [f32]);

impl Op for Dot<'_> {
    type Out = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (x, y) = (self.0, self.1);
        reduce!(s, x, |acc, v, i| s.fma(v, load_at(s, y, i), acc))
    }
}

/// `sigmoid(x)` of one value.
pub struct Sigmoid(pub f32);

impl Op for Sigmoid {
    type Out = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut lane = [0.0f32; 1];
        store_at(s, &mut lane, 0, sigmoid(s, s.splat(self.0)));
        lane[0]
    }
}
