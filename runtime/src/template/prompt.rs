//! A prompt that knows where control tokens are meant and where someone only spells them.

use crate::error::Result;
use crate::vocab::{Part, Tokens, Vocab};

/// A stretch of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Written by the template: control tokens that it spells are meant.
    Control(String),
    /// Stems from the caller: always plain text.
    Text(String),
}

impl Piece {
    /// The text, whoever wrote it.
    pub fn text(&self) -> &str {
        match self {
            Self::Control(text) | Self::Text(text) => text,
        }
    }

    /// Whether control tokens in it are meant.
    pub fn is_control(&self) -> bool {
        matches!(self, Self::Control(_))
    }
}

/// A prompt in pieces. No two neighbours are of one kind, none is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    pieces: Vec<Piece>,
}

impl Prompt {
    /// A prompt without a template: plain text, no control token.
    pub fn plain(text: &str) -> Self {
        let mut prompt = Self::default();
        prompt.push_text(text);
        prompt
    }

    /// A prompt without a template whose author may spell control tokens.
    pub fn with_control(text: &str) -> Self {
        let mut prompt = Self::default();
        prompt.push_control(text);
        prompt
    }

    /// From runs of text and whether each is the caller's.
    pub(super) fn from_runs<'t>(runs: impl Iterator<Item = (bool, &'t str)>) -> Self {
        let mut prompt = Self::default();
        for (caller, text) in runs {
            if caller { prompt.push_text(text) } else { prompt.push_control(text) }
        }
        prompt
    }

    /// Appends plain text, such as the start of the answer.
    pub fn push_text(&mut self, text: &str) {
        match self.pieces.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Text(last)) => last.push_str(text),
            _ => self.pieces.push(Piece::Text(text.to_owned())),
        }
    }

    /// Appends text in which control tokens are meant.
    pub fn push_control(&mut self, text: &str) {
        match self.pieces.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Control(last)) => last.push_str(text),
            _ => self.pieces.push(Piece::Control(text.to_owned())),
        }
    }

    /// The pieces in order.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The whole text.
    pub fn text(&self) -> String {
        self.pieces.iter().map(Piece::text).collect()
    }

    /// The tokens. Words go on across pieces; control tokens come from control pieces alone. The model's begin
    /// token is put first if the model wants one and the template did not write it.
    /// # Errors  As [`Vocab::tokenize_parts`].
    pub fn tokenize(&self, vocab: &Vocab) -> Result<Tokens> {
        let parts: Vec<_> =
            self.pieces.iter().map(|p| Part { text: p.text(), parse_special: p.is_control() }).collect();
        let mut tokens = vocab.tokenize_parts(&parts, false)?;
        if let Some(bos) = vocab.bos().filter(|bos| vocab.adds_bos() && tokens.ids.first() != Some(bos)) {
            tokens.ids.insert(0, bos);
        }
        Ok(tokens)
    }
}
