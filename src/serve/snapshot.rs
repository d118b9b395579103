//! The newest commit of the index, opened for searching.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock};
use reelseek_index::Index;

use super::error::ApiError;
use super::limits::COMMIT_POLL;
use super::observe::logging::spawn_blocking;
use super::observe::metrics::Metrics;
use super::options::ServeOptions;
use crate::collection::{self, KIND_FOLDER, ModelChoices};
use crate::search::Engine;

/// Opens each new commit. Requests hold one [`Snapshot`] from beginning to end.
pub(crate) struct SnapshotStore {
    index: PathBuf,
    models: ModelChoices,
    metrics: Arc<Metrics>,
    latest: RwLock<Option<Arc<Snapshot>>>,
    opened: Mutex<Option<IndexStamp>>,
}

/// One commit of the index.
pub(crate) struct Snapshot {
    pub(crate) engine: Engine,
    /// Number of commits opened since the start of the server.
    pub(crate) generation: u64,
    /// Number of live videos.
    pub(crate) videos: usize,
}

/// The commits of the index and of its kind space.
type IndexStamp = (CommitStamp, Option<CommitStamp>);

/// Identity, time and size of the file that each commit replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CommitStamp {
    file_id: u64,
    modified: Option<SystemTime>,
    bytes: u64,
}

impl CommitStamp {
    /// The stamp of an index; `None` without one.
    fn of(index: &Path) -> Option<CommitStamp> {
        let meta = std::fs::metadata(Index::commit_file(index)).ok()?;
        #[cfg(unix)]
        let file_id = std::os::unix::fs::MetadataExt::ino(&meta);
        // Time and size also distinguish commits, unless two are made within the resolution of the clock.
        #[cfg(not(unix))]
        let file_id = 0;
        Some(CommitStamp { file_id, modified: meta.modified().ok(), bytes: meta.len() })
    }
}

impl SnapshotStore {
    /// A store for the index of these options, without a snapshot: see [`SnapshotStore::refresh`].
    pub(crate) fn new(options: &ServeOptions, metrics: &Arc<Metrics>) -> SnapshotStore {
        SnapshotStore {
            index: options.index.clone(),
            models: options.model_choices(),
            metrics: metrics.clone(),
            latest: RwLock::default(),
            opened: Mutex::default(),
        }
    }

    /// The newest snapshot; `None` without an index.
    pub(crate) fn latest(&self) -> Option<Arc<Snapshot>> {
        self.latest.read().clone()
    }

    /// The newest snapshot.
    ///
    /// # Errors
    /// 503 without an index.
    pub(crate) fn ready(&self) -> Result<Arc<Snapshot>, ApiError> {
        self.latest().ok_or_else(|| ApiError::unavailable("there is no index yet: index a folder first"))
    }

    /// Opens the newest commit unless it is open; returns whether it was opened.
    ///
    /// # Errors
    /// If the commit cannot be opened. The previous snapshot stays.
    pub(crate) fn refresh(&self) -> Result<bool, collection::Error> {
        // Held to the end, so that one thread at a time refreshes.
        let mut opened = self.opened.lock();
        // Read before the index is opened: a commit in between is opened twice rather than never.
        let stamp = self.stamp();
        if stamp.is_none() || stamp == *opened {
            return Ok(false);
        }
        let before = self.latest();
        let engine = match &before {
            Some(before) => before.engine.renewed(&self.index, &self.models)?,
            None => Engine::open(&self.index, &self.models)?,
        };
        let (rows, videos) = (engine.searcher().rows(), engine.searcher().video_numbers().len());
        let kind_rows = engine.kind().map_or(0, |kind| kind.searcher().rows());
        let generation = before.map_or(1, |before| before.generation + 1);
        let snapshot = Arc::new(Snapshot { engine, generation, videos });
        *self.latest.write() = Some(snapshot);
        *opened = stamp;
        self.metrics.snapshot(generation, [rows, kind_rows], videos);
        tracing::info!(generation, rows, kind_rows, videos, "index opened");
        Ok(true)
    }

    fn stamp(&self) -> Option<IndexStamp> {
        Some((CommitStamp::of(&self.index)?, CommitStamp::of(&self.index.join(KIND_FOLDER))))
    }

    /// Opens new commits as they appear. Runs until it is dropped.
    pub(crate) async fn watch(self: Arc<SnapshotStore>) {
        let mut logged = String::new();
        loop {
            tokio::time::sleep(COMMIT_POLL).await;
            let store = self.clone();
            match spawn_blocking(move || store.refresh()).await {
                Ok(Ok(_)) => logged.clear(),
                // The commit is tried again at each poll; the error is logged once.
                Ok(Err(error)) if logged != error.to_string() => {
                    logged = error.to_string();
                    tracing::warn!("cannot open the index, still serving the previous commit: {logged}");
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }
}
