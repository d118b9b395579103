//! What all requests share: the options, and the newest snapshot of the index.

use std::sync::{Arc, PoisonError, RwLock};

use reelseek_index::Index;

use super::{Error, Options};
use crate::search::{self, Engine};

/// Shared by all requests.
pub(super) struct App {
    pub(super) options: Options,
    snapshot: RwLock<Option<Arc<Snapshot>>>,
}

/// One commit of the index, as long as a request holds it.
pub(super) struct Snapshot {
    pub(super) engine: Engine,
    /// Counts the commits that were taken up since the start.
    pub(super) generation: u64,
}

impl App {
    pub(super) fn open(options: Options) -> Result<App, Error> {
        let app = App { options, snapshot: RwLock::default() };
        app.refresh()?;
        Ok(app)
    }

    /// The newest snapshot; none while there is no index.
    pub(super) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes up the last commit. Requests that run keep the one they have.
    pub(super) fn refresh(&self) -> Result<(), search::Error> {
        let Options { index, checkpoint, weights, .. } = &self.options;
        if !Index::exists(index) {
            return Ok(());
        }
        let engine = Engine::open(index, checkpoint.as_deref(), weights.as_deref())?;
        let mut snapshot = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
        let generation = snapshot.as_ref().map_or(1, |s| s.generation + 1);
        *snapshot = Some(Arc::new(Snapshot { engine, generation }));
        Ok(())
    }
}
