//! Exact sampling on the real model, against the law computed by enumeration.

mod common;

use truing::config::Profile;
use truing::model::{Context, ContextOptions, Model, ModelOptions};
use truing::sampling::NextLogits;
use truing::session::{self, AlignPlan, Exactness, Setting, Source};
use truing::vocab::Specials;

/// Binary strings, but most of what begins with 0 is missing: masking pays for choosing 0 too late.
const PROFILE: &str = "[constraints.grammar]\nkind = \"gbnf\"\nmode = \"exact\"\nmax_draws = 100000\n\
                       text = 'root ::= \"000\" | \"1\" [01] [01]'\n";
const PROMPT: &str = "Generate a binary string of length 3:\n";
const N: usize = 1000;

#[test]
fn exact_draws_follow_the_conditioned_law_and_masked_ones_do_not() {
    let model = Model::open(common::real_model("smollm2"), &ModelOptions::default()).expect("model");
    let options = ContextOptions { n_ctx: 64, n_kv_tokens: 4096, ..ContextOptions::default() };
    let mut context = Context::new(&model, &options).expect("context");
    let lexicon = session::lexicon(&model);
    let profile = Profile::parse(PROFILE).expect("profile");
    let asked = profile.constraints.build(&mut |file| unreachable!("{file} is not named")).expect("grammar");
    let plan = AlignPlan::new(&profile.constraints, asked, &lexicon).expect("plan").expect("asked");
    let tokens = model
        .vocab()
        .tokenize(PROMPT, Specials { add_bos_eos: true, parse_special: false })
        .expect("ids")
        .ids;

    let setting = Setting {
        vocab: model.vocab(),
        n_ctx: 64,
        n_parallel: 1,
        cancel: context.cancel_flag(),
        model_id: String::new(),
    };
    let mut source = || Source {
        branch: context.root().expect("branch"),
        tokens: tokens.clone(),
        temperature: 1.0,
        max_tokens: 8,
    };
    let (listed, source) = (source(), source());
    let law = session::law(&mut context, &setting, &plan, listed).expect("law");
    let total: f64 = law.values().map(|l| l.free).sum();
    let texts: Vec<&[u8]> = law.keys().map(Vec::as_slice).collect();
    assert_eq!(texts, [&b"000"[..], b"100", b"101", b"110", b"111"]);
    let target: Vec<f64> = law.values().map(|l| l.free / total).collect();
    let masked: Vec<f64> = law.values().map(|l| l.masked).collect();
    assert!((masked.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{masked:?}");

    let seeds: Vec<u64> = (0..N as u64).collect();
    let before = context.n_evals();
    let outcomes =
        session::draw(&mut context, &setting, &plan, source, &seeds, &mut |_, _| ()).expect("draws");
    let mut drawn = vec![0.0; texts.len()];
    for outcome in &outcomes {
        assert_eq!(outcome.report.exactness, Exactness::Exact);
        let place = texts.iter().position(|t| *t == outcome.text.as_bytes()).expect("a text of the language");
        drawn[place] += 1.0 / N as f64;
    }
    // the expected distance of an honest sample of 1000 over five strings is below 0.03
    let (honest, biased) =
        (session::total_variation(&drawn, &target), session::total_variation(&masked, &target));
    assert!(honest < 0.05, "distance {honest}: {drawn:?} for {target:?}");
    assert!(biased > 0.1, "masking is {biased} away: this language tells nothing");
    // what was evaluated once is not evaluated again: 15 prefixes of digits, a few rejected ones, the prompt
    let n_evals = context.n_evals() - before;
    assert!(n_evals < 12 * N as u64 / 10, "{n_evals} rows for {N} samples");
    assert_eq!(outcomes.last().expect("drawn").report.n_evals, 0, "all prefixes are known by then");
}
