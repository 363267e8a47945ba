//! Matrices where they lie in the map, and the loops that multiply by them.

use super::kernels::{GROUP, Group, Isa, Kernel, Rows, dequantize_row, panel_bytes, record_bytes};
use super::low_rank::{Low, LowRank};
use super::pool::Pool;
use crate::error::{Error, ErrorKind, Result};
use crate::gguf::{Bytes, GgmlType, Tensor};
use crate::model::spec::Linear;
use std::sync::Arc;

/// Weights a thread reads at a time when there is one row: enough to hide the cost of taking a piece.
const PIECE_BYTES: usize = 32 << 10;

/// A matrix `[n_in, n_out]` in the map, with what happens to its product.
#[derive(Debug)]
pub struct Matrix {
    /// The tensor it is (a part of).
    pub name: Arc<str>,
    data: Bytes,
    from: usize,
    row_bytes: usize,
    kernel: Kernel,
    /// Length of an input row.
    pub n_in: usize,
    /// Length of an output row.
    pub n_out: usize,
    scale: f32,
    bias: Option<Vec<f32>>,
    /// What adapters add to the product.
    pub low: Vec<LowRank>,
}

/// Values of a tensor that is small: a norm's weight, a bias.
/// # Errors `Unsupported` for types that are not read here, `BadFile` if it has not `n` values.
pub fn floats(t: &Tensor, n: usize) -> Result<Vec<f32>> {
    if t.n_values() != n {
        let found = t.n_values();
        return Err(
            Error::new(ErrorKind::BadFile, format!("expected {n} values, found {found}")).at(&*t.name)
        );
    }
    let mut out = vec![0.0; n];
    if dequantize_row(t.ty, &t.data, &mut out) { Ok(out) } else { Err(unsupported(t)) }
}

fn unsupported(t: &Tensor) -> Error {
    let message = format!("expected a type with a native kernel, found {}", t.ty);
    Error::new(ErrorKind::Unsupported, message).at(&*t.name)
}

impl Matrix {
    /// Rows `from..from + n_out` of a tensor seen as rows of `dims[0]` values.
    /// # Errors `Unsupported` without a kernel for the type, `BadFile` if the rows are not there.
    pub fn rows(t: &Tensor, from: usize, n_out: usize) -> Result<Self> {
        let kernel = Kernel::of(t.ty).ok_or_else(|| unsupported(t))?;
        let (n_in, row_bytes) = (t.dims[0], t.row_bytes());
        let end = from.checked_add(n_out).and_then(|rows| rows.checked_mul(row_bytes));
        if n_in == 0
            || n_out == 0
            || t.ty.bytes_for(n_in) != Some(row_bytes)
            || end.is_none_or(|e| e > t.data.len())
        {
            let message = format!(
                "expected rows {from} to {} of {n_in} values, found dimensions {:?}",
                from + n_out,
                t.dims
            );
            return Err(Error::new(ErrorKind::BadFile, message).at(&*t.name));
        }
        let from = from * row_bytes;
        Ok(Self {
            name: Arc::clone(&t.name),
            data: t.data.clone(),
            from,
            row_bytes,
            kernel,
            n_in,
            n_out,
            scale: 1.0,
            bias: None,
            low: Vec::new(),
        })
    }

    /// Part `i` of `n` equal parts of a linear map's outputs, bias and scale included.
    /// # Errors As [`Matrix::rows`].
    pub fn part(l: &Linear, i: usize, n: usize) -> Result<Self> {
        let n_rows = l.weight.n_values() / l.weight.dims[0].max(1);
        let n_out = n_rows / n;
        let mut matrix = Self::rows(&l.weight, i * n_out, n_out)?;
        matrix.scale = l.scale;
        if let Some(b) = &l.bias {
            matrix.bias = Some(floats(b, n_rows)?[i * n_out..][..n_out].to_vec());
        }
        Ok(matrix)
    }

    /// A whole linear map.
    /// # Errors As [`Matrix::rows`], and `BadFile` if the input is not `n_in` or the output not `n_out` wide.
    pub fn whole(l: &Linear, n_in: usize, n_out: usize) -> Result<Self> {
        let matrix = Self::part(l, 0, 1)?;
        if (matrix.n_in, matrix.n_out) != (n_in, n_out) {
            let found = (matrix.n_in, matrix.n_out);
            let message = format!("expected {:?} inputs and outputs, found {found:?}", (n_in, n_out));
            return Err(Error::new(ErrorKind::BadFile, message).at(&*l.weight.name));
        }
        Ok(matrix)
    }

    /// Sets what is added to the product.
    pub fn with_bias(self, bias: Option<Vec<f32>>) -> Self {
        Self { bias, ..self }
    }

    /// Whether activations are read in 8 bits.
    pub fn is_quantised(&self) -> bool {
        self.kernel.quantised
    }

    /// The first of its rows in the tensor.
    pub fn first_row(&self) -> usize {
        self.from / self.row_bytes.max(1)
    }

    /// Inner dimensions of all that adapters add, summed up.
    pub fn ranks(&self) -> usize {
        self.low.iter().map(|part| part.rank).sum()
    }

    /// Number of groups of 16 output rows.
    pub fn n_groups(&self) -> usize {
        self.n_out.div_ceil(GROUP)
    }

    /// Fills tile number `which` with the outputs of group `g` for all rows: `[rows][16]`.
    fn group(
        &self,
        isa: Isa,
        g: usize,
        rows: Rows<'_>,
        own: &mut ProductScratch,
        (which, m, low): (usize, usize, &Low),
    ) {
        let n_rows = (self.n_out - g * GROUP).min(GROUP);
        let bytes = &self.data[self.from + g * GROUP * self.row_bytes..][..n_rows * self.row_bytes];
        let ProductScratch { panel, tail, tiles } = own;
        let weights = if n_rows == GROUP {
            bytes
        } else {
            // Kernels read 16 rows; those that are not there repeat what the buffer held.
            tail[..bytes.len()].copy_from_slice(bytes);
            &tail[..GROUP * self.row_bytes]
        };
        let n = rows.len();
        let tile = &mut tiles[which][..n * GROUP];
        let group = Group { weights, row_bytes: self.row_bytes, n_in: self.n_in, rows, tile, panel };
        self.kernel.run(isa, group);
        low.add(m, self, g, &mut tiles[which][..n * GROUP]);
        self.finish(g, &mut tiles[which][..n * GROUP]);
    }

    fn finish(&self, g: usize, tile: &mut [f32]) {
        if self.scale != 1.0 {
            tile.iter_mut().for_each(|x| *x *= self.scale);
        }
        if let Some(bias) = &self.bias {
            let bias = &bias[g * GROUP..self.n_out.min((g + 1) * GROUP)];
            for row in tile.chunks_exact_mut(GROUP) {
                row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
            }
        }
    }
}

/// Activations as both kinds of kernel read them: f32 rows, and records made of them.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// `[n][width]`
    pub x: &'a [f32],
    /// `[n][record_bytes(width)]`; may be empty if no matrix asks for it.
    pub records: &'a [u8],
    /// Length of a row.
    pub width: usize,
    /// Number of rows.
    pub n: usize,
    /// Only these of them, in this order.
    pub index: Option<&'a [u32]>,
}

impl<'a> Input<'a> {
    /// Number of rows that take part.
    pub fn len(&self) -> usize {
        self.index.map_or(self.n, <[u32]>::len)
    }

    fn rows(&self, quantised: bool) -> Rows<'a> {
        let rows = match quantised {
            true => Rows::new(self.records, record_bytes(self.width), self.n),
            false => Rows::floats(self.x, self.width, self.n),
        };
        match self.index {
            Some(index) => rows.pick(index),
            None => rows,
        }
    }
}

/// What a thread needs for products.
#[derive(Debug, Default)]
pub struct ProductScratch {
    panel: Vec<u8>,
    tail: Vec<u8>,
    tiles: [Vec<f32>; 2],
}

impl ProductScratch {
    /// Room for products with these matrices and at most `max_rows` rows.
    pub fn new<'a>(matrices: impl Iterator<Item = &'a Matrix>, max_rows: usize) -> Self {
        let (mut panel, mut tail) = (0, 0);
        for m in matrices {
            panel = panel.max(panel_bytes(m.n_in));
            tail = tail.max(GROUP * m.row_bytes);
        }
        let tile = || vec![0.0; max_rows * GROUP];
        Self { panel: vec![0; panel], tail: vec![0; tail], tiles: [tile(), tile()] }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.panel.len() + self.tail.len() + 2 * 4 * self.tiles[0].len()
    }
}

/// A piece of an output: columns `col..col + n_cols` of all rows, from a tile `[rows][16]`.
#[derive(Clone, Copy)]
pub struct Piece<'a> {
    /// Which matrix (or pair) of the list.
    pub matrix: usize,
    /// First column.
    pub col: usize,
    /// Number of columns, at most 16.
    pub n_cols: usize,
    /// The values.
    pub tile: &'a [f32],
}

impl Piece<'_> {
    /// Calls `f` with each row's number and values.
    pub fn rows(&self, mut f: impl FnMut(usize, &[f32])) {
        for (i, row) in self.tile.chunks_exact(GROUP).enumerate() {
            f(i, &row[..self.n_cols]);
        }
    }
}

/// How groups of several matrices are cut into pieces of work.
struct Pieces {
    /// Groups of the matrices, summed up: matrix `m` has those from `first[m]` to `first[m + 1]`.
    first: [usize; 5],
    size: usize,
}

impl Pieces {
    fn new<'a>(matrices: impl Iterator<Item = &'a Matrix>, n_rows: usize) -> Self {
        let (mut first, mut bytes, mut n) = ([usize::MAX; 5], 0, 0);
        first[0] = 0;
        for m in matrices.take(4) {
            first[n + 1] = first[n] + m.n_groups();
            bytes = bytes.max(GROUP * m.row_bytes);
            n += 1;
        }
        let total = first[n];
        first[n + 1..].fill(total);
        let size = (PIECE_BYTES / bytes.max(1) / n_rows.max(1)).max(1);
        Self { first, size }
    }

    fn n(&self) -> usize {
        self.first[4].div_ceil(self.size)
    }

    /// The matrices and groups of piece `i`.
    fn groups(&self, i: usize) -> impl Iterator<Item = (usize, usize)> {
        let end = self.first[4].min((i + 1) * self.size);
        (i * self.size..end).map(|g| {
            let m = self.first[1..4].iter().filter(|f| **f <= g).count();
            (m, g - self.first[m])
        })
    }
}

/// Multiplies by up to four matrices that share their input. `put` gets each piece of the outputs once.
/// # Errors As [`Pool::run`].
pub fn products<T: Send + AsMut<ProductScratch>>(
    (isa, pool, scratch, low): (Isa, &mut Pool, &mut [T], &mut Low),
    matrices: &[&Matrix],
    input: Input<'_>,
    put: impl Fn(Piece<'_>) + Sync,
) -> Result<()> {
    low.project((isa, pool, scratch), matrices, input)?;
    let low = &*low;
    let pieces = Pieces::new(matrices.iter().copied(), input.len());
    pool.run(scratch, pieces.n(), |i, own| {
        let own = own.as_mut();
        for (m, g) in pieces.groups(i) {
            let matrix = matrices[m];
            matrix.group(isa, g, input.rows(matrix.kernel.quantised), own, (0, m, low));
            put(piece(matrix, m, g, &own.tiles[0][..input.len() * GROUP]));
        }
    })
}

fn piece<'a>(matrix: &Matrix, m: usize, g: usize, tile: &'a [f32]) -> Piece<'a> {
    let col = g * GROUP;
    Piece { matrix: m, col, n_cols: (matrix.n_out - col).min(GROUP), tile }
}

/// Multiplies by two matrices of the same shape at once; `join` makes one tile of the two.
/// # Errors As [`Pool::run`].
pub fn paired<T: Send + AsMut<ProductScratch>>(
    (isa, pool, scratch, low): (Isa, &mut Pool, &mut [T], &mut Low),
    [a, b]: [&Matrix; 2],
    input: Input<'_>,
    join: impl Fn(&mut [f32], &[f32]) + Sync,
    put: impl Fn(Piece<'_>) + Sync,
) -> Result<()> {
    low.project((isa, pool, scratch), &[a, b], input)?;
    let low = &*low;
    let pieces = Pieces::new(std::iter::once(a), input.len());
    pool.run(scratch, pieces.n(), |i, own| {
        let own = own.as_mut();
        let n = input.len() * GROUP;
        for (_, g) in pieces.groups(i) {
            a.group(isa, g, input.rows(a.kernel.quantised), own, (0, 0, low));
            b.group(isa, g, input.rows(b.kernel.quantised), own, (1, 1, low));
            let [x, y] = &mut own.tiles;
            join(&mut x[..n], &y[..n]);
            put(piece(a, 0, g, &own.tiles[0][..n]));
        }
    })
}

/// Dequantises row `i` of an embedding `[out.len(), n]`.
/// # Errors `BadFile` if it is not there, `Unsupported` for types that are not read here.
pub fn embedding_row(t: &Tensor, i: usize, out: &mut [f32]) -> Result<()> {
    let row_bytes = t.row_bytes();
    let row = i.checked_mul(row_bytes).and_then(|from| t.data.get(from..from + row_bytes));
    match row {
        Some(row) if t.dims[0] == out.len() && dequantize_row(t.ty, row, out) => Ok(()),
        Some(_) => Err(unsupported(t)),
        None => {
            Err(Error::new(ErrorKind::BadFile, format!("expected row {i}, found {:?}", t.dims)).at(&*t.name))
        }
    }
}

/// Whether embeddings of this type can be read.
pub fn reads(ty: GgmlType) -> bool {
    Kernel::of(ty).is_some()
}
