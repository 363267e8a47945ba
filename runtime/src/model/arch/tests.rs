//! Files in memory, each sound but for one thing.

use super::*;
use crate::gguf::{Encode, GgmlType, GgufWriter};

const N: usize = 8;
const N_VOCAB: usize = 4;
const N_FF: usize = 16;

/// A file in the making: one layer, 2 query heads over 1 key-value head of 4.
struct Draft {
    arch: &'static str,
    keys: Vec<(String, Box<dyn Encode>)>,
    tensors: Vec<(String, GgmlType, Vec<usize>)>,
}

impl Draft {
    fn new(arch: &'static str) -> Self {
        let mut draft = Self { arch, keys: Vec::new(), tensors: Vec::new() };
        draft.keys.push(("general.architecture".into(), Box::new(arch.to_owned())));
        let tokens: Vec<String> = (0..N_VOCAB).map(|i| format!("t{i}")).collect();
        draft.keys.push(("tokenizer.ggml.tokens".into(), Box::new(tokens)));
        let counts = [
            ("block_count", 1u32),
            ("context_length", 64),
            ("embedding_length", N as u32),
            ("feed_forward_length", N_FF as u32),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
        ];
        counts.into_iter().for_each(|(name, n)| draft.set(name, n));
        draft.set("attention.layer_norm_rms_epsilon", 1e-5f32);
        draft.set("attention.layer_norm_epsilon", 1e-5f32);
        for (name, dims) in [("token_embd", vec![N, N_VOCAB]), ("output_norm", vec![N])] {
            draft.tensor(&format!("{name}.weight"), &dims);
        }
        draft.layer(0);
        draft
    }

    fn layer(&mut self, il: usize) {
        let parts: [(&str, &[usize]); 9] = [
            ("attn_norm", &[N]),
            ("attn_q", &[N, N]),
            ("attn_k", &[N, N / 2]),
            ("attn_v", &[N, N / 2]),
            ("attn_output", &[N, N]),
            ("ffn_norm", &[N]),
            ("ffn_gate", &[N, N_FF]),
            ("ffn_up", &[N, N_FF]),
            ("ffn_down", &[N_FF, N]),
        ];
        parts.into_iter().for_each(|(name, dims)| self.tensor(&format!("blk.{il}.{name}.weight"), dims));
    }

    /// Sets a key of the architecture.
    fn set(&mut self, name: &str, value: impl Encode + 'static) {
        let key = format!("{}.{name}", self.arch);
        self.keys.retain(|(k, _)| *k != key);
        self.keys.push((key, Box::new(value)));
    }

    fn drop_key(&mut self, name: &str) {
        let key = format!("{}.{name}", self.arch);
        self.keys.retain(|(k, _)| *k != key);
    }

    fn tensor(&mut self, name: &str, dims: &[usize]) {
        self.typed(name, GgmlType::F32, dims);
    }

    fn typed(&mut self, name: &str, ty: GgmlType, dims: &[usize]) {
        self.tensors.retain(|(n, ..)| n != name);
        self.tensors.push((name.into(), ty, dims.to_vec()));
    }

    fn file(&self) -> GgufFile {
        let mut writer = GgufWriter::new();
        self.keys.iter().for_each(|(key, value)| writer.set(key, &**value).expect("key"));
        for (name, ty, dims) in &self.tensors {
            let n = ty.bytes_for(dims.iter().product()).expect("whole blocks");
            let one = 1f32.to_le_bytes();
            let data: Vec<u8> = one.iter().copied().cycle().take(n).collect();
            writer.tensor(name, *ty, dims, data).expect("tensor");
        }
        GgufFile::from_bytes("draft", &writer.to_bytes()).expect("file")
    }

    fn build(&self) -> Result<ModelSpec> {
        build(&self.file(), 0)
    }
}

/// An edit of a sound file, and words that the refusal must hold.
type Case = (fn(&mut Draft), &'static str);

fn check_refused(arch: &'static str, kind: ErrorKind, cases: &[Case]) {
    Draft::new(arch).build().expect("sound before the edit");
    for (i, (edit, words)) in cases.iter().enumerate() {
        let mut draft = Draft::new(arch);
        edit(&mut draft);
        let e = draft.build().expect_err(words);
        let text = e.to_string();
        assert_eq!(e.kind(), kind, "case {i}: {text}");
        assert!(words.split(' ').all(|w| text.contains(w)), "case {i}: expected {words:?} in: {text}");
    }
}

#[test]
fn hyperparameters_out_of_range_are_refused() {
    let cases: &[Case] = &[
        (|d| d.set("block_count", 0u32), "llama.block_count 0"),
        (|d| d.set("block_count", 5000u32), "llama.block_count 5000"),
        (|d| d.set("block_count", "one".to_owned()), "llama.block_count type"),
        (|d| d.drop_key("block_count"), "llama.block_count missing"),
        (|d| d.set("nextn_predict_layers", 1u32), "nextn_predict_layers"),
        (|d| d.set("embedding_length", 0u32), "llama.embedding_length"),
        (|d| d.drop_key("context_length"), "llama.context_length"),
        (|d| d.set("attention.head_count", 0u32), "llama.attention.head_count"),
        (|d| d.set("attention.head_count", 3u32), "llama.attention.head_count"),
        (|d| d.drop_key("attention.head_count"), "llama.attention.head_count"),
        (|d| d.set("attention.head_count_kv", 0u32), "llama.attention.head_count_kv"),
        (|d| d.set("attention.head_count_kv", 3u32), "head_count_kv divisor"),
        (|d| d.set("attention.head_count", vec![2u32, 2]), "attention.head_count 1 2"),
        (|d| d.set("attention.key_length", 0u32), "attention.key_length"),
        (|d| d.set("attention.layer_norm_rms_epsilon", 0f32), "rms_epsilon above 0"),
        (|d| d.set("attention.layer_norm_rms_epsilon", f32::NAN), "rms_epsilon finite"),
        (|d| d.drop_key("attention.layer_norm_rms_epsilon"), "rms_epsilon"),
        (|d| d.set("feed_forward_length", 0u32), "feed_forward_length"),
        (|d| d.drop_key("feed_forward_length"), "feed_forward_length"),
        (|d| d.set("rope.dimension_count", 3u32), "rope.dimension_count even"),
        (|d| d.set("rope.dimension_count", 6u32), "rope.dimension_count 4 6"),
        (|d| d.set("rope.freq_base", 0f32), "rope.freq_base above"),
        (|d| d.set("rope.freq_base", f32::INFINITY), "rope.freq_base finite"),
        (|d| d.set("rope.scaling.factor", -1f32), "rope.scaling.factor"),
        (|d| d.set("rope.scaling.factor", f32::NAN), "rope.scaling.factor"),
        (|d| d.set("rope.scaling.attn_factor", 0f32), "attn_factor"),
        (|d| d.set("expert_count", 1_000_000u32), "expert_count"),
        (|d| d.set("expert_count", 2u32), "expert_used_count missing"),
        (
            |d| {
                d.set("expert_count", 2u32);
                d.set("expert_used_count", 3u32);
            },
            "expert_used_count 3",
        ),
        (
            |d| {
                d.set("rope.scaling.type", "yarn".to_owned());
                d.set("context_length", 0u32);
            },
            "original_context_length",
        ),
        (
            |d| {
                d.set("rope.scaling.type", "yarn".to_owned());
                d.set("rope.freq_base", 1f32);
            },
            "rope.freq_base yarn",
        ),
    ];
    check_refused("llama", ErrorKind::BadFile, cases);
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let cases: &[Case] = &[
        (|d| d.tensors.retain(|(n, ..)| n != "blk.0.ffn_up.weight"), "missing blk.0.ffn_up.weight"),
        (|d| d.tensors.retain(|(n, ..)| n != "output_norm.weight"), "missing output_norm.weight"),
        (|d| d.tensor("blk.0.attn_q.weight", &[N, 4]), "blk.0.attn_q.weight shape [8, 8] [8, 4]"),
        (|d| d.tensor("blk.0.attn_q.weight", &[N, N, 1, 2]), "blk.0.attn_q.weight shape"),
        (|d| d.tensor("blk.0.attn_norm.weight", &[N, 2]), "blk.0.attn_norm.weight shape"),
        (|d| d.tensor("blk.0.attn_q.bias", &[4]), "blk.0.attn_q.bias shape"),
        (|d| d.tensor("token_embd.weight", &[N, 5]), "token_embd.weight shape"),
        (|d| d.tensor("output.weight", &[N, 5]), "output.weight shape"),
        (|d| d.tensor("rope_freqs.weight", &[3]), "rope_freqs.weight shape"),
        (|d| d.typed("blk.0.attn_q.weight", GgmlType::I32, &[N, N]), "blk.0.attn_q.weight type I32"),
        (|d| d.typed("blk.0.attn_norm.weight", GgmlType::I8, &[N]), "blk.0.attn_norm.weight type I8"),
        (|d| d.typed("rope_freqs.weight", GgmlType::F16, &[2]), "rope_freqs.weight type F16"),
        (|d| d.set("block_count", 2u32), "missing blk.1."),
        (|d| d.layer(1), "block_count blk.1."),
    ];
    check_refused("llama", ErrorKind::BadFile, cases);
}

#[test]
fn requests_beyond_the_generic_forward_are_refused_by_name() {
    let cases: &[Case] = &[
        (|d| d.set("rope.scaling.type", "su".to_owned()), "rope.scaling.type su"),
        (|d| d.set("rope.dimension_sections", vec![1u32, 1, 0, 0]), "dimension_sections"),
        (
            |d| {
                d.set("expert_count", 4u32);
                d.set("expert_group_count", 2u32);
            },
            "expert_group_count",
        ),
        (
            |d| {
                d.tensor("blk.0.attn_qkv.weight", &[N, 2 * N]);
                d.tensor("blk.0.attn_q.bias", &[N]);
            },
            "attn_q.bias fused",
        ),
    ];
    check_refused("llama", ErrorKind::Unsupported, cases);
    for arch in ["zebra", "mamba2", "gemma4"] {
        let e = Draft::new(arch).build().expect_err(arch);
        assert_eq!(e.kind(), ErrorKind::Unsupported);
        assert!(e.to_string().contains(arch) && e.to_string().contains("qwen3moe"), "{e}");
    }
}

#[test]
fn windows_follow_pattern_and_key() {
    let draft = |edit: fn(&mut Draft)| {
        let mut d = Draft::new("gemma2");
        (1..4).for_each(|il| d.layer(il));
        for il in 0..4 {
            d.tensor(&format!("blk.{il}.post_attention_norm.weight"), &[N]);
            d.tensor(&format!("blk.{il}.post_ffw_norm.weight"), &[N]);
        }
        d.set("block_count", 4u32);
        edit(&mut d);
        d.build().map(|spec| spec.layers.iter().map(|l| l.attn.window).collect::<Vec<_>>())
    };
    let (w, no) = (Some(4096), None);
    assert_eq!(draft(|_| {}).expect("default"), [w, no, w, no]);
    let name = "attention.sliding_window_pattern";
    assert_eq!(draft(|d| d.set("attention.sliding_window_pattern", 3u32)).expect(name), [w, w, no, w]);
    assert_eq!(draft(|d| d.set("attention.sliding_window_pattern", 0u32)).expect(name), [w, w, w, w]);
    let spelled = |d: &mut Draft| d.set("attention.sliding_window_pattern", vec![true, true, false, false]);
    assert_eq!(draft(spelled).expect(name), [w, w, no, no]);
    assert!(draft(|d| d.set("attention.sliding_window_pattern", vec![true])).is_err());
    assert!(draft(|d| d.set("attention.sliding_window", 0u32)).is_err());
    assert_eq!(draft(|d| d.set("attention.sliding_window", 7u32)).expect("7")[0], Some(7));
}

#[test]
fn what_an_architecture_has_no_use_for_is_ignored() {
    let mut d = Draft::new("llama");
    d.set("unheard_of", 7u32);
    d.set("context_length", 0u32);
    d.tensor("blk.0.unheard_of.weight", &[3]);
    d.tensor("mm.patch.weight", &[3]);
    let spec = d.build().expect("sound");
    assert_eq!((spec.layers.len(), spec.n_ctx_train), (1, 0));
    assert!(spec.output.name == spec.tok_embd.name, "tied");
}

#[test]
fn longrope_factors_depend_on_the_context() {
    let mut d = Draft::new("llama");
    d.set("rope.scaling.type", "longrope".to_owned());
    d.set("rope.scaling.original_context_length", 32u32);
    d.tensor("rope_factors_long.weight", &[2]);
    d.tensor("rope_factors_short.weight", &[2]);
    let file = d.file();
    for (n_ctx, name) in [(0, "short"), (32, "short"), (33, "long")] {
        let spec = build(&file, n_ctx).expect("sound");
        let factors = spec.layers[0].attn.rope.as_ref().and_then(|r| r.freq_factors.clone());
        assert!(factors.expect("factors").name.contains(name), "{n_ctx}");
    }
}
