//! The same kind of scene: photographs as queries over videos, right if both are of one class, or, coarser, of one group.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::metrics::{self, Judged, Normaliser};
use crate::base::Cancel;
use crate::collection::video_path;
use crate::media;
use crate::search::{self, Engine, Options};
use reelseek_index::Effort;

/// Ranks that mAP looks at.
const DEPTH: usize = 10;
/// Confidence from which an answer counts as sure.
const SURE: f32 = 0.95;

/// Why nothing could be measured.
#[derive(Debug, Error)]
pub enum Error {
    /// A manifest that cannot be used.
    #[error("{}: {reason}; expected a JSON object a line with `path`, `class` and `group`", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A photograph that cannot be read.
    #[error(transparent)]
    Media(#[from] media::Error),
    /// A query failed.
    #[error(transparent)]
    Search(#[from] search::Error),
    /// Stopped by wish.
    #[error("stopped before all photographs were asked for")]
    Cancelled,
    /// Nothing to ask.
    #[error("no photograph is of a class or group that a video in the index is of")]
    Nothing,
}

/// What a picture or a video shows.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Shown {
    /// The file, below the manifest's folder.
    pub path: PathBuf,
    /// What kind of thing it shows.
    pub class: String,
    /// The class, more coarsely.
    pub group: String,
}

/// The files of a folder by its `manifest.jsonl`, with whole paths.
///
/// # Errors
/// [`Error::Manifest`] if it cannot be read or a line is none.
pub fn manifest(folder: &Path) -> Result<Vec<Shown>, Error> {
    let path = folder.join("manifest.jsonl");
    let wrong = |reason: String| Error::Manifest { path: path.clone(), reason };
    let text = std::fs::read_to_string(&path).map_err(|e| wrong(e.to_string()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = |(i, line): (usize, &str)| -> Result<Shown, Error> {
        let shown: Shown = serde_json::from_str(line).map_err(|e| wrong(format!("line {}: {e}", i + 1)))?;
        Ok(Shown { path: folder.join(&shown.path), ..shown })
    };
    lines.map(read).collect()
}

/// What the answers are worth by one notion of what is right.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Worth {
    /// Photographs asked for, of which something is in the index.
    pub queries: usize,
    /// mAP@10.
    pub map10: f64,
    /// The same, divided by `min(10, R)`, whatever the normaliser: the strictest reading that a right ranking passes with 1.
    pub map10_min: f64,
    /// Share of queries whose first answer is right.
    pub success1: f64,
    /// Share of queries with a right answer among the first five.
    pub success5: f64,
}

/// The answers to photographs that show nothing in the gallery: neither a class nor a group of its videos.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct NoMatch {
    /// Photographs asked for.
    pub queries: usize,
    /// Those to which an answer was given with a confidence of 0.95 or more all the same.
    pub falsely: usize,
}

/// The answers of one engine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Videos in the index that the manifest names.
    pub gallery: usize,
    /// Right if of one class.
    pub class: Worth,
    /// Right if of one group.
    pub group: Worth,
    /// Photographs of nothing in the gallery.
    pub no_match: NoMatch,
    /// Median time of a query in milliseconds, from picture to answer.
    pub median_query_ms: f64,
}

/// Asks for each photograph and judges the ranking of the videos, or, of one that shows nothing in the gallery, whether that was known. `normaliser` is that of average precision.
///
/// # Errors
/// [`enum@Error`].
pub fn run(
    engine: &Engine,
    videos: &[Shown],
    images: &[Shown],
    normaliser: Normaliser,
    cancel: &Cancel,
) -> Result<Report, Error> {
    let searcher = engine.searcher();
    let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let shown: HashMap<PathBuf, &Shown> = videos.iter().map(|video| (whole(&video.path), video)).collect();
    let mut gallery = HashMap::new();
    for number in searcher.video_numbers() {
        let video = searcher.video(number).map_err(search::Error::from)?;
        if let Some(shown) = shown.get(&whole(&video_path(&video))) {
            gallery.insert(video.id, *shown);
        }
    }
    let options = Options { top: gallery.len().max(1), effort: Effort::Exact, ..Options::default() };
    let (mut by_class, mut by_group, mut took) = (Vec::new(), Vec::new(), Vec::new());
    let mut no_match = NoMatch::default();
    for image in images {
        if cancel.is_set() {
            return Err(Error::Cancelled);
        }
        let of_class = gallery.values().filter(|video| video.class == image.class).count();
        let of_group = gallery.values().filter(|video| video.group == image.group).count();
        let answer = engine.search(&media::open(&image.path)?, &options)?;
        took.push(answer.took.as_secs_f64() * 1e3);
        if of_class + of_group == 0 {
            no_match.queries += 1;
            no_match.falsely += usize::from(answer.found.first().is_some_and(|best| best.confidence >= SURE));
            continue;
        }
        let ranked: Vec<&Shown> =
            answer.found.iter().filter_map(|found| gallery.get(&found.video.id).copied()).collect();
        let judged = |right: &dyn Fn(&Shown) -> bool, total: usize| {
            Judged::from_flags(ranked.iter().map(|video| right(video)).collect(), total)
        };
        by_class.extend(judged(&|video| video.class == image.class, of_class));
        by_group.extend(judged(&|video| video.group == image.group, of_group));
    }
    took.sort_by(f64::total_cmp);
    match (worth(&by_class, normaliser), worth(&by_group, normaliser)) {
        (Some(class), Some(group)) => {
            Ok(Report { gallery: gallery.len(), class, group, no_match, median_query_ms: took[took.len() / 2] })
        }
        _ => Err(Error::Nothing),
    }
}

fn worth(answers: &[Judged], normaliser: Normaliser) -> Option<Worth> {
    let mean = |of: &dyn Fn(&Judged) -> f64| metrics::mean(answers.iter().map(of));
    let within = |k: usize| mean(&|judged| f64::from(u8::from(judged.first_rank().is_some_and(|rank| rank <= k))));
    let map10 = |by: Normaliser| mean(&|judged| metrics::average_precision(judged, DEPTH, by));
    Some(Worth {
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
    fn what_answers_are_worth() {
        let judged = |flags: &[bool], total| Judged::from_flags(flags.to_vec(), total).unwrap();
        let answers =
            [judged(&[true, false, true], 2), judged(&[false, false, false, true], 1), judged(&[false; 9], 3)];
        let worth = worth(&answers, Normaliser::Hits).unwrap();
        assert!((worth.map10 - (5.0 / 6.0 + 0.25) / 3.0).abs() < 1e-12);
        // The third, of whose three nothing was found, has 0 either way; of the first, both were.
        assert!((worth.map10_min - (5.0 / 6.0 + 0.25) / 3.0).abs() < 1e-12);
        let late = super::worth(&[judged(&[true, false], 2)], Normaliser::Hits).unwrap();
        assert_eq!((late.map10, late.map10_min), (1.0, 0.5));
        assert_eq!((worth.queries, worth.success1, worth.success5), (3, 1.0 / 3.0, 2.0 / 3.0));
    }

    #[test]
    fn a_wrong_manifest_is_named_with_its_line() {
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
