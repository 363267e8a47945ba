//! Rewards that ask a model: built from `[[reward]]` and the models it names.

use super::embed::{Pooling, embed};
use super::prompt;
use crate::align::TokenBytes;
use crate::config::{RewardKind, RewardSection};
use crate::error::{Error, ErrorKind, Result};
use crate::gguf::Tensor;
use crate::model::{Context, ContextOptions, Model};
use crate::reward::{Asker, Candidate, Implicit, Reader, Repetition, Reward, RewardUnit, Score, YesNo};
use crate::steer::Tokenizer;
use crate::template::{ChatTemplate, Message, RenderOptions};
use crate::token::TokenId;
use std::sync::Arc;

/// Tokens that a reward's context holds.
const N_CTX: usize = 2048;
/// Strength of an implicit reward, where nothing is said.
const DEFAULT_BETA: f64 = 0.1;
/// What a judge is asked, where nothing is said.
const DEFAULT_QUESTION: &str = "Is this a helpful and correct answer to the question?";

/// A vocabulary that keeps its model alive.
pub struct ModelVocab(pub Arc<Model>);

impl TokenBytes for ModelVocab {
    fn n_vocab(&self) -> usize {
        self.0.vocab().len()
    }
    fn bytes(&self, id: TokenId) -> &[u8] {
        self.0.vocab().token_bytes(id)
    }
    fn eog_ids(&self) -> &[TokenId] {
        self.0.vocab().eog_ids()
    }
}

impl Tokenizer for ModelVocab {
    fn encode(&self, text: &str) -> Result<Vec<TokenId>> {
        self.0.vocab().encode(text)
    }
}

/// The reward of a section whose kind asks a model; `models` finds what it names.
/// # Errors `BadProfile` if it names none; `Template`, `Reward` for a model that cannot do it; those of the models.
pub fn model_reward(
    section: &RewardSection,
    models: &dyn Fn(&str) -> Result<Arc<Model>>,
) -> Result<Box<dyn Reward>> {
    let named = |name: &Option<String>, key: &str| match name {
        Some(name) => models(name),
        None => {
            Err(Error::new(ErrorKind::BadProfile, format!("expected `{key}` to name a model, found none")))
        }
    };
    let model = named(&section.model, "model")?;
    Ok(match section.kind {
        RewardKind::Judge => {
            let question = section.question.as_deref().unwrap_or(DEFAULT_QUESTION);
            Box::new(YesNo::new(asker(&model)?, question)?)
        }
        RewardKind::Implicit => {
            let base = named(&section.base, "base")?;
            let beta = section.beta.unwrap_or(DEFAULT_BETA);
            Box::new(Implicit::new(reader(&model)?, reader(&base)?, beta)?)
        }
        RewardKind::Model => Box::new(HeadReward::new(&model, section.label)?),
        _ => Box::new(Relevance::new(&model)?),
    })
}

fn context(model: &Model) -> Result<Context> {
    let n_ctx = model.spec().n_ctx_train.clamp(1, N_CTX);
    Context::new(model, &ContextOptions { n_ctx, n_kv_tokens: 2 * n_ctx, ..ContextOptions::default() })
}

/// A model that answers questions in one token, through its chat template.
/// # Errors `Template` if it has none; those of the model.
pub fn asker(model: &Arc<Model>) -> Result<Asker<Context, ModelVocab>> {
    let template = prompt::template(model, None)?;
    let owned = Arc::clone(model);
    let ask = Box::new(move |question: &str| chat(&owned, &template, question));
    let context = context(model)?;
    let n_ctx = context.n_ctx();
    Asker::new(context, ModelVocab(Arc::clone(model)), ask, n_ctx)
}

fn chat(model: &Model, template: &ChatTemplate, text: &str) -> Result<Vec<TokenId>> {
    let messages = [Message::new("user", text)];
    Ok(prompt::chat(model, template, &messages, &RenderOptions::default(), false)?.ids)
}

/// A model that says how likely answers are: as an assistant's turn if it has a template, else behind
/// `Question: … Answer:`.
fn reader(model: &Arc<Model>) -> Result<Reader<Context, ModelVocab>> {
    let template = match model.template()? {
        Some(_) => Some(prompt::template(model, None)?),
        None => None,
    };
    let owned = Arc::clone(model);
    let tokens = Box::new(move |text: &str| match &template {
        Some(template) => chat(&owned, template, text),
        None => Ok(prompt::raw(&owned, &format!("Question: {text}\nAnswer:\n"), false)?.ids),
    });
    let context = context(model)?;
    let n_ctx = context.n_ctx();
    Reader::new(context, ModelVocab(Arc::clone(model)), tokens, n_ctx)
}

/// The score that a reward or classifier model gives to a conversation: its head on the last token's hidden state.
pub struct HeadReward {
    model: Arc<Model>,
    context: Context,
    template: Option<ChatTemplate>,
    /// `[n_hidden]` rows of the layer before the head, if it has one.
    dense: Option<Linear>,
    head: Linear,
    label: usize,
}

/// `W·x + b`, `[n_out][n_in]`.
struct Linear {
    weight: Vec<f32>,
    bias: Vec<f32>,
    n_in: usize,
}

impl Linear {
    fn new(model: &Model, name: &str) -> Result<Option<Self>> {
        let Some(weight) = model.file().tensor(&format!("{name}.weight")) else { return Ok(None) };
        let (n_in, n_out) = (weight.dims[0], weight.dims.get(1).copied().unwrap_or(1));
        let bias = match model.file().tensor(&format!("{name}.bias")) {
            Some(bias) => floats(bias)?,
            None => vec![0.0; n_out],
        };
        let weight = floats(weight)?;
        if bias.len() != n_out || weight.len() != n_in * n_out || n_in == 0 {
            let message = format!("tensor {name}: expected {n_out} rows and biases, found {}", bias.len());
            return Err(Error::new(ErrorKind::BadFile, message));
        }
        Ok(Some(Self { weight, bias, n_in }))
    }

    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let rows = self.weight.chunks_exact(self.n_in).zip(&self.bias);
        let dot = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>();
        rows.map(|(row, b)| (dot(row) + f64::from(*b)) as f32).collect()
    }
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    if let Some(values) = tensor.as_f32() {
        return Ok(values.to_vec());
    }
    if let Some(values) = tensor.as_f16() {
        return Ok(values.iter().map(|v| v.to_f32()).collect());
    }
    let message = format!("tensor {}: expected 16- or 32-bit floats, found {:?}", tensor.name, tensor.ty);
    Err(Error::new(ErrorKind::Unsupported, message))
}

impl HeadReward {
    /// # Errors `Reward` if the file has no head, or not so many labels: without one a model gives numbers, too, and
    /// they mean nothing.
    pub fn new(model: &Arc<Model>, label: usize) -> Result<Self> {
        let (dense, head) = (Linear::new(model, "cls")?, Linear::new(model, "cls.output")?);
        let (dense, head) = match (dense, head) {
            (dense, Some(head)) => (dense, head),
            (Some(only), None) => (None, only),
            (None, None) => {
                let message =
                    "no reward head: expected a tensor cls.output.weight or cls.weight, found neither";
                return Err(Error::new(ErrorKind::Reward, message));
            }
        };
        let n_embd = model.spec().n_embd;
        let (n_first, n_labels) = (dense.as_ref().map_or(head.n_in, |d| d.n_in), head.bias.len());
        if n_first != n_embd || dense.as_ref().is_some_and(|d| d.bias.len() != head.n_in) {
            let message = format!("reward head: expected {n_embd} inputs, found {n_first}");
            return Err(Error::new(ErrorKind::BadFile, message));
        }
        if label >= n_labels {
            let message = format!("label: expected less than {n_labels}, found {label}");
            return Err(Error::new(ErrorKind::Reward, message));
        }
        let template = model.template()?.map(|_| prompt::template(model, None)).transpose()?;
        let context = context(model)?;
        Ok(Self { model: Arc::clone(model), context, template, dense, head, label })
    }

    /// The scores of all labels for a text that is given as tokens.
    /// # Errors `ContextFull`; those of the model.
    pub fn labels(&mut self, tokens: &[TokenId]) -> Result<Vec<f32>> {
        let mut state = vec![0.0; self.model.spec().n_embd];
        embed(&self.model, &mut self.context, tokens, Pooling::Last, false, &mut state)?;
        if let Some(dense) = &self.dense {
            state = dense.apply(&state).into_iter().map(f32::tanh).collect();
        }
        Ok(self.head.apply(&state))
    }

    fn tokens(&self, prompt: &str, answer: &str) -> Result<Vec<TokenId>> {
        let Some(template) = &self.template else {
            return Ok(super::prompt::raw(&self.model, &format!("{prompt}\n{answer}"), false)?.ids);
        };
        let messages = [Message::new("user", prompt), Message::new("assistant", answer)];
        let options = RenderOptions { add_generation_prompt: false, ..RenderOptions::default() };
        Ok(super::prompt::chat(&self.model, template, &messages, &options, false)?.ids)
    }
}

impl Reward for HeadReward {
    fn name(&self) -> &str {
        "model"
    }

    fn unit(&self) -> RewardUnit {
        RewardUnit::Logit
    }

    fn range(&self) -> (f64, f64) {
        (f64::NEG_INFINITY, f64::INFINITY)
    }

    fn is_cheap(&self) -> bool {
        false
    }

    fn score(&mut self, prompt: &str, candidate: Candidate<'_>) -> Result<Score> {
        let tokens = self.tokens(prompt, candidate.text)?;
        let labels = self.labels(&tokens)?;
        let value = f64::from(labels.get(self.label).copied().unwrap_or(f32::NAN));
        Ok(match candidate.is_closed {
            true => Score::fixed(value, true),
            false => Score::open(value, self.range()),
        })
    }
}

/// Weight of length and of different words beside relevance, and the length that is enough, in words.
const LENGTH_WEIGHT: f64 = 0.3;
const DISTINCT_WEIGHT: f64 = 0.5;
const ENOUGH_WORDS: f64 = 120.0;

/// Cosine of prompt and answer in a model's embeddings, with length and variety beside it: relevance alone is had by
/// repeating the prompt. The weights are this project's choice.
/// Source: the idea of R3.
pub struct Relevance {
    model: Arc<Model>,
    context: Context,
    repetition: Repetition,
    /// The last prompt and its embedding.
    prompt: (String, Vec<f32>),
}

impl Relevance {
    /// # Errors those of the model.
    pub fn new(model: &Arc<Model>) -> Result<Self> {
        let (context, repetition) = (context(model)?, Repetition::new(3)?);
        Ok(Self { model: Arc::clone(model), context, repetition, prompt: (String::new(), Vec::new()) })
    }

    fn embedding(&mut self, text: &str) -> Result<Vec<f32>> {
        let mut vector = vec![0.0; self.model.spec().n_embd];
        let tokens = prompt::raw(&self.model, text, false)?.ids;
        if !tokens.is_empty() {
            embed(&self.model, &mut self.context, &tokens, Pooling::Mean, true, &mut vector)?;
        }
        Ok(vector)
    }
}

impl Reward for Relevance {
    fn name(&self) -> &str {
        "relevance"
    }

    fn unit(&self) -> RewardUnit {
        RewardUnit::Raw
    }

    fn range(&self) -> (f64, f64) {
        (-1.01, 1.01 + LENGTH_WEIGHT + DISTINCT_WEIGHT)
    }

    fn is_cheap(&self) -> bool {
        false
    }

    fn score(&mut self, prompt: &str, candidate: Candidate<'_>) -> Result<Score> {
        if self.prompt.1.is_empty() || self.prompt.0 != prompt {
            self.prompt = (prompt.to_owned(), self.embedding(prompt)?);
        }
        let answer = self.embedding(candidate.text)?;
        let cosine: f64 = answer.iter().zip(&self.prompt.1).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        let words = candidate.text.split_whitespace().count() as f64;
        let distinct = self.repetition.score(prompt, candidate)?.value;
        let value = cosine + LENGTH_WEIGHT * (words / ENOUGH_WORDS).min(1.0) + DISTINCT_WEIGHT * distinct;
        Ok(match candidate.is_closed {
            true => Score::fixed(value, true),
            false => Score::open(value, self.range()),
        })
    }
}
