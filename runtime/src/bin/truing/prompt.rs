//! From prompt arguments to token ids: the chat template, and text that can never become a control token.

use crate::args::{self, PromptArgs};
use anyhow::Result;
use serde_json::json;
use truing::TokenId;
use truing::model::Model;
use truing::template::{ChatTemplate, Message, RenderOptions};
use truing::vocab::TokenizeOptions;

/// The tokens of one request: `text` as the user's turn, or as it is with `--raw`.
pub fn tokens(model: &Model, args: &PromptArgs, text: &str) -> Result<Vec<TokenId>> {
    if args.raw {
        let options = TokenizeOptions { add_special: true, parse_special: args.parse_special };
        return Ok(model.vocab().tokenize(text, options)?.ids);
    }
    let template = template(model, args)?;
    let system = args.system.as_deref();
    chat_tokens(model, &template, &turn(system, text), args.parse_special)
}

/// The model's chat template, or the one given.
pub fn template(model: &Model, args: &PromptArgs) -> Result<ChatTemplate> {
    match &args.chat_template {
        Some(path) => Ok(model.template_from(&args::read_text(path)?)?),
        None => Ok(model.template()?),
    }
}

/// One system message, if any, and one user message.
fn turn(system: Option<&str>, user: &str) -> Vec<Message> {
    let system = system.map(|text| json!({ "role": "system", "content": text }));
    let user = json!({ "role": "user", "content": user });
    system.into_iter().chain([user]).map(Message::from).collect()
}
