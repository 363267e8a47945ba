//! That ggml's assertions cannot be reached, and that what is computed is what was meant.

use crate::*;
use std::sync::Arc;

fn cpu() -> Device {
    Device::cpu().unwrap()
}

fn graph() -> Graph {
    Graph::new(cpu(), 64).unwrap()
}

fn never() -> bool {
    false
}

fn bytes(values: impl IntoIterator<Item = f32>) -> Box<dyn Mapping> {
    let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_ne_bytes).collect();
    Box::new(Arc::new(bytes))
}

fn weights(ty: Type, dims: [usize; 4], data: Box<dyn Mapping>) -> Result<Weights> {
    Weights::load(
        cpu(),
        vec![WeightSource { name: "w".into(), ty, dims, data, placement: Placement::InPlace }],
    )
}

fn run(g: &mut Graph, cache: Option<&mut Cache>) -> Result<Outcome> {
    Backend::new(cpu(), 1, 0).unwrap().compute(g, cache, &never)
}

#[track_caller]
fn refused<V>(result: Result<V>, kind: ErrorKind) {
    let e = result.err().expect("this must be refused");
    assert_eq!(e.kind(), kind, "{e}");
}

#[test]
fn shapes_and_types_that_ggml_would_abort_on_are_refused() {
    use ErrorKind::{Invalid, Unsupported};
    let mut g = graph();
    let mut input = |ty, dims| g.input(ty, dims).unwrap();
    let a = input(Type::F32, [8, 4, 2, 1]);
    let narrow = input(Type::F32, [6, 4, 2, 1]);
    let half = input(Type::F16, [8, 4, 2, 1]);
    let ints = input(Type::I32, [8, 1, 1, 1]);
    let odd = input(Type::F32, [5, 4, 1, 1]);
    let integers = input(Type::from_number(24).unwrap(), [8, 4, 1, 1]); // I8: no dot product
    let q8_k = input(Type::from_number(15).unwrap(), [256, 4, 1, 1]); // neither rows nor products
    let wide = input(Type::F32, [256, 1, 1, 1]);
    let mask = input(Type::F16, [4, 4, 1, 1]);
    let shifted = g.permute(a, [1, 0, 2, 3]).unwrap();

    refused(g.input(Type::F32, [0, 1, 1, 1]), Invalid);
    refused(g.input(Type::F32, [1 << 30, 1 << 30, 1 << 30, 1]), Invalid);
    refused(g.input(Type::Q8_0, [33, 1, 1, 1]), Invalid);
    refused(g.add(a, narrow), Invalid);
    refused(g.mul(a, half), Invalid);
    refused(g.div(a, ints), Invalid);
    refused(g.mul_mat(a, narrow), Invalid);
    refused(g.mul_mat(a, half), Invalid);
    refused(g.mul_mat(shifted, narrow), Invalid);
    refused(g.mul_mat(integers, a), Unsupported);
    refused(g.mul_mat(q8_k, wide), Unsupported);
    refused(g.mul_mat_id(a, a, ints), Invalid);
    refused(g.add_id(a, a, ints), Invalid);
    refused(g.get_rows(a, ints), Invalid);
    refused(g.get_rows(odd, ints), Invalid);
    refused(g.set_rows(a, a, ints), Invalid);
    refused(g.scale(shifted, 2.0), Invalid);
    refused(g.unary(Unary::Silu, half), Invalid);
    refused(g.rms_norm(a, -1.0), Invalid);
    refused(g.rms_norm(a, f32::NAN), Invalid);
    refused(g.norm(half, 1e-5), Invalid);
    refused(g.clamp(a, 1.0, 0.0), Invalid);
    refused(g.soft_max(shifted), Invalid);
    refused(g.gated(Gated::Silu, a, narrow), Invalid);
    refused(g.gated_halves(Gated::Silu, odd), Invalid);
    refused(g.top_k(a, 9), Invalid);
    refused(g.top_k(a, 0), Invalid);
    refused(g.reshape(shifted, [64, 1, 1, 1]), Invalid);
    refused(g.reshape(a, [63, 1, 1, 1]), Invalid);
    refused(g.permute(a, [0, 0, 1, 2]), Invalid);
    refused(g.permute(a, [0, 1, 2, 4]), Invalid);
    refused(g.cont(ints), Invalid);
    refused(g.view(a, [8, 4, 3, 1], [32, 128, 128], 0), Invalid);
    refused(g.view(a, [8, 4, 2, 1], [32, 128, 256], 4), Invalid);
    refused(g.view(a, [8, 1, 1, 1], [usize::MAX, 1, 1], usize::MAX), Invalid);
    let turn = |n_dims| Rope {
        n_dims,
        mode: RopeMode::Halves,
        n_ctx_orig: 0,
        freq_base: 1e4,
        freq_scale: 1.0,
        ext_factor: 0.0,
        attn_factor: 1.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
    };
    refused(g.rope(a, ints, None, &turn(8)), Invalid);
    let positions = g.input(Type::I32, [2, 1, 1, 1]).unwrap();
    refused(g.rope(a, positions, None, &turn(7)), Invalid);
    refused(g.rope(a, positions, None, &turn(10)), Invalid);
    refused(g.rope(a, positions, Some(half), &turn(8)), Invalid);
    let p = Attention { scale: 1.0, softcap: 0.0, sinks: Some(ints) };
    refused(g.flash_attention(a, half, half, mask, &p), Invalid);
    refused(g.flash_attention(a, half, half, half, &p), Invalid);
    refused(g.flash_attention(a, narrow, half, mask, &p), Invalid);
    refused(g.masked_soft_max(a, mask, 1.0, None), Invalid);
    assert!(g.rope(a, positions, None, &turn(6)).is_ok());
    let other = graph().input(Type::F32, [8, 1, 1, 1]).unwrap();
    refused(g.add(a, other), Invalid);
}

#[test]
fn a_full_graph_says_so() {
    let mut g = Graph::new(cpu(), 8).unwrap();
    let mut x = g.input(Type::F32, [4, 1, 1, 1]).unwrap();
    let mut n = 0;
    let e = loop {
        match g.sqr(x) {
            Ok(next) => (x, n) = (next, n + 1),
            Err(e) => break e,
        }
    };
    assert_eq!(e.kind(), ErrorKind::Invalid);
    assert_eq!(n, 7);
    g.output(x).unwrap();
    g.allocate(Memory::new(cpu()).unwrap()).unwrap();
    refused(g.sqr(x), ErrorKind::Invalid);
    assert_eq!(run(&mut g, None).unwrap(), Outcome::Done);
}

#[test]
fn indices_outside_or_stale_never_reach_ggml() {
    let w = weights(Type::F32, [2, 3, 1, 1], bytes([0., 1., 10., 11., 20., 21.])).unwrap();
    let mut g = graph();
    let table = g.weight(&w, 0).unwrap();
    refused(g.weight(&w, 1), ErrorKind::Invalid);
    let loose = g.index_input(Type::I32, 2, 4).unwrap();
    refused(g.get_rows(table, loose), ErrorKind::Invalid);
    let ids = g.index_input(Type::I32, 2, 3).unwrap();
    let rows = g.get_rows(table, ids).unwrap();
    g.output(rows).unwrap();
    refused(run(&mut g, None), ErrorKind::Invalid);
    refused(g.fill(ids, |v: &mut [i32]| v.fill(0)), ErrorKind::Invalid);
    g.allocate(Memory::new(cpu()).unwrap()).unwrap();
    refused(run(&mut g, None), ErrorKind::Invalid);
    for bad in [3, -1, i32::MAX] {
        refused(g.fill(ids, |v: &mut [i32]| v.copy_from_slice(&[0, bad])), ErrorKind::Invalid);
        refused(run(&mut g, None), ErrorKind::Invalid);
    }
    refused(g.fill(ids, |v: &mut [i64]| v.fill(0)), ErrorKind::Invalid);
    g.fill(ids, |v: &mut [i32]| v.copy_from_slice(&[2, 0])).unwrap();
    // An index input that no operation uses has no memory, and cannot hold the graph up.
    let outcome = run(&mut g, None);
    assert_eq!(outcome.unwrap(), Outcome::Done);
    let mut got = [0.0; 4];
    g.read(rows, 0, &mut got).unwrap();
    assert_eq!(got, [20., 21., 0., 1.]);
    refused(g.read(rows, 1, &mut got), ErrorKind::Invalid);
    refused(g.read(ids, 0, &mut got), ErrorKind::Invalid);
    // The input's memory may have been used for something else since.
    refused(run(&mut g, None), ErrorKind::Invalid);
}

#[test]
fn a_graph_runs_only_with_the_cache_it_writes_to() {
    let tensors = [(Type::F16, [4, 10, 1, 1])];
    let mut cache = Cache::new(cpu(), &tensors).unwrap();
    let mut other = Cache::new(cpu(), &tensors).unwrap();
    let w = weights(Type::F16, [4, 10, 1, 1], Box::new(Arc::new(vec![0; 80]))).unwrap();
    let mut g = graph();
    let to = g.cached(&cache, 0).unwrap();
    refused(g.cached(&other, 0), ErrorKind::Invalid);
    let read_only = g.weight(&w, 0).unwrap();
    let rows = g.input(Type::F32, [4, 2, 1, 1]).unwrap();
    let ids = g.index_input(Type::I64, 2, 10).unwrap();
    refused(g.set_rows(read_only, rows, ids), ErrorKind::Invalid);
    let written = g.set_rows(to, rows, ids).unwrap();
    g.expand(written).unwrap();
    let seen = g.view(to, [4, 10, 1, 1], [8, 80, 80], 0).unwrap();
    let q = g.input(Type::F32, [4, 1, 1, 1]).unwrap();
    let scores = g.mul_mat(seen, q).unwrap();
    g.output(scores).unwrap();
    g.allocate(Memory::new(cpu()).unwrap()).unwrap();
    let fill = |g: &mut Graph, at: [i64; 2]| {
        g.fill(rows, |v: &mut [f32]| v.copy_from_slice(&[1., 2., 3., 4., 5., 6., 7., 8.])).unwrap();
        g.fill(q, |v: &mut [f32]| v.fill(1.0)).unwrap();
        g.fill(ids, |v: &mut [i64]| v.copy_from_slice(&at)).unwrap();
    };
    fill(&mut g, [9, 2]);
    refused(run(&mut g, None), ErrorKind::Invalid);
    refused(run(&mut g, Some(&mut other)), ErrorKind::Invalid);
    run(&mut g, Some(&mut cache)).unwrap();
    let mut got = [0.0; 10];
    g.read(scores, 0, &mut got).unwrap();
    assert_eq!(got, [0., 0., 26., 0., 0., 0., 0., 0., 0., 10.]);
    cache.copy_rows(0, 9, 4, 1, &mut Vec::new()).unwrap();
    refused(cache.copy_rows(0, 9, 4, 2, &mut Vec::new()), ErrorKind::Invalid);
    refused(cache.copy_rows(1, 0, 1, 1, &mut Vec::new()), ErrorKind::Invalid);
    fill(&mut g, [0, 0]);
    run(&mut g, Some(&mut cache)).unwrap();
    g.read(scores, 0, &mut got).unwrap();
    assert_eq!(got[4], 10.0);
}

#[test]
fn weights_that_are_not_as_long_as_they_say_are_refused() {
    refused(weights(Type::F32, [4, 4, 1, 1], bytes([0.0; 15])), ErrorKind::Invalid);
    refused(weights(Type::Q8_0, [31, 4, 1, 1], bytes([0.0; 34])), ErrorKind::Invalid);
    let w = weights(Type::F32, [4, 4, 1, 1], bytes([0.0; 16])).unwrap();
    assert!(w.private_bytes() == 0 || w.private_bytes() == 64);
}

#[test]
fn choosing_the_largest_survives_nan() {
    let mut g = graph();
    let x = g.input(Type::F32, [300, 2, 1, 1]).unwrap();
    let best = g.top_k(x, 3).unwrap();
    let best = g.view(best, [3, 2, 1, 1], [1200, 2400, 2400], 0).unwrap();
    g.output(best).unwrap();
    g.allocate(Memory::new(cpu()).unwrap()).unwrap();
    let nan = |i: usize| if i.is_multiple_of(3) { f32::NAN } else { (i as f32).sin() };
    g.fill(x, |v: &mut [f32]| {
        v.iter_mut().enumerate().for_each(|(i, v)| *v = if i < 300 { i as f32 } else { nan(i) })
    })
    .unwrap();
    assert_eq!(run(&mut g, None).unwrap(), Outcome::Done);
    g.fill(x, |v: &mut [f32]| v.fill(f32::NAN)).unwrap();
    assert_eq!(run(&mut g, None).unwrap(), Outcome::Done);
}

#[test]
fn a_panic_in_the_stop_function_stops_and_goes_no_further() {
    let mut g = graph();
    let x = g.input(Type::F32, [4, 1, 1, 1]).unwrap();
    let y = g.sqr(x).unwrap();
    let y = g.sqr(y).unwrap();
    g.output(y).unwrap();
    g.allocate(Memory::new(cpu()).unwrap()).unwrap();
    let mut backend = Backend::new(cpu(), 1, 0).unwrap();
    let outcome = backend.compute(&mut g, None, &|| panic!("asked"));
    assert_eq!(outcome.unwrap(), Outcome::Stopped);
    assert_eq!(backend.compute(&mut g, None, &never).unwrap(), Outcome::Done);
}

#[test]
#[cfg(target_os = "linux")]
fn a_cache_takes_memory_only_as_it_is_written() {
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap().trim();
        line.strip_suffix("kB").unwrap().trim().parse::<usize>().unwrap() << 10
    };
    // So large that what other tests do meanwhile does not matter.
    let rows = 1 << 20;
    let before = resident();
    let tensors = [(Type::F16, [256, rows, 1, 1]), (Type::F16, [256, rows, 1, 1])];
    let mut cache = Cache::new(cpu(), &tensors).unwrap();
    assert_eq!(cache.n_bytes(), 1 << 30);
    assert!(resident() < before + (40 << 20));
    cache.copy_rows(0, 0, rows / 2, rows / 8, &mut Vec::new()).unwrap();
    assert!(resident() > before + (50 << 20), "what is written does take memory");
}
