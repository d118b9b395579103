//! Which encoders there are, and where their weights are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::models::c3d::{self, C3d};
use super::models::clip::{self, Clip};
use super::models::dinov2::{self, Dinov2};
use super::models::mobileclip::{self, MobileClip};
use super::models::mobilenet_v2::{self, MobileNetV2};
use super::models::pooled::{Backbone, Normalise, Pooled};
use super::models::siglip::{self, Siglip};
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
    /// Floating-point operations for an image, all its views, or for a clip if it is not made of images: multiply-adds times two.
    pub flops: f64,
    /// Opens it from its weights.
    build: Build,
}

/// Makes an encoder of an entry, its weights' file and its id; what is wrong with the file is told in words.
type Build = fn(&Entry, &Path, String) -> Result<Arc<dyn Encoder>, String>;

/// A file on the Hugging Face hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hub {
    /// Owner and name.
    pub repository: &'static str,
    /// A branch, tag or commit.
    pub revision: &'static str,
    /// The file in it.
    pub file: &'static str,
    /// Its size, to tell a person: as the hub shows it, in megabytes, where no better figure was at hand.
    pub bytes: u64,
}

/// The name of the embedded encoder.
pub const LAYOUT: &str = "layout";

/// All encoders but the embedded one, which needs no weights.
pub static ENTRIES: &[Entry] = &[
    Entry {
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
        // It sees each picture twice.
        flops: 2.0 * mobilenet_v2::FLOPS,
        build: |entry, path, id| {
            let (network, normalise) = MobileNetV2::open(path)?;
            // The reference keeps the shape and cuts the middle out; of wide pictures that loses half. Squeezed, and seen from afar and close, kinds are
            // found better (`reelseek kinds`).
            let (name, side) = (entry.name, 320);
            let fit = Fit::Squeeze { width: side, height: side, filter: Filter::Bilinear };
            let network = Box::new(network);
            let pooled = Pooled::new(name, id, mobilenet_v2::LENGTH, sampling(side, fit), normalise, network);
            Ok(Arc::new(pooled.seeing_close_too(224)))
        },
    },
    Entry {
        name: "clip",
        version: 1,
        about: "CLIP ViT-B/32, of pictures and their texts on the web: what a picture is about",
        source: "Radford et al., ICML 2021",
        licence: "MIT",
        hub: Some(Hub {
            repository: "openai/clip-vit-base-patch32",
            // Where candle's example finds it: `main` had no safetensors file.
            revision: "refs/pr/15",
            file: "model.safetensors",
            bytes: 605_000_000,
        }),
        weights: "model.safetensors of openai/clip-vit-base-patch32 (vision_model, visual_projection)",
        verified: false,
        flops: 8.8e9,
        build: |entry, path, id| {
            let fit = Fit::Cover { shorter: 224, filter: Filter::Bicubic };
            Ok(pooled(entry, id, clip::LENGTH, (224, fit), clip::NORMALISE, Clip::open(path)?))
        },
    },
    Entry {
        name: "mobileclip",
        version: 1,
        about: "MobileCLIP-S1, taught by larger CLIPs, for telephones: what a picture is about",
        source: "Vasu et al., CVPR 2024",
        licence: "Apple model licence for research (apple-amlr)",
        hub: Some(Hub {
            repository: "apple/MobileCLIP-S1-OpenCLIP",
            revision: "main",
            file: "open_clip_model.safetensors",
            bytes: 340_000_000,
        }),
        weights: "open_clip_model.safetensors of apple/MobileCLIP-S1-OpenCLIP (visual.trunk)",
        verified: false,
        flops: 9.3e9,
        build: |entry, path, id| {
            let fit = Fit::Cover { shorter: 256, filter: Filter::Bilinear };
            Ok(pooled(entry, id, mobileclip::LENGTH, (256, fit), mobileclip::NORMALISE, MobileClip::open(path)?))
        },
    },
    Entry {
        name: "siglip",
        version: 1,
        about: "SigLIP base, of pictures and their texts, larger: what a picture is about",
        source: "Zhai et al., ICCV 2023",
        licence: "Apache-2.0",
        hub: Some(Hub {
            repository: "google/siglip-base-patch16-224",
            revision: "main",
            file: "model.safetensors",
            bytes: 813_000_000,
        }),
        weights: "model.safetensors of google/siglip-base-patch16-224 (vision_model)",
        verified: false,
        flops: 35.4e9,
        build: |entry, path, id| {
            let fit = Fit::Squeeze { width: 224, height: 224, filter: Filter::Bicubic };
            Ok(pooled(entry, id, siglip::LENGTH, (224, fit), siglip::NORMALISE, Siglip::open(path)?))
        },
    },
    Entry {
        name: "dinov2",
        version: 1,
        about: "DINOv2 small, of pictures alone: parts, materials and instances",
        source: "Oquab et al., TMLR 2024",
        licence: "Apache-2.0",
        hub: Some(Hub {
            repository: "facebook/dinov2-small",
            revision: "main",
            file: "model.safetensors",
            bytes: 88_000_000,
        }),
        weights: "model.safetensors of facebook/dinov2-small",
        verified: false,
        flops: 12.2e9,
        build: |entry, path, id| {
            let fit = Fit::Cover { shorter: 256, filter: Filter::Bicubic };
            Ok(pooled(entry, id, dinov2::LENGTH, (224, fit), dinov2::NORMALISE, Dinov2::open(path)?))
        },
    },
    Entry {
        name: "c3d",
        version: 1,
        about: "C3D fc6, of a million sports videos: what moves, and how; slow",
        source: "Tran et al., ICCV 2015",
        licence: "that of the weights given",
        hub: None,
        weights: "conv1 to conv5b and fc6 by the names of the usual c3d.pickle, as that file, safetensors or npz",
        verified: false,
        flops: c3d::FLOPS,
        build: |entry, path, id| Ok(Arc::new(C3d::open(path, entry.name, id)?)),
    },
];

/// An encoder around a network. 16 frames a clip would see no more than 8: neighbouring frames are alike.
fn pooled(
    entry: &Entry,
    id: String,
    length: usize,
    (side, fit): (u32, Fit),
    normalise: Normalise,
    network: impl Backbone + 'static,
) -> Arc<dyn Encoder> {
    Arc::new(Pooled::new(entry.name, id, length, sampling(side, fit), normalise, Box::new(network)))
}

fn sampling(side: u32, fit: Fit) -> Sampling {
    Sampling { rate_hz: 2.0, frames_per_clip: 4, stride_frames: 2, width: side, height: side, fit }
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
                    return Err(Error::NoWeights { name: self.name, looked, on_hub: self.hub.is_some() });
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
    open_known(name, weights, None)
}

/// As [`open`], where an index or a checkpoint may know the encoder by an id. An ONNX file is the one it knows if its bytes are, whatever it is called now, and keeps that id.
///
/// # Errors
/// As [`open`].
pub fn open_known(name: &str, weights: Option<&Path>, known: Option<&str>) -> Result<Arc<dyn Encoder>, Error> {
    if name == LAYOUT {
        return Ok(Arc::new(Layout::embedded()));
    }
    if let Some(file) = onnx::file(name) {
        return onnx::open(weights.unwrap_or(file), known);
    }
    entry(name)?.open(weights)
}

/// Opens the encoder of an id that `what` recorded, and refuses another.
///
/// # Errors
/// As [`open`]; [`Error::Other`] if the weights are not those of the id.
pub fn open_as(id: &str, weights: Option<&Path>, what: &'static str) -> Result<Arc<dyn Encoder>, Error> {
    let encoder = open_known(named(id), weights, Some(id))?;
    expect(id, encoder.as_ref(), what)?;
    Ok(encoder)
}

/// Refuses an encoder that is not the one that `what` recorded, and says how to get that.
///
/// # Errors
/// [`Error::Other`].
pub fn expect(needed: &str, encoder: &dyn Encoder, what: &'static str) -> Result<(), Error> {
    let given = encoder.about().id.clone();
    if given == needed {
        return Ok(());
    }
    let how = match (named(needed), entry(named(needed))) {
        (LAYOUT, _) => "it is part of the program, so name no other with --encoder".to_owned(),
        (name, Ok(Entry { hub: Some(_), .. })) => {
            format!("fetch its weights with `reelseek encoders pull {name}`, or name them with --weights FILE")
        }
        (_, Ok(_)) => "name its weights with --weights FILE".to_owned(),
        (_, Err(_)) => "name its own file, with the same JSON file beside it, with --weights FILE".to_owned(),
    };
    Err(Error::Other { what, needed: needed.to_owned(), given, how })
}

/// The name in an id.
fn named(id: &str) -> &str {
    id.split('/').next().unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_encoder_is_refused_with_the_way_to_the_right_one() {
        let given = Layout::embedded();
        for (needed, told) in [
            ("mobilenet-v2/1+0123abcd", "`reelseek encoders pull mobilenet-v2`, or name them with --weights FILE"),
            ("c3d/1+0123abcd", "name its weights with --weights FILE"),
            ("onnx:mine/1+0123abcd", "name its own file, with the same JSON file beside it, with --weights FILE"),
        ] {
            let error = expect(needed, &given, "the index").unwrap_err().to_string();
            let expected = format!("the index needs the encoder {needed}, but {} is here: ", given.about().id);
            assert!(error.starts_with(&expected) && error.contains(told), "{error}");
        }
    }
}
