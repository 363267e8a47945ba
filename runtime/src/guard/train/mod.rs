//! Training, choosing and calibrating probes from lists of texts, on the device.
//!
//! For each layer, five-fold cross-validation: a fold's texts are scored by a direction that has not seen
//! them. The layer is chosen by hits at 1 % false alarms, since a guard lives there; a second one at least
//! 15 % of the depth away is added and both are averaged. The threshold is conformal over unseen benign
//! texts. Everything reported is out of fold. It loses when there are few texts (under a hundred a class), or
//! when the benign ones are easier than what will be met: then the false alarms at home do not tell.

mod logistic;
mod metrics;
mod states;

pub use logistic::{DEFAULT_C, Examples, Method, fit};
pub use metrics::{Curve, conformal, quantile};
pub use states::{PACK_TOKENS, Place, Sample, read_rows, read_states};

use super::probe::{Direction, Position, Probe, Quality, Thresholds};
use super::smooth::Smoothed;
use crate::error::{Error, ErrorKind, Result};
use crate::sampling::{NextLogits, Purpose, Random};
use crate::token::TokenId;

/// Folds of the cross-validation.
pub const N_FOLDS: usize = 5;
/// Fewest examples of each class.
pub const LEAST_EXAMPLES: usize = 64;
/// Tokens of an answer that a direction is trained on; all are scored. Neighbouring states say nearly the same.
const TOKENS_A_RESPONSE: usize = 6;
/// Most layers that are compared for answers: beyond this, states and fits take most of the time and tell little.
const LAYERS_A_RESPONSE: usize = 8;
/// Least distance of the two layers, as a share of the depth.
const APART: f64 = 0.15;
/// False alarms at which layers are compared.
const COMPARE_AT: f64 = 0.01;
/// Share of benign scores below the lower threshold.
const LO_QUANTILE: f64 = 0.8;

/// How to train.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Which states.
    pub position: Position,
    /// Tokens of the header, for [`Position::Header`].
    pub header: Vec<TokenId>,
    /// How directions are found.
    pub method: Method,
    /// Inverse strength of the penalty.
    pub c: f64,
    /// Share of benign texts that may trigger, where a calibration set says nothing else.
    pub alpha: f64,
    /// Layers to compare.
    pub layers: Vec<u32>,
    /// Layers of the model.
    pub n_layer: usize,
    /// Most layers of the probe.
    pub n_chosen: usize,
    /// Of the division into folds.
    pub seed: u64,
}

/// How well one layer does, out of fold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerScore {
    /// The layer.
    pub layer: u32,
    /// Area under the curve.
    pub auroc: f64,
    /// Hits at 1 % false alarms.
    pub tpr: f64,
}

/// A trained probe and what it is known to do.
#[derive(Debug)]
pub struct Trained {
    /// The probe, fitted to all examples.
    pub probe: Probe,
    /// All layers that were compared.
    pub layers: Vec<LayerScore>,
    /// What is thresholded, for each sample, by directions that have not seen it. For answers: the highest level.
    pub scores: Vec<f32>,
    /// The levels of each answer token by token, as in `scores`; empty lists for other positions.
    pub traces: Vec<Vec<f32>>,
}

/// The layers that are worth comparing: from a tenth to eight tenths of the depth.
pub fn default_layers(n_layer: usize) -> Vec<u32> {
    let n = n_layer as f64;
    let (from, to) = ((0.1 * n).ceil() as u32, (0.8 * n).floor() as u32);
    (from..=to.max(from)).filter(|l| (*l as usize) < n_layer).collect()
}

/// Benign samples that set a threshold.
#[derive(Clone, Debug, PartialEq)]
pub struct CalibrationSet {
    /// Numbers of the samples.
    pub samples: Vec<usize>,
    /// Share of texts like these that may trigger.
    pub alpha: f64,
}

/// Trains a probe. `calibration`: what sets the threshold, the highest that one of the sets asks for; empty: all
/// benign samples, at the options' share.
/// `progress` gets the samples just read, each sample twice for answers and once otherwise.
/// # Errors `InvalidArgument` for fewer than 64 samples of a class; `CalibrationTooSmall`; those of the model.
pub fn train<L: NextLogits>(
    lm: &mut L,
    samples: &[Sample],
    calibration: &[CalibrationSet],
    options: &TrainOptions,
    progress: &mut dyn FnMut(usize),
) -> Result<Trained> {
    check(samples, options)?;
    let options = &options.thinned();
    let table = StateTable::read(lm, samples, options, progress)?;
    let folds = folds(samples, options.seed);
    let fitted = fit_folds(&table, samples, &folds, options);
    let means: Vec<Vec<f32>> = fitted.iter().map(|f| f.mean_scores(&table, &folds, samples.len())).collect();
    let labels: Vec<bool> = samples.iter().map(|s| s.label).collect();
    let layers = options.layers.iter().zip(&means).map(|(&layer, scores)| {
        let curve = Curve::new(scores, &labels);
        LayerScore { layer, auroc: curve.auroc(), tpr: curve.tpr_at(COMPARE_AT) }
    });
    let layers: Vec<LayerScore> = layers.collect();
    let chosen = choose(&layers, &means, &labels, options);
    let traces = match options.position {
        Position::Response => trace(lm, samples, &folds, &fitted, &chosen, options, progress)?,
        _ => vec![Vec::new(); samples.len()],
    };
    let scores: Vec<f32> = match options.position {
        Position::Response => traces.iter().map(|t| highest(t)).collect(),
        _ => (0..samples.len()).map(|i| mean(chosen.iter().map(|&c| means[c][i]))).collect(),
    };
    let directions = chosen.iter().map(|&c| fit_layer(&table, samples, c, options, |_| true)).collect();
    let (thresholds, quality) = calibrate(&scores, &labels, calibration, options)?;
    let probe = Probe::new(options.position, directions, thresholds, quality)?;
    Ok(Trained { probe, layers, scores, traces })
}

fn check(samples: &[Sample], options: &TrainOptions) -> Result<()> {
    let bad = |message: String| Err(Error::new(ErrorKind::InvalidArgument, message));
    let n_positive = samples.iter().filter(|s| s.label).count();
    let n_negative = samples.len() - n_positive;
    if n_positive.min(n_negative) < LEAST_EXAMPLES {
        return bad(format!(
            "expected at least {LEAST_EXAMPLES} texts of each kind, found {n_positive} positive and {n_negative} negative"
        ));
    }
    if let Some(i) = samples.iter().position(|s| s.prompt.len() < 2) {
        return bad(format!("text {}: expected at least two tokens of prompt", i + 1));
    }
    let needs_response = options.position == Position::Response;
    if let Some(i) = samples.iter().position(|s| needs_response && s.response.is_empty()) {
        return bad(format!("text {}: expected an answer of at least one token", i + 1));
    }
    match options.layers.is_empty() || (options.position == Position::Header && options.header.is_empty()) {
        true => bad("expected layers to compare, and a header for header probes".into()),
        false => Ok(()),
    }
}

/// States kept for training: `[state][layer][n_embd]`.
struct StateTable {
    rows: Vec<f32>,
    n_embd: usize,
    n_layers: usize,
    sample: Vec<usize>,
}

impl StateTable {
    fn read<L: NextLogits>(
        lm: &mut L,
        samples: &[Sample],
        options: &TrainOptions,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Self> {
        let mut table =
            Self { rows: Vec::new(), n_embd: 0, n_layers: options.layers.len(), sample: Vec::new() };
        let mut visit = |place: Place, states: &[&[f32]]| {
            let n = samples[place.sample].response.len();
            let every = n.div_ceil(TOKENS_A_RESPONSE).max(1);
            if options.position == Position::Response
                && place.token % every != every - 1
                && place.token + 1 != n
            {
                return;
            }
            table.n_embd = states.first().map_or(0, |s| s.len());
            states.iter().for_each(|s| table.rows.extend_from_slice(s));
            table.sample.push(place.sample);
        };
        read_states(lm, samples, options.at(), &options.layers, &mut visit, progress)?;
        match table.n_embd {
            0 => Err(Error::new(ErrorKind::Internal, "expected hidden states, found none")),
            _ => Ok(table),
        }
    }

    fn state(&self, row: usize, layer: usize) -> &[f32] {
        let at = (row * self.n_layers + layer) * self.n_embd;
        &self.rows[at..at + self.n_embd]
    }
}

impl TrainOptions {
    /// For answers: every second or third of the layers if there are many.
    fn thinned(&self) -> Self {
        let every = match self.position {
            Position::Response => self.layers.len().div_ceil(LAYERS_A_RESPONSE).max(1),
            _ => 1,
        };
        Self { layers: self.layers.iter().copied().step_by(every).collect(), ..self.clone() }
    }

    fn at(&self) -> (Position, &[TokenId]) {
        (self.position, &self.header)
    }
}

/// The fold of each sample: classes are divided evenly, in an order drawn from the seed.
fn folds(samples: &[Sample], seed: u64) -> Vec<usize> {
    let random = Random::new(seed);
    let mut folds = vec![0; samples.len()];
    for label in [false, true] {
        let mut order: Vec<usize> = (0..samples.len()).filter(|&i| samples[i].label == label).collect();
        order.sort_by(|&a, &b| {
            let key = |i: usize| random.uniform(i as u64, Purpose::Search);
            key(a).total_cmp(&key(b))
        });
        order.iter().enumerate().for_each(|(n, &i)| folds[i] = n % N_FOLDS);
    }
    folds
}

/// The directions of one layer, one a fold.
struct Folded {
    index: usize,
    probes: Vec<Probe>,
}

impl Folded {
    /// Mean score of each sample's kept states, by the direction that has not seen it.
    fn mean_scores(&self, table: &StateTable, folds: &[usize], n: usize) -> Vec<f32> {
        let (mut sums, mut counts) = (vec![0.0; n], vec![0f32; n]);
        for (row, &sample) in table.sample.iter().enumerate() {
            let probe = &self.probes[folds[sample]];
            sums[sample] += probe.score(|_| Some(table.state(row, self.index))).unwrap_or(0.0);
            counts[sample] += 1.0;
        }
        sums.iter().zip(&counts).map(|(s, n)| s / n.max(1.0)).collect()
    }
}

fn fit_folds(table: &StateTable, samples: &[Sample], folds: &[usize], options: &TrainOptions) -> Vec<Folded> {
    let one = |index: usize| Folded {
        index,
        probes: (0..N_FOLDS)
            .filter_map(|fold| {
                let direction = fit_layer(table, samples, index, options, |sample| folds[sample] != fold);
                let open = Thresholds { lo: 0.0, hi: 0.0 };
                Probe::new(options.position, vec![direction], open, Quality::default()).ok()
            })
            .collect(),
    };
    let n_threads =
        std::thread::available_parallelism().map_or(1, usize::from).min(options.layers.len()).max(1);
    let one = &one;
    let mut fitted: Vec<Folded> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..n_threads)
            .map(|t| scope.spawn(move || (t..table.n_layers).step_by(n_threads).map(one).collect::<Vec<_>>()))
            .collect();
        workers.into_iter().flat_map(|w| w.join().unwrap_or_default()).collect()
    });
    fitted.sort_by_key(|f| f.index);
    fitted.retain(|f| f.probes.len() == N_FOLDS);
    fitted
}

fn fit_layer(
    table: &StateTable,
    samples: &[Sample],
    index: usize,
    options: &TrainOptions,
    of: impl Fn(usize) -> bool,
) -> Direction {
    let rows: Vec<usize> = (0..table.sample.len()).filter(|&r| of(table.sample[r])).collect();
    let examples = Examples {
        states: rows.iter().map(|&r| table.state(r, index)).collect(),
        labels: rows.iter().map(|&r| samples[table.sample[r]].label).collect(),
    };
    fit(&examples, options.layers[index], options.method, options.c)
}

/// Indices of the chosen layers, ascending: the best one, then, as long as hits at few false alarms do not fall,
/// the one that adds most to the mean of those before it.
fn choose(layers: &[LayerScore], means: &[Vec<f32>], labels: &[bool], options: &TrainOptions) -> Vec<usize> {
    let apart =
        (APART * options.n_layer as f64 / (options.n_chosen.max(2) - 1) as f64).ceil().max(1.0) as u32;
    let quality = |picked: &[usize]| {
        let both: Vec<f32> = (0..labels.len()).map(|i| mean(picked.iter().map(|&p| means[p][i]))).collect();
        let curve = Curve::new(&both, labels);
        (curve.tpr_at(COMPARE_AT), curve.auroc())
    };
    let mut picked: Vec<usize> = Vec::new();
    let mut best = (0.0, 0.0);
    while picked.len() < options.n_chosen.max(1) {
        let far = |i: &usize| picked.iter().all(|&p| layers[p].layer.abs_diff(layers[*i].layer) >= apart);
        let tried = (0..layers.len()).filter(far).map(|i| (quality(&[&picked[..], &[i]].concat()), i));
        let next = tried.max_by(|(a, _), (b, _)| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        match next {
            Some((found, i)) if picked.is_empty() || found.0 >= best.0 => {
                picked.push(i);
                best = found;
            }
            // a layer that only blurs the others is left out
            _ => break,
        }
    }
    picked.sort_unstable();
    picked
}

/// Levels of each answer, token by token, by directions that have not seen it.
fn trace<L: NextLogits>(
    lm: &mut L,
    samples: &[Sample],
    folds: &[usize],
    fitted: &[Folded],
    chosen: &[usize],
    options: &TrainOptions,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<f32>>> {
    let layers: Vec<u32> = chosen.iter().map(|&c| options.layers[c]).collect();
    let mut traces: Vec<Vec<f32>> = samples.iter().map(|s| Vec::with_capacity(s.response.len())).collect();
    let mut smoothed = vec![Smoothed::default(); samples.len()];
    let mut visit = |place: Place, states: &[&[f32]]| {
        let scores = chosen
            .iter()
            .zip(states)
            .map(|(&c, h)| fitted[c].probes[folds[place.sample]].score(|_| Some(h)).unwrap_or(f32::INFINITY));
        let level = smoothed[place.sample].push(mean(scores));
        traces[place.sample].push(level);
    };
    read_states(lm, samples, options.at(), &layers, &mut visit, progress)?;
    Ok(traces)
}

fn calibrate(
    scores: &[f32],
    labels: &[bool],
    sets: &[CalibrationSet],
    options: &TrainOptions,
) -> Result<(Thresholds, Quality)> {
    let all =
        CalibrationSet { samples: (0..scores.len()).filter(|&i| !labels[i]).collect(), alpha: options.alpha };
    let sets = if sets.is_empty() { std::slice::from_ref(&all) } else { sets };
    let mut highest: Option<(f32, Vec<f32>, f64)> = None;
    for set in sets {
        let benign: Vec<f32> = set.samples.iter().filter_map(|&i| scores.get(i).copied()).collect();
        let tau = conformal(&benign, set.alpha)?;
        if highest.as_ref().is_none_or(|(hi, ..)| tau > *hi) {
            highest = Some((tau, benign, set.alpha));
        }
    }
    let (hi, benign, alpha) = highest.unwrap_or((0.0, Vec::new(), options.alpha));
    let lo = quantile(&benign, LO_QUANTILE).min(hi);
    let curve = Curve::new(scores, labels);
    let n_positive = labels.iter().filter(|l| **l).count();
    let quality = Quality {
        alpha: alpha as f32,
        n_calibration: benign.len() as u32,
        n_positive: n_positive as u32,
        n_negative: (labels.len() - n_positive) as u32,
        auroc: curve.auroc() as f32,
        tpr_at_1fpr: curve.tpr_at(COMPARE_AT) as f32,
    };
    Ok((Thresholds { lo, hi }, quality))
}

fn highest(trace: &[f32]) -> f32 {
    trace.iter().copied().fold(f32::MIN, f32::max)
}

fn mean(values: impl Iterator<Item = f32>) -> f32 {
    let (sum, n) = values.fold((0.0, 0f32), |(s, n), v| (s + v, n + 1.0));
    sum / n.max(1.0)
}

#[cfg(test)]
mod tests;
