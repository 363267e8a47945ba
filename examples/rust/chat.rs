//! A conversation in a Rust program: a profile, messages, an answer, and a second turn that evaluates only what is new.
//!
//! `cargo run --release -p truing --example chat -- MODEL.gguf "What is the capital of Japan?" "And of France?"`

use std::io::Write;
use truing::config::Profile;
use truing::engine::{self, Sequence, Settings, prompt};
use truing::model::{Context, ContextOptions, Model, ModelOptions};
use truing::session::{self, Event};
use truing::template::{Message, RenderOptions};

const PROFILE: &str = "[sampling]\ntemperature = 0\n[limits]\nmax_tokens = 24\n";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let Some(path) = args.next() else { return Err("expected: chat MODEL.gguf TURN...".into()) };
    let model = Model::open(&path, &ModelOptions::default())?;
    let mut context = Context::new(&model, &ContextOptions::default())?;
    let n_ctx = context.n_ctx();

    let profile = Profile::parse(PROFILE)?;
    let constraints = profile.constraints.build(&mut |file| {
        Err(truing::Error::new(truing::ErrorKind::BadProfile, format!("names a file: {file}")))
    })?;
    let settings = Settings::new(&profile, constraints, || session::lexicon(&model))?;
    let template = prompt::template(&model, None)?;

    let mut sequence = Sequence::new(&mut context, n_ctx)?;
    let mut messages = Vec::new();
    for turn in args {
        messages.push(Message::new("user", &turn));
        let tokens = prompt::chat(&model, &template, &messages, &RenderOptions::default(), false)?.ids;
        sequence.set(&mut context, &tokens)?;
        let job = settings.job(tokens, n_ctx)?;
        let setting = engine::setting(&model, &context, 1);
        let answer = sequence.generate(&mut context, &setting, &settings, job, &mut |event| {
            if let Event::Text(text) = event {
                print!("{text}");
                let _ = std::io::stdout().flush(); // a reader that left is no failure of the example
            }
        })?;
        println!();
        eprintln!("[{} tokens, {} of the prompt kept]", answer.report.n_generated, answer.report.n_cached);
        messages.push(Message::new("assistant", &answer.text));
    }
    Ok(())
}
