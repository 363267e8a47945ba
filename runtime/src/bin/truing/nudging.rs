//! Nudged answers on the command line: the second model, its context and what both models must keep to.

use crate::args::{self, RunArgs};
use anyhow::{Context as _, Result};
use std::sync::Arc;
use truing::align::Constraints;
use truing::config::{NudgeSection, Profile};
use truing::engine::{NudgePlans, Nudging};
use truing::model::{Context, Model};
use truing::session::{Event, Limits, Outcome};

/// What a profile's `[nudge]` asks for, before any model runs.
pub struct Nudged {
    section: NudgeSection,
    nudger: Arc<Model>,
    plans: Option<NudgePlans>,
}

impl Nudged {
    /// `asked`: the profile's constraints, as built. `None` if the profile has no nudger.
    pub fn new(profile: &Profile, asked: &Constraints, base: &Arc<Model>) -> Result<Option<Self>> {
        let Some(section) = &profile.nudge else { return Ok(None) };
        section.params(None)?; // mistakes are told before a model is opened
        let nudger = args::open_second(&section.model).context("nudger")?;
        let plans = NudgePlans::new(&profile.constraints, asked, base, &nudger)?;
        Ok(Some(Self { section: section.clone(), nudger, plans }))
    }

    /// Contexts for both models.
    pub fn pair(&self, run: &RunArgs, base: &Arc<Model>) -> Result<Pair<'_>> {
        Ok(Pair {
            nudged: self,
            base: Arc::clone(base),
            context: run.context(base, 1)?,
            other: run.without_adapters().context(&self.nudger, 1)?,
        })
    }
}

/// Two models ready to answer.
pub struct Pair<'a> {
    nudged: &'a Nudged,
    base: Arc<Model>,
    /// Of the base: its flag stops both.
    pub context: Context,
    other: Context,
}

impl Pair<'_> {
    /// Answers `text`.
    pub fn answer(
        &mut self,
        asked: (Option<&str>, &str),
        limits: &Limits,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome> {
        self.other.set_cancel_flag(self.context.cancel_flag());
        let Self { nudged, base, context, other } = self;
        let (base, nudger) = ((&**base, context), (&*nudged.nudger, other));
        let mut pair = Nudging { base, nudger, plans: nudged.plans.as_ref() };
        Ok(pair.answer(&nudged.section, asked, limits, sink)?)
    }
}
