//! From prompt arguments to token ids. What a vocabulary cannot write is told.

use crate::args::{self, PromptArgs};
use anyhow::Result;
use truing::TokenId;
use truing::engine::prompt;
use truing::model::Model;
use truing::template::{ChatTemplate, Message, RenderOptions};
use truing::vocab::Tokens;

/// The tokens of one request: `text` as the user's turn, or as it is with `--raw`.
pub fn tokens(model: &Model, args: &PromptArgs, text: &str) -> Result<Vec<TokenId>> {
    if let Some(exemplars) = args.exemplars.as_ref().filter(|_| !args.raw) {
        return Ok(told(prompt::raw(model, &exemplars.prompt(&[], text), false)?));
    }
    if args.raw {
        return Ok(told(prompt::raw(model, text, args.parse_special)?));
    }
    let system = args.system.iter().map(|system| Message::new("system", system));
    let messages: Vec<Message> = system.chain([Message::new("user", text)]).collect();
    chat_tokens(model, &template(model, args)?, &messages, args.parse_special)
}

/// The tokens of a conversation that the model is to continue. `parse_special`: the caller vouches for the
/// messages, control tokens that they spell are meant.
pub fn chat_tokens(
    model: &Model,
    template: &ChatTemplate,
    messages: &[Message],
    parse_special: bool,
) -> Result<Vec<TokenId>> {
    Ok(told(prompt::chat(model, template, messages, &RenderOptions::default(), parse_special)?))
}

fn told(tokens: Tokens) -> Vec<TokenId> {
    warn_of_loss(&tokens);
    tokens.ids
}

/// Says so when the vocabulary cannot write a part of the text.
pub fn warn_of_loss(tokens: &Tokens) {
    if let Some((offset, byte)) = tokens.unencodable.first() {
        let n = tokens.unencodable.len();
        eprintln!(
            "truing: this vocabulary has no token for {n} of the text's bytes, which are left out; \
             the first is {byte:#04x} at offset {offset}"
        );
    }
}

/// The model's chat template, or the one given.
pub fn template(model: &Model, args: &PromptArgs) -> Result<ChatTemplate> {
    let given = args.chat_template.as_deref().map(args::read_text).transpose()?;
    Ok(prompt::template(model, given.as_deref())?)
}
