//! The web page and the HTTP API.
//!
//! A request comes over a connection that may not dawdle (`connection`), through the layers, outermost first: an id, a line in the log and the counters
//! (`observe`), Host and Origin (`guard::host`), a net for whatever panics, the token (`guard::auth`), and its body whole and within limits (`connection::body`). A handler
//! then holds one snapshot of the index (`state::App::ready`) from beginning to end. Work that takes a processor waits for its turn (`admission::gate`) and runs on threads
//! of its own, never on those that listen.

mod admission;
mod api;
mod connection;
mod error;
mod guard;
mod observe;
mod state;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::cell::Cell;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use tokio::sync::watch;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;

pub use error::Error;
pub use guard::auth::Token;
pub use observe::log::Format;

use api::{compat, jobs, library, media, openapi, page, search};
use connection::{body, listen};
use error::ApiError;
use guard::{auth, host};
use observe::{log, request};
use state::App;

/// What a request hears that made a handler panic.
const PANIC: &str = "the server failed at this request; its log says why";
/// Threads that listen, read and write; what computes has its own.
const LISTENERS: usize = 2;
/// The stack of threads that compute, which is that of the main thread: decoders of pictures and the filter's parser recurse.
const STACK_BYTES: usize = 8 << 20;

/// What to serve, and to whom.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder of the index. Nothing need be there yet.
    pub index: PathBuf,
    /// Folders whose videos may be indexed on request.
    pub library: Vec<PathBuf>,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Folded checkpoint of the index, if not the one that lies with it.
    pub checkpoint: Option<PathBuf>,
    /// Weights of the index's encoder, if not those that it remembers.
    pub weights: Option<PathBuf>,
    /// What requests must show, if anything.
    pub token: Option<Token>,
    /// Whether everybody may come in over the network.
    pub no_auth: bool,
    /// Whether a token is set that nobody is asked for because of that: the log warns of it.
    pub unused_token: bool,
    /// Names that the server goes by, besides its address and those of loopback.
    pub hosts: Vec<String>,
    /// Origins whose pages may ask.
    pub origins: Vec<String>,
    /// Whether pictures may be fetched by their address.
    pub fetch: bool,
    /// Whether answers tell where files lie.
    pub show_paths: bool,
    /// Searches at once.
    pub workers: usize,
    /// Requests that may wait for their turn.
    pub queue: usize,
    /// Bytes of thumbnails and previews that are kept on disk.
    pub cache_bytes: u64,
    /// How the log is written.
    pub log: Format,
}

/// Serves until the process is asked to stop (SIGINT or SIGTERM), and then until the requests that run are answered. Asked again, it stops at once.
///
/// # Errors
/// [`enum@Error`] if the options do not go together, the index cannot be opened or the address not be listened on.
pub fn run(options: Options) -> Result<(), Error> {
    let listen = options.listen;
    if !listen.ip().is_loopback() && options.token.is_none() && !options.no_auth {
        return Err(Error::Open { listen });
    }
    log::start(options.log);
    if options.unused_token {
        tracing::warn!("a token is set, and --no-auth lets everybody in without it");
    }
    match std::fs::metadata(&options.index) {
        Ok(found) if !found.is_dir() => return Err(Error::Index { path: options.index }),
        _ if !reelseek_index::Index::exists(&options.index) => {
            let index = options.index.display();
            tracing::warn!("there is no index at {index}: searches are answered as soon as there is one");
        }
        _ => {}
    }
    if options.token.as_ref().is_some_and(Token::is_short) {
        tracing::warn!("the token is short enough to be guessed: `openssl rand -hex 16` makes a better one");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(LISTENERS)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let app = Arc::new(App::open(options)?);
    let outcome = runtime.block_on(until_stopped(listen, app));
    // What still computes is of requests that were cut off.
    runtime.shutdown_background();
    outcome
}

async fn until_stopped(listen: SocketAddr, app: Arc<App>) -> Result<(), Error> {
    let router = router(app.clone())?;
    let taken = |source| Error::Listen { listen, source };
    let listener = tokio::net::TcpListener::bind(listen).await.map_err(taken)?;
    let address = listener.local_addr().map_err(taken)?;
    let (say_stop, stop) = watch::channel(false);
    let mut asked = Asked::new().map_err(Error::Runtime)?;
    let watching = tokio::spawn(app.clone().watch());
    // Whoever started us reads where we are, and may have gone.
    let _ = writeln!(std::io::stdout(), "listening on http://{address}");
    let _ = std::io::stdout().flush();
    let serving = listen::serve(listener, router, app.metrics.clone(), listen::room(), stop, listen::DRAIN);
    let asked_at = Cell::new(None);
    let stopping = async {
        asked.wait().await;
        asked_at.set(Some(Instant::now()));
        tracing::info!("stopping: requests that run are answered first (again to stop at once)");
        app.stopping.set();
        app.jobs.cancel();
        let _ = say_stop.send(true);
        asked.wait().await;
    };
    let patient = tokio::select! {
        () = serving => true,
        () = stopping => false,
    };
    if patient {
        // A job that was cancelled puts away what it had finished, in what the requests left of the time.
        let left = asked_at.get().map_or(listen::DRAIN, |at| listen::DRAIN.saturating_sub(at.elapsed()));
        let worker = app.clone();
        let ended = tokio::task::spawn_blocking(move || worker.jobs.stop(left));
        tokio::select! {
            _ = ended => {}
            () = asked.wait() => {}
        }
    }
    watching.abort();
    tracing::info!("stopped");
    Ok(())
}

/// The system's word that the process shall stop.
struct Asked {
    #[cfg(unix)]
    signals: [tokio::signal::unix::Signal; 2],
}

impl Asked {
    #[cfg(unix)]
    fn new() -> std::io::Result<Asked> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Asked { signals: [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?] })
    }

    #[cfg(unix)]
    async fn wait(&mut self) {
        let [interrupt, terminate] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }

    #[cfg(not(unix))]
    fn new() -> std::io::Result<Asked> {
        Ok(Asked {})
    }

    #[cfg(not(unix))]
    async fn wait(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}

/// All routes, and the layers around them.
fn router(app: Arc<App>) -> Result<Router, Error> {
    let (open, closed) = routes();
    let (open, open_document) = open.split_for_parts();
    let (closed, mut document) = closed.split_for_parts();
    document.merge(open_document);
    let document = Json(serde_json::to_value(document).map_err(Error::Document)?);
    let read = || middleware::from_fn_with_state(app.clone(), body::collect);
    let closed = closed
        .route("/openapi.json", get(move || async move { document }))
        .route_layer(read())
        .route_layer(middleware::from_fn_with_state(app.clone(), auth::check));
    Ok(layered(open.merge(page::routes()).route_layer(read()).merge(closed), app))
}

/// The routes that need no token, and those that do.
fn routes() -> (OpenApiRouter<Arc<App>>, OpenApiRouter<Arc<App>>) {
    let open = OpenApiRouter::default().merge(openapi::open_routes()).merge(auth::routes());
    let closed = OpenApiRouter::with_openapi(openapi::Api::openapi())
        .merge(search::routes())
        .merge(compat::routes())
        .merge(library::routes())
        .merge(media::routes())
        .merge(jobs::routes())
        .merge(openapi::routes());
    (open, closed)
}

/// The layers that every request comes through, whether there is a route for it or not.
fn layered(router: Router<Arc<App>>, app: Arc<App>) -> Router {
    router
        .fallback(|| async {
            ApiError::new(StatusCode::NOT_FOUND, "there is nothing at this address; /openapi.json tells what there is")
        })
        .layer(DefaultBodyLimit::max(body::MAX_BYTES))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(app.clone(), host::check))
        .layer(middleware::from_fn_with_state(app.clone(), request::observe))
        .with_state(app)
}

/// The answer to a request that made a handler panic. The panic's own words go to the log by its hook.
fn panicked(_: Box<dyn Any + Send>) -> Response {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, PANIC).into_response()
}
