//! Compiling and running programs against the library that cargo has just built.
#![allow(dead_code, clippy::panic, reason = "each test binary uses a part; a failed test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The root of the repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The static library that cargo has just built for this test: it lies beside it under a name with a hash, and of
/// several, built with other features, it is the newest.
fn built() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let beside = std::fs::read_dir(test.parent().expect("a folder")).expect("its files");
    let libraries = beside.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        name.starts_with("libtruing_capi") && name.ends_with(".a")
    });
    let made = |path: &PathBuf| path.metadata().and_then(|m| m.modified()).ok();
    libraries.max_by_key(made).expect("cargo builds the static library before its tests")
}

/// A folder for what these tests write.
pub fn scratch() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// The prefix that the shared library is installed to, once for all tests.
pub fn prefix() -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| {
        // one for each test binary, so that nothing piles up
        let test = std::env::current_exe().expect("the path of this test");
        let name = test.file_stem().expect("a name").to_string_lossy().into_owned();
        let prefix = scratch().join(format!("prefix-{name}"));
        let from = scratch().join(format!("from-{name}"));
        std::fs::create_dir_all(&from).expect("a folder");
        let library = from.join("libtruing_capi.a");
        let _ = std::fs::remove_file(&library); // of an earlier run
        std::os::unix::fs::symlink(built(), &library).expect("a link to the library");
        let mut install = Command::new(root().join("ffi/capi/install.sh"));
        install.arg(&prefix).arg("--from").arg(&from).args(["--no-static", "--no-strip"]);
        run(&mut install);
        prefix
    })
}

/// Runs a program that must succeed.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// The compiler: `CC` or `CXX`, else `cc` or `c++`. ggml needs both anyway, so they are there where this is built.
pub fn compiler(language: &str) -> Command {
    let (variable, usual) = if language == "c++" { ("CXX", "c++") } else { ("CC", "cc") };
    Command::new(std::env::var_os(variable).unwrap_or(usual.into()))
}

/// Flags that pkg-config gives for the installed library; read by hand where there is no pkg-config.
pub fn flags() -> Vec<String> {
    let folder = prefix().join("lib/pkgconfig");
    let asked = Command::new("pkg-config")
        .args(["--cflags", "--libs", "truing"])
        .env("PKG_CONFIG_PATH", &folder)
        .output();
    if let Ok(output) = asked
        && output.status.success()
    {
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        return text.split_whitespace().map(str::to_owned).collect();
    }
    let at = |name: &str| prefix().join(name).display().to_string();
    vec![format!("-I{}", at("include")), format!("-L{}", at("lib")), "-ltruing".to_owned()]
}

/// Compiles a program against the installed library, with every warning an error.
pub fn compile(language: &str, standard: &str, source: &Path, more: &[&str]) -> PathBuf {
    let program = scratch().join(format!(
        "{}-{}-{}",
        source.file_stem().expect("a name").to_string_lossy(),
        if language == "c++" { "cpp" } else { "c" },
        std::process::id()
    ));
    let mut cc = compiler(language);
    cc.arg(format!("-std={standard}")).args(["-Wall", "-Wextra", "-pedantic", "-Werror", "-g"]);
    cc.arg(source).args(flags()).arg(format!("-Wl,-rpath,{}", prefix().join("lib").display()));
    run(cc.args(more).arg("-o").arg(&program));
    program
}

/// The tiny model of the runtime's tests.
pub fn tiny() -> PathBuf {
    root().join("runtime/tests/data/archs/llama-s1-a-f32.gguf")
}

/// A catalog model, fetched into the cache if it is not there yet.
pub fn real_model(name: &str) -> PathBuf {
    truing::models::resolve_or_pull(name, &mut truing::models::Quiet)
        .unwrap_or_else(|e| panic!("this test needs the model {name}: {e}"))
}

/// What a program has written.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
