//! Nudging's two short cuts on real tokenizers: one pass over a proposal gives what separate calls give, and encoding
//! the end of a text anew gives the tokens of the whole.
//!
//! `TRUING_PARITY=500` looks at so many proposals a model; by default a few, as the models are slow in a test.

mod common;

use truing::kernels;
use truing::model::{Context, ContextOptions, Model, ModelOptions};
use truing::sampling::{BatchItem, Lent, NextLogits, Purpose, Random, Want};
use truing::steer::{Encoding, Speaker, Tokenizer, Voice};

/// Pieces of texts that tokenizers disagree on.
const PARTS: [&str; 36] = [
    " the",
    " a",
    "the ",
    " of",
    " 12",
    " 2024",
    "3.14",
    ",",
    ". ",
    "!",
    "?\n",
    "\n\n",
    "  ",
    "   ",
    " ",
    "\t",
    "🦊",
    "👩‍👩‍👧",
    " 狐は",
    "眠る。",
    "日本",
    " été",
    "naïve",
    "ß",
    " don't",
    "'s",
    " x = foo(1);",
    "\n    return x",
    "{}",
    "```\n",
    "# ",
    " 1. ",
    "- ",
    " Über",
    " unbelievable",
    " ok",
];

fn text(seed: u64, n: usize) -> String {
    let draw = Random::new(seed);
    let pick = |i: usize| PARTS[(draw.uniform(i as u64, Purpose::Report) * PARTS.len() as f64) as usize];
    (0..n).map(pick).collect()
}

#[test]
fn growing_texts_have_the_tokens_of_the_whole() {
    for name in ["smollm2", "gemma3-270m"] {
        let model = Model::open(common::real_model(name), &ModelOptions::default()).expect("model");
        for seed in 0..500 {
            let mut grown = Encoding::default();
            for step in 0..6 {
                let n = 1 + (seed as usize + step) % 4;
                grown = grown.with(model.vocab(), &text(seed * 10 + step as u64, n)).expect("encoded");
                let whole = model.vocab().encode(grown.text()).expect("encoded");
                assert_eq!(grown.ids(), whole, "{name}: {:?}", grown.text());
            }
        }
    }
}

/// Ends of words: where the base may take over.
fn boundaries(proposal: &str) -> impl Iterator<Item = usize> + '_ {
    let bytes = proposal.as_bytes();
    (1..bytes.len()).filter(move |&i| bytes[i] == b' ' && bytes[i - 1] != b' ')
}

#[test]
fn one_pass_over_a_proposal_gives_what_separate_calls_give() {
    let asked = std::env::var("TRUING_PARITY").ok().and_then(|n| n.parse().ok());
    let (mut n_places, mut n_inside) = (0, 0);
    for (name, usual) in [("smollm2", 16), ("gemma3-270m", 5)] {
        let model = Model::open(common::real_model(name), &ModelOptions::default()).expect("model");
        let vocab = model.vocab();
        let options = ContextOptions { n_ctx: 512, n_kv_tokens: 1024, ..ContextOptions::default() };
        let mut one = Context::new(&model, &options).expect("context");
        let mut many = Context::new(&model, &options).expect("context");
        let prompt = vocab.encode("Question: why?\nAnswer:").expect("prompt");
        let branch = one.root().expect("branch");
        let mut voice = Voice::new(Speaker::new(Lent(&mut one), vocab, branch, &prompt, 512)).expect("voice");
        let mut scratch = vec![0.0; many.n_vocab().div_ceil(kernels::BLOCK)];
        for seed in 0..asked.unwrap_or(usual) {
            let said = Encoding::default().with(vocab, &text(seed, 4)).expect("encoded");
            let proposal = text(1_000_000 + seed, 7);
            let whole = said.with(vocab, &proposal).expect("encoded");
            voice.draft.set(whole.ids());
            for end in boundaries(&proposal) {
                let here = said.with(vocab, &proposal[..end]).expect("encoded");
                let found = voice.top_after(here.ids()).expect("top");
                let branch = many.root().expect("branch");
                let tokens = [&prompt[..], here.ids()].concat();
                many.eval(&[BatchItem { branch: &branch, tokens: &tokens, want: Want::Last }]).expect("eval");
                let row = many.row(0);
                let best = kernels::argmax(row, None).expect("a token");
                let lse = kernels::log_sum_exp(row, None, &mut scratch);
                let p = (f64::from(row[best as usize]) - lse).exp();
                assert_eq!(
                    (found.token, found.p.to_bits()),
                    (best, p.to_bits()),
                    "{name} {seed}: {:?}",
                    here.text()
                );
                n_places += 1;
                n_inside += usize::from(whole.ids().starts_with(here.ids()));
            }
        }
    }
    assert!(
        n_inside > 20 && n_places > n_inside,
        "{n_inside} of {n_places}: both kinds of places are needed"
    );
}
