//! What a caller may say about sampling, checked once.

use super::dry::Dry;
use super::mirostat::Mirostat;
use super::penalties::Penalties;
use super::temperature::Dynatemp;
use super::xtc::Xtc;
use crate::error::{Error, ErrorKind, Result};
use crate::token::TokenId;
use serde::{Deserialize, Serialize};

/// The samplers of a chain, by their llama.cpp names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SamplerKind {
    /// Repetition, frequency and presence penalties.
    Penalties,
    /// "Don't repeat yourself": penalises continuing an earlier repeat.
    Dry,
    /// Drops logits more than n standard deviations below the best.
    TopNSigma,
    /// Keeps the k best.
    #[serde(alias = "top-k")]
    TopK,
    /// Keeps the tokens of typical information.
    #[serde(rename = "typ_p", alias = "typical", alias = "typical_p")]
    TypicalP,
    /// Keeps the smallest set of best tokens with mass p.
    #[serde(alias = "top-p", alias = "nucleus")]
    TopP,
    /// Keeps the tokens at least p times as probable as the best.
    #[serde(alias = "min-p")]
    MinP,
    /// Sometimes drops all top choices but the least.
    Xtc,
    /// Divides the logits.
    #[serde(alias = "temp")]
    Temperature,
}

impl SamplerKind {
    /// llama.cpp's default order.
    pub const DEFAULT_ORDER: [Self; 9] = [
        Self::Penalties,
        Self::Dry,
        Self::TopNSigma,
        Self::TopK,
        Self::TypicalP,
        Self::TopP,
        Self::MinP,
        Self::Xtc,
        Self::Temperature,
    ];
}

/// Settings of a sampler chain. The defaults are llama.cpp's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingParams {
    /// Seed of all randomness: same seed, same text.
    pub seed: u64,
    /// Divides the logits; 0 is greedy (the best token, the lowest id if several are best).
    pub temperature: f32,
    /// Temperature that follows the entropy; off at range 0.
    pub dynatemp: Dynatemp,
    /// Keeps the k best tokens; 0 is off.
    pub top_k: usize,
    /// Keeps the smallest set of best tokens whose mass reaches this; 1 is off.
    pub top_p: f32,
    /// Keeps tokens at least this times as probable as the best; 0 is off.
    pub min_p: f32,
    /// Keeps the tokens of typical information whose mass exceeds this; 1 is off.
    pub typical_p: f32,
    /// Keeps logits within this many standard deviations of the best; 0 is off.
    pub top_n_sigma: f32,
    /// Top-p, min-p, typical and XTC leave at least this many tokens.
    pub min_keep: usize,
    /// Repetition, frequency and presence penalties.
    pub penalties: Penalties,
    /// Penalty on continuing earlier repeats.
    pub dry: Dry,
    /// Exclusion of top choices.
    pub xtc: Xtc,
    /// Surprise control; replaces all samplers but temperature and bias, as in llama.cpp.
    pub mirostat: Option<Mirostat>,
    /// Added to the logits of single tokens before all else; minus infinity bans.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// The samplers in order; each at most once. One left out is off.
    pub samplers: Vec<SamplerKind>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            seed: 0,
            temperature: 0.8,
            dynatemp: Dynatemp::default(),
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            top_n_sigma: 0.0,
            min_keep: 0,
            penalties: Penalties::default(),
            dry: Dry::default(),
            xtc: Xtc::default(),
            mirostat: None,
            logit_bias: Vec::new(),
            samplers: SamplerKind::DEFAULT_ORDER.to_vec(),
        }
    }
}

impl SamplingParams {
    /// The best token always.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::plain(0) }
    }

    /// The model's own law: temperature 1, nothing cut, nothing penalised.
    pub fn plain(seed: u64) -> Self {
        Self { seed, temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..Self::default() }
    }

    /// Checks every field against its range and against a vocabulary of `n_vocab` tokens.
    /// # Errors `InvalidArgument` naming the field, what was expected and what was found.
    pub fn validate(&self, n_vocab: usize) -> Result<()> {
        at_least("temperature", self.temperature, 0.0)?;
        at_least("dynatemp.range", self.dynatemp.range, 0.0)?;
        at_least("dynatemp.exponent", self.dynatemp.exponent, 0.0)?;
        within("top_p", self.top_p, 0.0, 1.0)?;
        within("min_p", self.min_p, 0.0, 1.0)?;
        within("typical_p", self.typical_p, 0.0, 1.0)?;
        at_least("top_n_sigma", self.top_n_sigma, 0.0)?;
        self.penalties.validate()?;
        self.dry.validate()?;
        self.xtc.validate()?;
        if let Some(mirostat) = &self.mirostat {
            mirostat.validate()?;
        }
        self.validate_bias(n_vocab)?;
        self.validate_order()
    }

    fn validate_bias(&self, n_vocab: usize) -> Result<()> {
        for (i, (token, bias)) in self.logit_bias.iter().enumerate() {
            if *token as usize >= n_vocab {
                return Err(bad(format!("logit_bias[{i}]"), format!("a token below {n_vocab}"), token));
            }
            if bias.is_nan() || *bias == f32::INFINITY {
                return Err(bad(format!("logit_bias[{i}]"), "a number or minus infinity", bias));
            }
        }
        Ok(())
    }

    fn validate_order(&self) -> Result<()> {
        for (i, kind) in self.samplers.iter().enumerate() {
            if self.samplers.iter().take(i).any(|k| k == kind) {
                return Err(bad(format!("samplers[{i}]"), "each sampler once", format!("{kind:?} again")));
            }
        }
        Ok(())
    }
}

/// An `InvalidArgument` at `field`.
pub(super) fn bad(
    field: impl Into<String>,
    expected: impl std::fmt::Display,
    found: impl std::fmt::Display,
) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("expected {expected}, found {found}")).at(field)
}

/// A finite number in `low..=high`.
pub(super) fn within(field: &str, x: f32, low: f32, high: f32) -> Result<()> {
    if (low..=high).contains(&x) { Ok(()) } else { Err(bad(field, format!("{low} to {high}"), x)) }
}

/// A finite number not below `low`.
pub(super) fn at_least(field: &str, x: f32, low: f32) -> Result<()> {
    if x >= low && x.is_finite() {
        Ok(())
    } else {
        Err(bad(field, format!("a finite number of at least {low}"), x))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change to the defaults that must be refused, and the field the message must name.
    type Case = (fn(&mut SamplingParams), &'static str);

    #[test]
    fn what_is_out_of_range_is_named() {
        let cases: &[Case] = &[
            (|p| p.temperature = -0.1, "temperature"),
            (|p| p.temperature = f32::NAN, "temperature"),
            (|p| p.temperature = f32::INFINITY, "temperature"),
            (|p| p.dynatemp.range = -1.0, "dynatemp.range"),
            (|p| p.dynatemp.exponent = f32::NAN, "dynatemp.exponent"),
            (|p| p.top_p = 1.1, "top_p"),
            (|p| p.min_p = -0.1, "min_p"),
            (|p| p.typical_p = f32::NAN, "typical_p"),
            (|p| p.top_n_sigma = -1.0, "top_n_sigma"),
            (|p| p.penalties.repeat = 0.0, "penalties.repeat"),
            (|p| p.penalties.frequency = f32::NAN, "penalties.frequency"),
            (|p| p.penalties.presence = f32::INFINITY, "penalties.presence"),
            (|p| p.dry.multiplier = -1.0, "dry.multiplier"),
            (|p| p.dry.base = 0.5, "dry.base"),
            (|p| p.xtc.probability = 2.0, "xtc.probability"),
            (|p| p.xtc.threshold = -0.5, "xtc.threshold"),
            (|p| p.mirostat = Some(Mirostat { tau: 0.0, eta: 0.1 }), "mirostat.tau"),
            (|p| p.mirostat = Some(Mirostat { tau: 5.0, eta: 2.0 }), "mirostat.eta"),
            (|p| p.logit_bias = vec![(0, 1.0), (10, 1.0)], "logit_bias[1]"),
            (|p| p.logit_bias = vec![(0, f32::NAN)], "logit_bias[0]"),
            (|p| p.samplers.push(SamplerKind::TopK), "samplers[9]"),
        ];
        assert!(SamplingParams::default().validate(10).is_ok());
        for (change, field) in cases {
            let mut params = SamplingParams::default();
            change(&mut params);
            let error = params.validate(10).expect_err(field);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            let message = error.to_string();
            assert!(
                message.starts_with(&format!("{field}: expected ")) && message.contains("found"),
                "{message}"
            );
        }
    }

    #[test]
    fn unknown_keys_and_wrong_types_are_refused() {
        let ok: SamplingParams = serde_json::from_str(
            r#"{"temperature":0.5,"penalties":{"repeat":1.1},"samplers":["top_k","temp"]}"#,
        )
        .expect("valid");
        assert_eq!((ok.temperature, ok.top_k, ok.penalties.repeat, ok.penalties.last_n), (0.5, 40, 1.1, 64));
        assert_eq!(ok.samplers, [SamplerKind::TopK, SamplerKind::Temperature]);
        for text in
            [r#"{"temprature":1}"#, r#"{"top_k":-1}"#, r#"{"dry":{"mult":1}}"#, r#"{"samplers":["tfs"]}"#]
        {
            assert!(serde_json::from_str::<SamplingParams>(text).is_err(), "{text}");
        }
        let text = serde_json::to_string(&SamplingParams::default()).expect("plain data");
        assert_eq!(
            serde_json::from_str::<SamplingParams>(&text).expect("round trip"),
            SamplingParams::default()
        );
    }
}
