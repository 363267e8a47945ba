//! The conversation: its messages, and the branch that already holds most of them.

use crate::args::{self, ConstraintArgs, PromptArgs, RunArgs, SamplingArgs};
use crate::exit::{BadInput, BadUsage};
use crate::output::{self, Printing};
use crate::prompt;
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use truing::TokenId;
use truing::align::{Constraints, Lexicon};
use truing::config::Profile;
use truing::engine::{self, Sequence, Settings};
use truing::model::{Branch, CancelFlag, Context, Model};
use truing::sampling::NextLogits;
use truing::session::{self, Event, Limits, Outcome, Setting};
use truing::template::{ChatTemplate, Message};

/// One message, as saved.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Turn {
    role: String,
    content: String,
}

/// A saved conversation.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    messages: Vec<Turn>,
}

/// A conversation with one model.
pub struct Conversation {
    model: Arc<Model>,
    context: Context,
    sequence: Sequence<Branch>,
    template: ChatTemplate,
    turns: Vec<Turn>,
    system: Option<String>,
    settings: Settings,
    parse_special: bool,
    /// How the context was made, its adapters among it.
    run: RunArgs,
    lexicon: Option<Arc<Lexicon>>,
    /// Show rates after each answer.
    pub stats: bool,
}

impl Conversation {
    /// An empty conversation.
    pub fn new(
        (model, run): (Arc<Model>, RunArgs),
        mut context: Context,
        prompt: &PromptArgs,
        sampling: &SamplingArgs,
        limits: Limits,
    ) -> Result<Self> {
        let template = prompt::template(&model, prompt)?;
        let n_ctx = context.n_ctx();
        let sequence = Sequence::new(&mut context, n_ctx)?;
        let sampling = sampling.params(&Profile::default())?;
        Ok(Self {
            settings: Settings::plain(sampling, limits),
            model,
            context,
            sequence,
            template,
            turns: Vec::new(),
            system: prompt.system.clone(),
            lexicon: None,
            parse_special: prompt.parse_special,
            run,
            stats: false,
        })
    }

    pub fn model_name(&self) -> String {
        let name = self.model.file().metadata().str("general.name");
        name.ok().flatten().unwrap_or("a model without a name").to_owned()
    }

    pub fn cancel_flag(&self) -> CancelFlag {
        self.context.cancel_flag()
    }

    pub fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    pub fn set_system(&mut self, text: String) {
        self.system = Some(text);
        self.reset();
    }

    /// Forgets the messages; system message and settings stay.
    pub fn reset(&mut self) {
        self.turns.clear();
    }

    /// Takes everything from a profile file.
    pub fn apply_profile(&mut self, path: &Path) -> Result<()> {
        let args = ConstraintArgs { profile: Some(path.to_owned()), ..ConstraintArgs::default() };
        let (profile, asked) = args.resolve()?;
        if !profile.adapters.is_empty() || profile.control.is_some() {
            let message = "a profile with adapters is given at the start: truing chat --profile FILE";
            return Err(BadUsage(message.into()).into());
        }
        self.apply(&args, &profile, asked, &SamplingArgs::default())?;
        if let Some(system) = profile.prompt.system {
            self.set_system(system);
        }
        Ok(())
    }

    /// Takes system message, sampling, limits and constraints from a profile. `asked`: its constraints;
    /// `sampling`: what stands over its sampling.
    pub fn apply(
        &mut self,
        args: &ConstraintArgs,
        profile: &Profile,
        mut asked: Constraints,
        sampling: &SamplingArgs,
    ) -> Result<()> {
        let guards = args.guards(profile, &mut asked, (&self.model, &self.run), Some(&self.template))?;
        let params = sampling.params(profile)?;
        params.validate(self.context.n_vocab())?;
        let Self { lexicon, model, .. } = self;
        let lexicon = || Arc::clone(lexicon.get_or_insert_with(|| session::lexicon(model)));
        let mut settings = Settings::new(profile, asked, lexicon)?;
        settings.sampling = params;
        settings.limits = self.settings.limits.clone();
        args.guards.apply(&mut settings, profile, guards, model)?;
        self.settings = settings;
        if let Some(system) = profile.prompt.system.clone().filter(|_| self.system.is_none()) {
            self.set_system(system);
        }
        let limits = &mut self.settings.limits;
        limits.max_tokens = profile.limits.max_tokens.or(limits.max_tokens);
        if !profile.limits.stop.is_empty() {
            limits.stop.clone_from(&profile.limits.stop);
        }
        Ok(())
    }

    /// Saves the messages.
    pub fn save(&self, path: &Path) -> Result<()> {
        let system = self.system.iter().map(|s| Turn { role: "system".into(), content: s.clone() });
        let saved = Saved { messages: system.chain(self.turns.iter().cloned()).collect() };
        let text = serde_json::to_string_pretty(&saved)?;
        std::fs::write(path, text).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))
    }

    /// Continues a saved conversation.
    pub fn load(&mut self, path: &Path) -> Result<()> {
        let text = args::read_text(path)?;
        let saved: Saved =
            serde_json::from_str(&text).map_err(|e| BadInput(format!("{}: {e}", path.display())))?;
        let (system, turns): (Vec<_>, Vec<_>) = saved.messages.into_iter().partition(|t| t.role == "system");
        self.system = system.into_iter().next().map(|t| t.content).or(self.system.take());
        self.turns = turns;
        Ok(())
    }

    /// Sends a message and streams the answer.
    pub fn say(&mut self, text: &str) -> Result<Outcome> {
        self.turns.push(Turn { role: "user".into(), content: text.to_owned() });
        let answered = self.answer();
        if answered.is_err() {
            self.turns.pop();
        }
        answered
    }

    /// Answers the last message again, with the next seed.
    pub fn regenerate(&mut self) -> Result<Outcome> {
        let Some(last) = self.turns.pop_if(|t| t.role == "assistant") else {
            bail!("/regen: there is no answer yet");
        };
        self.settings.sampling.seed = self.settings.sampling.seed.wrapping_add(1);
        let answered = self.answer();
        if answered.is_err() {
            self.turns.push(last);
        }
        answered
    }

    fn answer(&mut self) -> Result<Outcome> {
        let tokens = self.fitting_prompt()?;
        let n_ctx = self.context.n_ctx();
        let job = self.settings.job(tokens, n_ctx)?;
        self.sequence.set(&mut self.context, &job.tokens)?;
        self.context.cancel_flag().reset();
        let setting = Setting { model_id: String::new(), ..engine::setting(&self.model, &self.context, 1) };
        let mut printing = Printing::new(self.context.cancel_flag());
        let mut sink = |event: Event<'_>| {
            if let Event::Text(text) = event {
                printing.attempt(|| output::text(text));
            }
        };
        let outcome = self.sequence.stream(&mut self.context, &setting, job, &mut sink)?;
        self.turns.push(Turn { role: "assistant".into(), content: outcome.text.clone() });
        printing.result().map(|()| outcome)
    }

    /// The conversation's tokens; the oldest turns are left out until a quarter of the context is free.
    fn fitting_prompt(&self) -> Result<Vec<TokenId>> {
        let n_ctx = self.context.n_ctx();
        let mut first = 0;
        loop {
            let tokens = self.prompt_from(first)?;
            let rest = &self.turns[first..];
            if tokens.len() + n_ctx / 4 < n_ctx || rest.len() <= 2 {
                if first > 0 {
                    eprintln!("({first} older messages no longer fit the context and were left out)");
                }
                return Ok(tokens);
            }
            first += rest.iter().skip(1).position(|t| t.role == "user").map_or(rest.len(), |i| i + 1);
        }
    }

    fn prompt_from(&self, first: usize) -> Result<Vec<TokenId>> {
        let system = self.system.iter().map(|text| Message::new("system", text));
        let turns = self.turns[first..].iter().map(|t| Message::new(&t.role, &t.content));
        let messages: Vec<Message> = system.chain(turns).collect();
        prompt::chat_tokens(&self.model, &self.template, &messages, self.parse_special)
    }
}
