//! Retrieval through the HNSW index: the loss of mAP by approximate search.

use std::collections::{BTreeMap, HashSet};

use rayon::prelude::*;
use reelseek_index::{Effort, Hit, HnswSettings, Index, IndexSettings, Span, Video};

use super::Error;
use super::embedding::FeatureMaps;
use super::metrics;
use super::ranking::Pooling;
use super::retrieval::RankedAnswer;
use super::task::RetrievalTask;

/// Options of [`RetrievalTask::answers_through_index`].
#[derive(Debug, Clone)]
pub struct AnnOptions {
    /// Ranks of ann_recall@k.
    pub at: Vec<usize>,
    /// Number of videos to rank.
    pub depth: usize,
    /// Effort of the search.
    pub effort: Effort,
}

impl Default for AnnOptions {
    fn default() -> AnnOptions {
        AnnOptions { at: vec![10], depth: 10, effort: Effort::Default }
    }
}

/// Answers through the index, and their overlap with the exact answers.
#[derive(Debug)]
pub struct AnnAnswers {
    /// One answer for each exact answer, in the same order.
    pub answers: Vec<RankedAnswer>,
    /// Mean ann_recall@k by `k`.
    pub recall: Vec<(usize, f64)>,
    /// Least number of rows that each search keeps.
    pub rows_kept: usize,
}

impl RetrievalTask<'_> {
    /// Searches a temporary index of the gallery for the nearest rows of each query of `exact`, and ranks
    /// their videos. Fetches more rows for a query until it has enough videos. With [`Pooling::MeanTop`], a
    /// video's score averages fetched rows only.
    ///
    /// # Errors
    /// As [`RetrievalTask::answers`]; [`Error::Index`].
    pub fn answers_through_index(
        &self,
        maps: &FeatureMaps,
        pooling: Pooling,
        exact: &[RankedAnswer],
        options: &AnnOptions,
    ) -> Result<AnnAnswers, Error> {
        let gallery = self.gallery(maps, pooling)?;
        let length = maps.video.outputs();
        let folder = tempfile::tempdir().map_err(|source| Error::Io { path: std::env::temp_dir(), source })?;
        // The index builds a graph for any number of rows, because the graph is measured.
        let hnsw = HnswSettings { min_rows: 1, ..HnswSettings::default() };
        let settings = IndexSettings { hnsw, ..IndexSettings::new(length) };
        let index = Index::create(folder.path().join("index"), &settings)?;
        let mut writer = index.writer()?;
        // All rows are one video of the index. A row's position identifies its video in the gallery.
        let owners = gallery.owners();
        let video = Video { id: "gallery".to_owned(), ..Video::default() };
        writer.put(video, &vec![Span::default(); owners.len()], gallery.rows(), &[])?;
        writer.commit()?;
        writer.close()?;
        let searcher = index.searcher()?;
        let queries = self.embedded_queries(maps)?;
        let wanted = options.depth.min(self.videos.len());
        let answer = |exact: &RankedAnswer| -> Result<RankedAnswer, Error> {
            let query = &queries[exact.query * length..][..length];
            let mut fetch = wanted.min(owners.len());
            loop {
                let hits = searcher.search(query, fetch, None, options.effort)?;
                let videos: HashSet<u32> = hits.iter().map(|hit| owners[hit.row.row as usize]).collect();
                if videos.len() < wanted && fetch < owners.len() {
                    // The hits are clips of too few videos.
                    fetch = fetch.saturating_mul(4).min(owners.len());
                    continue;
                }
                let (top, scores) = pool_hits(&hits, owners, pooling, options.depth);
                let judged = self.judge(exact.query, &top).unwrap_or_else(|| exact.judged.clone());
                return Ok(RankedAnswer { query: exact.query, first: judged.first_rank(), judged, top, scores });
            }
        };
        let answers: Vec<RankedAnswer> = exact.par_iter().map(answer).collect::<Result<_, Error>>()?;
        let rows_kept = match options.effort {
            Effort::Ef(ef) => ef.max(wanted),
            _ => Effort::DEFAULT_EF.max(wanted),
        };
        let recall = options.at.iter().map(|k| {
            let each = exact.iter().zip(&answers).map(|(exact, found)| metrics::ann_recall(&found.top, &exact.top, *k));
            (*k, metrics::mean(each).unwrap_or(1.0))
        });
        let recall = recall.collect();
        Ok(AnnAnswers { answers, recall, rows_kept })
    }
}

/// Videos and scores of the hits, which are sorted by score.
fn pool_hits(hits: &[Hit], owners: &[u32], pooling: Pooling, depth: usize) -> (Vec<u32>, Vec<f32>) {
    let clips = match pooling {
        Pooling::Best => 1,
        Pooling::MeanTop(n) => n,
    };
    let mut by_video: BTreeMap<u32, Vec<f32>> = BTreeMap::new();
    for hit in hits {
        let scores = by_video.entry(owners[hit.row.row as usize]).or_default();
        if scores.len() < clips {
            scores.push(hit.score);
        }
    }
    let mean = |scores: Vec<f32>| scores.iter().sum::<f32>() / scores.len() as f32;
    let mut ranked: Vec<(f32, u32)> = by_video.into_iter().map(|(video, scores)| (mean(scores), video)).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    ranked.truncate(depth);
    ranked.into_iter().map(|(score, video)| (video, score)).unzip()
}
