//! What an index remembers besides its videos: opaque JSON to `reelseek_index`, published by its commits.

use std::collections::BTreeMap;
use std::path::PathBuf;

use reelseek_index::Searcher;
use serde::{Deserialize, Serialize};

use super::Calibration;

/// The state of an index.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// How far foreign pictures get; `None` before it was measured.
    pub calibration: Option<Calibration>,
    /// The same by the cosine alone, for embeddings that come without a picture to lay over sketches.
    pub by_cosine: Option<Calibration>,
    /// The videos that the calibration was measured on; `None` before the first.
    pub measured: Option<Measured>,
    /// Files that could not be decoded, by the id that their video would have.
    pub failed: BTreeMap<String, Failure>,
}

/// Names the live videos of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// The highest number of a video.
    pub newest: u64,
    /// Videos in all.
    pub videos: usize,
}

/// A file that could not be decoded, as it was then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its size.
    pub size_bytes: u64,
    /// Time of its last change, in nanoseconds since 1970.
    pub modified_ns: i64,
    /// What was wrong with it, without its path, in at most 256 bytes.
    pub reason: String,
    /// Where it lies.
    #[serde(default, with = "any_path")]
    pub path: PathBuf,
}

/// A path as text, or as bytes if it is not UTF-8, which JSON could not hold.
mod any_path {
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Form {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub(super) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        let form = match path.to_str() {
            Some(text) => Form::Text(text.to_owned()),
            None => Form::Bytes(path.as_os_str().as_encoded_bytes().to_vec()),
        };
        form.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        Ok(match Form::deserialize(from)? {
            Form::Text(text) => PathBuf::from(text),
            #[cfg(unix)]
            Form::Bytes(bytes) => {
                use std::os::unix::ffi::OsStringExt;
                PathBuf::from(std::ffi::OsString::from_vec(bytes))
            }
            #[cfg(not(unix))]
            Form::Bytes(bytes) => PathBuf::from(String::from_utf8_lossy(&bytes).into_owned()),
        })
    }
}

impl State {
    /// The state of a snapshot; the default if it has none that can be read.
    pub fn of(searcher: &Searcher) -> State {
        searcher.state().and_then(|json| serde_json::from_value(json.clone()).ok()).unwrap_or_default()
    }

    /// How far foreign pictures get, and by their cosine alone, in an index with sketches or without; what is usual where it was not measured.
    pub fn calibrations(&self, sketches: bool) -> (Calibration, Calibration) {
        let usual = |sketches| Calibration::fit(Vec::new(), sketches);
        let calibration = self.calibration.unwrap_or_else(|| usual(sketches));
        let by_cosine = self.by_cosine.unwrap_or_else(|| if sketches { usual(false) } else { calibration });
        (calibration, by_cosine)
    }

    /// The state as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("a state is numbers, text and bytes, and its keys are text")
    }
}
