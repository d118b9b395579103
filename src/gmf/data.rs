//! Which images and videos of a feature set are learned from, paired and held out.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::config::Config;
use super::loss::{Relation, Relations};
use super::step::Batch;
use super::train::TrainError;
use crate::base::seeded::Random;
use crate::features::{self, Row, Set, Split};

/// Which images and videos to learn from, and which belong together.
#[derive(Debug)]
pub struct Data<'a> {
    pub(super) set: &'a Set,
    pub(super) labelled: bool,
    pub(super) images: Vec<u32>,
    partners: HashMap<String, Vec<u32>>,
    /// Images to validate with.
    pub queries: Vec<u32>,
    /// Videos to find them among.
    pub gallery: Vec<u32>,
    /// Training images that no training video belongs to: left out.
    pub alone: usize,
}

impl<'a> Data<'a> {
    /// Rows of the split `train` to learn from, of `val` to choose the best epoch by. Without any of `val`, a seeded share of the
    /// training rows is held out, all rows of one source video together. Images and videos belong together if they
    /// share a label; without labels, if they come from the same video (`video`, or else `id`).
    ///
    /// # Errors
    /// [`TrainError::Data`] if there is nothing to learn from, or a split `val` in which no image belongs to a video.
    pub fn new(set: &'a Set, held_out: f32, seed: u64) -> Result<Data<'a>, TrainError> {
        let of = |rows: &[Row], split: Split| -> Vec<u32> {
            (0u32..).zip(rows).filter(|(_, r)| r.split == split).map(|(i, _)| i).collect()
        };
        let (mut images, mut videos) = (of(&set.images.rows, Split::Train), of(&set.videos.rows, Split::Train));
        let (mut queries, mut gallery) = (of(&set.images.rows, Split::Val), of(&set.videos.rows, Split::Val));
        let given = !queries.is_empty() || !gallery.is_empty();
        if !given {
            let held = |row: &Row| Random::new(seed, row.source()).between(0.0, 1.0) < held_out;
            (queries, images) = images.into_iter().partition(|i| held(&set.images.rows[*i as usize]));
            (gallery, videos) = videos.into_iter().partition(|i| held(&set.videos.rows[*i as usize]));
        }
        let labelled = [(&images, &set.images), (&videos, &set.videos)]
            .iter()
            .all(|(rows, table)| rows.iter().any(|i| !table.rows[*i as usize].labels.is_empty()));
        let mut partners: HashMap<String, Vec<u32>> = HashMap::new();
        for i in &videos {
            for key in keys(&set.videos.rows[*i as usize], labelled) {
                partners.entry(key).or_default().push(*i);
            }
        }
        let all = images.len();
        images.retain(|i| keys(&set.images.rows[*i as usize], labelled).iter().any(|k| partners.contains_key(k)));
        if images.len() < 2 {
            return Err(TrainError::Data(format!(
                "{} of {all} training images belong to one of {} training videos; at least 2 are needed: give rows of the split `train` \
                 that share labels, or whose `video` (or `id`) is the same",
                images.len(),
                videos.len()
            )));
        }
        let mut data = Data { set, labelled, alone: all - images.len(), images, partners, queries, gallery };
        let asked = data.queries.len();
        // A query to which nothing belongs says nothing. With labels, neither does its own video.
        let mut sources: HashMap<String, HashSet<&str>> = HashMap::new();
        for video in data.gallery.iter().map(|video| &set.videos.rows[*video as usize]) {
            keys(video, labelled).into_iter().for_each(|key| {
                sources.entry(key).or_default().insert(video.source());
            });
        }
        data.queries.retain(|image| {
            let image = &set.images.rows[*image as usize];
            let found = keys(image, labelled).into_iter().filter_map(|key| sources.get(&key));
            found.into_iter().any(|of| !labelled || of.iter().any(|source| *source != image.source()))
        });
        if given && data.queries.is_empty() {
            return Err(TrainError::Data(format!(
                "none of {asked} images of the split `val` belongs to one of its {} videos, so that no epoch could be chosen: give it images and \
                 videos that share labels (or `video`), or leave the split away",
                data.gallery.len()
            )));
        }
        Ok(data)
    }

    /// The same choice of rows on a set with the same rows and other numbers.
    ///
    /// # Panics
    /// If the set has other rows.
    pub fn on<'b>(&self, set: &'b Set) -> Data<'b> {
        let same = |a: &[Row], b: &[Row]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.id == b.id);
        assert!(
            same(&self.set.images.rows, &set.images.rows) && same(&self.set.videos.rows, &set.videos.rows),
            "the same rows"
        );
        Data {
            set,
            labelled: self.labelled,
            images: self.images.clone(),
            partners: self.partners.clone(),
            queries: self.queries.clone(),
            gallery: self.gallery.clone(),
            alone: self.alone,
        }
    }

    /// The features.
    pub fn set(&self) -> &'a Set {
        self.set
    }

    /// Training images and videos that belong together: a group a label (or, without labels, a source), in the order of their names.
    /// What has several labels is in several groups; groups without an image or a video are left out.
    pub fn groups(&self) -> Vec<(Vec<u32>, Vec<u32>)> {
        let mut groups: BTreeMap<&String, (Vec<u32>, Vec<u32>)> =
            self.partners.iter().map(|(key, videos)| (key, (Vec::new(), videos.clone()))).collect();
        for image in &self.images {
            for key in keys(&self.set.images.rows[*image as usize], self.labelled) {
                if let Some((images, _)) = groups.get_mut(&key) {
                    images.push(*image);
                }
            }
        }
        groups.into_values().filter(|(images, _)| !images.is_empty()).collect()
    }

    /// Whether labels say what belongs together, not the source.
    pub fn by_label(&self) -> bool {
        self.labelled
    }

    /// Pairs in an epoch.
    pub fn pairs(&self) -> usize {
        self.images.len()
    }

    /// A short name for exactly this choice of rows.
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

    /// Whether an image and a video belong together.
    pub fn together(&self, image: u32, video: u32) -> bool {
        self.relation(image, video) == Relation::Positive
    }

    /// Whether a video says nothing about how well an image is answered: with labels, where the videos of the same activity are asked for, a clip of
    /// the image's own video does not, since it is found by how it looks.
    pub fn is_own(&self, image: u32, video: u32) -> bool {
        let (image, video) = (&self.set.images.rows[image as usize], &self.set.videos.rows[video as usize]);
        self.labelled && image.source() == video.source()
    }

    /// What a video is to an image. Two moments of one video may look alike or not: that is left open.
    fn relation(&self, image: u32, video: u32) -> Relation {
        let (image, video) = (&self.set.images.rows[image as usize], &self.set.videos.rows[video as usize]);
        match self.labelled {
            true if image.shares_label(video) => Relation::Positive,
            false if image.instance() == video.instance() => Relation::Positive,
            false if image.source() == video.source() => Relation::Open,
            _ => Relation::Negative,
        }
    }

    /// Every training image once, in seeded order, each with one of its videos.
    pub(super) fn epoch(&self, seed: u64, epoch: usize) -> Vec<(u32, u32)> {
        let mut random = Random::new(seed, &format!("epoch {epoch}"));
        let mut order = self.images.clone();
        for i in (1..order.len()).rev() {
            order.swap(i, random.up_to(i as u32) as usize);
        }
        let pick = |image: u32| {
            let keys = keys(&self.set.images.rows[image as usize], self.labelled);
            let lists: Vec<&Vec<u32>> = keys.iter().filter_map(|k| self.partners.get(k)).collect();
            let list = lists[random.up_to(lists.len() as u32 - 1) as usize];
            (image, list[random.up_to(list.len() as u32 - 1) as usize])
        };
        order.into_iter().map(pick).collect()
    }

    pub(super) fn batch(
        &self,
        config: &Config,
        pairs: &[(u32, u32)],
        batch: &mut Batch,
    ) -> Result<Relations, features::Error> {
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
        Ok(Relations::new(pairs.len(), |anchor, candidate| self.relation(pairs[anchor].0, pairs[candidate].1)))
    }
}

fn keys(row: &Row, labelled: bool) -> Vec<String> {
    if labelled { row.labels.iter().map(u32::to_string).collect() } else { vec![row.instance().to_owned()] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{Matrix, Table};

    #[test]
    fn the_fingerprint_tells_which_videos_are_learned_from() {
        let table = |name: &str, n: usize| {
            let row = |i: usize| Row {
                id: format!("{name}{i}"),
                labels: vec![0],
                split: Split::Train,
                video: None,
                moment: None,
                span_s: None,
            };
            Table { matrix: Matrix::new(vec![0.5; n], 1), rows: (0..n).map(row).collect() }
        };
        let mut set = Set { images: table("i", 2), videos: table("v", 3), labels: vec!["x".into()] };
        let whole = Data::new(&set, 0.0, 1).unwrap().fingerprint();
        assert_eq!(Data::new(&set, 0.0, 1).unwrap().fingerprint(), whole);
        set.videos.rows[2].split = Split::Test;
        assert_ne!(Data::new(&set, 0.0, 1).unwrap().fingerprint(), whole);
    }
}
