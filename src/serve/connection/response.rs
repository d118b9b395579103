//! Counts the memory of responses from their creation until the client has read them.

use std::sync::Arc;

use axum::body::HttpBody;
use axum::extract::{Request, State};
use axum::http::Extensions;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::progress::Connection;
use super::registry::Connections;
use crate::serve::error::ApiError;
use crate::serve::observe::held::hold;

/// Memory of a response whose body is not all in memory, in bytes. It is an extension of the response.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamedMemory(pub(crate) usize);

/// Bytes of a response in the budget. After the drop, they are returned at the next flush of the connection.
/// Without a connection, as in tests of the router, nothing is counted.
pub(crate) struct ResponseReservation {
    owner: Option<(Arc<Connections>, Arc<Connection>)>,
    bytes: usize,
}

impl ResponseReservation {
    /// A reservation of 0 bytes for the connection of a request with these extensions.
    pub(crate) fn new(connections: &Arc<Connections>, request: &Extensions) -> ResponseReservation {
        let connection = request.get::<Arc<Connection>>().cloned();
        ResponseReservation { owner: connection.map(|connection| (connections.clone(), connection)), bytes: 0 }
    }

    /// Reserves more bytes. If the budget is exhausted, clients that do not read their responses are evicted.
    ///
    /// # Errors
    /// 429 if that does not suffice for a large response.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        if let Some((connections, connection)) = &self.owner {
            connections.reserve(connection.id, bytes)?;
            self.bytes += bytes;
        }
        Ok(())
    }
}

impl Drop for ResponseReservation {
    fn drop(&mut self) {
        if let Some((_, connection)) = &self.owner {
            connection.release_after_flush(self.bytes);
        }
    }
}

/// Middleware that reserves the memory of each response, and replaces a response that exceeds the budget.
pub(crate) async fn count(State(connections): State<Arc<Connections>>, request: Request, next: Next) -> Response {
    let mut reservation = ResponseReservation::new(&connections, request.extensions());
    let response = next.run(request).await;
    if response.body().is_end_stream() {
        return response;
    }
    let in_memory = || usize::try_from(response.body().size_hint().lower()).unwrap_or(usize::MAX);
    let streamed = response.extensions().get::<StreamedMemory>().map(|StreamedMemory(bytes)| *bytes);
    match reservation.grow(streamed.unwrap_or_else(in_memory)) {
        Ok(()) => hold(response, reservation),
        Err(error) => error.into_response(),
    }
}
