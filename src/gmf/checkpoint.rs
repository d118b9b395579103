//! The folded checkpoint: its file format and its arithmetic.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::config::{GmfConfig, Modality};
use crate::base::tensors::{self, NamedTensor, StoredPrecision};
use crate::base::{ErrorPaths, files};

/// Size of the largest folded checkpoint that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 30;
/// Version of the file layout.
pub(super) const FORMAT: u32 = 1;
/// The only metadata key. Its value is the [`CheckpointRecord`] as JSON. There is one key because safetensors
/// does not keep the order of several.
pub(super) const KEY: &str = "reelseek";
/// Largest accepted length of features or embeddings. A larger one means that the file is damaged.
const MAX_LEN: usize = 1 << 16;

/// Why a checkpoint cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read or written.
    #[error("checkpoint {}: {source}", name.display())]
    Io {
        /// The file, or a name for the checkpoint.
        name: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is not a GMF checkpoint, or it is damaged.
    #[error("checkpoint {}: {found}; expected a GMF checkpoint", name.display())]
    Format {
        /// The file, or a name for the checkpoint.
        name: PathBuf,
        /// The fault.
        found: String,
    },
    /// The file holds all layers where a folded checkpoint is needed.
    #[error("checkpoint {}: it holds all layers; expected a folded checkpoint", name.display())]
    NotFolded {
        /// The file, or a name for the checkpoint.
        name: PathBuf,
    },
    /// The file is a folded checkpoint where all layers are needed.
    #[error("checkpoint {}: it is folded already; expected a checkpoint with all layers", name.display())]
    AlreadyFolded {
        /// The file, or a name for the checkpoint.
        name: PathBuf,
    },
    /// The checkpoint belongs to another encoder.
    #[error("checkpoint {} was made for the encoder {found}, but {expected} is in use", name.display())]
    Encoder {
        /// The file, or a name for the checkpoint.
        name: PathBuf,
        /// Encoder recorded in the checkpoint.
        found: String,
        /// Encoder in use.
        expected: String,
    },
    /// A weight exceeds the range of f16.
    #[error("a weight of {value} is beyond f16 (65,504)")]
    BeyondHalf {
        /// The weight.
        value: f32,
    },
    /// The boundary leaves too few dissociated numbers on one side to start from a closed-form fit.
    #[error(
        "with multiple {multiple} and boundary {boundary}, the dissociated `{modality}` has {invariant} invariant and \
         {specific} specific numbers; to start from a fit, each side must hold at least its {length} features"
    )]
    NoRoom {
        /// Name of the modality.
        modality: String,
        /// Magnification n.
        multiple: u32,
        /// Share of the dissociated length that is invariant.
        boundary: f64,
        /// Numbers before the boundary.
        invariant: usize,
        /// Numbers after the boundary.
        specific: usize,
        /// Length of the modality's features.
        length: usize,
    },
    /// The model has other modalities than `image` and `video`.
    #[error("the model maps {found}; folding for search needs exactly `image` and `video`")]
    Modalities {
        /// Names of the modalities, separated by commas.
        found: String,
    },
    /// A folded map has another shape than the model to start from it.
    #[error(
        "the map of {modality} features is {} x {}; the model needs {} x {}", found[0], found[1], expected[0], expected[1]
    )]
    MapShape {
        /// `image` or `video`.
        modality: &'static str,
        /// Outputs and inputs of the map.
        found: [usize; 2],
        /// Outputs and inputs that the model needs.
        expected: [usize; 2],
    },
    /// Features have another length than the checkpoint's input.
    #[error("{modality} features have {found} numbers, the checkpoint maps {expected}")]
    Length {
        /// `image` or `video`.
        modality: &'static str,
        /// Length of the given features.
        found: usize,
        /// Length that the checkpoint maps.
        expected: usize,
    },
}

impl ErrorPaths for Error {
    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Error::Io { name, .. }
            | Error::Format { name, .. }
            | Error::NotFolded { name }
            | Error::AlreadyFolded { name }
            | Error::Encoder { name, .. } => vec![name],
            Error::BeyondHalf { .. }
            | Error::NoRoom { .. }
            | Error::Modalities { .. }
            | Error::MapShape { .. }
            | Error::Length { .. } => vec![],
        }
    }
}

impl Error {
    /// Converts an error of a tensor file to one that names the checkpoint.
    pub(super) fn in_file(path: &Path) -> impl Fn(tensors::Error) -> Error {
        let name = path.to_owned();
        move |error| match error {
            tensors::Error::Io(source) => Error::Io { name: name.clone(), source },
            other => Error::Format { name: name.clone(), found: other.to_string() },
        }
    }
}

/// The metadata of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointRecord {
    /// Version of the file layout.
    pub format: u32,
    /// Identifier of the encoder whose features the checkpoint maps.
    pub encoder: String,
    /// Names and feature lengths of the modalities.
    pub modalities: Vec<Modality>,
    /// Length of the shared space, l*.
    pub invariant: usize,
    /// Magnification n of the dissociation; 0 if the maps were fitted without layers.
    pub multiple: u32,
    /// Share of the dissociated length that is invariant; 0 if the maps were fitted without layers.
    pub boundary: f64,
    /// How the checkpoint was trained or fitted. The key `videos` lists training videos, and `fitted`
    /// describes the sample of a closed-form fit.
    pub training: serde_json::Value,
    /// Input length of [`CheckpointRecord::projection`]; absent without a projection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projected_from: Option<usize>,
    /// The affine map that shortens the encoder's image features to the length of the model's `image`, fitted
    /// before training. Stored in the file as the tensors `image.projection.{weight|bias}`.
    #[serde(skip)]
    pub projection: Option<Affine>,
}

/// Names of the projection's tensors.
pub(super) const PROJECTION: [&str; 2] = ["image.projection.weight", "image.projection.bias"];

impl CheckpointRecord {
    /// The record of a model of this form, without a projection.
    pub fn new(config: &GmfConfig, encoder: &str, training: serde_json::Value) -> CheckpointRecord {
        CheckpointRecord {
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

    /// Reads the record of a checkpoint file, without its weights.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Format`] if it is damaged or not a checkpoint.
    pub fn open(path: &Path) -> Result<CheckpointRecord, Error> {
        let file = tensors::open(path).map_err(Error::in_file(path))?;
        CheckpointRecord::in_tensors(&file).map_err(|found| Error::Format { name: path.to_owned(), found })
    }

    /// Sets the projection of image features.
    pub fn projected(mut self, projection: Option<Affine>) -> CheckpointRecord {
        self.projected_from = projection.as_ref().map(Affine::inputs);
        self.projection = projection;
        self
    }

    /// Reads the projection's tensors, if the record names one. Returns their number.
    pub(super) fn read_projection(&mut self, file: &tensors::TensorFile<'_>) -> Result<usize, tensors::Error> {
        let Some(from) = self.projected_from else { return Ok(0) };
        let to = self.modalities.iter().find(|m| m.name == "image").map_or(0, |m| m.length);
        let weight = file.take(PROJECTION[0], &[to, from])?;
        self.projection = Some(Affine { weight, bias: file.take(PROJECTION[1], &[to])? });
        Ok(PROJECTION.len())
    }

    /// The projection's tensors.
    pub(super) fn projection_tensors(&self) -> Vec<NamedTensor<'_>> {
        self.projection.as_ref().map_or(Vec::new(), |map| map.tensors(PROJECTION).to_vec())
    }

    /// The record in the metadata of an opened file, or a description of the fault.
    pub(super) fn in_tensors(file: &tensors::TensorFile<'_>) -> Result<CheckpointRecord, String> {
        let text = file.metadata.get(KEY).ok_or_else(|| format!("its metadata has no `{KEY}`"))?;
        let unreadable = |e: serde_json::Error| format!("its metadata `{KEY}` cannot be read ({e})");
        // The version is read first, because a later version may have other fields.
        let value: serde_json::Value = serde_json::from_str(text).map_err(unreadable)?;
        match value["format"].as_u64() {
            Some(found) if found != u64::from(FORMAT) => {
                Err(format!("format version {found} (this program reads {FORMAT})"))
            }
            _ => serde_json::from_value(value).map_err(unreadable),
        }
    }
}

/// An affine map `y = W x + c`, with `W` of shape (outputs, inputs) in row-major order, as torch stores a
/// linear layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Affine {
    /// W.
    pub weight: Vec<f32>,
    /// c; its length is the number of outputs.
    pub bias: Vec<f32>,
}

impl Affine {
    /// The map `y = x` of vectors of this length.
    pub fn identity(length: usize) -> Affine {
        let weight = (0..length * length).map(|i| f32::from(u8::from(i % (length + 1) == 0))).collect();
        Affine { weight, bias: vec![0.0; length] }
    }

    /// The map `W (x - mean)`.
    pub fn centred(weight: Vec<f32>, mean: &[f32]) -> Affine {
        let row_bias = |row: &[f32]| -row.iter().zip(mean).map(|(w, m)| w * m).sum::<f32>();
        Affine { bias: weight.chunks_exact(mean.len()).map(row_bias).collect(), weight }
    }

    /// Length of x.
    pub fn inputs(&self) -> usize {
        self.weight.len() / self.bias.len().max(1)
    }

    /// W and c as tensors of these names.
    pub(super) fn tensors(&self, [weight, bias]: [&str; 2]) -> [NamedTensor<'_>; 2] {
        let outputs = self.bias.len();
        [
            NamedTensor::new(weight, &[outputs, self.inputs()], &self.weight),
            NamedTensor::new(bias, &[outputs], &self.bias),
        ]
    }

    /// Computes y.
    ///
    /// # Panics
    /// If x has another length than [`Affine::inputs`].
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0f32; self.bias.len()];
        reelseek_index::gemv(&self.weight, y.len(), x.len(), x, &mut y);
        for (y, c) in y.iter_mut().zip(&self.bias) {
            *y += c;
        }
        y
    }
}

/// A folded checkpoint: an affine map into the shared space for images, and one for videos.
#[derive(Debug, Clone, PartialEq)]
pub struct Folded {
    /// `image.inv`, of shape (l*, l_image).
    pub image: Affine,
    /// `video.inv`, of shape (l*, l_video).
    pub video: Affine,
    /// Metadata.
    pub record: CheckpointRecord,
    /// Number format of the file.
    pub(super) precision: StoredPrecision,
}

impl Folded {
    /// A checkpoint of two maps, stored as f32.
    pub fn new(image: Affine, video: Affine, record: CheckpointRecord) -> Folded {
        Folded { image, video, record, precision: StoredPrecision::F32 }
    }

    /// The same maps rounded to f16, which halves the file.
    ///
    /// # Errors
    /// [`Error::BeyondHalf`] if a weight exceeds the range of f16.
    pub fn halved(mut self) -> Result<Folded, Error> {
        for map in [&mut self.image, &mut self.video].into_iter().chain(&mut self.record.projection) {
            for value in map.weight.iter_mut().chain(&mut map.bias) {
                let rounded = half::f16::from_f32(*value).to_f32();
                if !rounded.is_finite() {
                    return Err(Error::BeyondHalf { value: *value });
                }
                *value = rounded;
            }
        }
        Ok(Folded { precision: StoredPrecision::F16, ..self })
    }

    /// The checkpoint for the encoder `layout` that is embedded in the program.
    pub fn embedded() -> Folded {
        let bytes = include_bytes!("../../assets/layout-gmf.safetensors");
        Folded::parse(bytes, "the embedded checkpoint").expect("checked by a test of this module")
    }

    /// Opens a folded checkpoint.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; as [`Folded::parse`].
    pub fn open(path: &Path) -> Result<Folded, Error> {
        let bytes = files::read(path, MAX_FILE_BYTES).map_err(|source| Error::Io { name: path.to_owned(), source })?;
        Folded::parse(&bytes, path)
    }

    /// Parses the bytes of a folded checkpoint; `name` is the file's name in errors.
    ///
    /// # Errors
    /// [`Error::NotFolded`] for a checkpoint with all layers; [`Error::Format`] if the file is damaged, of a
    /// later version, or has unexpected tensors.
    pub fn parse(bytes: &[u8], name: impl AsRef<Path>) -> Result<Folded, Error> {
        let name = name.as_ref();
        let wrong = |found: String| Error::Format { name: name.to_owned(), found };
        let file = tensors::parse(bytes).map_err(|e| wrong(e.to_string()))?;
        let mut record = CheckpointRecord::in_tensors(&file).map_err(wrong)?;
        if file.check("image.dis.bias", &[]).is_err_and(|e| !matches!(e, tensors::Error::Missing(_))) {
            return Err(Error::NotFolded { name: name.to_owned() });
        }
        let expected = 4 + record.read_projection(&file).map_err(|e| wrong(e.to_string()))?;
        if file.names().len() != expected {
            return Err(wrong(format!("{} tensors instead of {expected}", file.names().len())));
        }
        let mut precision = StoredPrecision::F16;
        let mut read = |modality: &str| -> Result<Affine, Error> {
            let length = record.modalities.iter().find(|m| m.name == modality).map(|m| m.length);
            let length = length.ok_or_else(|| wrong(format!("no modality `{modality}`")))?;
            let outputs = record.invariant;
            if !(1..=MAX_LEN).contains(&length) || !(1..=MAX_LEN).contains(&outputs) {
                return Err(wrong(format!("impossible lengths {length} and {outputs}")));
            }
            let mut take = |suffix: &str, shape: &[usize]| {
                let taken = file.take_as(&format!("{modality}.inv.{suffix}"), shape);
                let (values, stored) = taken.map_err(|e| wrong(e.to_string()))?;
                if stored == StoredPrecision::F32 {
                    precision = stored;
                }
                Ok(values)
            };
            Ok(Affine { weight: take("weight", &[outputs, length])?, bias: take("bias", &[outputs])? })
        };
        let (image, video) = (read("image")?, read("video")?);
        Ok(Folded { image, video, record, precision })
    }

    /// The bytes of the file. Equal checkpoints give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let record = serde_json::to_string(&self.record).expect("a record is plain data");
        let [image_weight, image_bias] = self.image.tensors(["image.inv.weight", "image.inv.bias"]);
        let [video_weight, video_bias] = self.video.tensors(["video.inv.weight", "video.inv.bias"]);
        let mut all = vec![image_bias, image_weight, video_bias, video_weight];
        all.extend(self.record.projection_tensors());
        tensors::write(&all, self.precision, HashMap::from([(KEY.to_owned(), record)]))
    }

    /// First 16 hexadecimal digits of the file's BLAKE3 hash. An index records it.
    pub fn fingerprint(&self) -> String {
        blake3::hash(&self.to_bytes()).to_hex()[..16].to_owned()
    }

    /// Checks that the checkpoint was made for `encoder`; `name` is the checkpoint's name in the error.
    ///
    /// # Errors
    /// [`Error::Encoder`] with both encoders.
    pub fn expect_encoder(&self, encoder: &str, name: impl AsRef<Path>) -> Result<(), Error> {
        if self.record.encoder == encoder {
            return Ok(());
        }
        let (found, expected) = (self.record.encoder.clone(), encoder.to_owned());
        Err(Error::Encoder { name: name.as_ref().to_owned(), found, expected })
    }

    /// Embeds image features: `inv(image)`, after the projection if there is one, scaled to length 1.
    ///
    /// # Errors
    /// [`Error::Length`] if the features have another length than the checkpoint's input.
    pub fn embed_image(&self, features: &[f32]) -> Result<Vec<f32>, Error> {
        match &self.record.projection {
            Some(projection) if features.len() == projection.inputs() => {
                embed(&self.image, &projection.apply(features), "image")
            }
            _ => embed(&self.image, features, "image"),
        }
    }

    /// Embeds clip features: `inv(video)`, scaled to length 1.
    ///
    /// # Errors
    /// [`Error::Length`] if the features have another length than the checkpoint's input.
    pub fn embed_video(&self, features: &[f32]) -> Result<Vec<f32>, Error> {
        embed(&self.video, features, "video")
    }
}

fn embed(map: &Affine, features: &[f32], modality: &'static str) -> Result<Vec<f32>, Error> {
    if features.len() != map.inputs() {
        return Err(Error::Length { modality, found: features.len(), expected: map.inputs() });
    }
    let mut y = map.apply(features);
    let norm = y.iter().map(|v| v * v).sum::<f32>().sqrt();
    // A zero vector is a valid embedding: it scores 0 against everything.
    let scale = if norm.is_finite() && norm > 1e-12 { 1.0 / norm } else { 0.0 };
    for v in &mut y {
        *v = if scale == 0.0 { 0.0 } else { *v * scale };
    }
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Folded {
        let values = |n: usize| (0..n).map(|i| (i % 7) as f32 * 0.25 - 0.5).collect::<Vec<f32>>();
        Folded {
            image: Affine { weight: values(12), bias: values(3) },
            video: Affine { weight: values(30), bias: values(3) },
            record: CheckpointRecord {
                format: FORMAT,
                encoder: "layout/1".into(),
                modalities: vec![
                    Modality { name: "image".into(), length: 4 },
                    Modality { name: "video".into(), length: 10 },
                ],
                invariant: 3,
                multiple: 0,
                boundary: 0.0,
                training: serde_json::json!({"how": "made for a test"}),
                projected_from: None,
                projection: None,
            },
            precision: StoredPrecision::F16,
        }
    }

    #[test]
    fn bytes_round_trip_unchanged() {
        let checkpoint = small();
        let bytes = checkpoint.to_bytes();
        assert_eq!(Folded::parse(&bytes, "x").unwrap(), checkpoint);
        assert_eq!(bytes, checkpoint.to_bytes());
    }

    #[test]
    fn embeds_to_length_one_and_rejects_wrong_lengths() {
        let checkpoint = small();
        let y = checkpoint.embed_image(&[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert!((y.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-6);
        let error = checkpoint.embed_video(&[1.0]).unwrap_err().to_string();
        assert!(error.contains("10") && error.contains('1'), "{error}");
    }

    #[test]
    fn rejects_every_truncation() {
        let bytes = small().to_bytes();
        for cut in 0..bytes.len() {
            assert!(Folded::parse(&bytes[..cut], "cut").is_err(), "{cut}");
        }
    }

    #[test]
    fn rejects_foreign_and_later_files_by_name() {
        let error = Folded::parse(b"not a checkpoint at all", "a.bin").unwrap_err().to_string();
        assert!(error.contains("a.bin"), "{error}");
        let mut later = small();
        later.record.format = 99;
        let error = Folded::parse(&later.to_bytes(), "b").unwrap_err().to_string();
        assert!(error.contains("99"), "{error}");
    }

    #[test]
    fn rejects_weights_beyond_f16() {
        let mut large = small();
        large.video.weight[3] = 1e5;
        assert!(matches!(large.halved(), Err(Error::BeyondHalf { value }) if value == 1e5));
        assert!(small().halved().is_ok());
    }

    #[test]
    fn embedded_checkpoint_matches_the_embedded_encoder() {
        let checkpoint = Folded::embedded();
        checkpoint.expect_encoder("layout/1", "embedded").unwrap();
        assert_eq!(checkpoint.image.weight.len(), 128 * 128);
        assert_eq!(checkpoint.video.weight.len(), 128 * 4096);
    }
}
