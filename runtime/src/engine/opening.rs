//! The place in a chat template where the user begins to write.

use super::prompt;
use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;
use crate::template::{Message, Piece, Prompt, RenderOptions};
use crate::token::TokenId;

/// What stands in for the user's words while the template is rendered.
const MARK: &str = "truing user text";

/// The tokens of a conversation up to where the user begins to write: an aligned model goes on with what users ask.
/// `system`: what stands before, if not the template's own.
/// Source: Xu et al. 2024 (Magpie).
/// # Errors `Template` if the model has no chat template (a base model has nothing to say here) or one that does not
/// show the user's text as it is.
pub fn user_opening(model: &Model, system: Option<&str>) -> Result<Vec<TokenId>> {
    let template = prompt::template(model, None)?;
    let system = system.map(|s| Message::new("system", s));
    let messages: Vec<Message> = system.into_iter().chain([Message::new("user", MARK)]).collect();
    let options = RenderOptions { add_generation_prompt: false, ..RenderOptions::default() };
    let rendered = template.prompt(&messages, &options)?;
    let mut opening = Prompt::default();
    for piece in rendered.pieces() {
        if piece.text().ends_with(MARK) && !piece.is_control() {
            opening.push_text(&piece.text()[..piece.text().len() - MARK.len()]);
            return Ok(opening.tokenize(model.vocab())?.ids);
        }
        match piece {
            Piece::Control(text) => opening.push_control(text),
            Piece::Text(text) => opening.push_text(text),
        }
    }
    let message = "chat template: expected the user's text in it as it is, found none";
    Err(Error::new(ErrorKind::Template, message))
}
