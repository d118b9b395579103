//! The manifest: the root of the index. tantivy stores it as the payload of its commit.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::names;
use crate::types::{GraphBuilder, HnswSettings, IndexSettings};

/// Format version of the manifest.
pub(crate) const VERSION: u32 = 3;

/// Record of one segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SegmentMeta {
    /// Name of the segment file.
    pub(crate) name: String,
    pub(crate) rows: u32,
    pub(crate) videos: u32,
    /// Size of the segment file in bytes.
    pub(crate) bytes: u64,
    /// The last four bytes of the segment file, its CRC-32.
    pub(crate) crc: u32,
    /// The graph file of the segment, which has the same number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) graph: Option<FileMeta>,
    /// Loss of rounding to half precision, measured when the rows were put.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rounding: Option<RoundingRecall>,
}

/// recall@10 of the rounded vectors against the original ones, as a fraction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RoundingRecall {
    /// Neighbours found.
    pub(crate) found: u64,
    /// Neighbours in all.
    pub(crate) of: u64,
}

impl RoundingRecall {
    pub(crate) fn plus(self, other: RoundingRecall) -> RoundingRecall {
        RoundingRecall { found: self.found.saturating_add(other.found), of: self.of.saturating_add(other.of) }
    }
}

/// Record of a graph file. Its name follows from the name of its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileMeta {
    /// Size of the file in bytes.
    pub(crate) bytes: u64,
    /// The last four bytes of the file, its CRC-32.
    pub(crate) crc: u32,
}

impl SegmentMeta {
    /// Names of the segment file and the graph file.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        [Some(self.name.clone()), self.graph.map(|_| names::graph_name(&self.name))].into_iter().flatten()
    }
}

/// All that a commit publishes apart from the text index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) version: u32,
    /// Number of the commit. Equal numbers mean equal manifests.
    pub(crate) commit: u64,
    pub(crate) settings: IndexSettings,
    pub(crate) next_video: u64,
    pub(crate) next_segment: u64,
    pub(crate) segments: Vec<SegmentMeta>,
    /// Numbers of the dead videos by segment name, in ascending order.
    pub(crate) tombstones: BTreeMap<String, Vec<u64>>,
    pub(crate) state: Option<serde_json::Value>,
    /// Versions of tantivy that wrote files of the text index, as in the footers of the files.
    pub(crate) written_by: BTreeSet<String>,
}

impl Manifest {
    pub(crate) fn new(settings: IndexSettings) -> Manifest {
        Manifest {
            version: VERSION,
            commit: 1,
            settings,
            next_video: 1,
            next_segment: 1,
            segments: Vec::new(),
            tombstones: BTreeMap::new(),
            state: None,
            written_by: BTreeSet::from([crate::text::version()]),
        }
    }

    /// Parses the payload of the commit file `path`.
    pub(crate) fn parse(payload: Option<&str>, path: &Path) -> Result<Manifest> {
        #[derive(Deserialize)]
        struct ManifestVersion {
            version: u32,
        }
        let expected = "a reelseek manifest as the commit's payload";
        let payload = payload.ok_or_else(|| Error::damaged(path, expected, "no payload"))?;
        let damaged = |error| Error::damaged(path, expected, error);
        let ManifestVersion { version } = serde_json::from_str(payload).map_err(damaged)?;
        if version != VERSION {
            return Err(Error::Version { path: path.to_owned(), expected: VERSION, found: version });
        }
        let manifest: Manifest = serde_json::from_str(payload).map_err(damaged)?;
        check(&manifest.settings).map_err(|error| Error::damaged(path, "settings in their ranges", error))?;
        let bad_name = |segment: &&SegmentMeta| names::segment_number(&segment.name).is_none();
        if let Some(segment) = manifest.segments.iter().find(bad_name) {
            return Err(Error::damaged(path, "segment names such as 000001.vec", &segment.name));
        }
        Ok(manifest)
    }

    pub(crate) fn dead(&self, segment: &str) -> &[u64] {
        self.tombstones.get(segment).map_or(&[], Vec::as_slice)
    }
}

/// The error for a commit file of version 1 or 2, which has no checksum; `None` for any other file.
pub(crate) fn old_version(path: &Path) -> Option<Error> {
    let meta: serde_json::Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let payload: serde_json::Value = serde_json::from_str(meta.get("payload")?.as_str()?).ok()?;
    let found = u32::try_from(payload.get("version")?.as_u64()?).ok()?;
    (found < 3).then(|| Error::Version { path: path.to_owned(), expected: VERSION, found })
}

/// Returns an error if settings are out of range.
pub(crate) fn check(settings: &IndexSettings) -> Result<()> {
    let HnswSettings { m, ef_construction, .. } = settings.hnsw;
    let wrong = |what, expected, found: String| Err(Error::Argument { what, expected, found });
    if !(1..=65_536).contains(&settings.dim) {
        return wrong("dim", "a dimension from 1 to 65536", settings.dim.to_string());
    }
    if !(2..=256).contains(&m) {
        return wrong("m", "2 to 256 links", m.to_string());
    }
    if !(1..=100_000).contains(&ef_construction) {
        return wrong("ef_construction", "1 to 100000", ef_construction.to_string());
    }
    if settings.sketch > IndexSettings::MAX_SKETCH {
        return wrong("sketch", "at most 4096 bytes a row", settings.sketch.to_string());
    }
    Ok(())
}

/// Returns an error if this program does not contain the graph builder of the settings.
pub(crate) fn check_builder(settings: &IndexSettings) -> Result<()> {
    if settings.hnsw.builder == GraphBuilder::HnswRs && !cfg!(feature = "hnsw_rs") {
        return Err(Error::Argument {
            what: "builder",
            expected: "a graph builder that this program contains",
            found: "hnsw_rs, without the Cargo feature hnsw_rs".to_owned(),
        });
    }
    Ok(())
}
