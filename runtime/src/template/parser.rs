//! Tokens to statements. A recursive-descent parser whose depth is bounded, as a template is untrusted.
//! Source of the grammar: the Jinja 3.1 template designer documentation; precedence as in its reference parser.

use super::ast::{CallBlock, Expr, Filter, For, Macro, Stmt, StmtKind, Target};
use super::budget::{Fail, Run, fail};
use super::lexer::{Spot, Token, lex};
use super::text::Text;

/// How deep brackets and blocks may nest. Real templates stay below 20.
const MAX_NESTING: u32 = 64;

/// A parsed template.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) body: Vec<Stmt>,
    pub(super) macros: Vec<Macro>,
}

/// Parses a template.
pub(super) fn parse(source: &str) -> Run<Parsed> {
    let mut parser = Parser { tokens: lex(source)?, at: 0, nesting: 0, loops: 0, macros: Vec::new() };
    let result = parser.statements(&[]);
    let line = parser.line();
    let body = result.map_err(|e| e.on_line(line))?;
    match parser.peek() {
        Token::End => Ok(Parsed { body, macros: parser.macros }),
        _ => Err(Fail::new("unexpected end of a block").on_line(line)),
    }
}

pub(super) struct Parser {
    tokens: Vec<Spot>,
    at: usize,
    nesting: u32,
    /// Loops around the current place, for `break` and `continue`.
    loops: u32,
    macros: Vec<Macro>,
}

impl Parser {
    pub(super) fn peek(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |s| &s.token)
    }

    pub(super) fn peek_second(&self) -> &Token {
        self.tokens.get(self.at + 1).map_or(&Token::End, |s| &s.token)
    }

    pub(super) fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |s| s.line)
    }

    pub(super) fn advance(&mut self) -> Token {
        let token = self.tokens.get_mut(self.at).map(|s| std::mem::replace(&mut s.token, Token::End));
        self.at += 1;
        token.unwrap_or(Token::End)
    }

    pub(super) fn is_op(&self, op: &str) -> bool {
        matches!(self.peek(), Token::Op(o) if *o == op)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Token::Name(n) if n == name)
    }

    pub(super) fn take_op(&mut self, op: &str) -> bool {
        let found = self.is_op(op);
        self.at += usize::from(found);
        found
    }

    pub(super) fn take_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect_op(&mut self, op: &str) -> Run<()> {
        if self.take_op(op) { Ok(()) } else { self.unexpected(&format!("{op:?}")) }
    }

    fn expect_name(&mut self, name: &str) -> Run<()> {
        if self.take_name(name) { Ok(()) } else { self.unexpected(name) }
    }

    pub(super) fn name(&mut self) -> Run<String> {
        match self.peek() {
            Token::Name(_) => match self.advance() {
                Token::Name(name) => Ok(name),
                _ => fail("expected a name"),
            },
            _ => self.unexpected("a name"),
        }
    }

    pub(super) fn unexpected<T>(&self, expected: &str) -> Run<T> {
        let found = match self.peek() {
            Token::Data(_) | Token::End => "the end".to_owned(),
            Token::BlockStart | Token::PrintStart => "a tag".to_owned(),
            Token::BlockEnd | Token::PrintEnd => "the end of the tag".to_owned(),
            Token::Name(name) => format!("{name:.40}"),
            Token::Str(_) => "a string".to_owned(),
            Token::Int(n) => n.to_string(),
            Token::Float(n) => n.to_string(),
            Token::Op(op) => format!("{op:?}"),
        };
        Err(Fail::new(format!("expected {expected}, found {found}")).on_line(self.line()))
    }

    /// Runs `f` one level deeper.
    pub(super) fn nested<T>(&mut self, f: impl FnOnce(&mut Self) -> Run<T>) -> Run<T> {
        if self.nesting >= MAX_NESTING {
            return Err(Fail::new("brackets or blocks nest deeper than they may").on_line(self.line()));
        }
        self.nesting += 1;
        let result = f(self);
        self.nesting -= 1;
        result
    }

    /// Statements up to a block tag that starts with one of `ends`; that tag's word is the next token then.
    fn statements(&mut self, ends: &[&str]) -> Run<Vec<Stmt>> {
        self.nested(|p| {
            let mut out = Vec::new();
            loop {
                let line = p.line();
                let kind = match p.advance() {
                    Token::Data(text) => StmtKind::Data(Text::own(&text)),
                    Token::PrintStart => {
                        let value = p.tuple()?;
                        p.end_of_tag(Token::PrintEnd)?;
                        StmtKind::Print(value)
                    }
                    Token::BlockStart if ends.iter().any(|e| p.is_name(e)) => return Ok(out),
                    Token::BlockStart => p.statement()?,
                    Token::End if ends.is_empty() => {
                        p.at -= 1;
                        return Ok(out);
                    }
                    _ => return fail(format!("a block is not closed: expected {}", ends.join(" or "))),
                };
                out.push(Stmt { line, kind });
            }
        })
    }

    fn end_of_tag(&mut self, end: Token) -> Run<()> {
        if *self.peek() != end {
            return self.unexpected("the end of the tag");
        }
        self.at += 1;
        Ok(())
    }

    fn end_of_block(&mut self) -> Run<()> {
        self.end_of_tag(Token::BlockEnd)
    }

    /// The end of this tag, then a body up to one of `ends`, whose word is taken and returned.
    fn body(&mut self, ends: &[&'static str]) -> Run<(Vec<Stmt>, &'static str)> {
        self.end_of_block()?;
        let body = self.statements(ends)?;
        let word = ends.iter().find(|e| self.is_name(e)).copied();
        self.at += 1;
        word.map(|w| (body, w)).ok_or_else(|| Fail::new("a block is not closed"))
    }

    /// A body up to `end`, and the end of that tag.
    fn whole_body(&mut self, end: &'static str) -> Run<Vec<Stmt>> {
        let (body, _) = self.body(&[end])?;
        self.end_of_block()?;
        Ok(body)
    }

    /// The statement of a block tag whose start was taken.
    fn statement(&mut self) -> Run<StmtKind> {
        let word = self.name()?;
        match word.as_str() {
            "if" => self.if_statement(),
            "for" => self.for_statement(),
            "set" => self.set_statement(),
            "macro" => self.macro_statement(),
            "call" => self.call_statement(),
            "filter" => {
                let filters = self.filter_chain(true)?;
                Ok(StmtKind::FilterBlock(filters, self.whole_body("endfilter")?))
            }
            "with" => self.with_statement(),
            "generation" => Ok(StmtKind::Plain(self.whole_body("endgeneration")?)),
            "autoescape" => {
                self.expression()?;
                Ok(StmtKind::Plain(self.whole_body("endautoescape")?))
            }
            "block" => self.block_statement(),
            "do" => {
                let value = self.tuple()?;
                self.end_of_block()?;
                Ok(StmtKind::Do(value))
            }
            "break" | "continue" => {
                if self.loops == 0 {
                    return fail(format!("{word} outside a loop"));
                }
                self.end_of_block()?;
                Ok(if word == "break" { StmtKind::Break } else { StmtKind::Continue })
            }
            _ => fail(format!("there is no statement `{word:.40}` in a chat template")),
        }
    }

    fn if_statement(&mut self) -> Run<StmtKind> {
        let mut branches = Vec::new();
        loop {
            let test = self.tuple_without_condition()?;
            let (body, end) = self.body(&["elif", "else", "endif"])?;
            branches.push((test, body));
            match end {
                "elif" => {}
                "else" => return Ok(StmtKind::If(branches, self.whole_body("endif")?)),
                _ => {
                    self.end_of_block()?;
                    return Ok(StmtKind::If(branches, Vec::new()));
                }
            }
        }
    }

    fn for_statement(&mut self) -> Run<StmtKind> {
        let target = self.target(false)?;
        self.expect_name("in")?;
        let over = self.tuple_without_condition()?;
        let only_if = if self.take_name("if") { Some(self.expression()?) } else { None };
        if self.is_name("recursive") {
            return fail("recursive loops are not supported");
        }
        self.loops += 1;
        let (body, end) = self.body(&["else", "endfor"])?;
        self.loops -= 1;
        let otherwise = match end {
            "else" => self.whole_body("endfor")?,
            _ => {
                self.end_of_block()?;
                Vec::new()
            }
        };
        Ok(StmtKind::For(Box::new(For { target, over, only_if, body, otherwise })))
    }

    fn set_statement(&mut self) -> Run<StmtKind> {
        let target = self.target(true)?;
        if self.take_op("=") {
            let value = self.tuple()?;
            self.end_of_block()?;
            return Ok(StmtKind::Set(target, value));
        }
        let filters = self.filter_chain(false)?;
        Ok(StmtKind::SetBlock(target, filters, self.whole_body("endset")?))
    }

    fn with_statement(&mut self) -> Run<StmtKind> {
        let mut sets = Vec::new();
        while *self.peek() != Token::BlockEnd {
            if !sets.is_empty() {
                self.expect_op(",")?;
            }
            let target = self.target(false)?;
            self.expect_op("=")?;
            sets.push((target, self.expression()?));
        }
        Ok(StmtKind::With(sets, self.whole_body("endwith")?))
    }

    fn block_statement(&mut self) -> Run<StmtKind> {
        self.name()?;
        let (body, _) = self.body(&["endblock"])?;
        if matches!(self.peek(), Token::Name(_)) {
            self.at += 1;
        }
        self.end_of_block()?;
        Ok(StmtKind::Plain(body))
    }

    fn macro_statement(&mut self) -> Run<StmtKind> {
        let name = self.name()?;
        let params = self.params()?;
        Ok(StmtKind::Macro(self.macro_body(name, params, "endmacro")?))
    }

    fn call_statement(&mut self) -> Run<StmtKind> {
        let params = if self.is_op("(") { self.params()? } else { Vec::new() };
        let call = self.expression()?;
        let caller = self.macro_body("caller".to_owned(), params, "endcall")?;
        Ok(StmtKind::CallBlock(Box::new(CallBlock { caller, call })))
    }

    fn macro_body(
        &mut self,
        name: String,
        params: Vec<(String, Option<Expr>)>,
        end: &'static str,
    ) -> Run<usize> {
        let loops = std::mem::take(&mut self.loops);
        let body = self.whole_body(end)?;
        self.loops = loops;
        self.macros.push(Macro { name, params, body });
        Ok(self.macros.len() - 1)
    }

    fn params(&mut self) -> Run<Vec<(String, Option<Expr>)>> {
        self.expect_op("(")?;
        let mut params = Vec::new();
        while !self.take_op(")") {
            if !params.is_empty() {
                self.expect_op(",")?;
                if self.take_op(")") {
                    break;
                }
            }
            let name = self.name()?;
            let default = if self.take_op("=") { Some(self.expression()?) } else { None };
            params.push((name, default));
        }
        Ok(params)
    }

    /// What is assigned to: a name, an attribute of a namespace, or several.
    fn target(&mut self, attributes: bool) -> Run<Target> {
        let mut targets = vec![self.one_target(attributes)?];
        let mut tuple = false;
        while self.take_op(",") {
            tuple = true;
            if self.is_name("in") || self.is_op("=") || self.is_op(")") {
                break;
            }
            targets.push(self.one_target(attributes)?);
        }
        Ok(match (tuple, targets.pop()) {
            (false, Some(one)) => one,
            (_, last) => {
                targets.extend(last);
                Target::Tuple(targets)
            }
        })
    }

    fn one_target(&mut self, attributes: bool) -> Run<Target> {
        if self.take_op("(") {
            let inner = self.nested(|p| p.target(attributes))?;
            self.expect_op(")")?;
            return Ok(inner);
        }
        let name = self.name()?;
        if attributes && self.take_op(".") {
            return Ok(Target::Attr(name, self.name()?));
        }
        match name.as_str() {
            "true" | "false" | "none" | "True" | "False" | "None" => fail(format!("cannot assign to {name}")),
            _ => Ok(Target::Name(name)),
        }
    }

    /// `name(args)|name|…`, the first with or without a bar before it.
    fn filter_chain(&mut self, bare_start: bool) -> Run<Vec<Filter>> {
        let mut filters = Vec::new();
        if bare_start {
            filters.push(self.filter()?);
        }
        while self.take_op("|") {
            filters.push(self.filter()?);
        }
        Ok(filters)
    }
}
