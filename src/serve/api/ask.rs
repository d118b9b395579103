//! From a request's body to what is sought: a picture, its address, or a vector, with options.

use std::time::Instant;

use axum::extract::{FromRequest, Multipart, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::serve::api::json::{self, Body, Query};
use crate::serve::api::search::{GroupBy, Wish};
use crate::serve::connection::body::MAX_BYTES;
use crate::serve::error::ApiError;
use crate::serve::state::App;

/// Queries of one batch.
pub(crate) const MAX_QUERIES: usize = 32;
/// Bytes of a form's field that is text: more than the longest filter and the longest address.
const MAX_TEXT_BYTES: usize = 64 << 10;
/// Fields of a form: the pictures of a batch, and each option.
const MAX_FIELDS: usize = MAX_QUERIES + 16;

/// What is asked for.
pub(crate) struct Ask {
    pub(crate) sought: Sought,
    pub(crate) wish: Wish,
}

/// Several at once, with the same options.
pub(crate) struct Batch {
    pub(crate) sought: Vec<Sought>,
    pub(crate) wish: Wish,
}

/// What is sought.
#[derive(Debug)]
pub(crate) enum Sought {
    Picture(Bytes),
    Vector(Vec<f32>),
    Url(String),
}

/// What is sought, fetched if need be.
pub(crate) enum Looked {
    Picture(Bytes),
    Vector(Vec<f32>),
}

impl Sought {
    /// What is fetched must be there by then.
    pub(crate) async fn look(self, app: &App, until: Option<Instant>) -> Result<Looked, ApiError> {
        match self {
            Sought::Picture(bytes) => Ok(Looked::Picture(bytes)),
            Sought::Vector(vector) => Ok(Looked::Vector(vector)),
            Sought::Url(url) => app.fetch(url, until).await.map(Looked::Picture),
        }
    }
}

// The bodies as the API's document describes them; what is read is read below.

/// A picture's file: JPEG, PNG, WebP, GIF, BMP, TIFF, PNM or QOI.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
pub(crate) struct Raw(#[allow(dead_code, reason = "only its schema is used")] String);

/// A picture, or its address, with options.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its schema is used")]
pub(crate) struct Form {
    /// The picture's file.
    #[schema(value_type = String, format = Binary, required = false)]
    image: Option<String>,
    /// Address of a picture, in place of its file.
    #[schema(value_type = String, required = false)]
    url: Option<String>,
    #[schema(value_type = u32, required = false, minimum = 1, maximum = 100)]
    top: Option<u32>,
    #[schema(value_type = u32, required = false, minimum = 0, maximum = 10000)]
    skip: Option<u32>,
    #[schema(value_type = String, required = false)]
    filter: Option<String>,
    #[schema(value_type = bool, required = false)]
    exact: Option<bool>,
    #[schema(value_type = u32, required = false, minimum = 1, maximum = 100000)]
    ef: Option<u32>,
    #[schema(value_type = f32, required = false, minimum = 0.0, maximum = 1.0)]
    min_confidence: Option<f32>,
    #[schema(value_type = GroupBy, required = false, inline)]
    group: Option<GroupBy>,
}

/// A picture, or its address.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its schema is used")]
pub(crate) struct PlainForm {
    /// The picture's file.
    #[schema(value_type = String, format = Binary, required = false)]
    image: Option<String>,
    /// Address of a picture, in place of its file.
    #[schema(value_type = String, required = false)]
    url: Option<String>,
}

/// Pictures, with options for all.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its schema is used")]
pub(crate) struct Forms {
    /// The pictures' files.
    #[schema(value_type = Vec<Raw>, min_items = 1, max_items = 32)]
    image: Vec<String>,
    #[schema(value_type = u32, required = false, minimum = 1, maximum = 100)]
    top: Option<u32>,
    #[schema(value_type = u32, required = false, minimum = 0, maximum = 10000)]
    skip: Option<u32>,
    #[schema(value_type = String, required = false)]
    filter: Option<String>,
    #[schema(value_type = bool, required = false)]
    exact: Option<bool>,
    #[schema(value_type = u32, required = false, minimum = 1, maximum = 100000)]
    ef: Option<u32>,
    #[schema(value_type = f32, required = false, minimum = 0.0, maximum = 1.0)]
    min_confidence: Option<f32>,
    #[schema(value_type = GroupBy, required = false, inline)]
    group: Option<GroupBy>,
}

/// A vector or an address, with options.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "only its schema is used")]
pub(crate) enum One {
    Vector(ByVector),
    Url(ByUrl),
}

/// A vector, with options.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
pub(crate) struct ByVector {
    /// An embedding, of the length that `/v1/info` tells; it need not be of length 1.
    vector: Vec<f32>,
    #[schema(minimum = 1, maximum = 100)]
    top: Option<u32>,
    #[schema(minimum = 0, maximum = 10000)]
    skip: Option<u32>,
    filter: Option<String>,
    exact: Option<bool>,
    #[schema(minimum = 1, maximum = 100000)]
    ef: Option<u32>,
    #[schema(minimum = 0.0, maximum = 1.0)]
    min_confidence: Option<f32>,
    group: Option<GroupBy>,
}

/// The address of a picture, with options.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
pub(crate) struct ByUrl {
    /// Of the web, if the server is allowed to fetch it.
    url: String,
    #[schema(minimum = 1, maximum = 100)]
    top: Option<u32>,
    #[schema(minimum = 0, maximum = 10000)]
    skip: Option<u32>,
    filter: Option<String>,
    exact: Option<bool>,
    #[schema(minimum = 1, maximum = 100000)]
    ef: Option<u32>,
    #[schema(minimum = 0.0, maximum = 1.0)]
    min_confidence: Option<f32>,
    group: Option<GroupBy>,
}

/// Vectors or addresses, with options for all.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
pub(crate) struct Many {
    #[schema(min_items = 1, max_items = 32)]
    queries: Vec<Either>,
    #[schema(minimum = 1, maximum = 100)]
    top: Option<u32>,
    #[schema(minimum = 0, maximum = 10000)]
    skip: Option<u32>,
    filter: Option<String>,
    exact: Option<bool>,
    #[schema(minimum = 1, maximum = 100000)]
    ef: Option<u32>,
    #[schema(minimum = 0.0, maximum = 1.0)]
    min_confidence: Option<f32>,
    group: Option<GroupBy>,
}

/// One of the two.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "only its schema is used")]
pub(crate) enum Either {
    Vector(OneVector),
    Url(OneUrl),
}

/// A vector.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
pub(crate) struct OneVector {
    vector: Vec<f32>,
}

/// The address of a picture.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
pub(crate) struct OneUrl {
    url: String,
}

/// What a body is, by its Content-Type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Form,
    Json,
    /// A picture; the content tells which format.
    Picture,
    /// Nothing is said, or what curl says when it is told nothing.
    Unsaid,
    Other,
}

impl Kind {
    pub(crate) fn of(headers: &HeaderMap) -> Kind {
        let Some(value) = headers.get(CONTENT_TYPE) else { return Kind::Unsaid };
        let essence = value.to_str().unwrap_or("?").split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "multipart/form-data" => Kind::Form,
            "application/json" => Kind::Json,
            "application/octet-stream" => Kind::Picture,
            "application/x-www-form-urlencoded" | "" => Kind::Unsaid,
            other if other.starts_with("image/") => Kind::Picture,
            _ => Kind::Other,
        }
    }
}

/// The body of a request, which [`crate::serve::connection::body::collect`] made whole.
pub(crate) async fn whole(request: Request) -> Result<Bytes, ApiError> {
    let body = request.into_body().collect().await;
    Ok(body.map_err(|_| ApiError::malformed("the body broke off"))?.to_bytes())
}

/// One search.
pub(crate) async fn one(app: &App, request: Request) -> Result<Ask, ApiError> {
    match Kind::of(request.headers()) {
        Kind::Picture => Ok(Ask { sought: Sought::Picture(whole(request).await?), wish: Wish::default() }),
        Kind::Json => {
            let Body { query, queries, wish } = json::read(app, whole(request).await?).await?;
            if queries.is_some() {
                return Err(ApiError::malformed("`queries` are what /v1/search/batch takes"));
            }
            Ok(Ask { sought: query.sought()?, wish })
        }
        Kind::Form => {
            let fields = fields(request, 1).await?;
            let wish = fields.wish()?;
            let Fields { mut images, url, .. } = fields;
            let sought = match (images.pop(), url) {
                (Some(image), None) => Sought::Picture(image),
                (None, Some(url)) => Sought::Url(url),
                _ => return Err(ApiError::malformed("the form must have either the field `image` or `url`")),
            };
            Ok(Ask { sought, wish })
        }
        Kind::Unsaid | Kind::Other => {
            Err(unsupported("a picture (image/*, application/octet-stream), a form (multipart/form-data) or JSON"))
        }
    }
}

/// Several searches.
pub(crate) async fn many(app: &App, request: Request) -> Result<Batch, ApiError> {
    let batch = match Kind::of(request.headers()) {
        Kind::Json => {
            let Body { query, queries, wish } = json::read(app, whole(request).await?).await?;
            let (None, Some(queries)) = (query.given(), queries) else {
                return Err(ApiError::malformed("there must be `queries`: a list of objects with `vector` or `url`"));
            };
            // The list is looked at as a whole before anything is searched: what is malformed is malformed.
            Batch { sought: queries.into_iter().map(Query::sought).collect::<Result<Vec<_>, _>>()?, wish }
        }
        Kind::Form => {
            let fields = fields(request, MAX_QUERIES).await?;
            let wish = fields.wish()?;
            let Fields { images, url, .. } = fields;
            if url.is_some() {
                return Err(ApiError::malformed("a form with several pictures takes no `url`: JSON does"));
            }
            Batch { sought: images.into_iter().map(Sought::Picture).collect(), wish }
        }
        _ => return Err(unsupported("a form (multipart/form-data) or JSON")),
    };
    match batch.sought.len() {
        1..=MAX_QUERIES => Ok(batch),
        found => Err(ApiError::malformed(format!("{found} queries: expected 1 to {MAX_QUERIES}"))),
    }
}

pub(crate) fn unsupported(expected: &str) -> ApiError {
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("the Content-Type must be that of {expected}"))
}

/// What a form brings.
#[derive(Default)]
pub(crate) struct Fields {
    pub(crate) images: Vec<Bytes>,
    pub(crate) url: Option<String>,
    /// All other fields, as text.
    options: Vec<(String, String)>,
}

impl Fields {
    /// The other fields as options.
    fn wish(&self) -> Result<Wish, ApiError> {
        let encoded = serde_urlencoded::to_string(&self.options).map_err(|error| ApiError::internal(&error))?;
        serde_urlencoded::from_str(&encoded).map_err(|error| ApiError::malformed(error.to_string()))
    }
}

/// Reads a form with at most so many pictures.
pub(crate) async fn fields(request: Request, max_images: usize) -> Result<Fields, ApiError> {
    let broken = |error: &dyn std::fmt::Display| ApiError::malformed(format!("the form cannot be read: {error}"));
    let mut form = Multipart::from_request(request, &()).await.map_err(|error| broken(&error.body_text()))?;
    let mut fields = Fields::default();
    let mut count = 0;
    while let Some(field) = form.next_field().await.map_err(|error| broken(&error.body_text()))? {
        count += 1;
        if count > MAX_FIELDS {
            return Err(ApiError::malformed(format!("the form has more than {MAX_FIELDS} fields")));
        }
        let Some(name) = field.name().map(str::to_owned) else {
            return Err(ApiError::malformed("a part of the form has no name: expected name=\"image\", or an option's"));
        };
        let bytes = field.bytes().await.map_err(|error| broken(&error.body_text()))?;
        if name == "image" {
            fields.images.push(bytes);
            if fields.images.len() > max_images {
                return Err(ApiError::malformed(format!("more than {max_images} fields `image`")));
            }
            continue;
        }
        if bytes.len() > MAX_TEXT_BYTES {
            return Err(ApiError::malformed(format!("the field `{name}` has more than {MAX_TEXT_BYTES} bytes")));
        }
        let text = String::from_utf8(bytes.to_vec())
            .map_err(|_| ApiError::malformed(format!("the field `{name}` is no UTF-8 text")))?;
        if name != "url" {
            fields.options.push((name, text));
        } else if fields.url.replace(text).is_some() {
            return Err(ApiError::malformed("the form has more than 1 field `url`"));
        }
    }
    Ok(fields)
}

const _: () = assert!(MAX_TEXT_BYTES < MAX_BYTES);
