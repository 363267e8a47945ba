use super::*;
use crate::oracles::{HashLaw, paged};
use crate::sampling::{Purpose, Random};

const N: usize = 24;

/// Logits after `tokens`, from a fresh model.
fn fresh(tokens: &[TokenId]) -> Vec<f32> {
    let mut lm = paged(HashLaw::new(N), 64, 300, 32).unwrap();
    let branch = lm.root().unwrap();
    lm.eval(&[BatchItem { branch: &branch, tokens, want: Want::Last }]).unwrap();
    lm.row(0).to_vec()
}

/// The rule by its definition, slowly: sets of the k best for k = 1, 2, …
fn naive(rule: &ExpertRule, base: &[f32], expert: &[f32]) -> Vec<f64> {
    let law = |row: &[f32]| -> Vec<f64> {
        let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        row.iter().map(|x| f64::from(*x).exp() / sum).collect()
    };
    let (p, e) = (law(base), law(expert));
    let order = |row: &[f32]| {
        let mut ids: Vec<usize> = (0..row.len()).collect();
        ids.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        ids
    };
    let (a, b) = (order(base), order(expert));
    let k = (1..=N).find(|&k| a[..k].iter().filter(|t| b[..k].contains(t)).count() >= rule.least).unwrap();
    let common: Vec<usize> = a[..k].iter().copied().filter(|t| b[..k].contains(t)).collect();
    let mut out = [0.0; N];
    for t in common {
        out[t] = (p[t] + f64::from(rule.alpha) * (e[t] - p[t])).max(1e-8);
    }
    let sum: f64 = out.iter().sum();
    out.iter().map(|x| x / sum).collect()
}

#[test]
fn mixed_rows_are_those_of_the_definition() {
    for seed in 0..300u64 {
        let draw = |i: u32| Random::new(seed).uniform_at(7, Purpose::Report, i) as f32 * 6.0;
        let row = |from: u32| -> Vec<f32> { (from..from + N as u32).map(draw).collect() };
        let (base, expert) = (row(0), row(100));
        let rule = ExpertRule { alpha: draw(300), n_tokens: 2, least: 1 + (seed % 7) as usize };
        let mut out = vec![0.0; N];
        rule.mix(&base, &expert, &mut out);
        for (found, expected) in out.iter().zip(naive(&rule, &base, &expert)) {
            assert!((f64::from(*found).exp() - expected).abs() < 1e-5, "{seed}: {found} {expected}");
        }
    }
}

/// The rows that a draw of `answer` after `prompt` sees, with cuts and forks in between.
fn rows_of(rule: ExpertRule, prompt: &[TokenId], expert: &[TokenId], answer: &[TokenId]) -> Vec<Vec<f32>> {
    let mut lm = paged(HashLaw::new(N), 64, 300, 32).unwrap();
    let (base, other) = (lm.root().unwrap(), lm.root().unwrap());
    let mut mix = ExpertMix::new(&mut lm, rule).unwrap();
    let branch = Advised::new(base, prompt.len(), Some((other, expert.to_vec())));
    let mut rows = Vec::new();
    let one = |mix: &mut ExpertMix<'_, _>, branch: &Advised<_>, tokens: &[TokenId]| {
        mix.eval(&[BatchItem { branch, tokens, want: Want::Last }]).unwrap();
        mix.row(0).to_vec()
    };
    rows.push(one(&mut mix, &branch, prompt));
    for &token in answer {
        // what is tried on a fork, or cut again, leaves no trace
        let fork = mix.fork(&branch).unwrap();
        one(&mut mix, &fork, &[(token + 1) % 20, 3]);
        rows.push(one(&mut mix, &branch, &[token]));
        one(&mut mix, &branch, &[5, 6]);
        let len = mix.len(&branch) - 2;
        mix.truncate(&branch, len).unwrap();
        // the last row again, as after a backtrack
        mix.truncate(&branch, len - 1).unwrap();
        assert_eq!(&one(&mut mix, &branch, &[token]), rows.last().unwrap());
    }
    // back to the end of the prompt
    mix.truncate(&branch, prompt.len() - 1).unwrap();
    assert_eq!(one(&mut mix, &branch, &prompt[prompt.len() - 1..]), rows[0]);
    rows
}

#[test]
fn the_first_tokens_are_mixed_and_the_rest_is_the_model_alone() {
    let (prompt, expert, answer) = ([1, 2, 3, 4], [9, 9, 8, 2, 3, 4], [5, 6, 7, 8]);
    for n_tokens in 1..=4 {
        let rule = ExpertRule { alpha: 2.0, n_tokens, least: 3 };
        for (place, row) in rows_of(rule, &prompt, &expert, &answer).into_iter().enumerate() {
            let base = fresh(&[&prompt[..], &answer[..place]].concat());
            if place >= n_tokens {
                assert_eq!(row, base, "{n_tokens}: row {place}");
                continue;
            }
            let mut mixed = vec![0.0; N];
            rule.mix(&base, &fresh(&[&expert[..], &answer[..place]].concat()), &mut mixed);
            assert_eq!(row, mixed, "{n_tokens}: row {place}");
        }
    }
}

#[test]
fn a_strength_of_zero_is_off_bit_for_bit() {
    let (prompt, expert, answer) = ([1, 2, 3, 4], [9, 9, 8, 2, 3, 4], [5, 6, 7]);
    for rule in [
        ExpertRule { alpha: 0.0, ..ExpertRule::default() },
        ExpertRule { n_tokens: 0, ..ExpertRule::default() },
    ] {
        for (place, row) in rows_of(rule, &prompt, &expert, &answer).into_iter().enumerate() {
            assert_eq!(row, fresh(&[&prompt[..], &answer[..place]].concat()));
        }
    }
}

#[test]
fn several_requests_of_a_batch_have_their_own_experts() {
    let rule = ExpertRule { alpha: 1.5, n_tokens: 2, least: 2 };
    let mut lm = paged(HashLaw::new(N), 64, 300, 32).unwrap();
    let roots: Vec<_> = (0..5).map(|_| lm.root().unwrap()).collect();
    let [a, b, c, ea, eb]: [_; 5] = roots.try_into().unwrap();
    let mut mix = ExpertMix::new(&mut lm, rule).unwrap();
    let a = Advised::new(a, 2, Some((ea, vec![4, 4])));
    let b = Advised::new(b, 3, Some((eb, vec![7])));
    let c = Advised::new(c, 2, None);
    let item = |branch, tokens, want| BatchItem { branch, tokens, want };
    mix.eval(&[
        item(&a, &[1, 2], Want::Last),
        item(&c, &[3, 2], Want::Last),
        item(&b, &[5, 6, 7, 8], Want::All),
    ])
    .unwrap();
    let mixed = |base: &[TokenId], expert: &[TokenId]| {
        let mut out = vec![0.0; N];
        rule.mix(&fresh(base), &fresh(expert), &mut out);
        out
    };
    assert_eq!(mix.row(0), mixed(&[1, 2], &[4, 4]));
    assert_eq!(mix.row(1), fresh(&[3, 2]));
    assert_eq!(mix.row(2), fresh(&[5]));
    assert_eq!(mix.row(3), fresh(&[5, 6]));
    assert_eq!(mix.row(4), mixed(&[5, 6, 7], &[7]));
    assert_eq!(mix.row(5), mixed(&[5, 6, 7, 8], &[7, 8]));
}
