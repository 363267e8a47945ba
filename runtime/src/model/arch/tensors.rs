//! Tensors by name, checked for shape and type.

use super::Need;
use crate::error::Result;
use crate::gguf::{GgmlType, GgufFile, Tensor};

/// What a tensor is for; decides which types it may have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Multiplied with activations, or looked up in rows: any float or block type.
    Matrix,
    /// Gains, biases and the like, read value by value.
    Vector,
    /// Read by arithmetic that knows `f32` only.
    F32,
}

impl Role {
    fn allows(self, ty: GgmlType) -> bool {
        use GgmlType::*;
        match self {
            Role::Matrix => !matches!(ty, I8 | I16 | I32 | I64 | F64 | Q8_1 | Q8_K),
            Role::Vector => matches!(ty, F32 | F16 | BF16),
            Role::F32 => ty == F32,
        }
    }

    fn types(self) -> &'static str {
        match self {
            Role::Matrix => "a float or block type",
            Role::Vector => "F32, F16 or BF16",
            Role::F32 => "F32",
        }
    }
}

/// The tensors of one file.
#[derive(Clone, Copy)]
pub(super) struct Tensors<'a> {
    pub(super) file: &'a GgufFile,
}

impl Tensors<'_> {
    /// The tensor, which must be there, with dimensions `dims` (contiguous one first).
    pub(super) fn need(&self, name: &str, dims: &[usize], role: Role) -> Result<Tensor> {
        self.maybe(name, dims, role)?.ok_or_else(|| {
            self.file.bad_tensor(name, format!("missing tensor: expected one of shape {dims:?}"))
        })
    }

    /// The tensor, if it is there.
    pub(super) fn maybe(&self, name: &str, dims: &[usize], role: Role) -> Result<Option<Tensor>> {
        let Some(tensor) = self.file.tensor(name) else { return Ok(None) };
        let padded = |i: usize| dims.get(i).copied().unwrap_or(1);
        if (0..4).any(|i| tensor.dims[i] != padded(i)) {
            let n = 4 - tensor.dims.iter().rev().take_while(|d| **d == 1).count().min(3);
            let found = &tensor.dims[..n.max(dims.len().min(4))];
            return Err(self.file.bad_tensor(name, format!("expected shape {dims:?}, found {found:?}")));
        }
        if !role.allows(tensor.ty) {
            let message = format!("expected type {}, found {}", role.types(), tensor.ty);
            return Err(self.file.bad_tensor(name, message));
        }
        Ok(Some(tensor.clone()))
    }

    /// As `need` says.
    pub(super) fn get(&self, name: &str, dims: &[usize], role: Role, need: Need) -> Result<Option<Tensor>> {
        match need {
            Need::No => Ok(None),
            Need::Maybe => self.maybe(name, dims, role),
            Need::Yes => self.need(name, dims, role).map(Some),
        }
    }

    /// The one value of `name`, 1.0 if it is not there.
    pub(super) fn factor(&self, name: &str) -> Result<f32> {
        let Some(tensor) = self.maybe(name, &[1], Role::F32)? else { return Ok(1.0) };
        let value = first_f32(&tensor);
        if value.is_finite() {
            return Ok(value);
        }
        Err(self.file.bad_tensor(name, format!("expected a finite factor, found {value}")))
    }

    /// Divisors of rotary frequencies: each finite and above 0.
    pub(super) fn freq_factors(&self, name: &str, n: usize) -> Result<Option<Tensor>> {
        let Some(tensor) = self.maybe(name, &[n], Role::F32)? else { return Ok(None) };
        let sound = |b: &[u8; 4]| f32::from_le_bytes(*b).is_finite() && f32::from_le_bytes(*b) > 0.0;
        if tensor.data.as_chunks().0.iter().all(sound) {
            return Ok(Some(tensor));
        }
        Err(self.file.bad_tensor(name, "expected finite rope factors above 0"))
    }
}

fn first_f32(tensor: &Tensor) -> f32 {
    tensor.data.first_chunk().map_or(f32::NAN, |b| f32::from_le_bytes(*b))
}
