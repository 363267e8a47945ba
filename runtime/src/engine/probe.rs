//! What a probe reads in a text: the scores, for whoever decides.
//!
//! Cost: a forward pass over the text; for a response probe also a row of logits for every token of the answer,
//! because hidden states come with rows, so a chunk at a time.

use crate::error::{Error, ErrorKind, Result};
use crate::guard::{Position, Probe, Setup, header_tokens};
use crate::model::{Branch, Context};
use crate::sampling::{BatchItem, NextLogits, Want};
use crate::token::TokenId;

/// Tokens evaluated together when every row is wanted: keeps the rows of logits small.
const CHUNK: usize = 32;

/// Runs `f` with the hidden states after `layers` at hand; afterwards the taps are as before.
/// # Errors  Those of `f` and of the executor.
pub fn with_taps<T>(
    context: &mut Context,
    layers: &[u32],
    f: impl FnOnce(&mut Context) -> Result<T>,
) -> Result<T> {
    let before = context.taps().to_vec();
    context.set_taps(layers)?;
    let done = f(context);
    context.set_taps(&before)?;
    done
}

/// The score of row `row` of the last pass, whose taps are those of `probe`.
/// # Errors  `Internal` if the states are not there.
pub fn score_row(context: &Context, probe: &Probe, row: usize) -> Result<f32> {
    probe.score(|tap| context.hidden(tap, row))
}

/// The tokens that go behind a text before `probe` reads it: an assistant's header for a header probe.
/// # Errors  `ProbeMismatch` for a header probe without a template that opens an assistant's turn.
pub fn probe_header(probe: &Probe, setup: Setup<'_>) -> Result<Vec<TokenId>> {
    if probe.position() != Position::Header {
        return Ok(Vec::new());
    }
    let header = setup.template.map_or(Ok(Vec::new()), |template| header_tokens(setup.model, template))?;
    match header.is_empty() {
        false => Ok(header),
        true => Err(Error::new(
            ErrorKind::ProbeMismatch,
            "a header probe needs a chat template that opens an assistant's turn",
        )),
    }
}

/// Scores of a prompt and its answer: a prompt probe's one score, of the prompt's last token; a response probe's
/// score of every token of the answer; a header probe's one score, behind `header` after all of it.
/// # Errors  `InvalidArgument` without a prompt; `ContextFull`; the executor's.
pub fn probe_scores(
    context: &mut Context,
    (probe, header): (&Probe, &[TokenId]),
    prompt: &[TokenId],
    response: &[TokenId],
) -> Result<Vec<f32>> {
    if prompt.is_empty() {
        return Err(Error::new(ErrorKind::InvalidArgument, "expected a prompt of at least one token"));
    }
    let last = |context: &mut Context, branch: &Branch, tokens: &[TokenId]| {
        context.eval(&[BatchItem { branch, tokens, want: Want::Last }])?;
        Ok(vec![score_row(context, probe, 0)?])
    };
    with_taps(context, probe.layers(), |context| {
        let branch = context.root()?;
        match probe.position() {
            Position::Prompt => last(context, &branch, prompt),
            Position::Header => last(context, &branch, &[prompt, response, header].concat()),
            Position::Response => {
                context.eval(&[BatchItem { branch: &branch, tokens: prompt, want: Want::Nothing }])?;
                let mut scores = Vec::with_capacity(response.len());
                for tokens in response.chunks(CHUNK) {
                    context.eval(&[BatchItem { branch: &branch, tokens, want: Want::All }])?;
                    for row in 0..tokens.len() {
                        scores.push(score_row(context, probe, row)?);
                    }
                }
                Ok(scores)
            }
        }
    })
}
