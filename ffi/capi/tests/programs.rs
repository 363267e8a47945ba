//! Programs in C, C++ and Python, compiled against an installed library and run: the examples on a real model, the
//! misuse suite and cycles of open and free on a tiny one.
#![cfg(unix)]

mod common;

use common::{compile, prefix, real_model, root, run, scratch, text, tiny};
use std::path::Path;
use std::process::Command;

fn example(name: &str) -> std::path::PathBuf {
    root().join("examples").join(name)
}

const JAPAN: &str = "What is the capital of Japan?";

#[test]
fn a_chat_in_c_answers_and_computes_only_what_is_new() {
    let program = compile("c", "c99", &example("c/chat.c"), &[]);
    let chat = run(Command::new(program).arg(real_model("smollm2")).args([JAPAN, "And of France?"]));
    let (said, told) = (text(&chat.stdout), text(&chat.stderr));
    assert!(said.contains("Tokyo") && said.contains("Paris"), "{said}");
    let computed: Vec<usize> =
        told.lines().filter_map(|l| l.split(", ").nth(1)?.split(' ').next()?.parse().ok()).collect();
    assert!(computed.len() == 2 && computed[1] < computed[0], "{told}");
}

#[test]
fn json_in_c_is_json_of_the_schema() {
    let program = compile("c", "c99", &example("c/json.c"), &[]);
    let answer =
        run(Command::new(program).arg(real_model("smollm2")).arg("Ada \"Countess\" Lovelace died at 36."));
    let json: serde_json::Value = serde_json::from_slice(&answer.stdout).expect("JSON");
    assert!(
        json["name"].is_string() && json["age"].as_i64().is_some_and(|a| (0..=150).contains(&a)),
        "{json}"
    );
    assert!(text(&answer.stderr).contains("satisfied: 1"));
}

#[test]
fn functions_of_the_programs_guard_and_reward_in_c() {
    let program = compile("c", "c99", &example("c/watch.c"), &[]);
    let probe = root().join("models/guards/smollm2.prompt.gguf");
    let watched = run(Command::new(program).arg(real_model("smollm2")).args([JAPAN, "Tokyo"]).arg(probe));
    let (said, told) = (text(&watched.stdout), text(&watched.stderr));
    let (guarded, searched) = said.split_once('\n').expect("two answers");
    assert!(guarded.contains("sorry") && !guarded.contains("Tokyo"), "{said}");
    assert!(searched.trim().len() > 3, "{said}");
    assert!(told.contains("the prompt scores"), "{told}");
}

#[test]
fn another_thread_stops_an_answer_in_c() {
    let program = compile("c", "c99", &example("c/cancel.c"), &["-pthread"]);
    let stopped = run(Command::new(program).arg(real_model("smollm2")));
    assert!(text(&stopped.stderr).contains("TRUING_E_CANCELLED"), "{}", text(&stopped.stderr));
}

#[test]
fn the_wrapper_for_cpp_streams_and_passes_exceptions_on() {
    let program = compile("c++", "c++11", &example("cpp/chat.cpp"), &[]);
    let chat = run(Command::new(program).arg(real_model("smollm2")).arg(JAPAN));
    assert!(text(&chat.stdout).contains("Tokyo"), "{}", text(&chat.stdout));
    let told = text(&chat.stderr);
    assert!(told.contains("an exception: enough") && told.contains("temprature"), "{told}");
    let guarded = told.lines().find(|l| l.starts_with("[guarded: ")).expect("a guarded answer");
    assert!(guarded.contains("sorry") && !guarded.contains("Tokyo"), "{told}");
}

#[test]
fn python_needs_nothing_but_the_library() {
    let python = ["python3", "python"].into_iter().find(|p| Command::new(p).arg("-V").output().is_ok());
    let Some(python) = python else { return eprintln!("no Python here: examples/python is not run") };
    let library = ["libtruing.so", "libtruing.dylib"].map(|name| prefix().join("lib").join(name));
    let library = library.iter().find(|path| path.exists()).expect("an installed library");
    let mut chat = Command::new(python);
    chat.arg(example("python/chat.py")).arg(real_model("smollm2")).arg(JAPAN).env("LIBTRUING", library);
    let chat = run(&mut chat);
    assert!(text(&chat.stdout).contains("Tokyo"), "{}", text(&chat.stdout));
}

#[test]
fn misuse_is_noticed_and_does_no_harm() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/misuse.c");
    let program = compile("c", "c99", &source, &["-pthread", "-lm"]);
    let checked = run(Command::new(program).arg(tiny()));
    assert!(text(&checked.stdout).contains(" 0 failed"), "{}", text(&checked.stdout));
}

#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_opening_and_freeing() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/cycles.c");
    let program = compile("c", "c99", &source, &[]);
    run(Command::new(program).arg(tiny()).arg("1000"));
}

#[test]
fn cmake_finds_the_installed_package() {
    let Ok(_) = Command::new("cmake").arg("--version").output() else {
        return eprintln!("no CMake here: the package for it is not tried");
    };
    let folder = scratch().join(format!("cmake-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let source = example("c/json.c").canonicalize().expect("the example");
    let project = format!(
        "cmake_minimum_required(VERSION 3.10)\nproject(app C)\nfind_package(truing 0.1 REQUIRED)\n\
         add_executable(app {})\ntarget_link_libraries(app truing::truing)\n",
        source.display()
    );
    std::fs::write(folder.join("CMakeLists.txt"), project).expect("written");
    let mut configure = Command::new("cmake");
    configure.arg("-S").arg(&folder).arg("-B").arg(folder.join("build"));
    run(configure.arg(format!("-DCMAKE_PREFIX_PATH={}", prefix().display())));
    run(Command::new("cmake").arg("--build").arg(folder.join("build")));
    let usage = Command::new(folder.join("build/app")).output().expect("the program starts");
    assert_eq!(usage.status.code(), Some(2), "without arguments it tells how to use it");
}
