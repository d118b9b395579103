//! Accepts connections, serves each to its end, and drains them at shutdown.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

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

use super::registry::{BusyGuard, Connection, Connections, TrackedBody};
use super::write_timeout::WriteTimeoutStream;
use crate::serve::limits::{ACCEPT_RETRY, EVICT_RETRY, HEAD_TIME, IDLE_CLOSE, MAX_CONNECTIONS, MAX_HEAD_BYTES};
use crate::serve::observe::held::hold;
use crate::serve::observe::metrics::Metrics;

/// Raises the process's limit of file descriptors as far as the system allows; returns the number of
/// connections that fit.
pub(crate) fn connection_capacity() -> usize {
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

/// Serves connections until `stop` becomes true, then waits at most `drain` for the requests in progress.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    metrics: Arc<Metrics>,
    capacity: usize,
    stop: watch::Receiver<bool>,
    drain: Duration,
) {
    let permits = Arc::new(Semaphore::new(capacity));
    let connections = Arc::new(Connections::default());
    let mut stopped = stop.clone();
    let evict = || {
        if connections.evict() {
            metrics.evicted.inc();
        }
    };
    let accept = async {
        for id in 0u64.. {
            let (stream, address) = loop {
                match listener.accept().await {
                    Ok(accepted) => break accepted,
                    // The client left before it was accepted.
                    Err(error) if is_transient(&error) => {}
                    // No file descriptor is free: an evicted connection frees one.
                    Err(error) => {
                        tracing::warn!("cannot accept a connection: {error}");
                        evict();
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                }
            };
            // No connection is evicted before a new one has arrived.
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

/// Serves one connection to its end.
async fn serve_connection(
    stream: TcpStream,
    router: Router,
    connection: Arc<Connection>,
    mut stop: watch::Receiver<bool>,
) {
    // Responses are written in one piece: Nagle's algorithm would only delay them.
    let _ = stream.set_nodelay(true);
    let own = connection.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let busy = BusyGuard::new(&own);
        let router = router.clone();
        let request = request.map(|body| TrackedBody::new(body, &own));
        let peer = own.peer.clone();
        async move {
            let mut request: Request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            router.oneshot(request).await.map(|response| hold(response, busy))
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(WriteTimeoutStream::new(stream)), service);
    let mut serving = pin!(serving);
    tokio::select! {
        // An error of a connection affects only its client.
        _ = serving.as_mut() => return,
        // A request that became complete since the eviction is still answered.
        () = connection.evict.notified() => if !connection.is_responding() { return },
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
