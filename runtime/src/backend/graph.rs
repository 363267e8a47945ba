//! The generic forward pass: embedding, layers, output head.

use super::head::part_rows;
use super::weights::{ModelWeights, Use};
use crate::error::{Result, ResultExt};
use crate::gguf::Tensor;
use crate::model::spec::{Layer, Linear, ModelSpec, Norm, NormKind, QTemperature, Residual};
use truing_ggml::{Cache, Device, Graph, Memory, T, Type, Unary};

/// What decides a graph; steps of the same shape share one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Rows of the step.
    pub(super) n_rows: usize,
    /// Cells that attention looks at.
    pub(super) n_kv: usize,
    /// Rows that reach the output.
    pub(super) n_outputs: usize,
    /// Layers whose results are kept.
    pub(super) taps: Vec<u32>,
}

/// Inputs of a graph, made when first needed.
#[derive(Default)]
pub(super) struct Inputs {
    pub(super) tokens: Option<T>,
    pub(super) positions: Option<T>,
    /// Cells that the rows are written to.
    pub(super) cells: Option<T>,
    /// Rows that reach the output.
    pub(super) outputs: Option<T>,
    /// Attention masks by window.
    pub(super) masks: Vec<(Option<usize>, T)>,
    /// Factors of queries.
    pub(super) temperatures: Vec<(QTemperature, T)>,
}

/// What a graph ends with.
#[derive(Clone, Copy)]
pub(super) enum Ending {
    /// `[n_vocab, n_outputs]`
    Logits(T),
    /// Normed, `[n_embd, n_outputs]`, for [`Head`](super::head::Head).
    Hidden(T),
}

impl Ending {
    fn tensor(self) -> T {
        match self {
            Self::Logits(t) | Self::Hidden(t) => t,
        }
    }
}

/// A graph ready to compute.
pub(super) struct Built {
    pub(super) shape: Shape,
    pub(super) graph: Graph,
    pub(super) inputs: Inputs,
    /// What it ends with; `None` when no row reaches the output.
    pub(super) ending: Option<Ending>,
    /// Kept hidden states, in the order of `shape.taps`.
    pub(super) hidden: Vec<T>,
    /// Width of a row of logits.
    pub(super) n_vocab: usize,
    /// Width of a hidden state.
    pub(super) n_embd: usize,
}

/// What a graph is built from.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) spec: &'a ModelSpec,
    pub(super) weights: &'a ModelWeights,
    pub(super) cache: &'a Cache,
    pub(super) device: Device,
    /// Cells in the cache.
    pub(super) n_cells: usize,
    /// Attention without storing scores.
    pub(super) flash: bool,
}

impl Parts<'_> {
    /// Builds and allocates a graph.
    /// # Errors `Unsupported` naming layer and tensor when the device cannot compute something.
    pub(super) fn build(self, shape: Shape, memory: Memory) -> Result<Built> {
        let mut built = Builder::new(self, shape)?.model()?;
        built.graph.allocate(memory)?;
        Ok(built)
    }

    /// Builds a graph without memory, to see that everything in it can be computed.
    /// # Errors As [`Self::build`].
    pub(super) fn check(self, shape: Shape) -> Result<()> {
        Builder::new(self, shape)?.model().map(|_| ())
    }

    /// A graph of the output head alone, without memory: it, its input and its logits.
    pub(super) fn head(self, n_rows: usize) -> Result<(Graph, T, T)> {
        let shape = Shape { n_rows, n_kv: 0, n_outputs: n_rows, taps: Vec::new() };
        let mut builder = Builder::new(self, shape)?;
        let x = builder.g.input(Type::F32, [self.spec.n_embd, n_rows, 1, 1])?;
        let logits = builder.head(x)?;
        builder.g.output(logits)?;
        Ok((builder.g, x, logits))
    }

    /// Room for tensors: a generous bound on what a layer makes.
    fn n_tensors(self) -> usize {
        use crate::model::spec::Ffn;
        let ffn = |l: &Layer| if let Ffn::Moe(m) = &l.ffn { 60 + 4 * m.n_used } else { 30 };
        64 + self.spec.layers.iter().map(|l| 90 + ffn(l)).sum::<usize>()
    }
}

pub(super) struct Builder<'a> {
    pub(super) parts: Parts<'a>,
    pub(super) g: Graph,
    pub(super) shape: Shape,
    pub(super) inputs: Inputs,
}

impl<'a> Builder<'a> {
    fn new(parts: Parts<'a>, shape: Shape) -> Result<Self> {
        let g = Graph::new(parts.device, parts.n_tensors())?;
        Ok(Self { parts, g, shape, inputs: Inputs::default() })
    }

    fn model(mut self) -> Result<Built> {
        let spec = self.parts.spec;
        let mut x = self.embedding()?;
        let mut hidden = Vec::with_capacity(self.shape.taps.len());
        for (il, layer) in spec.layers.iter().enumerate() {
            let is_last = il + 1 == spec.layers.len();
            let next = self.layer(il, layer, x, is_last).at(|| format!("layer {il}"))?;
            let Some(next) = next else { return Ok(self.finish(None, hidden)) };
            x = next;
            if self.shape.taps.contains(&(il as u32)) {
                let kept = if is_last { x } else { self.output_rows(x)? };
                self.g.output(kept)?;
                hidden.push(kept);
            }
        }
        let x = self.norm(&spec.output_norm, x)?;
        let ending = if self.shape.n_outputs > part_rows(spec.n_vocab) {
            Ending::Hidden(x)
        } else {
            Ending::Logits(self.head(x)?)
        };
        self.g.output(ending.tensor())?;
        Ok(self.finish(Some(ending), hidden))
    }

    fn finish(self, ending: Option<Ending>, hidden: Vec<T>) -> Built {
        let (n_vocab, n_embd) = (self.parts.spec.n_vocab, self.parts.spec.n_embd);
        Built { shape: self.shape, graph: self.g, inputs: self.inputs, ending, hidden, n_vocab, n_embd }
    }

    fn embedding(&mut self) -> Result<T> {
        let spec = self.parts.spec;
        let tokens = self.g.index_input(Type::I32, self.shape.n_rows, spec.n_vocab)?;
        self.inputs.tokens = Some(tokens);
        let table = self.weight(&spec.tok_embd, Use::Rows)?;
        let mut x =
            self.g.get_rows(table, tokens).map_err(crate::Error::from).at(|| place(&spec.tok_embd))?;
        if spec.embd_scale != 1.0 {
            x = self.g.scale(x, spec.embd_scale)?;
        }
        if let Some(table) = &spec.pos_embd {
            let positions = self.g.index_input(Type::I32, self.shape.n_rows, table.dims[1])?;
            self.inputs.positions = Some(positions);
            let table_rows = self.weight(table, Use::Rows)?;
            let learned =
                self.g.get_rows(table_rows, positions).map_err(crate::Error::from).at(|| place(table))?;
            x = self.g.add(x, learned)?;
        }
        if let Some(norm) = &spec.embd_norm {
            x = self.norm(norm, x)?;
        }
        self.g.expand(x)?;
        Ok(x)
    }

    /// One layer; `None` when no row reaches the output and only keys and values were wanted of the last.
    fn layer(&mut self, il: usize, layer: &Layer, x: T, is_last: bool) -> Result<Option<T>> {
        let normed = self.maybe_norm(layer.attn_norm.as_ref(), x)?;
        let heads = self.project(il, &layer.attn, normed)?;
        if is_last && self.shape.n_outputs == 0 {
            return Ok(None);
        }
        let attended = self.attend(il, &layer.attn, heads)?;
        // Rows that no one asks for are dropped as soon as keys and values are written.
        let rows = |b: &mut Self, t: T| if is_last { b.output_rows(t) } else { Ok(t) };
        let attn = rows(self, attended)?;
        let x = rows(self, x)?;
        let attn = self.branch_end(layer.attn_post_norm.as_ref(), layer.residual_scale, attn)?;
        let out = match layer.residual {
            Residual::Sequential => {
                let x = self.g.add(attn, x)?;
                let ffn = self.ffn_branch(layer, x)?;
                self.g.add(ffn, x)?
            }
            Residual::Parallel => {
                let ffn = self.ffn_branch(layer, x)?;
                let sum = self.g.add(ffn, x)?;
                self.g.add(sum, attn)?
            }
            Residual::ParallelShared => {
                let shared = rows(self, normed)?;
                let ffn = self.ffn(&layer.ffn, shared)?;
                let ffn = self.branch_end(layer.ffn_post_norm.as_ref(), layer.residual_scale, ffn)?;
                let sum = self.g.add(attn, ffn)?;
                self.g.add(sum, x)?
            }
        };
        self.g.expand(out)?;
        Ok(Some(out))
    }

    fn ffn_branch(&mut self, layer: &Layer, x: T) -> Result<T> {
        let normed = self.maybe_norm(layer.ffn_norm.as_ref(), x)?;
        let ffn = self.ffn(&layer.ffn, normed)?;
        self.branch_end(layer.ffn_post_norm.as_ref(), layer.residual_scale, ffn)
    }

    fn branch_end(&mut self, post_norm: Option<&Norm>, scale: f32, x: T) -> Result<T> {
        let x = self.maybe_norm(post_norm, x)?;
        if scale == 1.0 { Ok(x) } else { Ok(self.g.scale(x, scale)?) }
    }

    fn head(&mut self, x: T) -> Result<T> {
        let spec = self.parts.spec;
        let weight = self.weight(&spec.output, Use::Product)?;
        let mut logits = self.g.mul_mat(weight, x).map_err(crate::Error::from).at(|| place(&spec.output))?;
        if let Some(bias) = &spec.output_bias {
            logits = self.add_vector(logits, bias)?;
        }
        if spec.logit_scale != 1.0 {
            logits = self.g.scale(logits, spec.logit_scale)?;
        }
        if let Some(cap) = spec.logit_softcap {
            logits = self.softcap(logits, 1.0, cap)?;
        }
        Ok(logits)
    }

    /// `cap·tanh(scale·x/cap)`.
    pub(super) fn softcap(&mut self, x: T, scale: f32, cap: f32) -> Result<T> {
        let x = self.g.scale(x, scale / cap)?;
        let x = self.g.unary(Unary::Tanh, x)?;
        Ok(self.g.scale(x, cap)?)
    }

    /// Of a value for every row, those that reach the output.
    fn output_rows(&mut self, x: T) -> Result<T> {
        if self.shape.n_outputs == self.shape.n_rows {
            return Ok(x);
        }
        let rows = match self.inputs.outputs {
            Some(rows) => rows,
            None => self.g.index_input(Type::I32, self.shape.n_outputs, self.shape.n_rows)?,
        };
        self.inputs.outputs = Some(rows);
        Ok(self.g.get_rows(x, rows)?)
    }

    pub(super) fn weight(&mut self, tensor: &Tensor, usage: Use) -> Result<T> {
        let index = self.parts.weights.find(tensor, usage)?;
        Ok(self.g.weight(&self.parts.weights.weights, index)?)
    }

    pub(super) fn add_vector(&mut self, x: T, vector: &Tensor) -> Result<T> {
        let v = self.weight(vector, Use::Vector)?;
        self.g.add(x, v).map_err(crate::Error::from).at(|| place(vector))
    }

    pub(super) fn linear(&mut self, linear: &Linear, x: T) -> Result<T> {
        let weight = self.weight(&linear.weight, Use::Product)?;
        let mut y = self.g.mul_mat(weight, x).map_err(crate::Error::from).at(|| place(&linear.weight))?;
        if linear.scale != 1.0 {
            y = self.g.scale(y, linear.scale)?;
        }
        linear.bias.as_ref().map_or(Ok(y), |bias| self.add_vector(y, bias))
    }

    fn maybe_norm(&mut self, norm: Option<&Norm>, x: T) -> Result<T> {
        norm.map_or(Ok(x), |norm| self.norm(norm, x))
    }

    pub(super) fn norm(&mut self, norm: &Norm, x: T) -> Result<T> {
        let mut y = match norm.kind {
            NormKind::Rms => self.g.rms_norm(x, norm.eps)?,
            NormKind::Layer => self.g.norm(x, norm.eps)?,
        };
        if let Some(gain) = &norm.weight {
            let v = self.weight(gain, Use::Vector)?;
            y = self.g.mul(y, v).map_err(crate::Error::from).at(|| place(gain))?;
        }
        norm.bias.as_ref().map_or(Ok(y), |bias| self.add_vector(y, bias))
    }
}

pub(super) fn place(tensor: &Tensor) -> String {
    format!("tensor {}", tensor.name)
}
