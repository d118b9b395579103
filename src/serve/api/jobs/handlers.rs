//! `/v1/index` and `/v1/jobs`: start, watch and stop indexing jobs.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::base::Cancel;
use crate::collection::ModelChoices;
use crate::ingest::closed_form::FitEvent;
use crate::ingest::{IndexOptions, IndexSummary, Indexer};
use crate::serve::advice;
use crate::serve::api::jobs::Jobs;
use crate::serve::api::jobs::job::{Job, JobStatus};
use crate::serve::api::openapi::IndexErrors;
use crate::serve::api::request::{body_bytes, unsupported};
use crate::serve::connection::body::BodyKind;
use crate::serve::error::ApiError;
use crate::serve::options::ServeOptions;
use crate::serve::snapshot::SnapshotStore;

/// State of the handlers of jobs.
#[derive(Clone)]
pub(crate) struct JobContext {
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) snapshots: Arc<SnapshotStore>,
    /// Set when the server stops.
    pub(crate) stopping: Cancel,
    pub(crate) options: Arc<ServeOptions>,
}

/// The folders to index, and how to index them.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct IndexRequest {
    /// Names of folders, as `/v1/folders` returns them; default all.
    folders: Option<Vec<String>>,
    /// Remove videos from the index whose files are gone.
    prune: bool,
    /// Decode files again that could not be decoded before, even if they have not changed.
    retry: bool,
    /// Decode keyframes only: faster, but moments are coarser.
    keyframes: bool,
}

/// The job that was started.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobStarted {
    /// Id of the job.
    job: String,
}

/// The job that was already running.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobConflict {
    error: String,
    /// Id of the job.
    job: String,
}

/// The jobs of this server.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobList {
    /// The newest first, up to 100.
    jobs: Vec<JobStatus>,
}

/// Starts a job that indexes new and changed files in the folders of the server.
#[utoipa::path(
    post, path = "/v1/index", tag = "indexing",
    request_body(content = Option<IndexRequest>, content_type = "application/json"),
    responses(
        (status = 202, description = "The job was started", body = JobStarted),
        (status = 409, description = "Another job is running", body = JobConflict),
        IndexErrors,
    )
)]
pub(crate) async fn start_job(State(context): State<JobContext>, request: Request) -> Result<Response, ApiError> {
    let kind = BodyKind::of(request.headers());
    let body = body_bytes(request).await?;
    let request: IndexRequest = match (body.is_empty(), kind) {
        (true, _) => IndexRequest::default(),
        (false, BodyKind::Json) => serde_json::from_slice::<Option<IndexRequest>>(&body)
            .map_err(|error| ApiError::malformed(format!("the body is not as expected: {error}")))?
            .unwrap_or_default(),
        (false, _) => return Err(unsupported("JSON")),
    };
    let folders = context.jobs.paths(request.folders.as_deref())?;
    if context.stopping.is_set() {
        return Err(ApiError::unavailable("the server is stopping"));
    }
    let jobs = context.jobs.clone();
    match jobs.start(move |job| index(&context, job, &request, folders))? {
        Ok(job) => Ok((StatusCode::ACCEPTED, Json(JobStarted { job: job.id.clone() })).into_response()),
        Err(running) => {
            let error = "another job is running: wait for it, or cancel it".to_owned();
            Ok((StatusCode::CONFLICT, Json(JobConflict { error, job: running.id.clone() })).into_response())
        }
    }
}

/// Runs a job: brings the index up to date with these folders.
fn index(
    context: &JobContext,
    job: &Job,
    request: &IndexRequest,
    folders: Vec<PathBuf>,
) -> Result<IndexSummary, String> {
    // One core is left for searches.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let serve = &context.options;
    let ModelChoices { scene, kind } = serve.model_choices();
    let options = IndexOptions::new(folders)
        .jobs(cores.saturating_sub(1))
        .keyframes(request.keyframes)
        .prune(request.prune)
        .retry(request.retry)
        .model(scene)
        .kind_model(kind);
    let on_fit = |event: &FitEvent| tracing::info!("{event}");
    let indexer = Indexer::open(&serve.index, options, &job.cancel, on_fit).map_err(advice::job_error)?;
    let summary = indexer.run(&job.cancel, |event| job.on_event(event)).map_err(advice::job_error)?;
    // The videos must be searchable when a client sees that the job has ended.
    if let Err(error) = context.snapshots.refresh() {
        tracing::warn!("the index cannot be opened: {error}");
    }
    Ok(summary)
}

/// Lists the indexing jobs since the server's start.
#[utoipa::path(
    get, path = "/v1/jobs", tag = "indexing",
    responses((status = 200, description = "The jobs, the newest first", body = JobList))
)]
pub(crate) async fn list_jobs(State(jobs): State<Arc<Jobs>>) -> Json<JobList> {
    Json(JobList { jobs: jobs.jobs.lock().iter().rev().map(|job| job.status()).collect() })
}

/// Returns the status of an indexing job.
#[utoipa::path(
    get, path = "/v1/jobs/{id}", tag = "indexing", params(("id" = String, Path, description = "Id of a job")),
    responses((status = 200, description = "The job", body = JobStatus))
)]
pub(crate) async fn job(State(jobs): State<Arc<Jobs>>, Path(id): Path<String>) -> Result<Json<JobStatus>, ApiError> {
    Ok(Json(jobs.find(&id)?.status()))
}

/// Stops an indexing job. Finished files are kept. A job that has ended does not change.
#[utoipa::path(
    delete, path = "/v1/jobs/{id}", tag = "indexing", params(("id" = String, Path, description = "Id of a job")),
    responses((status = 202, description = "The job stops in a moment", body = JobStatus))
)]
pub(crate) async fn cancel_job(State(jobs): State<Arc<Jobs>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let job = jobs.find(&id)?;
    job.cancel.set();
    Ok((StatusCode::ACCEPTED, Json(job.status())).into_response())
}
