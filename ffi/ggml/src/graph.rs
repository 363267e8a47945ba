//! A graph under construction, then allocated and computed.

use crate::memory::{Store, next_id, zero_pages};
use crate::{Cache, Device, Error, Result, Type, Weights, error::ensure, sys};
use memmap2::MmapMut;
use std::ptr::NonNull;
use std::sync::Arc;

/// ggml's alignment of everything in an arena.
const ARENA_ALIGNMENT: usize = 16;

/// Tensor descriptions in memory of our own, so that running out is an error and not an abort.
pub(crate) struct Arena {
    raw: NonNull<sys::ggml_context>,
    capacity: usize,
    _memory: MmapMut,
}

// SAFETY: a ggml context is plain memory without ties to a thread.
unsafe impl Send for Arena {}
// SAFETY: it changes only through `&mut self`.
unsafe impl Sync for Arena {}

impl Arena {
    /// Room for `n_tensors` and one graph of `n_nodes` (0: none).
    pub(crate) fn new(n_tensors: usize, n_nodes: usize) -> Result<Self> {
        ensure!("arena", n_tensors < 1 << 24 && n_nodes < 1 << 24, "{n_tensors} tensors, {n_nodes} nodes");
        // SAFETY: both only compute sizes.
        let (tensor, graph) =
            unsafe { (sys::ggml_tensor_overhead(), sys::ggml_graph_overhead_custom(n_nodes.max(1), false)) };
        let n_bytes = (n_tensors + 1) * tensor.next_multiple_of(ARENA_ALIGNMENT) + graph + 1024;
        let mut memory = zero_pages(n_bytes)?;
        let params = sys::ggml_init_params {
            mem_size: n_bytes,
            mem_buffer: memory.as_mut_ptr().cast(),
            no_alloc: true,
        };
        // SAFETY: the memory begins a page, is as long as stated, and lives in `self` beside the context.
        let raw = NonNull::new(unsafe { sys::ggml_init(params) })
            .ok_or_else(|| Error::memory("arena", "no context"))?;
        Ok(Self { raw, capacity: n_tensors, _memory: memory })
    }

    pub(crate) fn raw(&self) -> *mut sys::ggml_context {
        self.raw.as_ptr()
    }

    /// Whether `n` more tensors fit.
    fn room(&self, n: usize) -> Result<()> {
        // SAFETY: the context is valid.
        let left = unsafe { sys::ggml_get_mem_size(self.raw()) - sys::ggml_used_mem(self.raw()) };
        // SAFETY: computes a size.
        let each = unsafe { sys::ggml_tensor_overhead() }.next_multiple_of(ARENA_ALIGNMENT);
        ensure!("graph", left / each > n, "no room for {n} more of {} tensors", self.capacity);
        Ok(())
    }

    pub(crate) fn new_tensor(&mut self, ty: Type, dims: [usize; 4]) -> Result<NonNull<sys::ggml_tensor>> {
        ensure!("tensor", dims.iter().all(|n| *n > 0 && *n < i32::MAX as usize), "dimensions {dims:?}");
        let n_bytes = dims[1..].iter().try_fold(ty.row_bytes(dims[0]), |n, d| n.map(|n| n.checked_mul(*d)));
        ensure!("tensor", matches!(n_bytes, Some(Some(n)) if n < isize::MAX as usize), "{ty:?} of {dims:?}");
        self.room(1)?;
        let ne = dims.map(|n| n as i64);
        // SAFETY: type and dimensions are valid, their product fits, and the arena has room.
        let raw = unsafe { sys::ggml_new_tensor(self.raw(), ty.number(), 4, ne.as_ptr()) };
        NonNull::new(raw).ok_or_else(|| Error::memory("tensor", "the arena is full"))
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: valid and freed once; it does not own its memory.
        unsafe { sys::ggml_free(self.raw()) };
    }
}

/// A tensor of one [`Graph`]. Other graphs refuse it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct T {
    graph: u64,
    index: u32,
}

/// Type, dimensions and strides of a tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meta {
    pub(crate) ty: Type,
    pub(crate) ne: [usize; 4],
    pub(crate) nb: [usize; 4],
}

impl Meta {
    pub(crate) fn is_contiguous(&self) -> bool {
        self.has_contiguous_rows() && self.is_packed_above(1)
    }

    pub(crate) fn has_contiguous_rows(&self) -> bool {
        self.ne[0] == self.ty.block_values() || self.nb[0] == self.ty.block_bytes()
    }

    /// Whether dimensions from `first` on follow one another without gaps.
    pub(crate) fn is_packed_above(&self, first: usize) -> bool {
        let mut next = match first {
            1 => self.ty.row_bytes(self.ne[0]).unwrap_or(0),
            i => self.nb[i - 1] * self.ne[i - 1],
        };
        (first..4).all(|i| {
            let fits = self.ne[i] == 1 || self.nb[i] == next;
            next = if self.ne[i] == 1 { next } else { self.nb[i] * self.ne[i] };
            fits
        })
    }

    pub(crate) fn is_transposed(&self) -> bool {
        self.nb[0] > self.nb[1]
    }

    /// Bytes from the first to the end of the last value.
    fn extent(&self) -> usize {
        let row = if self.ty.block_values() == 1 {
            self.ty.block_bytes() + (self.ne[0] - 1) * self.nb[0]
        } else {
            self.ne[0] / self.ty.block_values() * self.nb[0]
        };
        row + (1..4).map(|i| (self.ne[i] - 1) * self.nb[i]).sum::<usize>()
    }
}

/// A plain number that tensors hold.
pub trait Element: Copy + private::Sealed {
    /// Its tensor types: several share a representation.
    fn fits(ty: Type) -> bool;

    /// The value as an index, if it can be one.
    fn index(self) -> Option<usize> {
        None
    }
}

mod private {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for i32 {}
    impl Sealed for i64 {}
    impl Sealed for u16 {}
}

impl Element for f32 {
    fn fits(ty: Type) -> bool {
        ty == Type::F32
    }
}

impl Element for i32 {
    fn fits(ty: Type) -> bool {
        ty == Type::I32
    }

    fn index(self) -> Option<usize> {
        usize::try_from(self).ok()
    }
}

impl Element for i64 {
    fn fits(ty: Type) -> bool {
        ty == Type::I64
    }

    fn index(self) -> Option<usize> {
        usize::try_from(self).ok()
    }
}

/// The bits of a half float.
impl Element for u16 {
    fn fits(ty: Type) -> bool {
        ty == Type::F16 || ty == Type::BF16
    }
}

/// Memory for a graph's intermediate results, handed from one graph to the next so that it is taken once.
pub struct Memory {
    raw: NonNull<sys::ggml_gallocr>,
    device: Device,
}

// SAFETY: an allocator has no tie to a thread and is used through `&mut`.
unsafe impl Send for Memory {}

impl Memory {
    /// An allocator on `device` that holds nothing yet.
    /// # Errors `OutOfMemory`.
    pub fn new(device: Device) -> Result<Self> {
        crate::init()?;
        // SAFETY: the buffer type is valid.
        let raw = NonNull::new(unsafe { sys::ggml_gallocr_new(device.buffer_type()) });
        raw.map(|raw| Self { raw, device }).ok_or_else(|| Error::memory("allocator", "no memory"))
    }

    /// Bytes it holds.
    pub fn n_bytes(&self) -> usize {
        // SAFETY: valid; index 0 is its only buffer.
        unsafe { sys::ggml_gallocr_get_buffer_size(self.raw.as_ptr(), 0) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: valid and freed once; a graph that used it has given it up or goes with it.
        unsafe { sys::ggml_gallocr_free(self.raw.as_ptr()) };
    }
}

struct Node {
    raw: NonNull<sys::ggml_tensor>,
    /// Lies in a cache and may be written.
    writable: bool,
    /// Holds indices below this. ggml aborts on an index outside, so only such tensors may select rows.
    bound: Option<usize>,
    /// An input whose values have been filled and checked since the last computation; computing may use its
    /// memory for something else.
    fresh: bool,
}

/// Operations over tensors. First built, then allocated, then filled, computed and read any number of times.
/// Fields drop in order: memory, descriptions, then what they refer to.
pub struct Graph {
    memory: Option<Memory>,
    nodes: NonNull<sys::ggml_cgraph>,
    arena: Arena,
    tensors: Vec<Node>,
    stores: Vec<Arc<Store>>,
    cache: Option<u64>,
    /// Inputs that hold indices, as numbers of tensors.
    index_inputs: Vec<u32>,
    id: u64,
    device: Device,
    scratch: Vec<u8>,
}

// SAFETY: everything a graph points to is owned by it or kept alive by it, without ties to a thread.
unsafe impl Send for Graph {}

impl Graph {
    /// An empty graph for `device` with room for `n_tensors` tensors.
    /// # Errors `OutOfMemory`.
    pub fn new(device: Device, n_tensors: usize) -> Result<Self> {
        crate::init()?;
        let arena = Arena::new(n_tensors, n_tensors)?;
        // SAFETY: the arena was made with room for one graph of this size.
        let nodes = NonNull::new(unsafe { sys::ggml_new_graph_custom(arena.raw(), n_tensors.max(1), false) });
        let nodes = nodes.ok_or_else(|| Error::memory("graph", "no memory for nodes"))?;
        let tensors = Vec::with_capacity(n_tensors);
        Ok(Self {
            memory: None,
            nodes,
            arena,
            tensors,
            stores: Vec::new(),
            cache: None,
            index_inputs: Vec::new(),
            id: next_id(),
            device,
            scratch: Vec::new(),
        })
    }

    /// The device it was built for.
    pub fn device(&self) -> Device {
        self.device
    }

    pub(crate) fn cache_id(&self) -> Option<u64> {
        self.cache
    }

    pub(crate) fn allocated_nodes(&self) -> Option<*mut sys::ggml_cgraph> {
        self.memory.is_some().then_some(self.nodes.as_ptr())
    }

    /// Tensor `index` of `weights`.
    /// # Errors `Invalid` when there is none or it is on another device.
    pub fn weight(&mut self, weights: &Weights, index: usize) -> Result<T> {
        self.import(weights.store(), index, false)
    }

    /// Tensor `index` of `cache`; the graph then runs only with that cache.
    /// # Errors `Invalid` when there is none, it is on another device, or the graph uses another cache.
    pub fn cached(&mut self, cache: &Cache, index: usize) -> Result<T> {
        ensure!("cached", self.cache.is_none_or(|id| id == cache.id()), "the graph uses another cache");
        self.cache = Some(cache.id());
        self.import(cache.store(), index, true)
    }

    fn import(&mut self, store: &Arc<Store>, index: usize, writable: bool) -> Result<T> {
        ensure!("import", store.device() == self.device, "the tensor is on {:?}", store.device());
        let raw =
            store.tensor(index).ok_or_else(|| Error::invalid("import", format!("no tensor {index}")))?;
        if !self.stores.iter().any(|s| Arc::ptr_eq(s, store)) {
            self.stores.push(store.clone());
        }
        self.adopt(raw, writable)
    }

    pub(crate) fn adopt(&mut self, raw: NonNull<sys::ggml_tensor>, writable: bool) -> Result<T> {
        let index =
            u32::try_from(self.tensors.len()).map_err(|_| Error::invalid("graph", "too many tensors"))?;
        self.tensors.push(Node { raw, writable, bound: None, fresh: true });
        Ok(T { graph: self.id, index })
    }

    fn node(&self, t: T) -> Result<&Node> {
        let node = self.tensors.get(t.index as usize).filter(|_| t.graph == self.id);
        node.ok_or_else(|| Error::invalid("graph", "a tensor of another graph"))
    }

    pub(crate) fn raw(&self, t: T) -> Result<*mut sys::ggml_tensor> {
        Ok(self.node(t)?.raw.as_ptr())
    }

    pub(crate) fn is_writable(&self, t: T) -> Result<bool> {
        Ok(self.node(t)?.writable)
    }

    /// What the indices in `t` are known to be below.
    pub(crate) fn bound(&self, t: T) -> Result<Option<usize>> {
        Ok(self.node(t)?.bound)
    }

    pub(crate) fn set_bound(&mut self, t: T, bound: usize) {
        if let Some(node) = self.tensors.get_mut(t.index as usize) {
            node.bound = Some(bound);
        }
    }

    /// Whether every input that holds indices has been filled since the last computation. One that no
    /// operation uses has no memory and does not matter.
    pub(crate) fn indices_are_fresh(&self) -> bool {
        let nodes = self.index_inputs.iter().filter_map(|i| self.tensors.get(*i as usize));
        // SAFETY: tensors are valid as long as the graph.
        nodes.into_iter().all(|n| n.fresh || unsafe { (*n.raw.as_ptr()).data.is_null() })
    }

    pub(crate) fn spend_indices(&mut self) {
        for i in &self.index_inputs {
            if let Some(node) = self.tensors.get_mut(*i as usize) {
                node.fresh = false;
            }
        }
    }

    pub(crate) fn meta(&self, t: T) -> Result<Meta> {
        let raw = self.raw(t)?;
        // SAFETY: the tensor is valid as long as the graph.
        let (number, ne, nb) = unsafe { ((*raw).type_, (*raw).ne, (*raw).nb) };
        let ty = Type::from_number(number).ok_or_else(|| Error::failed("graph", format!("type {number}")))?;
        Ok(Meta { ty, ne: ne.map(|n| n as usize), nb })
    }

    /// Dimensions of `t`, contiguous one first.
    /// # Errors `Invalid` for a tensor of another graph.
    pub fn dims(&self, t: T) -> Result<[usize; 4]> {
        Ok(self.meta(t)?.ne)
    }

    /// Bytes from one row (dimension 1) of `t` to the next.
    /// # Errors `Invalid` for a tensor of another graph.
    pub fn row_stride(&self, t: T) -> Result<usize> {
        self.stride(t, 1)
    }

    /// Bytes from one entry of dimension `i` to the next.
    /// # Errors `Invalid` for a tensor of another graph or a fifth dimension.
    pub fn stride(&self, t: T, i: usize) -> Result<usize> {
        self.meta(t)?.nb.get(i).copied().ok_or_else(|| Error::invalid("stride", format!("dimension {i}")))
    }

    /// Checked before every operation: there is room, and the graph is still being built.
    pub(crate) fn ready(&self, n_tensors: usize) -> Result<*mut sys::ggml_context> {
        ensure!("graph", self.memory.is_none(), "the graph is allocated and can no longer grow");
        let n = self.tensors.len() + n_tensors;
        ensure!("graph", n <= self.arena.capacity, "{n} tensors for a graph of {}", self.arena.capacity);
        self.arena.room(n_tensors)?;
        Ok(self.arena.raw())
    }

    /// Takes up what an operation made, if the device can compute it.
    pub(crate) fn made(
        &mut self,
        place: &'static str,
        raw: *mut sys::ggml_tensor,
        writable: bool,
    ) -> Result<T> {
        let raw = NonNull::new(raw).ok_or_else(|| Error::memory(place, "the arena is full"))?;
        // SAFETY: the device and the tensor just made are valid.
        if !unsafe { sys::ggml_backend_dev_supports_op(self.device.raw(), raw.as_ptr()) } {
            return Err(Error::unsupported(
                place,
                format!("{} cannot compute {}", self.device.name(), self.describe(raw)),
            ));
        }
        self.adopt(raw, writable)
    }

    fn describe(&self, raw: NonNull<sys::ggml_tensor>) -> String {
        // SAFETY: the tensor is valid, its sources are null or valid.
        unsafe {
            let sources = (*raw.as_ptr()).src.iter().filter_map(|s| s.as_ref());
            let types: Vec<_> = sources.filter_map(|s| Type::from_number(s.type_)).map(Type::name).collect();
            format!("it on {}", types.join(", "))
        }
    }

    /// A tensor to be filled before each computation.
    /// # Errors `Invalid` for dimensions that do not fill blocks.
    pub fn input(&mut self, ty: Type, dims: [usize; 4]) -> Result<T> {
        self.ready(1)?;
        let raw = self.arena.new_tensor(ty, dims)?;
        // SAFETY: the tensor was just made.
        unsafe { sys::ggml_set_input(raw.as_ptr()) };
        self.adopt(raw, false)
    }

    /// As [`Self::input`], for `n` indices (i32 or i64) below `bound`; must be filled before each computation.
    /// # Errors `Invalid` for another type.
    pub fn index_input(&mut self, ty: Type, n: usize, bound: usize) -> Result<T> {
        ensure!("index_input", ty == Type::I32 || ty == Type::I64, "indices of {ty:?}");
        let t = self.input(ty, [n, 1, 1, 1])?;
        self.index_inputs.push(t.index);
        self.set_bound(t, bound);
        if let Some(node) = self.tensors.get_mut(t.index as usize) {
            node.fresh = false;
        }
        Ok(t)
    }

    /// Keeps `t` to be read after each computation, and puts everything it needs in order.
    /// # Errors `Invalid` for a tensor of another graph.
    pub fn output(&mut self, t: T) -> Result<()> {
        let raw = self.raw(t)?;
        // SAFETY: the tensor is valid.
        unsafe { sys::ggml_set_output(raw) };
        self.expand(t)
    }

    /// Puts `t` and everything it needs that is not yet in the graph at the end of the order of computation.
    /// # Errors `Invalid` for a tensor of another graph.
    pub fn expand(&mut self, t: T) -> Result<()> {
        self.ready(0)?;
        let raw = self.raw(t)?;
        // SAFETY: graph and tensor are valid. The graph has a slot for every tensor that `ready` let in.
        unsafe { sys::ggml_build_forward_expand(self.nodes.as_ptr(), raw) };
        Ok(())
    }

    /// Number of operations to compute.
    pub fn n_nodes(&self) -> usize {
        // SAFETY: the graph is valid.
        unsafe { sys::ggml_graph_n_nodes(self.nodes.as_ptr()) as usize }
    }

    /// Places intermediate results in `memory`. The graph can no longer grow.
    /// # Errors `Invalid` when `memory` is on another device, `OutOfMemory`; `memory` is lost then.
    pub fn allocate(&mut self, memory: Memory) -> Result<()> {
        self.ready(0)?;
        ensure!("allocate", memory.device == self.device, "memory on {:?}", memory.device);
        ensure!("allocate", self.n_nodes() > 0, "the graph is empty");
        // SAFETY: graph and allocator are valid; every leaf is an input or lies in a store.
        let done = unsafe {
            sys::ggml_gallocr_reserve(memory.raw.as_ptr(), self.nodes.as_ptr())
                && sys::ggml_gallocr_alloc_graph(memory.raw.as_ptr(), self.nodes.as_ptr())
        };
        if !done {
            return Err(Error::memory("allocate", "intermediate results do not fit"));
        }
        self.memory = Some(memory);
        Ok(())
    }

    /// Bytes of intermediate results.
    pub fn memory_bytes(&self) -> usize {
        self.memory.as_ref().map_or(0, Memory::n_bytes)
    }

    /// Ends the graph and returns its memory for the next.
    pub fn into_memory(mut self) -> Option<Memory> {
        self.memory.take()
    }

    fn placed<E: Element>(&self, place: &'static str, t: T) -> Result<(*mut sys::ggml_tensor, usize)> {
        let (raw, meta) = (self.raw(t)?, self.meta(t)?);
        ensure!(place, E::fits(meta.ty) && meta.is_contiguous(), "{:?} of {:?}", meta.ty, meta.ne);
        // SAFETY: the tensor is valid; memory is set by `allocate`.
        let is_placed =
            self.memory.is_some() && unsafe { !(*raw).data.is_null() && !(*raw).buffer.is_null() };
        ensure!(place, is_placed, "the tensor is not part of an allocated graph");
        Ok((raw, meta.ne.iter().product()))
    }

    /// Lets `fill` write all values of input `t`. On the CPU it writes where they lie; values it leaves alone
    /// hold anything.
    /// # Errors `Invalid` when `t` is no input, not allocated or of another type, or when it holds indices and
    /// one is outside its bound.
    pub fn fill<E: Element>(&mut self, t: T, fill: impl FnOnce(&mut [E])) -> Result<()> {
        let bound = self.bound(t)?;
        let mut inside = true;
        self.fill_any(t, |values: &mut [E]| {
            fill(values);
            inside = bound.is_none_or(|b| values.iter().all(|v| v.index().is_some_and(|i| i < b)));
        })?;
        if let Some(node) = self.tensors.get_mut(t.index as usize) {
            node.fresh = inside;
        }
        ensure!("fill", inside, "an index is not below {bound:?}");
        Ok(())
    }

    fn fill_any<E: Element>(&mut self, t: T, fill: impl FnOnce(&mut [E])) -> Result<()> {
        let (raw, n) = self.placed::<E>("fill", t)?;
        // SAFETY: the tensor is valid and allocated. In host memory, it is `n` values in this graph's own
        // memory (inputs never lie in a store), aligned by the allocator, and any bits are values. Elsewhere
        // the scratch has room and the values are copied.
        unsafe {
            ensure!("fill", (*raw).flags & sys::GGML_TENSOR_FLAG_INPUT as i32 != 0, "the tensor is no input");
            if sys::ggml_backend_buffer_is_host((*raw).buffer) {
                fill(std::slice::from_raw_parts_mut((*raw).data.cast(), n));
                return Ok(());
            }
            let n_bytes = n * size_of::<E>();
            self.scratch.resize(n_bytes + align_of::<u64>(), 0);
            let start = self.scratch.as_mut_ptr();
            let start = start.add(start.align_offset(align_of::<E>()));
            fill(std::slice::from_raw_parts_mut(start.cast(), n));
            sys::ggml_backend_tensor_set(raw, start.cast(), 0, n_bytes);
        }
        Ok(())
    }

    /// Copies values `first..first + out.len()` of output `t`.
    /// # Errors `Invalid` when `t` is not allocated, of another type, or shorter.
    pub fn read<E: Element>(&self, t: T, first: usize, out: &mut [E]) -> Result<()> {
        let (raw, n) = self.placed::<E>("read", t)?;
        ensure!(
            "read",
            first.checked_add(out.len()).is_some_and(|end| end <= n),
            "{} values from {first} of {n}",
            out.len()
        );
        // SAFETY: the range lies in the tensor (checked above) and `out` has room.
        unsafe {
            sys::ggml_backend_tensor_get(
                raw,
                out.as_mut_ptr().cast(),
                first * size_of::<E>(),
                size_of_val(out),
            )
        };
        Ok(())
    }

    /// Values of `t` seen with other dimensions and strides (bytes), from `offset` bytes on.
    /// # Errors `Invalid` when the view reaches beyond `t`.
    pub fn view(&mut self, t: T, dims: [usize; 4], strides: [usize; 3], offset: usize) -> Result<T> {
        let meta = self.meta(t)?;
        let nb = [meta.ty.block_bytes(), strides[0], strides[1], strides[2]];
        let view = Meta { ty: meta.ty, ne: dims, nb };
        ensure!(
            "view",
            dims.iter().all(|n| *n > 0) && dims[0].is_multiple_of(meta.ty.block_values()),
            "dimensions {dims:?}"
        );
        let packed = dims.iter().product::<usize>() / meta.ty.block_values() * meta.ty.block_bytes();
        let end = offset.checked_add(view.extent().max(packed));
        let whole = meta.extent();
        ensure!(
            "view",
            meta.has_contiguous_rows() && end.is_some_and(|e| e <= whole),
            "{dims:?} with strides {strides:?} at {offset} of {whole} bytes"
        );
        let (context, raw, writable) = (self.ready(1)?, self.raw(t)?, self.is_writable(t)?);
        let ne = dims.map(|n| n as i64);
        // SAFETY: the view lies in its source (checked above) and the arena has room.
        let made = unsafe {
            sys::ggml_view_4d(context, raw, ne[0], ne[1], ne[2], ne[3], nb[1], nb[2], nb[3], offset)
        };
        self.made("view", made, writable)
    }
}
