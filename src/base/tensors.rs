//! Reading and writing our safetensors files: numbers on disk are f16 or f32, in memory f32.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorView};
use thiserror::Error;

use super::files;

/// Longest header that is read; the format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Why a safetensors file could not be used.
#[derive(Debug, Error)]
pub(crate) enum Error {
    /// The file could not be read.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Not a safetensors file, or a damaged one.
    #[error("not a whole safetensors file ({0})")]
    Format(String),
    /// A tensor is missing.
    #[error("it has no tensor `{0}`")]
    Missing(String),
    /// A tensor has another shape or type than it should.
    #[error("tensor `{name}` is {found}, expected {expected:?} of F16 or F32")]
    Shape {
        /// The tensor.
        name: String,
        /// Type and shape found.
        found: String,
        /// Shape expected.
        expected: Vec<usize>,
    },
    /// A tensor holds NaN or infinity.
    #[error("tensor `{0}` holds a value that is not finite")]
    NotFinite(String),
}

/// How numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precision {
    F16,
    F32,
}

enum Source<'a> {
    Bytes(&'a [u8]),
    Disk(std::fs::File),
}

/// A file whose header has been read and checked against its length.
pub(crate) struct File<'a> {
    source: Source<'a>,
    header: Metadata,
    data_start: u64,
    data_bytes: u64,
    /// The string metadata of the header.
    pub(crate) metadata: HashMap<String, String>,
}

/// Parses the header and checks it against the length of `bytes`.
pub(crate) fn parse(bytes: &[u8]) -> Result<File<'_>, Error> {
    let (length, header) = SafeTensors::read_metadata(bytes).map_err(|e| Error::Format(e.to_string()))?;
    Ok(File::new(Source::Bytes(bytes), header, length as u64 + 8, bytes.len() as u64))
}

/// Reads the header of a file on disk; tensors are read when they are asked for, so that a large file costs no memory.
pub(crate) fn open(path: &Path) -> Result<File<'static>, Error> {
    let mut file = std::fs::File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut length = [0u8; 8];
    if bytes < 8 {
        return Err(Error::Format(format!("{bytes} bytes are too few for a header")));
    }
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES || length > bytes - 8 {
        return Err(Error::Format(format!("a header of {length} bytes in a file of {bytes}")));
    }
    let mut header = vec![0u8; usize::try_from(length).map_err(|e| Error::Format(e.to_string()))?];
    file.read_exact(&mut header)?;
    let header: Metadata = serde_json::from_slice(&header).map_err(|e| Error::Format(e.to_string()))?;
    let file = File::new(Source::Disk(file), header, length + 8, bytes);
    if file.header.data_len() as u64 != file.data_bytes {
        return Err(Error::Format(format!(
            "its header tells of {} bytes of numbers, there are {}",
            file.header.data_len(),
            file.data_bytes
        )));
    }
    Ok(file)
}

impl<'a> File<'a> {
    fn new(source: Source<'a>, header: Metadata, data_start: u64, bytes: u64) -> File<'a> {
        let metadata = header.metadata().clone().unwrap_or_default();
        File { source, header, data_start, data_bytes: bytes.saturating_sub(data_start), metadata }
    }

    /// Reads the values of a tensor of this shape into `out`, and tells how they were stored.
    pub(crate) fn read(&self, name: &str, shape: &[usize], out: &mut [f32]) -> Result<Precision, Error> {
        let (precision, start, end) = self.check(name, shape)?;
        match precision {
            Precision::F16 => {
                let bytes = self.bytes(start, end)?;
                for (value, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *value = half::f16::from_le_bytes([b[0], b[1]]).to_f32();
                }
            }
            Precision::F32 => {
                let raw: &mut [u8] = bytemuck::cast_slice_mut(out);
                match &self.source {
                    Source::Bytes(_) => raw.copy_from_slice(&self.bytes(start, end)?),
                    Source::Disk(file) => files::read_exact_at(file, raw, self.data_start + start as u64)?,
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

    /// The values of a tensor of this shape, and how they were stored.
    pub(crate) fn take_as(&self, name: &str, shape: &[usize]) -> Result<(Vec<f32>, Precision), Error> {
        // The header is checked before room is made for what it promises.
        self.check(name, shape)?;
        let mut values = vec![0f32; shape.iter().product()];
        let precision = self.read(name, shape, &mut values)?;
        Ok((values, precision))
    }

    /// Whether the header tells of a tensor of this name and shape, and where its bytes lie.
    pub(crate) fn check(&self, name: &str, shape: &[usize]) -> Result<(Precision, usize, usize), Error> {
        let info = self.header.info(name).ok_or_else(|| Error::Missing(name.to_owned()))?;
        let (precision, size) = match info.dtype {
            Dtype::F16 if info.shape == shape => (Precision::F16, 2),
            Dtype::F32 if info.shape == shape => (Precision::F32, 4),
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
            return Err(Error::Format(format!("tensor `{name}` lies at {start}..{end} of {}", self.data_bytes)));
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
            Source::Bytes(bytes) => {
                let from = usize::try_from(from).map_err(|e| Error::Format(e.to_string()))?;
                let found = bytes.get(from..from + (end - start));
                found.map(Cow::Borrowed).ok_or_else(|| Error::Format("it ends too early".to_owned()))
            }
            Source::Disk(file) => {
                let mut bytes = vec![0u8; end - start];
                files::read_exact_at(file, &mut bytes, from)?;
                Ok(Cow::Owned(bytes))
            }
        }
    }
}

/// The bytes of a file with these tensors and this metadata. The same input gives the same bytes.
pub(crate) fn write(
    tensors: &[(&str, &[usize], &[f32])],
    precision: Precision,
    metadata: HashMap<String, String>,
) -> Vec<u8> {
    let numbers: Vec<Cow<'_, [u8]>> = tensors
        .iter()
        .map(|(_, _, values)| match precision {
            Precision::F16 => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
            Precision::F32 => little_endian(values),
        })
        .collect();
    let dtype = if precision == Precision::F16 { Dtype::F16 } else { Dtype::F32 };
    let views = tensors.iter().zip(&numbers).map(|((name, shape, _), bytes)| {
        let view = TensorView::new(dtype, shape.to_vec(), bytes).expect("shape and values agree: callers give both");
        (*name, view)
    });
    safetensors::serialize(views, Some(metadata)).expect("tensors are whole and named once")
}

/// Writes tensors as f32 to a file, one after the other from where they lie: it is either the old file or the whole new one.
pub(crate) fn save(
    path: &Path,
    tensors: &[(String, Vec<usize>, &[f32])],
    metadata: HashMap<String, String>,
) -> Result<(), Error> {
    // What could not be read back must not take the place of what can.
    if let Some((name, _, _)) = tensors.iter().find(|(_, _, values)| values.iter().any(|v| !v.is_finite())) {
        return Err(Error::NotFinite(name.clone()));
    }
    let numbers: Vec<Cow<'_, [u8]>> = tensors.iter().map(|(_, _, values)| little_endian(values)).collect();
    let views = tensors.iter().zip(&numbers).map(|((name, shape, _), bytes)| {
        let view =
            TensorView::new(Dtype::F32, shape.clone(), bytes).expect("shape and values agree: callers give both");
        (name.as_str(), view)
    });
    files::replace(path, |part| {
        // safetensors makes a file that only its owner may read: give it the rights of any file that one makes here.
        let usual = std::fs::File::create(part)?.metadata()?.permissions();
        safetensors::serialize_to_file(views, Some(metadata), part).map_err(|e| match e {
            safetensors::SafeTensorError::IoError(error) => error,
            other => std::io::Error::other(other.to_string()),
        })?;
        std::fs::set_permissions(part, usual)
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
