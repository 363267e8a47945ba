//! GBNF, the grammar notation of llama.cpp, read into rules over characters.
//!
//! Differences, all on purpose: left recursion is allowed (it is rewritten later); repetition counts
//! are exact however large, within the size limits; a rule defined twice, an empty class, a reversed
//! range and a reversed count are errors where llama.cpp is silent; token terms (`<think>`, `<[7]>`)
//! are refused, because a grammar here describes bytes.
//! Source: `grammars/README.md` of llama.cpp and the behaviour of its parser.

use rustc_hash::FxHashMap;

use super::charset::CharSet;
use super::expr::{Expr, Grammar, Rule};
use crate::error::{Error, ErrorKind, Result};

/// Deepest nesting of parentheses.
const MAX_DEPTH: usize = 128;
/// Longest grammar text, in bytes.
const MAX_TEXT: usize = 4 << 20;

impl Grammar {
    /// Reads GBNF; the start rule is `root`.
    /// # Errors
    /// `BadProfile` with line, column and the offending line for what cannot be read; `Unsatisfiable`
    /// if no finite text belongs to the grammar; `TooComplex` beyond 4 MiB or 128 levels of
    /// parentheses; `Unsupported` for token terms.
    pub fn gbnf(text: &str) -> Result<Self> {
        if text.len() > MAX_TEXT {
            let found = text.len();
            return Err(Error::new(
                ErrorKind::TooComplex,
                format!("grammar of {found} bytes, at most {MAX_TEXT} are read"),
            ));
        }
        Reader { text, at: 0, names: FxHashMap::default(), rules: Vec::new() }.grammar()
    }
}

struct Draft {
    name: String,
    expr: Option<Expr>,
    /// Where the rule is first mentioned.
    at: usize,
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    names: FxHashMap<&'a str, usize>,
    rules: Vec<Draft>,
}

impl<'a> Reader<'a> {
    fn grammar(mut self) -> Result<Grammar> {
        self.space(true);
        while self.peek().is_some() {
            self.rule()?;
        }
        let Some(&root) = self.names.get("root") else {
            return Err(self.error(self.text.len(), "expected a rule named `root`", Some("none")));
        };
        if let Some(missing) = self.rules.iter().find(|r| r.expr.is_none()) {
            return Err(self.error(
                missing.at,
                &format!("rule `{}` is used but not defined", missing.name),
                None,
            ));
        }
        let rules =
            self.rules.into_iter().map(|d| Rule { name: d.name, expr: d.expr.unwrap_or_else(Expr::never) });
        Grammar::new(rules.collect(), root)
    }

    fn rule(&mut self) -> Result<()> {
        let at = self.at;
        let id = self.name()?;
        self.space(false);
        if !self.eat("::=") {
            return Err(self.unexpected("`::=`"));
        }
        self.space(true);
        let expr = self.alternatives(0)?;
        if self.rules[id].expr.replace(expr).is_some() {
            let name = self.rules[id].name.clone();
            return Err(self.error(at, &format!("rule `{name}` is defined a second time"), None));
        }
        if !(self.eat("\r\n") || self.eat("\n") || self.eat("\r") || self.peek().is_none()) {
            return Err(self.unexpected("an element, `|` or the end of the line"));
        }
        self.space(true);
        Ok(())
    }

    fn alternatives(&mut self, depth: usize) -> Result<Expr> {
        let mut options = vec![self.sequence(depth)?];
        while self.eat("|") {
            self.space(true);
            options.push(self.sequence(depth)?);
        }
        Ok(Expr::alt(options))
    }

    fn sequence(&mut self, depth: usize) -> Result<Expr> {
        let mut parts: Vec<Expr> = Vec::new();
        let mut stacked = 0; // repetitions of the last element
        while let Some(c) = self.peek() {
            let at = self.at;
            stacked *= usize::from(matches!(c, '*' | '+' | '?' | '{'));
            let part = match c {
                '"' => self.literal()?,
                '[' => self.class()?,
                '(' => self.group(depth)?,
                '.' => {
                    self.at += 1;
                    Expr::Class(CharSet::all())
                }
                '*' | '+' | '?' | '{' => {
                    let (min, max) = self.count(depth > 0)?;
                    let Some(body) = parts.pop() else {
                        return Err(self.error(at, "expected an element before the repetition", None));
                    };
                    stacked += 1;
                    if stacked > MAX_DEPTH {
                        return Err(self.too_deep(at, "repetitions"));
                    }
                    Expr::Repeat { body: Box::new(body), min, max }
                }
                '<' | '!' => {
                    let e = self.error(
                        at,
                        "expected a character element",
                        Some("a token term; they are not supported"),
                    );
                    return Err(Error::new(ErrorKind::Unsupported, e.to_string()));
                }
                c if is_name(c) => Expr::Rule(self.name()?),
                _ => break,
            };
            parts.push(part);
            self.space(depth > 0);
        }
        // a sequence keeps its parts apart so that a repetition binds to the last one only
        Ok(match parts.len() {
            1 => parts.swap_remove(0),
            _ => Expr::Seq(parts),
        })
    }

    fn group(&mut self, depth: usize) -> Result<Expr> {
        if depth >= MAX_DEPTH {
            return Err(self.too_deep(self.at, "parentheses"));
        }
        self.at += 1;
        self.space(true);
        let inner = self.alternatives(depth + 1)?;
        if !self.eat(")") {
            return Err(self.unexpected("`)`"));
        }
        Ok(inner)
    }

    fn literal(&mut self) -> Result<Expr> {
        let open = self.at;
        self.at += 1;
        let mut text = String::new();
        while !self.eat("\"") {
            let at = self.at;
            let code = self.character(open, "string")?;
            text.push(
                char::from_u32(code)
                    .ok_or_else(|| self.error(at, "expected a Unicode scalar value", None))?,
            );
        }
        Ok(Expr::Text(text.into()))
    }

    fn class(&mut self) -> Result<Expr> {
        let open = self.at;
        self.at += 1;
        let negated = self.eat("^");
        let mut ranges = Vec::new();
        while !self.eat("]") {
            let at = self.at;
            let lo = self.character(open, "character class")?;
            let mut hi = lo;
            if self.rest().starts_with('-') && !self.rest().starts_with("-]") {
                self.at += 1;
                hi = self.character(open, "character class")?;
            }
            if hi < lo {
                return Err(self.error(at, "expected a range from a lower to a higher character", None));
            }
            ranges.push((lo, hi));
        }
        if ranges.is_empty() {
            return Err(self.error(open, "expected characters in the class", Some("none")));
        }
        let set = CharSet::new(ranges);
        Ok(Expr::Class(if negated { set.negated() } else { set }))
    }

    /// One possibly escaped character, as a code point.
    fn character(&mut self, open: usize, what: &str) -> Result<u32> {
        let Some(c) = self.peek() else {
            return Err(self.error(open, &format!("this {what} is not closed"), None));
        };
        let at = self.at;
        self.at += c.len_utf8();
        if c != '\\' {
            return Ok(u32::from(c));
        }
        let Some(kind) = self.peek() else {
            return Err(self.error(open, &format!("this {what} is not closed"), None));
        };
        self.at += kind.len_utf8();
        match kind {
            'x' => self.hex(2),
            'u' => self.hex(4),
            'U' => self.hex(8),
            't' => Ok(9),
            'n' => Ok(10),
            'r' => Ok(13),
            '\\' | '"' | '[' | ']' | '-' => Ok(u32::from(kind)),
            _ => Err(self.error(
                at,
                "expected one of the escapes \\t \\n \\r \\x \\u \\U \\\\ \\\" \\[ \\] \\-",
                None,
            )),
        }
    }

    fn hex(&mut self, n_digits: usize) -> Result<u32> {
        let digits =
            self.rest().as_bytes().iter().take(n_digits).take_while(|b| b.is_ascii_hexdigit()).count();
        let code = u32::from_str_radix(&self.rest()[..digits], 16);
        match code {
            Ok(code) if digits == n_digits => {
                self.at += digits;
                Ok(code)
            }
            _ => {
                self.at += digits;
                Err(self.unexpected(&format!("{n_digits} hexadecimal digits")))
            }
        }
    }

    /// The count of `*`, `+`, `?` or `{m,n}`.
    fn count(&mut self, newline_ok: bool) -> Result<(u32, Option<u32>)> {
        let at = self.at;
        if self.eat("*") {
            return Ok((0, None));
        }
        if self.eat("+") {
            return Ok((1, None));
        }
        if self.eat("?") {
            return Ok((0, Some(1)));
        }
        self.at += 1;
        self.space(newline_ok);
        let min = self.number()?;
        self.space(newline_ok);
        let mut max = Some(min);
        if self.eat(",") {
            self.space(newline_ok);
            let is_open = !self.peek().is_some_and(|c| c.is_ascii_digit());
            max = if is_open { None } else { Some(self.number()?) };
            self.space(newline_ok);
        }
        if !self.eat("}") {
            return Err(self.unexpected("`}`"));
        }
        if max.is_some_and(|m| m < min) {
            return Err(self.error(at, "expected a count from a lower to a higher number", None));
        }
        Ok((min, max))
    }

    fn number(&mut self) -> Result<u32> {
        let digits = self.rest().bytes().take_while(u8::is_ascii_digit).count();
        let value = self.rest()[..digits].parse().ok();
        match value {
            Some(n) => {
                self.at += digits;
                Ok(n)
            }
            None => Err(self.unexpected("a number below 2^32")),
        }
    }

    fn name(&mut self) -> Result<usize> {
        let len = self.rest().bytes().take_while(|&b| is_name(char::from(b))).count();
        if len == 0 {
            return Err(self.unexpected("a rule name (letters, digits and `-`)"));
        }
        let (name, at): (&'a str, usize) = (&self.text[self.at..self.at + len], self.at);
        self.at += len;
        let fresh = self.rules.len();
        let id = *self.names.entry(name).or_insert(fresh);
        if id == fresh {
            self.rules.push(Draft { name: name.to_owned(), expr: None, at });
        }
        Ok(id)
    }

    /// Skips blanks and comments, and line ends if they are allowed here.
    fn space(&mut self, newline_ok: bool) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' => self.at += 1,
                '\r' | '\n' if newline_ok => self.at += 1,
                '#' => self.at += self.rest().find(['\r', '\n']).unwrap_or(self.rest().len()),
                _ => return,
            }
        }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn eat(&mut self, what: &str) -> bool {
        let found = self.rest().starts_with(what);
        self.at += if found { what.len() } else { 0 };
        found
    }

    fn too_deep(&self, at: usize, what: &str) -> Error {
        let e = self.error(at, &format!("{what} nested deeper than {MAX_DEPTH}"), None);
        Error::new(ErrorKind::TooComplex, e.to_string())
    }

    fn unexpected(&self, expected: &str) -> Error {
        let found = match self.peek() {
            None => "the end of the grammar".to_owned(),
            Some('\n' | '\r') => "the end of the line".to_owned(),
            Some(c) => format!("`{}`", c.escape_debug()),
        };
        self.error(self.at, &format!("expected {expected}"), Some(&found))
    }

    /// An error at byte `at`: line, column, the line itself and a caret below it.
    fn error(&self, at: usize, expected: &str, found: Option<&str>) -> Error {
        const SHOWN: usize = 60; // characters either side of the place
        let start = self.text[..at].rfind('\n').map_or(0, |i| i + 1);
        let line = self.text[..at].matches('\n').count() + 1;
        let before: Vec<char> = self.text[start..at].chars().collect();
        let column = before.len() + 1;
        let left: String = before[before.len().saturating_sub(SHOWN)..].iter().map(|&c| blank(c)).collect();
        let right: String = self.text[at..]
            .chars()
            .take_while(|c| !matches!(c, '\n' | '\r'))
            .take(SHOWN)
            .map(blank)
            .collect();
        let found = found.map_or(String::new(), |f| format!(", found {f}"));
        let caret = " ".repeat(left.chars().count());
        Error::new(
            ErrorKind::BadProfile,
            format!("line {line}, column {column}: {expected}{found}\n  {left}{right}\n  {caret}^"),
        )
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-'
}

fn blank(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn fails(text: &str) -> (ErrorKind, String) {
        let e = Grammar::gbnf(text).unwrap_err();
        (e.kind(), e.to_string())
    }

    #[test]
    fn errors_point_at_the_place() {
        let (kind, message) = fails("root ::= a\na ::= \"x\" ) \"y\"\n");
        assert_eq!(kind, ErrorKind::BadProfile);
        assert_eq!(
            message,
            "line 2, column 11: expected an element, `|` or the end of the line, found `)`\n  a ::= \"x\" ) \"y\"\n            ^"
        );
    }

    #[test]
    fn what_is_refused_says_why() {
        use ErrorKind::*;
        let deep = format!("root ::= {}\"a\"{}", "(".repeat(500), ")".repeat(500));
        let stacked = format!("root ::= \"a\"{}", "*".repeat(100_000));
        for (text, kind, says) in [
            (stacked.as_str(), TooComplex, "repetitions nested deeper than 128"),
            ("", BadProfile, "expected a rule named `root`"),
            ("start ::= \"a\"", BadProfile, "expected a rule named `root`"),
            ("root ::= missing", BadProfile, "line 1, column 10: rule `missing` is used but not defined"),
            (
                "root ::= \"a\"\nroot ::= \"b\"",
                BadProfile,
                "line 2, column 1: rule `root` is defined a second time",
            ),
            ("root := \"a\"", BadProfile, "line 1, column 6: expected `::=`, found `:`"),
            ("root ::= \"abc", BadProfile, "line 1, column 10: this string is not closed"),
            ("root ::= [a-", BadProfile, "this character class is not closed"),
            ("root ::= []", BadProfile, "expected characters in the class"),
            ("root ::= [z-a]", BadProfile, "from a lower to a higher character"),
            ("root ::= \"\\q\"", BadProfile, "expected one of the escapes"),
            ("root ::= \"\\u12g4\"", BadProfile, "expected 4 hexadecimal digits, found `g`"),
            ("root ::= \"\\uD800\"", BadProfile, "expected a Unicode scalar value"),
            ("root ::= *", BadProfile, "expected an element before the repetition"),
            ("root ::= \"a\"{3,2}", BadProfile, "from a lower to a higher number"),
            ("root ::= \"a\"{x}", BadProfile, "expected a number below 2^32, found `x`"),
            ("root ::= \"a\"{99999999999}", BadProfile, "expected a number below 2^32"),
            ("root ::= \"a\"{1", BadProfile, "expected `}`, found the end of the grammar"),
            ("root ::= (\"a\"", BadProfile, "expected `)`, found the end of the grammar"),
            ("root ::= <think>", Unsupported, "a token term"),
            ("root ::= \"a\" root", Unsatisfiable, "every alternative of rule `root`"),
            ("root ::= [\\uD800-\\uDFFF]", Unsatisfiable, "a character that does not exist"),
            (&deep, TooComplex, "parentheses nested deeper than 128"),
        ] {
            let (k, message) = fails(text);
            assert_eq!(k, kind, "{text:.40}: {message}");
            assert!(message.contains(says), "{text:.40}: {message}");
        }
    }

    #[test]
    fn layout_is_free_where_llama_cpp_lets_it() {
        let g = Grammar::gbnf(
            "# c\nroot ::= # c\n  ( \"a\" # in a group\n | b ) |\n \"c\"\r\n\n\nb ::=\n\"d\" b?",
        )
        .unwrap();
        assert_eq!(g.rules.len(), 2);
        assert!(matches!(&g.rules[0].expr, Expr::Alt(options) if options.len() == 3));
    }

    #[test]
    fn repetition_binds_to_the_last_element() {
        let g = Grammar::gbnf("root ::= \"ab\" (\"c\" \"d\")+ [x]{2}{,3}");
        assert!(g.is_err(), "a count needs its lower number");
        let g = Grammar::gbnf("root ::= \"ab\" (\"c\" \"d\")+ [x]{2}*").unwrap();
        let Expr::Seq(parts) = &g.rules[0].expr else { unreachable!() };
        assert!(
            matches!(&parts[1], Expr::Repeat { body, min: 1, max: None } if matches!(&**body, Expr::Seq(p) if p.len() == 2))
        );
        assert!(
            matches!(&parts[2], Expr::Repeat { body, min: 0, max: None } if matches!(&**body, Expr::Repeat { min: 2, max: Some(2), .. }))
        );
    }
}
