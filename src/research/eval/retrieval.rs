//! Ranked and judged answers to the queries of a task, and mAP on validation rows.

use super::Error;
use super::embedding::FeatureMaps;
use super::metrics::{self, JudgedRanking, Normaliser};
use super::ranking::{Gallery, Pooling};
use super::task::RetrievalTask;
use crate::gmf::TrainingData;

/// Depth of the validation's mAP.
const VALIDATION_RANKS: usize = 10;

/// The answer to one query.
#[derive(Debug, Clone, PartialEq)]
pub struct RankedAnswer {
    /// Index of the query in the task.
    pub query: usize,
    /// Relevance of the ranked videos.
    pub judged: JudgedRanking,
    /// Rank of the best relevant video among all videos, from 1.
    pub first: Option<usize>,
    /// The best videos, best first.
    pub top: Vec<u32>,
    /// Scores of the best videos.
    pub scores: Vec<f32>,
}

impl RetrievalTask<'_> {
    /// The embedded gallery.
    ///
    /// # Errors
    /// As [`super::embedding::FeatureMap::embed`].
    pub fn gallery(&self, maps: &FeatureMaps, pooling: Pooling) -> Result<Gallery, Error> {
        let rows = maps.video.embed(&self.set.videos, &self.rows, "video")?;
        Ok(Gallery::new(rows, maps.video.outputs(), self.owners.clone(), self.videos.len(), pooling))
    }

    /// The embedded queries, row-major.
    ///
    /// # Errors
    /// As [`super::embedding::FeatureMap::embed`].
    pub fn embedded_queries(&self, maps: &FeatureMaps) -> Result<Vec<f32>, Error> {
        maps.image.embed(&self.set.images, &self.queries, "image")
    }

    /// Ranks the videos for every query with a relevant video, and judges the best `depth` of them.
    ///
    /// # Errors
    /// As [`super::embedding::FeatureMap::embed`]; [`Error::DifferentSpaces`] if images and videos are mapped
    /// to different lengths.
    pub fn answers(&self, maps: &FeatureMaps, pooling: Pooling, depth: usize) -> Result<Vec<RankedAnswer>, Error> {
        let (image, video) = (maps.image.outputs(), maps.video.outputs());
        if image != video {
            return Err(Error::DifferentSpaces { image, video });
        }
        let gallery = self.gallery(maps, pooling)?;
        let queries = self.embedded_queries(maps)?;
        let relevant = |query: usize| self.relevant(query).to_vec();
        let answers = gallery.rank(&queries, depth, relevant, |query, ranked| {
            let judged = self.judge(query, &ranked.top)?;
            Some(RankedAnswer { query, judged, first: ranked.first, top: ranked.top, scores: ranked.scores })
        });
        Ok(answers.into_iter().flatten().collect())
    }

    /// Judges a ranking of videos for the query with this index; `None` if no video is relevant to it.
    pub fn judge(&self, query: usize, top: &[u32]) -> Option<JudgedRanking> {
        let flags = top.iter().map(|video| self.is_relevant(query, *video)).collect();
        JudgedRanking::from_flags(flags, self.relevant(query).len())
    }
}

/// mAP@10 (normaliser [`Normaliser::Hits`]) of the validation images against the validation videos, where
/// each row counts as a separate video. With labels, an image's own video does not count, like in a test
/// split ([`TrainingData::is_own_video`]). Queries without a match are left out; `None` if no query remains.
///
/// # Errors
/// As [`super::embedding::FeatureMap::embed`].
pub fn validate(maps: &FeatureMaps, data: &TrainingData<'_>) -> Result<Option<f64>, Error> {
    let (set, queries, gallery) = (data.set(), &data.queries, &data.gallery);
    let rows = maps.video.embed(&set.videos, gallery, "video")?;
    let embedded = maps.image.embed(&set.images, queries, "image")?;
    let owners = (0..gallery.len() as u32).collect();
    let ranked = Gallery::new(rows, maps.video.outputs(), owners, gallery.len(), Pooling::Best);
    let is_own = |query: usize, row: u32| data.is_own_video(queries[query], gallery[row as usize]);
    let own_rows = (0..queries.len()).map(|query| (0..gallery.len() as u32).filter(|row| is_own(query, *row)).count());
    let depth = VALIDATION_RANKS + own_rows.max().unwrap_or(0);
    let is_match = |query: usize, row: u32| data.is_match(queries[query], gallery[row as usize]) && !is_own(query, row);
    let precisions = ranked.rank(
        &embedded,
        depth,
        |_| Vec::new(),
        |query, ranked| {
            let others = ranked.top.iter().filter(|row| !is_own(query, **row));
            let flags = others.map(|row| is_match(query, *row)).collect();
            let total = (0..gallery.len() as u32).filter(|row| is_match(query, *row)).count();
            let judged = JudgedRanking::from_flags(flags, total)?;
            Some(metrics::average_precision(&judged, VALIDATION_RANKS, Normaliser::Hits))
        },
    );
    Ok(metrics::mean(precisions.into_iter().flatten()))
}

#[cfg(test)]
mod tests {
    use super::super::embedding::FeatureMap;
    use super::super::summary::MetricSummary;
    use super::*;
    use crate::features::{FeatureMatrix, FeatureRow, FeatureSet, FeatureTable, Split};

    fn row(id: &str, labels: &[u32], video: Option<&str>) -> FeatureRow {
        let video = video.map(str::to_owned);
        FeatureRow { labels: labels.to_vec(), video, ..FeatureRow::new(id, Split::Test) }
    }

    /// Videos at angles of 0, 10, 20, ... degrees, an image at 0.
    fn set(videos: Vec<FeatureRow>, images: Vec<FeatureRow>) -> FeatureSet {
        let angle = |i: usize| [(i as f32 * 10.0).to_radians().cos(), (i as f32 * 10.0).to_radians().sin()];
        let videos =
            FeatureTable { matrix: FeatureMatrix::new((0..videos.len()).flat_map(angle).collect(), 2), rows: videos };
        let images = FeatureTable { matrix: FeatureMatrix::new([1.0, 0.0].repeat(images.len()), 2), rows: images };
        FeatureSet { images, videos, labels: vec!["x".into(), "y".into(), "z".into()] }
    }

    fn plain() -> FeatureMaps {
        FeatureMaps { image: FeatureMap::identity(2), video: FeatureMap::identity(2) }
    }

    #[test]
    fn pools_the_clips_of_a_video_and_counts_queries_without_relevant_videos() {
        let videos = vec![
            row("a1", &[0], Some("a")),
            row("b1", &[1], Some("b")),
            row("a2", &[2], Some("a")),
            row("c", &[1], None),
        ];
        let set = set(videos, vec![row("q1", &[1], None), row("q2", &[2, 0], None), row("q3", &[], None)]);
        let task = RetrievalTask::new(&set, Split::Test).unwrap();
        assert_eq!((task.videos.as_slice(), task.skipped()), (&["a".to_owned(), "b".into(), "c".into()][..], 1));
        let answers = task.answers(&plain(), Pooling::Best, 10).unwrap();
        assert_eq!(answers.len(), 2);
        assert_eq!((answers[0].top.as_slice(), answers[0].first), (&[0, 1, 2][..], Some(2)));
        let summary = MetricSummary::new(&answers, &[1, 10], Normaliser::Hits).unwrap();
        assert_eq!(summary.map, [(1, 0.5), (10, ((0.5 + 2.0 / 3.0) / 2.0 + 1.0) / 2.0)]);
        assert_eq!((summary.mrr, summary.median_rank), (0.75, Some(1.5)));
        // The mean of both clips puts b before a.
        let answers = task.answers(&plain(), Pooling::MeanTop(2), 10).unwrap();
        assert_eq!(answers[0].top, [1, 0, 2]);
    }

    #[test]
    fn validation_ignores_the_own_video() {
        let split = |row: FeatureRow, split| FeatureRow { split, ..row };
        // At 0 degrees the query's own video, then a video of another label, then one of its label.
        let videos = vec![row("own", &[1], None), row("unrelated", &[0], None), row("other", &[1], None)];
        let images = vec![row("q", &[1], Some("own")), row("alone", &[2], Some("own"))];
        let mut set = set(videos, images);
        for table in [&mut set.images, &mut set.videos] {
            table.rows.iter_mut().for_each(|row| row.split = Split::Val);
        }
        set.images.rows.extend(["a", "b"].map(|id| split(row(id, &[1], None), Split::Train)));
        set.videos.rows.push(split(row("t", &[1], None), Split::Train));
        set.images.matrix = FeatureMatrix::new([1.0, 0.0].repeat(4), 2);
        let angles = [0f32, 10.0, 20.0, 30.0].map(f32::to_radians);
        set.videos.matrix = FeatureMatrix::new(angles.iter().flat_map(|a| [a.cos(), a.sin()]).collect(), 2);
        let data = TrainingData::new(&set, 0.1, 1).unwrap();
        assert_eq!((data.queries.len(), data.gallery.len()), (1, 3));
        assert_eq!(validate(&plain(), &data).unwrap(), Some(0.5));
        // Only its own video shares a label, so it is not a query.
        set.videos.rows[2].labels = vec![0];
        let error = TrainingData::new(&set, 0.1, 1).unwrap_err().to_string();
        assert!(error.contains("none of 2 images"), "{error}");
    }
}
