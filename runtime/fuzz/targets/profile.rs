//! Any text as a profile: it and its constraints are refused, or keep what they promise.

#![no_main]

mod drive;

use libfuzzer_sys::fuzz_target;
use truing::align::Limits;
use truing::config::Profile;
use truing::{Error, ErrorKind};

fuzz_target!(|text: &str| run(text));

fn run(text: &str) {
    let Ok(profile) = Profile::parse(text) else { return };
    let mut read = |path: &str| Err(Error::new(ErrorKind::Io, path.to_owned()));
    let Ok(constraints) = profile.constraints.build(&mut read) else { return };
    let limits = Limits { max_tokens: Some(30), ..Limits::default() };
    let Ok(mut c) = constraints.compile(drive::lexicon(), limits) else { return };
    drive::drive(&mut *c, Some(30), text.len() as u64);
}
