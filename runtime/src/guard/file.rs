//! Probes as files: GGUF with `general.architecture = "truing-probe"`.
//!
//! Keys `truing.probe.…` say what it is and what it was made for, tensors `probe.{layer}.…` hold the numbers.
//! Reading checks all of it; a file that was made for something else is refused by [`Identity::check`].

use super::identity::Identity;
use super::probe::{Direction, Position, Probe, Quality, Thresholds};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::gguf::{GgmlType, GgufFile, GgufWriter};
use std::path::Path;

const ARCHITECTURE: &str = "truing-probe";
const VERSION: u32 = 1;
/// More layers no probe needs.
const MAX_LAYERS: usize = 64;

/// A probe with what it was made for.
#[derive(Clone, Debug)]
pub struct ProbeFile {
    /// The probe.
    pub probe: Probe,
    /// What it was made for.
    pub made_for: Identity,
    /// How its directions were found: `logistic` or `mean_difference`.
    pub method: String,
}

impl ProbeFile {
    /// Reads a probe file.
    /// # Errors `Io`, `BadFile` naming key or tensor.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(&GgufFile::open(path)?).at(|| path.display().to_string())
    }

    /// As [`ProbeFile::open`], of bytes.
    /// # Errors `BadFile`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::read(&GgufFile::from_bytes("probe", bytes)?)
    }

    fn read(file: &GgufFile) -> Result<Self> {
        let meta = file.metadata();
        let architecture = meta.require_str("general.architecture")?;
        if architecture != ARCHITECTURE {
            return Err(bad(format!("expected a file of kind {ARCHITECTURE:?}, found {architecture:?}")));
        }
        let version = meta.require_u32("truing.probe.version")?;
        if version != VERSION {
            return Err(bad(format!("expected version {VERSION}, found {version}")));
        }
        let text = |key: &str| meta.require_str(key).map(str::to_owned);
        let made_for = Identity {
            model: text("truing.probe.model_sha256")?,
            tokenizer: text("truing.probe.tokenizer_sha256")?,
            template: text("truing.probe.template_sha256")?,
            steering: text("truing.probe.steering_id")?,
        };
        let n_embd = meta.require_u32("truing.probe.n_embd")? as usize;
        let layers = meta.u32_array("truing.probe.layers")?.unwrap_or_default();
        if layers.is_empty() || layers.len() > MAX_LAYERS {
            return Err(bad(format!("expected 1 to {MAX_LAYERS} layers, found {}", layers.len())));
        }
        let directions = layers.iter().map(|&l| direction(file, l, n_embd)).collect::<Result<Vec<_>>>()?;
        let threshold = |name: &str| -> Result<f32> { Ok(floats(file, layers[0], name, 1)?[0]) };
        let thresholds = Thresholds { lo: threshold("tau_lo")?, hi: threshold("tau_hi")? };
        let quality = Quality {
            alpha: meta.require_f32("truing.probe.calib.alpha")?,
            n_calibration: meta.require_u32("truing.probe.calib.n")?,
            n_positive: meta.require_u32("truing.probe.train.n_pos")?,
            n_negative: meta.require_u32("truing.probe.train.n_neg")?,
            auroc: meta.require_f32("truing.probe.metric.auroc")?,
            tpr_at_1fpr: meta.require_f32("truing.probe.metric.tpr_at_1fpr")?,
        };
        let name = text("truing.probe.type")?;
        let position = Position::ALL.into_iter().find(|p| p.name() == name);
        let position = position.ok_or_else(|| {
            bad(format!("truing.probe.type: expected prompt, response or header, found {name:?}"))
        })?;
        let probe = Probe::new(position, directions, thresholds, quality)?;
        Ok(Self { probe, made_for, method: text("truing.probe.kind")? })
    }

    fn writer(&self) -> Result<GgufWriter<'static>> {
        let (p, q, id) = (&self.probe, &self.probe.quality, &self.made_for);
        let mut w = GgufWriter::new();
        w.set("general.architecture", ARCHITECTURE)?;
        w.set("general.type", "probe")?;
        w.set("truing.probe.version", &VERSION)?;
        w.set("truing.probe.type", p.position().name())?;
        w.set("truing.probe.kind", self.method.as_str())?;
        w.set("truing.probe.model_sha256", id.model.as_str())?;
        w.set("truing.probe.tokenizer_sha256", id.tokenizer.as_str())?;
        w.set("truing.probe.template_sha256", id.template.as_str())?;
        w.set("truing.probe.steering_id", id.steering.as_str())?;
        w.set("truing.probe.n_embd", &(p.n_embd() as u32))?;
        w.set("truing.probe.layers", p.layers())?;
        w.set("truing.probe.calib.alpha", &q.alpha)?;
        w.set("truing.probe.calib.n", &q.n_calibration)?;
        w.set("truing.probe.train.n_pos", &q.n_positive)?;
        w.set("truing.probe.train.n_neg", &q.n_negative)?;
        w.set("truing.probe.metric.auroc", &q.auroc)?;
        w.set("truing.probe.metric.tpr_at_1fpr", &q.tpr_at_1fpr)?;
        for d in p.directions() {
            let mut put = |name: &str, values: &[f32]| {
                w.tensor_f32(&format!("probe.{}.{name}", d.layer), &[values.len()], values)
            };
            put("weight", &d.weight)?;
            put("mean", &d.mean)?;
            put("inv_std", &d.inv_std)?;
            put("bias", &[d.bias])?;
            put("tau_lo", &[p.thresholds.lo])?;
            put("tau_hi", &[p.thresholds.hi])?;
        }
        Ok(w)
    }

    /// The file in memory.
    /// # Errors `InvalidArgument` if a text does not fit the format.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        Ok(self.writer()?.to_bytes())
    }

    /// Writes the file, whole or not at all.
    /// # Errors `Io`.
    pub fn save(&self, path: &Path) -> Result<()> {
        self.writer()?.save(path)
    }
}

fn direction(file: &GgufFile, layer: u32, n_embd: usize) -> Result<Direction> {
    Ok(Direction {
        layer,
        weight: floats(file, layer, "weight", n_embd)?,
        mean: floats(file, layer, "mean", n_embd)?,
        inv_std: floats(file, layer, "inv_std", n_embd)?,
        bias: floats(file, layer, "bias", 1)?[0],
    })
}

/// The `n` numbers of a tensor.
fn floats(file: &GgufFile, layer: u32, name: &str, n: usize) -> Result<Vec<f32>> {
    let name = format!("probe.{layer}.{name}");
    let tensor = file.tensor(&name).ok_or_else(|| bad(format!("tensor {name} is missing")))?;
    if tensor.ty != GgmlType::F32 || tensor.used_dims() != [n] || tensor.data.len() != 4 * n {
        let found = format!("{} {:?}", tensor.ty, tensor.used_dims());
        return Err(bad(format!("tensor {name}: expected f32 [{n}], found {found}")));
    }
    Ok(tensor.data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

fn bad(message: String) -> Error {
    Error::new(ErrorKind::BadFile, message).at("probe")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> ProbeFile {
        let direction = |layer| Direction {
            layer,
            weight: vec![0.5, -1.0, 2.0],
            mean: vec![0.1, 0.2, 0.3],
            inv_std: vec![1.0, 2.0, 4.0],
            bias: -0.75,
        };
        let quality = Quality {
            alpha: 0.01,
            n_calibration: 99,
            n_positive: 64,
            n_negative: 70,
            auroc: 0.9,
            tpr_at_1fpr: 0.5,
        };
        let directions = vec![direction(3), direction(9)];
        let probe = Probe::new(Position::Response, directions, Thresholds { lo: -1.0, hi: 2.5 }, quality);
        let made_for = Identity {
            model: "0a".repeat(32),
            tokenizer: "0b".repeat(32),
            template: "0c".repeat(32),
            steering: String::new(),
        };
        ProbeFile { probe: probe.unwrap(), made_for, method: "logistic".into() }
    }

    #[test]
    fn what_is_written_is_read() {
        let file = example();
        let read = ProbeFile::from_bytes(&file.to_bytes().unwrap()).unwrap();
        assert_eq!(read.probe.directions(), file.probe.directions());
        assert_eq!(
            (read.probe.position(), read.probe.thresholds),
            (Position::Response, file.probe.thresholds)
        );
        assert_eq!(
            (read.probe.quality, read.made_for, read.method),
            (file.probe.quality, file.made_for, file.method)
        );
    }

    #[test]
    fn one_byte_of_a_hash_makes_it_another_model() {
        let file = example();
        let bytes = file.to_bytes().unwrap();
        let here = |text: &str| bytes.windows(text.len()).position(|w| w == text.as_bytes()).unwrap();
        for (hash, name) in [
            (&file.made_for.model, "model"),
            (&file.made_for.tokenizer, "tokenizer"),
            (&file.made_for.template, "template"),
        ] {
            let mut flipped = bytes.clone();
            flipped[here(hash) + 17] ^= 1;
            let read = ProbeFile::from_bytes(&flipped).unwrap();
            let error = read.made_for.check(&file.made_for).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ProbeMismatch);
            assert!(error.to_string().contains(name), "{error}");
        }
        let other = Identity { steering: "aa".into(), ..file.made_for.clone() };
        assert_eq!(file.made_for.check(&other).unwrap_err().kind(), ErrorKind::ProbeMismatch);
        file.made_for.check(&file.made_for).unwrap();
    }

    #[test]
    fn no_damage_is_taken_for_a_probe_that_cannot_score() {
        let bytes = example().to_bytes().unwrap();
        // the last tensor has four bytes, padded to 32
        for n in 0..bytes.len() - 28 {
            assert!(ProbeFile::from_bytes(&bytes[..n]).is_err(), "cut to {n}");
            let mut damaged = bytes.clone();
            damaged[n] ^= 0xff;
            if let Ok(file) = ProbeFile::from_bytes(&damaged) {
                let n_embd = file.probe.n_embd();
                let state = vec![1.0; n_embd];
                let _ = file.probe.score(|_| Some(&state)).unwrap();
            }
        }
    }
}
