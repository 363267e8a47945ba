//! Methods of strings, dictionaries and lists. Those that would change a list or dictionary in place are refused, as
//! in the sandbox that chat templates are written for.

use super::args::{CallArgs, count, flag, needed};
use super::budget::{Run, fail};
use super::eval::Interp;
use super::strings;
use super::text::Text;
use super::value::{Dict, List, Value};

const OF_STRINGS: &[&str] = &[
    "capitalize",
    "count",
    "endswith",
    "find",
    "format",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdigit",
    "islower",
    "isnumeric",
    "isspace",
    "isupper",
    "join",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "title",
    "upper",
];
const OF_DICTS: &[&str] =
    &["clear", "copy", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"];
const OF_LISTS: &[&str] =
    &["append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"];

/// Whether values like this one have a method of this name.
pub(super) fn exists(value: &Value, name: &str) -> bool {
    match value {
        Value::Str(_) => OF_STRINGS,
        Value::Dict(_) => OF_DICTS,
        Value::List(list) if list.tuple => &["count", "index"],
        Value::List(_) => OF_LISTS,
        _ => &[],
    }
    .contains(&name)
}

impl Interp<'_> {
    /// Calls a method.
    pub(super) fn method(&mut self, value: &Value, name: &str, args: CallArgs) -> Run<Value> {
        match value {
            Value::Str(text) => self.string_method(text, name, args),
            Value::Dict(dict) => self.dict_method(dict, name, args),
            Value::List(list) => self.list_method(list, name, args),
            Value::Loop(number) => self.loop_method(*number, name, args),
            other => fail(format!("{} has no method {name}", other.kind())),
        }
    }

    fn string_method(&self, text: &Text, name: &str, args: CallArgs) -> Run<Value> {
        let (budget, string) = (self.budget, text.as_str());
        let scan = || budget.scan(string.len());
        let all = |test: fn(char) -> bool| {
            scan()?;
            Ok(Value::Bool(!string.is_empty() && string.chars().all(test)))
        };
        match name {
            "strip" | "lstrip" | "rstrip" => {
                let [chars] = args.bind(name, ["chars"])?;
                let chars = optional_text(chars, name)?;
                let chars = chars.as_ref().map(Text::as_str);
                strings::strip(budget, text, chars, name != "rstrip", name != "lstrip").map(Value::Str)
            }
            "split" | "rsplit" => {
                let [separator, limit] = args.bind(name, ["sep", "maxsplit"])?;
                let separator = optional_text(separator, name)?;
                let limit = limit.filter(|l| l.as_int().is_none_or(|n| n >= 0));
                let limit = count(limit, usize::MAX, name)?;
                strings::split(budget, text, separator.as_ref().map(Text::as_str), limit, name == "rsplit")
            }
            "splitlines" => {
                let [keep_ends] = args.bind(name, ["keepends"])?;
                let lines = strings::lines(budget, text, flag(&keep_ends, false))?;
                Value::list(budget, lines.into_iter().map(Value::Str).collect(), false)
            }
            "startswith" | "endswith" => self.has_affix(string, name, args),
            "replace" => {
                let [old, new, limit] = args.bind(name, ["old", "new", "count"])?;
                let old = text_of(needed(old, name, "old")?, name)?;
                let new = text_of(needed(new, name, "new")?, name)?;
                let limit = limit.filter(|l| l.as_int().is_none_or(|n| n >= 0));
                let limit = count(limit, usize::MAX, name)?;
                strings::replace(budget, text, old.as_str(), &new, limit).map(Value::Str)
            }
            "removeprefix" | "removesuffix" => {
                let part = text_of(args.one(name, "affix")?, name)?;
                budget.scan(part.as_str().len())?;
                let (start, end) = match (name, part.as_str()) {
                    ("removeprefix", p) if string.starts_with(p) => (p.len(), string.len()),
                    ("removesuffix", p) if string.ends_with(p) => (0, string.len() - p.len()),
                    _ => (0, string.len()),
                };
                text.slice(budget, start..end).map(Value::Str)
            }
            "partition" | "rpartition" => {
                let part = text_of(args.one(name, "sep")?, name)?;
                strings::partition(budget, text, part.as_str(), name == "rpartition")
            }
            "find" | "rfind" | "index" | "count" => {
                let part = text_of(args.one(name, "sub")?, name)?;
                self.search(string, part.as_str(), name)
            }
            "join" => {
                let items = args.one(name, "iterable")?.items(budget)?;
                match items.iter().find(|i| i.as_str().is_none()) {
                    Some(other) => fail(format!("join: expected strings, found {}", other.kind())),
                    None => strings::join(budget, text, &items),
                }
            }
            "format" => strings::brace_format(budget, text, &args),
            "upper" => text.map(budget, str::to_uppercase).map(Value::Str),
            "lower" => text.map(budget, str::to_lowercase).map(Value::Str),
            "capitalize" => strings::capitalize(budget, text).map(Value::Str),
            "title" => strings::title(budget, text).map(Value::Str),
            "isdigit" | "isnumeric" => all(char::is_numeric),
            "isalpha" => all(char::is_alphabetic),
            "isalnum" => all(char::is_alphanumeric),
            "isspace" => all(super::lexer::is_space),
            "isascii" => scan().map(|()| Value::Bool(string.is_ascii())),
            "isupper" | "islower" => scan().map(|()| Value::Bool(has_case(string, name == "isupper"))),
            _ => fail(format!("str has no method {name}")),
        }
    }

    fn has_affix(&self, string: &str, name: &str, args: CallArgs) -> Run<Value> {
        let affixes = match args.one(name, "affix")? {
            Value::List(list) if list.tuple => list.items.clone(),
            one => vec![one],
        };
        for affix in affixes {
            let affix = text_of(affix, name)?;
            self.budget.scan(affix.as_str().len())?;
            let (start, end) = (string.starts_with(affix.as_str()), string.ends_with(affix.as_str()));
            if if name == "startswith" { start } else { end } {
                return Ok(Value::Bool(true));
            }
        }
        Ok(Value::Bool(false))
    }

    fn search(&self, string: &str, part: &str, name: &str) -> Run<Value> {
        if name == "count" {
            self.budget.scan(string.len() + part.len())?;
            let n = if part.is_empty() { string.chars().count() + 1 } else { string.matches(part).count() };
            return Ok(Value::Int(n as i128));
        }
        match strings::find(self.budget, string, part, name == "rfind")? {
            -1 if name == "index" => fail("index: the text is not there"),
            at => Ok(Value::Int(at)),
        }
    }

    fn dict_method(&self, dict: &Dict, name: &str, args: CallArgs) -> Run<Value> {
        let budget = self.budget;
        let list = |f: fn(&(Value, Value)) -> Value| {
            budget.alloc(dict.items.len().saturating_mul(size_of::<Value>()))?;
            Value::list(budget, dict.items.iter().map(f).collect(), false)
        };
        match name {
            "get" => {
                let [key, default] = args.bind(name, ["key", "default"])?;
                let found = dict.get(budget, &needed(key, name, "key")?)?.cloned();
                Ok(found.or(default).unwrap_or(Value::None))
            }
            "items" => args.none(name).and_then(|()| pairs(self, dict)),
            "keys" => args.none(name).and_then(|()| list(|(k, _)| k.clone())),
            "values" => args.none(name).and_then(|()| list(|(_, v)| v.clone())),
            "copy" => Value::dict(budget, dict.items.clone()),
            _ => fail(format!("a template may not change a dictionary in place ({name})")),
        }
    }

    fn list_method(&self, list: &List, name: &str, args: CallArgs) -> Run<Value> {
        match name {
            "copy" => Value::list(self.budget, list.items.clone(), false),
            "index" | "count" => {
                let value = args.one(name, "value")?;
                let mut found = Vec::new();
                for (i, item) in list.items.iter().enumerate() {
                    if item.equals(self.budget, &value)? {
                        found.push(i);
                    }
                }
                match (name, found.first()) {
                    ("count", _) => Ok(Value::Int(found.len() as i128)),
                    (_, Some(i)) => Ok(Value::Int(*i as i128)),
                    (_, None) => fail("index: the value is not there"),
                }
            }
            _ => fail(format!("a template may not change a list in place ({name})")),
        }
    }
}

/// Key and value of each item, as tuples.
pub(super) fn pairs(interp: &Interp<'_>, dict: &Dict) -> Run<Value> {
    let pair = |(k, v): &(Value, Value)| Value::list(interp.budget, vec![k.clone(), v.clone()], true);
    let items = dict.items.iter().map(pair).collect::<Run<_>>()?;
    Value::list(interp.budget, items, false)
}

/// A string argument.
pub(super) fn text_of(value: Value, what: &str) -> Run<Text> {
    match value {
        Value::Str(text) => Ok(text),
        other => fail(format!("{what}: expected a string, found {}", other.kind())),
    }
}

/// A string argument that may be absent or None.
pub(super) fn optional_text(value: Option<Value>, what: &str) -> Run<Option<Text>> {
    match value {
        None | Some(Value::None) => Ok(None),
        Some(value) => text_of(value, what).map(Some),
    }
}

/// Python's `isupper` and `islower`: some letters have case, and all of those this one.
pub(super) fn has_case(text: &str, upper: bool) -> bool {
    let (any_upper, any_lower) = (text.chars().any(char::is_uppercase), text.chars().any(char::is_lowercase));
    if upper { any_upper && !any_lower } else { any_lower && !any_upper }
}
