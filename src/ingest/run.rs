//! One run over an index: chooses the files to decode, stores their rows or failures, and reports outcomes.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reelseek_index::{Searcher, Video, VideoNumber, Writer};

use super::fields::{FieldNames, MAX_INDEX_NAMES};
use super::work::{self, FileTask, FinishedTask, IndexedFile, LackingSpaces, SpaceRows};
use super::{Error, FileError, FileOutcome, IndexEvent, IndexOptions, IndexSummary, Indexer, VideoRows, calibrate};
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
    options: &'a IndexOptions,
    scene: SpaceRun<'a>,
    kind: Option<SpaceRun<'a>>,
    /// Names of the fields of all videos.
    names: FieldNames,
    summary: IndexSummary,
    on_event: F,
    done_bytes: u64,
    total_bytes: u64,
    committed: Instant,
}

impl<'a, F: FnMut(IndexEvent)> IndexRun<'a, F> {
    pub(super) fn begin(indexer: &'a Indexer, on_event: F) -> Result<IndexRun<'a, F>, Error> {
        let mut names = FieldNames::default();
        let mut scene = SpaceRun::begin(&indexer.collection, Some(&indexer.model))?;
        scene.known.values_mut().for_each(|(_, video)| _ = names.add(&mut video.extra, usize::MAX));
        let kind = indexer.kind.as_ref().map(|kind| SpaceRun::begin(&kind.collection, kind.model.as_ref()));
        let mut kind = kind.transpose()?;
        if let Some(kind) = &mut kind {
            kind.remove_unless(|id| scene.known.contains_key(id))?;
        }
        Ok(IndexRun {
            options: &indexer.options,
            scene,
            kind,
            names,
            summary: IndexSummary::default(),
            on_event,
            done_bytes: 0,
            total_bytes: 0,
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
                Ok(mut task) => {
                    present.insert(task.id.clone());
                    match &task.link {
                        Some(target) => self.scene.state.links.insert(task.id.clone(), target.clone()),
                        None => self.scene.state.links.remove(&task.id),
                    };
                    task.lacking = self.handle_undecoded(&task)?;
                    if task.lacking != LackingSpaces::default() {
                        todo.push(task);
                    }
                }
                Err((path, error)) => {
                    self.report(&path, FileOutcome::Failed { error: error.into(), kept: false });
                    unreadable.push(work::resolved(&path));
                }
            }
        }
        let SpaceRun { state, known, .. } = &mut self.scene;
        state.links.retain(|id, _| present.contains(id) || known.contains_key(id));
        self.handle_missing(&present, &unreadable)?;
        self.total_bytes = todo.iter().map(|t| t.size_bytes).sum();
        (self.on_event)(IndexEvent::Progress { done_bytes: 0, total_bytes: self.total_bytes });
        todo.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.path.cmp(&b.path)));
        Ok(todo)
    }

    /// Handles a file as far as that needs no decoding. Returns the spaces that it must be decoded for.
    fn handle_undecoded(&mut self, task: &FileTask) -> Result<LackingSpaces, Error> {
        let failure = self.scene.state.failed.get(&task.id).filter(|f| task.same_failure(f) && !self.options.retry);
        if let Some(failure) = failure {
            let error = FileError::FailedBefore { path: task.path.clone(), reason: failure.reason.clone() };
            self.report(&task.path, FileOutcome::Failed { error, kept: false });
            return Ok(LackingSpaces::default());
        }
        let keyframes = self.options.keyframes;
        let fills_kind = self.kind.as_ref().filter(|kind| kind.model.is_some());
        let mut lacking = LackingSpaces {
            scene: !self.scene.is_current(task, keyframes),
            kind: fills_kind.is_some_and(|kind| !kind.is_current(task, keyframes)),
        };
        // Only the sidecar changed: new metadata for the same rows.
        let mut described = None;
        if !lacking.scene && !self.scene.has_sidecar(task) {
            described = self.scene.describe_again(task, &mut self.names)?;
            lacking.scene = described.is_none();
        }
        if let Some(kind) =
            self.kind.as_mut().filter(|kind| kind.is_current(task, keyframes) && !kind.has_sidecar(task))
        {
            kind.describe_again(task, &mut self.names)?;
        }
        if lacking == LackingSpaces::default() {
            let (rows, kind_rows) = self.rows_of(task);
            let outcome = match described {
                Some(warning) => FileOutcome::Indexed { rows, kind_rows, warning },
                None => FileOutcome::Unchanged { rows, kind_rows },
            };
            self.report(&task.path, outcome);
        }
        Ok(lacking)
    }

    /// Rows of a file in both spaces at the start of the run.
    fn rows_of(&self, task: &FileTask) -> (u32, Option<u32>) {
        let rows = |space: &SpaceRun<'_>| space.known.get(&task.id).map(|(_, video)| video.rows);
        (rows(&self.scene).unwrap_or(0), self.kind.as_ref().and_then(rows))
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
        self.scene.state.failed.retain(|id, failure| present.contains(id) || !gone(&failure.path));
        let mut missing: Vec<(PathBuf, String)> = Vec::new();
        for (id, (_, video)) in &self.scene.known {
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
                self.scene.remove(&id)?;
                self.kind.as_mut().map_or(Ok(()), |kind| kind.remove(&id))?;
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
        self.scene.state.failed.remove(&task.id);
        let outcome = match result {
            Ok(file) => self.put(&task, file)?,
            Err(error) => {
                if error.is_lasting() && self.scene.state.failed.len() < MAX_FAILURES {
                    self.scene.state.failed.insert(task.id.clone(), task.failure(&error.to_string()));
                    self.scene.pending = true;
                }
                FileOutcome::Failed { error, kept: self.scene.known.contains_key(&task.id) }
            }
        };
        self.report(&task.path, outcome);
        if self.committed.elapsed() >= COMMIT_EVERY {
            self.scene.commit()?;
            self.kind.as_mut().map_or(Ok(()), SpaceRun::commit)?;
            self.committed = Instant::now();
        }
        Ok(())
    }

    /// Puts a decoded file into the spaces that it was decoded for, without fields for which the index has
    /// too many names.
    fn put(&mut self, task: &FileTask, file: IndexedFile) -> Result<FileOutcome, Error> {
        let IndexedFile { mut video, scene, kind, warning } = file;
        let warning = work::joined(warning, limit_names(task, &mut video, &mut self.names));
        let (mut rows, mut kind_rows) = self.rows_of(task);
        if let Some(scene) = scene {
            rows = scene.rows.spans.len() as u32;
            if let Err(error) = self.scene.put(video.clone(), scene) {
                return refused(error);
            }
        }
        match (&mut self.kind, kind) {
            (Some(space), Some(kind)) => {
                kind_rows = Some(kind.rows.spans.len() as u32);
                if let Err(error) = space.put(video, kind) {
                    return refused(error);
                }
            }
            // The rows of an earlier version of the file would be wrong.
            (Some(space), None) if task.lacking.scene => {
                kind_rows = None;
                space.remove(&task.id)?;
            }
            (_, None | Some(_)) => {}
        }
        Ok(FileOutcome::Indexed { rows, kind_rows, warning })
    }

    /// Commits, updates the state of the index, and returns the totals.
    pub(super) fn end(mut self) -> Result<IndexSummary, Error> {
        let after = self.scene.end()?;
        self.summary.kind_rows = self.kind.map(SpaceRun::end).transpose()?.map(|after| after.rows());
        Ok(IndexSummary { rows: after.rows(), videos: after.video_numbers().len(), ..self.summary })
    }
}

/// One space of an index in a run.
///
/// The scene space is committed before the kind space. A run that is killed in between leaves videos that
/// the kind space lacks, has in an earlier version, or still has although they are removed. The next run
/// completes it, because it compares each space with the files by itself.
struct SpaceRun<'a> {
    collection: &'a Collection,
    /// `None` if no rows are added.
    model: Option<&'a Model>,
    writer: Writer,
    snapshot: Searcher,
    /// The videos at the start of the run, by id.
    known: HashMap<String, (VideoNumber, Video)>,
    state: CollectionState,
    /// Whether there are changes to commit.
    pending: bool,
}

impl<'a> SpaceRun<'a> {
    fn begin(collection: &'a Collection, model: Option<&'a Model>) -> Result<SpaceRun<'a>, Error> {
        let writer = collection.writer()?;
        let snapshot = collection.searcher()?;
        let mut known = HashMap::new();
        for number in snapshot.video_numbers() {
            let video = snapshot.video(number)?;
            known.insert(video.id.clone(), (number, video));
        }
        let state = CollectionState::of(&snapshot);
        Ok(SpaceRun { collection, model, writer, snapshot, known, state, pending: false })
    }

    /// Whether the rows of a file are current.
    fn is_current(&self, task: &FileTask, keyframes: bool) -> bool {
        self.known.get(&task.id).is_some_and(|(_, video)| task.same_media(video, keyframes))
    }

    /// Whether the metadata of a file are current.
    fn has_sidecar(&self, task: &FileTask) -> bool {
        self.known.get(&task.id).is_some_and(|(_, video)| task.same_sidecar(video))
    }

    /// Reads the metadata of a known file again and keeps its rows. Returns the warning about them, or `None`
    /// if there are no rows to keep.
    fn describe_again(&mut self, task: &FileTask, names: &mut FieldNames) -> Result<Option<Option<String>>, Error> {
        let Some((number, video)) = self.known.get(&task.id) else { return Ok(None) };
        let (stored, sketches) = (self.snapshot.rows_of(*number)?, self.snapshot.sketches_of(*number)?);
        let (Some((spans, vectors)), Some(sketches)) = (stored, sketches) else { return Ok(None) };
        let (described, warning) = task.describe(video.duration_ms, video.note.clone());
        let (probe, sampling) = (video.probe.clone(), video.sampling.clone());
        let mut video = Video { sampling, ..described };
        let warning = work::joined(warning, limit_names(task, &mut video, names));
        self.put(video, SpaceRows { rows: VideoRows { spans, vectors, sketches }, probe })?;
        Ok(Some(warning))
    }

    fn put(&mut self, video: Video, SpaceRows { rows, probe }: SpaceRows) -> Result<(), reelseek_index::Error> {
        let video = Video { probe, rows: rows.spans.len() as u32, ..video };
        self.writer.put(video, &rows.spans, &rows.vectors, &rows.sketches)?;
        self.pending = true;
        Ok(())
    }

    fn remove(&mut self, id: &str) -> Result<(), Error> {
        self.pending |= self.writer.remove(id)?;
        Ok(())
    }

    /// Removes the videos whose ids are not kept.
    fn remove_unless(&mut self, keeps: impl Fn(&str) -> bool) -> Result<(), Error> {
        let unwanted: Vec<String> = self.known.keys().filter(|id| !keeps(id)).cloned().collect();
        unwanted.iter().try_for_each(|id| {
            self.known.remove(id);
            self.remove(id)
        })
    }

    fn commit(&mut self) -> Result<(), Error> {
        if !self.pending {
            return Ok(());
        }
        // The calibration in this state stays valid: it names the videos that it was measured on.
        self.writer.set_state(self.state.to_json());
        self.writer.commit()?;
        self.pending = false;
        match self.model {
            Some(model) => calibrate::calibrate_if_outgrown(self.collection, &mut self.writer, &mut self.state, model),
            None => Ok(()),
        }
    }

    /// Commits, calibrates and closes the writer. Returns the new snapshot.
    fn end(mut self) -> Result<Searcher, Error> {
        if self.pending {
            self.writer.commit()?;
        }
        calibrate::calibrate(self.collection, &mut self.writer, self.state, self.model)?;
        self.writer.close()?;
        Ok(self.collection.searcher()?)
    }
}

/// Removes the fields of a video for which the index has too many names. Returns a warning that names them.
fn limit_names(task: &FileTask, video: &mut Video, names: &mut FieldNames) -> Option<String> {
    let removed = names.add(&mut video.extra, MAX_INDEX_NAMES);
    let note = format!("fields left out: {removed} (an index has at most {MAX_INDEX_NAMES} names of fields)");
    task.left_out(if removed > 0 { std::slice::from_ref(&note) } else { &[] })
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
