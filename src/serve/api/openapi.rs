//! The document of the API, and the routes that tell of the server itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::openapi::OpenApi as Document;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::serve::error::{ApiError, ErrorBody};
use crate::serve::state::App;

/// As Prometheus asks for it.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the document says of the whole.
#[derive(OpenApi)]
#[openapi(
    info(title = "reelseek", description = "Give it a picture; it finds the videos, and the moment in each, that show the same scene."),
    security(("bearer" = []), ("cookie" = [])),
    modifiers(&Schemes),
    tags(
        (name = "search", description = "Pictures or vectors in, moments out"),
        (name = "library", description = "The videos of the index"),
        (name = "media", description = "Pictures and clips of moments, and the videos themselves"),
        (name = "indexing", description = "Bringing the index up to date"),
        (name = "session", description = "The token, for browsers"),
        (name = "trace.moe", description = "As trace.moe answers"),
        (name = "operation", description = "How the server is"),
    )
)]
pub(crate) struct Api;

struct Schemes;

impl Modify for Schemes {
    fn modify(&self, document: &mut Document) {
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
        let mut key = |name, key| components.add_security_scheme(name, SecurityScheme::ApiKey(key));
        key("cookie", ApiKey::Cookie(ApiKeyValue::new("reelseek")));
        let signature = "Of a link that an answer gave; it opens what that leads to.";
        key("link", ApiKey::Query(ApiKeyValue::with_description("key", signature)));
        let token = "The token, where trace.moe's clients put their key.";
        key("trace_header", ApiKey::Header(ApiKeyValue::with_description("x-trace-key", token)));
        key("trace_query", ApiKey::Query(ApiKeyValue::with_description("key", token)));
    }
}

/// Routes that need no token.
pub(crate) fn open_routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(healthz)).routes(routes!(readyz))
}

/// Routes that tell too much for everybody.
pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(metrics))
}

/// How it is.
#[derive(Serialize, ToSchema)]
struct Health {
    /// `ok`.
    status: &'static str,
}

/// Whether the process is up.
#[utoipa::path(
    get, path = "/healthz", tag = "operation", security(()),
    responses((status = 200, description = "It is", body = Health), (status = 403, description = "Another Host or Origin", body = ErrorBody))
)]
async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Whether searches can be answered: the index is open, and the server is not about to stop.
#[utoipa::path(
    get, path = "/readyz", tag = "operation", security(()),
    responses(
        (status = 200, description = "They can", body = Health),
        (status = 403, description = "Another Host or Origin", body = ErrorBody),
        (status = 503, description = "They cannot", body = ErrorBody, headers(("Retry-After" = u32, description = "Seconds"))),
    )
)]
async fn readyz(State(app): State<Arc<App>>) -> Result<Json<Health>, ApiError> {
    if app.stopping.is_set() {
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping"));
    }
    app.ready().map(|_| Json(Health { status: "ok" }))
}

/// Counters and histograms, as Prometheus reads them: always as OpenMetrics, whatever the request accepts.
#[utoipa::path(
    get, path = "/metrics", tag = "operation",
    responses(
        (status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text"),
        (status = 401, description = "A token is needed", body = ErrorBody),
        (status = 403, description = "Another Host or Origin", body = ErrorBody),
        (status = 500, description = "A fault of the server", body = ErrorBody),
    )
)]
async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    app.media.note_queue();
    let text = app.metrics.text(app.gate.waiting()).map_err(|error| ApiError::internal(&error))?;
    Ok(([(CONTENT_TYPE, METRICS_TYPE)], text).into_response())
}
