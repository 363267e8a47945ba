//! When a response follows an instruction.

use std::sync::LazyLock;

use regex_automata::meta::Regex;
use regex_automata::util::syntax;

use super::{Check, Words};

/// A pattern that is part of the program; nothing matches should it not compile.
fn pattern(text: &str) -> Option<Regex> {
    Regex::builder().syntax(syntax::Config::new().multi_line(true)).build(text).ok()
}

macro_rules! patterns {
    ($($name:ident = $text:expr;)*) => {
        $(static $name: LazyLock<Option<Regex>> = LazyLock::new(|| pattern($text));)*
    };
}

patterns! {
    WORD = r"[\p{L}\p{N}_]+";
    SENTENCE_END = r"[.!?]\s+\p{Lu}";
    STAR_BULLET = r"^\s*\*[^\*].*$";
    DASH_BULLET = r"^\s*-.*$";
    HIGHLIGHT = r"\*[^\n\*]*\*";
    DOUBLE_HIGHLIGHT = r"\*\*[^\n\*]*\*\*";
    TITLE = r"<<[^\n]+>>";
    PLACEHOLDER = r"\[.*?\]";
    PARAGRAPH_MARK = r"\s?\*\*\*\s?";
    PS = r"\s*p\.\s?s\..*$";
    PPS = r"\s*p\.\s?p\.\s?s.*$";
}

fn found<'t>(pattern: &Option<Regex>, text: &'t str) -> Vec<&'t str> {
    pattern.iter().flat_map(|p| p.find_iter(text)).map(|m| &text[m.range()]).collect()
}

fn count(pattern: &Option<Regex>, text: &str) -> usize {
    pattern.as_ref().map_or(0, |p| p.find_iter(text).count())
}

impl Words {
    fn all_in(&self, text: &str) -> bool {
        self.patterns.iter().all(|p| p.is_match(text))
    }

    fn any_in(&self, text: &str) -> bool {
        self.patterns.iter().any(|p| p.is_match(text))
    }

    fn count_in(&self, text: &str) -> usize {
        self.patterns.iter().map(|p| p.find_iter(text).count()).sum()
    }
}

impl Check {
    /// Whether `response`, which is not blank, passes.
    pub(super) fn holds(&self, response: &str) -> bool {
        match self {
            Self::NoComma => !response.contains(','),
            Self::NumberWords { relation, n } => relation.holds(count(&WORD, response), *n),
            Self::NumberSentences { relation, n } => relation.holds(sentences(response), *n),
            Self::NumberParagraphs { n } => paragraphs(response) == Some(*n),
            Self::NthParagraphFirstWord { n, nth, first_word } => {
                nth_paragraph_begins(response, *n, *nth, first_word)
            }
            Self::KeywordsExist(words) => words.all_in(response),
            Self::KeywordFrequency { keyword, relation, n } => relation.holds(keyword.count_in(response), *n),
            Self::ForbiddenWords(words) => !words.any_in(response),
            Self::LetterFrequency { letter, relation, n } => {
                relation.holds(response.to_lowercase().matches(letter.as_str()).count(), *n)
            }
            Self::AllCapitals => is_upper(response),
            Self::AllLowercase => is_lower(response),
            Self::CapitalWords { relation, n } => relation.holds(capital_words(response), *n),
            Self::BulletLists { n } => count(&STAR_BULLET, response) + count(&DASH_BULLET, response) == *n,
            Self::HighlightedSections { n } => highlights(response) >= *n,
            Self::Title => found(&TITLE, response)
                .iter()
                .any(|t| !t.trim_start_matches('<').trim_end_matches('>').trim().is_empty()),
            Self::JsonFormat => is_json(response),
            Self::MultipleSections { splitter, n } => splitter.count_in(response) >= *n,
            Self::ConstrainedResponse => {
                ["yes", "no", "maybe"].iter().any(|a| response.contains(&format!("My answer is {a}.")))
            }
            Self::Placeholders { n } => count(&PLACEHOLDER, response) >= *n,
            Self::Postscript { marker } => has_postscript(&response.to_lowercase(), marker),
            Self::RepeatPrompt { prompt } => {
                response.trim().to_lowercase().starts_with(&prompt.trim().to_lowercase())
            }
            Self::TwoResponses => two_responses(response),
            Self::EndsWith { phrase } => {
                response.trim().trim_matches('"').to_lowercase().ends_with(&phrase.to_lowercase())
            }
            Self::Quotation => {
                let text = response.trim();
                text.len() > 1 && text.starts_with('"') && text.ends_with('"')
            }
        }
    }
}

fn sentences(text: &str) -> usize {
    usize::from(!text.trim().is_empty()) + count(&SENTENCE_END, text)
}

/// Paragraphs between lines of three asterisks; `None` if one in the middle is empty.
fn paragraphs(text: &str) -> Option<usize> {
    let marks = PARAGRAPH_MARK.as_ref()?;
    let pieces: Vec<&str> = marks.split(text).map(|span| &text[span]).collect();
    let is_blank: Vec<bool> = pieces.iter().map(|p| p.trim().is_empty()).collect();
    let inner = is_blank.get(1..is_blank.len().saturating_sub(1)).unwrap_or_default();
    (!inner.contains(&true)).then(|| is_blank.iter().filter(|b| !**b).count())
}

fn nth_paragraph_begins(text: &str, n: usize, nth: usize, first_word: &str) -> bool {
    let pieces: Vec<&str> = text.split("\n\n").collect();
    let n_paragraphs = pieces.iter().filter(|p| !p.trim().is_empty()).count();
    let paragraph = nth.checked_sub(1).filter(|i| *i < n_paragraphs).and_then(|i| pieces.get(i));
    let Some(word) = paragraph.and_then(|p| p.split_whitespace().next()) else { return false };
    let word = word.trim_start_matches('\'').trim_start_matches('"');
    let word = word.split(['.', ',', '?', '!', '\'', '"']).next().unwrap_or_default();
    n_paragraphs == n && word.to_lowercase() == first_word
}

/// A title-case character such as `ǅ`: cased, neither upper nor lower.
fn is_title(c: char) -> bool {
    !c.is_lowercase() && !c.is_uppercase() && c.to_lowercase().next() != Some(c)
}

fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase) && !text.chars().any(|c| c.is_lowercase() || is_title(c))
}

fn is_lower(text: &str) -> bool {
    text.chars().any(char::is_lowercase) && !text.chars().any(|c| c.is_uppercase() || is_title(c))
}

/// Words in capitals. Words end at white space and punctuation but hyphens, full stops and apostrophes inside;
/// a contraction is two words, as in the Penn Treebank.
fn capital_words(text: &str) -> usize {
    let is_inside = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '\'' | '’' | '_' | '/' | '*');
    text.split(|c| !is_inside(c))
        .flat_map(|w| w.split("--").flat_map(|w| w.split("..")))
        .flat_map(contraction)
        .filter(|w| is_upper(w))
        .count()
}

/// `DON'T` is `DO` and `N'T`, `IT'S` is `IT` and `'S`.
fn contraction(word: &str) -> impl Iterator<Item = &str> {
    let lower = word.to_lowercase();
    let not = (lower.len() == word.len() && lower.ends_with("n't")).then(|| word.len() - 3);
    let at = not.or_else(|| word.rfind(['\'', '’']).filter(|at| *at > 0));
    let (head, tail) = at.and_then(|at| word.split_at_checked(at)).unwrap_or((word, ""));
    [head, tail].into_iter()
}

fn highlights(text: &str) -> usize {
    let is_filled = |h: &&&str| !h.trim_matches('*').trim().is_empty();
    let single = found(&HIGHLIGHT, text);
    let double = found(&DOUBLE_HIGHLIGHT, text);
    single.iter().filter(is_filled).count() + double.iter().filter(is_filled).count()
}

fn is_json(text: &str) -> bool {
    let mut text = text.trim();
    for fence in ["```json", "```Json", "```JSON", "```"] {
        text = text.strip_prefix(fence).unwrap_or(text);
    }
    let text = text.strip_suffix("```").unwrap_or(text).trim();
    serde_json::from_str::<serde_json::Value>(text).is_ok()
}

fn has_postscript(lower: &str, marker: &str) -> bool {
    match marker {
        "P.P.S" => count(&PPS, lower) > 0,
        "P.S." => count(&PS, lower) > 0,
        other => lower.contains(&other.to_lowercase()),
    }
}

fn two_responses(text: &str) -> bool {
    let pieces: Vec<&str> = text.split("******").collect();
    let last = pieces.len() - 1;
    let filled: Vec<&str> = pieces.iter().map(|p| p.trim()).filter(|p| !p.is_empty()).collect();
    let has_hole = pieces.iter().enumerate().any(|(i, p)| p.trim().is_empty() && i != 0 && i != last);
    matches!(filled[..], [a, b] if a != b) && !has_hole
}
