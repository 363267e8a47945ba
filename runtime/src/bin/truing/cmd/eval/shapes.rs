//! From what an instruction says to what can be enforced of it.
//!
//! Words and lengths go into the wording, one statement about the form into a pattern. Where a row makes several
//! such statements, the first in the order of [`form`] is enforced and the others are left to the model.

use super::suite::Asked;
use truing::align::{Boundary, Clause, Norm, Phrase, Range, Unit, Wording};
use truing::config::GrammarKind;
use truing::eval::{Check, Instruction, Relation};

/// The limit that a check sets on the length, if it is about that.
pub fn length_of(check: &Check) -> Option<(Unit, Range)> {
    let range = |relation: Relation, n: usize| {
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        match relation {
            Relation::AtLeast => Range { min: n, max: None },
            Relation::LessThan => Range { min: 0, max: Some(n.saturating_sub(1)) },
        }
    };
    match check {
        Check::NumberWords { relation, n } => Some((Unit::Words, range(*relation, *n))),
        Check::NumberSentences { relation, n } => Some((Unit::Sentences, range(*relation, *n))),
        _ => None,
    }
}

/// A limit as a person would say it.
pub fn in_words((unit, range): &(Unit, Range)) -> String {
    let unit = unit.name();
    match (range.min, range.max) {
        (min, Some(max)) if min == max => format!("exactly {min} {unit}"),
        (0, Some(max)) => format!("at most {max} {unit}"),
        (min, Some(max)) => format!("{min} to {max} {unit}"),
        (min, None) => format!("at least {min} {unit}"),
    }
}

/// Tokens that a text of this length may take, with room to spare.
pub fn tokens_for(unit: Unit, range: Range) -> usize {
    let (per, most) = match unit {
        Unit::Words => (2, 1200),
        Unit::Sentences => (40, 60),
        Unit::Chars | Unit::Graphemes | Unit::Bytes => (1, 4000),
    };
    let n = range.max.map_or(range.min + range.min / 4, |max| max.min(range.min.max(most)));
    n as usize * per + 48
}

/// Tokens that answers to these instructions may take.
pub fn tokens_for_checks(instructions: &[Instruction]) -> usize {
    let each = instructions.iter().map(|i| match &i.check {
        Check::RepeatPrompt { prompt } => prompt.len() / 2 + 200,
        check => length_of(check).map_or(256, |(unit, range)| tokens_for(unit, range).max(256)),
    });
    each.max().unwrap_or(256)
}

/// What of these instructions can be enforced.
pub fn asked_by(instructions: &[Instruction]) -> Asked {
    let mut asked = Asked { in_parts: true, ..Asked::default() };
    for instruction in instructions {
        word(&instruction.check, &mut asked.wording);
    }
    asked.shape = instructions.iter().filter_map(|i| form(&i.check)).min_by_key(|f| f.0).map(|f| f.1);
    asked
}

/// `text` as scorers look for it: circled letters and the like are other characters to them.
pub fn as_written(text: &str) -> Phrase {
    Phrase { norm: Norm::Nfc, ..text.into() }
}

fn anywhere(text: &str) -> Phrase {
    Phrase { boundary: Boundary::None, ..text.into() }
}

fn at_most(any: Vec<Phrase>, n: u32) -> Clause {
    Clause { any, at_least: 0, at_most: Some(n) }
}

/// Adds what a check says of words and lengths.
fn word(check: &Check, wording: &mut Wording) {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let counted = |phrase: Phrase, relation: &Relation, n: usize| match relation {
        Relation::AtLeast => Clause { any: vec![phrase], at_least: number(n), at_most: None },
        Relation::LessThan => at_most(vec![phrase], number(n).saturating_sub(1)),
    };
    match check {
        Check::NoComma => wording.exclude.push(anywhere(",")),
        Check::ForbiddenWords(words) => wording.exclude.extend(words.words.iter().map(|w| w.as_str().into())),
        Check::KeywordsExist(words) => {
            wording.include.extend(words.words.iter().map(|w| Clause::any([as_written(w)])));
        }
        Check::KeywordFrequency { keyword, relation, n } => {
            // a whole word is a place in any case; a limit has to count every place
            let as_phrase = |w: &String| match relation {
                Relation::AtLeast => as_written(w),
                Relation::LessThan => anywhere(w),
            };
            wording.include.extend(keyword.words.iter().map(|w| counted(as_phrase(w), relation, *n)));
        }
        Check::LetterFrequency { letter, relation, n } => {
            let norm = if *relation == Relation::AtLeast { Norm::Nfc } else { Norm::Nfkc };
            wording.include.push(counted(Phrase { norm, ..anywhere(letter) }, relation, *n));
        }
        _ => {
            if let Some((unit, range)) = length_of(check) {
                let limit = &mut wording.length[unit as usize];
                limit.min = limit.min.max(range.min);
                limit.max = [limit.max, range.max].into_iter().flatten().min();
            }
        }
    }
}

/// What a check says of the form, with its rank: the lowest is enforced.
fn form(check: &Check) -> Option<(u8, (GrammarKind, String))> {
    const ANY: &str = "(?s:.)";
    let literal = |text: &str| escape(text);
    let (rank, pattern) = match check {
        Check::JsonFormat => return Some((0, (GrammarKind::JsonSchema, r#"{"type": "object"}"#.to_owned()))),
        Check::AllLowercase => (1, r"[^\p{Uppercase}\p{Lt}]*\p{Ll}[^\p{Uppercase}\p{Lt}]*".to_owned()),
        Check::AllCapitals => (1, r"[^\p{Lowercase}\p{Lt}]*\p{Lu}[^\p{Lowercase}\p{Lt}]*".to_owned()),
        Check::RepeatPrompt { prompt } => (2, format!("{}\n{ANY}+", literal(prompt.trim()))),
        Check::TwoResponses => (3, r"[^*\s][^*]*\n\*{6}\n[^*\s][^*]*".to_owned()),
        Check::NumberParagraphs { n } if *n > 0 => {
            (4, format!(r"[^*\s][^*]*(?:\n\*\*\*\n[^*\s][^*]*){{{}}}", n - 1))
        }
        Check::NthParagraphFirstWord { n, nth, first_word } if (1..=*n).contains(nth) => {
            let paragraph = |i: usize| match i == *nth {
                true => format!(r"{}[ ,][^\n]+", literal(first_word)),
                false => r"\S[^\n]+".to_owned(),
            };
            (4, (1..=*n).map(paragraph).collect::<Vec<_>>().join(r"\n\n"))
        }
        Check::BulletLists { n } if *n > 0 => {
            let bullet = r"\* [^*\s][^\n]*";
            (5, format!(r"(?:[^*\-\s][^\n]*\n\n?)?(?:{bullet}\n){{{}}}{bullet}", n - 1))
        }
        Check::MultipleSections { splitter, n } => {
            let name = splitter.words.first().map_or("", String::as_str);
            let section = |i: usize| format!(r"{} {i}\n(?:\S[^\n]*\n)+", literal(name));
            (5, format!(r"{}{ANY}*", (1..=*n).map(section).collect::<String>()))
        }
        Check::ConstrainedResponse => (6, format!(r"{ANY}*My answer is (?:yes|no|maybe)\.")),
        Check::Quotation => (7, "\"[^\"]+\"".to_owned()),
        Check::EndsWith { phrase } => (8, format!("{ANY}*{}", literal(phrase))),
        Check::Postscript { marker } => (
            9,
            format!(r"{ANY}+\n\n{}[. ]+\w[^\n]*", literal(marker.trim_end_matches('.')))
                .replace("[. ]+", r"\. "),
        ),
        Check::Title => (10, format!(r"<<[^\n<>]*[^\s<>][^\n<>]*>>\n{ANY}+")),
        Check::Placeholders { n } => (11, format!(r"(?:[^\[\]]*\[[^\[\]\n]+\]){{{n}}}{ANY}*")),
        Check::HighlightedSections { n } => (12, format!(r"(?:[^*]*\*[^\n*\s][^\n*]*\*){{{n}}}[^*]*")),
        _ => return None,
    };
    Some((rank, (GrammarKind::Regex, pattern)))
}

/// `text` as a pattern of itself.
fn escape(text: &str) -> String {
    let special = |c: char| c.is_ascii_punctuation();
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use truing::grammar::{Automaton, Grammar};

    /// A shortest text of each enforced form passes the check it comes from.
    #[test]
    fn what_is_enforced_passes_the_check() {
        for check in [
            json!({"check": "change_case:english_lowercase"}),
            json!({"check": "change_case:english_capital"}),
            json!({"check": "combination:repeat_prompt", "prompt_to_repeat": "Is it (a+b) or \"c\"?"}),
            json!({"check": "length_constraints:number_paragraphs", "num_paragraphs": 3}),
            json!({"check": "length_constraints:nth_paragraph_first_word", "num_paragraphs": 3,
                   "nth_paragraph": 2, "first_word": "Then"}),
            json!({"check": "detectable_format:number_bullet_lists", "num_bullets": 3}),
            json!({"check": "detectable_format:multiple_sections", "section_spliter": "Day", "num_sections": 2}),
            json!({"check": "detectable_format:constrained_response"}),
            json!({"check": "startend:quotation"}),
            json!({"check": "startend:end_checker", "end_phrase": "Is that all?"}),
            json!({"check": "detectable_content:postscript", "postscript_marker": "P.S."}),
            json!({"check": "detectable_content:postscript", "postscript_marker": "P.P.S"}),
            json!({"check": "detectable_format:title"}),
            json!({"check": "detectable_content:number_placeholders", "num_placeholders": 2}),
            json!({"check": "detectable_format:number_highlighted_sections", "num_highlights": 2}),
        ] {
            let instruction = Instruction::parse(&check).expect("a known check");
            let Some((GrammarKind::Regex, pattern)) = asked_by(std::slice::from_ref(&instruction)).shape
            else {
                unreachable!("{check} has a form")
            };
            let machine = Grammar::regex(&pattern).and_then(|g| g.compile(&[true; 256])).expect(&pattern);
            let mut text = Vec::new();
            assert!(machine.complete(machine.start(), &mut text), "{pattern}");
            let text = String::from_utf8(text).expect("UTF-8");
            assert!(instruction.holds(&text), "{check} does not hold for {text:?} of {pattern}");
        }
    }
}
