//! One indexing job and its progress.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use utoipa::ToSchema;

use crate::base::Cancel;
use crate::ingest::{FileOutcome, IndexEvent, IndexSummary};
use crate::serve::advice;
use crate::serve::limits::MAX_JOB_FAILURES;
use crate::serve::observe::clock::{rfc3339, since_1970_ns};

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
    pub(super) state: JobState,
    pub(super) took: Option<Duration>,
    /// Time at which the job had found all files and began to read them.
    pub(super) reading_since: Option<Instant>,
    pub(super) done_bytes: u64,
    pub(super) total_bytes: u64,
    pub(super) indexed: usize,
    pub(super) unchanged: usize,
    pub(super) failed: usize,
    pub(super) skipped: usize,
    pub(super) removed: usize,
    pub(super) rows: u64,
    pub(super) failures: Vec<FailedFile>,
    pub(super) error: Option<String>,
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
    pub(super) state: JobState,
    /// Time of the start, in UTC.
    #[schema(format = DateTime)]
    started: String,
    /// Duration of the job so far, or of all of it.
    seconds: f64,
    /// Bytes of the files read so far. A file that is being read counts by the share of its duration that is
    /// read.
    done_bytes: u64,
    /// Bytes of all files to read; 0 while the job looks for files, and if there are none.
    total_bytes: u64,
    /// Share of the bytes read, from 0 to 1.
    pub(super) progress: f64,
    /// Estimated seconds to the end; `null` until there is an estimate.
    pub(super) eta_seconds: Option<f64>,
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
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_running(&self) -> bool {
        self.progress().state == JobState::Running
    }

    pub(super) fn status(&self) -> JobStatus {
        let progress = self.progress().clone();
        let took = progress.took.unwrap_or_else(|| self.start.elapsed()).as_secs_f64();
        let share = match (progress.state, progress.total_bytes) {
            (JobState::Done, _) => 1.0,
            (_, 0) => 0.0,
            (_, total) => (progress.done_bytes as f64 / total as f64).min(1.0),
        };
        // The estimate leaves out the time to find files and to open the model.
        let reading = progress.reading_since.filter(|_| progress.state == JobState::Running && share > 0.0);
        let eta = reading.map(|since| since.elapsed().as_secs_f64() * (1.0 - share) / share);
        JobStatus {
            job: self.id.clone(),
            state: progress.state,
            started: rfc3339(since_1970_ns(self.started)),
            seconds: tenths(took),
            done_bytes: progress.done_bytes,
            total_bytes: progress.total_bytes,
            progress: share,
            eta_seconds: eta.map(tenths),
            indexed: progress.indexed,
            unchanged: progress.unchanged,
            failed: progress.failed,
            skipped: progress.skipped,
            removed: progress.removed,
            rows: progress.rows,
            failures: progress.failures,
            error: progress.error,
        }
    }

    /// Records an event of the indexer.
    pub(super) fn on_event(&self, event: IndexEvent) {
        let mut progress = self.progress();
        let (path, outcome) = match event {
            IndexEvent::File { path, outcome } => (path, outcome),
            IndexEvent::Progress { done_bytes, total_bytes } => {
                progress.reading_since.get_or_insert_with(Instant::now);
                (progress.done_bytes, progress.total_bytes) = (done_bytes, total_bytes);
                return;
            }
        };
        match outcome {
            FileOutcome::Indexed { rows, .. } => {
                progress.indexed += 1;
                progress.rows += u64::from(rows);
            }
            FileOutcome::Unchanged { .. } => progress.unchanged += 1,
            FileOutcome::Missing => progress.skipped += 1,
            FileOutcome::Removed => progress.removed += 1,
            FileOutcome::Failed { error, .. } => {
                progress.failed += 1;
                if progress.failures.len() < MAX_JOB_FAILURES {
                    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    let reason = advice::file_error(error, &name);
                    progress.failures.push(FailedFile { name, reason });
                }
            }
        }
    }

    /// Records the end of the job.
    pub(super) fn end(&self, outcome: Result<IndexSummary, String>) {
        let mut progress = self.progress();
        progress.took = Some(self.start.elapsed());
        match outcome {
            Ok(summary) if summary.cancelled => progress.state = JobState::Cancelled,
            Ok(_) => progress.state = JobState::Done,
            Err(error) if self.cancel.is_set() => {
                tracing::info!(job = self.id, "error while the job was stopped: {error}");
                progress.state = JobState::Cancelled;
            }
            Err(error) => (progress.state, progress.error) = (JobState::Failed, Some(error)),
        }
        let JobProgress { state, indexed, failed, .. } = &*progress;
        tracing::info!(job = self.id, ?state, indexed, failed, "indexing ended");
    }
}

/// Rounded to tenths of a second.
fn tenths(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}
