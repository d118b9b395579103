//! A response body that keeps a value, such as a counter of open requests, until the body is sent or dropped.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};

struct HeldBody<T> {
    body: Body,
    _held: T,
}

/// Keeps `held` until the response's body is sent. A response without a body drops it at once.
pub(crate) fn hold<T: Unpin + Send + 'static>(response: Response, held: T) -> Response {
    response.map(|body| if body.is_end_stream() { body } else { Body::new(HeldBody { body, _held: held }) })
}

impl<T: Unpin> HttpBody for HeldBody<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    // Without it, a response of known length would be sent in chunks.
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
