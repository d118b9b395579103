//! `/v1/session`: exchanges the token for a cookie, and deletes the cookie.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::{self, HeaderMap};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::serve::error::{ApiError, ErrorBody};
use crate::serve::guard::auth::{Auth, COOKIE, is_https};
use crate::serve::limits::SESSION_S;

/// The token, in exchange for a cookie.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SessionRequest {
    /// The server's token.
    token: String,
}

/// Sets a cookie that replaces the token in a browser.
#[utoipa::path(
    post, path = "/v1/session", tag = "session", request_body = SessionRequest, security(()),
    responses(
        (status = 204, description = "The cookie is set, unless the server needs no token"),
        (status = 401, description = "Not the token", body = ErrorBody),
        (status = 422, description = "No token in the JSON", body = ErrorBody),
    )
)]
pub(crate) async fn create_session(
    State(auth): State<Arc<Auth>>,
    headers: HeaderMap,
    Json(session): Json<SessionRequest>,
) -> Result<Response, ApiError> {
    Ok(match auth.session(&session.token)? {
        None => StatusCode::NO_CONTENT.into_response(),
        Some(value) => (StatusCode::NO_CONTENT, cookie(&headers, value, SESSION_S)).into_response(),
    })
}

/// Deletes the cookie.
#[utoipa::path(
    delete, path = "/v1/session", tag = "session", security(()),
    responses(
        (status = 204, description = "The cookie is deleted"),
    )
)]
pub(crate) async fn delete_session(headers: HeaderMap) -> Response {
    (StatusCode::NO_CONTENT, cookie(&headers, "", 0)).into_response()
}

fn cookie(headers: &HeaderMap, value: &str, seconds: u32) -> [(HeaderName, HeaderValue); 1] {
    let secure = if is_https(headers) { "; Secure" } else { "" };
    let text = format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    let text = HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    [(header::SET_COOKIE, text)]
}
