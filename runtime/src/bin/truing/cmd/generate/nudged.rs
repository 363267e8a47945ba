//! Nudged answers: one as it comes, or many one after the other.

use super::{Asked, Generate, Row, finish, outcome_json};
use crate::exit::{BadInput, BadUsage};
use crate::interrupt;
use crate::nudging::{Nudged, Pair};
use crate::output::{self, Printing};
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::sync::Arc;
use std::time::Instant;
use truing::align::Constraints;
use truing::config::{Method, Profile};
use truing::model::Model;
use truing::session::{Event, Limits};

impl Generate {
    /// The nudger, if there is one.
    pub(super) fn nudged(
        &self,
        profile: &Profile,
        asked: &Constraints,
        model: &Arc<Model>,
    ) -> Result<Option<Nudged>> {
        let refuse = |what: &str| Err(BadUsage(format!("--nudge and {what} exclude each other")).into());
        match profile.nudge {
            None => Ok(None),
            Some(_) if self.distortion.is_some() => refuse("--distortion"),
            Some(_) if profile.search.method == Method::Beam => refuse("--beams"),
            Some(_) if !(self.constraints.guards.is_empty() && profile.guard.is_empty()) => {
                refuse("guards (a guard watches one model)")
            }
            Some(_) => Nudged::new(profile, asked, model),
        }
    }

    pub(super) fn run_nudged(
        &self,
        model: &Arc<Model>,
        nudge: &Nudged,
        asked: &Asked,
        text: &str,
        started: Instant,
    ) -> Result<()> {
        if asked.settings.expert.is_some() {
            let message = "--nudge and an expert exclude each other: both change the first tokens";
            return Err(BadUsage(message.into()).into());
        }
        let mut pair = self.pair(model, nudge)?;
        let load_s = started.elapsed().as_secs_f64();
        let mut printing = Printing::new(pair.context.cancel_flag());
        let mut sink = |event: Event<'_>| printing.attempt(|| self.show(&event, load_s));
        let system = asked.prompt.system.as_deref();
        let outcome = pair.answer((system, text), &asked.settings.limits, &mut sink)?;
        printing.result()?;
        finish(&[outcome])
    }

    fn pair<'n>(&self, model: &Arc<Model>, nudge: &'n Nudged) -> Result<Pair<'n>> {
        let pair = nudge.pair(&self.model.run, model)?;
        interrupt::on_ctrl_c(pair.context.cancel_flag())?;
        Ok(pair)
    }

    /// Nudged answers one after the other: system message, text and limits of each.
    pub(super) fn run_nudged_rows(
        &self,
        model: &Arc<Model>,
        nudge: &Nudged,
        rows: Vec<(Value, Option<String>, String, Limits)>,
    ) -> Result<()> {
        let mut pair = self.pair(model, nudge)?;
        let mut outcomes = Vec::with_capacity(rows.len());
        for (id, system, text, limits) in rows {
            let place = || format!("row {id}");
            let outcome =
                pair.answer((system.as_deref(), &text), &limits, &mut |_| {}).with_context(place)?;
            let mut object = serde_json::Map::from_iter([("id".to_owned(), id.clone())]);
            object.extend(outcome_json(&outcome, 0.0));
            output::json(&object)?;
            outcomes.push(outcome);
        }
        finish(&outcomes)
    }
}

/// A row of `--batch` for a nudged answer.
pub(super) fn row(row: Row, asked: &Asked) -> Result<(Value, Option<String>, String, Limits)> {
    let taken =
        [("prefill", row.prefill.is_some()), ("temperature", row.temperature.is_some_and(|t| t > 0.0))];
    if let Some((key, _)) = taken.iter().find(|(_, given)| *given) {
        let message = format!("row {}: `{key}` and --nudge exclude each other", row.id);
        return Err(BadInput(message).into());
    }
    let mut limits = asked.settings.limits.clone();
    limits.max_tokens = row.max_tokens.or(limits.max_tokens);
    limits.stop = row.stop.unwrap_or(limits.stop);
    Ok((row.id, row.system.or_else(|| asked.prompt.system.clone()), row.prompt, limits))
}
