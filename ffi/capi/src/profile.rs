//! Profiles: from their text to what a session answers under.

use crate::model::Opened;
use crate::status::{Failure, Result, TRUING_E_UNSUPPORTED};
use crate::text::{Versioned, read_options, text};
use std::ffi::c_char;
use std::path::PathBuf;
use truing::config::{Method, OnExclude, Profile};
use truing::engine::{Search, Settings, prompt};
use truing::guard::{GuardPlan, Setup};
use truing::{Error, ErrorKind};

/// How a session is made. Set `struct_size` and everything else to zero.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct truing_session_options {
    /// `sizeof(truing_session_options)`.
    pub struct_size: usize,
    /// Folder in which files that the profile names are looked for (UTF-8); NULL: a profile that names files is
    /// refused, and the library reads none.
    pub profile_folder: *const c_char,
    /// Bytes of `profile_folder`, or TRUING_CSTR.
    pub profile_folder_len: usize,
}

// SAFETY: `repr(C)`, `struct_size` first; a pointer may be anything.
unsafe impl Versioned for truing_session_options {
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// A profile made ready for a model.
pub(crate) struct Ready {
    pub settings: Settings,
    /// Goes before messages that begin with no system message.
    pub system: Option<String>,
}

impl Ready {
    /// Reads a profile; NULL is the empty one.
    /// # Safety
    /// `profile` has `profile_len` bytes; `given` is as its struct says.
    pub unsafe fn read(
        opened: &Opened,
        profile: *const c_char,
        profile_len: usize,
        given: *const truing_session_options,
    ) -> Result<Self> {
        // SAFETY: the caller's promise.
        let (profile, folder) = unsafe {
            let profile = if profile.is_null() { "" } else { text(profile, profile_len, "profile")? };
            let folder = match read_options(given, "truing_session_options")? {
                Some(o) if !o.profile_folder.is_null() => {
                    Some(PathBuf::from(text(o.profile_folder, o.profile_folder_len, "profile_folder")?))
                }
                _ => None,
            };
            (profile, folder)
        };
        let profile = Profile::parse(profile).map_err(|e| e.at("profile"))?;
        profile.sampling.validate(opened.model.spec().n_vocab).map_err(|e| e.at("profile: sampling"))?;
        if let Some(section) = foreign(&profile) {
            let message = format!("profile: {section} is not part of this interface yet");
            return Err(Failure::new(TRUING_E_UNSUPPORTED, message));
        }
        Self::new(opened, profile, &Folder(folder))
    }

    fn new(opened: &Opened, profile: Profile, folder: &Folder) -> Result<Self> {
        let mut asked = profile.constraints.build(&mut |file| folder.text(file))?;
        let guards = guards(opened, &profile, folder)?;
        if let Some(guards) = &guards {
            asked.wording.exclude.extend(guards.masked().iter().cloned());
        }
        let search = Search::waiting(&profile, &asked.wording.include, &mut |file| folder.text(file))?;
        let mut settings = Settings::with_search(&profile, asked, || opened.lexicon(), search)?;
        settings.set_guards(guards, Vec::new());
        if profile.search.method == Method::Greedy {
            settings.sampling.temperature = 0.0;
        }
        Ok(Self { settings, system: profile.prompt.system })
    }
}

fn guards(opened: &Opened, profile: &Profile, folder: &Folder) -> Result<Option<GuardPlan>> {
    if profile.guard.is_empty() {
        return Ok(None);
    }
    let template = prompt::template(&opened.model, None).ok();
    let setup = Setup { model: &opened.model, template: template.as_ref(), steering: "" };
    let plan = GuardPlan::new(&profile.guard, setup, &mut |file| folder.bytes(file))?;
    let masks = plan.as_ref().is_some_and(|plan| !plan.masked().is_empty());
    if masks && profile.constraints.on_exclude != OnExclude::Mask {
        let message = "guards mask phrases, constraints take them back: expected on_exclude = \"mask\"";
        return Err(Error::new(ErrorKind::BadProfile, message).into());
    }
    Ok(plan)
}

/// What a profile asks for that a session does not do: refused, never ignored.
fn foreign(profile: &Profile) -> Option<&'static str> {
    let prompt = &profile.prompt;
    let asked = [
        ("[nudge]", profile.nudge.is_some()),
        ("[adapters]", !profile.adapters.is_empty()),
        ("[control]", profile.control.is_some()),
        ("a reward that asks a model", profile.reward.iter().any(|r| r.model.is_some() || r.base.is_some())),
        ("prompt.prefill", prompt.prefill.is_some() || prompt.prefill_policy.is_some()),
        ("prompt.exemplars", prompt.instruction.is_some() || !prompt.exemplars.is_empty()),
    ];
    asked.into_iter().find(|(_, is_asked)| *is_asked).map(|(name, _)| name)
}

/// Where files are that a profile names; none: nowhere.
struct Folder(Option<PathBuf>);

impl Folder {
    fn bytes(&self, file: &str) -> truing::Result<Vec<u8>> {
        let Some(folder) = &self.0 else {
            let message =
                format!("names the file {file:?}: expected its text, or options with a profile_folder");
            return Err(Error::new(ErrorKind::BadProfile, message));
        };
        let path = folder.join(file);
        std::fs::read(&path)
            .map_err(|e| Error::new(ErrorKind::Io, e.to_string()).at(path.display().to_string()))
    }

    fn text(&self, file: &str) -> truing::Result<String> {
        String::from_utf8(self.bytes(file)?).map_err(|e| {
            Error::new(ErrorKind::BadProfile, format!("expected UTF-8, found {e}")).at(file.to_owned())
        })
    }
}
