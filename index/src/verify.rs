//! Reads every file of an index and compares checksums.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tantivy::index::SegmentComponent;

use crate::directory;
use crate::error::Result;
use crate::graph::file::GraphFile;
use crate::manifest::Manifest;
use crate::names::{MANAGED_FILE, META_FILE, SEGMENTS_DIR, TEXT_DIR};
use crate::searcher::Searcher;
use crate::segment::SegmentFile;
use crate::text::TextIndex;

/// Result of [`Index::verify`](crate::Index::verify).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Number of files read, of the segments and of the text index.
    pub files: usize,
    /// Their total size in bytes.
    pub bytes: u64,
    /// The damage; empty for an intact index.
    pub problems: Vec<VerifyProblem>,
}

/// One damaged file, or one contradiction between files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyProblem {
    /// The file or folder.
    pub path: PathBuf,
    /// What was expected and what was found.
    pub message: String,
}

impl VerifyReport {
    /// Whether no damage was found.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    fn problem(&mut self, path: &Path, message: impl ToString) {
        self.problems.push(VerifyProblem { path: path.to_owned(), message: message.to_string() });
    }
}

pub(crate) fn verify(dir: &Path) -> VerifyReport {
    let mut report = VerifyReport::default();
    let root = dir.join(TEXT_DIR);
    let opened = TextIndex::open(&root).and_then(|text| text.manifest().map(|manifest| (text, manifest)));
    let (text, manifest) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            report.problem(&root, error);
            return report;
        }
    };
    verify_text(&text, &manifest, &mut report);
    verify_segments(dir, &manifest, &mut report);
    if report.is_sound()
        && let Err(error) = compare_text_with_segments(dir, &text, &mut report)
    {
        report.problem(dir, error);
    }
    report
}

fn verify_text(text: &TextIndex, manifest: &Manifest, report: &mut VerifyReport) {
    // Reading the commit file compares its checksum.
    let meta = match text.index.load_metas() {
        Ok(meta) => meta,
        Err(error) => return report.problem(&text.path, error),
    };
    let deleted = meta.segments.iter().filter(|segment| segment.has_deletes());
    let deleted: Vec<_> = deleted.map(|segment| segment.relative_path(SegmentComponent::Delete)).collect();
    let mut names: Vec<_> = meta.list_segment_files().into_iter().collect();
    names.sort();
    for name in names {
        let path = text.path.join(&name);
        match directory::check(&path) {
            Ok((bytes, version)) => {
                report.files += 1;
                report.bytes += bytes;
                if !manifest.written_by.contains(&version) {
                    let expected = manifest.written_by.iter().map(String::as_str).collect::<Vec<_>>().join(" or ");
                    report.problem(&path, format!("expected a footer of tantivy {expected}, found {version}"));
                }
            }
            // tantivy lists these names always, and writes the files only if there is content.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let is_optional = name.extension().is_some_and(|end| end == "del" || end == "temp");
                if !is_optional || deleted.contains(&name) {
                    report.problem(&path, "expected a file of the text index, found none");
                }
            }
            Err(error) => report.problem(&path, error),
        }
    }
    for name in [META_FILE, MANAGED_FILE] {
        match text.checked_root(name) {
            Ok(bytes) => {
                report.files += 1;
                report.bytes += bytes;
            }
            Err(error) => report.problem(&text.path.join(name), error),
        }
    }
}

fn verify_segments(dir: &Path, manifest: &Manifest, report: &mut VerifyReport) {
    for meta in &manifest.segments {
        let path = dir.join(SEGMENTS_DIR).join(&meta.name);
        report.files += meta.names().count();
        let found = match SegmentFile::open(path.clone(), &manifest.settings, meta) {
            Ok(segment) => {
                report.bytes += segment.bytes();
                [segment.verify(), segment.graph.as_ref().map_or(Ok(()), GraphFile::verify)]
            }
            Err(error) => [Err(error), Ok(())],
        };
        for mut error in found.into_iter().filter_map(Result::err) {
            let file = error.path_mut().map_or_else(|| path.clone(), |file| file.clone());
            report.problem(&file, &error);
        }
    }
}

/// Text index and segments must hold the same live videos with the same numbers of rows.
fn compare_text_with_segments(dir: &Path, text: &TextIndex, report: &mut VerifyReport) -> Result<()> {
    let searcher = Searcher::open(dir, text)?;
    let in_segments: BTreeSet<_> = searcher.video_numbers().into_iter().collect();
    let videos = searcher.numbered_videos()?;
    let in_text: BTreeSet<_> = videos.iter().map(|(number, _)| *number).collect();
    for (set, expected, found) in [
        (&in_segments - &in_text, "the text index", "a segment"),
        (&in_text - &in_segments, "a segment", "the text index"),
    ] {
        for number in set {
            report.problem(dir, format!("video number {}: expected in {expected}, found in {found} only", number.0));
        }
    }
    for (number, video) in videos {
        let rows = searcher.locate(number).map_or(0, |(_, entry)| entry.rows);
        if rows != video.rows {
            report.problem(dir, format!("video '{}': expected {} rows, found {rows}", video.id, video.rows));
        }
    }
    Ok(())
}
