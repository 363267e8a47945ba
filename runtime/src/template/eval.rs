//! Runs a parsed template.

use super::args::CallArgs;
use super::ast::{Args, CallBlock, CmpOp, Const, Expr, Filter, For, Macro, Post, Stmt, StmtKind, Target};
use super::budget::{Budget, Fail, Run, fail};
use super::lookup::{attribute, item, slice};
use super::ops::{binary, contains, negative};
use super::parser::Parsed;
use super::text::{Builder, Text};
use super::value::Value;
use std::cmp::Ordering;

/// What a scope costs of the byte budget.
const SCOPE_BYTES: usize = 128;

/// The state of one rendering.
pub(super) struct Interp<'t> {
    pub(super) budget: &'t Budget,
    /// Seconds since 1970 that `strftime_now` shows.
    pub(super) now: i64,
    macros: &'t [Macro],
    scopes: Vec<Scope<'t>>,
    pub(super) namespaces: Vec<Vec<(String, Value)>>,
    pub(super) loops: Vec<Loop>,
}

/// Variables of a block. Scopes live in a list; macros name the scope they see by its number.
struct Scope<'t> {
    parent: Option<usize>,
    vars: Vec<(&'t str, Value)>,
    /// A macro sees this scope, so it must stay.
    captured: bool,
}

/// A running loop.
pub(super) struct Loop {
    pub(super) items: Vec<Value>,
    pub(super) index: usize,
    pub(super) changed: Option<Value>,
}

/// How a block was left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

/// Renders a template with these variables.
pub(super) fn run<'t>(
    template: &'t Parsed,
    budget: &'t Budget,
    now: i64,
    vars: Vec<(&'t str, Value)>,
) -> Run<Text> {
    let globals = Scope { parent: None, vars, captured: true };
    let mut interp = Interp {
        budget,
        now,
        macros: &template.macros,
        scopes: vec![globals],
        namespaces: Vec::new(),
        loops: Vec::new(),
    };
    let mut out = Builder::new(budget);
    interp.block(&template.body, 0, &mut out)?;
    Ok(out.finish())
}

impl<'t> Interp<'t> {
    fn block(&mut self, body: &'t [Stmt], scope: usize, out: &mut Builder<'t>) -> Run<Flow> {
        for stmt in body {
            self.budget.step(1)?;
            match self.statement(&stmt.kind, scope, out).map_err(|e| e.on_line(stmt.line))? {
                Flow::On => {}
                left => return Ok(left),
            }
        }
        Ok(Flow::On)
    }

    /// A block inside another.
    fn inner(&mut self, body: &'t [Stmt], scope: usize, out: &mut Builder<'t>) -> Run<Flow> {
        let budget = self.budget;
        budget.deeper(|| self.block(body, scope, out))
    }

    fn statement(&mut self, kind: &'t StmtKind, scope: usize, out: &mut Builder<'t>) -> Run<Flow> {
        match kind {
            StmtKind::Data(text) => out.push_text(text)?,
            StmtKind::Print(value) => self.eval(value, scope)?.print(out)?,
            StmtKind::If(branches, otherwise) => return self.if_block(branches, otherwise, scope, out),
            StmtKind::For(parts) => self.for_block(parts, scope, out)?,
            StmtKind::Set(target, value) => {
                let value = self.eval(value, scope)?;
                self.assign(target, value, scope)?;
            }
            StmtKind::SetBlock(target, filters, body) => {
                let text = self.captured(filters, body, scope)?;
                self.assign(target, text, scope)?;
            }
            StmtKind::FilterBlock(filters, body) => self.captured(filters, body, scope)?.print(out)?,
            StmtKind::With(sets, body) => return self.with_block(sets, body, scope, out),
            StmtKind::Macro(index) => {
                let Some(name) = self.macros.get(*index).map(|m| m.name.as_str()) else {
                    return Ok(Flow::On);
                };
                self.capture(scope);
                self.set(scope, name, Value::Macro(*index, scope))?;
            }
            StmtKind::CallBlock(parts) => self.call_block(parts, scope)?.print(out)?,
            StmtKind::Plain(body) => return self.inner(body, scope, out),
            StmtKind::Do(value) => drop(self.eval(value, scope)?),
            StmtKind::Break => return Ok(Flow::Break),
            StmtKind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn if_block(
        &mut self,
        branches: &'t [(Expr, Vec<Stmt>)],
        otherwise: &'t [Stmt],
        scope: usize,
        out: &mut Builder<'t>,
    ) -> Run<Flow> {
        for (test, body) in branches {
            self.budget.step(1)?;
            if self.eval(test, scope)?.is_true() {
                return self.inner(body, scope, out);
            }
        }
        self.inner(otherwise, scope, out)
    }

    fn for_block(&mut self, parts: &'t For, scope: usize, out: &mut Builder<'t>) -> Run<()> {
        let mut items = self.eval(&parts.over, scope)?.items(self.budget)?;
        if let Some(test) = &parts.only_if {
            items = self.filtered(items, &parts.target, test, scope)?;
        }
        if items.is_empty() {
            return self.in_scope(scope, |s, inner| s.inner(&parts.otherwise, inner, out)).map(drop);
        }
        let number = self.loops.len();
        let n = items.len();
        self.loops.push(Loop { items, index: 0, changed: None });
        for index in 0..n {
            self.budget.step(1)?;
            let Some(current) = self.loops.get_mut(number) else { break };
            current.index = index;
            let Some(value) = current.items.get(index).cloned() else { break };
            let flow = self.in_scope(scope, |s, inner| {
                s.set(inner, "loop", Value::Loop(number))?;
                s.assign(&parts.target, value, inner)?;
                s.inner(&parts.body, inner, out)
            })?;
            if flow == Flow::Break {
                break;
            }
        }
        self.loops.truncate(number);
        Ok(())
    }

    /// The items for which the loop's `if` holds.
    fn filtered(
        &mut self,
        items: Vec<Value>,
        target: &'t Target,
        test: &'t Expr,
        scope: usize,
    ) -> Run<Vec<Value>> {
        let mut kept = Vec::new();
        for value in items {
            let keep = self.in_scope(scope, |s, inner| {
                s.assign(target, value.clone(), inner)?;
                Ok(s.eval(test, inner)?.is_true())
            })?;
            if keep {
                kept.push(value);
            }
        }
        Ok(kept)
    }

    fn with_block(
        &mut self,
        sets: &'t [(Target, Expr)],
        body: &'t [Stmt],
        scope: usize,
        out: &mut Builder<'t>,
    ) -> Run<Flow> {
        self.in_scope(scope, |s, inner| {
            for (target, value) in sets {
                let value = s.eval(value, scope)?;
                s.assign(target, value, inner)?;
            }
            s.inner(body, inner, out)
        })
    }

    /// What a block prints, after filters.
    fn captured(&mut self, filters: &'t [Filter], body: &'t [Stmt], scope: usize) -> Run<Value> {
        let mut out = Builder::new(self.budget);
        self.in_scope(scope, |s, inner| s.inner(body, inner, &mut out))?;
        let mut value = Value::Str(out.finish());
        for filter in filters {
            value = self.apply_filter(value, filter, scope)?;
        }
        Ok(value)
    }

    fn call_block(&mut self, parts: &'t CallBlock, scope: usize) -> Run<Value> {
        let Expr::Post(base, posts) = &parts.call else { return fail("`call` needs a call") };
        let Some(((line, Post::Call(args)), before)) = posts.split_last() else {
            return fail("`call` needs a call");
        };
        self.capture(scope);
        let callee = self.eval(base, scope)?;
        let callee = self.posts(callee, before, scope)?;
        let mut args = self.args(args, scope)?;
        args.named.push(("caller".to_owned(), Value::Macro(parts.caller, scope)));
        self.call(callee, args).map_err(|e| e.on_line(*line))
    }

    /// Runs `f` in a new scope, which is forgotten afterwards unless a macro sees it.
    fn in_scope<T>(&mut self, parent: usize, f: impl FnOnce(&mut Self, usize) -> Run<T>) -> Run<T> {
        self.budget.alloc(SCOPE_BYTES)?;
        let number = self.scopes.len();
        self.scopes.push(Scope { parent: Some(parent), vars: Vec::new(), captured: false });
        let result = f(self, number);
        let last = self.scopes.len() == number + 1;
        if last && self.scopes.last().is_some_and(|s| !s.captured) {
            self.scopes.pop();
        }
        result
    }

    /// Keeps a scope and all around it.
    fn capture(&mut self, scope: usize) {
        let mut next = Some(scope);
        while let Some(scope) = next.and_then(|n| self.scopes.get_mut(n)).filter(|s| !s.captured) {
            scope.captured = true;
            next = scope.parent;
        }
    }

    fn set(&mut self, scope: usize, name: &'t str, value: Value) -> Run<()> {
        let Some(scope) = self.scopes.get_mut(scope) else { return fail("no such scope") };
        self.budget.scan(scope.vars.len().saturating_mul(8))?;
        match scope.vars.iter_mut().find(|(n, _)| *n == name) {
            Some((_, old)) => *old = value,
            None => {
                self.budget.alloc(size_of::<(&str, Value)>())?;
                scope.vars.push((name, value));
            }
        }
        Ok(())
    }

    fn get(&self, scope: usize, name: &str) -> Run<Value> {
        let mut next = Some(scope);
        while let Some(scope) = next.and_then(|n| self.scopes.get(n)) {
            self.budget.scan(scope.vars.len().saturating_mul(8))?;
            if let Some((_, value)) = scope.vars.iter().find(|(n, _)| *n == name) {
                return Ok(value.clone());
            }
            next = scope.parent;
        }
        Ok(super::functions::named(name).unwrap_or_else(|| Value::undefined(name)))
    }

    fn assign(&mut self, target: &'t Target, value: Value, scope: usize) -> Run<()> {
        match target {
            Target::Name(name) => self.set(scope, name, value),
            Target::Attr(name, attr) => {
                let Value::Namespace(number) = self.get(scope, name)? else {
                    return fail(format!("{name} is not a namespace"));
                };
                self.set_attribute(number, attr, value)
            }
            Target::Tuple(targets) => {
                let values = value.items(self.budget)?;
                if values.len() != targets.len() {
                    return fail(format!("expected {} values, found {}", targets.len(), values.len()));
                }
                targets.iter().zip(values).try_for_each(|(t, v)| self.assign(t, v, scope))
            }
        }
    }

    fn set_attribute(&mut self, number: usize, attr: &str, value: Value) -> Run<()> {
        let Some(space) = self.namespaces.get_mut(number) else { return fail("no such namespace") };
        self.budget.scan(space.len().saturating_mul(8))?;
        match space.iter_mut().find(|(n, _)| n == attr) {
            Some((_, old)) => *old = value,
            None => {
                self.budget.alloc(size_of::<(String, Value)>() + attr.len())?;
                space.push((attr.to_owned(), value));
            }
        }
        Ok(())
    }

    /// The value of an expression.
    fn eval(&mut self, expr: &'t Expr, scope: usize) -> Run<Value> {
        self.budget.step(1)?;
        match expr {
            Expr::Const(value) => Ok(constant(value)),
            Expr::Name(name) => self.get(scope, name),
            _ => {
                let budget = self.budget;
                budget.deeper(|| self.eval_parts(expr, scope))
            }
        }
    }

    fn eval_parts(&mut self, expr: &'t Expr, scope: usize) -> Run<Value> {
        match expr {
            Expr::Const(value) => Ok(constant(value)),
            Expr::Name(name) => self.get(scope, name),
            Expr::List(items) => Value::list(self.budget, self.eval_all(items, scope)?, false),
            Expr::Tuple(items) => Value::list(self.budget, self.eval_all(items, scope)?, true),
            Expr::Dict(items) => self.dict(items, scope),
            Expr::Not(value) => Ok(Value::Bool(!self.eval(value, scope)?.is_true())),
            Expr::Neg(value) => negative(&self.eval(value, scope)?),
            Expr::Pos(value) => self.eval(value, scope),
            Expr::Binary(first, rest) => {
                let mut value = self.eval(first, scope)?;
                for (op, next) in rest {
                    let next = self.eval(next, scope)?;
                    value = binary(self.budget, *op, &value, &next)?;
                }
                Ok(value)
            }
            Expr::Compare(first, rest) => self.comparison(first, rest, scope),
            Expr::And(parts) => self.first_that(parts, false, scope),
            Expr::Or(parts) => self.first_that(parts, true, scope),
            Expr::Concat(parts) => {
                let mut out = Builder::new(self.budget);
                for part in parts {
                    self.eval(part, scope)?.print(&mut out)?;
                }
                Ok(Value::Str(out.finish()))
            }
            Expr::If(parts, other) => {
                let [value, test] = &**parts;
                match (self.eval(test, scope)?.is_true(), other) {
                    (true, _) => self.eval(value, scope),
                    (false, Some(other)) => self.eval(other, scope),
                    (false, None) => Ok(Value::undefined("the missing else")),
                }
            }
            Expr::Post(base, posts) => {
                let value = self.eval(base, scope)?;
                self.posts(value, posts, scope)
            }
        }
    }

    fn eval_all(&mut self, items: &'t [Expr], scope: usize) -> Run<Vec<Value>> {
        items.iter().map(|e| self.eval(e, scope)).collect()
    }

    fn dict(&mut self, items: &'t [(Expr, Expr)], scope: usize) -> Run<Value> {
        let mut out: Vec<(Value, Value)> = Vec::new();
        for (key, value) in items {
            let (key, value) = (self.eval(key, scope)?, self.eval(value, scope)?);
            insert(self.budget, &mut out, key, value)?;
        }
        Value::dict(self.budget, out)
    }

    /// `and` and `or`: the first part whose truth decides, else the last.
    fn first_that(&mut self, parts: &'t [Expr], stops_at: bool, scope: usize) -> Run<Value> {
        let mut value = Value::Bool(!stops_at);
        for part in parts {
            value = self.eval(part, scope)?;
            if value.is_true() == stops_at {
                break;
            }
        }
        Ok(value)
    }

    fn comparison(&mut self, first: &'t Expr, rest: &'t [(CmpOp, Expr)], scope: usize) -> Run<Value> {
        let mut left = self.eval(first, scope)?;
        for (op, right) in rest {
            let right = self.eval(right, scope)?;
            if !compare(self.budget, *op, &left, &right)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    fn posts(&mut self, mut value: Value, posts: &'t [(u32, Post)], scope: usize) -> Run<Value> {
        for (line, post) in posts {
            self.budget.step(1)?;
            value = self.post(value, post, scope).map_err(|e| e.on_line(*line))?;
        }
        Ok(value)
    }

    fn post(&mut self, value: Value, post: &'t Post, scope: usize) -> Run<Value> {
        match post {
            Post::Attr(name) => attribute(self, &value, name),
            Post::Item(key) => {
                let key = self.eval(key, scope)?;
                item(self, &value, &key)
            }
            Post::Slice(parts) => {
                let mut bounds = [None, None, None];
                for (bound, part) in bounds.iter_mut().zip(parts.iter()) {
                    let Some(part) = part else { continue };
                    *bound = Some(self.eval(part, scope)?);
                }
                slice(self.budget, &value, bounds)
            }
            Post::Call(args) => {
                let args = self.args(args, scope)?;
                self.call(value, args)
            }
            Post::Filter(filter) => self.apply_filter(value, filter, scope),
            Post::Test(is, test) => {
                let args = self.args(&test.args, scope)?;
                Ok(Value::Bool(self.test(&test.name, &value, args)? == *is))
            }
        }
    }

    fn apply_filter(&mut self, value: Value, filter: &'t Filter, scope: usize) -> Run<Value> {
        let args = self.args(&filter.args, scope)?;
        self.filter(&filter.name, value, args)
    }

    fn args(&mut self, args: &'t Args, scope: usize) -> Run<CallArgs> {
        let mut out = CallArgs { place: self.eval_all(&args.by_place, scope)?, named: Vec::new() };
        if let Some(more) = &args.more {
            out.place.extend(self.eval(more, scope)?.items(self.budget)?);
        }
        for (name, value) in &args.by_name {
            out.named.push((name.clone(), self.eval(value, scope)?));
        }
        if let Some(more) = &args.more_named {
            let Value::Dict(more) = self.eval(more, scope)? else { return fail("`**` needs a dictionary") };
            self.budget.alloc(more.items.len().saturating_mul(size_of::<(String, Value)>()))?;
            for (key, value) in &more.items {
                let Some(name) = key.as_str() else { return fail("`**` needs names") };
                self.budget.alloc(name.len())?;
                out.named.push((name.to_owned(), value.clone()));
            }
        }
        Ok(out)
    }

    /// Calls a value.
    pub(super) fn call(&mut self, callee: Value, args: CallArgs) -> Run<Value> {
        let budget = self.budget;
        match callee {
            Value::Macro(index, scope) => budget.deeper(|| self.call_macro(index, scope, args)),
            Value::Function(name) => self.function(name, args),
            Value::Method(method) => self.method(&method.0, &method.1, args),
            Value::Undefined(name) => fail(format!("{name} is undefined and cannot be called")),
            other => fail(format!("{} cannot be called", other.kind())),
        }
    }

    fn call_macro(&mut self, index: usize, scope: usize, args: CallArgs) -> Run<Value> {
        let macros = self.macros;
        let Some(called) = macros.get(index) else { return fail("no such macro") };
        let mut out = Builder::new(self.budget);
        self.in_scope(scope, |s, inner| {
            s.bind_params(called, args, inner)?;
            s.block(&called.body, inner, &mut out)
        })?;
        Ok(Value::Str(out.finish()))
    }

    fn bind_params(&mut self, called: &'t Macro, args: CallArgs, scope: usize) -> Run<()> {
        let CallArgs { place, mut named } = args;
        let mut place = place.into_iter();
        for (name, default) in &called.params {
            let by_name = named.iter().position(|(n, _)| n == name);
            let value = match (place.next(), by_name, default) {
                (Some(value), None, _) => value,
                (Some(_), Some(_), _) => return fail(format!("{}() gets {name} twice", called.name)),
                (None, Some(at), _) => named.swap_remove(at).1,
                (None, None, Some(default)) => self.eval(default, scope)?,
                (None, None, None) => Value::undefined(name),
            };
            self.set(scope, name, value)?;
        }
        if let Some(at) = named.iter().position(|(n, _)| n == "caller") {
            let caller = named.swap_remove(at).1;
            self.set(scope, "caller", caller)?;
        }
        let more = Value::list(self.budget, place.collect(), true)?;
        self.set(scope, "varargs", more)?;
        let named = named.into_iter().map(|(n, v)| (Value::own(&n), v)).collect();
        let named = Value::dict(self.budget, named)?;
        self.set(scope, "kwargs", named)
    }
}

/// Puts a key into a dictionary that is being made.
pub(super) fn insert(budget: &Budget, items: &mut Vec<(Value, Value)>, key: Value, value: Value) -> Run<()> {
    if matches!(key, Value::Dict(_)) || matches!(&key, Value::List(l) if !l.tuple) {
        return fail(format!("{} cannot be a key", key.kind()));
    }
    for (k, v) in items.iter_mut() {
        if k.equals(budget, &key)? {
            *v = value;
            return Ok(());
        }
    }
    items.push((key, value));
    Ok(())
}

fn constant(value: &Const) -> Value {
    match value {
        Const::None => Value::None,
        Const::Bool(b) => Value::Bool(*b),
        Const::Int(n) => Value::Int(*n),
        Const::Float(n) => Value::Float(*n),
        Const::Str(text) => Value::Str(text.clone()),
    }
}

/// A comparison of two values. An undefined one can only be equal or not.
pub(super) fn compare(budget: &Budget, op: CmpOp, a: &Value, b: &Value) -> Run<bool> {
    let order = |holds: fn(Ordering) -> bool| {
        for side in [a, b] {
            if let Value::Undefined(name) = side {
                return Err(Fail::new(format!("{name} is undefined and cannot be compared")));
            }
        }
        a.compare(budget, b).map(holds)
    };
    match op {
        CmpOp::Eq => a.equals(budget, b),
        CmpOp::Ne => a.equals(budget, b).map(|e| !e),
        CmpOp::Lt => order(Ordering::is_lt),
        CmpOp::Le => order(Ordering::is_le),
        CmpOp::Gt => order(Ordering::is_gt),
        CmpOp::Ge => order(Ordering::is_ge),
        CmpOp::In => contains(budget, b, a),
        CmpOp::NotIn => contains(budget, b, a).map(|c| !c),
    }
}
