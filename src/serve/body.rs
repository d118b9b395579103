//! Bodies come whole before a handler sees them: within a size, within a time, and all together within a budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use http_body_util::BodyExt;

use super::error::ApiError;
use super::metrics::Stage;
use super::state::App;

/// The largest body: 25 MB, as trace.moe takes it, and as cameras make it.
pub(super) const MAX_BYTES: usize = 25_000_000;
/// All bodies that are held at once: ten of the largest.
const BUDGET_BYTES: usize = 10 * MAX_BYTES;
/// Longest wait for the next piece.
const STALL: Duration = Duration::from_secs(10);
/// Longest time for the whole: the largest body over a line of 4 Mbit/s.
const WHOLE: Duration = Duration::from_secs(60);
/// What is read, and thrown away, beyond the largest body: who sends first and listens afterwards shall hear why it was refused.
const LINGER_BYTES: usize = 2 * MAX_BYTES;
const LINGER: Duration = Duration::from_secs(5);

/// Bytes of bodies that are held now.
#[derive(Default)]
pub(super) struct Budget(AtomicUsize);

#[cfg(test)]
impl Budget {
    pub(super) fn held(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

/// A part of the budget, until dropped.
struct Held<'a> {
    budget: &'a Budget,
    bytes: usize,
}

impl Held<'_> {
    fn more(&mut self, bytes: usize) -> Result<(), ApiError> {
        let before = self.budget.0.fetch_add(bytes, Ordering::AcqRel);
        self.bytes += bytes;
        if before.saturating_add(bytes) > BUDGET_BYTES {
            return Err(ApiError::busy("too many large requests at once: try again in a moment"));
        }
        Ok(())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// Reads the body of a request that has one, and gives it to the handler whole.
pub(super) async fn collect(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) || request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (parts, mut body) = request.into_parts();
    let mut held = Held { budget: &app.bodies, bytes: 0 };
    let announced = parts.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    let waits = parts.headers.contains_key(EXPECT);
    let start = Instant::now();
    match read(&mut body, announced, waits, &mut held).await {
        Ok(bytes) => {
            app.metrics.observe(Stage::Read, start.elapsed());
            next.run(Request::from_parts(parts, Body::from(bytes))).await
        }
        Err(error) => error.into_response(),
    }
}

async fn read(body: &mut Body, announced: Option<usize>, waits: bool, held: &mut Held<'_>) -> Result<Bytes, ApiError> {
    let too_large = || {
        let text = format!("the body is larger than the {} MB that are taken", MAX_BYTES / 1_000_000);
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, text)
    };
    if announced.is_some_and(|bytes| bytes > MAX_BYTES) {
        // Who waits to be asked for the body has not sent it.
        if !waits && announced.is_some_and(|bytes| bytes <= LINGER_BYTES) {
            linger(body, 0).await;
        }
        return Err(too_large());
    }
    let late = |what: &str| ApiError::new(StatusCode::REQUEST_TIMEOUT, format!("the body {what}"));
    let whole = tokio::time::Instant::now() + WHOLE;
    let mut bytes = BytesMut::new();
    loop {
        let until = whole.min(tokio::time::Instant::now() + STALL);
        let frame = match tokio::time::timeout_at(until, body.frame()).await {
            Err(_) if until == whole => return Err(late("took too long to come")),
            Err(_) => return Err(late("stopped coming")),
            Ok(None) => return Ok(bytes.freeze()),
            Ok(Some(Err(_))) => return Err(ApiError::malformed("the body broke off")),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > MAX_BYTES {
            linger(body, bytes.len() + data.len()).await;
            return Err(too_large());
        }
        held.more(data.len())?;
        bytes.extend_from_slice(&data);
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
