//! The distortion suite: frames of indexed videos, distorted as pictures on the web are, must find their video and their moment.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ingest::{pairs, path_of};
use crate::media::distort::Distortion;
use crate::media::{self, Cancel, Tools};
use crate::search::{self, Engine, Options};
use crate::seeded::Random;

/// `at` counts as right up to this far from the true time, in milliseconds.
const MOMENT_MS: u32 = 2000;
/// Confidence that an answer must reach to count as sure.
const SURE: f32 = 0.95;

/// Why the suite could not run.
#[derive(Debug, Error)]
pub enum Error {
    /// A video could not be decoded any more, or ffmpeg is missing.
    #[error(transparent)]
    Media(#[from] media::Error),
    /// A query failed.
    #[error(transparent)]
    Search(#[from] search::Error),
    /// The list of equivalent videos is wrong.
    #[error("{}: {reason}; expected [{{\"videos\": [\"a.mp4\", \"b.mp4\"], \"reason\": \"...\"}}]", path.display())]
    Equivalents {
        /// The list.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing to ask.
    #[error("no query could be made: {0}")]
    Nothing(&'static str),
}

/// Videos that show the same scene: an answer with one is right for another. Its moment is right only at the same time.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Equivalent {
    /// Ends of paths.
    pub videos: Vec<String>,
    /// Why they are the same.
    pub reason: String,
}

impl Equivalent {
    /// Reads a list of them from a JSON file.
    ///
    /// # Errors
    /// [`Error::Equivalents`] if the file cannot be read or says something else.
    pub fn read(path: &Path) -> Result<Vec<Equivalent>, Error> {
        let wrong = |reason: String| Error::Equivalents { path: path.to_owned(), reason };
        let bytes = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
        serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))
    }

    fn has(&self, path: &str) -> bool {
        self.videos.iter().any(|end| Path::new(path).ends_with(end))
    }
}

/// What to ask.
#[derive(Debug, Clone)]
pub struct Suite {
    /// Frames of each video.
    pub frames: usize,
    /// Decides times and distortions.
    pub seed: u64,
    /// Videos that are not asked for (as `folder/name`), though they stay in the gallery: those that the checkpoint was trained on.
    pub leave_out: Vec<String>,
    /// Videos that show the same scene.
    pub equivalents: Vec<Equivalent>,
}

/// Counts of one distortion, or of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Row {
    /// Pictures asked for.
    pub queries: usize,
    /// The right video came first.
    pub right: usize,
    /// The right video came first, and `at` within 2 s of the true time.
    pub moment: usize,
    /// The right video came first, with confidence of at least 0.95.
    pub sure: usize,
    /// With the right video (and its equivalents) taken out of the gallery, the best answer still had a confidence of at least 0.95.
    pub falsely_sure: usize,
}

impl Row {
    fn add(&mut self, other: Row) {
        self.queries += other.queries;
        self.right += other.right;
        self.moment += other.moment;
        self.sure += other.sure;
        self.falsely_sure += other.falsely_sure;
    }

    /// A count as a share of the queries.
    pub fn share(&self, count: usize) -> f64 {
        count as f64 / self.queries.max(1) as f64
    }
}

/// The outcome of a suite.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Videos in the gallery.
    pub gallery: usize,
    /// Videos asked for, with at least one frame.
    pub asked: usize,
    /// Frames left out since their video cannot be decoded there (any more).
    pub undecodable_frames: usize,
    /// Frames left out since they are flat (black, say).
    pub flat_frames: usize,
    /// Counts for each distortion, by its name.
    pub distortions: Vec<(&'static str, Row)>,
    /// Counts over all.
    pub overall: Row,
    /// Median time of a query in milliseconds, from picture to answer.
    pub median_query_ms: f64,
}

/// Runs the suite on an index. `tell` is given each video as it is taken up.
///
/// # Errors
/// [`enum@Error`] if the index cannot be searched, decoding was stopped (by a limit, or from outside), or there is nothing to ask for. Frames that cannot
/// be decoded are counted.
pub fn run(engine: &Engine, suite: &Suite, cancel: &Cancel, mut tell: impl FnMut(&str)) -> Result<Report, Error> {
    let tools = Tools::find()?;
    let searcher = engine.searcher();
    let mut gallery = Vec::new();
    for number in searcher.video_numbers() {
        gallery.push((number, searcher.video(number).map_err(search::Error::from)?));
    }
    let mut distortions: Vec<(&'static str, Row)> =
        Distortion::ALL.iter().map(|d| (d.name(), Row::default())).collect();
    let (mut asked, mut undecodable_frames, mut flat_frames, mut took) = (0, 0, 0, Vec::new());
    let options = Options { top: 1, ..Options::default() };
    for (number, video) in &gallery {
        let path = &path_of(video);
        let name = pairs::name(path);
        if suite.leave_out.contains(&name) {
            continue;
        }
        tell(&video.path);
        let before = took.len();
        let same = |other: &str| {
            other == video.path || suite.equivalents.iter().any(|group| group.has(&video.path) && group.has(other))
        };
        let others = gallery.iter().filter(|(n, v)| n != number && !same(&v.path)).map(|(n, _)| *n).collect();
        for at_ms in pairs::times(video.duration_ms, suite.frames, suite.seed, &name) {
            let frame = match media::frame_at(&tools, path, at_ms, pairs::MAX_SIDE, cancel) {
                Ok(frame) => frame,
                // The file's own fault, or the file is gone; anything else would make the measure one of this machine's day.
                Err(error) if error.is_lasting() || is_gone(&error) => {
                    undecodable_frames += 1;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if crate::encode::layout::describe(&frame).is_flat() {
                flat_frames += 1;
                continue;
            }
            let mut random = Random::new(suite.seed.wrapping_add(u64::from(at_ms)), &name);
            for (way, (_, row)) in Distortion::ALL.iter().zip(&mut distortions) {
                let query = way.apply(&frame, &mut random);
                let answer = engine.search(&query, &options)?;
                took.push(answer.took.as_secs_f64() * 1000.0);
                let best = answer.found.first();
                let right = best.filter(|b| same(&b.video.path));
                let absent = engine.search_among(&query, &options, Some(&others))?;
                row.add(Row {
                    queries: 1,
                    right: usize::from(right.is_some()),
                    moment: usize::from(right.is_some_and(|b| b.moment.at_ms.abs_diff(at_ms) <= MOMENT_MS)),
                    sure: usize::from(right.is_some_and(|b| b.confidence >= SURE)),
                    falsely_sure: usize::from(absent.found.first().is_some_and(|b| b.confidence >= SURE)),
                });
            }
        }
        asked += usize::from(took.len() > before);
    }
    if took.is_empty() {
        return Err(Error::Nothing(if undecodable_frames + flat_frames == 0 {
            "every video of the index was used in training; index others, or leave --held-out away"
        } else {
            "every frame taken is flat or cannot be decoded any more"
        }));
    }
    took.sort_by(f64::total_cmp);
    let mut overall = Row::default();
    for (_, row) in &distortions {
        overall.add(*row);
    }
    Ok(Report {
        gallery: gallery.len(),
        asked,
        undecodable_frames,
        flat_frames,
        distortions,
        overall,
        median_query_ms: took[took.len() / 2],
    })
}

/// Whether the file is not there, or what was read of it is no picture.
fn is_gone(error: &media::Error) -> bool {
    match error {
        media::Error::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        media::Error::Picture { .. } | media::Error::UnknownFormat { .. } | media::Error::NotAFile { .. } => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equivalents_match_whole_names_at_the_end() {
        let group = Equivalent { videos: vec!["pool/a.mp4".into(), "b.mp4".into()], reason: "test".into() };
        assert!(group.has("/x/pool/a.mp4") && group.has("b.mp4") && group.has("/y/b.mp4"));
        assert!(!group.has("/x/other/a.mp4") && !group.has("/y/bb.mp4"));
    }

    #[test]
    fn a_wrong_list_is_named_with_the_form_expected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("same.json");
        std::fs::write(&path, "{}").unwrap();
        let error = Equivalent::read(&path).unwrap_err().to_string();
        assert!(error.contains("same.json") && error.contains("videos"), "{error}");
    }
}
