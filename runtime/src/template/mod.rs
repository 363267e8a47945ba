//! Chat templates: the Jinja program in a model file that turns messages into the text the model was trained on.
//!
//! Why an interpreter of our own and not a Jinja crate: two promises need it. A template comes with a file from
//! anywhere and must neither hang nor eat the memory nor overflow the stack; general engines charge for
//! instructions, but printing a list that holds itself twice, forty times over, is one instruction. And what a user
//! writes must never become a control token: here every string knows which of its bytes come from the caller
//! (`text`), through whatever the template does to it, so a [`Prompt`] comes apart exactly. Chat templates use a
//! small part of Jinja; that part behaves as under Python's Jinja2 the way Hugging Face sets it up.
//!
//! Cost: parsing 20 to 200 µs, rendering 10 to 100 µs, once a turn. It loses where a template wants what chat
//! templates do not use: imports, recursive loops, and filters made for web pages are errors that name them.

mod args;
mod ast;
mod budget;
mod checks;
mod clock;
mod eval;
mod expr;
mod filters;
mod functions;
mod json;
mod lexer;
mod lookup;
mod message;
mod methods;
mod ops;
mod parser;
mod prompt;
mod strings;
#[cfg(test)]
mod tests;
mod text;
mod value;

pub use message::Message;
pub use prompt::{Piece, Prompt};

use crate::error::{Error, ErrorKind, Result};
use crate::gguf::GgufFile;
use budget::{Budget, Run};
use parser::Parsed;
use std::sync::Arc;
use text::Text;
use value::Value;

/// Real templates are at most some 40 kB.
const MAX_SOURCE: usize = 512 << 10;

/// A parsed chat template and the two tokens it may print.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    source: Arc<str>,
    parsed: Arc<Parsed>,
    bos: Arc<str>,
    eos: Arc<str>,
}

/// What a rendering gets beside the messages.
#[derive(Clone, Debug, PartialEq)]
pub struct RenderOptions {
    /// Tools the model may call, as a JSON array of function descriptions.
    pub tools: Option<serde_json::Value>,
    /// Documents for templates that take some, as a JSON array.
    pub documents: Option<serde_json::Value>,
    /// Whether to open the assistant's turn.
    pub add_generation_prompt: bool,
    /// For models that can think before they answer; `None` leaves it to the template.
    pub enable_thinking: Option<bool>,
    /// More variables. Those above cannot be replaced.
    pub variables: serde_json::Map<String, serde_json::Value>,
    /// The moment that templates are shown if they ask, in seconds since 1970 UTC; the system's clock if `None`.
    pub now: Option<i64>,
}

impl Default for RenderOptions {
    fn default() -> Self {
        Self {
            tools: None,
            documents: None,
            add_generation_prompt: true,
            enable_thinking: None,
            variables: serde_json::Map::new(),
            now: None,
        }
    }
}

impl ChatTemplate {
    /// Parses a template. `bos`, `eos`: the texts of the model's begin and end tokens, empty if it has none.
    /// # Errors  `Template`, with the line, if the source is not a template or too large.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        if source.len() > MAX_SOURCE {
            let text = format!("a chat template of {} bytes; at most {MAX_SOURCE} are read", source.len());
            return Err(Error::new(ErrorKind::Template, text));
        }
        let parsed = parser::parse(source).map_err(to_error)?;
        Ok(Self { source: source.into(), parsed: Arc::new(parsed), bos: bos.into(), eos: eos.into() })
    }

    /// The template in a model file, or `given` instead of it, with the file's begin and end tokens.
    /// # Errors  `Template` if there is none, saying what to do, or if it does not parse; `BadFile` if the file's
    /// entries are of the wrong kind.
    pub fn for_model(file: &GgufFile, given: Option<&str>) -> Result<Self> {
        let metadata = file.metadata();
        let token = |key: &str| -> Result<String> {
            let id = metadata.u32(key)?;
            let texts = metadata.str_array("tokenizer.ggml.tokens")?;
            let text = id.zip(texts).and_then(|(id, texts)| texts.iter().nth(id as usize));
            Ok(String::from_utf8_lossy(text.unwrap_or_default()).into_owned())
        };
        let source = match given {
            Some(source) => Some(source),
            None => metadata.str("tokenizer.chat_template")?,
        };
        let [bos, eos] = [token("tokenizer.ggml.bos_token_id")?, token("tokenizer.ggml.eos_token_id")?];
        detect_default(source, &bos, &eos)
    }

    /// The template's source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The conversation as the model is to see it. For the tokens, use [`prompt`](Self::prompt): in a string,
    /// control tokens cannot be told from users who spell them.
    /// # Errors  `Template` if a message has no role, if the template refuses the conversation, or if it takes
    /// more steps or memory than it may.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        self.run(messages, options).map(|text| text.as_str().to_owned()).map_err(to_error)
    }

    /// The conversation in pieces: what the template wrote, where control tokens are meant, and what stems from
    /// messages, tools or variables, where they never are. Together they are what [`render`](Self::render) gives.
    /// # Errors  As `render`.
    pub fn prompt(&self, messages: &[Message], options: &RenderOptions) -> Result<Prompt> {
        let text = self.run(messages, options).map_err(to_error)?;
        Ok(Prompt::from_runs(text.runs()))
    }

    fn run(&self, messages: &[Message], options: &RenderOptions) -> Run<Text> {
        let given: [Option<&serde_json::Value>; 2] = [options.tools.as_ref(), options.documents.as_ref()];
        let of_messages = messages.iter().flat_map(|m| m.fields().values());
        let all = given.into_iter().flatten().chain(of_messages).chain(options.variables.values());
        let budget = Budget::for_input(message::weight(all));
        let json = |value: Option<&serde_json::Value>| {
            value.map_or(Ok(Value::None), |v| Value::from_json(&budget, v))
        };
        let listed = messages.iter().map(|m| m.to_value(&budget)).collect::<Run<_>>()?;
        let mut vars = vec![
            ("messages", Value::list(&budget, listed, false)?),
            ("tools", json(options.tools.as_ref())?),
            ("documents", json(options.documents.as_ref())?),
            ("add_generation_prompt", Value::Bool(options.add_generation_prompt)),
            ("bos_token", Value::own(&self.bos)),
            ("eos_token", Value::own(&self.eos)),
        ];
        vars.extend(options.enable_thinking.map(|on| ("enable_thinking", Value::Bool(on))));
        for (name, value) in &options.variables {
            vars.push((name, json(Some(value))?));
        }
        eval::run(&self.parsed, &budget, options.now.unwrap_or_else(system_clock), vars)
    }
}

/// The template of a model: `source` is what its file holds.
/// # Errors  `Template` if there is none, saying what to do, or if it does not parse.
pub fn detect_default(source: Option<&str>, bos: &str, eos: &str) -> Result<ChatTemplate> {
    match source {
        Some(source) => ChatTemplate::new(source, bos, eos),
        None => Err(Error::new(
            ErrorKind::Template,
            "the model has no chat template, so it is most likely a base model that only continues text: use --raw \
             to give it the text as it is, or --chat-template FILE for a template",
        )),
    }
}

fn system_clock() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

fn to_error(fail: budget::Fail) -> Error {
    Error::new(ErrorKind::Template, fail.to_string()).at("chat template")
}
