//! Indexing: decodes video files, encodes their frames, embeds clips and stores the rows, with an outcome for
//! every file.
//!
//! [`Indexer::open`] opens or creates an index. [`Indexer::run`] updates it from files and folders.

mod calibrate;
mod clips;
pub mod closed_form;
mod event;
mod fields;
mod options;
mod run;
mod sidecar;
mod work;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use globset::GlobSet;
use reelseek_index::RowPrecision;
use thiserror::Error as ThisError;

pub use calibrate::calibrate;
pub use clips::{ClipBuilder, VideoRows};
pub use event::{FileError, FileOutcome, IndexEvent, IndexSummary};
pub use options::IndexOptions;
#[cfg(feature = "research")]
pub(crate) use sidecar::labels as sidecar_labels;
#[cfg(feature = "research")]
pub(crate) use work::BATCH;
pub use work::resolved;

use closed_form::FitEvent;

use crate::base::{Cancel, ErrorPaths};
use crate::collection::{self, Collection, Model};
use crate::encode::Encoder;
use crate::gmf::Folded;
use crate::media::{self, Limits, Tools};
use crate::search::{Engine, align};

/// Why indexing could not run at all. The failure of a single file is an [`IndexEvent`].
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum Error {
    /// ffmpeg cannot be started.
    #[error(transparent)]
    Media(#[from] media::Error),
    /// The index folder, its encoder or its checkpoint cannot be used.
    #[error(transparent)]
    Collection(#[from] collection::Error),
    /// No checkpoint can be fitted to the videos.
    #[error(transparent)]
    Fit(#[from] closed_form::FitError),
}

impl ErrorPaths for Error {
    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Error::Media(error) => error.paths_mut(),
            Error::Collection(error) => error.paths_mut(),
            Error::Fit(closed_form::FitError::Encoder(error)) => error.paths_mut(),
            Error::Fit(_) => vec![],
        }
    }
}

/// Whether these bytes are a sidecar. For fuzzing only.
#[doc(hidden)]
pub fn is_sidecar(bytes: &[u8]) -> bool {
    sidecar::parse(bytes).is_ok()
}

impl From<reelseek_index::Error> for Error {
    fn from(error: reelseek_index::Error) -> Error {
        Error::Collection(error.into())
    }
}

/// Interval of progress reports while no file is finished.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);

/// Updates one index from files and folders.
#[derive(Debug)]
pub struct Indexer {
    collection: Collection,
    model: Model,
    tools: Tools,
    options: IndexOptions,
}

impl Indexer {
    /// Opens the index in `folder`, or creates it. An encoder other than `layout` gets a checkpoint fitted to
    /// the videos, unless the options name one; `on_fit` receives its progress.
    ///
    /// # Errors
    /// [`enum@Error`] if the encoder or the checkpoint cannot be used, ffmpeg cannot be started, or the
    /// folder cannot be written.
    pub fn open(
        folder: &Path,
        options: IndexOptions,
        cancel: &Cancel,
        on_fit: impl FnMut(&FitEvent),
    ) -> Result<Indexer, Error> {
        if Collection::exists(folder) {
            return Indexer::open_existing(folder, options);
        }
        let default =
            |encoder: &dyn Encoder| default_checkpoint(encoder, &options.paths, &options.exclude, cancel, on_fit);
        let model = options.model.open(default)?;
        match Indexer::create(folder, model, options.clone()) {
            // Another process has completed the index in the meantime.
            Err(Error::Collection(collection::Error::Index(reelseek_index::Error::AlreadyExists { .. }))) => {
                Indexer::open_existing(folder, options)
            }
            created => created,
        }
    }

    fn open_existing(folder: &Path, options: IndexOptions) -> Result<Indexer, Error> {
        let collection = Collection::open_for_writing(folder)?;
        let model = collection.model(&options.model)?;
        if options.half && collection.settings().precision != RowPrecision::Half {
            return Err(collection::Error::FullPrecision.into());
        }
        Ok(Indexer { collection, model, tools: Tools::find()?, options })
    }

    /// Creates an index in a new or empty folder, with this encoder and checkpoint. Ignores `options.model`.
    ///
    /// # Errors
    /// As [`Indexer::open`].
    pub fn create(folder: &Path, model: Model, options: IndexOptions) -> Result<Indexer, Error> {
        let tools = Tools::find()?;
        let precision = if options.half { RowPrecision::Half } else { RowPrecision::Full };
        let sketch_bytes = if model.encoder.info().same_scene { align::BYTES as u32 } else { 0 };
        let collection = Collection::create(folder, &model, precision, sketch_bytes)?;
        Ok(Indexer { collection, model, tools, options })
    }

    /// The encoder and the checkpoint in use.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// A search engine on the last commit.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn into_engine(self) -> Result<Engine, collection::Error> {
        Engine::new(&self.collection, self.model)
    }

    /// Indexes new and changed files.
    ///
    /// A file is unchanged if its path, size and modification time are the same. Unchanged files are not
    /// opened, also if an earlier run could not decode them (up to 1,000 such files are remembered). A
    /// changed file replaces its rows. Finished videos are committed every few seconds.
    ///
    /// # Errors
    /// [`enum@Error`] if the index cannot be read or written. A file that fails is reported to `on_event` and
    /// does not end the run.
    pub fn run(&self, cancel: &Cancel, on_event: impl FnMut(IndexEvent)) -> Result<IndexSummary, Error> {
        let start = Instant::now();
        let mut run = run::IndexRun::begin(&self.collection, &self.model, &self.options, on_event)?;
        let todo = run.survey()?;
        let reading_bytes = AtomicU64::new(0);
        let context = work::WorkerContext {
            tools: &self.tools,
            encoder: self.model.encoder.as_ref(),
            checkpoint: &self.model.checkpoint,
            keyframes: self.options.keyframes,
            sketches: self.collection.settings().sketch > 0,
            limits: Limits::default(),
            cancel,
            reading_bytes: &reading_bytes,
        };
        let queue = Mutex::new(todo.into_iter());
        std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::sync_channel(2 * self.options.jobs);
            for _ in 0..self.options.jobs.max(1) {
                let (sender, queue, context) = (sender.clone(), &queue, &context);
                scope.spawn(move || {
                    loop {
                        let task = queue.lock().map(|mut q| q.next()).unwrap_or(None);
                        let Some(task) = task.filter(|_| !context.cancel.is_set()) else { return };
                        if sender.send(context.index(task)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            loop {
                match receiver.recv_timeout(REPORT_INTERVAL) {
                    Err(RecvTimeoutError::Disconnected) => return Ok::<(), Error>(()),
                    Err(RecvTimeoutError::Timeout) => run.report_progress(&reading_bytes),
                    // Files that finish after a cancellation get no outcome. The next run decodes them.
                    Ok(_) if cancel.is_set() => {}
                    // If the index cannot be written, decoding the other files is useless.
                    Ok(finished) => run.store(finished, &reading_bytes).inspect_err(|_| cancel.set())?,
                }
            }
        })?;
        let mut summary = run.end()?;
        summary.cancelled = cancel.is_set();
        summary.took = start.elapsed();
        Ok(summary)
    }
}

/// The checkpoint of an encoder when none is named: the embedded one for `layout`, otherwise one fitted to
/// frames of the videos.
///
/// # Errors
/// [`Error::Fit`] if none can be fitted; [`Error::Media`] if ffmpeg cannot be started.
pub fn default_checkpoint(
    encoder: &dyn Encoder,
    paths: &[PathBuf],
    exclude: &GlobSet,
    cancel: &Cancel,
    mut on_fit: impl FnMut(&FitEvent),
) -> Result<Folded, Error> {
    if encoder.info().name == crate::encode::registry::LAYOUT {
        return Ok(Folded::embedded());
    }
    if encoder.info().ordered {
        return Ok(closed_form::leading(encoder).map_err(closed_form::FitError::from)?);
    }
    let tools = Tools::find()?;
    on_fit(&FitEvent::Started { encoder: encoder.info().name.clone() });
    let videos: Vec<PathBuf> = media::walk::videos(paths, exclude).into_iter().flatten().collect();
    Ok(closed_form::of_videos(&tools, encoder, &videos, cancel, on_fit)?)
}
