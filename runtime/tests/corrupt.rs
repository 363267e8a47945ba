//! Damaged model files: each row of `data/corrupt/corrupt.jsonl` makes a file from `base.gguf` and says what
//! a loader must do with it. `TRUING_GOLDEN` names a folder whose `corrupt/` is used instead.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what must hold by unwrapping it")]

#[path = "support/corrupt.rs"]
mod support;

use support::{Rng, Row, Scratch, base, damage, rows};
use truing::ErrorKind;
use truing::gguf::{GgufFile, Value};
use truing::model::{Model, ModelOptions};
use truing::vocab::{Specials, Tokens};

/// What is wrong with the outcome of loading `row`, if anything.
fn complaint(row: &Row, outcome: Result<(), truing::Error>) -> Option<String> {
    let text = match (&*row.expect, outcome) {
        ("reject", Ok(())) => return Some("loads".into()),
        ("load", Err(e)) => return Some(format!("is refused: {e}")),
        (_, Ok(())) => return None,
        (_, Err(e)) if !matches!(e.kind(), ErrorKind::BadFile | ErrorKind::Unsupported) => {
            return Some(format!("kind {:?}: {e}", e.kind()));
        }
        (_, Err(e)) => e.to_string(),
    };
    let said = text.to_lowercase();
    let named = row.about.iter().any(|word| said.contains(word)) && said.contains(&row.name);
    (!named).then(|| format!("does not name the file and one of {:?}: {text}", row.about))
}

#[test]
fn every_damaged_file_meets_its_expectation() {
    let rows = rows();
    assert!(rows.len() >= 114, "{} rows", rows.len());
    let scratch = Scratch::new("rows");
    let found = rows.iter().filter_map(|row| {
        let path = scratch.write(&row.name, &row.bytes);
        let outcome = Model::open(&path, &ModelOptions::default()).map(drop);
        complaint(row, outcome).map(|c| format!("{}: {c}", row.name))
    });
    let complaints: Vec<_> = found.collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Uses everything the loader hands out.
fn touch(file: &GgufFile) -> usize {
    let m = file.metadata();
    let mut seen = 0;
    for (key, value) in m.iter() {
        seen += key.len();
        if let Value::Array(a) = value {
            assert_eq!(a.iter().count(), a.len());
        }
        let strings = m.str_array(key).ok().flatten();
        seen += strings.map_or(0, |s| s.iter().map(<[u8]>::len).sum());
        seen += m.i32_array(key).ok().flatten().map_or(0, |a| a.len());
        seen += m.f32(key).is_ok() as usize + m.u32(key).is_ok() as usize + m.str(key).is_ok() as usize;
    }
    for t in file.tensors() {
        assert_eq!((t.row_bytes() * t.n_rows(), t.n_values() > 0), (t.data.len(), true));
        seen += t.as_f32().map_or(0, |v| v.iter().filter(|x| x.is_nan()).count());
        assert_eq!(t.as_f32().is_some(), t.ty == truing::gguf::GgmlType::F32);
    }
    seen + usize::from(file.content_id()[0])
}

#[test]
fn random_damage_never_crashes_the_loader() {
    let base = base();
    let header = 5280; // the vocabulary is half of it
    let mut rng = Rng(0x7072_6f6d_6973_6534);
    let (mut sound, mut refused) = (0, 0);
    for case in 0..10_000 {
        let mut bytes = base.clone();
        damage(&mut rng, &mut bytes, header);
        match GgufFile::from_bytes("damaged", &bytes) {
            Ok(file) => sound += usize::from(touch(&file) > 0),
            Err(e) => {
                assert!(matches!(e.kind(), ErrorKind::BadFile | ErrorKind::Unsupported), "case {case}: {e}");
                assert!(e.to_string().starts_with("damaged: "), "case {case}: {e}");
                refused += 1;
            }
        }
    }
    assert!(
        sound > 1000 && refused > 1000,
        "the damage is too mild or too harsh: {sound} sound, {refused} refused"
    );
}

/// Uses the vocabulary throughout.
fn speak(model: &Model) {
    let vocab = model.vocab();
    for specials in [Specials::ALL, Specials::NONE] {
        let text = "in the beginning <|end|> was ĠĠ ther\u{2581}e\0";
        let Ok(Tokens { ids, .. }) = vocab.tokenize(text, specials) else { continue };
        assert!(ids.iter().all(|id| (*id as usize) < vocab.len()));
        assert!(vocab.detokenize(&ids, true).is_ok());
    }
    let special = [vocab.bos(), vocab.eos(), vocab.eot()].into_iter().flatten();
    assert!(special.chain(vocab.eog_ids().iter().copied()).all(|id| (id as usize) < vocab.len()));
    for id in (0..vocab.len() as u32).chain([u32::MAX]) {
        std::hint::black_box((vocab.token_bytes(id), vocab.token_text(id), vocab.kind(id), vocab.is_eog(id)));
    }
}

#[test]
fn random_damage_never_crashes_the_model() {
    let base = base();
    let mut rng = Rng(0x6465_6570_6572_2121);
    let mut opened = 0;
    for _ in 0..2000 {
        let mut bytes = base.clone();
        damage(&mut rng, &mut bytes, 5280);
        let file = GgufFile::from_bytes("damaged", &bytes);
        if let Ok(model) = file.and_then(|file| Model::from_gguf(file, &ModelOptions::default())) {
            speak(&model);
            opened += 1;
        }
    }
    assert!(opened > 100, "only {opened} open");
}
