//! Checks from their JSON form: an object with `check` and that check's arguments.

use regex_automata::meta::Regex;
use serde_json::{Map, Value};

use super::{Check, Instruction, Relation, Words};
use crate::error::{Error, ErrorKind, Result};

/// Arguments of a check, with its name for errors.
struct Arguments<'a> {
    name: &'a str,
    object: &'a Map<String, Value>,
}

impl Arguments<'_> {
    fn bad(&self, key: &str, expected: &str) -> Error {
        let found = self.object.get(key).map_or_else(|| "nothing".to_owned(), Value::to_string);
        let message = format!("`{key}`: expected {expected}, found {found}");
        Error::new(ErrorKind::InvalidArgument, message).at(self.name.to_owned())
    }

    fn count(&self, key: &str) -> Result<usize> {
        let n = self.object.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        n.ok_or_else(|| self.bad(key, "a number that is not negative"))
    }

    fn text(&self, key: &str) -> Result<String> {
        let text = self.object.get(key).and_then(Value::as_str).filter(|t| !t.is_empty());
        text.map(str::to_owned).ok_or_else(|| self.bad(key, "a text"))
    }

    fn relation(&self, key: &str) -> Result<Relation> {
        match self.object.get(key).and_then(Value::as_str) {
            Some("at least") => Ok(Relation::AtLeast),
            Some("less than") => Ok(Relation::LessThan),
            _ => Err(self.bad(key, "\"at least\" or \"less than\"")),
        }
    }

    fn texts(&self, key: &str) -> Result<Vec<String>> {
        let list = self.object.get(key).and_then(Value::as_array).filter(|l| !l.is_empty());
        let texts = list.and_then(|l| l.iter().map(|v| v.as_str().map(str::to_owned)).collect());
        texts.ok_or_else(|| self.bad(key, "a list of texts"))
    }

    fn words(&self, key: &str, texts: Vec<String>, pattern: impl Fn(&str) -> String) -> Result<Words> {
        let patterns = texts.iter().map(|t| {
            // upstream takes the words as patterns; one that is none is meant as it stands
            match Regex::new(&pattern(t)) {
                Ok(regex) => Ok(regex),
                Err(_) => Regex::new(&pattern(&regex_syntax::escape(t)))
                    .map_err(|e| self.bad(key, "words that make a pattern").because(e)),
            }
        });
        let patterns = patterns.collect::<Result<_>>()?;
        Ok(Words { words: texts, patterns })
    }
}

impl Instruction {
    /// Reads an instruction.
    /// # Errors `Unsupported` for a check that is not known; `InvalidArgument` naming check and key for arguments
    /// that are missing or of the wrong type.
    pub fn parse(value: &Value) -> Result<Self> {
        let bad = |what: String| Error::new(ErrorKind::InvalidArgument, what);
        let object = value.as_object().ok_or_else(|| bad(format!("expected an object, found {value}")))?;
        let name = object.get("check").and_then(Value::as_str);
        let name = name.ok_or_else(|| bad("`check`: expected the name of a check".to_owned()))?;
        let check = check(&Arguments { name, object })?;
        Ok(Self { name: name.to_owned(), check })
    }
}

fn check(a: &Arguments<'_>) -> Result<Check> {
    let anywhere = |w: &str| format!("(?i){w}");
    Ok(match a.name {
        "punctuation:no_comma" => Check::NoComma,
        "length_constraints:number_words" => {
            Check::NumberWords { relation: a.relation("relation")?, n: a.count("num_words")? }
        }
        "length_constraints:number_sentences" => {
            Check::NumberSentences { relation: a.relation("relation")?, n: a.count("num_sentences")? }
        }
        "length_constraints:number_paragraphs" => Check::NumberParagraphs { n: a.count("num_paragraphs")? },
        "length_constraints:nth_paragraph_first_word" => Check::NthParagraphFirstWord {
            n: a.count("num_paragraphs")?,
            nth: a.count("nth_paragraph")?,
            first_word: a.text("first_word")?.to_lowercase(),
        },
        "keywords:existence" => Check::KeywordsExist(a.words("keywords", a.texts("keywords")?, anywhere)?),
        "keywords:frequency" => Check::KeywordFrequency {
            keyword: a.words("keyword", vec![a.text("keyword")?.trim().to_owned()], anywhere)?,
            relation: a.relation("relation")?,
            n: a.count("frequency")?,
        },
        "keywords:forbidden_words" => {
            let whole = |w: &str| format!(r"(?i)\b{w}\b");
            Check::ForbiddenWords(a.words("forbidden_words", a.texts("forbidden_words")?, whole)?)
        }
        "keywords:letter_frequency" => Check::LetterFrequency {
            letter: a.text("letter")?.to_lowercase(),
            relation: a.relation("let_relation")?,
            n: a.count("let_frequency")?,
        },
        "change_case:english_capital" => Check::AllCapitals,
        "change_case:english_lowercase" => Check::AllLowercase,
        "change_case:capital_word_frequency" => Check::CapitalWords {
            relation: a.relation("capital_relation")?,
            n: a.count("capital_frequency")?,
        },
        "detectable_format:number_bullet_lists" => Check::BulletLists { n: a.count("num_bullets")? },
        "detectable_format:number_highlighted_sections" => {
            Check::HighlightedSections { n: a.count("num_highlights")? }
        }
        "detectable_format:title" => Check::Title,
        "detectable_format:json_format" => Check::JsonFormat,
        "detectable_format:multiple_sections" => {
            let section = |s: &str| format!(r"\s?{s}\s?\d+\s?");
            let splitter = vec![a.text("section_spliter")?.trim().to_owned()];
            Check::MultipleSections {
                splitter: a.words("section_spliter", splitter, section)?,
                n: a.count("num_sections")?,
            }
        }
        "detectable_format:constrained_response" => Check::ConstrainedResponse,
        "detectable_content:number_placeholders" => Check::Placeholders { n: a.count("num_placeholders")? },
        "detectable_content:postscript" => {
            Check::Postscript { marker: a.text("postscript_marker")?.trim().to_owned() }
        }
        "combination:repeat_prompt" => Check::RepeatPrompt { prompt: a.text("prompt_to_repeat")? },
        "combination:two_responses" => Check::TwoResponses,
        "startend:end_checker" => Check::EndsWith { phrase: a.text("end_phrase")?.trim().to_owned() },
        "startend:quotation" => Check::Quotation,
        other => {
            let message = format!("expected a check that is known, found {other:?}");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
    })
}
