//! Whether a text is JSON, and JSON of a schema.

use super::{Candidate, Reward, Score, Status};
use crate::error::{Error, ErrorKind, Result};
use crate::grammar::{Automaton, Grammar, Machine};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// JSON (RFC 8259), white space around it allowed.
const JSON: &str = r#"
root ::= ws value ws
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ws ( member ( "," ws member )* )? "}"
member ::= string ws ":" ws value ws
array ::= "[" ws ( value ws ( "," ws value ws )* )? "]"
string ::= "\"" ( [^"\\\x00-\x1f] | "\\" ( ["\\/bfnrt] | "u" hex hex hex hex ) )* "\""
hex ::= [0-9a-fA-F]
number ::= "-"? ( "0" | [1-9] [0-9]* ) ( "." [0-9]+ )? ( [eE] [-+]? [0-9]+ )?
ws ::= [ \t\n\r]*
"#;

/// Closed text: 0 if it is no JSON, 0.5 if it is, 1 if the schema also accepts it (without a schema, 1 for JSON). A
/// name that occurs twice in an object and text behind the value fail. Open text that some JSON begins with: 0.5.
pub struct JsonReward {
    machine: Machine,
    validator: Option<jsonschema::Validator>,
}

impl JsonReward {
    /// # Errors `BadProfile` for what is no schema.
    pub fn new(schema: Option<&Value>) -> Result<Self> {
        let bad = |e: jsonschema::ValidationError<'_>| {
            Error::new(ErrorKind::BadProfile, format!("JSON schema: {e} at {}", e.instance_path()))
        };
        let validator = schema.map(jsonschema::validator_for).transpose().map_err(bad)?;
        Ok(Self { machine: Grammar::gbnf(JSON)?.compile(&[true; 256])?, validator })
    }

    fn closed(&self, text: &str) -> f64 {
        let Ok(Unique(value)) = serde_json::from_str(text) else { return 0.0 };
        match &self.validator {
            Some(validator) if !validator.is_valid(&value) => 0.5,
            _ => 1.0,
        }
    }
}

impl Reward for JsonReward {
    fn name(&self) -> &str {
        "json"
    }

    fn step(&self) -> f64 {
        0.5
    }

    fn score(&mut self, _: &str, candidate: Candidate<'_>) -> Result<Score> {
        if candidate.is_closed {
            let value = self.closed(candidate.text);
            return Ok(Score::fixed(value, value == 1.0));
        }
        let state = self.machine.run(self.machine.start(), candidate.text.as_bytes());
        self.machine.check()?;
        Ok(match state {
            Some(_) => Score { value: 0.5, lo: 0.0, hi: 1.0, status: Status::Open },
            None => Score::fixed(0.0, false),
        })
    }
}

/// A JSON value in which no object names a member twice.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        from.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, v: bool) -> std::result::Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> std::result::Result<Value, E> {
        Ok(v.into())
    }
    fn visit_i64<E>(self, v: i64) -> std::result::Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E>(self, v: f64) -> std::result::Result<Value, E> {
        Ok(v.into())
    }
    fn visit_str<E>(self, v: &str) -> std::result::Result<Value, E> {
        Ok(v.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Unique(v)) = seq.next_element()? {
            all.push(v);
        }
        Ok(Value::Array(all))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some((key, Unique(v))) = map.next_entry::<String, Unique>()? {
            if all.insert(key, v).is_some() {
                return Err(de::Error::custom("a name occurs twice"));
            }
        }
        Ok(Value::Object(all))
    }
}
