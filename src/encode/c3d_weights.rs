//! Weights as people have them for C3D: safetensors, npz, or what `torch.save` wrote, of today or of 2017.

use std::collections::HashMap;
use std::io::{BufReader, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;

use candle_core::Tensor;
use candle_core::npy::NpzTensors;
use candle_core::pickle::{Object, PthTensors, Stack};

use crate::tensors::{self, File};

/// The tensors of a file, read as they are asked for.
pub(super) enum Weights {
    Safetensors(File<'static>),
    Npz(NpzTensors),
    Zip(PthTensors),
    Pickle(Pickle),
}

/// What `torch.save` wrote before version 1.6: pickles, then the numbers.
pub(super) struct Pickle {
    file: std::fs::File,
    /// Shape, and where the numbers start in the file.
    tensors: HashMap<String, (Vec<usize>, u64)>,
}

/// The pickles of the magic number 0x1950a86a20f9469cfc6c and of protocol 1001.
const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";

/// Opens a file of any of the kinds; its content tells which. What is wrong with it is told in words.
pub(super) fn open(path: &Path) -> Result<Weights, String> {
    let mut start = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    (&file).take(MAGIC.len() as u64).read_to_end(&mut start).map_err(|e| e.to_string())?;
    if start == MAGIC {
        let again = |e| format!("a pickle that cannot be read ({e}): save its tensors again, as safetensors or npz");
        return Pickle::read(file).map(Weights::Pickle).map_err(again);
    }
    if start.starts_with(b"PK") {
        let zip = PthTensors::new(path, None).map_err(|e| e.to_string())?;
        if !zip.tensor_infos().is_empty() {
            return Ok(Weights::Zip(zip));
        }
        return NpzTensors::new(path).map(Weights::Npz).map_err(|e| e.to_string());
    }
    tensors::open(path).map(Weights::Safetensors).map_err(|e| e.to_string())
}

impl Weights {
    /// The values of a tensor of this shape, as f32.
    pub(super) fn take(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        let values = match self {
            Weights::Safetensors(file) => return file.take(name, shape).map_err(|e| e.to_string()),
            Weights::Npz(npz) => checked(npz.get(name), name, shape)?,
            Weights::Zip(zip) => checked(zip.get(name), name, shape)?,
            Weights::Pickle(pickle) => pickle.take(name, shape)?,
        };
        match values.iter().all(|x| x.is_finite()) {
            true => Ok(values),
            false => Err(format!("tensor `{name}` holds a value that is not finite")),
        }
    }
}

fn checked(found: candle_core::Result<Option<Tensor>>, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
    let tensor = found.map_err(|e| e.to_string())?.ok_or_else(|| format!("it has no tensor `{name}`"))?;
    if tensor.dims() != shape {
        return Err(format!("tensor `{name}` is {:?}, expected {shape:?}", tensor.dims()));
    }
    let values = || tensor.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1();
    values().map_err(|e| e.to_string())
}

/// A tensor as pickled: name, key of its numbers, offset among them, shape.
type Described = (String, String, usize, Vec<usize>);

/// `torch._utils._rebuild_tensor((storage, torch.FloatStorage, key, ..), offset, shape, strides, ..)`; `None` for anything else.
fn described(name: Object, value: Object) -> Option<Described> {
    let (callable, args) = value.reduce().ok()?;
    let (_, class) = callable.class().ok()?;
    let mut args = args.tuple().ok().filter(|args| args.len() >= 4 && class.starts_with("_rebuild_tensor"))?;
    let sizes = |object: Object| Vec::<usize>::try_from(object).ok();
    let (strides, shape) = (sizes(args.remove(3))?, sizes(args.remove(2))?);
    let offset = usize::try_from(args.remove(1)).ok()?;
    let mut storage = args.remove(0).persistent_load().ok()?.tuple().ok().filter(|s| s.len() >= 5)?;
    let key = storage.remove(2).unicode().ok()?;
    let (_, kind) = storage.remove(1).class().ok()?;
    let row_after_row: Vec<usize> = (0..shape.len()).map(|i| shape[i + 1..].iter().product()).collect();
    (kind == "FloatStorage" && strides == row_after_row).then_some((name.unicode().ok()?, key, offset, shape))
}

impl Pickle {
    /// A file whose magic has been read.
    fn read(file: std::fs::File) -> Result<Pickle, String> {
        let mut reader = BufReader::new(file);
        let mut next = || -> candle_core::Result<Object> {
            let mut stack = Stack::empty();
            stack.read_loop(&mut reader)?;
            stack.finalize()
        };
        let mut three = || Ok([next()?, next()?, next()?]);
        let [_system, state, keys] = three().map_err(|e: candle_core::Error| e.to_string())?;
        let (Object::Dict(state), Object::List(keys)) = (state, keys) else { return Err("no state_dict".to_owned()) };
        let described: Vec<Described> = state.into_iter().filter_map(|(name, value)| described(name, value)).collect();
        // Where each storage's numbers start, and how many there are.
        let mut storages = HashMap::new();
        for key in keys.into_iter().filter_map(|key| key.unicode().ok()) {
            let mut count = [0u8; 8];
            reader.read_exact(&mut count).map_err(|e| e.to_string())?;
            let count = u64::from_le_bytes(count);
            let start = reader.stream_position().map_err(|e| e.to_string())?;
            let bytes = count.checked_mul(4).and_then(|bytes| i64::try_from(bytes).ok()).ok_or("it is too long")?;
            reader.seek_relative(bytes).map_err(|e| e.to_string())?;
            storages.insert(key, (start, count));
        }
        let mut tensors = HashMap::new();
        for (name, key, offset, shape) in described {
            let (start, count) = storages.get(&key).ok_or_else(|| format!("`{name}` has no numbers"))?;
            let end = shape.iter().try_fold(1usize, |n, side| n.checked_mul(*side)).and_then(|n| n.checked_add(offset));
            if end.is_none_or(|end| end as u64 > *count) {
                return Err(format!("`{name}` ends behind its numbers"));
            }
            tensors.insert(name, (shape, start + 4 * offset as u64));
        }
        Ok(Pickle { file: reader.into_inner(), tensors })
    }

    fn take(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        let (found, start) = self.tensors.get(name).ok_or_else(|| format!("it has no tensor `{name}`"))?;
        if found != shape {
            return Err(format!("tensor `{name}` is {found:?}, expected {shape:?}"));
        }
        let mut bytes = vec![0u8; 4 * shape.iter().product::<usize>()];
        self.file.read_exact_at(&mut bytes, *start).map_err(|e| format!("tensor `{name}`: {e}"))?;
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }
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
}
