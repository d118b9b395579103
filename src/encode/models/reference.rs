//! Networks with seeded weights, and the output of PyTorch for the same networks;
//! `tests/reference/encoders.py` makes it.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::pooled::PixelBatch;
use crate::base::seeded::Random;
use crate::base::tensors::{self, NamedTensor};

const CASES: &str = include_str!("../../../tests/reference/encoders.json");

/// Tensors whose names differ only in the number of their layer.
#[derive(serde::Deserialize)]
pub(super) struct LayerTensors {
    name: String,
    shape: Vec<usize>,
    layers: Vec<usize>,
}

/// The reference of one encoder.
#[derive(serde::Deserialize)]
pub(super) struct Case {
    tensors: Vec<LayerTensors>,
    input: Vec<usize>,
    output: Vec<Vec<f32>>,
    norm: Vec<f32>,
    pub(super) published: Vec<LayerTensors>,
}

fn uniform(name: &str, count: usize) -> Vec<f32> {
    let mut random = Random::new(0, name);
    (0..count).map(|_| random.between(-1.0, 1.0)).collect()
}

/// As `weight` of the script.
fn weight(name: &str, shape: &[usize]) -> Vec<f32> {
    let values = uniform(name, shape.iter().product());
    if shape.len() > 1 {
        let inputs: usize = shape[1..].iter().product();
        let scale = (3.0 / inputs as f64).sqrt() as f32;
        return values.iter().map(|x| x * scale).collect();
    }
    match [".weight", "lambda1", "running_var"].iter().any(|end| name.ends_with(end)) {
        true => values.iter().map(|x| 1.0 + 0.5 * x).collect(),
        false => values.iter().map(|x| 0.1 * x).collect(),
    }
}

/// Name and shape of every tensor.
pub(super) fn expand(named: &[LayerTensors]) -> Vec<(String, Vec<usize>)> {
    let expand_one = |n: &LayerTensors| match n.layers.as_slice() {
        [] => vec![(n.name.clone(), n.shape.clone())],
        layers => layers.iter().map(|i| (n.name.replace("{}", &i.to_string()), n.shape.clone())).collect(),
    };
    named.iter().flat_map(expand_one).collect()
}

impl Case {
    pub(super) fn of(encoder: &str) -> Case {
        let mut cases: HashMap<String, Case> = serde_json::from_str(CASES).unwrap();
        cases.remove(encoder).unwrap()
    }

    /// Name, shape and values of the small network's tensors.
    pub(super) fn tensors(&self) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let with_values = |(name, shape): (String, Vec<usize>)| {
            let values = weight(&name, &shape);
            (name, shape, values)
        };
        expand(&self.tensors).into_iter().map(with_values).collect()
    }

    /// A file of these tensors.
    pub(super) fn file(&self) -> (TempDir, PathBuf) {
        self.file_without("")
    }

    /// A file of these tensors without one of them.
    pub(super) fn file_without(&self, missing: &str) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let all = self.tensors();
        let kept = all.iter().filter(|(name, ..)| name != missing);
        let tensors: Vec<_> = kept.map(|(name, shape, values)| NamedTensor::new(name, shape, values)).collect();
        tensors::save(&path, &tensors, HashMap::new()).unwrap();
        (folder, path)
    }

    pub(super) fn input(&self) -> Vec<f32> {
        uniform("input", self.input.iter().product())
    }

    /// The input of an image network.
    pub(super) fn pictures(&self) -> PixelBatch {
        PixelBatch { values: self.input(), height: self.input[2], width: self.input[3] }
    }

    /// Compares the small network's output for the input with the reference.
    pub(super) fn check(&self, rows: &[Vec<f32>]) {
        assert_eq!(rows.len(), self.output.len());
        for ((row, expected), norm) in rows.iter().zip(&self.output).zip(&self.norm) {
            let found = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            assert!((found - norm).abs() < 1e-4 * norm, "norm {found}, expected {norm}");
            for (i, (a, b)) in row.iter().zip(expected).enumerate() {
                assert!((a - b).abs() < 1e-4 * norm, "number {i}: {a}, expected {b}");
            }
        }
    }
}

/// A file of the published layout, all zeros and sparse on disk.
pub(super) fn published(encoder: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    sparse(&path, &expand(&Case::of(encoder).published));
    (folder, path)
}

fn sparse(path: &Path, tensors: &[(String, Vec<usize>)]) {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let start = end;
        end += 4 * shape.iter().product::<usize>() as u64;
        header
            .insert(name.clone(), serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] }));
    }
    let header = serde_json::to_vec(&header).unwrap();
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_slice()].concat();
    std::fs::write(path, &bytes).unwrap();
    std::fs::File::options().write(true).open(path).unwrap().set_len(bytes.len() as u64 + end).unwrap();
}

/// An array in the format of numpy, of f32 numbers that its header declares as `kind`.
pub(super) fn npy(kind: &str, shape: &str, values: &[f32]) -> Vec<u8> {
    let text = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let values: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    [b"\x93NUMPY\x01\x00", &(text.len() as u16).to_le_bytes()[..], text.as_bytes(), &values].concat()
}

/// An `.npz` archive, with every other array compressed.
pub(super) fn npz(arrays: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (i, (name, array)) in arrays.iter().enumerate() {
        let method = [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated][i % 2];
        let options = zip::write::SimpleFileOptions::default().compression_method(method);
        archive.start_file(format!("{name}.npy"), options).unwrap();
        archive.write_all(array).unwrap();
    }
    archive.finish().unwrap().into_inner()
}
