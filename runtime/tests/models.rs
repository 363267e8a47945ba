//! The catalog's models, as they are got on this machine.

#![allow(clippy::unwrap_used)]

mod common;

use sha2::{Digest, Sha256};
use truing::models::{self, Located, Quiet};

#[test]
fn the_real_models_are_what_the_catalog_says() {
    for listed in models::list().unwrap() {
        let entry = listed.entry;
        let path = common::real_model(&entry.name);
        assert_eq!(models::cached(&entry.name), Some(path.clone()));
        let hash: String =
            Sha256::digest(std::fs::read(&path).unwrap()).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hash, entry.sha256);
        let pulled = models::pull(&entry.name, &mut Quiet).unwrap();
        assert_eq!((pulled.path, pulled.sha256, pulled.fetched), (path, hash, false));
    }
}

#[test]
fn an_alias_finds_the_same_file_as_the_name() {
    let path = common::real_model("smollm2");
    for name in ["smollm2", "SMOLLM2", "smollm2-135m-instruct"] {
        assert!(matches!(models::resolve(name).unwrap(), Located::File(p) if p == path), "{name}");
    }
    assert!(matches!(models::resolve(path.to_str().unwrap()).unwrap(), Located::File(p) if p == path));
}
