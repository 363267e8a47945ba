//! `strftime_now`: the date for templates that tell it to the model. In UTC, as the standard library knows no time
//! zones.

use super::budget::{Budget, Run};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// A moment by calendar and clock.
struct Moment {
    year: i64,
    /// From 0.
    month: usize,
    /// From 1.
    day: i64,
    /// From 0 for Monday.
    weekday: usize,
    /// From 1.
    day_of_year: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

impl Moment {
    /// Source of the calendar arithmetic: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms" (days to
    /// civil): years start in March, eras are 400 years.
    fn at(seconds: i64) -> Self {
        let days = seconds.div_euclid(86_400);
        let clock = seconds.rem_euclid(86_400);
        let shifted = days.saturating_add(719_468);
        let era = shifted.div_euclid(146_097);
        let of_era = shifted.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let from_march = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * from_march + 2) / 153;
        let month = if march_month < 10 { march_month + 2 } else { march_month - 10 };
        let year = year_of_era + era * 400 + i64::from(month < 2);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let before_march = 59 + i64::from(leap);
        let day_of_year = if month >= 2 { from_march + before_march } else { from_march - 306 };
        Self {
            year,
            month: month as usize,
            day: from_march - (153 * march_month + 2) / 5 + 1,
            weekday: (days + 3).rem_euclid(7) as usize,
            day_of_year: day_of_year + 1,
            hour: clock / 3600,
            minute: clock / 60 % 60,
            second: clock % 60,
        }
    }

    /// The text of one directive; `None` if there is no such.
    fn directive(&self, letter: char, padded: bool) -> Option<String> {
        let two = |n: i64| if padded { format!("{n:02}") } else { n.to_string() };
        let month = MONTHS.get(self.month).copied().unwrap_or("");
        let day = DAYS.get(self.weekday).copied().unwrap_or("");
        let hour12 = (self.hour + 11) % 12 + 1;
        Some(match letter {
            'Y' => self.year.to_string(),
            'y' => two(self.year.rem_euclid(100)),
            'm' => two(self.month as i64 + 1),
            'd' => two(self.day),
            'e' => format!("{:>2}", self.day),
            'B' => month.to_owned(),
            'b' | 'h' => month[..3].to_owned(),
            'A' => day.to_owned(),
            'a' => day[..3].to_owned(),
            'H' => two(self.hour),
            'I' => two(hour12),
            'M' => two(self.minute),
            'S' => two(self.second),
            'p' => if self.hour < 12 { "AM" } else { "PM" }.to_owned(),
            'j' => {
                if padded {
                    format!("{:03}", self.day_of_year)
                } else {
                    self.day_of_year.to_string()
                }
            }
            'u' => (self.weekday + 1).to_string(),
            'w' => ((self.weekday + 1) % 7).to_string(),
            'f' => "000000".to_owned(),
            'Z' => "UTC".to_owned(),
            'z' => "+0000".to_owned(),
            'F' => format!("{}-{:02}-{:02}", self.year, self.month + 1, self.day),
            'T' | 'X' => format!("{:02}:{:02}:{:02}", self.hour, self.minute, self.second),
            'D' | 'x' => format!("{:02}/{:02}/{:02}", self.month + 1, self.day, self.year.rem_euclid(100)),
            'R' => format!("{:02}:{:02}", self.hour, self.minute),
            'c' => format!(
                "{} {} {:>2} {:02}:{:02}:{:02} {}",
                &day[..3],
                &month[..3],
                self.day,
                self.hour,
                self.minute,
                self.second,
                self.year
            ),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            '%' => "%".to_owned(),
            _ => return None,
        })
    }
}

/// C's `strftime` for `seconds` since 1970. Unknown directives stay as they are.
pub(super) fn format(budget: &Budget, format: &str, seconds: i64) -> Run<String> {
    budget.alloc(format.len().saturating_mul(16))?;
    let moment = Moment::at(seconds.clamp(-62_135_596_800, 253_402_300_799)); // years 1 to 9999
    let mut out = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let code = &rest[at + 1..];
        let (padded, letter_at) = if code.starts_with('-') { (false, 1) } else { (true, 0) };
        let letter = code[letter_at..].chars().next();
        match letter.and_then(|c| Some((c, moment.directive(c, padded)?))) {
            Some((c, text)) => {
                out.push_str(&text);
                rest = &code[letter_at + c.len_utf8()..];
            }
            None => {
                out.push('%');
                rest = code;
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, seconds: i64) -> String {
        format(&Budget::for_input(0), text, seconds).unwrap()
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let cases = [
            (0, "1970-01-01 Thursday 001 00:00:00"),
            (951_782_399, "2000-02-28 Monday 059 23:59:59"),
            (951_782_400, "2000-02-29 Tuesday 060 00:00:00"),
            (951_868_800, "2000-03-01 Wednesday 061 00:00:00"),
            (1_741_944_413, "2025-03-14 Friday 073 09:26:53"),
            (-1, "1969-12-31 Wednesday 365 23:59:59"),
            (4_107_542_400, "2100-03-01 Monday 060 00:00:00"),
            (1_735_603_200, "2024-12-31 Tuesday 366 00:00:00"),
        ];
        for (seconds, text) in cases {
            assert_eq!(shown("%Y-%m-%d %A %j %H:%M:%S", seconds), text);
        }
        assert_eq!(
            shown("%d %b %Y, %-d %B, %I:%M %p %y%%", 1_741_944_413),
            "14 Mar 2025, 14 March, 09:26 AM 25%"
        );
        assert_eq!(shown("%Q % %-", 0), "%Q % %-");
        assert_eq!(shown("%Y %Y", i64::MIN), "1 1");
    }
}
