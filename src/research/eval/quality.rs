//! The distortion suite: frames of indexed videos, distorted as pictures on the web are, must find their video and their moment.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::base::Cancel;
use crate::base::seeded::Random;
use crate::collection::video_path;
use crate::media::distort::Distortion;
use crate::media::{self, Tools};
use crate::research::pairs;
use crate::search::{self, Engine, Options};

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
    #[error("{}: {reason}; expected [{{\"videos\": [\"a.mp4\", \"b.mp4\"], \"reason\": \"...\"}}], with \"clocks\": [[0, 1], [10, -1]] where times differ", path.display())]
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

/// Videos that show the same scene: an answer with one is right for another. Its moment is right only where it shows the same.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Equivalent {
    /// Ends of paths.
    pub videos: Vec<String>,
    /// For each video, at how many seconds it shows what the group begins with, and how fast it goes on: -1 is backwards. All [0, 1] if left away.
    #[serde(default)]
    pub clocks: Vec<[f64; 2]>,
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
        let groups: Vec<Equivalent> = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
        let sound = |clock: &[f64; 2]| clock[0].is_finite() && clock[1].is_finite() && clock[1] != 0.0;
        match groups.iter().find(|group| {
            let clocks = &group.clocks;
            !clocks.is_empty() && (clocks.len() != group.videos.len() || !clocks.iter().all(sound))
        }) {
            Some(group) => Err(wrong(format!(
                "{} videos with {} clocks, which must be [seconds, speed] for each video, speed not 0",
                group.videos.len(),
                group.clocks.len()
            ))),
            None => Ok(groups),
        }
    }

    fn place(&self, path: &str) -> Option<usize> {
        self.videos.iter().position(|end| Path::new(path).ends_with(end))
    }

    /// When `other` shows what `own` shows at `at_ms`; `None` if not both are of the group.
    fn time_in(&self, other: &str, own: &str, at_ms: f64) -> Option<f64> {
        let clock = |place: usize| self.clocks.get(place).copied().unwrap_or([0.0, 1.0]);
        let ([own_start, own_speed], [start, speed]) = (clock(self.place(own)?), clock(self.place(other)?));
        Some(1000.0 * start + speed * (at_ms - 1000.0 * own_start) / own_speed)
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
    /// The right video came first, and `at` within 2 s of the true time (see [`Equivalent::clocks`]).
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
        let path = &video_path(video);
        let name = pairs::name(path);
        if suite.leave_out.contains(&name) {
            continue;
        }
        tell(&video.path);
        let before = took.len();
        // When another video shows what this one shows at a time; `None` if it is another scene.
        let time_in = |other: &str, at_ms: u32| match other == video.path {
            true => Some(f64::from(at_ms)),
            false => suite.equivalents.iter().find_map(|group| group.time_in(other, &video.path, f64::from(at_ms))),
        };
        let same = |other: &str| time_in(other, 0).is_some();
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
                    moment: usize::from(right.is_some_and(|b| {
                        let off = time_in(&b.video.path, at_ms).map(|time| (time - f64::from(b.moment.at_ms)).abs());
                        off.is_some_and(|off| off <= f64::from(MOMENT_MS))
                    })),
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

    fn group(clocks: &[[f64; 2]]) -> Equivalent {
        let videos = vec!["pool/a.mp4".into(), "b.mp4".into()];
        Equivalent { videos, clocks: clocks.to_vec(), reason: "test".into() }
    }

    #[test]
    fn equivalents_match_whole_names_at_the_end() {
        let known = |path: &str| group(&[]).place(path).is_some();
        assert!(known("/x/pool/a.mp4") && known("b.mp4") && known("/y/b.mp4"));
        assert!(!known("/x/a.mp4") && !known("/x/carpool/a.mp4") && !known("/x/bb.mp4"));
    }

    #[test]
    fn a_wrong_list_is_named_with_the_form_expected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("same.json");
        std::fs::write(&path, "{}").unwrap();
        let error = Equivalent::read(&path).unwrap_err().to_string();
        assert!(error.contains("same.json") && error.contains("videos"), "{error}");
    }

    #[test]
    fn clocks_tell_when_another_shows_the_same() {
        assert_eq!(group(&[]).time_in("b.mp4", "pool/a.mp4", 1500.0), Some(1500.0));
        assert_eq!(group(&[]).time_in("c.mp4", "pool/a.mp4", 1500.0), None);
        let backwards = group(&[[2.0, 1.0], [10.0, -1.0]]);
        assert_eq!(backwards.time_in("b.mp4", "pool/a.mp4", 3500.0), Some(8500.0));
        assert_eq!(backwards.time_in("pool/a.mp4", "b.mp4", 8500.0), Some(3500.0));
    }

    #[test]
    fn clocks_that_do_not_fit_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e.json");
        for clocks in ["[[0, 1]]", "[[0, 1], [0, 0]]"] {
            std::fs::write(&path, format!(r#"[{{"videos": ["a", "b"], "clocks": {clocks}, "reason": "r"}}]"#)).unwrap();
            let error = Equivalent::read(&path).unwrap_err().to_string();
            assert!(error.contains("e.json") && error.contains("2 videos"), "{error}");
        }
        std::fs::write(&path, r#"[{"videos": ["a", "b"], "clocks": [[0, 1], [9, -1]], "reason": "r"}]"#).unwrap();
        assert_eq!(Equivalent::read(&path).unwrap()[0].time_in("b", "a", 0.0), Some(9000.0));
    }
}
