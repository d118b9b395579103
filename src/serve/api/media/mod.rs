//! Thumbnails, previews and video files. Requests name the id of a video in the index, never a path.

pub(crate) mod file;
pub(crate) mod preview;
pub(crate) mod thumbnail;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::response::Response;
use bytes::Bytes;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use reelseek_index::Video;

use crate::base::Cancel;
use crate::collection::{indexed_file, video_path};
use crate::encode::registry;
use crate::media::{self, Codec, Limits, Tools, VideoSource, VideoStart};
use crate::serve::admission::gate::WorkerGate;
use crate::serve::admission::single_flight::SingleFlight;
use crate::serve::advice::video_error;
use crate::serve::api::cache::{CacheKey, FileCache};
use crate::serve::api::files::{self, FileHeaders, FileReads, FileRequest, FileStamp};
use crate::serve::api::library;
use crate::serve::error::ApiError;
use crate::serve::limits::{
    FFMPEG_TIME, MAX_QUEUED_PREVIEWS, MAX_QUEUED_THUMBNAILS, MAX_VIDEO_STARTS, MEDIA_QUEUE_TIME, MEDIA_WORK_TIME,
    PREVIEW_WORKERS, THUMBNAIL_WORKERS,
};
use crate::serve::observe::metrics::{Metrics, Stage};
use crate::serve::snapshot::{Snapshot, SnapshotStore};

/// Part of every cache key. Change it whenever the same request would give other bytes than before.
const CACHE_VERSION: &[u8] = b"1";

/// State of the handlers of media.
#[derive(Clone)]
pub(crate) struct MediaContext {
    pub(crate) snapshots: Arc<SnapshotStore>,
    pub(crate) media: Arc<MediaStore>,
}

/// Makes thumbnails and previews with ffmpeg, each once, and keeps them on disk.
pub(crate) struct MediaStore {
    tools: OnceLock<Tools>,
    codec: OnceLock<Codec>,
    codec_flights: Arc<SingleFlight<(), Result<Codec, ApiError>>>,
    cache: FileCache,
    flights: Arc<SingleFlight<CacheKey, Result<Bytes, ApiError>>>,
    thumbnails: WorkerGate,
    previews: WorkerGate,
    reads: FileReads,
    /// Start of each video, by the identity of its file; `None` if it cannot be determined.
    starts: Mutex<HashMap<Vec<u8>, Option<VideoStart>>>,
    limits: Limits,
    metrics: Arc<Metrics>,
    hits: Counter,
    misses: Counter,
    queue: Gauge,
}

impl MediaStore {
    /// A store with at most `cache_bytes` on disk. `stopping` ends every run of ffmpeg.
    pub(crate) fn new(cache_bytes: u64, metrics: &Arc<Metrics>, stopping: &Cancel) -> MediaStore {
        let gate = |workers, queue| {
            WorkerGate::new(workers, queue, metrics).with(MEDIA_QUEUE_TIME, MEDIA_WORK_TIME, Stage::CutQueue)
        };
        MediaStore {
            tools: OnceLock::new(),
            codec: OnceLock::new(),
            codec_flights: Arc::new(SingleFlight::new(stopping)),
            cache: FileCache::new(registry::cache_folder().join("previews"), cache_bytes),
            flights: Arc::new(SingleFlight::new(stopping)),
            thumbnails: gate(THUMBNAIL_WORKERS, MAX_QUEUED_THUMBNAILS),
            previews: gate(PREVIEW_WORKERS, MAX_QUEUED_PREVIEWS),
            reads: FileReads::default(),
            starts: Mutex::default(),
            limits: Limits { wall: FFMPEG_TIME, background: true, ..Limits::default() },
            metrics: metrics.clone(),
            hits: metrics.register("cache_hits", "Thumbnails and previews found in the cache"),
            misses: metrics.register("cache_misses", "Thumbnails and previews made"),
            queue: metrics.register("media_queue_depth", "Thumbnails and previews that wait to be made"),
        }
    }

    fn tools(&self) -> Result<&Tools, media::Error> {
        // If ffmpeg is missing, the next request looks for it again.
        match self.tools.get() {
            Some(tools) => Ok(tools),
            None => Tools::find().map(|tools| self.tools.get_or_init(|| tools)),
        }
    }

    /// Waits until no ffmpeg runs.
    pub(crate) async fn ended(&self) {
        self.thumbnails.ended().await;
        self.previews.ended().await;
    }

    /// Updates the metric of the queues' length.
    pub(crate) fn record_queue(&self) {
        self.queue.set(i64::try_from(self.thumbnails.waiting() + self.previews.waiting()).unwrap_or(i64::MAX));
    }

    /// How the file begins. It is determined again only when the file has changed.
    fn start(&self, file: &VideoFile, source: &VideoSource<'_>) -> Result<Option<VideoStart>, media::Error> {
        if let Some(start) = self.starts.lock().get(&file.identity) {
            return Ok(*start);
        }
        let start = match source.start() {
            Ok(start) => Some(start),
            Err(error) if error.is_undecodable() => None,
            Err(error) => return Err(error),
        };
        let mut starts = self.starts.lock();
        if starts.len() >= MAX_VIDEO_STARTS {
            starts.clear();
        }
        starts.insert(file.identity.clone(), start);
        Ok(start)
    }

    /// The codec of previews, which depends on the server's ffmpeg. Determined once. Requests that wait for
    /// it take one place in the queue together.
    async fn codec(self: &Arc<Self>) -> Result<Codec, ApiError> {
        if let Some(codec) = self.codec.get() {
            return Ok(*codec);
        }
        let work = |cancel: Cancel| {
            let store = self.clone();
            async move {
                let worker = store.clone();
                let work = move || {
                    let tools = worker.tools().map_err(video_error)?;
                    let codec = Codec::detect(tools, &worker.limits, &cancel).map_err(video_error)?;
                    Ok(*worker.codec.get_or_init(|| codec))
                };
                store.previews.run(work).await
            }
        };
        self.codec_flights.join(&(), work).await.unwrap_or_else(|| Err(ApiError::panicked()))
    }

    /// The cached bytes of a key, or what `make` returns. `make` waits for a worker of the gate, and runs
    /// once for all concurrent requests with the same key.
    async fn cached_or_made(
        self: &Arc<Self>,
        gate: fn(&MediaStore) -> &WorkerGate,
        key: CacheKey,
        make: impl FnOnce(&MediaStore, &CacheKey, &Cancel) -> Result<Bytes, ApiError> + Send + 'static,
    ) -> Result<Bytes, ApiError> {
        let (worker, own) = (self.clone(), key.clone());
        if let Some(bytes) = self.reads.run(move || worker.cache.get(&own)).await? {
            self.hits.inc();
            return Ok(bytes);
        }
        let work = |cancel: Cancel| {
            let (store, key) = (self.clone(), key.clone());
            async move {
                let worker = store.clone();
                let work = move || {
                    if cancel.is_set() {
                        return Err(video_error(media::Error::Cancelled { path: PathBuf::new() }));
                    }
                    // An earlier request may have stored the bytes in the meantime.
                    if let Some(bytes) = worker.cache.get(&key) {
                        return Ok(bytes);
                    }
                    worker.misses.inc();
                    let start = Instant::now();
                    let made = make(&worker, &key, &cancel);
                    worker.metrics.observe(Stage::Cut, start.elapsed());
                    made
                };
                gate(&store).run(work).await
            }
        };
        self.flights.join(&key, work).await.unwrap_or_else(|| Err(ApiError::panicked()))
    }
}

/// The file of a video, after the check that it is the file that was indexed.
struct VideoFile {
    snapshot: Arc<Snapshot>,
    video: Video,
    path: PathBuf,
    duration_ms: u32,
    stamp: FileStamp,
    /// Id of the video, size and time of the last change.
    identity: Vec<u8>,
}

impl VideoFile {
    /// Finds the file.
    fn find(snapshot: Arc<Snapshot>, id: &str) -> Result<VideoFile, ApiError> {
        let video = library::find(&snapshot, id)?;
        let meta = indexed_file(snapshot.engine.searcher(), &video).map_err(video_error)?;
        let stamp = FileStamp::new(&meta);
        let FileStamp { length, modified_ns, .. } = stamp;
        let identity = [id.as_bytes(), b" ", &length.to_le_bytes(), &modified_ns.to_le_bytes()].concat();
        let (path, duration_ms) = (video_path(&video), u32::try_from(video.duration_ms).unwrap_or(u32::MAX));
        Ok(VideoFile { snapshot, video, path, duration_ms, stamp, identity })
    }

    /// Checks again that it is the file that was indexed. ffmpeg opens the file by its path, and the file may
    /// have been exchanged before.
    fn check(&self) -> Result<(), ApiError> {
        indexed_file(self.snapshot.engine.searcher(), &self.video).map(drop).map_err(video_error)
    }

    /// The cache key of a picture or clip (`kind`) that is made from this file with these numbers.
    fn key(&self, kind: &str, numbers: &[u32], extension: &str) -> CacheKey {
        let numbers: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        CacheKey::new(&[CACHE_VERSION, kind.as_bytes(), &self.identity, &numbers], extension)
    }
}

impl MediaContext {
    /// Finds the file of a video.
    ///
    /// # Errors
    /// 404 if there is no such video, 410 if its file is gone or is not the file that was indexed.
    async fn locate(&self, id: String) -> Result<VideoFile, ApiError> {
        let snapshot = self.snapshots.ready()?;
        self.media.reads.run(move || VideoFile::find(snapshot, &id)).await?
    }

    /// The response with a thumbnail or a preview, which `make` makes if it is not cached. The cache key is
    /// also the entity tag.
    async fn respond(
        &self,
        request: &FileRequest<'_>,
        key: CacheKey,
        content_type: &'static str,
        gate: fn(&MediaStore) -> &WorkerGate,
        make: impl FnOnce(&MediaStore, &CacheKey, &Cancel) -> Result<Bytes, ApiError> + Send + 'static,
    ) -> Result<Response, ApiError> {
        let head =
            FileHeaders { content_type, tag: key.file_name().to_owned(), cache_control: "private, max-age=3600" };
        if request.is_current(&head) {
            return Ok(files::not_modified(&head));
        }
        let bytes = self.media.cached_or_made(gate, key, make).await?;
        Ok(files::bytes_response(request, &head, &bytes))
    }
}

/// Seconds of a request as milliseconds.
fn milliseconds(seconds: f64) -> u32 {
    (seconds * 1000.0).round() as u32
}

#[cfg(test)]
mod tests;
