//! Checks the token, which a request carries as a header, as the cookie of a session or as the signature of a
//! link.

use std::path::Path;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap};
use axum::http::{Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use crate::base::files;
use crate::serve::error::{ApiError, Error};
use crate::serve::limits::{MAX_TOKEN_FILE_BYTES, SHORT_TOKEN};

/// Name of the session cookie.
pub(crate) const COOKIE: &str = "reelseek";
/// Hexadecimal digits of a link's signature: 128 bits.
const SIGNATURE_DIGITS: usize = 32;
/// Paths of signed links, and their signed parameters. Other parameters have no effect and are not signed,
/// because clients of trace.moe append `&size=l` or `&mute`.
const MEDIA: [(&str, &[&str]); 3] =
    [("/v1/thumbnail", &["video", "at", "width"]), ("/v1/preview", &["video", "from", "to"]), ("/v1/media/", &[])];
/// Paths for clients of trace.moe, and the header in which they send the token as their key. They may also
/// send it as the query parameter `key`.
const TRACE: [&str; 2] = ["/search", "/me"];
pub(crate) const TRACE_KEY: &str = "x-trace-key";

/// The signed parameters of a media path; `None` for any other path. Pages embed media as pictures and
/// videos, and a browser requests these without the header Authorization.
fn signed_parameters(path: &str) -> Option<&'static [&'static str]> {
    let matches = |media: &str| path == media || media.ends_with('/') && path.starts_with(media);
    MEDIA.iter().find(|(media, _)| matches(media)).map(|(_, parameters)| *parameters)
}

pub(crate) fn is_media(path: &str) -> bool {
    signed_parameters(path).is_some()
}

/// The names and values of a query string, decoded as handlers decode them.
fn decode(query: &str) -> Vec<(String, String)> {
    serde_urlencoded::from_str(query).unwrap_or_default()
}

/// The signed text of a link: its path and its signed parameters.
fn signed_text(path: &str, query: &str) -> String {
    let known = signed_parameters(path).unwrap_or_default();
    let is_signed = |pair: &&str| decode(pair).iter().any(|(name, _)| known.contains(&name.as_str()));
    let signed: Vec<&str> = query.split('&').filter(is_signed).collect();
    if signed.is_empty() { path.to_owned() } else { format!("{path}?{}", signed.join("&")) }
}

/// The secret that requests must carry, if the server has one.
#[derive(Clone)]
pub struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// A token of this text, without surrounding white space.
    ///
    /// # Errors
    /// [`Error::Token`] if it is empty, or has characters that a header cannot carry.
    pub fn new(text: &str) -> Result<Token, Error> {
        let text = text.trim();
        if text.is_empty() {
            return Err(Error::Token { found: "empty" });
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::Token { found: "not visible ASCII" });
        }
        Ok(Token(text.to_owned()))
    }

    /// Reads a token from a file.
    ///
    /// # Errors
    /// [`Error::TokenFile`] if the file cannot be read, else as [`Token::new`].
    pub fn read(path: &Path) -> Result<Token, Error> {
        let wrong = |source| Error::TokenFile { path: path.to_owned(), source };
        let bytes = files::read(path, MAX_TOKEN_FILE_BYTES).map_err(wrong)?;
        Token::new(&String::from_utf8_lossy(&bytes))
    }

    /// Whether the token is short enough to be guessed.
    pub(crate) fn is_short(&self) -> bool {
        self.0.len() < SHORT_TOKEN
    }
}

/// Checks requests against hashes of the token. Every request is admitted if there is no token.
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

    /// Whether this is the token, compared in constant time.
    fn is_token(&self, given: &str) -> bool {
        self.0.as_ref().is_none_or(|s| is_equal(blake3::hash(given.as_bytes()).as_bytes(), s.token.as_bytes()))
    }

    /// The value of the session cookie for a token; `None` if the server needs no token.
    ///
    /// # Errors
    /// 401 if it is not the token.
    pub(crate) fn session(&self, token: &str) -> Result<Option<&str>, ApiError> {
        match &self.0 {
            None => Ok(None),
            Some(_) if !self.is_token(token.trim()) => Err(ApiError::unauthorized()),
            Some(secrets) => Ok(Some(&secrets.cookie)),
        }
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(secrets) = &self.0 else { return true };
        let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        // Other schemes are meant for a reverse proxy.
        if let Some((scheme, token)) = authorization.and_then(|value| value.split_once(' '))
            && scheme.eq_ignore_ascii_case("bearer")
        {
            return self.is_token(token.trim());
        }
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.any(|(name, value)| name == COOKIE && is_equal(value.as_bytes(), secrets.cookie.as_bytes()))
    }

    /// Whether a client of trace.moe sends the token as its key.
    fn admits_trace(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        if !TRACE.contains(&uri.path()) {
            return false;
        }
        let header = headers.get(TRACE_KEY).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let parameters = decode(uri.query().unwrap_or_default()).into_iter();
        let parameters = parameters.filter(|(name, _)| name == "key").map(|(_, value)| value);
        header.into_iter().chain(parameters).any(|key| self.is_token(key.trim()))
    }

    /// Signs a link if there is a token, so that the link alone admits a request.
    pub(crate) fn sign(&self, path_and_query: String) -> String {
        let Some(secrets) = &self.0 else { return path_and_query };
        let separator = if path_and_query.contains('?') { '&' } else { '?' };
        let (path, query) = path_and_query.split_once('?').unwrap_or((&path_and_query, ""));
        let key = secrets.signature(&signed_text(path, query));
        format!("{path_and_query}{separator}key={key}")
    }

    /// Whether the request is for a signed link.
    pub(crate) fn is_signed(&self, method: &Method, uri: &Uri) -> bool {
        let (Some(secrets), Some(query)) = (&self.0, uri.query()) else { return false };
        if !matches!(*method, Method::GET | Method::HEAD) || !is_media(uri.path()) {
            return false;
        }
        let keys: Vec<&str> = query.split('&').filter_map(|pair| pair.strip_prefix("key=")).collect();
        let [key] = keys[..] else { return false };
        is_equal(key.as_bytes(), secrets.signature(&signed_text(uri.path(), query)).as_bytes())
    }
}

impl Secrets {
    fn signature(&self, link: &str) -> String {
        let mut hex = blake3::keyed_hash(&self.link_key, link.as_bytes()).to_hex().to_string();
        hex.truncate(SIGNATURE_DIGITS);
        hex
    }
}

/// Compares in a time that depends on the lengths only.
fn is_equal(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// Middleware of every route that needs the token.
pub(crate) async fn check(State(auth): State<Arc<Auth>>, request: Request, next: Next) -> Response {
    let (method, uri, headers) = (request.method(), request.uri(), request.headers());
    if auth.admits(headers) || auth.is_signed(method, uri) || auth.admits_trace(uri, headers) {
        return next.run(request).await;
    }
    ApiError::unauthorized().into_response()
}

/// Whether the client uses TLS to a reverse proxy, according to the proxy's header.
pub(crate) fn is_https(headers: &HeaderMap) -> bool {
    headers.get("x-forwarded-proto").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"https"))
}
