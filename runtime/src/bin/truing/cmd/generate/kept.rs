//! What all prompts begin with, kept on disk from call to call.

use crate::args::PromptArgs;
use crate::prompt;
use anyhow::Result;
use truing::engine::{self, Settings};
use truing::model::Model;

/// Where prompts' constant beginning is kept, and its tokens: those of prompts that share nothing else.
pub fn prefix(
    folder: &std::path::Path,
    model: &Model,
    args: &PromptArgs,
) -> Result<(engine::PrefixStore, Vec<truing::TokenId>)> {
    let folder = match folder.as_os_str().is_empty() {
        true => truing::models::Store::from_env()?.root().join("prefixes"),
        false => folder.to_owned(),
    };
    let mut prefix = prompt::tokens(model, args, "a")?;
    for text in ["0", " Why?", "\n\nÉ"] {
        let other = prompt::tokens(model, args, text)?;
        let same = prefix.iter().zip(&other).take_while(|(a, b)| a == b).count();
        prefix.truncate(same);
    }
    Ok((engine::PrefixStore::at(folder), prefix))
}

/// Says why a kept beginning could not be used.
pub fn tell(settings: &Settings) {
    let last = settings.kept.as_ref().and_then(|(store, _)| store.take_last());
    if let Some(engine::Kept::Refused(e)) = last {
        eprintln!("truing: the prompt's beginning was evaluated anew: {e}");
    }
}
