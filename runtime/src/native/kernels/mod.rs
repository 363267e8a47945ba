//! Kernels of the native executor, chosen at run time for the processor's instruction set.
//!
//! Why: ggml reads packed weights anew for every activation row and sums across lanes after every block;
//! here lanes are output rows, so nothing is summed across lanes and weights are unpacked once for all rows.
//! Cost: a group of 16 rows is the smallest unit of work. It loses where a matrix has only a few rows (a
//! router with eight experts uses half of each vector).
//!
//! `simd` is the machine, `format` and `float` are the stored types, `matmul` the products, `vector` and
//! `attention` the rest; `scalar` is the naive twin that the tests compare with.

mod acts;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod dot;
mod float;
#[cfg(feature = "ggml")]
mod foreign;
mod format;
mod kv8;
mod matmul;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod probe;
mod scalar;
mod simd;
#[cfg(test)]
mod tests;
mod vector;

use crate::gguf::GgmlType;
use std::marker::PhantomData;

pub use acts::{BLOCK, Quantize, record_bytes};
pub use attention::{AttendPage, Finish, HeadShape, QuantizeQuery, Query, State, StoreCell, Turn};
pub use kv8::{PackCell, Unpack as UnpackPage, packed_page_bytes};
pub use matmul::{GROUP, Group, Rows, panel_bytes};
pub use probe::{Dots, Read};
pub use simd::{Op, Simd};
pub use vector::{
    Activate, ActivateInPlace, AddScaled, Dot, Normalise, NormaliseInPlace, PutTile, ScaleCap, Sigmoid,
    Softmax,
};

/// The instruction set kernels run on.
#[derive(Clone, Copy, Debug)]
pub struct Isa(Kind);

#[derive(Clone, Copy, Debug)]
enum Kind {
    Portable,
    Vector(Vector),
}

/// A vector instruction set this processor has.
#[derive(Clone, Copy, Debug)]
enum Vector {
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon<false>),
    #[cfg(target_arch = "aarch64")]
    NeonDot(neon::Neon<true>),
}

impl Vector {
    /// All this processor has, the best last.
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        all.extend(avx2::Avx2::detect().map(Self::Avx2));
        #[cfg(target_arch = "x86_64")]
        all.extend(avx512::Avx512::detect().map(Self::Avx512));
        #[cfg(target_arch = "aarch64")]
        all.extend(neon::Neon::detect().map(Self::Neon));
        #[cfg(target_arch = "aarch64")]
        all.extend(neon::Neon::detect().map(Self::NeonDot));
        all
    }

    /// There are registers for eight rows of activations side by side.
    fn has_many_registers(self) -> bool {
        struct Ask;
        impl Op for Ask {
            type Out = bool;
            fn run<S: simd::Simd>(self, _: S) -> bool {
                S::TOGETHER
            }
        }
        self.run(Ask)
    }

    fn run<O: Op>(self, op: O) -> O::Out {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(s) => s.vectorize(op),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(s) => s.vectorize(op),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(s) => s.vectorize(op),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot(s) => s.vectorize(op),
        }
    }
}

impl Isa {
    /// The best this processor has.
    pub fn detect() -> Self {
        Self(Vector::all().pop().map_or(Kind::Portable, Kind::Vector))
    }

    /// All this processor has, the best last.
    pub fn all() -> Vec<Self> {
        let vectors = Vector::all().into_iter().map(|v| Self(Kind::Vector(v)));
        std::iter::once(Self(Kind::Portable)).chain(vectors).collect()
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Vector(Vector::Avx2(_)) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Vector(Vector::Avx512(_)) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Kind::Vector(Vector::Neon(_)) => "neon",
            #[cfg(target_arch = "aarch64")]
            Kind::Vector(Vector::NeonDot(_)) => "neon+dotprod",
        }
    }

    /// Runs `op` compiled for this instruction set.
    pub fn run<O: Op>(self, op: O) -> O::Out {
        match self.0 {
            Kind::Portable => portable::Portable.vectorize(op),
            Kind::Vector(v) => v.run(op),
        }
    }
}

/// Who computes a product.
#[derive(Clone, Copy, Debug)]
enum Run {
    Own(fn(Vector, Group<'_>)),
    #[cfg(feature = "ggml")]
    Foreign(truing_ggml::Kernel),
}

/// The product of one weight type, and the activations it reads.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    ty: GgmlType,
    run: Run,
    /// Activations are records of [`Quantize`]; else they are f32 rows.
    pub quantised: bool,
}

impl Kernel {
    /// The kernel of a weight type; `None` if there is none here.
    pub fn of(ty: GgmlType) -> Option<Self> {
        use GgmlType as T;
        let quantised = |run| Some(Self { ty, run: Run::Own(run), quantised: true });
        let float = |run| Some(Self { ty, run: Run::Own(run), quantised: false });
        match ty {
            T::F32 => float(float_group::<float::F32>),
            T::F16 => float(float_group::<float::F16>),
            T::BF16 => float(float_group::<float::Bf16>),
            T::Q4_0 => quantised(quantised_group::<format::Q4_0>),
            T::Q4_1 => quantised(quantised_group::<format::Q4_1>),
            T::Q5_0 => quantised(quantised_group::<format::Q5_0>),
            T::Q5_1 => quantised(quantised_group::<format::Q5_1>),
            T::Q8_0 => quantised(quantised_group::<format::Q8_0>),
            T::Q2_K => quantised(quantised_group::<format::Q2K>),
            T::Q3_K => quantised(quantised_group::<format::Q3K>),
            T::Q4_K => quantised(quantised_group::<format::Q4K>),
            T::Q5_K => quantised(quantised_group::<format::Q5K>),
            T::Q6_K => quantised(quantised_group::<format::Q6K>),
            T::IQ4_NL => quantised(quantised_group::<format::Iq4Nl>),
            T::IQ4_XS => quantised(quantised_group::<format::Iq4Xs>),
            T::MXFP4 => quantised(quantised_group::<format::Mxfp4>),
            _ => Self::foreign(ty),
        }
    }

    /// ggml's own product, where this build has it.
    fn foreign(ty: GgmlType) -> Option<Self> {
        #[cfg(feature = "ggml")]
        return foreign::kernel(ty).map(|k| Self { ty, run: Run::Foreign(k), quantised: false });
        #[cfg(not(feature = "ggml"))]
        {
            let _ = ty;
            None
        }
    }

    /// Fills the group's tile. Panics if its slices are shorter than they must be.
    pub fn run(self, isa: Isa, group: Group<'_>) {
        match (self.run, isa.0) {
            #[cfg(feature = "ggml")]
            (Run::Foreign(kernel), _) => foreign::group(kernel, group),
            // The products of all types take much code; plain Rust has the scalar twin alone.
            (Run::Own(_), Kind::Portable) => scalar::group(self.ty, group),
            (Run::Own(run), Kind::Vector(v)) => run(v, group),
        }
    }
}

/// Stored values as f32; false if the type has no kernel here or lengths differ.
pub fn dequantize_row(ty: GgmlType, row: &[u8], out: &mut [f32]) -> bool {
    if scalar::dequantize_row(ty, row, out) {
        return true;
    }
    #[cfg(feature = "ggml")]
    return foreign::dequantize_row(ty, row, out);
    #[cfg(not(feature = "ggml"))]
    false
}

fn quantised_group<F: format::Format>(v: Vector, mut group: Group<'_>) {
    match group.rows.len() {
        1 => v.run(matmul::Straight::<F, 1>(group, PhantomData)),
        2..=4 if v.has_many_registers() => v.run(matmul::Straight::<F, 4>(group, PhantomData)),
        5..=8 if v.has_many_registers() => v.run(matmul::Straight::<F, 8>(group, PhantomData)),
        _ => {
            v.run(matmul::Unpack::<F>(&mut group, PhantomData));
            v.run(matmul::FromPanel::<F::Shape> { group, shift: F::SHIFT, shape: PhantomData });
        }
    }
}

fn float_group<W: float::Float>(v: Vector, group: Group<'_>) {
    v.run(float::Floats::<W>(group, PhantomData));
}
