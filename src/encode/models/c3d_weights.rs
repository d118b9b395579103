//! Weights as people have them for C3D: safetensors, npz, or what `torch.save` wrote, of today or of 2017.
//!
//! Such files come from anywhere. Of each kind only the descriptions are read when it is opened, by readers of our own that make no room for what a file merely
//! promises; room for numbers is made when a tensor of the expected shape is found, and lies whole in the file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::pickle::{At, Pickle, Value};
use crate::base::tensors;
use crate::encode::stored::{self, Place};

/// The tensors of a file, read as they are asked for.
pub(in crate::encode) enum Weights {
    Safetensors(tensors::File<'static>),
    Described(Described),
}

/// A file whose tensors are row after row of numbers somewhere in it.
pub(in crate::encode) struct Described {
    file: File,
    length: u64,
    /// Where each is, or why it cannot be read.
    tensors: HashMap<String, Result<Tensor, String>>,
}

/// A tensor as a file describes it.
struct Tensor {
    shape: Vec<usize>,
    kind: Kind,
    /// First byte, and the byte behind the last that may be its own.
    start: u64,
    end: u64,
}

/// How a number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    F16,
    Bf16,
    F32,
    F64,
    /// Whole numbers of so many bytes: no weights.
    Whole(u64),
}

impl Kind {
    fn bytes(self) -> u64 {
        match self {
            Kind::F16 | Kind::Bf16 => 2,
            Kind::F32 => 4,
            Kind::F64 => 8,
            Kind::Whole(bytes) => bytes,
        }
    }

    /// By the class of its torch storage.
    fn of_storage(class: &str) -> Option<Kind> {
        Some(match class {
            "HalfStorage" => Kind::F16,
            "BFloat16Storage" => Kind::Bf16,
            "FloatStorage" => Kind::F32,
            "DoubleStorage" => Kind::F64,
            "LongStorage" => Kind::Whole(8),
            "IntStorage" => Kind::Whole(4),
            "ShortStorage" => Kind::Whole(2),
            "CharStorage" | "ByteStorage" | "BoolStorage" => Kind::Whole(1),
            _ => return None,
        })
    }

    fn numbers(self, bytes: &[u8]) -> Option<Vec<f32>> {
        Some(match self {
            Kind::F16 => bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
            Kind::Bf16 => bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
            Kind::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Kind::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            Kind::Whole(_) => return None,
        })
    }
}

/// The pickles of the magic number 0x1950a86a20f9469cfc6c and of protocol 1001.
const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";
/// Longest description of an array in a file of numpy.
const MAX_HEADER: usize = 1 << 16;

/// Opens a file of any of the kinds; its content tells which. What is wrong with it is told in words.
pub(in crate::encode) fn open(path: &Path) -> Result<Weights, String> {
    let mut start = Vec::new();
    let file = File::open(path).map_err(|e| e.to_string())?;
    (&file).take(MAGIC.len() as u64).read_to_end(&mut start).map_err(|e| e.to_string())?;
    let again = |e| format!("a pickle that cannot be read ({e}): save its tensors again, as safetensors or npz");
    let read = if start == MAGIC {
        pickled as fn(&File, u64) -> Result<_, String>
    } else if start.starts_with(b"PK") {
        zipped
    } else {
        return tensors::open(path).map(Weights::Safetensors).map_err(|e| e.to_string());
    };
    let length = file.metadata().map_err(|e| e.to_string())?.len();
    let tensors = read(&file, length).map_err(again)?;
    Ok(Weights::Described(Described { file, length, tensors }))
}

impl Weights {
    /// The values of a tensor of this shape, as f32.
    pub(in crate::encode) fn take(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        let described = match self {
            Weights::Safetensors(file) => return file.take(name, shape).map_err(|e| e.to_string()),
            Weights::Described(described) => described,
        };
        let values = described.take(name, shape)?;
        match values.iter().all(|x| x.is_finite()) {
            true => Ok(values),
            false => Err(format!("tensor `{name}` holds a value that is not finite")),
        }
    }
}

impl Described {
    fn take(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        let found = self.tensors.get(name).ok_or_else(|| format!("it has no tensor `{name}`"))?;
        let tensor = found.as_ref().map_err(|why| format!("tensor `{name}` {why}"))?;
        if tensor.shape != shape {
            return Err(format!("tensor `{name}` is {:?}, expected {shape:?}", tensor.shape));
        }
        let bytes = shape.iter().try_fold(tensor.kind.bytes(), |n, side| n.checked_mul(*side as u64));
        let end = bytes.and_then(|bytes| tensor.start.checked_add(bytes));
        let (Some(bytes), true) = (bytes, end.is_some_and(|end| end <= tensor.end.min(self.length))) else {
            return Err(format!("tensor `{name}` ends behind its numbers"));
        };
        let mut numbers = vec![0u8; bytes as usize];
        self.file.read_exact_at(&mut numbers, tensor.start).map_err(|e| format!("tensor `{name}`: {e}"))?;
        tensor.kind.numbers(&numbers).ok_or_else(|| format!("tensor `{name}` is of whole numbers, expected floats"))
    }
}

type Tensors = HashMap<String, Result<Tensor, String>>;

/// A tensor as pickled.
struct Pickled {
    name: String,
    /// The key of its numbers.
    key: String,
    kind: Kind,
    offset: usize,
    shape: Vec<usize>,
    row_after_row: bool,
}

impl Pickled {
    /// Its place, if its numbers are the `count` that start at a byte.
    fn placed(&self, start: u64, count: u64) -> Result<Tensor, String> {
        if !self.row_after_row {
            return Err("is not stored row after row: save it again, made `.contiguous()`".to_owned());
        }
        let whole = |n: u64| n.checked_mul(self.kind.bytes()).and_then(|bytes| start.checked_add(bytes));
        let (Some(first), Some(end)) = (whole(self.offset as u64), whole(count)) else {
            return Err("ends behind its numbers".to_owned());
        };
        Ok(Tensor { shape: self.shape.clone(), kind: self.kind, start: first, end })
    }
}

/// The tensors of a state dict.
fn state(pickle: &Pickle) -> Result<Vec<Pickled>, String> {
    let pairs = pickle.pairs(pickle.root()).ok_or("no state_dict")?;
    Ok(pairs.iter().filter_map(|(name, value)| pickled_tensor(pickle, pickle.text(*name)?, *value)).collect())
}

/// `_rebuild_tensor((storage, torch.FloatStorage, key, ..), offset, shape, strides, ..)`, perhaps within what makes it a parameter; `None` for anything else.
fn pickled_tensor(pickle: &Pickle, name: &str, mut value: At) -> Option<Pickled> {
    // Wrapped once or twice; a pickle may also wrap a value into itself.
    for _ in 0..4 {
        let Some(Value::Call(callable, arguments)) = pickle.get(value) else { return None };
        let (mut callable, mut arguments) = (*callable, pickle.items(*arguments)?);
        if pickle.named(callable)? == "_rebuild_from_type_v2" {
            callable = *arguments.first()?;
            arguments = pickle.items(*arguments.get(2)?)?;
        }
        match pickle.named(callable)? {
            "_rebuild_parameter" => value = *arguments.first()?,
            called if called.starts_with("_rebuild_tensor") => {
                let [storage, offset, shape, strides] = *arguments.first_chunk()?;
                let (shape, strides) = (pickle.sizes(shape)?, pickle.sizes(strides)?);
                let Some(Value::Persistent(storage)) = pickle.get(storage) else { return None };
                let [_, class, key] = *pickle.items(*storage)?.first_chunk()?;
                let product = |sides: &[usize]| sides.iter().try_fold(1usize, |n, side| n.checked_mul(*side));
                let expected: Option<Vec<usize>> = (0..shape.len()).map(|i| product(&shape[i + 1..])).collect();
                return Some(Pickled {
                    name: name.to_owned(),
                    key: pickle.text(key)?.to_owned(),
                    kind: Kind::of_storage(pickle.named(class)?)?,
                    offset: pickle.size(offset)?,
                    row_after_row: expected.is_some_and(|expected| expected == strides),
                    shape,
                });
            }
            _ => return None,
        }
    }
    None
}

/// What `torch.save` wrote before version 1.6: pickles, then the numbers of one storage after the other.
fn pickled(file: &File, _: u64) -> Result<Tensors, String> {
    let mut reader = BufReader::new(file);
    reader.seek(SeekFrom::Start(MAGIC.len() as u64)).map_err(|e| e.to_string())?;
    let (_system, state_dict) = (Pickle::read(&mut reader)?, Pickle::read(&mut reader)?);
    let keys = Pickle::read(&mut reader)?;
    let tensors = state(&state_dict)?;
    let kinds: HashMap<&str, Kind> = tensors.iter().map(|tensor| (tensor.key.as_str(), tensor.kind)).collect();
    let mut storages = HashMap::new();
    let listed = keys.items(keys.root()).ok_or("no list of storages")?;
    for key in listed.iter().filter_map(|key| keys.text(*key)) {
        let mut count = [0u8; 8];
        reader.read_exact(&mut count).map_err(|e| e.to_string())?;
        let count = u64::from_le_bytes(count);
        let start = reader.stream_position().map_err(|e| e.to_string())?;
        // What belongs to no tensor is of numbers that nobody asks for: floats, as ever.
        let bytes = count.checked_mul(kinds.get(key).map_or(4, |kind| kind.bytes()));
        let bytes = bytes.and_then(|bytes| i64::try_from(bytes).ok()).ok_or("it is too long")?;
        reader.seek_relative(bytes).map_err(|e| e.to_string())?;
        storages.insert(key, (start, count));
    }
    let place = |tensor: &Pickled| {
        let (start, count) = storages.get(tensor.key.as_str()).ok_or("has no numbers")?;
        tensor.placed(*start, *count)
    };
    Ok(tensors.iter().map(|tensor| (tensor.name.clone(), place(tensor))).collect())
}

/// What `torch.save` writes today, or `np.savez`.
fn zipped(file: &File, length: u64) -> Result<Tensors, String> {
    let files = stored::files(file, length)?;
    let packed = || "is compressed: save it again, with np.savez or torch.save".to_owned();
    let Some((name, place)) = files.iter().find(|(name, _)| name.ends_with("/data.pkl")) else {
        let arrays = files.iter().filter_map(|(name, place)| Some((name.strip_suffix(".npy")?, place)));
        return Ok(arrays
            .map(|(name, place)| (name.to_owned(), place.ok_or_else(packed).and_then(|p| array(file, p))))
            .collect());
    };
    let Place { start, bytes } = place.ok_or_else(|| format!("`{name}` {}", packed()))?;
    let mut reader = BufReader::new(file);
    reader.seek(SeekFrom::Start(start)).map_err(|e| e.to_string())?;
    let tensors = state(&Pickle::read(&mut reader.take(bytes))?)?;
    let folder = name.trim_end_matches("data.pkl");
    let place = |tensor: &Pickled| {
        let place = files.get(&format!("{folder}data/{}", tensor.key)).ok_or("has no numbers")?;
        let Place { start, bytes } = place.ok_or_else(packed)?;
        tensor.placed(start, bytes / tensor.kind.bytes())
    };
    Ok(tensors.iter().map(|tensor| (tensor.name.clone(), place(tensor))).collect())
}

/// An array of numpy: a text that is a Python dict of `descr`, `fortran_order` and `shape`, then the numbers.
fn array(file: &File, place: Place) -> Result<Tensor, String> {
    let damaged = || "is no array of numpy".to_owned();
    let read = |bytes: &mut [u8], at: u64| file.read_exact_at(bytes, place.start + at).map_err(|_| damaged());
    let mut head = [0u8; 12];
    read(&mut head, 0)?;
    // Since version 2 the text may be longer.
    let (length, start) = match head {
        [0x93, b'N', b'U', b'M', b'P', b'Y', 1, _, a, b, ..] => (usize::from(u16::from_le_bytes([a, b])), 10),
        [0x93, b'N', b'U', b'M', b'P', b'Y', 2..=3, _, a, b, c, d] => (u32::from_le_bytes([a, b, c, d]) as usize, 12),
        _ => return Err(damaged()),
    };
    let mut text = vec![0u8; if length <= MAX_HEADER { length } else { return Err(damaged()) }];
    read(&mut text, start)?;
    let text = String::from_utf8_lossy(&text);
    let value =
        |key: &str| text.split_once(&format!("'{key}':")).map(|(_, rest)| rest.trim_start()).ok_or_else(damaged);
    let kind = value("descr")?.trim_start_matches('\'').split('\'').next().unwrap_or_default();
    let kind = match kind {
        "<f2" => Kind::F16,
        "<f4" => Kind::F32,
        "<f8" => Kind::F64,
        other => return Err(format!("is of the type `{other}`, expected <f4")),
    };
    if !value("fortran_order")?.starts_with("False") {
        return Err("is stored column after column: save it again, made by np.ascontiguousarray".to_owned());
    }
    let sides = value("shape")?.strip_prefix('(').and_then(|rest| rest.split_once(')')).ok_or_else(damaged)?.0;
    let sides = sides.split(',').map(str::trim).filter(|side| !side.is_empty());
    let shape = sides.map(|side| side.parse().map_err(|_| damaged())).collect::<Result<Vec<usize>, _>>()?;
    let first = place.start + start + length as u64;
    Ok(Tensor { shape, kind, start: first, end: place.start + place.bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name)
    }

    /// `tests/reference/encoders.py` saved 0 to 5 as (2, 3), and a view into numbers that start before it.
    #[test]
    fn files_of_torch_are_read_old_and_new() {
        for name in ["saved_2017.pickle", "saved_today.pickle"] {
            let weights = open(&reference(name)).unwrap();
            assert_eq!(weights.take("conv1.weight", &[2, 3]).unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], "{name}");
            assert_eq!(weights.take("fc6.bias", &[2]).unwrap(), [8.0, 9.0], "{name}");
            assert_eq!(weights.take("fc7.bias", &[2]).unwrap_err(), "it has no tensor `fc7.bias`");
            assert_eq!(weights.take("fc6.bias", &[3]).unwrap_err(), "tensor `fc6.bias` is [2], expected [3]");
        }
    }

    #[test]
    fn a_pickle_cut_short_anywhere_is_an_error() {
        let whole = std::fs::read(reference("saved_2017.pickle")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c3d.pickle");
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let taken =
                |weights: Weights| weights.take("conv1.weight", &[2, 3]).and_then(|_| weights.take("fc6.bias", &[2]));
            // Only numbers that nobody asks for may lack.
            assert!(open(&path).and_then(taken).is_err() || length + 4 > whole.len(), "{length}");
        }
    }

    /// A zip archive of files stored as they are.
    fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
        let (mut bytes, mut list) = (Vec::new(), Vec::new());
        for (name, content) in files {
            let [at, size, long] = [bytes.len() as u32, content.len() as u32, name.len() as u32];
            bytes.extend([&b"PK\x03\x04"[..], &[0; 22], &long.to_le_bytes(), name.as_bytes(), content].concat());
            list.extend([&b"PK\x01\x02"[..], &[0; 16], &size.to_le_bytes(), &size.to_le_bytes()].concat());
            list.extend([&long.to_le_bytes()[..], &[0; 10], &at.to_le_bytes(), name.as_bytes()].concat());
        }
        let sizes = [(list.len() as u32).to_le_bytes(), (bytes.len() as u32).to_le_bytes()].concat();
        [&bytes[..], &list, b"PK\x05\x06", &[0; 8], &sizes, &[0; 2]].concat()
    }

    fn npy(shape: &str, values: &[f32]) -> Vec<u8> {
        let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
        let values: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        [b"\x93NUMPY\x01\x00", &(text.len() as u16).to_le_bytes()[..], text.as_bytes(), &values].concat()
    }

    fn opened(bytes: &[u8]) -> Result<Weights, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c3d");
        std::fs::write(&path, bytes).unwrap();
        open(&path)
    }

    fn fault(bytes: &[u8]) -> String {
        opened(bytes).and_then(|weights| weights.take("conv1.weight", &[2, 3])).unwrap_err()
    }

    #[test]
    fn a_pickle_of_tuples_without_end_is_an_error() {
        let nest = [MAGIC, b"\x80\x02}", &vec![0x85; 2_000_000], b"."].concat();
        assert!(fault(&nest).contains("a pickle that cannot be read (it has more than"), "{}", fault(&nest));
    }

    #[test]
    fn a_pickle_that_doubles_itself_is_an_error() {
        let doubled: Vec<u8> = (0..40).flat_map(|i| [b'q', i, b'h', i, 0x86]).collect();
        let bomb = [&b"\x80\x02)"[..], &doubled, b"."].concat();
        assert!(fault(&[MAGIC, &bomb, &bomb, &bomb].concat()).contains("no state_dict"));
        assert!(fault(&zip(&[("archive/data.pkl", &bomb)])).contains("no state_dict"));
    }

    #[test]
    fn shapes_are_compared_before_room_is_made() {
        for shape in ["(1099511627776, 4)", "(4611686018427387904, 4, 8)", "(2, 4)", "()"] {
            let told = fault(&zip(&[("conv1.weight.npy", &npy(shape, &[0.0; 4]))]));
            assert!(told.contains("expected [2, 3]"), "{told}");
        }
        let short = zip(&[("conv1.weight.npy", &npy("(2, 3)", &[0.0; 4]))]);
        assert!(fault(&short).contains("ends behind its numbers"), "{}", fault(&short));
        let whole = zip(&[("conv1.weight.npy", &npy("(2, 3)", &[0.5; 6]))]);
        assert_eq!(opened(&whole).unwrap().take("conv1.weight", &[2, 3]).unwrap(), [0.5; 6]);
    }

    #[test]
    fn a_tensor_rebuilt_of_nothing_is_none() {
        for name in ["_rebuild_from_type_v2", "_rebuild_tensor_v2", "_rebuild_parameter"] {
            let call = format!("ctorch\n{name}\n)Ru.");
            let few = [&b"\x80\x02}(X\x0c\x00\x00\x00conv1.weight"[..], call.as_bytes()].concat();
            assert_eq!(fault(&zip(&[("archive/data.pkl", &few)])), "it has no tensor `conv1.weight`");
        }
    }

    #[test]
    fn odd_bytes_anywhere_make_no_panic() {
        let arrays = zip(&[("conv1.weight.npy", &npy("(2, 3)", &[0.5; 6])), ("fc6.bias.npy", &npy("(2,)", &[8.0; 2]))]);
        let torch = ["saved_2017.pickle", "saved_today.pickle"].map(|name| std::fs::read(reference(name)).unwrap());
        for whole in torch.iter().chain([&arrays]) {
            for at in 0..whole.len() {
                for byte in [0x00, 0x7f, 0x85, 0xff] {
                    let mut odd = whole.clone();
                    odd[at] = byte;
                    // Whether it can still be read depends on the byte.
                    let _ = opened(&odd).and_then(|weights| weights.take("conv1.weight", &[2, 3]));
                }
            }
        }
    }
}
