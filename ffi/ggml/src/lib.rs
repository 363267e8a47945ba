//! Safe, owning wrapper over ggml.
//!
//! ggml ends the process when a precondition does not hold. Everything here checks first and answers with
//! an [`Error`] instead, so no input can abort the host. No raw pointer appears in the public interface:
//! tensors are numbers that only the graph that made them accepts.
//!
//! - [`Device`]: what can compute (the CPU, and GPUs when compiled in).
//! - [`Weights`]: tensors that are read only, used where they lie in a mapped file when the device can.
//! - [`Cache`]: tensors that graphs write to, zeroed, whose memory is touched only as it is used.
//! - [`Graph`]: operations, checked as they are added; allocated once, computed many times.
//! - [`Backend`]: a device with its threads; computes graphs and can be stopped between two nodes.
//! - [`Kernel`]: ggml's dot product of one tensor type, for executors of our own.
//!
//! Cost: building a graph takes some hundred nanoseconds a node, computing one adds nothing. It loses where
//! an operation needs a precondition that cannot be seen from types and shapes (there is no such operation
//! here: orderings are shielded from NaN by a clamp, indices are checked when inputs are filled).

#[cfg(test)]
mod checks;
mod device;
mod error;
mod graph;
mod kernel;
mod memory;
mod ops;
mod ops_matrix;
mod types;

pub use device::{Backend, Device, DeviceKind, Outcome};
pub use error::{Error, ErrorKind, Result};
pub use graph::{Element, Graph, Memory, T};
pub use kernel::Kernel;
pub use memory::{Cache, Mapping, Placement, WeightSource, Weights};
pub use ops::{Gated, Unary};
pub use ops_matrix::{Attention, Rope, RopeMode};
pub use types::Type;

use llama_cpp_sys_2 as sys;
use std::ffi::{CStr, c_char, c_void};
use std::sync::{Mutex, OnceLock};

/// Gets a line that ggml would print: `true` for warnings and errors.
pub type Logger = fn(is_warning: bool, line: &str);

static LOGGER: Mutex<Option<Logger>> = Mutex::new(None);
static READY: OnceLock<Result<()>> = OnceLock::new();

/// Sends what ggml logs to `logger`, or drops it (the default).
pub fn set_logger(logger: Option<Logger>) {
    *LOGGER.lock().unwrap_or_else(|e| e.into_inner()) = logger;
}

/// Makes ggml ready and quiet; every entry point calls it.
/// # Errors `Unsupported` when this program was compiled for instructions that this processor lacks.
pub fn init() -> Result<()> {
    READY
        .get_or_init(|| {
            // SAFETY: the callback is a plain function without state and lives as long as the program.
            unsafe { sys::ggml_log_set(Some(forward_log), std::ptr::null_mut()) };
            check_processor()?;
            // SAFETY: no precondition; fills ggml's tables once, under ggml's own lock.
            unsafe { sys::ggml_cpu_init() };
            Ok(())
        })
        .clone()
}

/// Version of the linked ggml.
pub fn version() -> &'static str {
    // SAFETY: ggml returns a pointer to a string literal.
    unsafe { CStr::from_ptr(sys::ggml_version()) }.to_str().unwrap_or("")
}

unsafe extern "C" fn forward_log(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    let Ok(Some(logger)) = LOGGER.lock().map(|l| *l) else { return };
    if text.is_null() {
        return;
    }
    // SAFETY: ggml passes a NUL-terminated string that outlives the call.
    let line = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let is_warning = level == sys::GGML_LOG_LEVEL_WARN || level == sys::GGML_LOG_LEVEL_ERROR;
    // A panic must not cross into C.
    let _ = std::panic::catch_unwind(|| logger(is_warning, line.trim_end()));
}

/// ggml picks its instructions when it is compiled; without this check the program would die at the first
/// one that the processor does not know.
#[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
fn check_processor() -> Result<()> {
    use std::arch::is_x86_feature_detected as has;
    // SAFETY: these return constants of the build.
    let wanted = unsafe {
        [
            ("SSE3", sys::ggml_cpu_has_sse3(), has!("sse3")),
            ("SSSE3", sys::ggml_cpu_has_ssse3(), has!("ssse3")),
            ("AVX", sys::ggml_cpu_has_avx(), has!("avx")),
            ("AVX2", sys::ggml_cpu_has_avx2(), has!("avx2")),
            ("FMA", sys::ggml_cpu_has_fma(), has!("fma")),
            ("F16C", sys::ggml_cpu_has_f16c(), has!("f16c")),
            ("BMI2", sys::ggml_cpu_has_bmi2(), has!("bmi2")),
            ("AVX-512", sys::ggml_cpu_has_avx512(), has!("avx512f")),
            ("AVX-512 VBMI", sys::ggml_cpu_has_avx512_vbmi(), has!("avx512vbmi")),
            ("AVX-512 VNNI", sys::ggml_cpu_has_avx512_vnni(), has!("avx512vnni")),
            ("AVX-512 BF16", sys::ggml_cpu_has_avx512_bf16(), has!("avx512bf16")),
        ]
    };
    missing(&wanted)
}

#[cfg(target_arch = "aarch64")]
fn check_processor() -> Result<()> {
    use std::arch::is_aarch64_feature_detected as has;
    // SAFETY: these return constants of the build, or ask the operating system.
    let wanted = unsafe {
        [
            ("NEON", sys::ggml_cpu_has_neon(), has!("neon")),
            ("DOTPROD", sys::ggml_cpu_has_dotprod(), has!("dotprod")),
            ("FP16", sys::ggml_cpu_has_fp16_va(), has!("fp16")),
            ("I8MM", sys::ggml_cpu_has_matmul_int8(), has!("i8mm")),
        ]
    };
    missing(&wanted)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64")))]
fn check_processor() -> Result<()> {
    Ok(())
}

fn missing(wanted: &[(&str, i32, bool)]) -> Result<()> {
    let lacking: Vec<&str> =
        wanted.iter().filter(|(_, built, here)| *built != 0 && !*here).map(|(name, ..)| *name).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    Err(Error::unsupported(
        "processor",
        format!("this program was compiled for {}, which this processor lacks", lacking.join(", ")),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_that_lacks_what_was_compiled_in_is_named() {
        let e = missing(&[("AVX2", 1, false), ("FMA", 1, true), ("BMI2", 0, false)]).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported);
        assert!(e.to_string().contains("compiled for AVX2,"), "{e}");
        assert!(missing(&[("AVX2", 0, false), ("FMA", 1, true)]).is_ok());
        assert!(init().is_ok());
    }
}
