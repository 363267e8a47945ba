//! The parser's expressions.

use super::ast::{Args, BinOp, CmpOp, Const, Expr, Filter, Post};
use super::budget::{Run, fail};
use super::lexer::Token;
use super::parser::Parser;
use super::text::Text;

/// `a if b if c` nests to the left, one level for each `if`.
const MAX_IFS: u32 = 16;

impl Parser {
    /// An expression, or several with commas between: a tuple.
    pub(super) fn tuple(&mut self) -> Run<Expr> {
        self.tuple_of(Self::expression)
    }

    /// As [`tuple`](Self::tuple), where a following `if` belongs to something else.
    pub(super) fn tuple_without_condition(&mut self) -> Run<Expr> {
        self.tuple_of(|p| p.nested(Self::or))
    }

    fn tuple_of(&mut self, part: impl Fn(&mut Self) -> Run<Expr>) -> Run<Expr> {
        let first = part(self)?;
        if !self.is_op(",") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.take_op(",") {
            if matches!(self.peek(), Token::BlockEnd | Token::PrintEnd) || self.is_op(")") {
                break;
            }
            items.push(part(self)?);
        }
        Ok(Expr::Tuple(items))
    }

    /// An expression.
    pub(super) fn expression(&mut self) -> Run<Expr> {
        self.nested(|p| {
            let mut value = p.or()?;
            let mut n = 0;
            while p.take_name("if") {
                n += 1;
                if n > MAX_IFS {
                    return fail("too many conditions follow one another");
                }
                let test = p.or()?;
                let other = if p.take_name("else") { Some(Box::new(p.expression()?)) } else { None };
                value = Expr::If(Box::new([value, test]), other);
            }
            Ok(value)
        })
    }

    fn or(&mut self) -> Run<Expr> {
        self.list_of("or", Self::and, Expr::Or)
    }

    fn and(&mut self) -> Run<Expr> {
        self.list_of("and", Self::not, Expr::And)
    }

    fn list_of(
        &mut self,
        word: &str,
        part: fn(&mut Self) -> Run<Expr>,
        make: fn(Vec<Expr>) -> Expr,
    ) -> Run<Expr> {
        let first = part(self)?;
        if !self.is_name(word) {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.take_name(word) {
            parts.push(part(self)?);
        }
        Ok(make(parts))
    }

    fn not(&mut self) -> Run<Expr> {
        // A row of `not` counts for its parity only.
        let mut n = 0_usize;
        while self.take_name("not") {
            n += 1;
        }
        let value = self.comparison()?;
        Ok(match n {
            0 => value,
            n if n % 2 == 1 => Expr::Not(Box::new(value)),
            _ => Expr::Not(Box::new(Expr::Not(Box::new(value)))),
        })
    }

    fn comparison(&mut self) -> Run<Expr> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        while let Some(op) = self.comparison_operator() {
            rest.push((op, self.sum()?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Compare(Box::new(first), rest) })
    }

    fn comparison_operator(&mut self) -> Option<CmpOp> {
        let (op, n) = match self.peek() {
            Token::Op("==") => (CmpOp::Eq, 1),
            Token::Op("!=") => (CmpOp::Ne, 1),
            Token::Op("<") => (CmpOp::Lt, 1),
            Token::Op("<=") => (CmpOp::Le, 1),
            Token::Op(">") => (CmpOp::Gt, 1),
            Token::Op(">=") => (CmpOp::Ge, 1),
            Token::Name(n) if n == "in" => (CmpOp::In, 1),
            Token::Name(n) if n == "not" && matches!(self.peek_second(), Token::Name(n) if n == "in") => {
                (CmpOp::NotIn, 2)
            }
            _ => return None,
        };
        (0..n).for_each(|_| drop(self.advance()));
        Some(op)
    }

    fn sum(&mut self) -> Run<Expr> {
        self.chain(&[("+", BinOp::Add), ("-", BinOp::Sub)], Self::concat)
    }

    fn concat(&mut self) -> Run<Expr> {
        let first = self.product()?;
        if !self.is_op("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.take_op("~") {
            parts.push(self.product()?);
        }
        Ok(Expr::Concat(parts))
    }

    fn product(&mut self) -> Run<Expr> {
        const OPS: &[(&str, BinOp)] =
            &[("*", BinOp::Mul), ("/", BinOp::Div), ("//", BinOp::FloorDiv), ("%", BinOp::Mod)];
        self.chain(OPS, Self::power)
    }

    fn power(&mut self) -> Run<Expr> {
        self.chain(&[("**", BinOp::Pow)], |p| p.unary(true))
    }

    /// Operators of one precedence, from the left.
    fn chain(&mut self, ops: &[(&str, BinOp)], part: fn(&mut Self) -> Run<Expr>) -> Run<Expr> {
        let first = part(self)?;
        let mut rest = Vec::new();
        while let Some((_, op)) = ops.iter().find(|(text, _)| self.is_op(text)) {
            drop(self.advance());
            rest.push((*op, part(self)?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Binary(Box::new(first), rest) })
    }

    fn unary(&mut self, with_filters: bool) -> Run<Expr> {
        let value = if self.take_op("-") {
            Expr::Neg(Box::new(self.nested(|p| p.unary(false))?))
        } else if self.take_op("+") {
            Expr::Pos(Box::new(self.nested(|p| p.unary(false))?))
        } else {
            self.primary()?
        };
        let mut posts = Vec::new();
        self.postfixes(&mut posts)?;
        if with_filters {
            self.filters_and_tests(&mut posts)?;
        }
        Ok(if posts.is_empty() { value } else { Expr::Post(Box::new(value), posts) })
    }

    fn primary(&mut self) -> Run<Expr> {
        match self.peek() {
            Token::Name(_) => {
                let name = self.name()?;
                Ok(match name.as_str() {
                    "true" | "True" => Expr::Const(Const::Bool(true)),
                    "false" | "False" => Expr::Const(Const::Bool(false)),
                    "none" | "None" => Expr::Const(Const::None),
                    _ => Expr::Name(name),
                })
            }
            Token::Str(_) => Ok(self.strings()),
            Token::Int(n) => {
                let n = *n;
                drop(self.advance());
                Ok(Expr::Const(Const::Int(n)))
            }
            Token::Float(n) => {
                let n = *n;
                drop(self.advance());
                Ok(Expr::Const(Const::Float(n)))
            }
            Token::Op("(") => self.nested(Self::parenthesis),
            Token::Op("[") => self.nested(|p| Ok(Expr::List(p.items("[", "]")?))),
            Token::Op("{") => self.nested(Self::dict),
            _ => self.unexpected("a value"),
        }
    }

    /// String literals side by side are one.
    fn strings(&mut self) -> Expr {
        let mut text = String::new();
        while let Token::Str(part) = self.peek() {
            text.push_str(part);
            drop(self.advance());
        }
        Expr::Const(Const::Str(Text::own(&text)))
    }

    fn parenthesis(&mut self) -> Run<Expr> {
        self.expect_op("(")?;
        if self.take_op(")") {
            return Ok(Expr::Tuple(Vec::new()));
        }
        let value = self.tuple()?;
        self.expect_op(")")?;
        Ok(value)
    }

    fn items(&mut self, open: &str, close: &str) -> Run<Vec<Expr>> {
        self.expect_op(open)?;
        let mut items = Vec::new();
        while !self.take_op(close) {
            if !items.is_empty() {
                self.expect_op(",")?;
                if self.take_op(close) {
                    break;
                }
            }
            items.push(self.expression()?);
        }
        Ok(items)
    }

    fn dict(&mut self) -> Run<Expr> {
        self.expect_op("{")?;
        let mut items = Vec::new();
        while !self.take_op("}") {
            if !items.is_empty() {
                self.expect_op(",")?;
                if self.take_op("}") {
                    break;
                }
            }
            let key = self.expression()?;
            self.expect_op(":")?;
            items.push((key, self.expression()?));
        }
        Ok(Expr::Dict(items))
    }

    /// Attributes, subscripts and calls.
    fn postfixes(&mut self, posts: &mut Vec<(u32, Post)>) -> Run<()> {
        loop {
            let line = self.line();
            let post = if self.take_op(".") {
                match self.peek() {
                    Token::Int(n) => {
                        let n = *n;
                        drop(self.advance());
                        Post::Item(Expr::Const(Const::Int(n)))
                    }
                    _ => Post::Attr(self.name()?),
                }
            } else if self.is_op("[") {
                self.nested(Self::subscript)?
            } else if self.is_op("(") {
                Post::Call(self.nested(Self::call_args)?)
            } else {
                return Ok(());
            };
            posts.push((line, post));
        }
    }

    fn filters_and_tests(&mut self, posts: &mut Vec<(u32, Post)>) -> Run<()> {
        loop {
            let line = self.line();
            let post = if self.take_op("|") {
                Post::Filter(self.filter()?)
            } else if self.take_name("is") {
                let is = !self.take_name("not");
                Post::Test(is, self.test()?)
            } else if self.is_op("(") {
                Post::Call(self.nested(Self::call_args)?)
            } else {
                return Ok(());
            };
            posts.push((line, post));
        }
    }

    /// A filter after its bar.
    pub(super) fn filter(&mut self) -> Run<Filter> {
        let name = self.dotted()?;
        let args = if self.is_op("(") { self.nested(Self::call_args)? } else { Args::default() };
        Ok(Filter { name, args })
    }

    fn dotted(&mut self) -> Run<String> {
        let mut name = self.name()?;
        while self.take_op(".") {
            name = format!("{name}.{}", self.name()?);
        }
        Ok(name)
    }

    /// A test after `is`, with arguments in brackets or one value without.
    fn test(&mut self) -> Run<Filter> {
        let name = self.dotted()?;
        if self.is_op("(") {
            return Ok(Filter { name, args: self.nested(Self::call_args)? });
        }
        let mut args = Args::default();
        let value_follows = match self.peek() {
            Token::Name(n) if n == "is" => return fail("tests cannot be chained with `is`"),
            // Not in Jinja's own list but in its grammar all the same: `x is defined if …`, `x is y in z`.
            Token::Name(n) => !matches!(n.as_str(), "else" | "or" | "and" | "if" | "in" | "not"),
            Token::Str(_) | Token::Int(_) | Token::Float(_) | Token::Op("[" | "{") => true,
            _ => false,
        };
        if value_follows {
            let value = self.nested(|p| {
                let value = p.primary()?;
                let mut posts = Vec::new();
                p.postfixes(&mut posts)?;
                Ok(if posts.is_empty() { value } else { Expr::Post(Box::new(value), posts) })
            })?;
            args.by_place.push(value);
        }
        Ok(Filter { name, args })
    }

    fn subscript(&mut self) -> Run<Post> {
        self.expect_op("[")?;
        let start = if self.is_op(":") { None } else { Some(self.expression()?) };
        if !self.is_op(":") {
            let Some(first) = start else { return self.unexpected("a subscript") };
            return self.end_of_subscript(first);
        }
        let mut parts = [start, None, None];
        for part in &mut parts[1..] {
            if self.take_op(":") && !self.is_op("]") && !self.is_op(":") {
                *part = Some(self.expression()?);
            }
        }
        self.expect_op("]")?;
        Ok(Post::Slice(Box::new(parts)))
    }

    fn end_of_subscript(&mut self, first: Expr) -> Run<Post> {
        let mut items = vec![first];
        while self.take_op(",") {
            items.push(self.expression()?);
        }
        self.expect_op("]")?;
        match items.pop() {
            Some(only) if items.is_empty() => Ok(Post::Item(only)),
            last => {
                items.extend(last);
                Ok(Post::Item(Expr::Tuple(items)))
            }
        }
    }

    fn call_args(&mut self) -> Run<Args> {
        self.expect_op("(")?;
        let mut args = Args::default();
        let mut first = true;
        while !self.take_op(")") {
            if !std::mem::replace(&mut first, false) {
                self.expect_op(",")?;
                if self.take_op(")") {
                    break;
                }
            }
            self.call_arg(&mut args)?;
        }
        Ok(args)
    }

    fn call_arg(&mut self, args: &mut Args) -> Run<()> {
        if self.take_op("*") {
            args.more = Some(Box::new(self.expression()?));
        } else if self.take_op("**") {
            args.more_named = Some(Box::new(self.expression()?));
        } else if matches!(self.peek(), Token::Name(_)) && matches!(self.peek_second(), Token::Op("=")) {
            let name = self.name()?;
            self.expect_op("=")?;
            args.by_name.push((name, self.expression()?));
        } else if args.by_name.is_empty() {
            args.by_place.push(self.expression()?);
        } else {
            return fail("an argument without a name follows one with a name");
        }
        Ok(())
    }
}
