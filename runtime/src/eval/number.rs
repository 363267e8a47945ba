//! The number that a worked answer ends with.

/// The last number of `text`, in a form that equal numbers share: no thousands separators, no plus sign, no zeros that
/// say nothing. `None` without a digit. This is the exact match of the word-problem benchmark, whose answers are
/// whole numbers and decimals.
/// Source: Cobbe et al. 2021, arXiv 2110.14168.
pub fn last_number(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let end = bytes.iter().rposition(u8::is_ascii_digit)? + 1;
    let is_part = |at: usize| match bytes[at] {
        b'0'..=b'9' => true,
        // between digits only: a sentence may end in one
        b'.' | b',' => at > 0 && bytes[at - 1].is_ascii_digit() && bytes[at + 1].is_ascii_digit(),
        _ => false,
    };
    let start = (0..end).rev().take_while(|at| is_part(*at)).last()?;
    let digits: String = text[start..end].chars().filter(|c| *c != ',').collect();
    // more than one point is a list or a version: its last part is the number
    let digits = match digits.matches('.').count() {
        0 | 1 => digits.as_str(),
        _ => digits.rsplit('.').next()?,
    };
    let before = text[..start].trim_end_matches('$');
    let is_negative =
        before.ends_with('-') && !before[..before.len() - 1].ends_with(|c: char| c.is_alphanumeric());
    Some(plain(digits, is_negative))
}

fn plain(digits: &str, is_negative: bool) -> String {
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let (whole, part) = (whole.trim_start_matches('0'), part.trim_end_matches('0'));
    let whole = if whole.is_empty() { "0" } else { whole };
    let number = if part.is_empty() { whole.to_owned() } else { format!("{whole}.{part}") };
    if is_negative && number != "0" { format!("-{number}") } else { number }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_counts_however_it_is_written() {
        for (text, number) in [
            ("So 3 + 4 = 7.", Some("7")),
            ("Answer: $1,250.00", Some("1250")),
            ("It costs 0.50 dollars", Some("0.5")),
            ("#### -3", Some("-3")),
            ("He loses 10-3 = 7, that is 7", Some("7")),
            ("pages 10-12", Some("12")),
            ("From 007", Some("7")),
            ("1, 2, and 3", Some("3")),
            ("20,000 people", Some("20000")),
            ("no digits here", None),
            ("", None),
            ("-0", Some("0")),
            ("1.2.3", Some("3")),
            ("é5é", Some("5")),
        ] {
            assert_eq!(last_number(text).as_deref(), number, "{text:?}");
        }
    }
}
