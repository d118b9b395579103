//! One run over an index: what there is to do, what became of it, what the index remembers.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reelseek_index::{Index, Searcher, Video, VideoNumber, Writer};

use super::work::{self, Finished, Task};
use super::{Error, Event, Outcome, Plan, Summary, calibrate, sidecar};
use crate::media;
use crate::search::{Failure, State};

/// What is done is published this often, so that a kill loses little.
const COMMIT_EVERY: Duration = Duration::from_secs(5);

/// Failures remembered: each is read again by every search. More are tried again in each run, as the README says.
const MAX_FAILURES: usize = 1000;
/// Bytes kept of what was wrong with a file.
const MAX_REASON_BYTES: usize = 256;

/// The writer, with all that a run keeps count of.
pub(super) struct Run<'a, T> {
    index: &'a Index,
    writer: Writer,
    snapshot: Searcher,
    known: HashMap<String, (VideoNumber, Video)>,
    state: State,
    summary: Summary,
    tell: T,
    done_bytes: u64,
    total_bytes: u64,
    /// Whether something was put that no commit holds yet.
    pending: bool,
    committed: Instant,
}

impl<'a, T: FnMut(&Event)> Run<'a, T> {
    pub(super) fn begin(index: &'a Index, tell: T) -> Result<Run<'a, T>, Error> {
        let writer = index.writer()?;
        let snapshot = index.searcher()?;
        let mut known = HashMap::new();
        for number in snapshot.video_numbers() {
            let video = snapshot.video(number)?;
            known.insert(video.id.clone(), (number, video));
        }
        Ok(Run {
            state: State::of(&snapshot),
            index,
            writer,
            snapshot,
            known,
            summary: Summary::default(),
            tell,
            done_bytes: 0,
            total_bytes: 0,
            pending: false,
            committed: Instant::now(),
        })
    }

    /// Tells what became of a file, and counts it.
    fn report(&mut self, path: &Path, outcome: Outcome) {
        match &outcome {
            Outcome::Indexed { .. } => self.summary.indexed += 1,
            Outcome::Unchanged { .. } => self.summary.unchanged += 1,
            Outcome::Failed { .. } => self.summary.failed += 1,
            Outcome::Skipped { .. } => self.summary.skipped += 1,
            Outcome::Removed => self.summary.removed += 1,
        }
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        (self.tell)(&Event::File { path, outcome });
    }

    /// Tells how far the run is, with bytes of files that are not done.
    pub(super) fn tell_progress(&mut self, under_way: &AtomicU64) {
        let done_bytes = self.done_bytes + under_way.load(Ordering::Relaxed);
        (self.tell)(&Event::Progress { done_bytes, total_bytes: self.total_bytes });
    }

    /// Looks at all files from outside, deals with those that need no decoding and gives the others, the longest first:
    /// no core waits at the end for one that started late.
    pub(super) fn survey(&mut self, plan: &Plan) -> Result<Vec<Task>, Error> {
        let mut todo = Vec::new();
        let mut present = HashSet::new();
        let mut unread = Vec::new();
        for entry in media::walk::videos(&plan.paths, &plan.exclude) {
            match entry.and_then(|path| Task::look(&path).map_err(|error| (path, error))) {
                Ok(task) => {
                    present.insert(task.id.clone());
                    if !self.settled(&task, plan)? {
                        todo.push(task);
                    }
                }
                Err((path, error)) => {
                    self.report(&path, Outcome::Failed { reason: error.to_string() });
                    unread.push(work::resolved(&path));
                }
            }
        }
        self.vanished(plan, &present, &unread)?;
        self.total_bytes = todo.iter().map(|t| t.size_bytes).sum();
        (self.tell)(&Event::Progress { done_bytes: 0, total_bytes: self.total_bytes });
        todo.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.path.cmp(&b.path)));
        Ok(todo)
    }

    /// Whether a file needs no decoding; says so then.
    fn settled(&mut self, task: &Task, plan: &Plan) -> Result<bool, Error> {
        if let Some(failure) = self.state.failed.get(&task.id).filter(|f| task.same_failure(f) && !plan.retry) {
            let (path, reason) = (task.path.display(), &failure.reason);
            let reason = format!("{path}: {reason} (unchanged since; --retry decodes it again)");
            self.report(&task.path, Outcome::Failed { reason });
            return Ok(true);
        }
        let Some((number, video)) = self.known.get(&task.id) else { return Ok(false) };
        if !task.same_media(video, plan.keyframes) {
            return Ok(false);
        }
        if task.same_sidecar(video) {
            let rows = video.rows;
            self.report(&task.path, Outcome::Unchanged { rows });
            return Ok(true);
        }
        // Only the sidecar changed: new metadata, the same rows.
        let (rows, sketches) = (self.snapshot.rows_of(*number)?, self.snapshot.sketches_of(*number)?);
        let (Some((spans, vectors)), Some(sketches)) = (rows, sketches) else { return Ok(false) };
        let (described, warning) = task.describe(video.duration_ms, video.note.clone());
        let renewed =
            Video { probe: video.probe.clone(), sampling: video.sampling.clone(), rows: video.rows, ..described };
        let rows = video.rows;
        let outcome = match self.writer.put(renewed, &spans, &vectors, &sketches) {
            Ok(()) => Outcome::Indexed { rows, warning },
            Err(error) => refused(error)?,
        };
        self.pending = true;
        self.report(&task.path, outcome);
        Ok(true)
    }

    /// Deals with videos of the index that lie under the paths of the run and are gone. What could not be looked at is not gone.
    fn vanished(&mut self, plan: &Plan, present: &HashSet<String>, unread: &[PathBuf]) -> Result<(), Error> {
        let roots: Vec<PathBuf> = plan.paths.iter().map(|root| work::resolved(root)).collect();
        let meant = |path: &Path| roots.iter().any(|root| path.starts_with(root));
        // A failure need not be remembered when its file is gone; what lies elsewhere, on a drive that is away, say, is not looked at.
        let forgotten = |path: &Path| meant(path) && matches!(path.try_exists(), Ok(false));
        self.state.failed.retain(|id, failure| present.contains(id) || !forgotten(&failure.path));
        let mut gone: Vec<(PathBuf, String)> = Vec::new();
        for (id, (_, video)) in &self.known {
            let path = sidecar::path_of(video);
            let hidden = unread.iter().any(|u| path.starts_with(u) && path != *u);
            if meant(&path) && !hidden && !present.contains(id) && matches!(path.try_exists(), Ok(false)) {
                gone.push((path, id.clone()));
            }
        }
        gone.sort();
        for (path, id) in gone {
            if plan.prune {
                self.writer.remove(&id)?;
                self.pending = true;
                self.report(&path, Outcome::Removed);
            } else {
                let reason = "the file is gone but still in the index; --prune removes it".to_owned();
                self.report(&path, Outcome::Skipped { reason });
            }
        }
        Ok(())
    }

    /// Takes what became of one file into the index.
    pub(super) fn take(&mut self, finished: Finished, under_way: &AtomicU64) -> Result<(), Error> {
        let Finished { task, done, counted_bytes } = finished;
        self.done_bytes += task.size_bytes;
        under_way.fetch_sub(counted_bytes, Ordering::Relaxed);
        self.tell_progress(under_way);
        self.state.failed.remove(&task.id);
        let outcome = match done {
            Ok(done) => {
                let rows = done.rows.spans.len() as u32;
                match self.writer.put(done.video, &done.rows.spans, &done.rows.vectors, &done.rows.sketches) {
                    Ok(()) => Outcome::Indexed { rows, warning: done.warning },
                    Err(error) => refused(error)?,
                }
            }
            Err(error) => {
                let mut reason = error.to_string();
                if error.is_lasting() && self.state.failed.len() < MAX_FAILURES {
                    self.state.failed.insert(task.id.clone(), task.failure(&reason));
                    self.pending = true;
                }
                if self.known.contains_key(&task.id) {
                    reason.push_str("; what the index had of it before is kept");
                }
                Outcome::Failed { reason }
            }
        };
        self.pending |= matches!(outcome, Outcome::Indexed { .. });
        self.report(&task.path, outcome);
        if self.pending && self.committed.elapsed() >= COMMIT_EVERY {
            // The calibration in it stays that of the videos that it names.
            self.writer.set_state(self.state.to_json());
            self.writer.commit()?;
            calibrate::calibrate_if_outgrown(self.index, &mut self.writer, &mut self.state)?;
            self.pending = false;
            self.committed = Instant::now();
        }
        Ok(())
    }

    /// Commits, brings what the index remembers up to date, and gives the totals.
    pub(super) fn end(mut self) -> Result<Summary, Error> {
        if self.pending {
            self.writer.commit()?;
        }
        calibrate::calibrate(self.index, &mut self.writer, self.state)?;
        self.writer.close()?;
        let after = self.index.searcher()?;
        Ok(Summary { rows: after.rows(), videos: after.video_numbers().len(), ..self.summary })
    }
}

/// A video that the index refuses is one file's failure; anything else ends the run.
fn refused(error: reelseek_index::Error) -> Result<Outcome, Error> {
    match error {
        reelseek_index::Error::Argument { .. } => Ok(Outcome::Failed { reason: error.to_string() }),
        error => Err(error.into()),
    }
}

impl Task {
    fn same_failure(&self, failure: &Failure) -> bool {
        (failure.size_bytes, failure.modified_ns) == (self.size_bytes, self.modified_ns)
    }

    fn failure(&self, reason: &str) -> Failure {
        let path = format!("{}: ", self.path.display());
        let mut reason = reason.strip_prefix(&path).unwrap_or(reason).to_owned(); // a long path must not crowd it out
        if let Some((end, _)) = reason.char_indices().find(|(at, c)| at + c.len_utf8() > MAX_REASON_BYTES) {
            reason.truncate(end);
        }
        Failure { size_bytes: self.size_bytes, modified_ns: self.modified_ns, reason, path: self.path.clone() }
    }
}
