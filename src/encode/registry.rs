//! Which encoders there are, and where their weights are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(feature = "kinds")]
use super::efficientnet;
use super::{Encoder, Error, LayoutEncoder};
#[cfg(feature = "encoders")]
use super::{Sampling, models};
#[cfg(feature = "encoders")]
use crate::base::files;
#[cfg(feature = "encoders")]
use crate::media::Fit;

/// An encoder with weights. Every build lists all entries; the feature `encoders` can open them.
#[derive(Debug)]
pub struct EncoderEntry {
    /// Name of the encoder, such as `clip`.
    pub name: &'static str,
    /// Version, raised when the same weights give other features.
    pub version: u32,
    /// What the encoder is good for, in one line.
    pub about: &'static str,
    /// The publication.
    pub source: &'static str,
    /// The licence of the weights.
    pub licence: &'static str,
    /// The weights on the Hugging Face hub; `None` if they are not there.
    pub hub: Option<HubFile>,
    /// Weights files that this encoder reads.
    pub weights: &'static str,
    /// Whether the features were checked with the real weights. Otherwise only the arithmetic was, with
    /// seeded weights.
    pub verified: bool,
    /// Floating-point operations (two for each multiply-add) for an image with all its views, or for a clip
    /// if the encoder computes clips as a whole.
    pub flops: f64,
    /// Opens the encoder from its weights file, with this id.
    #[cfg(feature = "encoders")]
    build: BuildEncoder,
}

/// Opens an encoder from its weights file, with this id.
#[cfg(feature = "encoders")]
type BuildEncoder = fn(&EncoderEntry, &Path, String) -> Result<Arc<dyn Encoder>, String>;

/// A file on the Hugging Face hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HubFile {
    /// Owner and name of the repository.
    pub repository: &'static str,
    /// Branch, tag or commit.
    pub revision: &'static str,
    /// Path of the file in the repository.
    pub file: &'static str,
    /// Size in bytes. For most files rounded to megabytes, as the hub displays it.
    pub bytes: u64,
}

/// Where the weights of an encoder come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WeightsOrigin {
    /// Part of the library: `layout` and `efficientnet-lite2`.
    Embedded,
    /// The Hugging Face hub.
    Hub,
    /// A file that the user has.
    File,
    /// An ONNX file that the user has, with a JSON file beside it.
    Onnx,
}

impl WeightsOrigin {
    /// The origin for the name or the id of an encoder; names that are in no list are ONNX files.
    pub fn of(name_or_id: &str) -> WeightsOrigin {
        match name_in(name_or_id) {
            LAYOUT | EFFICIENTNET => WeightsOrigin::Embedded,
            name => match entry(name) {
                Ok(EncoderEntry { hub: Some(_), .. }) => WeightsOrigin::Hub,
                Ok(_) => WeightsOrigin::File,
                Err(_) => WeightsOrigin::Onnx,
            },
        }
    }
}

/// The name of the embedded encoder of scenes.
pub const LAYOUT: &str = "layout";
/// The name of the embedded encoder of kinds of scenes.
pub const EFFICIENTNET: &str = "efficientnet-lite2";
/// Prefix of the names of ONNX encoders; the path of the file follows, or in an id the stem of its name.
pub(super) const ONNX_PREFIX: &str = "onnx:";

/// The embedded learned encoder; `None` if the build lacks it.
pub fn default_kind() -> Option<&'static str> {
    #[cfg(feature = "kinds")]
    return Some(EFFICIENTNET);
    #[cfg(not(feature = "kinds"))]
    None
}

/// All encoders with weights: all except the embedded ones and ONNX files.
pub static ENTRIES: &[EncoderEntry] = &[
    EncoderEntry {
        name: "mobilenet-v2",
        version: 1,
        about: "small and fast ImageNet classifier of 2018: finds the same kind of object",
        source: "Sandler et al., CVPR 2018",
        licence: "Apache-2.0",
        hub: Some(HubFile {
            repository: "google/mobilenet_v2_1.0_224",
            revision: "main",
            file: "model.safetensors",
            bytes: 14_194_904,
        }),
        weights: "model.safetensors of google/mobilenet_v2_1.0_224, or the same network with batch normalisation folded \
                  in (stem, block0..16, head)",
        verified: true,
        // Two views of each picture.
        flops: 1.204e9,
        #[cfg(feature = "encoders")]
        build: models::mobilenet_v2::build,
    },
    EncoderEntry {
        name: "clip",
        version: 1,
        about: "CLIP ViT-B/32, trained on web images and their captions: finds the same subject",
        source: "Radford et al., ICML 2021",
        licence: "MIT",
        hub: Some(HubFile {
            repository: "openai/clip-vit-base-patch32",
            // `main` had no safetensors file.
            revision: "refs/pr/15",
            file: "model.safetensors",
            bytes: 605_000_000,
        }),
        weights: "model.safetensors of openai/clip-vit-base-patch32 (vision_model, visual_projection)",
        verified: false,
        flops: 8.8e9,
        #[cfg(feature = "encoders")]
        build: models::clip::build,
    },
    EncoderEntry {
        name: "mobileclip",
        version: 1,
        about: "MobileCLIP-S1, distilled from larger CLIP models for phones: finds the same subject",
        source: "Vasu et al., CVPR 2024",
        licence: "Apple model licence for research (apple-amlr)",
        hub: Some(HubFile {
            repository: "apple/MobileCLIP-S1-OpenCLIP",
            revision: "main",
            file: "open_clip_model.safetensors",
            bytes: 340_000_000,
        }),
        weights: "open_clip_model.safetensors of apple/MobileCLIP-S1-OpenCLIP (visual.trunk)",
        verified: false,
        flops: 9.3e9,
        #[cfg(feature = "encoders")]
        build: models::mobileclip::build,
    },
    EncoderEntry {
        name: "siglip",
        version: 1,
        about: "SigLIP base, trained on web images and their captions, slower than CLIP: finds the same subject",
        source: "Zhai et al., ICCV 2023",
        licence: "Apache-2.0",
        hub: Some(HubFile {
            repository: "google/siglip-base-patch16-224",
            revision: "main",
            file: "model.safetensors",
            bytes: 813_000_000,
        }),
        weights: "model.safetensors of google/siglip-base-patch16-224 (vision_model)",
        verified: false,
        flops: 35.4e9,
        #[cfg(feature = "encoders")]
        build: models::siglip::build,
    },
    EncoderEntry {
        name: "dinov2",
        version: 1,
        about: "DINOv2 small, trained on images alone: finds the same parts, materials and objects",
        source: "Oquab et al., TMLR 2024",
        licence: "Apache-2.0",
        hub: Some(HubFile {
            repository: "facebook/dinov2-small",
            revision: "main",
            file: "model.safetensors",
            bytes: 88_000_000,
        }),
        weights: "model.safetensors of facebook/dinov2-small",
        verified: false,
        flops: 12.2e9,
        #[cfg(feature = "encoders")]
        build: models::dinov2::build,
    },
    EncoderEntry {
        name: "c3d",
        version: 1,
        about: "C3D fc6, trained on a million sports videos: finds the same motion; slow",
        source: "Tran et al., ICCV 2015",
        licence: "the licence of the given weights",
        hub: None,
        weights: "conv1 to conv5b and fc6 with the names of the usual c3d.pickle, as safetensors or npz",
        verified: false,
        flops: 77.1e9,
        #[cfg(feature = "encoders")]
        build: models::c3d::build,
    },
];

/// Image encoders see 4 frames in a clip of 2 s; neighbouring frames are alike, so more frames would add
/// little.
#[cfg(feature = "encoders")]
pub(super) fn image_sampling(side: u32, fit: Fit) -> Sampling {
    Sampling { rate_hz: 2.0, frames_per_clip: 4, stride_frames: 2, width: side, height: side, fit }
}

impl EncoderEntry {
    /// The path of its weights in the cache folder, whether the file exists or not.
    pub fn path(&self) -> PathBuf {
        let file = self.hub.map_or("weights.safetensors", |hub| hub.file);
        cache_folder().join(self.name).join(file)
    }

    #[cfg(feature = "encoders")]
    fn open(&self, weights: Option<&Path>) -> Result<Arc<dyn Encoder>, Error> {
        let path = weights.map_or_else(|| self.path(), Path::to_owned);
        if weights.is_none() && !path.exists() {
            return Err(Error::NoWeights { name: self.name, path, origin: WeightsOrigin::of(self.name) });
        }
        let fault = |found: String, is_pickle| Error::Weights {
            name: self.name,
            path: path.clone(),
            found,
            is_pickle,
            expected: self.weights,
        };
        let mut hash = blake3::Hasher::new();
        let file = files::open(&path).map_err(|e| fault(e.to_string(), false))?;
        hash.update_reader(&file).map_err(|e| fault(e.to_string(), false))?;
        let id = format!("{}/{}+{}", self.name, self.version, &hash.finalize().to_hex()[..8]);
        (self.build)(self, &path, id).map_err(|found| match is_pickle(&path) {
            true => fault("a Python pickle".to_owned(), true),
            false => fault(found, false),
        })
    }

    #[cfg(not(feature = "encoders"))]
    fn open(&self, _weights: Option<&Path>) -> Result<Arc<dyn Encoder>, Error> {
        Err(Error::NotBuilt { name: self.name.to_owned(), feature: "encoders" })
    }
}

/// Whether a file is a pickle of Python, or an archive of `torch.save`, which begins with one.
#[cfg(feature = "encoders")]
fn is_pickle(path: &Path) -> bool {
    use std::io::Read;
    let mut start = Vec::new();
    let read = files::open(path).and_then(|file| file.take(128).read_to_end(&mut start));
    // The opcode PROTO with a protocol that is in use, or the name of the archive's first file.
    read.is_ok()
        && (matches!(start[..], [0x80, 2..=5, ..])
            || start.starts_with(b"PK") && start.windows(8).any(|name| name == b"data.pkl"))
}

/// The folder of weights: `REELSEEK_CACHE`, or `reelseek` in the user's cache folder.
pub fn cache_folder() -> PathBuf {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(folder) = var("REELSEEK_CACHE") {
        return folder;
    }
    let user = var("XDG_CACHE_HOME")
        .or_else(|| var("LOCALAPPDATA").filter(|_| cfg!(windows)))
        .or_else(|| var("HOME").map(|home| home.join(".cache")));
    user.unwrap_or_else(std::env::temp_dir).join("reelseek")
}

/// The entry of an encoder by its name.
///
/// # Errors
/// [`Error::Unknown`].
pub fn entry(name: &str) -> Result<&'static EncoderEntry, Error> {
    ENTRIES.iter().find(|entry| entry.name == name).ok_or_else(|| {
        let known = [LAYOUT, EFFICIENTNET].into_iter().chain(ENTRIES.iter().map(|entry| entry.name)).collect();
        Error::Unknown { name: name.to_owned(), known }
    })
}

/// The file in a name of the form `onnx:FILE`.
pub fn onnx_path(name: &str) -> Option<&Path> {
    name.strip_prefix(ONNX_PREFIX).map(Path::new)
}

/// Opens an encoder by its name, with these weights or the weights in the cache folder.
///
/// # Errors
/// [`Error::Unknown`]; [`Error::NotBuilt`]; [`Error::NoWeights`] if the weights are not on this machine;
/// [`Error::TakesNoWeights`] if `layout` is opened with weights; [`Error::Weights`] or one of the ONNX errors
/// if the files are not what the encoder reads.
pub fn open(name: &str, weights: Option<&Path>) -> Result<Arc<dyn Encoder>, Error> {
    open_known(name, weights, None)
}

/// As [`open`], for an index or a checkpoint that records the id `known`. An ONNX encoder with the same bytes
/// keeps that id even if its file was renamed.
///
/// # Errors
/// As [`open`].
pub fn open_known(name: &str, weights: Option<&Path>, known: Option<&str>) -> Result<Arc<dyn Encoder>, Error> {
    if name == LAYOUT {
        return match weights {
            Some(path) => Err(Error::TakesNoWeights { name: LAYOUT, path: path.to_owned() }),
            None => Ok(Arc::new(LayoutEncoder::embedded())),
        };
    }
    if name == EFFICIENTNET {
        return open_efficientnet();
    }
    match onnx_path(name) {
        Some(file) => open_onnx(weights.unwrap_or(file), known),
        None => entry(name)?.open(weights),
    }
}

#[cfg(feature = "kinds")]
fn open_efficientnet() -> Result<Arc<dyn Encoder>, Error> {
    Ok(Arc::new(efficientnet::EfficientNetEncoder::embedded()))
}

#[cfg(not(feature = "kinds"))]
fn open_efficientnet() -> Result<Arc<dyn Encoder>, Error> {
    Err(Error::NotBuilt { name: EFFICIENTNET.to_owned(), feature: "kinds" })
}

#[cfg(feature = "onnx")]
fn open_onnx(path: &Path, known: Option<&str>) -> Result<Arc<dyn Encoder>, Error> {
    super::onnx::open(path, known)
}

#[cfg(not(feature = "onnx"))]
fn open_onnx(path: &Path, _known: Option<&str>) -> Result<Arc<dyn Encoder>, Error> {
    Err(Error::NotBuilt { name: format!("{ONNX_PREFIX}{}", path.display()), feature: "onnx" })
}

/// Opens the encoder with an id that `owner` ("the index", "the checkpoint") records.
///
/// # Errors
/// As [`open`]; [`Error::WrongEncoder`] if the weights give another id.
pub fn open_as(id: &str, weights: Option<&Path>, owner: &'static str) -> Result<Arc<dyn Encoder>, Error> {
    let encoder = open_known(name_in(id), weights, Some(id))?;
    check_id(id, encoder.as_ref(), owner)?;
    Ok(encoder)
}

/// Checks that an encoder has the id that `owner` ("the index", "the checkpoint") records.
///
/// # Errors
/// [`Error::WrongEncoder`].
pub fn check_id(needed: &str, encoder: &dyn Encoder, owner: &'static str) -> Result<(), Error> {
    let given = encoder.info().id.clone();
    if given == needed {
        return Ok(());
    }
    Err(Error::WrongEncoder { owner, needed: needed.to_owned(), given, origin: WeightsOrigin::of(needed) })
}

/// The name in an id.
fn name_in(id: &str) -> &str {
    id.split('/').next().unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_encoder_is_refused_with_the_origin_of_the_needed_one() {
        let given = LayoutEncoder::embedded();
        for (needed, expected) in [
            ("layout/2", WeightsOrigin::Embedded),
            ("efficientnet-lite2/2", WeightsOrigin::Embedded),
            ("mobilenet-v2/1+0123abcd", WeightsOrigin::Hub),
            ("c3d/1+0123abcd", WeightsOrigin::File),
            ("onnx:mine/1+0123abcd", WeightsOrigin::Onnx),
        ] {
            let error = check_id(needed, &given, "the index").unwrap_err();
            assert!(matches!(error, Error::WrongEncoder { origin, .. } if origin == expected), "{error:?}");
            let message = format!("the index needs the encoder {needed}, found {}", given.info().id);
            assert_eq!(error.to_string(), message);
        }
    }

    #[cfg(feature = "encoders")]
    #[test]
    fn an_error_marks_pickles() {
        for name in ["saved_2017.pickle", "saved_today.pickle"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name);
            let error = open("c3d", Some(&path)).unwrap_err();
            assert!(matches!(error, Error::Weights { name: "c3d", is_pickle: true, .. }), "{error:?}");
        }
        let text = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&text, "PK, but no archive").unwrap();
        assert!(matches!(open("c3d", Some(text.path())).unwrap_err(), Error::Weights { is_pickle: false, .. }));
    }

    #[cfg(not(feature = "encoders"))]
    #[test]
    fn a_learned_encoder_needs_its_feature() {
        let error = open("clip", None).unwrap_err();
        assert_eq!(error.to_string(), "the encoder clip is not part of this build, which lacks the feature `encoders`");
    }
}
