//! A response that keeps a value, such as a counter of open requests, until its body is sent or dropped.

use axum::body::{Body, HttpBody};
use axum::response::Response;
use http_body_util::BodyExt;

/// Keeps `held` until the response's body is sent. A response without a body drops it at once.
pub(crate) fn hold<T: Send + 'static>(response: Response, held: T) -> Response {
    response.map(|body| {
        if body.is_end_stream() {
            return body;
        }
        // The closure owns `held`. `map_err` keeps the length of the body; without a known length, the
        // response would be sent in chunks.
        Body::new(body.map_err(move |error| {
            let _ = &held;
            error
        }))
    })
}
