//! Cost of constraints a token: JSON Schema, wording, and grammars beside llama.cpp's grammar sampler.
//!
//! `cargo bench -p truing-benches --bench constraints`, with models in the cache or named by
//! `TRUING_BENCH_MODELS=a.gguf:b.gguf`. Each engine goes along the same text; that its mask holds the text's next token
//! is checked. Prints mean, median, 99th percentile and maximum in microseconds, then runs criterion on single masks.

use std::ffi::{CString, c_char, c_void};
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use criterion::Criterion;
use llama_cpp_sys_2 as l;
use serde_json::Value;
use truing::TokenSet;
use truing::align::{
    Bytewise, Clause, Constraint, Guide, GuidedGrammar, JsonOptions, Limits, Phrase, Range, TokenBytes,
    TokenTrie, Unit, Wording, WordingAutomaton,
};
use truing::gguf::GgufFile;
use truing::grammar::Grammar;
use truing::vocab::{Specials, Vocab};

/// Passes of which the least time at each place counts.
const N_PASSES: usize = 5;

const SCHEMA: &str = r#"{"type": "object", "properties": {
    "name": {"type": "string", "maxLength": 60},
    "id": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
    "age": {"type": "integer", "minimum": 0, "maximum": 150},
    "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
    "kind": {"enum": ["person", "company", "other"]},
    "score": {"type": "number"},
    "note": {"type": "string"}},
    "required": ["name", "id", "age", "tags", "kind", "score", "note"], "additionalProperties": false}"#;
const INSTANCE: &str = r#"{"name": "Ada Lovelace, Countess", "id": "ABC-1234", "age": 36, "tags": ["mathematics", "engines", "poetical science"], "kind": "person", "score": 9.75, "note": "She wrote the first program; it was meant for the Analytical Engine, which was never built. \"Note G\" has it."}"#;
const PROSE: &str = "The old dog ran over the hill to catch a red frisbee. Its owner, who had thrown it, laughed and called the animal back before the rain began to fall on the field.";
const C_CODE: &str = "int add(int a){int b = a+41;while(a<100){a = a*2;b = b-a;}// done\nreturn b*( a+1 );}float half(float x){return x/2;}";
const JSON_GBNF: &str = include_str!("../runtime/tests/data/grammars/json.gbnf");
const C_GBNF: &str = include_str!("../runtime/tests/data/grammars/c-subset.gbnf");

/// Token bytes of a model's vocabulary.
struct Tokens {
    vocab: Vocab,
}

impl TokenBytes for Tokens {
    fn n_vocab(&self) -> usize {
        self.vocab.len()
    }
    fn bytes(&self, id: u32) -> &[u8] {
        self.vocab.token_bytes(id)
    }
    fn eog_ids(&self) -> &[u32] {
        self.vocab.eog_ids()
    }
}

struct Subject {
    name: String,
    path: PathBuf,
    tokens: Arc<Tokens>,
    trie: Arc<TokenTrie>,
    guide: Arc<Guide>,
}

impl Subject {
    fn ids(&self, text: &str) -> Vec<u32> {
        self.tokens.vocab.tokenize(text, Specials::default()).expect("tokens").ids
    }
}

fn models() -> Vec<PathBuf> {
    match std::env::var("TRUING_BENCH_MODELS") {
        Ok(list) => list.split(':').map(PathBuf::from).collect(),
        Err(_) => ["smollm2", "gemma3-270m"].iter().filter_map(|m| truing::models::cached(m)).collect(),
    }
}

fn subject(path: PathBuf) -> Subject {
    let file = GgufFile::open(&path).expect("a model file");
    let tokens = Arc::new(Tokens { vocab: Vocab::from_gguf(&file).expect("a vocabulary") });
    let t = Instant::now();
    let trie = Arc::new(TokenTrie::new(tokens.clone() as Arc<dyn TokenBytes>));
    let built = t.elapsed();
    let guide = Arc::new(Guide::new(trie.clone()).expect("a guide"));
    let t = Instant::now();
    GuidedGrammar::json_schema_str(&guide, "{\"type\": \"null\"}", &JsonOptions::default())
        .expect("a grammar");
    let name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    println!(
        "\n{name}: {} tokens, own tree {built:.0?}, guide and first grammar {:.0?}",
        trie.vocab().n_vocab(),
        t.elapsed()
    );
    Subject { name, path, tokens, trie, guide }
}

fn line(what: &str, mut us: Vec<f64>) {
    us.sort_by(f64::total_cmp);
    let mean = us.iter().sum::<f64>() / us.len() as f64;
    let at = |p: usize| us[(us.len() - 1) * p / 100];
    println!(
        "  {what:<44} mean {mean:>9.1}  median {:>9.1}  p99 {:>9.1}  max {:>9.1} µs",
        at(50),
        at(99),
        at(100)
    );
}

/// Goes along `ids`; returns the times of masks and of accepting.
fn along(c: &mut dyn Constraint, ids: &[u32]) -> (Vec<f64>, Vec<f64>) {
    let mut set = TokenSet::all(c.n_vocab());
    let (mut masks, mut accepts) = (Vec::new(), Vec::new());
    for (i, &id) in ids.iter().enumerate() {
        set.fill();
        let t = Instant::now();
        c.mask(&mut set).expect("a mask");
        masks.push(t.elapsed().as_secs_f64() * 1e6);
        assert!(set.contains(id), "token {i} of the text is not allowed");
        let t = Instant::now();
        assert!(c.accept(id).expect("an answer"), "token {i} of the text was refused");
        accepts.push(t.elapsed().as_secs_f64() * 1e6);
    }
    (masks, accepts)
}

/// The least of several passes at each place: what another process takes away does not count.
fn least(passes: Vec<Vec<f64>>) -> Vec<f64> {
    let n = passes.first().map_or(0, Vec::len);
    (0..n).map(|i| passes.iter().map(|p| p[i]).fold(f64::INFINITY, f64::min)).collect()
}

/// Several passes, each on a new constraint.
fn passes(what: &str, ids: &[u32], mut make: impl FnMut() -> Box<dyn Constraint>) {
    let (mut masks, mut accepts) = (Vec::new(), Vec::new());
    for _ in 0..N_PASSES {
        let (m, a) = along(&mut *make(), ids);
        masks.push(m);
        accepts.push(a);
    }
    line(&format!("{what}, mask"), least(masks));
    line(&format!("{what}, accept"), least(accepts));
}

fn schemas(s: &Subject) {
    let schema: Value = serde_json::from_str(SCHEMA).expect("JSON");
    let compile =
        || GuidedGrammar::json_schema(&s.guide, &schema, &JsonOptions::default()).expect("a grammar");
    let build = |_| {
        let t = Instant::now();
        black_box(compile());
        vec![t.elapsed().as_secs_f64() * 1e6]
    };
    let built = (0..20).flat_map(build).collect();
    line("JSON Schema, build", built);
    let ids = s.ids(INSTANCE);
    let grammar = compile();
    passes("JSON Schema", &ids, || grammar.constraint(Limits::default()).expect("a constraint"));
    let limits = Limits { max_tokens: Some(400), ..Limits::default() };
    passes("JSON Schema with a limit", &ids, || grammar.constraint(limits).expect("a constraint"));
    recorded(s);
}

/// Building every recorded schema, and masks along its valid instances.
fn recorded(s: &Subject) {
    let (mut built, mut masks) = (Vec::new(), Vec::new());
    for rows in [
        include_str!("../runtime/tests/data/schemas/schemas_github.jsonl"),
        include_str!("../runtime/tests/data/schemas/schemas_vendor.jsonl"),
    ] {
        for row in rows.lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON")) {
            let compile = || GuidedGrammar::json_schema(&s.guide, &row["schema"], &JsonOptions::default());
            let build = |_| {
                let t = Instant::now();
                let _ = black_box(compile());
                vec![t.elapsed().as_secs_f64() * 1e6]
            };
            built.extend(least((0..3).map(build).collect()));
            let grammar = compile();
            let (Ok(grammar), Some(tests)) = (grammar, row["tests"].as_array()) else { continue };
            for test in tests.iter().filter(|t| t["valid"] == true).take(1) {
                let ids = s.ids(&test["data"].to_string());
                masks.extend(
                    along(&mut *grammar.constraint(Limits::default()).expect("a constraint"), &ids).0,
                );
            }
        }
    }
    line("recorded schemas, build", built);
    line("recorded schemas, masks", masks);
}

fn wordings(s: &Subject) {
    let mut wording = Wording {
        include: vec![Clause::any(["dog", "dogs"]), Clause::any(["frisbee"])],
        exclude: ["as an AI", "I cannot", "sorry"].map(Phrase::from).to_vec(),
        ..Wording::default()
    };
    wording.length[Unit::Words as usize] = Range { min: 5, max: Some(60) };
    wording.length[Unit::Sentences as usize] = Range { min: 1, max: Some(4) };
    let automaton = || WordingAutomaton::for_vocab(&wording, &s.trie).expect("an automaton");
    let limits = Limits { max_tokens: Some(200), ..Limits::default() };
    let ids = s.ids(PROSE);
    let make = || Bytewise::new(automaton(), s.trie.clone(), limits).expect("a constraint");
    let (mut masks, mut again) = (Vec::new(), Vec::new());
    for _ in 0..N_PASSES {
        let c = make();
        let mut fresh = c.fork();
        masks.push(along(&mut *fresh, &ids).0);
        again.push(along(&mut *c.fork(), &ids).0);
    }
    line("keywords, bans, lengths: first mask", least(masks));
    line("keywords, bans, lengths: cached mask", least(again));
}

fn grammars(s: &Subject) {
    for (what, gbnf, text) in [("json.gbnf", JSON_GBNF, INSTANCE), ("c-subset.gbnf", C_GBNF, C_CODE)] {
        let ids = s.ids(text);
        let t = Instant::now();
        let machine =
            || Grammar::gbnf(gbnf).and_then(|g| g.compile(&s.trie.single_bytes())).expect("a grammar");
        let c = Bytewise::new(machine(), s.trie.clone(), Limits::default()).expect("a constraint");
        let built = t.elapsed();
        println!("  {what}: built in {built:.1?}");
        let fresh = |_| {
            let c = Bytewise::new(machine(), s.trie.clone(), Limits::default()).expect("a constraint");
            along(&mut *c.fork(), &ids).0
        };
        line(&format!("{what}, own automaton, first mask"), least((0..N_PASSES).map(fresh).collect()));
        passes(&format!("{what}, own automaton, again"), &ids, || c.fork());
        llama(s, what, gbnf, &ids);
    }
}

unsafe extern "C" fn quiet(_: l::ggml_log_level, _: *const c_char, _: *mut c_void) {}

/// llama.cpp's grammar sampler along the same text: over all tokens, and over the one that was drawn.
fn llama(s: &Subject, what: &str, gbnf: &str, ids: &[u32]) {
    let path = CString::new(s.path.to_string_lossy().as_bytes()).expect("a path");
    let (grammar, root) = (CString::new(gbnf).expect("text"), c"root");
    let n_vocab = s.tokens.vocab.len();
    // SAFETY: llama.cpp's documented use; every pointer is checked before use and freed once, the sampler first. The
    // array given to `llama_sampler_apply` holds `size` entries and outlives the call.
    unsafe {
        l::llama_log_set(Some(quiet), std::ptr::null_mut());
        let params = l::llama_model_params { vocab_only: true, ..l::llama_model_default_params() };
        let model = l::llama_model_load_from_file(path.as_ptr(), params);
        assert!(!model.is_null(), "llama.cpp did not load the vocabulary");
        let sampler =
            l::llama_sampler_init_grammar(l::llama_model_get_vocab(model), grammar.as_ptr(), root.as_ptr());
        assert!(!sampler.is_null(), "llama.cpp did not read the grammar");
        let row = |n: usize| -> Vec<l::llama_token_data> {
            (0..n).map(|id| l::llama_token_data { id: id as i32, logit: 0.0, p: 0.0 }).collect()
        };
        let apply = |mut row: Vec<l::llama_token_data>, id: u32| {
            let mut array = l::llama_token_data_array {
                data: row.as_mut_ptr(),
                size: row.len(),
                selected: -1,
                sorted: false,
            };
            let t = Instant::now();
            l::llama_sampler_apply(sampler, &mut array);
            let us = t.elapsed().as_secs_f64() * 1e6;
            let kept = row.iter().find(|d| d.id == id as i32).is_some_and(|d| d.logit.is_finite());
            assert!(kept, "llama.cpp refuses token {id}");
            us
        };
        let (mut masks, mut singles) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            l::llama_sampler_reset(sampler);
            let (mut all, mut one) = (Vec::new(), Vec::new());
            for &id in ids {
                all.push(apply(row(n_vocab), id));
                one.push(apply(vec![l::llama_token_data { id: id as i32, logit: 0.0, p: 0.0 }], id));
                l::llama_sampler_accept(sampler, id as i32);
            }
            masks.push(all);
            singles.push(one);
        }
        line(&format!("{what}, llama.cpp, whole mask"), least(masks));
        line(&format!("{what}, llama.cpp, one token"), least(singles));
        l::llama_sampler_free(sampler);
        l::llama_model_free(model);
    }
}

fn criterion(s: &Subject, c: &mut Criterion) {
    let grammar =
        GuidedGrammar::json_schema_str(&s.guide, SCHEMA, &JsonOptions::default()).expect("a grammar");
    let mut constraint = grammar.constraint(Limits::default()).expect("a constraint");
    let ids = s.ids(INSTANCE);
    let mut group = c.benchmark_group(&s.name);
    group.bench_function("along a JSON text, a pass", |b| {
        b.iter(|| {
            along(&mut *constraint, &ids);
            constraint.rollback(ids.len()).expect("undone");
        });
    });
    group.bench_function("build JSON Schema", |b| {
        b.iter(|| {
            GuidedGrammar::json_schema_str(&s.guide, SCHEMA, &JsonOptions::default()).expect("a grammar")
        });
    });
    group.finish();
}

fn main() {
    let models = models();
    if models.is_empty() {
        eprintln!("no model: name some in TRUING_BENCH_MODELS, or pull smollm2");
    }
    let mut c = Criterion::default().sample_size(20).configure_from_args();
    for path in models {
        let s = subject(path);
        schemas(&s);
        wordings(&s);
        grammars(&s);
        criterion(&s, &mut c);
    }
    c.final_summary();
}
