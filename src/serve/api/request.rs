//! Search requests: pictures, forms and JSON, read into one struct that also describes them in the OpenAPI
//! document.

use std::time::Instant;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Multipart, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use bytes::Bytes;
use http_body_util::BodyExt;
use reelseek_index::Effort;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use crate::media::CropBox;
use crate::search::{Group, MatchChoice, SearchOptions};
use crate::serve::admission::gate::WorkerGate;
use crate::serve::api::json::{BoundedList, JsonObject};
use crate::serve::api::params::{ParamRange, QueryParams, RequestParams};
use crate::serve::connection::body::BodyKind;
use crate::serve::error::ApiError;
use crate::serve::guard::fetch::Fetcher;
use crate::serve::limits::{
    INLINE_JSON_BYTES, MAX_BATCH_QUERIES, MAX_FORM_FIELDS, MAX_FORM_TEXT_BYTES, MAX_VECTOR_NUMBERS,
};

const TOP: ParamRange = ParamRange { name: "top", min: 1.0, max: 100.0 };
const SKIP: ParamRange = ParamRange { name: "skip", min: 0.0, max: 10_000.0 };
const EF: ParamRange = ParamRange { name: "ef", min: 1.0, max: 100_000.0 };
const MIN_CONFIDENCE: ParamRange = ParamRange { name: "min_confidence", min: 0.0, max: 1.0 };
const DEFAULT_TOP: u32 = 10;

/// The fields of a search request: in its query string, in the text fields of a form, or in JSON.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SearchRequest {
    /// Embedding to search with. It has as many numbers as `dim` in `/v1/info`, and need not have unit norm.
    #[schema(inline)]
    vector: Option<Vector>,
    /// Web address of a picture, if the server may fetch it.
    url: Option<String>,
    /// The queries of a batch.
    #[schema(ignore)]
    queries: Option<BoundedList<JsonObject<BatchQuery>, MAX_BATCH_QUERIES>>,
    /// Most results to return; default 10.
    top: Option<u32>,
    /// Results to leave out at the start of the list: those of earlier pages.
    skip: Option<u32>,
    /// Search only the videos that match, as in `path:holiday label:surfing duration:[10 TO 60]`.
    filter: Option<String>,
    /// Compare the query with every row, so that nothing is missed.
    exact: Option<bool>,
    /// Breadth of the search in large indexes: a larger value finds more and takes longer. Ignored if `exact`
    /// is true.
    ef: Option<u32>,
    /// Leave out results with a lower confidence.
    min_confidence: Option<f64>,
    /// Unit of a result: a video (the default), or a moment.
    #[schema(inline)]
    group: Option<GroupBy>,
    /// Search only with this part of the picture: X,Y,W,H, the left and upper edge, the width and the height,
    /// in pixels, or with `%` in per cent of the picture.
    #[serde(default, deserialize_with = "crop_of_text")]
    #[schema(value_type = Option<String>, example = "10%,20%,80%,50%")]
    crop: Option<CropBox>,
    /// Search with the whole picture, and without plain borders: not with other parts of it, and not rotated.
    whole: Option<bool>,
    /// What results are: the same scene, the same kind of scene, or both (the default). A `vector` is
    /// compared with rows of the same scene unless this is `kind`.
    #[serde(rename = "match")]
    #[schema(inline)]
    matching: Option<MatchBy>,
}

fn crop_of_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<CropBox>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
}

/// The options of a search, and what is done to its picture before.
#[derive(Debug, Default)]
pub(crate) struct RequestOptions {
    pub(crate) search: SearchOptions,
    pub(crate) crop: Option<CropBox>,
}

type Vector = BoundedList<f32, MAX_VECTOR_NUMBERS>;

/// One query of a batch: a vector or a URL.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BatchQuery {
    vector: Option<Vector>,
    url: Option<String>,
}

/// The unit of a result.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum GroupBy {
    /// A video, at its best moment.
    Video,
    /// A moment.
    Moment,
}

/// The spaces that are searched.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum MatchBy {
    /// The same scene.
    Scene,
    /// The same kind of scene.
    Kind,
    /// The same scene first, then the same kind, as far as the index has both.
    Both,
}

impl RequestParams for SearchRequest {
    const BODY_ONLY: &'static [&'static str] = &["vector", "url", "queries"];

    fn numbers(&self) -> Vec<(ParamRange, Option<f64>)> {
        vec![
            (TOP, self.top.map(f64::from)),
            (SKIP, self.skip.map(f64::from)),
            (EF, self.ef.map(f64::from)),
            (MIN_CONFIDENCE, self.min_confidence),
        ]
    }
}

impl SearchRequest {
    /// The options of the search. An option that the body does not have is taken from the query string.
    fn options(self, query: SearchRequest) -> RequestOptions {
        let effort = match (self.exact.or(query.exact), self.ef.or(query.ef)) {
            (Some(true), _) => Effort::Exact,
            (_, Some(ef)) => Effort::Ef(ef as usize),
            (_, None) => Effort::Default,
        };
        let search = SearchOptions {
            top: self.top.or(query.top).unwrap_or(DEFAULT_TOP) as usize,
            skip: self.skip.or(query.skip).unwrap_or(0) as usize,
            group: match self.group.or(query.group) {
                Some(GroupBy::Moment) => Group::Moment,
                Some(GroupBy::Video) | None => Group::Video,
            },
            filter: self.filter.or(query.filter).filter(|filter| !filter.trim().is_empty()),
            min_confidence: self.min_confidence.or(query.min_confidence).unwrap_or(0.0) as f32,
            effort,
            whole: self.whole.or(query.whole).unwrap_or(false),
            matching: match self.matching.or(query.matching) {
                Some(MatchBy::Scene) => MatchChoice::Scene,
                Some(MatchBy::Kind) => MatchChoice::Kind,
                Some(MatchBy::Both) | None => MatchChoice::Both,
            },
        };
        RequestOptions { search, crop: self.crop.or(query.crop) }
    }
}

/// The query of one search.
#[derive(Debug)]
pub(crate) enum SearchQuery {
    Picture(Bytes),
    Vector(Vec<f32>),
    Url(String),
}

/// The query of one search, after its URL was fetched.
pub(crate) enum ResolvedQuery {
    Picture(Bytes),
    Vector(Vec<f32>),
}

impl SearchQuery {
    fn new(vector: Option<Vector>, url: Option<String>) -> Result<SearchQuery, ApiError> {
        match (vector, url) {
            (Some(BoundedList(vector)), None) => Ok(SearchQuery::Vector(vector)),
            (None, Some(url)) => Ok(SearchQuery::Url(url)),
            _ => Err(ApiError::malformed(
                "expected either a `vector` or a `url`; send a picture as a form, or as the body itself",
            )),
        }
    }

    /// Fetches the picture if the query is a URL.
    ///
    /// # Errors
    /// As [`Fetcher::fetch`].
    pub(crate) async fn resolve(self, fetcher: &Fetcher, deadline: Option<Instant>) -> Result<ResolvedQuery, ApiError> {
        match self {
            SearchQuery::Picture(bytes) => Ok(ResolvedQuery::Picture(bytes)),
            SearchQuery::Vector(vector) => Ok(ResolvedQuery::Vector(vector)),
            SearchQuery::Url(url) => fetcher.fetch(url, deadline).await.map(ResolvedQuery::Picture),
        }
    }
}

/// All bytes of the body, which [`crate::serve::connection::body::collect`] has read.
pub(crate) async fn body_bytes(request: Request) -> Result<Bytes, ApiError> {
    let body = request.into_body().collect().await;
    Ok(body.map_err(|_| ApiError::malformed("the body ends too early"))?.to_bytes())
}

/// Reads the query and the options of one search. `params` are the options of its query string.
///
/// # Errors
/// 400 or 415 if the body is not as expected; as [`WorkerGate::run`] if it is large JSON.
pub(crate) async fn read_search(
    gate: &WorkerGate,
    params: SearchRequest,
    request: Request,
) -> Result<(SearchQuery, RequestOptions), ApiError> {
    let (query, body) = match BodyKind::of(request.headers()) {
        BodyKind::Picture => (SearchQuery::Picture(body_bytes(request).await?), SearchRequest::default()),
        BodyKind::Json => {
            let mut body = read_json(gate, body_bytes(request).await?).await?;
            if body.queries.is_some() {
                return Err(ApiError::malformed("`queries` is a field of /v1/search/batch"));
            }
            (SearchQuery::new(body.vector.take(), body.url.take())?, body)
        }
        BodyKind::Form => {
            let mut form = read_form(request, 1).await?;
            let mut body = form.request()?;
            let query = match (form.images.pop(), body.url.take()) {
                (Some(image), None) => SearchQuery::Picture(image),
                (None, Some(url)) => SearchQuery::Url(url),
                _ => return Err(ApiError::malformed("the form must have either the field `image` or `url`")),
            };
            (query, body)
        }
        BodyKind::Unspecified | BodyKind::Other => {
            return Err(unsupported(
                "a picture (image/*, video/*, application/octet-stream), a form (multipart/form-data) or JSON",
            ));
        }
    };
    Ok((query, body.options(params)))
}

/// Reads the queries and the options of a batch. `params` are the options of its query string.
///
/// # Errors
/// As [`read_search`].
pub(crate) async fn read_batch(
    gate: &WorkerGate,
    params: SearchRequest,
    request: Request,
) -> Result<(Vec<SearchQuery>, RequestOptions), ApiError> {
    let (queries, body): (Vec<SearchQuery>, _) = match BodyKind::of(request.headers()) {
        BodyKind::Json => {
            let mut body = read_json(gate, body_bytes(request).await?).await?;
            let (None, None, Some(BoundedList(queries))) = (&body.vector, &body.url, body.queries.take()) else {
                return Err(ApiError::malformed("expected `queries`: a list of objects with a `vector` or a `url`"));
            };
            // The whole list is checked before the first search, so that a malformed body gets no partial
            // answer.
            let queries = queries.into_iter().map(|JsonObject(query)| SearchQuery::new(query.vector, query.url));
            (queries.collect::<Result<_, _>>()?, body)
        }
        BodyKind::Form => {
            let form = read_form(request, MAX_BATCH_QUERIES).await?;
            let body = form.request()?;
            if body.url.is_some() {
                return Err(ApiError::malformed("a form with several pictures takes no `url`; JSON does"));
            }
            (form.images.into_iter().map(SearchQuery::Picture).collect(), body)
        }
        _ => return Err(unsupported("a form (multipart/form-data) or JSON")),
    };
    match queries.len() {
        1..=MAX_BATCH_QUERIES => Ok((queries, body.options(params))),
        found => Err(ApiError::malformed(format!("{found} queries: expected 1 to {MAX_BATCH_QUERIES}"))),
    }
}

pub(crate) fn unsupported(expected: &str) -> ApiError {
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("unsupported Content-Type: expected {expected}"))
}

async fn read_json(gate: &WorkerGate, bytes: Bytes) -> Result<SearchRequest, ApiError> {
    if bytes.len() <= INLINE_JSON_BYTES {
        return parse_json(&bytes);
    }
    gate.run(move || parse_json(&bytes)).await
}

/// Parses the JSON of a search or a batch. Stops at the first byte that cannot belong to a valid request, so
/// that a list that is too long costs neither memory nor time.
pub(crate) fn parse_json(bytes: &[u8]) -> Result<SearchRequest, ApiError> {
    let JsonObject(request) = serde_json::from_slice::<JsonObject<SearchRequest>>(bytes)
        .map_err(|error| ApiError::malformed(format!("the body cannot be read as JSON: {error}")))?;
    request.check()?;
    Ok(request)
}

/// Fields of a form.
#[derive(Default)]
pub(crate) struct SearchForm {
    /// The files of the fields `image`.
    pub(crate) images: Vec<Bytes>,
    /// Name and value of all other fields.
    texts: Vec<(String, String)>,
}

impl SearchForm {
    /// The text fields as the fields of a request.
    fn request(&self) -> Result<SearchRequest, ApiError> {
        let encoded = serde_urlencoded::to_string(&self.texts).map_err(|error| ApiError::internal(&error))?;
        let request: SearchRequest =
            serde_urlencoded::from_str(&encoded).map_err(|error| ApiError::malformed(error.to_string()))?;
        request.check()?;
        Ok(request)
    }

    /// The field `url`, whatever other text fields there are.
    ///
    /// # Errors
    /// 400 if there are several.
    pub(crate) fn url(&self) -> Result<Option<String>, ApiError> {
        let mut urls = self.texts.iter().filter(|(name, _)| name == "url").map(|(_, url)| url.clone());
        match (urls.next(), urls.next()) {
            (_, Some(_)) => Err(ApiError::malformed("duplicate field `url`")),
            (url, None) => Ok(url),
        }
    }
}

/// Reads a form with at most `max_images` pictures.
///
/// # Errors
/// 400 if it is no form, or exceeds a limit.
pub(crate) async fn read_form(request: Request, max_images: usize) -> Result<SearchForm, ApiError> {
    let broken = |error: &dyn std::fmt::Display| ApiError::malformed(format!("the form cannot be read: {error}"));
    let mut multipart = Multipart::from_request(request, &()).await.map_err(|error| broken(&error.body_text()))?;
    let mut form = SearchForm::default();
    while let Some(field) = multipart.next_field().await.map_err(|error| broken(&error.body_text()))? {
        if form.images.len() + form.texts.len() == MAX_FORM_FIELDS {
            return Err(ApiError::malformed(format!("the form has more than {MAX_FORM_FIELDS} fields")));
        }
        let Some(name) = field.name().map(str::to_owned) else {
            return Err(ApiError::malformed("a part of the form has no name: expected name=\"image\" or an option"));
        };
        let bytes = field.bytes().await.map_err(|error| broken(&error.body_text()))?;
        if name == "image" {
            if form.images.len() == max_images {
                return Err(ApiError::malformed(format!("more than {max_images} fields `image`")));
            }
            form.images.push(bytes);
            continue;
        }
        if bytes.len() > MAX_FORM_TEXT_BYTES {
            return Err(ApiError::malformed(format!("the field `{name}` has more than {MAX_FORM_TEXT_BYTES} bytes")));
        }
        let text = String::from_utf8(bytes.to_vec())
            .map_err(|_| ApiError::malformed(format!("the field `{name}` is not UTF-8 text")))?;
        form.texts.push((name, text));
    }
    Ok(form)
}

/// Whether these are the query string and the form of a search or a batch.
pub(crate) async fn is_form(query: &str, content_type: &str, body: Vec<u8>) -> bool {
    let head = Request::post(format!("/v1/search?{query}")).header(CONTENT_TYPE, content_type);
    let Ok(request) = head.body(Body::from(body)) else { return false };
    let (mut parts, body) = request.into_parts();
    if QueryParams::<SearchRequest>::from_request_parts(&mut parts, &()).await.is_err() {
        return false;
    }
    let form = read_form(Request::from_parts(parts, body), MAX_BATCH_QUERIES).await;
    form.is_ok_and(|form| form.request().is_ok())
}

#[cfg(test)]
mod tests;
