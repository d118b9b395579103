//! Which encoders there are, and where their weights are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::mobilenet_v2::{self, MobileNetV2};
use super::pooled::Pooled;
use super::{Encoder, Error, Layout, Sampling, onnx};
use crate::media::{Filter, Fit};

/// An encoder that can be asked for.
#[derive(Debug)]
pub struct Entry {
    /// As `--encoder` takes it.
    pub name: &'static str,
    /// Raised when the same weights give other features.
    pub version: u32,
    /// What it is good for, in a line.
    pub about: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    /// The licence of the weights.
    pub licence: &'static str,
    /// Its weights on the hub; `None` if it has none there.
    pub hub: Option<Hub>,
    /// Which other files `--weights` takes.
    pub weights: &'static str,
    /// Whether its answers were checked with the real weights, or its arithmetic only, with seeded ones.
    pub verified: bool,
    /// Opens it from its weights.
    build: fn(&Entry, &Path, String) -> Result<Arc<dyn Encoder>, String>,
}

/// A file on the Hugging Face hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hub {
    /// Owner and name.
    pub repository: &'static str,
    /// A branch, tag or commit.
    pub revision: &'static str,
    /// The file in it.
    pub file: &'static str,
    /// Its size.
    pub bytes: u64,
}

/// The name of the embedded encoder.
pub const LAYOUT: &str = "layout";

/// All encoders but the embedded one, which needs no weights.
pub static ENTRIES: &[Entry] = &[Entry {
    name: "mobilenet-v2",
    version: 1,
    about: "ImageNet classifier of 2018, small and fast: the same kind of thing",
    source: "Sandler et al., CVPR 2018",
    licence: "Apache-2.0",
    hub: Some(Hub {
        repository: "google/mobilenet_v2_1.0_224",
        revision: "main",
        file: "model.safetensors",
        bytes: 14_194_904,
    }),
    weights: "model.safetensors of google/mobilenet_v2_1.0_224, or the same network with batch normalisation folded in (stem, block0..16, head)",
    verified: true,
    build: mobilenet,
}];

/// 16 frames a clip would see no more than 8: neighbouring frames are alike.
fn sampling(side: u32, shorter: u32, filter: Filter) -> Sampling {
    Sampling {
        rate_hz: 2.0,
        frames_per_clip: 4,
        stride_frames: 2,
        width: side,
        height: side,
        fit: Fit::Cover { shorter, filter },
    }
}

fn mobilenet(entry: &Entry, path: &Path, id: String) -> Result<Arc<dyn Encoder>, String> {
    let (network, normalise) = MobileNetV2::open(path)?;
    let sampling = sampling(224, 256, Filter::Bilinear);
    Ok(Arc::new(Pooled::new(entry.name, id, mobilenet_v2::LENGTH, sampling, normalise, Box::new(network))))
}

impl Entry {
    /// Where its weights are kept, whether they are there or not.
    pub fn path(&self) -> PathBuf {
        let file = self.hub.map_or("weights.safetensors", |hub| hub.file);
        cache().join(self.name).join(file)
    }

    fn open(&self, weights: Option<&Path>) -> Result<Arc<dyn Encoder>, Error> {
        let path = match weights {
            Some(path) => path.to_owned(),
            None => {
                let looked = self.path();
                if !looked.exists() {
                    return Err(Error::NoWeights { name: self.name, looked });
                }
                looked
            }
        };
        let wrong = |found: String| Error::Weights {
            name: self.name.to_owned(),
            path: path.clone(),
            found,
            expected: self.weights.to_owned(),
        };
        let mut hash = blake3::Hasher::new();
        let file = std::fs::File::open(&path).map_err(|e| wrong(e.to_string()))?;
        hash.update_reader(file).map_err(|e| wrong(e.to_string()))?;
        let id = format!("{}/{}+{}", self.name, self.version, &hash.finalize().to_hex()[..8]);
        (self.build)(self, &path, id).map_err(wrong)
    }
}

/// The folder of weights: `REELSEEK_CACHE`, or `reelseek` in the user's cache folder.
pub fn cache() -> PathBuf {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(folder) = var("REELSEEK_CACHE") {
        return folder;
    }
    let user = var("XDG_CACHE_HOME").or_else(|| var("HOME").map(|home| home.join(".cache")));
    user.unwrap_or_else(std::env::temp_dir).join("reelseek")
}

/// The entry of an encoder by its name.
///
/// # Errors
/// [`Error::Unknown`].
pub fn entry(name: &str) -> Result<&'static Entry, Error> {
    ENTRIES.iter().find(|entry| entry.name == name).ok_or_else(|| {
        let known = std::iter::once(LAYOUT).chain(ENTRIES.iter().map(|entry| entry.name)).collect();
        Error::Unknown { name: name.to_owned(), known }
    })
}

/// The weights that a name tells itself: the file of `onnx:FILE`.
pub fn weights_in(name: &str) -> Option<&Path> {
    onnx::file(name)
}

/// Opens an encoder by its name, with these weights or those of the cache.
///
/// # Errors
/// [`Error::Unknown`]; [`Error::NoWeights`] if they are not here; [`Error::Weights`] or [`Error::Onnx`] if they are something else.
pub fn open(name: &str, weights: Option<&Path>) -> Result<Arc<dyn Encoder>, Error> {
    if name == LAYOUT {
        return Ok(Arc::new(Layout::embedded()));
    }
    if let Some(file) = onnx::file(name) {
        return onnx::open(weights.unwrap_or(file));
    }
    entry(name)?.open(weights)
}

/// Opens the encoder of an id that `what` recorded, and refuses another.
///
/// # Errors
/// As [`open`]; [`Error::Other`] if the weights are not those of the id.
pub fn open_as(id: &str, weights: Option<&Path>, what: &'static str) -> Result<Arc<dyn Encoder>, Error> {
    let encoder = open(id.split('/').next().unwrap_or(id), weights)?;
    let given = encoder.about().id.clone();
    if given != id {
        return Err(Error::Other { what, needed: id.to_owned(), given });
    }
    Ok(encoder)
}
