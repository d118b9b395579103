//! The conductor: videos → media → encode → gmf → index writer, with an outcome for every file.

mod clips;
pub mod pairs;
mod sidecar;
mod work;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use globset::GlobSet;
use reelseek_index::{Index, Searcher, Settings, Video, VideoNumber, VideoSet, Writer};
use thiserror::Error;

pub use clips::{ClipBuilder, Rows};

use crate::encode::{Layout, layout};
use crate::gmf::{self, Folded};
use crate::media::{self, Cancel, Limits, Tools};
use crate::search::{CHECKPOINT, Calibration, ENCODER};

/// What is done is published this often, so that a kill loses little.
const COMMIT_EVERY: Duration = Duration::from_secs(5);
/// Probes searched for to calibrate an index.
const MAX_PROBES: usize = 256;

/// Why indexing could not run at all; what is wrong with one file is an [`Event`].
#[derive(Debug, Error)]
pub enum Error {
    /// ffmpeg is missing, or a folder cannot be read.
    #[error(transparent)]
    Media(#[from] media::Error),
    /// The index cannot be read or written.
    #[error(transparent)]
    Index(#[from] reelseek_index::Error),
    /// The checkpoint cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] gmf::Error),
    /// The index was made with other weights.
    #[error(
        "the index was made with {what} {found}, but {given} is in use; name the one it was made with, or use another --index folder"
    )]
    Mismatch {
        /// `encoder` or `checkpoint`.
        what: &'static str,
        /// Recorded in the index.
        found: String,
        /// In use now.
        given: String,
    },
}

/// What to index, and how.
#[derive(Debug)]
pub struct Plan {
    /// Files and folders.
    pub paths: Vec<PathBuf>,
    /// Paths to leave out.
    pub exclude: GlobSet,
    /// Videos decoded at once.
    pub jobs: usize,
    /// Look at keyframes only: faster, coarser moments.
    pub keyframes: bool,
    /// Remove videos of these folders that are gone.
    pub prune: bool,
}

/// What became of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is searchable, as soon as the next commit is done.
    Indexed {
        /// Rows it has.
        rows: u32,
        /// What ffmpeg complained of, if the file is damaged but could be read in part.
        warning: Option<String>,
    },
    /// It is in the index and has not changed.
    Unchanged {
        /// Rows it has.
        rows: u32,
    },
    /// It could not be indexed.
    Failed {
        /// Why.
        reason: String,
    },
    /// It was left as it is.
    Skipped {
        /// Why.
        reason: String,
    },
    /// It was gone, and is now out of the index.
    Removed,
}

/// The outcome of one file, with how far the run is.
#[derive(Debug, Clone)]
pub struct Event {
    /// The file.
    pub path: PathBuf,
    /// What became of it.
    pub outcome: Outcome,
    /// Bytes of files dealt with so far.
    pub done_bytes: u64,
    /// Bytes of all files that have to be read.
    pub total_bytes: u64,
}

/// Totals of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Summary {
    /// Files indexed anew or again.
    pub indexed: usize,
    /// Files left as they were, since they have not changed.
    pub unchanged: usize,
    /// Files that could not be indexed.
    pub failed: usize,
    /// Files left out.
    pub skipped: usize,
    /// Files taken out of the index.
    pub removed: usize,
    /// Rows in the index at the end.
    pub rows: usize,
    /// Videos in the index at the end.
    pub videos: usize,
    /// Whether the run was cancelled.
    pub cancelled: bool,
    /// Time taken.
    pub took: Duration,
}

/// Brings an index up to date with files and folders. Creates it if there is none.
///
/// Unchanged files (same path, size and modification time) are not opened; changed ones are replaced.
/// Finished videos are committed every few seconds.
///
/// # Errors
/// [`enum@Error`] if nothing can be indexed at all; a bad file is told by `tell` and stops nothing.
pub fn run(
    folder: &Path,
    plan: &Plan,
    encoder: &Layout,
    checkpoint: &Folded,
    cancel: &Cancel,
    mut tell: impl FnMut(&Event),
) -> Result<Summary, Error> {
    let start = Instant::now();
    let tools = Tools::find()?;
    let index = open_or_create(folder, checkpoint)?;
    let mut writer = index.writer()?;
    let snapshot = index.searcher()?;
    let known = Known::read(&snapshot)?;

    let mut summary = Summary::default();
    let mut report = |outcome: Outcome, path: &Path, done_bytes: u64, total_bytes: u64, summary: &mut Summary| {
        match &outcome {
            Outcome::Indexed { .. } => summary.indexed += 1,
            Outcome::Unchanged { .. } => summary.unchanged += 1,
            Outcome::Failed { .. } => summary.failed += 1,
            Outcome::Skipped { .. } => summary.skipped += 1,
            Outcome::Removed => summary.removed += 1,
        }
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        tell(&Event { path, outcome, done_bytes, total_bytes });
    };

    let mut todo = Vec::new();
    let mut present = HashSet::new();
    let mut pending = false;
    for entry in media::walk::videos(&plan.paths, &plan.exclude) {
        let found = match entry {
            Ok(path) => work::Task::look(&path).map_err(|e| (path, e)),
            Err((path, error)) => Err((path, error)),
        };
        let task = match found {
            Ok(task) => task,
            Err((path, error)) => {
                report(Outcome::Failed { reason: error.to_string() }, &path, 0, 0, &mut summary);
                continue;
            }
        };
        present.insert(task.id.clone());
        match known.get(&task.id) {
            Some((_, video)) if task.same_media(video) && task.same_sidecar(video) => {
                report(Outcome::Unchanged { rows: video.rows }, &task.path, 0, 0, &mut summary);
            }
            Some((number, video)) if task.same_media(video) => {
                // Only the sidecar changed: new metadata, the same rows.
                let Some((spans, vectors)) = snapshot.rows_of(*number) else { continue };
                let (described, warning) = task.describe(video.duration_ms, video.note.clone());
                writer.put(Video { probe: video.probe.clone(), rows: video.rows, ..described }, &spans, vectors)?;
                pending = true;
                report(Outcome::Indexed { rows: video.rows, warning }, &task.path, 0, 0, &mut summary);
            }
            _ => todo.push(task),
        }
    }
    for (id, (_, video)) in &known.videos {
        let path = sidecar::path_of(video);
        if present.contains(id) || !under(&path, &plan.paths) || path.exists() {
            continue;
        }
        if plan.prune {
            writer.remove(id)?;
            pending = true;
            report(Outcome::Removed, &path, 0, 0, &mut summary);
        } else {
            let reason = "the file is gone but still in the index; --prune removes it".to_owned();
            report(Outcome::Skipped { reason }, &path, 0, 0, &mut summary);
        }
    }

    let total_bytes: u64 = todo.iter().map(|t| t.size_bytes).sum();
    let mut done_bytes = 0;
    // The longest first, so that no core waits at the end for one that started late.
    todo.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.path.cmp(&b.path)));
    let queue = std::sync::Mutex::new(todo.into_iter());
    let context = work::Context {
        tools: &tools,
        encoder,
        checkpoint,
        keyframes: plan.keyframes,
        limits: Limits::default(),
        cancel,
    };
    let outcome: Result<(), Error> = std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel::<(work::Task, Result<work::Done, work::Error>)>(2 * plan.jobs);
        for _ in 0..plan.jobs.max(1) {
            let (sender, queue, context) = (sender.clone(), &queue, &context);
            scope.spawn(move || {
                loop {
                    let task = queue.lock().map(|mut q| q.next()).unwrap_or(None);
                    let Some(task) = task.filter(|_| !context.cancel.is_set()) else { return };
                    let done = context.index(&task);
                    if sender.send((task, done)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let take_all = || -> Result<(), Error> {
            let mut committed = Instant::now();
            for (task, done) in receiver {
                if cancel.is_set() {
                    // What is half decoded is not an outcome; a later run takes it up again.
                    continue;
                }
                done_bytes += task.size_bytes;
                let outcome = match done {
                    Ok(done) => {
                        let rows = done.rows.spans.len() as u32;
                        writer.put(done.video, &done.rows.spans, &done.rows.vectors)?;
                        pending = true;
                        Outcome::Indexed { rows, warning: done.warning }
                    }
                    Err(error) => {
                        let mut reason = error.to_string();
                        if known.get(&task.id).is_some() {
                            reason.push_str("; what the index had of it before is kept");
                        }
                        Outcome::Failed { reason }
                    }
                };
                report(outcome, &task.path, done_bytes, total_bytes, &mut summary);
                if committed.elapsed() >= COMMIT_EVERY && pending {
                    writer.commit()?;
                    pending = false;
                    committed = Instant::now();
                }
            }
            Ok(())
        };
        // Without an index to write to, what is still being decoded is of no use.
        take_all().inspect_err(|_| cancel.set())
    });
    outcome?;

    if pending {
        writer.commit()?;
    }
    if summary.indexed + summary.removed > 0 {
        calibrate(&index, &mut writer)?;
    }
    writer.close()?;
    let after = index.searcher()?;
    summary.rows = after.rows();
    summary.videos = after.video_numbers().len();
    summary.cancelled = cancel.is_set();
    summary.took = start.elapsed();
    Ok(summary)
}

fn open_or_create(folder: &Path, checkpoint: &Folded) -> Result<Index, Error> {
    checkpoint.expect_encoder(layout::ID, "in use")?;
    let fingerprint = checkpoint.fingerprint();
    if !Index::exists(folder) {
        let attributes = [(ENCODER.to_owned(), layout::ID.to_owned()), (CHECKPOINT.to_owned(), fingerprint)].into();
        return Ok(Index::create(folder, &Settings { dim: checkpoint.record.invariant, attributes })?);
    }
    let index = Index::open(folder)?;
    for (what, given) in [(ENCODER, layout::ID.to_owned()), (CHECKPOINT, fingerprint)] {
        if let Some(found) = index.settings().attributes.get(what)
            && *found != given
        {
            return Err(Error::Mismatch { what, found: found.clone(), given });
        }
    }
    Ok(index)
}

/// The videos an index has, by id.
struct Known {
    videos: HashMap<String, (VideoNumber, Video)>,
}

impl Known {
    fn read(snapshot: &Searcher) -> Result<Known, Error> {
        let mut videos = HashMap::new();
        for number in snapshot.video_numbers() {
            let video = snapshot.video(number)?;
            videos.insert(video.id.clone(), (number, video));
        }
        Ok(Known { videos })
    }

    fn get(&self, id: &str) -> Option<&(VideoNumber, Video)> {
        self.videos.get(id)
    }
}

/// Whether a path is one of these, or below one of them.
fn under(path: &Path, roots: &[PathBuf]) -> bool {
    roots.iter().any(|root| {
        let root = std::path::absolute(root).unwrap_or_else(|_| root.clone());
        path.starts_with(root.canonicalize().unwrap_or(root))
    })
}

/// Measures how well foreign pictures score on the index as it now is, and publishes that.
fn calibrate(index: &Index, writer: &mut Writer) -> Result<(), Error> {
    let searcher = index.searcher()?;
    let dim = searcher.settings().dim;
    let numbers = searcher.video_numbers();
    let step = numbers.len().div_ceil(MAX_PROBES).max(1);
    let mut best = Vec::new();
    for own in numbers.iter().copied().step_by(step) {
        let probe = searcher.video(own)?.probe;
        if probe.is_empty() || numbers.len() < 2 {
            continue;
        }
        let foreign: VideoSet = numbers.iter().copied().filter(|n| *n != own).collect();
        let mut highest = f32::NEG_INFINITY;
        for view in probe.chunks_exact(dim) {
            if let Some(hit) = searcher.search(view, 1, Some(&foreign))?.first() {
                highest = highest.max(hit.score);
            }
        }
        best.push(highest);
    }
    let calibration = serde_json::to_value(Calibration::fit(best)).expect("a calibration is three numbers");
    writer.set_calibration(calibration);
    writer.commit()?;
    Ok(())
}
