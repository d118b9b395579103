//! Frames of indexed videos with the things that surround them on a phone, on a page or in a room
//! ([`Look`]), which must find their video and moment.

use rayon::prelude::*;
use reelseek_index::VideoSet;
use serde::Serialize;

use super::Error;
use super::quality::{QualitySuite, SuiteFrame, decoded, is_confident};
use crate::base::Cancel;
use crate::base::seeded::Random;
use crate::collection::video_path;
use crate::media::Picture;
use crate::media::looks::{Look, LookPicture};
use crate::search::{Engine, SearchOptions, SearchResult};

/// Counts of one look, or of all looks.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LookCounts {
    /// Number of queries.
    pub queries: usize,
    /// Queries with the correct video first.
    pub correct: usize,
    /// Queries with the correct video first and `at` within 2 s of the true time.
    pub moment: usize,
    /// Queries with the correct video first, with a confidence of at least 0.95.
    pub confident: usize,
    /// Queries with another video first, with a confidence of at least 0.95.
    pub wrong: usize,
    /// Queries whose best answer has a confidence of at least 0.95 after the correct video and its
    /// equivalents are removed from the gallery.
    pub falsely_confident: usize,
    /// Sum of the overlaps (intersection over union) of the reported region with the frame's visible part,
    /// over the queries with the correct video first.
    pub overlap: f64,
    /// Time of each query in milliseconds, from picture to answer.
    pub times_ms: Vec<f64>,
}

impl LookCounts {
    fn add(&mut self, other: &LookCounts) {
        self.queries += other.queries;
        self.correct += other.correct;
        self.moment += other.moment;
        self.confident += other.confident;
        self.wrong += other.wrong;
        self.falsely_confident += other.falsely_confident;
        self.overlap += other.overlap;
        self.times_ms.extend_from_slice(&other.times_ms);
    }

    /// A count as a share of the queries.
    pub fn share(&self, count: usize) -> f64 {
        count as f64 / self.queries.max(1) as f64
    }

    /// Mean overlap over the queries with the correct video first.
    pub fn mean_overlap(&self) -> f64 {
        self.overlap / self.correct.max(1) as f64
    }

    /// Mean time of a query in milliseconds.
    pub fn mean_ms(&self) -> f64 {
        self.times_ms.iter().sum::<f64>() / self.times_ms.len().max(1) as f64
    }

    /// The time in milliseconds that 95 % of the queries do not exceed.
    pub fn p95_ms(&self) -> f64 {
        let mut times = self.times_ms.clone();
        times.sort_by(f64::total_cmp);
        let rank = (times.len() * 95).div_ceil(100).saturating_sub(1);
        times.get(rank).copied().unwrap_or(0.0)
    }
}

/// Results of the looks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LooksReport {
    /// Number of videos in the gallery.
    pub gallery: usize,
    /// Number of videos with at least one query.
    pub queried_videos: usize,
    /// Number of frames that cannot be decoded.
    pub undecodable_frames: usize,
    /// Number of frames that are flat, such as black frames.
    pub flat_frames: usize,
    /// Name and counts of each look.
    pub looks: Vec<(&'static str, LookCounts)>,
    /// Counts of all looks together.
    pub overall: LookCounts,
}

/// One query of the looks.
#[derive(Debug)]
pub struct LookQuery<'a> {
    /// The look.
    pub look: Look,
    /// Path of the video that the frame is from.
    pub path: &'a str,
    /// Time of the frame in milliseconds.
    pub at_ms: u32,
    /// The picture that was searched for.
    pub drawn: &'a LookPicture,
    /// Whether the correct video is first.
    pub correct: bool,
    /// The first result.
    pub best: Option<&'a SearchResult>,
}

/// Searches for frames of an index with each look. `on_video` receives the path of each video before its
/// queries, and `on_query` each query.
///
/// # Errors
/// As [`quality::run`](super::quality::run), and those of `on_query`.
pub fn run(
    engine: &Engine,
    suite: &QualitySuite,
    looks: &[Look],
    cancel: &Cancel,
    mut on_video: impl FnMut(&str),
    mut on_query: impl FnMut(&LookQuery<'_>) -> Result<(), Error>,
) -> Result<LooksReport, Error> {
    let rows = looks.iter().map(|look| (*look, LookCounts::default())).collect();
    let mut run = LooksRun { engine, suite, rows, on_query: &mut on_query };
    let tally = suite.frames(engine, cancel, &mut on_video, |frame| {
        let companion = Companion::of(frame, suite, cancel)?;
        run.query_frame(frame, &companion)
    })?;
    let mut overall = LookCounts::default();
    run.rows.iter().for_each(|(_, counts)| overall.add(counts));
    Ok(LooksReport {
        gallery: tally.gallery,
        queried_videos: tally.queried_videos,
        undecodable_frames: tally.undecodable_frames,
        flat_frames: tally.flat_frames,
        looks: run.rows.into_iter().map(|(look, counts)| (look.name(), counts)).collect(),
        overall,
    })
}

/// A frame of another video, for collages.
struct Companion {
    picture: Picture,
    /// The videos that do not show its scene, and those of them that do not show the queried scene either.
    present: VideoSet,
    absent: VideoSet,
}

impl Companion {
    fn of(frame: &SuiteFrame<'_>, suite: &QualitySuite, cancel: &Cancel) -> Result<Companion, Error> {
        let mut random =
            Random::new(suite.seed.wrapping_add(u64::from(frame.at_ms)), &format!("{} beside", frame.name));
        let others: Vec<_> = frame.gallery.iter().filter(|(number, _)| frame.others.contains(*number)).collect();
        let last = u32::try_from(others.len()).unwrap_or(u32::MAX).saturating_sub(1);
        // A file may be missing, so a few are tried.
        for _ in 0..others.len().min(4) {
            let (number, video) = others[random.up_to(last) as usize];
            let end = u32::try_from(video.duration_ms).unwrap_or(u32::MAX).saturating_sub(1);
            let at_ms = random.up_to(end);
            if let Some(picture) = decoded(frame.tools, &video_path(video), at_ms, cancel)? {
                let differs = |path: &str| suite.time_in(path, &video.path, 0).is_none();
                let present: VideoSet =
                    frame.gallery.iter().filter(|(n, v)| n != number && differs(&v.path)).map(|(n, _)| *n).collect();
                let absent = present.iter().filter(|number| frame.others.contains(*number)).collect();
                return Ok(Companion { picture, present, absent });
            }
        }
        let picture = Picture { width: 16, height: 9, rgb: vec![128; 16 * 9 * 3] };
        let present = frame.gallery.iter().map(|(number, _)| *number).collect();
        Ok(Companion { picture, present, absent: frame.others.clone() })
    }
}

/// A measurement in progress.
struct LooksRun<'a> {
    engine: &'a Engine,
    suite: &'a QualitySuite,
    rows: Vec<(Look, LookCounts)>,
    on_query: &'a mut dyn FnMut(&LookQuery<'_>) -> Result<(), Error>,
}

impl LooksRun<'_> {
    /// Searches for a frame with each look, in the whole gallery and among the other videos.
    fn query_frame(&mut self, frame: &SuiteFrame<'_>, companion: &Companion) -> Result<(), Error> {
        let options = SearchOptions { top: 1, ..SearchOptions::default() };
        let seed = self.suite.seed.wrapping_add(u64::from(frame.at_ms));
        let draw = |(look, _): &(Look, LookCounts)| look.draw(&frame.picture, &companion.picture, seed, frame.name);
        let drawn: Vec<LookPicture> = self.rows.par_iter().map(draw).collect();
        for ((look, counts), drawn) in self.rows.iter_mut().zip(&drawn) {
            // The other picture of a collage would be a right answer too.
            let (present, absent) = match look {
                Look::Collage => (Some(&companion.present), &companion.absent),
                _ => (None, frame.others),
            };
            let answer = self.engine.search_among(&drawn.picture, &options, present)?;
            let best = answer.results.first();
            let (correct, moment) =
                best.map_or((false, false), |best| self.suite.judge(best, &frame.video.path, frame.at_ms));
            let confident = best.is_some_and(is_confident);
            let region = best.filter(|_| correct).and_then(|best| best.region);
            let without = self.engine.search_among(&drawn.picture, &options, Some(absent))?;
            counts.add(&LookCounts {
                queries: 1,
                correct: usize::from(correct),
                moment: usize::from(moment),
                confident: usize::from(correct && confident),
                wrong: usize::from(!correct && confident),
                falsely_confident: usize::from(without.results.first().is_some_and(is_confident)),
                overlap: region.map_or(0.0, |region| overlap(&region.corners, &drawn.corners)),
                times_ms: vec![answer.elapsed.as_secs_f64() * 1000.0],
            });
            let (path, at_ms) = (&*frame.video.path, frame.at_ms);
            (self.on_query)(&LookQuery { look: *look, path, at_ms, drawn, correct, best })?;
        }
        Ok(())
    }
}

/// Intersection over union of two convex quadrilaterals, clockwise.
fn overlap(a: &[[f32; 2]; 4], b: &[[f32; 2]; 4]) -> f64 {
    let points = |quad: &[[f32; 2]; 4]| quad.map(|point| point.map(f64::from));
    let (a, b) = (points(a), points(b));
    // Cuts off what is outside of each edge of `b` (Sutherland and Hodgman, 1974).
    let mut common = a.to_vec();
    for (i, from) in b.iter().enumerate() {
        let to = b[(i + 1) % 4];
        let side = |p: &[f64; 2]| (to[0] - from[0]) * (p[1] - from[1]) - (to[1] - from[1]) * (p[0] - from[0]);
        let mut kept = Vec::new();
        for (j, point) in common.iter().enumerate() {
            let next = common[(j + 1) % common.len()];
            let (here, there) = (side(point), side(&next));
            if here >= 0.0 {
                kept.push(*point);
            }
            if (here > 0.0) != (there > 0.0) && here != there {
                let share = here / (here - there);
                kept.push([point[0] + share * (next[0] - point[0]), point[1] + share * (next[1] - point[1])]);
            }
        }
        common = kept;
    }
    let shared = polygon_area(&common);
    let union = polygon_area(&a) + polygon_area(&b) - shared;
    if union > 0.0 { shared / union } else { 0.0 }
}

fn polygon_area(points: &[[f64; 2]]) -> f64 {
    let next = points.iter().cycle().skip(1);
    points.iter().zip(next).map(|(a, b)| a[0] * b[1] - a[1] * b[0]).sum::<f64>().abs() / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_is_intersection_over_union() {
        let unit = [[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]];
        let moved = unit.map(|[x, y]| [x + 1.0, y]);
        let diamond = [[1.0, 0.0], [2.0, 1.0], [1.0, 2.0], [0.0, 1.0]];
        let near = |value: f64, expected: f64| assert!((value - expected).abs() < 1e-6, "{value} for {expected}");
        near(overlap(&unit, &unit), 1.0);
        near(overlap(&unit, &moved), 1.0 / 3.0);
        near(overlap(&unit, &diamond), 0.5);
        near(overlap(&unit, &unit.map(|[x, y]| [x + 5.0, y])), 0.0);
        near(overlap(&unit, &[[1.0, 1.0]; 4]), 0.0);
    }

    #[test]
    fn p95_is_the_time_that_95_per_cent_do_not_exceed() {
        let counts = LookCounts { times_ms: (1..=100).rev().map(f64::from).collect(), ..LookCounts::default() };
        assert_eq!((counts.p95_ms(), counts.mean_ms()), (95.0, 50.5));
        assert_eq!(LookCounts { times_ms: vec![7.0], ..LookCounts::default() }.p95_ms(), 7.0);
        assert_eq!(LookCounts::default().p95_ms(), 0.0);
    }
}
