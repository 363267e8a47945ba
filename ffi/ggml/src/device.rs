//! What can compute, and how it is driven.

use crate::{Cache, Error, Graph, Result, error::ensure, sys};
use std::ffi::{CStr, c_char, c_void};
use std::ptr::NonNull;

/// Kind of a [`Device`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// The processor.
    Cpu,
    /// A graphics processor with its own memory.
    Gpu,
    /// A graphics processor that shares memory with the processor.
    IntegratedGpu,
    /// Something that helps the processor (BLAS, AMX).
    Accelerator,
}

/// Something that can compute, as ggml's registry lists it. Lives as long as the program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Device(NonNull<sys::ggml_backend_device>);

// SAFETY: devices are entries of ggml's static registry, never freed and read only after start.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    /// Every device of this build.
    /// # Errors As [`crate::init`].
    pub fn all() -> Result<Vec<Self>> {
        crate::init()?;
        // SAFETY: no precondition; the registry fills itself on first use.
        let n = unsafe { sys::ggml_backend_dev_count() };
        // SAFETY: every index is below the count.
        Ok((0..n).filter_map(|i| NonNull::new(unsafe { sys::ggml_backend_dev_get(i) })).map(Self).collect())
    }

    /// The processor.
    /// # Errors As [`crate::init`].
    pub fn cpu() -> Result<Self> {
        let found = Self::all()?.into_iter().find(|d| d.kind() == DeviceKind::Cpu);
        found.ok_or_else(|| Error::unsupported("device", "ggml was built without its CPU backend"))
    }

    pub(crate) fn raw(self) -> *mut sys::ggml_backend_device {
        self.0.as_ptr()
    }

    /// ggml's short name (`CPU`, `Vulkan0`).
    pub fn name(self) -> String {
        // SAFETY: the device is valid; ggml returns a string that lives as long as the device.
        text(unsafe { sys::ggml_backend_dev_name(self.raw()) })
    }

    /// The hardware's name.
    pub fn description(self) -> String {
        // SAFETY: as in `name`.
        text(unsafe { sys::ggml_backend_dev_description(self.raw()) })
    }

    /// What it is.
    pub fn kind(self) -> DeviceKind {
        // SAFETY: the device is valid.
        match unsafe { sys::ggml_backend_dev_type(self.raw()) } {
            sys::GGML_BACKEND_DEVICE_TYPE_CPU => DeviceKind::Cpu,
            sys::GGML_BACKEND_DEVICE_TYPE_GPU => DeviceKind::Gpu,
            sys::GGML_BACKEND_DEVICE_TYPE_IGPU => DeviceKind::IntegratedGpu,
            _ => DeviceKind::Accelerator,
        }
    }

    /// Free and total memory in bytes, as the device reports it.
    pub fn memory_bytes(self) -> (usize, usize) {
        let (mut free, mut total) = (0, 0);
        // SAFETY: the device is valid and both pointers are to live numbers.
        unsafe { sys::ggml_backend_dev_memory(self.raw(), &mut free, &mut total) };
        (free, total)
    }

    pub(crate) fn buffer_type(self) -> *mut sys::ggml_backend_buffer_type {
        // SAFETY: the device is valid.
        unsafe { sys::ggml_backend_dev_buffer_type(self.raw()) }
    }

    /// Buffer types in which the device can store weights rearranged.
    pub(crate) fn extra_buffer_types(self) -> Vec<NonNull<sys::ggml_backend_buffer_type>> {
        type GetExtra =
            unsafe extern "C" fn(*mut sys::ggml_backend_device) -> *mut *mut sys::ggml_backend_buffer_type;
        let mut found = Vec::new();
        // SAFETY: the device is valid; the looked-up function has the documented type `GetExtra` and returns
        // null or a list that ends with null and lives as long as the program.
        unsafe {
            let registry = sys::ggml_backend_dev_backend_reg(self.raw());
            let f = sys::ggml_backend_reg_get_proc_address(
                registry,
                c"ggml_backend_dev_get_extra_bufts".as_ptr(),
            );
            if f.is_null() {
                return found;
            }
            let mut list = std::mem::transmute::<*mut c_void, GetExtra>(f)(self.raw());
            while let Some(entry) = NonNull::new(list) {
                let Some(kind) = NonNull::new(*entry.as_ptr()) else { break };
                found.push(kind);
                list = list.add(1);
            }
        }
        found
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name(), self.description())
    }
}

fn text(s: *const c_char) -> String {
    if s.is_null() {
        return String::new();
    }
    // SAFETY: callers pass a NUL-terminated string from ggml that is alive.
    unsafe { CStr::from_ptr(s) }.to_string_lossy().into_owned()
}

/// How a computation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All nodes were computed.
    Done,
    /// The caller asked to stop; results hold anything.
    Stopped,
}

/// A device ready to compute, with its threads.
pub struct Backend {
    raw: NonNull<sys::ggml_backend>,
    pool: Option<NonNull<sys::ggml_threadpool>>,
    device: Device,
    n_threads: usize,
}

// SAFETY: a backend has no tie to the thread that made it, and every use takes `&mut self`.
unsafe impl Send for Backend {}

/// ggml's bound on threads.
const MAX_THREADS: usize = 512;

impl Backend {
    /// Opens `device`; on the CPU with `n_threads` threads (the caller's included) that live as long as the
    /// backend. `spin`: 0..=100, how long idle threads poll before they sleep; only with two threads or more.
    /// # Errors `Invalid` for a thread count outside 1..=512, `OutOfMemory` when threads cannot be had.
    pub fn new(device: Device, n_threads: usize, spin: u32) -> Result<Self> {
        crate::init()?;
        ensure!(
            "backend",
            (1..=MAX_THREADS).contains(&n_threads),
            "{n_threads} threads, expected 1 to {MAX_THREADS}"
        );
        // SAFETY: the device is valid; null parameters mean defaults.
        let raw = NonNull::new(unsafe { sys::ggml_backend_dev_init(device.raw(), std::ptr::null()) });
        let raw = raw.ok_or_else(|| Error::failed("backend", format!("{device:?} cannot be opened")))?;
        let mut backend = Self { raw, pool: None, device, n_threads };
        if device.kind() == DeviceKind::Cpu {
            backend.start_threads(spin)?;
        }
        Ok(backend)
    }

    fn start_threads(&mut self, spin: u32) -> Result<()> {
        if self.n_threads > 1 {
            try_threads(self.n_threads - 1)?;
        }
        // SAFETY: the parameters are initialised by ggml and valid during the call. The backend is ggml's CPU
        // backend (checked by the caller), for which both setters are made. The pool outlives the backend's
        // last use: `drop` frees the backend first.
        unsafe {
            let mut params = sys::ggml_threadpool_params_default(self.n_threads as i32);
            params.poll = spin.min(100);
            self.pool = NonNull::new(sys::ggml_threadpool_new(&mut params));
            let Some(pool) = self.pool else {
                return Err(Error::memory("backend", format!("no pool of {} threads", self.n_threads)));
            };
            sys::ggml_backend_cpu_set_n_threads(self.raw.as_ptr(), self.n_threads as i32);
            sys::ggml_backend_cpu_set_threadpool(self.raw.as_ptr(), pool.as_ptr());
        }
        Ok(())
    }

    /// The device it drives.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Number of threads, the caller's included.
    pub fn n_threads(&self) -> usize {
        self.n_threads
    }

    /// Computes `graph`, which must have been allocated. `cache`: the one the graph writes to, if any.
    /// `stop` is asked after every node on the CPU; other devices finish what was handed to them first.
    /// Allocates nothing once a graph of this size has run.
    /// # Errors `Invalid` when the graph is not allocated, belongs to another device or to another cache;
    /// `OutOfMemory`, `Failed` as ggml reports.
    pub fn compute(
        &mut self,
        graph: &mut Graph,
        cache: Option<&mut Cache>,
        stop: &dyn Fn() -> bool,
    ) -> Result<Outcome> {
        ensure!("compute", graph.device() == self.device, "the graph is for {:?}", graph.device());
        ensure!(
            "compute",
            graph.cache_id() == cache.as_ref().map(|c| c.id()),
            "the graph uses another cache"
        );
        let nodes =
            graph.allocated_nodes().ok_or_else(|| Error::invalid("compute", "the graph is not allocated"))?;
        ensure!("compute", graph.indices_are_fresh(), "an input that holds indices has not been filled");
        graph.spend_indices();
        let is_cpu = self.device.kind() == DeviceKind::Cpu;
        if !is_cpu && stop() {
            return Ok(Outcome::Stopped);
        }
        let mut ask: &dyn Fn() -> bool = stop;
        // SAFETY: ggml asks in the thread that computes first, which is the calling one, so `stop` need not be
        // `Sync`. Graph and backend are valid, the graph's tensors are allocated and every memory they lie in
        // is kept alive by the graph; `&mut` on graph and cache excludes other users of what is written. The
        // callback's data outlives the call and is removed after it. CPU setters are called on the CPU only.
        let status = unsafe {
            if is_cpu {
                let data = std::ptr::from_mut(&mut ask).cast();
                sys::ggml_backend_cpu_set_abort_callback(self.raw.as_ptr(), Some(ask_to_stop), data);
            }
            let status = sys::ggml_backend_graph_compute(self.raw.as_ptr(), nodes);
            if is_cpu {
                sys::ggml_backend_cpu_set_abort_callback(self.raw.as_ptr(), None, std::ptr::null_mut());
            }
            status
        };
        match status {
            sys::GGML_STATUS_SUCCESS => Ok(Outcome::Done),
            sys::GGML_STATUS_ABORTED => Ok(Outcome::Stopped),
            sys::GGML_STATUS_ALLOC_FAILED => {
                Err(Error::memory("compute", "no memory for intermediate results"))
            }
            other => Err(Error::failed("compute", format!("status {other}"))),
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // SAFETY: both are valid and freed once; the pool is idle since `compute` has returned, and the
        // backend that refers to it goes first.
        unsafe {
            sys::ggml_backend_free(self.raw.as_ptr());
            if let Some(pool) = self.pool {
                sys::ggml_threadpool_free(pool.as_ptr());
            }
        }
    }
}

unsafe extern "C" fn ask_to_stop(data: *mut c_void) -> bool {
    // SAFETY: `compute` passes a pointer to a live reference to its `stop`.
    let stop = unsafe { *data.cast::<&dyn Fn() -> bool>() };
    // A panic must not cross into C; it stops the computation.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(stop)).unwrap_or(true)
}

/// ggml aborts when a thread cannot be made, so we make as many first and let them go.
fn try_threads(n: usize) -> Result<()> {
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Arc::new(std::sync::Mutex::new(gate));
    let mut made = Vec::with_capacity(n);
    let mut failure = None;
    for _ in 0..n {
        let gate = gate.clone();
        let wait = move || drop(gate.lock().map(|g| g.recv()));
        match std::thread::Builder::new().spawn(wait) {
            Ok(handle) => made.push(handle),
            Err(e) => failure = Some(e),
        }
    }
    drop(open);
    for handle in made {
        let _ = handle.join();
    }
    failure.map_or(Ok(()), |e| Err(Error::memory("backend", format!("cannot start {n} threads: {e}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_listed_and_opens() {
        let cpu = Device::cpu().unwrap();
        assert!(Device::all().unwrap().contains(&cpu));
        assert_eq!(cpu.kind(), DeviceKind::Cpu);
        assert!(!cpu.name().is_empty() && cpu.memory_bytes().1 > 0);
        assert!(Backend::new(cpu, 0, 50).is_err());
        assert!(Backend::new(cpu, 100_000, 50).is_err());
        assert_eq!(Backend::new(cpu, 3, 50).unwrap().n_threads(), 3);
    }
}
