//! Bodies come whole before a handler sees them: within a size, within a time, not too slowly, and all together within a budget.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use http_body_util::BodyExt;

use crate::serve::admission::budget::Held;
use crate::serve::api::ask::Kind;
use crate::serve::error::ApiError;
use crate::serve::observe::metrics::Stage;
use crate::serve::observe::request::CLIENT_LEFT;
use crate::serve::state::App;

/// The largest picture, or form of pictures: 25 MB, as trace.moe takes it, and as cameras make it.
pub(crate) const MAX_BYTES: usize = 25_000_000;
/// The largest body of JSON that asks: a batch of 32 vectors of 4,096 numbers, written with all their digits.
pub(crate) const JSON_BYTES: usize = 4_000_000;
/// The largest order to index: names of folders.
const ORDER_BYTES: usize = 64_000;
/// The largest body of everything else, of what is open to everybody too: a token.
const OTHER_BYTES: usize = 4_000;
/// So much of a body must come in each window of time, 32 kB/s, or the end of it: the largest body takes 13 minutes at most.
const WINDOW: Duration = Duration::from_secs(5);
const WINDOW_BYTES: usize = 160_000;
/// How much longer the first window is: small bodies may come over any line.
const GRACE: Duration = Duration::from_secs(5);
/// What is read, and thrown away, beyond the largest body: who sends first and listens afterwards shall hear why it was refused.
const LINGER_BYTES: usize = 2 * MAX_BYTES;
const LINGER: Duration = Duration::from_secs(5);

/// The most that a request may bring, by its route.
fn most(request: &Request) -> usize {
    match request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str) {
        "/v1/search" | "/v1/search/batch" | "/search" => match Kind::of(request.headers()) {
            Kind::Json => JSON_BYTES,
            _ => MAX_BYTES,
        },
        "/v1/index" => ORDER_BYTES,
        _ => OTHER_BYTES,
    }
}

/// Reads the body of a request that has one, and gives it to the handler whole.
pub(crate) async fn collect(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) || request.body().is_end_stream() {
        return next.run(request).await;
    }
    let most = most(&request);
    let (parts, mut body) = request.into_parts();
    let held = Held::coming(&app.bodies);
    let announced = parts.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    let waits = parts.headers.contains_key(EXPECT);
    let start = Instant::now();
    let outcome = tokio::select! {
        outcome = read(&mut body, most, announced, waits, &held) => outcome,
        error = held.cut() => Err(error),
    };
    match outcome {
        Ok(bytes) => {
            held.whole();
            app.metrics.observe(Stage::Read, start.elapsed());
            next.run(Request::from_parts(parts, Body::from(bytes))).await
        }
        Err(error) => error.into_response(),
    }
}

async fn read(
    body: &mut Body,
    most: usize,
    announced: Option<usize>,
    waits: bool,
    held: &Held,
) -> Result<Bytes, ApiError> {
    let too_large = || {
        let shown = if most < 1_000_000 { format!("{} kB", most / 1000) } else { format!("{} MB", most / 1_000_000) };
        let text = format!("the body is larger than the {shown} that are taken");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, text)
    };
    if announced.is_some_and(|bytes| bytes > most) {
        // Who waits to be asked for the body has not sent it.
        if !waits && announced.is_some_and(|bytes| bytes <= LINGER_BYTES) {
            linger(body, 0).await;
        }
        return Err(too_large());
    }
    let late = || ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body comes too slowly");
    let start = tokio::time::Instant::now();
    let (mut window, mut in_window) = (start + GRACE + WINDOW, 0);
    let mut bytes = BytesMut::new();
    loop {
        let frame = match tokio::time::timeout_at(window, body.frame()).await {
            Err(_) if in_window < WINDOW_BYTES => return Err(late()),
            Err(_) => {
                (window, in_window) = (window + WINDOW, 0);
                continue;
            }
            Ok(None) => return Ok(bytes.freeze()),
            Ok(Some(Err(error))) => return Err(broken(&error)),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > most {
            linger(body, bytes.len() + data.len()).await;
            return Err(too_large());
        }
        held.more(data.len())?;
        in_window += data.len();
        bytes.extend_from_slice(&data);
    }
}

/// A body that ends before its end: its sender has left, or does not know how bodies are sent.
fn broken(error: &axum::Error) -> ApiError {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let mut causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let left = causes.any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        matches!(io, Some(UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe))
    });
    match StatusCode::from_u16(CLIENT_LEFT) {
        Ok(status) if left => ApiError::new(status, "the body broke off"),
        _ => ApiError::malformed("the body broke off"),
    }
}

/// Reads on without keeping anything.
async fn linger(body: &mut Body, mut read: usize) {
    let drain = async {
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > LINGER_BYTES {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, drain).await;
}
