//! `truing pull`, `list` and `rm`: the models this machine has.

use crate::exit::BadInput;
use crate::{interrupt, output};
use anyhow::Result;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::path::PathBuf;
use truing::model::CancelFlag;
use truing::models::{self, Catalog, Located, Phase, Progress};

/// Fetch a model of the catalog, or check the one that is here.
#[derive(Debug, Args)]
pub struct Pull {
    /// Name from `truing list` [default: the catalog's default model]
    name: Option<String>,
    /// Print one JSON object: name, path, sha256, bytes, fetched
    #[arg(long)]
    json: bool,
}

impl Pull {
    pub fn run(self) -> Result<()> {
        let name = name_or_default(self.name.as_deref())?;
        let pulled = models::pull(name, &mut Bar::new()?)?;
        if self.json {
            return output::json(&json!({
                "name": name, "path": pulled.path, "sha256": pulled.sha256, "bytes": pulled.bytes,
                "fetched": pulled.fetched,
            }));
        }
        let what = if pulled.fetched { "fetched" } else { "already here, checked" };
        output::line(&format!("{name}: {what}, {}, {}", output::size(pulled.bytes), pulled.path.display()))
    }
}

/// List the models of the catalog and which are here.
#[derive(Debug, Args)]
pub struct List {
    /// Print one JSON object a line: name, about, licence, path (null if not here), sha256, bytes
    #[arg(long)]
    json: bool,
}

impl List {
    pub fn run(self) -> Result<()> {
        let default = &Catalog::builtin()?.default;
        for listed in models::list()? {
            let e = &listed.entry;
            if self.json {
                output::json(&json!({
                    "name": e.name, "aliases": e.aliases, "about": e.about, "licence": e.licence,
                    "path": listed.path, "sha256": e.sha256, "bytes": e.size_bytes, "default": e.name == *default,
                }))?;
                continue;
            }
            let mark = if e.name == *default { " (default)" } else { "" };
            let here = if listed.path.is_some() { "here" } else { "not fetched" };
            output::line(&format!("{}{mark}: {}", e.name, e.about))?;
            output::line(&format!("    {}, {}, {here}", output::size(e.size_bytes), e.licence))?;
        }
        Ok(())
    }
}

/// Remove a model of the catalog from this machine.
#[derive(Debug, Args)]
pub struct Rm {
    /// Name from `truing list`
    name: String,
    /// Print one JSON object: name, path, bytes
    #[arg(long)]
    json: bool,
}

impl Rm {
    pub fn run(self) -> Result<()> {
        let removed = models::rm(&self.name)?;
        if self.json {
            return output::json(&json!({ "name": self.name, "path": removed.path, "bytes": removed.bytes }));
        }
        output::line(&format!("{}: removed, {} freed", self.name, output::size(removed.bytes)))
    }
}

/// The file of a model given by path or name, or of the default model; fetches it when it is not here.
pub fn ensure(name_or_path: Option<&str>) -> Result<PathBuf> {
    let name = name_or_default(name_or_path)?;
    match models::resolve(name).map_err(|e| BadInput(e.to_string()))? {
        Located::File(path) => Ok(path),
        Located::Absent(entry) => {
            if let Some(notice) = &entry.notice {
                eprintln!("truing: {}: {notice} ({})", entry.name, entry.terms);
            }
            Ok(models::pull(name, &mut Bar::new()?)?.path)
        }
    }
}

fn name_or_default(name: Option<&str>) -> Result<&str> {
    match name {
        Some(name) => Ok(name),
        None => Ok(&Catalog::builtin()?.default),
    }
}

/// A progress bar for a pull that Ctrl-C ends.
struct Bar {
    bar: ProgressBar,
    phase: Option<Phase>,
    cancel: CancelFlag,
}

impl Bar {
    fn new() -> Result<Self> {
        let cancel = CancelFlag::default();
        interrupt::on_ctrl_c(cancel.clone())?;
        Ok(Self { bar: ProgressBar::hidden(), phase: None, cancel })
    }

    fn start(&mut self, phase: Phase) {
        let what = match phase {
            Phase::Wait => "waiting for another pull",
            Phase::Download => "downloading",
            Phase::Unpack => "unpacking",
            Phase::Verify => "checking",
        };
        let style = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        self.bar.finish_and_clear();
        self.bar = ProgressBar::new(0).with_message(what);
        if let Ok(style) = ProgressStyle::with_template(style) {
            self.bar.set_style(style);
        }
        self.phase = Some(phase);
    }
}

impl Progress for Bar {
    fn update(&mut self, phase: Phase, done: u64, total: u64) {
        if self.phase != Some(phase) {
            self.start(phase);
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    fn note(&mut self, line: &str) {
        self.bar.suspend(|| eprintln!("truing: {line}"));
    }

    fn cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
