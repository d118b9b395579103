//! The candidate-pool definition of mAP@n.

use std::collections::BTreeSet;

use super::Error;
use super::embedding::FeatureMaps;
use super::metrics::{self, JudgedRanking, Normaliser};
use super::ranking::Pooling;
use super::task::RetrievalTask;
use crate::base::seeded::Random;

impl RetrievalTask<'_> {
    /// mAP@n over candidate pools, for each `n`. Each query is ranked against a seeded pool of `n` videos
    /// (all videos if there are fewer), drawn without replacement. If the pool has no relevant video, a
    /// relevant one replaces the last video. Average precision covers the whole pool.
    ///
    /// # Errors
    /// As [`RetrievalTask::answers`].
    pub fn pool_maps(
        &self,
        maps: &FeatureMaps,
        pooling: Pooling,
        n: &[usize],
        seed: u64,
    ) -> Result<Vec<(usize, f64)>, Error> {
        let gallery = self.gallery(maps, pooling)?;
        let queries = self.embedded_queries(maps)?;
        let precisions = gallery.rank(
            &queries,
            self.videos.len(),
            |_| Vec::new(),
            |query, ranked| {
                let relevant = self.relevant(query);
                if relevant.is_empty() {
                    return None;
                }
                let name = &self.query(query).id;
                let precision_in_pool = |n: &usize| {
                    let pool = self.draw_pool(query, *n, &mut Random::new(seed, name));
                    let in_pool =
                        |all: &[u32]| all.iter().copied().filter(|video| pool.contains(video)).collect::<Vec<u32>>();
                    let (top, relevant) = (in_pool(&ranked.top), in_pool(relevant));
                    let judged = JudgedRanking::new(&top, &relevant);
                    judged.map_or(0.0, |judged| metrics::average_precision(&judged, top.len(), Normaliser::All))
                };
                Some(n.iter().map(precision_in_pool).collect::<Vec<f64>>())
            },
        );
        let precisions: Vec<Vec<f64>> = precisions.into_iter().flatten().collect();
        let mean = |i: usize| metrics::mean(precisions.iter().map(|each| each[i])).unwrap_or(0.0);
        Ok(n.iter().enumerate().map(|(i, n)| (*n, mean(i))).collect())
    }

    fn draw_pool(&self, query: usize, n: usize, random: &mut Random) -> BTreeSet<u32> {
        let all = self.videos.len();
        let n = n.clamp(1, all);
        // Floyd's algorithm: a sample without replacement.
        let mut order = Vec::with_capacity(n);
        let mut pool = BTreeSet::new();
        for last in all - n..all {
            let drawn = random.up_to(last as u32);
            let drawn = if pool.contains(&drawn) { last as u32 } else { drawn };
            pool.insert(drawn);
            order.push(drawn);
        }
        let relevant = self.relevant(query);
        if !relevant.iter().any(|video| pool.contains(video)) {
            pool.remove(&order[n - 1]);
            pool.insert(relevant[random.up_to(relevant.len() as u32 - 1) as usize]);
        }
        pool
    }
}

#[cfg(test)]
mod tests {
    use super::super::embedding::FeatureMap;
    use super::*;
    use crate::features::{FeatureMatrix, FeatureRow, FeatureSet, FeatureTable, Split};

    #[test]
    fn a_pool_contains_a_relevant_video_and_grows_to_the_whole_gallery() {
        // Videos at angles of 0, 10, 20, ... degrees, images at 0; the sixth video is relevant.
        let angle = |i: usize| [(i as f32 * 10.0).to_radians().cos(), (i as f32 * 10.0).to_radians().sin()];
        let row = |id: String, label: u32| FeatureRow { labels: vec![label], ..FeatureRow::new(id, Split::Test) };
        let videos = (0..9).map(|i| row(format!("v{i}"), u32::from(i == 5))).collect();
        let videos = FeatureTable { matrix: FeatureMatrix::new((0..9).flat_map(angle).collect(), 2), rows: videos };
        let images = (0..40).map(|i| row(format!("q{i}"), 1)).collect();
        let images = FeatureTable { matrix: FeatureMatrix::new([1.0, 0.0].repeat(40), 2), rows: images };
        let set = FeatureSet { images, videos, labels: vec!["x".into(), "y".into()] };
        let task = RetrievalTask::new(&set, Split::Test).unwrap();
        let plain = FeatureMaps { image: FeatureMap::identity(2), video: FeatureMap::identity(2) };
        let maps = task.pool_maps(&plain, Pooling::Best, &[1, 3, 6, 9, 100], 1).unwrap();
        let map = |n| maps.iter().find(|(size, _)| *size == n).unwrap().1;
        // The relevant video is first in a pool of one, and sixth among all videos.
        assert_eq!(map(1), 1.0);
        assert!((map(9) - 1.0 / 6.0).abs() < 1e-12 && (map(100) - 1.0 / 6.0).abs() < 1e-12, "{maps:?}");
        assert!(map(3) < 1.0 && map(3) > map(6) && map(6) > map(9), "{maps:?}");
        for seed in 0..50 {
            let pool = task.draw_pool(0, 4, &mut Random::new(seed, "x"));
            assert!(pool.len() == 4 && pool.contains(&5) && pool.iter().all(|video| *video < 9), "{pool:?}");
        }
    }
}
