//! Where an answer ends that the prompt has put into a fence of three backticks, as in-context alignment does.
//!
//! The answer ends at the bare fence that closes the prompt's, or at a line that is the next query's marker. Fences
//! with a word behind them open inner ones, which bare ones close, so code in answers survives; so does a heading
//! that merely begins like the marker. Held back: a line that may still become either, and white space that may be
//! the end. Cost: a comparison a line.
//! Source: the layout of URIAL, Lin et al. 2024, arXiv 2312.01552; the rules are this project's.

const FENCE: &str = "```";
/// The line before a query.
pub const QUERY_MARKER: &str = "# Query:";
/// The line before an answer.
pub const ANSWER_MARKER: &str = "# Answer:";

/// Finds the end of a fenced answer in a stream of text.
#[derive(Clone, Debug, Default)]
pub struct FenceStop {
    /// The unfinished last line, as far as it is not passed on.
    line: String,
    /// Whether the beginning of that line was passed on: then it is no marker.
    is_begun: bool,
    /// White space that is passed on if more text follows.
    space: String,
    /// Inner fences that are open.
    depth: u32,
    hit: Option<&'static str>,
}

/// What a finished line is.
enum Line {
    Text,
    Opens,
    Closes,
    Ends(&'static str),
}

impl FenceStop {
    /// What ended the answer.
    pub fn hit(&self) -> Option<&'static str> {
        self.hit
    }

    /// Takes more text; appends to `passed` what belongs to the answer whatever follows.
    pub fn push(&mut self, text: &str, passed: &mut String) {
        for part in text.split_inclusive('\n') {
            if self.hit.is_some() {
                return;
            }
            self.line.push_str(part);
            if part.ends_with('\n') {
                self.end_line(passed);
            } else if !self.may_be_marker() {
                self.is_begun = true;
                let line = std::mem::take(&mut self.line);
                self.pass(&line, passed);
            }
        }
    }

    /// The text is over; so is its last line.
    pub fn finish(&mut self, passed: &mut String) {
        if self.hit.is_none() {
            self.end_line(passed);
        }
        self.space.clear();
    }

    fn end_line(&mut self, passed: &mut String) {
        let line = std::mem::take(&mut self.line);
        match self.kind(&line) {
            Line::Ends(what) => {
                self.hit = Some(what);
                self.space.clear();
                return;
            }
            Line::Opens => self.depth += 1,
            Line::Closes => self.depth -= 1,
            Line::Text => {}
        }
        self.is_begun = false;
        self.pass(&line, passed);
    }

    fn kind(&self, line: &str) -> Line {
        let line = line.trim_end();
        match line.strip_prefix(FENCE) {
            _ if self.is_begun => Line::Text,
            Some("") if self.depth == 0 => Line::Ends(FENCE),
            Some("") => Line::Closes,
            Some(info) if !info.contains('`') => Line::Opens,
            None if line == QUERY_MARKER && self.depth == 0 => Line::Ends(QUERY_MARKER),
            _ => Line::Text,
        }
    }

    /// Whether the unfinished line may still become a fence or a marker.
    fn may_be_marker(&self) -> bool {
        let line = self.line.as_str();
        let begins = |marker: &str| marker.starts_with(line) || line.trim_end() == marker;
        // a fence with a word behind it is held to its end: it changes the depth
        !self.is_begun && (begins(FENCE) || begins(QUERY_MARKER) || line.starts_with(FENCE))
    }

    /// Passes `text` on, but for white space at its end.
    fn pass(&mut self, text: &str, passed: &mut String) {
        let kept = text.trim_end();
        if kept.is_empty() {
            self.space.push_str(text);
            return;
        }
        passed.push_str(&self.space);
        passed.push_str(kept);
        self.space.clear();
        self.space.push_str(&text[kept.len()..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str, size: usize) -> (String, Option<&'static str>) {
        let (mut stop, mut passed) = (FenceStop::default(), String::new());
        let chars: Vec<char> = text.chars().collect();
        for chunk in chars.chunks(size) {
            stop.push(&chunk.iter().collect::<String>(), &mut passed);
        }
        stop.finish(&mut passed);
        (passed, stop.hit())
    }

    #[test]
    fn answers_end_where_they_should_however_they_come() {
        let code = "Here:\n```rust\nfn main() {}\n```\nDone.";
        for (text, answer, hit) in [
            ("Hello!\n\nBye.\n```\n\n# Query:\n```\nmore", "Hello!\n\nBye.", Some(FENCE)),
            ("Hello!\n```", "Hello!", Some(FENCE)),
            (&format!("{code}\n```\nrest"), code, Some(FENCE)),
            (
                "# Query planner\nis a part.\n# Query: not this\nend",
                "# Query planner\nis a part.\n# Query: not this\nend",
                None,
            ),
            ("Text\n\n# Query:  \n```\nx", "Text", Some(QUERY_MARKER)),
            ("```python\n# Query:\n```\nok\n```\n", "```python\n# Query:\n```\nok", Some(FENCE)),
            ("a ``` b\n ```\nc", "a ``` b\n ```\nc", None),
            ("no end  \n\n", "no end", None),
            ("", "", None),
        ] {
            for size in 1..=text.len().max(1) {
                assert_eq!(run(text, size), (answer.to_owned(), hit), "{text:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn nothing_is_passed_that_may_be_an_end() {
        let text = "One.\n```\n";
        for n in 0..=text.len() {
            let (mut stop, mut passed) = (FenceStop::default(), String::new());
            stop.push(&text[..n], &mut passed);
            assert!("One.".starts_with(&passed), "{n}: {passed:?}");
        }
    }
}
