//! Converts errors of the engine to responses. Their texts name no folder of the server, because clients may
//! not know its folders.

use std::io::ErrorKind;
use std::path::{MAIN_SEPARATOR, Path};

use axum::http::StatusCode;

use super::error::ApiError;
use crate::base::ErrorPaths;
use crate::ingest::FileError;
use crate::{collection, ingest, media};

const NO_FFMPEG: &str = "ffmpeg cannot be started on the server: install it there, or name it in REELSEEK_FFMPEG";

impl From<media::Error> for ApiError {
    fn from(error: media::Error) -> ApiError {
        let status = match &error {
            media::Error::UnknownFormat { .. } | media::Error::NeedsFfmpeg { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            media::Error::Picture { .. } => StatusCode::BAD_REQUEST,
            error if error.is_undecodable() => StatusCode::BAD_REQUEST,
            media::Error::Limit { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            media::Error::Killed { .. } => StatusCode::SERVICE_UNAVAILABLE,
            media::Error::PictureTooLarge { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            media::Error::Cancelled { .. } => StatusCode::SERVICE_UNAVAILABLE,
            other => return ApiError::internal(other),
        };
        ApiError::new(status, error.without_folders())
    }
}

impl From<media::CropError> for ApiError {
    fn from(error: media::CropError) -> ApiError {
        ApiError::malformed(error.to_string())
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

impl From<collection::Error> for ApiError {
    fn from(error: collection::Error) -> ApiError {
        match error {
            collection::Error::Index(error) => error.into(),
            collection::Error::NoSpace { .. } => ApiError::malformed(format!("{error}, so `match` cannot ask for it")),
            collection::Error::Cancelled => ApiError::unavailable("cancelled"),
            other => ApiError::internal(&other),
        }
    }
}

/// 410: the file of a video does not exist any more.
fn gone() -> ApiError {
    ApiError::new(StatusCode::GONE, "the file of this video is gone: index again with `prune` to remove the video")
}

/// The response to an error with the file of a video.
pub(crate) fn video_error(error: media::Error) -> ApiError {
    use media::Error;
    if error.is_undecodable() {
        tracing::warn!("{error}");
        let text = format!("nothing can be shown of this video: {}", error.without_folders());
        return ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, text);
    }
    match &error {
        Error::Io { reason, .. } if matches!(reason.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => gone(),
        Error::NotAFile { .. } => gone(),
        Error::Replaced { .. } => {
            tracing::warn!("{error}");
            let text = "the file of this video has changed since it was indexed: index again to show it";
            ApiError::new(StatusCode::GONE, text)
        }
        Error::CannotWrite { .. } => {
            tracing::error!("a preview cannot be written: {error}; REELSEEK_CACHE names another folder for the cache");
            ApiError::unavailable("the server cannot write previews: see its log")
        }
        Error::Limit { .. } | Error::Killed { .. } => {
            tracing::warn!("{error}");
            ApiError::unavailable("decoding this video exceeded a limit: see the server's log")
        }
        Error::Cancelled { .. } => {
            ApiError::unavailable("cancelled: the server is stopping, or every client that waited has left")
        }
        Error::NoFfmpeg { .. } => {
            tracing::error!("{error}");
            ApiError::new(StatusCode::NOT_IMPLEMENTED, NO_FFMPEG)
        }
        Error::NoCodec { .. } => {
            tracing::error!("{error}");
            let text = "the server's ffmpeg cannot encode previews: expected libx264, libopenh264 or libvpx";
            ApiError::new(StatusCode::NOT_IMPLEMENTED, text)
        }
        other => ApiError::internal(other),
    }
}

/// The message for a file that a job could not index. `name` is the name of the file.
pub(crate) fn file_error(error: FileError, name: &str) -> String {
    let text = match error {
        FileError::FailedBefore { path, reason } => {
            let reason = stored_text(&reason, &path);
            format!("{reason} (not decoded again, because the file has not changed: `retry` decodes it)")
        }
        error => error.without_folders(),
    };
    // The name is a separate field of the response.
    text.strip_prefix(&format!("{name}: ")).map(str::to_owned).unwrap_or(text)
}

/// The message for a job that failed as a whole.
pub(crate) fn job_error(error: ingest::Error) -> String {
    use reelseek_index::Error::Text;
    tracing::error!("indexing: {error}");
    match error {
        ingest::Error::Media(media::Error::NoFfmpeg { .. }) => NO_FFMPEG.to_owned(),
        // The message of the text index may contain folders.
        ingest::Error::Collection(collection::Error::Index(Text { .. })) => {
            "indexing failed: see the server's log".to_owned()
        }
        error => error.without_folders(),
    }
}

/// Removes the folder of a video from a text that the index stores about the video. Early versions stored
/// messages with whole paths.
pub(crate) fn stored_text(text: &str, video: &Path) -> String {
    match video.parent().filter(|folder| folder.file_name().is_some()) {
        Some(folder) => text.replace(&format!("{}{MAIN_SEPARATOR}", folder.display()), ""),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn errors_of_videos_have_a_status_and_reveal_no_folder() {
        let path = PathBuf::from("/srv/secret place/a.mp4");
        let io = |kind: ErrorKind| media::Error::Io { path: path.clone(), reason: kind.into() };
        let limit = media::Error::Limit { path: path.clone(), reason: "took long".into() };
        let cannot_write = media::Error::CannotWrite { path: path.clone(), reason: "the disk is full".into() };
        let no_ffmpeg = media::Error::NoFfmpeg { program: "/srv/secret place/ffmpeg".into(), reason: "none".into() };
        for (error, status) in [
            (io(ErrorKind::NotFound), StatusCode::GONE),
            (io(ErrorKind::PermissionDenied), StatusCode::INTERNAL_SERVER_ERROR),
            (media::Error::NotAFile { path: path.clone(), found: "a folder" }, StatusCode::GONE),
            (media::Error::Empty { path: path.clone() }, StatusCode::UNPROCESSABLE_ENTITY),
            (media::Error::Undecodable { path: path.clone(), reason: "bad".into() }, StatusCode::UNPROCESSABLE_ENTITY),
            (media::Error::Replaced { path: path.clone() }, StatusCode::GONE),
            (cannot_write, StatusCode::SERVICE_UNAVAILABLE),
            (limit, StatusCode::SERVICE_UNAVAILABLE),
            (no_ffmpeg, StatusCode::NOT_IMPLEMENTED),
            (media::Error::Changed { path: path.clone() }, StatusCode::INTERNAL_SERVER_ERROR),
        ] {
            let error = video_error(error);
            assert_eq!(error.status, status, "{}", error.message);
            assert!(!error.message.contains("secret"), "{}", error.message);
        }
        let error = job_error(ingest::Error::Media(io(ErrorKind::PermissionDenied)));
        assert!(error.starts_with("a.mp4: ") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn stored_texts_lose_the_folder_of_their_video() {
        let video = Path::new("/srv/my videos/a.mp4");
        assert_eq!(stored_text("/srv/my videos/a.mp4: cut short", video), "a.mp4: cut short");
        assert_eq!(stored_text("cut short at 1/2", video), "cut short at 1/2");
        assert_eq!(stored_text("a/b", Path::new("/a.mp4")), "a/b");
    }
}
