//! Reads and writes safetensors files. Numbers are f16 or f32 on disk and f32 in memory.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorView};
use thiserror::Error;

use super::files;

/// Longest header that is read, in bytes: the limit of the format.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Why a safetensors file could not be used.
#[derive(Debug, Error)]
pub(crate) enum Error {
    /// The file could not be read.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The file is not a safetensors file, or it is damaged.
    #[error("not a complete safetensors file ({0})")]
    Format(String),
    /// A tensor is missing.
    #[error("no tensor `{0}`")]
    Missing(String),
    /// A tensor has an unexpected shape or type.
    #[error("tensor `{name}` is {found}, expected {expected:?} of F16 or F32")]
    Shape {
        /// Name of the tensor.
        name: String,
        /// Type and shape in the file.
        found: String,
        /// The expected shape.
        expected: Vec<usize>,
    },
    /// A tensor holds NaN or infinity.
    #[error("tensor `{0}` holds a value that is not finite")]
    NotFinite(String),
}

/// Number format of the values in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoredPrecision {
    F16,
    F32,
}

/// The bytes behind a [`TensorFile`].
enum TensorBytes<'a> {
    Memory(&'a [u8]),
    Disk(std::fs::File),
}

/// A file whose header is read and agrees with the length of the file.
pub(crate) struct TensorFile<'a> {
    source: TensorBytes<'a>,
    header: Metadata,
    data_start: u64,
    data_bytes: u64,
    /// The string metadata of the header.
    pub(crate) metadata: HashMap<String, String>,
}

/// Opens a file in memory: parses its header and compares it with the length of `bytes`.
pub(crate) fn parse(bytes: &[u8]) -> Result<TensorFile<'_>, Error> {
    let (length, header) = SafeTensors::read_metadata(bytes).map_err(|e| Error::Format(e.to_string()))?;
    Ok(TensorFile::new(TensorBytes::Memory(bytes), header, length as u64 + 8, bytes.len() as u64))
}

/// Opens a file on disk: reads its header only. Tensors are read on request, so that a large file needs
/// little memory.
pub(crate) fn open(path: &Path) -> Result<TensorFile<'static>, Error> {
    let mut file = files::open(path)?;
    let bytes = file.metadata()?.len();
    let mut length = [0u8; 8];
    if bytes < 8 {
        return Err(Error::Format(format!("found {bytes} bytes, expected at least the 8 of the header length")));
    }
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES || length > bytes - 8 {
        return Err(Error::Format(format!("found a header length of {length} bytes in a file of {bytes} bytes")));
    }
    let mut header = vec![0u8; usize::try_from(length).map_err(|e| Error::Format(e.to_string()))?];
    file.read_exact(&mut header)?;
    let header: Metadata = serde_json::from_slice(&header).map_err(|e| Error::Format(e.to_string()))?;
    let file = TensorFile::new(TensorBytes::Disk(file), header, length + 8, bytes);
    if file.header.data_len() as u64 != file.data_bytes {
        return Err(Error::Format(format!(
            "expected {} bytes of tensors according to the header, found {}",
            file.header.data_len(),
            file.data_bytes
        )));
    }
    Ok(file)
}

impl<'a> TensorFile<'a> {
    fn new(source: TensorBytes<'a>, header: Metadata, data_start: u64, bytes: u64) -> TensorFile<'a> {
        let metadata = header.metadata().clone().unwrap_or_default();
        TensorFile { source, header, data_start, data_bytes: bytes.saturating_sub(data_start), metadata }
    }

    /// Reads the values of a tensor of this shape into `out`. Returns their stored precision.
    pub(crate) fn read(&self, name: &str, shape: &[usize], out: &mut [f32]) -> Result<StoredPrecision, Error> {
        let (precision, start, end) = self.check(name, shape)?;
        match precision {
            StoredPrecision::F16 => {
                let bytes = self.bytes(start, end)?;
                for (value, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *value = half::f16::from_le_bytes([b[0], b[1]]).to_f32();
                }
            }
            StoredPrecision::F32 => {
                let raw: &mut [u8] = bytemuck::cast_slice_mut(out);
                match &self.source {
                    TensorBytes::Memory(_) => raw.copy_from_slice(&self.bytes(start, end)?),
                    TensorBytes::Disk(file) => files::read_exact_at(file, raw, self.data_start + start as u64)?,
                }
                for value in out.iter_mut() {
                    *value = f32::from_bits(u32::from_le(value.to_bits()));
                }
            }
        }
        if out.iter().all(|v| v.is_finite()) { Ok(precision) } else { Err(Error::NotFinite(name.to_owned())) }
    }

    /// The values of a tensor of this shape.
    pub(crate) fn take(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        self.take_as(name, shape).map(|(values, _)| values)
    }

    /// The values of a tensor of this shape, and their stored precision.
    pub(crate) fn take_as(&self, name: &str, shape: &[usize]) -> Result<(Vec<f32>, StoredPrecision), Error> {
        // The header is checked before memory is allocated for the size that it claims.
        self.check(name, shape)?;
        let mut values = vec![0f32; shape.iter().product()];
        let precision = self.read(name, shape, &mut values)?;
        Ok((values, precision))
    }

    /// Checks that the file has a tensor of this name and shape. Returns its precision and its byte range in
    /// the data.
    pub(crate) fn check(&self, name: &str, shape: &[usize]) -> Result<(StoredPrecision, usize, usize), Error> {
        let info = self.header.info(name).ok_or_else(|| Error::Missing(name.to_owned()))?;
        let (precision, size) = match info.dtype {
            Dtype::F16 if info.shape == shape => (StoredPrecision::F16, 2),
            Dtype::F32 if info.shape == shape => (StoredPrecision::F32, 4),
            _ => {
                return Err(Error::Shape {
                    name: name.to_owned(),
                    found: format!("{:?} {:?}", info.dtype, info.shape),
                    expected: shape.to_vec(),
                });
            }
        };
        let (start, end) = info.data_offsets;
        let bytes = shape.iter().try_fold(size, |product: usize, n| product.checked_mul(*n));
        if end as u64 > self.data_bytes || end.checked_sub(start) != bytes {
            return Err(Error::Format(format!("tensor `{name}` is at {start}..{end} of {} bytes", self.data_bytes)));
        }
        Ok((precision, start, end))
    }

    /// The shape of a tensor.
    pub(crate) fn shape(&self, name: &str) -> Result<Vec<usize>, Error> {
        let info = self.header.info(name).ok_or_else(|| Error::Missing(name.to_owned()))?;
        Ok(info.shape.clone())
    }

    /// The names of the tensors.
    pub(crate) fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    fn bytes(&self, start: usize, end: usize) -> Result<Cow<'_, [u8]>, Error> {
        let from = self.data_start + start as u64;
        match &self.source {
            TensorBytes::Memory(bytes) => {
                let from = usize::try_from(from).map_err(|e| Error::Format(e.to_string()))?;
                let found = bytes.get(from..from + (end - start));
                found.map(Cow::Borrowed).ok_or_else(|| Error::Format("the file ends before its last tensor".to_owned()))
            }
            TensorBytes::Disk(file) => {
                let mut bytes = vec![0u8; end - start];
                files::read_exact_at(file, &mut bytes, from)?;
                Ok(Cow::Owned(bytes))
            }
        }
    }
}

/// A tensor to write.
#[derive(Debug, Clone)]
pub(crate) struct NamedTensor<'a> {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: &'a [f32],
}

impl<'a> NamedTensor<'a> {
    pub(crate) fn new(name: impl Into<String>, shape: &[usize], values: &'a [f32]) -> NamedTensor<'a> {
        NamedTensor { name: name.into(), shape: shape.to_vec(), values }
    }

    /// The tensor in the form that `safetensors` writes.
    fn view<'b>(&'b self, dtype: Dtype, bytes: &'b [u8]) -> (&'b str, TensorView<'b>) {
        let view = TensorView::new(dtype, self.shape.clone(), bytes);
        (&self.name, view.expect("every caller passes values that fit the shape"))
    }
}

/// Encodes tensors and metadata. Equal input gives equal bytes.
pub(crate) fn write(
    tensors: &[NamedTensor<'_>],
    precision: StoredPrecision,
    metadata: HashMap<String, String>,
) -> Vec<u8> {
    let half = |values: &[f32]| values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
    let numbers: Vec<Cow<'_, [u8]>> = tensors
        .iter()
        .map(|tensor| match precision {
            StoredPrecision::F16 => half(tensor.values),
            StoredPrecision::F32 => little_endian(tensor.values),
        })
        .collect();
    let dtype = if precision == StoredPrecision::F16 { Dtype::F16 } else { Dtype::F32 };
    let views = tensors.iter().zip(&numbers).map(|(tensor, bytes)| tensor.view(dtype, bytes));
    safetensors::serialize(views, Some(metadata)).expect("every caller passes unique names")
}

/// Writes tensors as f32 to a file without copying them. The file is replaced atomically.
pub(crate) fn save(path: &Path, tensors: &[NamedTensor<'_>], metadata: HashMap<String, String>) -> Result<(), Error> {
    // A file that cannot be read back must not replace one that can.
    if let Some(tensor) = tensors.iter().find(|tensor| tensor.values.iter().any(|v| !v.is_finite())) {
        return Err(Error::NotFinite(tensor.name.clone()));
    }
    let numbers: Vec<Cow<'_, [u8]>> = tensors.iter().map(|tensor| little_endian(tensor.values)).collect();
    let views = tensors.iter().zip(&numbers).map(|(tensor, bytes)| tensor.view(Dtype::F32, bytes));
    files::replace(path, |part| {
        // safetensors creates a file that only its owner may read. Give it the permissions of an ordinary new
        // file.
        let permissions = std::fs::File::create(part)?.metadata()?.permissions();
        safetensors::serialize_to_file(views, Some(metadata), part).map_err(|e| match e {
            safetensors::SafeTensorError::IoError(error) => error,
            other => std::io::Error::other(other.to_string()),
        })?;
        std::fs::set_permissions(part, permissions)
    })?;
    Ok(())
}

fn little_endian(values: &[f32]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        Cow::Borrowed(bytemuck::cast_slice(values))
    } else {
        Cow::Owned(values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example(precision: StoredPrecision) -> Vec<u8> {
        let metadata = HashMap::from([("format".to_owned(), "1".to_owned())]);
        let (a, b) = (NamedTensor::new("a", &[2, 2], &[1.0, -2.0, 0.5, 4.0]), NamedTensor::new("b", &[1], &[8.0]));
        write(&[a, b], precision, metadata)
    }

    fn message(outcome: Result<TensorFile<'_>, Error>) -> String {
        outcome.err().expect("the file is refused").to_string()
    }

    #[test]
    fn reads_what_was_written_from_memory_and_from_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        for precision in [StoredPrecision::F16, StoredPrecision::F32] {
            let bytes = example(precision);
            std::fs::write(&path, &bytes).unwrap();
            for file in [parse(&bytes).unwrap(), open(&path).unwrap()] {
                assert_eq!(file.take_as("a", &[2, 2]).unwrap(), (vec![1.0, -2.0, 0.5, 4.0], precision));
                assert_eq!(file.shape("b").unwrap(), [1]);
                assert_eq!(file.metadata["format"], "1");
            }
        }
        save(&path, &[NamedTensor::new("c", &[2], &[3.0, 7.0])], HashMap::new()).unwrap();
        assert_eq!(open(&path).unwrap().take("c", &[2]).unwrap(), [3.0, 7.0]);
    }

    #[test]
    fn rejects_a_missing_tensor_a_wrong_shape_and_a_value_that_is_not_finite() {
        let bytes = example(StoredPrecision::F32);
        let file = parse(&bytes).unwrap();
        assert!(matches!(file.take("x", &[1]), Err(Error::Missing(name)) if name == "x"));
        assert!(matches!(file.take("a", &[4]), Err(Error::Shape { expected, .. }) if expected == [4]));
        let not_finite = [NamedTensor::new("a", &[1], &[f32::NAN])];
        let bytes = write(&not_finite, StoredPrecision::F32, HashMap::new());
        assert!(matches!(parse(&bytes).unwrap().take("a", &[1]), Err(Error::NotFinite(_))));
        let unsaved = tempfile::tempdir().unwrap().path().join("a");
        assert!(matches!(save(&unsaved, &not_finite, HashMap::new()), Err(Error::NotFinite(_))));
    }

    #[test]
    fn rejects_a_truncated_file_and_a_header_beyond_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let bytes = example(StoredPrecision::F32);
        for length in [0, 7, 20, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert!(open(&path).is_err() && parse(&bytes[..length]).is_err(), "{length}");
        }
        let mut long = bytes;
        long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        std::fs::write(&path, &long).unwrap();
        assert!(message(open(&path)).contains("header length"));
    }

    proptest! {
        #[test]
        fn a_damaged_file_is_an_error_or_has_tensors_of_the_requested_shape(at in 0usize..400, value: u8) {
            let mut bytes = example(StoredPrecision::F32);
            let at = at % bytes.len();
            bytes[at] = value;
            if let Ok(file) = parse(&bytes) {
                for name in file.names() {
                    let shape = file.shape(&name).unwrap();
                    if let Ok(values) = file.take(&name, &shape) {
                        prop_assert_eq!(values.len(), shape.iter().product::<usize>());
                    }
                }
            }
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
