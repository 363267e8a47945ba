//! `tojson`, written as Python's `json.dumps` writes: `", "` and `": "`, nothing escaped for HTML.

use super::args::{CallArgs, flag};
use super::budget::{Budget, Run, fail};
use super::methods::optional_text;
use super::text::{Builder, Text};
use super::value::{Value, float_text};

/// How to write.
struct Style {
    ascii: bool,
    sort_keys: bool,
    /// What a level is indented by; on one line if `None`.
    indent: Option<Text>,
    between_items: Text,
    after_key: Text,
}

/// The filter.
pub(super) fn filter(budget: &Budget, value: &Value, args: CallArgs) -> Run<Value> {
    let names = ["indent", "ensure_ascii", "separators", "sort_keys"];
    let args = CallArgs {
        // Hugging Face's filter takes ensure_ascii first; by place, only that order counts.
        named: args.named.into_iter().chain(places(args.place)?).collect(),
        place: Vec::new(),
    };
    let [indent, ascii, separators, sort_keys] = args.bind("tojson", names)?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Str(by)) => Some(by),
        Some(width) => match width.as_int() {
            Some(n) => {
                let n = usize::try_from(n.max(0)).unwrap_or(usize::MAX);
                budget.alloc(n)?;
                Some(Text::own(&" ".repeat(n)))
            }
            None => return fail("tojson: indent must be a number or a string"),
        },
    };
    let (between_items, after_key) = match separators {
        None | Some(Value::None) => (Text::own(if indent.is_some() { "," } else { ", " }), Text::own(": ")),
        Some(pair) => {
            let mut pair = pair.items(budget)?.into_iter();
            let mut next = || optional_text(pair.next(), "tojson: separators");
            match (next()?, next()?) {
                (Some(a), Some(b)) => (a, b),
                _ => return fail("tojson: separators must be two strings"),
            }
        }
    };
    let style = Style {
        ascii: flag(&ascii, false),
        sort_keys: flag(&sort_keys, false),
        indent,
        between_items,
        after_key,
    };
    let mut out = Builder::new(budget);
    write(value, &style, 0, &mut out)?;
    Ok(Value::Str(out.finish()))
}

/// Names for arguments given by place.
fn places(place: Vec<Value>) -> Run<impl Iterator<Item = (String, Value)>> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    if place.len() > names.len() {
        return fail("tojson takes 4 arguments at most");
    }
    Ok(names.into_iter().map(str::to_owned).zip(place))
}

fn write(value: &Value, style: &Style, level: usize, out: &mut Builder<'_>) -> Run<()> {
    out.budget().step(1)?;
    match value {
        Value::None => out.push_own("null"),
        Value::Bool(b) => out.push_own(if *b { "true" } else { "false" }),
        Value::Int(n) => out.push_own(&n.to_string()),
        Value::Float(n) => out.push_own(&number(*n)),
        Value::Str(text) => write_string(text, style, out),
        Value::List(list) => {
            let items = list.items.iter();
            write_all(('[', ']'), items, style, level, out, |v, out| write(v, style, level + 1, out))
        }
        Value::Dict(dict) => {
            let mut items: Vec<&(Value, Value)> = dict.items.iter().collect();
            out.budget().alloc(items.len().saturating_mul(size_of::<&Value>()))?;
            if style.sort_keys {
                sort(out.budget(), &mut items)?;
            }
            write_all(('{', '}'), items.into_iter(), style, level, out, |(k, v), out| {
                write_key(k, style, out)?;
                out.push_text(&style.after_key)?;
                write(v, style, level + 1, out)
            })
        }
        Value::Undefined(name) => fail(format!("{name} is undefined and cannot be written as JSON")),
        other => fail(format!("{} cannot be written as JSON", other.kind())),
    }
}

/// Brackets around items, each on its own line if indented.
fn write_all<T>(
    (open, close): (char, char),
    items: impl ExactSizeIterator<Item = T>,
    style: &Style,
    level: usize,
    out: &mut Builder<'_>,
    mut write_item: impl FnMut(T, &mut Builder<'_>) -> Run<()>,
) -> Run<()> {
    let empty = items.len() == 0;
    out.push_own(open.encode_utf8(&mut [0; 4]))?;
    for (i, item) in items.enumerate() {
        if i > 0 {
            out.push_text(&style.between_items)?;
        }
        new_line(style, level + 1, out)?;
        write_item(item, out)?;
    }
    if !empty {
        new_line(style, level, out)?;
    }
    out.push_own(close.encode_utf8(&mut [0; 4]))
}

fn new_line(style: &Style, level: usize, out: &mut Builder<'_>) -> Run<()> {
    let Some(indent) = &style.indent else { return Ok(()) };
    out.push_own("\n")?;
    (0..level).try_for_each(|_| out.push_text(indent))
}

fn write_key(key: &Value, style: &Style, out: &mut Builder<'_>) -> Run<()> {
    match key {
        Value::Str(text) => write_string(text, style, out),
        Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
            out.push_own("\"")?;
            write(key, style, 0, out)?;
            out.push_own("\"")
        }
        other => fail(format!("{} cannot be a key in JSON", other.kind())),
    }
}

fn number(n: f64) -> String {
    match n {
        n if n.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        n => float_text(n),
    }
}

fn write_string(text: &Text, style: &Style, out: &mut Builder<'_>) -> Run<()> {
    out.push_own("\"")?;
    for (caller, run) in text.runs() {
        let mut rest = run;
        while let Some(at) = rest.find(|c| needs_escape(c, style.ascii)) {
            out.push(caller, &rest[..at])?;
            let c = rest[at..].chars().next().unwrap_or('"');
            out.push(caller, &escaped(c))?;
            rest = &rest[at + c.len_utf8()..];
        }
        out.push(caller, rest)?;
    }
    out.push_own("\"")
}

fn needs_escape(c: char, ascii: bool) -> bool {
    matches!(c, '"' | '\\' | '\0'..='\x1f') || ascii && c > '\x7e'
}

fn escaped(c: char) -> String {
    match c {
        '"' => "\\\"".to_owned(),
        '\\' => "\\\\".to_owned(),
        '\n' => "\\n".to_owned(),
        '\r' => "\\r".to_owned(),
        '\t' => "\\t".to_owned(),
        '\x08' => "\\b".to_owned(),
        '\x0c' => "\\f".to_owned(),
        c => c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
    }
}

fn sort(budget: &Budget, items: &mut [&(Value, Value)]) -> Run<()> {
    let mut result = Ok(());
    items.sort_by(|(a, _), (b, _)| {
        a.compare(budget, b).unwrap_or_else(|e| {
            result = Err(e);
            std::cmp::Ordering::Equal
        })
    });
    result
}
