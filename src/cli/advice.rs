//! What to do about an error, in the terms of the command line. Errors of the library carry facts only.

use std::error::Error;

use crate::ingest::{self, FileError};
use crate::media;
use crate::{collection, search};

/// Reason for a video of the index whose file is gone.
pub(super) const MISSING_FILE: &str = "the file is gone but still in the index; --prune removes it";

/// What to do about an error; `None` if its message says all.
pub(super) fn of(error: &(dyn Error + 'static)) -> Option<String> {
    None.or_else(|| error.downcast_ref().and_then(index))
        .or_else(|| error.downcast_ref().and_then(media))
        .or_else(|| error.downcast_ref().and_then(collection))
        .or_else(|| error.downcast_ref().and_then(search))
        .or_else(|| error.downcast_ref().and_then(ingest))
        .or_else(|| error.downcast_ref().and_then(file))
        .map(str::to_owned)
}

/// Why a file was not indexed, and what to do about it.
pub(super) fn failed_file(error: &FileError, kept: bool) -> String {
    let advice = file(error).map(|advice| format!("; {advice}")).unwrap_or_default();
    let kept = if kept { "; the index keeps the earlier version of the file" } else { "" };
    format!("{error}{advice}{kept}")
}

fn index(error: &reelseek_index::Error) -> Option<&'static str> {
    use reelseek_index::Error;
    Some(match error {
        Error::Missing { .. } => "make one with `reelseek index FOLDER`, or name another with --index",
        Error::Foreign { .. } => "name a new or empty folder with --index",
        _ => return None,
    })
}

fn media(error: &media::Error) -> Option<&'static str> {
    Some(match error {
        media::Error::UnknownFormat { .. } => "convert other formats first, as in `ffmpeg -i photo.heic photo.jpg`",
        _ => return None,
    })
}

fn collection(error: &collection::Error) -> Option<&'static str> {
    use collection::Error;
    match error {
        Error::Index(error) => index(error),
        Error::MissingCheckpoint { .. } => {
            Some("put it back, name a copy with --checkpoint, or index again into another folder")
        }
        Error::OtherCheckpoint { .. } => {
            Some("name the checkpoint that the index was made with, or index again into another folder")
        }
        Error::FullPrecision => Some("leave --half out, or name another folder with --index"),
        _ => None,
    }
}

fn search(error: &search::Error) -> Option<&'static str> {
    match error {
        search::Error::Media(error) => media(error),
        search::Error::Index(error) => index(error),
        search::Error::Collection(error) => collection(error),
        _ => None,
    }
}

fn ingest(error: &ingest::Error) -> Option<&'static str> {
    match error {
        ingest::Error::Media(error) => media(error),
        ingest::Error::Index(error) => index(error),
        ingest::Error::Collection(error) => collection(error),
        _ => None,
    }
}

fn file(error: &FileError) -> Option<&'static str> {
    match error {
        FileError::Media(error) => media(error),
        FileError::FailedBefore { .. } => Some("--retry decodes it again"),
        _ => None,
    }
}
