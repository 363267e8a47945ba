//! Template source to tokens, with Jinja's rules for the white space around tags.
//!
//! As chat templates are rendered everywhere, `trim_blocks` (the line end after a block or comment tag goes) and
//! `lstrip_blocks` (so do blanks before one at the start of a line) are on; `-` and `+` in a tag overrule them.
//! Source: Jinja 3.1 documentation, "Whitespace Control", and its reference lexer for the corner cases.

use super::budget::{Fail, Run, fail};

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// Text between tags.
    Data(String),
    BlockStart,
    BlockEnd,
    PrintStart,
    PrintEnd,
    Name(String),
    Str(String),
    Int(i128),
    Float(f64),
    Op(&'static str),
    End,
}

/// A token and the line it starts on.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    pub(super) token: Token,
    pub(super) line: u32,
}

/// Longest first, so that the first match is the right one.
const OPERATORS: &[&str] = &[
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "(", ")", "[", "]", "{", "}", ">", "<",
    "=", ".", ":", "|", ",", ";",
];

/// What Python's `str.strip` and `\s` take for white space.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

/// Reads all tokens; the last is `End`.
pub(super) fn lex(source: &str) -> Run<Vec<Spot>> {
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    if source.ends_with('\n') {
        source.pop();
    }
    let mut lexer = Lexer { rest: &source, line: 1, line_starts: true, out: Vec::new() };
    while lexer.tag()? {}
    lexer.emit(Token::End);
    Ok(lexer.out)
}

struct Lexer<'s> {
    rest: &'s str,
    line: u32,
    /// Whether what came last ended a line (or nothing came yet).
    line_starts: bool,
    out: Vec<Spot>,
}

impl<'s> Lexer<'s> {
    fn emit(&mut self, token: Token) {
        self.out.push(Spot { token, line: self.line });
    }

    /// Takes `n` bytes, which end on a character border.
    fn take(&mut self, n: usize) -> &'s str {
        let (taken, rest) = self.rest.split_at_checked(n).unwrap_or((self.rest, ""));
        self.rest = rest;
        self.line = self.line.saturating_add(taken.bytes().filter(|b| *b == b'\n').count() as u32);
        self.line_starts = taken.ends_with('\n');
        taken
    }

    fn skip_space(&mut self) {
        let rest = self.rest.trim_start_matches(is_space);
        if rest.len() < self.rest.len() {
            self.take(self.rest.len() - rest.len());
        }
    }

    /// Reads the text up to the next tag and the tag; false at the end of the source.
    fn tag(&mut self) -> Run<bool> {
        let Some(at) = find_tag(self.rest) else {
            let data = self.take(self.rest.len());
            self.data(data);
            return Ok(false);
        };
        let line_starts = self.line_starts;
        let data = self.take(at);
        let kind = self.rest.as_bytes().get(1).copied();
        let sign = self.rest.as_bytes().get(2).copied();
        self.data(before_tag(data, sign, kind == Some(b'{'), line_starts));
        match kind {
            Some(b'#') => self.comment()?,
            Some(b'%') => self.block(sign)?,
            _ => self.print(sign)?,
        }
        Ok(true)
    }

    fn data(&mut self, data: &str) {
        if !data.is_empty() {
            self.emit(Token::Data(data.to_owned()));
        }
    }

    fn open(&mut self, sign: Option<u8>) {
        self.take(if matches!(sign, Some(b'-' | b'+')) { 3 } else { 2 });
    }

    fn comment(&mut self) -> Run<()> {
        let line = self.line;
        let sign = self.rest.as_bytes().get(2).copied();
        // `{#-#}` is closed by the mark right after its sign.
        self.open(sign);
        let end = self.rest.find("#}").ok_or_else(|| Fail::new("a comment is not closed").on_line(line))?;
        let mark = self.rest.as_bytes().get(end.wrapping_sub(1)).copied().filter(|_| end > 0);
        self.take(end + 2);
        self.after_block(mark);
        Ok(())
    }

    /// White space after the end of a block or comment tag.
    fn after_block(&mut self, mark: Option<u8>) {
        match mark {
            Some(b'-') => self.skip_space(),
            Some(b'+') => {}
            _ if self.rest.starts_with('\n') => {
                self.take(1);
            }
            _ => {}
        }
    }

    fn block(&mut self, sign: Option<u8>) -> Run<()> {
        let line = self.line;
        self.open(sign);
        if let Some((len, strips)) = raw_start(self.rest) {
            self.take(len);
            if strips {
                self.skip_space();
            }
            return self.raw().map_err(|e| e.on_line(line));
        }
        self.emit(Token::BlockStart);
        let mark = self.inside("%}").map_err(|e| e.on_line(line))?;
        self.emit(Token::BlockEnd);
        self.after_block(mark);
        Ok(())
    }

    fn print(&mut self, sign: Option<u8>) -> Run<()> {
        let line = self.line;
        self.open(sign);
        self.emit(Token::PrintStart);
        let mark = self.inside("}}").map_err(|e| e.on_line(line))?;
        self.emit(Token::PrintEnd);
        if mark == Some(b'-') {
            self.skip_space();
        }
        Ok(())
    }

    /// Text up to `{% endraw %}`.
    fn raw(&mut self) -> Run<()> {
        let mut from = 0;
        let (at, sign, len, mark) = loop {
            let at = self
                .rest
                .get(from..)
                .and_then(|r| r.find("{%"))
                .ok_or_else(|| Fail::new("raw is not closed"))?;
            let at = from + at;
            let after = self.rest.get(at + 2..).unwrap_or("");
            let sign = after.bytes().next().filter(|b| matches!(b, b'-' | b'+'));
            let word = after.get(usize::from(sign.is_some())..).unwrap_or("").trim_start_matches(is_space);
            if let Some((end, mark)) = word.strip_prefix("endraw").and_then(tag_end) {
                break (at, sign, self.rest.len() - end.len() - at, mark);
            }
            from = at + 2;
        };
        let line_starts = self.line_starts;
        let data = self.take(at);
        self.data(before_tag(data, sign, false, line_starts));
        self.take(len);
        self.after_block(mark);
        Ok(())
    }

    /// The tokens of a tag up to its end; returns the sign before the end.
    fn inside(&mut self, end: &str) -> Run<Option<u8>> {
        let mut open = Vec::new();
        loop {
            self.skip_space();
            if open.is_empty() {
                for (mark, text) in [(Some(b'-'), "-"), (Some(b'+'), "+"), (None, "")] {
                    let signed = self.rest.strip_prefix(text).is_some_and(|r| r.starts_with(end));
                    if signed && !(mark == Some(b'+') && end == "}}") {
                        self.take(text.len() + end.len());
                        return Ok(mark);
                    }
                }
            }
            let Some(first) = self.rest.chars().next() else { return fail("a tag is not closed") };
            match first {
                '0'..='9' => self.number()?,
                '\'' | '"' => self.string(first)?,
                c if c.is_alphabetic() || c == '_' => self.name(),
                _ => self.operator(&mut open)?,
            }
        }
    }

    fn name(&mut self) {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let len = self.rest.find(|c| !word(c)).unwrap_or(self.rest.len());
        let name = self.take(len).to_owned();
        self.emit(Token::Name(name));
    }

    fn operator(&mut self, open: &mut Vec<u8>) -> Run<()> {
        let Some(op) = OPERATORS.iter().find(|op| self.rest.starts_with(**op)) else {
            let c = self.rest.chars().next().unwrap_or(' ');
            return fail(format!("unexpected character {c:?}"));
        };
        match *op {
            "(" => open.push(b')'),
            "[" => open.push(b']'),
            "{" => open.push(b'}'),
            ")" | "]" | "}" if open.pop() != op.bytes().next() => return fail(format!("unexpected {op:?}")),
            _ => {}
        }
        self.take(op.len());
        self.emit(Token::Op(op));
        Ok(())
    }

    fn number(&mut self) -> Run<()> {
        let digits = |s: &str| s.find(|c: char| !(c.is_ascii_digit() || c == '_')).unwrap_or(s.len());
        for (prefix, radix) in [("0x", 16), ("0X", 16), ("0o", 8), ("0O", 8), ("0b", 2), ("0B", 2)] {
            if let Some(rest) = self.rest.strip_prefix(prefix) {
                let len = rest.find(|c: char| !(c.is_digit(radix) || c == '_')).unwrap_or(rest.len());
                let text = self.take(2 + len);
                return self.integer(&text[2..], radix);
            }
        }
        let mut len = digits(self.rest);
        let mut float = false;
        if let Some(fraction) =
            self.rest[len..].strip_prefix('.').filter(|f| f.starts_with(|c: char| c.is_ascii_digit()))
        {
            len += 1 + digits(fraction);
            float = true;
        }
        if let Some(exponent) = self.rest[len..].strip_prefix(['e', 'E']) {
            let sign = usize::from(exponent.starts_with(['+', '-']));
            if exponent[sign..].starts_with(|c: char| c.is_ascii_digit()) {
                len += 1 + sign + digits(&exponent[sign..]);
                float = true;
            }
        }
        let text = self.take(len);
        if !float {
            return self.integer(text, 10);
        }
        let value = text.replace('_', "").parse().map_err(|_| Fail::new(format!("not a number: {text}")))?;
        self.emit(Token::Float(value));
        Ok(())
    }

    fn integer(&mut self, digits: &str, radix: u32) -> Run<()> {
        let value = i128::from_str_radix(&digits.replace('_', ""), radix);
        let value = value.map_err(|_| Fail::new(format!("not a number that fits: {digits:.40}")))?;
        self.emit(Token::Int(value));
        Ok(())
    }

    fn string(&mut self, quote: char) -> Run<()> {
        let mut escaped = false;
        let end = self.rest.char_indices().skip(1).find(|(_, c)| {
            let ends = *c == quote && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        let (end, _) = end.ok_or_else(|| Fail::new("a string is not closed"))?;
        let text = self.take(end + 1);
        self.emit(Token::Str(unescape(&text[1..end])?));
        Ok(())
    }
}

/// Where the next `{{`, `{%` or `{#` is.
fn find_tag(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    (0..bytes.len().saturating_sub(1))
        .find(|&i| bytes[i] == b'{' && matches!(bytes[i + 1], b'{' | b'%' | b'#'))
}

/// What is left of the text before a tag.
fn before_tag(text: &str, sign: Option<u8>, is_print: bool, line_starts: bool) -> &str {
    match sign {
        Some(b'-') => text.trim_end_matches(is_space),
        Some(b'+') => text,
        _ if is_print => text,
        _ => {
            let line = text.rfind('\n').map_or(0, |i| i + 1);
            let blank = text[line..].chars().all(is_space);
            if blank && (line > 0 || line_starts) { &text[..line] } else { text }
        }
    }
}

/// If a block tag's content says `raw`: its length and whether white space after it goes.
fn raw_start(rest: &str) -> Option<(usize, bool)> {
    let word = rest.trim_start_matches(is_space).strip_prefix("raw")?.trim_start_matches(is_space);
    let (after, strips) = match word.strip_prefix("-%}") {
        Some(after) => (after, true),
        None => (word.strip_prefix("%}")?, false),
    };
    Some((rest.len() - after.len(), strips))
}

/// What follows the end of a tag, and the sign before that end.
fn tag_end(rest: &str) -> Option<(&str, Option<u8>)> {
    let rest = rest.trim_start_matches(is_space);
    let mark = rest.bytes().next().filter(|b| matches!(b, b'-' | b'+'));
    Some((rest.get(usize::from(mark.is_some())..)?.strip_prefix("%}")?, mark))
}

/// Python's escapes in string literals. Unknown ones stay as they are written.
fn unescape(text: &str) -> Run<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = &rest[at + 1..];
        let Some(c) = code.chars().next() else { break };
        rest = &code[c.len_utf8()..];
        match c {
            '\n' => {}
            '\\' | '\'' | '"' => out.push(c),
            'n' => out.push('\n'),
            't' => out.push('\t'),
            'r' => out.push('\r'),
            'a' => out.push('\x07'),
            'b' => out.push('\x08'),
            'f' => out.push('\x0c'),
            'v' => out.push('\x0b'),
            'x' => out.push(hex(&mut rest, 2)?),
            'u' => out.push(hex(&mut rest, 4)?),
            'U' => out.push(hex(&mut rest, 8)?),
            '0'..='7' => out.push(octal(code, &mut rest)),
            _ => {
                out.push('\\');
                out.push(c);
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn hex(rest: &mut &str, n: usize) -> Run<char> {
    let digits = rest.get(..n).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
    let code = digits.and_then(|d| u32::from_str_radix(d, 16).ok());
    let c = code.and_then(char::from_u32).ok_or_else(|| Fail::new("a string has a bad escape"))?;
    *rest = &rest[n..];
    Ok(c)
}

/// Up to three octal digits at the start of `code`.
fn octal<'t>(code: &'t str, rest: &mut &'t str) -> char {
    let len = code.bytes().take(3).take_while(|b| matches!(b, b'0'..=b'7')).count();
    *rest = &code[len..];
    u32::from_str_radix(&code[..len], 8).ok().and_then(char::from_u32).unwrap_or('\0')
}
