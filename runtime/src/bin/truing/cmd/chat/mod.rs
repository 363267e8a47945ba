//! `truing chat`: a conversation in the terminal.

mod conversation;
mod input;
mod slash;

use crate::args::{ConstraintArgs, LimitArgs, ModelArgs, PromptArgs, SamplingArgs};
use crate::exit::Interrupted;
use crate::{interrupt, output, progress};
use anyhow::Result;
use clap::Args;
use conversation::Conversation;
use input::{Input, Line};
use slash::{After, Slash};
use truing::session::{Finish, Outcome};

/// Talk to a model.
#[derive(Debug, Args)]
#[command(after_help = "\
In the conversation: /help lists the commands; end a line with \\ or put \"\"\" around several to send them
together; Ctrl-C stops an answer, Ctrl-D leaves. With -p, -f or a pipe it answers once and exits; a pipe whose
lines include a /command is taken line by line.")]
pub struct Chat {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    constraints: ConstraintArgs,
    /// Show tokens per second after each answer
    #[arg(long)]
    stats: bool,
}

impl Chat {
    pub fn run(mut self) -> Result<()> {
        self.constraints.add_adapters(&mut self.model.run)?;
        let mut input = Input::choose(self.prompt.text_if_any()?)?;
        let spinner = progress::spinner("loading");
        let model = self.model.open()?;
        let context = self.model.run.context(&model, 2)?;
        let (profile, asked) = self.constraints.resolve()?;
        let mut talk = Conversation::new(
            (model, self.model.run.clone()),
            context,
            &self.prompt,
            &self.sampling,
            self.limits.limits(&profile),
        )?;
        talk.apply(&self.constraints, &profile, asked, &self.sampling)?;
        spinner.finish_and_clear();
        talk.stats = self.stats;
        interrupt::on_ctrl_c(talk.cancel_flag())?;
        if input.is_terminal() {
            output::line(&format!("{}. /help for commands, Ctrl-D to leave.", talk.model_name()))?;
        }
        run(&mut talk, &mut input)
    }
}

fn run(talk: &mut Conversation, input: &mut Input) -> Result<()> {
    loop {
        let text = match input.next()? {
            Line::Text(text) if text.trim().is_empty() => continue,
            Line::Text(text) => text,
            Line::Interrupted => {
                eprintln!("(Ctrl-D or /quit leaves)");
                continue;
            }
            Line::End => return Ok(()),
        };
        match Slash::parse(&text) {
            None => answer(talk, input, |talk| talk.say(&text))?,
            Some(Ok(command)) => match command.run(talk) {
                Ok(After::Continue) => {}
                Ok(After::Regenerate) => answer(talk, input, Conversation::regenerate)?,
                Ok(After::Quit) => return Ok(()),
                Err(error) => complain(input, error)?,
            },
            Some(Err(message)) => complain(input, anyhow::anyhow!(message))?,
        }
    }
}

/// One answer. In a terminal a failed answer is told and the conversation goes on; on a pipe it ends the run.
fn answer(
    talk: &mut Conversation,
    input: &Input,
    ask: impl FnOnce(&mut Conversation) -> Result<Outcome>,
) -> Result<()> {
    match ask(talk) {
        Ok(outcome) => {
            output::line("")?;
            if talk.stats {
                eprintln!("{}", output::dim(&stats(&outcome)));
            }
            match outcome.report.finish {
                Finish::Cancelled if !input.is_terminal() => Err(Interrupted.into()),
                Finish::ContextFull => {
                    eprintln!("(the context is full; /reset starts over, --ctx-size makes room)");
                    Ok(())
                }
                _ => Ok(()),
            }
        }
        Err(error) => complain(input, error),
    }
}

fn complain(input: &Input, error: anyhow::Error) -> Result<()> {
    if !input.is_terminal() {
        return Err(error);
    }
    eprintln!("truing: {error:#}");
    Ok(())
}

fn stats(outcome: &Outcome) -> String {
    let (r, t) = (&outcome.report, &outcome.report.timings);
    let rate = |n: usize, s: f64| if s > 0.0 { n as f64 / s } else { 0.0 };
    format!(
        "prompt {} tokens ({} reused), {:.0} tok/s; answer {} tokens, {:.1} tok/s",
        r.n_prompt,
        r.n_cached,
        rate(r.n_prompt - r.n_cached, t.prefill_s),
        r.n_generated,
        rate(r.n_generated, t.decode_s),
    )
}
