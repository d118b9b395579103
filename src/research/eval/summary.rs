//! What a set of answers is worth, and how sure that is.

use serde::Serialize;

use super::metrics::{self, Judged, Normaliser};
use super::retrieval::Answer;
use crate::base::seeded::Random;

/// What a set of answers is worth. By `k` where there is one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// mAP@k with the normaliser asked for.
    pub map: Vec<(usize, f64)>,
    /// recall@k.
    pub recall: Vec<(usize, f64)>,
    /// precision@k.
    pub precision: Vec<(usize, f64)>,
    /// nDCG@k.
    pub ndcg: Vec<(usize, f64)>,
    /// Mean of 1 / rank of the first relevant video, over the whole ranking.
    pub mrr: f64,
    /// Median of that rank.
    pub median_rank: Option<f64>,
}

impl Summary {
    /// Of answers that were judged down to the largest `k` at least; `None` if there are none.
    pub fn new(answers: &[Answer], at: &[usize], normaliser: Normaliser) -> Option<Summary> {
        let mean = |of: &dyn Fn(&Judged, usize) -> f64| -> Option<Vec<(usize, f64)>> {
            at.iter().map(|k| Some((*k, metrics::mean(answers.iter().map(|a| of(&a.judged, *k)))?))).collect()
        };
        let ranks: Vec<Option<usize>> = answers.iter().map(|answer| answer.first).collect();
        Some(Summary {
            map: mean(&|judged, k| metrics::average_precision(judged, k, normaliser))?,
            recall: mean(&metrics::recall)?,
            precision: mean(&metrics::precision)?,
            ndcg: mean(&metrics::ndcg)?,
            mrr: metrics::mean(ranks.iter().map(|rank| metrics::reciprocal_rank(*rank)))?,
            median_rank: metrics::median_rank(&ranks),
        })
    }
}

/// A 95 % confidence interval of the mean of values: percentiles of the means of 1,000 seeded samples of as many queries, drawn with
/// repetition (Efron's bootstrap). `None` of nothing.
pub fn bootstrap(values: &[f64], seed: u64) -> Option<(f64, f64)> {
    const SAMPLES: usize = 1000;
    let n = u32::try_from(values.len()).ok().filter(|n| *n > 0)?;
    let mut random = Random::new(seed, "bootstrap");
    let mut sample = || (0..n).map(|_| values[random.up_to(n - 1) as usize]).sum::<f64>() / f64::from(n);
    let mut means: Vec<f64> = (0..SAMPLES).map(|_| sample()).collect();
    means.sort_unstable_by(f64::total_cmp);
    Some((means[SAMPLES * 25 / 1000], means[SAMPLES * 975 / 1000 - 1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bootstrap_covers_the_mean() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 10) / 10.0).collect();
        let (low, high) = bootstrap(&values, 1).unwrap();
        // Standard error 0.287 / 20 = 0.0144.
        assert!(
            (low - (0.45 - 1.96 * 0.0144)).abs() < 0.004 && (high - (0.45 + 1.96 * 0.0144)).abs() < 0.004,
            "{low} {high}"
        );
        assert_eq!(bootstrap(&[0.5], 1), Some((0.5, 0.5)));
        assert_eq!(bootstrap(&[], 1), None);
    }
}
