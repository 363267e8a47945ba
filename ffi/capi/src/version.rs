//! What this library is.

use crate::handle::guard;
use crate::text::{put_text, text};
use serde_json::json;
use std::ffi::{CStr, c_char};
use truing::native::NativeExecutor;

/// Version of the header: major · 65536 + minor · 256 + patch. Compare with `truing_version()` at start: the
/// library must have the same major number (while that is 0, the same minor number) and be no older.
pub const TRUING_VERSION: u32 = 0x0000_0100;

const VERSION: &CStr = c"0.1.0";

/// Version of the library, as `TRUING_VERSION`.
#[unsafe(no_mangle)]
pub extern "C" fn truing_version() -> u32 {
    TRUING_VERSION
}

/// Version of the library as text, such as "0.1.0". Lives for ever.
#[unsafe(no_mangle)]
pub extern "C" fn truing_version_string() -> *const c_char {
    VERSION.as_ptr()
}

const FEATURES: [(&str, bool); 4] = [
    ("native", true),
    ("ggml", cfg!(feature = "ggml")),
    ("vulkan", cfg!(feature = "vulkan")),
    ("metal", cfg!(feature = "metal")),
];

/// Whether the library was built with a feature: "native" (own kernels), "ggml" (all types of tensors), "vulkan",
/// "metal". 1 or 0; 0 for names it does not know.
///
/// # Safety
/// `name` has `len` bytes, or ends with a zero if `len` is `TRUING_CSTR`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_has_feature(name: *const c_char, len: usize) -> i32 {
    let mut has = 0;
    guard(|| {
        // SAFETY: the caller's promise.
        let name = unsafe { text(name, len, "name") }?;
        has = i32::from(FEATURES.contains(&(name, true)));
        Ok(())
    });
    has
}

/// What the library is as JSON: `version`, `features`, `instruction_sets` (those of this processor that it has
/// kernels for, the best last), `architectures`. As for all texts: `*len_out` (may be NULL) gets the length without
/// the zero, also with TRUING_E_BUFFER_TOO_SMALL.
///
/// # Safety
/// `buf` has room for `cap` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_build_info(buf: *mut c_char, cap: usize, len_out: *mut usize) -> i32 {
    guard(|| {
        let features: Vec<&str> = FEATURES.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
        let info = json!({
            "version": VERSION.to_string_lossy(),
            "features": features,
            "instruction_sets": NativeExecutor::instruction_sets(),
            "architectures": truing::model::supported_architectures().collect::<Vec<_>>(),
        });
        // SAFETY: the caller's promise.
        unsafe { put_text(info.to_string().as_bytes(), buf, cap, len_out) }
    })
}
