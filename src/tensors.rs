//! Reading and writing our safetensors files: numbers on disk are f16 or f32, in memory f32.

use std::collections::HashMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use thiserror::Error;

/// Why a safetensors file could not be used.
#[derive(Debug, Error)]
pub(crate) enum Error {
    /// Not a safetensors file, or a damaged one.
    #[error("not a whole safetensors file ({0})")]
    Format(#[from] safetensors::SafeTensorError),
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

/// A parsed file.
pub(crate) struct File<'a> {
    tensors: SafeTensors<'a>,
    /// The string metadata of the header.
    pub(crate) metadata: HashMap<String, String>,
}

/// Parses the header and checks it against the length of `bytes`.
pub(crate) fn parse(bytes: &[u8]) -> Result<File<'_>, Error> {
    let (_, header) = SafeTensors::read_metadata(bytes)?;
    let tensors = SafeTensors::deserialize(bytes)?;
    Ok(File { tensors, metadata: header.metadata().clone().unwrap_or_default() })
}

impl File<'_> {
    /// The values of a tensor of this shape.
    pub(crate) fn take(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let view = self.tensors.tensor(name).map_err(|_| Error::Missing(name.to_owned()))?;
        let data = view.data();
        let values: Option<Vec<f32>> = match view.dtype() {
            Dtype::F16 => Some(data.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()),
            Dtype::F32 => Some(data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
            _ => None,
        };
        match values {
            Some(values) if view.shape() == shape => {
                if values.iter().all(|v| v.is_finite()) {
                    Ok(values)
                } else {
                    Err(Error::NotFinite(name.to_owned()))
                }
            }
            _ => Err(Error::Shape {
                name: name.to_owned(),
                found: format!("{:?} {:?}", view.dtype(), view.shape()),
                expected: shape.to_vec(),
            }),
        }
    }

    /// The number of tensors in the file.
    pub(crate) fn len(&self) -> usize {
        self.tensors.len()
    }
}

/// The bytes of a file with these tensors, as f16, and this metadata. The same input gives the same bytes.
pub(crate) fn write(tensors: &[(&str, &[usize], &[f32])], metadata: HashMap<String, String>) -> Vec<u8> {
    let halves: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, _, values)| values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&halves).map(|((name, shape, _), bytes)| {
        let view =
            TensorView::new(Dtype::F16, shape.to_vec(), bytes).expect("shape and values agree: callers give both");
        (*name, view)
    });
    safetensors::serialize(views, Some(metadata)).expect("tensors are whole and named once")
}
