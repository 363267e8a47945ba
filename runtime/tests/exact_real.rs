//! Exact sampling on the real model, against the law computed by enumeration.

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use truing::align::{Constraint, Limits, TokenTrie};
use truing::config::Profile;
use truing::model::{Branch, Context, ContextOptions, Model, ModelOptions};
use truing::sampling::{BatchItem, NextLogits, Want};
use truing::session::{self, AlignPlan, Exactness, Setting, Source};
use truing::vocab::Specials;
use truing::{TokenId, TokenSet};

/// Binary strings, but most of what begins with 0 is missing: masking pays for choosing 0 too late.
const PROFILE: &str = "[constraints.grammar]\nkind = \"gbnf\"\nmode = \"exact\"\nmax_draws = 100000\n\
                       text = 'root ::= \"000\" | \"1\" [01] [01]'\n";
const PROMPT: &str = "Generate a binary string of length 3:\n";
const N: usize = 1000;

/// Both laws of one string, over all its spellings in tokens.
#[derive(Clone, Copy, Default)]
struct Laws {
    joint: f64,
    masked: f64,
}

struct Walk<'a> {
    context: &'a mut Context,
    trie: &'a TokenTrie,
    ends: &'a [TokenId],
    laws: HashMap<String, Laws>,
}

impl Walk<'_> {
    /// Adds every text that goes on from `branch`, whose next row is `row`.
    fn explore(&mut self, c: &mut dyn Constraint, branch: &Branch, row: &[f32], text: &[u8], p: Laws) {
        let mut set = TokenSet::all(row.len());
        c.mask(&mut set).expect("mask");
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = row.iter().map(|x| f64::from(x - max).exp()).sum();
        let prob = |t: TokenId| f64::from(row[t as usize] - max).exp() / total;
        let allowed: f64 = set.iter().map(prob).sum();
        for token in set.iter().collect::<Vec<_>>() {
            let next = Laws { joint: p.joint * prob(token), masked: p.masked * prob(token) / allowed };
            if self.ends.contains(&token) {
                let entry = self.laws.entry(String::from_utf8(text.to_vec()).expect("text")).or_default();
                entry.joint += next.joint;
                entry.masked += next.masked;
                continue;
            }
            let fork = self.context.fork(branch).expect("fork");
            self.context
                .eval(&[BatchItem { branch: &fork, tokens: &[token], want: Want::Last }])
                .expect("row");
            let row = self.context.row(0).to_vec();
            let text = [text, self.trie.vocab().bytes(token)].concat();
            assert!(c.accept(token).expect("accept"));
            self.explore(c, &fork, &row, &text, next);
            c.rollback(1).expect("rollback");
        }
    }
}

fn distance(a: &HashMap<String, f64>, b: &HashMap<String, f64>) -> f64 {
    let keys: std::collections::HashSet<_> = a.keys().chain(b.keys()).collect();
    let at = |m: &HashMap<String, f64>, k: &String| m.get(k).copied().unwrap_or(0.0);
    keys.into_iter().map(|k| (at(a, k) - at(b, k)).abs()).sum::<f64>() / 2.0
}

#[test]
fn exact_draws_follow_the_conditioned_law_and_masked_ones_do_not() {
    let model = Model::open(common::real_model("smollm2"), &ModelOptions::default()).expect("model");
    let options = ContextOptions { n_ctx: 64, n_kv_tokens: 4096, ..ContextOptions::default() };
    let mut context = Context::new(&model, &options).expect("context");
    let lexicon = session::lexicon(&model);
    let profile = Profile::parse(PROFILE).expect("profile");
    let asked = profile.constraints.build(&mut |file| unreachable!("{file} is not named")).expect("grammar");
    let plan = AlignPlan::new(&profile.constraints, asked.clone(), &lexicon).expect("plan").expect("asked");
    let tokens = model
        .vocab()
        .tokenize(PROMPT, Specials { add_bos_eos: true, parse_special: false })
        .expect("ids")
        .ids;

    let law = enumerate(&model, &mut context, &tokens, asked, &lexicon);
    let total: f64 = law.values().map(|l| l.joint).sum();
    assert_eq!(law.len(), 5);
    let target: HashMap<_, _> = law.iter().map(|(s, l)| (s.clone(), l.joint / total)).collect();
    let masked: HashMap<_, _> = law.iter().map(|(s, l)| (s.clone(), l.masked)).collect();

    let setting = Setting {
        vocab: model.vocab(),
        n_ctx: 64,
        n_parallel: 1,
        cancel: context.cancel_flag(),
        model_id: String::new(),
    };
    let source = Source { branch: context.root().expect("branch"), tokens, temperature: 1.0, max_tokens: 8 };
    let seeds: Vec<u64> = (0..N as u64).collect();
    let before = context.n_evals();
    let outcomes =
        session::draw(&mut context, &setting, &plan, source, &seeds, &mut |_, _| ()).expect("draws");
    let mut drawn: HashMap<String, f64> = HashMap::new();
    for outcome in &outcomes {
        assert_eq!(outcome.report.exactness, Exactness::Exact);
        *drawn.entry(outcome.text.clone()).or_default() += 1.0 / N as f64;
    }
    // the expected distance of an honest sample of 1000 over five strings is below 0.03
    let (honest, biased) = (distance(&drawn, &target), distance(&masked, &target));
    assert!(honest < 0.05, "distance {honest}: {drawn:?} for {target:?}");
    assert!(biased > 0.1, "masking is {biased} away: this language tells nothing");
    // what was evaluated once is not evaluated again: 15 prefixes of digits, a few rejected ones, the prompt
    let n_evals = context.n_evals() - before;
    assert!(n_evals < 12 * N as u64 / 10, "{n_evals} rows for {N} samples");
    assert_eq!(outcomes.last().expect("drawn").report.n_evals, 0, "all prefixes are known by then");
}

fn enumerate(
    model: &Arc<Model>,
    context: &mut Context,
    tokens: &[TokenId],
    asked: truing::align::Constraints,
    lexicon: &truing::align::Lexicon,
) -> HashMap<String, Laws> {
    let limits = Limits { max_tokens: Some(8), allow_dead_ends: true, ..Limits::default() };
    let mut constraint = asked.compile(lexicon, limits).expect("satisfiable");
    let branch = context.root().expect("branch");
    context.eval(&[BatchItem { branch: &branch, tokens, want: Want::Last }]).expect("row");
    let row = context.row(0).to_vec();
    let mut walk =
        Walk { context, trie: lexicon.trie(), ends: model.vocab().eog_ids(), laws: HashMap::new() };
    walk.explore(&mut *constraint, &branch, &row, b"", Laws { joint: 1.0, masked: 1.0 });
    walk.laws
}
