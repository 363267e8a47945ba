//! The run matcher against a regular expression engine, and against texts that would make it quadratic.

use super::pretokenize::split;
use super::rules::{PRES, Pre};
use proptest::prelude::*;
use regex_automata::meta::Regex;
use std::ops::Range;

fn pieces(pre: &str, text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    split(Pre::find(pre).unwrap().stages, text, &mut |piece| found.push(piece));
    found
}

/// The published rules without their last two alternatives, `\s+(?!\S)|\s+`, which the engine cannot look
/// ahead for. Several are stages.
const TWINS: &[(&str, &[&str])] = &[
    ("gpt-2", &[r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"]),
    ("smollm", &[r"\p{N}", r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"]),
    (
        "llama-bpe",
        &[r"'(?i:[stmd]|re|ve|ll)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"],
    ),
    (
        "qwen2",
        &[r"'(?i:[stmd]|re|ve|ll)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"],
    ),
    (
        "qwen35",
        &[
            r"'(?i:[stmd]|re|ve|ll)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+",
        ],
    ),
    (
        "tekken",
        &[concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{L}--a-z]*[\p{L}--A-Z]+|[^\r\n\p{L}\p{N}]?[\p{L}--a-z]+[\p{L}--A-Z]*",
            r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
        )],
    ),
    (
        "gpt-4o",
        &[concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{L}--a-z]*[\p{L}--A-Z]+(?:'(?i:[stmd]|re|ve|ll))?",
            r"|[^\r\n\p{L}\p{N}]?[\p{L}--a-z]+[\p{L}--A-Z]*(?:'(?i:[stmd]|re|ve|ll))?",
            r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
        )],
    ),
    (
        "deepseek-v3",
        &[
            r"\p{N}{1,3}",
            r"[一-龥぀-ゟ゠-ヿ]+",
            concat!(
                r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
                r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"
            ),
        ],
    ),
    (
        "exaone-moe",
        &[concat!(
            r"'(?i:[stmd]|re|ve|ll)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}",
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]"
        )],
    ),
    (
        "falcon",
        &[
            r"[\p{P}$+<=>^~|`]+",
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+",
            r"[0-9][0-9][0-9]",
        ],
    ),
];

/// Which stages end with the alternatives that look ahead: those that take white space at all.
fn takes_spaces(rule: &str) -> bool {
    rule.contains(r"[^\s") || rule.contains(r"\s*")
}

/// Cuts `text` at the matches of `rule`, then of `\s+`, which gives back its last character before text.
fn cut(rule: &str, text: &str, piece: Range<usize>) -> Vec<Range<usize>> {
    // `(?-i:)` and `--` as in the engine's syntax; class differences need brackets.
    let rule = rule.replace("[\\p{L}--a-z]", "[\\p{L}--[a-z]]").replace("[\\p{L}--A-Z]", "[\\p{L}--[A-Z]]");
    // The contraction letters have no case variants beyond ASCII except for s.
    let rule = rule.replace("(?i:[stmd]|re|ve|ll)", "(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])");
    let spaces = takes_spaces(&rule);
    let patterns = if spaces { vec![rule.as_str(), r"\s+"] } else { vec![rule.as_str()] };
    let re = Regex::new_many(&patterns).unwrap();
    let slice = &text[piece.clone()];
    let (mut found, mut from, mut at) = (Vec::new(), 0, 0);
    while let Some(m) = re.find(&slice[at..]) {
        let (start, mut end) = (at + m.start(), at + m.end());
        if m.pattern().as_usize() == 1 && end < slice.len() {
            let last = slice[..end].char_indices().next_back().unwrap().0;
            end = if last > start { last } else { end };
        }
        found.extend((start > from).then_some(from..start));
        found.push(start..end);
        (from, at) = (end, end);
    }
    found.extend((from < slice.len()).then_some(from..slice.len()));
    found.into_iter().map(|r| piece.start + r.start..piece.start + r.end).collect()
}

fn twin(rules: &[&str], text: &str) -> Vec<Range<usize>> {
    #[expect(clippy::single_range_in_vec_init, reason = "a list of one range is meant")]
    let mut pieces = vec![0..text.len()];
    for rule in rules {
        pieces = pieces.into_iter().flat_map(|p| cut(rule, text, p)).collect();
    }
    pieces.retain(|p| !p.is_empty());
    pieces
}

/// Text that the rules treat in different ways. Only characters that both copies of the Unicode database know.
fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[a-z]{1,4}",
        "[A-Z][a-z]{0,3}",
        "[A-Z]{1,3}",
        "[0-9]{1,7}",
        "[ ]{1,3}",
        "[\\n\\r\\t \u{a0}\u{3000}\u{2029}\u{85}]{1,4}",
        "'(s|S|re|LL|d|x|ſ)",
        "[!-/:-@\\[-`{-~]{1,3}",
        "[éßŊǅʰªº中あアก์ָ\u{301}\u{94d}٣½ⅷ]{1,3}",
        "[€¿«»。、👍🏽\u{200d}\u{0}\u{7f}\u{ad}\u{378}\u{e000}]{1,2}",
    ];
    proptest::collection::vec(part, 0..10).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn runs_match_as_regular_expressions_do(text in text()) {
        for (pre, rules) in TWINS {
            prop_assert_eq!(pieces(pre, &text), twin(rules, &text), "{} {:?}", pre, text);
        }
    }

    #[test]
    fn pieces_tile_any_text(text in prop_oneof![text(), "\\PC{0,30}", any::<String>()]) {
        for pre in PRES {
            let mut end = 0;
            for piece in pieces(pre.names[0], &text) {
                prop_assert!(piece.start == end && piece.end > end, "{} {:?}", pre.names[0], text);
                end = piece.end;
            }
            prop_assert_eq!(end, text.len());
        }
    }
}

/// A matcher that looked again at what it left would take hours here, not seconds.
#[test]
fn no_rule_is_quadratic_in_the_text() {
    let units = [
        " ",
        "\n",
        "\r",
        "\t",
        "\u{a0}",
        "a",
        "A",
        "é",
        "中",
        "1",
        "٣",
        ".",
        "'",
        "<",
        "👍",
        "\u{301}",
        " a",
        "a ",
        "A\u{301}",
        "1a",
        "<sentinel:1",
        "IMGIMGA",
        " \n",
        "'s",
        "\u{3000}x",
        "/\n",
    ];
    for unit in units {
        let run = unit.repeat(60_000 / unit.len());
        // The end decides what the run was; a word after it makes a rule give back.
        for text in [run.clone(), run.clone() + "x", run + " \n1"] {
            for pre in PRES {
                let found = pieces(pre.names[0], &text);
                assert_eq!(found.last().map(|p| p.end), Some(text.len()), "{} {unit:?}", pre.names[0]);
            }
        }
    }
}

#[test]
fn every_name_has_one_entry() {
    let mut names: Vec<&str> = PRES.iter().flat_map(|p| p.names).copied().collect();
    let n = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!((names.len(), n), (90, 90));
}

#[test]
fn digits_are_grouped_from_the_right_where_rules_say_so() {
    let show =
        |pre, text: &'static str| -> Vec<&str> { pieces(pre, text).into_iter().map(|p| &text[p]).collect() };
    assert_eq!(show("superbpe", "ab1234567c"), ["ab", "1", "234", "567", "c"]);
    assert_eq!(show("tiny_aya", "ab1234567c"), ["ab", "1", "234", "567", "c"]);
    assert_eq!(show("afmoe", "12 1234"), ["12", " ", "1", "234"]);
    assert_eq!(show("falcon", "1234567"), ["123", "456", "7"]);
    assert_eq!(show("gpt-2", "don't  go\n\n\n x"), ["don", "'t", " ", " go", "\n\n\n", " x"]);
}
