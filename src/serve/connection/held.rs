//! A body that holds something until it is sent, or given up: a count, a snapshot.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};

/// The body, and what it holds.
struct Holding<T> {
    body: Body,
    _held: T,
}

/// Lets the body of an answer hold something; one without a body lets it go at once.
pub(crate) fn hold<T: Unpin + Send + 'static>(response: Response, held: T) -> Response {
    response.map(|body| if body.is_end_stream() { body } else { Body::new(Holding { body, _held: held }) })
}

impl<T: Unpin> HttpBody for Holding<T> {
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

    // Else an answer of a known length would go out in chunks.
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
