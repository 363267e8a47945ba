//! What the native executor cannot do is said, and changes nothing: afterwards the same text has the same bits.

#[allow(dead_code, reason = "others use the rest")]
#[path = "support/tiny.rs"]
mod tiny;

use std::sync::Arc;
use truing::ErrorKind;
use truing::model::{Branch, Context, ContextOptions, ExecutorKind, KvType, Model};
use truing::sampling::{BatchItem, NextLogits, Want};

const TEXT: [u32; 6] = [5, 9, 13, 40, 77, 8];

fn model() -> Arc<Model> {
    tiny::load(&tiny::folder().join("llama-s1-a-f32.gguf")).expect("model").model
}

fn options(kv_type: KvType) -> ContextOptions {
    ContextOptions {
        n_ctx: 40,
        n_kv_tokens: 64, // two pages
        n_threads: 2,
        max_rows: 16,
        executor: ExecutorKind::Native,
        kv_type,
        ..ContextOptions::default()
    }
}

fn eval(ctx: &mut Context, branch: &Branch, tokens: &[u32], want: Want) -> Result<(), ErrorKind> {
    ctx.eval(&[BatchItem { branch, tokens, want }]).map_err(|e| e.kind())
}

fn bits(ctx: &Context) -> Vec<u32> {
    ctx.row(0).iter().map(|x| x.to_bits()).collect()
}

#[test]
fn refused_batches_change_nothing() {
    let model = model();
    for kv_type in [KvType::F16, KvType::Q8_0] {
        let mut ctx = Context::new(&model, &options(kv_type)).expect("context");
        let branch = ctx.root().expect("root");
        eval(&mut ctx, &branch, &TEXT[..5], Want::Nothing).expect("a text");
        let fork = ctx.fork(&branch).expect("fork");
        eval(&mut ctx, &fork, &TEXT[5..], Want::Last).expect("its end");
        let expected = bits(&ctx);
        drop(fork);

        // nothing to do
        assert_eq!(ctx.eval(&[]).map_err(|e| e.kind()), Err(ErrorKind::InvalidArgument), "an empty batch");
        assert_eq!(eval(&mut ctx, &branch, &[], Want::Last), Err(ErrorKind::InvalidArgument));
        // longer than the context, also by one
        for n in [36, 41, 1000] {
            let long = vec![7; n];
            assert_eq!(eval(&mut ctx, &branch, &long, Want::Last), Err(ErrorKind::ContextFull), "{n}");
            assert_eq!(eval(&mut ctx, &branch, &long, Want::All), Err(ErrorKind::ContextFull), "{n}");
        }
        // no token
        let bad = [5, model.spec().n_vocab as u32];
        assert_eq!(eval(&mut ctx, &branch, &bad, Want::Last), Err(ErrorKind::InvalidArgument));
        // more than there are pages, in the middle of growing: the first of two branches would have fitted
        let others = [ctx.root().expect("root"), ctx.root().expect("root")];
        let items: Vec<_> =
            others.iter().map(|branch| BatchItem { branch, tokens: &[7; 30], want: Want::Last }).collect();
        assert_eq!(ctx.eval(&items).map_err(|e| e.kind()), Err(ErrorKind::KvExhausted));
        assert_eq!((ctx.len(&others[0]), ctx.len(&others[1]), ctx.len(&branch)), (0, 0, 5));
        drop(others);

        eval(&mut ctx, &branch, &TEXT[5..], Want::Last).expect("still there");
        assert_eq!(bits(&ctx), expected, "{kv_type:?}");
        let (n_pages, n_free) = ctx.pages();
        assert_eq!(n_pages - n_free, 1, "one page holds the text, the others came back");
    }
}

#[test]
fn room_that_no_memory_has_is_refused() {
    let model = model();
    let huge = ContextOptions { n_kv_tokens: 1 << 31, ..options(KvType::F16) };
    let kind = Context::new(&model, &huge).map(|_| ()).map_err(|e| e.kind());
    // a map of that size is a promise that some systems make
    assert!(matches!(kind, Ok(()) | Err(ErrorKind::OutOfMemory)), "{kind:?}");
    let beyond = ContextOptions { n_kv_tokens: usize::MAX, ..options(KvType::F16) };
    assert_eq!(
        Context::new(&model, &beyond).map(|_| ()).map_err(|e| e.kind()),
        Err(ErrorKind::InvalidArgument)
    );
    let wide = Context::new(&model, &options(KvType::F32)).map(|_| ()).map_err(|e| e.kind());
    assert_eq!(wide, Err(ErrorKind::Unsupported), "keys and values of 32 bits have no kernel");
}
