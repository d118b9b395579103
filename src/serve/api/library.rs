//! What there is: the videos of the index, page by page, and each by its id; the labels and folders that filters can name.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use reelseek_index::Video;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::collection::video_path;
use crate::serve::api::catalogue::Order;
use crate::serve::api::search::name_of;
use crate::serve::error::{ApiError, ErrorBody};
use crate::serve::observe::clock::rfc3339;
use crate::serve::state::{App, Snapshot};

const DEFAULT_TOP: usize = 50;
const MAX_TOP: usize = 200;
/// Videos that may be left out: more than there can be.
const MAX_SKIP: usize = 1_000_000_000;
/// Pictures of a video's strip, and their longer side.
const STRIP: u32 = 12;
const STRIP_WIDTH: u32 = 160;

/// Routes of this file.
pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(videos)).routes(routes!(video)).routes(routes!(facets)).routes(routes!(folders))
}

/// Which videos, in which order.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Wish {
    /// Words that may be parts of words, or a filter as in `label:surfing duration:[10 TO 60]`; all videos if not given.
    query: Option<String>,
    /// Videos that are left out: those of the pages before.
    #[param(minimum = 0, maximum = 1000000000)]
    skip: Option<usize>,
    /// Videos at most; 50 if not given.
    #[param(minimum = 1, maximum = 200)]
    top: Option<usize>,
    #[param(inline)]
    sort: Option<Sort>,
}

/// What comes first.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Sort {
    /// By the file's name.
    #[default]
    Name,
    /// The longest first.
    Duration,
    /// The file that was changed last first.
    Newest,
}

/// One page of videos.
#[derive(Debug, Serialize, ToSchema)]
struct Page {
    /// Videos on all pages.
    total: usize,
    /// Whether there is another page.
    more: bool,
    videos: Vec<Listed>,
}

/// A video. Times are in seconds from the first frame.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Video)]
pub(crate) struct Listed {
    /// Its id.
    video: String,
    title: String,
    /// The file's name, without its folders.
    name: String,
    /// Where the file is, if the server is told to show that.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    labels: Vec<String>,
    duration: f64,
    /// Moments of it in the index.
    rows: u32,
    /// Bytes of the file.
    size: u64,
    /// When the file was last changed, in UTC.
    #[schema(format = DateTime)]
    modified: String,
    /// What was wrong with the file, if it could be read in part.
    warning: Option<String>,
    /// A picture of it.
    thumbnail: String,
    /// The file itself.
    media: String,
}

/// A video, with all that is known of it.
#[derive(Debug, Serialize, ToSchema)]
struct Whole {
    #[serde(flatten)]
    video: Listed,
    /// The rest of the JSON beside the file.
    #[schema(value_type = Option<Object>)]
    extra: serde_json::Value,
    /// Pictures of moments all through it.
    strip: Vec<Still>,
}

/// A picture of a moment.
#[derive(Debug, Serialize, ToSchema)]
struct Still {
    at: f64,
    thumbnail: String,
}

impl Listed {
    fn new(app: &App, video: &Video) -> Listed {
        let duration = video.duration_ms as f64 / 1000.0;
        // Videos begin with black and end with names: a third in, they show what they are.
        let at = (video.duration_ms / 3) as f64 / 1000.0;
        Listed {
            name: name_of(&video.path).to_owned(),
            path: app.options.show_paths.then(|| video.path.clone()),
            title: video.title.clone(),
            labels: video.labels.clone(),
            duration,
            rows: video.rows,
            size: video.size_bytes,
            modified: rfc3339(video.modified_ns),
            warning: video.note.as_deref().map(|note| app.shown(note, Some(&video_path(video)))),
            thumbnail: app.link(format!("/v1/thumbnail?video={}&at={at}", video.id)),
            media: app.link(format!("/v1/media/{}", video.id)),
            video: video.id.clone(),
        }
    }
}

/// The video of an id; 404 if there is none.
pub(crate) fn find(snapshot: &Snapshot, id: &str) -> Result<Video, ApiError> {
    let searcher = snapshot.engine.searcher();
    match searcher.number_of(id)? {
        Some(number) => Ok(searcher.video(number)?),
        None => Err(ApiError::new(StatusCode::NOT_FOUND, "there is no video with this id")),
    }
}

/// The videos of the index, page by page.
#[utoipa::path(
    get, path = "/v1/videos", tag = "library", params(Wish),
    responses(
        (status = 200, description = "A page of videos", body = Page),
        (status = 400, description = "Malformed: the parameters, or the filter", body = ErrorBody),
        (status = 401, description = "A token is needed", body = ErrorBody),
        (status = 403, description = "Another Host or Origin", body = ErrorBody),
        (status = 429, description = "Too many requests at once", body = ErrorBody, headers(("Retry-After" = u32, description = "Seconds"))),
        (status = 500, description = "A fault of the server", body = ErrorBody),
        (status = 503, description = "No index yet, or it took too long", body = ErrorBody, headers(("Retry-After" = u32, description = "Seconds"))),
    )
)]
async fn videos(State(app): State<Arc<App>>, Query(wish): Query<Wish>) -> Result<Json<Page>, ApiError> {
    let (skip, top) = (wish.skip.unwrap_or(0), wish.top.unwrap_or(DEFAULT_TOP));
    if !(1..=MAX_TOP).contains(&top) {
        return Err(ApiError::malformed(format!("top is {top}: expected 1 to {MAX_TOP}")));
    }
    if skip > MAX_SKIP {
        return Err(ApiError::malformed(format!("skip is {skip}: expected 0 to {MAX_SKIP}")));
    }
    let order = match wish.sort.unwrap_or_default() {
        Sort::Name => Order::Name,
        Sort::Duration => Order::Duration,
        Sort::Newest => Order::Newest,
    };
    let snapshot = app.ready()?;
    let worker = app.clone();
    let work = move || {
        let catalogue = worker.library.of(&snapshot)?;
        let searcher = snapshot.engine.searcher();
        let found = catalogue.find(searcher, wish.query.as_deref().unwrap_or_default(), order)?;
        let page = found.iter().skip(skip).take(top);
        let videos = page.map(|number| Ok(Listed::new(&worker, &searcher.video(*number)?)));
        let videos = videos.collect::<Result<Vec<_>, ApiError>>()?;
        Ok(Page { total: found.len(), more: skip.saturating_add(top) < found.len(), videos })
    };
    Ok(Json(app.gate.run(&app.metrics, work).await?))
}

/// One video.
#[utoipa::path(
    get, path = "/v1/videos/{id}", tag = "library", params(("id" = String, Path, description = "Id of a video")),
    responses(
        (status = 200, description = "The video", body = Whole),
        (status = 400, description = "Malformed", body = ErrorBody),
        (status = 401, description = "A token is needed", body = ErrorBody),
        (status = 403, description = "Another Host or Origin", body = ErrorBody),
        (status = 404, description = "No such video", body = ErrorBody),
        (status = 429, description = "Too many requests at once", body = ErrorBody, headers(("Retry-After" = u32, description = "Seconds"))),
        (status = 500, description = "A fault of the server", body = ErrorBody),
        (status = 503, description = "No index yet, or it took too long", body = ErrorBody, headers(("Retry-After" = u32, description = "Seconds"))),
    )
)]
async fn video(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Whole>, ApiError> {
    let snapshot = app.ready()?;
    let video = app.gate.run(&app.metrics, move || find(&snapshot, &id)).await?;
    let still = |i: u32| {
        let at = (video.duration_ms * u64::from(2 * i + 1) / u64::from(2 * STRIP)) as f64 / 1000.0;
        let link = format!("/v1/thumbnail?video={}&at={at}&width={STRIP_WIDTH}", video.id);
        Still { at, thumbnail: app.link(link) }
    };
    let strip = (0..STRIP).map(still).collect();
    Ok(Json(Whole { video: Listed::new(&app, &video), strip, extra: video.extra }))
}

/// What filters can name, the most frequent first, up to 1,000 of each.
#[derive(Debug, Serialize, ToSchema)]
struct Facets {
    labels: Vec<Label>,
    folders: Vec<Folder>,
}

/// A label, for `label:"..."`.
#[derive(Debug, Serialize, ToSchema)]
struct Label {
    label: String,
    /// Videos that have it.
    videos: usize,
}

/// The name of a folder, for `path:"..."`.
#[derive(Debug, Serialize, ToSchema)]
struct Folder {
    folder: String,
    /// Videos that lie right in it.
    videos: usize,
}

/// The labels and folders of the videos.
#[utoipa::path(
    get, path = "/v1/facets", tag = "library",
    responses(
        (status = 200, description = "Labels and folders", body = Facets),
        (status = 401, description = "A token is needed", body = ErrorBody),
        (status = 403, description = "Another Host or Origin", body = ErrorBody),
        (status = 429, description = "Too many requests at once", body = ErrorBody, headers(("Retry-After" = u32, description = "Seconds"))),
        (status = 500, description = "A fault of the server", body = ErrorBody),
        (status = 503, description = "No index yet, or it took too long", body = ErrorBody, headers(("Retry-After" = u32, description = "Seconds"))),
    )
)]
async fn facets(State(app): State<Arc<App>>) -> Result<Json<Facets>, ApiError> {
    let snapshot = app.ready()?;
    let worker = app.clone();
    let catalogue = app.gate.run(&app.metrics, move || worker.library.of(&snapshot)).await?;
    let labels = catalogue.labels.iter().map(|(label, videos)| Label { label: label.clone(), videos: *videos });
    let folders = catalogue.folders.iter().map(|(folder, videos)| Folder { folder: folder.clone(), videos: *videos });
    Ok(Json(Facets { labels: labels.collect(), folders: folders.collect() }))
}

/// The folders that may be indexed from here.
#[derive(Debug, Serialize, ToSchema)]
struct Folders {
    /// Their names, as `POST /v1/index` takes them.
    folders: Vec<String>,
}

/// The folders that may be indexed from here.
#[utoipa::path(
    get, path = "/v1/folders", tag = "library",
    responses(
        (status = 200, description = "The folders' names", body = Folders),
        (status = 401, description = "A token is needed", body = ErrorBody),
        (status = 403, description = "Another Host or Origin", body = ErrorBody),
    )
)]
async fn folders(State(app): State<Arc<App>>) -> Json<Folders> {
    Json(Folders { folders: app.jobs.folders().map(str::to_owned).collect() })
}
