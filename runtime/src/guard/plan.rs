//! From the guards of a profile to what each request of one model carries.

use super::file::ProbeFile;
use super::identity::Identity;
use super::kinds::{Action, Guard, PhraseGuard, ProbeGuard};
use super::probe::{Position, Probe};
use super::refusal;
use super::watch::{Policy, Watch};
use crate::align::{HoldBack, Phrase};
use crate::config::{ConstraintSection, GuardAction, GuardKind, GuardSection, PrefillPolicy};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::model::Model;
use crate::sampling::SamplingParams;
use crate::template::{ChatTemplate, Message, Prompt, RenderOptions};
use crate::token::TokenId;
use crate::vocab::Specials;
use std::sync::Arc;

/// Highest temperature under guards.
pub const MAX_TEMPERATURE: f32 = 1.0;
/// Lowest `top_p` under guards.
pub const LEAST_TOP_P: f32 = 0.5;

/// What guards are made for.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// The model they watch.
    pub model: &'a Model,
    /// The chat template; none for plain continuation, where probes have nothing to go by.
    pub template: Option<&'a ChatTemplate>,
    /// Identity of active adapters and control vectors; empty without.
    pub steering: &'a str,
}

/// Where a forced beginning of the answer goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefill {
    /// Tokens fed as the prompt.
    pub prompt: Vec<TokenId>,
    /// Tokens fed as the beginning of the answer, which the guards judge.
    pub inspected: Vec<TokenId>,
}

/// A guard that is ready, without the state of a request.
enum Ready {
    Phrases { name: Arc<str>, action: Action, filter: Box<HoldBack> },
    Probe { name: Arc<str>, action: Action, probe: Arc<Probe>, threshold: Option<f32> },
}

/// The guards of a profile, made ready for one model.
pub struct GuardPlan {
    guards: Vec<Ready>,
    masked: Vec<Phrase>,
    policy: Arc<Policy>,
}

impl std::fmt::Debug for GuardPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuardPlan").field("n_guards", &self.guards.len()).finish_non_exhaustive()
    }
}

impl GuardPlan {
    /// The plan for `sections`; none if there are none. `read`: the bytes of a file that a section names.
    /// # Errors `BadProfile` for what is missing, contradictory or of no use; `ProbeMismatch` for a probe of
    /// another model, template or set of adapters; those of `read`, probe files and phrases.
    pub fn new(
        sections: &[GuardSection],
        setup: Setup<'_>,
        read: &mut dyn FnMut(&str) -> Result<Vec<u8>>,
    ) -> Result<Option<Self>> {
        if sections.is_empty() {
            return Ok(None);
        }
        let mut plan =
            Self { guards: Vec::new(), masked: Vec::new(), policy: Arc::new(policy(sections, setup)?) };
        let mut here = None;
        for (i, section) in sections.iter().enumerate() {
            let place = || format!("guard {}", i + 1);
            match section.kind {
                GuardKind::Phrases => plan.add_phrases(section, i).at(place)?,
                GuardKind::Probe => plan.add_probe(section, i, setup, &mut here, read).at(place)?,
            }
        }
        Ok(Some(plan))
    }

    /// The plan of a request whose guards all come from the caller, by [`Watch::add`]: defaults for what guards
    /// share.
    /// # Errors Those of the vocabulary.
    pub fn bare(setup: Setup<'_>) -> Result<Self> {
        Ok(Self { guards: Vec::new(), masked: Vec::new(), policy: Arc::new(policy(&[], setup)?) })
    }

    fn add_phrases(&mut self, section: &GuardSection, i: usize) -> Result<()> {
        if section.path.is_some() || section.threshold.is_some() {
            return Err(bad("expected no path and no threshold for phrases"));
        }
        if section.phrases.is_empty() {
            return Err(bad("expected phrases, found none"));
        }
        let defaults = ConstraintSection::default();
        let phrases = section.phrases.iter().map(|p| defaults.phrase(p)).collect::<Vec<_>>();
        let action = match section.action {
            None | Some(GuardAction::Mask) => {
                self.masked.extend(phrases);
                return Ok(());
            }
            Some(GuardAction::Backtrack) => Action::Backtrack,
            Some(GuardAction::Refuse) => Action::Refuse,
            Some(GuardAction::Stop) => Action::Stop,
        };
        let filter = Box::new(HoldBack::by_push(&phrases)?);
        self.guards.push(Ready::Phrases { name: name(section, "phrases", i), action, filter });
        Ok(())
    }

    fn add_probe(
        &mut self,
        section: &GuardSection,
        i: usize,
        setup: Setup<'_>,
        here: &mut Option<Identity>,
        read: &mut dyn FnMut(&str) -> Result<Vec<u8>>,
    ) -> Result<()> {
        if !section.phrases.is_empty() {
            return Err(bad("expected no phrases for a probe"));
        }
        let path = section.path.as_deref().ok_or_else(|| bad("expected the path of a probe, found none"))?;
        let action = match section.action {
            None | Some(GuardAction::Refuse) => Action::Refuse,
            Some(GuardAction::Backtrack) => Action::Backtrack,
            Some(GuardAction::Stop) => Action::Stop,
            Some(GuardAction::Mask) => {
                return Err(bad("a probe cannot mask: expected backtrack, refuse or stop"));
            }
        };
        if section.threshold.is_some_and(|t| !t.is_finite()) {
            return Err(bad("threshold: expected a finite number"));
        }
        let template = setup.template.ok_or_else(|| {
            Error::new(
                ErrorKind::ProbeMismatch,
                "a probe needs the chat template it was trained with, found none",
            )
        })?;
        let file = ProbeFile::from_bytes(&read(path)?).at(|| path.to_owned())?;
        let here = here.get_or_insert_with(|| Identity::of(setup.model, template.source(), setup.steering));
        file.made_for.check(here).at(|| path.to_owned())?;
        check_shape(&file.probe, setup.model).at(|| path.to_owned())?;
        let position = file.probe.position();
        if position == Position::Header && self.policy.header.is_empty() {
            return Err(bad("a header probe needs a template that opens an assistant's turn"));
        }
        if position == Position::Prompt && action == Action::Backtrack {
            return Err(bad("a prompt probe has no text to take back: expected refuse or stop"));
        }
        self.guards.push(Ready::Probe {
            name: name(section, position.name(), i),
            action,
            probe: Arc::new(file.probe),
            threshold: section.threshold,
        });
        Ok(())
    }

    /// Phrases that the mask is to exclude, beside those of the constraints.
    pub fn masked(&self) -> &[Phrase] {
        &self.masked
    }

    /// What the guards share.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// The guards of one request.
    pub fn watch(&self) -> Watch {
        let guards = self.guards.iter().map(|ready| -> Box<dyn Guard> {
            match ready {
                Ready::Phrases { name, action, filter } => {
                    Box::new(PhraseGuard::with_filter(Arc::clone(name), *action, (**filter).clone()))
                }
                Ready::Probe { name, action, probe, threshold } => {
                    Box::new(ProbeGuard::new(Arc::clone(name), *action, Arc::clone(probe), *threshold))
                }
            }
        });
        Watch::new(guards.collect(), Arc::clone(&self.policy))
    }

    /// Whether settings are within the bounds that guards ask for: decoding parameters alone can break what a
    /// model was taught.
    /// # Errors `InvalidArgument` naming the setting.
    /// Source of the attack: Huang et al. 2023, arXiv 2310.06987.
    pub fn check_sampling(&self, sampling: &SamplingParams, ignore_eos: bool) -> Result<()> {
        let refuse = |what: String| {
            Err(Error::new(ErrorKind::InvalidArgument, format!("{what} (bounds of a guarded request)")))
        };
        if sampling.temperature > MAX_TEMPERATURE {
            let found = sampling.temperature;
            return refuse(format!("temperature: expected at most {MAX_TEMPERATURE}, found {found}"));
        }
        if sampling.top_p < LEAST_TOP_P {
            return refuse(format!("top_p: expected at least {LEAST_TOP_P}, found {}", sampling.top_p));
        }
        if ignore_eos {
            return refuse("ignore_eos: expected the model to be free to end".into());
        }
        let starts = &self.policy.starts;
        match sampling.logit_bias.iter().find(|(t, bias)| *bias < 0.0 && starts.contains(t)) {
            Some((t, _)) => {
                refuse(format!("logit_bias: expected none on token {t}, with which refusals begin"))
            }
            None => Ok(()),
        }
    }
}

/// Divides what is fed by the policy for forced beginnings.
/// # Errors `InvalidArgument` if there is one and the policy rejects it.
pub fn prefill(policy: PrefillPolicy, prompt: Vec<TokenId>, prefix: Vec<TokenId>) -> Result<Prefill> {
    match policy {
        _ if prefix.is_empty() => Ok(Prefill { prompt, inspected: prefix }),
        PrefillPolicy::Trust => Ok(Prefill { prompt: [prompt, prefix].concat(), inspected: Vec::new() }),
        PrefillPolicy::Inspect => Ok(Prefill { prompt, inspected: prefix }),
        PrefillPolicy::Reject => Err(Error::new(
            ErrorKind::InvalidArgument,
            "expected no beginning of the answer, found one, which prefill_policy = \"reject\" refuses",
        )),
    }
}

/// The tokens between an answer and the next one of the assistant: the end of the turn and the assistant's
/// header.
/// # Errors Those of the template.
pub fn header_tokens(model: &Model, template: &ChatTemplate) -> Result<Vec<TokenId>> {
    const MARK: &str = "@mark@";
    let messages = [Message::new("user", "a"), Message::new("assistant", MARK)];
    let text = template.prompt(&messages, &RenderOptions::default())?.text();
    let end = text.rsplit_once(MARK).map_or("", |(_, end)| end);
    let mut ids = Prompt::with_control(end).tokenize(model.vocab())?.ids;
    if ids.first().is_some_and(|id| Some(*id) == model.vocab().bos()) && !end.is_empty() {
        let bos = model.vocab().token_text(ids[0]).into_owned();
        if !end.starts_with(&bos) {
            ids.remove(0);
        }
    }
    Ok(ids)
}

fn policy(sections: &[GuardSection], setup: Setup<'_>) -> Result<Policy> {
    let vocab = setup.model.vocab();
    let mut policy = Policy::default();
    agree(sections, "recovery", |s| s.recovery, &mut policy.recovery)?;
    agree(sections, "max_recoveries", |s| s.max_recoveries, &mut policy.max_recoveries)?;
    agree(sections, "hold_tokens", |s| s.hold_tokens, &mut policy.hold_tokens)?;
    agree(sections, "refusal", |s| s.refusal.as_deref().map(Arc::from), &mut policy.refusal)?;
    policy.refusal_ids = vocab.tokenize(&policy.refusal, Specials::NONE)?.ids.into();
    let after = format!("\n\n{}", policy.refusal);
    policy.refusal_after = vocab.tokenize(&after, Specials::NONE)?.ids.into();
    policy.starts = refusal::start_tokens(vocab)?.into();
    // templates that take no assistant's message have no header to try; probes that need one say so
    let header = setup.template.and_then(|template| header_tokens(setup.model, template).ok());
    policy.header = header.unwrap_or_default().into();
    Ok(policy)
}

/// Takes the value that sections give; those that give one must agree.
fn agree<T: PartialEq>(
    sections: &[GuardSection],
    key: &str,
    of: impl Fn(&GuardSection) -> Option<T>,
    value: &mut T,
) -> Result<()> {
    let mut given = sections.iter().filter_map(of);
    let Some(first) = given.next() else { return Ok(()) };
    if given.any(|other| other != first) {
        return Err(bad(format!("{key}: guards share it, expected one value, found several")));
    }
    *value = first;
    Ok(())
}

fn check_shape(probe: &Probe, model: &Model) -> Result<()> {
    let shape = model.shape();
    let deepest = probe.layers().last().copied().unwrap_or(0) as usize;
    if probe.n_embd() != shape.n_embd || deepest >= shape.n_layer {
        let message = format!(
            "expected a probe for {} layers of width {}, found layer {deepest} of width {}",
            shape.n_layer,
            shape.n_embd,
            probe.n_embd()
        );
        return Err(Error::new(ErrorKind::ProbeMismatch, message));
    }
    Ok(())
}

fn name(section: &GuardSection, kind: &str, i: usize) -> Arc<str> {
    section.name.clone().unwrap_or_else(|| format!("{kind} {}", i + 1)).into()
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::BadProfile, message)
}
