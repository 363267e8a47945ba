//! Storage of keys and values: anonymous memory that costs nothing until it is written.

use super::kernels::{HeadShape, packed_page_bytes};
use crate::error::{Error, ErrorKind, Result};
use memmap2::MmapMut;

/// Bytes of the record of one head in one page.
pub fn record_bytes(shape: HeadShape, packed: bool) -> usize {
    let bytes = if packed { packed_page_bytes(shape) } else { shape.page_bytes() };
    bytes.next_multiple_of(64)
}

/// Pages of all layers. A page of one key-value head is one record, see `kernels::attention` and `kernels::kv8`.
#[derive(Debug)]
pub struct KvStore {
    map: MmapMut,
    layers: Vec<LayerStore>,
    n_pages: usize,
    packed: bool,
}

#[derive(Clone, Copy, Debug)]
struct LayerStore {
    from: usize,
    record: usize,
    n_heads: usize,
}

impl KvStore {
    /// Room for `n_pages` pages; `layers`: key-value heads and their shape; `packed`: in 8 bits.
    /// # Errors `OutOfMemory` if the address space does not hold it, `InvalidArgument` if there is no page.
    pub fn new(
        n_pages: usize,
        packed: bool,
        layers: impl Iterator<Item = (usize, HeadShape)>,
    ) -> Result<Self> {
        let full =
            || Error::new(ErrorKind::OutOfMemory, format!("keys and values: {n_pages} pages are too many"));
        if n_pages == 0 {
            return Err(Error::new(ErrorKind::InvalidArgument, "expected at least one page, found none"));
        }
        let (mut stores, mut from) = (Vec::new(), 0usize);
        for (n_heads, shape) in layers {
            let record = record_bytes(shape, packed);
            stores.push(LayerStore { from, record, n_heads });
            let layer = record.checked_mul(n_heads).and_then(|page| page.checked_mul(n_pages));
            from = layer.and_then(|bytes| from.checked_add(bytes)).ok_or_else(full)?;
        }
        let map = MmapMut::map_anon(from.max(1)).map_err(|e| full().because(e))?;
        Ok(Self { map, layers: stores, n_pages, packed })
    }

    /// Number of pages.
    pub fn n_pages(&self) -> usize {
        self.n_pages
    }

    /// Bytes reserved.
    pub fn bytes(&self) -> usize {
        self.map.len()
    }

    /// A layer's pages, for the threads of one loop.
    pub fn layer(&mut self, layer: usize) -> Pages {
        let LayerStore { from, record, n_heads } = self.layers[layer];
        Pages {
            base: self.map[from..].as_mut_ptr(),
            record,
            n_heads,
            n_pages: self.n_pages,
            packed: self.packed,
        }
    }

    /// Bytes of a page in all layers.
    pub fn page_bytes(&self) -> usize {
        self.layers.iter().map(|l| l.record * l.n_heads).sum()
    }

    /// How a page's bytes lie: heads and bytes of a head, layer by layer.
    pub fn layout(&self) -> String {
        self.layers.iter().map(|l| format!("{}x{};", l.n_heads, l.record)).collect()
    }

    /// Appends a page of every layer to `out`.
    /// # Errors `InvalidArgument` if there is no such page.
    pub fn read_page(&self, page: u32, out: &mut Vec<u8>) -> Result<()> {
        let page = self.check(page)?;
        for layer in &self.layers {
            let bytes = layer.record * layer.n_heads;
            out.extend_from_slice(&self.map[layer.from + page * bytes..layer.from + (page + 1) * bytes]);
        }
        Ok(())
    }

    /// Takes a page of every layer from `bytes`.
    /// # Errors `InvalidArgument` if there is no such page, or for another number of bytes.
    pub fn write_page(&mut self, page: u32, mut bytes: &[u8]) -> Result<()> {
        let page = self.check(page)?;
        if bytes.len() != self.page_bytes() {
            let message = format!("expected {} bytes of a page, found {}", self.page_bytes(), bytes.len());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        for layer in &self.layers {
            let n = layer.record * layer.n_heads;
            let (own, rest) = bytes.split_at(n);
            self.map[layer.from + page * n..layer.from + (page + 1) * n].copy_from_slice(own);
            bytes = rest;
        }
        Ok(())
    }

    fn check(&self, page: u32) -> Result<usize> {
        if (page as usize) < self.n_pages {
            return Ok(page as usize);
        }
        let message = format!("expected pages below {}, found {page}", self.n_pages);
        Err(Error::new(ErrorKind::InvalidArgument, message))
    }

    /// Copies a page in every layer.
    /// # Errors `InvalidArgument` if there is no such page.
    pub fn copy_page(&mut self, from: u32, to: u32) -> Result<()> {
        let (from, to) = (from as usize, to as usize);
        if from.max(to) >= self.n_pages {
            let message = format!("expected pages below {}, found {from} and {to}", self.n_pages);
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        for layer in &self.layers {
            let page = layer.record * layer.n_heads;
            self.map.copy_within(
                layer.from + from * page..layer.from + (from + 1) * page,
                layer.from + to * page,
            );
        }
        Ok(())
    }
}

/// The pages of one layer.
#[derive(Clone, Copy)]
pub struct Pages {
    base: *mut u8,
    record: usize,
    n_heads: usize,
    n_pages: usize,
    /// Records are of 8 bits.
    pub packed: bool,
}

// SAFETY: what is behind the pointer outlives the loop and is reached only by `record`, whose results are
// raw; the loops write disjoint cells and read only cells written before they began.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    /// The record of a head in a page. Panics if they are not there.
    pub fn record(&self, page: u32, head: usize) -> *mut u8 {
        assert!((page as usize) < self.n_pages && head < self.n_heads);
        self.base.wrapping_add((page as usize * self.n_heads + head) * self.record)
    }
}
