//! A retrieval task: the images of a split as queries, its videos as the gallery, and which videos are
//! relevant.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde::Serialize;

use super::Error;
use super::error::SplitCounts;
use crate::features::{FeatureRow, FeatureSet, FeatureTable, Split};

/// Criterion by which a video is relevant to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Relevance {
    /// They share a label.
    Label,
    /// The image comes from the video: their rows have the same `video`, or else `id`.
    Video,
}

impl std::fmt::Display for Relevance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Relevance::Label => "a shared label",
            Relevance::Video => "the image's own video",
        })
    }
}

/// The queries and the gallery of a split.
#[derive(Debug)]
pub struct RetrievalTask<'a> {
    /// The feature set.
    pub set: &'a FeatureSet,
    /// The split of the queries and the gallery.
    pub split: Split,
    /// Criterion of relevance: labels if both images and videos have some, else the source.
    pub relevance: Relevance,
    /// Rows of the query images.
    pub queries: Vec<u32>,
    /// Rows of the gallery, which are videos or clips of videos.
    pub rows: Vec<u32>,
    /// Names of the gallery's videos, in order of their first row.
    pub videos: Vec<String>,
    /// Video of each gallery row, as an index into `videos`.
    pub(super) owners: Vec<u32>,
    /// Labels of each video, ascending.
    labels: Vec<Vec<u32>>,
    /// Videos relevant to each query, ascending.
    pub(super) relevant: Vec<Vec<u32>>,
    /// `images` or `videos` if only that side has no labels, so that the other side's labels are not used.
    pub unlabelled_side: Option<&'static str>,
}

impl<'a> RetrievalTask<'a> {
    /// The task of a split. Rows with the same source (`video`, or else `id`) are one video. A video is
    /// relevant to an image if they share a label or, if images or videos have no labels, if it is the
    /// image's source.
    ///
    /// # Errors
    /// [`Error::EmptySplit`] if the split has no images or no videos.
    pub fn new(set: &'a FeatureSet, split: Split) -> Result<RetrievalTask<'a>, Error> {
        let in_split = |table: &FeatureTable| -> Vec<u32> {
            (0..).zip(&table.rows).filter(|(_, row)| row.split == split).map(|(i, _)| i).collect()
        };
        let (queries, rows) = (in_split(&set.images), in_split(&set.videos));
        if queries.is_empty() || rows.is_empty() {
            let (images, videos) = (SplitCounts::of_rows(&set.images.rows), SplitCounts::of_rows(&set.videos.rows));
            return Err(Error::EmptySplit { split, images, videos });
        }
        Ok(RetrievalTask::of_rows(set, split, queries, rows))
    }

    fn of_rows(set: &'a FeatureSet, split: Split, queries: Vec<u32>, rows: Vec<u32>) -> RetrievalTask<'a> {
        let (mut numbers, mut videos, mut owners) = (HashMap::new(), Vec::new(), Vec::new());
        let mut labels: Vec<BTreeSet<u32>> = Vec::new();
        for row in &rows {
            let row = &set.videos.rows[*row as usize];
            let number = *numbers.entry(row.source()).or_insert_with(|| {
                videos.push(row.source().to_owned());
                labels.push(BTreeSet::new());
                videos.len() as u32 - 1
            });
            owners.push(number);
            labels[number as usize].extend(&row.labels);
        }
        let labels: Vec<Vec<u32>> = labels.into_iter().map(|set| set.into_iter().collect()).collect();
        let labelled_images = queries.iter().any(|query| !set.images.rows[*query as usize].labels.is_empty());
        let labelled_videos = labels.iter().any(|labels| !labels.is_empty());
        let relevance = if labelled_images && labelled_videos { Relevance::Label } else { Relevance::Video };
        let mut with_label: Vec<Vec<u32>> = vec![Vec::new(); set.labels.len()];
        for (video, labels) in (0..).zip(&labels) {
            labels.iter().for_each(|label| with_label[*label as usize].push(video));
        }
        let relevant = queries.iter().map(|query| {
            let image = &set.images.rows[*query as usize];
            if relevance == Relevance::Label {
                let all: BTreeSet<u32> =
                    image.labels.iter().flat_map(|label| with_label[*label as usize].iter().copied()).collect();
                all.into_iter().collect()
            } else {
                numbers.get(image.source()).copied().into_iter().collect()
            }
        });
        let relevant = relevant.collect();
        let unlabelled_side = match (labelled_images, labelled_videos) {
            (true, false) => Some("videos"),
            (false, true) => Some("images"),
            _ => None,
        };
        RetrievalTask { set, split, relevance, queries, rows, videos, owners, labels, relevant, unlabelled_side }
    }

    /// Metadata of the query with this index.
    pub fn query(&self, query: usize) -> &'a FeatureRow {
        &self.set.images.rows[self.queries[query] as usize]
    }

    /// Sources (`video`, or else `id`) that have rows in this split and also in the other splits on which
    /// methods are trained or chosen (train and val), in alphabetical order.
    pub fn shared_sources(&self) -> Vec<&'a str> {
        let all = || self.set.images.rows.iter().chain(&self.set.videos.rows);
        let trained = all().filter(|row| row.split != self.split && row.split != Split::Test);
        let trained: HashSet<&str> = trained.map(FeatureRow::source).collect();
        let measured = all().filter(|row| row.split == self.split).map(FeatureRow::source);
        let shared: BTreeSet<&str> = measured.filter(|source| trained.contains(source)).collect();
        shared.into_iter().collect()
    }

    /// Checks that at least one query has a relevant video.
    ///
    /// # Errors
    /// [`Error::NoRelevantVideo`] if none has.
    pub fn check_relevant(&self) -> Result<(), Error> {
        if self.skipped() < self.queries.len() {
            return Ok(());
        }
        let (queries, videos) = (self.queries.len(), self.videos.len());
        Err(Error::NoRelevantVideo { queries, videos, comparison: self.describe_comparison() })
    }

    /// What relevance compares, with an example of each side.
    fn describe_comparison(&self) -> String {
        let (image, video) = (self.query(0), &self.videos[0]);
        let label = |labels: &[u32]| match labels.first() {
            Some(label) => format!("the label {}", self.set.labels[*label as usize]),
            None => "no label".to_owned(),
        };
        match self.relevance {
            Relevance::Label => format!(
                "labels were compared: the image {} has {}, the video {video} has {}",
                image.id,
                label(&image.labels),
                label(&self.labels[0])
            ),
            Relevance::Video => format!(
                "names of videos were compared: the image {} is of {}, the first video is {video}",
                image.id,
                image.source()
            ),
        }
    }

    /// Labels of a video, as indices into [`FeatureSet::labels`], ascending.
    pub fn labels(&self, video: u32) -> &[u32] {
        &self.labels[video as usize]
    }

    /// Middle of a video's first clip in seconds, if the features contain its span.
    pub fn first_clip_middle_s(&self, video: u32) -> Option<f64> {
        let row = self.owners.iter().position(|owner| *owner == video)?;
        self.set.videos.rows[self.rows[row] as usize].span_s.map(|(from, to)| (from + to) / 2.0)
    }

    /// Videos relevant to the query with this index, ascending.
    pub fn relevant(&self, query: usize) -> &[u32] {
        &self.relevant[query]
    }

    /// Whether a video is relevant to the query with this index.
    pub fn is_relevant(&self, query: usize, video: u32) -> bool {
        self.relevant[query].binary_search(&video).is_ok()
    }

    /// Number of queries whose own video is in the gallery; 0 if the own video is the relevant one.
    pub fn queries_with_own_video(&self) -> usize {
        if self.relevance == Relevance::Video {
            return 0;
        }
        let videos: HashSet<&str> = self.videos.iter().map(String::as_str).collect();
        (0..self.queries.len()).filter(|query| videos.contains(self.query(*query).source())).count()
    }

    /// Number of queries without a relevant video.
    pub fn skipped(&self) -> usize {
        self.relevant.iter().filter(|relevant| relevant.is_empty()).count()
    }

    /// The queries without a relevant video.
    pub fn skipped_queries(&self) -> impl Iterator<Item = &'a FeatureRow> {
        (0..self.queries.len()).filter(|query| self.relevant[*query].is_empty()).map(|query| self.query(query))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::FeatureMatrix;

    fn row(id: &str, labels: &[u32], video: Option<&str>) -> FeatureRow {
        let video = video.map(str::to_owned);
        FeatureRow { labels: labels.to_vec(), video, ..FeatureRow::new(id, Split::Test) }
    }

    fn set(videos: Vec<FeatureRow>, images: Vec<FeatureRow>) -> FeatureSet {
        let table = |rows: Vec<FeatureRow>| FeatureTable { matrix: FeatureMatrix::new(vec![0.5; rows.len()], 1), rows };
        FeatureSet { images: table(images), videos: table(videos), labels: vec!["x".into(), "y".into()] }
    }

    #[test]
    fn without_labels_the_source_is_relevant() {
        let set = set(
            vec![row("a", &[], None), row("b", &[], None)],
            vec![row("q", &[], Some("b")), row("r", &[], Some("z"))],
        );
        let task = RetrievalTask::new(&set, Split::Test).unwrap();
        assert_eq!((task.relevant(0), task.skipped(), task.relevance), (&[1][..], 1, Relevance::Video));
        assert_eq!((task.unlabelled_side, task.shared_sources().len()), (None, 0));
        let error = RetrievalTask::new(&set, Split::Val).unwrap_err();
        assert!(matches!(error, Error::EmptySplit { split: Split::Val, images: SplitCounts { test: 2, .. }, .. }));
    }

    #[test]
    fn reports_the_comparison_and_sources_shared_with_training() {
        let mut set = set(
            vec![row("a", &[], None), row("b1", &[], Some("b")), row("b2", &[], Some("b")), row("c", &[], None)],
            vec![row("q", &[1], Some("b")), row("r", &[], Some("c"))],
        );
        set.videos.rows[2].split = Split::Train;
        set.images.rows[1].split = Split::Val;
        let task = RetrievalTask::new(&set, Split::Test).unwrap();
        assert_eq!((task.relevance, task.unlabelled_side), (Relevance::Video, Some("videos")));
        assert_eq!(task.shared_sources(), ["b", "c"]);
        assert!(task.check_relevant().is_ok());
        let names = "names of videos were compared: the image q is of b, the first video is a";
        assert_eq!(task.describe_comparison(), names);
        set.videos.rows[3].labels = vec![0];
        let task = RetrievalTask::new(&set, Split::Test).unwrap();
        assert_eq!((task.relevance, task.unlabelled_side), (Relevance::Label, None));
        let error = task.check_relevant().unwrap_err().to_string();
        let labels = "labels were compared: the image q has the label y, the video a has no label";
        assert!(error.starts_with("none of the 1 queries") && error.ends_with(labels), "{error}");
    }
}
