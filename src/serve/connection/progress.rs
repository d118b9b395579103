//! One connection: what it waits for, and when it last made progress.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::{Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::registry::Connections;
use crate::serve::limits::{EVICT_IDLE, EVICT_IDLE_MIN, PROGRESS_BYTES};
use crate::serve::observe::request::Peer;

/// One connection. It is in the extensions of each of its requests.
pub(crate) struct Connection {
    pub(super) id: u64,
    pub(super) peer: Peer,
    /// All connections.
    registry: Weak<Connections>,
    /// Number of requests with a complete head whose response is not written to its end.
    busy: AtomicUsize,
    /// Whether a request's body is arriving.
    receiving: AtomicBool,
    /// Whether a write waits for the client to read.
    write_pending: AtomicBool,
    /// Time of the last progress: the start or the end of a response, or enough bytes of a body.
    progress: Mutex<Instant>,
    /// Bytes of the body since the last progress.
    unmarked: AtomicUsize,
    /// Whether the current request body has made progress.
    progressed: AtomicBool,
    /// Responses that are complete and may still be in the write buffer.
    unflushed: AtomicUsize,
    /// Bytes that these responses reserve.
    unflushed_bytes: AtomicUsize,
    /// Notified when the connection is evicted.
    pub(super) evict: Notify,
    /// Whether the eviction also aborts a response.
    pub(super) abort: AtomicBool,
}

/// Classes of connections that may be evicted, in the order of eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum EvictionClass {
    Idle,
    StalledBody,
    /// The client does not read its response.
    StalledResponse,
    /// Idle for a short time: the next request may be about to arrive.
    NewlyIdle,
    /// The body has only begun to arrive.
    NewBody,
    /// The client has not read its response for a short time.
    NewlyStalledResponse,
}

impl EvictionClass {
    /// Whether the connection has been idle for a short time only.
    pub(super) fn is_new(self) -> bool {
        self >= EvictionClass::NewlyIdle
    }

    pub(super) fn is_response(self) -> bool {
        matches!(self, EvictionClass::StalledResponse | EvictionClass::NewlyStalledResponse)
    }
}

impl Connection {
    pub(super) fn new(id: u64, address: SocketAddr, registry: Weak<Connections>) -> Connection {
        Connection {
            id,
            peer: Peer { address, evicted: Arc::default() },
            registry,
            busy: AtomicUsize::new(0),
            receiving: AtomicBool::new(false),
            write_pending: AtomicBool::new(false),
            progress: Mutex::new(Instant::now()),
            unmarked: AtomicUsize::new(0),
            progressed: AtomicBool::new(false),
            unflushed: AtomicUsize::new(0),
            unflushed_bytes: AtomicUsize::new(0),
            evict: Notify::new(),
            abort: AtomicBool::new(false),
        }
    }

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

    pub(super) fn last_progress(&self) -> Instant {
        *self.progress.lock()
    }

    /// The class in which the connection may be evicted after this time without progress, or `None` if it
    /// must stay: its request is being answered, or its body makes progress.
    pub(super) fn eviction_class(&self, idle: Duration) -> Option<EvictionClass> {
        let is_new = idle < EVICT_IDLE;
        if idle < EVICT_IDLE_MIN {
            return None;
        }
        match (self.is_receiving(), self.is_busy()) {
            (false, false) if is_new => Some(EvictionClass::NewlyIdle),
            (false, false) => Some(EvictionClass::Idle),
            (true, _) if is_new => (!self.progressed.load(Ordering::Acquire)).then_some(EvictionClass::NewBody),
            (true, _) => Some(EvictionClass::StalledBody),
            (false, true) if !self.write_pending.load(Ordering::Acquire) => None,
            (false, true) if is_new => Some(EvictionClass::NewlyStalledResponse),
            (false, true) => Some(EvictionClass::StalledResponse),
        }
    }

    fn received(&self, bytes: usize) {
        if self.moved(bytes) {
            self.progressed.store(true, Ordering::Release);
        }
    }

    /// Counts bytes of a body; returns whether they are progress.
    fn moved(&self, bytes: usize) -> bool {
        let progress = self.unmarked.fetch_add(bytes, Ordering::AcqRel) + bytes >= PROGRESS_BYTES;
        if progress {
            self.mark_progress();
        }
        progress
    }

    pub(super) fn mark_progress(&self) {
        self.unmarked.store(0, Ordering::Release);
        *self.progress.lock() = Instant::now();
    }

    /// Records that the system accepted bytes of a response; `None` if it must wait for the client to read.
    pub(super) fn written(&self, bytes: Option<usize>) {
        self.write_pending.store(bytes.is_none(), Ordering::Release);
        self.moved(bytes.unwrap_or(0));
    }

    /// Records that the system has accepted all bytes of the write buffer.
    pub(super) fn flushed(&self) {
        let complete = self.unflushed.swap(0, Ordering::AcqRel);
        if complete > 0 {
            self.mark_progress();
            self.busy.fetch_sub(complete, Ordering::AcqRel);
        }
        let bytes = self.unflushed_bytes.swap(0, Ordering::AcqRel);
        if let Some(registry) = (bytes > 0).then(|| self.registry.upgrade()).flatten() {
            registry.release(self.id, bytes);
        }
    }

    /// Releases reserved bytes after the next flush: the end of a response may still be in the write buffer.
    pub(super) fn release_after_flush(&self, bytes: usize) {
        self.unflushed_bytes.fetch_add(bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
impl Connection {
    /// Moves the last progress to the past.
    pub(super) fn backdate(&self, by: Duration) {
        let earlier = self.last_progress().checked_sub(by).expect("the clock started earlier");
        *self.progress.lock() = earlier;
    }

    pub(super) fn is_evicted(&self) -> bool {
        self.peer.evicted.load(Ordering::Acquire)
    }
}

/// Marks a connection busy while it lives, and from then on until the next flush.
pub(super) struct BusyGuard(Arc<Connection>);

impl BusyGuard {
    pub(super) fn new(connection: &Arc<Connection>) -> BusyGuard {
        connection.busy.fetch_add(1, Ordering::AcqRel);
        BusyGuard(connection.clone())
    }
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.0.unflushed.fetch_add(1, Ordering::AcqRel);
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
