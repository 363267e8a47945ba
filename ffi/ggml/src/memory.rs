//! Memory that tensors lie in: mapped or owned weights, and caches that graphs write to.

use crate::graph::Arena;
use crate::{Device, DeviceKind, Error, Result, Type, error::ensure, sys};
use memmap2::MmapMut;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Alignment that ggml wants of memory handed to it.
const ALIGNMENT: usize = 32;

/// Distance of our own tensors: a cache line.
const SPACING: usize = 64;

/// Bytes that stay where they are.
///
/// # Safety
/// While the value lives, wherever it is moved, `bytes` must return the same readable memory, and nothing
/// may write to it.
pub unsafe trait Mapping: Send + Sync {
    /// The bytes.
    fn bytes(&self) -> &[u8];
}

// SAFETY: the heap block of a vector that no one can reach mutably stays where it is.
unsafe impl Mapping for Arc<Vec<u8>> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// A tensor to load.
pub struct WeightSource {
    /// For messages.
    pub name: Arc<str>,
    /// How values are stored.
    pub ty: Type,
    /// Dimensions, contiguous one first.
    pub dims: [usize; 4],
    /// The stored blocks, exactly as long as type and dimensions say.
    pub data: Box<dyn Mapping>,
    /// Where to put it.
    pub placement: Placement,
}

/// Where a weight goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Used where it lies when the device can read host memory, else copied to the device.
    InPlace,
    /// Copied into the arrangement the CPU's kernels like best, when there is one for its type and shape;
    /// then it can only be the left side of a product. In place otherwise.
    Rearranged,
}

/// A buffer and what must outlive it. Fields drop in order: the buffer first.
struct Held {
    buffer: Buffer,
    _bytes: Option<Box<dyn Mapping>>,
    _zeroed: Option<MmapMut>,
}

struct Buffer(NonNull<sys::ggml_backend_buffer>);

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: valid and freed once; the tensors in it go with the store that owns both.
        unsafe { sys::ggml_backend_buffer_free(self.0.as_ptr()) };
    }
}

impl Buffer {
    fn new(kind: *mut sys::ggml_backend_buffer_type, n_bytes: usize) -> Result<Self> {
        // SAFETY: the buffer type is valid (from a device or its registry).
        let raw = NonNull::new(unsafe { sys::ggml_backend_buft_alloc_buffer(kind, n_bytes) });
        raw.map(Self).ok_or_else(|| Error::memory("buffer", format!("{n_bytes} bytes could not be had")))
    }

    /// # Safety
    /// `base` must be aligned to [`ALIGNMENT`] and valid for `n_bytes` as long as the buffer lives.
    unsafe fn over(base: *mut u8, n_bytes: usize) -> Result<Self> {
        // SAFETY: promised by the caller.
        let raw = NonNull::new(unsafe { sys::ggml_backend_cpu_buffer_from_ptr(base.cast(), n_bytes) });
        raw.map(Self).ok_or_else(|| Error::memory("buffer", "no buffer over mapped memory"))
    }

    fn base(&self) -> *mut u8 {
        // SAFETY: the buffer is valid and not empty.
        unsafe { sys::ggml_backend_buffer_get_base(self.0.as_ptr()).cast() }
    }
}

/// Tensors in memory of their own, shared with the graphs that use them.
pub(crate) struct Store {
    arena: Arena,
    tensors: Vec<NonNull<sys::ggml_tensor>>,
    held: Vec<Held>,
    device: Device,
}

// SAFETY: ggml objects have no tie to a thread. Weights are only read after loading; a cache is written only
// by graphs that run with `&mut Cache`.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

impl Store {
    fn new(device: Device, n_tensors: usize) -> Result<Self> {
        let arena = Arena::new(n_tensors, 0)?;
        Ok(Self { arena, tensors: Vec::with_capacity(n_tensors), held: Vec::new(), device })
    }

    fn declare(&mut self, ty: Type, dims: [usize; 4]) -> Result<NonNull<sys::ggml_tensor>> {
        let tensor = self.arena.new_tensor(ty, dims)?;
        self.tensors.push(tensor);
        Ok(tensor)
    }

    /// Puts the tensor declared last at `base` of `held`.
    fn place(&mut self, tensor: NonNull<sys::ggml_tensor>, held: Held, base: *mut u8) -> Result<()> {
        self.held.push(held);
        self.place_in_last(tensor, base)
    }

    /// Puts a fresh tensor at `base` of the buffer that was kept last.
    fn place_in_last(&mut self, tensor: NonNull<sys::ggml_tensor>, base: *mut u8) -> Result<()> {
        let held = self.held.last().ok_or_else(|| Error::failed("buffer", "no buffer"))?;
        // SAFETY: the tensor is fresh (no buffer, no data, no view); the caller made the buffer large enough
        // for it at `base`.
        let status =
            unsafe { sys::ggml_backend_tensor_alloc(held.buffer.0.as_ptr(), tensor.as_ptr(), base.cast()) };
        if status == sys::GGML_STATUS_SUCCESS {
            Ok(())
        } else {
            Err(Error::failed("buffer", format!("status {status}")))
        }
    }

    pub(crate) fn tensor(&self, index: usize) -> Option<NonNull<sys::ggml_tensor>> {
        self.tensors.get(index).copied()
    }

    pub(crate) fn device(&self) -> Device {
        self.device
    }
}

/// Read-only tensors on one device. Clones share them.
#[derive(Clone)]
pub struct Weights {
    store: Arc<Store>,
    private_bytes: usize,
}

impl Weights {
    /// Loads `sources` for `device`; tensor `i` is `sources[i]`.
    /// # Errors `Invalid` when a length does not fit its type and dimensions; `OutOfMemory`.
    pub fn load(device: Device, sources: Vec<WeightSource>) -> Result<Self> {
        crate::init()?;
        let mut store = Store::new(device, sources.len())?;
        let mut private_bytes = 0;
        for source in sources {
            let tensor = store.declare(source.ty, source.dims)?;
            // SAFETY: the tensor was just made.
            let n_bytes = unsafe { sys::ggml_nbytes(tensor.as_ptr()) };
            let found = source.data.bytes().len();
            ensure!("weights", found == n_bytes, "{} holds {found} bytes, expected {n_bytes}", source.name);
            private_bytes += load_one(&mut store, tensor, source, n_bytes)?;
        }
        Ok(Self { store: Arc::new(store), private_bytes })
    }

    /// Bytes that were copied, not used in place.
    pub fn private_bytes(&self) -> usize {
        self.private_bytes
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }
}

fn load_one(
    store: &mut Store,
    tensor: NonNull<sys::ggml_tensor>,
    source: WeightSource,
    n_bytes: usize,
) -> Result<usize> {
    let is_cpu = store.device.kind() == DeviceKind::Cpu;
    let base = source.data.bytes().as_ptr();
    if is_cpu
        && source.placement == Placement::Rearranged
        && let Some(kind) = rearranged_type(store.device, tensor)
    {
        return copy_into(store, tensor, kind, &source);
    }
    if !is_cpu || !base.addr().is_multiple_of(ALIGNMENT) || n_bytes == 0 {
        let kind = store.device.buffer_type();
        return copy_into(store, tensor, kind, &source);
    }
    // SAFETY: aligned (checked above); `Mapping` promises that the bytes stay while `data` lives, and `Held`
    // keeps it as long as the buffer. Nothing writes to weights, so the pointer's const-ness is respected.
    let buffer = unsafe { Buffer::over(base.cast_mut(), n_bytes)? };
    mark_as_weights(&buffer);
    store.place(tensor, Held { buffer, _bytes: Some(source.data), _zeroed: None }, base.cast_mut())?;
    Ok(0)
}

fn copy_into(
    store: &mut Store,
    tensor: NonNull<sys::ggml_tensor>,
    kind: *mut sys::ggml_backend_buffer_type,
    source: &WeightSource,
) -> Result<usize> {
    // SAFETY: buffer type and tensor are valid.
    let n_bytes = unsafe { sys::ggml_backend_buft_get_alloc_size(kind, tensor.as_ptr()) };
    ensure!("weights", n_bytes > 0, "{} is empty", source.name);
    let buffer = Buffer::new(kind, n_bytes)?;
    mark_as_weights(&buffer);
    let base = buffer.base();
    store.place(tensor, Held { buffer, _bytes: None, _zeroed: None }, base)?;
    let bytes = source.data.bytes();
    // SAFETY: the tensor lies in its buffer and the length is exactly its own (checked in `load`).
    unsafe { sys::ggml_backend_tensor_set(tensor.as_ptr(), bytes.as_ptr().cast(), 0, bytes.len()) };
    Ok(n_bytes)
}

fn mark_as_weights(buffer: &Buffer) {
    // SAFETY: the buffer is valid.
    unsafe { sys::ggml_backend_buffer_set_usage(buffer.0.as_ptr(), sys::GGML_BACKEND_BUFFER_USAGE_WEIGHTS) };
}

/// The buffer type that has a better arrangement for this tensor: ggml is asked with a trial product.
fn rearranged_type(
    device: Device,
    weight: NonNull<sys::ggml_tensor>,
) -> Option<*mut sys::ggml_backend_buffer_type> {
    // SAFETY: the tensor is valid.
    let (ty, ne) = unsafe { ((*weight.as_ptr()).type_, (*weight.as_ptr()).ne) };
    let ty = Type::from_number(ty)?;
    let dims = ne.map(|n| n as usize);
    device.extra_buffer_types().into_iter().map(NonNull::as_ptr).find(|kind| {
        let Ok(mut trial) = Arena::new(4, 0) else { return false };
        let Ok(buffer) = Buffer::new(*kind, 0) else { return false };
        let Ok(w) = trial.new_tensor(ty, dims) else { return false };
        // SAFETY: all tensors are of the trial's own arena with shapes that fit the product; the empty buffer
        // is only looked at for its type and removed again before it is freed.
        unsafe {
            (*w.as_ptr()).buffer = buffer.0.as_ptr();
            let op = if dims[2] > 1 {
                let (Ok(x), Ok(ids)) = (
                    trial.new_tensor(Type::F32, [dims[0], 1, 1, 1]),
                    trial.new_tensor(Type::I32, [1, 1, 1, 1]),
                ) else {
                    return false;
                };
                sys::ggml_mul_mat_id(trial.raw(), w.as_ptr(), x.as_ptr(), ids.as_ptr())
            } else {
                let Ok(x) = trial.new_tensor(Type::F32, [dims[0], 1, 1, 1]) else { return false };
                sys::ggml_mul_mat(trial.raw(), w.as_ptr(), x.as_ptr())
            };
            let yes = sys::ggml_backend_dev_supports_op(device.raw(), op);
            (*w.as_ptr()).buffer = std::ptr::null_mut();
            yes
        }
    })
}

/// Tensors that graphs write to, zero at first. On the CPU, memory counts only once it has been written.
/// One owner: a graph that uses it can only run with `&mut` on it.
pub struct Cache {
    store: Arc<Store>,
    id: u64,
    n_bytes: usize,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

pub(crate) fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

impl Cache {
    /// Tensors of these types and dimensions.
    /// # Errors `Invalid` when dimensions do not fill blocks; `OutOfMemory`.
    pub fn new(device: Device, tensors: &[(Type, [usize; 4])]) -> Result<Self> {
        crate::init()?;
        let mut store = Store::new(device, tensors.len())?;
        let mut n_total: usize = 0;
        let mut places = Vec::with_capacity(tensors.len());
        for (ty, dims) in tensors {
            let tensor = store.declare(*ty, *dims)?;
            places.push((tensor, n_total));
            // SAFETY: the tensor was just made.
            let n_bytes = unsafe { sys::ggml_nbytes(tensor.as_ptr()) }.checked_next_multiple_of(SPACING);
            let next = n_bytes.and_then(|n| n_total.checked_add(n)).filter(|n| *n < isize::MAX as usize);
            n_total = next.ok_or_else(|| Error::memory("cache", "more bytes than can be addressed"))?;
        }
        if device.kind() == DeviceKind::Cpu && n_total > 0 {
            let (held, base) = zeroed(n_total)?;
            store.held.push(held);
            for (tensor, offset) in places {
                store.place_in_last(tensor, base.wrapping_add(offset))?;
            }
        } else {
            for (tensor, _) in places {
                let (held, base) = cleared(device, tensor)?;
                store.place(tensor, held, base)?;
            }
        }
        Ok(Self { store: Arc::new(store), id: next_id(), n_bytes: n_total })
    }

    /// Size of all tensors, touched or not.
    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Copies `n_rows` rows of tensor `index` (its second dimension) from row `from` to row `to`, through
    /// `bounce`, which grows as needed.
    /// # Errors `Invalid` when rows lie outside the tensor.
    pub fn copy_rows(
        &mut self,
        index: usize,
        from: usize,
        to: usize,
        n_rows: usize,
        bounce: &mut Vec<u8>,
    ) -> Result<()> {
        let tensor = self
            .store
            .tensor(index)
            .ok_or_else(|| Error::invalid("copy_rows", format!("no tensor {index}")))?;
        // SAFETY: the tensor is valid.
        let (row, n_total) = unsafe { ((*tensor.as_ptr()).nb[1], (*tensor.as_ptr()).ne[1] as usize) };
        let fits = |first: usize| first.checked_add(n_rows).is_some_and(|end| end <= n_total);
        ensure!("copy_rows", fits(from) && fits(to), "{n_rows} rows from {from} to {to} of {n_total}");
        bounce.resize(bounce.len().max(n_rows * row), 0);
        // SAFETY: both ranges lie in the tensor (checked above), which is contiguous, and `bounce` has room.
        // `&mut self` excludes a graph that writes at the same time.
        unsafe {
            sys::ggml_backend_tensor_get(
                tensor.as_ptr(),
                bounce.as_mut_ptr().cast(),
                from * row,
                n_rows * row,
            );
            sys::ggml_backend_tensor_set(tensor.as_ptr(), bounce.as_ptr().cast(), to * row, n_rows * row);
        }
        Ok(())
    }
}

/// Zero pages that the system hands out one by one as they are touched.
fn zeroed(n_bytes: usize) -> Result<(Held, *mut u8)> {
    let mut pages = zero_pages(n_bytes)?;
    let base = pages.as_mut_ptr();
    // SAFETY: `base` begins a page and has `n_bytes` behind it in `pages`, which `Held` keeps as long.
    let buffer = unsafe { Buffer::over(base, n_bytes)? };
    Ok((Held { buffer, _bytes: None, _zeroed: Some(pages) }, base))
}

/// Anonymous memory. A heap would hand out blocks that were used before, and clear them by touching them all.
pub(crate) fn zero_pages(n_bytes: usize) -> Result<MmapMut> {
    let pages = MmapMut::map_anon(n_bytes)
        .map_err(|e| Error::memory("memory", format!("{n_bytes} bytes could not be had: {e}")))?;
    // With large pages one touched byte would count as two megabytes.
    #[cfg(target_os = "linux")]
    let _ = pages.advise(memmap2::Advice::NoHugePage);
    Ok(pages)
}

fn cleared(device: Device, tensor: NonNull<sys::ggml_tensor>) -> Result<(Held, *mut u8)> {
    let kind = device.buffer_type();
    // SAFETY: buffer type and tensor are valid.
    let buffer = Buffer::new(kind, unsafe { sys::ggml_backend_buft_get_alloc_size(kind, tensor.as_ptr()) })?;
    // SAFETY: the buffer is valid.
    unsafe { sys::ggml_backend_buffer_clear(buffer.0.as_ptr(), 0) };
    let base = buffer.base();
    Ok((Held { buffer, _bytes: None, _zeroed: None }, base))
}
