//! Reward models: the head is found, applied to the last hidden state, and missed when it is not there.

#![allow(clippy::panic, reason = "a failed test")]

mod support;

use support::tiny;
use truing::ErrorKind;
use truing::engine::{HeadReward, Pooling, embed};
use truing::gguf::{GgufFile, GgufWriter};
use truing::model::{Context, ContextOptions, Model, ModelOptions};

/// A tiny model with more tensors.
fn with_tensors(tensors: &[(&str, Vec<usize>, Vec<f32>)]) -> std::sync::Arc<Model> {
    let files = tiny::files();
    let path = files.iter().find(|p| p.to_string_lossy().contains("llama")).expect("a llama model");
    let file = GgufFile::open(path).expect("file");
    let mut writer = GgufWriter::new();
    for (key, value) in file.metadata().iter() {
        writer.set(key, value).expect("value");
    }
    for tensor in file.tensors() {
        writer.copy_tensor(tensor).expect("tensor");
    }
    for (name, dims, values) in tensors {
        writer.tensor_f32(name, dims, values).expect("tensor");
    }
    let file = GgufFile::from_bytes("reward.gguf", &writer.to_bytes()).expect("file");
    Model::from_gguf(file, &ModelOptions::default()).expect("model")
}

#[test]
fn a_head_of_unit_rows_gives_hidden_coordinates() {
    let n_embd = with_tensors(&[]).spec().n_embd;
    let mut weight = vec![0.0f32; 2 * n_embd];
    (weight[3], weight[n_embd + 5]) = (1.0, 1.0);
    let head = |name| (name, vec![n_embd, 2], weight.clone());
    let tokens = [1, 5, 9, 2];
    for name in ["cls.output.weight", "cls.weight"] {
        let model = with_tensors(&[head(name), ("cls.bias", vec![2], vec![0.0, 0.0])]);
        let mut context = Context::new(&model, &ContextOptions::default()).expect("context");
        let mut state = vec![0.0; n_embd];
        embed(&model, &mut context, &tokens, Pooling::Last, false, &mut state).expect("embedding");
        let labels = HeadReward::new(&model, 1).expect("head").labels(&tokens).expect("labels");
        assert_eq!(labels, [state[3], state[5]], "{name}");
    }
}

#[test]
fn without_a_head_there_is_no_reward() {
    let e = HeadReward::new(&with_tensors(&[]), 0).err().expect("no head");
    assert!(e.kind() == ErrorKind::Reward && e.to_string().contains("cls.output.weight"), "{e}");
    let n_embd = with_tensors(&[]).spec().n_embd;
    let one = with_tensors(&[("cls.output.weight", vec![n_embd, 1], vec![0.5; n_embd])]);
    let e = HeadReward::new(&one, 1).err().expect("one label only");
    assert!(e.kind() == ErrorKind::Reward && e.to_string().contains("label"), "{e}");
    let narrow = with_tensors(&[("cls.output.weight", vec![n_embd - 1, 1], vec![0.5; n_embd - 1])]);
    assert_eq!(HeadReward::new(&narrow, 0).err().expect("too narrow").kind(), ErrorKind::BadFile);
}
