//! The token: as a header, as the cookie of a session, and as the signature of a link.

use std::path::Path;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use subtle::ConstantTimeEq;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::serve::Error;
use crate::serve::error::{ApiError, ErrorBody};
use crate::serve::state::App;

/// Name of the cookie.
const COOKIE: &str = "reelseek";
/// How long a browser keeps it: a month.
const COOKIE_S: u32 = 30 * 24 * 3600;
/// Hexadecimal digits of a link's signature: 128 bits.
const KEY_DIGITS: usize = 32;
/// Fewer characters than these can be guessed.
const SHORT: usize = 16;
/// What a signed link may lead to, and the parameters that mean something there. Others change nothing, so that they are not signed: trace.moe's clients
/// append `&size=l` or `&mute`.
const MEDIA: [(&str, &[&str]); 3] =
    [("/v1/thumbnail", &["video", "at", "width"]), ("/v1/preview", &["video", "from", "to"]), ("/v1/media/", &[])];
/// Where trace.moe's clients ask, and the header of their key, which is our token. They may append it as `key`, too.
const TRACE: [&str; 2] = ["/search", "/me"];
const TRACE_KEY: &str = "x-trace-key";

/// What a link to media says by its parameters; none if the path is not one that a page shows as a picture or a video, for which it can send no header.
fn parameters(path: &str) -> Option<&'static [&'static str]> {
    let leads = |media: &str| path == media || media.ends_with('/') && path.starts_with(media);
    MEDIA.iter().find(|(media, _)| leads(media)).map(|(_, parameters)| *parameters)
}

pub(crate) fn is_media(path: &str) -> bool {
    parameters(path).is_some()
}

/// The names and values in a query, decoded as handlers get them.
fn pairs(query: &str) -> Vec<(String, String)> {
    serde_urlencoded::from_str(query).unwrap_or_default()
}

/// What of a query, or of a link without its signature, is signed.
fn meant(path: &str, query: &str) -> String {
    let known = parameters(path).unwrap_or_default();
    let means = |pair: &&str| pairs(pair).iter().any(|(name, _)| known.contains(&name.as_str()));
    let meant: Vec<&str> = query.split('&').filter(means).collect();
    if meant.is_empty() { path.to_owned() } else { format!("{path}?{}", meant.join("&")) }
}

/// What a request must show that comes to a closed server.
#[derive(Clone)]
pub struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// A token of this text, without white space around it.
    ///
    /// # Errors
    /// [`Error::Token`] if nothing is left, or a header could not carry it.
    pub fn new(text: &str) -> Result<Token, Error> {
        let text = text.trim();
        if text.is_empty() {
            return Err(Error::Token { found: "empty" });
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::Token { found: "of characters that a header cannot carry" });
        }
        Ok(Token(text.to_owned()))
    }

    /// The token in a file.
    ///
    /// # Errors
    /// [`Error::TokenFile`] if it cannot be read, else as [`Token::new`].
    pub fn read(path: &Path) -> Result<Token, Error> {
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::TokenFile { path: path.to_owned(), source })?;
        Token::new(&text)
    }

    /// Whether it could be guessed.
    pub(crate) fn is_short(&self) -> bool {
        self.0.len() < SHORT
    }
}

/// What is compared with; nothing of it is the token itself. All is open if there is none.
pub(crate) struct Auth(Option<Secrets>);

struct Secrets {
    token: blake3::Hash,
    cookie: String,
    link_key: [u8; 32],
}

impl Auth {
    pub(crate) fn new(token: Option<&Token>) -> Auth {
        Auth(token.map(|Token(token)| Secrets {
            token: blake3::hash(token.as_bytes()),
            cookie:
                blake3::Hash::from(blake3::derive_key("reelseek session v1", token.as_bytes())).to_hex().to_string(),
            link_key: blake3::derive_key("reelseek links v1", token.as_bytes()),
        }))
    }

    /// Whether this is the token; takes as long whatever it is.
    fn is_token(&self, given: &str) -> bool {
        self.0.as_ref().is_none_or(|s| same(blake3::hash(given.as_bytes()).as_bytes(), s.token.as_bytes()))
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(secrets) = &self.0 else { return true };
        let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        // Of another scheme, it is meant for a proxy before us.
        if let Some((scheme, token)) = authorization.and_then(|value| value.split_once(' '))
            && scheme.eq_ignore_ascii_case("bearer")
        {
            return self.is_token(token.trim());
        }
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.any(|(name, value)| name == COOKIE && same(value.as_bytes(), secrets.cookie.as_bytes()))
    }

    /// Whether one of trace.moe's clients shows the token as its key.
    fn admits_trace(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        if !TRACE.contains(&uri.path()) {
            return false;
        }
        let header = headers.get(TRACE_KEY).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let parameters = pairs(uri.query().unwrap_or_default()).into_iter();
        let parameters = parameters.filter(|(name, _)| name == "key").map(|(_, value)| value);
        header.into_iter().chain(parameters).any(|key| self.is_token(key.trim()))
    }

    /// A link that opens by itself: with its signature if a token is set.
    pub(crate) fn link(&self, path_and_query: String) -> String {
        let Some(secrets) = &self.0 else { return path_and_query };
        let joint = if path_and_query.contains('?') { '&' } else { '?' };
        let (path, query) = path_and_query.split_once('?').unwrap_or((&path_and_query, ""));
        let key = secrets.sign(&meant(path, query));
        format!("{path_and_query}{joint}key={key}")
    }

    /// Whether the request is for a link that we signed.
    pub(crate) fn is_signed(&self, method: &Method, uri: &Uri) -> bool {
        let (Some(secrets), Some(query)) = (&self.0, uri.query()) else { return false };
        if !matches!(*method, Method::GET | Method::HEAD) || !is_media(uri.path()) {
            return false;
        }
        let keys: Vec<&str> = query.split('&').filter_map(|pair| pair.strip_prefix("key=")).collect();
        let [key] = keys[..] else { return false };
        same(key.as_bytes(), secrets.sign(&meant(uri.path(), query)).as_bytes())
    }
}

impl Secrets {
    fn sign(&self, link: &str) -> String {
        let mut hex = blake3::keyed_hash(&self.link_key, link.as_bytes()).to_hex().to_string();
        hex.truncate(KEY_DIGITS);
        hex
    }
}

/// Compares in a time that tells nothing but the lengths.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// The guard before every route but the open ones.
pub(crate) async fn check(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let (method, uri, headers) = (request.method(), request.uri(), request.headers());
    if app.auth.admits(headers) || app.auth.is_signed(method, uri) || app.auth.admits_trace(uri, headers) {
        return next.run(request).await;
    }
    refused()
}

fn refused() -> Response {
    let error = ApiError::new(StatusCode::UNAUTHORIZED, "a token is needed: send `Authorization: Bearer TOKEN`");
    ([(header::WWW_AUTHENTICATE, "Bearer")], error).into_response()
}

/// Routes of the session.
pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(begin, end))
}

/// The token, once, for a cookie.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Session {
    /// The server's token.
    token: String,
}

/// Gives a browser that knows the token a cookie, which opens everything.
#[utoipa::path(
    post, path = "/v1/session", tag = "session", request_body = Session, security(()),
    responses(
        (status = 204, description = "The cookie is set; none is needed where no token is"),
        (status = 400, description = "Malformed", body = ErrorBody),
        (status = 401, description = "Not the token", body = ErrorBody),
        (status = 403, description = "Another Host or Origin", body = ErrorBody),
        (status = 408, description = "The body did not come in time", body = ErrorBody),
        (status = 413, description = "More than 4 kB", body = ErrorBody),
        (status = 415, description = "No JSON", body = ErrorBody),
        (status = 422, description = "No token in it", body = ErrorBody),
        (status = 429, description = "Too many requests at once", body = ErrorBody, headers(("Retry-After" = u32, description = "Seconds"))),
    )
)]
async fn begin(State(app): State<Arc<App>>, headers: HeaderMap, Json(session): Json<Session>) -> Response {
    match &app.auth.0 {
        None => StatusCode::NO_CONTENT.into_response(),
        Some(_) if !app.auth.is_token(session.token.trim()) => refused(),
        Some(secrets) => (StatusCode::NO_CONTENT, cookie(&headers, &secrets.cookie, COOKIE_S)).into_response(),
    }
}

/// Takes the cookie away.
#[utoipa::path(
    delete, path = "/v1/session", tag = "session", security(()),
    responses(
        (status = 204, description = "The cookie is gone"),
        (status = 403, description = "Another Host or Origin", body = ErrorBody),
    )
)]
async fn end(headers: HeaderMap) -> Response {
    (StatusCode::NO_CONTENT, cookie(&headers, "", 0)).into_response()
}

/// Whether a proxy before us speaks TLS, as it says itself.
pub(crate) fn is_https(headers: &HeaderMap) -> bool {
    headers.get("x-forwarded-proto").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"https"))
}

fn cookie(headers: &HeaderMap, value: &str, seconds: u32) -> [(header::HeaderName, HeaderValue); 1] {
    let secure = if is_https(headers) { "; Secure" } else { "" };
    let text = format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    let text = HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    [(header::SET_COOKIE, text)]
}
