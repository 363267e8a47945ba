//! JSON Schema constraints against recorded instances, and drawn texts against an independent validator: what is
//! valid is accepted, what is not is never complete, what is drawn ends in time and is valid.
//!
//! `TRUING_DATA` names a folder whose `jsonschema/` holds the full sets; without it a thinned copy is used.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use truing::align::{Guide, GuidedGrammar, JsonOptions, Limits, ListVocab, TokenBytes, TokenTrie};
use truing::gguf::GgufFile;
use truing::vocab::Vocab;
use truing::{Error, ErrorKind, TokenSet};

const RECORDED: [&str; 2] = ["schemas_github.jsonl", "schemas_vendor.jsonl"];
const SUITES: [&str; 2] = ["test_suite_draft2020-12.jsonl", "test_suite_draft7.jsonl"];

fn full() -> Option<PathBuf> {
    std::env::var_os("TRUING_DATA").map(PathBuf::from)
}

/// The rows of a set; those of the suites say which draft they mean.
fn rows(name: &str) -> Vec<Value> {
    let thin = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/schemas");
    let folder = full().map_or(thin, |d| d.join("jsonschema"));
    let text = std::fs::read_to_string(folder.join(name)).unwrap();
    let mut rows: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    if name.contains("draft7") {
        let schemas = rows.iter_mut().filter_map(|r| r["schema"].as_object_mut());
        schemas
            .for_each(|s| drop(s.insert("$schema".into(), "http://json-schema.org/draft-07/schema#".into())));
    }
    rows
}

/// Every byte is a token, so that each text has one spelling.
fn bytes() -> Arc<Guide> {
    let tokens: Vec<[u8; 1]> = (0..=255).map(|b| [b]).collect();
    Arc::new(Guide::new(Arc::new(TokenTrie::new(Arc::new(ListVocab::new(tokens))))).unwrap())
}

fn compile(guide: &Arc<Guide>, schema: &Value) -> Result<GuidedGrammar, Error> {
    GuidedGrammar::json_schema(guide, schema, &JsonOptions::default())
}

/// Whether `text` is taken to its end and may end there.
fn accepts(grammar: &GuidedGrammar, text: &str) -> bool {
    let mut c = grammar.constraint(Limits::default()).unwrap();
    text.bytes().all(|b| c.accept(u32::from(b)).unwrap()) && c.may_end()
}

#[derive(Default, Debug, PartialEq, Eq)]
struct Score {
    schemas: usize,
    compiled: usize,
    valid: usize,
    accepted: usize,
    invalid: usize,
}

/// Checks that no invalid instance is complete and that refusals are reasoned; returns the score of each split.
fn score(file: &str) -> BTreeMap<String, Score> {
    let guide = bytes();
    let mut scores: BTreeMap<String, Score> = BTreeMap::new();
    for row in rows(file) {
        let split = row.get("split").or(row.get("draft")).unwrap().as_str().unwrap();
        let name = row.get("name").or(row.get("description")).unwrap();
        let score = scores.entry(split.into()).or_default();
        score.schemas += 1;
        let grammar = match compile(&guide, &row["schema"]) {
            Ok(g) => g,
            Err(e) => {
                check_refusal(&e, &row);
                println!("refused {name}: {e}");
                continue;
            }
        };
        score.compiled += 1;
        for test in row["tests"].as_array().unwrap() {
            let text = test["data"].to_string();
            let accepted = accepts(&grammar, &text);
            if test["valid"] == true {
                score.valid += 1;
                score.accepted += usize::from(accepted);
            } else {
                score.invalid += 1;
                assert!(!accepted, "{name} lets {text} through: {}", row["schema"]);
            }
        }
    }
    println!("{file}: {scores:#?}");
    scores
}

/// A refusal names a keyword and a place, or says that the schema is empty, which no valid instance contradicts.
fn check_refusal(e: &Error, row: &Value) {
    let text = e.to_string();
    match e.kind() {
        ErrorKind::Unsupported | ErrorKind::BadProfile => {
            assert!(text.contains("keyword \"") && text.contains("at \""), "{text}");
        }
        ErrorKind::Unsatisfiable => {
            let valid = row["tests"].as_array().unwrap().iter().find(|t| t["valid"] == true);
            assert!(valid.is_none(), "{text}, but {valid:?} for {}", row["schema"]);
        }
        ErrorKind::TooComplex => {}
        kind => panic!("{kind:?}: {text}"),
    }
}

fn sum(scores: &[BTreeMap<String, Score>]) -> Score {
    scores.iter().flat_map(BTreeMap::values).fold(Score::default(), |a, s| Score {
        schemas: a.schemas + s.schemas,
        compiled: a.compiled + s.compiled,
        valid: a.valid + s.valid,
        accepted: a.accepted + s.accepted,
        invalid: a.invalid + s.invalid,
    })
}

#[test]
fn recorded_schemas() {
    let total = sum(&RECORDED.map(score));
    println!("{total:?}");
    let want = match full() {
        Some(_) => FULL,
        None => THIN,
    };
    assert_eq!(total, want);
}

#[test]
fn official_suites() {
    let scores = SUITES.map(score);
    let total = sum(&scores);
    println!("{total:?}");
    let want = match full() {
        Some(_) => FULL_SUITES,
        None => THIN_SUITES,
    };
    assert_eq!(total, want);
}

/// A text drawn with equal chance for every allowed token.
fn draw(guide: &Guide, grammar: &GuidedGrammar, max_tokens: usize, seed: u64) -> String {
    let limits = Limits { max_tokens: Some(max_tokens), ..Limits::default() };
    let mut c = grammar.constraint(limits).unwrap();
    let (mut state, mut text) = (seed, Vec::new());
    let mut set = TokenSet::all(c.n_vocab());
    while !c.has_ended() {
        assert!(c.len() < max_tokens, "the limit passed without an end");
        set.fill();
        c.mask(&mut set).unwrap();
        loop {
            assert!(!set.is_empty(), "nothing may follow {:?}", String::from_utf8_lossy(&text));
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let token = set.iter().nth((state >> 33) as usize % set.len()).unwrap();
            if c.accept(token).unwrap() {
                text.extend_from_slice(guide.trie().vocab().bytes(token));
                break;
            }
            set.remove(token);
        }
    }
    String::from_utf8(text).unwrap()
}

/// Draws texts of every `every`th recorded schema, checks them, and returns how many there were.
fn draw_all(guide: &Arc<Guide>, every: usize) -> usize {
    let (mut n_texts, mut n_bytes) = (0, 0);
    for row in RECORDED.into_iter().flat_map(rows).step_by(every) {
        let Ok(grammar) = compile(guide, &row["schema"]) else { continue };
        let mut schema = row["schema"].clone();
        let dialect = schema.get("$schema").and_then(Value::as_str).unwrap_or_default();
        if !dialect.contains("json-schema.org") {
            schema.as_object_mut().map(|o| o.remove("$schema"));
        }
        let validator = jsonschema::options().should_validate_formats(true).build(&schema);
        let Ok(validator) = validator else { continue };
        let need = grammar.constraint(Limits::default()).unwrap().witness_len().unwrap();
        for (seed, slack) in [(1, 0), (2, 10), (3, 100)] {
            let text = draw(guide, &grammar, need + slack, seed);
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
            let errors: Vec<String> = validator.iter_errors(&value).map(|e| e.to_string()).collect();
            assert!(errors.is_empty(), "{}: {text}: {errors:?}", row["name"]);
            (n_texts, n_bytes) = (n_texts + 1, n_bytes + text.len());
        }
    }
    println!("{n_texts} texts, {n_bytes} bytes");
    n_texts
}

#[test]
fn drawn_texts_end_in_time_and_are_valid() {
    assert!(draw_all(&bytes(), 1) > 100);
}

/// The vocabulary of a model.
struct Real(Vocab);

impl TokenBytes for Real {
    fn n_vocab(&self) -> usize {
        self.0.len()
    }
    fn bytes(&self, id: u32) -> &[u8] {
        self.0.token_bytes(id)
    }
    fn eog_ids(&self) -> &[u32] {
        self.0.eog_ids()
    }
}

#[test]
fn so_do_texts_in_the_tokens_of_a_model() {
    let Some(path) = truing::models::cached("smollm2") else {
        println!("smollm2 is not in the cache: nothing was checked");
        return;
    };
    let vocab = Vocab::from_gguf(&GgufFile::open(&path).unwrap()).unwrap();
    let trie = TokenTrie::new(Arc::new(Real(vocab)));
    assert!(draw_all(&Arc::new(Guide::new(Arc::new(trie)).unwrap()), 4) > 25);
}

const FULL: Score = Score { schemas: 456, compiled: 434, valid: 626, accepted: 612, invalid: 1053 };
const THIN: Score = Score { schemas: 116, compiled: 115, valid: 150, accepted: 150, invalid: 210 };
const FULL_SUITES: Score = Score { schemas: 303, compiled: 222, valid: 680, accepted: 617, invalid: 606 };
const THIN_SUITES: Score = Score { schemas: 152, compiled: 104, valid: 329, accepted: 298, invalid: 295 };
