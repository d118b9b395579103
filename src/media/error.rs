use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::image::PictureLimit;
use super::sniff;
use crate::base::ErrorPaths;
use crate::base::files::FileReadError;

/// Picture formats that are read, as error messages list them.
const READABLE: &str = "JPEG, PNG, WebP, GIF, HEIC, AVIF, JPEG XL, BMP, TIFF, PNM and QOI";

/// Why a file yields no pictures, or not all of them.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// ffmpeg cannot be started, so nothing can be decoded.
    #[error(
        "cannot start {} ({reason}); install ffmpeg (Debian and Ubuntu: `sudo apt-get install ffmpeg`, macOS: `brew install ffmpeg`) or name it in REELSEEK_FFMPEG",
        program.display()
    )]
    NoFfmpeg {
        /// The program that was tried.
        program: PathBuf,
        /// The system's message.
        reason: String,
    },
    /// This ffmpeg has no encoder for video that a browser plays.
    #[error(
        "{} has none of the encoders libx264, libopenh264 and libvpx, which previews need; install an ffmpeg that has one or name it in REELSEEK_FFMPEG",
        program.display()
    )]
    NoCodec {
        /// The ffmpeg program.
        program: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error. It is part of the message, hence not a `source`.
        reason: io::Error,
    },
    /// The path is not a regular file.
    #[error("{}: expected a file, found {found}", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What is at the path.
        found: &'static str,
    },
    /// The file has no bytes.
    #[error("{}: the file is empty (0 bytes)", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The first bytes of the file show that it is something else than a video.
    #[error("{}: this is {found}, not a video", path.display())]
    NotAVideo {
        /// The file.
        path: PathBuf,
        /// What the file is: "a JPEG picture", "a text file".
        found: &'static str,
        /// ffmpeg's message; empty if ffmpeg was not started.
        reason: String,
    },
    /// No frame could be decoded.
    #[error("{}: no video could be decoded: {reason}", path.display())]
    Undecodable {
        /// The file.
        path: PathBuf,
        /// ffmpeg's message.
        reason: String,
    },
    /// The file reached a limit that protects the machine.
    #[error("{}: decoding was stopped because it {reason}", path.display())]
    Limit {
        /// The file.
        path: PathBuf,
        /// The limit, as a verb phrase: "took longer than 60 s".
        reason: String,
    },
    /// Another process ended ffmpeg. The decoded part may be half of the video.
    #[error("{}: ffmpeg was ended from outside ({status}), perhaps because memory ran out", path.display())]
    Killed {
        /// The file.
        path: PathBuf,
        /// The exit status of ffmpeg.
        status: String,
    },
    /// The file was changed or removed while it was decoded.
    #[error("{}: the file changed while it was decoded", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The file at the path of an indexed video is not the one that was indexed.
    #[error("{}: the file is not the one that was indexed", path.display())]
    Replaced {
        /// The file.
        path: PathBuf,
    },
    /// ffmpeg could not write its result.
    #[error("{}: cannot be written: {reason}", path.display())]
    CannotWrite {
        /// The file to write.
        path: PathBuf,
        /// ffmpeg's message.
        reason: String,
    },
    /// The run was cancelled while the file was decoded.
    #[error("{}: cancelled", path.display())]
    Cancelled {
        /// The file.
        path: PathBuf,
    },
    /// A picture could not be read.
    #[error("{}: not a picture that can be read ({reason}); supported formats: {READABLE}", name.display())]
    Picture {
        /// The file, or the caller's name for the bytes.
        name: PathBuf,
        /// What is wrong with the picture.
        reason: String,
    },
    /// The bytes are no picture of a supported format.
    #[error("{}: {}", name.display(), Unsupported(*found))]
    UnknownFormat {
        /// The file, or the caller's name for the bytes.
        name: PathBuf,
        /// The format, if it is recognised: "SVG".
        found: Option<&'static str>,
    },
    /// The picture or the video is decoded by ffmpeg, and this machine has none that can.
    #[error(
        "{}: {what} needs ffmpeg: {reason}; install a full build of ffmpeg, name it in REELSEEK_FFMPEG, or convert the file to JPEG",
        name.display()
    )]
    NeedsFfmpeg {
        /// The file, or the caller's name for the bytes.
        name: PathBuf,
        /// What the file is: "HEIC", "AVIF" or "a video".
        what: &'static str,
        /// Why ffmpeg cannot decode it.
        reason: String,
    },
    /// A picture exceeds a limit.
    #[error("{}: the picture {found}, more than {limit}; shrink it first", name.display())]
    PictureTooLarge {
        /// The file, or the caller's name for the bytes.
        name: PathBuf,
        /// The size that the file claims, as a verb phrase: "has 60000 x 60000 pixels".
        found: String,
        /// The limit.
        limit: PictureLimit,
    },
}

/// The message for a picture format that is not read.
struct Unsupported(Option<&'static str>);

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => write!(f, "not a picture of a known format; supported formats: {READABLE}"),
            Some(found) => write!(f, "{found} is not supported; convert it to PNG first"),
        }
    }
}

/// Messages of the system and of shells whose cause is the machine, not the file: the same file may work
/// later.
const TRANSIENT: [&str; 8] = [
    "Cannot allocate memory",
    "Resource temporarily unavailable",
    "Permission denied",
    "No such file",
    "Too many open files",
    "Stale file handle",
    "exit status: 126",
    "exit status: 127",
];

/// Messages of the system about a disk that takes no more bytes.
const UNWRITABLE: [&str; 4] = ["No space left on device", "uota exceeded", "Read-only file system", "File too large"];

/// Whether ffmpeg's messages say that its result cannot be written.
pub(super) fn is_unwritable(messages: &str) -> bool {
    UNWRITABLE.iter().any(|message| messages.contains(message))
}

fn is_transient(reason: &str) -> bool {
    TRANSIENT.iter().any(|message| reason.contains(message))
}

impl Error {
    /// Whether the same file would fail again in the same way: the file is at fault, not the disk, memory or
    /// ffmpeg.
    pub fn is_lasting(&self) -> bool {
        match self {
            Error::Empty { .. } | Error::NotAVideo { .. } => true,
            // Another version of ffmpeg may have the decoder that this one lacks.
            Error::Undecodable { reason, .. } => {
                !is_transient(reason) && !reason.contains("not found for input stream")
            }
            _ => false,
        }
    }

    /// Whether the file was read but has no frame that can be shown.
    pub fn is_undecodable(&self) -> bool {
        matches!(self, Error::Empty { .. } | Error::NotAVideo { .. } | Error::Undecodable { .. })
    }

    /// The error for a file that was not read as a whole.
    pub(super) fn unread(path: &Path, error: FileReadError) -> Error {
        let path = path.to_owned();
        match error {
            FileReadError::Io(reason) => Error::Io { path, reason },
            FileReadError::NotAFile { found } => Error::NotAFile { path, found },
            error @ FileReadError::TooLarge { .. } => Error::Picture { name: path, reason: error.to_string() },
        }
    }

    /// An [`Error::Io`] for this path.
    pub(crate) fn io(path: &Path, reason: io::Error) -> Error {
        Error::Io { path: path.to_owned(), reason }
    }

    /// [`Error::NotAVideo`] if the file is recognised as something else, else [`Error::Undecodable`].
    pub(super) fn undecodable(path: &Path, reason: String) -> Error {
        let path = path.to_owned();
        let machine = is_transient(&reason) || reason.contains("Input/output error");
        match sniff::other_than_video(&path).filter(|_| !machine) {
            Some(found) => Error::NotAVideo { path, found, reason },
            None => Error::Undecodable { path, reason },
        }
    }
}

impl ErrorPaths for Error {
    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Error::NoFfmpeg { program: path, .. }
            | Error::NoCodec { program: path }
            | Error::Io { path, .. }
            | Error::NotAFile { path, .. }
            | Error::Empty { path }
            | Error::NotAVideo { path, .. }
            | Error::Undecodable { path, .. }
            | Error::Limit { path, .. }
            | Error::Killed { path, .. }
            | Error::Changed { path }
            | Error::Replaced { path }
            | Error::CannotWrite { path, .. }
            | Error::Cancelled { path }
            | Error::Picture { name: path, .. }
            | Error::UnknownFormat { name: path, .. }
            | Error::NeedsFfmpeg { name: path, .. }
            | Error::PictureTooLarge { name: path, .. } => vec![path],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_without_folders_keeps_the_file_name() {
        let error = Error::Io { path: "/home/me/my videos/a.mp4".into(), reason: io::ErrorKind::NotFound.into() };
        assert_eq!(error.without_folders(), "a.mp4: entity not found");
    }

    #[test]
    fn recognises_text_and_pictures_that_are_named_as_videos() {
        let dir = tempfile::tempdir().unwrap();
        let found = |name: &str, bytes: &[u8], reason: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            Error::undecodable(&path, reason.to_owned())
        };
        let text = found("a.mp4", "Grüße\n".as_bytes(), "moov atom not found");
        assert!(matches!(text, Error::NotAVideo { found: "a text file", .. }) && text.is_lasting(), "{text}");
        let picture = found("b.mp4", b"\xff\xd8\xff\xe0\0\x10JFIF\0", "Invalid data");
        assert!(matches!(picture, Error::NotAVideo { found: "a JPEG picture", .. }), "{picture}");
        let archive = found("e.mp4", b"PK\x03\x04\x14\0", "Invalid data");
        assert!(archive.to_string().ends_with("this is a ZIP archive or an office document, not a video"), "{archive}");
        let cut = found("c.mp4", b"\0\0\0\x20ftypisom\0\0\x02\0", "moov atom not found");
        assert!(matches!(cut, Error::Undecodable { .. }) && cut.is_lasting(), "{cut}");
        let machine = found("d.mp4", b"text", "Cannot allocate memory");
        assert!(matches!(machine, Error::Undecodable { .. }) && !machine.is_lasting(), "{machine}");
    }
}
