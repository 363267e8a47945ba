//! Names the shared library as it is installed, whatever the file in the build folder is called.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let os = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    match os.as_str() {
        "linux" | "freebsd" | "netbsd" | "openbsd" => {
            println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libtruing.so.0");
        }
        "android" => println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libtruing.so"),
        "macos" | "ios" => println!("cargo:rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libtruing.0.dylib"),
        _ => {}
    }
}
