//! What can go wrong: at the start ([`enum@Error`]), and in an answer ([`ApiError`]).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use thiserror::Error as ThisError;

use crate::{media, search};

/// Why the server could not start or go on.
#[derive(Debug, ThisError)]
pub enum Error {
    /// The index cannot be opened.
    #[error(transparent)]
    Search(#[from] search::Error),
    /// The address is taken, or not this machine's.
    #[error("cannot listen on {listen}: {source}; name another with --listen ADDRESS:PORT")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// The system's word.
        source: std::io::Error,
    },
    /// Others could come in.
    #[error(
        "{listen} can be reached from other machines: set a token (REELSEEK_TOKEN, or --token-file FILE), or say --no-auth if everybody may search and see these videos"
    )]
    Open {
        /// The address.
        listen: SocketAddr,
    },
    /// The token cannot be used.
    #[error("the token is {found}: it must be of visible ASCII characters, as `openssl rand -hex 16` makes it")]
    Token {
        /// What is wrong with it.
        found: &'static str,
    },
    /// The file of the token cannot be read.
    #[error("{}: {source}", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// An origin or host that no browser could name.
    #[error("{flag} {found}: expected {expected}")]
    Name {
        /// The flag.
        flag: &'static str,
        /// What was given.
        found: String,
        /// What it takes.
        expected: &'static str,
    },
    /// Where the index should be is something else.
    #[error("{} is not a folder: --index (or REELSEEK_INDEX) names the folder of the index", path.display())]
    Index {
        /// What was named.
        path: PathBuf,
    },
    /// The description of the API cannot be written: a fault of ours.
    #[error("the API's document cannot be written: {0}")]
    Document(serde_json::Error),
    /// The system refused threads or sockets.
    #[error("serving ended: {0}")]
    Runtime(std::io::Error),
}

/// An answer that says what went wrong: `{"error": "..."}` with a status.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    retry_after_s: Option<u32>,
}

/// Its JSON.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ErrorBody {
    /// What was wrong, and what to do.
    pub(crate) error: String,
}

/// When who was sent away may ask again: a search is done in a fraction of it.
const BUSY_S: u32 = 1;
/// And when who asked for what the server has not yet: an index, or the end of what holds it up.
const UNREADY_S: u32 = 5;
/// The longest message, in characters: some repeat what was asked.
const MAX_MESSAGE: usize = 2000;
/// What is kept of the beginning of a longer one.
const MESSAGE_START: usize = 500;

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> ApiError {
        let retry_after_s = match status {
            StatusCode::TOO_MANY_REQUESTS => Some(BUSY_S),
            StatusCode::SERVICE_UNAVAILABLE => Some(UNREADY_S),
            _ => None,
        };
        ApiError { status, message: shortened(message.into()), retry_after_s }
    }

    /// With another word on when to ask again.
    pub(crate) fn after(self, wait: Duration) -> ApiError {
        ApiError { retry_after_s: u32::try_from(wait.as_secs()).ok(), ..self }
    }

    /// 400: what was asked cannot be understood.
    pub(crate) fn malformed(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, message)
    }

    /// 429: too much at once.
    pub(crate) fn busy(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, message)
    }

    /// 500 for a fault of ours; what it was goes to the log, since it may name files.
    pub(crate) fn internal(error: &dyn std::fmt::Display) -> ApiError {
        tracing::error!("{error}");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the server could not do this; its log says why")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(ErrorBody { error: self.message })).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// A message without its middle, if it is too long.
fn shortened(message: String) -> String {
    let length = message.chars().count();
    if length <= MAX_MESSAGE {
        return message;
    }
    let start: String = message.chars().take(MESSAGE_START).collect();
    let end: String = message.chars().skip(length - (MAX_MESSAGE - MESSAGE_START)).collect();
    format!("{start} ... {end}")
}

impl From<media::Error> for ApiError {
    fn from(error: media::Error) -> ApiError {
        let status = match &error {
            media::Error::UnknownFormat { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            media::Error::Picture { .. } => StatusCode::BAD_REQUEST,
            media::Error::PictureTooLarge { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            other => return ApiError::internal(other),
        };
        ApiError::new(status, error.to_string())
    }
}

impl From<reelseek_index::Error> for ApiError {
    fn from(error: reelseek_index::Error) -> ApiError {
        use reelseek_index::Error as Wrong;
        match &error {
            Wrong::Filter { .. } | Wrong::Argument { .. } | Wrong::Length { .. } | Wrong::NotFinite { .. } => {
                ApiError::malformed(error.to_string())
            }
            other => ApiError::internal(other),
        }
    }
}

impl From<search::Error> for ApiError {
    fn from(error: search::Error) -> ApiError {
        match error {
            search::Error::Media(error) => error.into(),
            search::Error::Index(error) => error.into(),
            other => ApiError::internal(&other),
        }
    }
}
