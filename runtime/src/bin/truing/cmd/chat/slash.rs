//! The commands inside a conversation.

use super::conversation::Conversation;
use crate::output;
use anyhow::Result;
use std::path::PathBuf;

/// A command.
#[derive(Debug)]
pub enum Slash {
    Help,
    /// Shows or sets the system message.
    System(Option<String>),
    Profile(PathBuf),
    Save(PathBuf),
    Load(PathBuf),
    Regen,
    Stats,
    Reset,
    Quit,
}

/// What the loop does next.
pub enum After {
    Continue,
    Regenerate,
    Quit,
}

const HELP: &str = "\
/system [TEXT]   show or set the system message (starts over)
/profile FILE    take system message, sampling and limits from a profile
/save FILE       save the conversation
/load FILE       continue a saved conversation
/regen           answer the last message again, differently
/stats           show or hide tokens per second
/reset           forget the conversation
/quit            leave (also Ctrl-D)
End a line with \\ to go on, or put \"\"\" around several lines. Ctrl-C stops an answer.";

impl Slash {
    /// `None` for ordinary text; an error for a command that is not there or lacks its argument. Text that
    /// merely starts with a slash, such as a path, is ordinary.
    pub fn parse(text: &str) -> Option<Result<Self, String>> {
        let rest = text.trim().strip_prefix('/')?;
        let (name, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_lowercase()) {
            return None;
        }
        let argument = Some(argument.trim()).filter(|a| !a.is_empty());
        let file = || argument.map(PathBuf::from).ok_or_else(|| format!("/{name}: expected a file name"));
        Some(match name {
            "help" => Ok(Self::Help),
            "system" => Ok(Self::System(argument.map(str::to_owned))),
            "profile" => file().map(Self::Profile),
            "save" => file().map(Self::Save),
            "load" => file().map(Self::Load),
            "regen" => Ok(Self::Regen),
            "stats" => Ok(Self::Stats),
            "reset" => Ok(Self::Reset),
            "quit" | "exit" | "bye" => Ok(Self::Quit),
            _ => Err(format!("no command /{name}; /help lists them")),
        })
    }

    /// Carries the command out.
    pub fn run(self, talk: &mut Conversation) -> Result<After> {
        match self {
            Self::Help => output::line(HELP)?,
            Self::System(None) => output::line(talk.system().unwrap_or("(no system message)"))?,
            Self::System(Some(text)) => talk.set_system(text),
            Self::Profile(path) => talk.apply_profile(&path)?,
            Self::Save(path) => talk.save(&path)?,
            Self::Load(path) => talk.load(&path)?,
            Self::Regen => return Ok(After::Regenerate),
            Self::Stats => talk.stats = !talk.stats,
            Self::Reset => talk.reset(),
            Self::Quit => return Ok(After::Quit),
        }
        Ok(After::Continue)
    }
}
