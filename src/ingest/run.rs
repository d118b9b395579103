//! One run over an index: chooses the files to decode, stores their rows or failures, and reports outcomes.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reelseek_index::{Searcher, Video, VideoNumber, Writer};

use super::fields::{FieldNames, MAX_INDEX_NAMES};
use super::work::{self, FileTask, FinishedTask};
use super::{Error, FileError, FileOutcome, IndexEvent, IndexOptions, IndexSummary, VideoRows, calibrate};
use crate::collection::{Collection, CollectionState, DecodeFailure, Model, video_path};
use crate::media;

/// Interval of commits. A killed run loses at most the files that finished in this time.
const COMMIT_EVERY: Duration = Duration::from_secs(5);

/// Largest number of remembered failures, limited because every search reads them. Other failed files are
/// decoded again in each run.
const MAX_FAILURES: usize = 1000;
/// Largest length of a remembered error in bytes.
const MAX_REASON_BYTES: usize = 256;

/// The writer and the counts of a run.
pub(super) struct IndexRun<'a, F> {
    collection: &'a Collection,
    model: &'a Model,
    options: &'a IndexOptions,
    writer: Writer,
    snapshot: Searcher,
    known: HashMap<String, (VideoNumber, Video)>,
    state: CollectionState,
    /// Names of the fields of all videos.
    names: FieldNames,
    summary: IndexSummary,
    on_event: F,
    done_bytes: u64,
    total_bytes: u64,
    /// Whether there are changes to commit.
    pending: bool,
    committed: Instant,
}

impl<'a, F: FnMut(IndexEvent)> IndexRun<'a, F> {
    pub(super) fn begin(
        collection: &'a Collection,
        model: &'a Model,
        options: &'a IndexOptions,
        on_event: F,
    ) -> Result<IndexRun<'a, F>, Error> {
        let writer = collection.writer()?;
        let snapshot = collection.searcher()?;
        let (mut known, mut names) = (HashMap::new(), FieldNames::default());
        for number in snapshot.video_numbers() {
            let mut video = snapshot.video(number)?;
            names.add(&mut video.extra, usize::MAX);
            known.insert(video.id.clone(), (number, video));
        }
        Ok(IndexRun {
            state: CollectionState::of(&snapshot),
            collection,
            model,
            options,
            writer,
            snapshot,
            known,
            names,
            summary: IndexSummary::default(),
            on_event,
            done_bytes: 0,
            total_bytes: 0,
            pending: false,
            committed: Instant::now(),
        })
    }

    /// Counts an outcome and reports it.
    fn report(&mut self, path: &Path, outcome: FileOutcome) {
        match &outcome {
            FileOutcome::Indexed { .. } => self.summary.indexed += 1,
            FileOutcome::Unchanged { .. } => self.summary.unchanged += 1,
            FileOutcome::Failed { error, .. } => {
                self.summary.failed += 1;
                let named = self.options.paths.iter().any(|named| named == path);
                self.summary.not_found += usize::from(named && error.is_wrong_path());
            }
            FileOutcome::Missing => self.summary.skipped += 1,
            FileOutcome::Removed => self.summary.removed += 1,
        }
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        (self.on_event)(IndexEvent::File { path, outcome });
    }

    /// Reports progress. `reading_bytes` counts the decoded share of unfinished files.
    pub(super) fn report_progress(&mut self, reading_bytes: &AtomicU64) {
        let done_bytes = self.done_bytes + reading_bytes.load(Ordering::Relaxed);
        (self.on_event)(IndexEvent::Progress { done_bytes, total_bytes: self.total_bytes });
    }

    /// Finds all files, handles those that need no decoding and returns the others, the largest first, so
    /// that no worker starts a long file last.
    pub(super) fn survey(&mut self) -> Result<Vec<FileTask>, Error> {
        let mut todo = Vec::new();
        let mut present = HashSet::new();
        let mut unreadable = Vec::new();
        for entry in media::walk::videos(&self.options.paths, &self.options.exclude) {
            match entry.and_then(|path| FileTask::new(&path).map_err(|error| (path, error))) {
                Ok(task) => {
                    present.insert(task.id.clone());
                    match &task.link {
                        Some(target) => self.state.links.insert(task.id.clone(), target.clone()),
                        None => self.state.links.remove(&task.id),
                    };
                    if !self.handle_undecoded(&task)? {
                        todo.push(task);
                    }
                }
                Err((path, error)) => {
                    self.report(&path, FileOutcome::Failed { error: error.into(), kept: false });
                    unreadable.push(work::resolved(&path));
                }
            }
        }
        self.state.links.retain(|id, _| present.contains(id) || self.known.contains_key(id));
        self.handle_missing(&present, &unreadable)?;
        self.total_bytes = todo.iter().map(|t| t.size_bytes).sum();
        (self.on_event)(IndexEvent::Progress { done_bytes: 0, total_bytes: self.total_bytes });
        todo.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.path.cmp(&b.path)));
        Ok(todo)
    }

    /// Handles a file that needs no decoding. Returns whether it did.
    fn handle_undecoded(&mut self, task: &FileTask) -> Result<bool, Error> {
        let failure = self.state.failed.get(&task.id).filter(|f| task.same_failure(f) && !self.options.retry);
        if let Some(failure) = failure {
            let error = FileError::FailedBefore { path: task.path.clone(), reason: failure.reason.clone() };
            self.report(&task.path, FileOutcome::Failed { error, kept: false });
            return Ok(true);
        }
        let Some((number, video)) = self.known.get(&task.id) else { return Ok(false) };
        if !task.same_media(video, self.options.keyframes) {
            return Ok(false);
        }
        let rows = video.rows;
        if task.same_sidecar(video) {
            self.report(&task.path, FileOutcome::Unchanged { rows });
            return Ok(true);
        }
        // Only the sidecar changed: new metadata for the same rows.
        let (stored, sketches) = (self.snapshot.rows_of(*number)?, self.snapshot.sketches_of(*number)?);
        let (Some((spans, vectors)), Some(sketches)) = (stored, sketches) else { return Ok(false) };
        let (described, warning) = task.describe(video.duration_ms, video.note.clone());
        let (probe, sampling) = (video.probe.clone(), video.sampling.clone());
        let video = Video { probe, sampling, rows, ..described };
        let outcome = self.put(task, video, warning, &VideoRows { spans, vectors, sketches })?;
        self.pending = true;
        self.report(&task.path, outcome);
        Ok(true)
    }

    /// Puts a video into the index, without fields for which the index has too many names.
    fn put(
        &mut self,
        task: &FileTask,
        mut video: Video,
        warning: Option<String>,
        rows: &VideoRows,
    ) -> Result<FileOutcome, Error> {
        let removed = self.names.add(&mut video.extra, MAX_INDEX_NAMES);
        let note = format!("fields left out: {removed} (an index has at most {MAX_INDEX_NAMES} names of fields)");
        let left_out = task.left_out(if removed > 0 { std::slice::from_ref(&note) } else { &[] });
        match self.writer.put(video, &rows.spans, &rows.vectors, &rows.sketches) {
            Ok(()) => {
                Ok(FileOutcome::Indexed { rows: rows.spans.len() as u32, warning: work::joined(warning, left_out) })
            }
            Err(error) => refused(error),
        }
    }

    /// Handles videos of the index that are under the paths of the run and whose files are gone. A file in an
    /// unreadable folder does not count as gone.
    fn handle_missing(&mut self, present: &HashSet<String>, unreadable: &[PathBuf]) -> Result<(), Error> {
        let roots: Vec<PathBuf> = self.options.paths.iter().map(|root| work::resolved(root)).collect();
        let does_not_exist = |path: &Path| matches!(path.try_exists(), Ok(false));
        let lost: Vec<&PathBuf> = roots.iter().filter(|root| does_not_exist(root)).collect();
        let root_of = |path: &Path| roots.iter().find(|root| path.starts_with(root));
        let gone = |path: &Path| root_of(path).is_some() && does_not_exist(path);
        // The failures of deleted files are forgotten.
        self.state.failed.retain(|id, failure| present.contains(id) || !gone(&failure.path));
        let mut missing: Vec<(PathBuf, String)> = Vec::new();
        for (id, (_, video)) in &self.known {
            let path = video_path(video);
            if present.contains(id) {
                continue;
            }
            let hidden = unreadable.iter().any(|u| path.starts_with(u) && path != *u);
            let excluded = |root: &PathBuf| media::walk::is_excluded(&path, root, &self.options.exclude);
            if lost.iter().any(|root| path.starts_with(root) && path != **root) {
                self.summary.unreachable += 1;
            } else if !hidden && gone(&path) {
                missing.push((path, id.clone()));
            } else if root_of(&path).is_some_and(excluded) {
                self.summary.excluded += 1;
            }
        }
        missing.sort();
        for (path, id) in missing {
            if self.options.prune {
                self.writer.remove(&id)?;
                self.pending = true;
                self.report(&path, FileOutcome::Removed);
            } else {
                self.report(&path, FileOutcome::Missing);
            }
        }
        Ok(())
    }

    /// Stores the rows of a decoded file, or its failure.
    pub(super) fn store(&mut self, finished: FinishedTask, reading_bytes: &AtomicU64) -> Result<(), Error> {
        let FinishedTask { task, result, counted_bytes } = finished;
        self.done_bytes += task.size_bytes;
        reading_bytes.fetch_sub(counted_bytes, Ordering::Relaxed);
        self.report_progress(reading_bytes);
        self.state.failed.remove(&task.id);
        let outcome = match result {
            Ok(file) => self.put(&task, file.video, file.warning, &file.rows)?,
            Err(error) => {
                if error.is_lasting() && self.state.failed.len() < MAX_FAILURES {
                    self.state.failed.insert(task.id.clone(), task.failure(&error.to_string()));
                    self.pending = true;
                }
                FileOutcome::Failed { error, kept: self.known.contains_key(&task.id) }
            }
        };
        self.pending |= matches!(outcome, FileOutcome::Indexed { .. });
        self.report(&task.path, outcome);
        if self.pending && self.committed.elapsed() >= COMMIT_EVERY {
            // The calibration in this state stays valid: it names the videos that it was measured on.
            self.writer.set_state(self.state.to_json());
            self.writer.commit()?;
            calibrate::calibrate_if_outgrown(self.collection, &mut self.writer, &mut self.state, self.model)?;
            self.pending = false;
            self.committed = Instant::now();
        }
        Ok(())
    }

    /// Commits, updates the state of the index, and returns the totals.
    pub(super) fn end(mut self) -> Result<IndexSummary, Error> {
        if self.pending {
            self.writer.commit()?;
        }
        calibrate::calibrate(self.collection, &mut self.writer, self.state, Some(self.model))?;
        self.writer.close()?;
        let after = self.collection.searcher()?;
        Ok(IndexSummary { rows: after.rows(), videos: after.video_numbers().len(), ..self.summary })
    }
}

/// A video that the index refuses is a failure of that file; any other error ends the run.
fn refused(error: reelseek_index::Error) -> Result<FileOutcome, Error> {
    match error {
        reelseek_index::Error::Argument { .. } => Ok(FileOutcome::Failed { error: error.into(), kept: false }),
        error => Err(error.into()),
    }
}

impl FileTask {
    fn same_failure(&self, failure: &DecodeFailure) -> bool {
        (failure.size_bytes, failure.modified_ns) == (self.size_bytes, self.modified_ns)
    }

    fn failure(&self, reason: &str) -> DecodeFailure {
        let path = format!("{}: ", self.path.display());
        // The path is stored apart, because a long one would leave no room for the error.
        let mut reason = reason.strip_prefix(&path).unwrap_or(reason).to_owned();
        if let Some((end, _)) = reason.char_indices().find(|(at, c)| at + c.len_utf8() > MAX_REASON_BYTES) {
            reason.truncate(end);
        }
        DecodeFailure { size_bytes: self.size_bytes, modified_ns: self.modified_ns, reason, path: self.path.clone() }
    }
}
