//! Exact ranking of many queries against a gallery: computes scores by matrix products of blocks, then
//! selects the best `k` of each query.

use rayon::prelude::*;

use crate::base::linalg::{MatrixView, multiply_here};

/// Queries per block. The scores of a block over some thousand rows fit the cache.
const BLOCK: usize = 64;

/// How a video's score is computed from the scores of its clips.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pooling {
    /// Score of the best clip.
    #[default]
    Best,
    /// Mean score of the N best clips, or of all clips if there are fewer.
    MeanTop(usize),
}

impl std::fmt::Display for Pooling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Pooling::Best => write!(f, "best"),
            Pooling::MeanTop(n) => write!(f, "mean:{n}"),
        }
    }
}

impl std::str::FromStr for Pooling {
    type Err = String;

    fn from_str(text: &str) -> Result<Pooling, String> {
        match (text, text.strip_prefix("mean:").map(str::parse)) {
            ("best", _) => Ok(Pooling::Best),
            (_, Some(Ok(n))) if n > 0 => Ok(Pooling::MeanTop(n)),
            _ => Err("expected best, or mean:N with N of at least 1".to_owned()),
        }
    }
}

/// The rows of the videos to rank, with an exact search.
#[derive(Debug, Clone)]
pub struct Gallery {
    rows: Vec<f32>,
    length: usize,
    /// Video of each row.
    owners: Vec<u32>,
    videos: usize,
    pooling: Pooling,
}

/// Ranking of videos for one query.
#[derive(Debug, Clone, PartialEq)]
pub struct RankedVideos {
    /// The best videos, best first; ties in order of their number.
    pub top: Vec<u32>,
    /// Scores of the best videos.
    pub scores: Vec<f32>,
    /// Rank of the best relevant video among all videos, from 1; absent without a relevant video.
    pub first: Option<usize>,
}

/// A score and an index as one number. A smaller number is better; ties are in order of the index; NaN is
/// worst.
fn key(score: f32, index: usize) -> u64 {
    let score = if score.is_nan() { f32::NEG_INFINITY } else { score + 0.0 };
    let bits = (-score).to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(ordered) << 32 | index as u64
}

/// Writes the keys of the best `k` scores to `keys`, best first.
fn select_best(scores: &[f32], k: usize, keys: &mut Vec<u64>) {
    keys.clear();
    let k = k.min(scores.len());
    if k == 0 {
        return;
    }
    let capacity = 2 * k + 64;
    let mut floor = f32::NEG_INFINITY;
    let mut full = false;
    for (index, score) in scores.iter().enumerate() {
        // Of equal scores the lowest index wins, so a later equal score is not needed.
        if !full || *score > floor {
            keys.push(key(*score, index));
            if keys.len() >= capacity {
                keys.select_nth_unstable(k - 1);
                keys.truncate(k);
                floor = scores[keys[k - 1] as u32 as usize];
                full = !floor.is_nan();
            }
        }
    }
    keys.sort_unstable();
    keys.truncate(k);
}

impl Gallery {
    /// A gallery of row-major rows of `length` numbers; `owners` contains the video of each row, below
    /// `videos`.
    ///
    /// # Panics
    /// If the lengths do not match, or a row's video is not below `videos`.
    pub fn new(rows: Vec<f32>, length: usize, owners: Vec<u32>, videos: usize, pooling: Pooling) -> Gallery {
        assert_eq!(rows.len(), length * owners.len(), "a video for each row");
        assert!(owners.iter().all(|owner| (*owner as usize) < videos), "owners are below the number of videos");
        Gallery { rows, length, owners, videos, pooling }
    }

    /// Row-major rows.
    pub fn rows(&self) -> &[f32] {
        &self.rows
    }

    /// Video of each row.
    pub fn owners(&self) -> &[u32] {
        &self.owners
    }

    /// Ranks the videos for each query (row-major, rows of `length` numbers) by dot product. `relevant`
    /// returns a query's relevant videos; `map` converts each ranking to a result. Several threads rank
    /// blocks of queries. The results are in order of the queries and do not depend on the number of threads.
    pub fn rank<T: Send>(
        &self,
        queries: &[f32],
        k: usize,
        relevant: impl Fn(usize) -> Vec<u32> + Sync,
        map: impl Fn(usize, RankedVideos) -> T + Sync,
    ) -> Vec<T> {
        if self.length == 0 {
            return Vec::new();
        }
        let one_row_each =
            self.owners.len() == self.videos && self.owners.iter().enumerate().all(|(i, o)| i == *o as usize);
        let blocks: Vec<Vec<T>> = queries
            .par_chunks(BLOCK * self.length)
            .enumerate()
            .map(|(block, queries)| {
                let n = queries.len() / self.length;
                let mut scores = vec![0f32; n * self.owners.len()];
                multiply_here(
                    &mut scores,
                    0.0,
                    MatrixView::rows(queries, self.length),
                    MatrixView::rows(&self.rows, self.length).transposed(),
                );
                let (mut keys, mut pooled) = (Vec::new(), Vec::new());
                let mut answers = Vec::with_capacity(n);
                for i in 0..n {
                    let clips = &scores[i * self.owners.len()..][..self.owners.len()];
                    let videos = if one_row_each { clips } else { self.pool(clips, &mut pooled) };
                    let query = block * BLOCK + i;
                    answers.push(map(query, answer(videos, k, &relevant(query), &mut keys)));
                }
                answers
            })
            .collect();
        blocks.into_iter().flatten().collect()
    }

    /// Scores of the videos from the scores of their clips.
    fn pool<'a>(&self, clips: &[f32], pooled: &'a mut Vec<f32>) -> &'a [f32] {
        pooled.clear();
        pooled.resize(self.videos, f32::NEG_INFINITY);
        match self.pooling {
            Pooling::Best => {
                for (owner, score) in self.owners.iter().zip(clips) {
                    let best = &mut pooled[*owner as usize];
                    *best = best.max(*score);
                }
            }
            Pooling::MeanTop(n) => {
                let mut by_video = vec![Vec::new(); self.videos];
                self.owners.iter().zip(clips).for_each(|(owner, score)| by_video[*owner as usize].push(*score));
                for (video, scores) in pooled.iter_mut().zip(&mut by_video) {
                    scores.sort_unstable_by(|a, b| b.total_cmp(a));
                    scores.truncate(n);
                    if !scores.is_empty() {
                        *video = scores.iter().sum::<f32>() / scores.len() as f32;
                    }
                }
            }
        }
        pooled
    }
}

fn answer(scores: &[f32], k: usize, relevant: &[u32], keys: &mut Vec<u64>) -> RankedVideos {
    select_best(scores, k, keys);
    let first = relevant.iter().map(|video| key(scores[*video as usize], *video as usize)).min();
    let rank = first.map(|first| {
        let index = first as u32 as usize;
        let score = scores[index];
        if score.is_nan() {
            return 1 + scores.iter().enumerate().filter(|(index, score)| key(**score, *index) < first).count();
        }
        let better: u32 = scores.iter().map(|other| u32::from(*other > score)).sum();
        let equal: u32 = scores[..index].iter().map(|other| u32::from(*other == score)).sum();
        (1 + better + equal) as usize
    });
    let top: Vec<u32> = keys.iter().map(|key| *key as u32).collect();
    let scores = top.iter().map(|video| scores[*video as usize]).collect();
    RankedVideos { top, scores, first: rank }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::seeded::Random;

    fn numbers(n: usize, name: &str) -> Vec<f32> {
        let mut random = Random::new(1, name);
        // Few distinct values, so that there are many ties.
        (0..n).map(|_| (random.between(-3.0, 3.0)).round()).collect()
    }

    /// The ranking by sorting all scores.
    fn naive(rows: &[f32], owners: &[u32], videos: usize, query: &[f32], pooling: Pooling) -> Vec<(f32, u32)> {
        let mut ranked: Vec<(f32, u32)> = (0..videos as u32)
            .map(|video| {
                let clips = rows.chunks(query.len()).zip(owners).filter(|(_, owner)| **owner == video);
                let mut scores: Vec<f32> =
                    clips.map(|(row, _)| row.iter().zip(query).map(|(a, b)| a * b).sum()).collect();
                scores.sort_by(|a, b| b.total_cmp(a));
                let n = match pooling {
                    Pooling::Best => 1,
                    Pooling::MeanTop(n) => n.min(scores.len()),
                };
                (scores[..n].iter().sum::<f32>() / n as f32 + 0.0, video) // -0.0 becomes 0.0
            })
            .collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        ranked
    }

    #[test]
    fn ranking_matches_sorting_all_scores() {
        let (length, videos) = (5, 300);
        let mut owners: Vec<u32> = (0..videos as u32).collect();
        owners.extend((0..400).map(|i| i * 7 % videos as u32));
        for (owners, pooling) in [
            (owners[..videos].to_vec(), Pooling::Best),
            (owners.clone(), Pooling::Best),
            (owners.clone(), Pooling::MeanTop(2)),
            (owners, Pooling::MeanTop(100)),
        ] {
            let (rows, queries) = (numbers(owners.len() * length, "rows"), numbers(150 * length, "queries"));
            let gallery = Gallery::new(rows.clone(), length, owners.clone(), videos, pooling);
            let relevant = |query: usize| vec![query as u32, (query * 13 % videos) as u32];
            for k in [0, 1, 10, 100, 1000] {
                let answers = gallery.rank(&queries, k, relevant, |query, ranked| (query, ranked));
                assert_eq!(answers.len(), 150);
                for (query, ranked) in answers {
                    let all = naive(&rows, &owners, videos, &queries[query * length..][..length], pooling);
                    let expected: Vec<u32> = all.iter().take(k).map(|(_, video)| *video).collect();
                    assert_eq!(ranked.top, expected, "{pooling} k {k}");
                    let first = all.iter().position(|(_, video)| relevant(query).contains(video));
                    assert_eq!(ranked.first, first.map(|at| at + 1));
                }
            }
        }
    }

    #[test]
    fn nan_ranks_last() {
        let gallery = Gallery::new(vec![f32::NAN, -1.0, 2.0], 1, vec![0, 1, 2], 3, Pooling::Best);
        for (relevant, first) in [(1, 2), (0, 3), (2, 1)] {
            let answers = gallery.rank(&[1.0], usize::MAX, |_| vec![relevant], |_, ranked| ranked);
            assert_eq!((answers[0].top.as_slice(), answers[0].first), (&[2, 1, 0][..], Some(first)));
        }
    }
}
