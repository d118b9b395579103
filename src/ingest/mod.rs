//! Indexing: decodes video files, encodes their frames, embeds clips and stores the rows, with an outcome for
//! every file.
//!
//! [`Indexer::open`] opens or creates an index. [`Indexer::run`] updates it from files and folders.

mod calibrate;
mod clips;
pub mod closed_form;
mod event;
mod fields;
mod kind;
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
use crate::collection::{self, Collection, Model, ModelChoice, Space};
use crate::encode::registry::{self, LAYOUT};
use crate::encode::{self, Encoder};
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

impl Error {
    fn of_kind_space(self) -> Error {
        match self {
            Error::Collection(error) => Error::Collection(error.of_kind_space()),
            error => error,
        }
    }
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
    kind: Option<KindIndexer>,
    tools: Tools,
    options: IndexOptions,
}

/// The kind space of an index that is updated.
#[derive(Debug)]
struct KindIndexer {
    collection: Collection,
    /// `None` if the run adds no rows to the space. Then it removes rows of files that have changed.
    model: Option<Model>,
}

impl Indexer {
    /// Opens the index in `folder`, or creates it. An encoder other than `layout` gets a checkpoint fitted to
    /// the videos, unless the options name one; `on_fit` receives its progress. The same holds for the
    /// encoder of the kind space.
    ///
    /// # Errors
    /// [`enum@Error`] if the encoder or the checkpoint cannot be used, ffmpeg cannot be started, or the
    /// folder cannot be written.
    pub fn open(
        folder: &Path,
        options: IndexOptions,
        cancel: &Cancel,
        mut on_fit: impl FnMut(&FitEvent),
    ) -> Result<Indexer, Error> {
        let mut opened = None;
        if Collection::exists(folder) {
            opened = Some(Indexer::open_existing(folder, options.clone())?);
        }
        // Before a new index is created, so that a wrong encoder leaves no index behind.
        let new_kind = match &opened {
            Some(indexer) if indexer.kind.is_some() => None,
            Some(indexer) => {
                let space = indexer.collection.space();
                new_kind_model(&options, space, indexer.collection.encoder_id(), cancel, &mut on_fit)?
            }
            None => {
                let name = options.model.encoder.as_deref().unwrap_or(LAYOUT);
                let space = if name == LAYOUT { Space::Scene } else { Space::Kind };
                new_kind_model(&options, space, name, cancel, &mut on_fit)?
            }
        };
        let indexer = match opened {
            Some(indexer) => indexer,
            None => Indexer::open_new(folder, options, cancel, on_fit)?,
        };
        match new_kind {
            Some(model) if indexer.kind.is_none() => indexer.with_kind(model),
            _ => Ok(indexer),
        }
    }

    fn open_new(
        folder: &Path,
        options: IndexOptions,
        cancel: &Cancel,
        on_fit: impl FnMut(&FitEvent),
    ) -> Result<Indexer, Error> {
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
        let kind = match collection.kind_for_writing()? {
            Some(collection) => {
                let model = (!options.scene_only).then(|| collection.model(&options.kind_model));
                let model = model.transpose().map_err(collection::Error::of_kind_space)?;
                Some(KindIndexer { collection, model })
            }
            None => None,
        };
        Ok(Indexer { collection, model, kind, tools: Tools::find()?, options })
    }

    /// Creates an index in a new or empty folder, with this encoder and checkpoint and without a kind space.
    /// Ignores `options.model` and `options.kind_model`.
    ///
    /// # Errors
    /// As [`Indexer::open`].
    pub fn create(folder: &Path, model: Model, options: IndexOptions) -> Result<Indexer, Error> {
        let tools = Tools::find()?;
        let precision = if options.half { RowPrecision::Half } else { RowPrecision::Full };
        let sketch_bytes = if model.encoder.info().same_scene { align::BYTES as u32 } else { 0 };
        let collection = Collection::create(folder, &model, precision, sketch_bytes)?;
        Ok(Indexer { collection, model, kind: None, tools, options })
    }

    /// Adds a kind space with this encoder and checkpoint.
    ///
    /// # Errors
    /// [`Error::Collection`] if the encoder does not find kinds, the index finds kinds by itself, or the
    /// folder cannot be written.
    pub fn with_kind(mut self, model: Model) -> Result<Indexer, Error> {
        check_finds_kinds(model.encoder.as_ref())?;
        let collection = self.collection.create_kind(&model)?;
        self.kind = Some(KindIndexer { collection, model: Some(model) });
        Ok(self)
    }

    /// The encoder and the checkpoint in use.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// A search engine on the last commit, for the spaces that this indexer fills.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn into_engine(self) -> Result<Engine, collection::Error> {
        let engine = Engine::new(&self.collection, self.model)?;
        match self.kind {
            Some(KindIndexer { collection, model: Some(model) }) => engine.with_kind(&collection, model),
            _ => Ok(engine),
        }
    }

    /// The limits of decoding. The pictures of the kind space are larger, and a long video must not be
    /// refused for them.
    fn limits(&self) -> Limits {
        let limits = Limits::default();
        match &self.kind {
            Some(_) => Limits { max_output_bytes: 4 * limits.max_output_bytes, ..limits },
            None => limits,
        }
    }

    /// Indexes new and changed files.
    ///
    /// A file is unchanged if its path, size and modification time are the same. Unchanged files are not
    /// opened, also if an earlier run could not decode them (up to 1,000 such files are remembered). A
    /// changed file replaces its rows. Each file is decoded once for both spaces, or for the one that lacks
    /// its rows. Finished videos are committed every few seconds.
    ///
    /// # Errors
    /// [`enum@Error`] if the index cannot be read or written. A file that fails is reported to `on_event` and
    /// does not end the run.
    pub fn run(&self, cancel: &Cancel, on_event: impl FnMut(IndexEvent)) -> Result<IndexSummary, Error> {
        let start = Instant::now();
        let mut run = run::IndexRun::begin(self, on_event)?;
        let todo = run.survey()?;
        let reading_bytes = AtomicU64::new(0);
        let context = work::WorkerContext {
            tools: &self.tools,
            encoder: self.model.encoder.as_ref(),
            checkpoint: &self.model.checkpoint,
            kind: self.kind.as_ref().and_then(|kind| kind.model.as_ref()),
            keyframes: self.options.keyframes,
            sketches: self.collection.settings().sketch > 0,
            limits: self.limits(),
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

/// The model of a new kind space; `None` if the run creates none. `owner` is the encoder of the index.
fn new_kind_model(
    options: &IndexOptions,
    space: Space,
    owner: &str,
    cancel: &Cancel,
    on_fit: impl FnMut(&FitEvent),
) -> Result<Option<Model>, Error> {
    let (named, default) = (&options.kind_model.encoder, registry::default_kind());
    let Some(name) = named.as_deref().or(default).filter(|_| !options.scene_only) else { return Ok(None) };
    if space == Space::Kind {
        return match named {
            Some(_) => Err(collection::Error::SingleSpace { encoder: owner.to_owned() }.into()),
            None => Ok(None),
        };
    }
    let choice = ModelChoice { encoder: Some(name.to_owned()), ..options.kind_model.clone() };
    // Checked before a checkpoint is fitted.
    let default = |encoder: &dyn Encoder| {
        check_finds_kinds(encoder)?;
        default_checkpoint(encoder, &options.paths, &options.exclude, cancel, on_fit)
    };
    Ok(Some(choice.open(default).map_err(Error::of_kind_space)?))
}

fn check_finds_kinds(encoder: &dyn Encoder) -> Result<(), Error> {
    let info = encoder.info();
    if info.finds_kinds() {
        return Ok(());
    }
    let error = encode::Error::NotOfKinds { name: info.name.clone() };
    Err(collection::Error::from(error).of_kind_space().into())
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
    if encoder.info().name == LAYOUT {
        return Ok(Folded::embedded());
    }
    let tools = Tools::find()?;
    on_fit(&FitEvent::Started { encoder: encoder.info().name.clone() });
    let videos: Vec<PathBuf> = media::walk::videos(paths, exclude).into_iter().flatten().collect();
    Ok(closed_form::of_videos(&tools, encoder, &videos, cancel, on_fit)?)
}
