//! The JSON that the command line prints. Its types are separate from the library's, so that changes there do
//! not break scripts. The HTTP API has the same results (`search::ResultRecord`).

use std::collections::BTreeMap;
use std::path::Path;

use reelseek_index::Video;
use serde::Serialize;

use super::advice;
use crate::collection::{Calibration, Space};
use crate::ingest::{FileOutcome, IndexSummary};
use crate::search::{ReasonRecord, ResultRecord, SearchAnswer, SearchOptions};

/// One line of `search --json`.
#[derive(Debug, Serialize)]
pub(super) struct SearchOutput<'a> {
    query: &'a str,
    /// Width and height of the picture in pixels.
    query_size: [u32; 2],
    took_ms: f64,
    exact: bool,
    /// Why there are no results.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<ReasonRecord>,
    results: Vec<ResultRecord>,
}

/// One line of `search --json` for a picture that could not be read.
#[derive(Debug, Serialize)]
pub(super) struct FailureOutput<'a> {
    pub(super) query: &'a str,
    pub(super) error: String,
}

impl<'a> SearchOutput<'a> {
    pub(super) fn new(
        query: &'a str,
        query_size: [u32; 2],
        answer: &SearchAnswer,
        options: &SearchOptions,
    ) -> SearchOutput<'a> {
        let results = answer.results.iter().cloned().enumerate();
        SearchOutput {
            query,
            query_size,
            took_ms: (answer.elapsed.as_secs_f64() * 1e6).round() / 1000.0,
            exact: answer.exact,
            reason: answer.reason.map(|reason| ReasonRecord::new(reason, options)),
            results: results.map(|(i, found)| ResultRecord::new(i + 1, found)).collect(),
        }
    }
}

/// One line of `index --json`.
#[derive(Debug, Serialize)]
pub(super) struct FileOutput {
    event: &'static str,
    path: String,
    /// The bytes of a path that is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<Vec<u8>>,
    rows: u32,
    /// Rows in the kind space.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind_rows: Option<u32>,
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
}

impl FileOutput {
    pub(super) fn new(path: &Path, outcome: &FileOutcome) -> FileOutput {
        let (event, rows, error, warning) = match outcome {
            FileOutcome::Indexed { rows, warning, .. } => ("indexed", *rows, None, warning.clone()),
            FileOutcome::Unchanged { rows, .. } => ("unchanged", *rows, None, None),
            FileOutcome::Failed { error, kept } => ("failed", 0, Some(advice::failed_file(error, *kept)), None),
            FileOutcome::Missing => ("skipped", 0, Some(advice::MISSING_FILE.to_owned()), None),
            FileOutcome::Removed => ("removed", 0, None, None),
        };
        let kind_rows = match outcome {
            FileOutcome::Indexed { kind_rows, .. } | FileOutcome::Unchanged { kind_rows, .. } => *kind_rows,
            FileOutcome::Failed { .. } | FileOutcome::Missing | FileOutcome::Removed => None,
        };
        let path_bytes = path.to_str().is_none().then(|| path.as_os_str().as_encoded_bytes().to_vec());
        FileOutput { event, path: path.to_string_lossy().into_owned(), path_bytes, rows, kind_rows, error, warning }
    }
}

/// The last line of `index --json`.
#[derive(Debug, Serialize)]
pub(super) struct IndexOutput {
    event: &'static str,
    indexed: usize,
    unchanged: usize,
    failed: usize,
    skipped: usize,
    removed: usize,
    rows: usize,
    /// Rows in the kind space.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind_rows: Option<usize>,
    seconds: f64,
}

impl IndexOutput {
    pub(super) fn new(summary: &IndexSummary) -> IndexOutput {
        IndexOutput {
            event: "summary",
            indexed: summary.indexed,
            unchanged: summary.unchanged,
            failed: summary.failed,
            skipped: summary.skipped,
            removed: summary.removed,
            rows: summary.rows,
            kind_rows: summary.kind_rows,
            seconds: summary.took.as_secs_f64(),
        }
    }
}

/// One line of `encoders --json`.
#[derive(Debug, Serialize)]
pub(super) struct EncoderOutput<'a> {
    pub(super) name: &'a str,
    pub(super) about: &'a str,
    pub(super) licence: &'a str,
    pub(super) source: &'a str,
    /// Repository on the Hugging Face hub.
    pub(super) repository: Option<&'a str>,
    /// Whether the weights are on this machine.
    pub(super) here: bool,
    /// Path of the weights, whether they exist or not; `null` if they are embedded.
    pub(super) path: Option<String>,
    /// Size of the file, or of the download.
    pub(super) bytes: Option<u64>,
    /// Hash that the file had when it was downloaded.
    pub(super) hash: Option<String>,
    pub(super) verified: bool,
}

/// One line of `encoders pull --json`.
#[cfg(feature = "encoders")]
#[derive(Debug, Serialize)]
pub(super) struct PullOutput<'a> {
    pub(super) name: &'a str,
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) hash: &'a str,
    pub(super) commit: &'a str,
    /// Bytes received over the network.
    pub(super) transferred: u64,
}

/// The object of `info --json`.
#[derive(Debug, Serialize)]
pub(super) struct InfoOutput<'a> {
    pub(super) index: String,
    pub(super) videos: usize,
    pub(super) rows: usize,
    /// Length of all videos in seconds.
    pub(super) duration: f64,
    pub(super) dim: usize,
    pub(super) attributes: &'a BTreeMap<String, String>,
    pub(super) calibration: Calibration,
    /// The scenes, then the kind space if there is one.
    pub(super) spaces: Vec<SpaceOutput>,
    /// Size of the memory-mapped vectors and graphs.
    pub(super) bytes: u64,
    pub(super) segments: usize,
    pub(super) graphs: usize,
    pub(super) deleted_share: f64,
    #[serde(rename = "ann_recall@10")]
    pub(super) ann_recall: f64,
    #[serde(rename = "ef_for_0.99")]
    pub(super) ef: Option<usize>,
    /// Bits per value of a vector.
    pub(super) bits: u32,
    pub(super) sketch_bytes: u32,
    #[serde(rename = "rounding_recall@10")]
    pub(super) rounding_recall: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) list: Option<Vec<VideoOutput<'a>>>,
}

/// A space in `info --json`.
#[derive(Debug, Serialize)]
pub(super) struct SpaceOutput {
    #[serde(rename = "match")]
    pub(super) space: Space,
    pub(super) encoder: String,
    pub(super) checkpoint: Option<String>,
    pub(super) dim: usize,
    pub(super) bits: u32,
    pub(super) videos: usize,
    pub(super) rows: usize,
    /// Size of the memory-mapped vectors, sketches and graphs.
    pub(super) bytes: u64,
    /// `bytes` for each row; absent without rows.
    pub(super) bytes_per_row: Option<f64>,
    /// `bytes` for each minute of video; absent without videos.
    pub(super) bytes_per_minute: Option<f64>,
    pub(super) calibration: Calibration,
}

/// A video in `info --json --videos`.
#[derive(Debug, Serialize)]
pub(super) struct VideoOutput<'a> {
    video: &'a str,
    path: &'a str,
    /// The bytes of a path that is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<&'a [u8]>,
    title: &'a str,
    labels: &'a [String],
    rows: u32,
    duration: f64,
    warning: Option<&'a str>,
}

impl<'a> VideoOutput<'a> {
    pub(super) fn new(video: &'a Video) -> VideoOutput<'a> {
        VideoOutput {
            video: &video.id,
            path: &video.path,
            path_bytes: video.path_bytes.as_deref(),
            title: &video.title,
            labels: &video.labels,
            rows: video.rows,
            duration: video.duration_ms as f64 / 1000.0,
            warning: video.note.as_deref(),
        }
    }
}
