//! The folded checkpoint: file and arithmetic.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::config::Modality;
use crate::base::tensors::{self, StoredPrecision};

/// Version of the file's layout.
pub(super) const FORMAT: u32 = 1;
/// The one metadata key; its value is the [`Record`] as JSON. One key, since the order of several is not kept.
pub(super) const KEY: &str = "reelseek";
/// No map larger than this is read: 65,536 x 65,536 would be a mistake.
const MAX_LEN: usize = 1 << 16;

/// Why a checkpoint could not be used.
#[derive(Debug, Error)]
pub enum Error {
    /// The file could not be read or written.
    #[error("checkpoint {name}: {source}")]
    Io {
        /// Which file.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no checkpoint of ours, or not of the kind that is needed.
    #[error("checkpoint {name}: {found}; expected a GMF checkpoint, as `reelseek train` and `reelseek fold` write it")]
    Format {
        /// Which file.
        name: String,
        /// What is wrong with it.
        found: String,
    },
    /// The checkpoint belongs to another encoder.
    #[error(
        "checkpoint {name} was made for the encoder {found}, but {expected} is in use; name a checkpoint that fits with --checkpoint"
    )]
    Encoder {
        /// Which file.
        name: String,
        /// The encoder it was made for.
        found: String,
        /// The encoder in use.
        expected: String,
    },
    /// A number that f16 cannot hold.
    #[error("a weight of {0} is beyond f16 (65,504); store numbers as f32, without --half")]
    Half(f32),
    /// The boundary leaves no room to start from folded maps.
    #[error(
        "with multiple {multiple} and boundary {boundary} the dissociated `{modality}` has {invariant} invariant and {specific} specific numbers; to \
         start from a fit each side must hold at least its {length} features: move the boundary towards 0.5"
    )]
    Room {
        /// Which modality.
        modality: String,
        /// The magnification.
        multiple: u32,
        /// The boundary.
        boundary: f64,
        /// Numbers before it.
        invariant: usize,
        /// Numbers after it.
        specific: usize,
        /// Length of the features.
        length: usize,
    },
    /// The model maps other things than images and videos.
    #[error("the model maps {0}; folding for search needs exactly `image` and `video`")]
    Modalities(String),
    /// Features of the wrong length were given.
    #[error("{modality} features have {found} numbers, the checkpoint maps {expected}")]
    Length {
        /// `image` or `video`.
        modality: &'static str,
        /// Length given.
        found: usize,
        /// Length expected.
        expected: usize,
    },
}

impl Error {
    /// Puts the file's name to what is wrong with its tensors.
    pub(super) fn of(path: &Path) -> impl Fn(tensors::Error) -> Error {
        let name = path.display().to_string();
        move |error| match error {
            tensors::Error::Io(source) => Error::Io { name: name.clone(), source },
            other => Error::Format { name: name.clone(), found: other.to_string() },
        }
    }
}

/// What a checkpoint says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of the file's layout.
    pub format: u32,
    /// Encoder whose features it maps.
    pub encoder: String,
    /// Names and lengths of the modalities.
    pub modalities: Vec<Modality>,
    /// Length of the shared space, l*.
    pub invariant: usize,
    /// Magnification n of the dissociation; 0 when the maps were fitted folded, without the layers.
    pub multiple: u32,
    /// Share of the dissociated length that is invariant; 0 likewise.
    pub boundary: f64,
    /// How it was made, for people.
    pub training: serde_json::Value,
    /// Length of the image features that [`Record::projection`] takes; none without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projected_from: Option<usize>,
    /// Where the encoder's image features are longer than the model's `image`: the affine map between them, fitted before training. In the file the
    /// tensors `image.projection.{weight|bias}`.
    #[serde(skip)]
    pub projection: Option<Affine>,
}

/// The tensors of a projection.
pub(super) const PROJECTION: [&str; 2] = ["image.projection.weight", "image.projection.bias"];

impl Record {
    /// What a checkpoint file says of itself, without reading its numbers.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Format`] if it is damaged or something else.
    pub fn open(path: &Path) -> Result<Record, Error> {
        let file = tensors::open(path).map_err(Error::of(path))?;
        Record::of(&file).map_err(|found| Error::Format { name: path.display().to_string(), found })
    }

    /// The same, with a projection before `image`.
    pub fn projected(mut self, projection: Option<Affine>) -> Record {
        self.projected_from = projection.as_ref().map(Affine::inputs);
        self.projection = projection;
        self
    }

    /// Reads the projection's tensors, if there is one. Gives how many there are.
    pub(super) fn read_projection(&mut self, file: &tensors::TensorFile<'_>) -> Result<usize, tensors::Error> {
        let Some(from) = self.projected_from else { return Ok(0) };
        let to = self.modalities.iter().find(|m| m.name == "image").map_or(0, |m| m.length);
        let weight = file.take(PROJECTION[0], &[to, from])?;
        self.projection = Some(Affine { weight, bias: file.take(PROJECTION[1], &[to])? });
        Ok(PROJECTION.len())
    }

    /// The projection's tensors.
    pub(super) fn projection_tensors(&self) -> Vec<(&'static str, Vec<usize>, &[f32])> {
        let Some(map) = &self.projection else { return Vec::new() };
        let [weight, bias] = PROJECTION;
        vec![(weight, vec![map.bias.len(), map.inputs()], &map.weight), (bias, vec![map.bias.len()], &map.bias)]
    }

    /// The record of an opened file, or what is wrong with it.
    pub(super) fn of(file: &tensors::TensorFile<'_>) -> Result<Record, String> {
        let text = file.metadata.get(KEY).ok_or_else(|| format!("its metadata has no `{KEY}`"))?;
        let unread = |e: serde_json::Error| format!("its metadata `{KEY}` cannot be read ({e})");
        // The version first: a later one may have other fields.
        let value: serde_json::Value = serde_json::from_str(text).map_err(unread)?;
        match value["format"].as_u64() {
            Some(found) if found != u64::from(FORMAT) => {
                Err(format!("format version {found} (this program reads {FORMAT})"))
            }
            _ => serde_json::from_value(value).map_err(unread),
        }
    }
}

/// `y = W x + c`, with `W` of shape (outputs, inputs), row after row.
#[derive(Debug, Clone, PartialEq)]
pub struct Affine {
    /// W.
    pub weight: Vec<f32>,
    /// c; its length is the number of outputs.
    pub bias: Vec<f32>,
}

impl Affine {
    /// The length of x.
    pub fn inputs(&self) -> usize {
        self.weight.len() / self.bias.len().max(1)
    }

    /// y.
    ///
    /// # Panics
    /// If x has another length.
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0f32; self.bias.len()];
        reelseek_index::gemv(&self.weight, self.bias.len(), x.len(), x, &mut y);
        for (y, c) in y.iter_mut().zip(&self.bias) {
            *y += c;
        }
        y
    }
}

/// The maps into the invariant space, one for each modality.
#[derive(Debug, Clone, PartialEq)]
pub struct Folded {
    /// `image.inv`: (l*, l_image).
    pub image: Affine,
    /// `video.inv`: (l*, l_video).
    pub video: Affine,
    /// What the file says of itself.
    pub record: Record,
    /// How its file stores the numbers.
    pub(super) precision: StoredPrecision,
}

impl Folded {
    /// Two fitted or folded maps, stored as f32.
    pub fn new(image: Affine, video: Affine, record: Record) -> Folded {
        Folded { image, video, record, precision: StoredPrecision::F32 }
    }

    /// The same maps, rounded to f16: half the file.
    ///
    /// # Errors
    /// [`Error::Half`] if a number is beyond f16.
    pub fn halved(mut self) -> Result<Folded, Error> {
        for map in [&mut self.image, &mut self.video].into_iter().chain(&mut self.record.projection) {
            for value in map.weight.iter_mut().chain(&mut map.bias) {
                let rounded = half::f16::from_f32(*value).to_f32();
                if !rounded.is_finite() {
                    return Err(Error::Half(*value));
                }
                *value = rounded;
            }
        }
        Ok(Folded { precision: StoredPrecision::F16, ..self })
    }

    /// The checkpoint shipped with the program, for the encoder `layout`.
    pub fn embedded() -> Folded {
        let bytes = include_bytes!("../../assets/layout-gmf.safetensors");
        Folded::parse(bytes, "the embedded checkpoint").expect("checked by a test of this module")
    }

    /// Opens a checkpoint file.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Format`] if it is damaged or something else.
    pub fn open(path: &Path) -> Result<Folded, Error> {
        let name = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|source| Error::Io { name: name.clone(), source })?;
        Folded::parse(&bytes, &name)
    }

    /// Reads a checkpoint from the bytes of its file.
    ///
    /// # Errors
    /// [`Error::Format`] if it is damaged, of a later version, or has other tensors than a folded checkpoint has.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Folded, Error> {
        let wrong = |found: String| Error::Format { name: name.to_owned(), found };
        let file = tensors::parse(bytes).map_err(|e| wrong(e.to_string()))?;
        let mut record = Record::of(&file).map_err(wrong)?;
        if file.check("image.dis.bias", &[]).is_err_and(|e| !matches!(e, tensors::Error::Missing(_))) {
            return Err(wrong("it holds all layers; `reelseek fold` makes the folded one of it".to_owned()));
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

    /// The bytes of the file; the same checkpoint gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let record = serde_json::to_string(&self.record).expect("a record is plain data");
        let outputs = self.record.invariant;
        let (image, video) = ([outputs, self.image.inputs()], [outputs, self.video.inputs()]);
        let mut all: Vec<(&str, &[usize], &[f32])> = vec![
            ("image.inv.bias", &image[..1], &self.image.bias),
            ("image.inv.weight", &image, &self.image.weight),
            ("video.inv.bias", &video[..1], &self.video.bias),
            ("video.inv.weight", &video, &self.video.weight),
        ];
        let projection = self.record.projection_tensors();
        all.extend(projection.iter().map(|(name, shape, values)| (*name, shape.as_slice(), *values)));
        tensors::write(&all, self.precision, HashMap::from([(KEY.to_owned(), record)]))
    }

    /// A short name for exactly these weights, recorded by an index.
    pub fn fingerprint(&self) -> String {
        blake3::hash(&self.to_bytes()).to_hex()[..16].to_owned()
    }

    /// Refuses an encoder that the checkpoint was not made for.
    ///
    /// # Errors
    /// [`Error::Encoder`] names both.
    pub fn expect_encoder(&self, encoder: &str, name: &str) -> Result<(), Error> {
        if self.record.encoder == encoder {
            return Ok(());
        }
        Err(Error::Encoder { name: name.to_owned(), found: self.record.encoder.clone(), expected: encoder.to_owned() })
    }

    /// Embeds image features: `inv(image)`, after the projection if there is one, scaled to length 1.
    ///
    /// # Errors
    /// [`Error::Length`] if the features have another length than the checkpoint's.
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
    /// [`Error::Length`] if the features have another length than the checkpoint's.
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
    // A zero vector is a legal embedding: it scores 0 against everything.
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
            record: Record {
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
    fn bytes_round_trip_and_are_stable() {
        let checkpoint = small();
        let bytes = checkpoint.to_bytes();
        assert_eq!(Folded::parse(&bytes, "x").unwrap(), checkpoint);
        assert_eq!(bytes, checkpoint.to_bytes());
    }

    #[test]
    fn embeddings_have_length_one_and_wrong_lengths_are_refused() {
        let checkpoint = small();
        let y = checkpoint.embed_image(&[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert!((y.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-6);
        let error = checkpoint.embed_video(&[1.0]).unwrap_err().to_string();
        assert!(error.contains("10") && error.contains('1'), "{error}");
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = small().to_bytes();
        for cut in 0..bytes.len() {
            assert!(Folded::parse(&bytes[..cut], "cut").is_err(), "{cut}");
        }
    }

    #[test]
    fn foreign_and_later_files_are_refused_by_name() {
        let error = Folded::parse(b"not a checkpoint at all", "a.bin").unwrap_err().to_string();
        assert!(error.contains("a.bin"), "{error}");
        let mut later = small();
        later.record.format = 99;
        let error = Folded::parse(&later.to_bytes(), "b").unwrap_err().to_string();
        assert!(error.contains("99"), "{error}");
    }

    #[test]
    fn what_f16_cannot_hold_is_refused() {
        let mut large = small();
        large.video.weight[3] = 1e5;
        assert!(matches!(large.halved(), Err(Error::Half(v)) if v == 1e5));
        assert!(small().halved().is_ok());
    }

    #[test]
    fn embedded_checkpoint_fits_the_embedded_encoder() {
        let checkpoint = Folded::embedded();
        checkpoint.expect_encoder("layout/1", "embedded").unwrap();
        assert_eq!(checkpoint.image.weight.len(), 128 * 128);
        assert_eq!(checkpoint.video.weight.len(), 128 * 4096);
    }
}
