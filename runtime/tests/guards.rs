//! Guards from profiles on a tiny model: what is made for something else, contradicts itself or is damaged is refused
//! by name.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test")]

mod support;

use std::sync::Arc;
use support::tiny;
use truing::config::{PrefillPolicy, Profile};
use truing::guard::{
    Direction, GuardPlan, Identity, Position, Probe, ProbeFile, Quality, Setup, Thresholds, header_tokens,
    prefill,
};
use truing::model::Model;
use truing::sampling::SamplingParams;
use truing::template::ChatTemplate;
use truing::{Error, ErrorKind};

const TEMPLATE: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}\
                        {% if add_generation_prompt %}[assistant]{% endif %}";

fn model() -> Arc<Model> {
    tiny::load(&tiny::folder().join("llama-s1-a-f32.gguf")).expect("model").model
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, "", "").unwrap()
}

fn probe(model: &Model, position: Position, n_embd: usize, layer: u32, steering: &str) -> Vec<u8> {
    let direction = Direction {
        layer,
        weight: vec![0.5; n_embd],
        mean: vec![0.0; n_embd],
        inv_std: vec![1.0; n_embd],
        bias: 0.0,
    };
    let thresholds = Thresholds { lo: 0.0, hi: 1.0 };
    let probe = Probe::new(position, vec![direction], thresholds, Quality::default()).unwrap();
    let made_for = Identity::of(model, TEMPLATE, steering);
    ProbeFile { probe, made_for, method: "logistic".into() }.to_bytes().unwrap()
}

fn plan(
    model: &Model,
    source: &str,
    template: Option<&ChatTemplate>,
    file: &[u8],
) -> truing::Result<Option<GuardPlan>> {
    let profile = Profile::parse(source)?;
    let setup = Setup { model, template, steering: "" };
    GuardPlan::new(&profile.guard, setup, &mut |name| match name {
        "p.gguf" => Ok(file.to_vec()),
        _ => Err(Error::new(ErrorKind::Io, "no such file")),
    })
}

const PROBE: &str = "[[guard]]\nkind = \"probe\"\npath = \"p.gguf\"\n";

#[test]
fn a_probe_is_taken_for_what_it_was_made_for_alone() {
    let model = model();
    let shape = model.shape();
    let (good, other) = (template(TEMPLATE), template("{{ messages[0].content }}"));
    let file = probe(&model, Position::Prompt, shape.n_embd, 1, "");
    let plan_ok = plan(&model, PROBE, Some(&good), &file).unwrap().unwrap();
    assert_eq!(plan_ok.watch().layers().collect::<Vec<_>>(), [1]);
    assert!(plan(&model, "", Some(&good), &file).unwrap().is_none());
    let kind = |template: Option<&ChatTemplate>, file: &[u8]| {
        plan(&model, PROBE, template, file).unwrap_err().kind()
    };
    assert_eq!(kind(Some(&other), &file), ErrorKind::ProbeMismatch, "another template");
    assert_eq!(kind(None, &file), ErrorKind::ProbeMismatch, "no template");
    let steered = probe(&model, Position::Prompt, shape.n_embd, 1, "abc");
    assert_eq!(kind(Some(&good), &steered), ErrorKind::ProbeMismatch, "adapters");
    let wide = probe(&model, Position::Prompt, shape.n_embd + 1, 1, "");
    assert_eq!(kind(Some(&good), &wide), ErrorKind::ProbeMismatch, "another width");
    let deep = probe(&model, Position::Prompt, shape.n_embd, shape.n_layer as u32, "");
    assert_eq!(kind(Some(&good), &deep), ErrorKind::ProbeMismatch, "a layer that is not there");
    assert_eq!(kind(Some(&good), &file[..file.len() / 2]), ErrorKind::BadFile, "half a file");
    // another model
    let second = tiny::load(&tiny::folder().join("arcee-s1-a-f16.gguf"));
    if let Ok(second) = second {
        let file = probe(&second.model, Position::Prompt, shape.n_embd, 1, "");
        assert_eq!(kind(Some(&good), &file), ErrorKind::ProbeMismatch, "another model");
    }
}

#[test]
fn contradictions_are_named() {
    let model = model();
    let good = template(TEMPLATE);
    let file = probe(&model, Position::Prompt, model.shape().n_embd, 1, "");
    let phrases = "[[guard]]\nkind = \"phrases\"\nphrases = [\"abc\"]\n";
    let cases = [
        (format!("{PROBE}action = \"mask\"\n"), "mask"),
        (format!("{PROBE}action = \"backtrack\"\n"), "prompt probe"),
        (format!("{PROBE}phrases = [\"a\"]\n"), "no phrases"),
        (format!("{PROBE}threshold = nan\n"), "threshold"),
        ("[[guard]]\nkind = \"probe\"\n".to_owned(), "path"),
        ("[[guard]]\nkind = \"phrases\"\n".to_owned(), "phrases"),
        (format!("{phrases}path = \"p.gguf\"\n"), "path"),
        (format!("{PROBE}recovery = \"stop\"\n{phrases}recovery = \"header\"\n"), "recovery"),
        (format!("{PROBE}hold_tokens = 3\n{phrases}hold_tokens = 4\n"), "hold_tokens"),
        ("[[guard]]\nkind = \"smell\"\n".to_owned(), "smell"),
        (format!("{PROBE}treshold = 1\n"), "treshold"),
    ];
    for (source, word) in cases {
        let error = plan(&model, &source, Some(&good), &file).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadProfile, "{source}");
        assert!(error.to_string().contains(word), "{source}: {error}");
    }
    let missing = PROBE.replace("p.gguf", "q.gguf");
    assert_eq!(plan(&model, &missing, Some(&good), &file).unwrap_err().kind(), ErrorKind::Io);
    let agreed = format!("{PROBE}recovery = \"stop\"\n{phrases}recovery = \"stop\"\naction = \"refuse\"\n");
    assert!(plan(&model, &agreed, Some(&good), &file).unwrap().is_some());
}

#[test]
fn settings_that_break_what_a_model_was_taught_are_refused() {
    let model = model();
    let good = template(TEMPLATE);
    let source = "[[guard]]\nkind = \"phrases\"\nphrases = [\"abc\"]\naction = \"stop\"\n";
    let plan = plan(&model, source, Some(&good), &[]).unwrap().unwrap();
    let start = plan.policy().starts[0];
    let check = |sampling: SamplingParams, ignore_eos| plan.check_sampling(&sampling, ignore_eos);
    let plain = SamplingParams::plain(1);
    check(SamplingParams { temperature: 1.0, top_p: 0.5, ..plain.clone() }, false).unwrap();
    let bad = [
        (SamplingParams { temperature: 1.01, ..plain.clone() }, false, "temperature"),
        (SamplingParams { top_p: 0.49, ..plain.clone() }, false, "top_p"),
        (plain.clone(), true, "ignore_eos"),
        (SamplingParams { logit_bias: vec![(start, -1.0)], ..plain.clone() }, false, "logit_bias"),
    ];
    for (sampling, ignore_eos, word) in bad {
        let error = check(sampling, ignore_eos).unwrap_err();
        assert!(error.kind() == ErrorKind::InvalidArgument && error.to_string().contains(word), "{error}");
    }
}

#[test]
fn a_given_beginning_goes_where_the_policy_says() {
    let (prompt, prefix) = (vec![1, 2, 3], vec![4, 5]);
    let fed = |policy| prefill(policy, prompt.clone(), prefix.clone());
    assert_eq!(fed(PrefillPolicy::Trust).unwrap().prompt, [1, 2, 3, 4, 5]);
    let inspected = fed(PrefillPolicy::Inspect).unwrap();
    assert_eq!((inspected.prompt, inspected.inspected), (prompt.clone(), prefix.clone()));
    assert_eq!(fed(PrefillPolicy::Reject).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert!(prefill(PrefillPolicy::Reject, prompt, Vec::new()).is_ok());
}

#[test]
fn the_header_is_what_the_template_puts_between_two_answers() {
    let model = model();
    let ids = header_tokens(&model, &template(TEMPLATE)).unwrap();
    let text = model.vocab().detokenize(&ids, true).unwrap();
    assert!(String::from_utf8_lossy(&text).trim_start().ends_with("[end][assistant]"), "{text:?}");
}
