//! The template engine against another Jinja, on templates nobody wrote.
#![allow(clippy::unwrap_used)]

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Value};
use proptest::prelude::*;
use serde_json::json;
use truing::template::{ChatTemplate, RenderOptions};

fn variables() -> serde_json::Value {
    json!({
        "xs": [3, 1, 2], "s": " Hello,  <|x|>\nWorld ", "n": 7, "e": [], "t": true,
        "d": {"b": 1, "a": {"k": "v"}},
        "ms": [{"role": "user", "content": " hi "}, {"role": "assistant", "content": "yo</think> so"}],
    })
}

fn other_engine(source: &str) -> Result<String, minijinja::Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().unwrap());
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.render_str(source, Value::from(Serde(variables())))
}

const EXPRESSIONS: &[&str] = &[
    "xs[0]",
    "s",
    "n",
    "t",
    "d.b",
    "d['a']['k']",
    "'ab'",
    "3",
    "ms[-1].content",
    "xs|length",
    "s|trim",
    "s.strip()",
    "s.split()|join('-')",
    "xs|join(', ')",
    "s[2:-3]",
    "s[::-1]",
    "s|upper",
    "xs|first",
    "ms|map(attribute='role')|join",
    "d.x|default('?')",
    "s.replace('l', 'L')",
    "'hi' if t else 'no'",
    "s.split('<|x|>')[0]",
    "(ms|selectattr('role', 'equalto', 'user')|list)[0].content",
    "s.startswith(' H')",
    "'|x|' in s",
    "xs|sort|last",
    "n // 2",
    "-n % 4",
    "n is odd",
    "e is defined and not e",
    "'a,b,c'.split(',', 1)|last",
];

/// Boxed, as the types of such strategies are beyond what a compiler likes.
type Source = BoxedStrategy<String>;

fn one_of(texts: &'static [&'static str]) -> Source {
    prop::sample::select(texts).prop_map(str::to_owned).boxed()
}

fn expression() -> Source {
    let two = |inner: &Source, op: &'static str| {
        (inner.clone(), inner.clone()).prop_map(move |(a, b)| format!("({a}) {op} ({b})")).boxed()
    };
    let more = move |inner: Source| {
        let not = inner.clone().prop_map(|a| format!("not ({a})")).boxed();
        prop_oneof![
            two(&inner, "~"),
            two(&inner, "=="),
            two(&inner, "and"),
            two(&inner, "or"),
            two(&inner, "if xs else"),
            not
        ]
        .boxed()
    };
    one_of(EXPRESSIONS).prop_recursive(3, 12, 2, more).boxed()
}

/// A tag with signs for white space.
fn tag(open: &'static str, close: &'static str, inner: Source) -> Source {
    let start = one_of(if open == "{{" { &["", "", "", "-"] } else { &["", "", "", "-", "+"] });
    let tag = (start, inner, one_of(&["", "", "", "-"]));
    tag.prop_map(move |(s, inner, e)| format!("{open}{s} {inner} {e}{close}")).boxed()
}

fn block(words: &'static [&'static str]) -> Source {
    tag("{%", "%}", one_of(words))
}

fn all(parts: Vec<Source>) -> Source {
    parts.prop_map(|parts| parts.concat()).boxed()
}

fn source() -> Source {
    let data = "[ab<|>{ \n\t]{0,6}".boxed();
    let print = tag("{{", "}}", expression());
    let note = tag("{#", "#}", one_of(&["note"]));
    let set = tag("{%", "%}", expression().prop_map(|e| format!("set v = {e}")).boxed());
    let get = tag("{{", "}}", one_of(&["v|default('none yet')"]));
    let leaf = prop_oneof![data, print, note, set, get].boxed();
    let more = |inner: Source| {
        let body = || prop::collection::vec(inner.clone(), 0..4).prop_map(|parts| parts.concat()).boxed();
        let test = tag("{%", "%}", expression().prop_map(|e| format!("if ({e})")).boxed());
        let branch = all(vec![test, body(), block(&["else"]), body(), block(&["endif"])]);
        let heads = &["for x in xs", "for x in e", "for x in ms if x.role == 'user'"];
        let looped = all(vec![block(heads), body(), block(&["endfor"])]);
        let ends = &["if loop.first or loop.last", "if loop.index0 > 0"];
        let inside = all(vec![block(ends), body(), block(&["endif"])]);
        let marked = all(vec![block(&heads[..1]), body(), inside, block(&["endfor"])]);
        // What is set in there stays there; the other engine lets it out.
        let shown = tag("{{", "}}", expression());
        let filter = all(vec![block(&["filter upper"]), shown, block(&["endfilter"])]);
        prop_oneof![branch, looped, marked, filter, body()].boxed()
    };
    leaf.prop_recursive(4, 40, 6, more).boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) })]

    #[test]
    fn both_engines_render_the_same(source in source()) {
        let serde_json::Value::Object(variables) = variables() else { unreachable!() };
        let options = RenderOptions { variables, ..Default::default() };
        let ours = ChatTemplate::new(&source, "", "").and_then(|t| t.render(&[], &options));
        let theirs = other_engine(&source);
        match (&ours, &theirs) {
            (Ok(ours), Ok(theirs)) => prop_assert_eq!(ours, theirs),
            (Err(_), Err(_)) => {}
            _ => prop_assert!(false, "{:?} and {:?}", ours, theirs),
        }
    }
}
