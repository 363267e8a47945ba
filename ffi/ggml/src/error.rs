//! What the wrapper answers where ggml would abort.

use std::fmt;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Shapes, types, indices or parameters that do not fit the operation.
    Invalid,
    /// The device or this build cannot do it.
    Unsupported,
    /// Memory or threads could not be had.
    OutOfMemory,
    /// The backend reported a failure.
    Failed,
}

/// An error: the operation, and what was expected and found.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    place: &'static str,
    message: String,
}

/// The wrapper's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn invalid(place: &'static str, message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Invalid, place, message: message.into() }
    }

    pub(crate) fn unsupported(place: &'static str, message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Unsupported, place, message: message.into() }
    }

    pub(crate) fn memory(place: &'static str, message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::OutOfMemory, place, message: message.into() }
    }

    pub(crate) fn failed(place: &'static str, message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Failed, place, message: message.into() }
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ggml {}: {}", self.place, self.message)
    }
}

impl std::error::Error for Error {}

/// `Err(Invalid)` with a formatted message unless the condition holds.
macro_rules! ensure {
    ($place:expr, $cond:expr, $($message:tt)*) => {
        let holds: bool = $cond; // a name, for negated float comparisons are NaN traps elsewhere
        if !holds {
            return Err($crate::Error::invalid($place, format!($($message)*)));
        }
    };
}
pub(crate) use ensure;
