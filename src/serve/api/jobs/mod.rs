//! Indexing jobs: one at a time, on its own thread.

pub(crate) mod handlers;
mod job;

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use parking_lot::{Condvar, Mutex};

use crate::ingest::IndexSummary;
use crate::serve::error::ApiError;
use crate::serve::limits::{MAX_JOBS, STACK_BYTES};

use job::Job;

/// The folders that the server may index, and its jobs.
pub(crate) struct Jobs {
    /// Names and paths of the folders.
    folders: Vec<(String, PathBuf)>,
    /// The oldest first.
    jobs: Mutex<VecDeque<Arc<Job>>>,
    /// Notified when a job ends.
    ended: Condvar,
}

impl Jobs {
    pub(crate) fn new(folders: &[PathBuf]) -> Jobs {
        let mut taken = HashSet::new();
        let folders = folders.iter().map(|path| (unique_name(path, &mut taken), path.clone())).collect();
        Jobs { folders, jobs: Mutex::default(), ended: Condvar::new() }
    }

    /// Names of the folders that the server may index.
    pub(crate) fn folders(&self) -> impl Iterator<Item = &str> {
        self.folders.iter().map(|(name, _)| name.as_str())
    }

    /// Paths of the folders with these names, or of all folders.
    ///
    /// # Errors
    /// 400 if a name is unknown or `names` is empty, 403 if the server has no folders.
    fn paths(&self, names: Option<&[String]>) -> Result<Vec<PathBuf>, ApiError> {
        if self.folders.is_empty() {
            let text = "the server was started without folders to index: name them as `reelseek serve FOLDER`";
            return Err(ApiError::forbidden(text));
        }
        let path = |name: &String| {
            let found = self.folders.iter().find(|(known, _)| known == name);
            found.map(|(_, path)| path.clone()).ok_or_else(|| {
                let known: Vec<&str> = self.folders().collect();
                ApiError::malformed(format!("there is no folder `{name}`: expected one of {}", known.join(", ")))
            })
        };
        match names {
            None => Ok(self.folders.iter().map(|(_, path)| path.clone()).collect()),
            Some([]) => Err(ApiError::malformed("`folders` has none: leave it out to index all")),
            Some(names) => {
                // A name that is repeated must not cost another walk through its folder.
                let paths = names.iter().map(path).collect::<Result<BTreeSet<_>, _>>()?;
                Ok(paths.into_iter().collect())
            }
        }
    }

    fn find(&self, id: &str) -> Result<Arc<Job>, ApiError> {
        let found = self.jobs.lock().iter().find(|job| job.id == id).cloned();
        found.ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, "there is no job with this id"))
    }

    /// Starts a job. The inner error is the job that is already running.
    fn start(
        self: &Arc<Self>,
        work: impl FnOnce(&Job) -> Result<IndexSummary, String> + Send + 'static,
    ) -> Result<Result<Arc<Job>, Arc<Job>>, ApiError> {
        let mut jobs = self.jobs.lock();
        if let Some(running) = jobs.back().filter(|job| job.is_running()) {
            return Ok(Err(running.clone()));
        }
        let job = Arc::new(Job::new());
        let (all, own) = (self.clone(), job.clone());
        let run = move || {
            tracing::info!(job = own.id, "indexing");
            let outcome = catch_unwind(AssertUnwindSafe(|| work(&own)));
            own.end(outcome.unwrap_or_else(|_| Err(ApiError::panicked().message)));
            // `stop` locks the list from its check until it waits. Locking the list here delays the
            // notification until then, so that it is not lost.
            drop(all.jobs.lock());
            all.ended.notify_all();
        };
        let thread = std::thread::Builder::new().name("indexing".into()).stack_size(STACK_BYTES);
        thread.spawn(run).map_err(|error| ApiError::internal(&error))?;
        jobs.push_back(job.clone());
        if jobs.len() > MAX_JOBS {
            jobs.pop_front();
        }
        Ok(Ok(job))
    }

    /// Asks the running job to stop.
    pub(crate) fn cancel(&self) {
        self.jobs.lock().iter().for_each(|job| job.cancel.set());
    }

    /// Stops the running job and waits, at most `timeout`, until it has saved its finished files.
    pub(crate) fn stop(&self, timeout: Duration) {
        let mut jobs = self.jobs.lock();
        jobs.iter().for_each(|job| job.cancel.set());
        let is_running = |jobs: &mut VecDeque<Arc<Job>>| jobs.iter().any(|job| job.is_running());
        if self.ended.wait_while_for(&mut jobs, is_running, timeout).timed_out() {
            tracing::warn!("an indexing job did not stop in time; the index has its last commit");
        }
    }
}

/// The name of a folder, with a number if another folder has the same name.
fn unique_name(path: &Path, taken: &mut HashSet<String>) -> String {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = full.file_name().map_or("library".into(), |name| name.to_string_lossy().into_owned());
    let mut names = std::iter::once(name.clone()).chain((2..).map(|n| format!("{name} ({n})")));
    let free = names.find(|name| !taken.contains(name)).unwrap_or(name);
    taken.insert(free.clone());
    free
}

#[cfg(test)]
mod tests;
