//! `/v1/search`, `/v1/search/batch`, `/v1/info`: pictures or vectors in, moments out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Query, Request, State};
use bytes::Bytes;
use reelseek_index::Effort;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tracing::Instrument;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::media;
use crate::search::{SearchAnswer, SearchResult, Group, SearchOptions};
use crate::serve::api::ask::{self, Ask, Batch, Looked};
use crate::serve::api::media::shown;
use crate::serve::error::{ApiError, ErrorBody};
use crate::serve::observe::metrics::Stage;
use crate::serve::state::{App, Snapshot};

/// The most pixels of a picture: what the largest cameras make, decoded in a second or two.
pub(crate) const MAX_PIXELS: u64 = 50_000_000;
/// Ranges of the options.
const MAX_TOP: usize = 100;
const MAX_SKIP: usize = 10_000;
const MAX_EF: usize = 100_000;
const DEFAULT_TOP: usize = 10;
/// Time in which the queries of a batch must have their turns, fetched pictures included: what is done by then is told.
const BATCH_TIME: Duration = Duration::from_secs(20);
/// Queries of a batch that are fetched before their turn.
const AHEAD: usize = 4;

/// Routes of this file.
pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(search)).routes(routes!(batch)).routes(routes!(info))
}

/// What a search shall return.
#[derive(Debug, Clone, Default, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Wish {
    /// Results at most; 10 if not given.
    #[schema(minimum = 1, maximum = 100)]
    #[param(minimum = 1, maximum = 100)]
    pub(crate) top: Option<usize>,
    /// Better results that are left out: those of the pages before.
    #[schema(minimum = 0, maximum = 10000)]
    #[param(minimum = 0, maximum = 10000)]
    pub(crate) skip: Option<usize>,
    /// Only videos that match, as in `path:holiday label:surfing duration:[10 TO 60]`.
    pub(crate) filter: Option<String>,
    /// Compare with every row, so that nothing is missed.
    pub(crate) exact: Option<bool>,
    /// Breadth of the search in large indexes: more finds more, and takes longer. Means nothing where `exact` is true.
    #[schema(minimum = 1, maximum = 100000)]
    #[param(minimum = 1, maximum = 100000)]
    pub(crate) ef: Option<usize>,
    /// Only results of at least this confidence.
    #[schema(minimum = 0.0, maximum = 1.0)]
    #[param(minimum = 0.0, maximum = 1.0)]
    pub(crate) min_confidence: Option<f32>,
    /// One result a video, or all moments that were looked at.
    pub(crate) group: Option<GroupBy>,
}

/// What one result is.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum GroupBy {
    /// A video, at its best moment.
    Video,
    /// A moment.
    Moment,
}

impl Wish {
    /// The options of the search: these, and where nothing is said, those. 400 if one of either is out of its range.
    fn over(self, other: Wish) -> Result<SearchOptions, ApiError> {
        other.options()?;
        let both = Wish {
            top: self.top.or(other.top),
            skip: self.skip.or(other.skip),
            filter: self.filter.or(other.filter),
            exact: self.exact.or(other.exact),
            ef: self.ef.or(other.ef),
            min_confidence: self.min_confidence.or(other.min_confidence),
            group: self.group.or(other.group),
        };
        both.options()
    }

    /// The options of the search; 400 if one is out of its range.
    pub(crate) fn options(&self) -> Result<SearchOptions, ApiError> {
        fn within<T: PartialOrd + std::fmt::Display + Copy>(
            name: &str,
            value: T,
            range: std::ops::RangeInclusive<T>,
        ) -> Result<T, ApiError> {
            let text = || format!("{name} is {value}: expected {} to {}", range.start(), range.end());
            if range.contains(&value) { Ok(value) } else { Err(ApiError::malformed(text())) }
        }
        let effort = match (self.exact, self.ef) {
            (Some(true), ef) => ef.map_or(Ok(MAX_EF), |ef| within("ef", ef, 1..=MAX_EF)).map(|_| Effort::Exact)?,
            (_, Some(ef)) => Effort::Ef(within("ef", ef, 1..=MAX_EF)?),
            (_, None) => Effort::Default,
        };
        Ok(SearchOptions {
            top: within("top", self.top.unwrap_or(DEFAULT_TOP), 1..=MAX_TOP)?,
            skip: within("skip", self.skip.unwrap_or(0), 0..=MAX_SKIP)?,
            group: match self.group {
                Some(GroupBy::Moment) => Group::Moment,
                Some(GroupBy::Video) | None => Group::Video,
            },
            filter: self.filter.clone().filter(|filter| !filter.trim().is_empty()),
            min_confidence: within("min_confidence", self.min_confidence.unwrap_or(0.0), 0.0..=1.0)?,
            effort,
        })
    }
}

/// The answer to a search.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Reply {
    /// Time from the picture to the results, in milliseconds, without waiting for a turn.
    took_ms: f64,
    /// Whether every row was compared, so that nothing can have been missed.
    exact: bool,
    /// Whether there are results beyond these: another page.
    more: bool,
    /// The commit of the index that was searched, counted since the server's start.
    generation: u64,
    /// Best first.
    results: Vec<Shown>,
}

/// A video and the moment in it. Times are in seconds from the first frame.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Result)]
pub(crate) struct Shown {
    /// From 1, pages before counted.
    rank: usize,
    /// The video's id.
    video: String,
    title: String,
    /// The file's name, without its folders.
    name: String,
    /// Where the file is, if the server is told to show that.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    labels: Vec<String>,
    /// Cosine.
    score: f32,
    /// 0.95: a picture that is not in these videos gets that far by chance once in 20.
    confidence: f32,
    from: f64,
    at: f64,
    to: f64,
    duration: f64,
    /// A picture of the moment.
    thumbnail: String,
    /// The moment as a short video.
    preview: String,
    /// The whole video.
    media: String,
}

/// Milliseconds as seconds.
pub(crate) fn seconds(ms: u32) -> f64 {
    f64::from(ms) / 1000.0
}

/// The name of a video's file, without its folders.
pub(crate) fn name_of(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

/// Links to a moment's picture and video.
pub(crate) fn links(app: &App, found: &SearchResult) -> (String, String) {
    let (id, moment) = (&found.video.id, found.moment);
    let thumbnail = app.link(format!("/v1/thumbnail?video={id}&at={}", seconds(moment.at_ms)));
    let (from_ms, to_ms) = shown(moment);
    let (from, to) = (seconds(from_ms), seconds(to_ms));
    (thumbnail, app.link(format!("/v1/preview?video={id}&from={from}&to={to}")))
}

impl Reply {
    fn new(app: &App, snapshot: &Snapshot, options: &SearchOptions, answer: SearchAnswer) -> Reply {
        let results = answer.results.into_iter().enumerate().map(|(i, found)| {
            let (thumbnail, preview) = links(app, &found);
            let SearchResult { video, score, confidence, moment, .. } = found;
            Shown {
                rank: options.skip + i + 1,
                name: name_of(&video.path).to_owned(),
                media: app.link(format!("/v1/media/{}", video.id)),
                path: app.options.show_paths.then_some(video.path),
                video: video.id,
                title: video.title,
                labels: video.labels,
                score,
                confidence,
                from: seconds(moment.from_ms),
                at: seconds(moment.at_ms),
                to: seconds(moment.to_ms),
                duration: video.duration_ms as f64 / 1000.0,
                thumbnail,
                preview,
            }
        });
        Reply {
            took_ms: (answer.elapsed.as_secs_f64() * 1e6).round() / 1000.0,
            exact: answer.exact,
            more: answer.more,
            generation: snapshot.generation,
            results: results.collect(),
        }
    }
}

/// Searches a snapshot by a picture's bytes, with the stages timed.
pub(crate) fn by_picture(app: &App, snapshot: &Snapshot, bytes: &Bytes, options: &SearchOptions) -> Result<SearchAnswer, ApiError> {
    let start = Instant::now();
    let picture = media::image::read_within(bytes, "the image", MAX_PIXELS)?.picture;
    app.metrics.observe(Stage::Decode, start.elapsed());
    let answer = snapshot.engine.search(&picture, options)?;
    app.metrics.observe(Stage::Encode, answer.encoding);
    app.metrics.observe(Stage::Search, answer.elapsed.saturating_sub(answer.encoding));
    Ok(SearchAnswer { elapsed: start.elapsed(), ..answer })
}

/// Searches a snapshot by whatever was asked. Takes a processor.
fn by(app: &App, snapshot: &Snapshot, looked: &Looked, options: &SearchOptions) -> Result<Reply, ApiError> {
    let answer = match looked {
        Looked::Picture(bytes) => by_picture(app, snapshot, bytes, options)?,
        Looked::Vector(vector) => {
            let answer = snapshot.engine.search_vector(vector, options)?;
            app.metrics.observe(Stage::Search, answer.elapsed);
            answer
        }
    };
    Ok(Reply::new(app, snapshot, options, answer))
}

/// Finds the videos, and the moment in each, that show what a picture shows.
///
/// The picture comes as the body (`image/*` or `application/octet-stream`), or as the field `image` of a form. In its place JSON may bring a `vector`
/// of the index's length, or JSON and forms a `url` if the server is allowed to fetch. Options come as parameters, or with the JSON or the form.
/// Plain borders are looked at both with and without.
#[utoipa::path(
    post, path = "/v1/search", tag = "search", params(Wish),
    request_body(content((ask::Form = "multipart/form-data"), (ask::Raw = "image/jpeg"), (ask::Raw = "image/png"), (ask::Raw = "application/octet-stream"), (ask::One = "application/json"))),
    responses(
        (status = 200, description = "The results, best first; none for a flat picture", body = Reply),
        (status = 400, description = "Malformed: the options, the body, or the picture in it", body = ErrorBody),
        (status = 401, description = "A token is needed", body = ErrorBody),
        (status = 403, description = "Another Host or Origin, or a `url` where the server may not fetch", body = ErrorBody),
        (status = 408, description = "The body did not come in time", body = ErrorBody),
        (status = 413, description = "More than 25 MB, or 4 MB of JSON", body = ErrorBody),
        (status = 415, description = "No picture of a known kind", body = ErrorBody),
        (status = 422, description = "More than 50 million pixels", body = ErrorBody),
        (status = 429, description = "Too many requests at once", body = ErrorBody, headers(("Retry-After" = u32, description = "Seconds"))),
        (status = 500, description = "A fault of the server", body = ErrorBody),
        (status = 502, description = "The address of the picture does not answer", body = ErrorBody),
        (status = 503, description = "No index yet, or it took too long", body = ErrorBody, headers(("Retry-After" = u32, description = "Seconds"))),
    )
)]
async fn search(
    State(app): State<Arc<App>>,
    Query(wish): Query<Wish>,
    request: Request,
) -> Result<Json<Reply>, ApiError> {
    let Ask { sought, wish: own } = ask::one(&app, request).await?;
    let options = own.over(wish)?;
    let snapshot = app.ready()?;
    let looked = sought.look(&app, None).await?;
    let worker = app.clone();
    let reply = app.gate.run(&app.metrics, move || by(&worker, &snapshot, &looked, &options)).await?;
    Ok(Json(reply))
}

/// The answers to a batch.
#[derive(Debug, Serialize, ToSchema)]
struct Replies {
    /// In the order of the queries.
    answers: Vec<OneReply>,
}

/// What became of one query of a batch.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum OneReply {
    /// It was answered.
    Answer(Reply),
    /// It was not.
    Failure(ErrorBody),
}

impl From<Result<Reply, ApiError>> for OneReply {
    fn from(outcome: Result<Reply, ApiError>) -> OneReply {
        match outcome {
            Ok(reply) => OneReply::Answer(reply),
            Err(error) => OneReply::Failure(ErrorBody { error: error.message }),
        }
    }
}

/// What is looked up before its turn; no longer than somebody waits for it.
struct Ahead<T>(VecDeque<JoinHandle<T>>);

impl<T> Drop for Ahead<T> {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// Several searches at once, up to 32, on one snapshot of the index.
#[utoipa::path(
    post, path = "/v1/search/batch", tag = "search", params(Wish),
    request_body(content((ask::Forms = "multipart/form-data"), (ask::Many = "application/json"))),
    responses(
        (status = 200, description = "The answers in order; what is wrong with one query is told in its place", body = Replies),
        (status = 400, description = "Malformed: the options or the body", body = ErrorBody),
        (status = 401, description = "A token is needed", body = ErrorBody),
        (status = 403, description = "Another Host or Origin", body = ErrorBody),
        (status = 408, description = "The body did not come in time", body = ErrorBody),
        (status = 413, description = "More than 25 MB, or 4 MB of JSON", body = ErrorBody),
        (status = 415, description = "Neither a form nor JSON", body = ErrorBody),
        (status = 429, description = "Too many requests at once", body = ErrorBody, headers(("Retry-After" = u32, description = "Seconds"))),
        (status = 500, description = "A fault of the server", body = ErrorBody),
        (status = 503, description = "No index yet, or it took too long", body = ErrorBody, headers(("Retry-After" = u32, description = "Seconds"))),
    )
)]
async fn batch(
    State(app): State<Arc<App>>,
    Query(wish): Query<Wish>,
    request: Request,
) -> Result<Json<Replies>, ApiError> {
    let Batch { sought, wish: own } = ask::many(&app, request).await?;
    let options = Arc::new(own.over(wish)?);
    let snapshot = app.ready()?;
    // A filter that cannot be understood is one mistake, not one for each query; and who comes when too many wait is sent away before anything is fetched.
    let (held, wish) = (snapshot.clone(), options.clone());
    let check = move || match &wish.filter {
        Some(filter) => held.engine.searcher().filter(filter).map(drop).map_err(ApiError::from),
        None => Ok(()),
    };
    app.gate.run(&app.metrics, check).await?;
    let until = Instant::now() + BATCH_TIME;
    let mut queries = sought.into_iter();
    let mut coming = Ahead(VecDeque::with_capacity(AHEAD));
    let mut answers = Vec::with_capacity(queries.len());
    loop {
        while let Some(sought) = (coming.0.len() < AHEAD).then(|| queries.next()).flatten() {
            let app = app.clone();
            let look = async move { sought.look(&app, Some(until)).await };
            coming.0.push_back(tokio::spawn(look.in_current_span()));
        }
        // It stays among them until it is there: whoever leaves stops it too.
        let Some(next) = coming.0.front_mut() else { break };
        let looked = next.await.map_err(|error| ApiError::internal(&error))?;
        coming.0.pop_front();
        let (worker, snapshot, options) = (app.clone(), snapshot.clone(), options.clone());
        let outcome = match looked {
            _ if Instant::now() > until => Err(ApiError::busy("the batch took too long before it came to this one")),
            // A turn for each: single searches come in between.
            Ok(looked) => {
                let work = move || by(&worker, &snapshot, &looked, &options);
                app.gate.run_further(&app.metrics, until, work).await
            }
            Err(error) => Err(error),
        };
        answers.push(outcome.into());
    }
    Ok(Json(Replies { answers }))
}

/// What this server is.
#[derive(Debug, Serialize, ToSchema)]
struct Info {
    /// Of the program.
    version: &'static str,
    /// Name and version of the encoder; `null` without an index.
    encoder: Option<String>,
    /// Whether pictures are asked for the very scene, and not for the kind of it.
    same_scene: bool,
    /// Length of vectors; 0 without an index.
    dim: usize,
    videos: usize,
    rows: usize,
    /// Commits of the index taken up since the start.
    generation: u64,
    /// Whether pictures may be given by their address.
    fetch: bool,
    /// Whether there are folders that may be indexed from here.
    indexing: bool,
    /// Whether there is an index.
    index: bool,
}

/// What is served, and what the server may do.
#[utoipa::path(
    get, path = "/v1/info", tag = "search",
    responses(
        (status = 200, description = "About the server and its index", body = Info),
        (status = 401, description = "A token is needed", body = ErrorBody),
        (status = 403, description = "Another Host or Origin", body = ErrorBody),
    )
)]
async fn info(State(app): State<Arc<App>>) -> Json<Info> {
    let snapshot = app.snapshot();
    let snapshot = snapshot.as_deref();
    let about = snapshot.map(|s| s.engine.encoder().info());
    Json(Info {
        version: env!("CARGO_PKG_VERSION"),
        encoder: about.map(|about| about.id.clone()),
        same_scene: about.is_some_and(|about| about.same_scene),
        dim: snapshot.map_or(0, |s| s.engine.searcher().settings().dim),
        videos: snapshot.map_or(0, |s| s.videos),
        rows: snapshot.map_or(0, |s| s.engine.searcher().rows()),
        generation: snapshot.map_or(0, |s| s.generation),
        fetch: app.options.fetch,
        indexing: !app.options.library.is_empty(),
        index: snapshot.is_some(),
    })
}
