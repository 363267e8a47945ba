//! From text and messages to token ids: the chat template, and text that can never become a control token.

use crate::error::Result;
use crate::model::Model;
use crate::template::{self, ChatTemplate, Message, Piece, Prompt, RenderOptions};
use crate::token::TokenId;
use crate::vocab::Tokens;

/// The model's chat template, or the `given` one with the model's begin and end tokens.
/// # Errors  `Template` if the model has none and none is given, or if it does not parse.
pub fn template(model: &Model, given: Option<&str>) -> Result<ChatTemplate> {
    let vocab = model.vocab();
    let text = |id: Option<TokenId>| id.map(|id| vocab.token_text(id).into_owned()).unwrap_or_default();
    let (bos, eos) = (text(vocab.bos()), text(vocab.eos()));
    match given {
        Some(source) => ChatTemplate::new(source, &bos, &eos),
        None => template::detect_default(model.template()?, &bos, &eos),
    }
}

/// The tokens of `text` as it is: no template. `parse_special`: control tokens that it spells are meant.
/// # Errors  Those of the vocabulary.
pub fn raw(model: &Model, text: &str, parse_special: bool) -> Result<Tokens> {
    let prompt = if parse_special { Prompt::with_control(text) } else { Prompt::plain(text) };
    prompt.tokenize(model.vocab())
}

/// The tokens of a conversation that the model is to continue. `parse_special`: the caller vouches for the
/// messages, control tokens that they spell are meant.
/// # Errors  `Template` if the template refuses the messages.
pub fn chat(
    model: &Model,
    template: &ChatTemplate,
    messages: &[Message],
    options: &RenderOptions,
    parse_special: bool,
) -> Result<Tokens> {
    let prompt = template.prompt(messages, options)?;
    if !parse_special {
        return prompt.tokenize(model.vocab());
    }
    let text: String = prompt.pieces().iter().map(Piece::text).collect();
    Prompt::with_control(&text).tokenize(model.vocab())
}
