//! Embeddings: one vector for a text, from the hidden states behind the last layer and the model's output norm.
//!
//! As llama.cpp computes them for models that generate. Cost: a forward pass over the text; for a mean also a row
//! of logits for every token, because hidden states come with rows, so a chunk at a time.

use crate::error::{Error, ErrorKind, Result};
use crate::gguf::Tensor;
use crate::model::spec::{Norm, NormKind};
use crate::model::{Branch, Context, Model};
use crate::sampling::{BatchItem, NextLogits, Want};
use crate::token::TokenId;

/// Tokens evaluated together when every row is wanted: keeps the rows of logits small.
const CHUNK: usize = 32;

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first token's.
    First,
    /// The last token's, which has seen all others.
    Last,
}

impl Pooling {
    /// What the model's file declares (`{arch}.pooling_type`); `None` if nothing, or a kind that is not here.
    /// # Errors  `BadFile` if the entry is no number.
    pub fn declared(model: &Model) -> Result<Option<Self>> {
        let metadata = model.file().metadata();
        let Some(arch) = metadata.str("general.architecture")? else { return Ok(None) };
        Ok(match metadata.u32(&format!("{arch}.pooling_type"))? {
            Some(1) => Some(Self::Mean),
            Some(2) => Some(Self::First),
            Some(3) => Some(Self::Last),
            _ => None,
        })
    }
}

/// The embedding of `tokens` into `out`, `[n_embd]`; with `normalise`, of length 1.
/// # Errors  `InvalidArgument` for no token or an `out` of another length; `ContextFull`; the executor's.
pub fn embed(
    model: &Model,
    context: &mut Context,
    tokens: &[TokenId],
    pooling: Pooling,
    normalise: bool,
    out: &mut [f32],
) -> Result<()> {
    let n_embd = model.spec().n_embd;
    if tokens.is_empty() || out.len() != n_embd {
        let found = format!("found {} tokens and room for {}", tokens.len(), out.len());
        let message = format!("expected at least one token and room for {n_embd} values, {found}");
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let norm = OutputNorm::new(&model.spec().output_norm)?;
    let taps = context.taps().to_vec();
    context.set_taps(&[model.spec().layers.len().saturating_sub(1) as u32])?;
    let pooled = pool(context, tokens, pooling, &norm, out);
    context.set_taps(&taps)?;
    pooled?;
    if normalise {
        let length = out.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        if length > 0.0 {
            out.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
        }
    }
    Ok(())
}

fn pool(
    context: &mut Context,
    tokens: &[TokenId],
    pooling: Pooling,
    norm: &OutputNorm,
    out: &mut [f32],
) -> Result<()> {
    let branch = context.root()?;
    out.fill(0.0);
    let mut row = vec![0.0; out.len()];
    let mut add = |context: &Context, n: usize, out: &mut [f32]| -> Result<()> {
        for i in 0..n {
            row.copy_from_slice(context.hidden(0, i).ok_or_else(no_state)?);
            norm.apply(&mut row);
            out.iter_mut().zip(&row).for_each(|(sum, x)| *sum += x);
        }
        Ok(())
    };
    let eval = |context: &mut Context, branch: &Branch, tokens: &[TokenId], want: Want| {
        context.eval(&[BatchItem { branch, tokens, want }])
    };
    match pooling {
        Pooling::Mean => {
            for chunk in tokens.chunks(CHUNK) {
                eval(context, &branch, chunk, Want::All)?;
                add(context, chunk.len(), out)?;
            }
            out.iter_mut().for_each(|x| *x /= tokens.len() as f32);
            Ok(())
        }
        Pooling::First => {
            eval(context, &branch, &tokens[..1], Want::Last)?;
            add(context, 1, out)
        }
        Pooling::Last => {
            eval(context, &branch, tokens, Want::Last)?;
            add(context, 1, out)
        }
    }
}

fn no_state() -> Error {
    Error::new(ErrorKind::Unsupported, "expected an executor that gives hidden states")
}

/// The output norm with its weights read.
struct OutputNorm {
    kind: NormKind,
    eps: f64,
    weight: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
}

impl OutputNorm {
    fn new(norm: &Norm) -> Result<Self> {
        let read = |t: &Option<Tensor>| t.as_ref().map(values).transpose();
        let (weight, bias) = (read(&norm.weight)?, read(&norm.bias)?);
        Ok(Self { kind: norm.kind, eps: norm.eps.into(), weight, bias })
    }

    fn apply(&self, x: &mut [f32]) {
        let n = x.len() as f64;
        let mean = match self.kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => x.iter().map(|v| f64::from(*v)).sum::<f64>() / n,
        };
        let square = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
        let scale = 1.0 / (square + self.eps).sqrt();
        for (i, v) in x.iter_mut().enumerate() {
            let weight = self.weight.as_ref().map_or(1.0, |w| w[i]);
            let bias = self.bias.as_ref().map_or(0.0, |b| b[i]);
            *v = ((f64::from(*v) - mean) * scale) as f32 * weight + bias;
        }
    }
}

fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    if let Some(values) = tensor.as_f32() {
        return Ok(values.to_vec());
    }
    if let Some(values) = tensor.as_f16() {
        return Ok(values.iter().map(|v| v.to_f32()).collect());
    }
    if let Some(values) = tensor.as_bf16() {
        return Ok(values.iter().map(|v| v.to_f32()).collect());
    }
    let message = format!("tensor {}: expected 16- or 32-bit floats, found {:?}", tensor.name, tensor.ty);
    Err(Error::new(ErrorKind::Unsupported, message))
}
