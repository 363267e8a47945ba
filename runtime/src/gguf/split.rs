//! Models split over several files, `NAME-00001-of-0000N.gguf`.
//!
//! The first file holds the metadata; each has `split.no` (from 0), `split.count` and, for the whole model,
//! `split.tensors.count`.

use super::Metadata;
use super::cursor::Shown;
use crate::error::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// What a file says about being part of a split model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// This part's number, from 0.
    pub no: usize,
    /// Number of parts, at least 1.
    pub count: usize,
    /// Tensors of the whole model.
    pub n_tensors: Option<usize>,
}

impl Split {
    /// The keys of `metadata`; a file without them is a whole model.
    /// # Errors  `BadFile` when they contradict each other.
    pub(super) fn read(metadata: &Metadata) -> Result<Self> {
        let count = metadata.u32("split.count")?.unwrap_or(0);
        if count == 0 {
            return Ok(Self { no: 0, count: 1, n_tensors: None });
        }
        let no = metadata.require_u32("split.no")?;
        if count > 99_999 {
            return Err(metadata.bad("split.count", format!("expected at most 99999 files, found {count}")));
        }
        if no >= count {
            return Err(
                metadata.bad("split.no", format!("expected a number below split.count {count}, found {no}"))
            );
        }
        let n_tensors = metadata.u32("split.tensors.count")?.map(|n| n as usize);
        Ok(Self { no: no as usize, count: count as usize, n_tensors })
    }
}

/// The name of a part, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PartName {
    /// Path up to and without `-00001-of-0000N.gguf`.
    prefix: PathBuf,
    /// This part's number, from 0.
    pub no: usize,
    pub count: usize,
}

impl PartName {
    /// Takes `path` apart; `None` if it does not end in `-00001-of-0000N.gguf`.
    pub(super) fn parse(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = name.rsplit_once("-of-")?;
        let (prefix, no) = rest.rsplit_once('-')?;
        let (no, count) = (five_digits(no)?, five_digits(count)?);
        (1 <= no && no <= count).then(|| Self { prefix: path.with_file_name(prefix), no: no - 1, count })
    }

    /// The path of part `no`, counted from 0.
    pub(super) fn part(&self, no: usize) -> PathBuf {
        let mut path = self.prefix.clone().into_os_string();
        path.push(format!("-{:05}-of-{:05}.gguf", no + 1, self.count));
        path.into()
    }
}

fn five_digits(text: &str) -> Option<usize> {
    (text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// The names of all parts of the model that `path`, whose header says `split`, belongs to.
/// # Errors  `BadFile` when the file's name and its header disagree.
pub(super) fn part_names(path: &Path, split: Split) -> Result<PartName> {
    let expected = || format!("-{:05}-of-{:05}.gguf", split.no + 1, split.count);
    let named = PartName::parse(path).filter(|n| n.no == split.no && n.count == split.count);
    named.ok_or_else(|| {
        let found = path.file_name().unwrap_or_default();
        let message = format!(
            "the file is part {} of {}: expected a name that ends in {}, found {}",
            split.no + 1,
            split.count,
            expected(),
            Shown(found.as_encoded_bytes()),
        );
        Error::new(ErrorKind::BadFile, message).at("split.no")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_names_are_taken_apart_and_put_together() {
        let name = PartName::parse(Path::new("/m/a-b-00002-of-00011.gguf")).unwrap();
        assert_eq!((name.no, name.count), (1, 11));
        assert_eq!(name.part(10), Path::new("/m/a-b-00011-of-00011.gguf"));
        for no in [
            "m.gguf",
            "m-00001-of-00002",
            "m-1-of-2.gguf",
            "m-00003-of-00002.gguf",
            "m-00000-of-00002.gguf",
            "m-0000+-of-00002.gguf",
        ] {
            assert_eq!(PartName::parse(Path::new(no)), None, "{no}");
        }
    }
}
