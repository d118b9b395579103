use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a file gave no pictures, or not all; each names the file and what to do.
#[derive(Debug, Error)]
pub enum Error {
    /// ffmpeg cannot be started: nothing can be decoded.
    #[error(
        "{program} cannot be started ({reason}); install ffmpeg (Debian and Ubuntu: `sudo apt-get install ffmpeg`, macOS: `brew install ffmpeg`) or name it in REELSEEK_FFMPEG"
    )]
    NoFfmpeg {
        /// The program that was tried.
        program: String,
        /// What the system said.
        reason: String,
    },
    /// This ffmpeg cannot write video that a browser plays.
    #[error(
        "{program} has none of the encoders libx264, libopenh264 and libvpx, so that no preview can be made; install an ffmpeg that has one or name it in REELSEEK_FFMPEG"
    )]
    NoCodec {
        /// The program.
        program: String,
    },
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not a regular file.
    #[error("{}: not a file but {found}", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// No frame could be decoded.
    #[error("{}: no video could be decoded: {reason}", path.display())]
    Undecodable {
        /// The file.
        path: PathBuf,
        /// ffmpeg's own reason.
        reason: String,
    },
    /// The file ran into a limit that guards the machine.
    #[error("{}: decoding was stopped, since it {what}", path.display())]
    Limit {
        /// The file.
        path: PathBuf,
        /// Which limit.
        what: String,
    },
    /// ffmpeg was ended by somebody else: what it gave may be half of the video.
    #[error("{}: ffmpeg was ended from outside ({status}), perhaps for want of memory; run the command again, with fewer --jobs", path.display())]
    Killed {
        /// The file.
        path: PathBuf,
        /// How it ended.
        status: String,
    },
    /// The file was changed, or went away, while it was decoded.
    #[error("{}: it was changed while it was decoded; run the command again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The run was cancelled while the file was decoded.
    #[error("{}: cancelled", path.display())]
    Cancelled {
        /// The file.
        path: PathBuf,
    },
    /// A picture could not be read.
    #[error(
        "{name}: not a picture that can be read ({reason}); JPEG, PNG, WebP, GIF, BMP, TIFF, PNM and QOI are understood"
    )]
    Picture {
        /// The file, or what the caller calls it.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The bytes are those of no picture, or of one of a kind that is not understood.
    #[error("{name}: not a picture of a known format; JPEG, PNG, WebP, GIF, BMP, TIFF, PNM and QOI are understood")]
    UnknownFormat {
        /// The file, or what the caller calls it.
        name: String,
    },
    /// A picture has more pixels than are allowed.
    #[error("{name}: the picture {found}, more than the {max_pixels} pixels that are read; shrink it first")]
    PictureTooLarge {
        /// The file, or what the caller calls it.
        name: String,
        /// What it says of its size.
        found: String,
        /// Pixels allowed.
        max_pixels: u64,
    },
}

/// Words of the system and of shells, from whatever program: what they tell of passes, or lies with the machine.
const PASSING: [&str; 8] = [
    "Cannot allocate memory",
    "Resource temporarily unavailable",
    "Permission denied",
    "No such file",
    "Too many open files",
    "Stale file handle",
    "exit status: 126",
    "exit status: 127",
];

impl Error {
    /// Whether the same file would fail again in the same way: the fault is its own, not the drive's, the memory's or ffmpeg's.
    pub fn is_lasting(&self) -> bool {
        match self {
            Error::Undecodable { reason, .. } => {
                // A decoder that this ffmpeg lacks may come with the next.
                !PASSING.iter().any(|words| reason.contains(words)) && !reason.contains("not found for input stream")
            }
            _ => false,
        }
    }

    /// An [`Error::Io`] for this path.
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Error {
        Error::Io { path: path.to_owned(), source }
    }
}
