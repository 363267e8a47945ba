//! The two real models against exact arithmetic.
//!
//! Quantised matrix products round their inputs, so two correct engines differ by a draw of rounding noise.
//! What can be asked: an engine is no farther from the same weights in exact arithmetic than llama.cpp is.
//! The golden files give exact logits and llama.cpp's distance from them; bounds leave it room to spare and
//! a real mistake none. `TRUING_GOLDEN` names a folder with the full files.

#![allow(clippy::panic, reason = "a failed test")]

mod common;
mod support;

use support::real;
use truing::model::{Context, ContextOptions, ExecutorKind, Model, ModelOptions};
use truing::sampling::{BatchItem, NextLogits, Want};
use truing::vocab::Specials;

/// How far from exact an engine may be.
struct Bounds {
    model: &'static str,
    /// rms of log-probability differences over all scored tokens.
    logprob_rms: f64,
    /// rms of logit differences over the vocabulary, mean over the prompts.
    spread: f64,
}

const SMOLLM2: Bounds = Bounds { model: "smollm2", logprob_rms: 0.12, spread: 0.30 };
const GEMMA3: Bounds = Bounds { model: "gemma3", logprob_rms: 0.17, spread: 0.50 };

/// Mean of the differences of any one prompt, whichever model.
const MEAN: f64 = 0.05;
/// KL divergence at the last position, mean over the prompts.
const KL: f64 = 0.03;
/// A choice is beyond luck when both margins are at least this wide.
const CLEAR: f64 = 0.8;
/// Perplexity may be off by this share.
const PERPLEXITY: f64 = 0.015;

const KINDS: &[ExecutorKind] = &[
    ExecutorKind::Native,
    #[cfg(feature = "ggml")]
    ExecutorKind::Ggml,
];

fn open(model: &str) -> std::sync::Arc<Model> {
    let name = if model == "gemma3" { "gemma3-270m" } else { model };
    Model::open(common::real_model(name), &ModelOptions::default()).expect("model")
}

fn context(model: &Model, executor: ExecutorKind) -> Context {
    let options = ContextOptions { n_ctx: 1024, n_kv_tokens: 3072, executor, ..Default::default() };
    Context::new(model, &options).expect("context")
}

/// Runs `check` with every executor.
fn with_each(name: &str, check: impl Fn(&Model, &mut Context)) {
    let model = open(name);
    for kind in KINDS {
        check(&model, &mut context(&model, *kind));
    }
}

fn check_logits(bounds: &Bounds) {
    with_each(bounds.model, |_, ctx| {
        let (mut off, mut kls, mut spreads) = (Vec::new(), Vec::new(), Vec::new());
        for p in real::prompts(bounds.model) {
            let (logprobs, last) = real::score(ctx, &p.ids);
            kls.push(real::kl(&p, &last));
            spreads.push(real::spread(&p, &last));
            if !p.logprobs.is_empty() {
                assert_eq!(logprobs.len(), p.logprobs.len());
                let d: Vec<f64> = logprobs.iter().zip(&p.logprobs).map(|(f, e)| f - e).collect();
                assert!(real::mean(&d).abs() <= MEAN, "{}: mean difference {:.4}", p.id, real::mean(&d));
                off.extend(d);
            }
        }
        let (rms, kl, spread) = (real::rms(&off), real::mean(&kls), real::mean(&spreads));
        println!("{}: log-prob rms {rms:.4}, KL {kl:.4}, spread {spread:.3}", bounds.model);
        assert!(off.len() > 1000);
        assert!(rms <= bounds.logprob_rms, "log-probabilities: rms {rms:.4} of {}", bounds.logprob_rms);
        assert!(kl <= KL, "KL {kl:.4}");
        assert!(spread <= bounds.spread, "logits: rms {spread:.4} of {}", bounds.spread);
    });
}

#[test]
fn smollm2_is_as_near_to_exact_as_llama_cpp() {
    check_logits(&SMOLLM2);
}

#[test]
fn gemma3_is_as_near_to_exact_as_llama_cpp() {
    check_logits(&GEMMA3);
}

fn check_greedy(name: &str) {
    with_each(name, |_, ctx| {
        let (mut n_clear, mut n_other) = (0, 0);
        for path in real::paths(name) {
            let branch = ctx.root().expect("root");
            let all: Vec<u32> = path.prompt_ids.iter().chain(&path.ids).copied().collect();
            let first = path.prompt_ids.len() - 1;
            let prompt = BatchItem { branch: &branch, tokens: &all[..first], want: Want::Nothing };
            ctx.eval(&[prompt]).expect("prompt");
            real::all_rows(ctx, &branch, &all[first..all.len() - 1], |i, row| {
                let agrees = real::argmax(row) == path.ids[i] as usize;
                let clear = path.gap[i] >= CLEAR && path.exact_margin[i] >= CLEAR;
                assert!(agrees || !clear, "{name}: step {i}: gap {}", path.gap[i]);
                n_clear += usize::from(clear);
                n_other += usize::from(!agrees);
            });
        }
        println!("{name}: {n_clear} clear steps agree, {n_other} of the others do not");
        assert!(n_clear > 100, "{n_clear} clear steps");
    });
}

#[test]
fn smollm2_takes_every_clear_greedy_step() {
    check_greedy("smollm2");
}

#[test]
fn gemma3_takes_every_clear_greedy_step() {
    check_greedy("gemma3");
}

/// A branch cut back across the sliding window goes on as a fresh one does.
#[test]
fn gemma3_cut_beyond_its_window_goes_on_as_if_fresh() {
    with_each("gemma3", |model, ctx| {
        assert_eq!(model.spec().layers[0].attn.window, Some(512));
        let prompts = real::prompts("gemma3");
        let ids = &prompts.iter().find(|p| p.ids.len() == 700).expect("long prompt").ids;
        let append = |ctx: &mut Context, branch: &_, ids: &[u32]| {
            ctx.eval(&[BatchItem { branch, tokens: ids, want: Want::Last }]).expect("eval");
            ctx.row(0).to_vec()
        };
        let fresh = ctx.root().expect("root");
        append(ctx, &fresh, &ids[..100]);
        let expected = append(ctx, &fresh, &ids[100..160]);
        let cut = ctx.root().expect("root");
        append(ctx, &cut, &ids[..100]);
        append(ctx, &cut, &ids[..]);
        ctx.truncate(&cut, 100).expect("truncate");
        let found = append(ctx, &cut, &ids[100..160]);
        assert_eq!(real::argmax(&found), real::argmax(&expected));
        let off: Vec<f64> = found.iter().zip(&expected).map(|(f, e)| f64::from(f - e)).collect();
        assert!(real::rms(&off) < 0.3, "rms {}", real::rms(&off));
    });
}

/// Prompts of different lengths in one batch are as near to exact as each alone; seeing a neighbour would
/// change everything.
#[test]
fn smollm2_packed_prompts_are_as_near_to_exact_as_alone() {
    with_each("smollm2", |_, ctx| {
        let prompts: Vec<_> = real::prompts("smollm2").into_iter().filter(|p| p.ids.len() <= 200).collect();
        assert!(prompts.len() >= 5);
        let branches: Vec<_> = prompts.iter().map(|_| ctx.root().expect("root")).collect();
        let items: Vec<_> = (branches.iter().zip(&prompts))
            .map(|(branch, p)| BatchItem { branch, tokens: &p.ids, want: Want::Last })
            .collect();
        ctx.eval(&items).expect("packed");
        let kls: Vec<_> = prompts.iter().enumerate().map(|(i, p)| real::kl(p, ctx.row(i))).collect();
        let off: Vec<_> = prompts.iter().enumerate().map(|(i, p)| real::spread(p, ctx.row(i))).collect();
        assert!(real::mean(&kls) <= KL, "KL {kls:.4?}");
        assert!(real::mean(&off) <= SMOLLM2.spread, "logits: rms {off:.3?}");
    });
}

/// Perplexity of a public-domain text, in windows of 512 tokens on an empty branch each. The first windows
/// only, for time; all with `TRUING_GOLDEN`.
fn check_perplexity(name: &str, n_windows: usize) {
    with_each(name, |model, ctx| {
        let golden = real::json(&real::read("perplexity.json"));
        let golden = &golden["models"][name];
        let specials = Specials { add_bos_eos: false, parse_special: false };
        let tokens = model.vocab().tokenize(&real::read("perplexity.txt"), specials).expect("tokens");
        let ids = tokens.complete().expect("every byte has a token");
        assert_eq!(ids.len() as u64, golden["n_tokens_plain"].as_u64().expect("n"));
        let bos = real::ids(&golden["bos"]);
        let exact = &golden["windows"]["exact_f32"];
        let (nll, scored) = (real::numbers(&exact["window_nll"]), real::numbers(&exact["window_scored"]));
        let n_windows = if std::env::var_os("TRUING_GOLDEN").is_some() { nll.len() } else { n_windows };
        let found: f64 = (ids.chunks(512 - bos.len()).take(n_windows))
            .map(|window| {
                let window: Vec<u32> = bos.iter().chain(window).copied().collect();
                -real::score(ctx, &window).0.iter().sum::<f64>()
            })
            .sum();
        let sum = |x: &[f64]| x.iter().take(n_windows).sum::<f64>();
        let ppl = |nll: f64| (nll / sum(&scored)).exp();
        let (found, exact) = (ppl(found), ppl(sum(&nll)));
        println!("{name}: perplexity {found:.3}, exact {exact:.3}, {n_windows} windows");
        assert!((found / exact - 1.0).abs() <= PERPLEXITY, "perplexity {found:.3}, exact {exact:.3}");
    });
}

#[test]
fn smollm2_perplexity_is_that_of_exact_arithmetic() {
    check_perplexity("smollm2", 3);
}

#[test]
fn gemma3_perplexity_is_that_of_exact_arithmetic() {
    check_perplexity("gemma3", 2);
}
