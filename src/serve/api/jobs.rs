//! Indexing on request: one job at a time, on a thread of its own, that tells how far it is and can be stopped.

use std::collections::{HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::base::Cancel;
use crate::collection::ModelChoice;
use crate::ingest::{self, FileError, FileOutcome, IndexEvent, IndexOptions, IndexSummary, Indexer};
use crate::serve::api::ask::{self, Kind};
use crate::serve::error::{ApiError, ErrorBody};
use crate::serve::observe::clock::{rfc3339, since_1970_ns};
use crate::serve::state::App;

/// Failures that a job tells, and jobs that are remembered.
const MAX_FAILURES: usize = 100;
const MAX_JOBS: usize = 100;

/// What this file keeps.
pub(crate) struct Jobs {
    /// Names and paths of the folders that may be indexed.
    folders: Vec<(String, PathBuf)>,
    /// The oldest first.
    jobs: Mutex<VecDeque<Arc<Job>>>,
    /// Told whenever a job ends.
    ended: Condvar,
}

/// One job.
struct Job {
    id: String,
    started: SystemTime,
    start: Instant,
    cancel: Cancel,
    progress: Mutex<Progress>,
}

/// How far a job is.
#[derive(Debug, Clone, Default)]
struct Progress {
    state: Status,
    took: Option<Duration>,
    /// When it knew what there is to read.
    reading_since: Option<Instant>,
    done_bytes: u64,
    total_bytes: u64,
    indexed: usize,
    unchanged: usize,
    failed: usize,
    skipped: usize,
    removed: usize,
    rows: u64,
    failures: Vec<Failure>,
    error: Option<String>,
}

/// How a job is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Status {
    #[default]
    Running,
    Done,
    Failed,
    /// It was stopped; what was finished by then is kept.
    Cancelled,
}

/// A file that could not be indexed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
struct Failure {
    /// Of the file, without its folders.
    name: String,
    reason: String,
}

/// A job, as it is now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Job)]
struct Shown {
    /// Its id.
    job: String,
    state: Status,
    /// When it began, in UTC.
    #[schema(format = DateTime)]
    started: String,
    /// How long it has been running, or ran.
    seconds: f64,
    /// Bytes of files that it has read; of those that it is reading, by the share of their length.
    done_bytes: u64,
    /// Bytes of all files that it has to read; 0 as long as it looks for them, and if there are none.
    total_bytes: u64,
    /// From 0 to 1.
    progress: f64,
    /// Seconds that it will still take, as soon as that can be told.
    eta_seconds: Option<f64>,
    /// Files indexed anew or again.
    indexed: usize,
    unchanged: usize,
    failed: usize,
    skipped: usize,
    removed: usize,
    /// Moments of the videos that it has indexed.
    rows: u64,
    /// The first 100 files that could not be indexed.
    failures: Vec<Failure>,
    /// Why the job failed as a whole.
    error: Option<String>,
}

impl Job {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn runs(&self) -> bool {
        self.progress().state == Status::Running
    }

    fn show(&self) -> Shown {
        let progress = self.progress().clone();
        let took = progress.took.unwrap_or_else(|| self.start.elapsed()).as_secs_f64();
        let share = match (progress.state, progress.total_bytes) {
            (Status::Done, _) => 1.0,
            (_, 0) => 0.0,
            (_, total) => (progress.done_bytes as f64 / total as f64).min(1.0),
        };
        // Looking for files and opening the model tell nothing of how fast files are read.
        let reading = progress.reading_since.filter(|_| progress.state == Status::Running && share > 0.0);
        let eta = reading.map(|since| since.elapsed().as_secs_f64() * (1.0 - share) / share);
        Shown {
            job: self.id.clone(),
            state: progress.state,
            started: rfc3339(since_1970_ns(self.started)),
            seconds: rounded(took),
            done_bytes: progress.done_bytes,
            total_bytes: progress.total_bytes,
            progress: share,
            eta_seconds: eta.map(rounded),
            indexed: progress.indexed,
            unchanged: progress.unchanged,
            failed: progress.failed,
            skipped: progress.skipped,
            removed: progress.removed,
            rows: progress.rows,
            failures: progress.failures,
            error: progress.error,
        }
    }

    fn hear(&self, app: &App, event: &IndexEvent) {
        let mut progress = self.progress();
        let (path, outcome) = match event {
            IndexEvent::File { path, outcome } => (path, outcome),
            IndexEvent::Progress { done_bytes, total_bytes } => {
                progress.reading_since.get_or_insert_with(Instant::now);
                (progress.done_bytes, progress.total_bytes) = (*done_bytes, *total_bytes);
                return;
            }
        };
        match outcome {
            FileOutcome::Indexed { rows, .. } => {
                progress.indexed += 1;
                progress.rows += u64::from(*rows);
            }
            FileOutcome::Unchanged { .. } => progress.unchanged += 1,
            FileOutcome::Missing => progress.skipped += 1,
            FileOutcome::Removed => progress.removed += 1,
            FileOutcome::Failed { error, .. } => {
                progress.failed += 1;
                if progress.failures.len() < MAX_FAILURES {
                    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    let advice = match error {
                        FileError::FailedBefore { .. } => "; `retry` decodes it again",
                        _ => "",
                    };
                    let reason = app.shown(&format!("{error}{advice}"), Some(path));
                    let reason = reason.strip_prefix(&format!("{name}: ")).map(str::to_owned).unwrap_or(reason);
                    progress.failures.push(Failure { name, reason });
                }
            }
        }
    }
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}

impl Jobs {
    pub(crate) fn new(library: &[PathBuf]) -> Jobs {
        let mut taken = HashSet::new();
        let folders = library.iter().map(|path| (unique(path, &mut taken), path.clone())).collect();
        Jobs { folders, jobs: Mutex::default(), ended: Condvar::new() }
    }

    /// Names of the folders that may be indexed.
    pub(crate) fn folders(&self) -> impl Iterator<Item = &str> {
        self.folders.iter().map(|(name, _)| name.as_str())
    }

    fn jobs(&self) -> MutexGuard<'_, VecDeque<Arc<Job>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &str) -> Result<Arc<Job>, ApiError> {
        let found = self.jobs().iter().find(|job| job.id == id).cloned();
        found.ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, "there is no job with this id"))
    }

    /// Begins a job, or gives the one that runs.
    fn begin(
        self: &Arc<Self>,
        work: impl FnOnce(&Job) -> Result<IndexSummary, String> + Send + 'static,
    ) -> Result<Result<Arc<Job>, Arc<Job>>, ApiError> {
        let mut jobs = self.jobs();
        if let Some(running) = jobs.back().filter(|job| job.runs()) {
            return Ok(Err(running.clone()));
        }
        let started = SystemTime::now();
        let id = format!("{:016x}", since_1970_ns(started));
        let job = Job { id, started, start: Instant::now(), cancel: Cancel::default(), progress: Mutex::default() };
        let job = Arc::new(job);
        let (all, own) = (self.clone(), job.clone());
        let run = move || {
            tracing::info!(job = own.id, "indexing");
            let outcome = catch_unwind(AssertUnwindSafe(|| work(&own)));
            let outcome = outcome.unwrap_or_else(|_| Err(crate::serve::PANIC.to_owned()));
            let mut progress = own.progress();
            progress.took = Some(own.start.elapsed());
            match outcome {
                Ok(summary) if summary.cancelled => progress.state = Status::Cancelled,
                Ok(_) => progress.state = Status::Done,
                Err(error) if own.cancel.is_set() => {
                    tracing::info!(job = own.id, "while it was being stopped: {error}");
                    progress.state = Status::Cancelled;
                }
                Err(error) => (progress.state, progress.error) = (Status::Failed, Some(error)),
            }
            let Progress { state, indexed, failed, .. } = &*progress;
            tracing::info!(job = own.id, ?state, indexed, failed, "indexing ended");
            drop(progress);
            // Whoever waits holds the list between looking and waiting.
            drop(all.jobs());
            all.ended.notify_all();
        };
        let thread = std::thread::Builder::new().name("indexing".into()).stack_size(crate::serve::STACK_BYTES);
        thread.spawn(run).map_err(|error| ApiError::internal(&error))?;
        jobs.push_back(job.clone());
        if jobs.len() > MAX_JOBS {
            jobs.pop_front();
        }
        Ok(Ok(job))
    }

    /// Asks what runs to stop.
    pub(crate) fn cancel(&self) {
        self.jobs().iter().for_each(|job| job.cancel.set());
    }

    /// Stops what runs, and waits until it has put away what it had finished; not longer than this, though.
    pub(crate) fn stop(&self, patience: Duration) {
        let jobs = self.jobs();
        jobs.iter().for_each(|job| job.cancel.set());
        let waited = self.ended.wait_timeout_while(jobs, patience, |jobs| jobs.iter().any(|job| job.runs()));
        if waited.unwrap_or_else(PoisonError::into_inner).1.timed_out() {
            tracing::warn!("an indexing job is cut off; the index is as of its last commit");
        }
    }
}

/// The name of a folder, with a number if others have the same.
fn unique(path: &FilePath, taken: &mut HashSet<String>) -> String {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = full.file_name().map_or("library".into(), |name| name.to_string_lossy().into_owned());
    let mut names = std::iter::once(name.clone()).chain((2..).map(|n| format!("{name} ({n})")));
    let free = names.find(|name| !taken.contains(name)).unwrap_or(name);
    taken.insert(free.clone());
    free
}

/// Brings the index up to date with these folders.
fn index(app: &App, job: &Job, order: &Order, folders: Vec<PathBuf>) -> Result<IndexSummary, String> {
    let told = |error: ingest::Error| {
        tracing::error!("indexing: {error}");
        match &error {
            // The program's own path, wherever it lies.
            ingest::Error::Media(crate::media::Error::NoFfmpeg { .. }) => {
                "ffmpeg cannot be started on the server: install it there, or name it in REELSEEK_FFMPEG".to_owned()
            }
            error => app.shown(&error.to_string(), None),
        }
    };
    let (weights, checkpoint) = (app.options.weights.clone(), app.options.checkpoint.clone());
    // One processor is left to searches.
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let options = IndexOptions::new(folders)
        .jobs(processors.saturating_sub(1))
        .keyframes(order.keyframes)
        .prune(order.prune)
        .retry(order.retry)
        .model(ModelChoice { encoder: None, weights, checkpoint });
    let on_fit = |event: &ingest::closed_form::FitEvent| tracing::info!("{event}");
    let indexer = Indexer::open(&app.options.index, options, &job.cancel, on_fit).map_err(told)?;
    let summary = indexer.run(&job.cancel, |event| job.hear(app, event)).map_err(told)?;
    // Who sees that the job is done shall find what it did.
    if let Err(error) = app.refresh() {
        tracing::warn!("the index cannot be opened: {error}");
    }
    Ok(summary)
}

/// Routes of this file.
pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(start)).routes(routes!(list)).routes(routes!(show, cancel))
}

/// What to index, and how.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct Order {
    /// Names of folders, as `/v1/folders` gives them; all of them if not given.
    folders: Option<Vec<String>>,
    /// Take videos out of the index whose files have gone.
    prune: bool,
    /// Try files again that could not be decoded before, though they have not changed.
    retry: bool,
    /// Look at keyframes only: faster, coarser moments.
    keyframes: bool,
}

/// The job that was begun.
#[derive(Debug, Serialize, ToSchema)]
struct Begun {
    /// Its id.
    job: String,
}

/// The job that runs, and was not begun by this request.
#[derive(Debug, Serialize, ToSchema)]
struct Running {
    error: String,
    /// Its id.
    job: String,
}

/// Begins to index the folders that the server was started with: what is new or has changed in them.
#[utoipa::path(
    post, path = "/v1/index", tag = "indexing", request_body(content = Option<Order>, content_type = "application/json"),
    responses(
        (status = 202, description = "The job has begun", body = Begun),
        (status = 400, description = "Malformed, or a folder that is not known", body = ErrorBody),
        (status = 401, description = "A token is needed", body = ErrorBody),
        (status = 403, description = "Another Host or Origin, or the server has no folders to index", body = ErrorBody),
        (status = 408, description = "The body did not come in time", body = ErrorBody),
        (status = 409, description = "Another job runs", body = Running),
        (status = 413, description = "More than 64 kB", body = ErrorBody),
        (status = 415, description = "Not JSON", body = ErrorBody),
        (status = 429, description = "Too many requests at once", body = ErrorBody, headers(("Retry-After" = u32, description = "Seconds"))),
        (status = 500, description = "A fault of the server", body = ErrorBody),
        (status = 503, description = "The server is stopping", body = ErrorBody, headers(("Retry-After" = u32, description = "Seconds"))),
    )
)]
async fn start(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let kind = Kind::of(request.headers());
    let body = ask::whole(request).await?;
    let order: Order = match (body.is_empty(), kind) {
        (true, _) => Order::default(),
        (false, Kind::Json) => serde_json::from_slice::<Option<Order>>(&body)
            .map_err(|error| ApiError::malformed(format!("the body is not what is expected: {error}")))?
            .unwrap_or_default(),
        (false, _) => return Err(ask::unsupported("JSON")),
    };
    if app.jobs.folders.is_empty() {
        let text = "the server was started without folders to index: name them as `reelseek serve FOLDER`";
        return Err(ApiError::new(StatusCode::FORBIDDEN, text));
    }
    let folder = |name: &String| {
        let found = app.jobs.folders.iter().find(|(known, _)| known == name);
        found.map(|(_, path)| path.clone()).ok_or_else(|| {
            let known: Vec<&str> = app.jobs.folders().collect();
            ApiError::malformed(format!("there is no folder `{name}`: expected one of {}", known.join(", ")))
        })
    };
    let folders = match &order.folders {
        None => app.jobs.folders.iter().map(|(_, path)| path.clone()).collect(),
        Some(names) if names.is_empty() => {
            return Err(ApiError::malformed("`folders` names none: leave it out for all"));
        }
        Some(names) => names.iter().map(folder).collect::<Result<Vec<_>, _>>()?,
    };
    if app.stopping.is_set() {
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping"));
    }
    let worker = app.clone();
    match app.jobs.begin(move |job| index(&worker, job, &order, folders))? {
        Ok(job) => Ok((StatusCode::ACCEPTED, Json(Begun { job: job.id.clone() })).into_response()),
        Err(running) => {
            let error = "another job runs: wait for it, or cancel it".to_owned();
            Ok((StatusCode::CONFLICT, Json(Running { error, job: running.id.clone() })).into_response())
        }
    }
}

/// The jobs of this server.
#[derive(Debug, Serialize, ToSchema)]
struct List {
    /// The newest first, up to 100.
    jobs: Vec<Shown>,
}

/// The indexing jobs since the server's start.
#[utoipa::path(
    get, path = "/v1/jobs", tag = "indexing",
    responses(
        (status = 200, description = "The jobs, the newest first", body = List),
        (status = 401, description = "A token is needed", body = ErrorBody),
        (status = 403, description = "Another Host or Origin", body = ErrorBody),
    )
)]
async fn list(State(app): State<Arc<App>>) -> Json<List> {
    Json(List { jobs: app.jobs.jobs().iter().rev().map(|job| job.show()).collect() })
}

/// How an indexing job is.
#[utoipa::path(
    get, path = "/v1/jobs/{id}", tag = "indexing", params(("id" = String, Path, description = "Id of a job")),
    responses(
        (status = 200, description = "The job", body = Shown),
        (status = 400, description = "Malformed", body = ErrorBody),
        (status = 401, description = "A token is needed", body = ErrorBody),
        (status = 403, description = "Another Host or Origin", body = ErrorBody),
        (status = 404, description = "No such job", body = ErrorBody),
    )
)]
async fn show(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Shown>, ApiError> {
    Ok(Json(app.jobs.find(&id)?.show()))
}

/// Stops an indexing job. What it has finished is kept; one that has ended is left as it is.
#[utoipa::path(
    delete, path = "/v1/jobs/{id}", tag = "indexing", params(("id" = String, Path, description = "Id of a job")),
    responses(
        (status = 202, description = "It will stop in a moment", body = Shown),
        (status = 400, description = "Malformed", body = ErrorBody),
        (status = 401, description = "A token is needed", body = ErrorBody),
        (status = 403, description = "Another Host or Origin", body = ErrorBody),
        (status = 404, description = "No such job", body = ErrorBody),
    )
)]
async fn cancel(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let job = app.jobs.find(&id)?;
    job.cancel.set();
    Ok((StatusCode::ACCEPTED, Json(job.show())).into_response())
}

#[cfg(test)]
mod tests;
