//! Whether two rewards rank the same texts alike.

/// `(τ + 1) / 2` of two lists of rewards, with Kendall's τ: 1 if they rank all texts alike, 0 if they rank them the
/// other way round, a half if they have nothing to do with each other. Pairs that either ties do not count; `None` if
/// none is left. Of two texts it says whether the difference has the same sign.
/// Source: the agreement checks of SCIR, arXiv 2502.08922, and CREAM.
pub fn agreement(a: &[f64], b: &[f64]) -> Option<f64> {
    let n = a.len().min(b.len());
    let (mut same, mut all) = (0u64, 0u64);
    for i in 0..n {
        for j in 0..i {
            let (x, y) = (a[i] - a[j], b[i] - b[j]);
            // what is no number counts as a tie
            let is_ranked = |d: f64| !d.is_nan() && d != 0.0;
            if is_ranked(x) && is_ranked(y) {
                all += 1;
                same += u64::from((x > 0.0) == (y > 0.0));
            }
        }
    }
    (all > 0).then(|| same as f64 / all as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_goes_from_none_to_full() {
        let up = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(agreement(&up, &[0.1, 0.2, 0.9, 1.0]), Some(1.0));
        assert_eq!(agreement(&up, &[4.0, 3.0, 2.0, 1.0]), Some(0.0));
        assert_eq!(agreement(&up, &[1.0, 2.0, 4.0, 3.0]), Some(5.0 / 6.0));
        assert_eq!(agreement(&[1.0, 2.0], &[5.0, 6.0]), Some(1.0));
        assert_eq!(agreement(&up, &[1.0; 4]), None);
        assert_eq!(agreement(&[1.0, 2.0, 3.0], &[1.0, 1.0, 2.0]), Some(1.0), "a tie says nothing");
        assert_eq!((agreement(&[], &[]), agreement(&[f64::NAN, 1.0], &[1.0, 2.0])), (None, None));
    }
}
