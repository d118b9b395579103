//! `/v1/thumbnail`: a picture of a moment.

use axum::extract::State;
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageError};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::base::Cancel;
use crate::media::{self, Picture, VideoSource};
use crate::serve::advice::video_error;
use crate::serve::api::cache::CacheKey;
use crate::serve::api::files::FileRequest;
use crate::serve::api::media::{MediaContext, MediaStore, VideoFile, milliseconds};
use crate::serve::api::openapi::{FileErrors, IndexErrors, MediaErrors};
use crate::serve::api::params::{ParamRange, QueryParams, RequestParams};
use crate::serve::error::ApiError;

const AT: ParamRange = ParamRange { name: "at", min: 0.0, max: f64::MAX };
const WIDTH: ParamRange = ParamRange { name: "width", min: 32.0, max: 1280.0 };
const DEFAULT_WIDTH: u32 = 320;
const JPEG_QUALITY: u8 = 80;
/// The last frame of a video begins at most this long before its end.
const LAST_FRAME_MS: u32 = 1000;

/// The moment and the size of a thumbnail.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct ThumbnailParams {
    /// Id of the video.
    video: String,
    /// Seconds from the start of the video; default 0. After the end of the video, its last frame is shown.
    at: Option<f64>,
    /// Most pixels of the longer side; default 320.
    width: Option<u32>,
}

impl RequestParams for ThumbnailParams {
    fn numbers(&self) -> Vec<(ParamRange, Option<f64>)> {
        vec![(AT, self.at), (WIDTH, self.width.map(f64::from))]
    }
}

/// Returns a picture of a moment.
#[utoipa::path(
    get, path = "/v1/thumbnail", tag = "media", params(QueryParams<ThumbnailParams>),
    responses(
        (
            status = 200,
            description = "The picture",
            body = Vec<u8>,
            content_type = "image/jpeg",
            headers(("ETag" = String, description = "Names the content"))
        ),
        (status = 206, description = "A part of the picture", body = Vec<u8>, content_type = "image/jpeg"),
        FileErrors,
        MediaErrors,
        IndexErrors,
    )
)]
pub(crate) async fn thumbnail(
    State(context): State<MediaContext>,
    QueryParams(params): QueryParams<ThumbnailParams>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let width = params.width.unwrap_or(DEFAULT_WIDTH);
    let file = context.locate(params.video).await?;
    let at_ms = milliseconds(params.at.unwrap_or(0.0)).min(file.duration_ms.saturating_sub(1));
    let key = file.key("still", &[at_ms, width], "jpg");
    let make = move |store: &MediaStore, key: &CacheKey, cancel: &Cancel| {
        let picture = still(store, &file, at_ms, width, cancel).map_err(video_error)?;
        file.check()?;
        let jpeg = jpeg(&picture).map_err(|error| ApiError::internal(&error))?;
        store.cache.put_bytes(key, &jpeg);
        Ok(jpeg.into())
    };
    let request = FileRequest { method: &method, headers: &headers };
    context.respond(&request, key, "image/jpeg", |store| &store.thumbnails, make).await
}

/// The frame at a time, at most `side` pixels wide and high.
fn still(
    store: &MediaStore,
    file: &VideoFile,
    at_ms: u32,
    side: u32,
    cancel: &Cancel,
) -> Result<Picture, media::Error> {
    let source = VideoSource { tools: store.tools()?, path: &file.path, limits: &store.limits, cancel };
    let start = store.start(file, &source)?;
    match source.frame_at(start.as_ref(), at_ms, side) {
        // The container may state a duration that is too long.
        Err(error) if error.is_undecodable() && at_ms > 0 && at_ms.saturating_add(LAST_FRAME_MS) > file.duration_ms => {
            source.frame_at(start.as_ref(), at_ms.saturating_sub(LAST_FRAME_MS), side)
        }
        found => found,
    }
}

fn jpeg(picture: &Picture) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY);
    encoder.encode(&picture.rgb, picture.width, picture.height, ExtendedColorType::Rgb8)?;
    Ok(bytes)
}
