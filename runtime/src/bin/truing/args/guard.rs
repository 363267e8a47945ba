//! Flags for guards: `[[guard]]` of a profile, and first words of the answer.

use crate::exit::{BadInput, BadUsage};
use anyhow::Result;
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use truing::config::{ExpertSection, GuardAction, GuardKind, GuardSection, PrefillPolicy, Profile, Recovery};
use truing::engine::Settings;
use truing::guard::{GuardPlan, Position, ProbeFile, Setup};
use truing::model::Model;
use truing::template::ChatTemplate;
use truing::vocab::Specials;

/// The guards that come with truing, for the default model.
const DEFAULT: &str = include_str!("../../../../../models/guards/smollm2.toml");
const DEFAULT_FILES: [(&str, &[u8]); 2] = [
    ("smollm2.prompt.gguf", include_bytes!("../../../../../models/guards/smollm2.prompt.gguf")),
    ("smollm2.response.gguf", include_bytes!("../../../../../models/guards/smollm2.response.gguf")),
];

/// What watches the answer. Flags add to the profile.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Guards")]
pub struct GuardArgs {
    /// Watch the answer: `default` (comes with truing, for smollm2), a probe (.gguf), phrases one a line (.txt), or the
    /// [[guard]]s of a profile (.toml); repeatable
    #[arg(long, value_name = "GUARD")]
    pub guard: Vec<String>,
    /// What follows when text was taken back
    #[arg(long, value_enum, value_name = "WAY")]
    pub recovery: Option<RecoveryArg>,
    /// Tokens held back so that they can be taken back [default: 16]
    #[arg(long, value_name = "N")]
    pub hold_tokens: Option<usize>,
    /// What is said instead of what guards object to
    #[arg(long, value_name = "TEXT")]
    pub refusal: Option<String>,
    /// Let the model under this system message have its say in the first tokens: a safer expert
    #[arg(long, value_name = "TEXT")]
    pub expert_system: Option<String>,
    /// How strongly the expert counts; 0 is off [default: 3]
    #[arg(long, value_name = "X", requires = "expert_system")]
    pub expert_alpha: Option<f32>,
    /// Tokens that are mixed with the expert's [default: 2]
    #[arg(long, value_name = "N", requires = "expert_system")]
    pub expert_tokens: Option<usize>,
    /// First words of the answer
    #[arg(long, value_name = "TEXT")]
    pub prefill: Option<String>,
    /// What becomes of them [default: inspect under guards, trust without]
    #[arg(long, value_enum, value_name = "POLICY")]
    pub prefill_policy: Option<PolicyArg>,
}

/// `--recovery`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum RecoveryArg {
    /// Draw another token there
    Resample,
    /// End the turn and open a new one
    Header,
    /// Say the refusal's words and go on
    Prefix,
    /// End with the refusal
    Stop,
}

/// `--prefill-policy`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum PolicyArg {
    /// Giving any is an error
    Reject,
    /// The guards read them; if one objects they are dropped
    Inspect,
    /// Take them as they are
    Trust,
}

/// Where the files that sections name are.
struct Files {
    /// By number of the section: the folder, or none for those that come with truing.
    folders: Vec<Option<PathBuf>>,
}

impl GuardArgs {
    /// Whether no flag asks for anything.
    pub fn is_empty(&self) -> bool {
        self.guard.is_empty() && self.prefill.is_none() && self.expert_system.is_none()
    }

    /// Makes the guards of profile and flags ready. `folder`: where the profile lies; `template`: none for plain
    /// continuation.
    pub fn plan(
        &self,
        profile: &Profile,
        folder: &Path,
        (model, run): (&Model, &super::RunArgs),
        template: Option<&ChatTemplate>,
    ) -> Result<Option<GuardPlan>> {
        let mut sections = profile.guard.clone();
        let mut files = Files { folders: vec![Some(folder.to_owned()); sections.len()] };
        for guard in &self.guard {
            let (more, folder) = given(guard)?;
            files.folders.extend(more.iter().map(|_| folder.clone()));
            sections.extend(more);
        }
        for section in &mut sections {
            section.recovery = self.recovery.map(RecoveryArg::recovery).or(section.recovery);
            section.hold_tokens = self.hold_tokens.or(section.hold_tokens);
            section.refusal = self.refusal.clone().or(section.refusal.take());
        }
        // sections are read in order, those with a path one after another
        let paths = sections.iter().zip(&files.folders).filter(|(s, _)| s.path.is_some());
        let mut folders = paths.map(|(_, folder)| folder.clone()).collect::<Vec<_>>().into_iter();
        let mut read = |name: &str| read_file(folders.next().flatten().as_deref(), name);
        let steering = if sections.is_empty() { String::new() } else { run.steering_id(model)? };
        let setup = Setup { model, template, steering: &steering };
        GuardPlan::new(&sections, setup, &mut read).map_err(|e| match e.kind() {
            truing::ErrorKind::Io | truing::ErrorKind::ProbeMismatch => BadInput(e.to_string()).into(),
            _ => e.into(),
        })
    }

    /// The expert of profile and flags.
    pub fn expert(&self, profile: &Profile) -> Result<Option<ExpertSection>> {
        let mut expert = profile.expert.clone();
        if let Some(system) = &self.expert_system {
            expert.get_or_insert_default().system = Some(system.clone());
        }
        let Some(section) = &mut expert else { return Ok(None) };
        section.alpha = self.expert_alpha.unwrap_or(section.alpha);
        section.tokens = self.expert_tokens.unwrap_or(section.tokens);
        if section.system.is_none() && section.adapters.is_empty() {
            return Err(BadUsage("expert: expected a system message or weights of adapters".into()).into());
        }
        section.rule().validate()?;
        Ok(expert)
    }

    /// Gives `settings` the guards and the first words of every answer.
    pub fn apply(
        &self,
        settings: &mut Settings,
        profile: &Profile,
        plan: Option<GuardPlan>,
        model: &Model,
    ) -> Result<()> {
        let words = self.prefill.as_ref().or(profile.prompt.prefill.as_ref());
        let prefill = match words {
            Some(text) => model.vocab().tokenize(text, Specials::NONE)?.ids,
            None => Vec::new(),
        };
        settings.set_guards(plan, prefill);
        settings.set_adapted();
        if let Some(policy) = self.prefill_policy {
            settings.set_prefill_policy(policy.policy());
        }
        Ok(())
    }
}

impl RecoveryArg {
    fn recovery(self) -> Recovery {
        match self {
            Self::Resample => Recovery::Resample,
            Self::Header => Recovery::Header,
            Self::Prefix => Recovery::Prefix,
            Self::Stop => Recovery::Stop,
        }
    }
}

impl PolicyArg {
    fn policy(self) -> PrefillPolicy {
        match self {
            Self::Reject => PrefillPolicy::Reject,
            Self::Inspect => PrefillPolicy::Inspect,
            Self::Trust => PrefillPolicy::Trust,
        }
    }
}

/// The sections that one `--guard` stands for, and where their files are; none: with truing.
fn given(guard: &str) -> Result<(Vec<GuardSection>, Option<PathBuf>)> {
    if guard == "default" {
        return Ok((Profile::parse(DEFAULT)?.guard, None));
    }
    let path = Path::new(guard);
    let folder = Some(path.parent().unwrap_or(Path::new("")).to_owned());
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    match path.extension().and_then(|e| e.to_str()) {
        Some("toml" | "json") => {
            let profile =
                Profile::parse(&super::read_text(path)?).map_err(|e| BadInput(e.at(guard).to_string()))?;
            match profile.guard.is_empty() {
                true => Err(BadUsage(format!("--guard {guard}: the profile has no [[guard]]")).into()),
                false => Ok((profile.guard, folder)),
            }
        }
        Some("gguf") => {
            let file = ProbeFile::open(path).map_err(|e| BadInput(e.to_string()))?;
            let action = match file.probe.position() {
                Position::Prompt => GuardAction::Refuse,
                Position::Response | Position::Header => GuardAction::Backtrack,
            };
            Ok((vec![GuardSection { path: Some(name), ..section(GuardKind::Probe, action) }], folder))
        }
        Some("txt") => {
            let text = super::read_text(path)?;
            let lines = text.lines().map(str::trim).filter(|l| !l.is_empty()).map(Into::into);
            let section = section(GuardKind::Phrases, GuardAction::Backtrack);
            Ok((vec![GuardSection { phrases: lines.collect(), ..section }], folder))
        }
        _ => {
            Err(BadUsage(format!("--guard: expected `default`, a .gguf, .txt or .toml file, found {guard}"))
                .into())
        }
    }
}

fn section(kind: GuardKind, action: GuardAction) -> GuardSection {
    GuardSection {
        kind,
        name: None,
        path: None,
        phrases: Vec::new(),
        action: Some(action),
        threshold: None,
        recovery: None,
        max_recoveries: None,
        hold_tokens: None,
        refusal: None,
    }
}

fn read_file(folder: Option<&Path>, name: &str) -> truing::Result<Vec<u8>> {
    let Some(folder) = folder else {
        let found = DEFAULT_FILES.iter().find(|(file, _)| *file == name);
        return found.map(|(_, bytes)| bytes.to_vec()).ok_or_else(|| {
            truing::Error::new(truing::ErrorKind::Io, format!("{name}: it does not come with truing"))
        });
    };
    let path = folder.join(name);
    std::fs::read(&path)
        .map_err(|e| truing::Error::new(truing::ErrorKind::Io, e.to_string()).at(path.display().to_string()))
}
