//! `truing tokenize` and `truing detokenize`: text to ids and back.

use crate::args::{self, ModelArgs};
use crate::exit::{BadInput, BadUsage};
use crate::output;
use anyhow::Result;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use truing::TokenId;
use truing::vocab::Specials;

/// Turn text into token ids.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  echo -n \"Hello world\" | truing tokenize\n  truing tokenize gemma3-270m -p \"Hello\" --json"
)]
pub struct Tokenize {
    #[command(flatten)]
    model: ModelArgs,
    /// The text [default: stdin]
    #[arg(short = 'p', long, value_name = "TEXT", conflicts_with = "file")]
    prompt: Option<String>,
    /// Read the text from a file; `-` is stdin
    #[arg(short = 'f', long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Do not add the tokens that start and end a text (BOS, EOS)
    #[arg(long)]
    no_special: bool,
    /// Read control tokens such as <|im_end|> in the text as tokens
    #[arg(long)]
    parse_special: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Tokenize {
    pub fn run(self) -> Result<()> {
        let text = match (self.prompt, self.file) {
            (Some(text), _) => text,
            (None, Some(path)) if path.as_os_str() != "-" => args::read_text(&path)?,
            _ => args::read_stdin()?,
        };
        let model = self.model.open()?;
        let options = Specials { add_bos_eos: !self.no_special, parse_special: self.parse_special };
        let tokens = model.vocab().tokenize(&text, options)?;
        crate::prompt::warn_of_loss(&tokens);
        if self.json {
            return output::json(&json!({ "ids": tokens.ids }));
        }
        let ids: Vec<String> = tokens.ids.iter().map(ToString::to_string).collect();
        output::line(&ids.join(" "))
    }
}

/// Turn token ids into text.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  truing detokenize --ids 19556,905\n  echo \"19556 905\" | truing detokenize --json"
)]
pub struct Detokenize {
    #[command(flatten)]
    model: ModelArgs,
    /// Ids separated by commas or spaces [default: stdin]
    #[arg(long, value_name = "IDS")]
    ids: Option<String>,
    /// Leave control tokens out instead of showing their text
    #[arg(long)]
    no_special: bool,
    /// Print one JSON object; `hex` holds the bytes when they are not UTF-8
    #[arg(long)]
    json: bool,
}

impl Detokenize {
    pub fn run(self) -> Result<()> {
        let ids = match &self.ids {
            Some(ids) => parse_ids(ids).map_err(BadUsage)?,
            None => parse_ids(&args::read_stdin()?).map_err(BadInput)?,
        };
        let model = self.model.open()?;
        let bytes = model.vocab().detokenize(&ids, !self.no_special)?;
        let text = String::from_utf8_lossy(&bytes);
        if self.json {
            return output::json(&json!({ "text": text, "hex": hex(&bytes) }));
        }
        output::line(&text)
    }
}

/// Ids separated by commas, spaces or line ends, JSON brackets allowed.
pub fn parse_ids(text: &str) -> Result<Vec<TokenId>, String> {
    text.split(|c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']'))
        .filter(|word| !word.is_empty())
        .map(|word| word.parse().map_err(|_| format!("expected a token id, found {word:?}")))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
