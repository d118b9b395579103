//! Tensors of a weights file: safetensors, or an `.npz` archive of numpy. Opening reads the table of
//! contents; a tensor is read when a network requests it, and its shape is compared before memory is
//! allocated for it.

use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use candle_core::{Device, Tensor};
use candle_nn::LayerNorm;
use npyz::Order;
use zip::ZipArchive;

use super::conv::Pointwise;
use crate::base::{files, npy, tensors};

/// Largest header of an array in an `.npz` archive.
const MAX_HEADER_BYTES: u64 = 1 << 16;

/// An open weights file.
pub(super) enum WeightsFile {
    Safetensors(tensors::TensorFile<'static>),
    Npz(RefCell<ZipArchive<File>>),
}

impl WeightsFile {
    /// Opens a file of either format; its first bytes decide which.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(super) fn open(path: &Path) -> Result<WeightsFile, String> {
        let mut magic = [0u8; 2];
        let is_zip = files::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"PK";
        if !is_zip {
            return tensors::open(path).map(WeightsFile::Safetensors).map_err(|e| e.to_string());
        }
        let archive = ZipArchive::new(files::open(path).map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
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

    /// The batch normalisation `NAME` as `y = s x + t`: `s = γ / √(σ² + ε)`, `t = β - μ s`.
    pub(super) fn batch_norm(&self, name: &str, channels: usize, epsilon: f32) -> Result<ChannelMap, String> {
        let part = |part: &str| self.take(&format!("{name}.{part}"), &[channels]);
        let (gain, shift, mean, variance) =
            (part("weight")?, part("bias")?, part("running_mean")?, part("running_var")?);
        let scale: Vec<f32> = gain.iter().zip(&variance).map(|(g, v)| g / (v + epsilon).sqrt()).collect();
        let shift = shift.iter().zip(&mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
        Ok(ChannelMap { scale, shift })
    }
}

/// The map `y = s x + t` of each channel.
pub(super) struct ChannelMap {
    /// s.
    pub(super) scale: Vec<f32>,
    /// t.
    pub(super) shift: Vec<f32>,
}

/// Scales each output of a weight (outputs, ...), row after row.
pub(super) fn scale_outputs(weight: &mut [f32], factors: &[f32]) {
    let each = weight.len() / factors.len();
    for (weight, factor) in weight.chunks_exact_mut(each).zip(factors) {
        weight.iter_mut().for_each(|w| *w *= factor);
    }
}

/// A linear layer from a weight (outputs, inputs), row after row, and a bias (outputs).
pub(super) fn pointwise(weight: Vec<f32>, bias: Vec<f32>) -> Result<Pointwise, String> {
    Pointwise::new(weight, bias).map_err(|e| e.to_string())
}

fn array(archive: &mut ZipArchive<File>, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
    let fault = |found: String| format!("tensor `{name}`: {found}");
    let entry = archive.by_name(&format!("{name}.npy")).map_err(|error| match error {
        zip::result::ZipError::FileNotFound => format!("no tensor `{name}`"),
        other => fault(other.to_string()),
    })?;
    let bytes = shape.iter().try_fold(8u64, |product, side| product.checked_mul(*side as u64));
    // A compressed entry can be much longer than the archive: no more is decompressed than the tensor needs.
    let limit =
        bytes.and_then(|bytes| bytes.checked_add(MAX_HEADER_BYTES)).ok_or_else(|| fault("too large".to_owned()))?;
    let file = npy::open(entry.take(limit)).map_err(|e| fault(e.to_string()))?;
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

#[cfg(test)]
mod tests {
    use super::super::reference::{npy, npz};
    use super::*;

    /// Reads a (2, 3) tensor from a file with these bytes.
    fn take(bytes: &[u8]) -> Result<Vec<f32>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, bytes).unwrap();
        WeightsFile::open(&path)?.take("conv1.weight", &[2, 3])
    }

    fn one_array(kind: &str, shape: &str, values: &[f32]) -> Vec<u8> {
        npz(&[("conv1.weight".to_owned(), npy(kind, shape, values))])
    }

    #[test]
    fn compares_shape_and_type_before_it_allocates() {
        for shape in ["(1099511627776, 4)", "(2, 4)", "()"] {
            let error = take(&one_array("<f4", shape, &[0.0; 4])).unwrap_err();
            assert!(error.contains("expected [2, 3]"), "{error}");
        }
        let error = take(&one_array("<f4", "(4611686018427387904, 4, 8)", &[0.0; 4])).unwrap_err();
        assert!(error.contains("more than 2^64 values"), "{error}");
        let error = take(&one_array("<i4", "(2, 3)", &[0.0; 6])).unwrap_err();
        assert!(error.contains("numbers of type <i4, expected"), "{error}");
    }

    #[test]
    fn rejects_a_short_array_and_values_that_are_not_finite() {
        assert!(take(&one_array("<f4", "(2, 3)", &[0.0; 4])).is_err());
        assert!(take(&one_array("<f4", "(2, 3)", &[f32::NAN; 6])).unwrap_err().contains("not finite"));
        assert_eq!(take(&one_array("<f4", "(2, 3)", &[0.5; 6])).unwrap(), [0.5; 6]);
        assert_eq!(take(&npz(&[])).unwrap_err(), "no tensor `conv1.weight`");
    }

    #[test]
    fn a_damaged_archive_does_not_panic() {
        let whole = one_array("<f4", "(2, 3)", &[0.5; 6]);
        for at in 0..whole.len() {
            let _ = take(&whole[..at]);
            for byte in [0x00, 0x7f, 0x85, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = byte;
                // Whether it can still be read depends on the byte.
                let _ = take(&damaged);
            }
        }
    }

    /// `tests/reference/encoders.py` saved 0 to 5 as (2, 3), and a view of a storage that starts before it.
    #[test]
    fn the_conversion_script_reads_pickles_of_every_version() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = std::env::var_os("REELSEEK_PYTHON").unwrap_or_else(|| "python3".into());
        let has_numpy = std::process::Command::new(&python).args(["-c", "import numpy"]).output();
        if !has_numpy.is_ok_and(|output| output.status.success()) {
            return crate::base::skip::skip("python3 has no numpy");
        }
        let folder = tempfile::tempdir().unwrap();
        let npz = folder.path().join("c3d.npz");
        for name in ["saved_2017.pickle", "saved_today.pickle"] {
            let mut convert = std::process::Command::new(&python);
            convert.arg(root.join("tools/convert_c3d.py")).arg(root.join("tests/reference").join(name)).arg(&npz);
            assert!(convert.status().unwrap().success(), "{name}");
            let weights = WeightsFile::open(&npz).unwrap();
            assert_eq!(weights.take("conv1.weight", &[2, 3]).unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], "{name}");
            assert_eq!(weights.take("fc6.bias", &[2]).unwrap(), [8.0, 9.0], "{name}");
        }
    }
}
