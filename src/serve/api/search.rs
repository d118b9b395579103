//! `/v1/search` and `/v1/info`: a picture or a vector in, moments out.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Request, State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::base::Cancel;
use crate::collection::Space;
use crate::media;
use crate::search::{Engine, ReasonRecord, ResultRecord, SearchAnswer, SearchOptions, SearchResult};
use crate::serve::admission::gate::WorkerGate;
use crate::serve::api::jobs::Jobs;
use crate::serve::api::links::{Links, file_name, seconds};
use crate::serve::api::media::preview::span_of;
use crate::serve::api::openapi::{IndexErrors, PictureErrors};
use crate::serve::api::params::QueryParams;
use crate::serve::api::request::{RequestOptions, ResolvedQuery, SearchRequest, read_search};
use crate::serve::error::ApiError;
use crate::serve::guard::fetch::Fetcher;
use crate::serve::limits::PICTURE;
use crate::serve::observe::metrics::{Metrics, Stage};
use crate::serve::snapshot::{Snapshot, SnapshotStore};

/// State of the handlers of searches.
#[derive(Clone)]
pub(crate) struct SearchContext {
    pub(crate) snapshots: Arc<SnapshotStore>,
    pub(crate) gate: Arc<WorkerGate>,
    pub(crate) fetcher: Arc<Fetcher>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) links: Arc<Links>,
}

/// The answer to a search.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SearchResponse {
    /// Time from the picture to the results in milliseconds, without the time in the queue.
    took_ms: f64,
    /// Whether the query was compared with every row, so that nothing was missed.
    exact: bool,
    /// Whether there is another page of results.
    more: bool,
    /// The commit of the index that was searched, counted from the server's start.
    generation: u64,
    /// Width and height of the picture in pixels; absent if the query is a vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    query_size: Option<[u32; 2]>,
    /// What is wrong with the picture, if it was searched although it is damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<&'static str>,
    /// Why there are no results; absent if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<ReasonRecord>,
    /// Results in descending order of evidence.
    pub(super) results: Vec<ResultBody>,
}

/// A result with links to its media.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LinkedSearchResult)]
pub(crate) struct ResultBody {
    /// It has the path of the file only if the server was started with `--show-paths`.
    #[serde(flatten)]
    pub(super) record: ResultRecord,
    /// Name of the file, without its folders.
    pub(super) name: String,
    /// Address of a picture of the moment.
    pub(super) thumbnail: String,
    /// Address of the moment as a short video.
    pub(super) preview: String,
    /// Address of the whole video.
    media: String,
}

impl ResultBody {
    fn new(links: &Links, rank: usize, found: SearchResult) -> ResultBody {
        let (id, (preview_from_ms, preview_to_ms)) = (&found.video.id, span_of(found.moment));
        ResultBody {
            name: file_name(&found.video.path).to_owned(),
            thumbnail: links.thumbnail(id, seconds(found.moment.at_ms), None),
            preview: links.preview(id, seconds(preview_from_ms), seconds(preview_to_ms)),
            media: links.media(id),
            record: links.shown(ResultRecord::new(rank, found)),
        }
    }
}

impl SearchResponse {
    fn new(links: &Links, snapshot: &Snapshot, options: &SearchOptions, answer: SearchAnswer) -> SearchResponse {
        let results = answer.results.into_iter().enumerate();
        SearchResponse {
            took_ms: (answer.elapsed.as_secs_f64() * 1e6).round() / 1000.0,
            exact: answer.exact,
            more: answer.more,
            generation: snapshot.generation,
            query_size: None,
            warning: None,
            reason: answer.reason.map(|reason| ReasonRecord::new(reason, options)),
            results: results.map(|(i, found)| ResultBody::new(links, options.skip + i + 1, found)).collect(),
        }
    }
}

impl SearchContext {
    /// Searches a snapshot with a picture or a vector, and records the time of each stage. This computes, so
    /// it needs a worker.
    pub(crate) fn search(
        &self,
        snapshot: &Snapshot,
        query: &ResolvedQuery,
        options: &RequestOptions,
        cancel: &Cancel,
    ) -> Result<SearchResponse, ApiError> {
        let (start, mut warning, mut query_size) = (Instant::now(), None, None);
        let answer = match query {
            ResolvedQuery::Picture(bytes) => {
                let opened = media::read_frames(bytes, "the image", &PICTURE, cancel)?;
                warning = opened.warning;
                query_size = Some(opened.size());
                let (opened, at) = match options.crop {
                    Some(crop) => opened.cut(crop)?,
                    None => (opened, [0, 0]),
                };
                self.metrics.observe(Stage::Decode, start.elapsed());
                let engine = &snapshot.engine;
                let filter = options.search.filter.as_deref();
                let filter = filter.map(|filter| engine.filter(filter)).transpose()?;
                let answer = engine.search_frames(&opened.frames, &options.search, filter.as_ref(), cancel)?;
                let answer = answer.within_larger_picture(at);
                self.metrics.observe(Stage::Encode, answer.encoding);
                self.metrics.observe(Stage::Search, answer.elapsed.saturating_sub(answer.encoding));
                answer
            }
            ResolvedQuery::Vector(_) if options.crop.is_some() => {
                return Err(ApiError::malformed("`crop` is a part of a picture, and the query is a `vector`"));
            }
            ResolvedQuery::Vector(vector) => {
                let answer = snapshot.engine.search_vector(vector, &options.search)?;
                self.metrics.observe(Stage::Search, answer.elapsed);
                answer
            }
        };
        let answer = SearchAnswer { elapsed: start.elapsed(), ..answer };
        let response = SearchResponse::new(&self.links, snapshot, &options.search, answer);
        Ok(SearchResponse { query_size, warning, ..response })
    }
}

/// Finds the videos, and the moment in each, that show the same scene as a picture.
///
/// Send the picture as the body (`image/*`, `video/*` or `application/octet-stream`) or as the field `image`
/// of a form. Several frames of an animation or a video are searched, and their answers joined. Instead of a
/// picture, JSON may contain a `vector` of the index's length, and JSON or a form may contain a `url` if the
/// server fetches pictures. Options are query parameters, JSON fields or form fields; those of the body take
/// precedence. A picture with plain borders is searched both with and without them.
#[utoipa::path(
    post, path = "/v1/search", tag = "search", params(QueryParams<SearchRequest>),
    responses(
        (status = 200, description = "The results, best first, or the reason why there are none", body = SearchResponse),
        PictureErrors,
        IndexErrors,
    )
)]
pub(crate) async fn search(
    State(context): State<SearchContext>,
    QueryParams(params): QueryParams<SearchRequest>,
    request: Request,
) -> Result<Json<SearchResponse>, ApiError> {
    let (query, options) = read_search(&context.gate, params, request).await?;
    let snapshot = context.snapshots.ready()?;
    let query = query.resolve(&context.fetcher, None).await?;
    let worker = context.clone();
    let work = move |cancel: &Cancel| worker.search(&snapshot, &query, &options, cancel);
    context.gate.run_cancellable(work).await.map(Json)
}

/// The server and its index.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServerInfo {
    /// Version of the program.
    version: &'static str,
    /// Name and version of the encoder; `null` without an index.
    encoder: Option<String>,
    /// Whether the encoder finds the same scene rather than the same kind of scene.
    same_scene: bool,
    /// Numbers of a vector; 0 without an index.
    dim: usize,
    videos: usize,
    rows: usize,
    /// The spaces that searches can use: scenes, then kinds if the index has them; empty without an index.
    spaces: Vec<SpaceInfo>,
    /// Commits of the index that the server has opened since its start.
    generation: u64,
    /// Whether the server fetches pictures by their web address.
    fetch: bool,
    /// Whether the server was started with folders to index.
    indexing: bool,
    /// Whether there is an index.
    index: bool,
}

/// A space of the index.
#[derive(Debug, Serialize, ToSchema)]
struct SpaceInfo {
    /// What it finds.
    #[serde(rename = "match")]
    space: Space,
    /// Name and version of its encoder.
    encoder: String,
    /// Numbers of a vector.
    dim: usize,
    rows: usize,
}

impl SpaceInfo {
    fn new(space: Space, engine: &Engine) -> SpaceInfo {
        let searcher = engine.searcher();
        let encoder = engine.encoder().info().id.clone();
        SpaceInfo { space, encoder, dim: searcher.settings().dim, rows: searcher.rows() }
    }

    fn of(engine: &Engine) -> Vec<SpaceInfo> {
        let scene = (engine.space() == Space::Scene).then(|| SpaceInfo::new(Space::Scene, engine));
        let kind = engine.kind().map(|kind| SpaceInfo::new(Space::Kind, kind));
        scene.into_iter().chain(kind).collect()
    }
}

/// Describes the server and its index.
#[utoipa::path(
    get, path = "/v1/info", tag = "search",
    responses((status = 200, description = "The server and its index", body = ServerInfo))
)]
pub(crate) async fn info(
    State(snapshots): State<Arc<SnapshotStore>>,
    State(fetcher): State<Arc<Fetcher>>,
    State(jobs): State<Arc<Jobs>>,
) -> Json<ServerInfo> {
    let snapshot = snapshots.latest();
    let snapshot = snapshot.as_deref();
    let encoder = snapshot.map(|s| s.engine.encoder().info());
    Json(ServerInfo {
        version: env!("CARGO_PKG_VERSION"),
        encoder: encoder.map(|encoder| encoder.id.clone()),
        same_scene: encoder.is_some_and(|encoder| encoder.same_scene),
        dim: snapshot.map_or(0, |s| s.engine.searcher().settings().dim),
        videos: snapshot.map_or(0, |s| s.videos),
        rows: snapshot.map_or(0, |s| s.engine.searcher().rows()),
        spaces: snapshot.map(|s| SpaceInfo::of(&s.engine)).unwrap_or_default(),
        generation: snapshot.map_or(0, |s| s.generation),
        fetch: fetcher.is_enabled(),
        indexing: jobs.folders().next().is_some(),
        index: snapshot.is_some(),
    })
}
