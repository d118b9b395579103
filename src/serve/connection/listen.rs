//! Connections: how many there may be, how long each may dawdle, and how all of them end.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Sleep;
use tower::ServiceExt;

use crate::serve::connection::held::hold;
use crate::serve::observe::metrics::Metrics;

/// Longest time for the head of a request, and between two requests of a connection.
const HEADER_TIME: Duration = Duration::from_secs(15);
/// The largest head: many cookies, and the longest address.
const HEAD_BYTES: usize = 64 << 10;
/// Longest time in which a client takes nothing of an answer: players that pause come back with a range.
const WRITE_STALL: Duration = Duration::from_secs(60);
/// Connections at once. An idle one costs a few kilobytes and a file descriptor; when all are taken, the one that has been idle longest goes,
/// or else the one whose body has not come for longest.
pub(crate) const MAX_CONNECTIONS: usize = 4096;
/// File descriptors that are kept for the index, videos and ffmpeg.
const OTHER_FILES: u64 = 256;
/// Between attempts to accept while the system has no file descriptor left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// How long connections are waited for that have said nothing when the server stops: a request may be under way.
const LAST_WORD: Duration = Duration::from_millis(300);
/// Longest wait for requests and an indexing job at the end, together: below the ten seconds after which Docker kills.
pub(crate) const DRAIN: Duration = Duration::from_secs(8);
/// Longest wait for a place before it is looked again whether a connection may go for it.
const EVICT_AGAIN: Duration = Duration::from_millis(20);
/// How long a connection may be idle, or sending the body of a request, before it may go for others.
const FRESH: Duration = Duration::from_secs(1);
/// How long it may be idle, or bring too little of a body to count, where only such as are younger are left: the head of a request must come within that.
const NEW: Duration = Duration::from_millis(100);

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// Whether the connection was asked to leave for another.
    pub(crate) sent_away: Arc<AtomicBool>,
}

/// One connection.
struct Connection {
    /// Requests that are being answered, to the last byte of the answer; one whose head is still coming does not count.
    busy: AtomicUsize,
    /// Whether a request's body is still coming.
    receives: AtomicBool,
    /// When it became idle, or the last bytes of a body came that are worth a mark.
    since: Mutex<Instant>,
    /// Bytes of the body since then.
    unmarked: AtomicUsize,
    /// Whether the body has brought what is worth a mark.
    proven: AtomicBool,
    leave: Notify,
    peer: Peer,
}

impl Connection {
    fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire) > 0
    }

    fn receives(&self) -> bool {
        self.receives.load(Ordering::Acquire)
    }

    fn answers(&self) -> bool {
        self.is_busy() && !self.receives()
    }

    /// If it may go for another: its place in the order in which they go. Those that are idle go first, then those whose bodies do not come, then those that
    /// may be about to ask, and last those whose bodies have only begun. Those whose bodies come stay.
    fn order(&self) -> Option<(u8, Instant)> {
        let since = self.since();
        let age = since.elapsed();
        let class = match (self.receives(), self.is_busy()) {
            (false, false) if age >= FRESH => 0,
            (true, _) if age >= FRESH => 1,
            (false, false) if age >= NEW => 2,
            (true, _) if age >= NEW && !self.proven.load(Ordering::Acquire) => 3,
            _ => return None,
        };
        Some((class, since))
    }

    /// So many bytes of a body came.
    fn came(&self, bytes: usize) {
        if self.unmarked.fetch_add(bytes, Ordering::AcqRel) + bytes >= PROGRESS_BYTES {
            self.proven.store(true, Ordering::Release);
            self.mark();
        }
    }

    fn mark(&self) {
        self.unmarked.store(0, Ordering::Release);
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn since(&self) -> Instant {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is being answered.
struct Busy(Arc<Connection>);

impl Busy {
    fn new(connection: &Arc<Connection>) -> Busy {
        connection.busy.fetch_add(1, Ordering::AcqRel);
        Busy(connection.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.mark();
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A request whose body is still coming.
struct Receiving(Arc<Connection>);

impl Receiving {
    fn new(connection: &Arc<Connection>) -> Receiving {
        connection.mark();
        connection.proven.store(false, Ordering::Release);
        connection.receives.store(true, Ordering::Release);
        Receiving(connection.clone())
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.receives.store(false, Ordering::Release);
    }
}

/// A request's body, whose connection knows whether it is still coming.
struct Coming {
    body: Incoming,
    receiving: Option<Receiving>,
}

/// A body that brings so much within a second is coming: half of what it must bring on the whole.
const PROGRESS_BYTES: usize = 16_000;

impl Coming {
    fn new(body: Incoming, connection: &Arc<Connection>) -> Coming {
        let receiving = (!body.is_end_stream()).then(|| Receiving::new(connection));
        Coming { body, receiving }
    }
}

impl HttpBody for Coming {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let (Some(Ok(frame)), Some(receiving)) = (&frame, &self.receiving) {
            receiving.0.came(frame.data_ref().map_or(0, Bytes::len));
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

/// All that are open.
#[derive(Default)]
struct Connections(Mutex<HashMap<u64, Arc<Connection>>>);

impl Connections {
    fn open(&self, number: u64, address: SocketAddr) -> Arc<Connection> {
        let connection = Arc::new(Connection {
            busy: AtomicUsize::new(0),
            receives: AtomicBool::new(false),
            since: Mutex::new(Instant::now()),
            unmarked: AtomicUsize::new(0),
            proven: AtomicBool::new(false),
            leave: Notify::new(),
            peer: Peer { address, sent_away: Arc::default() },
        });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(number, connection.clone());
        connection
    }

    fn close(&self, number: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }

    /// Asks the one to leave that has been idle longest, or else whose body has not come for longest; tells whether there is one.
    fn evict(&self) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let may_go = all.iter().filter_map(|(number, connection)| Some((connection.order()?, *number)));
        let Some((_, number)) = may_go.min() else { return false };
        // Forgotten here, so that it is asked once.
        all.remove(&number).is_some_and(|connection| {
            connection.peer.sent_away.store(true, Ordering::Release);
            connection.leave.notify_one();
            true
        })
    }
}

/// Raises the limit of file descriptors as far as the system lets, and tells how many connections fit.
pub(crate) fn room() -> usize {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        let wanted = MAX_CONNECTIONS as u64 + OTHER_FILES;
        if limit.current.is_some_and(|current| current < wanted) {
            let before = limit;
            limit.current = Some(limit.maximum.map_or(wanted, |maximum| maximum.min(wanted)));
            if setrlimit(Resource::Nofile, limit).is_err() {
                limit = before;
            }
        }
        let files = limit.current.unwrap_or(wanted).saturating_sub(OTHER_FILES).max(OTHER_FILES / 4);
        usize::try_from(files).unwrap_or(MAX_CONNECTIONS).min(MAX_CONNECTIONS)
    }
    #[cfg(not(unix))]
    MAX_CONNECTIONS
}

/// Accepts connections and serves them until `stop` says so; then lets those end that are being answered, for at most `drain`.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    metrics: Arc<Metrics>,
    room: usize,
    stop: watch::Receiver<bool>,
    drain: Duration,
) {
    let places = Arc::new(Semaphore::new(room));
    let connections = Arc::new(Connections::default());
    let mut stopped = stop.clone();
    let stopped = async move {
        // An error: whoever could say stop has gone.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let evict = || {
        if connections.evict() {
            metrics.evicted.inc();
        }
    };
    let accept = async {
        for number in 0u64.. {
            let (stream, address) = loop {
                match listener.accept().await {
                    Ok(accepted) => break accepted,
                    // The client left before it was let in; or no file descriptor is left, and one that is idle may have one.
                    Err(error) if is_passing(&error) => {}
                    Err(error) => {
                        tracing::warn!("no connection can be accepted: {error}");
                        evict();
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                    }
                }
            };
            // Nobody goes before somebody is there who takes the place.
            let Some(place) = place(&places, evict).await else { return };
            let connection = connections.open(number, address);
            let (router, metrics, connections, stop) =
                (router.clone(), metrics.clone(), connections.clone(), stop.clone());
            tokio::spawn(async move {
                metrics.connections.inc();
                talk(stream, router, connection, stop).await;
                metrics.connections.dec();
                connections.close(number);
                drop(place);
            });
        }
    };
    tokio::select! {
        () = stopped => {}
        () = accept => {}
    }
    drop(listener);
    let all = u32::try_from(room).unwrap_or(u32::MAX);
    if tokio::time::timeout(drain, places.acquire_many(all)).await.is_err() {
        tracing::warn!("requests were cut off that took longer than {} seconds to end", drain.as_secs());
    }
}

/// A place for one connection more. While there is none, others are asked to leave.
async fn place(places: &Arc<Semaphore>, evict: impl Fn()) -> Option<OwnedSemaphorePermit> {
    if let Ok(place) = places.clone().try_acquire_owned() {
        return Some(place);
    }
    loop {
        evict();
        if let Ok(place) = tokio::time::timeout(EVICT_AGAIN, places.clone().acquire_owned()).await {
            return place.ok();
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// Serves one connection to its end.
async fn talk(stream: TcpStream, router: Router, connection: Arc<Connection>, mut stop: watch::Receiver<bool>) {
    // Answers are written whole: waiting for more would only delay them.
    let _ = stream.set_nodelay(true);
    let own = connection.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let busy = Busy::new(&own);
        let router = router.clone();
        let request = request.map(|body| Coming::new(body, &own));
        let peer = own.peer.clone();
        async move {
            let mut request: Request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            router.oneshot(request).await.map(|response| hold(response, busy))
        }
    });
    let io = TokioIo::new(Patient { stream, stalled: None });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(io, service);
    let mut serving = pin!(serving);
    tokio::select! {
        // Broken connections are the client's affair.
        _ = serving.as_mut() => return,
        // If all of a request has come since it was chosen, that is answered.
        () = connection.leave.notified() => if !connection.answers() { return },
        _ = stop.wait_for(|stop| *stop) => {}
    }
    serving.as_mut().graceful_shutdown();
    loop {
        match tokio::time::timeout(LAST_WORD, serving.as_mut()).await {
            Ok(_) => return,
            Err(_) if !connection.is_busy() => return,
            Err(_) => {}
        }
    }
}

/// A stream that gives up when the other side takes nothing for too long.
struct Patient {
    stream: TcpStream,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    /// What a write gives; an error if it has been waiting for too long.
    fn watch<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_STALL)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
