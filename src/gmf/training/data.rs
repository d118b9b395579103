//! The pairs of images and videos on which a model is trained, and the rows held out for validation.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::loss::{Relation, Relations};
use super::run::TrainError;
use super::step::TrainingBatch;
use crate::base::seeded::Random;
use crate::features::{self, FeatureRow, FeatureSet, FeatureTable, Split};
use crate::gmf::config::GmfConfig;

/// Rows of a feature set for training and validation, and which of them match.
#[derive(Debug)]
pub struct TrainingData<'a> {
    pub(super) set: &'a FeatureSet,
    pub(super) labelled: bool,
    pub(super) images: Vec<u32>,
    /// Training videos by match key.
    partners: HashMap<String, Vec<u32>>,
    /// Rows of the images that are validation queries.
    pub queries: Vec<u32>,
    /// Rows of the videos that validation searches.
    pub gallery: Vec<u32>,
    /// Number of training images without a matching training video; they are left out.
    pub unmatched_images: usize,
}

/// Training rows that match each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairGroup {
    /// Rows of images.
    pub images: Vec<u32>,
    /// Rows of videos.
    pub videos: Vec<u32>,
}

impl<'a> TrainingData<'a> {
    /// Uses the rows of the split `train` for training and the rows of `val` for validation. Without rows of
    /// `val`, a seeded share of the training rows is held out, with all rows of one source video together. An
    /// image and a video match if they share a label; without labels, if they come from the same video
    /// (`video`, or else `id`).
    ///
    /// # Errors
    /// [`TrainError::TooFewPairs`] if fewer than two images have a matching video;
    /// [`TrainError::NoValidationPairs`] if there is a split `val` in which no image matches a video.
    pub fn new(set: &'a FeatureSet, held_out: f32, seed: u64) -> Result<TrainingData<'a>, TrainError> {
        let in_split = |table: &FeatureTable, split: Split| -> Vec<u32> {
            (0u32..).zip(&table.rows).filter(|(_, r)| r.split == split).map(|(i, _)| i).collect()
        };
        let (mut images, mut videos) = (in_split(&set.images, Split::Train), in_split(&set.videos, Split::Train));
        let (mut queries, mut gallery) = (in_split(&set.images, Split::Val), in_split(&set.videos, Split::Val));
        let has_val = !queries.is_empty() || !gallery.is_empty();
        if !has_val {
            let is_held = |row: &FeatureRow| Random::new(seed, row.source()).between(0.0, 1.0) < held_out;
            (queries, images) = images.into_iter().partition(|i| is_held(&set.images.rows[*i as usize]));
            (gallery, videos) = videos.into_iter().partition(|i| is_held(&set.videos.rows[*i as usize]));
        }
        let labelled = [(&images, &set.images), (&videos, &set.videos)]
            .iter()
            .all(|(rows, table)| rows.iter().any(|i| !table.rows[*i as usize].labels.is_empty()));
        let mut partners: HashMap<String, Vec<u32>> = HashMap::new();
        for i in &videos {
            for key in match_keys(&set.videos.rows[*i as usize], labelled) {
                partners.entry(key).or_default().push(*i);
            }
        }
        let all = images.len();
        let has_partner =
            |i: &u32| match_keys(&set.images.rows[*i as usize], labelled).iter().any(|key| partners.contains_key(key));
        images.retain(has_partner);
        if images.len() < 2 {
            return Err(TrainError::TooFewPairs { matched: images.len(), images: all, videos: videos.len() });
        }
        let unmatched_images = all - images.len();
        let mut data = TrainingData { set, labelled, images, partners, queries, gallery, unmatched_images };
        let all_queries = data.queries.len();
        data.drop_unanswerable_queries();
        if has_val && data.queries.is_empty() {
            return Err(TrainError::NoValidationPairs { images: all_queries, videos: data.gallery.len() });
        }
        Ok(data)
    }

    /// Drops validation queries that no video matches. With labels, a query's own video does not count.
    fn drop_unanswerable_queries(&mut self) {
        let (set, labelled) = (self.set, self.labelled);
        let mut sources: HashMap<String, HashSet<&str>> = HashMap::new();
        for video in self.gallery.iter().map(|video| &set.videos.rows[*video as usize]) {
            match_keys(video, labelled).into_iter().for_each(|key| {
                sources.entry(key).or_default().insert(video.source());
            });
        }
        self.queries.retain(|image| {
            let image = &set.images.rows[*image as usize];
            let mut matching = match_keys(image, labelled).into_iter().filter_map(|key| sources.get(&key));
            matching.any(|of_key| !labelled || of_key.iter().any(|source| *source != image.source()))
        });
    }

    /// The same choice of rows on a set with the same rows and other features.
    ///
    /// # Panics
    /// If the set has other rows.
    pub fn with_features<'b>(&self, set: &'b FeatureSet) -> TrainingData<'b> {
        let same =
            |a: &[FeatureRow], b: &[FeatureRow]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.id == b.id);
        assert!(
            same(&self.set.images.rows, &set.images.rows) && same(&self.set.videos.rows, &set.videos.rows),
            "the sets have the same rows"
        );
        TrainingData {
            set,
            labelled: self.labelled,
            images: self.images.clone(),
            partners: self.partners.clone(),
            queries: self.queries.clone(),
            gallery: self.gallery.clone(),
            unmatched_images: self.unmatched_images,
        }
    }

    /// The feature set.
    pub fn set(&self) -> &'a FeatureSet {
        self.set
    }

    /// Matching training rows: one group per label (without labels, per source), ordered by name. A row with
    /// several labels is in several groups. Groups without an image or a video are left out.
    pub fn groups(&self) -> Vec<PairGroup> {
        let mut groups: BTreeMap<&String, PairGroup> = self
            .partners
            .iter()
            .map(|(key, videos)| (key, PairGroup { images: Vec::new(), videos: videos.clone() }))
            .collect();
        for image in &self.images {
            for key in match_keys(&self.set.images.rows[*image as usize], self.labelled) {
                if let Some(group) = groups.get_mut(&key) {
                    group.images.push(*image);
                }
            }
        }
        groups.into_values().filter(|group| !group.images.is_empty()).collect()
    }

    /// Whether rows match by label; otherwise they match by source video.
    pub fn by_label(&self) -> bool {
        self.labelled
    }

    /// Number of pairs in an epoch.
    pub fn pairs(&self) -> usize {
        self.images.len()
    }

    /// First 16 hexadecimal digits of a hash over the choice of rows.
    pub(super) fn fingerprint(&self) -> String {
        let mut hash = blake3::Hasher::new();
        let mut videos: Vec<u32> = self.partners.values().flatten().copied().collect();
        videos.sort_unstable();
        videos.dedup();
        for rows in [&self.images, &videos, &self.queries, &self.gallery] {
            hash.update(&(rows.len() as u64).to_le_bytes());
            rows.iter().for_each(|row| {
                hash.update(&row.to_le_bytes());
            });
        }
        hash.finalize().to_hex()[..16].to_owned()
    }

    /// Whether an image and a video match.
    pub fn is_match(&self, image: u32, video: u32) -> bool {
        self.relation(image, video) == Relation::Positive
    }

    /// Whether validation ignores a video for an image. With labels, it ignores the clips of the image's own
    /// video, because their appearance alone makes them easy to find.
    pub fn is_own_video(&self, image: u32, video: u32) -> bool {
        let (image, video) = (&self.set.images.rows[image as usize], &self.set.videos.rows[video as usize]);
        self.labelled && image.source() == video.source()
    }

    /// Relation of a video to an image. Without labels, the relation of two moments of one video is open,
    /// because they may look alike.
    fn relation(&self, image: u32, video: u32) -> Relation {
        let (image, video) = (&self.set.images.rows[image as usize], &self.set.videos.rows[video as usize]);
        match self.labelled {
            true if image.shares_label(video) => Relation::Positive,
            false if image.instance() == video.instance() => Relation::Positive,
            false if image.source() == video.source() => Relation::Open,
            _ => Relation::Negative,
        }
    }

    /// The pairs of an epoch: every training image once, in seeded order, each with one of its matching
    /// videos.
    pub(super) fn epoch(&self, seed: u64, epoch: usize) -> Vec<(u32, u32)> {
        let mut random = Random::new(seed, &format!("epoch {epoch}"));
        let mut order = self.images.clone();
        for i in (1..order.len()).rev() {
            order.swap(i, random.up_to(i as u32) as usize);
        }
        let pick = |image: u32| {
            let keys = match_keys(&self.set.images.rows[image as usize], self.labelled);
            let lists: Vec<&Vec<u32>> = keys.iter().filter_map(|k| self.partners.get(k)).collect();
            let list = lists[random.up_to(lists.len() as u32 - 1) as usize];
            (image, list[random.up_to(list.len() as u32 - 1) as usize])
        };
        order.into_iter().map(pick).collect()
    }

    /// Reads the features of pairs, and the relations between them, into `batch`.
    pub(super) fn read_batch(
        &self,
        config: &GmfConfig,
        pairs: &[(u32, u32)],
        batch: &mut TrainingBatch,
    ) -> Result<(), features::Error> {
        batch.features.resize_with(config.modalities().len(), Vec::new);
        for (modality, features) in config.modalities().iter().zip(&mut batch.features) {
            features.resize(pairs.len() * modality.length, 0.0);
            for (pair, row) in pairs.iter().zip(features.chunks_exact_mut(modality.length)) {
                match modality.name.as_str() {
                    "image" => self.set.images.matrix.read(pair.0 as usize, row)?,
                    _ => self.set.videos.matrix.read(pair.1 as usize, row)?,
                }
            }
        }
        batch.relations =
            Relations::new(pairs.len(), |anchor, candidate| self.relation(pairs[anchor].0, pairs[candidate].1));
        Ok(())
    }
}

/// Keys of a row. Rows with a common key match.
fn match_keys(row: &FeatureRow, labelled: bool) -> Vec<String> {
    if labelled { row.labels.iter().map(u32::to_string).collect() } else { vec![row.instance().to_owned()] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{FeatureMatrix, FeatureTable};

    #[test]
    fn fingerprint_depends_on_the_training_videos() {
        let table = |name: &str, n: usize| {
            let row = |i: usize| FeatureRow {
                id: format!("{name}{i}"),
                labels: vec![0],
                split: Split::Train,
                video: None,
                moment: None,
                span_s: None,
            };
            FeatureTable { matrix: FeatureMatrix::new(vec![0.5; n], 1), rows: (0..n).map(row).collect() }
        };
        let mut set = FeatureSet { images: table("i", 2), videos: table("v", 3), labels: vec!["x".into()] };
        let whole = TrainingData::new(&set, 0.0, 1).unwrap().fingerprint();
        assert_eq!(TrainingData::new(&set, 0.0, 1).unwrap().fingerprint(), whole);
        set.videos.rows[2].split = Split::Test;
        assert_ne!(TrainingData::new(&set, 0.0, 1).unwrap().fingerprint(), whole);
    }
}
