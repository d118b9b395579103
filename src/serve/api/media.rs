//! Pictures and clips of moments, and the videos themselves: only of videos that the index names, by their id.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ::image::ExtendedColorType;
use ::image::codecs::jpeg::JpegEncoder;
use axum::extract::{Path, Query, State};
use axum::http::header::CONTENT_DISPOSITION;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::base::{Cancel, ErrorPaths};
use crate::encode::registry;
use crate::collection::video_path;
use crate::media::{self, Codec, PreviewSpec, Limits, VideoStart, Picture, VideoSource, Tools};
use crate::search::Moment;
use crate::serve::admission::flights::Flights;
use crate::serve::admission::gate::Gate;
use crate::serve::api::cache::{Cache, Key};
use crate::serve::api::files::{self, Asked, Head, content_type, encoded};
use crate::serve::api::library;
use crate::serve::api::search::name_of;
use crate::serve::error::{ApiError, ErrorBody};
use crate::serve::observe::clock::since_1970_ns;
use crate::serve::observe::log;
use crate::serve::observe::metrics::{Metrics, Stage};
use crate::serve::state::App;

/// Thumbnails made at once: a page of fifty results must not hurt a search.
const STILLS: usize = 2;
/// Previews made at once. They have a queue of their own: no thumbnail waits for one.
const CLIPS: usize = 1;
/// Who may wait: a long page's pictures, and the previews of a few people.
const MAX_WAITING: [usize; 2] = [256, 32];
/// Longest wait in these queues.
const QUEUE_TIME: Duration = Duration::from_secs(30);
/// Longest time for ffmpeg: who waits for a picture has gone by then.
const WALL: Duration = Duration::from_secs(60);
/// What is made may need two of them, as where seeking fails.
const WORK_TIME: Duration = Duration::from_secs(2 * 60 + 5);
/// Sides of thumbnails in pixels.
const WIDTHS: std::ops::RangeInclusive<u32> = 32..=1280;
const DEFAULT_WIDTH: u32 = 320;
const JPEG_QUALITY: u8 = 80;
/// Pixels of a preview's longer side.
const PREVIEW_SIDE: u32 = 640;
/// Shortest, usual and longest preview, in milliseconds.
const PREVIEW_MS: [u32; 3] = [2000, 6000, 15_000];
/// What is shown of a long moment before its best place.
const BEFORE_MS: u32 = 5000;
/// The last frame of a video may begin so much before its end.
const LAST_FRAME_MS: u32 = 1000;
/// Videos whose starts are remembered.
const MAX_STARTS: usize = 10_000;
/// Changes when the same request comes to be answered with other bytes.
const VERSION: &[u8] = b"1";

/// What this file keeps.
pub(crate) struct Media {
    tools: OnceLock<Tools>,
    codec: OnceLock<Codec>,
    asking: Arc<Flights<Result<Codec, ApiError>>>,
    cache: Cache,
    hits: Counter,
    misses: Counter,
    flights: Arc<Flights<Result<Bytes, ApiError>>>,
    stills: Gate,
    clips: Gate,
    queue: Gauge,
    /// By the identity of the file; none where it cannot be told.
    starts: Mutex<HashMap<Vec<u8>, Option<VideoStart>>>,
    limits: Limits,
}

impl Media {
    /// Keeps at most so many bytes of what it makes.
    pub(crate) fn new(cache_bytes: u64, metrics: &Metrics) -> Media {
        let (hits, misses, queue) = (Counter::default(), Counter::default(), Gauge::default());
        metrics.register(|r| {
            r.register("cache_hits", "Thumbnails and previews that were there", hits.clone());
            r.register("cache_misses", "Thumbnails and previews that had to be made", misses.clone());
            r.register("media_queue_depth", "Thumbnails and previews that wait to be made", queue.clone());
        });
        let gate = |at_once, waiting| Gate::new(at_once, waiting).with(QUEUE_TIME, WORK_TIME, Stage::CutQueue);
        Media {
            hits,
            misses,
            tools: OnceLock::new(),
            codec: OnceLock::new(),
            asking: Arc::default(),
            cache: Cache::new(registry::cache_folder().join("previews"), cache_bytes),
            flights: Arc::default(),
            stills: gate(STILLS, MAX_WAITING[0]),
            clips: gate(CLIPS, MAX_WAITING[1]),
            queue,
            starts: Mutex::default(),
            limits: Limits { wall: WALL, background: true, ..Limits::default() },
        }
    }

    fn tools(&self) -> Result<&Tools, media::Error> {
        // A missing program may be there at the next attempt.
        match self.tools.get() {
            Some(tools) => Ok(tools),
            None => Tools::find().map(|tools| self.tools.get_or_init(|| tools)),
        }
    }

    /// Tells the metrics how many wait.
    pub(crate) fn note_queue(&self) {
        self.queue.set(i64::try_from(self.stills.waiting() + self.clips.waiting()).unwrap_or(i64::MAX));
    }

    /// Where the time of a file begins, asked once as long as it does not change.
    fn start(&self, file: &Located, source: &VideoSource<'_>) -> Result<Option<VideoStart>, media::Error> {
        let starts = || self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(start) = starts().get(&file.identity) {
            return Ok(*start);
        }
        let start = match source.start() {
            Ok(start) => Some(start),
            Err(error) if error.is_undecodable() => None,
            Err(error) => return Err(error),
        };
        let mut starts = starts();
        if starts.len() >= MAX_STARTS {
            starts.clear();
        }
        starts.insert(file.identity.clone(), start);
        Ok(start)
    }
}

/// Routes of this file.
pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(thumbnail)).routes(routes!(preview)).routes(routes!(whole))
}

/// A video's file, as it is now.
struct Located {
    path: PathBuf,
    duration_ms: u32,
    length: u64,
    /// Id, size and time of the last change.
    identity: Vec<u8>,
}

impl Located {
    fn new(id: &str, path: PathBuf, duration_ms: u64, meta: &Metadata) -> Located {
        let modified_ns = meta.modified().map_or(0, since_1970_ns);
        let identity = [id.as_bytes(), b" ", &meta.len().to_le_bytes(), &modified_ns.to_le_bytes()].concat();
        Located { path, duration_ms: u32::try_from(duration_ms).unwrap_or(u32::MAX), length: meta.len(), identity }
    }

    fn key(&self, kind: &str, numbers: &[u32], extension: &str) -> Key {
        let numbers: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        Key::new(&[VERSION, kind.as_bytes(), &self.identity, &numbers], extension)
    }
}

/// Finds the file of a video: 404 if there is no such video, 410 if its file has gone.
async fn locate(app: &Arc<App>, id: String) -> Result<Located, ApiError> {
    let snapshot = app.ready()?;
    let work = move || {
        let video = library::find(&snapshot, &id)?;
        let path = video_path(&video);
        let meta =
            std::fs::metadata(&path).map_err(|reason| refused(media::Error::Io { path: path.clone(), reason }))?;
        if !meta.is_file() {
            return Err(gone());
        }
        Ok(Located::new(&id, path, video.duration_ms, &meta))
    };
    log::blocking(work).await.map_err(|error| ApiError::internal(&error))?
}

fn gone() -> ApiError {
    ApiError::new(StatusCode::GONE, "the file of this video has gone; indexing again with `prune` takes the video out")
}

/// What an error means to one who asked for something of a video. Paths stay here.
fn refused(error: media::Error) -> ApiError {
    use media::Error;
    let unavailable = |text: &str| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text);
    match &error {
        Error::Io { reason, .. } if matches!(reason.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => gone(),
        Error::NotAFile { .. } => gone(),
        Error::Undecodable { .. } | Error::NotAVideo { .. } | Error::Empty { .. } => {
            tracing::warn!("{error}");
            let message = format!("nothing can be shown of this video: {}", error.without_folders());
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, message)
        }
        Error::Limit { .. } | Error::Killed { .. } => {
            tracing::warn!("{error}");
            unavailable("decoding this video took too much; the server's log says what")
        }
        Error::Cancelled { .. } => unavailable("nobody waited for this any more"),
        Error::NoFfmpeg { .. } => {
            tracing::error!("{error}");
            let text = "ffmpeg cannot be started on the server: install it there, or name it in REELSEEK_FFMPEG";
            ApiError::new(StatusCode::NOT_IMPLEMENTED, text)
        }
        Error::NoCodec { .. } => {
            tracing::error!("{error}");
            let text = "the server's ffmpeg has none of the encoders libx264, libopenh264 and libvpx, so that it makes no previews";
            ApiError::new(StatusCode::NOT_IMPLEMENTED, text)
        }
        other => ApiError::internal(other),
    }
}

/// How this server's ffmpeg encodes previews: asked once, by one for all.
async fn codec(app: &Arc<App>) -> Result<Codec, ApiError> {
    if let Some(codec) = app.media.codec.get() {
        return Ok(*codec);
    }
    let work = |cancel: Cancel| {
        let app = app.clone();
        async move {
            let worker = app.clone();
            let work = move || {
                let media = &worker.media;
                let codec = Codec::detect(media.tools().map_err(refused)?, &media.limits, &cancel).map_err(refused)?;
                Ok(*media.codec.get_or_init(|| codec))
            };
            app.media.clips.run(&app.metrics, work).await
        }
    };
    landed(app.media.asking.join(&Key::new(&[b"codec"], ""), work).await)
}

/// What a flight brought.
fn landed<T>(outcome: Option<Result<T, ApiError>>) -> Result<T, ApiError> {
    outcome.unwrap_or_else(|| Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, crate::serve::PANIC)))
}

/// What is kept under a key, or else what `make` makes when its turn has come at the gate, once for all who ask meanwhile.
async fn made(
    app: &Arc<App>,
    gate: fn(&Media) -> &Gate,
    key: Key,
    make: impl FnOnce(&App, &Key, &Cancel) -> Result<Bytes, ApiError> + Send + 'static,
) -> Result<Bytes, ApiError> {
    let (worker, own) = (app.clone(), key.clone());
    let kept = log::blocking(move || worker.media.cache.get(&own)).await;
    if let Some(bytes) = kept.map_err(|error| ApiError::internal(&error))? {
        app.media.hits.inc();
        return Ok(bytes);
    }
    let work = |cancel: Cancel| {
        let (app, key) = (app.clone(), key.clone());
        async move {
            let worker = app.clone();
            let work = move || {
                let app = &worker;
                if cancel.is_set() {
                    return Err(refused(media::Error::Cancelled { path: PathBuf::new() }));
                }
                // Somebody may have been done with it a moment ago.
                if let Some(bytes) = app.media.cache.get(&key) {
                    return Ok(bytes);
                }
                app.media.misses.inc();
                let start = std::time::Instant::now();
                let made = make(app, &key, &cancel);
                app.metrics.observe(Stage::Cut, start.elapsed());
                made
            };
            gate(&app.media).run(&app.metrics, work).await
        }
    };
    landed(app.media.flights.join(&key, work).await)
}

/// Seconds of a request as milliseconds.
fn milliseconds(name: &str, seconds: f64) -> Result<u32, ApiError> {
    if seconds.is_finite() && seconds >= 0.0 {
        return Ok((seconds * 1000.0).round() as u32);
    }
    Err(ApiError::malformed(format!("{name} is {seconds}: expected seconds from the start of the video")))
}

/// Which moment, and how large.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct At {
    /// Id of the video.
    video: String,
    /// Seconds from its start; 0 if not given, its last frame if that is beyond its end.
    #[param(minimum = 0.0)]
    at: Option<f64>,
    /// Pixels of the longer side at most; 320 if not given.
    #[param(minimum = 32, maximum = 1280)]
    width: Option<u32>,
}

/// A picture of a moment.
#[utoipa::path(
    get, path = "/v1/thumbnail", tag = "media", params(At),
    security(("bearer" = []), ("cookie" = []), ("link" = [])),
    responses(
        (status = 200, description = "The picture", body = Vec<u8>, content_type = "image/jpeg", headers(("ETag" = String, description = "Names the content"))),
        (status = 206, description = "A part of it", body = Vec<u8>, content_type = "image/jpeg"),
        (status = 304, description = "The asker has it already"),
        (status = 400, description = "Malformed", body = ErrorBody),
        (status = 401, description = "A token or a signed link is needed", body = ErrorBody),
        (status = 403, description = "Another Host or Origin", body = ErrorBody),
        (status = 404, description = "No such video", body = ErrorBody),
        (status = 410, description = "The video's file has gone", body = ErrorBody),
        (status = 416, description = "It has no such bytes", body = ErrorBody),
        (status = 422, description = "The video cannot be decoded there", body = ErrorBody),
        (status = 429, description = "Too many wait", body = ErrorBody, headers(("Retry-After" = u32, description = "Seconds"))),
        (status = 500, description = "A fault of the server", body = ErrorBody),
        (status = 501, description = "The server has no ffmpeg", body = ErrorBody),
        (status = 503, description = "No index yet, or it took too long", body = ErrorBody, headers(("Retry-After" = u32, description = "Seconds"))),
    )
)]
async fn thumbnail(
    State(app): State<Arc<App>>,
    Query(moment): Query<At>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let width = moment.width.unwrap_or(DEFAULT_WIDTH);
    if !WIDTHS.contains(&width) {
        return Err(ApiError::malformed(format!("width is {width}: expected {} to {}", WIDTHS.start(), WIDTHS.end())));
    }
    let at_ms = milliseconds("at", moment.at.unwrap_or(0.0))?;
    let file = locate(&app, moment.video).await?;
    let at_ms = at_ms.min(file.duration_ms.saturating_sub(1));
    let key = file.key("still", &[at_ms, width], "jpg");
    let head = head(&key, "image/jpeg");
    let asked = Asked { method: &method, headers: &headers };
    if asked.has(&head) {
        return Ok(files::unchanged(&head));
    }
    let make = move |app: &App, key: &Key, cancel: &Cancel| {
        let picture = still(&app.media, &file, at_ms, width, cancel).map_err(refused)?;
        let jpeg = jpeg(&picture).map_err(|error| ApiError::internal(&error))?;
        app.media.cache.keep_bytes(key, &jpeg);
        Ok(jpeg.into())
    };
    Ok(files::bytes(&asked, &head, &made(&app, |media| &media.stills, key, make).await?))
}

fn head(key: &Key, content_type: &'static str) -> Head {
    Head { content_type, tag: key.name().to_owned(), cache_control: "private, max-age=3600" }
}

fn still(kept: &Media, file: &Located, at_ms: u32, side: u32, cancel: &Cancel) -> Result<Picture, media::Error> {
    let source = VideoSource { tools: kept.tools()?, path: &file.path, limits: &kept.limits, cancel };
    let start = kept.start(file, &source)?;
    match source.frame_at(start.as_ref(), at_ms, side) {
        // The container may claim more than there is.
        Err(error)
            if error.is_undecodable()
                && at_ms > 0
                && at_ms.saturating_add(LAST_FRAME_MS) > file.duration_ms =>
        {
            source.frame_at(start.as_ref(), at_ms.saturating_sub(LAST_FRAME_MS), side)
        }
        found => found,
    }
}

fn jpeg(picture: &Picture) -> Result<Vec<u8>, ::image::ImageError> {
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY);
    encoder.encode(&picture.rgb, picture.width, picture.height, ExtendedColorType::Rgb8)?;
    Ok(bytes)
}

/// Which moments.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Moments {
    /// Id of the video.
    video: String,
    /// Where the preview begins, in seconds from the start of the video; there if not given.
    #[param(minimum = 0.0)]
    from: Option<f64>,
    /// Where it ends; 6 seconds later if not given, 15 at most, and 2 at least if the video is that long.
    #[param(minimum = 0.0)]
    to: Option<f64>,
}

/// What a preview of a moment shows, in milliseconds: all of it, or of a long one as much as a preview may, from 5 seconds before its best place on.
pub(crate) fn shown(moment: Moment) -> (u32, u32) {
    let Moment { from_ms, at_ms, to_ms } = moment;
    let longest = PREVIEW_MS[2];
    let last = to_ms.saturating_sub(longest).max(from_ms);
    let from_ms = at_ms.saturating_sub(BEFORE_MS).clamp(from_ms, last);
    (from_ms, to_ms.min(from_ms.saturating_add(longest)))
}

/// Milliseconds of what shall be shown of a video so long.
fn span(from_ms: u32, to_ms: Option<u32>, duration_ms: u32) -> (u32, u32) {
    let [shortest, usual, longest] = PREVIEW_MS;
    let from_ms = from_ms.min(duration_ms.saturating_sub(shortest));
    let length_ms = to_ms.map_or(usual, |to_ms| to_ms.saturating_sub(from_ms)).clamp(shortest, longest);
    (from_ms, from_ms.saturating_add(length_ms))
}

/// A moment as a short video: without sound, 640 pixels at most, H.264 in MP4, or VP8 in WebM where the server's ffmpeg has no encoder for that.
#[utoipa::path(
    get, path = "/v1/preview", tag = "media", params(Moments),
    security(("bearer" = []), ("cookie" = []), ("link" = [])),
    responses(
        (status = 200, description = "The video", content((Vec<u8> = "video/mp4"), (Vec<u8> = "video/webm"))),
        (status = 206, description = "A part of it", content((Vec<u8> = "video/mp4"), (Vec<u8> = "video/webm"))),
        (status = 304, description = "The asker has it already"),
        (status = 400, description = "Malformed", body = ErrorBody),
        (status = 401, description = "A token or a signed link is needed", body = ErrorBody),
        (status = 403, description = "Another Host or Origin", body = ErrorBody),
        (status = 404, description = "No such video", body = ErrorBody),
        (status = 410, description = "The video's file has gone", body = ErrorBody),
        (status = 416, description = "It has no such bytes", body = ErrorBody),
        (status = 422, description = "The video cannot be decoded there", body = ErrorBody),
        (status = 429, description = "Too many wait", body = ErrorBody, headers(("Retry-After" = u32, description = "Seconds"))),
        (status = 500, description = "A fault of the server", body = ErrorBody),
        (status = 501, description = "The server's ffmpeg cannot make it", body = ErrorBody),
        (status = 503, description = "No index yet, or it took too long", body = ErrorBody, headers(("Retry-After" = u32, description = "Seconds"))),
    )
)]
async fn preview(
    State(app): State<Arc<App>>,
    Query(moments): Query<Moments>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let from_ms = milliseconds("from", moments.from.unwrap_or(0.0))?;
    let to_ms = moments.to.map(|to| milliseconds("to", to)).transpose()?;
    if let (Some(to), Some(to_ms)) = (moments.to, to_ms)
        && to_ms < from_ms
    {
        return Err(ApiError::malformed(format!("to is {to}: expected what comes after from")));
    }
    let file = locate(&app, moments.video).await?;
    let (from_ms, to_ms) = span(from_ms, to_ms, file.duration_ms);
    let codec = codec(&app).await?;
    let key = file.key("clip", &[from_ms, to_ms], codec.extension());
    let head = head(&key, if codec == Codec::Vp8 { "video/webm" } else { "video/mp4" });
    let asked = Asked { method: &method, headers: &headers };
    if asked.has(&head) {
        return Ok(files::unchanged(&head));
    }
    let cut = PreviewSpec { from_ms, to_ms, max_side: PREVIEW_SIDE };
    let make = move |app: &App, key: &Key, cancel: &Cancel| clip(&app.media, &file, &cut, codec, key, cancel);
    Ok(files::bytes(&asked, &head, &made(&app, |media| &media.clips, key, make).await?))
}

fn clip(kept: &Media, file: &Located, cut: &PreviewSpec, codec: Codec, key: &Key, cancel: &Cancel) -> Result<Bytes, ApiError> {
    let unwritten = |error: std::io::Error| {
        tracing::error!("a preview cannot be written: {error}; REELSEEK_CACHE names another folder for what is made");
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server has no place to make previews in; its log says why")
    };
    let tools = kept.tools().map_err(refused)?;
    let source = VideoSource { tools, path: &file.path, limits: &kept.limits, cancel };
    let start = kept.start(file, &source).map_err(refused)?;
    let part = kept.cache.part_anywhere().map_err(unwritten)?;
    source.write_preview(start.as_ref(), cut, codec, part.path()).map_err(refused)?;
    kept.cache.keep(key, part).map_err(unwritten)
}

/// The file of a video.
#[utoipa::path(
    get, path = "/v1/media/{id}", tag = "media", params(("id" = String, Path, description = "Id of a video")),
    security(("bearer" = []), ("cookie" = []), ("link" = [])),
    responses(
        (status = 200, description = "The file", content(
            (Vec<u8> = "video/*"), (Vec<u8> = "image/gif"), (Vec<u8> = "application/octet-stream")
        )),
        (status = 206, description = "A part of it", content(
            (Vec<u8> = "video/*"), (Vec<u8> = "image/gif"), (Vec<u8> = "application/octet-stream")
        )),
        (status = 304, description = "The asker has it already"),
        (status = 400, description = "Malformed", body = ErrorBody),
        (status = 401, description = "A token or a signed link is needed", body = ErrorBody),
        (status = 403, description = "Another Host or Origin", body = ErrorBody),
        (status = 404, description = "No such video", body = ErrorBody),
        (status = 410, description = "The video's file has gone", body = ErrorBody),
        (status = 416, description = "It has no such bytes", body = ErrorBody),
        (status = 500, description = "A fault of the server", body = ErrorBody),
        (status = 503, description = "No index yet", body = ErrorBody, headers(("Retry-After" = u32, description = "Seconds"))),
    )
)]
async fn whole(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let own = id.clone();
    let file = locate(&app, id).await?;
    let name = name_of(&file.path.to_string_lossy()).to_owned();
    let content_type = content_type(&file.path);
    let open = move || {
        media::readable(&file.path).map_err(refused)?;
        let io = |reason| refused(media::Error::Io { path: file.path.clone(), reason });
        let open = std::fs::File::open(&file.path).map_err(io)?;
        // What was opened counts, not what was there before.
        let meta = open.metadata().map_err(io)?;
        if !meta.is_file() {
            return Err(gone());
        }
        Ok((open, Located::new(&own, file.path.clone(), 0, &meta)))
    };
    let opened = log::blocking(open).await;
    let (open, now) = opened.map_err(|error| ApiError::internal(&error))??;
    let tag = blake3::hash(&now.identity).to_hex()[..32].to_owned();
    let head = Head { content_type, tag, cache_control: "private, no-cache" };
    let asked = Asked { method: &method, headers: &headers };
    let mut response = files::file(&asked, &head, open, now.length);
    if let Ok(value) = HeaderValue::from_str(&format!("inline; filename*=UTF-8''{}", encoded(&name))) {
        response.headers_mut().insert(CONTENT_DISPOSITION, value);
    }
    Ok(response)
}

#[cfg(test)]
mod tests;
