//! The open connections, and the choice of the one to evict when the limit is reached.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::{Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::sync::Notify;

use crate::serve::limits::{EVICT_IDLE, EVICT_IDLE_MIN, PROGRESS_BYTES};
use crate::serve::observe::request::Peer;

/// One connection.
pub(super) struct Connection {
    /// Number of requests with a complete head and an incomplete response.
    busy: AtomicUsize,
    /// Whether a request's body is arriving.
    receiving: AtomicBool,
    /// Time of the last progress: the end of a response, or enough bytes of a body.
    progress: Mutex<Instant>,
    /// Bytes of the body since the last progress.
    unmarked: AtomicUsize,
    /// Whether the current body has made progress.
    progressed: AtomicBool,
    /// Notified when the connection is evicted.
    pub(super) evict: Notify,
    pub(super) peer: Peer,
}

/// Classes of connections that may be evicted, in the order of eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum EvictionClass {
    Idle,
    StalledBody,
    /// Idle for a short time: the next request may be about to arrive.
    NewlyIdle,
    /// The body has only begun to arrive.
    NewBody,
}

impl Connection {
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire) > 0
    }

    fn is_receiving(&self) -> bool {
        self.receiving.load(Ordering::Acquire)
    }

    /// Whether a complete request is being answered.
    pub(super) fn is_responding(&self) -> bool {
        self.is_busy() && !self.is_receiving()
    }

    /// The place in the order of eviction, or `None` if the connection must stay because a request is being
    /// answered or its body makes progress.
    fn eviction_order(&self) -> Option<(EvictionClass, Instant)> {
        let progress = *self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = progress.elapsed();
        let class = match (self.is_receiving(), self.is_busy()) {
            (false, false) if idle >= EVICT_IDLE => EvictionClass::Idle,
            (true, _) if idle >= EVICT_IDLE => EvictionClass::StalledBody,
            (false, false) if idle >= EVICT_IDLE_MIN => EvictionClass::NewlyIdle,
            (true, _) if idle >= EVICT_IDLE_MIN && !self.progressed.load(Ordering::Acquire) => EvictionClass::NewBody,
            _ => return None,
        };
        Some((class, progress))
    }

    fn received(&self, bytes: usize) {
        if self.unmarked.fetch_add(bytes, Ordering::AcqRel) + bytes >= PROGRESS_BYTES {
            self.progressed.store(true, Ordering::Release);
            self.mark_progress();
        }
    }

    fn mark_progress(&self) {
        self.unmarked.store(0, Ordering::Release);
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// Marks a connection busy while it lives.
pub(super) struct BusyGuard(Arc<Connection>);

impl BusyGuard {
    pub(super) fn new(connection: &Arc<Connection>) -> BusyGuard {
        connection.busy.fetch_add(1, Ordering::AcqRel);
        BusyGuard(connection.clone())
    }
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.0.mark_progress();
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Marks a connection as receiving while it lives.
struct ReceivingGuard(Arc<Connection>);

impl ReceivingGuard {
    fn new(connection: &Arc<Connection>) -> ReceivingGuard {
        connection.mark_progress();
        connection.progressed.store(false, Ordering::Release);
        connection.receiving.store(true, Ordering::Release);
        ReceivingGuard(connection.clone())
    }
}

impl Drop for ReceivingGuard {
    fn drop(&mut self) {
        self.0.receiving.store(false, Ordering::Release);
    }
}

/// The body of a request. It reports its progress to its connection.
pub(super) struct TrackedBody {
    body: Incoming,
    receiving: Option<ReceivingGuard>,
}

impl TrackedBody {
    pub(super) fn new(body: Incoming, connection: &Arc<Connection>) -> TrackedBody {
        let receiving = (!body.is_end_stream()).then(|| ReceivingGuard::new(connection));
        TrackedBody { body, receiving }
    }
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let (Some(Ok(frame)), Some(receiving)) = (&frame, &self.receiving) {
            receiving.0.received(frame.data_ref().map_or(0, Bytes::len));
        }
        if !matches!(frame, Some(Ok(_))) || self.body.is_end_stream() {
            self.receiving = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// All open connections.
#[derive(Default)]
pub(super) struct Connections(Mutex<HashMap<u64, Arc<Connection>>>);

impl Connections {
    pub(super) fn open(&self, id: u64, address: SocketAddr) -> Arc<Connection> {
        let connection = Arc::new(Connection {
            busy: AtomicUsize::new(0),
            receiving: AtomicBool::new(false),
            progress: Mutex::new(Instant::now()),
            unmarked: AtomicUsize::new(0),
            progressed: AtomicBool::new(false),
            evict: Notify::new(),
            peer: Peer { address, evicted: Arc::default() },
        });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, connection.clone());
        connection
    }

    pub(super) fn close(&self, id: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Evicts one connection; returns whether there was one.
    pub(super) fn evict(&self) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let candidates = all.iter().filter_map(|(id, connection)| Some((connection.eviction_order()?, *id)));
        let Some((_, id)) = candidates.min() else { return false };
        // Removed here, so that it is notified once.
        all.remove(&id).is_some_and(|connection| {
            connection.peer.evicted.store(true, Ordering::Release);
            connection.evict.notify_one();
            true
        })
    }
}
