//! One error type for the library: an open kind, what was expected, what was found, and where.

use std::fmt;

/// What went wrong, as a caller may want to branch on it. Each kind has a stable C code (`code`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument is outside its documented range.
    InvalidArgument,
    /// Reading or writing a file failed.
    Io,
    /// A model or data file is damaged or not what it claims to be.
    BadFile,
    /// The file is sound but asks for something this build does not do.
    Unsupported,
    /// A prompt or batch does not fit the context.
    ContextFull,
    /// No key-value page is left.
    KvExhausted,
    /// Memory could not be had.
    OutOfMemory,
    /// Two parts that must share a vocabulary do not.
    VocabMismatch,
    /// The text cannot be written with this vocabulary.
    Unencodable,
    /// A chat template failed or is missing.
    Template,
    /// A profile or constraint is malformed.
    BadProfile,
    /// A constraint cannot be satisfied.
    Unsatisfiable,
    /// A constraint needs more states, memory or draws than allowed.
    TooComplex,
    /// The caller cancelled.
    Cancelled,
    /// The executor failed.
    Backend,
    /// A bug in truing: an invariant did not hold.
    Internal,
    /// A reward gave no usable number, or a model lacks what the reward needs.
    Reward,
    /// A probe or vector was made for another model, quantisation, template or set of adapters.
    ProbeMismatch,
    /// Too few examples for the false-alarm rate asked for.
    CalibrationTooSmall,
    /// No strength of a control vector helps enough for what it costs.
    NoUsefulRegime,
}

impl ErrorKind {
    /// The stable number of this kind in the C ABI.
    pub const fn code(self) -> i32 {
        match self {
            Self::InvalidArgument => 1,
            Self::Io => 2,
            Self::BadFile => 3,
            Self::Unsupported => 4,
            Self::ContextFull => 5,
            Self::KvExhausted => 6,
            Self::OutOfMemory => 7,
            Self::VocabMismatch => 8,
            Self::Unencodable => 9,
            Self::Template => 10,
            Self::BadProfile => 11,
            Self::Unsatisfiable => 12,
            Self::TooComplex => 13,
            Self::Cancelled => 14,
            Self::Backend => 15,
            Self::Internal => 16,
            Self::Reward => 17,
            Self::ProbeMismatch => 18,
            Self::CalibrationTooSmall => 19,
            Self::NoUsefulRegime => 20,
        }
    }
}

/// An error of the library. `Display` is one line: where, what was expected, what was found.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    context: Vec<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with a message that says what was expected and what was found.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), context: Vec::new(), source: None }
    }

    /// Puts `place` (a file, a key, a clause) before the message; the outermost comes first. A place that is
    /// the outermost already is not repeated.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        let place = place.into();
        if self.context.last() != Some(&place) {
            self.context.push(place);
        }
        self
    }

    /// Keeps the underlying error.
    #[must_use]
    pub fn because(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in self.context.iter().rev() {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.message)?;
        match &self.source {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|s| &**s as _)
    }
}

/// Adds a place to the error of a `Result`.
pub trait ResultExt<T> {
    /// As [`Error::at`], computed only on failure.
    fn at<S: Into<String>>(self, place: impl FnOnce() -> S) -> Result<T>;
}

impl<T> ResultExt<T> for Result<T> {
    fn at<S: Into<String>>(self, place: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| e.at(place()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_from_the_outside_in() {
        let e =
            Error::new(ErrorKind::BadFile, "expected 3, found 4").at("tensor a").at("m.gguf").at("m.gguf");
        assert_eq!(e.to_string(), "m.gguf: tensor a: expected 3, found 4");
    }
}
