//! The weights of all layers of a model, and the checkpoint file that holds them.

use std::collections::HashMap;
use std::path::Path;

use crate::base::linalg::{self, MatrixView};
use crate::base::seeded::Random;
use crate::base::tensors::{self, NamedTensor};
use crate::gmf::checkpoint::{Affine, CheckpointRecord, Error, Folded, KEY};
use crate::gmf::config::{GmfConfig, GmfLayer};

/// Weights and biases of every layer of every modality. The file holds them as f32 tensors named
/// `{modality}.{dis|cinv|cspec|recon}.{weight|bias}`.
///
/// Other programs can read the file; `inv(image)` with numpy:
///
/// ```python
/// from safetensors.numpy import load_file
/// t = load_file("model.safetensors")
/// h = t["image.dis.weight"] @ features + t["image.dis.bias"]   # features: (l_image,)
/// b = t["image.cinv.weight"].shape[1]                          # the boundary row
/// inv = t["image.cinv.weight"] @ h[:b] + t["image.cinv.bias"]  # (l*,)
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct GmfWeights {
    config: GmfConfig,
    layers: Vec<[Affine; 4]>,
}

impl GmfWeights {
    /// All weights zero.
    pub fn zeros(config: &GmfConfig) -> GmfWeights {
        let layers = (0..config.modalities().len())
            .map(|j| {
                GmfLayer::ALL.map(|layer| {
                    let (outputs, inputs) = config.shape(j, layer);
                    Affine { weight: vec![0.0; outputs * inputs], bias: vec![0.0; outputs] }
                })
            })
            .collect();
        GmfWeights { config: config.clone(), layers }
    }

    /// Random weights with torch's initialisation of a linear layer: uniform in ±1/√inputs. The generator is
    /// our own, so that a seed gives the same model on every platform.
    pub fn random(config: &GmfConfig, seed: u64) -> GmfWeights {
        let mut weights = GmfWeights::zeros(config);
        for (j, modality) in config.modalities().iter().enumerate() {
            for layer in GmfLayer::ALL {
                let (_, inputs) = config.shape(j, layer);
                let bound = 1.0 / (inputs as f32).sqrt();
                let mut random = Random::new(seed, &format!("{}.{}", modality.name, layer.name()));
                let linear = weights.layer_mut(j, layer);
                for value in linear.weight.iter_mut().chain(&mut linear.bias) {
                    *value = random.between(-bound, bound);
                }
            }
        }
        weights
    }

    /// A model that folds to `folded` and rebuilds each modality exactly from its specific part. Training
    /// from a closed-form fit starts with it. On each side of the boundary, the first dissociated numbers are
    /// the feature itself and the others are random projections. The concentrations start with nonzero
    /// weights on the feature only and learn to use the projections.
    ///
    /// # Errors
    /// [`Error::MapShape`] if the maps have other lengths than the model; [`Error::NoRoom`] if one side of
    /// the boundary is shorter than the features.
    pub fn from_folded(config: &GmfConfig, folded: &Folded, seed: u64) -> Result<GmfWeights, Error> {
        GmfWeights::check_room(config)?;
        let mut weights = GmfWeights::random(config, seed);
        for (j, modality) in config.modalities().iter().enumerate() {
            let l = modality.length;
            let (b, all, shared) = (config.boundary_row(j), config.dissociated(j), config.invariant());
            let (name, map) =
                if modality.name == "image" { ("image", &folded.image) } else { ("video", &folded.video) };
            let (found, expected) = ([map.bias.len(), map.inputs()], [shared, l]);
            if found != expected {
                return Err(Error::MapShape { modality: name, found, expected });
            }
            let dissociate = weights.layer_mut(j, GmfLayer::Dissociate);
            for from in [0, b] {
                for i in 0..l {
                    let row = &mut dissociate.weight[(from + i) * l..(from + i + 1) * l];
                    row.fill(0.0);
                    row[i] = 1.0;
                    dissociate.bias[from + i] = 0.0;
                }
            }
            let invariant = weights.layer_mut(j, GmfLayer::ConcentrateInvariant);
            invariant.weight.fill(0.0);
            for (to, from) in invariant.weight.chunks_exact_mut(b).zip(map.weight.chunks_exact(l)) {
                to[..l].copy_from_slice(from);
            }
            invariant.bias.copy_from_slice(&map.bias);
            let unit = |linear: &mut Affine, stride: usize, column: usize| {
                linear.weight.fill(0.0);
                linear.bias.fill(0.0);
                for i in 0..l {
                    linear.weight[i * stride + column + i] = 1.0;
                }
            };
            unit(weights.layer_mut(j, GmfLayer::ConcentrateSpecific), all - b, 0);
            unit(weights.layer_mut(j, GmfLayer::Reconstruct), shared + l, shared);
        }
        Ok(weights)
    }

    /// Checks that a model of this form has room to start from folded maps.
    ///
    /// # Errors
    /// [`Error::NoRoom`] if one side of the boundary is shorter than the features.
    pub fn check_room(config: &GmfConfig) -> Result<(), Error> {
        for (j, modality) in config.modalities().iter().enumerate() {
            let (invariant, length) = (config.boundary_row(j), modality.length);
            let specific = config.dissociated(j) - invariant;
            if invariant.min(specific) < length {
                let (multiple, boundary) = (config.multiple(), config.boundary());
                let modality = modality.name.clone();
                return Err(Error::NoRoom { modality, multiple, boundary, invariant, specific, length });
            }
        }
        Ok(())
    }

    /// Form of the model.
    pub fn config(&self) -> &GmfConfig {
        &self.config
    }

    /// One layer of modality `j`.
    pub fn layer(&self, j: usize, layer: GmfLayer) -> &Affine {
        &self.layers[j][layer as usize]
    }

    /// One layer of modality `j`, mutable.
    pub fn layer_mut(&mut self, j: usize, layer: GmfLayer) -> &mut Affine {
        &mut self.layers[j][layer as usize]
    }

    /// Name and shape of every tensor of a model of this form, in a fixed order: for each layer of each
    /// modality the weight, then the bias.
    pub(super) fn shapes(config: &GmfConfig) -> Vec<(String, Vec<usize>)> {
        let mut shapes = Vec::new();
        for (j, modality) in config.modalities().iter().enumerate() {
            for layer in GmfLayer::ALL {
                let (outputs, inputs) = config.shape(j, layer);
                let name = format!("{}.{}", modality.name, layer.name());
                shapes.push((format!("{name}.weight"), vec![outputs, inputs]));
                shapes.push((format!("{name}.bias"), vec![outputs]));
            }
        }
        shapes
    }

    /// Every tensor, in the order of [`GmfWeights::shapes`].
    pub(super) fn tensors(&self) -> Vec<NamedTensor<'_>> {
        let values = self.layers.iter().flatten().flat_map(|linear| [&linear.weight, &linear.bias]);
        let named = GmfWeights::shapes(&self.config).into_iter().zip(values);
        named.map(|((name, shape), values)| NamedTensor { name, shape, values }).collect()
    }

    /// The values of every tensor, in the order of [`GmfWeights::shapes`].
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Vec<f32>> {
        self.layers.iter_mut().flatten().flat_map(|linear| [&mut linear.weight, &mut linear.bias])
    }

    /// Reads every tensor of a model of this form from a file, with this prefix before each name.
    pub(super) fn read(
        config: &GmfConfig,
        file: &tensors::TensorFile<'_>,
        prefix: &str,
    ) -> Result<GmfWeights, tensors::Error> {
        let shapes = GmfWeights::shapes(config);
        // Shapes are checked before memory is allocated for them.
        for (name, shape) in &shapes {
            file.check(&format!("{prefix}{name}"), shape)?;
        }
        let mut weights = GmfWeights::zeros(config);
        for ((name, shape), values) in shapes.iter().zip(weights.values_mut()) {
            file.read(&format!("{prefix}{name}"), shape, values)?;
        }
        Ok(weights)
    }

    /// Writes the checkpoint and replaces the file atomically.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn save(&self, path: &Path, record: &CheckpointRecord) -> Result<(), Error> {
        let text = serde_json::to_string(record).expect("a record is plain data");
        let mut all = self.tensors();
        all.extend(record.projection_tensors());
        tensors::save(path, &all, HashMap::from([(KEY.to_owned(), text)])).map_err(Error::in_file(path))
    }

    /// Opens a checkpoint with all layers.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; [`Error::AlreadyFolded`] for a folded checkpoint;
    /// [`Error::Format`] if it is damaged, foreign, of a later version, or its tensors do not match its
    /// record.
    pub fn open(path: &Path) -> Result<(GmfWeights, CheckpointRecord), Error> {
        let wrong = |found: String| Error::Format { name: path.to_owned(), found };
        let file = tensors::open(path).map_err(Error::in_file(path))?;
        let mut record = CheckpointRecord::in_tensors(&file).map_err(wrong)?;
        if file.names().iter().any(|n| n.ends_with(".inv.weight")) {
            return Err(Error::AlreadyFolded { name: path.to_owned() });
        }
        let config = GmfConfig::new(record.modalities.clone(), record.multiple, record.boundary)
            .map_err(|e| wrong(format!("its record is impossible ({e})")))?;
        if record.invariant != config.invariant() {
            return Err(wrong(format!("a shared space of {}, not {}", record.invariant, config.invariant())));
        }
        let expected =
            GmfWeights::shapes(&config).len() + record.read_projection(&file).map_err(Error::in_file(path))?;
        if file.names().len() != expected {
            return Err(wrong(format!("{} tensors instead of {expected}", file.names().len())));
        }
        Ok((GmfWeights::read(&config, &file, "").map_err(Error::in_file(path))?, record))
    }

    /// `inv(j)` as one affine map: `W = P_cinv · P_dis[0..b]`, `c = P_cinv · bias_dis[0..b] + bias_cinv`.
    /// Exact, because all layers are affine.
    pub fn fold_modality(&self, j: usize) -> Affine {
        let (l, b, shared) = (self.config.modalities()[j].length, self.config.boundary_row(j), self.config.invariant());
        let (dissociate, concentrate) =
            (self.layer(j, GmfLayer::Dissociate), self.layer(j, GmfLayer::ConcentrateInvariant));
        let mut weight = vec![0f32; shared * l];
        let inner = MatrixView::rows(&dissociate.weight[..b * l], l);
        linalg::multiply(&mut weight, 0.0, MatrixView::rows(&concentrate.weight, b), inner);
        let bias = concentrate
            .weight
            .chunks_exact(b)
            .zip(&concentrate.bias)
            .map(|(row, c)| {
                let sum: f64 = row.iter().zip(&dissociate.bias).map(|(p, d)| f64::from(*p) * f64::from(*d)).sum();
                (sum + f64::from(*c)) as f32
            })
            .collect();
        Affine { weight, bias }
    }

    /// Folds a model of images and videos.
    ///
    /// # Errors
    /// [`Error::Modalities`] if the model has other modalities.
    pub fn fold(&self, record: &CheckpointRecord) -> Result<Folded, Error> {
        let names: Vec<&str> = self.config.modalities().iter().map(|m| m.name.as_str()).collect();
        let at = |name: &str| names.iter().position(|n| *n == name).filter(|_| names.len() == 2);
        let (Some(image), Some(video)) = (at("image"), at("video")) else {
            return Err(Error::Modalities { found: names.join(", ") });
        };
        Ok(Folded::new(self.fold_modality(image), self.fold_modality(video), record.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::GmfModel;
    use super::super::{CpuStepper, Objective, Relation, Relations, Stepper, TrainingBatch};
    use super::*;

    fn embed_layered(weights: &GmfWeights, j: usize, features: &[f32]) -> Vec<f32> {
        let model = GmfModel::new(weights, &candle_core::Device::Cpu).unwrap();
        let x = candle_core::Tensor::from_slice(features, (1, features.len()), &candle_core::Device::Cpu).unwrap();
        let inv: Vec<f32> = model.parts(j, &x).unwrap().inv.flatten_all().unwrap().to_vec1().unwrap();
        let norm = inv.iter().map(|v| v * v).sum::<f32>().sqrt();
        inv.into_iter().map(|v| v / norm).collect()
    }

    fn record(weights: &GmfWeights) -> CheckpointRecord {
        CheckpointRecord::new(weights.config(), "test/1", serde_json::json!({"how": "random"}))
    }

    #[test]
    fn folded_embeddings_match_the_layers() {
        for (image, video, seed) in [(128, 4096, 1), (128, 128, 2), (7, 19, 3), (31, 5, 4)] {
            let weights = GmfWeights::random(&GmfConfig::image_video(image, video).unwrap(), seed);
            let folded = weights.fold(&record(&weights)).unwrap();
            let mut random = Random::new(seed, "features");
            let mut draw = |n: usize| (0..n).map(|_| random.between(-1.0, 1.0)).collect::<Vec<f32>>();
            let (x, v) = (draw(image), draw(video));
            for (folded, layered) in [
                (folded.embed_image(&x).unwrap(), embed_layered(&weights, 0, &x)),
                (folded.embed_video(&v).unwrap(), embed_layered(&weights, 1, &v)),
            ] {
                let error = folded.iter().zip(&layered).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
                assert!(error < 1e-5, "({image}, {video}): {error}");
            }
        }
    }

    #[test]
    fn weights_from_folded_maps_fold_to_them_and_rebuild_exactly() {
        let config = GmfConfig::image_video(6, 15).unwrap();
        let given = GmfWeights::random(&config, 5);
        let folded = given.fold(&record(&given)).unwrap();
        let start = GmfWeights::from_folded(&config, &folded, 1).unwrap();
        let again = start.fold(&record(&start)).unwrap();
        for (a, b) in [(&again.image, &folded.image), (&again.video, &folded.video)] {
            assert!(a.weight.iter().zip(&b.weight).all(|(a, b)| (a - b).abs() < 1e-6));
            assert_eq!(a.bias, b.bias);
        }
        let relations = Relations::new(2, |_, _| Relation::Negative);
        let batch = TrainingBatch { features: vec![vec![0.3; 12], vec![-0.7; 30]], relations };
        let losses = CpuStepper::new(start, None).losses(&batch, &Objective::default()).unwrap();
        assert!(losses.dissociation < 1e-12, "{losses:?}");
        let other = GmfConfig::image_video(6, 16).unwrap();
        let error = GmfWeights::from_folded(&other, &folded, 1).unwrap_err().to_string();
        assert_eq!(error, "the map of video features is 6 x 15; the model needs 6 x 16");
    }

    #[test]
    fn file_round_trips_and_rejects_every_truncation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let weights = GmfWeights::random(&GmfConfig::image_video(3, 5).unwrap(), 1);
        weights.save(&path, &record(&weights)).unwrap();
        assert_eq!(GmfWeights::open(&path).unwrap(), (weights.clone(), record(&weights)));
        let bytes = std::fs::read(&path).unwrap();
        let cut = dir.path().join("cut");
        for length in (0..bytes.len()).step_by(7).chain([7, 8, bytes.len() - 1]) {
            std::fs::write(&cut, &bytes[..length]).unwrap();
            assert!(matches!(GmfWeights::open(&cut), Err(Error::Format { .. })), "{length}");
        }
        std::fs::write(&cut, [bytes.as_slice(), b"more"].concat()).unwrap();
        assert!(matches!(GmfWeights::open(&cut), Err(Error::Format { .. })));
    }

    #[test]
    fn rejects_other_files_with_the_fault() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let error = |p: &Path| GmfWeights::open(p).unwrap_err().to_string();
        assert!(error(&path).contains("x.safetensors"));
        let weights = GmfWeights::random(&GmfConfig::image_video(3, 5).unwrap(), 1);
        std::fs::write(&path, weights.fold(&record(&weights)).unwrap().to_bytes()).unwrap();
        assert!(error(&path).contains("folded already"), "{}", error(&path));
        let save = |record: &CheckpointRecord| weights.save(&path, record).unwrap();
        save(&CheckpointRecord { format: 9, ..record(&weights) });
        assert!(error(&path).contains("format version 9"), "{}", error(&path));
        save(&CheckpointRecord { multiple: 2, ..record(&weights) });
        assert!(error(&path).contains("multiple is 2"), "{}", error(&path));
        save(&CheckpointRecord { multiple: 5, ..record(&weights) });
        assert!(error(&path).contains("image.dis.weight"), "{}", error(&path));
        save(&record(&weights));
        let bytes = std::fs::read(&path).unwrap();
        let error = Folded::parse(&bytes, "layered").unwrap_err().to_string();
        assert!(error.contains("expected a folded checkpoint"), "{error}");
    }
}
