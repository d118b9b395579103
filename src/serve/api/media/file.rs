//! `/v1/media/{id}`: the file of a video.

use axum::extract::{Path, State};
use axum::http::header::CONTENT_DISPOSITION;
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::response::Response;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::serve::api::files::{self, FileHeaders, FileRequest, FileSource, content_type};
use crate::serve::api::links::file_name;
use crate::serve::api::media::MediaContext;
use crate::serve::api::openapi::{FileErrors, IndexErrors};
use crate::serve::error::ApiError;

/// Characters that are percent-encoded in the value of a header (RFC 8187).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Returns the file of a video.
#[utoipa::path(
    get, path = "/v1/media/{id}", tag = "media", params(("id" = String, Path, description = "Id of a video")),
    responses(
        (
            status = 200,
            description = "The file",
            content((Vec<u8> = "video/*"), (Vec<u8> = "image/gif"), (Vec<u8> = "application/octet-stream"))
        ),
        (
            status = 206,
            description = "A part of the file",
            content((Vec<u8> = "video/*"), (Vec<u8> = "image/gif"), (Vec<u8> = "application/octet-stream"))
        ),
        FileErrors,
        IndexErrors,
    )
)]
pub(crate) async fn video_file(
    State(context): State<MediaContext>,
    Path(id): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let file = context.locate(id).await?;
    let content_type = content_type(&file.path);
    let disposition = disposition(file_name(&file.path.to_string_lossy()));
    let tag = blake3::hash(&file.identity).to_hex()[..32].to_owned();
    let head = FileHeaders { content_type, tag, cache_control: "private, no-cache" };
    let request = FileRequest { method: &method, headers: &headers };
    let source = FileSource { path: file.path, stamp: file.stamp, reads: context.media.reads.clone() };
    let mut response = files::file_response(&request, &head, source);
    response.headers_mut().extend(disposition.map(|value| (CONTENT_DISPOSITION, value)));
    Ok(response)
}

/// The header with the name of a file.
pub(super) fn disposition(name: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("inline; filename*=UTF-8''{}", utf8_percent_encode(name, ENCODED))).ok()
}
