//! `/v1/search/batch`: several searches in one request.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Request, State};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::task::JoinHandle;
use tracing::Instrument;
use utoipa::ToSchema;

use crate::base::Cancel;
use crate::serve::api::openapi::IndexErrors;
use crate::serve::api::params::QueryParams;
use crate::serve::api::request::{SearchRequest, read_batch};
use crate::serve::api::search::{SearchContext, SearchResponse};
use crate::serve::connection::registry::Connections;
use crate::serve::connection::response::ResponseReservation;
use crate::serve::error::{ApiError, ErrorBody};
use crate::serve::limits::{BATCH_TIME, MAX_BATCH_FETCHES};

/// The answers to a batch.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BatchResponse {
    /// In the order of the queries.
    #[schema(value_type = Vec<BatchAnswer>)]
    answers: Vec<Box<RawValue>>,
}

/// The answer to one query of a batch.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum BatchAnswer {
    Found(SearchResponse),
    Failed(ErrorBody),
}

impl BatchAnswer {
    /// The JSON of an answer.
    fn json(outcome: Result<SearchResponse, ApiError>) -> Result<Box<RawValue>, ApiError> {
        let answer = match outcome {
            Ok(response) => BatchAnswer::Found(response),
            Err(error) => BatchAnswer::Failed(ErrorBody { error: error.message }),
        };
        serde_json::value::to_raw_value(&answer).map_err(|error| ApiError::internal(&error))
    }
}

/// Runs up to 32 searches on one snapshot of the index.
#[utoipa::path(
    post, path = "/v1/search/batch", tag = "search", params(QueryParams<SearchRequest>),
    responses(
        (
            status = 200,
            description = "The answers in the order of the queries; a query that failed has an error instead",
            body = BatchResponse
        ),
        IndexErrors,
    )
)]
pub(crate) async fn batch(
    State(context): State<SearchContext>,
    State(connections): State<Arc<Connections>>,
    QueryParams(params): QueryParams<SearchRequest>,
    request: Request,
) -> Result<Json<BatchResponse>, ApiError> {
    let mut reservation = ResponseReservation::new(&connections, request.extensions());
    let (queries, options) = read_batch(&context.gate, params, request).await?;
    let options = Arc::new(options);
    let snapshot = context.snapshots.ready()?;
    // A wrong filter is one error of the batch, not one for each query. This wait for a worker also refuses
    // the batch when the queue is full, before anything is fetched.
    let (worker, filter) = (snapshot.clone(), options.search.filter.clone());
    let check = move || match &filter {
        Some(filter) => worker.engine.filter(filter).map(drop).map_err(ApiError::from),
        None => Ok(()),
    };
    context.gate.run(check).await?;
    let deadline = Instant::now() + BATCH_TIME;
    let mut queries = queries.into_iter();
    // Fetches are aborted when the client disconnects.
    let abort = |fetches: VecDeque<JoinHandle<_>>| fetches.iter().for_each(JoinHandle::abort);
    let mut fetches = scopeguard::guard(VecDeque::with_capacity(MAX_BATCH_FETCHES), abort);
    let mut answers = Vec::with_capacity(queries.len());
    loop {
        while let Some(query) = (fetches.len() < MAX_BATCH_FETCHES).then(|| queries.next()).flatten() {
            let fetcher = context.fetcher.clone();
            let fetch = async move { query.resolve(&fetcher, Some(deadline)).await };
            fetches.push_back(tokio::spawn(fetch.in_current_span()));
        }
        // The task stays in `fetches` until it ends.
        let Some(next) = fetches.front_mut() else { break };
        // A panic, which the panic hook has logged, fails its own query only.
        let query = next.await.unwrap_or_else(|_| Err(ApiError::panicked()));
        fetches.pop_front();
        let (worker, snapshot, options) = (context.clone(), snapshot.clone(), options.clone());
        let outcome = match query {
            _ if Instant::now() > deadline => Err(ApiError::busy("the batch ran out of time before this query")),
            // Each query waits for a worker by itself, so that single searches run in between.
            Ok(query) => {
                let work = move |cancel: &Cancel| worker.search(&snapshot, &query, &options, cancel);
                context.gate.run_further(deadline, work).await
            }
            Err(error) => Err(error),
        };
        let answer = BatchAnswer::json(outcome)?;
        reservation.grow(answer.get().len())?;
        answers.push(answer);
    }
    Ok(Json(BatchResponse { answers }))
}
