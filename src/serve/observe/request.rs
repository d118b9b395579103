//! The outermost layer of every request: an id, one line in the log, the counters, and every error as JSON.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, UNIX_EPOCH};

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::response::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, Limited};
use tracing::Instrument;

use crate::serve::error::{ApiError, CLIENT_LEFT};
use crate::serve::limits::{MAX_ERROR_BYTES, MAX_REQUEST_ID_BYTES};
use crate::serve::observe::held::hold;
use crate::serve::observe::metrics::Metrics;

/// Header with the id of a request. A proxy may set it; otherwise the server makes an id.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The client of a connection. The connection stores it in the extensions of each request.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// Whether the server closed the connection to make room for another.
    pub(crate) evicted: Arc<AtomicBool>,
}

/// The data of a request for the log and the counters. They are recorded with the response, or on drop if
/// there is none.
struct RequestRecord {
    metrics: Arc<Metrics>,
    start: Instant,
    id: HeaderValue,
    peer: Option<Peer>,
    method: &'static str,
    route: String,
    finished: bool,
}

impl RequestRecord {
    fn peer(&self) -> String {
        self.peer.as_ref().map_or("none".to_owned(), |peer| peer.address.to_string())
    }

    fn write(&self, status: u16, message: &str) {
        let took = self.start.elapsed();
        self.metrics.count_response(&self.route, self.method, status, took);
        // The log has the route, never the URL, which may contain the key of a link or a private search text.
        let RequestRecord { method, route, .. } = self;
        let peer = self.peer();
        let ms = (took.as_secs_f64() * 1e5).round() / 100.0;
        tracing::info!(id = self.id.to_str().unwrap_or_default(), peer, method, route, status, ms, "{message}");
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        let evicted = || self.peer.as_ref().is_some_and(|peer| peer.evicted.load(Ordering::Acquire));
        match self.finished {
            true => {}
            false if evicted() => self.write(StatusCode::SERVICE_UNAVAILABLE.as_u16(), "connection evicted"),
            false => self.write(CLIENT_LEFT, "client left"),
        }
    }
}

/// The outermost layer.
pub(crate) async fn observe(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    metrics.in_flight.inc();
    let in_flight = scopeguard::guard(metrics.in_flight.clone(), |gauge| {
        gauge.dec();
    });
    let mut record = RequestRecord {
        start: Instant::now(),
        id: request_id(&request),
        peer: request.extensions().get::<Peer>().cloned(),
        method: method_name(request.method()),
        route: request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned(),
        finished: false,
        metrics,
    };
    // Log lines of the handler name the request.
    let (RequestRecord { id, method, route, .. }, peer) = (&record, record.peer());
    let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default(), peer, method, route);
    let mut response = error_as_json(next.run(request).instrument(span).await).await;
    record.finished = true;
    record.write(response.status().as_u16(), "request");
    response.headers_mut().insert(REQUEST_ID, record.id.clone());
    // The request is in flight until the last byte of the response.
    hold(response, in_flight)
}

fn request_id(request: &Request) -> HeaderValue {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static START: OnceLock<u64> = OnceLock::new();
    let is_plain = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=MAX_REQUEST_ID_BYTES).contains(&bytes.len())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
    };
    if let Some(given) = request.headers().get(REQUEST_ID).filter(is_plain) {
        return given.clone();
    }
    let start = START.get_or_init(|| UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()));
    let text = format!("{start:x}-{:x}", NEXT.fetch_add(1, Ordering::Relaxed));
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// The name of a known method, else `other`: each unknown name would add a line to the metrics.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Lists the accepted methods in the text of a 405. This layer must surround the router, because axum sets
/// the header `Allow` outside of the router's own layers.
pub(crate) async fn name_allowed_methods(request: Request, next: Next) -> Response {
    let method = method_name(request.method());
    let response = next.run(request).await;
    let allowed = response.headers().get(ALLOW).and_then(|value| value.to_str().ok());
    let (StatusCode::METHOD_NOT_ALLOWED, Some(allowed)) = (response.status(), allowed) else { return response };
    let text = format!("this address accepts {}, not {method}", allowed.replace(',', ", "));
    replace_body(response.into_parts().0, text)
}

/// Rewrites an error of axum's own extractors and routers as `{"error": "..."}`, and keeps its headers.
async fn error_as_json(response: Response) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let is_json = response.headers().get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/json"));
    if !is_error || is_json {
        return response;
    }
    let (parts, body) = response.into_parts();
    let text = Limited::new(body, MAX_ERROR_BYTES).collect().await.map(|whole| whole.to_bytes());
    let text = text.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()).unwrap_or_default();
    let text = if text.is_empty() { status.canonical_reason().unwrap_or("error").to_owned() } else { text };
    replace_body(parts, text)
}

/// An error with this text and the headers of another response.
fn replace_body(mut parts: Parts, text: String) -> Response {
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.remove(CONTENT_TYPE);
    let (error_parts, body) = ApiError::new(parts.status, text).into_response().into_parts();
    parts.headers.extend(error_parts.headers);
    Response::from_parts(parts, body)
}
