//! Patterns of JSON Schema (ECMA 262) in the engine's dialect, never wider than they were.
//!
//! The two differ where a set holds `[`, `&&`, `--` or `~~` (operators to the engine, characters to ECMA), and in
//! what `.` leaves out. Digits and words are ASCII in both. What ECMA has and the engine has not is refused: look-around,
//! back-references, word boundaries.

use regex_syntax::hir::{Hir, HirKind};

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
