//! Errors at the start of the server ([`enum@Error`]) and of a request ([`ApiError`]).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::Json;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::limits::{BUSY_RETRY_S, MAX_MESSAGE, MESSAGE_START, UNREADY_RETRY_S};
use crate::collection;

/// Status of a request whose client closed the connection before the response: 499, as in nginx.
pub(crate) const CLIENT_LEFT: u16 = 499;

/// Why the server could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The index cannot be opened.
    #[error(transparent)]
    Collection(#[from] collection::Error),
    /// The address is in use, or belongs to another machine.
    #[error("cannot listen on {listen}: {source}; name another address with --listen ADDRESS:PORT")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
    /// The server would be open to the network.
    #[error(
        "{listen} can be reached from other machines: set a token (REELSEEK_TOKEN or --token-file FILE), or let everybody search and watch these videos with --no-auth"
    )]
    Open {
        /// The address.
        listen: SocketAddr,
    },
    /// The token cannot be used.
    #[error("the token is {found}: expected visible ASCII characters, such as `openssl rand -hex 16` prints")]
    Token {
        /// The fault of the token.
        found: &'static str,
    },
    /// The file of the token cannot be read.
    #[error("{}: {source}", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A host name that no browser sends.
    #[error("--allow-host {found}: expected a name or an address without a port, such as videos.example.org")]
    Host {
        /// The name.
        found: String,
    },
    /// An origin that no browser sends.
    #[error("--cors {found}: expected an origin as a browser sends it, such as https://example.org")]
    Origin {
        /// The origin.
        found: String,
    },
    /// There is no index, and no folder that the server may index.
    #[error(
        "there is no index at {}: make one with `reelseek index FOLDER`, name another with --index or REELSEEK_INDEX, name folders that the page may index, or start with --await-index",
        path.display()
    )]
    NoIndex {
        /// The folder.
        path: PathBuf,
    },
    /// A folder of videos cannot be read.
    #[error("{}: expected a folder of videos: {found}", path.display())]
    Library {
        /// The path.
        path: PathBuf,
        /// The fault of the path.
        found: String,
    },
    /// The OpenAPI document cannot be written, which is a bug.
    #[error("cannot write the OpenAPI document: {0}")]
    Document(serde_json::Error),
    /// The system refused threads, sockets or signal handlers.
    #[error("cannot run the server: {0}")]
    Runtime(std::io::Error),
}

/// An error response: a status and `{"error": "..."}`.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    retry_after_s: Option<u32>,
}

/// The JSON of an error.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ErrorBody {
    /// The fault, and if possible how to correct it.
    pub(crate) error: String,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> ApiError {
        let retry_after_s = match status {
            StatusCode::TOO_MANY_REQUESTS => Some(BUSY_RETRY_S),
            StatusCode::SERVICE_UNAVAILABLE => Some(UNREADY_RETRY_S),
            _ => None,
        };
        ApiError { status, message: shorten(message.into()), retry_after_s }
    }

    /// Sets another `Retry-After`.
    pub(crate) fn retry_after(self, wait: Duration) -> ApiError {
        ApiError { retry_after_s: u32::try_from(wait.as_secs()).ok(), ..self }
    }

    /// 400: the request is malformed.
    pub(crate) fn malformed(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, message)
    }

    /// 401: the token is missing or wrong.
    pub(crate) fn unauthorized() -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, "a token is needed: send `Authorization: Bearer TOKEN`")
    }

    /// 403: the server does not allow the request.
    pub(crate) fn forbidden(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::FORBIDDEN, message)
    }

    /// 429: too many requests.
    pub(crate) fn busy(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, message)
    }

    /// 503: the request is not possible now.
    pub(crate) fn unavailable(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// 500. The error is logged and not sent, since it may contain paths.
    pub(crate) fn internal(error: &dyn std::fmt::Display) -> ApiError {
        tracing::error!("{error}");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error: see the server's log")
    }

    /// 500 after a panic, which the panic hook has logged.
    pub(crate) fn panicked() -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the server failed at this request: see its log")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(ErrorBody { error: self.message })).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Cuts the middle out of a message that is too long.
fn shorten(message: String) -> String {
    let length = message.chars().count();
    if length <= MAX_MESSAGE {
        return message;
    }
    let start: String = message.chars().take(MESSAGE_START).collect();
    let end: String = message.chars().skip(length - (MAX_MESSAGE - MESSAGE_START)).collect();
    format!("{start} ... {end}")
}
