//! Checks Host against DNS rebinding and Origin against other pages, and sets the security headers of every
//! response.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::serve::error::{ApiError, Error};
use crate::serve::guard::auth::{Auth, TRACE_KEY, is_media};
use crate::serve::limits::PREFLIGHT_S;

/// The page may load its own files, responses and pictures, and nothing from other hosts.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Headers of every response that does not set them itself.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
];
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
/// Path of the web page.
const PAGE: &str = "/";
/// Headers that decide about access. Of several values, this program and a proxy before it could read
/// different ones.
const SINGLE: [(HeaderName, &str); 6] = [
    (header::HOST, "Host"),
    (header::ORIGIN, "Origin"),
    (header::AUTHORIZATION, "Authorization"),
    (FETCH_SITE, "Sec-Fetch-Site"),
    (FETCH_MODE, "Sec-Fetch-Mode"),
    (HeaderName::from_static(TRACE_KEY), "X-Trace-Key"),
];
/// Headers that a page of an allowed origin may read, besides those that CORS always allows.
const EXPOSED: HeaderValue =
    HeaderValue::from_static("retry-after, x-request-id, etag, content-range, accept-ranges, allow");

/// The hosts and origins that requests may name.
pub(crate) struct HostGuard {
    auth: Arc<Auth>,
    listen: SocketAddr,
    hosts: Vec<String>,
    origins: Vec<String>,
}

impl HostGuard {
    /// # Errors
    /// [`Error::Host`] or [`Error::Origin`] for a name that no browser sends.
    pub(crate) fn new(
        listen: SocketAddr,
        hosts: &[String],
        origins: &[String],
        auth: Arc<Auth>,
    ) -> Result<HostGuard, Error> {
        for host in hosts {
            if host.parse::<Authority>().is_err() || name_of(host).is_none_or(|name| name.len() != host.len()) {
                return Err(Error::Host { found: host.clone() });
            }
        }
        for origin in origins {
            let uri = origin.parse::<Uri>().ok();
            let written = uri.as_ref().and_then(|uri| Some(format!("{}://{}", uri.scheme_str()?, uri.authority()?)));
            if written.as_ref() != Some(origin)
                || !matches!(uri.and_then(|u| u.scheme_str().map(str::len)), Some(4 | 5))
            {
                return Err(Error::Origin { found: origin.clone() });
            }
        }
        let hosts = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        let origins = origins.iter().map(|origin| origin.to_ascii_lowercase()).collect();
        Ok(HostGuard { auth, listen, hosts, origins })
    }

    /// Whether a request may name this host. In DNS rebinding, the host name of another site resolves to this
    /// server's address, but the requests still have that name. An IP address cannot be rebound, so a server
    /// that listens on all addresses accepts any IP address.
    fn knows(&self, host: &str) -> bool {
        let Some(name) = name_of(host) else { return false };
        let name = name.to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
        match bare.parse::<IpAddr>() {
            Ok(ip) if ip.is_loopback() || ip == self.listen.ip() || self.listen.ip().is_unspecified() => true,
            _ => name == "localhost" || self.hosts.iter().any(|host| host == name || host == bare),
        }
    }

    fn allows(&self, origin: &str) -> bool {
        self.origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
    }

    fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(host) = headers.get(header::HOST) else {
            return Err(ApiError::malformed("expected one header Host, found none"));
        };
        let host = host.to_str().map_err(|_| ApiError::malformed("the Host header is not text"))?;
        let in_uri = uri.authority().map(Authority::as_str);
        for host in std::iter::once(host).chain(in_uri) {
            if !self.knows(host) {
                let shown: String = host.chars().take(100).collect();
                return Err(ApiError::forbidden(format!(
                    "this server does not answer to the name {shown}: start it with --allow-host {shown}"
                )));
            }
        }
        Ok(())
    }

    /// Refuses requests that a browser sends for a page of another origin. Programs send neither Origin nor
    /// Sec-Fetch-Site.
    fn check_origin(&self, method: &Method, uri: &Uri, headers: &HeaderMap, signed: bool) -> Result<(), ApiError> {
        let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        let origin = text(&header::ORIGIN);
        if let Some(origin) = origin {
            let host = text(&header::HOST).unwrap_or_default();
            let own = origin.split_once("://").is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(host));
            if !own && !self.allows(origin) {
                return Err(other_origin());
            }
            return Ok(());
        }
        let is_cross_site = !matches!(text(&FETCH_SITE), None | Some("same-origin" | "none"));
        if !is_cross_site {
            return Ok(());
        }
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let link = is_media(uri.path()) && (signed || !self.origins.is_empty());
        // A browser may follow links from other pages to the page and to media. A frame in another page is a
        // navigation too, so that no other route may work for it.
        let follows = text(&FETCH_MODE) == Some("navigate") && (uri.path() == PAGE || is_media(uri.path()));
        if reads && (link || follows) { Ok(()) } else { Err(other_origin()) }
    }

    fn check_all(&self, method: &Method, uri: &Uri, headers: &HeaderMap, signed: bool) -> Result<(), ApiError> {
        check_single(headers)?;
        self.check_host(uri, headers)?;
        self.check_origin(method, uri, headers, signed)
    }

    /// Adds the CORS headers.
    fn add_cors(&self, origin: Option<&HeaderValue>, response: &mut Response) {
        if self.origins.is_empty() {
            return;
        }
        response.headers_mut().append(header::VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = origin.filter(|o| o.to_str().is_ok_and(|o| self.allows(o))) {
            response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            response.headers_mut().insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }

    fn preflight(&self, headers: &HeaderMap) -> Option<Response> {
        let asks = headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        let allowed = headers.get(header::ORIGIN).is_some_and(|o| o.to_str().is_ok_and(|o| self.allows(o)));
        (asks && allowed).then(|| {
            let headers = [
                (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, DELETE"),
                (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type, range, x-trace-key"),
                (header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_S),
            ];
            (StatusCode::NO_CONTENT, headers).into_response()
        })
    }
}

/// # Errors
/// 400 if a header that decides about access has several values.
fn check_single(headers: &HeaderMap) -> Result<(), ApiError> {
    for (name, shown) in SINGLE {
        let count = headers.get_all(&name).iter().count();
        if count > 1 {
            return Err(ApiError::malformed(format!("expected one header {shown}, found {count}")));
        }
    }
    Ok(())
}

fn other_origin() -> ApiError {
    ApiError::forbidden(
        "the request comes from a page of another origin: start the server with --cors ORIGIN to allow it",
    )
}

/// The name in `name`, `name:port` or `[v6]:port`.
fn name_of(host: &str) -> Option<&str> {
    let (name, port) = match host.rfind(']') {
        Some(end) => host.split_at(end + 1),
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_port = port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok());
    (is_port && !name.is_empty()).then_some(name)
}

/// Middleware of every route.
pub(crate) async fn check(State(guard): State<Arc<HostGuard>>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let (method, uri, headers) = (request.method(), request.uri(), request.headers());
    let signed = guard.auth.is_signed(method, uri);
    // Other pages may embed media by signed links, and all media if the server allows an origin.
    let shared = signed || is_media(uri.path()) && !guard.origins.is_empty();
    let preflight = || (*method == Method::OPTIONS).then(|| guard.preflight(headers)).flatten();
    let mut response = match guard.check_all(method, uri, headers, signed) {
        Err(error) => error.into_response(),
        Ok(()) => match preflight() {
            Some(response) => response,
            None => next.run(request).await,
        },
    };
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    let policy = if shared { "cross-origin" } else { "same-origin" };
    response.headers_mut().insert(RESOURCE_POLICY, HeaderValue::from_static(policy));
    guard.add_cors(origin.as_ref(), &mut response);
    response
}
