//! The conductor: videos → media → encode → gmf → index writer, with an outcome for every file.

mod calibrate;
mod clips;
pub mod closed_form;
mod model;
mod run;
pub(crate) mod sidecar;
mod work;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use globset::GlobSet;
use reelseek_index::{Index, Precision, Settings};
use thiserror::Error;

pub use calibrate::calibrate;
pub use clips::{ClipBuilder, Rows};
pub use model::{Model, default_checkpoint};
pub use sidecar::path_of;
pub(crate) use work::BATCH;
pub use work::Error as FileError;

use crate::base::Cancel;
use crate::encode::{self, Encoder};
use crate::gmf::{self, Folded};
use crate::media::{self, Limits, Tools};
use crate::search::{self, CHECKPOINT, ENCODER, align};

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
    /// The encoder is not known, or not here.
    #[error(transparent)]
    Encoder(#[from] encode::Error),
    /// No checkpoint can be fitted.
    #[error(transparent)]
    Fit(#[from] closed_form::OfVideos),
    /// The checkpoint in the index's folder is gone.
    #[error(
        "{} is missing: the index was made with it ({fingerprint}), and nothing can be added without it; put it back or name a copy with --checkpoint, or index again into another folder",
        path.display()
    )]
    NoCheckpoint {
        /// The file.
        path: PathBuf,
        /// Recorded in the index.
        fingerprint: String,
    },
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
    /// Decode files again that could not be decoded before, though they have not changed.
    pub retry: bool,
    /// Keep vectors in 16 bits a value. Only a new index can be made so; one that is so stays so.
    pub half: bool,
    /// Where the encoder's weights came from, if they were named: a new index remembers it.
    pub weights: Option<PathBuf>,
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

/// What happens in a run.
#[derive(Debug, Clone)]
pub enum Event {
    /// A file was dealt with.
    File {
        /// The file.
        path: PathBuf,
        /// What became of it.
        outcome: Outcome,
    },
    /// How far the run is: told when it knows what there is to read, after each file, and now and then within long ones.
    Progress {
        /// Bytes of files read so far; of files that are being read, by the share of their length.
        done_bytes: u64,
        /// Bytes of all files that have to be read.
        total_bytes: u64,
    },
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

/// How often progress is told while no file comes to its end.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// Brings an index up to date with files and folders. Creates it if there is none.
///
/// Unchanged files (same path, size and modification time) are not opened, nor are those (up to 1,000) that could not
/// be decoded before by a fault of their own; changed ones are replaced. Finished videos are committed every few seconds.
///
/// # Errors
/// [`enum@Error`] if nothing can be indexed at all; a bad file is told by `tell` and stops nothing.
pub fn run(
    folder: &Path,
    plan: &Plan,
    encoder: &dyn Encoder,
    checkpoint: &Folded,
    cancel: &Cancel,
    tell: impl FnMut(&Event),
) -> Result<Summary, Error> {
    let start = Instant::now();
    let tools = Tools::find()?;
    let index = open_or_create(folder, encoder, checkpoint, plan)?;
    let mut run = run::Run::begin(&index, tell)?;
    let todo = run.survey(plan)?;
    let under_way = AtomicU64::new(0);
    let context = work::Context {
        tools: &tools,
        encoder,
        checkpoint,
        keyframes: plan.keyframes,
        sketches: index.settings().sketch > 0,
        limits: Limits::default(),
        cancel,
        under_way: &under_way,
    };
    let queue = std::sync::Mutex::new(todo.into_iter());
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(2 * plan.jobs);
        for _ in 0..plan.jobs.max(1) {
            let (sender, queue, context) = (sender.clone(), &queue, &context);
            scope.spawn(move || {
                loop {
                    let task = queue.lock().map(|mut q| q.next()).unwrap_or(None);
                    let Some(task) = task.filter(|_| !context.cancel.is_set()) else { return };
                    let finished = context.index(task);
                    if sender.send(finished).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        // What is half decoded when the person stops is no outcome; a later run takes it up again.
        loop {
            match receiver.recv_timeout(TELL_EVERY) {
                Err(RecvTimeoutError::Disconnected) => return Ok::<(), Error>(()),
                Err(RecvTimeoutError::Timeout) => run.tell_progress(&under_way),
                Ok(_) if cancel.is_set() => {}
                // Without an index to write to, what is still being decoded is of no use.
                Ok(finished) => run.take(finished, &under_way).inspect_err(|_| cancel.set())?,
            }
        }
    })?;
    let mut summary = run.end()?;
    summary.cancelled = cancel.is_set();
    summary.took = start.elapsed();
    Ok(summary)
}

/// What the checkpoint of an index is called while the index is created. An index takes a folder in which a creation was cut short, and knows what that leaves by this beginning.
fn coming(folder: &Path, fingerprint: &str) -> PathBuf {
    folder.join(format!("text.new.checkpoint.{fingerprint}"))
}

/// Gives the checkpoint of a new index its own name, be it that an earlier run was cut short before it.
fn settle(folder: &Path, index: &Index) -> Result<(), Error> {
    let Some(fingerprint) = index.settings().attributes.get(CHECKPOINT) else { return Ok(()) };
    let (coming, path) = (coming(folder, fingerprint), folder.join(search::CHECKPOINT_FILE));
    if coming.exists() {
        std::fs::rename(&coming, &path).map_err(|source| media::Error::io(&path, source))?;
    }
    Ok(())
}

fn open_or_create(folder: &Path, encoder: &dyn Encoder, checkpoint: &Folded, plan: &Plan) -> Result<Index, Error> {
    let id = &encoder.about().id;
    checkpoint.expect_encoder(id, "in use")?;
    let fingerprint = checkpoint.fingerprint();
    if !Index::exists(folder) {
        let mut attributes =
            BTreeMap::from([(ENCODER.to_owned(), id.clone()), (CHECKPOINT.to_owned(), fingerprint.clone())]);
        if let Some(weights) = &plan.weights {
            let path = std::path::absolute(weights).unwrap_or_else(|_| weights.clone());
            attributes.insert(search::WEIGHTS.to_owned(), path.to_string_lossy().into_owned());
        }
        let precision = if plan.half { Precision::Half } else { Precision::Full };
        let sketch = if encoder.about().same_scene { align::BYTES as u32 } else { 0 };
        let settings = Settings { attributes, precision, sketch, ..Settings::new(checkpoint.record.invariant) };
        // With the index lies what a search needs of it. It is on disk before there is an index, which would be lost without it.
        let coming = coming(folder, &fingerprint);
        if *checkpoint != Folded::embedded() {
            let written = std::fs::create_dir_all(folder).and_then(|()| {
                crate::base::files::replace(&coming, |part| std::fs::write(part, checkpoint.to_bytes()))
            });
            written.map_err(|source| media::Error::io(&coming, source))?;
        }
        let created = Index::create(folder, &settings);
        if created.is_err() && !Index::exists(folder) {
            // Nothing was begun here, and nobody will look for it. The error to tell is the first one.
            let _ = std::fs::remove_file(&coming);
        }
        let index = created?;
        settle(folder, &index)?;
        return Ok(index);
    }
    let index = Index::open(folder)?;
    settle(folder, &index)?;
    for (what, given) in [(ENCODER, id.clone()), (CHECKPOINT, fingerprint)] {
        if let Some(found) = index.settings().attributes.get(what)
            && *found != given
        {
            return Err(Error::Mismatch { what, found: found.clone(), given });
        }
    }
    if plan.half && index.settings().precision != Precision::Half {
        return Err(Error::Mismatch { what: "vectors", found: "of 32 bits".into(), given: "16 bits".into() });
    }
    Ok(index)
}
