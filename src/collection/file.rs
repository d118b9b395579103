//! The file of an indexed video.

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};

use reelseek_index::{Searcher, Video};

use super::CollectionState;
use crate::base::files::since_1970_ns;
use crate::media::Error;

/// The path of an indexed video, also if it is not UTF-8.
pub fn video_path(video: &Video) -> PathBuf {
    video.path_bytes.clone().map_or_else(|| PathBuf::from(&video.path), super::path_of_bytes)
}

/// Time of the last change of a file, in nanoseconds since 1970; 0 for an earlier or unknown time.
pub(crate) fn modified_ns(meta: &Metadata) -> i64 {
    meta.modified().map_or(0, since_1970_ns)
}

/// Identifies the file that a link leads to: a hash of its path. `None` if the path is no link.
pub(crate) fn link_target(path: &Path) -> std::io::Result<Option<String>> {
    if !std::fs::symlink_metadata(path)?.is_symlink() {
        return Ok(None);
    }
    let target = path.canonicalize()?;
    Ok(Some(blake3::hash(target.as_os_str().as_encoded_bytes()).to_hex()[..16].to_owned()))
}

/// Size and times of the file of a video, if it still is the file that was indexed.
///
/// Size and time of change must be the same. No folder above the file may be a link now, because the index
/// has the real path of the folder. The file itself may be a link only if it was one that led to the same
/// file when it was indexed.
///
/// # Errors
/// [`Error::Replaced`] if it is another file, [`Error::NotAFile`], or [`Error::Io`].
pub fn indexed_file(searcher: &Searcher, video: &Video) -> Result<Metadata, Error> {
    let path = video_path(video);
    let io = |reason| Error::io(&path, reason);
    if !std::fs::metadata(&path).map_err(io)?.is_file() {
        return Err(Error::NotAFile { path, found: "a folder, device, pipe or socket" });
    }
    let meta = open_at_once(&path).and_then(|file| file.metadata()).map_err(io)?;
    let unchanged = meta.is_file() && meta.len() == video.size_bytes && modified_ns(&meta) == video.modified_ns;
    // The path is checked after the file was opened: an exchange in between gives another file.
    if unchanged && is_at(searcher, &video.id, &path, &meta).map_err(io)? {
        return Ok(meta);
    }
    Err(Error::Replaced { path })
}

/// Whether an open file is at the real path of a video.
fn is_at(searcher: &Searcher, id: &str, path: &Path, open: &Metadata) -> std::io::Result<bool> {
    if let Some(folder) = path.parent()
        && folder.canonicalize()? != folder
    {
        return Ok(false);
    }
    let known_link = match link_target(path)? {
        Some(target) => CollectionState::of(searcher).links.get(id) == Some(&target),
        None => true,
    };
    Ok(known_link && is_same(&std::fs::metadata(path)?, open))
}

/// Opens a file for reading. A pipe that has taken its place does not block.
pub(crate) fn open_at_once(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags.bits() as i32);
    }
    options.open(path)
}

#[cfg(unix)]
fn is_same(one: &Metadata, other: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(not(unix))]
fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.len(), one.modified().ok()) == (other.len(), other.modified().ok())
}
