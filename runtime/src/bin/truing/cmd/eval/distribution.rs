//! How near drawn texts come to the model's own law of a finite language, and how near masking does.

use super::figures;
use super::suite::Asked;
use crate::rows::Row;
use crate::{interrupt, output, progress};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::sync::Arc;
use truing::TokenId;
use truing::align::Lexicon;
use truing::config::{Mode, Profile};
use truing::eval::{self, Estimate};
use truing::model::{Context, Model};
use truing::sampling::NextLogits;
use truing::session::{self, AlignPlan, Setting, Source};
use truing::vocab::Specials;

/// Draws a text may take: with fewer, rare texts would be missing from the sample.
const MAX_DRAWS: u32 = 1_000_000;

/// How to run the suite.
pub struct Distribution<'a> {
    pub model: &'a Arc<Model>,
    pub context: Context,
    /// Texts drawn a row.
    pub n_samples: usize,
    /// `Smc`, or else exact.
    pub mode: Mode,
    pub max_tokens: usize,
    pub seed: u64,
}

/// What came of a row.
pub struct Measured {
    id: Value,
    n_texts: usize,
    /// Probability of the language under the model left free.
    p_language: f64,
    drawn: f64,
    masked: f64,
    bound: f64,
    evals_per_text: f64,
}

impl Distribution<'_> {
    /// Measures every row.
    pub fn run(mut self, rows: &[Row]) -> Result<Vec<Measured>> {
        interrupt::on_ctrl_c(self.context.cancel_flag())?;
        let lexicon = session::lexicon(self.model);
        let bar = progress::bar(rows.len() as u64, "languages");
        let mut measured = Vec::with_capacity(rows.len());
        for row in rows {
            measured.push(self.measure(row, &lexicon).with_context(|| format!("row {}", row.id()))?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(measured)
    }

    fn measure(&mut self, row: &Row, lexicon: &Arc<Lexicon>) -> Result<Measured> {
        let asked = super::suite::shape_of_grammar(row)?;
        let plan = self.plan(&asked, lexicon)?;
        let tokens = self.tokens(row)?;
        let setting = Setting {
            vocab: self.model.vocab(),
            n_ctx: self.context.n_ctx(),
            n_parallel: 1,
            cancel: self.context.cancel_flag(),
            model_id: self.model.id().to_owned(),
        };
        let source = self.source(tokens.clone())?;
        let law = session::law(&mut self.context, &setting, &plan, source)?;
        let total: f64 = law.values().map(|l| l.free).sum();
        let target: Vec<f64> = law.values().map(|l| l.free / total).collect();
        let masked: Vec<f64> = law.values().map(|l| l.masked).collect();
        let texts: Vec<&[u8]> = law.keys().map(Vec::as_slice).collect();

        let before = self.context.n_evals();
        let seeds: Vec<u64> = (0..self.n_samples as u64).map(|i| self.seed.wrapping_add(i)).collect();
        let source = self.source(tokens)?;
        let outcomes = session::draw(&mut self.context, &setting, &plan, source, &seeds, &mut |_, _| ())?;
        let mut drawn = vec![0.0; texts.len()];
        for outcome in &outcomes {
            let place = texts.binary_search(&outcome.text.as_bytes());
            let place = place.map_err(|_| anyhow::anyhow!("{:?} is not in the language", outcome.text))?;
            drawn[place] += 1.0 / self.n_samples as f64;
        }
        Ok(Measured {
            id: row.id(),
            n_texts: texts.len(),
            p_language: total,
            drawn: session::total_variation(&drawn, &target),
            masked: session::total_variation(&masked, &target),
            bound: session::sampling_bound(&target, self.n_samples),
            evals_per_text: (self.context.n_evals() - before) as f64 / self.n_samples as f64,
        })
    }

    fn plan(&self, asked: &Asked, lexicon: &Arc<Lexicon>) -> Result<AlignPlan> {
        let text = asked.shape.as_ref().map_or("", |(_, text)| text);
        let mode = if self.mode == Mode::Smc { "smc" } else { "exact" };
        let grammar = json!({ "kind": "gbnf", "text": text, "mode": mode, "max_draws": MAX_DRAWS });
        let profile = Profile::parse(&json!({ "constraints": { "grammar": grammar } }).to_string())?;
        let constraints = profile.constraints.build(&mut |file| Err(no_file(file)))?;
        AlignPlan::new(&profile.constraints, constraints, lexicon)?.context("the grammar asks nothing")
    }

    fn source(&mut self, tokens: Vec<TokenId>) -> Result<Source<<Context as NextLogits>::Branch>> {
        Ok(Source { branch: self.context.root()?, tokens, temperature: 1.0, max_tokens: self.max_tokens })
    }

    /// The prompt as it stands; the token that begins or ends texts, where it is empty.
    fn tokens(&self, row: &Row) -> Result<Vec<TokenId>> {
        let vocab = self.model.vocab();
        let text = row.get("prompt").and_then(Value::as_str).unwrap_or_default();
        let mut ids = vocab.tokenize(text, Specials { add_bos_eos: true, parse_special: false })?.ids;
        if ids.is_empty() {
            ids.extend(vocab.bos().or(vocab.eos()));
        }
        Ok(ids)
    }
}

fn no_file(file: &str) -> truing::Error {
    truing::Error::new(truing::ErrorKind::BadProfile, format!("{file}: no file is expected here"))
}

/// Shows the rows and their figures.
pub fn show(rows: &[Measured], n_samples: usize, as_json: bool) -> Result<()> {
    let within = rows.iter().filter(|r| r.drawn <= r.bound).count();
    let outside = rows.iter().filter(|r| r.masked > r.bound).count();
    let mean = |f: &dyn Fn(&Measured) -> f64| {
        eval::mean(&rows.iter().map(f).collect::<Vec<_>>(), 1).unwrap_or(Estimate::exact(f64::NAN))
    };
    let metrics: Vec<(String, Estimate)> = [
        ("within_bound", eval::rate(within, rows.len())),
        ("masking_outside", eval::rate(outside, rows.len())),
        ("tv_drawn", Some(mean(&|r| r.drawn))),
        ("tv_masked", Some(mean(&|r| r.masked))),
        ("evals_per_text", Some(mean(&|r| r.evals_per_text))),
    ]
    .into_iter()
    .filter_map(|(name, e)| e.map(|e| (name.to_owned(), e)))
    .collect();
    if as_json {
        let rows: Vec<Value> = rows.iter().map(row_json).collect();
        return output::json(&json!({
            "suite": "distribution", "n": rows.len(), "n_samples": n_samples,
            "metrics": figures::json(&metrics), "rows": rows,
        }));
    }
    output::line(&format!(
        "{:<28}{:>6}{:>12}{:>10}{:>10}{:>10}{:>12}",
        "language", "texts", "P(language)", "tv drawn", "bound", "tv masked", "evals/text"
    ))?;
    for r in rows {
        let id = r.id.as_str().map_or_else(|| r.id.to_string(), str::to_owned);
        output::line(&format!(
            "{id:<28}{:>6}{:>12.2e}{:>10.4}{:>10.4}{:>10.4}{:>12.2}",
            r.n_texts, r.p_language, r.drawn, r.bound, r.masked, r.evals_per_text
        ))?;
    }
    for (name, e) in &metrics {
        output::line(&format!("{name:<28}{:.3} [{:.3}, {:.3}]", e.value, e.lo, e.hi))?;
    }
    Ok(())
}

fn row_json(r: &Measured) -> Value {
    json!({
        "id": r.id, "n_texts": r.n_texts, "p_language": r.p_language, "tv_drawn": r.drawn, "bound": r.bound,
        "tv_masked": r.masked, "evals_per_text": r.evals_per_text,
        "status": if r.drawn <= r.bound { "ok" } else { "failed" },
    })
}
