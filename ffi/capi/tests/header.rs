//! `include/truing.h` is what cbindgen writes. With `TRUING_BLESS=1` in the environment it is written anew.

use std::path::{Path, PathBuf};

/// In the order of the header.
const SOURCES: [&str; 14] = [
    "status", "version", "log", "model", "vocab", "context", "profile", "session", "cancel", "rewards",
    "guards", "generate", "probe", "saved",
];

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn header() -> PathBuf {
    folder().join("../../include/truing.h")
}

fn written() -> String {
    let config = cbindgen::Config::from_file(folder().join("cbindgen.toml")).expect("a sound cbindgen.toml");
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(folder().join("src").join(source).with_extension("rs"));
    }
    let mut text = Vec::new();
    builder.generate().expect("cbindgen reads the sources").write(&mut text);
    for_c(&String::from_utf8(text).expect("UTF-8"))
}

/// Leaves out what comments say to Rust's readers only.
fn for_c(text: &str) -> String {
    let mut lines: Vec<&str> = Vec::new();
    let mut is_safety = false;
    for line in text.lines() {
        let said = line.trim();
        if said == "* # Safety" {
            is_safety = true;
            while lines.last().is_some_and(|l| l.trim() == "*") {
                lines.pop();
            }
        }
        is_safety &= said != "*/";
        if !is_safety {
            lines.push(line.trim_end());
        }
    }
    lines.join("\n") + "\n"
}

#[test]
fn the_committed_header_is_the_generated_one() {
    let written = written();
    if std::env::var_os("TRUING_BLESS").is_some() {
        std::fs::write(header(), &written).expect("include/truing.h is written");
    }
    let committed = std::fs::read_to_string(header()).unwrap_or_default();
    let at = committed.lines().zip(written.lines()).position(|(a, b)| a != b);
    assert!(
        committed == written,
        "include/truing.h is not what cbindgen writes (first at line {:?}); run \
         TRUING_BLESS=1 cargo test -p truing-capi --test header",
        at.map(|n| n + 1)
    );
}
