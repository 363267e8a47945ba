use super::*;
use proptest::prelude::*;

/// Logits with everything in them that a broken model may write.
fn logit() -> impl Strategy<Value = f32> {
    prop_oneof![
        20 => -40f32..40.0,
        2 => Just(0.0), 1 => Just(-0.0), 2 => Just(7.5),
        1 => Just(f32::NEG_INFINITY), 1 => Just(f32::NAN), 1 => Just(f32::MIN), 1 => Just(1e30),
        1 => -200f32..-80.0,
    ]
}

fn row_and_mask() -> impl Strategy<Value = (Vec<f32>, Option<TokenSet>)> {
    (prop_oneof![0usize..70, 1000usize..1100, 2000usize..2200], any::<u64>(), 0u8..4).prop_flat_map(
        |(n, seed, kind)| {
            proptest::collection::vec(logit(), n).prop_map(move |row| {
                let mut mask = (kind > 0).then(|| TokenSet::none(n));
                let mut x = seed | 1;
                for id in 0..n as TokenId {
                    x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let sparse = if kind == 1 { 200 } else { 2 };
                    if let Some(m) = &mut mask
                        && ((x >> 40) % sparse == 0 || kind == 3)
                    {
                        m.insert(id);
                    }
                }
                (row, mask)
            })
        },
    )
}

/// The allowed tokens that are not NaN and not minus infinity.
fn naive_candidates(row: &[f32], mask: Option<&TokenSet>) -> Vec<Candidate> {
    let allowed = |id: TokenId| mask.is_none_or(|m| m.contains(id));
    (0..row.len() as TokenId)
        .map(|id| Candidate { id, logit: row[id as usize] })
        .filter(|c| allowed(c.id) && c.logit > f32::NEG_INFINITY)
        .collect()
}

fn close(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * (1.0 + b.abs())
}

proptest! {
    #[test]
    fn every_instruction_set_gives_the_same_bits((row, mask) in row_and_mask(), scale in 0.01f32..3.0, t in logit()) {
        let w = words(mask.as_ref());
        let (n, s) = (row.len(), scalar::Scalar);
        let m = lanes::max(s, &row, w);
        let mut sums = vec![0.0; n.div_ceil(BLOCK)];
        let mut out = vec![0.0; n];
        let mut found = vec![0; n.div_ceil(64)];
        lanes::exp_sums(s, &row, w, m, scale, &mut sums);
        lanes::exp_into(s, &row, w, m, scale, &mut out);
        lanes::above(s, &row, t, false, &mut found);
        let entropy = lanes::entropy_sums(s, &row, w, m, scale);
        let moments = [false, true].map(|sq| lanes::moment(s, &row, w, 0.5, sq));
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let bits64 = |v: &[f64]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for isa in Isa::available() {
            let mut sums2 = vec![1.0; sums.len()];
            let mut out2 = vec![1.0; n];
            let mut found2 = vec![1; found.len()];
            prop_assert_eq!(dispatch!(isa, max(&row, w)).to_bits(), m.to_bits());
            dispatch!(isa, exp_sums(&row, w, m, scale, &mut sums2));
            prop_assert_eq!(bits64(&sums2), bits64(&sums));
            dispatch!(isa, exp_into(&row, w, m, scale, &mut out2));
            prop_assert_eq!(bits(&out2), bits(&out));
            dispatch!(isa, above(&row, t, false, &mut found2));
            prop_assert_eq!(&found2, &found);
            let e2 = dispatch!(isa, entropy_sums(&row, w, m, scale));
            prop_assert_eq!(bits64(&[e2.0, e2.1]), bits64(&[entropy.0, entropy.1]));
            for sq in [false, true] {
                let (sum, n) = dispatch!(isa, moment(&row, w, 0.5, sq));
                let (sum1, n1) = moments[usize::from(sq)];
                prop_assert_eq!((sum.to_bits(), n), (sum1.to_bits(), n1));
            }
        }
    }

    #[test]
    fn maximum_and_argmax_are_those_of_a_plain_loop((row, mask) in row_and_mask()) {
        let mask = mask.as_ref();
        let all = naive_candidates(&row, mask);
        let mut best: Option<Candidate> = None;
        for c in &all {
            if best.is_none_or(|b| c.logit > b.logit) {
                best = Some(*c);
            }
        }
        prop_assert_eq!(argmax(&row, mask), best.map(|c| c.id));
        prop_assert_eq!(max(&row, mask), best.map_or(f32::NEG_INFINITY, |c| c.logit));
    }

    #[test]
    fn softmax_is_that_of_double_precision((row, mask) in row_and_mask()) {
        let mask = mask.as_ref();
        let all = naive_candidates(&row, mask);
        let m = all.iter().fold(f64::NEG_INFINITY, |m, c| m.max(f64::from(c.logit)));
        let total: f64 = all.iter().map(|c| (f64::from(c.logit) - m).exp()).sum();
        let mut scratch = vec![0.0; row.len().div_ceil(BLOCK)];
        let mut probs = vec![9.0; row.len()];
        let lse = log_sum_exp(&row, mask, &mut scratch);
        let some = softmax(&row, mask, &mut probs, &mut scratch);
        prop_assert_eq!(some, !all.is_empty());
        if some {
            prop_assert!(close(lse, m + total.ln(), 1e-6), "{} {}", lse, m + total.ln());
            // Entropy of the same law, by its definition.
            let p = |c: &Candidate| (f64::from(c.logit) - m).exp() / total;
            let h: f64 = all.iter().map(&p).filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum();
            let (w, wd) = entropy_sums(&row, mask, m as f32, 1.0);
            prop_assert!(close(w.ln() - wd / w, h, 1e-5));
        }
        let mut expect = vec![0.0; row.len()];
        for c in &all {
            expect[c.id as usize] = (f64::from(c.logit) - m).exp() / total;
        }
        for (p, e) in probs.iter().zip(&expect) {
            // The exponent is rounded to f32, so the relative error of a tail grows with its depth.
            let depth = if *e > 0.0 { e.ln().abs() } else { 0.0 };
            let bound = (2e-6 + 2.0 * f64::from(f32::EPSILON) * depth) * e + 1e-30;
            prop_assert!((f64::from(*p) - e).abs() <= bound, "{} {}", p, e);
        }
    }

    #[test]
    fn moments_skip_what_is_not_finite((row, mask) in row_and_mask(), shift in -3f32..3.0) {
        let mask = mask.as_ref();
        let all: Vec<f32> = naive_candidates(&row, mask).iter().map(|c| c.logit).filter(|x| x.abs() < 1e20).collect();
        let row: Vec<f32> = row.iter().map(|x| if x.abs() < 1e20 { *x } else { f32::NAN }).collect();
        let (sum, n) = moment(&row, mask, shift, true);
        let expect: f64 = all.iter().map(|x| f64::from(x - shift).powi(2)).sum();
        prop_assert_eq!(n as usize, all.len());
        prop_assert!(close(sum, expect, 1e-5));
    }

    #[test]
    fn selection_is_that_of_a_full_sort((row, mask) in row_and_mask(), k in 0usize..300, t in logit()) {
        let mask = mask.as_ref();
        let mut all = naive_candidates(&row, mask);
        let mut got = Vec::new();
        collect_above(&row, mask, t, &mut got);
        let expect: Vec<_> = all.iter().copied().filter(|c| c.logit >= t).collect();
        prop_assert_eq!(&got, &expect);
        // A stable sort by logit alone: ids ascend among equals.
        all.sort_by(|a, b| b.logit.partial_cmp(&a.logit).expect("no NaN"));
        all.truncate(k);
        got.clear();
        top_k(&row, mask, k, &mut got);
        prop_assert_eq!(got, all);
    }
}

#[test]
fn exponential_is_accurate_to_a_quarter_millionth_part() {
    let (mut worst, mut n) = (0f64, 0);
    let mut x = -86.99f32;
    while x <= 0.0 {
        let exact = f64::from(x).exp();
        worst = worst.max((f64::from(exp_one(x)) / exact - 1.0).abs());
        x += 0.000_37;
        n += 1;
    }
    assert!(n > 200_000 && worst < 2.5e-7, "{n} {worst}");
    assert_eq!(
        [exp_one(0.0), exp_one(-88.0), exp_one(f32::NAN), exp_one(f32::NEG_INFINITY)],
        [1.0, 0.0, 0.0, 0.0]
    );
}

#[test]
fn padding_weighs_nothing() {
    for n in [1, 15, 63, 64, 65, 1023, 1024, 1025] {
        let row = vec![0.0; n];
        let mut sums = vec![0.0; n.div_ceil(BLOCK)];
        assert_eq!(exp_sums(&row, None, 0.0, 1.0, &mut sums), n as f64);
        let mut found = vec![0; n.div_ceil(64)];
        above(&row, f32::NEG_INFINITY, false, &mut found);
        assert_eq!(found.iter().map(|w| w.count_ones() as usize).sum::<usize>(), n);
    }
}
