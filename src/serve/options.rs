//! Options of the server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use reelseek_index::Index;

use super::error::Error;
use super::guard::auth::Token;
use crate::base::setters;
use crate::collection::{self, ModelChoice, ModelChoices};

/// Options of [`run`](crate::serve::run).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServeOptions {
    /// Folder of the index. It may appear after the start if `library` has folders or `await_index` is set.
    pub index: PathBuf,
    /// Folders whose videos may be indexed on request.
    pub library: Vec<PathBuf>,
    /// Whether the server may start without an index and without folders to index.
    pub await_index: bool,
    /// Address to listen on. Port 0 takes a free port.
    pub listen: SocketAddr,
    /// Folded checkpoint of the index; by default the one stored with it.
    pub checkpoint: Option<PathBuf>,
    /// Weights of the index's encoder; by default those that the index names.
    pub weights: Option<PathBuf>,
    /// Folded checkpoint of the kind space; by default the one stored with it.
    pub kind_checkpoint: Option<PathBuf>,
    /// Weights of the kind space's encoder; by default those that the space names.
    pub kind_weights: Option<PathBuf>,
    /// Token that requests must carry, if any.
    pub token: Option<Token>,
    /// Whether the server may listen on any address without a token.
    pub no_auth: bool,
    /// Host names of the server, besides its address and those of loopback.
    pub hosts: Vec<String>,
    /// Origins whose pages may send requests.
    pub origins: Vec<String>,
    /// Whether the server may fetch pictures by their URL.
    pub fetch: bool,
    /// Whether responses contain the paths of files.
    pub show_paths: bool,
    /// Searches that run at once.
    pub workers: usize,
    /// Requests that may wait for a worker.
    pub queue: usize,
    /// Bytes of thumbnails and previews kept on disk.
    pub cache_bytes: u64,
}

impl Default for ServeOptions {
    fn default() -> ServeOptions {
        ServeOptions {
            index: PathBuf::from(".reelseek"),
            library: Vec::new(),
            await_index: false,
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8787),
            checkpoint: None,
            weights: None,
            kind_checkpoint: None,
            kind_weights: None,
            token: None,
            no_auth: false,
            hosts: Vec::new(),
            origins: Vec::new(),
            fetch: false,
            show_paths: false,
            workers: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            queue: 64,
            cache_bytes: 1_000_000_000,
        }
    }
}

setters! { ServeOptions:
    library: Vec<PathBuf>,
    await_index: bool,
    listen: SocketAddr,
    checkpoint: Option<PathBuf>,
    weights: Option<PathBuf>,
    kind_checkpoint: Option<PathBuf>,
    kind_weights: Option<PathBuf>,
    token: Option<Token>,
    no_auth: bool,
    hosts: Vec<String>,
    origins: Vec<String>,
    fetch: bool,
    show_paths: bool,
    workers: usize,
    queue: usize,
    cache_bytes: u64,
}

impl ServeOptions {
    /// The default options for this index.
    pub fn new(index: impl Into<PathBuf>) -> ServeOptions {
        ServeOptions { index: index.into(), ..ServeOptions::default() }
    }

    /// The encoders and checkpoints of the index and its kind space.
    pub(crate) fn model_choices(&self) -> ModelChoices {
        let choice = |weights: &Option<PathBuf>, checkpoint: &Option<PathBuf>| ModelChoice {
            encoder: None,
            weights: weights.clone(),
            checkpoint: checkpoint.clone(),
        };
        ModelChoices {
            scene: choice(&self.weights, &self.checkpoint),
            kind: choice(&self.kind_weights, &self.kind_checkpoint),
        }
    }

    /// Checks the options against each other and the disk, and logs what is unwise.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if !self.listen.ip().is_loopback() && self.token.is_none() && !self.no_auth {
            return Err(Error::Open { listen: self.listen });
        }
        for path in &self.library {
            match std::fs::metadata(path) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => return Err(Error::Library { path: path.clone(), found: "it is not a folder".to_owned() }),
                Err(error) => return Err(Error::Library { path: path.clone(), found: error.to_string() }),
            }
        }
        if !Index::exists(&self.index) {
            let makes_one = if self.library.is_empty() { "" } else { ", or start indexing on the page" };
            match Index::check_new(&self.index) {
                Err(error @ reelseek_index::Error::NotAFolder { .. }) => {
                    return Err(collection::Error::from(error).into());
                }
                _ if self.library.is_empty() && !self.await_index => {
                    return Err(Error::NoIndex { path: self.index.clone() });
                }
                Err(error) => return Err(collection::Error::from(error).into()),
                Ok(()) => tracing::warn!(
                    "there is no index at {}: make one with `reelseek index FOLDER`{makes_one}",
                    self.index.display()
                ),
            }
        }
        if self.token.as_ref().is_some_and(Token::is_short) {
            tracing::warn!("the token is short enough to be guessed: `openssl rand -hex 16` prints a better one");
        }
        Ok(())
    }
}
