//! Adapters and control vectors on the native executor against their naive twins: weights merged by hand, states
//! moved by hand; and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use std::sync::Arc;
use support::reference::Reference;
use support::tiny;
use truing::ErrorKind;
use truing::adapters::{Adapter, ControlVector};
use truing::gguf::{GgufFile, GgufWriter};
use truing::model::{Context, ContextOptions, ExecutorKind, Model, ModelOptions};
use truing::sampling::{BatchItem, NextLogits, Purpose, Random, Want};

const IDS: [u32; 11] = [1, 7, 3, 9, 12, 5, 30, 2, 8, 21, 4];

/// Numbers that look random, about `size` in magnitude.
fn noise(seed: u64, n: usize, size: f32) -> Vec<f32> {
    let random = Random::new(seed);
    (0..n).map(|i| (random.uniform(i as u64, Purpose::Search) as f32 - 0.5) * 2.0 * size).collect()
}

fn open(name: &str) -> Arc<Model> {
    Model::open(tiny::folder().join(name), &ModelOptions::default()).unwrap()
}

fn context(model: &Arc<Model>, n_threads: usize) -> Context {
    let options =
        ContextOptions { n_threads, executor: ExecutorKind::Native, n_kv_tokens: 1024, ..Default::default() };
    Context::new(model, &options).unwrap()
}

/// One changed matrix: its name, and A `[rank][n_in]` and B `[n_out][rank]`.
struct Change {
    base: String,
    dims: [usize; 2],
    rank: usize,
    a: Vec<f32>,
    b: Vec<f32>,
}

fn changes(model: &Model, names: &[&str], seed: u64) -> Vec<Change> {
    let one = |(i, name): (usize, &&str)| {
        let t = model.file().tensor(name).expect(name);
        let (n_in, n_out, rank) = (t.dims[0], t.dims[1], 1 + i % 5);
        let seed = seed * 100 + i as u64;
        Change {
            base: (*name).to_owned(),
            dims: [n_in, n_out],
            rank,
            a: noise(seed, rank * n_in, 0.5),
            b: noise(seed + 50, rank * n_out, 0.5),
        }
    };
    names.iter().enumerate().map(one).collect()
}

fn lora_bytes(changes: &[Change], alpha: f32, edit: impl Fn(&mut GgufWriter<'_>)) -> Vec<u8> {
    lora_of(("llama", "lora"), changes, alpha, edit)
}

fn lora_of(
    (architecture, kind): (&str, &str),
    changes: &[Change],
    alpha: f32,
    edit: impl Fn(&mut GgufWriter<'_>),
) -> Vec<u8> {
    let mut w = GgufWriter::new();
    w.set("general.type", "adapter").unwrap();
    w.set("general.architecture", architecture).unwrap();
    w.set("adapter.type", kind).unwrap();
    w.set("adapter.lora.alpha", &alpha).unwrap();
    edit(&mut w);
    for c in changes {
        w.tensor_f32(&format!("{}.lora_a", c.base), &[c.dims[0], c.rank], &c.a).unwrap();
        w.tensor_f32(&format!("{}.lora_b", c.base), &[c.rank, c.dims[1]], &c.b).unwrap();
    }
    w.to_bytes()
}

/// The model with `W + scale·B·A` in the place of each changed `W`.
fn merged(model: &Model, all: &[(&[Change], f32, f32)]) -> Arc<Model> {
    let file = model.file();
    let mut w = GgufWriter::new();
    for (key, value) in file.metadata().iter() {
        w.set(key, value).unwrap();
    }
    for t in file.tensors() {
        let of_this: Vec<_> = all
            .iter()
            .flat_map(|(changes, alpha, weight)| changes.iter().map(move |c| (c, *alpha, *weight)))
            .filter(|(c, ..)| c.base == *t.name)
            .collect();
        if of_this.is_empty() {
            w.copy_tensor(t).unwrap();
            continue;
        }
        let mut values: Vec<f32> =
            t.data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        for (c, alpha, weight) in of_this {
            let scale = weight * if alpha == 0.0 { 1.0 } else { alpha / c.rank as f32 };
            for o in 0..c.dims[1] {
                for i in 0..c.dims[0] {
                    let ba: f32 = (0..c.rank).map(|k| c.b[o * c.rank + k] * c.a[k * c.dims[0] + i]).sum();
                    values[o * c.dims[0] + i] += scale * ba;
                }
            }
        }
        w.tensor_f32(&t.name, t.used_dims(), &values).unwrap();
    }
    let bytes = w.to_bytes();
    Model::from_gguf(GgufFile::from_bytes("merged", &bytes).unwrap(), &ModelOptions::default()).unwrap()
}

fn rows(ctx: &mut Context, ids: &[u32]) -> Vec<Vec<f32>> {
    let branch = ctx.root().unwrap();
    ctx.eval(&[BatchItem { branch: &branch, tokens: ids, want: Want::All }]).unwrap();
    (0..ids.len()).map(|i| ctx.row(i).to_vec()).collect()
}

fn largest_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    a.iter().flatten().zip(b.iter().flatten()).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

fn bits(rows: &[Vec<f32>]) -> Vec<u32> {
    rows.iter().flatten().map(|x| x.to_bits()).collect()
}

const NAMES: [&str; 8] = [
    "blk.0.attn_q.weight",
    "blk.0.attn_k.weight",
    "blk.1.attn_v.weight",
    "blk.0.attn_output.weight",
    "blk.1.ffn_gate.weight",
    "blk.0.ffn_up.weight",
    "blk.1.ffn_down.weight",
    "output.weight",
];

fn names(model: &Model) -> Vec<&'static str> {
    NAMES.into_iter().filter(|n| model.file().tensor(n).is_some()).collect()
}

#[test]
fn adapters_agree_with_weights_merged_by_hand() {
    let model = open("llama-s1-a-f32.gguf");
    let names = names(&model);
    assert!(names.len() >= 7, "{names:?}");
    let (one, two) = (changes(&model, &names, 1), changes(&model, &names[2..5], 2));
    let adapters: Vec<Arc<Adapter>> = [lora_bytes(&one, 4.0, |_| {}), lora_bytes(&two, 0.0, |_| {})]
        .iter()
        .map(|bytes| Arc::new(Adapter::from_bytes("lora", bytes, model.file()).unwrap()))
        .collect();
    let mut ctx = context(&model, 2);
    let off = rows(&mut ctx, &IDS);
    ctx.set_adapters(adapters, &[0.7, -0.4]).unwrap();
    for weights in [[0.7, -0.4], [1.0, 0.0], [0.0, 0.3]] {
        ctx.set_adapter_weights(&weights).unwrap();
        let found = rows(&mut ctx, &IDS);
        let twin = merged(&model, &[(&one, 4.0, weights[0]), (&two, 0.0, weights[1])]);
        let expected = rows(&mut context(&twin, 1), &IDS);
        let (d, moved) = (largest_difference(&found, &expected), largest_difference(&off, &expected));
        assert!(d < 2e-3 && moved > 0.05, "{weights:?}: {d} from the twin, {moved} from off");
        // and a third opinion: exact arithmetic over the merged weights
        let slow = Reference::new(twin.spec(), 4, 64).expect("types");
        let mut slow = Context::with_executor(Box::new(slow), twin.shape(), 64).unwrap();
        let d = largest_difference(&found, &rows(&mut slow, &IDS));
        assert!(d < 2e-2 * moved.max(1.0), "{weights:?}: {d} from the reference");
    }
    ctx.set_adapter_weights(&[0.0, 0.0]).unwrap();
    assert_eq!(bits(&rows(&mut ctx, &IDS)), bits(&off), "weight 0 is off, bit for bit");
    ctx.set_adapters(Vec::new(), &[]).unwrap();
    assert_eq!(bits(&rows(&mut ctx, &IDS)), bits(&off));
}

/// The model's width and depth.
fn sizes(model: &Model) -> (usize, usize) {
    let shape = model.shape();
    (shape.n_embd, shape.n_layer)
}

fn control(model: &Model, layers: &[u32], size: f32) -> ControlVector {
    let n = sizes(model).0;
    ControlVector { directions: layers.iter().map(|&l| (l, noise(u64::from(l) + 7, n, size))).collect() }
}

#[test]
fn a_control_vector_moves_the_states_after_its_layer_and_zero_is_off() {
    for file in ["llama-s1-a-f32.gguf", "llama-s1-a-q8_0.gguf"] {
        let model = open(file);
        let (n_embd, n_layer) = sizes(&model);
        let vector = control(&model, &[1], 0.5);
        let bytes = vector.to_bytes("llama").unwrap();
        let adapter = Arc::new(Adapter::from_bytes("c", &bytes, model.file()).unwrap());
        let mut ctx = context(&model, 1);
        let taps: Vec<u32> = (0..n_layer as u32).collect();
        ctx.set_taps(&taps).unwrap();
        let off = rows(&mut ctx, &IDS);
        let states = |ctx: &Context, tap: usize| -> Vec<Vec<f32>> {
            (0..IDS.len()).map(|i| ctx.hidden(tap, i).unwrap().to_vec()).collect()
        };
        let (before, at) = (states(&ctx, 0), states(&ctx, 1));
        ctx.set_adapters(vec![adapter], &[1.5]).unwrap();
        let on = rows(&mut ctx, &IDS);
        assert_eq!(bits(&states(&ctx, 0)), bits(&before), "nothing before the layer");
        let moved: Vec<Vec<f32>> = at
            .iter()
            .map(|h| (0..n_embd).map(|i| h[i] + 1.5 * vector.directions[0].1[i]).collect())
            .collect();
        let d = largest_difference(&states(&ctx, 1), &moved);
        assert!(d < 1e-5, "{file}: {d}");
        assert!(largest_difference(&on, &off) > 1e-3, "{file}");
        ctx.set_adapter_weights(&[0.0]).unwrap();
        assert_eq!(bits(&rows(&mut ctx, &IDS)), bits(&off), "{file}: strength 0 is off, bit for bit");
    }
}

#[test]
fn requests_of_one_batch_have_their_own_weights_and_the_bits_they_have_alone() {
    let model = open("llama-s1-a-q8_0.gguf");
    let lora = lora_bytes(&changes(&model, &names(&model), 5), 8.0, |_| {});
    let control = control(&model, &[1], 0.4).to_bytes("llama").unwrap();
    let adapters: Vec<Arc<Adapter>> = [lora, control]
        .iter()
        .map(|bytes| Arc::new(Adapter::from_bytes("x", bytes, model.file()).unwrap()))
        .collect();
    let table = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.5, -0.5], [0.0, 0.0]];
    let alone: Vec<Vec<u32>> = table
        .iter()
        .map(|weights| {
            let mut ctx = context(&model, 1);
            ctx.set_adapters(adapters.clone(), weights).unwrap();
            bits(&[rows(&mut ctx, &IDS).pop().unwrap()])
        })
        .collect();
    assert_eq!(alone[0], bits(&[rows(&mut context(&model, 1), &IDS).pop().unwrap()]));
    for n_threads in [1, 2, 3] {
        let mut ctx = context(&model, n_threads);
        ctx.set_adapters(adapters.clone(), &[0.0, 0.0]).unwrap();
        let branches: Vec<_> = table
            .iter()
            .map(|weights| {
                ctx.set_adapter_weights(weights).unwrap();
                let root = ctx.root().unwrap();
                ctx.fork(&root).unwrap() // a fork keeps its weights
            })
            .collect();
        let (first, rest) = IDS.split_at(4);
        let batch = |tokens| {
            branches.iter().map(|branch| BatchItem { branch, tokens, want: Want::Last }).collect::<Vec<_>>()
        };
        ctx.eval(&batch(first)).unwrap();
        ctx.eval(&batch(rest)).unwrap();
        for (i, expected) in alone.iter().enumerate() {
            assert_eq!(&bits(&[ctx.row(i).to_vec()]), expected, "{n_threads} threads, request {i}");
        }
    }
}

#[test]
fn changing_adapters_ends_branches_and_changes_the_identity() {
    let model = open("llama-s1-a-q8_0.gguf");
    let bytes = control(&model, &[1], 0.4).to_bytes("llama").unwrap();
    let adapter = Arc::new(Adapter::from_bytes("c", &bytes, model.file()).unwrap());
    let mut ctx = context(&model, 1);
    assert_eq!(ctx.steering_id(), "");
    let branch = ctx.root().unwrap();
    ctx.eval(&[BatchItem { branch: &branch, tokens: &IDS, want: Want::Last }]).unwrap();
    ctx.set_adapters(vec![Arc::clone(&adapter)], &[1.0]).unwrap();
    let item = [BatchItem { branch: &branch, tokens: &IDS, want: Want::Last }];
    assert_eq!(ctx.eval(&item).unwrap_err().kind(), ErrorKind::InvalidArgument);
    let first = ctx.steering_id();
    ctx.set_adapter_weights(&[2.0]).unwrap();
    assert!(!first.is_empty() && ctx.steering_id() != first);
    ctx.set_adapter_weights(&[0.0]).unwrap();
    assert_eq!(ctx.steering_id(), "", "what is off is not there");
    assert!(ctx.set_adapter_weights(&[1.0, 1.0]).is_err() && ctx.set_adapter_weights(&[f32::NAN]).is_err());
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let model = open("llama-s1-a-f32.gguf");
    let good = changes(&model, &NAMES[..2], 3);
    let read = |bytes: &[u8]| Adapter::from_bytes("x.gguf", bytes, model.file());
    read(&lora_bytes(&good, 1.0, |_| {})).unwrap();
    let wrong = |bytes: Vec<u8>, words: &[&str]| {
        let message = read(&bytes).unwrap_err().to_string();
        words.iter().for_each(|w| assert!(message.contains(w), "{w:?} is not in {message:?}"));
    };
    wrong(lora_of(("gemma3", "lora"), &good, 1.0, |_| {}), &["gemma3", "llama"]);
    wrong(lora_of(("llama", "vera"), &good, 1.0, |_| {}), &["adapter.type", "vera"]);
    wrong(lora_bytes(&good, f32::NAN, |_| {}), &["adapter.lora.alpha"]);
    wrong(lora_bytes(&[], 1.0, |_| {}), &["found none"]);
    let change = |base: &str, dims, rank| Change {
        base: base.into(),
        dims,
        rank,
        a: vec![0.1; dims[0] * rank],
        b: vec![0.1; dims[1] * rank],
    };
    let dims = good[0].dims;
    wrong(lora_bytes(&[change("blk.99.attn_q.weight", dims, 2)], 1.0, |_| {}), &["blk.99.attn_q.weight"]);
    wrong(
        lora_bytes(&[change(NAMES[0], [dims[0] + 1, dims[1]], 2)], 1.0, |_| {}),
        &[NAMES[0], &dims[0].to_string()],
    );
    let half = |w: &mut GgufWriter<'_>| {
        w.tensor_f32("blk.1.attn_q.weight.lora_a", &[dims[0], 2], &vec![0.0; 2 * dims[0]]).unwrap();
    };
    wrong(lora_bytes(&good, 1.0, half), &["blk.1.attn_q.weight.lora_b", "missing"]);
    let odd = |w: &mut GgufWriter<'_>| w.tensor_f32("odd", &[1], &[0.0]).unwrap();
    wrong(lora_bytes(&good, 1.0, odd), &["tensor odd"]);
    wrong(std::fs::read(tiny::folder().join("llama-s1-a-f32.gguf")).unwrap(), &["general.type"]);
    // read, but not as a matrix that is multiplied by
    let t = model.file().tensor("token_embd.weight").unwrap();
    let embedding = lora_bytes(&[change("token_embd.weight", [t.dims[0], t.dims[1]], 1)], 1.0, |_| {});
    if model.file().tensor("output.weight").is_some() {
        let adapter = Arc::new(read(&embedding).unwrap());
        let mut ctx = context(&model, 1);
        let error = ctx.set_adapters(vec![adapter], &[1.0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("token_embd.weight"), "{error}");
        rows(&mut ctx, &IDS); // nothing has changed
    }
}

#[test]
fn control_vectors_that_do_not_fit_are_refused_by_name() {
    let model = open("llama-s1-a-f32.gguf");
    let (n_embd, n_layer) = sizes(&model);
    let file = |hint: &str, tensors: &[(&str, usize, f32)], measured: Option<&[u32]>| {
        let mut w = GgufWriter::new();
        w.set("general.architecture", "controlvector").unwrap();
        w.set("controlvector.model_hint", hint).unwrap();
        if let Some(measured) = measured {
            w.set(truing::adapters::MEASURED_LAYER, measured).unwrap();
        }
        for (name, n, value) in tensors {
            w.tensor_f32(name, &[*n], &vec![*value; *n]).unwrap();
        }
        w.to_bytes()
    };
    let read = |bytes: &[u8]| Adapter::from_bytes("c.gguf", bytes, model.file());
    let ok = [("direction.1", n_embd, 0.5f32)];
    let of = |adapter: Adapter| match adapter.kind {
        truing::adapters::AdapterKind::Control(c) => c.directions[0].0,
        truing::adapters::AdapterKind::Lora(_) => panic!("a control vector"),
    };
    assert_eq!(of(read(&file("llama", &ok, None)).unwrap()), 1, "where llama.cpp adds it");
    assert_eq!(of(read(&file("llama", &ok, Some(&[0]))).unwrap()), 0, "where it was measured");
    let deep = format!("direction.{n_layer}");
    for (bytes, word) in [
        (file("gemma3", &ok, None), "controlvector.model_hint"),
        (file("llama", &[("direction.0", n_embd, 0.5)], None), "direction.0"),
        (file("llama", &[("direction.x", n_embd, 0.5)], None), "direction.x"),
        (file("llama", &[("direction.1", n_embd + 1, 0.5)], None), "direction.1"),
        (file("llama", &[(&deep, n_embd, 0.5)], None), &*deep),
        (file("llama", &[("direction.1", n_embd, f32::NAN)], None), "finite"),
        (file("llama", &[], None), "found none"),
        (file("llama", &ok, Some(&[1, 2])), "measured_layer"),
    ] {
        let error = read(&bytes).unwrap_err().to_string();
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
}

#[test]
fn damaged_adapters_are_errors() {
    let model = open("llama-s1-a-f32.gguf");
    let lora = lora_bytes(&changes(&model, &NAMES[..1], 3), 1.0, |_| {});
    let control = control(&model, &[1], 0.4).to_bytes("llama").unwrap();
    for bytes in [lora, control] {
        for n in (0..bytes.len().min(2000)).step_by(3) {
            let _ = Adapter::from_bytes("x", &bytes[..n], model.file());
            let mut damaged = bytes.clone();
            damaged[n] ^= 0xff;
            if let Ok(adapter) = Adapter::from_bytes("x", &damaged, model.file()) {
                let mut ctx = context(&model, 1);
                if ctx.set_adapters(vec![Arc::new(adapter)], &[1.0]).is_ok() {
                    rows(&mut ctx, &IDS[..2]);
                }
            }
        }
    }
}

#[test]
fn jobs_of_one_run_have_their_own_rows_of_the_mixing_table() {
    use truing::engine::{self, Settings};
    use truing::sampling::SamplingParams;
    use truing::session::Limits;
    let model = open("llama-s1-a-q8_0.gguf");
    let bytes = lora_bytes(&changes(&model, &names(&model), 9), 16.0, |_| {});
    let adapter = Arc::new(Adapter::from_bytes("x", &bytes, model.file()).unwrap());
    let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::plain(1) };
    let limits = Limits { max_tokens: Some(8), ignore_eos: true, ..Limits::default() };
    let settings = Settings::plain(sampling, limits);
    let run = |mixes: &[Option<f32>], usual: f32| {
        let mut ctx = context(&model, 2);
        ctx.set_adapters(vec![Arc::clone(&adapter)], &[usual]).unwrap();
        let jobs = mixes.iter().map(|mix| engine::Job {
            mix: mix.map(|w| vec![w]),
            ..settings.job(IDS.to_vec(), ctx.n_ctx()).unwrap()
        });
        let jobs = jobs.collect();
        let outcomes = engine::run(&model, &mut ctx, &settings, jobs, 4, &mut |_, _| {}).unwrap();
        outcomes.into_iter().map(|o| o.ids).collect::<Vec<_>>()
    };
    let (off, on) = (run(&[None], 0.0).remove(0), run(&[None], 1.0).remove(0));
    assert_ne!(off, on);
    assert_eq!(run(&[Some(1.0), None, Some(0.0), None], 1.0), [&on, &on, &off, &on].map(Clone::clone));
    assert_eq!(run(&[None, Some(1.0)], 0.0), [off, on]);
}
