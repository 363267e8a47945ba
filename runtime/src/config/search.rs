//! `[search]`: how texts are looked for, as written in a profile; `[nudge]`: which model helps.

use super::reward::RewardSection;
use crate::error::{Error, ErrorKind, Result};
use crate::reward::Combine;
use crate::search::{Choose, SearchMethod, SearchParams};
use crate::session::BeamParams;
use crate::steer::{BaseEnd, NudgeParams, OnNone};
use serde::{Deserialize, Deserializer};

/// `[search]`. What is not said has the method's default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchSection {
    /// How tokens are chosen.
    pub method: Method,
    /// `beam`, `deal`: texts side by side.
    pub beams: Option<usize>,
    /// Tokens tried at a place.
    pub candidates: Option<usize>,
    /// Tokens looked ahead.
    pub lookahead: Option<usize>,
    /// Tokens kept of the best outlook.
    pub commit: Option<usize>,
    /// Nats a reward of 1 is worth, or `"auto"`.
    #[serde(deserialize_with = "lambda")]
    pub lambda: Option<f64>,
    /// Reward units of a nat, for methods that aim at a law; the inverse of `lambda`.
    pub alpha: Option<f64>,
    /// `transfer_q_indirect`, `transfer_q_exact`: strength of the other model's alignment.
    pub beta: Option<f64>,
    /// `best_of`, `block`: texts or blocks drawn at once.
    pub samples: Option<usize>,
    /// `block`: tokens of a block.
    pub block: Option<usize>,
    /// `controlled`, `transfer_q…`: texts drawn behind a token.
    pub rollouts: Option<usize>,
    /// How one of weighed tokens is taken.
    pub choose: Option<Choose>,
    /// Divides weights before a draw.
    pub tau: Option<f64>,
    /// `rejection`: most texts drawn.
    pub max_tries: Option<usize>,
    /// `best_of`: rewards become quantiles among the samples, then `exp(t·u)`.
    pub calibrate: Option<f64>,
    /// Rows the model may evaluate.
    pub budget_evals: Option<u64>,
    /// Search only where the likeliest token has less than this probability.
    pub gate: Option<f64>,
    /// Candidates compete by log-probability a token.
    pub len_norm: bool,
    /// Keep the winner's outlook. Saves work, changes nothing.
    pub reuse: Option<bool>,
    /// Drop candidates that cannot win. Saves work, changes nothing.
    pub prune: Option<bool>,
    /// A second model, of the same vocabulary, that says what follows a token: with `transfer_q…` the one that was
    /// aligned, with `deal` a cheaper one.
    pub guide: Option<String>,
    /// The system message that the guide is shown, if not the request's own prompt alone.
    pub guide_system: Option<String>,
    /// The reward that the guide was aligned for: `transfer_q_indirect`, `transfer_q_exact`.
    pub guide_reward: Option<RewardSection>,
    /// How several rewards become one: `and` if there are several, `sum` if there is one.
    pub combine: Option<Combine>,
}

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Method {
    /// Drawn, one text as it comes.
    #[default]
    Sample,
    /// The likeliest one always.
    Greedy,
    /// Several texts side by side, the best one kept: fluent texts under hard constraints.
    Beam,
    /// By rewards.
    Reward(SearchMethod),
}

impl TryFrom<String> for Method {
    type Error = String;

    fn try_from(name: String) -> std::result::Result<Self, String> {
        match name.as_str() {
            "sample" => Ok(Self::Sample),
            "greedy" => Ok(Self::Greedy),
            "beam" => Ok(Self::Beam),
            other => serde_json::from_value(other.into())
                .map(Self::Reward)
                .map_err(|e| format!("method: {e}, `sample`, `greedy`, `beam`")),
        }
    }
}

fn lambda<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<f64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a number or \"auto\"")]
    enum Entry {
        Number(f64),
        Auto(Auto),
    }
    #[derive(Deserialize)]
    enum Auto {
        #[serde(rename = "auto")]
        Auto,
    }
    match Entry::deserialize(from)? {
        Entry::Number(n) => Ok(Some(n)),
        Entry::Auto(Auto::Auto) => Ok(None),
    }
}

impl SearchSection {
    /// The settings of `method = "beam"`.
    pub fn beam_params(&self) -> BeamParams {
        BeamParams {
            n_beams: self.beams.unwrap_or(BeamParams::DEFAULT_BEAMS),
            lookahead: self.lookahead.unwrap_or(BeamParams::DEFAULT_LOOKAHEAD),
        }
    }

    /// The search by rewards, if that is the method. Sampling, stop strings and limits are still the defaults.
    pub fn params(&self) -> Option<SearchParams> {
        let Method::Reward(method) = self.method else { return None };
        let base = SearchParams::of(method);
        let by_alpha = self.alpha.is_some() && self.lambda.is_none();
        Some(SearchParams {
            candidates: self.candidates.unwrap_or(base.candidates),
            lookahead: self.lookahead.unwrap_or(base.lookahead),
            commit: self.commit.unwrap_or(base.commit),
            beams: self.beams.unwrap_or(base.beams),
            lambda: if by_alpha { None } else { self.lambda.or(base.lambda) },
            alpha: if self.lambda.is_some() { self.alpha } else { self.alpha.or(base.alpha) },
            beta: self.beta.unwrap_or(base.beta),
            samples: self.samples.unwrap_or(base.samples),
            block: self.block.unwrap_or(base.block),
            rollouts: self.rollouts.unwrap_or(base.rollouts),
            choose: self.choose.unwrap_or(base.choose),
            tau: self.tau.unwrap_or(base.tau),
            max_tries: self.max_tries.unwrap_or(base.max_tries),
            calibrate: self.calibrate,
            budget_evals: self.budget_evals,
            gate: self.gate,
            is_normed: self.len_norm,
            reuses: self.reuse.unwrap_or(base.reuses),
            prunes: self.prune.unwrap_or(base.prunes),
            ..base
        })
    }
}

/// `[nudge]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NudgeSection {
    /// The smaller, aligned model: a path or a name of the catalog.
    pub model: String,
    /// The base is unsure below this probability.
    #[serde(default)]
    pub threshold: Option<f64>,
    /// Tokens of a proposal.
    #[serde(default)]
    pub nudge_tokens: Option<usize>,
    /// Tokens of the base between two looks at repetitions.
    #[serde(default)]
    pub base_tokens: Option<usize>,
    /// Most proposals.
    #[serde(default)]
    pub max_rounds: Option<usize>,
    /// Whether agreement on a word hands over, too.
    #[serde(default)]
    pub agree: Option<bool>,
    /// What happens to a proposal that the base accepts nowhere.
    #[serde(default)]
    pub on_none: OnNone,
    /// What the base's end means.
    #[serde(default)]
    pub base_eos: BaseEnd,
    /// Evaluate ahead what will probably be said. Saves time, changes nothing.
    #[serde(default)]
    pub drafts: Option<bool>,
    /// The base's prompt: `{system}` and `{prompt}` are put in; `{system}` with its line end goes if there is none.
    #[serde(default)]
    pub base_prompt: Option<String>,
}

/// How a base model is shown a question: it continues text.
pub const BASE_PROMPT: &str = "{system}\nQuestion: {prompt}\nAnswer:\n";

impl NudgeSection {
    /// Nudging by `model` with everything else left open.
    pub fn by(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            threshold: None,
            nudge_tokens: None,
            base_tokens: None,
            max_rounds: None,
            agree: None,
            on_none: OnNone::default(),
            base_eos: BaseEnd::default(),
            drafts: None,
            base_prompt: None,
        }
    }

    /// The settings, for at most `max_tokens` tokens.
    /// # Errors `InvalidArgument` naming the field.
    pub fn params(&self, max_tokens: Option<usize>) -> Result<NudgeParams> {
        let base = NudgeParams::default();
        let params = NudgeParams {
            threshold: self.threshold.unwrap_or(base.threshold),
            nudge_tokens: self.nudge_tokens.unwrap_or(base.nudge_tokens),
            base_tokens: self.base_tokens.unwrap_or(base.base_tokens),
            max_tokens: max_tokens.unwrap_or(base.max_tokens),
            max_rounds: self.max_rounds.unwrap_or(base.max_rounds),
            agree: self.agree.unwrap_or(base.agree),
            on_none: self.on_none,
            base_eos: self.base_eos,
            drafts: self.drafts.unwrap_or(base.drafts),
        };
        params.validate()?;
        Ok(params)
    }

    /// The base's prompt for a question.
    /// # Errors `BadProfile` if `base_prompt` has no place for the question.
    pub fn prompt(&self, system: Option<&str>, prompt: &str) -> Result<String> {
        let form = self.base_prompt.as_deref().unwrap_or(BASE_PROMPT);
        let Some((before, after)) = form.split_once("{prompt}") else {
            let message = "nudge.base_prompt: expected a text with {prompt} in it, found none";
            return Err(Error::new(ErrorKind::BadProfile, message));
        };
        // only the form is searched for places: what users write is never one
        let fill = |part: &str| match system {
            Some(system) => part.replace("{system}", system),
            None => part.replace("{system}\n", "").replace("{system}", ""),
        };
        Ok(format!("{}{prompt}{}", fill(before), fill(after)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::Profile;
    use super::*;

    #[test]
    fn methods_and_their_settings_are_read() {
        let search = |text: &str| Profile::parse(&format!("[search]\n{text}")).map(|p| p.search);
        let deal = search("method = \"deal\"\ncandidates = 3\nlambda = \"auto\"").unwrap().params().unwrap();
        assert_eq!((deal.method, deal.candidates, deal.lambda), (SearchMethod::Deal, 3, None));
        let args = search("method = \"args\"\nlambda = 2.5").unwrap().params().unwrap();
        assert_eq!((args.lookahead, args.lambda), (0, Some(2.5)));
        let soft = search("method = \"rejection_exact\"\nalpha = 0.5").unwrap().params().unwrap();
        assert_eq!(soft.lambda_for(1.0), 2.0);
        let strong = search("method = \"controlled\"\nlambda = 2").unwrap().params().unwrap();
        assert_eq!((strong.lambda, strong.alpha), (Some(2.0), None));
        for plain in ["sample", "greedy", "beam"] {
            assert!(search(&format!("method = \"{plain}\"")).unwrap().params().is_none());
        }
        for (text, word) in [
            ("method = \"guess\"", "method"),
            ("method = \"deal\"\nlambda = \"much\"", "auto"),
            ("method = \"deal\"\nwidth = 2", "width"),
        ] {
            let message = search(text).unwrap_err().to_string();
            assert!(message.contains("line ") && message.contains(word), "{text:?} gave {message:?}");
        }
    }

    #[test]
    fn a_base_prompt_keeps_what_users_write() {
        let nudge = NudgeSection::by("m");
        assert_eq!(
            nudge.prompt(None, "a {system} {prompt}?").unwrap(),
            "Question: a {system} {prompt}?\nAnswer:\n"
        );
        assert_eq!(nudge.prompt(Some("Be brief."), "Why?").unwrap(), "Be brief.\nQuestion: Why?\nAnswer:\n");
        let none = NudgeSection { base_prompt: Some("Q".into()), ..nudge };
        assert_eq!(none.prompt(None, "x").unwrap_err().kind(), ErrorKind::BadProfile);
        let toml = "[nudge]\nmodel = \"smollm2\"\nthreshold = 0.3\non_none = \"accept_all\"\nagree = false";
        let section = Profile::parse(toml).unwrap().nudge.unwrap();
        let params = section.params(Some(9)).unwrap();
        assert_eq!((params.threshold, params.on_none, params.agree), (0.3, OnNone::AcceptAll, false));
        assert!(NudgeSection { nudge_tokens: Some(0), ..NudgeSection::by("m") }.params(None).is_err());
    }
}
