//! Data that an index stores besides its videos. For `reelseek_index` it is opaque JSON, which each commit
//! publishes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use reelseek_index::Searcher;
use serde::{Deserialize, Serialize};

use super::{Calibration, EvidenceKind};

/// Data that an index stores besides its videos.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CollectionState {
    /// Distribution of the evidence of unrelated pictures; `None` before the first measurement.
    pub calibration: Option<Calibration>,
    /// Distribution of the cosines of unrelated pictures, for queries by vector.
    pub by_cosine: Option<Calibration>,
    /// Distribution of the evidence of parts of unrelated pictures.
    pub of_parts: Option<Calibration>,
    /// The videos that the calibration was measured on; `None` before the first measurement.
    pub measured: Option<CalibratedOn>,
    /// Files that could not be decoded, by the id that their video would have.
    pub failed: BTreeMap<String, DecodeFailure>,
    /// Videos whose file is a link, by id, with a hash of the path that the link leads to.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub links: BTreeMap<String, String>,
}

/// Identifies the set of live videos of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CalibratedOn {
    /// The highest video number.
    pub newest: u64,
    /// Number of videos.
    pub videos: usize,
}

/// A file that could not be decoded, as it was at that time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecodeFailure {
    /// Size of the file in bytes.
    pub size_bytes: u64,
    /// Modification time, in nanoseconds since 1970.
    pub modified_ns: i64,
    /// The error, without the path, in at most 256 bytes.
    pub reason: String,
    /// Path of the file.
    #[serde(default, with = "any_path")]
    pub path: PathBuf,
}

/// A path as text, or as bytes if it is not UTF-8, because JSON cannot hold other text.
mod any_path {
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum PathForm {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub(super) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        let form = match path.to_str() {
            Some(text) => PathForm::Text(text.to_owned()),
            None => PathForm::Bytes(path.as_os_str().as_encoded_bytes().to_vec()),
        };
        form.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        Ok(match PathForm::deserialize(from)? {
            PathForm::Text(text) => PathBuf::from(text),
            PathForm::Bytes(bytes) => crate::collection::path_of_bytes(bytes),
        })
    }
}

impl CollectionState {
    /// The state of a snapshot; the default if the snapshot has no readable state.
    pub fn of(searcher: &Searcher) -> CollectionState {
        searcher.state().and_then(|json| serde_json::from_value(json.clone()).ok()).unwrap_or_default()
    }

    /// The calibration of queries by picture; the prior if the index has not been measured.
    pub fn calibration(&self, sketches: bool) -> Calibration {
        let kind = if sketches { EvidenceKind::Frames } else { EvidenceKind::Cosine };
        self.calibration.unwrap_or_else(|| Calibration::fit(Vec::new(), kind))
    }

    /// The calibration of parts of pictures.
    pub fn part_calibration(&self) -> Calibration {
        self.of_parts.unwrap_or_else(|| Calibration::fit(Vec::new(), EvidenceKind::Parts))
    }

    /// The calibration of queries by vector, which are compared by their cosine alone.
    pub fn cosine_calibration(&self, sketches: bool) -> Calibration {
        self.by_cosine.unwrap_or_else(|| match sketches {
            true => Calibration::fit(Vec::new(), EvidenceKind::Cosine),
            false => self.calibration(false),
        })
    }

    /// The state as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("a state is numbers, text and bytes, and its keys are text")
    }
}
