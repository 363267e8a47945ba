//! The decode loop on a tiny model: pages come back, answers do not depend on company, stopping stops.

#![allow(clippy::panic, reason = "a failed test")]

mod support;

use support::reference::Reference;
use support::tiny;
use truing::model::{Branch, Context, Model};
use truing::sampling::{BatchItem, Chain, NextLogits, SamplingParams, Want};
use truing::session::{self, Aligned, Event, Finish, Limits, Outcome, Request, Setting};
use truing::{ErrorKind, TokenSet};

const N_CTX: usize = 64;
/// Two pages a request of up to 64 tokens, two requests at a time.
const N_PAGES: usize = 4;

struct Rig {
    model: std::sync::Arc<Model>,
    context: Context,
}

impl Rig {
    fn new() -> Self {
        let tiny = tiny::load(&tiny::folder().join("llama-s1-a-f32.gguf")).expect("model");
        let executor = Reference::new(tiny.model.spec_for(N_CTX), N_PAGES, N_CTX).expect("f32");
        let context = Context::with_executor(Box::new(executor), tiny.model.shape(), N_CTX).expect("context");
        Self { model: tiny.model, context }
    }

    fn request(&mut self, seed: u64, n_prompt: u32) -> Request<Branch> {
        Request {
            branch: self.context.root().expect("branch"),
            tokens: (0..n_prompt).map(|i| 5 + (i * 7 + seed as u32) % 200).collect(),
            sampling: SamplingParams::plain(seed),
            limits: Limits { max_tokens: Some(12), ignore_eos: true, ..Limits::default() },
            keep_branch: false,
            aligned: Aligned::default(),
        }
    }

    fn run(
        &mut self,
        requests: Vec<Request<Branch>>,
        n_parallel: usize,
        sink: &mut dyn FnMut(usize, Event<'_>),
    ) -> truing::Result<Vec<(Option<Branch>, Outcome)>> {
        let setting = Setting {
            vocab: self.model.vocab(),
            n_ctx: N_CTX,
            n_parallel,
            cancel: self.context.cancel_flag(),
            model_id: String::new(),
        };
        session::run(&mut self.context, &setting, requests, sink)
    }
}

#[test]
fn many_requests_need_pages_for_those_that_run_together_only() {
    let mut rig = Rig::new();
    let requests: Vec<_> = (0..20).map(|seed| rig.request(seed, 40)).collect();
    let done = rig.run(requests, 2, &mut |_, _| ()).expect("answers");
    assert_eq!(done.len(), 20);
    assert!(done.iter().all(|(branch, o)| branch.is_none() && o.report.finish == Finish::Length));
    assert_eq!(rig.context.pages(), (N_PAGES, N_PAGES), "all pages are free again");
}

#[test]
fn a_kept_branch_holds_prompt_and_answer() {
    let mut rig = Rig::new();
    let request = Request { keep_branch: true, ..rig.request(1, 10) };
    let done = rig.run(vec![request], 1, &mut |_, _| ()).expect("answer");
    let (Some(branch), outcome) = &done[0] else { panic!("the branch was to be kept") };
    assert_eq!(rig.context.len(branch), 10 + outcome.ids.len() - 1);
}

#[test]
fn company_does_not_change_an_answer() {
    let alone: Vec<Outcome> = (0..6)
        .map(|seed| {
            let mut rig = Rig::new();
            let request = rig.request(seed, 3 + seed as u32 * 5);
            rig.run(vec![request], 1, &mut |_, _| ()).expect("answer").remove(0).1
        })
        .collect();
    let mut rig = Rig::new();
    let requests: Vec<_> = (0..6).map(|seed| rig.request(seed, 3 + seed as u32 * 5)).collect();
    let together = rig.run(requests, 2, &mut |_, _| ()).expect("answers");
    for (alone, (_, together)) in alone.iter().zip(&together) {
        assert_eq!((&alone.ids, &alone.text), (&together.ids, &together.text));
        assert_eq!(alone.report.logprob, together.report.logprob);
    }
    assert!(alone.windows(2).any(|w| w[0].ids != w[1].ids), "seeds and prompts matter");
}

#[test]
fn cancelling_from_the_sink_ends_before_the_next_token() {
    let mut rig = Rig::new();
    let cancel = rig.context.cancel_flag();
    let request = rig.request(3, 10);
    let mut streamed = String::new();
    let mut sink = |_: usize, event: Event<'_>| {
        if let Event::Text(text) = event {
            streamed.push_str(text);
            cancel.cancel();
        }
    };
    let outcome = rig.run(vec![request], 1, &mut sink).expect("no error").remove(0).1;
    assert_eq!(outcome.report.finish, Finish::Cancelled);
    assert!(outcome.ids.len() < 12, "{:?}", outcome.ids);
    assert_eq!(outcome.text, streamed);
}

#[test]
fn a_prompt_that_does_not_fit_is_named_before_anything_is_evaluated() {
    let mut rig = Rig::new();
    let requests = vec![rig.request(1, 8), rig.request(2, N_CTX as u32)];
    let error = rig.run(requests, 2, &mut |_, _| panic!("nothing may be released")).expect_err("too long");
    assert_eq!((error.kind(), rig.context.n_evals()), (ErrorKind::ContextFull, 0));
    assert!(error.to_string().contains("prompt 2") && error.to_string().contains("64"), "{error}");
}

/// The loop against its definition: token `i` of an answer is drawn at position `i`, after all before it.
#[test]
fn each_token_is_drawn_at_its_own_position() {
    let mut rig = Rig::new();
    let request = rig.request(11, 9);
    let (prompt, params) = (request.tokens.clone(), request.sampling.clone());
    let answer = rig.run(vec![request], 1, &mut |_, _| ()).expect("answer").remove(0).1;

    let mut rig = Rig::new();
    let vocab = rig.model.vocab();
    let mut allowed = TokenSet::all(rig.context.n_vocab());
    vocab.eog_ids().iter().for_each(|&id| allowed.remove(id));
    let mut chain = Chain::new(&params, rig.context.n_vocab()).expect("chain");
    let branch = rig.context.root().expect("branch");
    let (mut feed, mut ids) = (prompt, Vec::new());
    for position in 0..12 {
        rig.context.eval(&[BatchItem { branch: &branch, tokens: &feed, want: Want::Last }]).expect("row");
        let token = chain.sample(rig.context.row(0), Some(&allowed), position).expect("token").token;
        chain.accept(token).expect("accepted");
        ids.push(token);
        feed = vec![token];
    }
    assert_eq!(answer.ids, ids);
}

/// Exemplars are the same in every prompt: penalties see the answer alone where it stands in a fence, else the prompt.
#[test]
fn penalties_of_a_fenced_answer_do_not_see_its_prompt() {
    let mut answers = Vec::new();
    for fenced in [true, false] {
        let mut rig = Rig::new();
        let mut request = rig.request(3, 30);
        request.limits.fenced = fenced;
        request.sampling.penalties.last_n = -1;
        request.sampling.penalties.presence = 3.0;
        let (prompt, params) = (request.tokens.clone(), request.sampling.clone());
        let answer = rig.run(vec![request], 1, &mut |_, _| ()).expect("answer").remove(0).1;

        let mut rig = Rig::new();
        let mut allowed = TokenSet::all(rig.context.n_vocab());
        rig.model.vocab().eog_ids().iter().for_each(|&id| allowed.remove(id));
        let mut chain = Chain::new(&params, rig.context.n_vocab()).expect("chain");
        if !fenced {
            prompt.iter().for_each(|&t| chain.accept(t).expect("accepted"));
        }
        let branch = rig.context.root().expect("branch");
        let (mut feed, mut ids) = (prompt, Vec::new());
        for position in 0..12 {
            rig.context.eval(&[BatchItem { branch: &branch, tokens: &feed, want: Want::Last }]).expect("row");
            let token = chain.sample(rig.context.row(0), Some(&allowed), position).expect("token").token;
            chain.accept(token).expect("accepted");
            ids.push(token);
            feed = vec![token];
        }
        assert_eq!(answer.ids, ids, "fenced {fenced}");
        answers.push(ids);
    }
    assert_ne!(answers[0], answers[1], "the prompt makes a difference");
}
