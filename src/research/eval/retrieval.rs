//! Images asked against videos: every query's ranked and judged answer, and what they are worth together.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde::Serialize;

use super::embedding::Maps;
use super::metrics::{self, Judged, Normaliser};
use super::ranking::{Gallery, Pooling};
use crate::base::seeded::Random;
use crate::features::{self, Set, Split};
use crate::gmf::{self, Data};

/// Rank to which validation looks.
const VALIDATION_RANKS: usize = 10;

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The features cannot be read.
    #[error(transparent)]
    Features(#[from] features::Error),
    /// Features and checkpoint do not fit together.
    #[error(transparent)]
    Checkpoint(Box<gmf::Error>),
    /// A model cannot be trained.
    #[error(transparent)]
    Train(Box<gmf::TrainError>),
    /// The index for `ann` cannot be made or searched.
    #[error(transparent)]
    Index(#[from] reelseek_index::Error),
    /// A file cannot be written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Stopped by wish.
    #[error("stopped")]
    Interrupted,
    /// There is nothing to ask, or nothing to ask it against.
    #[error("{0}")]
    Data(String),
}

impl From<gmf::Error> for Error {
    fn from(error: gmf::Error) -> Error {
        Error::Checkpoint(Box::new(error))
    }
}

impl From<gmf::TrainError> for Error {
    fn from(error: gmf::TrainError) -> Error {
        Error::Train(Box::new(error))
    }
}

/// What makes a video relevant to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Relevance {
    /// They share a label.
    Label,
    /// The image comes from it (`video`, or else `id`).
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

/// Which rows are asked, and against what.
#[derive(Debug)]
pub struct Task<'a> {
    /// The features.
    pub set: &'a Set,
    /// The split whose rows are asked, and searched among.
    pub split: Split,
    /// What makes a video relevant: labels where both images and videos have some, else the source.
    pub relevance: Relevance,
    /// Images.
    pub queries: Vec<u32>,
    /// Rows of videos.
    pub rows: Vec<u32>,
    /// The videos of those rows: names in order of their first row.
    pub videos: Vec<String>,
    /// The video of each row.
    owners: Vec<u32>,
    /// A video's labels, as places in [`Set::labels`], ascending.
    labels: Vec<Vec<u32>>,
    /// The videos relevant to each query, ascending.
    relevant: Vec<Vec<u32>>,
    /// Whether any image, and any video, has a label.
    labelled: [bool; 2],
}

impl<'a> Task<'a> {
    /// The images and videos of a split. Rows of one source (`video`, or else `id`) are one video. It is relevant to an image if they share a label; where
    /// images or videos have no labels, if it is the image's source.
    ///
    /// # Errors
    /// [`Error::Data`] if the split has no images or no videos, naming what there is.
    pub fn new(set: &'a Set, split: Split) -> Result<Task<'a>, Error> {
        let of = |rows: &[features::Row]| (0..).zip(rows).filter(|(_, r)| r.split == split).map(|(i, _)| i).collect();
        let (queries, rows): (Vec<u32>, Vec<u32>) = (of(&set.images.rows), of(&set.videos.rows));
        if queries.is_empty() || rows.is_empty() {
            let count = |rows: &[features::Row]| {
                let number = |split| rows.iter().filter(|row| row.split == split).count();
                format!("train {}, val {}, test {}", number(Split::Train), number(Split::Val), number(Split::Test))
            };
            return Err(Error::Data(format!(
                "the split {split} has {} images and {} videos, and needs both (images: {}; videos: {}); name another --split",
                queries.len(),
                rows.len(),
                count(&set.images.rows),
                count(&set.videos.rows)
            )));
        }
        Ok(Task::of(set, split, queries, rows))
    }

    fn of(set: &'a Set, split: Split, queries: Vec<u32>, rows: Vec<u32>) -> Task<'a> {
        let (mut numbers, mut videos, mut owners) = (HashMap::new(), Vec::new(), Vec::new());
        let mut labels: Vec<BTreeSet<u32>> = Vec::new();
        for row in &rows {
            let about = &set.videos.rows[*row as usize];
            let number = *numbers.entry(about.source()).or_insert_with(|| {
                videos.push(about.source().to_owned());
                labels.push(BTreeSet::new());
                videos.len() as u32 - 1
            });
            owners.push(number);
            labels[number as usize].extend(&about.labels);
        }
        let labels: Vec<Vec<u32>> = labels.into_iter().map(|set| set.into_iter().collect()).collect();
        let labelled = [
            queries.iter().any(|query| !set.images.rows[*query as usize].labels.is_empty()),
            labels.iter().any(|labels| !labels.is_empty()),
        ];
        let relevance = if labelled == [true; 2] { Relevance::Label } else { Relevance::Video };
        let mut with_label: Vec<Vec<u32>> = vec![Vec::new(); set.labels.len()];
        for (video, labels) in (0..).zip(&labels) {
            labels.iter().for_each(|label| with_label[*label as usize].push(video));
        }
        let relevant = queries.iter().map(|query| {
            let about = &set.images.rows[*query as usize];
            if relevance == Relevance::Label {
                let all: BTreeSet<u32> =
                    about.labels.iter().flat_map(|label| with_label[*label as usize].iter().copied()).collect();
                all.into_iter().collect()
            } else {
                numbers.get(about.source()).copied().into_iter().collect()
            }
        });
        let relevant = relevant.collect();
        Task { set, split, relevance, queries, rows, videos, owners, labels, relevant, labelled }
    }

    /// `images` or `videos`, if those alone have no labels, so that the other's say nothing.
    pub fn without_labels(&self) -> Option<&'static str> {
        match self.labelled {
            [true, false] => Some("videos"),
            [false, true] => Some("images"),
            _ => None,
        }
    }

    /// Videos (`video`, or else `id`) from which come both rows of this split and rows of another that methods learn from or choose by (train, val), in
    /// alphabetical order.
    pub fn shared_sources(&self) -> Vec<&'a str> {
        let all = || self.set.images.rows.iter().chain(&self.set.videos.rows);
        let learned = all().filter(|row| row.split != self.split && row.split != Split::Test);
        let learned: HashSet<&str> = learned.map(features::Row::source).collect();
        let asked = all().filter(|row| row.split == self.split).map(features::Row::source);
        let shared: BTreeSet<&str> = asked.filter(|source| learned.contains(source)).collect();
        shared.into_iter().collect()
    }

    /// What was compared, and one of each side: for an error where nothing is relevant.
    pub fn compared(&self) -> String {
        let image = self.queries.first().map(|query| &self.set.images.rows[*query as usize]);
        let of = |labels: &[u32]| match labels.first() {
            Some(label) => format!("the label {}", self.set.labels[*label as usize]),
            None => "no label".to_owned(),
        };
        match (self.relevance, image, self.videos.first()) {
            (Relevance::Label, Some(image), Some(video)) => format!(
                "labels were compared: the image {} has {}, the video {video} has {}",
                image.id,
                of(&image.labels),
                of(&self.labels[0])
            ),
            (Relevance::Video, Some(image), Some(video)) => {
                format!(
                    "names of videos were compared: the image {} is of {}, the first video is {video}",
                    image.id,
                    image.source()
                )
            }
            _ => "there was nothing to compare".to_owned(),
        }
    }

    /// A video's labels, as places in [`Set::labels`].
    pub fn labels(&self, video: u32) -> &[u32] {
        &self.labels[video as usize]
    }

    /// The middle of a video's first clip, in seconds, where the features say it.
    pub fn moment(&self, video: u32) -> Option<f64> {
        let row = self.owners.iter().position(|owner| *owner == video)?;
        self.set.videos.rows[self.rows[row] as usize].span_s.map(|(from, to)| (from + to) / 2.0)
    }

    /// The videos relevant to the query at this place, ascending.
    pub fn relevant(&self, query: usize) -> &[u32] {
        &self.relevant[query]
    }

    /// Queries whose own video is among the videos, where labels say what is relevant.
    pub fn own(&self) -> usize {
        if self.relevance == Relevance::Video {
            return 0;
        }
        let videos: HashSet<&str> = self.videos.iter().map(String::as_str).collect();
        let source = |query: &&u32| videos.contains(self.set.images.rows[**query as usize].source());
        self.queries.iter().filter(source).count()
    }

    /// Queries to which no video is relevant.
    pub fn skipped(&self) -> usize {
        self.relevant.iter().filter(|relevant| relevant.is_empty()).count()
    }

    /// Those queries: the image, and the video that it names, which may exist nowhere.
    pub fn unanswerable(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let none = self.queries.iter().zip(&self.relevant).filter(|(_, relevant)| relevant.is_empty());
        none.map(|(query, _)| &self.set.images.rows[*query as usize]).map(|row| (row.id.as_str(), row.source()))
    }

    /// The gallery, embedded.
    ///
    /// # Errors
    /// As [`super::embedding::Map::embed`].
    pub fn gallery(&self, maps: &Maps, pooling: Pooling) -> Result<Gallery, Error> {
        let rows = maps.video.embed(&self.set.videos, &self.rows, "video")?;
        Ok(Gallery::new(rows, maps.video.outputs(), self.owners.clone(), self.videos.len(), pooling))
    }

    /// The queries, embedded.
    ///
    /// # Errors
    /// As [`super::embedding::Map::embed`].
    pub fn embedded_queries(&self, maps: &Maps) -> Result<Vec<f32>, Error> {
        maps.image.embed(&self.set.images, &self.queries, "image")
    }

    /// Ranks the videos for every query to which one is relevant, and judges the best `depth` of them.
    ///
    /// # Errors
    /// As [`super::embedding::Map::embed`]; [`Error::Data`] if images and videos are mapped into different spaces.
    pub fn answers(&self, maps: &Maps, pooling: Pooling, depth: usize) -> Result<Vec<Answer>, Error> {
        if maps.image.outputs() != maps.video.outputs() {
            return Err(Error::Data(format!(
                "images are mapped to {} numbers and videos to {}: they cannot be compared",
                maps.image.outputs(),
                maps.video.outputs()
            )));
        }
        let gallery = self.gallery(maps, pooling)?;
        let queries = self.embedded_queries(maps)?;
        let relevant = |query: usize| self.relevant[query].clone();
        let answers = gallery.rank(&queries, depth, relevant, |query, ranked| {
            let judged = self.judge(query, &ranked.top)?;
            Some(Answer { query, judged, first: ranked.first, top: ranked.top, scores: ranked.scores })
        });
        Ok(answers.into_iter().flatten().collect())
    }

    /// Judges a ranking of videos for the query at this place; `None` if none is relevant.
    pub fn judge(&self, query: usize, top: &[u32]) -> Option<Judged> {
        let relevant = &self.relevant[query];
        let flags = top.iter().map(|video| relevant.binary_search(video).is_ok()).collect();
        Judged::from_flags(flags, relevant.len())
    }

    /// The candidate-pool reading of mAP@n, for each `n`: each query is ranked against a seeded pool of `n` videos (or all, if there are fewer), drawn without
    /// repetition, one of them relevant at least (if none was drawn, one takes the place of the last). AP is over the whole pool.
    ///
    /// # Errors
    /// As [`Task::answers`].
    pub fn pool_maps(&self, maps: &Maps, pooling: Pooling, n: &[usize], seed: u64) -> Result<Vec<(usize, f64)>, Error> {
        let gallery = self.gallery(maps, pooling)?;
        let queries = self.embedded_queries(maps)?;
        let precisions = gallery.rank(
            &queries,
            self.videos.len(),
            |_| Vec::new(),
            |query, ranked| {
                let relevant = &self.relevant[query];
                if relevant.is_empty() {
                    return None;
                }
                let name = &self.set.images.rows[self.queries[query] as usize].id;
                let in_pool_of = |n: &usize| {
                    let pool = self.draw_pool(query, *n, &mut Random::new(seed, name));
                    let among =
                        |all: &[u32]| all.iter().copied().filter(|video| pool.contains(video)).collect::<Vec<u32>>();
                    let (top, relevant) = (among(&ranked.top), among(relevant));
                    let judged = Judged::new(&top, &relevant);
                    judged.map_or(0.0, |judged| metrics::average_precision(&judged, top.len(), Normaliser::All))
                };
                Some(n.iter().map(in_pool_of).collect::<Vec<f64>>())
            },
        );
        let precisions: Vec<Vec<f64>> = precisions.into_iter().flatten().collect();
        let mean = |i: usize| metrics::mean(precisions.iter().map(|each| each[i])).unwrap_or(0.0);
        Ok(n.iter().enumerate().map(|(i, n)| (*n, mean(i))).collect())
    }

    fn draw_pool(&self, query: usize, n: usize, random: &mut Random) -> BTreeSet<u32> {
        let all = self.videos.len();
        let n = n.clamp(1, all);
        // Floyd's algorithm: a sample without repetition.
        let mut order = Vec::with_capacity(n);
        let mut pool = BTreeSet::new();
        for most in all - n..all {
            let drawn = random.up_to(most as u32);
            let drawn = if pool.contains(&drawn) { most as u32 } else { drawn };
            pool.insert(drawn);
            order.push(drawn);
        }
        let relevant = &self.relevant[query];
        if !relevant.iter().any(|video| pool.contains(video)) {
            pool.remove(&order[n - 1]);
            pool.insert(relevant[random.up_to(relevant.len() as u32 - 1) as usize]);
        }
        pool
    }
}

/// mAP@10 (normaliser [`Normaliser::Hits`]) of the images held out for validation against its videos, each row for itself. As with the test, where labels say
/// what belongs together an image's own video is not among the videos ([`Data::is_own`]). Queries to which nothing belongs are left out; `None` if none is left.
///
/// # Errors
/// As [`super::embedding::Map::embed`].
pub fn validate(maps: &Maps, data: &Data<'_>) -> Result<Option<f64>, Error> {
    let (set, queries, gallery) = (data.set(), &data.queries, &data.gallery);
    let rows = maps.video.embed(&set.videos, gallery, "video")?;
    let embedded = maps.image.embed(&set.images, queries, "image")?;
    let owners = (0..gallery.len() as u32).collect();
    let ranked = Gallery::new(rows, maps.video.outputs(), owners, gallery.len(), Pooling::Best);
    let own = |query: usize, row: u32| data.is_own(queries[query], gallery[row as usize]);
    let most_own = (0..queries.len()).map(|query| (0..gallery.len() as u32).filter(|row| own(query, *row)).count());
    let depth = VALIDATION_RANKS + most_own.max().unwrap_or(0);
    let belongs = |query: usize, row: u32| data.together(queries[query], gallery[row as usize]) && !own(query, row);
    let precisions = ranked.rank(
        &embedded,
        depth,
        |_| Vec::new(),
        |query, ranked| {
            let others = ranked.top.iter().filter(|row| !own(query, **row));
            let flags = others.map(|row| belongs(query, *row)).collect();
            let total = (0..gallery.len() as u32).filter(|row| belongs(query, *row)).count();
            let judged = Judged::from_flags(flags, total)?;
            Some(metrics::average_precision(&judged, VALIDATION_RANKS, Normaliser::Hits))
        },
    );
    Ok(metrics::mean(precisions.into_iter().flatten()))
}

/// One query's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Its place among the task's queries.
    pub query: usize,
    /// What is relevant of it.
    pub judged: Judged,
    /// Rank of the best relevant video among all.
    pub first: Option<usize>,
    /// The best videos, best first.
    pub top: Vec<u32>,
    /// Their scores.
    pub scores: Vec<f32>,
}

#[cfg(test)]
mod tests {
    use super::super::embedding::Map;
    use super::super::summary::Summary;
    use super::*;
    use crate::features::{Matrix, Row, Table};

    fn row(id: &str, labels: &[u32], video: Option<&str>) -> Row {
        let video = video.map(str::to_owned);
        Row { id: id.into(), labels: labels.to_vec(), split: Split::Test, video, moment: None, span_s: None }
    }

    /// Videos at angles of 0, 10, 20, ... degrees, an image at 0.
    fn set(videos: Vec<Row>, images: Vec<Row>) -> Set {
        let angle = |i: usize| [(i as f32 * 10.0).to_radians().cos(), (i as f32 * 10.0).to_radians().sin()];
        let videos = Table { matrix: Matrix::new((0..videos.len()).flat_map(angle).collect(), 2), rows: videos };
        let images = Table { matrix: Matrix::new([1.0, 0.0].repeat(images.len()), 2), rows: images };
        Set { images, videos, labels: vec!["x".into(), "y".into(), "z".into()] }
    }

    fn plain() -> Maps {
        Maps { image: Map::Identity(2), video: Map::Identity(2) }
    }

    #[test]
    fn clips_of_a_video_are_one_answer_and_queries_without_truth_are_counted() {
        let videos = vec![
            row("a1", &[0], Some("a")),
            row("b1", &[1], Some("b")),
            row("a2", &[2], Some("a")),
            row("c", &[1], None),
        ];
        let set = set(videos, vec![row("q1", &[1], None), row("q2", &[2, 0], None), row("q3", &[], None)]);
        let task = Task::new(&set, Split::Test).unwrap();
        assert_eq!((task.videos.as_slice(), task.skipped()), (&["a".to_owned(), "b".into(), "c".into()][..], 1));
        let answers = task.answers(&plain(), Pooling::Best, 10).unwrap();
        assert_eq!(answers.len(), 2);
        assert_eq!((answers[0].top.as_slice(), answers[0].first), (&[0, 1, 2][..], Some(2)));
        let summary = Summary::new(&answers, &[1, 10], Normaliser::Hits).unwrap();
        assert_eq!(summary.map, [(1, 0.5), (10, ((0.5 + 2.0 / 3.0) / 2.0 + 1.0) / 2.0)]);
        assert_eq!((summary.mrr, summary.median_rank), (0.75, Some(1.5)));
        // The mean of both clips puts b before a.
        let answers = task.answers(&plain(), Pooling::MeanTop(2), 10).unwrap();
        assert_eq!(answers[0].top, [1, 0, 2]);
    }

    #[test]
    fn without_labels_the_source_is_relevant() {
        let set = set(
            vec![row("a", &[], None), row("b", &[], None)],
            vec![row("q", &[], Some("b")), row("r", &[], Some("z"))],
        );
        let task = Task::new(&set, Split::Test).unwrap();
        assert_eq!((task.relevant(0), task.skipped(), task.relevance), (&[1][..], 1, Relevance::Video));
        assert_eq!((task.without_labels(), task.shared_sources().len()), (None, 0));
        let error = Task::new(&set, Split::Val).unwrap_err().to_string();
        assert!(error.contains("test 2") && error.contains("--split"), "{error}");
    }

    #[test]
    fn what_was_compared_and_what_training_saw_is_told() {
        let mut set = set(
            vec![row("a", &[], None), row("b1", &[], Some("b")), row("b2", &[], Some("b")), row("c", &[], None)],
            vec![row("q", &[1], Some("b")), row("r", &[], Some("c"))],
        );
        set.videos.rows[2].split = Split::Train;
        set.images.rows[1].split = Split::Val;
        let task = Task::new(&set, Split::Test).unwrap();
        assert_eq!((task.relevance, task.without_labels()), (Relevance::Video, Some("videos")));
        assert_eq!(task.shared_sources(), ["b", "c"]);
        assert_eq!(task.compared(), "names of videos were compared: the image q is of b, the first video is a");
        set.videos.rows[3].labels = vec![0];
        let task = Task::new(&set, Split::Test).unwrap();
        assert_eq!((task.relevance, task.without_labels()), (Relevance::Label, None));
        assert_eq!(task.compared(), "labels were compared: the image q has the label y, the video a has no label");
    }

    #[test]
    fn validation_leaves_an_image_s_own_video_out() {
        let split = |row: Row, split| Row { split, ..row };
        // At 0 degrees the query's own video, then a stranger, then one of its label.
        let videos = vec![row("own", &[1], None), row("stranger", &[0], None), row("other", &[1], None)];
        let images = vec![row("q", &[1], Some("own")), row("alone", &[2], Some("own"))];
        let mut set = set(videos, images);
        for table in [&mut set.images, &mut set.videos] {
            table.rows.iter_mut().for_each(|row| row.split = Split::Val);
        }
        set.images.rows.extend(["a", "b"].map(|id| split(row(id, &[1], None), Split::Train)));
        set.videos.rows.push(split(row("t", &[1], None), Split::Train));
        set.images.matrix = Matrix::new([1.0, 0.0].repeat(4), 2);
        let angles = [0f32, 10.0, 20.0, 30.0].map(f32::to_radians);
        set.videos.matrix = Matrix::new(angles.iter().flat_map(|a| [a.cos(), a.sin()]).collect(), 2);
        let data = Data::new(&set, 0.1, 1).unwrap();
        assert_eq!((data.queries.len(), data.gallery.len()), (1, 3));
        assert_eq!(validate(&plain(), &data).unwrap(), Some(0.5));
        // Its own video alone shares a label: it says nothing, and is no query.
        set.videos.rows[2].labels = vec![0];
        let error = Data::new(&set, 0.1, 1).unwrap_err().to_string();
        assert!(error.contains("none of 2 images"), "{error}");
    }

    #[test]
    fn a_pool_holds_what_is_relevant_and_grows_to_the_whole_gallery() {
        let videos = (0..9).map(|i| row(&format!("v{i}"), &[u32::from(i == 5)], None)).collect();
        let set = set(videos, (0..40).map(|i| row(&format!("q{i}"), &[1], None)).collect());
        let task = Task::new(&set, Split::Test).unwrap();
        let maps = task.pool_maps(&plain(), Pooling::Best, &[1, 3, 6, 9, 100], 1).unwrap();
        let map = |n| maps.iter().find(|(of, _)| *of == n).unwrap().1;
        // Alone in a pool of one it is first; among all it is sixth.
        assert_eq!(map(1), 1.0);
        assert!((map(9) - 1.0 / 6.0).abs() < 1e-12 && (map(100) - 1.0 / 6.0).abs() < 1e-12, "{maps:?}");
        assert!(map(3) < 1.0 && map(3) > map(6) && map(6) > map(9), "{maps:?}");
        for seed in 0..50 {
            let pool = task.draw_pool(0, 4, &mut Random::new(seed, "x"));
            assert!(pool.len() == 4 && pool.contains(&5) && pool.iter().all(|video| *video < 9), "{pool:?}");
        }
    }
}
