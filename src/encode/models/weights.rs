//! Tensors of a weights file: safetensors, or an `.npz` archive of numpy. Opening reads the table of contents; a tensor is
//! read when a network requests it, and its shape is compared before memory is allocated for it.

use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use candle_core::{Device, Tensor};
use candle_nn::LayerNorm;
use npyz::{NpyFile, Order};
use zip::ZipArchive;

use super::conv::Pointwise;
use crate::base::tensors;

/// Largest header of an array in an `.npz` archive.
const MAX_HEADER_BYTES: u64 = 1 << 16;

/// An open weights file.
pub(super) enum WeightsFile {
    Safetensors(tensors::File<'static>),
    Npz(RefCell<ZipArchive<File>>),
}

impl WeightsFile {
    /// Opens a file of either format; its first bytes decide which.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(super) fn open(path: &Path) -> Result<WeightsFile, String> {
        let mut magic = [0u8; 2];
        let is_zip = File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"PK";
        if !is_zip {
            return tensors::open(path).map(WeightsFile::Safetensors).map_err(|e| e.to_string());
        }
        let archive = ZipArchive::new(File::open(path).map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        Ok(WeightsFile::Npz(RefCell::new(archive)))
    }

    /// Whether the file has a tensor whose name matches.
    pub(super) fn has(&self, matches: impl Fn(&str) -> bool) -> bool {
        match self {
            WeightsFile::Safetensors(file) => file.names().iter().any(|name| matches(name)),
            WeightsFile::Npz(archive) => archive.borrow().file_names().flatten().any(|name| matches(&name)),
        }
    }

    /// The values of a tensor of this shape, row after row.
    ///
    /// # Errors
    /// The tensor is missing, has another shape or type, is cut short, or holds NaN or infinity.
    pub(super) fn take(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        let values = match self {
            WeightsFile::Safetensors(file) => return file.take(name, shape).map_err(|e| e.to_string()),
            WeightsFile::Npz(archive) => array(&mut archive.borrow_mut(), name, shape)?,
        };
        match values.iter().all(|x| x.is_finite()) {
            true => Ok(values),
            false => Err(format!("tensor `{name}` holds a value that is not finite")),
        }
    }

    /// `NAME.weight` (outputs, inputs) and `NAME.bias` (outputs) as one linear layer.
    pub(super) fn linear(&self, name: &str, outputs: usize, inputs: usize) -> Result<Pointwise, String> {
        let weight = self.take(&format!("{name}.weight"), &[outputs, inputs])?;
        pointwise(weight, self.take(&format!("{name}.bias"), &[outputs])?)
    }

    /// `NAME.weight` and `NAME.bias` of a layer normalisation.
    pub(super) fn layer_norm(&self, name: &str, channels: usize, epsilon: f64) -> Result<LayerNorm, String> {
        let tensor = |part: &str| {
            let values = self.take(&format!("{name}.{part}"), &[channels])?;
            Tensor::from_vec(values, channels, &Device::Cpu).map_err(|e| e.to_string())
        };
        Ok(LayerNorm::new(tensor("weight")?, tensor("bias")?, epsilon))
    }
}

/// A linear layer from a weight (outputs, inputs), row after row, and a bias (outputs).
pub(super) fn pointwise(weight: Vec<f32>, bias: Vec<f32>) -> Result<Pointwise, String> {
    Pointwise::new(weight, bias).map_err(|e| e.to_string())
}

fn array(archive: &mut ZipArchive<File>, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
    let fault = |found: String| format!("tensor `{name}`: {found}");
    let entry = archive.by_name(&format!("{name}.npy")).map_err(|error| match error {
        zip::result::ZipError::FileNotFound => format!("it has no tensor `{name}`"),
        other => fault(other.to_string()),
    })?;
    let bytes = shape.iter().try_fold(8u64, |product, side| product.checked_mul(*side as u64));
    // A compressed entry can be much longer than the archive: no more is decompressed than the tensor needs.
    let limit = bytes.and_then(|bytes| bytes.checked_add(MAX_HEADER_BYTES)).ok_or_else(|| fault("too large".to_owned()))?;
    let file = NpyFile::new(entry.take(limit)).map_err(|e| fault(e.to_string()))?;
    if !shape.iter().map(|side| *side as u64).eq(file.shape().iter().copied()) {
        return Err(format!("tensor `{name}` is {:?}, expected {shape:?}", file.shape()));
    }
    if file.order() != Order::C {
        return Err(fault("in Fortran order, expected C order".to_owned()));
    }
    let kind = file.dtype().descr();
    let error = |e: std::io::Error| fault(e.to_string());
    Ok(match kind.trim_matches('\'') {
        "<f2" => file.into_vec::<half::f16>().map_err(error)?.into_iter().map(half::f16::to_f32).collect(),
        "<f4" => file.into_vec::<f32>().map_err(error)?,
        "<f8" => file.into_vec::<f64>().map_err(error)?.into_iter().map(|x| x as f32).collect(),
        other => return Err(fault(format!("numbers of type {other}, expected <f2, <f4 or <f8"))),
    })
}
