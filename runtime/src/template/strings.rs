//! What templates do to strings, as Python does it, with the origin of each byte kept.

use super::budget::{Budget, Run, fail};
use super::lexer::is_space;
use super::text::{Builder, Text};
use super::value::Value;
use std::ops::Range;

/// `strip`, `lstrip`, `rstrip`: of white space, or of these characters.
pub(super) fn strip(budget: &Budget, text: &Text, chars: Option<&str>, left: bool, right: bool) -> Run<Text> {
    let string = text.as_str();
    budget.scan(string.len().saturating_mul(1 + chars.map_or(0, str::len)))?;
    let gone = |c: char| chars.map_or_else(|| is_space(c), |set| set.contains(c));
    let start = if left { string.len() - string.trim_start_matches(gone).len() } else { 0 };
    let end = if right { string.trim_end_matches(gone).len() } else { string.len() };
    text.slice(budget, start..end.max(start))
}

/// Where `part` is in `text`, from the left, without overlap, `limit` times at most.
fn places(budget: &Budget, text: &str, part: &str, limit: usize) -> Run<Vec<Range<usize>>> {
    budget.scan(text.len() + part.len())?;
    let mut out = Vec::new();
    for (at, found) in text.match_indices(part).take(limit) {
        budget.alloc(size_of::<Range<usize>>())?;
        out.push(at..at + found.len());
    }
    Ok(out)
}

/// `replace`.
pub(super) fn replace(budget: &Budget, text: &Text, old: &str, new: &Text, limit: usize) -> Run<Text> {
    let mut out = Builder::new(budget);
    let mut from = 0;
    for place in places(budget, text.as_str(), old, limit)? {
        out.push_slice(text, from..place.start)?;
        out.push_text(new)?;
        from = place.end;
    }
    out.push_slice(text, from..text.as_str().len())?;
    Ok(out.finish())
}

/// `split` and `rsplit`, by a separator or (`None`) by runs of white space.
pub(super) fn split(
    budget: &Budget,
    text: &Text,
    separator: Option<&str>,
    limit: usize,
    from_right: bool,
) -> Run<Value> {
    let cuts = match separator {
        Some("") => return fail("split: the separator is empty"),
        Some(separator) => separators(budget, text.as_str(), separator, limit, from_right)?,
        None => return split_words(budget, text, limit, from_right),
    };
    let mut out = Vec::new();
    let mut from = 0;
    for cut in cuts {
        out.push(Value::Str(text.slice(budget, from..cut.start)?));
        from = cut.end;
    }
    out.push(Value::Str(text.slice(budget, from..text.as_str().len())?));
    Value::list(budget, out, false)
}

fn separators(
    budget: &Budget,
    text: &str,
    part: &str,
    limit: usize,
    from_right: bool,
) -> Run<Vec<Range<usize>>> {
    if !from_right {
        return places(budget, text, part, limit);
    }
    budget.scan(text.len() + part.len())?;
    let mut out: Vec<_> = text.rmatch_indices(part).take(limit).map(|(at, s)| at..at + s.len()).collect();
    budget.alloc(out.len().saturating_mul(size_of::<Range<usize>>()))?;
    out.reverse();
    Ok(out)
}

fn split_words(budget: &Budget, text: &Text, limit: usize, from_right: bool) -> Run<Value> {
    let string = text.as_str();
    budget.alloc(string.len())?;
    let mut words: Vec<Range<usize>> = Vec::new();
    let mut start = None;
    for (i, c) in string.char_indices().chain([(string.len(), ' ')]) {
        match (is_space(c), start) {
            (false, None) => start = Some(i),
            (true, Some(from)) => {
                budget.alloc(size_of::<Range<usize>>())?;
                words.push(from..i);
                start = None;
            }
            _ => {}
        }
    }
    if let Some(rest) = words.len().checked_sub(limit.saturating_add(1)) {
        // All words beyond the limit stay together, with the white space between and on the far side.
        if from_right {
            let joined = 0..words[rest].end;
            words.splice(..=rest, [joined]);
        } else {
            let joined = words[limit].start..string.len();
            words.truncate(limit);
            words.push(joined);
        }
    }
    let items = words.into_iter().map(|w| Ok(Value::Str(text.slice(budget, w)?))).collect::<Run<_>>()?;
    Value::list(budget, items, false)
}

/// `splitlines`.
pub(super) fn lines(budget: &Budget, text: &Text, keep_ends: bool) -> Run<Vec<Text>> {
    let string = text.as_str();
    budget.scan(string.len())?;
    let ends = |c: char| {
        matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let mut out = Vec::new();
    let mut from = 0;
    while from < string.len() {
        let rest = &string[from..];
        let (line, end) = match rest.find(ends) {
            Some(at) if rest[at..].starts_with("\r\n") => (at, at + 2),
            Some(at) => (at, at + rest[at..].chars().next().map_or(1, char::len_utf8)),
            None => (rest.len(), rest.len()),
        };
        budget.alloc(size_of::<Text>())?;
        out.push(text.slice(budget, from..from + if keep_ends { end } else { line })?);
        from += end;
    }
    Ok(out)
}

/// `find`, `rfind`: the place in characters, or -1.
pub(super) fn find(budget: &Budget, text: &str, part: &str, from_right: bool) -> Run<i128> {
    budget.scan(text.len() + part.len())?;
    let at = if from_right { text.rfind(part) } else { text.find(part) };
    Ok(at.map_or(-1, |at| text[..at].chars().count() as i128))
}

/// `partition`, `rpartition`.
pub(super) fn partition(budget: &Budget, text: &Text, part: &str, from_right: bool) -> Run<Value> {
    if part.is_empty() {
        return fail("partition: the separator is empty");
    }
    let string = text.as_str();
    budget.scan(string.len() + part.len())?;
    let (n, place) = (string.len(), if from_right { string.rfind(part) } else { string.find(part) });
    let cuts = match (place, from_right) {
        (Some(at), _) => [0..at, at..at + part.len(), at + part.len()..n],
        (None, false) => [0..n, n..n, n..n],
        (None, true) => [0..0, 0..0, 0..n],
    };
    let parts = cuts.into_iter().map(|c| Ok(Value::Str(text.slice(budget, c)?))).collect::<Run<_>>()?;
    Value::list(budget, parts, true)
}

/// A character as a word starts with it: `ß` becomes `Ss`.
fn title_case(c: char) -> String {
    let mut upper = c.to_uppercase();
    upper.next().into_iter().chain(upper.flat_map(char::to_lowercase)).collect()
}

/// First character as a word starts, the others lower case.
pub(super) fn capitalize(budget: &Budget, text: &Text) -> Run<Text> {
    cased(budget, text, title_case, |_| false)
}

/// Python's `title`: a word starts after anything but a letter.
pub(super) fn title(budget: &Budget, text: &Text) -> Run<Text> {
    cased(budget, text, title_case, |c| !c.is_alphabetic())
}

/// Jinja's filter `title`: a word starts after white space, a dash or an opening bracket.
pub(super) fn title_filter(budget: &Budget, text: &Text) -> Run<Text> {
    let upper = |c: char| c.to_uppercase().collect();
    cased(budget, text, upper, |c| c.is_whitespace() || "-({[<".contains(c))
}

/// Lower case, but `first` of the character where a word starts: the first, and those for which `starts` holds of
/// the one before.
fn cased(
    budget: &Budget,
    text: &Text,
    first: impl Fn(char) -> String,
    starts: impl Fn(char) -> bool,
) -> Run<Text> {
    let mut out = Builder::new(budget);
    let mut at_start = true;
    for (caller, run) in text.runs() {
        for c in run.chars() {
            let changed = if at_start { first(c) } else { c.to_lowercase().collect() };
            out.push(caller, &changed)?;
            at_start = starts(c);
        }
    }
    Ok(out.finish())
}

/// `join`.
pub(super) fn join(budget: &Budget, separator: &Text, items: &[Value]) -> Run<Value> {
    let mut out = Builder::new(budget);
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push_text(separator)?;
        }
        item.print(&mut out)?;
    }
    Ok(Value::Str(out.finish()))
}

/// The filter `indent`.
pub(super) fn indent(budget: &Budget, text: &Text, by: &Text, first: bool, blank: bool) -> Run<Text> {
    let mut out = Builder::new(budget);
    let mut with_end = Builder::new(budget);
    with_end.push_text(text)?;
    with_end.push_own("\n")?;
    for (i, line) in lines(budget, &with_end.finish(), false)?.iter().enumerate() {
        if i > 0 {
            out.push_own("\n")?;
        }
        if if i == 0 { first } else { blank || !line.as_str().is_empty() } {
            out.push_text(by)?;
        }
        out.push_text(line)?;
    }
    Ok(out.finish())
}

/// The filter `escape`, for HTML.
pub(super) fn escape(budget: &Budget, text: &Text) -> Run<Text> {
    text.map(budget, |run| {
        let mut out = String::with_capacity(run.len());
        for c in run.chars() {
            match c {
                '&' => out.push_str("&amp;"),
                '<' => out.push_str("&lt;"),
                '>' => out.push_str("&gt;"),
                '"' => out.push_str("&#34;"),
                '\'' => out.push_str("&#39;"),
                c => out.push(c),
            }
        }
        out
    })
}

/// `"%s and %d" % args`, for the plain forms of `%s`, `%d`, `%r` and `%f`.
pub(super) fn percent_format(budget: &Budget, format: &Text, args: &Value) -> Run<Value> {
    let mut args = match args {
        Value::List(list) if list.tuple => list.items.clone(),
        other => vec![other.clone()],
    }
    .into_iter();
    let string = format.as_str();
    let mut out = Builder::new(budget);
    let mut from = 0;
    while let Some(at) = string[from..].find('%').map(|at| from + at) {
        out.push_slice(format, from..at)?;
        let letter = string[at + 1..].chars().next().unwrap_or(' ');
        from = at + 1 + letter.len_utf8().min(string.len() - at - 1);
        if letter == '%' {
            out.push_own("%")?;
            continue;
        }
        let Some(value) = args.next() else { return fail("not enough values for a format") };
        match (letter, value.as_int(), value.as_float()) {
            ('s', ..) => value.print(&mut out)?,
            ('r', ..) => value.print_repr(&mut out)?,
            ('d' | 'i', Some(n), _) => out.push_own(&n.to_string())?,
            ('d' | 'i', None, Some(n)) => out.push_own(&format!("{:.0}", n.trunc()))?,
            ('f', _, Some(n)) => out.push_own(&format!("{n:.6}"))?,
            _ => return fail(format!("cannot write {} as %{letter}", value.kind())),
        }
    }
    out.push_slice(format, from..string.len())?;
    match args.next() {
        Some(_) => fail("too many values for a format"),
        None => Ok(Value::Str(out.finish())),
    }
}

/// `"{} and {name}".format(…)`, without format specifications.
pub(super) fn brace_format(budget: &Budget, format: &Text, args: &super::args::CallArgs) -> Run<Value> {
    let string = format.as_str();
    let mut out = Builder::new(budget);
    let (mut from, mut next) = (0, 0);
    while let Some(at) = string[from..].find(['{', '}']).map(|at| from + at) {
        out.push_slice(format, from..at)?;
        let rest = &string[at..];
        if rest.starts_with("{{") || rest.starts_with("}}") {
            out.push_slice(format, at..at + 1)?;
            from = at + 2;
            continue;
        }
        let Some(end) = rest.find('}').filter(|_| rest.starts_with('{')) else {
            return fail("format: a brace stands alone");
        };
        let field = &rest[1..end];
        let by_name = args.named.iter().find(|(n, _)| n == field).map(|(_, v)| v);
        let value = match field.parse::<usize>() {
            Ok(i) => args.place.get(i),
            Err(_) if field.is_empty() => {
                next += 1;
                args.place.get(next - 1)
            }
            Err(_) => by_name,
        };
        let Some(value) = value else { return fail(format!("format: nothing for the field `{field:.40}`")) };
        value.print(&mut out)?;
        from = at + end + 1;
    }
    out.push_slice(format, from..string.len())?;
    Ok(Value::Str(out.finish()))
}
