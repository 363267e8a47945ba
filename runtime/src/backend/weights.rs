//! A model's tensors as the graph wants them.

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::gguf::{Bytes, Tensor};
use crate::model::spec::{Attention, DenseFfn, Ffn, HeadNorm, Linear, ModelSpec, MoeFfn, Norm, Qkv};
use rustc_hash::FxHashMap;
use std::sync::Arc;
use truing_ggml::{Device, Mapping, Placement, Type, WeightSource, Weights};

/// What a tensor is used for; the same tensor may be loaded for two uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Use {
    /// Rows are looked up.
    Rows,
    /// The left side of a product.
    Product,
    /// Gains, biases and the like: always f32, as ggml's elementwise operations want it.
    Vector,
}

/// Loaded tensors, found by name and use.
pub(super) struct ModelWeights {
    pub(super) weights: Weights,
    index: FxHashMap<(Arc<str>, Use), usize>,
}

// SAFETY: `Bytes` keeps its map alive and always returns the same range of it; maps are private and read
// only, buffers are never written again.
unsafe impl Mapping for Bytes {
    fn bytes(&self) -> &[u8] {
        self
    }
}

impl ModelWeights {
    /// Loads everything `spec` uses. `rearrange`: see [`Placement::Rearranged`].
    /// # Errors `Unsupported` naming a tensor of a type ggml does not know; `OutOfMemory`.
    pub(super) fn load(device: Device, spec: &ModelSpec, rearrange: bool) -> Result<Self> {
        let mut list = List { sources: Vec::new(), index: FxHashMap::default(), rearrange };
        list.model(spec)?;
        Ok(Self { weights: Weights::load(device, list.sources)?, index: list.index })
    }

    pub(super) fn find(&self, tensor: &Tensor, usage: Use) -> Result<usize> {
        let found = self.index.get(&(tensor.name.clone(), usage));
        found
            .copied()
            .ok_or_else(|| Error::new(ErrorKind::Internal, format!("tensor {} was not loaded", tensor.name)))
    }
}

pub(super) fn ggml_type(tensor: &Tensor) -> Result<Type> {
    Type::from_number(tensor.ty as u32)
        .ok_or_else(|| Error::new(ErrorKind::Unsupported, format!("ggml has no type {}", tensor.ty)))
        .at(|| format!("tensor {}", tensor.name))
}

struct List {
    sources: Vec<WeightSource>,
    index: FxHashMap<(Arc<str>, Use), usize>,
    rearrange: bool,
}

impl List {
    fn model(&mut self, spec: &ModelSpec) -> Result<()> {
        self.add(&spec.tok_embd, Use::Rows)?;
        self.all(spec.pos_embd.as_ref(), Use::Rows)?;
        self.all(spec.embd_norm.as_ref().map(norm_vectors).into_iter().flatten(), Use::Vector)?;
        for layer in &spec.layers {
            let norms = [&layer.attn_norm, &layer.attn_post_norm, &layer.ffn_norm, &layer.ffn_post_norm];
            self.all(norms.into_iter().flatten().flat_map(norm_vectors), Use::Vector)?;
            self.attention(&layer.attn)?;
            match &layer.ffn {
                Ffn::Dense(ffn) => self.dense(ffn)?,
                Ffn::Moe(ffn) => self.moe(ffn)?,
            }
        }
        self.all(norm_vectors(&spec.output_norm), Use::Vector)?;
        self.add(&spec.output, Use::Product)?;
        self.all(spec.output_bias.as_ref(), Use::Vector)
    }

    fn attention(&mut self, attn: &Attention) -> Result<()> {
        match &attn.qkv {
            Qkv::Separate { q, k, v } => [q, k, v].into_iter().try_for_each(|l| self.linear(l))?,
            Qkv::Fused(qkv) => self.linear(qkv)?,
        }
        self.linear(&attn.output)?;
        let heads = [&attn.q_norm, &attn.k_norm].into_iter().flatten().map(|HeadNorm { norm, .. }| norm);
        self.all(heads.chain(&attn.sub_norm).flat_map(norm_vectors), Use::Vector)?;
        self.all(attn.rope.as_ref().and_then(|r| r.freq_factors.as_ref()), Use::Vector)?;
        self.all(attn.sinks.as_ref(), Use::Vector)
    }

    fn dense(&mut self, ffn: &DenseFfn) -> Result<()> {
        ffn.gate.iter().chain([&ffn.up, &ffn.down]).try_for_each(|l| self.linear(l))?;
        self.all(ffn.sub_norm.as_ref().map(norm_vectors).into_iter().flatten(), Use::Vector)
    }

    fn moe(&mut self, ffn: &MoeFfn) -> Result<()> {
        [&ffn.router, &ffn.gate, &ffn.up, &ffn.down].into_iter().try_for_each(|l| self.linear(l))?;
        self.all(ffn.choice_bias.as_ref(), Use::Vector)?;
        self.all(ffn.shared_gate.as_ref(), Use::Product)?;
        ffn.shared.as_ref().map_or(Ok(()), |shared| self.dense(shared))
    }

    fn linear(&mut self, linear: &Linear) -> Result<()> {
        self.add(&linear.weight, Use::Product)?;
        self.all(linear.bias.as_ref(), Use::Vector)
    }

    fn all<'a>(&mut self, tensors: impl IntoIterator<Item = &'a Tensor>, usage: Use) -> Result<()> {
        tensors.into_iter().try_for_each(|t| self.add(t, usage))
    }

    fn add(&mut self, tensor: &Tensor, usage: Use) -> Result<()> {
        let key = (tensor.name.clone(), usage);
        if self.index.contains_key(&key) {
            return Ok(());
        }
        let ty = ggml_type(tensor)?;
        let (ty, data): (Type, Box<dyn Mapping>) = match usage {
            Use::Vector if ty != Type::F32 => (Type::F32, Box::new(Arc::new(as_f32(ty, tensor)?))),
            _ => (ty, Box::new(tensor.data.clone())),
        };
        let rearranged = self.rearrange && usage == Use::Product;
        let placement = if rearranged { Placement::Rearranged } else { Placement::InPlace };
        self.index.insert(key, self.sources.len());
        self.sources.push(WeightSource { name: tensor.name.clone(), ty, dims: tensor.dims, data, placement });
        Ok(())
    }
}

fn norm_vectors(norm: &Norm) -> impl Iterator<Item = &Tensor> {
    norm.weight.iter().chain(&norm.bias)
}

/// The values as bytes of f32: vectors are small.
fn as_f32(ty: Type, tensor: &Tensor) -> Result<Vec<u8>> {
    let mut values = vec![0f32; tensor.n_values()];
    ty.to_f32(&tensor.data, &mut values).map_err(Error::from).at(|| format!("tensor {}", tensor.name))?;
    Ok(values.into_iter().flat_map(f32::to_ne_bytes).collect())
}
