//! Any bytes as a model file: the loader and the model's construction either refuse them or hand out
//! something that can be used throughout.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use truing::gguf::{GgufFile, Value};
use truing::model::{Model, ModelOptions};

fuzz_target!(|data: &[u8]| -> Corpus { run(data) });

fn run(data: &[u8]) -> Corpus {
    let Ok(file) = GgufFile::from_bytes("fuzz", data) else { return Corpus::Keep };
    metadata(&file);
    tensors(&file);
    std::hint::black_box(file.content_id());
    std::hint::black_box(truing::gguf::Summary::of(&file));
    std::hint::black_box(Model::from_gguf(file, &ModelOptions::default()).is_ok());
    Corpus::Keep
}

fn metadata(file: &GgufFile) {
    let m = file.metadata();
    for (key, value) in m.iter() {
        walk(value);
        if let Ok(Some(strings)) = m.str_array(key) {
            assert_eq!(strings.iter().count(), strings.len());
            assert_eq!(strings.iter().map(<[u8]>::len).sum::<usize>(), strings.total_bytes());
        }
        let _ = (m.u32(key), m.i32_array(key), m.f32_array(key), m.str(key), m.bool_array(key));
    }
}

fn walk(value: &Value) {
    if let Value::Array(a) = value {
        let mut n = 0;
        a.iter().for_each(|item| {
            walk(&item);
            n += 1;
        });
        assert_eq!(n, a.len());
    }
}

fn tensors(file: &GgufFile) {
    for t in file.tensors() {
        assert_eq!(t.row_bytes() * t.n_rows(), t.data.len());
        assert_eq!(t.as_f32().is_some(), t.ty == truing::gguf::GgmlType::F32);
        std::hint::black_box(t.data.iter().fold(0u8, |a, b| a ^ b));
        assert!(file.tensor(&t.name).is_some());
    }
}
