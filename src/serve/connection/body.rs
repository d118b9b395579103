//! Reads request bodies before handlers run. Limits their size, their slowness and the memory of all of them.

use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use http_body_util::BodyExt;

use crate::serve::admission::budget::{BodyBudget, Reservation};
use crate::serve::error::{ApiError, CLIENT_LEFT};
use crate::serve::limits::{
    BODY_GRACE, BODY_WINDOW, BODY_WINDOW_BYTES, DISCARD_BYTES, DISCARD_TIME, MAX_BODY_BYTES, MAX_INDEX_REQUEST_BYTES,
    MAX_JSON_BYTES, MAX_OTHER_BODY_BYTES,
};
use crate::serve::observe::metrics::{Metrics, Stage};

/// The kind of a body by its Content-Type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyKind {
    Form,
    Json,
    /// A picture. Its format is detected from its bytes.
    Picture,
    /// No Content-Type, or the default of curl.
    Unspecified,
    Other,
}

impl BodyKind {
    pub(crate) fn of(headers: &HeaderMap) -> BodyKind {
        let Some(value) = headers.get(CONTENT_TYPE) else { return BodyKind::Unspecified };
        let essence = value.to_str().unwrap_or("?").split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "multipart/form-data" => BodyKind::Form,
            "application/json" => BodyKind::Json,
            "application/octet-stream" => BodyKind::Picture,
            "application/x-www-form-urlencoded" | "" => BodyKind::Unspecified,
            other if other.starts_with("image/") || other.starts_with("video/") => BodyKind::Picture,
            _ => BodyKind::Other,
        }
    }
}

/// State of [`collect`].
#[derive(Clone)]
pub(crate) struct BodyReader {
    pub(crate) budget: Arc<BodyBudget>,
    pub(crate) metrics: Arc<Metrics>,
}

/// The largest body of a request's route, in bytes.
fn limit(request: &Request) -> usize {
    match request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str) {
        "/v1/search" | "/v1/search/batch" | "/search" => match BodyKind::of(request.headers()) {
            BodyKind::Json => MAX_JSON_BYTES,
            _ => MAX_BODY_BYTES,
        },
        "/v1/index" => MAX_INDEX_REQUEST_BYTES,
        _ => MAX_OTHER_BODY_BYTES,
    }
}

/// Middleware that reads the body, and passes it to the handler in one piece.
pub(crate) async fn collect(State(reader): State<BodyReader>, request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) || request.body().is_end_stream() {
        return next.run(request).await;
    }
    let limit = limit(&request);
    let (parts, mut body) = request.into_parts();
    let reservation = Reservation::abortable(&reader.budget);
    let start = Instant::now();
    let outcome = tokio::select! {
        outcome = read(&mut body, limit, &parts.headers, &reservation) => outcome,
        error = reservation.aborted() => Err(error),
    };
    match outcome {
        Ok(bytes) => {
            reservation.complete();
            reader.metrics.observe(Stage::Read, start.elapsed());
            next.run(Request::from_parts(parts, Body::from(bytes))).await
        }
        Err(error) => error.into_response(),
    }
}

async fn read(
    body: &mut Body,
    limit: usize,
    headers: &HeaderMap,
    reservation: &Reservation,
) -> Result<Bytes, ApiError> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
    if let Some(bytes) = announced.filter(|bytes| *bytes > limit) {
        // A client that sent `Expect` has not sent the body yet.
        if !headers.contains_key(EXPECT) && bytes <= DISCARD_BYTES {
            discard(body, 0).await;
        }
        return Err(too_large(limit));
    }
    let mut window = tokio::time::Instant::now() + BODY_GRACE + BODY_WINDOW;
    let mut window_bytes = 0;
    let mut bytes = BytesMut::new();
    loop {
        let frame = match tokio::time::timeout_at(window, body.frame()).await {
            Err(_) if window_bytes < BODY_WINDOW_BYTES => {
                return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body arrives too slowly"));
            }
            Err(_) => {
                (window, window_bytes) = (window + BODY_WINDOW, 0);
                continue;
            }
            Ok(None) => return Ok(bytes.freeze()),
            Ok(Some(Err(error))) => return Err(incomplete(&error)),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            discard(body, bytes.len() + data.len()).await;
            return Err(too_large(limit));
        }
        reservation.grow(data.len())?;
        window_bytes += data.len();
        bytes.extend_from_slice(&data);
    }
}

fn too_large(limit: usize) -> ApiError {
    let limit = if limit < 1_000_000 { format!("{} kB", limit / 1000) } else { format!("{} MB", limit / 1_000_000) };
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than the limit of {limit}"))
}

/// A body that ends early: 499 if the client has left, else 400.
fn incomplete(error: &axum::Error) -> ApiError {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let mut causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let left = causes.any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        matches!(io, Some(UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe))
    });
    let status = StatusCode::from_u16(CLIENT_LEFT).ok().filter(|_| left).unwrap_or(StatusCode::BAD_REQUEST);
    ApiError::new(status, "the body is incomplete")
}

/// Reads and drops the rest of a body: many clients read the response only after they have sent the whole
/// body.
async fn discard(body: &mut Body, mut read: usize) {
    let drain = async {
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > DISCARD_BYTES {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIME, drain).await;
}
