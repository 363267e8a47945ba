//! Where the user's turns come from: a terminal with line editing and history, or text that is all there.

use anyhow::Result;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use std::collections::VecDeque;
use std::io::IsTerminal;
use std::path::PathBuf;

/// A source of turns.
pub enum Input {
    /// A terminal.
    Terminal(Box<Editor>),
    /// Turns that were given as arguments or on a pipe.
    Given(VecDeque<String>),
}

/// A line editor with a history file.
pub struct Editor {
    editor: DefaultEditor,
    history: Option<PathBuf>,
}

/// What came.
pub enum Line {
    /// A turn, of one or more lines.
    Text(String),
    /// Ctrl-C at the prompt.
    Interrupted,
    /// Nothing more comes.
    End,
}

const PROMPT: &str = ">>> ";
const MORE: &str = "... ";
const FENCE: &str = "\"\"\"";

impl Input {
    /// The terminal, unless `given` has the text already.
    pub fn choose(given: Option<String>) -> Result<Self> {
        Ok(match given {
            Some(text) => Self::Given(turns(&text)),
            None => Self::Terminal(Box::new(Editor::new()?)),
        })
    }

    /// Whether a person sits at the other end.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// The next turn.
    pub fn next(&mut self) -> Result<Line> {
        match self {
            Self::Given(turns) => Ok(turns.pop_front().map_or(Line::End, Line::Text)),
            Self::Terminal(editor) => editor.next(),
        }
    }
}

/// Given text is one turn; with slash commands among its lines, each line is one.
fn turns(text: &str) -> VecDeque<String> {
    match text.lines().any(|line| super::Slash::parse(line).is_some_and(|c| c.is_ok())) {
        true => text.lines().map(str::to_owned).collect(),
        false => [text.trim_end_matches(['\r', '\n']).to_owned()].into(),
    }
}

impl Editor {
    fn new() -> Result<Self> {
        let mut editor = DefaultEditor::new()?;
        let history = history_file();
        if let Some(path) = &history {
            let _ = editor.load_history(path); // none yet, or not readable: history is a convenience
        }
        Ok(Self { editor, history })
    }

    fn next(&mut self) -> Result<Line> {
        let mut text = match self.read(PROMPT)? {
            Line::Text(line) => line,
            other => return Ok(other),
        };
        let fenced = text.trim_start().starts_with(FENCE);
        let done = |text: &str| match fenced {
            true => text.trim().len() >= 2 * FENCE.len() && text.trim_end().ends_with(FENCE),
            false => !text.ends_with('\\'),
        };
        while !done(&text) {
            if !fenced {
                text.pop();
            }
            match self.read(MORE)? {
                Line::Text(line) => text = format!("{text}\n{line}"),
                Line::Interrupted => return Ok(Line::Interrupted),
                Line::End => break,
            }
        }
        self.remember(&text);
        let text = match fenced {
            true => {
                text.trim().trim_start_matches(FENCE).trim_end_matches(FENCE).trim_matches('\n').to_owned()
            }
            false => text,
        };
        Ok(Line::Text(text))
    }

    fn read(&mut self, prompt: &str) -> Result<Line> {
        let prompt = match std::io::stdout().is_terminal() && crate::output::colour() {
            true => format!("\x1b[32m{prompt}\x1b[0m"),
            false => prompt.to_owned(),
        };
        match self.editor.readline(&prompt) {
            Ok(line) => Ok(Line::Text(line)),
            Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(error) => Err(error.into()),
        }
    }

    fn remember(&mut self, text: &str) {
        if text.trim().is_empty() || self.editor.add_history_entry(text).is_err() {
            return;
        }
        if let Some(path) = &self.history {
            let _ = self.editor.save_history(path); // a full disk must not end the conversation
        }
    }
}

/// The history lies in the cache folder; without one there is none.
fn history_file() -> Option<PathBuf> {
    let folder = truing::models::Store::from_env().ok()?.root().to_owned();
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join("chat-history"))
}

#[cfg(test)]
mod tests {
    use super::turns;

    #[test]
    fn given_text_is_one_turn_unless_it_holds_commands() {
        assert_eq!(turns("two\nlines\n"), ["two\nlines"]);
        assert_eq!(turns("hello\n/quit\n"), ["hello", "/quit"]);
        assert_eq!(turns("/usr/bin is a folder"), ["/usr/bin is a folder"]);
    }
}
