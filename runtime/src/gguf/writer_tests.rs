use super::*;
use crate::gguf::GgufFile;
use proptest::prelude::*;

/// A folder of its own that is removed with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("truing-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn every_value_type_comes_back() {
    let mut w = GgufWriter::new();
    w.set("u8", &200u8).unwrap();
    w.set("i8", &-3i8).unwrap();
    w.set("u16", &60_000u16).unwrap();
    w.set("i16", &-30_000i16).unwrap();
    w.set("u32", &4_000_000_000u32).unwrap();
    w.set("i32", &-5i32).unwrap();
    w.set("u64", &u64::MAX).unwrap();
    w.set("i64", &i64::MIN).unwrap();
    w.set("f32", &1.25f32).unwrap();
    w.set("f64", &-0.1f64).unwrap();
    w.set("yes", &true).unwrap();
    w.set("text", "größe").unwrap();
    w.set("raw", &RawStr(b"\xff\0")).unwrap();
    w.set("strings", &["a", "", "ccc"]).unwrap();
    w.set("none", &Vec::<String>::new()).unwrap();
    w.set("numbers", &[1u16, 2, 3]).unwrap();
    w.set("floats", &[0.5f64, 1.5]).unwrap();
    w.set("flags", &[true, false]).unwrap();
    let file = GgufFile::from_bytes("m", &w.to_bytes()).unwrap();
    let m = file.metadata();
    assert_eq!((m.len(), file.tensors().len(), file.version()), (18, 0, 3));
    for (key, value) in [("u8", 200), ("u16", 60_000), ("u32", 4_000_000_000u32)] {
        assert_eq!(m.require_u32(key).unwrap(), value);
    }
    for (key, value) in [("u8", 200), ("i8", -3), ("i16", -30_000), ("i32", -5)] {
        assert_eq!(m.require_i32(key).unwrap(), value);
    }
    assert_eq!(m.require_u64("u64").unwrap(), u64::MAX);
    assert_eq!(m.get("i64").unwrap().as_int(), Some(i64::MIN.into()));
    assert_eq!((m.require_f32("f32").unwrap(), m.require_f32("f64").unwrap()), (1.25, -0.1));
    assert!(m.require_bool("yes").unwrap());
    assert_eq!(m.require_str("text").unwrap(), "größe");
    assert_eq!(m.bytes("raw").unwrap(), Some(&b"\xff\0"[..]));
    let strings = m.require_str_array("strings").unwrap();
    assert_eq!((strings.len(), strings.total_bytes()), (3, 4));
    assert_eq!(strings.iter().collect::<Vec<_>>(), [&b"a"[..], b"", b"ccc"]);
    assert!(m.require_str_array("none").unwrap().is_empty());
    assert_eq!(m.require_u32_array("numbers").unwrap(), [1, 2, 3]);
    assert_eq!(m.require_f32_array("floats").unwrap(), [0.5, 1.5]);
    assert_eq!(m.require_bool_array("flags").unwrap(), [true, false]);
}

#[test]
fn getters_name_what_they_wanted_and_what_is_there() {
    let mut w = GgufWriter::new();
    w.set("n", &-1i32).unwrap();
    w.set("list", &["a"]).unwrap();
    w.set("raw", &RawStr(b"\xff")).unwrap();
    let bytes = w.to_bytes();
    let file = GgufFile::from_bytes("m.gguf", &bytes).unwrap();
    let m = file.metadata();
    let text = |e: Error| {
        assert_eq!(e.kind(), ErrorKind::BadFile);
        e.to_string()
    };
    let at = bytes.windows(4).position(|w| w == (-1i32).to_le_bytes()).unwrap();
    assert_eq!(
        text(m.u32("n").unwrap_err()),
        format!("m.gguf: offset {at}: key 'n': expected type u32, found type i32 with value -1")
    );
    assert!(
        text(m.f32_array("list").unwrap_err())
            .ends_with("expected type array of f32, found type array of string")
    );
    assert!(text(m.str("raw").unwrap_err()).contains("UTF-8"));
    assert_eq!(m.str_lossy("raw").unwrap().unwrap(), "\u{fffd}");
    assert!(text(m.require_u32("gone").unwrap_err()).starts_with("m.gguf: key 'gone': the key is missing"));
    assert_eq!(m.u32("gone").unwrap(), None);
}

#[test]
fn the_writer_refuses_what_the_loader_would() {
    let mut w = GgufWriter::new();
    w.set("k", &1u8).unwrap();
    let long = "k".repeat(65_536);
    for key in ["", "k", "general.alignment", &long] {
        assert_eq!(w.set(key, &1u8).unwrap_err().kind(), ErrorKind::InvalidArgument, "{key:.9}");
    }
    w.tensor_f32("t", &[2, 2], &[0.0; 4]).unwrap();
    let long = "t".repeat(65);
    for (name, dims, n) in [
        ("", &[1][..], 1),
        ("t", &[1], 1),
        (&long, &[1], 1),
        ("a", &[], 1),
        ("a", &[0], 0),
        ("a", &[1, 1, 1, 1, 1], 1),
        ("a", &[3], 2),
        ("a", &[usize::MAX, usize::MAX], 4),
    ] {
        assert!(w.tensor_f32(name, dims, &vec![0.0; n]).is_err(), "{name:.9} {dims:?}");
    }
    assert!(w.tensor("q", GgmlType::Q8_0, &[16, 2], vec![0; 34]).is_err(), "a block across two rows");
    assert!([0, 4, 33].iter().all(|a| GgufWriter::with_alignment(*a).is_err()));
    let file = GgufFile::from_bytes("m", &w.to_bytes()).unwrap();
    assert_eq!((file.metadata().len(), file.tensors().len()), (1, 1));
}

#[test]
fn a_saved_file_is_whole_and_alone() {
    let folder = Scratch::new("save");
    let path = folder.0.join("m.gguf");
    for value in [1.0, 2.0] {
        let mut w = GgufWriter::with_alignment(64).unwrap();
        w.tensor_f32("t", &[3], &[value; 3]).unwrap();
        w.tensor_f32("u", &[1], &[value]).unwrap();
        w.save(&path).unwrap();
        let file = GgufFile::open(&path).unwrap();
        assert_eq!(file.tensor("t").unwrap().as_f32().unwrap(), [value; 3]);
        assert_eq!((file.alignment(), file.tensor("u").unwrap().data.as_ptr() as usize % 64), (64, 0));
        assert_eq!(file.size_bytes(), fs::metadata(&path).unwrap().len());
    }
    assert_eq!(folder.files(), ["m.gguf"]);
    let e = GgufWriter::new().save(&folder.0.join("no/such/m.gguf")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Io);
    fs::create_dir(folder.0.join("taken")).unwrap();
    assert!(GgufWriter::new().save(&folder.0.join("taken")).is_err(), "a folder stands in its place");
    assert_eq!(folder.files(), ["m.gguf", "taken"], "nothing half-written is left");
}

/// Arbitrary contents of a file: strings, numbers, arrays and tensors of several types.
#[derive(Clone, Debug)]
struct Contents {
    alignment: u32,
    texts: Vec<(String, Vec<u8>)>,
    lists: Vec<(String, Vec<String>)>,
    tensors: Vec<(String, GgmlType, Vec<usize>)>,
}

fn contents() -> impl Strategy<Value = Contents> {
    use GgmlType::{F16, F32, I8, Q4_K, Q8_0};
    let key = "\\PC{1,20}";
    let texts = prop::collection::vec((key, prop::collection::vec(any::<u8>(), 0..40)), 0..8);
    let lists = prop::collection::vec((key, prop::collection::vec(".*", 0..9)), 0..4);
    let ty = prop::sample::select(vec![F32, F16, I8, Q8_0, Q4_K]);
    let tensors = prop::collection::vec(("\\PC{1,12}", ty, prop::collection::vec(1..5usize, 1..5)), 0..8);
    (3..9u32, texts, lists, tensors).prop_map(|(shift, texts, lists, mut tensors)| {
        for (_, ty, dims) in &mut tensors {
            dims[0] *= ty.block_values();
        }
        Contents { alignment: 1 << shift, texts, lists, tensors }
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(c in contents()) {
        let mut w = GgufWriter::with_alignment(c.alignment).unwrap();
        let texts: Vec<_> = c.texts.iter().filter(|(k, v)| w.set(k, &RawStr(v)).is_ok()).collect();
        let lists: Vec<_> = c.lists.iter().filter(|(k, v)| w.set(k, v).is_ok()).collect();
        let data = |i: usize, ty: GgmlType, dims: &[usize]| {
            vec![i as u8 + 1; ty.bytes_for(dims.iter().product()).unwrap()]
        };
        let tensors: Vec<_> = c.tensors.iter().enumerate()
            .filter(|(i, (name, ty, dims))| w.tensor(name, *ty, dims, data(*i, *ty, dims)).is_ok())
            .collect();
        let bytes = w.to_bytes();
        let file = GgufFile::from_bytes("m", &bytes).unwrap();
        let m = file.metadata();
        prop_assert_eq!(m.len(), 1 + texts.len() + lists.len());
        for (k, v) in &texts {
            prop_assert_eq!(m.bytes(k).unwrap(), Some(&v[..]));
        }
        for (k, v) in &lists {
            let found: Vec<_> = m.require_str_array(k).unwrap().iter().collect();
            prop_assert_eq!(found, v.iter().map(|s| s.as_bytes()).collect::<Vec<_>>());
        }
        prop_assert_eq!(file.tensors().len(), tensors.len());
        for (i, (name, ty, dims)) in &tensors {
            let t = file.tensor(name).unwrap();
            prop_assert_eq!((t.ty, &t.dims[..dims.len()]), (*ty, &dims[..]));
            prop_assert_eq!(&*t.data, &data(*i, *ty, dims)[..]);
            prop_assert_eq!(t.row_bytes() * t.n_rows(), t.data.len());
        }
        // A copy of a file is the same file.
        let mut again = GgufWriter::with_alignment(c.alignment).unwrap();
        m.iter().skip(1).for_each(|(k, v)| again.set(k, v).unwrap());
        file.tensors().for_each(|t| again.copy_tensor(t).unwrap());
        let copy = GgufFile::from_bytes("m", &again.to_bytes()).unwrap();
        prop_assert_eq!(copy.metadata().len(), m.len());
        for (a, b) in file.tensors().zip(copy.tensors()) {
            prop_assert_eq!((&a.name, a.ty, a.dims, &*a.data), (&b.name, b.ty, b.dims, &*b.data));
        }
    }
}
