//! One indexing job and its progress.

use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use utoipa::ToSchema;

use crate::base::Cancel;
use crate::base::files::since_1970_ns;
use crate::ingest::{FileOutcome, IndexEvent, IndexSummary};
use crate::serve::advice;
use crate::serve::limits::MAX_JOB_FAILURES;
use crate::serve::observe::clock::rfc3339;

/// One indexing job.
pub(crate) struct Job {
    pub(super) id: String,
    started: SystemTime,
    start: Instant,
    pub(super) cancel: Cancel,
    progress: Mutex<JobProgress>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct JobProgress {
    pub(super) took: Option<Duration>,
    /// Time at which the job had found all files and began to read them.
    pub(super) reading_since: Option<Instant>,
    pub(super) record: JobRecord,
}

/// State of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum JobState {
    #[default]
    Running,
    Done,
    Failed,
    /// Stopped by a request or by the end of the server. Finished files are kept.
    Cancelled,
}

/// A file that could not be indexed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct FailedFile {
    /// Name of the file, without its folders.
    name: String,
    reason: String,
}

/// The current status of a job.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobStatus {
    /// Id of the job.
    job: String,
    /// Time of the start, in UTC.
    #[schema(format = DateTime)]
    started: String,
    /// Duration of the job so far, or of all of it.
    seconds: f64,
    /// Share of the bytes read, from 0 to 1.
    pub(super) progress: f64,
    /// Estimated seconds to the end; `null` until there is an estimate.
    pub(super) eta_seconds: Option<f64>,
    #[serde(flatten)]
    pub(super) record: JobRecord,
}

/// What a job has done so far.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub(super) struct JobRecord {
    pub(super) state: JobState,
    /// Bytes of the files read so far. A file that is being read counts by the share of its duration that is
    /// read.
    pub(super) done_bytes: u64,
    /// Bytes of all files to read; 0 while the job looks for files, and if there are none.
    pub(super) total_bytes: u64,
    /// New or changed files indexed.
    indexed: usize,
    unchanged: usize,
    failed: usize,
    skipped: usize,
    removed: usize,
    /// Rows of the indexed videos.
    rows: u64,
    /// The first 100 files that could not be indexed.
    failures: Vec<FailedFile>,
    /// The error, if the whole job failed.
    pub(super) error: Option<String>,
}

impl Job {
    /// A job that starts now.
    pub(super) fn new() -> Job {
        let started = SystemTime::now();
        let id = format!("{:016x}", since_1970_ns(started));
        Job { id, started, start: Instant::now(), cancel: Cancel::default(), progress: Mutex::default() }
    }

    pub(super) fn progress(&self) -> MutexGuard<'_, JobProgress> {
        self.progress.lock()
    }

    pub(super) fn is_running(&self) -> bool {
        self.progress().record.state == JobState::Running
    }

    pub(super) fn status(&self) -> JobStatus {
        let JobProgress { took, reading_since, record } = self.progress().clone();
        let took = took.unwrap_or_else(|| self.start.elapsed()).as_secs_f64();
        let share = match (record.state, record.total_bytes) {
            (JobState::Done, _) => 1.0,
            (_, 0) => 0.0,
            (_, total) => (record.done_bytes as f64 / total as f64).min(1.0),
        };
        // The estimate leaves out the time to find files and to open the model.
        let reading = reading_since.filter(|_| record.state == JobState::Running && share > 0.0);
        let eta = reading.map(|since| since.elapsed().as_secs_f64() * (1.0 - share) / share);
        JobStatus {
            job: self.id.clone(),
            started: rfc3339(since_1970_ns(self.started)),
            seconds: tenths(took),
            progress: share,
            eta_seconds: eta.map(tenths),
            record,
        }
    }

    /// Records an event of the indexer.
    pub(super) fn on_event(&self, event: IndexEvent) {
        let mut progress = self.progress();
        let (path, outcome) = match event {
            IndexEvent::File { path, outcome } => (path, outcome),
            IndexEvent::Progress { done_bytes, total_bytes } => {
                progress.reading_since.get_or_insert_with(Instant::now);
                (progress.record.done_bytes, progress.record.total_bytes) = (done_bytes, total_bytes);
                return;
            }
        };
        let record = &mut progress.record;
        match outcome {
            FileOutcome::Indexed { rows, .. } => {
                record.indexed += 1;
                record.rows += u64::from(rows);
            }
            FileOutcome::Unchanged { .. } => record.unchanged += 1,
            FileOutcome::Missing => record.skipped += 1,
            FileOutcome::Removed => record.removed += 1,
            FileOutcome::Failed { error, .. } => {
                record.failed += 1;
                if record.failures.len() < MAX_JOB_FAILURES {
                    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    let reason = advice::file_error(error, &name);
                    record.failures.push(FailedFile { name, reason });
                }
            }
        }
    }

    /// Records the end of the job.
    pub(super) fn end(&self, outcome: Result<IndexSummary, String>) {
        let mut progress = self.progress();
        progress.took = Some(self.start.elapsed());
        let record = &mut progress.record;
        match outcome {
            Ok(summary) if summary.cancelled => record.state = JobState::Cancelled,
            Ok(_) => record.state = JobState::Done,
            Err(error) if self.cancel.is_set() => {
                tracing::info!(job = self.id, "error while the job was stopped: {error}");
                record.state = JobState::Cancelled;
            }
            Err(error) => (record.state, record.error) = (JobState::Failed, Some(error)),
        }
        let JobRecord { state, indexed, failed, .. } = record;
        tracing::info!(job = self.id, ?state, indexed, failed, "indexing ended");
    }
}

/// Rounded to tenths of a second.
fn tenths(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}
