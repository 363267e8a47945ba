//! Adapters on the command line: strengths, profiles, rows of a batch, mistakes.

mod common;

use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output};
use truing::adapters::ControlVector;
use truing::model::{Model, ModelOptions};

fn truing(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_truing")).args(args).output().expect("the program runs")
}

fn lines(args: &[&str]) -> Vec<Value> {
    let out = truing(args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("truing-adapters-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

#[test]
fn adapters_by_flag_profile_and_row_and_mistakes_by_name() {
    let path = common::real_model("smollm2");
    let model = Model::open(&path, &ModelOptions::default()).expect("model");
    let n_embd = model.shape().n_embd;
    let path = path.to_str().expect("UTF-8");
    let folder = folder();
    let file = |name: &str| folder.join(name).to_str().expect("UTF-8").to_owned();
    let direction = (0..n_embd).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.02).collect();
    let vector = ControlVector { directions: vec![(12, direction)] };
    vector.save(&folder.join("odd.gguf"), "llama").expect("written");
    std::fs::write(folder.join("p.toml"), "[control]\npath = \"odd.gguf\"\nscale = 8.0\n").expect("written");
    let rows = ["{\"id\": 1, \"prompt\": \"Name a river.\"", "{\"id\": 2, \"prompt\": \"Name a river.\""];
    let batch = format!("{}, \"adapters\": {{\"odd\": 0}}}}\n{}}}\n", rows[0], rows[1]);
    std::fs::write(folder.join("rows.jsonl"), batch).expect("written");

    let base = ["generate", path, "--temp", "0", "-n", "8", "--json"];
    let prompt = ["-p", "Name a river."];
    let text = |more: &[&str]| lines(&[&base[..], more].concat())[0]["ids"].clone();
    let plain = text(&prompt);
    let (off, on) = (format!("{}:0", file("odd.gguf")), format!("{}:8", file("odd.gguf")));
    assert_eq!(text(&[&prompt[..], &["--control", &off]].concat()), plain, "strength 0 is off");
    let steered = text(&[&prompt[..], &["--control", &on]].concat());
    assert_ne!(steered, plain);
    assert_eq!(text(&[&prompt[..], &["--profile", &file("p.toml")]].concat()), steered);
    let both = lines(&[&base[..6], &["--control", &on, "--batch", &file("rows.jsonl")]].concat());
    assert_eq!((&both[0]["ids"], &both[1]["ids"]), (&plain, &steered), "rows weigh by name");

    for (more, code, word) in [
        (&["--lora", &on][..], 3, "--control"),
        (&["--control", &file("none.gguf")][..], 3, "none.gguf"),
        (&["--control", path][..], 3, "general.type"),
        (&["--control", &on, "--guard", "default"][..], 3, "adapters"),
        (&["--control", &on, "--executor", "ggml"][..], 3, "native"),
        (&["--lora", "x.gguf:inf"][..], 2, "finite"),
        (&["--expert-alpha", "1"][..], 2, "expert-system"),
        (&["--expert-system", "Be safe.", "--expert-alpha=-1"][..], 2, "alpha"),
    ] {
        let out = truing(&[&base[..], &prompt, more].concat());
        let message = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{more:?}: {message}");
        assert!(message.contains(word), "{more:?}: {message}");
    }
    std::fs::remove_dir_all(folder).expect("removed");
}
