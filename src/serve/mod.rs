//! The web page and the HTTP API.
//! A request arrives over a connection with time limits (`connection`). It passes these layers, outermost
//! first: request id, log and counters (`observe`), the count of the response's memory
//! (`connection::response`), the check of Host and Origin (`guard::host`), the panic handler, the check of
//! the token (`guard::auth`), and the reader of the body (`connection::body`). Its handler (`api`) receives
//! the parts of the state that it needs, uses one snapshot of the index from beginning to end, and waits for
//! a worker before it computes (`admission`). Computation runs on its own threads, never on those that serve
//! connections.

mod admission;
mod advice;
mod api;
mod connection;
mod error;
mod guard;
mod limits;
mod observe;
mod options;
mod router;
mod shutdown;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Instant;

use tokio::net::TcpListener;
use tokio::sync::watch;

pub use error::Error;
pub use guard::auth::Token;
pub use observe::logging::{LogFormat, start_logging};
pub use options::ServeOptions;
pub use shutdown::ShutdownSignal;

use connection::listen;
use router::router;
use state::App;

/// Serves until `shutdown` is requested, and then until the requests in progress are answered. `on_listen` is
/// called with the address once the server accepts connections.
///
/// # Errors
/// [`enum@Error`] if the options contradict each other, the index cannot be opened, or the address is not
/// available.
pub fn run(options: ServeOptions, shutdown: &ShutdownSignal, on_listen: impl FnOnce(SocketAddr)) -> Result<(), Error> {
    options.check()?;
    let listen = options.listen;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(limits::IO_THREADS)
        .thread_stack_size(limits::STACK_BYTES)
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let app = App::open(options)?;
    let outcome = runtime.block_on(serve(listen, app, shutdown, on_listen));
    // Computations that still run belong to aborted requests.
    runtime.shutdown_background();
    outcome
}

async fn serve(
    listen: SocketAddr,
    app: App,
    shutdown: &ShutdownSignal,
    on_listen: impl FnOnce(SocketAddr),
) -> Result<(), Error> {
    let router = router(&app)?;
    let unavailable = |source| Error::Listen { listen, source };
    let listener = TcpListener::bind(listen).await.map_err(unavailable)?;
    let address = listener.local_addr().map_err(unavailable)?;
    let (stop_sender, stop) = watch::channel(false);
    let watching = tokio::spawn(app.snapshots.clone().watch());
    on_listen(address);
    let connections = app.connections.clone();
    let serving = listen::serve(listener, router, connections, app.metrics.clone(), stop, limits::DRAIN);
    let stopped_at = Cell::new(None);
    let stopping = async {
        shutdown.requested(1).await;
        stopped_at.set(Some(Instant::now()));
        tracing::info!("stopping after the requests in progress (a second signal stops at once)");
        app.stopping.set();
        app.jobs.cancel();
        let _ = stop_sender.send(true);
        shutdown.requested(2).await;
    };
    let drained = tokio::select! {
        () = serving => true,
        () = stopping => false,
    };
    if drained {
        // A cancelled job saves its finished files, and each ffmpeg ends, in the time that is left.
        let time = stopped_at.get().map_or(limits::DRAIN, |at| limits::DRAIN.saturating_sub(at.elapsed()));
        let jobs = app.jobs.clone();
        let jobs = tokio::task::spawn_blocking(move || jobs.stop(time));
        let media = tokio::time::timeout(time, app.media.ended());
        tokio::select! {
            _ = async { tokio::join!(jobs, media) } => {}
            () = shutdown.requested(2) => {}
        }
    }
    watching.abort();
    tracing::info!("stopped");
    Ok(())
}

/// Whether these bytes are the JSON of a search or a batch. For fuzzing only.
#[doc(hidden)]
pub fn is_search_json(bytes: &[u8]) -> bool {
    api::request::parse_json(bytes).is_ok()
}

/// Whether these are the query string and the form of a search or a batch. For fuzzing only.
#[doc(hidden)]
pub async fn is_search_form(query: &str, content_type: &str, body: Vec<u8>) -> bool {
    api::request::is_form(query, content_type, body).await
}
