//! `/search` and `/me` of trace.moe, so that its clients and bots work with this server.
//!
//! trace.moe removes borders only if `cutBorders` is set; this server always searches with and without
//! borders.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, Request, State};
use axum::http::header::{self, HeaderMap};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::base::Cancel;
use crate::collection::Space;
use crate::search::{MatchChoice, SearchOptions};
use crate::serve::admission::gate::WorkerGate;
use crate::serve::api::openapi::{IndexErrors, PictureErrors};
use crate::serve::api::request::{RequestOptions, ResolvedQuery, body_bytes, read_form, unsupported};
use crate::serve::api::search::SearchContext;
use crate::serve::connection::body::BodyKind;
use crate::serve::error::ApiError;
use crate::serve::guard::auth::is_https;

/// Most results: as many as trace.moe returns.
const TOP: usize = 10;

/// Parameters that trace.moe's clients send. Others, such as the id of an anime, are ignored.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct TraceParams {
    /// Web address of the picture, if the server may fetch it. Ignored if the request has a picture.
    url: Option<String>,
    /// Ignored: the server always searches both with and without borders.
    #[serde(rename = "cutBorders")]
    #[allow(dead_code, reason = "documented and ignored")]
    cut_borders: Option<String>,
    /// Ignored.
    #[serde(rename = "anilistInfo")]
    #[allow(dead_code, reason = "documented and ignored")]
    anilist_info: Option<String>,
}

/// An answer in trace.moe's form.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TraceResponse {
    /// Rows of the index.
    frame_count: usize,
    /// Always empty.
    error: &'static str,
    /// At most ten results, best first.
    result: Vec<TraceResult>,
}

/// A moment. Times are in seconds.
#[derive(Debug, Serialize, ToSchema)]
struct TraceResult {
    filename: String,
    duration: f64,
    from: f64,
    at: f64,
    to: f64,
    /// The confidence, from 0 to 1.
    similarity: f32,
    /// Address of the moment as a short video.
    video: String,
    /// Address of a picture of the moment.
    image: String,
}

/// Searches with the picture at a URL, as trace.moe does.
#[utoipa::path(
    get, path = "/search", tag = "trace.moe", params(TraceParams),
    responses(
        (status = 200, description = "One moment for each video, best first", body = TraceResponse),
        PictureErrors,
        IndexErrors,
    )
)]
pub(crate) async fn trace_url(
    State(context): State<SearchContext>,
    Query(params): Query<TraceParams>,
    headers: HeaderMap,
) -> Result<Json<TraceResponse>, ApiError> {
    let Some(url) = params.url else {
        return Err(ApiError::malformed("`url` is missing: GET /search?url=ADDRESS, or POST the picture"));
    };
    let bytes = context.fetcher.fetch(url, None).await?;
    trace(context, &headers, bytes).await
}

/// Searches with a picture, as trace.moe does: the body, or the field `image` of a form.
#[utoipa::path(
    post, path = "/search", tag = "trace.moe", params(TraceParams),
    responses(
        (status = 200, description = "One moment for each video, best first", body = TraceResponse),
        PictureErrors,
        IndexErrors,
    )
)]
pub(crate) async fn trace_image(
    State(context): State<SearchContext>,
    Query(params): Query<TraceParams>,
    request: Request,
) -> Result<Json<TraceResponse>, ApiError> {
    let headers = request.headers().clone();
    let (image, url) = match BodyKind::of(&headers) {
        BodyKind::Form => {
            let mut form = read_form(request, 1).await?;
            (form.images.pop(), form.url()?)
        }
        // `curl --data-binary` sends a picture as a urlencoded form, and some programs send one as text.
        BodyKind::Picture | BodyKind::Unspecified | BodyKind::Other => {
            (Some(body_bytes(request).await?).filter(|bytes| !bytes.is_empty()), None)
        }
        BodyKind::Json => return Err(unsupported("a picture or a form (multipart/form-data)")),
    };
    let bytes = match (image, url.or(params.url)) {
        (Some(image), _) => image,
        (None, Some(url)) => context.fetcher.fetch(url, None).await?,
        (None, None) => {
            return Err(ApiError::malformed("there is no picture: POST it as the body, or as the field `image`"));
        }
    };
    trace(context, &headers, bytes).await
}

async fn trace(context: SearchContext, headers: &HeaderMap, bytes: Bytes) -> Result<Json<TraceResponse>, ApiError> {
    let snapshot = context.snapshots.ready()?;
    let scheme = if is_https(headers) { "https" } else { "http" };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost").to_owned();
    let origin = format!("{scheme}://{host}");
    let (worker, query) = (context.clone(), ResolvedQuery::Picture(bytes));
    let work = move |cancel: &Cancel| {
        // An index without scenes answers with what it has.
        let matching = match snapshot.engine.space() {
            Space::Scene => MatchChoice::Scene,
            Space::Kind => MatchChoice::Both,
        };
        let search = SearchOptions { top: TOP, matching, ..SearchOptions::default() };
        let options = RequestOptions { search, ..RequestOptions::default() };
        let answer = worker.search(&snapshot, &query, &options, cancel)?;
        let result = answer.results.into_iter().map(|found| TraceResult {
            filename: found.name,
            duration: found.record.duration,
            from: found.record.from,
            at: found.record.at,
            to: found.record.to,
            similarity: found.record.confidence,
            video: format!("{origin}{}", found.preview),
            image: format!("{origin}{}", found.thumbnail),
        });
        Ok(TraceResponse { frame_count: snapshot.engine.searcher().rows(), error: "", result: result.collect() })
    };
    context.gate.run_cancellable(work).await.map(Json)
}

/// Limits of a client. There is no quota: the reported one is never used up.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClientLimits {
    id: &'static str,
    priority: u32,
    /// Searches at once.
    concurrency: usize,
    quota: u32,
    quota_used: u32,
}

/// Reports the limits of the client, as trace.moe does.
#[utoipa::path(
    get, path = "/me", tag = "trace.moe",
    responses((status = 200, description = "The limits; there is no quota", body = ClientLimits))
)]
pub(crate) async fn me(State(gate): State<Arc<WorkerGate>>) -> Json<ClientLimits> {
    let concurrency = gate.workers();
    Json(ClientLimits { id: "you", priority: 0, concurrency, quota: 1_000_000, quota_used: 0 })
}
