//! Operations on values one by one and row by row.

use crate::graph::Meta;
use crate::{Graph, Result, T, Type, error::ensure, sys};

/// Functions of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "names are the functions'")]
pub enum Unary {
    Silu,
    /// With the tanh approximation.
    Gelu,
    Relu,
    Sigmoid,
    Tanh,
}

/// `f(gate)·up`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "names are the functions'")]
pub enum Gated {
    Silu,
    Gelu,
    Relu,
    /// `g' = min(g, limit)`, `u' = clamp(u, ±limit)`, `g'·sigmoid(alpha·g')·(u'+1)`.
    SwigluOai {
        alpha: f32,
        limit: f32,
    },
}

type Binary = unsafe extern "C" fn(
    *mut sys::ggml_context,
    *mut sys::ggml_tensor,
    *mut sys::ggml_tensor,
) -> *mut sys::ggml_tensor;

fn float_rows(place: &'static str, m: &Meta) -> Result<()> {
    ensure!(
        place,
        m.ty == Type::F32 && m.has_contiguous_rows(),
        "expected rows of f32, found {:?} of {:?}",
        m.ty,
        m.ne
    );
    Ok(())
}

fn floats(place: &'static str, m: &Meta) -> Result<()> {
    ensure!(
        place,
        m.ty == Type::F32 && m.is_contiguous(),
        "expected contiguous f32, found {:?} of {:?}",
        m.ty,
        m.ne
    );
    Ok(())
}

impl Graph {
    /// ggml aborts on an index outside; only tensors whose indices are known to fit get through.
    pub(crate) fn ensure_below(&self, place: &'static str, ids: T, n_rows: usize) -> Result<()> {
        let bound = self.bound(ids)?;
        ensure!(place, bound.is_some_and(|b| b <= n_rows), "indices below {bound:?} for {n_rows} rows");
        Ok(())
    }

    fn binary(&mut self, place: &'static str, f: Binary, a: T, b: T) -> Result<T> {
        let (ma, mb) = (self.meta(a)?, self.meta(b)?);
        float_rows(place, &ma)?;
        float_rows(place, &mb)?;
        let repeats = ma.ne.iter().zip(&mb.ne).all(|(a, b)| a.is_multiple_of(*b));
        ensure!(place, repeats, "{:?} does not repeat over {:?}", mb.ne, ma.ne);
        let (context, ra, rb) = (self.ready(1)?, self.raw(a)?, self.raw(b)?);
        // SAFETY: both are f32, the second repeats over the first, and the arena has room.
        let made = unsafe { f(context, ra, rb) };
        self.made(place, made, false)
    }

    /// `a + b`, with `b` repeated over `a`.
    /// # Errors `Invalid` unless both are f32 and `b` repeats.
    pub fn add(&mut self, a: T, b: T) -> Result<T> {
        self.binary("add", sys::ggml_add, a, b)
    }

    /// `a · b`, likewise.
    /// # Errors As [`Self::add`].
    pub fn mul(&mut self, a: T, b: T) -> Result<T> {
        self.binary("mul", sys::ggml_mul, a, b)
    }

    /// `a / b`, likewise.
    /// # Errors As [`Self::add`].
    pub fn div(&mut self, a: T, b: T) -> Result<T> {
        self.binary("div", sys::ggml_div, a, b)
    }

    /// Adds row `ids[i, t]` of `b` to `a[:, i, t]`.
    /// # Errors `Invalid` unless shapes fit: `a` `[n, k, t]`, `b` `[n, m]`, `ids` `[k, t]`.
    pub fn add_id(&mut self, a: T, b: T, ids: T) -> Result<T> {
        let (ma, mb, mi) = (self.meta(a)?, self.meta(b)?, self.meta(ids)?);
        float_rows("add_id", &ma)?;
        float_rows("add_id", &mb)?;
        let fits = ma.ne[0] == mb.ne[0] && ma.ne[1] == mi.ne[0] && ma.ne[2] == mi.ne[1] && mi.ty == Type::I32;
        ensure!("add_id", fits, "{:?}, {:?}, ids {:?}", ma.ne, mb.ne, mi.ne);
        self.ensure_below("add_id", ids, mb.ne[1])?;
        let (context, ra, rb, ri) = (self.ready(1)?, self.raw(a)?, self.raw(b)?, self.raw(ids)?);
        // SAFETY: types and shapes fit (checked above), and the arena has room.
        let made = unsafe { sys::ggml_add_id(context, ra, rb, ri) };
        self.made("add_id", made, false)
    }

    /// `a · factor`.
    /// # Errors `Invalid` unless `a` is contiguous f32.
    pub fn scale(&mut self, a: T, factor: f32) -> Result<T> {
        floats("scale", &self.meta(a)?)?;
        let (context, ra) = (self.ready(1)?, self.raw(a)?);
        // SAFETY: contiguous f32 (checked above), and the arena has room.
        let made = unsafe { sys::ggml_scale(context, ra, factor) };
        self.made("scale", made, false)
    }

    /// `min(max(a, low), high)`; NaN becomes `high`.
    /// # Errors `Invalid` unless `a` has rows of f32 and `low <= high`.
    pub fn clamp(&mut self, a: T, low: f32, high: f32) -> Result<T> {
        float_rows("clamp", &self.meta(a)?)?;
        ensure!("clamp", low <= high, "bounds {low} and {high}");
        let (context, ra) = (self.ready(1)?, self.raw(a)?);
        // SAFETY: rows of f32 (checked above), and the arena has room.
        let made = unsafe { sys::ggml_clamp(context, ra, low, high) };
        self.made("clamp", made, false)
    }

    /// `f(a)`.
    /// # Errors `Invalid` unless `a` is contiguous f32.
    pub fn unary(&mut self, f: Unary, a: T) -> Result<T> {
        floats("unary", &self.meta(a)?)?;
        let op = match f {
            Unary::Silu => sys::GGML_UNARY_OP_SILU,
            Unary::Gelu => sys::GGML_UNARY_OP_GELU,
            Unary::Relu => sys::GGML_UNARY_OP_RELU,
            Unary::Sigmoid => sys::GGML_UNARY_OP_SIGMOID,
            Unary::Tanh => sys::GGML_UNARY_OP_TANH,
        };
        let (context, ra) = (self.ready(1)?, self.raw(a)?);
        // SAFETY: contiguous f32 (checked above), and the arena has room.
        let made = unsafe { sys::ggml_unary(context, ra, op) };
        self.made("unary", made, false)
    }

    /// `a²`.
    /// # Errors `Invalid` unless `a` is contiguous f32.
    pub fn sqr(&mut self, a: T) -> Result<T> {
        floats("sqr", &self.meta(a)?)?;
        let (context, ra) = (self.ready(1)?, self.raw(a)?);
        // SAFETY: contiguous f32 (checked above), and the arena has room.
        let made = unsafe { sys::ggml_sqr(context, ra) };
        self.made("sqr", made, false)
    }

    /// The learned xIELU with its parameters as stored (before the softplus).
    /// # Errors `Invalid` unless `a` is contiguous f32.
    pub fn xielu(&mut self, a: T, alpha_n: f32, alpha_p: f32, beta: f32, eps: f32) -> Result<T> {
        floats("xielu", &self.meta(a)?)?;
        let (context, ra) = (self.ready(1)?, self.raw(a)?);
        // SAFETY: contiguous f32 (checked above), and the arena has room.
        let made = unsafe { sys::ggml_xielu(context, ra, alpha_n, alpha_p, beta, eps) };
        self.made("xielu", made, false)
    }

    /// `f(gate)·up`.
    /// # Errors `Invalid` unless both have the same shape and rows of f32.
    pub fn gated(&mut self, f: Gated, gate: T, up: T) -> Result<T> {
        let (mg, mu) = (self.meta(gate)?, self.meta(up)?);
        for m in [&mg, &mu] {
            ensure!(
                "gated",
                m.ty == Type::F32 && m.has_contiguous_rows() && m.is_packed_above(2),
                "{:?} of {:?}",
                m.ty,
                m.ne
            );
        }
        ensure!("gated", mg.ne == mu.ne, "gate {:?} and up {:?}", mg.ne, mu.ne);
        let (context, rg, ru) = (self.ready(1)?, self.raw(gate)?, self.raw(up)?);
        // SAFETY: equal shapes of f32 with contiguous rows (checked above), and the arena has room.
        let made = unsafe {
            match f {
                Gated::Silu => sys::ggml_swiglu_split(context, rg, ru),
                Gated::Gelu => sys::ggml_geglu_split(context, rg, ru),
                Gated::Relu => sys::ggml_reglu_split(context, rg, ru),
                Gated::SwigluOai { alpha, limit } => sys::ggml_swiglu_oai(context, rg, ru, alpha, limit),
            }
        };
        self.made("gated", made, false)
    }

    /// `f(a[..n/2])·a[n/2..]` for each row; not for [`Gated::SwigluOai`].
    /// # Errors `Invalid` unless rows are f32 of even length.
    pub fn gated_halves(&mut self, f: Gated, a: T) -> Result<T> {
        let m = self.meta(a)?;
        floats("gated_halves", &m)?;
        ensure!("gated_halves", m.ne[0].is_multiple_of(2), "rows of {}", m.ne[0]);
        let (context, ra) = (self.ready(1)?, self.raw(a)?);
        // SAFETY: contiguous f32 of even length (checked above), and the arena has room.
        let made = unsafe {
            match f {
                Gated::Silu => sys::ggml_swiglu(context, ra),
                Gated::Gelu => sys::ggml_geglu(context, ra),
                Gated::Relu => sys::ggml_reglu(context, ra),
                Gated::SwigluOai { .. } => {
                    return Err(crate::Error::unsupported("gated_halves", "not for this function"));
                }
            }
        };
        self.made("gated_halves", made, false)
    }

    /// `x / sqrt(mean(x²) + eps)` for each row.
    /// # Errors `Invalid` unless rows are f32 and `eps >= 0`.
    pub fn rms_norm(&mut self, a: T, eps: f32) -> Result<T> {
        float_rows("rms_norm", &self.meta(a)?)?;
        ensure!("rms_norm", eps >= 0.0, "eps {eps}");
        let (context, ra) = (self.ready(1)?, self.raw(a)?);
        // SAFETY: rows of f32 and eps >= 0 (checked above), and the arena has room.
        let made = unsafe { sys::ggml_rms_norm(context, ra, eps) };
        self.made("rms_norm", made, false)
    }

    /// `(x − mean) / sqrt(var + eps)` for each row.
    /// # Errors As [`Self::rms_norm`].
    pub fn norm(&mut self, a: T, eps: f32) -> Result<T> {
        float_rows("norm", &self.meta(a)?)?;
        ensure!("norm", eps >= 0.0, "eps {eps}");
        let (context, ra) = (self.ready(1)?, self.raw(a)?);
        // SAFETY: rows of f32 and eps >= 0 (checked above), and the arena has room.
        let made = unsafe { sys::ggml_norm(context, ra, eps) };
        self.made("norm", made, false)
    }

    /// Sum of each row.
    /// # Errors `Invalid` unless rows are f32.
    pub fn sum_rows(&mut self, a: T) -> Result<T> {
        float_rows("sum_rows", &self.meta(a)?)?;
        let (context, ra) = (self.ready(1)?, self.raw(a)?);
        // SAFETY: rows of f32 (checked above), and the arena has room.
        let made = unsafe { sys::ggml_sum_rows(context, ra) };
        self.made("sum_rows", made, false)
    }

    /// Softmax of each row.
    /// # Errors `Invalid` unless `a` is contiguous f32.
    pub fn soft_max(&mut self, a: T) -> Result<T> {
        floats("soft_max", &self.meta(a)?)?;
        let (context, ra) = (self.ready(1)?, self.raw(a)?);
        // SAFETY: contiguous f32 (checked above), and the arena has room.
        let made = unsafe { sys::ggml_soft_max(context, ra) };
        self.made("soft_max", made, false)
    }

    /// Indices of the `k` largest values of each row, largest first. NaN counts as the largest.
    /// # Errors `Invalid` unless `a` is contiguous f32 with at least `k` values a row.
    pub fn top_k(&mut self, a: T, k: usize) -> Result<T> {
        let m = self.meta(a)?;
        floats("top_k", &m)?;
        ensure!("top_k", (1..=m.ne[0]).contains(&k), "{k} of {}", m.ne[0]);
        // NaN would break the order that the sort relies on, which is undefined behaviour there.
        let ordered = self.clamp(a, -f32::MAX, f32::MAX)?;
        let (context, ra) = (self.ready(2)?, self.raw(ordered)?);
        // SAFETY: contiguous f32 without NaN, k within a row (checked above), and the arena has room.
        let made = unsafe { sys::ggml_argsort_top_k(context, ra, k as i32) };
        ensure!("top_k", !made.is_null(), "the arena is full");
        // SAFETY: a view over the sorted indices, which are a tensor that the graph has to count too.
        if let Some(sorted) = std::ptr::NonNull::new(unsafe { (*made).src[0] }) {
            self.adopt(sorted, false)?;
        }
        let indices = self.made("top_k", made, false)?;
        self.set_bound(indices, m.ne[0]);
        Ok(indices)
    }

    /// Rows `ids` of `a` as f32.
    /// # Errors `Invalid` unless shapes fit: `a` `[n, m, x, y]`, `ids` `[k, x, y]` of i32 known to be below `m`
    /// (an index input with that bound, or a result of [`Self::top_k`]).
    pub fn get_rows(&mut self, a: T, ids: T) -> Result<T> {
        let (ma, mi) = (self.meta(a)?, self.meta(ids)?);
        let fits = ma.ne[2] == mi.ne[1] && ma.ne[3] == mi.ne[2] && mi.ne[3] == 1 && mi.ty == Type::I32;
        ensure!("get_rows", fits, "{:?} by {:?} {:?}", ma.ne, mi.ty, mi.ne);
        ensure!("get_rows", ma.has_contiguous_rows(), "rows are not contiguous");
        self.ensure_below("get_rows", ids, ma.ne[1])?;
        if !ma.ty.has_rows() {
            return Err(crate::Error::unsupported("get_rows", format!("rows of {:?}", ma.ty)));
        }
        let (context, ra, ri) = (self.ready(1)?, self.raw(a)?, self.raw(ids)?);
        // SAFETY: types and shapes fit (checked above), and the arena has room.
        let made = unsafe { sys::ggml_get_rows(context, ra, ri) };
        self.made("get_rows", made, false)
    }

    /// Writes the rows of `rows` to the rows `ids` (i64) of `to`, which lies in a cache. Returns `to` after it.
    /// # Errors `Invalid` unless `to` is writable and shapes fit; `Unsupported` when floats cannot be stored
    /// as its type.
    pub fn set_rows(&mut self, to: T, rows: T, ids: T) -> Result<T> {
        let (mt, mr, mi) = (self.meta(to)?, self.meta(rows)?, self.meta(ids)?);
        ensure!("set_rows", self.is_writable(to)?, "the target is read only");
        float_rows("set_rows", &mr)?;
        let fits = mt.ne[0] == mr.ne[0] && mr.ne[1] == mi.ne[0] && mi.ty == Type::I64;
        let flat = [&mt, &mr, &mi].iter().all(|m| m.ne[2] == 1 && m.ne[3] == 1);
        ensure!("set_rows", fits && flat && mi.ne[1] == 1, "{:?} to {:?} by {:?}", mr.ne, mt.ne, mi.ne);
        ensure!("set_rows", mt.is_contiguous() && mi.is_contiguous(), "the target is not contiguous");
        self.ensure_below("set_rows", ids, mt.ne[1])?;
        if !mt.ty.has_from_float() && mt.ty != Type::F32 {
            return Err(crate::Error::unsupported(
                "set_rows",
                format!("rows cannot be stored as {:?}", mt.ty),
            ));
        }
        let (context, rt, rr, ri) = (self.ready(1)?, self.raw(to)?, self.raw(rows)?, self.raw(ids)?);
        // SAFETY: types and shapes fit (checked above), and the arena has room.
        let made = unsafe { sys::ggml_set_rows(context, rt, rr, ri) };
        self.made("set_rows", made, true)
    }

    /// A contiguous copy.
    /// # Errors `Invalid` unless `a` is f32 or f16.
    pub fn cont(&mut self, a: T) -> Result<T> {
        let ty = self.meta(a)?.ty;
        ensure!("cont", ty == Type::F32 || ty == Type::F16, "a copy of {ty:?}");
        let (context, ra) = (self.ready(1)?, self.raw(a)?);
        // SAFETY: floats of any strides, and the arena has room.
        let made = unsafe { sys::ggml_cont(context, ra) };
        self.made("cont", made, false)
    }

    /// `a` with other dimensions.
    /// # Errors `Invalid` unless `a` is contiguous and the number of values stays.
    pub fn reshape(&mut self, a: T, dims: [usize; 4]) -> Result<T> {
        let m = self.meta(a)?;
        let same = dims.iter().product::<usize>() == m.ne.iter().product::<usize>();
        ensure!("reshape", same && dims[0].is_multiple_of(m.ty.block_values()), "{:?} to {dims:?}", m.ne);
        ensure!("reshape", m.is_contiguous(), "{:?} is not contiguous", m.ne);
        let (context, ra, writable) = (self.ready(1)?, self.raw(a)?, self.is_writable(a)?);
        let ne = dims.map(|n| n as i64);
        // SAFETY: contiguous with the same number of values (checked above), and the arena has room.
        let made = unsafe { sys::ggml_reshape_4d(context, ra, ne[0], ne[1], ne[2], ne[3]) };
        self.made("reshape", made, writable)
    }

    /// `a` with dimension `i` moved to place `axes[i]`.
    /// # Errors `Invalid` unless `axes` is a permutation.
    pub fn permute(&mut self, a: T, axes: [usize; 4]) -> Result<T> {
        let mut seen = [false; 4];
        axes.iter().filter_map(|i| seen.get_mut(*i).map(|s| *s = true)).count();
        ensure!("permute", seen.iter().all(|s| *s), "axes {axes:?}");
        let (context, ra, writable) = (self.ready(1)?, self.raw(a)?, self.is_writable(a)?);
        let i = axes.map(|i| i as i32);
        // SAFETY: a permutation (checked above), and the arena has room.
        let made = unsafe { sys::ggml_permute(context, ra, i[0], i[1], i[2], i[3]) };
        self.made("permute", made, writable)
    }
}
