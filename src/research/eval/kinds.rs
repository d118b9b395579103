//! Search for the same kind of scene: photographs are queries over videos. An answer is correct if both have
//! the same class or, more coarsely, the same group.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::metrics::{self, JudgedRanking, Normaliser};
use super::{CONFIDENT, Error};
use crate::base::Cancel;
use crate::collection::video_path;
use crate::media;
use crate::research::manifest;
use crate::search::{Engine, MatchChoice, SearchOptions};
use reelseek_index::Effort;

/// Depth of mAP.
const DEPTH: usize = 10;
/// A file with its class and group: a line of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LabelledFile {
    /// Path of the file, relative to the manifest's folder in the manifest and absolute after [`manifest`].
    pub path: PathBuf,
    /// Class of the scene.
    pub class: String,
    /// Group of classes.
    pub group: String,
}

/// Reads the `manifest.jsonl` of a folder.
///
/// # Errors
/// [`Error::List`] if it cannot be read or a line is invalid.
pub fn manifest(folder: &Path) -> Result<Vec<LabelledFile>, Error> {
    let path = folder.join("manifest.jsonl");
    let expected = "one JSON object per line with `path`, `class` and `group`";
    let files: Vec<LabelledFile> =
        manifest::read(&path).map_err(|reason| Error::List { path: path.clone(), reason, expected })?;
    Ok(files.into_iter().map(|file| LabelledFile { path: folder.join(&file.path), ..file }).collect())
}

/// Scores by one criterion of a correct answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct KindScores {
    /// Number of photographs with a correct video in the index.
    pub queries: usize,
    /// mAP@10.
    pub map10: f64,
    /// mAP@10 with [`Normaliser::Min`], whatever normaliser was chosen: the strictest definition under which
    /// a perfect ranking scores 1.
    pub map10_min: f64,
    /// Share of queries whose first answer is correct.
    pub success1: f64,
    /// Share of queries with a correct answer among the first five.
    pub success5: f64,
}

/// Answers to photographs whose class and group have no video in the gallery.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct UnmatchedQueries {
    /// Number of photographs.
    pub queries: usize,
    /// Number of photographs that nevertheless got an answer with a confidence of at least 0.95.
    pub falsely: usize,
}

/// Results of one engine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KindsReport {
    /// Number of videos in the index that the manifest contains.
    pub gallery: usize,
    /// Scores if an answer of the same class is correct.
    pub class: KindScores,
    /// Scores if an answer of the same group is correct.
    pub group: KindScores,
    /// Photographs without a matching video.
    pub no_match: UnmatchedQueries,
    /// Median time of a query in milliseconds, from image to answer.
    pub median_query_ms: f64,
}

/// Searches each photograph and judges the ranking of the videos. For a photograph without a matching video,
/// checks whether the engine reports low confidence.
///
/// * `matching`: the spaces whose answers are measured;
/// * `normaliser`: the divisor of average precision.
///
/// # Errors
/// [`Error::Media`] or [`Error::Collection`] if a photograph cannot be read or searched;
/// [`Error::Interrupted`]; [`Error::NoMatchingVideo`].
pub fn run(
    engine: &Engine,
    videos: &[LabelledFile],
    images: &[LabelledFile],
    matching: MatchChoice,
    normaliser: Normaliser,
    cancel: &Cancel,
) -> Result<KindsReport, Error> {
    let searcher = engine.searcher();
    let resolve = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let labelled: HashMap<PathBuf, &LabelledFile> = videos.iter().map(|video| (resolve(&video.path), video)).collect();
    let mut gallery = HashMap::new();
    for number in searcher.video_numbers() {
        let video = searcher.video(number)?;
        if let Some(file) = labelled.get(&resolve(&video_path(&video))) {
            gallery.insert(video.id, *file);
        }
    }
    let (top, effort) = (gallery.len().max(1), Effort::Exact);
    let options = SearchOptions { top, effort, matching, ..SearchOptions::default() };
    let (mut by_class, mut by_group, mut took) = (Vec::new(), Vec::new(), Vec::new());
    let mut no_match = UnmatchedQueries::default();
    for image in images {
        if cancel.is_set() {
            return Err(Error::Interrupted);
        }
        let of_class = gallery.values().filter(|video| video.class == image.class).count();
        let of_group = gallery.values().filter(|video| video.group == image.group).count();
        let answer = engine.search(&media::open(&image.path)?.picture, &options)?;
        took.push(answer.elapsed.as_secs_f64() * 1e3);
        if of_class + of_group == 0 {
            no_match.queries += 1;
            no_match.falsely += usize::from(answer.results.first().is_some_and(|best| best.confidence >= CONFIDENT));
            continue;
        }
        let ranked: Vec<&LabelledFile> =
            answer.results.iter().filter_map(|found| gallery.get(&found.video.id).copied()).collect();
        let judge = |is_correct: &dyn Fn(&LabelledFile) -> bool, total: usize| {
            JudgedRanking::from_flags(ranked.iter().map(|video| is_correct(video)).collect(), total)
        };
        by_class.extend(judge(&|video| video.class == image.class, of_class));
        by_group.extend(judge(&|video| video.group == image.group, of_group));
    }
    took.sort_by(f64::total_cmp);
    match (scores(&by_class, normaliser), scores(&by_group, normaliser)) {
        (Some(class), Some(group)) => {
            Ok(KindsReport { gallery: gallery.len(), class, group, no_match, median_query_ms: took[took.len() / 2] })
        }
        _ => Err(Error::NoMatchingVideo),
    }
}

fn scores(answers: &[JudgedRanking], normaliser: Normaliser) -> Option<KindScores> {
    let mean = |metric: &dyn Fn(&JudgedRanking) -> f64| metrics::mean(answers.iter().map(metric));
    let within = |k: usize| mean(&|judged| f64::from(u8::from(judged.first_rank().is_some_and(|rank| rank <= k))));
    let map10 = |normaliser| mean(&|judged| metrics::average_precision(judged, DEPTH, normaliser));
    Some(KindScores {
        queries: answers.len(),
        map10: map10(normaliser)?,
        map10_min: map10(Normaliser::Min)?,
        success1: within(1)?,
        success5: within(5)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_of_known_rankings() {
        let judged = |flags: &[bool], total| JudgedRanking::from_flags(flags.to_vec(), total).unwrap();
        let answers =
            [judged(&[true, false, true], 2), judged(&[false, false, false, true], 1), judged(&[false; 9], 3)];
        let scores = scores(&answers, Normaliser::Hits).unwrap();
        assert!((scores.map10 - (5.0 / 6.0 + 0.25) / 3.0).abs() < 1e-12);
        // The third ranking finds no relevant video and scores 0 either way; the first finds both.
        assert!((scores.map10_min - (5.0 / 6.0 + 0.25) / 3.0).abs() < 1e-12);
        let late = super::scores(&[judged(&[true, false], 2)], Normaliser::Hits).unwrap();
        assert_eq!((late.map10, late.map10_min), (1.0, 0.5));
        assert_eq!((scores.queries, scores.success1, scores.success5), (3, 1.0 / 3.0, 2.0 / 3.0));
    }

    #[test]
    fn names_the_line_of_an_invalid_manifest() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("manifest.jsonl"),
            "{\"path\": \"a\", \"class\": \"b\", \"group\": \"c\"}\n{}\n",
        )
        .unwrap();
        let error = manifest(dir.path()).unwrap_err().to_string();
        assert!(error.contains("manifest.jsonl") && error.contains("line 2"), "{error}");
    }
}
