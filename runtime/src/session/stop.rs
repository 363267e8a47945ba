//! Stop strings over a stream of text: nothing that may still become a stop string is released.
//!
//! Cost: one comparison per stop string and character boundary in the held tail, which is never longer than
//! the longest stop string.

use super::fence::FenceStop;

/// Finds the first of several strings in a stream and holds back what may still become one.
#[derive(Clone, Debug, Default)]
pub struct StopFilter {
    stops: Vec<String>,
    held: String,
    hit: Option<usize>,
    /// The answer ends with its fence.
    fence: Option<FenceStop>,
    /// Text between the two.
    inside: String,
}

impl StopFilter {
    /// A filter for `stops`; empty strings are ignored.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|s| !s.is_empty()).cloned().collect();
        Self { stops, ..Self::default() }
    }

    /// The same for an answer that ends where its fence is closed.
    #[must_use]
    pub fn in_fence(self) -> Self {
        Self { fence: Some(FenceStop::default()), ..self }
    }

    /// Takes more text; appends to `released` what can no longer be part of a stop string. Once a stop string
    /// is complete, text before it is released and everything from it on is dropped.
    pub fn push(&mut self, text: &str, released: &mut String) {
        if self.hit.is_some() {
            return;
        }
        match &mut self.fence {
            None => self.held.push_str(text),
            Some(fence) => {
                fence.push(text, &mut self.inside);
                self.held.push_str(&self.inside);
                self.inside.clear();
            }
        }
        self.find(released);
        if self.hit() == self.fence.as_ref().and_then(FenceStop::hit) && self.hit().is_some() {
            // the answer is over: what was held is no stop string any more
            released.push_str(&self.held);
            self.held.clear();
        }
    }

    fn find(&mut self, released: &mut String) {
        match self.first_match() {
            Some((at, which)) => {
                released.push_str(&self.held[..at]);
                self.held.clear();
                self.hit = Some(which);
            }
            None => {
                let keep = self.held_from();
                released.push_str(&self.held[..keep]);
                self.held.drain(..keep);
            }
        }
    }

    /// The text ended: what was held is no stop string.
    pub fn finish(&mut self, released: &mut String) {
        if let Some(fence) = &mut self.fence
            && self.hit.is_none()
        {
            fence.finish(&mut self.held);
            self.find(released);
        }
        released.push_str(&self.held);
        self.held.clear();
    }

    /// The stop string that ended the text.
    pub fn hit(&self) -> Option<&str> {
        let fence = || self.fence.as_ref().and_then(FenceStop::hit);
        self.hit.map(|i| self.stops[i].as_str()).or_else(fence)
    }

    /// The match that is complete first, and among those ending together the longest.
    fn first_match(&self) -> Option<(usize, usize)> {
        let found = self.stops.iter().enumerate().filter_map(|(i, s)| self.held.find(s).map(|at| (at, i)));
        found.min_by_key(|&(at, i)| (at + self.stops[i].len(), at))
    }

    /// Where the longest suffix starts that is a proper prefix of a stop string.
    fn held_from(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest.saturating_sub(1));
        (from..self.held.len())
            .filter(|&i| self.held.is_char_boundary(i))
            .find(|&i| self.stops.iter().any(|s| s.starts_with(&self.held[i..])))
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the whole text gives: everything before the stop string that is complete first.
    fn expected(text: &str, stops: &[String]) -> String {
        for end in 0..=text.len() {
            let ended = |s: &String| text.is_char_boundary(end) && text[..end].ends_with(s.as_str());
            if let Some(s) = stops.iter().filter(|s| ended(s)).max_by_key(|s| s.len()) {
                return text[..end - s.len()].to_owned();
            }
        }
        text.to_owned()
    }

    #[test]
    fn any_chunking_gives_what_the_whole_text_gives() {
        let stops: Vec<String> = ["ab", "bba", "é!", "aab"].map(String::from).to_vec();
        let alphabet = ['a', 'b', 'é', '!'];
        for n in 0..4usize.pow(6) {
            let text: String = (0..6).map(|i| alphabet[n / 4usize.pow(i) % 4]).collect();
            for size in 1..4 {
                let mut filter = StopFilter::new(&stops);
                let mut released = String::new();
                let chars: Vec<char> = text.chars().collect();
                for chunk in chars.chunks(size) {
                    filter.push(&chunk.iter().collect::<String>(), &mut released);
                    assert!(expected(&text, &stops).starts_with(&released), "{text}: leaked {released}");
                }
                filter.finish(&mut released);
                assert_eq!(released, expected(&text, &stops), "{text} in chunks of {size}");
            }
        }
    }
}
