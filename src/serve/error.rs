//! What can go wrong: at the start ([`enum@Error`]), and in an answer ([`ApiError`]).

use std::net::SocketAddr;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use thiserror::Error as ThisError;

use crate::search;

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
    /// The system refused threads or sockets.
    #[error("serving ended: {0}")]
    Runtime(std::io::Error),
}

/// An answer that says what went wrong: `{"error": "..."}` with a status.
#[derive(Debug, Clone)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

/// Its JSON.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct ErrorBody {
    /// What was wrong, and what to do.
    error: String,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> ApiError {
        ApiError { status, message: message.into() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { error: self.message })).into_response()
    }
}

impl From<search::Error> for ApiError {
    fn from(error: search::Error) -> ApiError {
        let status = match &error {
            search::Error::Media(_) => StatusCode::UNPROCESSABLE_ENTITY,
            search::Error::Index(reelseek_index::Error::Filter { .. } | reelseek_index::Error::Argument { .. }) => {
                StatusCode::BAD_REQUEST
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        ApiError::new(status, error.to_string())
    }
}
