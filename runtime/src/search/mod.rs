//! Search: texts that a caller's reward likes, from a model that is left as it is.
//!
//! Why: a model's likeliest text is not the one that says what it should. Here several continuations are tried on
//! forked branches, their texts scored by a [`Reward`], and the best kept: token by token with a look ahead (DeAL),
//! by whole texts (best of N, rejection), by blocks, or weighed by the value of what follows (Controlled Decoding,
//! Transfer Q*). One engine: paths that share their past grow together, one forward pass a token for all; the
//! methods differ in how paths are proposed and what is kept.
//!
//! Cost in rows a token: look-ahead `k·l`, reduced to `(k-1)·l + 1` by keeping the winner's outlook, and to about 1
//! where bounds prove that no candidate can win; best-of-N `N`; blocks `K`; values `k·R·l`. It loses where a hard
//! constraint can say what is wanted: that costs no rows and is a guarantee, which search is not.
//! Source: Huang et al., DeAL, arXiv 2402.06147; Khanov et al., ARGS; Mudgal et al., arXiv 2310.17022; Chakraborty
//! et al., arXiv 2405.20495; Balashankar et al. 2025 (InfAlign); Beirami et al. 2024 (best-of-N).

mod draws;
mod guide;
mod lookahead;
mod params;
mod path;
#[cfg(test)]
mod tests;
mod value;

pub use guide::{Guide, GuideModel, RollPlan, Rolled};
pub use params::{Choose, MAX_SAMPLES, SearchMethod, SearchParams, plain_sampling};
pub use path::End;
pub use value::{Estimate, Rollout, best, law, pick};

use crate::align::{Constraint, TokenBytes};
use crate::error::Result;
use crate::reward::agreement;
use crate::reward::{Candidate, Reward, Score, Status};
use crate::sampling::NextLogits;
use crate::token::TokenId;
use path::{Grower, Path};
use serde::Serialize;

/// What to search behind.
pub struct SearchJob<'a, B> {
    /// A branch whose past is the start of the prompt (possibly empty).
    pub branch: B,
    /// The rest of the prompt, at least one token.
    pub tokens: &'a [TokenId],
    /// The prompt as rewards see it.
    pub prompt: &'a str,
    /// What every text must keep to.
    pub constraint: Option<Box<dyn Constraint>>,
}

/// What helps a search beside its model.
#[derive(Default)]
pub struct Help<'a> {
    /// Says what follows a token in the model's stead.
    pub guide: Option<&'a mut dyn Guide>,
    /// The reward that the guide was aligned for.
    pub baseline: Option<&'a mut dyn Reward>,
    /// Is shown every step.
    pub observe: Option<&'a mut dyn FnMut(&Step)>,
}

/// A step of a look-ahead search.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Tokens that were tried.
    pub n_tried: usize,
    /// Of these, dropped unseen or half seen.
    pub n_pruned: usize,
    /// Log-probability of the text with the token that was kept.
    pub logprob: f64,
    /// Reward of the outlook behind it, if it was scored.
    pub reward: Option<f64>,
    /// What it was chosen by.
    pub score: Option<f64>,
}

/// How a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SearchStatus {
    /// A text was found that does what the rewards ask.
    Done,
    /// A text was found that does not.
    Unsatisfied,
    /// The budget ended first, and the text was finished without search.
    Budget,
}

/// A reward of the text found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RewardScore {
    /// The reward.
    pub name: String,
    /// Its value, before transform and weight.
    pub value: f64,
    /// Whether the text does what it asks.
    pub status: Status,
}

/// A text that a search has drawn or tried whole.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Draft {
    /// The text.
    pub text: String,
    /// Its log-probability under the model.
    pub logprob: f64,
    /// Its reward.
    pub reward: f64,
}

/// What a search did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SearchReport {
    /// How texts were looked for.
    pub method: SearchMethod,
    /// How it ended.
    pub status: SearchStatus,
    /// Nats that a reward of 1 was worth, where nats are compared with rewards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lambda: Option<f64>,
    /// Reward of the text.
    pub reward: f64,
    /// The rewards one by one.
    pub rewards: Vec<RewardScore>,
    /// Rows the model evaluated; those of a guide counted.
    pub n_evals: u64,
    /// Texts that were scored.
    pub n_scored: u64,
    /// Texts drawn, for methods that draw whole ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_draws: Option<usize>,
    /// Candidates that were dropped because they could not win.
    pub n_pruned: u64,
    /// How far the rewards that ask models rank the texts alike, the two that do so least: 1 alike, 0 the other way
    /// round. For methods that draw whole texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
    /// Least effective number of weighted continuations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ess: Option<f64>,
    /// What deserves attention.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<&'static str>,
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The tokens, without an ending one.
    pub ids: Vec<TokenId>,
    /// The text.
    pub text: String,
    /// Why it is over.
    pub end: End,
    /// Log-probability of the text, its end counted, under the model's own law.
    pub logprob: f64,
    /// Log-probability that masks have removed, negated.
    pub removed_nats: f64,
    /// All whole texts that were scored, for methods that draw them.
    pub drafts: Vec<Draft>,
    /// What the search did.
    pub report: SearchReport,
}

/// Asks a reward, and counts.
struct Judge<'a> {
    reward: &'a mut dyn Reward,
    prompt: &'a str,
    n_scored: u64,
}

impl Judge<'_> {
    fn score(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<Score>> {
        self.n_scored += candidates.len() as u64;
        let scores = self.reward.score_all(self.prompt, candidates)?;
        let name = self.reward.name();
        let checked = scores.into_iter().zip(candidates);
        checked.map(|(s, c)| crate::reward::check_finite(name, s, c.text)).collect()
    }

    fn score_paths<B>(&mut self, paths: &[&Path<B>]) -> Result<Vec<Score>> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        path::with_candidates(paths, |all| self.score(all))
    }
}

/// What an engine hands back.
struct Ended<B> {
    path: Path<B>,
    status: Option<SearchStatus>,
    lambda: Option<f64>,
    n_draws: Option<usize>,
    n_pruned: u64,
    ess: Option<f64>,
    drafts: Vec<Draft>,
    warnings: Vec<&'static str>,
}

impl<B> Ended<B> {
    fn new(path: Path<B>) -> Self {
        Self {
            path,
            status: None,
            lambda: None,
            n_draws: None,
            n_pruned: 0,
            ess: None,
            drafts: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// Searches for a text behind `job`.
/// # Errors `InvalidArgument` naming a parameter; `Unsatisfiable` if no token may come next; `Reward` for scores that
/// are no numbers or leave their bounds; those of the model, the constraint and the reward.
pub fn search<L: NextLogits>(
    lm: &mut L,
    vocab: &dyn TokenBytes,
    job: SearchJob<'_, L::Branch>,
    reward: &mut dyn Reward,
    params: &SearchParams,
    mut help: Help<'_>,
) -> Result<Found> {
    params.validate(lm.n_vocab())?;
    let before = lm.n_evals();
    let guided_before = help.guide.as_ref().map_or(0, |g| g.n_evals());
    let mut judge = Judge { reward, prompt: job.prompt, n_scored: 0 };
    let mut grower = Grower::new(lm, vocab, &params.stop, (params.max_tokens, params.candidates));
    let start = grower.start(job.branch, job.tokens, job.constraint)?;
    let ended = match params.method.draws_texts() {
        true => draws::run(&mut grower, start, job.tokens, &mut judge, params)?,
        false => lookahead::run(&mut grower, start, &mut judge, params, &mut help)?,
    };
    let n_evals = grower.lm.n_evals() - before + help.guide.map_or(0, |g| g.n_evals()) - guided_before;
    finish(ended, &mut judge, params.method, n_evals)
}

/// Rewards that are opinions of models: worth comparing with each other.
const INTERNAL: [&str; 4] = ["judge", "implicit", "model", "relevance"];
/// Below this, opinions contradict each other more often than not.
const LOW_AGREEMENT: f64 = 0.5;

/// The least agreement of two opinions on the drafts; `None` if there are no two.
fn opinions(judge: &mut Judge<'_>, drafts: &[Draft]) -> Result<Option<f64>> {
    let names = judge.reward.part_names();
    let internal: Vec<usize> =
        (0..names.len()).filter(|&i| INTERNAL.contains(&names[i].0.as_str())).collect();
    if internal.len() < 2 || drafts.len() < 2 {
        return Ok(None);
    }
    let mut lists: Vec<Vec<f64>> = vec![Vec::with_capacity(drafts.len()); internal.len()];
    for draft in drafts {
        let candidate = Candidate { text: &draft.text, is_closed: true };
        let parts = judge.reward.parts(judge.prompt, candidate)?;
        lists
            .iter_mut()
            .zip(&internal)
            .for_each(|(list, &i)| list.push(parts.get(i).map_or(f64::NAN, |s| s.value)));
    }
    let pairs = (0..lists.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
    Ok(pairs.filter_map(|(i, j)| agreement(&lists[i], &lists[j])).reduce(f64::min))
}

fn finish<B>(
    mut ended: Ended<B>,
    judge: &mut Judge<'_>,
    method: SearchMethod,
    n_evals: u64,
) -> Result<Found> {
    let agreement = opinions(judge, &ended.drafts)?;
    if agreement.is_some_and(|a| a < LOW_AGREEMENT) {
        ended.warnings.push("low_agreement");
    }
    let path = ended.path;
    let text = path.text().into_owned();
    let candidate = Candidate { text: &text, is_closed: true };
    let score = judge.score(&[candidate])?.first().copied().unwrap_or(Score::fixed(0.0, true));
    let names = judge.reward.part_names();
    let parts = judge.reward.parts(judge.prompt, candidate)?;
    let rewards = names
        .into_iter()
        .zip(parts)
        .map(|((name, _), s)| RewardScore { name, value: s.value, status: s.status })
        .collect();
    let found = if score.status == Status::Violated { SearchStatus::Unsatisfied } else { SearchStatus::Done };
    let report = SearchReport {
        method,
        status: ended.status.unwrap_or(found),
        lambda: ended.lambda,
        reward: score.value,
        rewards,
        n_evals,
        n_scored: judge.n_scored,
        n_draws: ended.n_draws,
        n_pruned: ended.n_pruned,
        agreement,
        ess: ended.ess,
        warnings: ended.warnings,
    };
    Ok(Found {
        end: path.end.unwrap_or(End::Length),
        logprob: path.raw_logprob(),
        removed_nats: path.removed_nats(),
        ids: path.ids,
        text,
        drafts: ended.drafts,
        report,
    })
}
