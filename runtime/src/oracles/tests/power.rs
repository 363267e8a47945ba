//! The statistical tests tested: their tables, their false alarms, their misses.

use crate::oracles::statistics::tv_limit;
use crate::oracles::*;
use crate::sampling::{Purpose, Random};

/// Counts of `n` draws from `law`.
fn draws(law: &[f64], n: u64, seed: u64) -> Vec<u64> {
    let mut counts = vec![0; law.len()];
    let random = Random::new(seed);
    for i in 0..n {
        let mut u = random.uniform(i, Purpose::Token);
        let hit = law.iter().position(|p| {
            u -= p;
            u < 0.0
        });
        counts[hit.unwrap_or(law.len() - 1)] += 1;
    }
    counts
}

#[test]
fn power_has_the_values_of_its_table() {
    let table = [
        (0.1, [4_329, 6_465, 11_862]),
        (0.05, [17_316, 25_860, 47_448]),
        (0.02, [108_222, 161_621, 296_548]),
    ];
    for (delta, expected) in table {
        assert_eq!([8, 32, 128].map(|k| power(k, delta, 1e-6, 1e-6)), expected);
    }
}

#[test]
fn total_variation_limits_have_the_values_of_their_table() {
    let table =
        [(5_000, [0.056, 0.077, 0.117]), (20_000, [0.028, 0.038, 0.058]), (100_000, [0.013, 0.017, 0.026])];
    for (n, expected) in table {
        for (k, limit) in [8, 32, 128].into_iter().zip(expected) {
            assert!((tv_limit(k, n, 1e-6) - limit).abs() < 0.0006, "{k} {n}");
        }
    }
}

#[test]
fn draws_from_the_law_pass_and_false_alarms_keep_to_their_rate() {
    let exact = Exact::new(&r1()).sequences().iter().map(|s| s.target).collect::<Vec<_>>();
    let mut alarms = [0; 3];
    let n = 2_000;
    for seed in 0..400 {
        let counts = draws(&exact, n, seed);
        assert!(cell_test(&counts, &exact, 1e-8).is_ok() && tv_test(&counts, &exact, 1e-8).is_ok());
        let mean = counts[0] as f64 / n as f64;
        let at = |r: Result<(), Failure>| usize::from(r.is_err());
        alarms[0] += at(cell_test(&counts, &exact, 0.05));
        alarms[1] += at(tv_test(&counts, &exact, 0.05));
        alarms[2] += at(mean_test(mean, exact[0], n, 0.05));
    }
    // 20 expected at most; 45 has probability under 1e-6.
    assert!(alarms.iter().all(|a| *a <= 45), "{alarms:?}");
}

#[test]
fn wrong_laws_are_caught_with_the_promised_power() {
    let k = 32;
    let law = vec![1.0 / k as f64; k];
    let delta = 0.05;
    let mut wrong = law.clone();
    for pair in wrong.chunks_exact_mut(2) {
        pair[0] += 2.0 * delta / k as f64;
        pair[1] -= 2.0 * delta / k as f64;
    }
    assert!((total_variation(&law, &wrong) - delta).abs() < 1e-12);
    let n = power(k, delta, 1e-6, 1e-6);
    for seed in 0..20 {
        assert!(tv_test(&draws(&wrong, n, seed), &law, 1e-6).is_err());
        assert!(tv_test(&draws(&law, n, seed), &law, 1e-6).is_ok());
    }
}

#[test]
fn one_draw_outside_the_support_fails() {
    assert!(cell_test(&[999_999, 1], &[1.0, 0.0], 1e-6).is_err());
    assert!(tv_test(&[999_999, 1], &[1.0, 0.0], 1e-6).is_err());
    assert!(cell_test(&[10, 10], &[1.0], 1e-6).is_err());
    assert!(cell_test(&[100, 0], &[0.5, 0.5], 1e-6).is_err());
    assert!(mean_test(0.5, 0.6, 10_000, 1e-6).is_err());
    assert!(mean_test(f64::NAN, 0.6, 10_000, 1e-6).is_err());
    let message = cell_test(&[100, 0], &[0.5, 0.5], 1e-6).expect_err("one-sided").to_string();
    assert!(message.contains("expected at most") && message.contains("found"), "{message}");
}
