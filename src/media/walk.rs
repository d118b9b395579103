//! Finds the videos in files and folders.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use globset::GlobSet;
use walkdir::{DirEntry, WalkDir};

use super::Error;

/// File name extensions of videos in folders. A file that the caller names is accepted with any extension.
pub const EXTENSIONS: [&str; 34] = [
    "3g2", "3gp", "asf", "avi", "divx", "dv", "f4v", "flv", "gif", "h264", "hevc", "ivf", "m2t", "m2ts", "m2v", "m4v",
    "mkv", "mov", "mp4", "mpeg", "mpg", "mpv", "mts", "mxf", "nut", "ogm", "ogv", "rm", "rmvb", "ts", "vob", "webm",
    "wmv", "y4m",
];

/// The videos under these paths in a fixed order, each real file once, and an error for each path that cannot
/// be read.
///
/// Links are followed and loops of links end. Files and folders whose name begins with a dot are skipped,
/// unless `paths` names them. `exclude` is matched against the whole path and against the file name.
pub fn videos(paths: &[PathBuf], exclude: &GlobSet) -> Vec<Result<PathBuf, (PathBuf, Error)>> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    for root in paths {
        if !root.is_dir() {
            take(root, &mut found, &mut seen);
            continue;
        }
        let entries = WalkDir::new(root).follow_links(true).sort_by_file_name().into_iter();
        for entry in entries.filter_entry(|e| e.depth() == 0 || !hidden(e) && !excluded(e.path(), exclude)) {
            match entry {
                Ok(entry) if entry.file_type().is_file() && is_video(entry.path()) => {
                    take(entry.path(), &mut found, &mut seen);
                }
                Ok(_) => {}
                // A loop of folders is no error: its target was already visited.
                Err(error) if error.loop_ancestor().is_some() => {}
                Err(error) => {
                    let path = error.path().unwrap_or(root).to_owned();
                    let matters = is_video(&path) || path.is_dir();
                    if matters && !excluded(&path, exclude) {
                        let reason = error.into_io_error().unwrap_or_else(|| std::io::Error::other("cannot be read"));
                        found.push(Err((path.clone(), Error::io(&path, reason))));
                    }
                }
            }
        }
    }
    found
}

fn take(path: &Path, found: &mut Vec<Result<PathBuf, (PathBuf, Error)>>, seen: &mut HashSet<PathBuf>) {
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(reason) => return found.push(Err((path.to_owned(), Error::io(path, reason)))),
    };
    match std::fs::metadata(&real) {
        // Reading a named pipe or a device could block or never end.
        Ok(meta) if !meta.is_file() => {
            let error = Error::NotAFile { path: path.to_owned(), found: "a device, pipe or socket" };
            found.push(Err((path.to_owned(), error)));
        }
        _ if seen.insert(real) => found.push(Ok(path.to_owned())),
        _ => {}
    }
}

fn is_video(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    extension.is_some_and(|e| EXTENSIONS.contains(&e.as_str()))
}

fn hidden(entry: &DirEntry) -> bool {
    entry.file_name().as_encoded_bytes().starts_with(b".")
}

/// Whether [`videos`] leaves out this path below `root`: the path or a folder between the two matches.
pub(crate) fn is_excluded(path: &Path, root: &Path, exclude: &GlobSet) -> bool {
    path.ancestors().take_while(|folder| *folder != root).any(|part| excluded(part, exclude))
}

fn excluded(path: &Path, exclude: &GlobSet) -> bool {
    exclude.is_match(path) || path.file_name().is_some_and(|name| exclude.is_match(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_videos_once_and_skips_hidden_excluded_and_other_files() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.MP4", "a.webm", ".hidden.mp4", "note.txt", "skip.mp4", "sub/c.mkv", ".git/d.mp4"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        let exclude = globset::GlobSetBuilder::new().add(globset::Glob::new("skip*").unwrap()).build().unwrap();
        let roots = [dir.path().to_owned(), dir.path().join("sub/c.mkv"), dir.path().join("note.txt")];
        let names: Vec<String> = videos(&roots, &exclude)
            .into_iter()
            .map(|v| v.unwrap().strip_prefix(dir.path()).unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["a.webm", "b.MP4", "sub/c.mkv", "note.txt"]);
    }

    #[test]
    fn a_missing_file_is_an_error_with_its_path() {
        let missing = PathBuf::from("no/such/file.mp4");
        let found = videos(std::slice::from_ref(&missing), &GlobSet::empty());
        assert!(matches!(&found[..], [Err((path, _))] if *path == missing));
    }
}
