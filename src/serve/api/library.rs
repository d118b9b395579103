//! The videos of the index as pages of a list and one by one, the labels and folders that filters can name,
//! and the folders that the server may index.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use reelseek_index::Video;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::collection::{limited_video, video_path};
use crate::serve::admission::gate::WorkerGate;
use crate::serve::api::catalogue::{CatalogueCache, VideoOrder};
use crate::serve::api::jobs::Jobs;
use crate::serve::api::links::{Links, file_name};
use crate::serve::api::openapi::IndexErrors;
use crate::serve::api::params::{ParamRange, QueryParams, RequestParams};
use crate::serve::error::ApiError;
use crate::serve::observe::clock::rfc3339;
use crate::serve::snapshot::{Snapshot, SnapshotStore};

const TOP: ParamRange = ParamRange { name: "top", min: 1.0, max: 200.0 };
/// The maximum is more than an index can hold.
const SKIP: ParamRange = ParamRange { name: "skip", min: 0.0, max: 1_000_000_000.0 };
const DEFAULT_TOP: u32 = 50;
/// Pictures of a video's strip, and their longer side in pixels.
const STRIP: u32 = 12;
const STRIP_WIDTH: u32 = 160;

/// State of the handlers of the library.
#[derive(Clone)]
pub(crate) struct LibraryContext {
    pub(crate) snapshots: Arc<SnapshotStore>,
    pub(crate) gate: Arc<WorkerGate>,
    pub(crate) catalogues: Arc<CatalogueCache>,
    pub(crate) links: Arc<Links>,
}

/// Which videos to list, and in which order.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListParams {
    /// Words or parts of words, or a filter as in `label:surfing duration:[10 TO 60]`; all videos if absent.
    query: Option<String>,
    /// Videos to leave out at the start of the list: those of earlier pages.
    skip: Option<u32>,
    /// Most videos to return; default 50.
    top: Option<u32>,
    /// Order of the list; default `name`.
    #[schema(inline)]
    sort: Option<VideoOrder>,
}

impl RequestParams for ListParams {
    fn numbers(&self) -> Vec<(ParamRange, Option<f64>)> {
        vec![(SKIP, self.skip.map(f64::from)), (TOP, self.top.map(f64::from))]
    }
}

/// One page of videos.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VideoPage {
    /// Videos on all pages.
    total: usize,
    /// Whether there is another page.
    more: bool,
    videos: Vec<VideoSummary>,
}

/// A video. Times are in seconds from the first frame.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VideoSummary {
    /// Id of the video.
    video: String,
    title: String,
    /// Name of the file, without its folders.
    name: String,
    /// Path of the file, if the server was started with `--show-paths`.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    labels: Vec<String>,
    duration: f64,
    /// Rows of the video in the index.
    rows: u32,
    /// Size of the file in bytes.
    size: u64,
    /// Time of the file's last change, in UTC.
    #[schema(format = DateTime)]
    modified: String,
    /// The fault of the file, if only a part of it could be read.
    warning: Option<String>,
    /// Address of a picture of the video.
    thumbnail: String,
    /// Address of the file.
    media: String,
}

/// A video with all of its fields.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VideoDetails {
    #[serde(flatten)]
    video: VideoSummary,
    /// Further fields of the JSON file beside the video.
    #[schema(value_type = Option<Object>)]
    extra: serde_json::Value,
    /// Pictures at equal intervals of the video.
    strip: Vec<StripFrame>,
}

/// A picture of the video at a time in seconds.
#[derive(Debug, Serialize, ToSchema)]
struct StripFrame {
    at: f64,
    thumbnail: String,
}

impl VideoSummary {
    fn new(links: &Links, video: &Video) -> VideoSummary {
        let duration = video.duration_ms as f64 / 1000.0;
        // Many videos begin with black and end with credits, so the picture is taken after a third.
        let at = (video.duration_ms / 3) as f64 / 1000.0;
        VideoSummary {
            name: file_name(&video.path).to_owned(),
            path: links.path(&video.path),
            title: video.title.clone(),
            labels: video.labels.clone(),
            duration,
            rows: video.rows,
            size: video.size_bytes,
            modified: rfc3339(video.modified_ns),
            warning: video.note.as_deref().map(|note| links.stored_text(note, &video_path(video))),
            thumbnail: links.thumbnail(&video.id, at, None),
            media: links.media(&video.id),
            video: video.id.clone(),
        }
    }
}

/// The video with an id; 404 if there is none.
pub(crate) fn find(snapshot: &Snapshot, id: &str) -> Result<Video, ApiError> {
    let searcher = snapshot.engine.searcher();
    match searcher.number_of(id)? {
        Some(number) => Ok(limited_video(searcher, number)?),
        None => Err(ApiError::new(StatusCode::NOT_FOUND, "there is no video with this id")),
    }
}

/// Lists the videos of the index in pages.
#[utoipa::path(
    get, path = "/v1/videos", tag = "library", params(QueryParams<ListParams>),
    responses(
        (status = 200, description = "A page of videos", body = VideoPage),
        IndexErrors,
    )
)]
pub(crate) async fn videos(
    State(context): State<LibraryContext>,
    QueryParams(params): QueryParams<ListParams>,
) -> Result<Json<VideoPage>, ApiError> {
    let (skip, top) = (params.skip.unwrap_or(0) as usize, params.top.unwrap_or(DEFAULT_TOP) as usize);
    let order = params.sort.unwrap_or_default();
    let snapshot = context.snapshots.ready()?;
    let worker = context.clone();
    let work = move || {
        let catalogue = worker.catalogues.of(&snapshot)?;
        let searcher = snapshot.engine.searcher();
        let found = catalogue.find(searcher, params.query.as_deref().unwrap_or_default(), order)?;
        let page = found.iter().skip(skip).take(top);
        let videos = page.map(|number| Ok(VideoSummary::new(&worker.links, &limited_video(searcher, *number)?)));
        let videos = videos.collect::<Result<Vec<_>, ApiError>>()?;
        Ok(VideoPage { total: found.len(), more: skip.saturating_add(top) < found.len(), videos })
    };
    context.gate.run(work).await.map(Json)
}

/// Describes one video.
#[utoipa::path(
    get, path = "/v1/videos/{id}", tag = "library", params(("id" = String, Path, description = "Id of a video")),
    responses(
        (status = 200, description = "The video", body = VideoDetails),
        IndexErrors,
    )
)]
pub(crate) async fn video(
    State(LibraryContext { snapshots, gate, links, .. }): State<LibraryContext>,
    Path(id): Path<String>,
) -> Result<Json<VideoDetails>, ApiError> {
    let snapshot = snapshots.ready()?;
    let video = gate.run(move || find(&snapshot, &id)).await?;
    let still = |i: u32| {
        let at = (video.duration_ms * u64::from(2 * i + 1) / u64::from(2 * STRIP)) as f64 / 1000.0;
        StripFrame { at, thumbnail: links.thumbnail(&video.id, at, Some(STRIP_WIDTH)) }
    };
    let strip = (0..STRIP).map(still).collect();
    Ok(Json(VideoDetails { video: VideoSummary::new(&links, &video), strip, extra: video.extra }))
}

/// Labels and folders that filters can name: up to 1,000 of each, the most frequent first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Facets {
    labels: Vec<LabelCount>,
    folders: Vec<FolderCount>,
}

/// A label, for `label:"..."`.
#[derive(Debug, Serialize, ToSchema)]
struct LabelCount {
    label: String,
    /// Videos with this label.
    videos: usize,
}

/// The name of a folder, for `path:"..."`.
#[derive(Debug, Serialize, ToSchema)]
struct FolderCount {
    folder: String,
    /// Videos directly in a folder of this name.
    videos: usize,
}

/// Counts the labels and folders of the videos.
#[utoipa::path(
    get, path = "/v1/facets", tag = "library",
    responses(
        (status = 200, description = "Labels and folders", body = Facets),
        IndexErrors,
    )
)]
pub(crate) async fn facets(
    State(LibraryContext { snapshots, gate, catalogues, .. }): State<LibraryContext>,
) -> Result<Json<Facets>, ApiError> {
    let snapshot = snapshots.ready()?;
    let catalogue = gate.run(move || catalogues.of(&snapshot)).await?;
    let labels = catalogue.labels.iter().map(|(label, videos)| LabelCount { label: label.clone(), videos: *videos });
    let folders =
        catalogue.folders.iter().map(|(folder, videos)| FolderCount { folder: folder.clone(), videos: *videos });
    Ok(Json(Facets { labels: labels.collect(), folders: folders.collect() }))
}

/// The folders that the server may index.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FolderList {
    /// Names of the folders, for `POST /v1/index`.
    folders: Vec<String>,
}

/// Lists the folders that the server may index.
#[utoipa::path(
    get, path = "/v1/folders", tag = "library",
    responses(
        (status = 200, description = "The folders' names", body = FolderList),
    )
)]
pub(crate) async fn folders(State(jobs): State<Arc<Jobs>>) -> Json<FolderList> {
    Json(FolderList { folders: jobs.folders().map(str::to_owned).collect() })
}
