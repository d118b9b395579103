//! The manifest: the root of the index, kept as the payload of tantivy's commit.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::types::{Builder, Hnsw, Settings};

/// The manifest's format version.
pub(crate) const VERSION: u32 = 3;

/// One segment file, as the manifest knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SegmentMeta {
    /// File name in `segments/`.
    pub(crate) name: String,
    pub(crate) rows: u32,
    pub(crate) videos: u32,
    /// Size of the file.
    pub(crate) bytes: u64,
    /// The file's trailing CRC.
    pub(crate) crc: u32,
    /// The file of its graph, if it has one: of the same number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) graph: Option<FileMeta>,
    /// What rounding to half precision has cost, measured when the rows were put.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rounding: Option<Rounding>,
}

/// recall@10 of rounded vectors against what they were, as a share of what was looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rounding {
    /// Neighbours found.
    pub(crate) found: u64,
    /// Neighbours looked for.
    pub(crate) of: u64,
}

impl Rounding {
    pub(crate) fn plus(self, other: Rounding) -> Rounding {
        Rounding { found: self.found.saturating_add(other.found), of: self.of.saturating_add(other.of) }
    }
}

/// What the manifest knows of a file whose name it need not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileMeta {
    /// Size of the file.
    pub(crate) bytes: u64,
    /// The file's trailing CRC.
    pub(crate) crc: u32,
}

impl SegmentMeta {
    /// The names of its files.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        [Some(self.name.clone()), self.graph.map(|_| graph_name(&self.name))].into_iter().flatten()
    }
}

/// Everything a commit publishes apart from the text index.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) version: u32,
    /// Counts commits: equal numbers mean equal manifests.
    pub(crate) commit: u64,
    pub(crate) settings: Settings,
    pub(crate) next_video: u64,
    pub(crate) next_segment: u64,
    pub(crate) segments: Vec<SegmentMeta>,
    /// Numbers of dead videos by segment name, ascending.
    pub(crate) tombstones: BTreeMap<String, Vec<u64>>,
    pub(crate) state: Option<serde_json::Value>,
    /// Versions of tantivy that wrote files of the text index, as its footers say it.
    pub(crate) written_by: BTreeSet<String>,
}

impl Manifest {
    pub(crate) fn new(settings: Settings) -> Manifest {
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

    /// Reads a payload; `path` is the file it came from, for errors.
    pub(crate) fn parse(payload: Option<&str>, path: &Path) -> Result<Manifest> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let wanted = "a reelseek manifest as the commit's payload";
        let payload = payload.ok_or_else(|| Error::damaged(path, wanted, "no payload"))?;
        let head: Head = serde_json::from_str(payload).map_err(|error| Error::damaged(path, wanted, error))?;
        if head.version != VERSION {
            return Err(Error::Version { path: path.to_owned(), expected: VERSION, found: head.version });
        }
        let manifest: Manifest = serde_json::from_str(payload).map_err(|error| Error::damaged(path, wanted, error))?;
        let sound = check(&manifest.settings);
        sound.map_err(|error| Error::damaged(path, "settings in their ranges", error))?;
        if let Some(segment) = manifest.segments.iter().find(|segment| segment_number(&segment.name).is_none()) {
            return Err(Error::damaged(path, "segment names such as 000001.vec", &segment.name));
        }
        Ok(manifest)
    }

    pub(crate) fn dead(&self, segment: &str) -> &[u64] {
        self.tombstones.get(segment).map_or(&[], Vec::as_slice)
    }
}

/// The error for a root written before version 3, which had no checksum; `None` if the file is not such a one.
pub(crate) fn old_version(path: &Path) -> Option<Error> {
    let meta: serde_json::Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let payload: serde_json::Value = serde_json::from_str(meta.get("payload")?.as_str()?).ok()?;
    let found = u32::try_from(payload.get("version")?.as_u64()?).ok()?;
    (found < 3).then(|| Error::Version { path: path.to_owned(), expected: VERSION, found })
}

/// Whether settings are in their ranges.
pub(crate) fn check(settings: &Settings) -> Result<()> {
    let Hnsw { m, ef_construction, .. } = settings.hnsw;
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
    if settings.sketch > Settings::MAX_SKETCH {
        return wrong("sketch", "at most 4096 bytes a row", settings.sketch.to_string());
    }
    Ok(())
}

/// Whether this program has the builder that the settings name.
pub(crate) fn check_builder(settings: &Settings) -> Result<()> {
    if settings.hnsw.builder == Builder::HnswRs && !cfg!(feature = "hnsw_rs") {
        return Err(Error::Argument {
            what: "builder",
            expected: "one that this program has (build it with the feature hnsw_rs)",
            found: "hnsw_rs".to_owned(),
        });
    }
    Ok(())
}

/// The name of segment file `number`.
pub(crate) fn segment_name(number: u64) -> String {
    format!("{number:06}.vec")
}

/// The name of the graph's file beside a segment file.
pub(crate) fn graph_name(segment: &str) -> String {
    format!("{}.hnsw", segment.strip_suffix(".vec").unwrap_or(segment))
}

/// The number in a segment file's name; `None` for any other name.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".vec")?.parse().ok()?;
    (segment_name(number) == name).then_some(number)
}

/// Whether the name is one that a file of a segment can have.
pub(crate) fn is_ours(name: &str) -> bool {
    let segment = name.strip_suffix(".hnsw").map(|stem| format!("{stem}.vec"));
    segment_number(segment.as_deref().unwrap_or(name)).is_some()
}
