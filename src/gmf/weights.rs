//! The numbers of a model, as its checkpoint holds them.

use std::collections::HashMap;
use std::path::Path;

use super::checkpoint::{Affine, Error, FORMAT, Folded, KEY, Record};
use super::config::{Config, Map};
use crate::base::linalg::{self, MatrixView};
use crate::base::seeded::Random;
use crate::base::tensors::{self, StoredPrecision};

/// An affine map `y = W x + c`, in torch layout: `W` is (outputs, inputs), row after row.
pub(super) type Linear = Affine;

/// Weights and biases of every map of every modality. In a file: tensors `{modality}.{dis|cinv|cspec|recon}.{weight|bias}`, f32.
///
/// The file can be read without this program; `inv(image)` with numpy:
///
/// ```python
/// from safetensors.numpy import load_file
/// t = load_file("model.safetensors")
/// h = t["image.dis.weight"] @ features + t["image.dis.bias"]   # features: (l_image,)
/// b = t["image.cinv.weight"].shape[1]                          # the boundary row
/// inv = t["image.cinv.weight"] @ h[:b] + t["image.cinv.bias"]  # (l*,)
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    config: Config,
    maps: Vec<[Linear; 4]>,
}

impl Weights {
    /// All zero.
    pub fn zeros(config: &Config) -> Weights {
        let maps = (0..config.modalities().len())
            .map(|j| {
                Map::ALL.map(|map| {
                    let (outputs, inputs) = config.shape(j, map);
                    Linear { weight: vec![0.0; outputs * inputs], bias: vec![0.0; outputs] }
                })
            })
            .collect();
        Weights { config: config.clone(), maps }
    }

    /// Drawn as torch draws a `Linear`: uniform in ±1/√inputs, from our own seeded generator, so that the same seed gives the
    /// same model everywhere.
    pub fn random(config: &Config, seed: u64) -> Weights {
        let mut weights = Weights::zeros(config);
        for (j, modality) in config.modalities().iter().enumerate() {
            for map in Map::ALL {
                let (_, inputs) = config.shape(j, map);
                let bound = 1.0 / (inputs as f32).sqrt();
                let mut random = Random::new(seed, &format!("{}.{}", modality.name, map.name()));
                let linear = weights.map_mut(j, map);
                for value in linear.weight.iter_mut().chain(&mut linear.bias) {
                    *value = random.between(-bound, bound);
                }
            }
        }
        weights
    }

    /// A model whose folded maps are `folded` and that rebuilds each modality exactly, from its specific part alone: how training
    /// goes on from a closed-form fit. On either side of the boundary, dissociation begins with the feature itself and goes on with random
    /// projections; the concentrations look at the former alone, and learn to use the latter.
    ///
    /// # Errors
    /// [`Error::Length`] if lengths differ, [`Error::Room`] if the boundary leaves no room for the features on one of its sides.
    pub fn around(config: &Config, folded: &Folded, seed: u64) -> Result<Weights, Error> {
        Weights::room(config)?;
        let mut weights = Weights::random(config, seed);
        for (j, modality) in config.modalities().iter().enumerate() {
            let l = modality.length;
            let (b, all, shared) = (config.boundary_row(j), config.dissociated(j), config.invariant());
            let (name, map) =
                if modality.name == "image" { ("image", &folded.image) } else { ("video", &folded.video) };
            if map.inputs() != l || map.bias.len() != shared {
                return Err(Error::Length { modality: name, found: map.inputs(), expected: l });
            }
            let dissociate = weights.map_mut(j, Map::Dissociate);
            for from in [0, b] {
                for i in 0..l {
                    let row = &mut dissociate.weight[(from + i) * l..(from + i + 1) * l];
                    row.fill(0.0);
                    row[i] = 1.0;
                    dissociate.bias[from + i] = 0.0;
                }
            }
            let invariant = weights.map_mut(j, Map::ConcentrateInvariant);
            invariant.weight.fill(0.0);
            for (to, from) in invariant.weight.chunks_exact_mut(b).zip(map.weight.chunks_exact(l)) {
                to[..l].copy_from_slice(from);
            }
            invariant.bias.copy_from_slice(&map.bias);
            let unit = |linear: &mut Linear, stride: usize, column: usize| {
                linear.weight.fill(0.0);
                linear.bias.fill(0.0);
                for i in 0..l {
                    linear.weight[i * stride + column + i] = 1.0;
                }
            };
            unit(weights.map_mut(j, Map::ConcentrateSpecific), all - b, 0);
            unit(weights.map_mut(j, Map::Reconstruct), shared + l, shared);
        }
        Ok(weights)
    }

    /// Whether a model of this form has room to start from folded maps.
    ///
    /// # Errors
    /// [`Error::Room`] if not.
    pub fn room(config: &Config) -> Result<(), Error> {
        for (j, modality) in config.modalities().iter().enumerate() {
            let (invariant, length) = (config.boundary_row(j), modality.length);
            let specific = config.dissociated(j) - invariant;
            if invariant.min(specific) < length {
                let (multiple, boundary) = (config.multiple(), config.boundary());
                let modality = modality.name.clone();
                return Err(Error::Room { modality, multiple, boundary, invariant, specific, length });
            }
        }
        Ok(())
    }

    /// The form of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// One map.
    pub fn map(&self, j: usize, map: Map) -> &Linear {
        &self.maps[j][map as usize]
    }

    /// One map, to be changed.
    pub fn map_mut(&mut self, j: usize, map: Map) -> &mut Linear {
        &mut self.maps[j][map as usize]
    }

    /// Every tensor with its name and shape, always in the same order.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>, &[f32])> {
        let mut all = Vec::new();
        for (j, modality) in self.config.modalities().iter().enumerate() {
            for map in Map::ALL {
                let (outputs, inputs) = self.config.shape(j, map);
                let name = |suffix: &str| format!("{}.{}.{suffix}", modality.name, map.name());
                let linear = self.map(j, map);
                all.push((name("weight"), vec![outputs, inputs], linear.weight.as_slice()));
                all.push((name("bias"), vec![outputs], linear.bias.as_slice()));
            }
        }
        all
    }

    /// Tensors of a model of this form.
    pub(super) fn count(config: &Config) -> usize {
        2 * Map::ALL.len() * config.modalities().len()
    }

    /// Compares names, with this prefix, and shapes with what a file's header tells.
    pub(super) fn check(config: &Config, file: &tensors::TensorFile<'_>, prefix: &str) -> Result<(), tensors::Error> {
        for (j, modality) in config.modalities().iter().enumerate() {
            for map in Map::ALL {
                let (outputs, inputs) = config.shape(j, map);
                let name = format!("{prefix}{}.{}", modality.name, map.name());
                file.check(&format!("{name}.weight"), &[outputs, inputs])?;
                file.check(&format!("{name}.bias"), &[outputs])?;
            }
        }
        Ok(())
    }

    /// Reads every tensor of the model from a file, under names with this prefix.
    pub(super) fn fill_from(&mut self, file: &tensors::TensorFile<'_>, prefix: &str) -> Result<(), tensors::Error> {
        for j in 0..self.config.modalities().len() {
            let modality = self.config.modalities()[j].name.clone();
            for map in Map::ALL {
                let (outputs, inputs) = self.config.shape(j, map);
                let name = format!("{prefix}{modality}.{}", map.name());
                let linear = self.map_mut(j, map);
                file.read(&format!("{name}.weight"), &[outputs, inputs], &mut linear.weight)?;
                file.read(&format!("{name}.bias"), &[outputs], &mut linear.bias)?;
            }
        }
        Ok(())
    }

    /// Writes the checkpoint. The file is either the old one or the whole new one.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn save(&self, path: &Path, record: &Record) -> Result<(), Error> {
        let text = serde_json::to_string(record).expect("a record is plain data");
        let mut all = self.tensors();
        all.extend(
            record.projection_tensors().into_iter().map(|(name, shape, values)| (name.to_owned(), shape, values)),
        );
        tensors::save(path, &all, HashMap::from([(KEY.to_owned(), text)])).map_err(Error::of(path))
    }

    /// Opens a checkpoint with all its layers.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Format`] if it is damaged, foreign, of a later version, folded, or has other
    /// tensors or shapes than its record tells.
    pub fn open(path: &Path) -> Result<(Weights, Record), Error> {
        let wrong = |found: String| Error::Format { name: path.display().to_string(), found };
        let file = tensors::open(path).map_err(Error::of(path))?;
        let mut record = Record::of(&file).map_err(wrong)?;
        if file.names().iter().any(|n| n.ends_with(".inv.weight")) {
            return Err(wrong("it is folded already: its layers are not in it".to_owned()));
        }
        let config = Config::new(record.modalities.clone(), record.multiple, record.boundary)
            .map_err(|e| wrong(format!("its record is impossible ({e})")))?;
        if record.invariant != config.invariant() {
            return Err(wrong(format!("a shared space of {}, not {}", record.invariant, config.invariant())));
        }
        // Compared before room is made for what the record promises.
        let expected = Weights::count(&config) + record.read_projection(&file).map_err(Error::of(path))?;
        if file.names().len() != expected {
            return Err(wrong(format!("{} tensors instead of {expected}", file.names().len())));
        }
        Weights::check(&config, &file, "").map_err(Error::of(path))?;
        let mut weights = Weights::zeros(&config);
        weights.fill_from(&file, "").map_err(Error::of(path))?;
        Ok((weights, record))
    }

    /// `inv(j)` as one affine map: `W = P_cinv · P_dis[0..b]`, `c = P_cinv · bias_dis[0..b] + bias_cinv`. Exact, since all is affine.
    pub fn fold_modality(&self, j: usize) -> Affine {
        let (l, b, shared) = (self.config.modalities()[j].length, self.config.boundary_row(j), self.config.invariant());
        let (dissociate, concentrate) = (self.map(j, Map::Dissociate), self.map(j, Map::ConcentrateInvariant));
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

    /// The folded checkpoint of an image and video model.
    ///
    /// # Errors
    /// [`Error::Modalities`] if the model maps something else.
    pub fn fold(&self, record: &Record) -> Result<Folded, Error> {
        let names: Vec<&str> = self.config.modalities().iter().map(|m| m.name.as_str()).collect();
        let at = |name: &str| names.iter().position(|n| *n == name).filter(|_| names.len() == 2);
        let (Some(image), Some(video)) = (at("image"), at("video")) else {
            return Err(Error::Modalities(names.join(", ")));
        };
        Ok(Folded {
            image: self.fold_modality(image),
            video: self.fold_modality(video),
            record: record.clone(),
            precision: StoredPrecision::F32,
        })
    }

    /// The record of a model of this form.
    pub fn record(config: &Config, encoder: &str, training: serde_json::Value) -> Record {
        Record {
            format: FORMAT,
            encoder: encoder.to_owned(),
            modalities: config.modalities().to_vec(),
            invariant: config.invariant(),
            multiple: config.multiple(),
            boundary: config.boundary(),
            training,
            projected_from: None,
            projection: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::Gmf;
    use super::*;

    fn embed_layered(weights: &Weights, j: usize, features: &[f32]) -> Vec<f32> {
        let model = Gmf::new(weights, &candle_core::Device::Cpu).unwrap();
        let x = candle_core::Tensor::from_slice(features, (1, features.len()), &candle_core::Device::Cpu).unwrap();
        let inv: Vec<f32> = model.parts(j, &x).unwrap().inv.flatten_all().unwrap().to_vec1().unwrap();
        let norm = inv.iter().map(|v| v * v).sum::<f32>().sqrt();
        inv.into_iter().map(|v| v / norm).collect()
    }

    fn record(weights: &Weights) -> Record {
        Weights::record(weights.config(), "test/1", serde_json::json!({"how": "random"}))
    }

    #[test]
    fn folded_and_layered_embeddings_agree() {
        for (image, video, seed) in [(128, 4096, 1), (128, 128, 2), (7, 19, 3), (31, 5, 4)] {
            let weights = Weights::random(&Config::image_video(image, video).unwrap(), seed);
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
    fn a_start_around_given_maps_folds_to_them_and_rebuilds_exactly() {
        let config = Config::image_video(6, 15).unwrap();
        let given = Weights::random(&config, 5);
        let folded = given.fold(&record(&given)).unwrap();
        let around = Weights::around(&config, &folded, 1).unwrap();
        let again = around.fold(&record(&around)).unwrap();
        for (a, b) in [(&again.image, &folded.image), (&again.video, &folded.video)] {
            assert!(a.weight.iter().zip(&b.weight).all(|(a, b)| (a - b).abs() < 1e-6));
            assert_eq!(a.bias, b.bias);
        }
        let batch = super::super::Batch { features: vec![vec![0.3; 12], vec![-0.7; 30]] };
        let relations = super::super::Relations::new(2, |_, _| super::super::Relation::Negative);
        let mut cpu = super::super::Cpu::new(around, None);
        let losses =
            super::super::Stepper::losses(&mut cpu, &batch, &relations, &super::super::Objective::default()).unwrap();
        assert!(losses.dissociation < 1e-12, "{losses:?}");
    }

    #[test]
    fn the_file_round_trips_and_every_truncation_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let weights = Weights::random(&Config::image_video(3, 5).unwrap(), 1);
        weights.save(&path, &record(&weights)).unwrap();
        assert_eq!(Weights::open(&path).unwrap(), (weights.clone(), record(&weights)));
        let bytes = std::fs::read(&path).unwrap();
        let cut = dir.path().join("cut");
        for length in (0..bytes.len()).step_by(7).chain([7, 8, bytes.len() - 1]) {
            std::fs::write(&cut, &bytes[..length]).unwrap();
            assert!(matches!(Weights::open(&cut), Err(Error::Format { .. })), "{length}");
        }
        std::fs::write(&cut, [bytes.as_slice(), b"more"].concat()).unwrap();
        assert!(matches!(Weights::open(&cut), Err(Error::Format { .. })));
    }

    #[test]
    fn other_files_are_refused_with_what_was_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let error = |p: &Path| Weights::open(p).unwrap_err().to_string();
        assert!(error(&path).contains("x.safetensors"));
        let weights = Weights::random(&Config::image_video(3, 5).unwrap(), 1);
        std::fs::write(&path, weights.fold(&record(&weights)).unwrap().to_bytes()).unwrap();
        assert!(error(&path).contains("folded already"), "{}", error(&path));
        let save = |record: &Record| weights.save(&path, record).unwrap();
        save(&Record { format: 9, ..record(&weights) });
        assert!(error(&path).contains("format version 9"), "{}", error(&path));
        save(&Record { multiple: 2, ..record(&weights) });
        assert!(error(&path).contains("multiple is 2"), "{}", error(&path));
        save(&Record { multiple: 5, ..record(&weights) });
        assert!(error(&path).contains("image.dis.weight"), "{}", error(&path));
        save(&record(&weights));
        let bytes = std::fs::read(&path).unwrap();
        let error = Folded::parse(&bytes, "layered").unwrap_err().to_string();
        assert!(error.contains("reelseek fold"), "{error}");
    }
}
