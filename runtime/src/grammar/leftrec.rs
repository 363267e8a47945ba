//! Left recursion rewritten away, so that a parser that predicts never calls a rule inside itself
//! before it has read a character.
//!
//! Paull's algorithm over expressions: rules are first made free of the empty text, then, one after
//! the other within a left-recursive group, leading calls of earlier rules are replaced by what those
//! spell, and `A = A α | β` becomes `A = β α*`. Where α itself ends in A (`e = e "+" e`), that last call
//! is replaced by β: `β(γA)* = β(γβ)*`, which keeps ambiguous operator grammars from doubling their
//! parses at every operator. The language is unchanged; parse trees are not kept, and nobody asks for them.
//! Cost: none for grammars without left recursion. It can grow the grammar exponentially in the size
//! of a group; growth is bounded by `TooComplex`.
//! Source: M. C. Paull's elimination as in Aho, Sethi, Ullman, "Compilers" (1986), algorithm 4.1.

use super::expr::{Expr, Grammar, Rule};
use crate::error::{Error, ErrorKind, Result};

/// Largest number of expression nodes the rewriting may produce.
const MAX_SIZE: usize = 1 << 18;

/// The rules each rule can call before reading a character.
pub(super) fn left_calls(g: &Grammar, nullable: &[bool]) -> Vec<Vec<usize>> {
    g.rules
        .iter()
        .map(|r| {
            let mut calls = Vec::new();
            leading(&r.expr, nullable, &mut calls);
            calls.sort_unstable();
            calls.dedup();
            calls
        })
        .collect()
}

fn leading(e: &Expr, nullable: &[bool], out: &mut Vec<usize>) {
    match e {
        Expr::Text(_) | Expr::Class(_) => {}
        Expr::Rule(r) => out.push(*r),
        Expr::Alt(options) => options.iter().for_each(|o| leading(o, nullable, out)),
        Expr::Repeat { body, .. } => leading(body, nullable, out),
        Expr::Seq(parts) => {
            for part in parts {
                leading(part, nullable, out);
                if !part.can_be_empty(nullable) {
                    return;
                }
            }
        }
    }
}

/// Groups of rules that can call each other (strongly connected components), callers before callees.
/// The flag says whether the group calls itself.
pub(super) fn groups(calls: &[Vec<usize>]) -> Vec<(Vec<usize>, bool)> {
    // Tarjan's algorithm without recursion: a grammar may chain thousands of rules
    const NEW: usize = usize::MAX;
    let n = calls.len();
    let (mut index, mut low, mut on_stack) = (vec![NEW; n], vec![0; n], vec![false; n]);
    let (mut stack, mut found, mut clock) = (Vec::new(), Vec::new(), 0);
    for start in 0..n {
        if index[start] != NEW {
            continue;
        }
        let mut work = vec![(start, 0)];
        while let Some((v, at)) = work.pop() {
            if at == 0 {
                (index[v], low[v]) = (clock, clock);
                clock += 1;
                stack.push(v);
                on_stack[v] = true;
            }
            match calls[v].get(at) {
                Some(&w) => {
                    work.push((v, at + 1));
                    if index[w] == NEW {
                        work.push((w, 0));
                    } else if on_stack[w] {
                        low[v] = low[v].min(index[w]);
                    }
                }
                None => {
                    if let Some(&(parent, _)) = work.last() {
                        low[parent] = low[parent].min(low[v]);
                    }
                    if low[v] == index[v] {
                        let from = stack.iter().rposition(|&x| x == v).unwrap_or(0);
                        let group = stack.split_off(from);
                        group.iter().for_each(|&x| on_stack[x] = false);
                        let calls_itself = group.len() > 1 || calls[v].contains(&v);
                        found.push((group, calls_itself));
                    }
                }
            }
        }
    }
    found.reverse();
    found
}

/// `g` without left recursion, spelling the same texts.
/// # Errors `TooComplex` if the rewriting grows beyond its bound.
pub(super) fn without_left_recursion(g: &Grammar) -> Result<Grammar> {
    let nullable = g.fixpoint(Expr::can_be_empty);
    if !groups(&left_calls(g, &nullable)).iter().any(|(_, calls_itself)| *calls_itself) {
        return Ok(g.clone());
    }
    let mut g = without_empty(g, &nullable)?;
    let nullable = g.fixpoint(Expr::can_be_empty);
    for (mut group, calls_itself) in groups(&left_calls(&g, &nullable)) {
        if calls_itself {
            group.sort_unstable();
            rewrite(&mut g, &group)?;
        }
    }
    Ok(g)
}

/// A grammar in which every rule that was nullable is "a rule that is not, or the empty text", and in
/// which no rule's leading call can be empty.
fn without_empty(g: &Grammar, nullable: &[bool]) -> Result<Grammar> {
    let n = g.rules.len();
    // the twin of rule r, free of the empty text, is rule n + r
    let twin = |r: usize| if nullable[r] { n + r } else { r };
    let mut rules = Vec::with_capacity(2 * n);
    let mut size = 0;
    for (r, rule) in g.rules.iter().enumerate() {
        let expr = if nullable[r] {
            Expr::Alt(vec![Expr::Rule(n + r), Expr::empty()])
        } else {
            filled(&rule.expr, nullable, &twin)
        };
        size += check_size(&expr, size)?;
        rules.push(Rule { name: rule.name.clone(), expr });
    }
    for (r, rule) in g.rules.iter().enumerate() {
        let expr = if nullable[r] { filled(&rule.expr, nullable, &twin) } else { Expr::never() };
        size += check_size(&expr, size)?;
        rules.push(Rule { name: rule.name.clone(), expr });
    }
    Ok(Grammar { rules, root: g.root })
}

/// The non-empty texts of `e`.
fn filled(e: &Expr, nullable: &[bool], twin: &impl Fn(usize) -> usize) -> Expr {
    match e {
        Expr::Text(t) if t.is_empty() => Expr::never(),
        Expr::Text(_) | Expr::Class(_) => e.clone(),
        Expr::Rule(r) => Expr::Rule(twin(*r)),
        Expr::Alt(options) => Expr::alt(options.iter().map(|o| filled(o, nullable, twin))),
        Expr::Seq(parts) => {
            let mut options = Vec::new();
            for (i, part) in parts.iter().enumerate() {
                let rest = parts[i + 1..].iter().cloned();
                options.push(Expr::seq(std::iter::once(filled(part, nullable, twin)).chain(rest)));
                if !part.can_be_empty(nullable) {
                    break;
                }
            }
            Expr::alt(options)
        }
        Expr::Repeat { body, min, max } => {
            let first = filled(body, nullable, twin);
            let most = max.map(|m| m.saturating_sub(1));
            if *max == Some(0) {
                return Expr::never();
            }
            let least = if body.can_be_empty(nullable) { 0 } else { min.saturating_sub(1) };
            let again = if most == Some(0) {
                Expr::empty()
            } else {
                Expr::Repeat { body: body.clone(), min: least, max: most }
            };
            Expr::seq([first, again])
        }
    }
}

/// Leading calls of a group's rules, each with what follows, and everything else.
#[derive(Default)]
struct Split {
    heads: Vec<(usize, Expr)>,
    rest: Vec<Expr>,
}

/// Splits `e`, which has no empty leading part, at its leading calls of rules in `group`.
fn split(e: &Expr, group: &[usize], out: &mut Split) {
    match e {
        Expr::Rule(r) if group.contains(r) => out.heads.push((*r, Expr::empty())),
        Expr::Alt(options) => options.iter().for_each(|o| split(o, group, out)),
        Expr::Seq(parts) => {
            let Some((first, tail)) = parts.split_first() else { return };
            let mut inner = Split::default();
            split(first, group, &mut inner);
            let with = |e: Expr| Expr::seq(std::iter::once(e).chain(tail.iter().cloned()));
            out.heads.extend(inner.heads.into_iter().map(|(r, t)| (r, with(t))));
            out.rest.extend(inner.rest.into_iter().map(with));
        }
        Expr::Repeat { body, min, max } if *max != Some(0) => {
            let again =
                Expr::Repeat { body: body.clone(), min: min.saturating_sub(1), max: max.map(|m| m - 1) };
            split(&Expr::Seq(vec![(**body).clone(), again]), group, out);
        }
        _ => out.rest.push(e.clone()),
    }
}

/// Removes left recursion among the rules of `group`.
fn rewrite(g: &mut Grammar, group: &[usize]) -> Result<()> {
    let mut size = 0;
    for (i, &a) in group.iter().enumerate() {
        let mut parts = Split::default();
        split(&g.rules[a].expr, group, &mut parts);
        // leading calls of rules already done become what those spell
        while let Some(at) = parts.heads.iter().position(|(r, _)| group[..i].contains(r)) {
            let (r, tail) = parts.heads.swap_remove(at);
            let mut inner = Split::default();
            split(&g.rules[r].expr, group, &mut inner);
            parts.heads.extend(inner.heads.into_iter().map(|(r, t)| (r, Expr::seq([t, tail.clone()]))));
            parts.rest.extend(inner.rest.into_iter().map(|e| Expr::seq([e, tail.clone()])));
            size = parts.heads.iter().map(|(_, t)| t.size() + 1).sum();
            check_size(&Expr::empty(), size)?;
        }
        let expr = direct(g, a, parts);
        size += check_size(&expr, size)?;
        g.rules[a].expr = expr;
    }
    Ok(())
}

/// `A = A α | β` as `β α*`; β may still begin with calls of later rules, and shows them.
fn direct(g: &mut Grammar, a: usize, parts: Split) -> Expr {
    let (own, heads): (Vec<_>, Vec<_>) = parts.heads.into_iter().partition(|(r, _)| *r == a);
    let mut options: Vec<Expr> =
        heads.into_iter().map(|(r, tail)| Expr::seq([Expr::Rule(r), tail])).collect();
    let tails: Vec<Expr> = own.into_iter().map(|(_, t)| t).filter(|t| !t.is_empty_text()).collect();
    if tails.is_empty() {
        options.extend(parts.rest);
        return Expr::alt(options);
    }
    let name = g.rules[a].name.clone();
    let mut add = |suffix: &str, expr| {
        g.rules.push(Rule { name: format!("{name}{suffix}"), expr });
        Expr::Rule(g.rules.len() - 1)
    };
    options.push(add("-rest", Expr::alt(parts.rest)));
    let base = add("-base", Expr::alt(options.iter().cloned()));
    let tails: Vec<Expr> = tails.into_iter().map(|t| last_call_replaced(t, a, &base)).collect();
    let again = Expr::Repeat { body: Box::new(add("-tail", Expr::alt(tails))), min: 0, max: None };
    Expr::alt(options.into_iter().map(|o| Expr::seq([o, again.clone()])))
}

/// `γ A` as `γ base`.
fn last_call_replaced(tail: Expr, a: usize, base: &Expr) -> Expr {
    match tail {
        Expr::Seq(mut parts) if parts.last() == Some(&Expr::Rule(a)) => {
            parts.pop();
            parts.push(base.clone());
            Expr::seq(parts)
        }
        Expr::Rule(r) if r == a => base.clone(),
        other => other,
    }
}

fn check_size(e: &Expr, so_far: usize) -> Result<usize> {
    let size = e.size();
    if so_far + size <= MAX_SIZE {
        return Ok(size);
    }
    Err(Error::new(
        ErrorKind::TooComplex,
        format!("rewriting the grammar's left recursion takes more than {MAX_SIZE} nodes"),
    ))
}
