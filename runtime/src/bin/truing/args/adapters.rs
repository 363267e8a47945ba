//! Flags for what is added to a model: LoRA adapters and control vectors.

use super::RunArgs;
use crate::exit::{BadInput, BadUsage};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use truing::adapters::{Adapter, steering_id};
use truing::config::Profile;
use truing::model::{Context, Model};

/// `FILE` or `FILE:SCALE`, or an entry of a profile.
#[derive(Debug, Clone, PartialEq)]
pub struct Weighted {
    /// What rows of a batch call it: the file's stem, or the profile's name.
    pub name: String,
    pub path: PathBuf,
    pub scale: f32,
}

impl FromStr for Weighted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, scale) = match text.rsplit_once(':').map(|(path, scale)| (path, scale.parse::<f32>())) {
            Some((path, Ok(scale))) if scale.is_finite() => (path, scale),
            Some((_, Ok(scale))) => return Err(format!("expected a finite scale, found {scale}")),
            _ => (text, 1.0),
        };
        match path.is_empty() {
            true => Err("expected FILE or FILE:SCALE".to_owned()),
            false => Ok(Self { name: stem(Path::new(path)), path: path.into(), scale }),
        }
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
}

impl RunArgs {
    /// Adds the adapters of a profile that lies in `folder`.
    pub fn add_adapters(&mut self, profile: &Profile, folder: &Path) -> Result<()> {
        for (name, section) in &profile.adapters {
            let path = folder.join(&section.path);
            self.lora.push(Weighted { name: name.clone(), path, scale: section.scale });
        }
        if let Some(section) = &profile.control {
            let path = folder.join(&section.path);
            self.control.push(Weighted { name: stem(&path), path, scale: section.scale });
        }
        match self.weighted().find(|w| !w.scale.is_finite()) {
            Some(w) => {
                Err(BadInput(format!("{}: expected a finite scale, found {}", w.name, w.scale)).into())
            }
            None => Ok(()),
        }
    }

    /// As it is, for another model.
    pub fn without_adapters(&self) -> Self {
        Self { lora: Vec::new(), control: Vec::new(), ..self.clone() }
    }

    fn weighted(&self) -> impl Iterator<Item = &Weighted> {
        self.lora.iter().chain(&self.control)
    }

    /// Reads all adapters, LoRA first.
    fn read_adapters(&self, model: &Model) -> Result<Vec<(Arc<Adapter>, f32)>> {
        let mut read = Vec::new();
        for w in self.weighted() {
            let adapter = Adapter::open(&w.path, model.file()).map_err(|e| BadInput(e.to_string()))?;
            let wants_control = read.len() >= self.lora.len();
            if adapter.is_control() != wants_control {
                let (flag, other) =
                    if wants_control { ("--control", "--lora") } else { ("--lora", "--control") };
                let what = if wants_control { "a control vector" } else { "a LoRA adapter" };
                let message = format!("{flag} {}: expected {what}; give it with {other}", w.path.display());
                return Err(BadInput(message).into());
            }
            read.push((Arc::new(adapter), w.scale));
        }
        Ok(read)
    }

    /// Identity of what is added to the model; empty if nothing is.
    pub fn steering_id(&self, model: &Model) -> Result<String> {
        let read = self.read_adapters(model)?;
        Ok(steering_id(read.iter().map(|(a, w)| (&**a, *w))))
    }

    /// Sets the adapters of a new context.
    pub(super) fn set_adapters(&self, context: &mut Context, model: &Model) -> Result<()> {
        let (adapters, weights): (Vec<_>, Vec<f32>) = self.read_adapters(model)?.into_iter().unzip();
        if adapters.is_empty() {
            return Ok(());
        }
        Ok(context.set_adapters(adapters, &weights).map_err(|e| BadInput(e.to_string()))?)
    }

    /// A row of the mixing table: the scales of flags and profile with those of `given` put over them.
    pub fn mix(&self, given: &serde_json::Map<String, serde_json::Value>) -> Result<Vec<f32>> {
        let mut weights: Vec<f32> = self.weighted().map(|w| w.scale).collect();
        for (name, weight) in given {
            let at = self.weighted().position(|w| w.name == *name);
            let known = || self.weighted().map(|w| w.name.as_str()).collect::<Vec<_>>().join(", ");
            let at = at.ok_or_else(|| {
                BadUsage(format!("adapters: expected one of [{}], found {name:?}", known()))
            })?;
            let weight = weight.as_f64().map(|w| w as f32).filter(|w| w.is_finite());
            weights[at] = weight.ok_or_else(|| BadUsage(format!("adapters: {name}: expected a number")))?;
        }
        Ok(weights)
    }
}
