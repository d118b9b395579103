//! Reads every file of an index and compares checksums.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tantivy::index::SegmentComponent;

use crate::directory;
use crate::error::Result;
use crate::graph::file::Frozen;
use crate::index::SEGMENTS;
use crate::manifest::Manifest;
use crate::searcher::Searcher;
use crate::segment::Segment;
use crate::text::{TEXT, Text};

/// What [`Index::verify`](crate::Index::verify) found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Files of segments and of the text index read.
    pub files: usize,
    /// Their size.
    pub bytes: u64,
    /// What is wrong; empty for a sound index.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong with it and what to do.
    pub message: String,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    fn problem(&mut self, path: &Path, message: impl ToString) {
        self.problems.push(Problem { path: path.to_owned(), message: message.to_string() });
    }
}

pub(crate) fn verify(dir: &Path) -> Report {
    let mut report = Report::default();
    let root = dir.join(TEXT);
    let opened = Text::open(&root).and_then(|text| text.manifest().map(|manifest| (text, manifest)));
    let (text, manifest) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            report.problem(&root, error);
            return report;
        }
    };
    text_files(&text, &manifest, &mut report);
    segment_files(dir, &manifest, &mut report);
    if report.is_sound()
        && let Err(error) = agreement(dir, &text, &mut report)
    {
        report.problem(dir, error);
    }
    report
}

fn text_files(text: &Text, manifest: &Manifest, report: &mut Report) {
    // Reading the root compares its checksum.
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
                    report.problem(&path, format!("no tantivy {version} wrote this index: its end is damaged"));
                }
            }
            // Named in any case, written only when there is something to say.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let may_lack = name.extension().is_some_and(|end| end == "del" || end == "temp");
                if !may_lack || deleted.contains(&name) {
                    report.problem(&path, "it is missing: restore the index from a copy or build it again");
                }
            }
            Err(error) => report.problem(&path, error),
        }
    }
    for name in ["meta.json", ".managed.json"] {
        match text.checked_root(name) {
            Ok(bytes) => {
                report.files += 1;
                report.bytes += bytes;
            }
            Err(error) => report.problem(&text.path.join(name), error),
        }
    }
}

fn segment_files(dir: &Path, manifest: &Manifest, report: &mut Report) {
    for meta in &manifest.segments {
        let path = dir.join(SEGMENTS).join(&meta.name);
        report.files += meta.names().count();
        match Segment::open(path.clone(), &manifest.settings, meta) {
            Ok(segment) => {
                report.bytes += segment.bytes();
                let graph = segment.graph.as_ref().map_or(Ok(()), Frozen::verify);
                for error in [segment.verify(), graph].into_iter().filter_map(Result::err) {
                    report.problem(error.path().unwrap_or(&path), &error);
                }
            }
            Err(error) => report.problem(error.path().unwrap_or(&path), &error),
        }
    }
}

/// Text and segments hold the same live videos with the same numbers of rows.
fn agreement(dir: &Path, text: &Text, report: &mut Report) -> Result<()> {
    let searcher = Searcher::open(dir, text)?;
    let in_segments: BTreeSet<_> = searcher.video_numbers().into_iter().collect();
    let videos = searcher.numbered_videos()?;
    let in_text: BTreeSet<_> = videos.iter().map(|(number, _)| *number).collect();
    for number in in_segments.symmetric_difference(&in_text) {
        report.problem(dir, format!("video number {} is in the text or in a segment, not in both", number.0));
    }
    for (number, video) in videos {
        let rows = searcher.place(number).map_or(0, |(_, entry)| entry.rows);
        if rows != video.rows {
            report.problem(dir, format!("video '{}': expected {} rows, found {rows}", video.id, video.rows));
        }
    }
    Ok(())
}
