//! The JSON that the command line prints: types of its own, so that inner changes do not break scripts.

use std::path::Path;

use serde::Serialize;

use crate::ingest;
use crate::search::{SearchAnswer, SearchResult};

/// One line of `search --json`.
#[derive(Debug, Serialize)]
pub(super) struct Reply<'a> {
    query: &'a str,
    took_ms: f64,
    exact: bool,
    results: Vec<Moment<'a>>,
}

/// One answer.
#[derive(Debug, Serialize)]
struct Moment<'a> {
    rank: usize,
    video: &'a str,
    path: &'a str,
    title: &'a str,
    score: f32,
    evidence: f32,
    confidence: f32,
    from: f64,
    at: f64,
    to: f64,
    duration: f64,
    labels: &'a [String],
}

/// One line of `search --json` for a picture that could not be searched for.
#[derive(Debug, Serialize)]
pub(super) struct Failure<'a> {
    pub(super) query: &'a str,
    pub(super) error: String,
}

impl<'a> Reply<'a> {
    pub(super) fn new(query: &'a str, answer: &'a SearchAnswer) -> Reply<'a> {
        Reply {
            query,
            took_ms: (answer.elapsed.as_secs_f64() * 1e6).round() / 1000.0,
            exact: answer.exact,
            results: answer.results.iter().enumerate().map(|(i, found)| Moment::new(i + 1, found)).collect(),
        }
    }
}

impl<'a> Moment<'a> {
    fn new(rank: usize, found: &'a SearchResult) -> Moment<'a> {
        let seconds = |ms: u32| f64::from(ms) / 1000.0;
        let video = &found.video;
        Moment {
            rank,
            video: &video.id,
            path: &video.path,
            title: &video.title,
            score: found.score,
            evidence: found.evidence,
            confidence: found.confidence,
            from: seconds(found.moment.from_ms),
            at: seconds(found.moment.at_ms),
            to: seconds(found.moment.to_ms),
            duration: video.duration_ms as f64 / 1000.0,
            labels: &video.labels,
        }
    }
}

/// One line of `index --json`.
#[derive(Debug, Serialize)]
pub(super) struct FileEvent {
    event: &'static str,
    path: String,
    rows: u32,
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
}

impl FileEvent {
    pub(super) fn new(path: &Path, outcome: &ingest::Outcome) -> FileEvent {
        use ingest::Outcome;
        let (name, rows, error, warning) = match outcome.clone() {
            Outcome::Indexed { rows, warning } => ("indexed", rows, None, warning),
            Outcome::Unchanged { rows } => ("unchanged", rows, None, None),
            Outcome::Failed { reason } => ("failed", 0, Some(reason), None),
            Outcome::Skipped { reason } => ("skipped", 0, Some(reason), None),
            Outcome::Removed => ("removed", 0, None, None),
        };
        FileEvent { event: name, path: path.to_string_lossy().into_owned(), rows, error, warning }
    }
}

/// The last line of `index --json`.
#[derive(Debug, Serialize)]
pub(super) struct SummaryEvent {
    event: &'static str,
    indexed: usize,
    unchanged: usize,
    failed: usize,
    skipped: usize,
    removed: usize,
    rows: usize,
    seconds: f64,
}

impl SummaryEvent {
    pub(super) fn new(summary: &ingest::Summary) -> SummaryEvent {
        SummaryEvent {
            event: "summary",
            indexed: summary.indexed,
            unchanged: summary.unchanged,
            failed: summary.failed,
            skipped: summary.skipped,
            removed: summary.removed,
            rows: summary.rows,
            seconds: summary.took.as_secs_f64(),
        }
    }
}

/// One line of `encoders --json`.
#[derive(Debug, Serialize)]
pub(super) struct Encoder<'a> {
    pub(super) name: &'a str,
    pub(super) about: &'a str,
    pub(super) licence: &'a str,
    pub(super) source: &'a str,
    /// Where it is on the hub.
    pub(super) repository: Option<&'a str>,
    /// Whether it can be used now.
    pub(super) here: bool,
    /// Where its weights are or would be; `null` if they are part of the program.
    pub(super) path: Option<String>,
    /// Size of the file, or of what has to be fetched.
    pub(super) bytes: Option<u64>,
    /// The hash that the file had when it was fetched.
    pub(super) hash: Option<String>,
    pub(super) verified: bool,
}

/// One line of `encoders pull --json`.
#[derive(Debug, Serialize)]
pub(super) struct Pulled<'a> {
    pub(super) name: &'a str,
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) hash: &'a str,
    pub(super) commit: &'a str,
    /// Bytes that came over the network.
    pub(super) transferred: u64,
}
