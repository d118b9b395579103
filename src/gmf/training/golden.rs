//! Tests that files of version 0.1.0, which every later version must open, are read correctly. The ignored
//! test `write_golden_files` writes files with the same contents:
//!
//! ```text
//! cargo test --release --lib write_golden_files -- --ignored
//! ```

use std::path::{Path, PathBuf};

use super::resume::ResumeState;
use super::{GmfWeights, TrainOptions};
use crate::features::{FeatureLine, FeatureSet, FeatureWriter, Split};
use crate::gmf::{Affine, CheckpointRecord, Folded, GmfConfig, GmfLayer};

/// `inv([1, 2, 3])` of the model's images, scaled to length 1.
const IMAGE_EMBEDDING: [f32; 3] = [0.505_361_5, -0.592_492_8, 0.627_345_3];
/// `inv([1, 2, 3, 4, 5])` of the model's videos, scaled to length 1.
const VIDEO_EMBEDDING: [f32; 3] = [0.577_533_2, 0.629_511_2, 0.519_779_9];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn pattern(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i % 7) as f32 * 0.25 - 0.5).collect()
}

/// A model for images of length 3 and videos of length 5, and its record with a projection from length 4.
fn model() -> (GmfWeights, CheckpointRecord) {
    let config = GmfConfig::image_video(3, 5).unwrap();
    let mut weights = GmfWeights::zeros(&config);
    for j in 0..2 {
        for layer in GmfLayer::ALL {
            let (outputs, inputs) = config.shape(j, layer);
            *weights.layer_mut(j, layer) = Affine { weight: pattern(outputs * inputs), bias: pattern(outputs) };
        }
    }
    let record = CheckpointRecord::new(&config, "golden/1", serde_json::json!({ "epoch": 7 }));
    (weights, record.projected(Some(Affine { weight: pattern(12), bias: pattern(3) })))
}

#[test]
#[ignore = "writes the golden files"]
fn write_golden_files() {
    let (weights, record) = model();
    std::fs::create_dir_all(golden("features")).unwrap();
    weights.save(&golden("checkpoint.safetensors"), &record).unwrap();
    let folded = weights.fold(&record).unwrap().halved().unwrap();
    std::fs::write(golden("folded.safetensors"), folded.to_bytes()).unwrap();
    let config = weights.config();
    let state = ResumeState::start(&TrainOptions::default(), config, "golden/1", "rows".into(), "data".into());
    state.save(&golden("checkpoint.safetensors.resume"), &weights, &weights).unwrap();
    let table = |name: &'static str, length: usize| {
        let mut writer = FeatureWriter::create(&golden("features"), name).unwrap();
        for row in 0..3 {
            let line = FeatureLine {
                labels: vec![format!("class {}", row % 2), "all".into()],
                split: Some(Split::Test),
                video: Some(format!("v{row}")),
                from: Some(1.5),
                to: Some(2.0),
                ..FeatureLine::new(format!("{name}{row}"))
            };
            writer.push(&line, &pattern(length + row)[row..]).unwrap();
        }
        writer
    };
    FeatureWriter::finish([table("images", 3), table("videos", 5)]).unwrap();
}

#[test]
fn opens_the_golden_checkpoint() {
    let (weights, record) = GmfWeights::open(&golden("checkpoint.safetensors")).unwrap();
    assert_eq!((weights.config().multiple(), weights.config().boundary()), (4, 0.5));
    assert_eq!(weights.layer(1, GmfLayer::Reconstruct).weight[38..], [0.25, 0.5]);
    assert_eq!((record.encoder.as_str(), &record.training["epoch"]), ("golden/1", &7.into()));
    assert_eq!((weights, record), model());
}

#[test]
fn opens_the_golden_folded_checkpoint() {
    let folded = Folded::open(&golden("folded.safetensors")).unwrap();
    assert_eq!((folded.record.invariant, folded.record.projected_from), (3, Some(4)));
    for (found, expected) in [
        (folded.embed_image(&[1.0, 2.0, 3.0]).unwrap(), IMAGE_EMBEDDING),
        (folded.embed_video(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap(), VIDEO_EMBEDDING),
    ] {
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-3), "{found:?}");
    }
}

#[test]
fn opens_the_golden_state_file() {
    let (state, weights, velocity) = ResumeState::open(&golden("checkpoint.safetensors.resume")).unwrap();
    assert_eq!((state.options.rate, state.options.epochs, state.epoch), (0.01, 20, 0));
    assert_eq!((&weights, &velocity), (&model().0, &model().0));
}

#[test]
fn opens_the_golden_feature_set() {
    let set = FeatureSet::open(&golden("features")).unwrap();
    assert_eq!((set.images.matrix.columns(), set.videos.matrix.columns(), set.videos.rows.len()), (3, 5, 3));
    assert_eq!(set.labels, ["class 0", "all", "class 1"]);
    let row = &set.videos.rows[1];
    assert_eq!((row.id.as_str(), row.video.as_deref(), row.span_s), ("videos1", Some("v1"), Some((1.5, 2.0))));
    assert_eq!((row.split, row.labels.as_slice()), (Split::Test, &[2, 1][..]));
    let mut features = [0.0; 5];
    set.videos.matrix.read(1, &mut features).unwrap();
    assert_eq!(features, [-0.25, 0.0, 0.25, 0.5, 0.75]);
}
