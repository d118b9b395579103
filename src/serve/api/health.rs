//! Health and metrics of the server.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::base::Cancel;
use crate::serve::admission::gate::WorkerGate;
use crate::serve::api::media::MediaStore;
use crate::serve::api::openapi::IndexErrors;
use crate::serve::error::ApiError;
use crate::serve::observe::metrics::Metrics;
use crate::serve::snapshot::SnapshotStore;

/// Content type that Prometheus accepts.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Health of the server.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`.
    status: &'static str,
}

/// Whether the process runs.
#[utoipa::path(
    get, path = "/healthz", tag = "operation", security(()),
    responses((status = 200, description = "It runs", body = Health))
)]
pub(crate) async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Whether the server can answer searches: the index is open, and the server is not stopping.
#[utoipa::path(
    get, path = "/readyz", tag = "operation", security(()),
    responses((status = 200, description = "It can answer searches", body = Health), IndexErrors)
)]
pub(crate) async fn readyz(
    State(stopping): State<Cancel>,
    State(snapshots): State<Arc<SnapshotStore>>,
) -> Result<Json<Health>, ApiError> {
    if stopping.is_set() {
        return Err(ApiError::unavailable("the server is stopping"));
    }
    snapshots.ready().map(|_| Json(Health { status: "ok" }))
}

/// Counters and histograms in the OpenMetrics format, whatever the request accepts.
#[utoipa::path(
    get, path = "/metrics", tag = "operation",
    responses((
        status = 200,
        description = "OpenMetrics text",
        body = String,
        content_type = "application/openmetrics-text"
    ))
)]
pub(crate) async fn metrics(
    State(metrics): State<Arc<Metrics>>,
    State(gate): State<Arc<WorkerGate>>,
    State(media): State<Arc<MediaStore>>,
) -> Result<Response, ApiError> {
    media.record_queue();
    let text = metrics.text(gate.waiting()).map_err(|error| ApiError::internal(&error))?;
    Ok(([(CONTENT_TYPE, METRICS_TYPE)], text).into_response())
}
