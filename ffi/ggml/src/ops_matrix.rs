//! Products, rotary positions and attention.

use crate::{Error, Graph, Result, T, Type, error::ensure, sys};

/// Which dimensions of a head form a rotating pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeMode {
    /// `(2i, 2i+1)`.
    Adjacent,
    /// `(i, i + n/2)`.
    Halves,
}

/// Parameters of a rotary embedding, as `ggml_rope_ext` takes them.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "names are ggml's own")]
pub struct Rope {
    pub n_dims: usize,
    pub mode: RopeMode,
    pub n_ctx_orig: usize,
    pub freq_base: f32,
    pub freq_scale: f32,
    pub ext_factor: f32,
    pub attn_factor: f32,
    pub beta_fast: f32,
    pub beta_slow: f32,
}

/// Parameters of attention: `softmax(cap(scale·q·k) + mask)·v`.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Factor on `q·k`.
    pub scale: f32,
    /// `s = c·tanh(s/c)`; 0.0: not at all.
    pub softcap: f32,
    /// One extra logit for each head in the denominator, `[n_head]` f32.
    pub sinks: Option<T>,
}

impl Graph {
    /// `y[o, i] = Σ w[·, o]·x[·, i]`: `w` `[n, n_out, …]` of any type with a dot product, `x` `[n, m, …]` of f32.
    /// Higher dimensions of `w` repeat over those of `x`.
    /// # Errors `Invalid` when shapes do not fit; `Unsupported` for the type.
    pub fn mul_mat(&mut self, w: T, x: T) -> Result<T> {
        let (mw, mx) = (self.meta(w)?, self.meta(x)?);
        let fits = mw.ne[0] == mx.ne[0] && (2..4).all(|i| mx.ne[i].is_multiple_of(mw.ne[i]));
        ensure!("mul_mat", fits && mx.ty == Type::F32, "{:?} by {:?} {:?}", mw.ne, mx.ty, mx.ne);
        ensure!(
            "mul_mat",
            mx.has_contiguous_rows() && mw.has_contiguous_rows() && !mw.is_transposed(),
            "rows are not contiguous"
        );
        self.ensure_dot("mul_mat", mw.ty)?;
        let (context, rw, rx) = (self.ready(1)?, self.raw(w)?, self.raw(x)?);
        // SAFETY: types and shapes fit (checked above), and the arena has room.
        let made = unsafe { sys::ggml_mul_mat(context, rw, rx) };
        self.made("mul_mat", made, false)
    }

    fn ensure_dot(&self, place: &'static str, ty: Type) -> Result<()> {
        if self.device().kind() == crate::DeviceKind::Cpu && !ty.has_dot() {
            return Err(Error::unsupported(place, format!("no dot product for {ty:?}")));
        }
        Ok(())
    }

    /// Products with chosen matrices: `y[o, k, t] = Σ w[·, o, ids[k, t]]·x[·, k or 0, t]`.
    /// `w` `[n, n_out, n_expert]`, `x` `[n, 1 or k, t]`, `ids` `[k, t]`.
    /// # Errors As [`Self::mul_mat`].
    pub fn mul_mat_id(&mut self, w: T, x: T, ids: T) -> Result<T> {
        let (mw, mx, mi) = (self.meta(w)?, self.meta(x)?, self.meta(ids)?);
        let flat = mw.ne[3] == 1 && mx.ne[3] == 1 && mi.ne[2] == 1 && mi.ne[3] == 1;
        let fits = mi.ne[1] == mx.ne[2] && mw.ne[0] == mx.ne[0] && mi.ne[0].is_multiple_of(mx.ne[1]);
        ensure!("mul_mat_id", flat && fits, "{:?} by {:?} with {:?}", mw.ne, mx.ne, mi.ne);
        let types = mx.ty == Type::F32 && mi.ty == Type::I32;
        ensure!(
            "mul_mat_id",
            types && mx.is_contiguous() && mw.has_contiguous_rows() && !mw.is_transposed(),
            "rows are not contiguous f32"
        );
        self.ensure_below("mul_mat_id", ids, mw.ne[2])?;
        self.ensure_dot("mul_mat_id", mw.ty)?;
        let (context, rw, rx, ri) = (self.ready(1)?, self.raw(w)?, self.raw(x)?, self.raw(ids)?);
        // SAFETY: types, shapes and indices fit (checked above), and the arena has room.
        let made = unsafe { sys::ggml_mul_mat_id(context, rw, rx, ri) };
        self.made("mul_mat_id", made, false)
    }

    /// Turns the heads of `x` `[n_head_dim, n_head, t]` by their `positions` `[t]` (i32).
    /// `factors`: divisors of each frequency, `[n_dims/2]` f32.
    /// # Errors `Invalid` when shapes or parameters do not fit.
    pub fn rope(&mut self, x: T, positions: T, factors: Option<T>, p: &Rope) -> Result<T> {
        let (mx, mp) = (self.meta(x)?, self.meta(positions)?);
        ensure!("rope", mx.ty == Type::F32 && mx.has_contiguous_rows(), "{:?} of {:?}", mx.ty, mx.ne);
        ensure!(
            "rope",
            mp.ty == Type::I32 && mp.ne == [mx.ne[2], 1, 1, 1] && mp.is_contiguous(),
            "positions {:?} for {:?}",
            mp.ne,
            mx.ne
        );
        let dims =
            p.n_dims.is_multiple_of(2) && (2..=mx.ne[0]).contains(&p.n_dims) && mx.ne[0].is_multiple_of(2);
        ensure!(
            "rope",
            dims && i32::try_from(p.n_ctx_orig).is_ok(),
            "{} of {} dimensions",
            p.n_dims,
            mx.ne[0]
        );
        if let Some(f) = factors {
            let m = self.meta(f)?;
            ensure!(
                "rope",
                m.ty == Type::F32 && m.ne[0] >= p.n_dims / 2 && m.is_contiguous(),
                "factors {:?} of {:?}",
                m.ty,
                m.ne
            );
        }
        let mode = match p.mode {
            RopeMode::Adjacent => 0,
            RopeMode::Halves => 2, // GGML_ROPE_TYPE_NEOX
        };
        let rf = factors.map_or(Ok(std::ptr::null_mut()), |f| self.raw(f))?;
        let (context, rx, rp) = (self.ready(1)?, self.raw(x)?, self.raw(positions)?);
        // SAFETY: types, shapes and parameters fit (checked above), and the arena has room.
        let made = unsafe {
            sys::ggml_rope_ext(
                context,
                rx,
                rp,
                rf,
                p.n_dims as i32,
                mode,
                p.n_ctx_orig as i32,
                p.freq_base,
                p.freq_scale,
                p.ext_factor,
                p.attn_factor,
                p.beta_fast,
                p.beta_slow,
            )
        };
        self.made("rope", made, false)
    }

    /// Attention without storing scores. `q` `[d_k, t, n_head]` f32, `k` `[d_k, m, n_head_kv]`,
    /// `v` `[d_v, m, n_head_kv]`, `mask` `[m, t]` f16, added to scores. Result `[d_v, n_head, t]`.
    /// # Errors `Invalid` when shapes do not fit; `Unsupported` for the types.
    pub fn flash_attention(&mut self, q: T, k: T, v: T, mask: T, p: &Attention) -> Result<T> {
        let (mq, mk, mv, mm) = (self.meta(q)?, self.meta(k)?, self.meta(v)?, self.meta(mask)?);
        let heads = mq.ne[2].is_multiple_of(mk.ne[2]) && mk.ne[2] == mv.ne[2];
        let fits = heads
            && mq.ne[0] == mk.ne[0]
            && mk.ne[1] == mv.ne[1]
            && [&mq, &mk, &mv].iter().all(|m| m.ne[3] == 1);
        ensure!("flash_attention", fits && mq.ty == Type::F32, "{:?}, {:?}, {:?}", mq.ne, mk.ne, mv.ne);
        let masked = mm.ty == Type::F16 && mm.ne == [mk.ne[1], mq.ne[1], 1, 1] && mm.is_contiguous();
        ensure!("flash_attention", masked, "mask {:?} of {:?} for {:?} by {:?}", mm.ty, mm.ne, mq.ne, mk.ne);
        ensure!(
            "flash_attention",
            [&mq, &mk, &mv].iter().all(|m| m.has_contiguous_rows()),
            "rows are not contiguous"
        );
        self.ensure_dot("flash_attention", mk.ty)?;
        self.ensure_dot("flash_attention", mv.ty)?;
        let sinks = p.sinks.map_or(Ok(std::ptr::null_mut()), |s| self.sinks_for(s, mq.ne[2]))?;
        let (context, rq, rk, rv, rm) =
            (self.ready(1)?, self.raw(q)?, self.raw(k)?, self.raw(v)?, self.raw(mask)?);
        // SAFETY: types and shapes fit (checked above), and the arena has room.
        let made = unsafe {
            let made = sys::ggml_flash_attn_ext(context, rq, rk, rv, rm, p.scale, 0.0, p.softcap);
            if !made.is_null() {
                sys::ggml_flash_attn_ext_add_sinks(made, sinks);
                sys::ggml_prec_set_acc(made, sys::GGML_PREC_F32);
            }
            made
        };
        self.made("flash_attention", made, false)
    }

    fn sinks_for(&self, sinks: T, n_head: usize) -> Result<*mut sys::ggml_tensor> {
        let m = self.meta(sinks)?;
        ensure!(
            "attention",
            m.ty == Type::F32 && m.ne == [n_head, 1, 1, 1],
            "sinks {:?} of {:?} for {n_head} heads",
            m.ty,
            m.ne
        );
        self.raw(sinks)
    }

    /// `softmax(scale·a + mask)` of each row with an extra logit for each head (dimension 2).
    /// `a` `[m, t, n_head]` f32, `mask` `[m, t]` f16.
    /// # Errors `Invalid` when shapes do not fit.
    pub fn masked_soft_max(&mut self, a: T, mask: T, scale: f32, sinks: Option<T>) -> Result<T> {
        let (ma, mm) = (self.meta(a)?, self.meta(mask)?);
        ensure!(
            "masked_soft_max",
            ma.ty == Type::F32 && ma.is_contiguous() && ma.ne[3] == 1,
            "{:?} of {:?}",
            ma.ty,
            ma.ne
        );
        let masked = mm.ty == Type::F16 && mm.ne == [ma.ne[0], ma.ne[1], 1, 1] && mm.is_contiguous();
        ensure!("masked_soft_max", masked, "mask {:?} of {:?} for {:?}", mm.ty, mm.ne, ma.ne);
        let sinks = sinks.map_or(Ok(std::ptr::null_mut()), |s| self.sinks_for(s, ma.ne[2]))?;
        let (context, ra, rm) = (self.ready(1)?, self.raw(a)?, self.raw(mask)?);
        // SAFETY: types and shapes fit (checked above), and the arena has room.
        let made = unsafe {
            let made = sys::ggml_soft_max_ext(context, ra, rm, scale, 0.0);
            if !made.is_null() {
                sys::ggml_soft_max_add_sinks(made, sinks);
            }
            made
        };
        self.made("masked_soft_max", made, false)
    }
}
