//! Filters, as in Jinja. Those that Python makes lazy give lists here.

use super::args::{CallArgs, count, flag, needed};
use super::budget::{Fail, Run, fail};
use super::eval::Interp;
use super::json;
use super::lookup::{field, item};
use super::methods::{optional_text, pairs, text_of};
use super::strings;
use super::text::Text;
use super::value::Value;
use std::cmp::Ordering;

impl Interp<'_> {
    /// Applies a filter.
    pub(super) fn filter(&mut self, name: &str, value: Value, args: CallArgs) -> Run<Value> {
        self.budget.step(1)?;
        match name {
            "tojson" => json::filter(self.budget, &value, args),
            "length" | "count" => Ok(Value::Int(value.len(self.budget)? as i128)),
            "default" | "d" => {
                let [default, boolean] = args.bind(name, ["default_value", "boolean"])?;
                let missing = value.is_undefined() || flag(&boolean, false) && !value.is_true();
                Ok(if missing { default.unwrap_or_else(|| Value::own("")) } else { value })
            }
            "string" | "safe" => value.to_text(self.budget).map(Value::Str),
            "list" => {
                let items = value.items(self.budget)?;
                Value::list(self.budget, items, false)
            }
            "first" | "last" => self.end_item(name, &value),
            "items" => match &value {
                Value::Dict(dict) => pairs(self, dict),
                Value::Undefined(_) => Value::list(self.budget, Vec::new(), false),
                other => fail(format!("items: expected a dictionary, found {}", other.kind())),
            },
            "join" => self.join(value, args),
            "map" | "select" | "reject" | "selectattr" | "rejectattr" => self.each(name, value, args),
            "sort" | "dictsort" | "unique" | "min" | "max" | "sum" | "reverse" => {
                self.ordered(name, value, args)
            }
            "int" | "float" | "abs" | "round" => self.number(name, &value, args),
            "attr" => {
                let attr = text_of(args.one(name, "name")?, name)?;
                let found = field(self, &value, attr.as_str())?;
                Ok(found.unwrap_or_else(|| Value::undefined(attr.as_str())))
            }
            _ => self.text_filter(name, &value, args),
        }
    }

    /// Filters that take their value as text.
    fn text_filter(&mut self, name: &str, value: &Value, args: CallArgs) -> Run<Value> {
        let budget = self.budget;
        let text = value.to_text(budget)?;
        let out = match name {
            "trim" => {
                let [chars] = args.bind(name, ["chars"])?;
                let chars = optional_text(chars, name)?;
                strings::strip(budget, &text, chars.as_ref().map(Text::as_str), true, true)
            }
            "upper" => text.map(budget, str::to_uppercase),
            "lower" => text.map(budget, str::to_lowercase),
            "capitalize" => strings::capitalize(budget, &text),
            "title" => strings::title_filter(budget, &text),
            "escape" | "e" => strings::escape(budget, &text),
            "replace" => {
                let [old, new, limit] = args.bind(name, ["old", "new", "count"])?;
                let old = needed(old, name, "old")?.to_text(budget)?;
                let new = needed(new, name, "new")?.to_text(budget)?;
                strings::replace(budget, &text, old.as_str(), &new, count(limit, usize::MAX, name)?)
            }
            "indent" => {
                let [width, first, blank] = args.bind(name, ["width", "first", "blank"])?;
                let by = match width {
                    Some(Value::Str(by)) => by,
                    width => {
                        let width = count(width, 4, name)?;
                        budget.alloc(width)?;
                        Text::own(&" ".repeat(width))
                    }
                };
                strings::indent(budget, &text, &by, flag(&first, false), flag(&blank, false))
            }
            "format" => {
                let values = Value::list(budget, args.place, true)?;
                return strings::percent_format(budget, &text, &values);
            }
            "wordcount" => {
                let words = strings::split(budget, &text, None, usize::MAX, false)?;
                return Ok(Value::Int(words.len(budget)? as i128));
            }
            _ => return fail(format!("there is no filter `{name:.40}`")),
        };
        out.map(Value::Str)
    }

    fn end_item(&mut self, name: &str, value: &Value) -> Run<Value> {
        let mut items = value.items(self.budget)?;
        let found = if name == "first" { items.drain(..).next() } else { items.pop() };
        Ok(found.unwrap_or_else(|| Value::undefined("an item of nothing")))
    }

    fn join(&mut self, value: Value, args: CallArgs) -> Run<Value> {
        let [separator, attribute] = args.bind("join", ["d", "attribute"])?;
        let separator = match separator {
            Some(separator) => separator.to_text(self.budget)?,
            None => Text::own(""),
        };
        let mut items = value.items(self.budget)?;
        if let Some(path) = attribute {
            for item in &mut items {
                *item = self.path(item, &path)?;
            }
        }
        strings::join(self.budget, &separator, &items)
    }

    /// `value` along a path like `a.b.0`.
    fn path(&mut self, value: &Value, path: &Value) -> Run<Value> {
        let Value::Str(path) = path else { return item(self, value, path) };
        let mut value = value.clone();
        for part in path.as_str().split('.') {
            self.budget.step(1)?;
            let key = part.parse().map_or_else(|_| Value::own(part), Value::Int);
            value = item(self, &value, &key)?;
        }
        Ok(value)
    }

    /// `map`, `select` and their kin.
    fn each(&mut self, name: &str, value: Value, args: CallArgs) -> Run<Value> {
        // Nothing at all, such as the tools that were not given, is as good as an empty list.
        let items = if value.is_true() { value.items(self.budget)? } else { Vec::new() };
        let mut out = Vec::new();
        if name == "map" && args.place.is_empty() {
            let [attribute, default] = args.bind(name, ["attribute", "default"])?;
            let attribute = needed(attribute, name, "attribute")?;
            for item in &items {
                let found = self.path(item, &attribute)?;
                out.push(if found.is_undefined() { default.clone().unwrap_or(found) } else { found });
            }
            return Value::list(self.budget, out, false);
        }
        let CallArgs { place, named } = args;
        let mut place = place.into_iter();
        let by_attribute = name.ends_with("attr");
        let attribute = if by_attribute { Some(needed(place.next(), name, "attribute")?) } else { None };
        let what = place.next().map(|v| text_of(v, name)).transpose()?;
        let rest = CallArgs { place: place.collect(), named };
        for item in items {
            self.budget.step(1)?;
            let args = CallArgs { place: rest.place.clone(), named: rest.named.clone() };
            self.budget.alloc((args.place.len() + args.named.len()).saturating_mul(size_of::<Value>()))?;
            if name == "map" {
                let Some(what) = &what else { return fail("map needs a filter") };
                let budget = self.budget;
                out.push(budget.deeper(|| self.filter(what.as_str(), item, args))?);
                continue;
            }
            let seen = match &attribute {
                Some(path) => self.path(&item, path)?,
                None => item.clone(),
            };
            let holds = match &what {
                Some(what) => self.test(what.as_str(), &seen, args)?,
                None => seen.is_true(),
            };
            if holds == name.starts_with("select") {
                out.push(item);
            }
        }
        Value::list(self.budget, out, false)
    }

    fn ordered(&mut self, name: &str, value: Value, args: CallArgs) -> Run<Value> {
        match name {
            "reverse" => {
                args.none(name)?;
                let mut items = value.items(self.budget)?;
                items.reverse();
                match value {
                    Value::Str(_) => strings::join(self.budget, &Text::own(""), &items),
                    _ => Value::list(self.budget, items, false),
                }
            }
            "sum" => self.sum(value, args),
            "dictsort" => {
                let [case, by, reverse] = args.bind(name, ["case_sensitive", "by", "reverse"])?;
                let Value::Dict(dict) = &value else { return fail("dictsort: expected a dictionary") };
                let items = pairs(self, dict)?.items(self.budget)?;
                let by_value = by.is_some_and(|b| b.as_str() == Some("value"));
                let key = Value::Int(by_value.into());
                self.sorted(items, Some(key), flag(&case, false), flag(&reverse, false))
            }
            "sort" => {
                let [reverse, case, attribute] =
                    args.bind(name, ["reverse", "case_sensitive", "attribute"])?;
                let items = value.items(self.budget)?;
                self.sorted(items, attribute, flag(&case, false), flag(&reverse, false))
            }
            "unique" => self.unique(value, args),
            _ => {
                let [case, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
                let items = value.items(self.budget)?;
                let sorted = self.sorted(items, attribute, flag(&case, false), name == "max")?;
                self.end_item("first", &sorted)
            }
        }
    }

    /// What a value sorts by: along a path, strings in lower case unless case counts.
    fn sort_key(&mut self, value: &Value, attribute: Option<&Value>, case: bool) -> Run<Value> {
        let key = match attribute {
            Some(path) => self.path(value, path)?,
            None => value.clone(),
        };
        match &key {
            Value::Str(text) if !case => text.map(self.budget, str::to_lowercase).map(Value::Str),
            _ => Ok(key),
        }
    }

    fn sorted(
        &mut self,
        items: Vec<Value>,
        attribute: Option<Value>,
        case: bool,
        reverse: bool,
    ) -> Run<Value> {
        let mut keyed = Vec::with_capacity(items.len());
        for item in items {
            self.budget.alloc(2 * size_of::<Value>())?;
            keyed.push((self.sort_key(&item, attribute.as_ref(), case)?, item));
        }
        let mut failed = None;
        // The sort is stable, also when it runs backwards.
        keyed.sort_by(|(a, _), (b, _)| {
            let order = if failed.is_some() { Ok(Ordering::Equal) } else { a.compare(self.budget, b) };
            let order = order.unwrap_or_else(|e| {
                failed = Some(e);
                Ordering::Equal
            });
            if reverse { order.reverse() } else { order }
        });
        match failed {
            Some(error) => Err(error),
            None => Value::list(self.budget, keyed.into_iter().map(|(_, item)| item).collect(), false),
        }
    }

    fn unique(&mut self, value: Value, args: CallArgs) -> Run<Value> {
        let [case, attribute] = args.bind("unique", ["case_sensitive", "attribute"])?;
        let (mut seen, mut out): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
        'items: for item in value.items(self.budget)? {
            let key = self.sort_key(&item, attribute.as_ref(), flag(&case, false))?;
            for old in &seen {
                if old.equals(self.budget, &key)? {
                    continue 'items;
                }
            }
            seen.push(key);
            out.push(item);
        }
        Value::list(self.budget, out, false)
    }

    fn sum(&mut self, value: Value, args: CallArgs) -> Run<Value> {
        let [attribute, start] = args.bind("sum", ["attribute", "start"])?;
        let mut total = start.unwrap_or(Value::Int(0));
        for mut item in value.items(self.budget)? {
            if let Some(path) = attribute.as_ref().filter(|a| !matches!(a, Value::None)) {
                item = self.path(&item, path)?;
            }
            total = super::ops::binary(self.budget, super::ast::BinOp::Add, &total, &item)?;
        }
        Ok(total)
    }

    fn number(&mut self, name: &str, value: &Value, args: CallArgs) -> Run<Value> {
        let parsed = || value.as_str().and_then(|s| s.trim().parse::<f64>().ok());
        match name {
            "abs" => match (value.as_int(), value.as_float()) {
                (Some(n), _) => {
                    n.checked_abs().map(Value::Int).ok_or_else(|| Fail::new("a number is too large"))
                }
                (None, Some(n)) => Ok(Value::Float(n.abs())),
                _ => fail(format!("abs: expected a number, found {}", value.kind())),
            },
            "float" => {
                let [default] = args.bind(name, ["default"])?;
                let number = value.as_float().or_else(parsed).map(Value::Float);
                Ok(number.or(default).unwrap_or(Value::Float(0.0)))
            }
            "int" => {
                let [default, base] = args.bind(name, ["default", "base"])?;
                let base = count(base, 10, name)?;
                let whole = value.as_int().or_else(|| parse_int(value.as_str()?, base));
                let number = whole.or_else(|| {
                    value.as_float().or_else(parsed).filter(|n| n.is_finite()).map(|n| n as i128)
                });
                Ok(number.map(Value::Int).or(default).unwrap_or(Value::Int(0)))
            }
            _ => round(value, args),
        }
    }
}

fn parse_int(text: &str, base: usize) -> Option<i128> {
    let base = u32::try_from(base).ok().filter(|b| (2..=36).contains(b))?;
    let text = text.trim().replace('_', "");
    let digits = match base {
        16 => text.trim_start_matches("0x"),
        8 => text.trim_start_matches("0o"),
        2 => text.trim_start_matches("0b"),
        _ => &text,
    };
    i128::from_str_radix(digits, base).ok()
}

fn round(value: &Value, args: CallArgs) -> Run<Value> {
    let [precision, method] = args.bind("round", ["precision", "method"])?;
    let Some(n) = value.as_float() else {
        return fail(format!("round: expected a number, found {}", value.kind()));
    };
    let precision = precision.and_then(|p| p.as_int()).unwrap_or(0).clamp(-300, 300) as i32;
    let scale = 10f64.powi(precision);
    let rounded = match method.as_ref().and_then(Value::as_str) {
        None | Some("common") => (n * scale).round_ties_even() / scale,
        Some("ceil") => (n * scale).ceil() / scale,
        Some("floor") => (n * scale).floor() / scale,
        Some(_) => return fail("round: the method must be common, ceil or floor"),
    };
    let whole = value.as_int().is_some() && method.is_none_or(|m| m.as_str() == Some("common"));
    Ok(match value.as_int() {
        Some(n) if whole && precision >= 0 => Value::Int(n),
        Some(_) if whole => Value::Int(rounded as i128),
        _ => Value::Float(rounded),
    })
}
