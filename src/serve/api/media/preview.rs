//! `/v1/preview`: a moment as a short video.

use axum::extract::State;
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use bytes::Bytes;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::base::Cancel;
use crate::media::{Codec, PreviewSpec, VideoSource};
use crate::search::Moment;
use crate::serve::advice::video_error;
use crate::serve::api::cache::CacheKey;
use crate::serve::api::files::FileRequest;
use crate::serve::api::media::{MediaContext, MediaStore, VideoFile, milliseconds};
use crate::serve::api::openapi::{FileErrors, IndexErrors, MediaErrors};
use crate::serve::api::params::{ParamRange, QueryParams, RequestParams};
use crate::serve::error::ApiError;

const FROM: ParamRange = ParamRange { name: "from", min: 0.0, max: f64::MAX };
const TO: ParamRange = ParamRange { name: "to", min: 0.0, max: f64::MAX };
/// Pixels of a preview's longer side.
const SIDE: u32 = 640;
/// Shortest, default and longest preview, in milliseconds.
const SHORTEST_MS: u32 = 2000;
const DEFAULT_MS: u32 = 6000;
const LONGEST_MS: u32 = 15_000;
/// The preview of a longer moment begins this long before its best row.
const LEAD_MS: u32 = 5000;

/// The span of a preview.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct PreviewParams {
    /// Id of the video.
    video: String,
    /// Start of the preview in seconds from the start of the video; default 0.
    from: Option<f64>,
    /// End of the preview; default 6 seconds after its start. A preview is at most 15 seconds long, and at
    /// least 2 seconds if the video is.
    to: Option<f64>,
}

impl RequestParams for PreviewParams {
    fn numbers(&self) -> Vec<(ParamRange, Option<f64>)> {
        vec![(FROM, self.from), (TO, self.to)]
    }
}

/// The span of the preview of a moment in milliseconds: the moment, or if it is longer, 15 seconds of it that
/// contain the best row.
pub(crate) fn span_of(moment: Moment) -> (u32, u32) {
    let Moment { from_ms, at_ms, to_ms } = moment;
    let last = to_ms.saturating_sub(LONGEST_MS).max(from_ms);
    let from_ms = at_ms.saturating_sub(LEAD_MS).clamp(from_ms, last);
    (from_ms, to_ms.min(from_ms.saturating_add(LONGEST_MS)))
}

/// The span to cut for a request. It has an allowed length and starts before the end of the video.
pub(super) fn cut_span(from_ms: u32, to_ms: Option<u32>, duration_ms: u32) -> (u32, u32) {
    let from_ms = from_ms.min(duration_ms.saturating_sub(SHORTEST_MS));
    let length_ms = to_ms.map_or(DEFAULT_MS, |to_ms| to_ms.saturating_sub(from_ms)).clamp(SHORTEST_MS, LONGEST_MS);
    (from_ms, from_ms.saturating_add(length_ms))
}

/// Returns a moment as a short video without sound, at most 640 pixels wide and high: H.264 in MP4, or VP8 in
/// WebM if the server's ffmpeg cannot encode H.264.
#[utoipa::path(
    get, path = "/v1/preview", tag = "media", params(QueryParams<PreviewParams>),
    responses(
        (status = 200, description = "The video", content((Vec<u8> = "video/mp4"), (Vec<u8> = "video/webm"))),
        (status = 206, description = "A part of the video", content((Vec<u8> = "video/mp4"), (Vec<u8> = "video/webm"))),
        FileErrors,
        MediaErrors,
        IndexErrors,
    )
)]
pub(crate) async fn preview(
    State(context): State<MediaContext>,
    QueryParams(params): QueryParams<PreviewParams>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let from = params.from.unwrap_or(0.0);
    if let Some(to) = params.to.filter(|to| milliseconds(*to) < milliseconds(from)) {
        return Err(ApiError::malformed(format!("to is {to}: expected a time after from, which is {from}")));
    }
    let file = context.locate(params.video).await?;
    let (from_ms, to_ms) = cut_span(milliseconds(from), params.to.map(milliseconds), file.duration_ms);
    let codec = context.media.codec().await?;
    let key = file.key("clip", &[from_ms, to_ms], codec.extension());
    let content_type = if codec == Codec::Vp8 { "video/webm" } else { "video/mp4" };
    let spec = PreviewSpec { from_ms, to_ms, max_side: SIDE };
    let make = move |store: &MediaStore, key: &CacheKey, cancel: &Cancel| clip(store, &file, &spec, codec, key, cancel);
    let request = FileRequest { method: &method, headers: &headers };
    context.respond(&request, key, content_type, |store| &store.previews, make).await
}

fn clip(
    store: &MediaStore,
    file: &VideoFile,
    spec: &PreviewSpec,
    codec: Codec,
    key: &CacheKey,
    cancel: &Cancel,
) -> Result<Bytes, ApiError> {
    let unwritten = |error: std::io::Error| {
        tracing::error!("a preview cannot be written: {error}; REELSEEK_CACHE names another folder for the cache");
        ApiError::unavailable("the server cannot write previews: see its log")
    };
    let tools = store.tools().map_err(video_error)?;
    let source = VideoSource { tools, path: &file.path, limits: &store.limits, cancel };
    let start = store.start(file, &source).map_err(video_error)?;
    let part = store.cache.new_part_anywhere().map_err(unwritten)?;
    source.write_preview(start.as_ref(), spec, codec, part.path()).map_err(video_error)?;
    file.check()?;
    store.cache.put(key, part).map_err(unwritten)
}
