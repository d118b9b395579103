//! Turns errors of the engine into responses: a status, and a text for a person who sees neither the server's
//! files nor its command line.

use std::io::ErrorKind;
use std::path::Path;

use axum::http::StatusCode;

use super::error::ApiError;
use crate::base::ErrorPaths;
use crate::ingest::{self, FileError};
use crate::{media, search};

impl From<media::Error> for ApiError {
    fn from(error: media::Error) -> ApiError {
        let status = match &error {
            media::Error::UnknownFormat { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            media::Error::Picture { .. } => StatusCode::BAD_REQUEST,
            media::Error::PictureTooLarge { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            other => return ApiError::internal(other),
        };
        ApiError::new(status, error.to_string())
    }
}

impl From<reelseek_index::Error> for ApiError {
    fn from(error: reelseek_index::Error) -> ApiError {
        use reelseek_index::Error::{Argument, Filter, Length, NotFinite};
        match &error {
            Filter { .. } | Argument { .. } | Length { .. } | NotFinite { .. } => {
                ApiError::malformed(error.to_string())
            }
            other => ApiError::internal(other),
        }
    }
}

impl From<search::Error> for ApiError {
    fn from(error: search::Error) -> ApiError {
        match error {
            search::Error::Media(error) => error.into(),
            search::Error::Index(error) => error.into(),
            other => ApiError::internal(&other),
        }
    }
}

/// 410: the file of a video is gone.
pub(crate) fn gone() -> ApiError {
    ApiError::new(StatusCode::GONE, "the file of this video is gone: index again with `prune` to remove the video")
}

/// The response for an error of a video's file.
pub(crate) fn video_error(error: media::Error) -> ApiError {
    use media::Error;
    match &error {
        Error::Io { reason, .. } if matches!(reason.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => gone(),
        Error::NotAFile { .. } => gone(),
        Error::Undecodable { .. } | Error::NotAVideo { .. } | Error::Empty { .. } => {
            tracing::warn!("{error}");
            let text = format!("this video cannot be decoded: {}", error.without_folders());
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, text)
        }
        Error::Limit { .. } | Error::Killed { .. } => {
            tracing::warn!("{error}");
            ApiError::unavailable("decoding this video exceeded a limit: see the server's log")
        }
        Error::Cancelled { .. } => ApiError::unavailable("cancelled: every client that waited has left"),
        Error::NoFfmpeg { .. } => {
            tracing::error!("{error}");
            let text = "ffmpeg cannot be started on the server: install it there, or name it in REELSEEK_FFMPEG";
            ApiError::new(StatusCode::NOT_IMPLEMENTED, text)
        }
        Error::NoCodec { .. } => {
            tracing::error!("{error}");
            let text = "the server's ffmpeg cannot encode previews: expected libx264, libopenh264 or libvpx";
            ApiError::new(StatusCode::NOT_IMPLEMENTED, text)
        }
        other => ApiError::internal(other),
    }
}

/// Why a file could not be indexed, with its name instead of its path.
pub(crate) fn file_error(error: &FileError, path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match error {
        FileError::FailedBefore { reason, .. } => {
            format!("{reason} (not decoded again, because the file has not changed); `retry` decodes it again")
        }
        FileError::Media(media::Error::Undecodable { reason, .. }) => format!("no video could be decoded: {reason}"),
        other => other.to_string().replace(&*path.to_string_lossy(), &name),
    }
}

/// Why an indexing job failed.
pub(crate) fn job_error(error: ingest::Error) -> String {
    match error {
        ingest::Error::Media(error @ media::Error::NoFfmpeg { .. }) => video_error(error).message,
        other => other.without_folders(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn messages_contain_no_folder() {
        let path = PathBuf::from("/srv/secret place/a.mp4");
        let io = |kind: ErrorKind| media::Error::Io { path: path.clone(), reason: kind.into() };
        for (error, status) in [
            (io(ErrorKind::NotFound), StatusCode::GONE),
            (io(ErrorKind::PermissionDenied), StatusCode::INTERNAL_SERVER_ERROR),
            (media::Error::NotAFile { path: path.clone(), found: "a folder" }, StatusCode::GONE),
            (
                media::Error::Undecodable { path: path.clone(), reason: "bad".into() },
                StatusCode::UNPROCESSABLE_ENTITY,
            ),
            (media::Error::Limit { path: path.clone(), reason: "took long".into() }, StatusCode::SERVICE_UNAVAILABLE),
            (
                media::Error::NoFfmpeg { program: "/srv/secret place/ffmpeg".into(), reason: "none".into() },
                StatusCode::NOT_IMPLEMENTED,
            ),
            (media::Error::NoCodec { program: "/srv/secret place/ffmpeg".into() }, StatusCode::NOT_IMPLEMENTED),
        ] {
            let error = video_error(error);
            assert_eq!(error.status, status, "{error:?}");
            assert!(!error.message.contains("secret"), "{error:?}");
        }
    }
}
