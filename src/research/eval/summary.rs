//! Mean metrics of a set of answers, and their confidence intervals.

use serde::Serialize;

use super::metrics::{self, JudgedRanking, Normaliser};
use super::retrieval::RankedAnswer;
use crate::base::seeded::Random;

/// Mean metrics of a set of answers. Metrics at rank `k` are pairs of `k` and value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MetricSummary {
    /// mAP@k with the chosen normaliser.
    pub map: Vec<(usize, f64)>,
    /// Mean recall@k.
    pub recall: Vec<(usize, f64)>,
    /// Mean precision@k.
    pub precision: Vec<(usize, f64)>,
    /// Mean nDCG@k.
    pub ndcg: Vec<(usize, f64)>,
    /// Mean of 1 / rank of the first relevant video, over the whole ranking.
    pub mrr: f64,
    /// Median rank of the first relevant video.
    pub median_rank: Option<f64>,
}

impl MetricSummary {
    /// Averages answers that were judged at least down to the largest `k`; `None` without answers.
    pub fn new(answers: &[RankedAnswer], at: &[usize], normaliser: Normaliser) -> Option<MetricSummary> {
        let mean = |of: &dyn Fn(&JudgedRanking, usize) -> f64| -> Option<Vec<(usize, f64)>> {
            at.iter().map(|k| Some((*k, metrics::mean(answers.iter().map(|a| of(&a.judged, *k)))?))).collect()
        };
        let ranks: Vec<Option<usize>> = answers.iter().map(|answer| answer.first).collect();
        Some(MetricSummary {
            map: mean(&|judged, k| metrics::average_precision(judged, k, normaliser))?,
            recall: mean(&metrics::recall)?,
            precision: mean(&metrics::precision)?,
            ndcg: mean(&metrics::ndcg)?,
            mrr: metrics::mean(ranks.iter().map(|rank| metrics::reciprocal_rank(*rank)))?,
            median_rank: metrics::median_rank(&ranks),
        })
    }
}

/// A 95 % confidence interval of the mean: percentiles of the means of 1,000 seeded samples of equal size,
/// drawn with replacement (Efron's bootstrap). `None` without values.
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
    fn bootstrap_interval_matches_the_standard_error() {
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
