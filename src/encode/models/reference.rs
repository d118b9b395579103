//! Networks with seeded weights, beside what PyTorch makes of the same: `tests/reference/encoders.py` tells how.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use tempfile::TempDir;

use crate::base::seeded::Random;
use crate::base::tensors;

const CASES: &str = include_str!("../../../tests/reference/encoders.json");

/// Tensors that differ in name by the number of their layer only.
#[derive(serde::Deserialize)]
pub(in crate::encode) struct Named {
    name: String,
    shape: Vec<usize>,
    layers: Vec<usize>,
}

/// What was computed for one encoder.
#[derive(serde::Deserialize)]
pub(in crate::encode) struct Case {
    tensors: Vec<Named>,
    input: Vec<usize>,
    output: Vec<Vec<f32>>,
    norm: Vec<f32>,
    pub(in crate::encode) published: Vec<Named>,
}

fn uniform(name: &str, count: usize) -> Vec<f32> {
    let mut random = Random::new(0, name);
    (0..count).map(|_| random.between(-1.0, 1.0)).collect()
}

/// The script's `weight`.
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

/// Every tensor by its whole name.
pub(in crate::encode) fn expand(named: &[Named]) -> Vec<(String, Vec<usize>)> {
    let each = |n: &Named| match n.layers.as_slice() {
        [] => vec![(n.name.clone(), n.shape.clone())],
        layers => layers.iter().map(|i| (n.name.replace("{}", &i.to_string()), n.shape.clone())).collect(),
    };
    named.iter().flat_map(each).collect()
}

impl Case {
    pub(in crate::encode) fn of(encoder: &str) -> Case {
        let mut cases: HashMap<String, Case> = serde_json::from_str(CASES).unwrap();
        cases.remove(encoder).unwrap()
    }

    /// The small network's tensors.
    pub(in crate::encode) fn tensors(&self) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let made = |(name, shape): (String, Vec<usize>)| {
            let values = weight(&name, &shape);
            (name, shape, values)
        };
        expand(&self.tensors).into_iter().map(made).collect()
    }

    /// They in a file.
    pub(in crate::encode) fn file(&self) -> (TempDir, PathBuf) {
        self.file_without("")
    }

    /// They but the one of this name.
    pub(in crate::encode) fn file_without(&self, missing: &str) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let made = self.tensors();
        let kept = made.iter().filter(|(name, ..)| name != missing);
        let tensors: Vec<_> =
            kept.map(|(name, shape, values)| (name.clone(), shape.clone(), values.as_slice())).collect();
        tensors::save(&path, &tensors, HashMap::new()).unwrap();
        (folder, path)
    }

    pub(in crate::encode) fn input(&self) -> Tensor {
        let values = uniform("input", self.input.iter().product());
        Tensor::from_vec(values, self.input.as_slice(), &Device::Cpu).unwrap()
    }

    /// Compares what the small network makes of the input.
    pub(in crate::encode) fn check(&self, output: &Tensor) {
        let rows = output.to_vec2::<f32>().unwrap();
        assert_eq!(rows.len(), self.output.len());
        for ((row, expected), norm) in rows.iter().zip(&self.output).zip(&self.norm) {
            let found = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            assert!((found - norm).abs() < 1e-4 * norm, "a norm of {found}, not {norm}");
            for (i, (a, b)) in row.iter().zip(expected).enumerate() {
                assert!((a - b).abs() < 1e-4 * norm, "number {i}: {a}, not {b}");
            }
        }
    }
}

/// A file of the published layout, all zeros and sparse on disk.
pub(in crate::encode) fn published(encoder: &str) -> (TempDir, PathBuf) {
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
