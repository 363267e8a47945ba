//! Patterns of JSON Schema (ECMA 262) in the engine's dialect, never wider than they were.
//!
//! The two differ where a set holds `[`, `&&`, `--` or `~~` (operators to the engine, characters to ECMA), and in
//! what `.` leaves out. Digits and words are ASCII in both. What ECMA has and the engine has not is refused: look-around,
//! back-references, word boundaries.

use regex_syntax::hir::{Class, ClassUnicode, Hir, HirKind};

/// `pattern` for the engine.
/// # Errors Why it cannot be kept.
pub(super) fn rewrite(pattern: &str) -> Result<String, String> {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut set: Option<Set> = None;
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match (&mut set, c) {
            (_, '\\') => {
                escape(chars.next(), &mut out)?;
                if let Some(s) = &mut set {
                    s.last = None;
                    s.is_empty = false;
                }
            }
            (Some(s), ']') if !s.is_empty => {
                out.push(']');
                set = None;
            }
            (Some(_), ']') => return Err("an empty set matches nothing here and `]` elsewhere".into()),
            (Some(s), _) => {
                if c == '[' || (matches!(c, '&' | '~' | '-') && s.last == Some(c)) {
                    out.push('\\');
                }
                out.push(c);
                (s.last, s.is_empty) = (Some(c), false);
            }
            (None, '[') => {
                out.push('[');
                if chars.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                set = Some(Set { last: None, is_empty: true });
            }
            (None, '.') => out.push_str("[^\\n\\r\\x{2028}\\x{2029}]"),
            (None, '(') => {
                out.push('(');
                group(&mut chars, &mut out)?;
            }
            (None, _) => out.push(c),
        }
    }
    let parsed =
        regex_syntax::parse(&out).map_err(|e| e.to_string().lines().last().unwrap_or_default().to_owned())?;
    if holds_control(&parsed) {
        return Err("it demands a control character, which strings are written without".into());
    }
    Ok(out)
}

/// Longest sample, in bytes.
const MAX_SAMPLE: usize = 1024;

/// A short text that a rewritten pattern is found in, if there is one to be had simply.
pub(super) fn shortest(pattern: &str) -> Option<String> {
    String::from_utf8(sample(&regex_syntax::parse(pattern).ok()?)?).ok()
}

fn sample(hir: &Hir) -> Option<Vec<u8>> {
    let text = match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => Vec::new(),
        HirKind::Literal(l) => l.0.to_vec(),
        HirKind::Class(Class::Unicode(c)) => {
            let plain = ['a', '0', 'A', ' ', '-'];
            let holds =
                |c: &char, set: &ClassUnicode| set.ranges().iter().any(|r| (r.start()..=r.end()).contains(c));
            let first = c.ranges().iter().map(|r| r.end()).next();
            plain.into_iter().find(|p| holds(p, c)).or(first)?.to_string().into_bytes()
        }
        HirKind::Class(Class::Bytes(c)) => vec![c.ranges().first()?.end()],
        HirKind::Repetition(r) => {
            let once = if r.min == 0 { Vec::new() } else { sample(&r.sub)? };
            let fits = once.len().checked_mul(r.min as usize).is_some_and(|n| n <= MAX_SAMPLE);
            fits.then(|| once.repeat(r.min as usize))?
        }
        HirKind::Capture(c) => sample(&c.sub)?,
        HirKind::Concat(parts) => parts.iter().map(sample).collect::<Option<Vec<_>>>()?.concat(),
        HirKind::Alternation(parts) => parts.iter().filter_map(sample).min_by_key(Vec::len)?,
    };
    (text.len() <= MAX_SAMPLE).then_some(text)
}

/// Whether a literal part holds a control character that has no short escape in JSON; the engine would lose it.
fn holds_control(hir: &Hir) -> bool {
    let mut open = vec![hir];
    while let Some(hir) = open.pop() {
        match hir.kind() {
            HirKind::Literal(l) if l.0.iter().any(|&b| super::keywords::is_unwritable(char::from(b))) => {
                return true;
            }
            HirKind::Repetition(r) => open.push(&r.sub),
            HirKind::Capture(c) => open.push(&c.sub),
            HirKind::Concat(parts) | HirKind::Alternation(parts) => open.extend(parts),
            _ => {}
        }
    }
    false
}

struct Set {
    last: Option<char>,
    is_empty: bool,
}

fn escape(c: Option<char>, out: &mut String) -> Result<(), String> {
    match c {
        None => Err("it ends in a backslash".into()),
        Some('b' | 'B') => Err("word boundaries are not supported".into()),
        Some('1'..='9' | 'k') => Err("back-references are not supported".into()),
        Some('A' | 'z' | 'Z' | 'G' | 'c' | '0') => {
            Err("an escape means different things to different engines".into())
        }
        Some(c @ ('_' | '"' | '\'' | ',' | ';' | ':' | '=' | '!' | '@' | '%' | '<' | '>' | '`')) => {
            out.push(c);
            Ok(())
        }
        Some(c) => {
            out.push('\\');
            out.push(c);
            Ok(())
        }
    }
}

/// Refuses the groups that are no plain groups; names are dropped.
fn group(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) -> Result<(), String> {
    if chars.next_if_eq(&'?').is_none() {
        return Ok(());
    }
    match chars.next() {
        Some(':') => out.push_str("?:"),
        Some('=' | '!') => return Err("look-around is not supported".into()),
        Some('<') if matches!(chars.peek(), Some('=' | '!')) => {
            return Err("look-around is not supported".into());
        }
        Some('<') => {
            out.push_str("?:");
            while chars.next().is_some_and(|c| c != '>') {}
        }
        _ => return Err("flags in a pattern are not supported".into()),
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sets_keep_their_meaning() {
        let cases = [
            ("^[a-z]+$", "^[a-z]+$"),
            ("[a[b]", "[a\\[b]"),
            ("[a&&b]", "[a&\\&b]"),
            ("[+--]", "[+-\\-]"),
            ("[^\\]]", "[^\\]]"),
            ("(?<y>a)b.", "(?:a)b[^\\n\\r\\x{2028}\\x{2029}]"),
            ("\\d\\_", "\\d_"),
        ];
        for (from, want) in cases {
            assert_eq!(rewrite(from).unwrap(), want);
        }
    }

    #[test]
    fn what_has_no_counterpart_is_refused() {
        for p in ["(?=a)", "(?<!a)b", "a\\b", "(a)\\1", "[]a]", "[^]", "(?i)a", "\\"] {
            assert!(rewrite(p).is_err(), "{p}");
        }
    }
}
