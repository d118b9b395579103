//! `/search` and `/me` as trace.moe answers them, so that its clients and bots work with a collection of one's own.
//!
//! Borders: trace.moe cuts them if `cutBorders` is there; we always search both with and without.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, Request, State};
use axum::http::header::{self, HeaderMap};
use bytes::Bytes;
use reelseek_index::Effort;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::search::{Group, SearchOptions};
use crate::serve::api::ask::{self, Fields, Kind};
use crate::serve::api::search::{by_picture, links, name_of, seconds};
use crate::serve::error::{ApiError, ErrorBody};
use crate::serve::guard::auth::is_https;
use crate::serve::state::App;

/// Results at most, as there.
const TOP: usize = 10;

/// Routes of this file.
pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(by_url, by_image)).routes(routes!(me))
}

/// What trace.moe's clients send along. Others are ignored, as there: there is no anime to tell of.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "what is ignored stands in the document all the same")]
struct Address {
    /// Address of a picture, if the server is allowed to fetch it.
    #[param(value_type = String, required = true)]
    url: Option<String>,
    /// Taken and ignored: borders are always looked at both with and without.
    #[serde(rename = "cutBorders")]
    cut_borders: Option<String>,
    /// Taken and ignored.
    #[serde(rename = "anilistInfo")]
    anilist_info: Option<String>,
}

/// As [`Address`]; the address may take the picture's place.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "what is ignored stands in the document all the same")]
struct Parameters {
    /// Address of a picture, if none is sent.
    url: Option<String>,
    /// Taken and ignored: borders are always looked at both with and without.
    #[serde(rename = "cutBorders")]
    cut_borders: Option<String>,
    /// Taken and ignored.
    #[serde(rename = "anilistInfo")]
    anilist_info: Option<String>,
}

/// An answer as trace.moe gives it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Traced {
    /// Rows that were searched.
    frame_count: usize,
    /// Empty.
    error: &'static str,
    /// Ten at most, best first.
    result: Vec<Trace>,
}

/// A moment. Times are in seconds.
#[derive(Debug, Serialize, ToSchema)]
struct Trace {
    filename: String,
    duration: f64,
    from: f64,
    at: f64,
    to: f64,
    /// The confidence, 0 to 1.
    similarity: f32,
    /// Address of the moment as a short video.
    video: String,
    /// Address of a picture of the moment.
    image: String,
}

/// As trace.moe: the picture by its address.
#[utoipa::path(
    get, path = "/search", tag = "trace.moe", params(Address),
    security(("bearer" = []), ("cookie" = []), ("trace_header" = []), ("trace_query" = [])),
    responses(
        (status = 200, description = "Moments, one a video, best first", body = Traced),
        (status = 400, description = "No picture, or no address", body = ErrorBody),
        (status = 401, description = "A token is needed", body = ErrorBody),
        (status = 403, description = "Another Host or Origin, or the server may not fetch", body = ErrorBody),
        (status = 413, description = "More than 25 MB", body = ErrorBody),
        (status = 415, description = "No picture of a known kind", body = ErrorBody),
        (status = 422, description = "More than 50 million pixels", body = ErrorBody),
        (status = 429, description = "Too many requests at once", body = ErrorBody, headers(("Retry-After" = u32, description = "Seconds"))),
        (status = 500, description = "A fault of the server", body = ErrorBody),
        (status = 502, description = "The address of the picture does not answer", body = ErrorBody),
        (status = 503, description = "No index yet, or it took too long", body = ErrorBody, headers(("Retry-After" = u32, description = "Seconds"))),
    )
)]
async fn by_url(
    State(app): State<Arc<App>>,
    Query(address): Query<Address>,
    headers: HeaderMap,
) -> Result<Json<Traced>, ApiError> {
    let Some(url) = address.url else {
        return Err(ApiError::malformed("`url` is missing: GET /search?url=ADDRESS, or POST the picture"));
    };
    let bytes = app.fetch(url, None).await?;
    answer(app, &headers, bytes).await
}

/// As trace.moe: the picture as the body, or as the field `image` of a form.
#[utoipa::path(
    post, path = "/search", tag = "trace.moe", params(Parameters),
    security(("bearer" = []), ("cookie" = []), ("trace_header" = []), ("trace_query" = [])),
    request_body(content((ask::PlainForm = "multipart/form-data"), (ask::Raw = "image/jpeg"), (ask::Raw = "application/octet-stream"))),
    responses(
        (status = 200, description = "Moments, one a video, best first", body = Traced),
        (status = 400, description = "Malformed, or a damaged picture", body = ErrorBody),
        (status = 401, description = "A token is needed", body = ErrorBody),
        (status = 403, description = "Another Host or Origin, or a `url` where the server may not fetch", body = ErrorBody),
        (status = 408, description = "The body did not come in time", body = ErrorBody),
        (status = 413, description = "More than 25 MB", body = ErrorBody),
        (status = 415, description = "No picture of a known kind", body = ErrorBody),
        (status = 422, description = "More than 50 million pixels", body = ErrorBody),
        (status = 429, description = "Too many requests at once", body = ErrorBody, headers(("Retry-After" = u32, description = "Seconds"))),
        (status = 500, description = "A fault of the server", body = ErrorBody),
        (status = 502, description = "The address of the picture does not answer", body = ErrorBody),
        (status = 503, description = "No index yet, or it took too long", body = ErrorBody, headers(("Retry-After" = u32, description = "Seconds"))),
    )
)]
async fn by_image(
    State(app): State<Arc<App>>,
    Query(parameters): Query<Parameters>,
    request: Request,
) -> Result<Json<Traced>, ApiError> {
    let headers = request.headers().clone();
    let (image, url) = match Kind::of(&headers) {
        Kind::Form => {
            let Fields { mut images, url, .. } = ask::fields(request, 1).await?;
            (images.pop(), url)
        }
        // What curl's --data-binary calls a form is the picture itself, as there; and what a program calls text may be one.
        Kind::Picture | Kind::Unsaid | Kind::Other => {
            (Some(ask::whole(request).await?).filter(|bytes| !bytes.is_empty()), None)
        }
        Kind::Json => return Err(ask::unsupported("a picture or a form (multipart/form-data)")),
    };
    let bytes = match (image, url.or(parameters.url)) {
        (Some(image), _) => image,
        (None, Some(url)) => app.fetch(url, None).await?,
        (None, None) => {
            return Err(ApiError::malformed("there is no picture: POST it as the body, or as the field `image`"));
        }
    };
    answer(app, &headers, bytes).await
}

async fn answer(app: Arc<App>, headers: &HeaderMap, bytes: Bytes) -> Result<Json<Traced>, ApiError> {
    let snapshot = app.ready()?;
    let scheme = if is_https(headers) { "https" } else { "http" };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost").to_owned();
    let worker = app.clone();
    let work = move || {
        let options = SearchOptions { top: TOP, group: Group::Video, effort: Effort::Default, ..SearchOptions::default() };
        let answer = by_picture(&worker, &snapshot, &bytes, &options)?;
        let result = answer.results.into_iter().map(|found| {
            let (image, video) = links(&worker, &found);
            Trace {
                filename: name_of(&found.video.path).to_owned(),
                duration: found.video.duration_ms as f64 / 1000.0,
                from: seconds(found.moment.from_ms),
                at: seconds(found.moment.at_ms),
                to: seconds(found.moment.to_ms),
                similarity: found.confidence,
                video: format!("{scheme}://{host}{video}"),
                image: format!("{scheme}://{host}{image}"),
            }
        });
        Ok(Traced { frame_count: snapshot.engine.searcher().rows(), error: "", result: result.collect() })
    };
    app.gate.run(&app.metrics, work).await.map(Json)
}

/// What a client may do. Nothing is counted here: the quota is never used up.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Me {
    id: &'static str,
    priority: u32,
    /// Searches at once.
    concurrency: usize,
    quota: u32,
    quota_used: u32,
}

/// As trace.moe: what the client may do.
#[utoipa::path(
    get, path = "/me", tag = "trace.moe",
    security(("bearer" = []), ("cookie" = []), ("trace_header" = []), ("trace_query" = [])),
    responses(
        (status = 200, description = "There is no quota", body = Me),
        (status = 401, description = "A token is needed", body = ErrorBody),
        (status = 403, description = "Another Host or Origin", body = ErrorBody),
    )
)]
async fn me(State(app): State<Arc<App>>) -> Json<Me> {
    Json(Me { id: "you", priority: 0, concurrency: app.options.workers, quota: 1_000_000, quota_used: 0 })
}
