//! From the scores of rows to figures with intervals, and beside them what a gain must not cost.

use super::answer::Answered;
use super::judge::{Score, Scores};
use serde_json::{Map, Value, json};
use truing::align::Meter;
use truing::eval::{self, Distinct, Estimate};
use truing::session::{Finish, Outcome};

/// A row with what became of it.
pub struct Scored {
    pub id: Value,
    pub answered: Answered,
    pub scores: Scores,
    /// Most tokens it might take.
    pub max_tokens: Option<usize>,
}

/// A text that ends with no more tokens to spare than this was ended by its limit.
const LAST_TOKENS: usize = 4;

impl Scored {
    fn outcome(&self) -> Option<&Outcome> {
        match &self.answered {
            Answered::Done(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Whether the model ended the text, well before its limit.
    fn ended_by_itself(&self) -> bool {
        self.outcome().is_some_and(|o| {
            let spare = self.max_tokens.map_or(usize::MAX, |m| m.saturating_sub(o.report.n_generated));
            o.report.finish == Finish::Eos && spare > LAST_TOKENS
        })
    }

    /// Whether the row's main score is full.
    pub fn succeeded(&self, main: &str) -> bool {
        self.scores.iter().any(|(name, s)| name == main && matches!(s, Score::Share { k, n } if k == n))
    }

    /// The row as programs read it.
    pub fn json(&self, main: &str) -> Value {
        let mut row = Map::new();
        row.insert("id".into(), self.id.clone());
        let (text, finish, status, error) = match &self.answered {
            Answered::Done(o) => {
                let finish = serde_json::to_value(o.report.finish).unwrap_or_default();
                let status = if self.succeeded(main) { "ok" } else { "failed" };
                (o.text.as_str(), finish, status, None)
            }
            Answered::Refused(why) => ("", Value::Null, "refused", Some(why)),
            Answered::Failed(why) => ("", Value::Null, "error", Some(why)),
        };
        row.insert("text".into(), text.into());
        row.insert("finish".into(), finish);
        row.insert("status".into(), status.into());
        row.extend(error.map(|e| ("error".to_owned(), e.as_str().into())));
        if let Some(outcome) = self.outcome() {
            row.insert("n_tokens".into(), outcome.report.n_generated.into());
            row.insert("logprob_per_token".into(), json!(per_token(outcome)));
        }
        let scores: Map<String, Value> =
            self.scores.iter().map(|(name, s)| (name.clone(), value(*s))).collect();
        row.insert("scores".into(), scores.into());
        row.into()
    }
}

fn value(score: Score) -> Value {
    match score {
        Score::Share { k, n: 1 } => (k == 1).into(),
        Score::Share { k, n } => json!({ "k": k, "n": n }),
        Score::Number(x) => x.into(),
    }
}

/// Mean natural log-probability of the text's tokens, the end token among them, under the model left free.
fn per_token(outcome: &Outcome) -> Option<f64> {
    let report = &outcome.report;
    let n = report.n_generated + usize::from(report.finish == Finish::Eos);
    (n > 0 && report.logprob.is_finite()).then(|| report.logprob / n as f64)
}

/// All figures of an arm, in the order in which they are shown.
pub fn figures(rows: &[Scored], meter: &Meter, seed: u64) -> Vec<(String, Estimate)> {
    let mut figures = scores(rows, seed);
    let outcomes: Vec<&Outcome> = rows.iter().filter_map(Scored::outcome).collect();
    let mut add = |name: &str, estimate: Option<Estimate>| {
        figures.extend(estimate.map(|e| (name.to_owned(), e)));
    };
    let share =
        |is_so: &dyn Fn(&Scored) -> bool| eval::rate(rows.iter().filter(|r| is_so(r)).count(), rows.len());
    if outcomes.len() < rows.len() {
        add("refused", share(&|r| matches!(r.answered, Answered::Refused(_))));
        add("errors", share(&|r| matches!(r.answered, Answered::Failed(_))));
    }
    let ended = outcomes.iter().filter(|o| o.report.finish == Finish::Eos).count();
    add("ended", eval::rate(ended, outcomes.len()));
    let by_itself = rows.iter().filter(|r| r.ended_by_itself()).count();
    add("ended_by_itself", eval::rate(by_itself, outcomes.len()));
    let mean = |f: &dyn Fn(&Outcome) -> Option<f64>| {
        eval::mean(&outcomes.iter().filter_map(|o| f(o)).collect::<Vec<_>>(), seed)
    };
    add("logprob_per_token", mean(&per_token));
    add("tokens", mean(&|o| Some(o.report.n_generated as f64)));
    add("words", mean(&|o| Some(f64::from(meter.count(&o.text).words))));
    for n in 2..=4 {
        let mut distinct = Distinct::new(n);
        outcomes.iter().for_each(|o| distinct.add(&o.text));
        add(&format!("distinct_{n}"), (!outcomes.is_empty()).then(|| distinct.estimate()));
    }
    let evals_per_token = |o: &Outcome| {
        let n = o.report.n_generated as f64 + 1.0;
        o.report.search.as_ref().map(|s| s.n_evals.saturating_sub(o.report.n_prompt as u64) as f64 / n)
    };
    add("reward", mean(&|o| o.report.search.as_ref().map(|s| s.reward)));
    add("evals_per_token", mean(&evals_per_token));
    add("nudge_rate", mean(&|o| o.report.nudge.as_ref().map(|n| n.nudge_rate)));
    add("alignment_share", mean(&|o| Some(o.report.timings.alignment_share)));
    figures
}

/// Scores of the same name put together: shares are added up, numbers averaged.
fn scores(rows: &[Scored], seed: u64) -> Vec<(String, Estimate)> {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in rows.iter().flat_map(|r| &r.scores) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let of = |name: &str| {
        let scores = rows.iter().flat_map(|r| &r.scores).filter(|(n, _)| n == name).map(|(_, s)| *s);
        let (mut shares, mut n_cases, mut numbers) = (0, 0, Vec::new());
        for score in scores {
            match score {
                Score::Share { k, n } => (shares, n_cases) = (shares + k, n_cases + n),
                Score::Number(x) => numbers.push(x),
            }
        }
        if n_cases > 0 { eval::rate(shares, n_cases) } else { eval::mean(&numbers, seed) }
    };
    names.into_iter().filter_map(|name| Some((name.to_owned(), of(name)?))).collect()
}

/// Figures as programs read them.
pub fn json(figures: &[(String, Estimate)]) -> Value {
    let map: Map<String, Value> =
        figures.iter().map(|(name, e)| (name.clone(), serde_json::to_value(e).unwrap_or_default())).collect();
    map.into()
}
