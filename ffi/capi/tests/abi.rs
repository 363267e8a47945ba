//! What the header says and what the library is are the same: symbols, numbers, layouts. Nothing else is exported.
#![cfg(unix)]

mod common;

use common::{compile, prefix, root, run, scratch, text};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::mem::offset_of;
use std::process::Command;
use truing_capi::*;

fn header() -> String {
    std::fs::read_to_string(root().join("include/truing.h")).expect("include/truing.h")
}

/// Functions that the header declares.
fn declared() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in header().lines().filter(|l| !l.starts_with([' ', '/', '#']) && !l.starts_with("typedef")) {
        let Some(before) = line.split('(').next().filter(|b| b.len() < line.len()) else { continue };
        let name = before.rsplit([' ', '*']).next().unwrap_or_default();
        if name.starts_with("truing_") {
            names.insert(name.to_owned());
        }
    }
    names
}

#[cfg(target_os = "linux")]
#[test]
fn exactly_the_declared_functions_are_exported() {
    let library = std::fs::read(prefix().join("lib/libtruing.so")).expect("an installed library");
    let exported: BTreeSet<String> = elf::exported(&library).into_iter().collect();
    assert!(declared().len() > 40, "{:?}", declared());
    assert_eq!(exported, declared());
}

#[cfg(target_os = "linux")]
#[test]
fn the_library_is_named_as_it_is_installed() {
    let library = std::fs::read(prefix().join("lib/libtruing.so")).expect("an installed library");
    assert_eq!(elf::soname(&library).as_deref(), Some("libtruing.so.0"));
}

macro_rules! layouts {
    ($($name:ident { $($field:ident),* $(,)? })*) => {
        /// Lines `struct member offset` and `struct size`, as Rust has them, and the C expressions for the same.
        fn layouts() -> Vec<(String, usize)> {
            let mut lines = Vec::new();
            $(
                lines.push((format!("sizeof({})", stringify!($name)), size_of::<$name>()));
                $(lines.push((
                    format!("offsetof({}, {})", stringify!($name), stringify!($field)),
                    offset_of!($name, $field),
                ));)*
            )*
            lines
        }
    };
}

layouts! {
    truing_model_options { struct_size, log, log_user_data }
    truing_model_sizes { struct_size, n_vocab, n_embd, n_layer, n_ctx_train, file_bytes }
    truing_special_tokens { struct_size, bos, eos, eot, reserved }
    truing_chat_options {
        struct_size, chat_template, chat_template_len, variables_json, variables_json_len, flags, reserved,
    }
    truing_context_options { struct_size, n_ctx, n_kv_tokens, n_threads, max_rows, executor, kv_type }
    truing_memory { struct_size, kv_bytes, buffer_bytes, model_bytes, n_kv_tokens, n_kv_tokens_free }
    truing_embed_options { struct_size, pooling, normalise, flags, reserved }
    truing_session_options { struct_size, profile_folder, profile_folder_len }
    truing_event { struct_size, kind, finish, text, text_len }
    truing_generate_options {
        struct_size, on_event, on_logits, user_data, seed, max_tokens, deadline_ms, flags, reserved, rewards, n_rewards,
        guards, n_guards,
    }
    truing_reward { struct_size, score, user_data, name, name_len, weight, least, most, step, flags, reserved }
    truing_candidate { struct_size, prompt, prompt_len, text, text_len, is_closed, reserved }
    truing_score { struct_size, value, least, most, satisfied, reserved }
    truing_guard { struct_size, check, user_data, name, name_len, action, reserved }
    truing_guarded { struct_size, text, text_len, token_start, n_tokens, token, is_end }
    truing_probe_info {
        struct_size, position, n_layers, threshold_low, threshold_high, auroc, hits_at_1_percent,
    }
    truing_result {
        struct_size, finish, satisfied, n_prompt, n_cached, n_generated, text_len, logprob, prefill_s, decode_s,
    }
}

/// Compiled as C and as C++, the header has the layouts and status numbers of Rust, and comes first and alone.
#[test]
fn layouts_and_numbers_are_the_same_in_c_cpp_and_rust() {
    let mut source =
        String::from("#include <truing.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {\n");
    let mut expected = String::new();
    for (expression, value) in layouts() {
        writeln!(source, "printf(\"%zu\\n\", (size_t){expression});").expect("a string");
        writeln!(expected, "{value}").expect("a string");
    }
    for (number, name) in STATUSES {
        let name = name.to_str().expect("ASCII");
        writeln!(source, "printf(\"%d %s\\n\", (int){name}, truing_status_name({name}));").expect("a string");
        writeln!(expected, "{number} {name}").expect("a string");
    }
    source += "printf(\"%u\\n\", (unsigned)truing_version() == TRUING_VERSION ? 1u : 0u);\nreturn 0;\n}\n";
    expected += "1\n";
    let header = header();
    let structs =
        header.lines().filter(|l| l.starts_with("typedef struct truing_") && l.ends_with('{')).count();
    assert_eq!(
        structs,
        layouts().iter().filter(|(e, _)| e.starts_with("sizeof")).count(),
        "a struct is not listed"
    );
    for (language, standard, ending) in [("c", "c99", "c"), ("c++", "c++11", "cpp")] {
        let file = scratch().join(format!("layout-{}.{ending}", std::process::id()));
        std::fs::write(&file, &source).expect("written");
        let found = run(&mut Command::new(compile(language, standard, &file, &[])));
        assert_eq!(text(&found.stdout), expected, "{language}");
    }
}

#[test]
fn every_status_has_a_number_and_a_name_of_its_own() {
    let numbers: BTreeSet<_> = STATUSES.iter().map(|(number, _)| number).collect();
    let names: BTreeSet<_> = STATUSES.iter().map(|(_, name)| name).collect();
    assert_eq!((numbers.len(), names.len()), (STATUSES.len(), STATUSES.len()));
}

/// As much of ELF as lists the dynamic symbols.
#[cfg(target_os = "linux")]
mod elf {
    fn number(bytes: &[u8], at: usize, n: usize) -> usize {
        bytes[at..at + n].iter().rev().fold(0, |sum, b| sum << 8 | usize::from(*b))
    }

    fn name(bytes: &[u8], at: usize) -> String {
        let end = bytes[at..].iter().position(|b| *b == 0).expect("a zero ends a name");
        String::from_utf8_lossy(&bytes[at..at + end]).into_owned()
    }

    /// Sections: kind, offset, size, link.
    fn sections(bytes: &[u8]) -> Vec<(usize, usize, usize, usize)> {
        assert_eq!(&bytes[..6], b"\x7fELF\x02\x01", "64 bits, little-endian");
        let (first, size, n) = (number(bytes, 0x28, 8), number(bytes, 0x3a, 2), number(bytes, 0x3c, 2));
        let at = |i: usize, field: usize, width: usize| number(bytes, first + i * size + field, width);
        (0..n).map(|i| (at(i, 4, 4), at(i, 0x18, 8), at(i, 0x20, 8), at(i, 0x28, 4))).collect()
    }

    /// Names of the symbols that others may use.
    pub fn exported(bytes: &[u8]) -> Vec<String> {
        const DYNSYM: usize = 11;
        let sections = sections(bytes);
        let (_, offset, size, link) = *sections.iter().find(|s| s.0 == DYNSYM).expect("a table of symbols");
        let names = sections[link].1;
        let symbols = (0..size / 24).map(|i| offset + i * 24);
        let defined = symbols.filter(|at| number(bytes, at + 6, 2) != 0 && bytes[at + 4] >> 4 != 0);
        defined.map(|at| name(bytes, names + number(bytes, at, 4))).collect()
    }

    /// The name that programs linked with it look for.
    pub fn soname(bytes: &[u8]) -> Option<String> {
        const DYNAMIC: usize = 6;
        const SONAME: usize = 14;
        let sections = sections(bytes);
        let (_, offset, size, link) = *sections.iter().find(|s| s.0 == DYNAMIC)?;
        let entries = (0..size / 16).map(|i| offset + i * 16);
        let found =
            entries.filter(|at| number(bytes, *at, 8) == SONAME).map(|at| number(bytes, at + 8, 8)).next()?;
        Some(name(bytes, sections[link].1 + found))
    }
}
