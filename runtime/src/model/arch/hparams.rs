//! Hyperparameters, each checked against its range.

use super::rope::RopeParams;
use super::{ArchEntry, NormKind, WindowRule};
use crate::error::{Error, ErrorKind, Result};
use crate::gguf::{GgufFile, Metadata, Value};
use std::ops::RangeInclusive;

const N_LAYER: RangeInclusive<usize> = 1..=1024;
const N_EMBD: RangeInclusive<usize> = 1..=1 << 20;
const N_FF: RangeInclusive<usize> = 1..=1 << 24;
const N_HEAD: RangeInclusive<usize> = 1..=4096;
const HEAD_DIM: RangeInclusive<usize> = 1..=8192;
const N_EXPERT: RangeInclusive<usize> = 0..=4096;
const ANY: RangeInclusive<usize> = 0..=u32::MAX as usize;
/// Token ids are 32 bits wide, and a row of logits must be addressable.
const N_VOCAB: RangeInclusive<usize> = 1..=1 << 26;

/// Keys of one architecture, `<arch>.<name>`.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub(super) meta: &'a Metadata,
    pub(super) arch: &'a str,
}

impl Keys<'_> {
    fn full(&self, name: &str) -> String {
        format!("{}.{name}", self.arch)
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.meta.contains(&self.full(name))
    }

    /// An error about the value of a key.
    pub(super) fn bad(&self, name: &str, message: impl Into<String>) -> Error {
        self.meta.bad(&self.full(name), message)
    }

    /// An integer of the range.
    pub(super) fn int(&self, name: &str, range: RangeInclusive<usize>) -> Result<Option<usize>> {
        match self.meta.u32(&self.full(name))? {
            Some(value) => self.in_range(name, value as usize, &range).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn require_int(&self, name: &str, range: RangeInclusive<usize>) -> Result<usize> {
        let value = self.meta.require_u32(&self.full(name))?;
        self.in_range(name, value as usize, &range)
    }

    fn in_range(&self, name: &str, value: usize, range: &RangeInclusive<usize>) -> Result<usize> {
        if range.contains(&value) {
            return Ok(value);
        }
        Err(self.bad(name, format!("expected {} to {}, found {value}", range.start(), range.end())))
    }

    /// A finite number.
    pub(super) fn number(&self, name: &str) -> Result<Option<f32>> {
        match self.meta.f32(&self.full(name))? {
            Some(value) if !value.is_finite() => {
                Err(self.bad(name, format!("expected a finite number, found {value}")))
            }
            value => Ok(value),
        }
    }

    /// A finite number above 0.
    pub(super) fn positive(&self, name: &str) -> Result<Option<f32>> {
        match self.number(name)? {
            Some(value) if value <= 0.0 => Err(self.bad(name, format!("expected above 0, found {value}"))),
            value => Ok(value),
        }
    }

    pub(super) fn require_positive(&self, name: &str) -> Result<f32> {
        self.meta.require_f32(&self.full(name))?;
        self.positive(name).map(Option::unwrap_or_default)
    }

    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>> {
        self.meta.bool(&self.full(name))
    }

    pub(super) fn require_flag(&self, name: &str) -> Result<bool> {
        self.meta.require_bool(&self.full(name))
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&str>> {
        self.meta.str(&self.full(name))
    }

    /// An array of integers.
    pub(super) fn ints(&self, name: &str) -> Result<Option<Vec<u32>>> {
        self.meta.u32_array(&self.full(name))
    }

    /// One integer for each of `n` layers, given as one for all or as an array.
    fn layers(&self, name: &str, n: usize, range: RangeInclusive<usize>) -> Result<Option<Vec<usize>>> {
        if !matches!(self.meta.get(&self.full(name)), Some(Value::Array(_))) {
            return Ok(self.int(name, range)?.map(|value| vec![value; n]));
        }
        let values = self.meta.require_u32_array(&self.full(name))?;
        if values.len() != n {
            return Err(self.bad(name, format!("expected {n} values, found {}", values.len())));
        }
        values.iter().map(|v| self.in_range(name, *v as usize, &range)).collect::<Result<_>>().map(Some)
    }
}

/// One number for each of `n` layers under a key without the architecture's name, as one or as an array.
pub(super) fn layer_numbers(meta: &Metadata, key: &str, n: usize) -> Result<Vec<f32>> {
    let values = match meta.get(key) {
        Some(Value::Array(_)) => meta.require_f32_array(key)?,
        _ => vec![meta.require_f32(key)?; n],
    };
    if values.len() != n || values.iter().any(|v| !v.is_finite()) {
        return Err(meta.bad(key, format!("expected {n} finite values, found {values:?}")));
    }
    Ok(values)
}

/// What an architecture's numbers are.
pub(super) struct Hparams {
    pub(super) n_layer: usize,
    pub(super) n_embd: usize,
    /// 0: the file does not say.
    pub(super) n_ctx_train: usize,
    pub(super) n_vocab: usize,
    pub(super) eps: f32,
    /// For each layer.
    pub(super) n_head: Vec<usize>,
    /// For each layer; divides `n_head`.
    pub(super) n_head_kv: Vec<usize>,
    pub(super) head_dim_k: usize,
    pub(super) head_dim_v: usize,
    /// For each layer; `None`: not given.
    pub(super) n_ff: Option<Vec<usize>>,
    /// 0: no experts.
    pub(super) n_expert: usize,
    pub(super) n_used: Vec<usize>,
    /// Width of the window, if any layer has one.
    pub(super) window: Option<usize>,
    /// For each layer: whether it has the window.
    pub(super) local: Vec<bool>,
    pub(super) rope: Option<RopeParams>,
}

impl Hparams {
    pub(super) fn read(entry: &ArchEntry, file: &GgufFile) -> Result<Self> {
        let keys = Keys { meta: file.metadata(), arch: entry.name };
        let n_all = keys.require_int("block_count", N_LAYER)?;
        let n_extra = keys.int("nextn_predict_layers", 0..=n_all - 1)?.unwrap_or(0);
        let n_layer = n_all - n_extra;
        refuse_more_layers(&keys, file, n_all)?;
        let n_embd = keys.require_int("embedding_length", N_EMBD)?;
        let n_ctx_train = keys.require_int("context_length", ANY)?;
        let eps = epsilon(&keys, entry.norm)?;
        let (n_head, n_head_kv) = heads(&keys, n_all)?;
        let head_dim_k = head_dim(&keys, "attention.key_length", n_embd, n_head[0])?;
        let head_dim_v = head_dim(&keys, "attention.value_length", n_embd, n_head[0])?;
        let (n_expert, n_used) = match entry.moe {
            Some(_) => experts(&keys, n_all)?,
            None => (0, vec![0; n_all]),
        };
        let window = entry.window.as_ref().map_or(Ok(None), |rule| window(&keys, rule, n_layer))?;
        let local = local_layers(&keys, entry.window.as_ref().filter(|_| window.is_some()), n_all)?;
        let rope = match entry.pairing {
            Some(_) => Some(RopeParams::read(&keys, entry, head_dim_k, n_ctx_train)?),
            None => None,
        };
        let n_ff = keys.layers("feed_forward_length", n_all, N_FF)?;
        let n_vocab = n_vocab(keys.meta)?;
        Ok(Self {
            n_layer,
            n_embd,
            n_ctx_train,
            n_vocab,
            eps,
            n_head,
            n_head_kv,
            head_dim_k,
            head_dim_v,
            n_ff,
            n_expert,
            n_used,
            window,
            local,
            rope,
        })
    }
}

/// Tensors of layers beyond the declared number mean that the number is wrong.
fn refuse_more_layers(keys: &Keys<'_>, file: &GgufFile, n_all: usize) -> Result<()> {
    let layer = |name: &str| name.strip_prefix("blk.")?.split('.').next()?.parse::<usize>().ok();
    let Some(tensor) = file.tensors().find(|t| layer(&t.name).is_some_and(|il| il >= n_all)) else {
        return Ok(());
    };
    let found = format!("found tensor {} that it leaves unused", tensor.name);
    Err(keys.bad("block_count", format!("expected the layers present, {found} with {n_all}")))
}

fn epsilon(keys: &Keys<'_>, norm: NormKind) -> Result<f32> {
    let name = match norm {
        NormKind::Rms => "attention.layer_norm_rms_epsilon",
        NormKind::Layer => "attention.layer_norm_epsilon",
    };
    keys.require_positive(name)
}

fn heads(keys: &Keys<'_>, n_all: usize) -> Result<(Vec<usize>, Vec<usize>)> {
    let name = "attention.head_count";
    let n_head = match keys.layers(name, n_all, N_HEAD)? {
        Some(heads) => heads,
        None => vec![keys.require_int(name, N_HEAD)?],
    };
    let name_kv = "attention.head_count_kv";
    let n_head_kv = keys.layers(name_kv, n_all, N_HEAD)?.unwrap_or_else(|| n_head.clone());
    if let Some((n, kv)) = n_head.iter().zip(&n_head_kv).find(|(n, kv)| **n % **kv != 0) {
        return Err(keys.bad(name_kv, format!("expected a divisor of {n} heads, found {kv}")));
    }
    Ok((n_head, n_head_kv))
}

/// Width of a head: given, or an equal part of the embedding.
fn head_dim(keys: &Keys<'_>, name: &str, n_embd: usize, n_head: usize) -> Result<usize> {
    if let Some(dim) = keys.int(name, HEAD_DIM)? {
        return Ok(dim);
    }
    if !n_embd.is_multiple_of(n_head) || !HEAD_DIM.contains(&(n_embd / n_head)) {
        let expected = format!("expected a divisor of embedding_length {n_embd}");
        return Err(keys.bad("attention.head_count", format!("{expected}, found {n_head}")));
    }
    Ok(n_embd / n_head)
}

fn experts(keys: &Keys<'_>, n_all: usize) -> Result<(usize, Vec<usize>)> {
    let n_expert = keys.int("expert_count", N_EXPERT)?.unwrap_or(0);
    if n_expert == 0 {
        return Ok((0, vec![0; n_all]));
    }
    if keys.int("expert_group_count", ANY)?.unwrap_or(0) > 1 {
        return Err(unsupported(keys, "expert_group_count", "expert groups are not supported"));
    }
    let name = "expert_used_count";
    match keys.layers(name, n_all, 1..=n_expert)? {
        Some(used) => Ok((n_expert, used)),
        None => Err(keys.bad(name, format!("missing: expected 1 to {n_expert} experts for each token"))),
    }
}

/// A sound file that asks for what is not there.
pub(super) fn unsupported(keys: &Keys<'_>, name: &str, message: &str) -> Error {
    Error::new(ErrorKind::Unsupported, message).at(format!("{}.{name}", keys.arch))
}

fn window(keys: &Keys<'_>, rule: &WindowRule, n_layer: usize) -> Result<Option<usize>> {
    if rule.only_n_layer.is_some_and(|n| n != n_layer) {
        return Ok(None);
    }
    let name = "attention.sliding_window";
    let width = if rule.required { Some(keys.require_int(name, ANY)?) } else { keys.int(name, ANY)? };
    match width.or(rule.default) {
        Some(0) if rule.required || rule.default.is_some() => {
            Err(keys.bad(name, "expected a window of at least 1 token, found 0"))
        }
        width => Ok(width.filter(|w| *w > 0)),
    }
}

/// Which of `n` layers have the window.
fn local_layers(keys: &Keys<'_>, rule: Option<&WindowRule>, n: usize) -> Result<Vec<bool>> {
    let Some(rule) = rule else { return Ok(vec![false; n]) };
    let name = "attention.sliding_window_pattern";
    if matches!(keys.meta.get(&keys.full(name)), Some(Value::Array(_))) {
        return pattern(keys, name, n);
    }
    let every = keys.int(name, ANY)?.unwrap_or(rule.every);
    Ok((0..n).map(|il| every == 0 || il % every + 1 < every).collect())
}

/// A pattern spelled out, in booleans or in integers.
fn pattern(keys: &Keys<'_>, name: &str, n: usize) -> Result<Vec<bool>> {
    let key = keys.full(name);
    let local = match keys.meta.bool_array(&key) {
        Ok(Some(local)) => local,
        _ => keys.meta.require_u32_array(&key)?.iter().map(|v| *v != 0).collect(),
    };
    if local.len() == n {
        return Ok(local);
    }
    Err(keys.bad(name, format!("expected {n} values, found {}", local.len())))
}

fn n_vocab(meta: &Metadata) -> Result<usize> {
    let key = "tokenizer.ggml.tokens";
    let n = meta.require_str_array(key)?.len();
    if N_VOCAB.contains(&n) {
        return Ok(n);
    }
    Err(meta.bad(key, format!("expected 1 to {} tokens, found {n}", N_VOCAB.end())))
}
