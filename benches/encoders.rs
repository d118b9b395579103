//! Speed of the encoders, compared with the speed of a matrix product on this machine. Weights come from the
//! cache folder or else are random, with the published tensor shapes: the time does not depend on their
//! values.
//!
//! ```text
//! cargo bench -p reelseek --bench encoders [-- NAME..]
//! ```

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{Device, Tensor};
use reelseek::encode::registry::{self, ENTRIES, EncoderEntry};
use reelseek::encode::{Descriptor, Encoder};
use reelseek::media::Picture;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

const LAYOUTS: &str = include_str!("../tests/reference/encoders.json");
/// Number of pictures described in one call.
const BATCH: usize = 32;
const RUNS: usize = 3;
/// Side of the square matrices whose product measures the machine.
const SIDE: usize = 2048;

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n).map(|_| next()).collect()
}

/// The fastest of [`RUNS`] runs, in seconds.
fn fastest<T>(mut work: impl FnMut() -> T) -> f64 {
    let timed = |_| {
        let start = Instant::now();
        std::hint::black_box(work());
        start.elapsed().as_secs_f64()
    };
    (0..RUNS).map(timed).fold(f64::INFINITY, f64::min)
}

fn gemm_rate() -> f64 {
    let matrix = |seed| Tensor::from_vec(numbers(SIDE * SIDE, seed), (SIDE, SIDE), &Device::Cpu).expect("a matrix");
    let (a, b) = (matrix(1), matrix(2));
    2.0 * (SIDE as f64).powi(3) / fastest(|| a.matmul(&b).expect("a product"))
}

/// Names and shapes of the tensors in the published file.
fn published_tensors(name: &str) -> Vec<(String, Vec<usize>)> {
    let cases: Value = serde_json::from_str(LAYOUTS).expect("a script writes valid JSON");
    let mut tensors = Vec::new();
    for named in cases[name]["published"].as_array().expect("names and shapes") {
        let read = |key: &str| serde_json::from_value::<Vec<usize>>(named[key].clone()).expect("numbers");
        let (name, shape) = (named["name"].as_str().expect("a name"), read("shape"));
        match read("layers").as_slice() {
            [] => tensors.push((name.to_owned(), shape)),
            layers => tensors.extend(layers.iter().map(|i| (name.replace("{}", &i.to_string()), shape.clone()))),
        }
    }
    tensors
}

/// Writes a file of random weights with the published names and shapes.
fn random_weights(name: &str, folder: &Path) -> PathBuf {
    let tensors = published_tensors(name).into_iter().map(|(name, shape)| {
        let count = shape.iter().product();
        // Matrices that halve the norm of a vector, scales of 1 and shifts of 0 keep activations within the
        // range of f32.
        let values = match shape.len() {
            0 | 1 => vec![if name.ends_with("bias") || name.ends_with("mean") { 0.0 } else { 1.0 }; count],
            _ => {
                let scale = (3.0 / shape[1..].iter().product::<usize>() as f32).sqrt();
                numbers(count, count as u64).into_iter().map(|x| x * scale).collect()
            }
        };
        (name, shape, values.iter().flat_map(|x: &f32| x.to_le_bytes()).collect::<Vec<u8>>())
    });
    let tensors: Vec<_> = tensors.collect();
    let views: HashMap<&str, TensorView<'_>> = tensors
        .iter()
        .map(|(name, shape, bytes)| {
            (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("a shape and its values"))
        })
        .collect();
    let path = folder.join("random.safetensors");
    safetensors::serialize_to_file(views, None, &path).expect("room for a file");
    path
}

/// Images per second, or clips per second for an encoder that computes whole clips.
fn rate(encoder: &dyn Encoder) -> f64 {
    let info = encoder.info();
    let (width, height) = (info.sampling.width, info.sampling.height);
    let picture = |i: usize| {
        let rgb = numbers((width * height * 3) as usize, i as u64).iter().map(|x| ((x + 0.5) * 255.0) as u8).collect();
        Picture { width, height, rgb }
    };
    let pictures: Vec<Picture> = (0..BATCH).map(picture).collect();
    let describe = || encoder.describe(&pictures).expect("features");
    if info.descriptor_len == info.image_len {
        return BATCH as f64 / fastest(describe);
    }
    let described = describe();
    let frames: Vec<&Descriptor> = described.iter().take(info.sampling.frames_per_clip).collect();
    1.0 / fastest(|| encoder.clip(&frames).expect("features"))
}

fn main() {
    let names: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let gemm = gemm_rate();
    println!("matrix product, {SIDE}³ of f32, {} threads: {:.0} GFLOP/s", rayon::current_num_threads(), gemm / 1e9);
    println!("{:<14} {:>8} {:>8} {:>10} {:>10} {:>8}", "encoder", "weights", "GFLOP", "a second", "GFLOP/s", "of gemm");
    for entry in ENTRIES.iter().filter(|entry| names.is_empty() || names.iter().any(|name| name == entry.name)) {
        row(entry, gemm);
    }
}

fn row(entry: &EncoderEntry, gemm: f64) {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, weights) = match entry.path() {
        path if path.exists() => (path, "real"),
        _ => (random_weights(entry.name, folder.path()), "random"),
    };
    let encoder = registry::open(entry.name, Some(&path)).expect("an encoder");
    let rate = rate(encoder.as_ref());
    let flops_per_s = rate * entry.flops;
    println!(
        "{:<14} {weights:>8} {:>8.1} {rate:>10.2} {:>10.1} {:>7.0}%",
        entry.name,
        entry.flops / 1e9,
        flops_per_s / 1e9,
        100.0 * flops_per_s / gemm
    );
}
