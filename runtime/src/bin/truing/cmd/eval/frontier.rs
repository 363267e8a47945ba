//! Reward against divergence of picking one of several drawn texts, with and without InfAlign's transform.
//!
//! Each prompt gets N texts; one is taken with a chance that grows with its score. The score is the reward, or
//! `exp(t·u)` of its quantile `u` among the N. Both are set to the same mean divergence, prompt by prompt the same
//! texts, and compared by mean reward and by the win rate of a best-of-4 that follows.

use super::Eval;
use crate::exit::BadUsage;
use crate::rows::Row;
use crate::{interrupt, output, progress, prompt};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use truing::config::Profile;
use truing::engine::{self, Job, Settings};
use truing::eval::{self, Estimate, frontier, kl_bound};
use truing::reward::{Calibration, Candidate, Exponential, Reward};
use truing::sampling::SamplingParams;
use truing::search::plain_sampling;
use truing::session::{Event, MAX_PARALLEL};

/// Texts a prompt, where nothing is said; sharpness of the transform; texts of the best-of-N that follows.
const DRAWS: usize = 16;
const SHARPNESS: f64 = 10.0;
const N_FINAL: u32 = 4;
/// Mean nats at which the two are compared.
const LEVELS: [f64; 6] = [0.1, 0.25, 0.5, 1.0, 1.5, 2.0];
/// Steps of the search for a temperature.
const BISECTIONS: usize = 60;

/// The texts' rewards of one prompt, and the two scores they are picked by.
struct Drawn {
    rewards: Vec<f64>,
    transformed: Vec<f64>,
}

/// Both at one divergence: mean reward and win rate.
struct Level {
    kl: f64,
    plain: [Estimate; 2],
    transformed: [Estimate; 2],
}

pub fn run(args: &Eval, profile: &Profile) -> Result<()> {
    let mut profile = profile.clone();
    profile.search.method = truing::config::Method::Reward(truing::search::SearchMethod::BestOf);
    args.steer.put_over(&mut profile)?;
    let n = profile.search.samples.unwrap_or(DRAWS).min(MAX_PARALLEL);
    let t = profile.search.calibrate.unwrap_or(SHARPNESS);
    if n < 8 {
        return Err(BadUsage(format!("--draws: expected at least 8 texts to calibrate by, found {n}")).into());
    }
    let transform = Exponential::new(t)?;
    let mut search = engine::Search::new(&profile, &[], &mut |file| {
        std::fs::read_to_string(file)
            .map_err(|e| truing::Error::new(truing::ErrorKind::Io, e.to_string()).at(file.to_owned()))
    })?
    .context("a search")?;
    crate::args::open_rewards(&mut search)?;
    let mut reward = search.reward(&[])?;
    let drawn = draw(args, &profile, (n, transform), &mut reward)?;
    let levels: Vec<Level> = LEVELS.iter().filter_map(|kl| level(&drawn, *kl, args.seed())).collect();
    show(args, &drawn, &levels, (n, t))?;
    match &args.svg {
        Some(path) => std::fs::write(path, svg(&levels)).with_context(|| path.display().to_string()),
        None => Ok(()),
    }
}

fn draw(
    args: &Eval,
    profile: &Profile,
    (n, transform): (usize, Exponential),
    reward: &mut dyn Reward,
) -> Result<Vec<Drawn>> {
    let mut rows = Row::read_all(&args.data[0])?;
    rows.truncate(args.limit.map_or(usize::MAX, |n| n as usize));
    let model = args.model.open()?;
    let mut context = args.model.run.context(&model, n + 1)?;
    interrupt::on_ctrl_c(context.cancel_flag())?;
    let mut limits = args.limits.limits(profile);
    limits.max_tokens = limits.max_tokens.or(Some(128));
    let sampling = plain_sampling(args.seed());
    let settings = Settings::plain(sampling.clone(), limits.clone());
    let prompt_args = args.prompt_args(profile);
    let bar = progress::bar(rows.len() as u64, "prompts");
    let mut drawn = Vec::with_capacity(rows.len());
    for (i, row) in rows.iter().enumerate() {
        let text = row.text("prompt")?;
        let tokens = prompt::tokens(&model, &prompt_args, text)?;
        let job = |j: usize| {
            let seed = args.seed().wrapping_add((i * n + j) as u64);
            let sampling = SamplingParams { seed, ..sampling.clone() };
            settings.job_with(tokens.clone(), sampling, limits.clone(), context.n_ctx())
        };
        let jobs: Vec<Job> = (0..n).map(job).collect::<truing::Result<_>>()?;
        let outcomes = engine::run(&model, &mut context, &settings, jobs, n, &mut |_, _: Event<'_>| {})?;
        if outcomes.iter().any(|o| o.report.finish == truing::session::Finish::Cancelled) {
            return Err(crate::exit::Interrupted.into());
        }
        let mut rewards = Vec::with_capacity(n);
        for outcome in &outcomes {
            let score = reward.score(text, Candidate { text: &outcome.text, is_closed: true })?;
            rewards.push(truing::reward::check_finite(reward.name(), score, &outcome.text)?.value);
        }
        let calibration = Calibration::new(&rewards)?;
        let transformed = rewards.iter().map(|r| transform.apply(calibration.quantile_without(*r))).collect();
        drawn.push(Drawn { rewards, transformed });
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(drawn)
}

/// Both ways at a mean divergence of `kl`; `None` if the texts do not go so far.
fn level(drawn: &[Drawn], kl: f64, seed: u64) -> Option<Level> {
    let at = |scores: fn(&Drawn) -> &[f64]| {
        let points = |tau: f64| -> Vec<eval::Point> {
            drawn.iter().map(|d| frontier(&d.rewards, scores(d), tau, N_FINAL)).collect()
        };
        let mean_kl = |tau: f64| points(tau).iter().map(|p| p.kl).sum::<f64>() / drawn.len() as f64;
        // the divergence falls as the temperature grows
        let (mut low, mut high) = (-30.0f64, 30.0f64);
        if mean_kl(low.exp()) < kl {
            return None;
        }
        for _ in 0..BISECTIONS {
            let middle = (low + high) / 2.0;
            if mean_kl(middle.exp()) > kl { low = middle } else { high = middle }
        }
        let found = points(high.exp());
        let rewards: Vec<f64> = found.iter().map(|p| p.reward).collect();
        let wins: Vec<f64> = found.iter().map(|p| p.win_rate).collect();
        Some([eval::mean(&rewards, seed)?, eval::mean(&wins, seed)?])
    };
    Some(Level { kl, plain: at(|d| &d.rewards)?, transformed: at(|d| &d.transformed)? })
}

fn show(args: &Eval, drawn: &[Drawn], levels: &[Level], (n, t): (usize, f64)) -> Result<()> {
    let all: Vec<f64> =
        drawn.iter().map(|d| d.rewards.iter().sum::<f64>() / d.rewards.len() as f64).collect();
    let base = eval::mean(&all, args.seed()).unwrap_or(Estimate::exact(0.0));
    if args.json {
        let row = |l: &Level| {
            json!({
                "kl": l.kl,
                "reward": l.plain[0], "win_rate": l.plain[1],
                "reward_transformed": l.transformed[0], "win_rate_transformed": l.transformed[1],
            })
        };
        return output::json(&json!({
            "suite": "frontier", "n": drawn.len(), "draws": n, "t": t, "n_final": N_FINAL, "reward": base,
            "levels": levels.iter().map(row).collect::<Vec<Value>>(),
        }));
    }
    let cell = |e: &Estimate| format!("{:.3} [{:.3}, {:.3}]", e.value, e.lo, e.hi);
    output::line(&format!(
        "frontier ({} rows, {n} texts each, t = {t}): mean reward of a text {}",
        drawn.len(),
        cell(&base)
    ))?;
    output::line(&format!(
        "{:<6}{:>26}{:>26}{:>26}{:>26}",
        "nats", "reward", "reward, transformed", "win rate", "win rate, transformed"
    ))?;
    for l in levels {
        let cells = [&l.plain[0], &l.transformed[0], &l.plain[1], &l.transformed[1]];
        let cells: String = cells.iter().map(|e| format!("{:>26}", cell(e))).collect();
        output::line(&format!("{:<6}{cells}", l.kl))?;
    }
    let bounds: Vec<String> = [2, 4, 8, 16].iter().map(|n| format!("{n}: {:.2}", kl_bound(*n))).collect();
    output::line(&format!(
        "win rate: of the best of {N_FINAL} such texts against one of the model; best-of-N is at most so many nats \
         away: {}",
        bounds.join(", ")
    ))
}

/// Two panels: reward and win rate over divergence.
fn svg(levels: &[Level]) -> String {
    let most = levels.iter().map(|l| l.kl).fold(0.1, f64::max);
    let panel = |x0: f64, title: &str, which: usize| {
        let all = levels.iter().flat_map(|l| [l.plain[which], l.transformed[which]]);
        let (lo, hi) =
            all.fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), e| (lo.min(e.lo), hi.max(e.hi)));
        let span = if hi > lo { hi - lo } else { 1.0 };
        let place = |kl: f64, y: f64| (x0 + 50.0 + 270.0 * kl / most, 260.0 - 210.0 * (y - lo) / span);
        let mut out = format!(
            "<text x=\"{:.0}\" y=\"24\">{title}</text><path d=\"M{a:.0},40V260H{b:.0}\" class=\"axis\"/>\
             <text x=\"{x:.0}\" y=\"264\" class=\"small\">{lo:.2}</text><text x=\"{x:.0}\" y=\"54\" class=\"small\">{hi:.2}</text>",
            x0 + 50.0,
            a = x0 + 50.0,
            b = x0 + 330.0,
            x = x0 + 8.0,
        );
        for (name, is_plain) in [("plain", true), ("transformed", false)] {
            let of = |l: &Level| if is_plain { l.plain[which] } else { l.transformed[which] };
            let points: Vec<String> = levels
                .iter()
                .map(|l| place(l.kl, of(l).value))
                .map(|(x, y)| format!("{x:.1},{y:.1}"))
                .collect();
            out += &format!("<polyline points=\"{}\" class=\"{name}\"/>", points.join(" "));
            for l in levels {
                let e = of(l);
                let ((x, y0), (_, y1)) = (place(l.kl, e.lo), place(l.kl, e.hi));
                out += &format!("<path d=\"M{x:.1},{y0:.1}V{y1:.1}\" class=\"{name}\"/>");
            }
        }
        for l in levels {
            let (x, _) = place(l.kl, lo);
            out += &format!("<text x=\"{:.0}\" y=\"280\" class=\"small\">{}</text>", x - 8.0, l.kl);
        }
        out
    };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"720\" height=\"320\" font-family=\"sans-serif\" font-size=\"14\">\
         <style>.axis{{fill:none;stroke:#333}}.plain{{fill:none;stroke:#1f77b4;stroke-width:2}}\
         .transformed{{fill:none;stroke:#d62728;stroke-width:2}}.small{{font-size:11px}}</style>\
         <rect width=\"720\" height=\"320\" fill=\"white\"/>{}{}\
         <text x=\"50\" y=\"308\" class=\"small\" fill=\"#1f77b4\">by reward</text>\
         <text x=\"130\" y=\"308\" class=\"small\" fill=\"#d62728\">by transformed quantile</text>\
         <text x=\"300\" y=\"308\" class=\"small\">nats from the model (bars: 95 %)</text></svg>\n",
        panel(0.0, "mean reward", 0),
        panel(360.0, "win rate of a best of 4 behind it", 1),
    )
}
