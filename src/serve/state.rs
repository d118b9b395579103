//! What all requests share: the options, the guards, and the newest snapshot of the index.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use axum::http::StatusCode;
use reelseek_index::Index;

use super::admission::budget::Budget;
use super::admission::gate::Gate;
use super::api::catalogue::Library;
use super::api::jobs::Jobs;
use super::api::media::Media;
use super::error::ApiError;
use super::guard::auth::Auth;
use super::guard::host::Guard;
use super::guard::remote::Remote;
use super::observe::metrics::Metrics;
use super::{Error, Options};
use crate::base::Cancel;
use crate::collection::ModelChoice;
use crate::search::{self, Engine};

/// How often the index is looked at for a new commit: it costs one look at one file.
const LOOK: Duration = Duration::from_millis(500);

/// Shared by all requests.
pub(crate) struct App {
    pub(crate) options: Options,
    pub(crate) auth: Auth,
    pub(crate) guard: Guard,
    pub(crate) gate: Gate,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) bodies: Arc<Budget>,
    /// If the server may fetch.
    pub(crate) remote: Option<Remote>,
    /// Set when the server is asked to stop.
    pub(crate) stopping: Cancel,
    pub(crate) library: Library,
    pub(crate) media: Media,
    pub(crate) jobs: Arc<Jobs>,
    snapshot: RwLock<Option<Arc<Snapshot>>>,
    seen: Mutex<Option<Stamp>>,
}

/// One commit of the index, as long as a request holds it.
pub(crate) struct Snapshot {
    pub(crate) engine: Engine,
    /// Counts the commits that were taken up since the start.
    pub(crate) generation: u64,
    /// Live videos.
    pub(crate) videos: usize,
}

/// What changes with each commit: the identity, the time and the size of the file that it replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp(u64, Option<SystemTime>, u64);

impl App {
    pub(crate) fn open(options: Options) -> Result<App, Error> {
        let metrics = Arc::<Metrics>::default();
        let app = App {
            auth: Auth::new(options.token.as_ref()),
            guard: Guard::new(options.listen, &options.hosts, &options.origins)?,
            gate: Gate::new(options.workers, options.queue),
            bodies: Arc::default(),
            remote: options.fetch.then(Remote::new),
            stopping: Cancel::default(),
            library: Library::default(),
            media: Media::new(options.cache_bytes, &metrics),
            metrics,
            jobs: Arc::new(Jobs::new(&options.library)),
            snapshot: RwLock::default(),
            seen: Mutex::default(),
            options,
        };
        app.refresh()?;
        Ok(app)
    }

    /// The newest snapshot; none while there is no index.
    pub(crate) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The newest snapshot, or 503.
    pub(crate) fn ready(&self) -> Result<Arc<Snapshot>, ApiError> {
        let text = "there is no index yet: index a folder first";
        self.snapshot().ok_or_else(|| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text))
    }

    /// A link to give out, such as `/v1/media/ID` or `/v1/thumbnail?video=ID&at=1`: signed where a token is set, so that a page or a chat can show it.
    pub(crate) fn link(&self, path_and_query: String) -> String {
        self.auth.link(path_and_query)
    }

    /// Takes up the last commit, if there is a new one, and tells whether. Requests that run keep the snapshot they have.
    pub(crate) fn refresh(&self) -> Result<bool, search::Error> {
        let Options { index, checkpoint, weights, .. } = &self.options;
        let choice = ModelChoice { encoder: None, weights: weights.clone(), checkpoint: checkpoint.clone() };
        // Held to the end: one at a time.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at before the index is opened: a commit in between is taken up twice rather than never.
        let stamp = self.stamp();
        if stamp.is_none() || stamp == *seen {
            return Ok(false);
        }
        let before = self.snapshot();
        let engine = match &before {
            Some(before) => before.engine.renewed(index, &choice)?,
            None => Engine::open(index, &choice)?,
        };
        let (rows, videos) = (engine.searcher().rows(), engine.searcher().video_numbers().len());
        let generation = before.map_or(1, |before| before.generation + 1);
        let snapshot = Arc::new(Snapshot { engine, generation, videos });
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Some(snapshot);
        *seen = stamp;
        self.metrics.snapshot(generation, rows, videos);
        tracing::info!(generation, rows, videos, "index opened");
        Ok(true)
    }

    fn stamp(&self) -> Option<Stamp> {
        let meta = std::fs::metadata(Index::commit_file(&self.options.index)).ok()?;
        #[cfg(unix)]
        let identity = std::os::unix::fs::MetadataExt::ino(&meta);
        #[cfg(not(unix))]
        let identity = 0;
        Some(Stamp(identity, meta.modified().ok(), meta.len()))
    }

    /// Looks for new commits, until the process ends.
    pub(crate) async fn watch(self: Arc<App>) {
        let mut complaint = String::new();
        loop {
            tokio::time::sleep(LOOK).await;
            let app = self.clone();
            match tokio::task::spawn_blocking(move || app.refresh()).await {
                Ok(Ok(_)) => complaint.clear(),
                // The last good snapshot is served on. Said once, tried again at every look.
                Ok(Err(error)) if complaint != error.to_string() => {
                    complaint = error.to_string();
                    tracing::warn!("the index cannot be opened: {complaint}");
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }
}
