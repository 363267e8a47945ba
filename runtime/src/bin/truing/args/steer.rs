//! Flags for searching and nudging: what `[search]`, `[[reward]]` and `[nudge]` of a profile can say.

use crate::exit::BadUsage;
use anyhow::Result;
use clap::Args;
use truing::config::{Method, Mode, NudgeSection, Profile, RewardSection};
use truing::reward::Combine;
use truing::search::SearchMethod;
use truing::session::{BeamParams, MAX_BEAMS};

/// How texts are steered. Flags stand over the profile.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Steering")]
pub struct SteerArgs {
    /// Search for a text that the rewards like: deal, deal_block, args, best_of, block, rejection, rejection_exact, controlled, transfer_q
    #[arg(long, value_name = "METHOD", value_parser = method)]
    pub search: Option<SearchMethod>,
    /// Search with N texts side by side instead of drawing one: fluent texts that say what they must; see --lookahead
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_BEAMS as i64), conflicts_with = "search")]
    pub beams: Option<u16>,
    /// What to reward: keyword:dog|dogs,cat; length:words=..20; regex:PATTERN; schema:FILE; repetition:3; a weight goes before: '2*regex:…'; repeatable
    #[arg(long, value_name = "KIND[:WHAT]", value_parser = RewardSection::parse)]
    pub reward: Vec<RewardSection>,
    /// How several rewards become one: sum, and, min, gate
    #[arg(long, value_name = "HOW", value_parser = combine)]
    pub combine: Option<Combine>,
    /// Tokens tried at a place
    #[arg(long, value_name = "K")]
    pub candidates: Option<usize>,
    /// Tokens looked ahead; for --beams 0 to 64, 0 ranks texts as they are [default: 5]
    #[arg(long, value_name = "L")]
    pub lookahead: Option<usize>,
    /// Tokens kept of the best outlook
    #[arg(long, value_name = "M")]
    pub commit: Option<usize>,
    /// Nats a reward of 1 is worth [default: one step of the reward is worth a probability ratio of 50]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub lambda: Option<f64>,
    /// Reward units of a nat, for rejection_exact and controlled
    #[arg(long, value_name = "X", conflicts_with = "lambda", allow_negative_numbers = true)]
    pub alpha: Option<f64>,
    /// Texts or blocks drawn at once, for best_of and block
    #[arg(long, value_name = "N")]
    pub draws: Option<usize>,
    /// Tokens of a block
    #[arg(long, value_name = "N")]
    pub block: Option<usize>,
    /// Texts drawn behind a token, for controlled
    #[arg(long, value_name = "N")]
    pub rollouts: Option<usize>,
    /// Most texts drawn by rejection
    #[arg(long, value_name = "N")]
    pub max_tries: Option<usize>,
    /// best_of: turn rewards into quantiles among the samples, then exp(T·u)
    #[arg(long, value_name = "T")]
    pub calibrate: Option<f64>,
    /// Rows a search may evaluate; then the text is finished greedily
    #[arg(long, value_name = "N")]
    pub budget_evals: Option<u64>,
    /// Search only where the likeliest token has less than this probability
    #[arg(long, value_name = "P")]
    pub search_gate: Option<f64>,
    /// A second model of MODEL's vocabulary that says what follows a token, for transfer_q, deal and controlled
    #[arg(long, value_name = "MODEL")]
    pub guide: Option<String>,
    /// The system message that the guide is shown
    #[arg(long, value_name = "TEXT")]
    pub guide_system: Option<String>,
    /// A smaller, aligned model that supplies words where MODEL is unsure
    #[arg(long, value_name = "MODEL", conflicts_with = "search")]
    pub nudge: Option<String>,
    /// MODEL is unsure below this probability of its likeliest token [default: 0.4]
    #[arg(long, value_name = "P")]
    pub nudge_threshold: Option<f64>,
    /// Tokens of a nudger's proposal [default: 16]
    #[arg(long, value_name = "N")]
    pub nudge_tokens: Option<usize>,
}

fn method(text: &str) -> Result<SearchMethod, String> {
    serde_json::from_value(text.into()).map_err(|e| e.to_string())
}

fn combine(text: &str) -> Result<Combine, String> {
    serde_json::from_value(text.into()).map_err(|e| e.to_string())
}

impl SteerArgs {
    /// Puts the flags over `profile`.
    pub fn put_over(&self, profile: &mut Profile) -> Result<()> {
        fn set<T: Copy>(field: &mut Option<T>, given: Option<T>) {
            *field = given.or(*field);
        }
        let s = &mut profile.search;
        if let Some(method) = self.search {
            s.method = Method::Reward(method);
        }
        if self.beams.is_some() {
            s.method = Method::Beam;
        }
        set(&mut s.beams, self.beams.map(usize::from));
        set(&mut s.combine, self.combine);
        set(&mut s.candidates, self.candidates);
        set(&mut s.lookahead, self.lookahead);
        set(&mut s.commit, self.commit);
        set(&mut s.lambda, self.lambda);
        set(&mut s.alpha, self.alpha);
        set(&mut s.samples, self.draws);
        set(&mut s.block, self.block);
        set(&mut s.rollouts, self.rollouts);
        set(&mut s.max_tries, self.max_tries);
        set(&mut s.calibrate, self.calibrate);
        set(&mut s.budget_evals, self.budget_evals);
        set(&mut s.gate, self.search_gate);
        s.guide = self.guide.clone().or(s.guide.take());
        s.guide_system = self.guide_system.clone().or(s.guide_system.take());
        if !self.reward.is_empty() {
            profile.reward.clone_from(&self.reward);
        }
        if !profile.reward.is_empty() && profile.search.params().is_none() {
            return Err(BadUsage("--reward: expected a --search that asks it, found none".into()).into());
        }
        if let Some(model) = &self.nudge {
            profile.nudge.get_or_insert_with(|| NudgeSection::by(model)).model.clone_from(model);
        }
        match &mut profile.nudge {
            Some(nudge) => {
                set(&mut nudge.threshold, self.nudge_threshold);
                set(&mut nudge.nudge_tokens, self.nudge_tokens);
                Ok(())
            }
            None if self.nudge_threshold.is_some() || self.nudge_tokens.is_some() => {
                Err(BadUsage("--nudge-threshold and --nudge-tokens need --nudge MODEL".into()).into())
            }
            None => Ok(()),
        }
    }
}

/// The search with texts side by side, if `profile` asks for one.
/// # Errors If nothing is constrained, or not by masking; the ranges of the settings.
pub fn beams(profile: &Profile, is_constrained: bool) -> Result<Option<BeamParams>> {
    if profile.search.method != Method::Beam {
        return Ok(None);
    }
    if !is_constrained {
        return Err(BadUsage("--beams: expected a constraint to search under, found none".into()).into());
    }
    if profile.constraints.mode() != Mode::Mask {
        return Err(BadUsage("--beams and --grammar-mode exact or smc exclude each other".into()).into());
    }
    let params = profile.search.beam_params();
    params.validate()?;
    Ok(Some(params))
}
