use std::path::PathBuf;

use globset::GlobSet;

use crate::base::setters;
use crate::collection::ModelChoice;

/// What to index, and how.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct IndexOptions {
    /// Files and folders.
    pub paths: Vec<PathBuf>,
    /// Paths or file names to leave out.
    pub exclude: GlobSet,
    /// Videos decoded at once, at least one; by default one per core.
    pub jobs: usize,
    /// Decode keyframes only: faster, but moments are coarser.
    pub keyframes: bool,
    /// Remove videos from the index if they are under `paths` and their files are gone.
    pub prune: bool,
    /// Decode files again that could not be decoded before, even if they have not changed.
    pub retry: bool,
    /// Store vectors with 16 bits a value. With an existing index, this is an error unless it already does
    /// so.
    pub half: bool,
    /// Encoder, weights and checkpoint.
    pub model: ModelChoice,
    /// Encoder, weights and checkpoint of the kind space. If no encoder is named, a new kind space uses the
    /// embedded one; without one, none is created.
    pub kind_model: ModelChoice,
    /// Leave the kind space out: no rows are added to it, and none is created.
    pub scene_only: bool,
}

impl Default for IndexOptions {
    fn default() -> IndexOptions {
        IndexOptions {
            paths: Vec::new(),
            exclude: GlobSet::empty(),
            jobs: std::thread::available_parallelism().map_or(1, usize::from),
            keyframes: false,
            prune: false,
            retry: false,
            half: false,
            model: ModelChoice::default(),
            kind_model: ModelChoice::default(),
            scene_only: false,
        }
    }
}

impl IndexOptions {
    /// Indexes these files and folders.
    pub fn new(paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> IndexOptions {
        IndexOptions { paths: paths.into_iter().map(Into::into).collect(), ..IndexOptions::default() }
    }
}

setters! { IndexOptions:
    exclude: GlobSet,
    jobs: usize,
    keyframes: bool,
    prune: bool,
    retry: bool,
    half: bool,
    model: ModelChoice,
    kind_model: ModelChoice,
    scene_only: bool,
}
