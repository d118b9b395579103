//! The words of the index: settings, videos, spans, hits.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Chosen when an index is created, never changed afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Values in a vector.
    pub dim: usize,
    /// Whatever the caller wants to find again on open (encoder, checkpoint hash); opaque here.
    pub attributes: BTreeMap<String, String>,
    /// How graphs are built.
    #[serde(default)]
    pub hnsw: Hnsw,
    /// How finely values are kept.
    #[serde(default)]
    pub precision: Precision,
    /// Bytes of the sketch beside each row's vector, at most [`Settings::MAX_SKETCH`]: whatever the caller checks an answer with; opaque here. 0 for none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sketch: u32,
}

fn is_zero(sketch: &u32) -> bool {
    *sketch == 0
}

impl Settings {
    /// The most bytes that a sketch may have.
    pub const MAX_SKETCH: u32 = 4096;

    /// Settings for vectors of `dim` values, without attributes and sketches, with the default graphs, at full precision.
    pub fn new(dim: usize) -> Settings {
        Settings { dim, attributes: BTreeMap::new(), hnsw: Hnsw::default(), precision: Precision::Full, sketch: 0 }
    }
}

/// How finely values are kept, in fixed point with one power of two a row (see the crate's README).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precision {
    /// 32 bits a value: `f32` in all but a row's least values. With 2^e the least power of two that is at least 128/127 of the largest value of a row, values of
    /// 2^(e-8) and more are kept bit for bit, others within 2^(e-32).
    #[default]
    Full,
    /// 16 bits a value, half the file: within 2^(e-16) and 2^(e-32). [`Searcher::rounding_recall`](crate::Searcher::rounding_recall) tells what
    /// that costs.
    Half,
}

impl Precision {
    pub(crate) fn bits(self) -> u32 {
        match self {
            Precision::Full => 32,
            Precision::Half => 16,
        }
    }
}

/// How graphs are built (Malkov and Yashunin, arXiv:1603.09320).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hnsw {
    /// Links a row is given on each level (the paper's M), 2 to 256; it may come to have twice as many on the lowest.
    pub m: u32,
    /// Candidates looked at for them (the paper's efConstruction), 1 to 100,000.
    pub ef_construction: u32,
    /// Levels are drawn from this.
    pub seed: u64,
    /// Segments with fewer rows get no graph: scanning them is as fast.
    pub min_rows: u32,
    /// Who builds them.
    #[serde(default)]
    pub builder: Builder,
}

/// A builder of graphs. What they build is searched in the same way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Builder {
    /// This crate.
    #[default]
    Own,
    /// The crate hnsw_rs, a slower one to compare with; wants the Cargo feature `hnsw_rs`. It has no seed.
    HnswRs,
}

impl Default for Hnsw {
    fn default() -> Hnsw {
        Hnsw { m: 16, ef_construction: 200, seed: 1, min_rows: 8192, builder: Builder::Own }
    }
}

/// How hard a search looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effort {
    /// As [`Effort::Ef`] with [`Effort::DEFAULT_EF`].
    #[default]
    Default,
    /// Walks keep the best `ef` rows on their way: more finds more, and takes longer. At least `k` are kept.
    Ef(usize),
    /// Every row is scored.
    Exact,
}

impl Effort {
    /// Rows kept by default.
    pub const DEFAULT_EF: usize = 256;

    pub(crate) fn ef(self) -> Option<usize> {
        match self {
            Effort::Default => Some(Effort::DEFAULT_EF),
            Effort::Ef(ef) => Some(ef),
            Effort::Exact => None,
        }
    }
}

/// The time span of one row, in milliseconds from the start of its video.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    /// First millisecond.
    pub start_ms: u32,
    /// First millisecond after the span.
    pub end_ms: u32,
    /// The moment that represents the span.
    pub at_ms: u32,
}

/// What is known about a video apart from its vectors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Video {
    /// The caller's key: at most one live video has it.
    pub id: String,
    /// Where the video lies, as text.
    pub path: String,
    /// The path's bytes, only when they are not UTF-8.
    pub path_bytes: Option<Vec<u8>>,
    /// A title, or nothing.
    pub title: String,
    /// Labels, in the caller's order.
    pub labels: Vec<String>,
    /// Length in milliseconds.
    pub duration_ms: u64,
    /// Size of the file.
    pub size_bytes: u64,
    /// Time of last change, in nanoseconds since 1970.
    pub modified_ns: i64,
    /// Time of last change of the metadata file beside the video, if there is one.
    pub sidecar_modified_ns: Option<i64>,
    /// Rows of this video; [`Writer::put`](crate::Writer::put) sets it.
    pub rows: u32,
    /// A warning worth keeping (a damaged tail, say).
    pub note: Option<String>,
    /// How the caller made the rows, in its own words (`keyframes`, say); opaque here.
    #[serde(default)]
    pub sampling: String,
    /// Any JSON; its strings are searchable, and its fields as `extra.name:value` if it is an object.
    pub extra: serde_json::Value,
    /// Numbers that the caller keeps with the video, neither searched nor filtered (embeddings of a frame, say).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probe: Vec<f32>,
}

/// The index's own number of a video: ever increasing, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VideoNumber(pub u64);

/// The place of a row in one snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RowRef {
    /// Position of the segment in the snapshot.
    pub segment: u32,
    /// Row in that segment, dead rows counted.
    pub row: u32,
}

/// One answer of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Where the row lies.
    pub row: RowRef,
    /// The row's video.
    pub video: VideoNumber,
    /// The row's place among those of its video, from 0: as [`Searcher::rows_of`](crate::Searcher::rows_of) and
    /// [`Searcher::sketches_of`](crate::Searcher::sketches_of) give them.
    pub nth: u32,
    /// The row's time span.
    pub span: Span,
    /// Dot product with the query: higher is better.
    pub score: f32,
}

/// A set of videos, as a filter gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VideoSet(Vec<VideoNumber>);

impl VideoSet {
    /// Whether the video is in the set.
    pub fn contains(&self, number: VideoNumber) -> bool {
        self.0.binary_search(&number).is_ok()
    }

    /// Those of the set from `first` to `last`, both included, ascending.
    pub(crate) fn between(&self, first: VideoNumber, last: VideoNumber) -> &[VideoNumber] {
        let from = self.0.partition_point(|number| *number < first);
        let to = self.0.partition_point(|number| *number <= last);
        self.0.get(from..to).unwrap_or(&[])
    }

    /// Videos in the set.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The videos, ascending.
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
