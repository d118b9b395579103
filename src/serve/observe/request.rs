//! Around every request: an id, a line in the log, the counters, and errors as JSON whoever makes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, UNIX_EPOCH};

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, Limited};
use prometheus_client::metrics::gauge::Gauge;
use tracing::Instrument;

use crate::serve::connection::held::hold;
use crate::serve::connection::listen::Peer;
use crate::serve::error::ApiError;
use crate::serve::state::App;

/// Header of a request's id: that of a proxy before us, or our own.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_ID_BYTES: usize = 64;
/// The longest text of an error that is turned into JSON.
const MAX_ERROR_BYTES: usize = 16 << 10;

/// The status of a request whose client did not wait for the answer, as nginx has it.
pub(crate) const CLIENT_LEFT: u16 = 499;

/// Counts one up as long as it lives.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Counted {
        gauge.inc();
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A request that is to be counted and told of in the log, with its answer or without.
struct Noted {
    app: Arc<App>,
    start: Instant,
    id: HeaderValue,
    peer: Option<Peer>,
    method: &'static str,
    route: String,
    answered: bool,
}

impl Noted {
    fn peer(&self) -> String {
        self.peer.as_ref().map_or("none".to_owned(), |peer| peer.address.to_string())
    }

    fn note(&self, status: u16, what: &str) {
        let took = self.start.elapsed();
        self.app.metrics.answered(&self.route, self.method, status, took);
        // The route and never the address: that may carry the key of a link, or what somebody looks for.
        let Noted { method, route, .. } = self;
        let peer = self.peer();
        let ms = (took.as_secs_f64() * 1e5).round() / 100.0;
        tracing::info!(id = self.id.to_str().unwrap_or_default(), peer, method, route, status, ms, "{what}");
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        let sent_away = || self.peer.as_ref().is_some_and(|peer| peer.sent_away.load(Ordering::Acquire));
        match self.answered {
            true => {}
            false if sent_away() => self.note(StatusCode::SERVICE_UNAVAILABLE.as_u16(), "connection closed for others"),
            false => self.note(CLIENT_LEFT, "client left"),
        }
    }
}

/// The outermost layer.
pub(crate) async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let in_flight = Counted::new(&app.metrics.in_flight);
    let mut noted = Noted {
        start: Instant::now(),
        id: request_id(&request),
        peer: request.extensions().get::<Peer>().cloned(),
        method: known(request.method()),
        route: request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned(),
        answered: false,
        app,
    };
    // What is logged on the way names the request.
    let (Noted { id, method, route, .. }, peer) = (&noted, noted.peer());
    let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default(), peer, method, route);
    let mut response = in_json(next.run(request).instrument(span).await).await;
    noted.answered = true;
    noted.note(response.status().as_u16(), "request");
    response.headers_mut().insert(REQUEST_ID, noted.id.clone());
    // In flight until the last byte of the answer.
    hold(response, in_flight)
}

fn request_id(request: &Request) -> HeaderValue {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static START: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    let plain = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=MAX_ID_BYTES).contains(&bytes.len())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
    };
    if let Some(given) = request.headers().get(REQUEST_ID).filter(plain) {
        return given.clone();
    }
    let start = START.get_or_init(|| UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()));
    let text = format!("{start:x}-{:x}", NEXT.fetch_add(1, Ordering::Relaxed));
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// A method's name, of those that there are: a stranger's would be one more line of the metrics each.
fn known(method: &Method) -> &'static str {
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

/// An error that axum's own parts made, as `{"error"}`, with the headers that it has.
async fn in_json(response: Response) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let is_json = response.headers().get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/json"));
    if !is_error || is_json {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let text = Limited::new(body, MAX_ERROR_BYTES).collect().await.map(|whole| whole.to_bytes());
    let text = text.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()).unwrap_or_default();
    let text = match status {
        _ if !text.is_empty() => text,
        StatusCode::METHOD_NOT_ALLOWED => {
            "this address does not take this method; the header Allow names those it takes".to_owned()
        }
        _ => status.canonical_reason().unwrap_or("error").to_owned(),
    };
    let error = ApiError::new(status, text).into_response();
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.remove(CONTENT_TYPE);
    let (made, body) = error.into_parts();
    parts.headers.extend(made.headers);
    Response::from_parts(parts, body)
}
