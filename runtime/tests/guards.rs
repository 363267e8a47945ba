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

mod early {
    use super::*;
    use truing::model::{Context, ContextOptions, ExecutorKind};
    use truing::sampling::{BatchItem, NextLogits, Want};
    use truing::session::{self, Aligned, Finish, Limits, Request, Setting};

    const IDS: [u32; 9] = [1, 7, 3, 9, 12, 5, 30, 2, 8];

    fn context(model: &Arc<Model>) -> Context {
        let options = ContextOptions {
            n_threads: 1,
            n_kv_tokens: 1024,
            executor: ExecutorKind::Native,
            ..Default::default()
        };
        Context::new(model, &options).unwrap()
    }

    #[test]
    fn an_evaluation_that_stops_leaves_its_branch_and_has_the_states_of_a_whole_one() {
        let model = model();
        let mut whole = context(&model);
        whole.set_taps(&[0, 1]).unwrap();
        let branch = whole.root().unwrap();
        let item = |branch| [BatchItem { branch, tokens: &IDS, want: Want::Last }];
        whole.eval(&item(&branch)).unwrap();
        let mut ctx = context(&model);
        ctx.set_taps(&[0, 1]).unwrap();
        let branch = ctx.root().unwrap();
        let seen = std::cell::RefCell::new(Vec::new());
        let mut look = |go_on: bool| {
            let mut look = |peek: &truing::sampling::Peek<'_>| {
                assert!(peek(1, 0).is_none(), "a layer above");
                seen.borrow_mut().push(peek(0, 0).unwrap().to_vec());
                go_on
            };
            ctx.eval_until(&item(&branch), 0, &mut look).unwrap()
        };
        assert!(!look(false));
        assert!(look(true));
        assert_eq!(ctx.len(&branch), IDS.len());
        assert_eq!(ctx.row(0), whole.row(0));
        for found in seen.borrow().iter() {
            assert_eq!(found, whole.hidden(0, 0).unwrap());
        }
        let (all, _) = ctx.pages();
        drop(branch);
        assert_eq!(ctx.pages(), (all, all), "what was begun gave its pages back");
    }

    #[test]
    fn a_prompt_is_refused_before_the_upper_layers_and_as_it_would_be_after_them() {
        let model = model();
        let good = template(TEMPLATE);
        let file = probe(&model, Position::Prompt, model.shape().n_embd, 0, "");
        let plan = |threshold: f32| {
            plan(&model, &format!("{PROBE}threshold = {threshold:.3}\n"), Some(&good), &file)
                .unwrap()
                .unwrap()
        };
        let run = |n: usize, threshold: f32| {
            let mut ctx = context(&model);
            let setting = Setting {
                vocab: model.vocab(),
                n_ctx: 64,
                n_parallel: n,
                cancel: ctx.cancel_flag(),
                model_id: String::new(),
            };
            let requests = (0..n).map(|_| Request {
                branch: ctx.root().unwrap(),
                tokens: IDS.to_vec(),
                sampling: SamplingParams { temperature: 0.0, ..SamplingParams::plain(1) },
                limits: Limits { max_tokens: Some(4), ignore_eos: true, ..Limits::default() },
                keep_branch: false,
                aligned: Aligned { watch: Some(plan(threshold).watch()), ..Aligned::default() },
            });
            let requests = requests.collect();
            session::run(&mut ctx, &setting, requests, &mut |_, _| {}).unwrap().remove(0).1
        };
        let (alone, together) = (run(1, -1e6), run(2, -1e6));
        for (outcome, left) in [(&alone, Some(0)), (&together, None)] {
            let guard = outcome.report.guard.as_ref().unwrap();
            assert_eq!(guard.left_after_layer, left);
            assert_eq!(outcome.report.finish, Finish::Refused);
            assert_eq!(guard.events.len(), 1);
            assert_eq!((guard.events[0].at, guard.events[0].action), ("prompt", "refuse"));
        }
        assert_eq!(alone.text, together.text);
        let score = |o: &session::Outcome| o.report.guard.as_ref().unwrap().prompt_score;
        assert_eq!(score(&alone), score(&together));
        // below the threshold nothing is left out
        let (alone, together) = (run(1, 1e6), run(2, 1e6));
        assert_eq!(alone.report.guard.as_ref().unwrap().left_after_layer, None);
        assert_eq!((alone.ids.len(), alone.ids), (4, together.ids));
    }
}

/// What guards and an expert do not go with is refused when the request is made, before any token.
#[test]
fn ways_of_decoding_that_guards_cannot_watch_are_refused_by_name() {
    use truing::engine::{self, Settings};
    use truing::guard::ExpertRule;
    use truing::model::{Context, ContextOptions};
    use truing::session;
    let model = model();
    let words = "[constraints]\ngrammar = { regex = \"[a-c]{2,4}\" }\n";
    let exact = words.replace("]{2,4}\"", "]{2,4}\", mode = \"exact\"");
    let deal =
        "[search]\nmethod = \"deal\"\n[[reward]]\nkind = \"length\"\nunit = \"chars\"\nrange = \"2..4\"\n";
    let beams = format!("{words}[search]\nmethod = \"beam\"\nbeams = 2\n");
    let guard = "[[guard]]\nkind = \"phrases\"\nphrases = [\"bb\"]\naction = \"backtrack\"\n";
    let make = |source: &str, is_guarded: bool, heals: bool| {
        let source = if is_guarded { format!("{source}{guard}") } else { source.to_owned() };
        let profile = Profile::parse(&source).unwrap_or_else(|e| panic!("{source}: {e}"));
        let asked = profile.constraints.build(&mut |_| panic!("no file is named")).unwrap();
        let mut settings = Settings::new(&profile, asked, || session::lexicon(&model)).unwrap();
        let setup = Setup { model: &model, template: None, steering: "" };
        let plan = GuardPlan::new(&profile.guard, setup, &mut |_| panic!("no file is named")).unwrap();
        settings.set_guards(plan, Vec::new());
        if heals {
            settings.heal_prompts(&session::lexicon(&model));
        }
        settings
    };
    let ids = || vec![1, 7, 3, 9];
    for (source, heals) in [(&exact[..], false), (deal, false), (&beams[..], false), ("", true)] {
        let error = make(source, true, heals).job(ids(), 64).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadProfile, "{source}");
        assert!(error.to_string().contains("searched, drawn whole or healed"), "{source}: {error}");
        assert!(make(source, false, heals).job(ids(), 64).is_ok(), "{source}: without guards");
    }
    let options = ContextOptions { n_ctx: 64, n_kv_tokens: 512, n_threads: 1, ..Default::default() };
    for source in [&exact[..], deal, &beams[..]] {
        let mut settings = make(source, false, false);
        settings.expert = Some(ExpertRule::default());
        let mut context = Context::new(&model, &options).unwrap();
        let job = settings.job(ids(), 64).unwrap();
        let error = engine::run(&model, &mut context, &settings, vec![job], 1, &mut |_, _| {}).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadProfile, "{source}");
        assert!(error.to_string().contains("expert") && context.n_rows() == 0, "{source}: {error}");
    }
    // a constraint that is masked, guards and an expert go together: the text is of the language and no phrase
    let two = "[constraints]\ngrammar = { regex = \"[ab]{2}\" }\n";
    let limits = "[limits]\nmax_tokens = 8\n[sampling]\ntemperature = 1.0\n";
    let mut n_unguarded = 0;
    for (seed, is_guarded) in (0..8).flat_map(|seed| [(seed, true), (seed, false)]) {
        let mut settings = make(&format!("{two}{limits}seed = {seed}\n"), is_guarded, false);
        settings.expert = Some(ExpertRule::default());
        let mut context = Context::new(&model, &options).unwrap();
        let expert = engine::JobExpert { tokens: vec![1, 4, 4, 7], mix: None };
        let job = engine::Job { expert: Some(expert), ..settings.job(ids(), 64).unwrap() };
        let done = engine::run(&model, &mut context, &settings, vec![job], 1, &mut |_, _| {}).unwrap();
        let text = &done[0].text;
        assert!(text.chars().all(|c| "ab".contains(c)), "{text:?}");
        assert!(text != "bb" || !is_guarded, "seed {seed}");
        n_unguarded += usize::from(text == "bb");
    }
    assert!(n_unguarded > 0, "nothing was there to be guarded against");
}
