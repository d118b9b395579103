//! The OpenAPI document.

use std::collections::BTreeMap;

use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::response::{Response as ResponseSchema, ResponseBuilder};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement as Requirement, SecurityScheme,
};
use utoipa::openapi::{Content, OpenApi as Document, Ref, RefOr};
use utoipa::{IntoResponses, OpenApi, PartialSchema, ToSchema};

use crate::serve::error::ErrorBody;

/// Title, tags and default security of the document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "reelseek",
        description = "Finds the videos, and the moment in each, that show the same scene as a picture."
    ),
    security(("bearer" = []), ("cookie" = [])),
    components(schemas(ErrorBody)),
    tags(
        (name = "search", description = "Pictures or vectors in, moments out"),
        (name = "library", description = "The videos of the index"),
        (name = "media", description = "Thumbnails and previews of moments, and the video files"),
        (name = "indexing", description = "Jobs that bring the index up to date"),
        (name = "session", description = "Sign-in for browsers"),
        (name = "trace.moe", description = "The API of trace.moe, for its clients"),
        (name = "operation", description = "Health and metrics"),
    )
)]
pub(crate) struct Api;

/// The errors that several operations share, and 304.
const ERRORS: [(u16, &str); 16] = [
    (304, "The client has the current content"),
    (400, "The request is malformed"),
    (401, "A token is needed; for media a signed link serves too"),
    (403, "The Host or Origin is not allowed, or the server was started without this feature"),
    (404, "There is no video or job with this id"),
    (408, "The body arrived too slowly"),
    (410, "The video's file is gone, or is not the file that was indexed"),
    (413, "The body or the fetched picture is too large"),
    (415, "The content is not of a supported type"),
    (416, "The file has no bytes in this range"),
    (422, "The picture has more than 50 million pixels, or the video cannot be decoded"),
    (429, "Too many requests at once"),
    (500, "The server failed; its log contains the reason"),
    (501, "The server's ffmpeg is missing or cannot encode previews"),
    (502, "The picture cannot be fetched from its address"),
    (503, "There is no index yet, the request took too long, or the server is stopping"),
];

/// Defines types that name the statuses of [`ERRORS`] that some operations have.
macro_rules! shared_errors {
    ($($(#[$doc:meta])* $name:ident: $statuses:expr;)+) => {
        $(
            $(#[$doc])*
            pub(crate) struct $name;

            impl IntoResponses for $name {
                fn responses() -> BTreeMap<String, RefOr<ResponseSchema>> {
                    references(&$statuses)
                }
            }
        )+
    };
}

shared_errors! {
    /// Further errors of an operation that reads the index, besides those of every operation.
    IndexErrors: [429, 503];
    /// Further errors of an operation that takes a picture, besides [`IndexErrors`].
    PictureErrors: [413, 415, 422, 502];
    /// Further responses of an operation that sends a file, besides [`IndexErrors`].
    FileErrors: [304, 404, 410, 416];
    /// Further errors of an operation that makes a picture or a clip with ffmpeg, besides [`FileErrors`].
    MediaErrors: [422, 501];
}

fn response_name(status: u16) -> String {
    format!("Error{status}")
}

fn references(statuses: &[u16]) -> BTreeMap<String, RefOr<ResponseSchema>> {
    let reference = |status: &u16| (status.to_string(), RefOr::Ref(Ref::from_response_name(response_name(*status))));
    statuses.iter().map(reference).collect()
}

/// Adds the error responses and security schemes that many operations share.
pub(crate) fn complete(document: &mut Document) {
    let components = document.components.get_or_insert_default();
    for (status, meaning) in ERRORS {
        let mut response = ResponseBuilder::new().description(meaning);
        if status >= 400 {
            response =
                response.content("application/json", Content::new(Some(Ref::from_schema_name(ErrorBody::name()))));
        }
        if matches!(status, 429 | 503) {
            let seconds = HeaderBuilder::new().schema(Some(u32::schema())).description(Some("Seconds to wait")).build();
            response = response.header("Retry-After", seconds);
        }
        components.responses.insert(response_name(status), response.into());
    }
    components.add_security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    let mut key = |name, key| components.add_security_scheme(name, SecurityScheme::ApiKey(key));
    key("cookie", ApiKey::Cookie(ApiKeyValue::new("reelseek")));
    let signature = "Signature of a link from an answer; valid for that link only.";
    key("link", ApiKey::Query(ApiKeyValue::with_description("key", signature)));
    let token = "The token, where trace.moe's clients put their key.";
    key("trace_header", ApiKey::Header(ApiKeyValue::with_description("x-trace-key", token)));
    key("trace_query", ApiKey::Query(ApiKeyValue::with_description("key", token)));
    for (path, item) in &mut document.paths.paths {
        let PathItem { get, post, delete, .. } = item;
        for operation in [get, post, delete].into_iter().flatten() {
            complete_operation(path, operation);
        }
    }
}

fn complete_operation(path: &str, operation: &mut Operation) {
    let is_open = operation.security.is_some();
    let tag = operation.tags.iter().flatten().next().map_or("", String::as_str);
    let more: &[&str] = match tag {
        "media" => &["link"],
        "trace.moe" => &["trace_header", "trace_query"],
        _ => &[],
    };
    if !more.is_empty() {
        let schemes = ["bearer", "cookie"].iter().chain(more);
        operation.security = Some(schemes.map(|name| Requirement::new(*name, [""; 0])).collect());
    }
    let takes_body = operation.request_body.is_some();
    let takes_parameters = operation.parameters.as_ref().is_some_and(|parameters| !parameters.is_empty());
    let common = [
        (&[403, 500][..], true),
        (&[401], !is_open),
        (&[400], takes_parameters || takes_body),
        (&[404], path.contains("{id}")),
        (&[408, 413, 415, 429], takes_body),
    ];
    for (statuses, _) in common.into_iter().filter(|(_, applies)| *applies) {
        for (status, response) in references(statuses) {
            operation.responses.responses.entry(status).or_insert(response);
        }
    }
}
