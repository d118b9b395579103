//! The same questions through the HNSW index: what approximate search costs in mAP.

use std::collections::{BTreeMap, HashSet};

use rayon::prelude::*;
use reelseek_index::{Effort, Hnsw, Index, Settings, Span, Video};

use super::embedding::Maps;
use super::metrics;
use super::ranking::Pooling;
use super::retrieval::{Answer, Error, Task};

/// Answers through the index, and how many of the exact answers' videos they hold.
#[derive(Debug)]
pub struct Ann {
    /// One for each exact answer, in their order.
    pub answers: Vec<Answer>,
    /// Mean ann_recall@k by `k`.
    pub recall: Vec<(usize, f64)>,
    /// Rows that each walk kept at least: the breadth asked for, or as many as are wanted.
    pub rows_kept: usize,
}

impl Task<'_> {
    /// Asks an index of the gallery, made for the purpose, for the nearest rows of each query of `exact`, and ranks their videos down to `depth`; more
    /// clips are fetched for a query until there are enough videos. With [`Pooling::MeanTop`] a video is scored by what was fetched of it.
    ///
    /// # Errors
    /// As [`Task::answers`]; [`Error::Index`].
    pub fn ann(
        &self,
        maps: &Maps,
        pooling: Pooling,
        exact: &[Answer],
        (at, depth): (&[usize], usize),
        effort: Effort,
    ) -> Result<Ann, Error> {
        let gallery = self.gallery(maps, pooling)?;
        let length = maps.video.outputs();
        let place = tempfile::tempdir().map_err(|source| Error::Io { path: std::env::temp_dir(), source })?;
        // A graph however few rows there are: it is what is measured.
        let hnsw = Hnsw { min_rows: 1, ..Hnsw::default() };
        let settings = Settings { hnsw, ..Settings::new(length) };
        let index = Index::create(place.path().join("index"), &settings)?;
        let mut writer = index.writer()?;
        // All rows as one video of the index: which of our videos a row belongs to is known by its place.
        let owners = gallery.owners();
        let video = Video { id: "gallery".to_owned(), ..Video::default() };
        writer.put(video, &vec![Span::default(); owners.len()], gallery.rows(), &[])?;
        writer.commit()?;
        writer.close()?;
        let searcher = index.searcher()?;
        let queries = self.embedded_queries(maps)?;
        let wanted = depth.min(self.videos.len());
        let ask = |answer: &Answer| -> Result<Answer, Error> {
            let query = &queries[answer.query * length..][..length];
            let mut fetch = wanted.min(owners.len());
            loop {
                let hits = searcher.search(query, fetch, None, effort)?;
                let videos: HashSet<u32> = hits.iter().map(|hit| owners[hit.row.row as usize]).collect();
                if videos.len() < wanted && fetch < owners.len() {
                    // Filled by the clips of a few videos: more of them.
                    fetch = fetch.saturating_mul(4).min(owners.len());
                    continue;
                }
                let (top, scores) = pool(&hits, owners, pooling, depth);
                let judged = self.judge(answer.query, &top).unwrap_or_else(|| answer.judged.clone());
                return Ok(Answer { query: answer.query, first: judged.first_rank(), judged, top, scores });
            }
        };
        let answers: Vec<Answer> = exact.par_iter().map(ask).collect::<Result<_, Error>>()?;
        let rows_kept = match effort {
            Effort::Ef(ef) => ef.max(wanted),
            _ => Effort::DEFAULT_EF.max(wanted),
        };
        let recall = at.iter().map(|k| {
            let each = exact.iter().zip(&answers).map(|(exact, found)| metrics::ann_recall(&found.top, &exact.top, *k));
            (*k, metrics::mean(each).unwrap_or(1.0))
        });
        let recall = recall.collect();
        Ok(Ann { answers, recall, rows_kept })
    }
}

/// Rows that were found, best first, as videos.
fn pool(hits: &[reelseek_index::Hit], owners: &[u32], pooling: Pooling, depth: usize) -> (Vec<u32>, Vec<f32>) {
    let most = match pooling {
        Pooling::Best => 1,
        Pooling::MeanTop(n) => n,
    };
    let mut of: BTreeMap<u32, Vec<f32>> = BTreeMap::new();
    for hit in hits {
        let scores = of.entry(owners[hit.row.row as usize]).or_default();
        if scores.len() < most {
            scores.push(hit.score);
        }
    }
    let mut ranked: Vec<(f32, u32)> =
        of.into_iter().map(|(video, scores)| (scores.iter().sum::<f32>() / scores.len() as f32, video)).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    ranked.truncate(depth);
    ranked.into_iter().map(|(score, video)| (video, score)).unzip()
}
