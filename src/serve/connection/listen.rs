//! Accepts connections, serves each to its end, and drains them at shutdown.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower::ServiceExt;

use super::progress::{BusyGuard, Connection, TrackedBody};
use super::registry::Connections;
use super::write_timeout::WriteTimeoutStream;
use crate::serve::limits::{
    ACCEPT_LOG, ACCEPT_RETRY, EVICT_RETRY, HEAD_TIME, IDLE_CLOSE, MAX_CONNECTIONS, MAX_HEAD_BYTES,
};
use crate::serve::observe::held::hold;
use crate::serve::observe::metrics::Metrics;

/// Raises the process's limit of file descriptors as far as the system allows; returns the number of
/// connections that fit.
fn connection_capacity() -> usize {
    #[cfg(unix)]
    {
        use crate::serve::limits::RESERVED_FILES;
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        let wanted = MAX_CONNECTIONS as u64 + RESERVED_FILES;
        if limit.current.is_some_and(|current| current < wanted) {
            let before = limit;
            limit.current = Some(limit.maximum.map_or(wanted, |maximum| maximum.min(wanted)));
            if setrlimit(Resource::Nofile, limit).is_err() {
                limit = before;
            }
        }
        let files = limit.current.unwrap_or(wanted).saturating_sub(RESERVED_FILES).max(RESERVED_FILES / 4);
        usize::try_from(files).unwrap_or(MAX_CONNECTIONS).min(MAX_CONNECTIONS)
    }
    // On other systems file descriptors do not limit the number of sockets.
    #[cfg(not(unix))]
    MAX_CONNECTIONS
}

/// Failed attempts to accept a connection. A message for each would fill the log.
#[derive(Default)]
struct AcceptFailures {
    count: u64,
    logged: Option<Instant>,
}

impl AcceptFailures {
    fn add(&mut self, error: &io::Error) {
        self.count += 1;
        if self.logged.is_none_or(|logged| logged.elapsed() >= ACCEPT_LOG) {
            tracing::warn!(attempts = self.count, "cannot accept a connection: {error}");
            (self.count, self.logged) = (0, Some(Instant::now()));
        }
    }
}

/// Serves connections until `stop` becomes true, then waits at most `drain` for the requests in progress.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    connections: Arc<Connections>,
    metrics: Arc<Metrics>,
    stop: watch::Receiver<bool>,
    drain: Duration,
) {
    let capacity = connection_capacity();
    let permits = Arc::new(Semaphore::new(capacity));
    let mut stopped = stop.clone();
    let accept = async {
        let mut failures = AcceptFailures::default();
        for id in 0u64.. {
            let (stream, address) = loop {
                match listener.accept().await {
                    Ok(accepted) => break accepted,
                    // The client left before it was accepted.
                    Err(error) if is_transient(&error) => {}
                    // No file descriptor is free: an evicted connection frees one.
                    Err(error) => {
                        failures.add(&error);
                        connections.evict(None);
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                }
            };
            // No connection is evicted before a new one has arrived.
            let evict = || connections.evict(Some(address.ip()));
            let Some(permit) = acquire(&permits, evict).await else { return };
            let connection = connections.open(id, address);
            let (router, metrics, connections, stop) =
                (router.clone(), metrics.clone(), connections.clone(), stop.clone());
            tokio::spawn(async move {
                metrics.connections.inc();
                serve_connection(stream, router, connection, stop).await;
                metrics.connections.dec();
                connections.close(id);
                drop(permit);
            });
        }
    };
    tokio::select! {
        // An error means that the sender does not exist any more, which is a stop too.
        _ = stopped.wait_for(|stop| *stop) => {}
        () = accept => {}
    }
    drop(listener);
    let all = u32::try_from(capacity).unwrap_or(u32::MAX);
    if tokio::time::timeout(drain, permits.acquire_many(all)).await.is_err() {
        tracing::warn!("requests were aborted that took longer than {} seconds after the stop", drain.as_secs());
    }
}

/// A permit for one more connection. While there is none, other connections are evicted.
async fn acquire(permits: &Arc<Semaphore>, evict: impl Fn()) -> Option<OwnedSemaphorePermit> {
    if let Ok(permit) = permits.clone().try_acquire_owned() {
        return Some(permit);
    }
    loop {
        evict();
        if let Ok(permit) = tokio::time::timeout(EVICT_RETRY, permits.clone().acquire_owned()).await {
            return permit.ok();
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// Sets the options of a socket. Without them, responses are only slower or need more memory of the system.
fn configure(stream: &TcpStream) {
    // Responses are written in one piece: Nagle's algorithm would only delay them.
    let _ = stream.set_nodelay(true);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(crate::serve::limits::UNSENT_BYTES);
}

/// Serves one connection to its end.
async fn serve_connection(
    stream: TcpStream,
    router: Router,
    connection: Arc<Connection>,
    mut stop: watch::Receiver<bool>,
) {
    configure(&stream);
    let own = connection.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let busy = BusyGuard::new(&own);
        let router = router.clone();
        let request = request.map(|body| TrackedBody::new(body, &own));
        let connection = own.clone();
        async move {
            let mut request: Request = request.map(Body::new);
            request.extensions_mut().insert(connection.peer.clone());
            request.extensions_mut().insert(connection.clone());
            let response = router.oneshot(request).await;
            // From now on, the client has to read.
            connection.mark_progress();
            response.map(|response| hold(response, busy))
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(WriteTimeoutStream::new(stream, connection.clone())), service);
    let mut serving = pin!(serving);
    tokio::select! {
        // An error of a connection affects only its client.
        _ = serving.as_mut() => return,
        // A request that became complete since the eviction is still answered.
        () = connection.evict.notified() => {
            if connection.abort.load(Ordering::Acquire) || !connection.is_responding() {
                return;
            }
        }
        _ = stop.wait_for(|stop| *stop) => {}
    }
    serving.as_mut().graceful_shutdown();
    loop {
        match tokio::time::timeout(IDLE_CLOSE, serving.as_mut()).await {
            Ok(_) => return,
            Err(_) if !connection.is_busy() => return,
            Err(_) => {}
        }
    }
}
