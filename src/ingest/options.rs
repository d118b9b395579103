use std::path::PathBuf;

use globset::GlobSet;

use crate::collection::ModelChoice;

/// What to index, and how.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct IndexOptions {
    /// Files and folders.
    pub paths: Vec<PathBuf>,
    /// Paths or file names to leave out.
    pub exclude: GlobSet,
    /// Videos decoded at once; by default one per core.
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
        }
    }
}

impl IndexOptions {
    /// Indexes these files and folders.
    pub fn new(paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> IndexOptions {
        IndexOptions { paths: paths.into_iter().map(Into::into).collect(), ..IndexOptions::default() }
    }

    /// Leaves out paths or file names that match.
    pub fn exclude(self, exclude: GlobSet) -> IndexOptions {
        IndexOptions { exclude, ..self }
    }

    /// Decodes this many videos at once.
    pub fn jobs(self, jobs: usize) -> IndexOptions {
        IndexOptions { jobs: jobs.max(1), ..self }
    }

    /// Decodes keyframes only, or all frames.
    pub fn keyframes(self, keyframes: bool) -> IndexOptions {
        IndexOptions { keyframes, ..self }
    }

    /// Removes videos whose files are gone, or keeps them.
    pub fn prune(self, prune: bool) -> IndexOptions {
        IndexOptions { prune, ..self }
    }

    /// Decodes files again that could not be decoded before, or skips them.
    pub fn retry(self, retry: bool) -> IndexOptions {
        IndexOptions { retry, ..self }
    }

    /// Stores vectors of a new index with 16 bits a value, or with 32.
    pub fn half(self, half: bool) -> IndexOptions {
        IndexOptions { half, ..self }
    }

    /// Uses this encoder and checkpoint.
    pub fn model(self, model: ModelChoice) -> IndexOptions {
        IndexOptions { model, ..self }
    }
}
