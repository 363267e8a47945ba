//! When the scores of an answer's tokens, one after another, are an alarm.
//!
//! Single scores are noisy; an exponential mean of them is not, and three high scores of the last eight catch
//! what flares up. Calibrate on the greatest value over whole answers, see [`Smoothed::level`]: a threshold
//! for single tokens raises as many false alarms as there are looks.

/// Weight of the past in the mean.
const DECAY: f32 = 0.8;
/// Scores looked back over, and how many of them must be high.
const WINDOW: usize = 8;
const HIGH: usize = 3;

/// The scores of one answer so far, as far as they matter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Smoothed {
    /// Weighted sum of all scores, and of their weights.
    sum: f32,
    weight: f32,
    last: heapless::Deque<f32, WINDOW>,
}

impl Smoothed {
    /// Takes the next score. The new level: what is compared with a threshold. An alarm by the mean or by
    /// three of the last eight is one and the same question: whether the level exceeds the threshold.
    pub fn push(&mut self, score: f32) -> f32 {
        self.sum = DECAY * self.sum + (1.0 - DECAY) * score;
        self.weight = DECAY * self.weight + (1.0 - DECAY);
        if self.last.is_full() {
            self.last.pop_front();
        }
        let _ = self.last.push_back(score); // there is room
        self.level()
    }

    /// The greater of the mean and the third highest of the last eight scores; minus infinity before the third.
    pub fn level(&self) -> f32 {
        if self.last.len() < HIGH {
            return f32::NEG_INFINITY;
        }
        let mut high = [f32::NEG_INFINITY; HIGH];
        for &score in &self.last {
            if let Some(at) = high.iter().position(|h| score > *h) {
                high[at..].rotate_right(1);
                high[at] = score;
            }
        }
        (self.sum / self.weight).max(high[HIGH - 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_those_of_the_definition() {
        let scores: Vec<f32> = (0..60).map(|i| ((i * 37 % 23) as f32 - 11.0) * 0.3).collect();
        let mut smoothed = Smoothed::default();
        for t in 0..scores.len() {
            let level = smoothed.push(scores[t]);
            let weights: Vec<f64> = (0..=t).map(|i| 0.8f64.powi((t - i) as i32)).collect();
            let sum: f64 = weights.iter().zip(&scores).map(|(w, s)| w * f64::from(*s)).sum();
            let mut last = scores[t.saturating_sub(7)..=t].to_vec();
            last.sort_by(|a, b| b.total_cmp(a));
            let expected = match last.get(2) {
                Some(third) => f64::from(*third).max(sum / weights.iter().sum::<f64>()),
                None => f64::NEG_INFINITY,
            };
            assert!(
                level == expected as f32 || (f64::from(level) - expected).abs() < 1e-4,
                "{t}: {level} {expected}"
            );
        }
    }

    #[test]
    fn one_flare_is_no_alarm_and_three_are() {
        let mut smoothed = Smoothed::default();
        let levels: Vec<f32> =
            [-4.0, -4.0, -4.0, 9.0, -4.0, -4.0, 9.0, -4.0, 9.0].map(|s| smoothed.push(s)).to_vec();
        assert!(levels[..8].iter().all(|l| *l < 2.0), "{levels:?}");
        assert_eq!(levels[8], 9.0);
    }
}
