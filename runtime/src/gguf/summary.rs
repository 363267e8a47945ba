//! What a model file holds, in a form that programs and people can read (`truing inspect`).
//!
//! Long things are cut, so that the summary of a hostile file stays small: arrays after
//! [`SHOWN_ITEMS`] elements, texts after [`SHOWN_BYTES`] bytes, each with its full length beside it.

use super::value::{Value, ValueType};
use super::{Array, GgmlType, GgufFile, Tensor};
use serde::Serialize;
use serde_json::{Value as Json, json};

/// Elements of an array that are shown.
pub const SHOWN_ITEMS: usize = 8;
/// Bytes of a text that are shown; whole chat templates fit.
pub const SHOWN_BYTES: usize = 1 << 16;

/// A model file: totals, metadata, tensors.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// As given to `open`.
    pub path: String,
    /// Version of the format.
    pub version: u32,
    /// Number of files.
    pub n_files: usize,
    /// Bytes of all files.
    pub size_bytes: u64,
    /// Alignment of tensors in the file, in bytes.
    pub alignment: usize,
    /// Number of values in all tensors: the parameters.
    pub n_values: u64,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// Totals of each type, largest first.
    pub types: Vec<TypeTotal>,
    /// The pairs, in file order.
    pub metadata: Vec<Pair>,
    /// The tensors, in file order.
    pub tensors: Vec<TensorLine>,
}

/// All tensors of a type.
#[derive(Clone, Debug, Serialize)]
pub struct TypeTotal {
    /// The type.
    #[serde(rename = "type")]
    pub ty: String,
    /// Number of tensors.
    pub n_tensors: usize,
    /// Number of values.
    pub n_values: u64,
    /// Bytes.
    pub size_bytes: u64,
}

/// A metadata pair.
#[derive(Clone, Debug, Serialize)]
pub struct Pair {
    /// The key.
    pub key: String,
    /// The value's type: `u32`, `string`, `array of string`, …
    #[serde(rename = "type")]
    pub ty: String,
    /// Number of elements of an array; bytes of a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub len: Option<usize>,
    /// The value, cut if it is long; what is not UTF-8 becomes U+FFFD, and numbers that are not finite become
    /// text.
    pub value: Json,
}

/// A tensor.
#[derive(Clone, Debug, Serialize)]
pub struct TensorLine {
    /// Its name.
    pub name: String,
    /// How values are stored.
    #[serde(rename = "type")]
    pub ty: String,
    /// Dimensions, contiguous one first, without trailing ones.
    pub dims: Vec<usize>,
    /// Bytes.
    pub size_bytes: usize,
    /// Where it begins in its file, in bytes.
    pub offset: usize,
}

impl Summary {
    /// The summary of `file`. Costs are proportional to the number of keys and tensors.
    pub fn of(file: &GgufFile) -> Self {
        Self {
            path: file.path().display().to_string(),
            version: file.version(),
            n_files: file.n_shards(),
            size_bytes: file.size_bytes(),
            alignment: file.alignment(),
            n_values: file.tensors().map(|t| t.n_values() as u64).sum(),
            tensor_bytes: file.tensors().map(|t| t.data.len() as u64).sum(),
            types: totals(file),
            metadata: file.metadata().iter().map(|(key, value)| pair(key, value)).collect(),
            tensors: file.tensors().map(line).collect(),
        }
    }
}

fn totals(file: &GgufFile) -> Vec<TypeTotal> {
    let mut types: Vec<GgmlType> = Vec::new();
    let mut totals: Vec<TypeTotal> = Vec::new();
    for t in file.tensors() {
        let i = types.iter().position(|ty| *ty == t.ty).unwrap_or(types.len());
        if i == types.len() {
            types.push(t.ty);
            totals.push(TypeTotal { ty: t.ty.to_string(), n_tensors: 0, n_values: 0, size_bytes: 0 });
        }
        totals[i].n_tensors += 1;
        totals[i].n_values += t.n_values() as u64;
        totals[i].size_bytes += t.data.len() as u64;
    }
    totals.sort_by_key(|t| std::cmp::Reverse(t.size_bytes));
    totals
}

fn line(t: &Tensor) -> TensorLine {
    TensorLine {
        name: t.name.to_string(),
        ty: t.ty.to_string(),
        dims: t.used_dims().to_vec(),
        size_bytes: t.data.len(),
        offset: t.data.offset(),
    }
}

fn pair(key: &str, value: &Value) -> Pair {
    let len = match value {
        Value::Array(a) => Some(a.len()),
        Value::Str(s) => Some(s.len()),
        _ => None,
    };
    Pair { key: key.to_owned(), ty: value.type_name(), len, value: json_of(value) }
}

fn json_of(value: &Value) -> Json {
    match value {
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::Bool(v) => json!(v),
        Value::F32(v) => number(&v.to_string()),
        Value::F64(v) => number(&v.to_string()),
        Value::Str(s) => json!(text(s)),
        Value::Array(a) => items(a),
        small => small.as_int().and_then(|v| i64::try_from(v).ok()).map_or(Json::Null, |v| json!(v)),
    }
}

/// A float by its shortest decimal form, so that an `f32` of 1e-5 stays 0.00001.
fn number(shortest: &str) -> Json {
    let finite = shortest.parse::<f64>().ok().filter(|v| v.is_finite());
    finite.map_or_else(|| json!(shortest), |v| json!(v))
}

fn text(bytes: &[u8]) -> String {
    let mut shown = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES)]).into_owned();
    if bytes.len() > SHOWN_BYTES {
        shown.push('…');
    }
    shown
}

/// The first elements. Of nested arrays only the lengths, lest a small file makes a large summary.
fn items(a: &Array) -> Json {
    let show = |item: Value| match item {
        Value::Array(inner) => json!(format!("array of {}, {} elements", inner.elem(), inner.len())),
        Value::Str(s) if a.elem() == ValueType::Str => {
            json!(text(&s[..s.len().min(SHOWN_BYTES / SHOWN_ITEMS)]))
        }
        other => json_of(&other),
    };
    a.iter().take(SHOWN_ITEMS).map(show).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{GgufWriter, RawStr};

    fn summary(build: impl FnOnce(&mut GgufWriter<'_>)) -> Summary {
        let mut w = GgufWriter::new();
        build(&mut w);
        Summary::of(&GgufFile::from_bytes("m.gguf", &w.to_bytes()).unwrap())
    }

    #[test]
    fn totals_add_up_by_type() {
        let s = summary(|w| {
            w.tensor_f32("a", &[2, 3], &[0.0; 6]).unwrap();
            w.tensor("b", GgmlType::Q8_0, &[64], vec![0; 68]).unwrap();
            w.tensor_f32("c", &[1, 1], &[0.0]).unwrap();
        });
        assert_eq!((s.n_values, s.tensor_bytes, s.tensors.len()), (71, 96, 3));
        let of = |t: &TypeTotal| (t.ty.clone(), t.n_tensors, t.n_values, t.size_bytes);
        assert_eq!(
            s.types.iter().map(of).collect::<Vec<_>>(),
            [("Q8_0".into(), 1, 64, 68), ("F32".into(), 2, 7, 28)]
        );
        let dims: Vec<_> = s.tensors.iter().map(|t| t.dims.clone()).collect();
        assert_eq!(dims, [vec![2, 3], vec![64], vec![1]]);
        assert_eq!(s.tensors[0].offset % s.alignment, 0);
    }

    #[test]
    fn values_are_shown_as_they_are_and_long_ones_cut() {
        let s = summary(|w| {
            w.set("eps", &1e-5f32).unwrap();
            w.set("nan", &f32::NAN).unwrap();
            w.set("big", &u64::MAX).unwrap();
            w.set("neg", &-3i8).unwrap();
            w.set("raw", &RawStr(b"a\xffb")).unwrap();
            w.set("long", "x".repeat(SHOWN_BYTES + 1).as_str()).unwrap();
            w.set("list", &(0..100u16).collect::<Vec<_>>()).unwrap();
            w.set("nested", &vec![vec![1u8; 3]]).unwrap();
        });
        let json = serde_json::to_value(&s).unwrap();
        let value = |i: usize| json["metadata"][i]["value"].clone();
        assert_eq!([value(0), value(1), value(2)], [json!(1e-5), json!("NaN"), json!(u64::MAX)]);
        assert_eq!([value(3), value(4)], [json!(-3), json!("a\u{fffd}b")]);
        assert_eq!(json["metadata"][5]["len"], json!(SHOWN_BYTES + 1));
        assert!(value(5).as_str().unwrap().len() < SHOWN_BYTES + 9);
        assert_eq!(json["metadata"][6]["type"], "array of u16");
        assert_eq!(
            (json["metadata"][6]["len"].clone(), value(6)),
            (json!(100), json!([0, 1, 2, 3, 4, 5, 6, 7]))
        );
        assert_eq!(value(7), json!(["array of u8, 3 elements"]));
    }
}
