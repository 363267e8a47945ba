//! Opening a model: one file, the parts of a split one, a buffer, or a range of a file.

use super::backing::{Backing, io};
use super::cursor::Shown;
use super::header::{self, Extent, Header};
use super::split::{Split, part_names};
use super::{Metadata, Tensor};
use crate::error::{Error, ErrorKind, Result};
use hashbrown::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A validated GGUF model. Nothing is copied: tensors and long arrays lie in the map.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    version: u32,
    alignment: usize,
    metadata: Metadata,
    tensors: Vec<Tensor>,
    index: HashMap<Arc<str>, usize>,
    shards: Vec<Shard>,
}

/// One file of a model.
pub(super) struct Shard {
    pub extent: Extent,
    pub data_start: usize,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} bytes, data at {}", self.extent.origin, self.extent.len, self.data_start)
    }
}

impl GgufFile {
    /// Maps the file at `path` and proves its header sane; of a split model, any part opens all of them.
    ///
    /// Costs a walk over the header (a few milliseconds for a vocabulary of 262 144 tokens), nothing for the
    /// weights. The file must not be truncated or rewritten while it is open (see the module's head).
    /// # Errors  `Io` for a file that cannot be read; `BadFile` naming file, offset and field for a damaged
    /// one; `Unsupported` for a format version or byte order that is not read.
    pub fn open(path: &Path) -> Result<Self> {
        let (mut first, mut shard) = open_part(path)?;
        let split = Split::read(&first.metadata)?;
        if split.count == 1 {
            return Self::assemble(path, first, vec![shard], vec![]);
        }
        let names = part_names(path, split).map_err(|e| e.at(path.display().to_string()))?;
        if split.no != 0 {
            (first, shard) = open_part(&names.part(0))?;
            check_part(&first.metadata, split, 0)?;
        }
        let mut shards = vec![shard];
        let mut more = Vec::new();
        for no in 1..split.count {
            let (header, shard) = open_part(&names.part(no)).map_err(|e| {
                e.at(format!("part {} of the {} that {} is split into", no + 1, split.count, path.display()))
            })?;
            check_part(&header.metadata, split, no)?;
            more.extend(header.tensors);
            shards.push(shard);
        }
        let file = Self::assemble(path, first, shards, more)?;
        match split.n_tensors {
            Some(n) if n != file.tensors.len() => {
                let found = file.tensors.len();
                Err(file
                    .metadata
                    .bad("split.tensors.count", format!("expected {n} tensors in all parts, found {found}")))
            }
            _ => Ok(file),
        }
    }

    /// Reads a whole model that lies in memory; `name` stands for the file in messages. The bytes are copied
    /// once, to an aligned buffer.
    /// # Errors  As [`open`](Self::open); `OutOfMemory`.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self> {
        Self::from_backing(name, Backing::copy(bytes)?, 0, bytes.len())
    }

    /// Reads a whole model of `len` bytes through `read`, which gets an offset and where to put what lies there,
    /// and says how many bytes of it it has put. All of it is kept in memory; `name` stands for the file in messages.
    /// # Errors  As [`open`](Self::open); `OutOfMemory`; `Io` if `read` fails or delivers nothing.
    pub fn from_reader(
        name: &str,
        len: u64,
        mut read: impl FnMut(u64, &mut [u8]) -> std::io::Result<usize>,
    ) -> Result<Self> {
        let len = usize::try_from(len)
            .map_err(|e| Error::new(ErrorKind::OutOfMemory, format!("{len} bytes")).because(e).at(name))?;
        let backing = Backing::read(len, &mut read).map_err(|e| e.at(name))?;
        Self::from_backing(name, backing, 0, len)
    }

    /// Maps `len` bytes at `offset` of an open file, as they come from a package or an asset; `name` stands
    /// for the file in messages. Weights are used in place, so `offset` must be a multiple of 4.
    /// # Errors  As [`open`](Self::open); `InvalidArgument` for another `offset`.
    pub fn from_file_range(name: &str, file: &File, offset: u64, len: u64) -> Result<Self> {
        if !offset.is_multiple_of(4) {
            let message = format!("expected an offset that is a multiple of 4, found {offset}");
            return Err(Error::new(ErrorKind::InvalidArgument, message).at(name));
        }
        let mapped = Backing::map(file, offset, len).map_err(|e| e.at(name))?;
        // `map` has shown that `len` fits.
        Self::from_backing(name, mapped.0, mapped.1, len as usize)
    }

    fn from_backing(name: &str, backing: Backing, base: usize, len: usize) -> Result<Self> {
        let extent = Extent { backing: Arc::new(backing), base, len, origin: name.into() };
        let header = header::read(&extent)?;
        let split = Split::read(&header.metadata)?;
        if split.count > 1 {
            let message =
                format!("one part of a model split into {} cannot be opened without its path", split.count);
            return Err(Error::new(ErrorKind::Unsupported, message).at(name));
        }
        let path = PathBuf::from(name);
        let shard = Shard { extent, data_start: header.data_start };
        Self::assemble(&path, header, vec![shard], vec![])
    }

    fn assemble(path: &Path, first: Header, shards: Vec<Shard>, more: Vec<Tensor>) -> Result<Self> {
        let Header { version, alignment, metadata, mut tensors, .. } = first;
        tensors.extend(more);
        let mut index = HashMap::with_capacity(tensors.len());
        for (i, t) in tensors.iter().enumerate() {
            if index.insert(t.name.clone(), i).is_some() {
                let place = format!("{}: tensor {}", path.display(), Shown(t.name.as_bytes()));
                return Err(Error::new(ErrorKind::BadFile, "duplicate tensor in different parts").at(place));
            }
        }
        Ok(Self { path: path.to_path_buf(), version, alignment, metadata, tensors, index, shards })
    }

    /// The path given to `open`, or the name given with a buffer or range.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Format version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Number of files.
    pub fn n_shards(&self) -> usize {
        self.shards.len()
    }

    /// Bytes of all files together.
    pub fn size_bytes(&self) -> u64 {
        self.shards.iter().map(|s| s.extent.len as u64).sum()
    }

    /// `general.alignment`, in bytes: the offset of every tensor in its file is a multiple of it (of the first
    /// part's, in a split model). Addresses are, too, up to the page size, except for a range of a file.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// The metadata (of the first part).
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name).and_then(|i| self.tensors.get(*i))
    }

    /// All tensors, in file order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &Tensor> {
        self.tensors.iter()
    }

    /// A `BadFile` error about the tensor called `name`, which may be missing: names file, offset and tensor.
    pub fn bad_tensor(&self, name: &str, message: impl Into<String>) -> Error {
        let shown = Shown(name.as_bytes());
        let place = match self.tensor(name) {
            Some(t) => format!("offset {}: tensor {shown}", t.data.offset()),
            None => format!("tensor {shown}"),
        };
        Error::new(ErrorKind::BadFile, message).at(place).at(self.path.display().to_string())
    }

    pub(super) fn shards(&self) -> &[Shard] {
        &self.shards
    }
}

/// Maps and reads one file.
fn open_part(path: &Path) -> Result<(Header, Shard)> {
    let origin: Arc<str> = path.display().to_string().into();
    let (backing, len) = map_file(path).map_err(|e| e.at(&*origin))?;
    let extent = Extent { backing: Arc::new(backing), base: 0, len, origin };
    let header = header::read(&extent)?;
    let shard = Shard { extent, data_start: header.data_start };
    Ok((header, shard))
}

fn map_file(path: &Path) -> Result<(Backing, usize)> {
    // Looked at before it is opened: opening a named pipe would wait for its writer.
    let found = fs::metadata(path).map_err(|e| io("cannot read the file", e))?;
    if !found.is_file() {
        let what = if found.is_dir() { "a folder" } else { "a device or pipe" };
        return Err(Error::new(ErrorKind::Io, format!("expected a file, found {what}")));
    }
    let file = File::open(path).map_err(|e| io("cannot open the file", e))?;
    let size = file.metadata().map_err(|e| io("cannot read the file's length", e))?.len();
    if size == 0 {
        return Err(Error::new(ErrorKind::BadFile, "the file is empty: truncated before the magic")
            .at("offset 0: magic"));
    }
    let (backing, _) = Backing::map(&file, 0, size)?;
    let len = backing.len();
    Ok((backing, len))
}

/// Checks that a part says the same as the one that was opened first.
fn check_part(metadata: &Metadata, expected: Split, no: usize) -> Result<()> {
    let found = Split::read(metadata)?;
    if found.count != expected.count {
        return Err(metadata.bad(
            "split.count",
            format!("expected {} as in the other parts, found {}", expected.count, found.count),
        ));
    }
    if found.no != no {
        return Err(
            metadata.bad("split.no", format!("expected {no} as the file's name says, found {}", found.no))
        );
    }
    Ok(())
}
