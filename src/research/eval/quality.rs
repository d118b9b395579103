//! The distortion suite: frames of indexed videos, distorted like images on the web, must find their video
//! and moment.

use std::path::Path;

use reelseek_index::{Video, VideoNumber, VideoSet};
use serde::{Deserialize, Serialize};

use super::{CONFIDENT, Error};
use crate::base::seeded::Random;
use crate::base::{Cancel, files};
use crate::collection::video_path;
use crate::encode::layout;
use crate::media::distort::Distortion;
use crate::media::{self, Picture, Tools};
use crate::research::fit::pairs;
use crate::search::{Engine, SearchOptions, SearchResult};

/// Size of the largest list of equivalent videos that is read, in bytes.
const MAX_EQUIVALENTS_BYTES: u64 = 64 << 20;
/// Largest error of a correct `at` in milliseconds.
const MOMENT_MS: u32 = 2000;
/// Videos of the same scene: each is a correct answer for the others. The clocks convert times between the
/// videos, to judge the moment.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct EquivalentVideos {
    /// Suffixes of the videos' paths.
    pub videos: Vec<String>,
    /// For each video the second at which it shows the start of the scene, and its speed (-1 for backwards).
    /// [0, 1] for all videos if absent.
    #[serde(default)]
    pub clocks: Vec<[f64; 2]>,
    /// Why the videos are equivalent, for people.
    pub reason: String,
}

impl EquivalentVideos {
    /// Reads a JSON list of groups.
    ///
    /// # Errors
    /// [`Error::List`] if the file cannot be read or is invalid.
    pub fn read(path: &Path) -> Result<Vec<EquivalentVideos>, Error> {
        let expected = "[{\"videos\": [\"a.mp4\", \"b.mp4\"], \"reason\": \"...\"}], with \"clocks\": [[0, 1], [10, -1]] if times differ";
        let wrong = |reason: String| Error::List { path: path.to_owned(), reason, expected };
        let bytes = files::read(path, MAX_EQUIVALENTS_BYTES).map_err(|e| wrong(e.to_string()))?;
        let groups: Vec<EquivalentVideos> = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
        let is_valid = |clock: &[f64; 2]| clock[0].is_finite() && clock[1].is_finite() && clock[1] != 0.0;
        match groups.iter().find(|group| {
            let clocks = &group.clocks;
            !clocks.is_empty() && (clocks.len() != group.videos.len() || !clocks.iter().all(is_valid))
        }) {
            Some(group) => Err(wrong(format!(
                "{} videos with {} clocks; expected [seconds, speed] for each video, with a speed other than 0",
                group.videos.len(),
                group.clocks.len()
            ))),
            None => Ok(groups),
        }
    }

    /// Index of the video with this path.
    fn index_of(&self, path: &str) -> Option<usize> {
        self.videos.iter().position(|end| Path::new(path).ends_with(end))
    }

    /// Time in milliseconds at which `other` shows what `own` shows at `at_ms`; `None` if one is not in the
    /// group.
    fn time_in(&self, other: &str, own: &str, at_ms: f64) -> Option<f64> {
        let clock = |index: usize| self.clocks.get(index).copied().unwrap_or([0.0, 1.0]);
        let ([own_start, own_speed], [start, speed]) = (clock(self.index_of(own)?), clock(self.index_of(other)?));
        Some(1000.0 * start + speed * (at_ms - 1000.0 * own_start) / own_speed)
    }
}

/// Options of the suite.
#[derive(Debug, Clone, Default)]
pub struct QualitySuite {
    /// Number of frames per video.
    pub frames: usize,
    /// Seed of times and distortions.
    pub seed: u64,
    /// Names ([`pairs::seed_name`]) of videos without queries, such as those that the checkpoint was trained
    /// on. They stay in the gallery.
    pub leave_out: Vec<String>,
    /// Groups of videos of the same scene.
    pub equivalents: Vec<EquivalentVideos>,
}

/// Counts of one distortion, or of all distortions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct DistortionCounts {
    /// Number of queries.
    pub queries: usize,
    /// Queries with the correct video first.
    pub correct: usize,
    /// Queries with the correct video first and `at` within 2 s of the true time (see
    /// [`EquivalentVideos::clocks`]).
    pub moment: usize,
    /// Queries with the correct video first, with a confidence of at least 0.95.
    pub confident: usize,
    /// Queries whose best answer has a confidence of at least 0.95 after the correct video and its
    /// equivalents are removed from the gallery.
    pub falsely_confident: usize,
}

impl DistortionCounts {
    fn add(&mut self, other: DistortionCounts) {
        self.queries += other.queries;
        self.correct += other.correct;
        self.moment += other.moment;
        self.confident += other.confident;
        self.falsely_confident += other.falsely_confident;
    }

    /// A count as a share of the queries.
    pub fn share(&self, count: usize) -> f64 {
        count as f64 / self.queries.max(1) as f64
    }
}

/// Results of the suite.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QualityReport {
    /// Number of videos in the gallery.
    pub gallery: usize,
    /// Number of videos with at least one query.
    pub queried_videos: usize,
    /// Number of frames that cannot be decoded.
    pub undecodable_frames: usize,
    /// Number of frames that are flat, such as black frames.
    pub flat_frames: usize,
    /// Name and counts of each distortion.
    pub distortions: Vec<(&'static str, DistortionCounts)>,
    /// Counts of all distortions together.
    pub overall: DistortionCounts,
    /// Median time of a query in milliseconds, from image to answer.
    pub median_query_ms: f64,
}

/// Runs the suite on an index. `on_video` receives the path of each video before its queries.
///
/// # Errors
/// [`enum@Error`] if the index cannot be searched, if a limit or another program stopped the decoding, or if
/// there is no query. Frames that cannot be decoded are only counted.
pub fn run(
    engine: &Engine,
    suite: &QualitySuite,
    cancel: &Cancel,
    mut on_video: impl FnMut(&str),
) -> Result<QualityReport, Error> {
    let counts =
        Distortion::MEASURED.iter().map(|distortion| (distortion.name(), DistortionCounts::default())).collect();
    let mut run = SuiteRun { engine, suite, counts, times_ms: Vec::new() };
    let tally = suite.frames(engine, cancel, &mut on_video, |frame| run.query_frame(frame))?;
    let SuiteRun { counts: distortions, mut times_ms, .. } = run;
    times_ms.sort_by(f64::total_cmp);
    let mut overall = DistortionCounts::default();
    distortions.iter().for_each(|(_, counts)| overall.add(*counts));
    Ok(QualityReport {
        gallery: tally.gallery,
        queried_videos: tally.queried_videos,
        undecodable_frames: tally.undecodable_frames,
        flat_frames: tally.flat_frames,
        distortions,
        overall,
        median_query_ms: times_ms[times_ms.len() / 2],
    })
}

/// A frame to search for.
pub(super) struct SuiteFrame<'a> {
    pub picture: Picture,
    pub at_ms: u32,
    pub video: &'a Video,
    /// Name of the video, which seeds its random numbers.
    pub name: &'a str,
    /// The videos that do not show the scene.
    pub others: &'a VideoSet,
    /// All videos of the index.
    pub gallery: &'a [(VideoNumber, Video)],
    pub tools: &'a Tools,
}

/// What a suite searched for.
#[derive(Debug, Default)]
pub(super) struct SuiteTally {
    pub gallery: usize,
    pub queried_videos: usize,
    pub undecodable_frames: usize,
    pub flat_frames: usize,
}

/// The picture at a time of a video. `None` if the fault is one of the file, or if the file is missing. Other
/// errors depend on the machine and would change the result.
pub(super) fn decoded(tools: &Tools, path: &Path, at_ms: u32, cancel: &Cancel) -> Result<Option<Picture>, Error> {
    match media::frame_at(tools, path, at_ms, pairs::MAX_SIDE, cancel) {
        Ok(frame) => Ok(Some(frame)),
        Err(error) if error.is_lasting() || is_gone(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl QualitySuite {
    /// Decodes the frames to search for, and passes those that are not flat to `query`.
    pub(super) fn frames(
        &self,
        engine: &Engine,
        cancel: &Cancel,
        on_video: &mut dyn FnMut(&str),
        mut query: impl FnMut(&SuiteFrame<'_>) -> Result<(), Error>,
    ) -> Result<SuiteTally, Error> {
        let tools = &Tools::find()?;
        let searcher = engine.searcher();
        let mut gallery = Vec::new();
        for number in searcher.video_numbers() {
            gallery.push((number, searcher.video(number)?));
        }
        let gallery = &gallery[..];
        let mut tally = SuiteTally { gallery: gallery.len(), ..SuiteTally::default() };
        for (number, video) in gallery {
            let path = &video_path(video);
            let name = &pairs::seed_name(path);
            if self.leave_out.contains(name) {
                continue;
            }
            on_video(&video.path);
            let is_same = |other: &str| self.time_in(other, &video.path, 0).is_some();
            let others: VideoSet =
                gallery.iter().filter(|(n, v)| n != number && !is_same(&v.path)).map(|(n, _)| *n).collect();
            let mut queried = false;
            for at_ms in pairs::times(video.duration_ms, self.frames, self.seed, name) {
                let Some(picture) = decoded(tools, path, at_ms, cancel)? else {
                    tally.undecodable_frames += 1;
                    continue;
                };
                if layout::describe(&picture).is_flat() {
                    tally.flat_frames += 1;
                    continue;
                }
                query(&SuiteFrame { picture, at_ms, video, name, others: &others, gallery, tools })?;
                queried = true;
            }
            tally.queried_videos += usize::from(queried);
        }
        if tally.queried_videos == 0 {
            let unused = tally.undecodable_frames + tally.flat_frames == 0;
            return Err(if unused { Error::AllTrainedOn } else { Error::NoUsableFrame });
        }
        Ok(tally)
    }

    /// Time in milliseconds at which `other` shows what `own` shows at `at_ms`; `None` if they show different
    /// scenes.
    pub(super) fn time_in(&self, other: &str, own: &str, at_ms: u32) -> Option<f64> {
        if other == own {
            return Some(f64::from(at_ms));
        }
        self.equivalents.iter().find_map(|group| group.time_in(other, own, f64::from(at_ms)))
    }

    /// Whether a result is the right video, and whether it is at the right moment.
    pub(super) fn judge(&self, result: &SearchResult, own: &str, at_ms: u32) -> (bool, bool) {
        let time = self.time_in(&result.video.path, own, at_ms);
        let near = |time: f64| (time - f64::from(result.moment.at_ms)).abs() <= f64::from(MOMENT_MS);
        (time.is_some(), time.is_some_and(near))
    }
}

/// A suite in progress.
struct SuiteRun<'a> {
    engine: &'a Engine,
    suite: &'a QualitySuite,
    counts: Vec<(&'static str, DistortionCounts)>,
    /// Time of each query in milliseconds.
    times_ms: Vec<f64>,
}

impl SuiteRun<'_> {
    /// Searches a frame with each distortion, in the whole gallery and among the other videos.
    fn query_frame(&mut self, frame: &SuiteFrame<'_>) -> Result<(), Error> {
        let options = SearchOptions { top: 1, ..SearchOptions::default() };
        let mut random = Random::new(self.suite.seed.wrapping_add(u64::from(frame.at_ms)), frame.name);
        for (distortion, (_, counts)) in Distortion::MEASURED.iter().zip(&mut self.counts) {
            let query = distortion.apply(&frame.picture, &mut random);
            let answer = self.engine.search(&query, &options)?;
            self.times_ms.push(answer.elapsed.as_secs_f64() * 1000.0);
            let best = answer.results.first();
            let (correct, moment) =
                best.map_or((false, false), |best| self.suite.judge(best, &frame.video.path, frame.at_ms));
            let absent = self.engine.search_among(&query, &options, Some(frame.others))?;
            counts.add(DistortionCounts {
                queries: 1,
                correct: usize::from(correct),
                moment: usize::from(moment),
                confident: usize::from(correct && best.is_some_and(is_confident)),
                falsely_confident: usize::from(absent.results.first().is_some_and(is_confident)),
            });
        }
        Ok(())
    }
}

pub(super) fn is_confident(result: &SearchResult) -> bool {
    result.confidence >= CONFIDENT
}

/// Whether the file does not exist or is no regular file, or the decoded data is not a picture.
fn is_gone(error: &media::Error) -> bool {
    match error {
        media::Error::Io { reason, .. } => reason.kind() == std::io::ErrorKind::NotFound,
        media::Error::Picture { .. } | media::Error::UnknownFormat { .. } | media::Error::NotAFile { .. } => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(clocks: &[[f64; 2]]) -> EquivalentVideos {
        let videos = vec!["pool/a.mp4".into(), "b.mp4".into()];
        EquivalentVideos { videos, clocks: clocks.to_vec(), reason: "test".into() }
    }

    #[test]
    fn equivalents_match_whole_path_components() {
        let known = |path: &str| group(&[]).index_of(path).is_some();
        assert!(known("/x/pool/a.mp4") && known("b.mp4") && known("/y/b.mp4"));
        assert!(!known("/x/a.mp4") && !known("/x/carpool/a.mp4") && !known("/x/bb.mp4"));
    }

    #[test]
    fn names_an_invalid_list_and_the_expected_form() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("same.json");
        std::fs::write(&path, "{}").unwrap();
        let error = EquivalentVideos::read(&path).unwrap_err().to_string();
        assert!(error.contains("same.json") && error.contains("videos"), "{error}");
    }

    #[test]
    fn clocks_convert_times_between_videos() {
        assert_eq!(group(&[]).time_in("b.mp4", "pool/a.mp4", 1500.0), Some(1500.0));
        assert_eq!(group(&[]).time_in("c.mp4", "pool/a.mp4", 1500.0), None);
        let backwards = group(&[[2.0, 1.0], [10.0, -1.0]]);
        assert_eq!(backwards.time_in("b.mp4", "pool/a.mp4", 3500.0), Some(8500.0));
        assert_eq!(backwards.time_in("pool/a.mp4", "b.mp4", 8500.0), Some(3500.0));
    }

    #[test]
    fn rejects_clocks_that_do_not_match_the_videos() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e.json");
        for clocks in ["[[0, 1]]", "[[0, 1], [0, 0]]"] {
            std::fs::write(&path, format!(r#"[{{"videos": ["a", "b"], "clocks": {clocks}, "reason": "r"}}]"#)).unwrap();
            let error = EquivalentVideos::read(&path).unwrap_err().to_string();
            assert!(error.contains("e.json") && error.contains("2 videos"), "{error}");
        }
        std::fs::write(&path, r#"[{"videos": ["a", "b"], "clocks": [[0, 1], [9, -1]], "reason": "r"}]"#).unwrap();
        assert_eq!(EquivalentVideos::read(&path).unwrap()[0].time_in("b", "a", 0.0), Some(9000.0));
    }
}
