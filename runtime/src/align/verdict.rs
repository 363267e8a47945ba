//! What a finished text did with its constraints: clause by clause, with places and counts.
//!
//! The judges are the automata that enforce: a [`WordingAutomaton`] says whether the text would have been
//! let through, the lanes inside it say where phrases stand, its counters say how long the text is, and the
//! grammar's [`Machine`] says where it leaves the grammar. So enforcing and checking cannot disagree.
//! Cost: some 100 ns a character. It loses where only yes or no is wanted: run the automaton then.

use serde::Serialize;

use super::lexical::{Finder, Findings, Hit, Hits, Meter, Unit, UnitCounts, Wording, WordingAutomaton};
use crate::error::Result;
use crate::grammar::{Automaton, Machine};

/// Where a phrase stands in the text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// First byte.
    pub start: usize,
    /// The byte after it.
    pub end: usize,
    /// The phrase as the caller wrote it.
    pub phrase: String,
}

/// What became of a clause to include.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClauseVerdict {
    /// Its phrases.
    pub any: Vec<String>,
    /// Whether it was met as often as asked.
    pub satisfied: bool,
    /// How often it was met; in an ordered list, in its turn.
    pub times: u32,
    /// Where, the first 64 places.
    pub places: Vec<Place>,
}

/// What became of the excluded phrases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExcludeVerdict {
    /// Whether none occurs.
    pub satisfied: bool,
    /// How often they occur.
    pub times: u32,
    /// Where, the first 64 places.
    pub places: Vec<Place>,
}

/// What became of a limit on the length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LengthVerdict {
    /// Name of the unit.
    pub unit: &'static str,
    /// Whether it was kept; for sentences, also whether the last one is closed.
    pub satisfied: bool,
    /// At least.
    pub min: u32,
    /// At most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    /// The length.
    pub count: u32,
}

/// What became of the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct GrammarVerdict {
    /// Whether the whole text belongs to it.
    pub satisfied: bool,
    /// The first byte that no text of the grammar has there; `None` if the text is a beginning of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused_at: Option<usize>,
}

/// What a text did with its constraints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Whether all constraints hold together.
    pub satisfied: bool,
    /// One for each clause.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<ClauseVerdict>,
    /// If phrases are excluded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude: Option<ExcludeVerdict>,
    /// One for each limited unit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub length: Vec<LengthVerdict>,
    /// If there is a grammar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grammar: Option<GrammarVerdict>,
    /// The length in every unit.
    pub counts: UnitCounts,
}

impl Verdict {
    /// Adds what became of a grammar.
    #[must_use]
    pub fn with_grammar(mut self, grammar: GrammarVerdict) -> Self {
        self.satisfied &= grammar.satisfied;
        self.grammar = Some(grammar);
        self
    }

    /// Each constraint by name, and whether it holds: the clauses, the exclusions as one, the lengths, the grammar.
    pub fn constraints(&self) -> impl Iterator<Item = (String, bool)> + '_ {
        let include =
            self.include.iter().enumerate().map(|(i, c)| (format!("include {}", i + 1), c.satisfied));
        let exclude = self.exclude.iter().map(|e| ("exclude".to_owned(), e.satisfied));
        let length = self.length.iter().map(|l| (l.unit.to_owned(), l.satisfied));
        let grammar = self.grammar.iter().map(|g| ("grammar".to_owned(), g.satisfied));
        include.chain(exclude).chain(length).chain(grammar)
    }
}

/// Judges texts by one wording. Made once for many texts.
pub struct Checker {
    wording: Wording,
    automaton: WordingAutomaton,
    finder: Finder,
    meter: Meter,
}

impl Checker {
    /// # Errors As [`WordingAutomaton::new`]. A wording that nothing can satisfy is no error here.
    pub fn new(wording: &Wording) -> Result<Self> {
        Ok(Self {
            wording: wording.clone(),
            automaton: WordingAutomaton::new(wording, &[true; 256])?,
            finder: Finder::new(wording)?,
            meter: Meter::new()?,
        })
    }

    /// What `text` did with the wording and, if there is one, with `grammar`.
    /// # Errors `TooComplex` if the grammar outgrew its limits.
    pub fn check(&self, text: &str, grammar: Option<&Machine>) -> Result<Verdict> {
        let found = self.finder.find(text);
        let counts = self.meter.count(text);
        let verdict = Verdict {
            satisfied: self.is_satisfied(text),
            exclude: (!self.wording.exclude.is_empty()).then(|| self.exclude(&found.exclude)),
            include: self.include(found),
            length: self.length(&counts),
            grammar: None,
            counts,
        };
        match grammar {
            Some(grammar) => Ok(verdict.with_grammar(read_grammar(grammar, text)?)),
            None => Ok(verdict),
        }
    }

    /// Whether the text would have been let through.
    pub fn is_satisfied(&self, text: &str) -> bool {
        let end = self.automaton.run(self.automaton.start(), text.as_bytes());
        end.is_some_and(|state| self.automaton.accepts(state))
    }

    /// The length of `text` in every unit.
    pub fn counts(&self, text: &str) -> UnitCounts {
        self.meter.count(text)
    }

    fn include(&self, found: Findings) -> Vec<ClauseVerdict> {
        let clauses = self.wording.include.iter().zip(found.include);
        clauses
            .map(|(clause, Hits { n, places })| {
                let text = |i: usize| clause.any.get(i).map_or("", |p| p.text.as_str());
                ClauseVerdict {
                    any: clause.any.iter().map(|p| p.text.clone()).collect(),
                    satisfied: n >= clause.at_least && clause.at_most.is_none_or(|m| n <= m),
                    times: n,
                    places: self::places(&places, text),
                }
            })
            .collect()
    }

    fn exclude(&self, found: &Hits) -> ExcludeVerdict {
        let text = |i: usize| self.wording.exclude.get(i).map_or("", |p| p.text.as_str());
        ExcludeVerdict { satisfied: found.n == 0, times: found.n, places: places(&found.places, text) }
    }

    fn length(&self, counts: &UnitCounts) -> Vec<LengthVerdict> {
        let limits = Unit::ALL.into_iter().zip(self.wording.length);
        limits
            .filter(|(_, limit)| limit.is_active())
            .map(|(unit, limit)| LengthVerdict {
                unit: unit.name(),
                satisfied: counts.keeps(unit, limit),
                min: limit.min,
                max: limit.max,
                count: counts.get(unit),
            })
            .collect()
    }
}

fn places<'a>(hits: &[Hit], text: impl Fn(usize) -> &'a str) -> Vec<Place> {
    hits.iter().map(|h| Place { start: h.start, end: h.end, phrase: text(h.phrase).to_owned() }).collect()
}

/// Reads `text` with `grammar`: accepted, a mere beginning, or refused at a byte.
/// # Errors `TooComplex` if the grammar outgrew its limits.
pub fn read_grammar(grammar: &impl Automaton, text: &str) -> Result<GrammarVerdict> {
    let mut state = grammar.start();
    for (at, byte) in text.bytes().enumerate() {
        match grammar.step(state, byte) {
            Some(next) => state = next,
            None => {
                grammar.check()?;
                return Ok(GrammarVerdict { satisfied: false, refused_at: Some(at) });
            }
        }
    }
    Ok(GrammarVerdict { satisfied: grammar.accepts(state), refused_at: None })
}

impl std::fmt::Debug for Checker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checker").field("wording", &self.wording).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::align::{Boundary, Clause, Phrase, Range};
    use crate::grammar::Grammar;
    use proptest::prelude::*;

    fn including(clauses: &[&str]) -> Wording {
        Wording { include: clauses.iter().map(|c| Clause::any(c.split('|'))).collect(), ..Wording::default() }
    }

    fn spans(places: &[Place]) -> Vec<(usize, usize, &str)> {
        places.iter().map(|p| (p.start, p.end, p.phrase.as_str())).collect()
    }

    fn check(wording: &Wording, text: &str) -> Verdict {
        Checker::new(wording).unwrap().check(text, None).unwrap()
    }

    #[test]
    fn places_of_included_phrases_are_bytes_of_the_raw_text() {
        let w = including(&["dog|dogs", "straße", "café", "hot dog"]);
        let text = "Dogs in a STRASSE; a hot dog at the cafe\u{301}.";
        let v = check(&w, text);
        assert_eq!(spans(&v.include[0].places), [(0, 4, "dogs"), (25, 28, "dog")]);
        assert_eq!(spans(&v.include[1].places), [(10, 17, "straße")]);
        assert_eq!(spans(&v.include[2].places), [(36, 42, "café")]);
        assert_eq!(spans(&v.include[3].places), [(21, 28, "hot dog")]);
        assert!(v.satisfied && v.include.iter().all(|c| c.satisfied));
        assert!(!check(&w, "category of hotdogs").satisfied);
    }

    #[test]
    fn every_excluded_phrase_is_found_also_after_the_first_and_behind_invisible_characters() {
        let exclude = ["bad", "very bad", "BAD"].map(Phrase::from).to_vec();
        let w = Wording { exclude, ..Wording::default() };
        let v = check(&w, "very bad, b\u{ad}ad\u{200b}!");
        let found = v.exclude.unwrap();
        assert_eq!(
            spans(&found.places),
            [(0, 8, "very bad"), (5, 8, "bad"), (5, 8, "BAD"), (10, 15, "bad"), (10, 15, "BAD")]
        );
        assert!(!found.satisfied && found.times == 5 && !v.satisfied);
        assert!(check(&w, "badly").satisfied);
    }

    #[test]
    fn counts_go_on_beyond_limits_and_each_unit_has_its_verdict() {
        let mut w = Wording::default();
        w.length[Unit::Words as usize] = Range { min: 0, max: Some(3) };
        w.length[Unit::Sentences as usize] = Range::exactly(2);
        let v = check(&w, "Dr. No left. He ran");
        let length: Vec<_> = v.length.iter().map(|l| (l.unit, l.count, l.satisfied)).collect();
        assert_eq!(length, [("words", 5, false), ("sentences", 2, false)]); // the second is not closed
        assert_eq!((v.counts.chars, v.counts.bytes, v.counts.closed), (19, 19, false));
        let v = check(&w, "No 犬. Né\u{301}!");
        assert!(v.satisfied);
        assert_eq!((v.counts.words, v.counts.graphemes, v.counts.chars, v.counts.bytes), (3, 9, 10, 14));
    }

    #[test]
    fn clauses_count_and_an_ordered_list_counts_in_turn() {
        let mut w = including(&["a"]);
        (w.include[0].at_least, w.include[0].at_most) = (2, Some(3));
        for (text, times, ok) in [("a", 1, false), ("a a", 2, true), ("a a a a", 4, false)] {
            let v = check(&w, text);
            assert_eq!((v.include[0].times, v.include[0].satisfied, v.satisfied), (times, ok, ok), "{text}");
        }
        let w = Wording { ordered: true, ..including(&["to be", "be bold"]) };
        let v = check(&w, "be bold, to be bold");
        assert_eq!(spans(&v.include[0].places), [(9, 14, "to be")]);
        assert!(v.include[1].places.is_empty() && !v.satisfied, "overlapping, or before its turn");
    }

    #[test]
    fn a_grammar_says_where_it_is_left() {
        let grammar = Grammar::gbnf("root ::= \"[\" [0-9]+ (\",\" [0-9]+)* \"]\"").unwrap();
        let machine = grammar.compile(&[true; 256]).unwrap();
        let checker = Checker::new(&Wording::default()).unwrap();
        for (text, satisfied, refused_at) in [
            ("[1,22]", true, None),
            ("[1,2", false, None),
            ("[1,é]", false, Some(3)),
            ("[1]]", false, Some(3)),
        ] {
            let v = checker.check(text, Some(&machine)).unwrap();
            assert_eq!(v.grammar, Some(GrammarVerdict { satisfied, refused_at }), "{text}");
            assert_eq!(v.satisfied, satisfied);
        }
    }

    /// Some asked-for things over a small alphabet, so that they meet often.
    fn wordings() -> impl Strategy<Value = Wording> {
        let texts = prop::sample::select(vec!["a", "b", "ab", "a b", "e\u{301}", "é", "e", "ß", "ss", "b."]);
        let phrase = (texts, any::<bool>()).prop_map(|(text, words)| Phrase {
            boundary: if words { Boundary::Word } else { Boundary::None },
            ..text.into()
        });
        let clause =
            (prop::collection::vec(phrase.clone(), 1..3), 0u32..3, prop::option::of(0u32..3)).prop_map(
                |(any, at_least, extra)| Clause { any, at_least, at_most: extra.map(|e| at_least + e) },
            );
        let limits = prop::array::uniform5((0u32..3, prop::option::of(0u32..6)));
        (prop::collection::vec(clause, 0..3), prop::collection::vec(phrase, 0..2), any::<bool>(), limits)
            .prop_map(|(mut include, exclude, ordered, limits)| {
                if ordered {
                    include.iter_mut().for_each(|c| c.at_most = None);
                }
                let length = limits.map(|(min, more)| Range { min, max: more.map(|m| min + m) });
                let length = if length[0].min == 0 { length } else { Default::default() };
                Wording { include, ordered, exclude, length }
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_parts_agree_with_the_automaton_that_enforces(w in wordings(), text in "[aAbBeés \u{301}\u{ad}.ß]{0,9}") {
            let v = check(&w, &text);
            prop_assert_eq!(v.constraints().all(|(_, ok)| ok), v.satisfied, "{:?}", v);
            for place in v.include.iter().flat_map(|c| &c.places).chain(v.exclude.iter().flat_map(|e| &e.places)) {
                prop_assert!(text.is_char_boundary(place.start) && text.is_char_boundary(place.end), "{:?}", place);
                prop_assert!(place.start < place.end, "{:?}", place);
            }
        }
    }
}
