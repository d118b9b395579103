//! The web page and the HTTP API.
//!
//! Requests come through the guards (host, origin, token, sizes, times, a bounded queue) to a handler, which holds one snapshot of the index ([`state::App::engine`])
//! from beginning to end; work that takes a processor runs on threads of its own, never on those that listen.

mod error;
mod state;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;

pub use error::Error;

use state::App;

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
}

/// Serves until the process is asked to stop.
///
/// # Errors
/// [`enum@Error`] if the index cannot be opened or the address not be listened on.
pub fn run(options: Options) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Error::Runtime)?;
    runtime.block_on(async {
        let listen = options.listen;
        let app = Arc::new(App::open(options)?);
        let listener =
            tokio::net::TcpListener::bind(listen).await.map_err(|source| Error::Listen { listen, source })?;
        axum::serve(listener, router(app)).await.map_err(Error::Runtime)
    })
}

/// All routes.
fn router(app: Arc<App>) -> Router {
    Router::new().with_state(app)
}
