//! The beginning of prompts on disk: the same logits as evaluating it, and every file that does not fit refused.

mod common;

use std::path::PathBuf;
use std::sync::Arc;
use truing::adapters::{Adapter, ControlVector};
use truing::engine::{Kept, PrefixStore, prompt};
use truing::model::{Context, ContextOptions, Model, ModelOptions};
use truing::sampling::{BatchItem, NextLogits, Want};

fn open(name: &str) -> (Arc<Model>, Context) {
    let model = Model::open(common::real_model(name), &ModelOptions::default()).expect("model");
    let options = ContextOptions { n_ctx: 256, n_kv_tokens: 512, ..ContextOptions::default() };
    let context = Context::new(&model, &options).expect("context");
    (model, context)
}

fn tokens(model: &Model, end: &str) -> Vec<u32> {
    let text = "The quick brown fox jumps over the lazy dog, and then it sleeps. ".repeat(5);
    prompt::raw(model, &format!("{text}{end}"), false).expect("tokens").ids
}

/// The row behind `tokens` on a branch that holds their beginning.
fn row(context: &mut Context, branch: &truing::model::Branch, tokens: &[u32]) -> Vec<f32> {
    context.eval(&[BatchItem { branch, tokens, want: Want::Last }]).expect("eval");
    context.row(0).to_vec()
}

#[test]
fn a_saved_beginning_gives_the_same_logits_and_costs_no_rows() {
    let folder = std::env::temp_dir().join(format!("truing-prefix-{}", std::process::id()));
    let (model, mut context) = open("smollm2");
    let store = PrefixStore::at(&folder);
    let prefix = tokens(&model, "");
    for (i, end) in ["What now?", " Why", "\n\n7", "狐は眠る", "🦊"].into_iter().enumerate() {
        let whole = tokens(&model, end);
        let root = context.root().expect("branch");
        let fresh = row(&mut context, &root, &whole);
        drop(root);
        let shared = prefix.iter().zip(&whole).take_while(|(a, b)| a == b).count();
        let before = context.n_evals();
        let (branch, n) = store.begin(&model, &mut context, &prefix[..64]).expect("beginning");
        let kept = store.take_last().expect("an answer");
        assert!(n == 64 && shared >= 64, "{n} of {shared}");
        match i {
            0 => assert!(matches!(kept, Kept::Saved) && context.n_evals() - before == 64, "{kept:?}"),
            _ => assert!(matches!(kept, Kept::Loaded) && context.n_evals() == before, "{kept:?}"),
        }
        assert_eq!(row(&mut context, &branch, &whole[n..]), fresh, "{end:?}");
    }
    // a page less is nothing to keep, and another text has a file of its own
    let (_, n) = store.begin(&model, &mut context, &prefix[..31]).expect("beginning");
    assert!(n == 0 && matches!(store.take_last(), Some(Kept::TooShort)));
    store.begin(&model, &mut context, &prefix[1..40]).expect("beginning");
    assert!(matches!(store.take_last(), Some(Kept::Saved)));
    let files = || -> Vec<PathBuf> {
        let mut files: Vec<_> =
            std::fs::read_dir(&folder).expect("folder").map(|f| f.expect("file").path()).collect();
        files.sort_by_key(|f| std::fs::metadata(f).expect("file").len());
        files
    };
    assert_eq!(files().len(), 2, "nothing but the files");
    // truncated, damaged, and of another text under this name: refused by name, and evaluated
    let file = files()[1].clone();
    let whole = std::fs::read(&file).expect("file");
    let other = std::fs::read(&files()[0]).expect("file");
    let damaged: Vec<u8> = whole.iter().enumerate().map(|(i, b)| b ^ u8::from(i == 5000)).collect();
    let fresh = tokens(&model, "Now");
    for (bytes, word) in [
        (&whole[..whole.len() / 2], "truncated"),
        (&damaged[..], "damaged"),
        (&other[..], "stale"),
        (&b"no such thing"[..], "TRUINGKV"),
    ] {
        std::fs::write(&file, bytes).expect("file");
        let (branch, n) = store.begin(&model, &mut context, &prefix[..64]).expect("beginning");
        match store.take_last() {
            Some(Kept::Refused(e)) => assert!(e.to_string().contains(word), "{word}: {e}"),
            kept => unreachable!("{word}: {kept:?}"),
        }
        let found = row(&mut context, &branch, &fresh[n..]);
        let root = context.root().expect("branch");
        assert_eq!(found, row(&mut context, &root, &fresh), "{word}");
    }
    // the same tokens in another model have another name
    std::fs::write(&file, &whole).expect("file");
    let (gemma, mut large) = open("gemma3-270m");
    store.begin(&gemma, &mut large, &prefix[..64]).expect("beginning");
    assert!(matches!(store.take_last(), Some(Kept::Saved)));
    // adapters change keys and values: what was kept without them is not used
    drop(std::mem::replace(&mut context, open("smollm2").1));
    let vector = ControlVector { directions: vec![(5, vec![1.0; model.spec().n_embd])] };
    let bytes = vector.to_bytes("llama").expect("a file");
    let adapter = Adapter::from_bytes("vector", &bytes, model.file()).expect("an adapter");
    context.set_adapters(vec![Arc::new(adapter)], &[2.0]).expect("adapters");
    store.begin(&model, &mut context, &prefix[..64]).expect("beginning");
    match store.take_last() {
        Some(Kept::Refused(e)) => assert!(e.to_string().contains("adapters"), "{e}"),
        kept => unreachable!("{kept:?}"),
    }
    std::fs::remove_dir_all(&folder).expect("folder");
}
