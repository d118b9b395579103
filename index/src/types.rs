//! Public data types: settings, videos, spans, hits.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Settings of an index. They are fixed when the index is created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexSettings {
    /// Values in a vector, 1 to 65,536.
    pub dim: usize,
    /// Opaque data of the caller (encoder, checkpoint hash), returned when the index is opened.
    pub attributes: BTreeMap<String, String>,
    /// How graphs are built.
    #[serde(default)]
    pub hnsw: HnswSettings,
    /// Precision of the stored vectors.
    #[serde(default)]
    pub precision: RowPrecision,
    /// Size in bytes of the sketch of each row, at most [`IndexSettings::MAX_SKETCH`]; 0 for an index without
    /// sketches. A sketch is opaque data of the caller.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sketch: u32,
}

fn is_zero(sketch: &u32) -> bool {
    *sketch == 0
}

impl IndexSettings {
    /// Largest size of a sketch in bytes.
    pub const MAX_SKETCH: u32 = 4096;

    /// Settings for vectors of `dim` values: no attributes, no sketches, default graphs, full precision.
    pub fn new(dim: usize) -> IndexSettings {
        let (attributes, hnsw) = (BTreeMap::new(), HnswSettings::default());
        IndexSettings { dim, attributes, hnsw, precision: RowPrecision::Full, sketch: 0 }
    }
}

/// Precision of the stored vectors. They are fixed point, with one power of two a row (see the crate's
/// README).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowPrecision {
    /// 32 bits a value. Let 2^e be the least power of two that is at least 128/127 of the largest value of a
    /// row. Then values of 2^(e-8) and more are exact, and others are exact to 2^(e-32).
    #[default]
    Full,
    /// 16 bits a value, half the file: exact to 2^(e-16) + 2^(e-32).
    /// [`Searcher::rounding_recall`](crate::Searcher::rounding_recall) reports the loss.
    Half,
}

impl RowPrecision {
    pub(crate) fn bits(self) -> u32 {
        match self {
            RowPrecision::Full => 32,
            RowPrecision::Half => 16,
        }
    }
}

/// How graphs are built (Malkov and Yashunin, arXiv:1603.09320).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HnswSettings {
    /// Links of a new row on each level (M in the paper), 2 to 256. On the lowest level a row can get twice
    /// as many.
    pub m: u32,
    /// Candidates for these links (efConstruction in the paper), 1 to 100,000.
    pub ef_construction: u32,
    /// Seed of the random levels.
    pub seed: u64,
    /// Smallest number of rows for which a segment gets a graph. A scan of fewer rows is as fast.
    pub min_rows: u32,
    /// The implementation that builds graphs.
    #[serde(default)]
    pub builder: GraphBuilder,
}

impl Default for HnswSettings {
    fn default() -> HnswSettings {
        HnswSettings { m: 16, ef_construction: 200, seed: 1, min_rows: 8192, builder: GraphBuilder::Own }
    }
}

/// An implementation that builds graphs. Searches do not depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GraphBuilder {
    /// This crate.
    #[default]
    Own,
    /// The crate hnsw_rs, for comparison. It is slower, has no seed, and needs the Cargo feature `hnsw_rs`.
    HnswRs,
}

/// Trade-off between the speed and the recall of a search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effort {
    /// [`Effort::Ef`] with [`Effort::DEFAULT_EF`].
    #[default]
    Default,
    /// Graph walks keep a pool of the best `ef` rows, at least `k`. A larger pool finds more rows and takes
    /// longer.
    Ef(usize),
    /// Every row is scored.
    Exact,
}

impl Effort {
    /// Default size of the pool of a graph walk.
    pub const DEFAULT_EF: usize = 256;

    pub(crate) fn ef(self) -> Option<usize> {
        match self {
            Effort::Default => Some(Effort::DEFAULT_EF),
            Effort::Ef(ef) => Some(ef),
            Effort::Exact => None,
        }
    }
}

/// Time span of one row, in milliseconds from the start of its video.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    /// First millisecond.
    pub start_ms: u32,
    /// First millisecond after the span.
    pub end_ms: u32,
    /// Time of the frame that represents the span.
    pub at_ms: u32,
}

/// Metadata of a video.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Video {
    /// Key of the caller. At most one live video has it.
    pub id: String,
    /// Path of the file, as text.
    pub path: String,
    /// Bytes of the path, if they are not UTF-8.
    pub path_bytes: Option<Vec<u8>>,
    /// Title; can be empty.
    pub title: String,
    /// Labels, in the caller's order.
    pub labels: Vec<String>,
    /// Duration in milliseconds.
    pub duration_ms: u64,
    /// Size of the file in bytes.
    pub size_bytes: u64,
    /// Time of the last change, in nanoseconds since 1970.
    pub modified_ns: i64,
    /// Time of the last change of the metadata file next to the video, if there is one.
    pub sidecar_modified_ns: Option<i64>,
    /// Number of rows. [`Writer::put`](crate::Writer::put) sets it.
    pub rows: u32,
    /// A warning to keep with the video, such as a damaged end of the file.
    pub note: Option<String>,
    /// How the caller sampled the rows (`keyframes`, for example). Opaque data of the caller.
    #[serde(default)]
    pub sampling: String,
    /// Any JSON. Its strings are searchable; the fields of an object also as `extra.name:value`.
    pub extra: serde_json::Value,
    /// Numbers to keep with the video (embeddings of a frame, for example). They are neither searched nor
    /// filtered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probe: Vec<f32>,
}

/// Number of a video in the index. Numbers increase and are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VideoNumber(pub u64);

/// Position of a row in one snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RowRef {
    /// Position of the segment in the snapshot.
    pub segment: u32,
    /// Row in the segment, with dead rows counted.
    pub row: u32,
}

/// One row found by a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Position of the row.
    pub row: RowRef,
    /// Video of the row.
    pub video: VideoNumber,
    /// Position of the row among the rows of its video, from 0, in the order of
    /// [`Searcher::rows_of`](crate::Searcher::rows_of) and
    /// [`Searcher::sketches_of`](crate::Searcher::sketches_of).
    pub nth: u32,
    /// Time span of the row.
    pub span: Span,
    /// Dot product with the query. Higher is better.
    pub score: f32,
}

/// Number of segments and graphs of a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentCounts {
    /// Segments.
    pub segments: usize,
    /// Segments with a graph.
    pub graphs: usize,
}

/// A set of videos, such as the result of a filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VideoSet(Vec<VideoNumber>);

impl VideoSet {
    /// Whether the video is in the set.
    pub fn contains(&self, number: VideoNumber) -> bool {
        self.0.binary_search(&number).is_ok()
    }

    /// The members from `first` to `last`, both included, in ascending order.
    pub(crate) fn between(&self, first: VideoNumber, last: VideoNumber) -> &[VideoNumber] {
        let from = self.0.partition_point(|number| *number < first);
        let to = self.0.partition_point(|number| *number <= last);
        self.0.get(from..to).unwrap_or(&[])
    }

    /// Number of videos in the set.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The videos, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = VideoNumber> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<VideoNumber> for VideoSet {
    fn from_iter<I: IntoIterator<Item = VideoNumber>>(numbers: I) -> VideoSet {
        let mut numbers: Vec<_> = numbers.into_iter().collect();
        numbers.sort_unstable();
        numbers.dedup();
        VideoSet(numbers)
    }
}
