//! From prompt arguments to token ids: the chat template, and text that can never become a control token.

use crate::args::{self, PromptArgs};
use anyhow::Result;
use truing::TokenId;
use truing::model::Model;
use truing::template::{self, ChatTemplate, Message, Piece, Prompt, RenderOptions};
use truing::vocab::Tokens;

/// The tokens of one request: `text` as the user's turn, or as it is with `--raw`.
pub fn tokens(model: &Model, args: &PromptArgs, text: &str) -> Result<Vec<TokenId>> {
    if args.raw {
        let prompt = if args.parse_special { Prompt::with_control(text) } else { Prompt::plain(text) };
        return prompt_tokens(model, &prompt);
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
    let prompt = template.prompt(messages, &RenderOptions::default())?;
    match parse_special {
        false => prompt_tokens(model, &prompt),
        true => {
            let text: String = prompt.pieces().iter().map(Piece::text).collect();
            prompt_tokens(model, &Prompt::with_control(&text))
        }
    }
}

fn prompt_tokens(model: &Model, prompt: &Prompt) -> Result<Vec<TokenId>> {
    let tokens = prompt.tokenize(model.vocab())?;
    warn_of_loss(&tokens);
    Ok(tokens.ids)
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
    let vocab = model.vocab();
    let text = |id: Option<TokenId>| id.map(|id| vocab.token_text(id).into_owned()).unwrap_or_default();
    let (bos, eos) = (text(vocab.bos()), text(vocab.eos()));
    match &args.chat_template {
        Some(path) => Ok(ChatTemplate::new(&args::read_text(path)?, &bos, &eos)?),
        None => Ok(template::detect_default(model.template()?, &bos, &eos)?),
    }
}
