//! The smallest useful embedding: open a model, answer one question, stream the text.
//!
//! `cargo run --release --example complete -- MODEL.gguf "What is the capital of France?"`

use std::io::Write;
use truing::model::{Context, ContextOptions, Model, ModelOptions};
use truing::sampling::{NextLogits, SamplingParams};
use truing::session::{self, Aligned, Event, Limits, Request, Setting};
use truing::vocab::Specials;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(path), Some(prompt)) = (args.next(), args.next()) else {
        return Err("expected: complete MODEL.gguf PROMPT".into());
    };
    let model = Model::open(&path, &ModelOptions::default())?;
    let mut context = Context::new(&model, &ContextOptions { n_ctx: 512, ..ContextOptions::default() })?;

    let request = Request {
        branch: context.root()?,
        tokens: model.vocab().tokenize(&prompt, Specials { add_bos_eos: true, parse_special: false })?.ids,
        sampling: SamplingParams::greedy(),
        limits: Limits { max_tokens: Some(32), ..Limits::default() },
        keep_branch: false,
        aligned: Aligned::default(),
    };
    let setting = Setting {
        vocab: model.vocab(),
        n_ctx: context.n_ctx(),
        n_parallel: 1,
        cancel: context.cancel_flag(),
        model_id: model.id().to_owned(),
    };
    let mut print = |_: usize, event: Event<'_>| {
        if let Event::Text(text) = event {
            print!("{text}");
            let _ = std::io::stdout().flush(); // a reader that left is no failure of the example
        }
    };
    let answers = session::run(&mut context, &setting, vec![request], &mut print)?;
    for (_, answer) in answers {
        println!("\n[{:?}, {} tokens]", answer.report.finish, answer.report.n_generated);
    }
    Ok(())
}
