//! Messages of a conversation.

use super::budget::{Budget, Run, fail};
use super::text::Text;
use super::value::Value;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

/// Roles that templates know. They count as the template's own words, since templates build control tokens of them
/// (`<|user|>`); any other role is a text of the caller like all else in a message.
const ROLES: [&str; 10] = [
    "assistant",
    "developer",
    "function",
    "ipython",
    "model",
    "observation",
    "system",
    "tool",
    "tool_response",
    "user",
];

/// One message: a JSON object with `role`, usually `content`, and whatever else the template knows (`tool_calls`,
/// `name`, `reasoning_content`, …), in the order given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Message {
    fields: Map<String, Json>,
}

impl From<Json> for Message {
    /// A value that is no object is a message without a role, which no template takes.
    fn from(json: Json) -> Self {
        match json {
            Json::Object(fields) => Self { fields },
            _ => Self::default(),
        }
    }
}

impl Message {
    /// A message of text.
    pub fn new(role: &str, content: &str) -> Self {
        Self::default().with("role", role).with("content", content)
    }

    /// Adds or replaces a field.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Json>) -> Self {
        self.fields.insert(field.to_owned(), value.into());
        self
    }

    /// Who speaks; empty if the message does not say.
    pub fn role(&self) -> &str {
        self.fields.get("role").and_then(Json::as_str).unwrap_or("")
    }

    /// The content, if it is plain text.
    pub fn content(&self) -> Option<&str> {
        self.fields.get("content").and_then(Json::as_str)
    }

    /// All fields.
    pub fn fields(&self) -> &Map<String, Json> {
        &self.fields
    }

    /// The message as templates see it. Reasoning has two names in the wild and goes by both.
    pub(super) fn to_value(&self, budget: &Budget) -> Run<Value> {
        if self.role().is_empty() {
            return fail("a message has no role");
        }
        let mut items = Vec::new();
        for (name, json) in &self.fields {
            let value = match json.as_str() {
                Some(role) if name == "role" && ROLES.contains(&role) => Value::own(role),
                _ => Value::from_json(budget, json)?,
            };
            items.push((Value::Str(Text::caller(name)), value));
        }
        if let Some(reasoning) =
            self.fields.get("reasoning_content").filter(|_| !self.fields.contains_key("thinking"))
        {
            items.push((Value::own("thinking"), Value::from_json(budget, reasoning)?));
        }
        Value::dict(budget, items)
    }
}

/// A measure of how much the caller gives: bytes of all strings and keys, and something for each value.
pub(super) fn weight<'j>(values: impl Iterator<Item = &'j Json>) -> usize {
    let mut open: Vec<&Json> = values.collect();
    let mut bytes = 0_usize;
    while let Some(value) = open.pop() {
        bytes = bytes.saturating_add(16);
        match value {
            Json::String(s) => bytes = bytes.saturating_add(s.len()),
            Json::Array(items) => open.extend(items),
            Json::Object(items) => {
                bytes = items.keys().fold(bytes, |n, key| n.saturating_add(key.len()));
                open.extend(items.values());
            }
            _ => {}
        }
    }
    bytes
}
