//! Metrics of ranked lists, as pure functions.
//!
//! Every metric takes the answer to one query: a [`JudgedRanking`] states for each rank whether its item is
//! relevant, and how many items are relevant in total (`R`). Conventions of all metrics:
//!
//! - **ties** are broken by the ranking (the engine ranks by score, then by gallery order);
//! - **duplicates**: only the first occurrence of an item counts. Later ones are removed, and ranks close up;
//! - **k** above the length of the list means the whole list;
//! - **no relevant item** (`R = 0`): no metric is defined. [`JudgedRanking::new`] returns `None`. Such
//!   queries are counted and left out of means.
//!
//! The values are checked against pytrec_eval, ranx and scikit-learn (`tests/reference/metrics.py`).

use std::collections::HashSet;
use std::hash::Hash;

use serde::Serialize;

/// Divisor of average precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Normaliser {
    /// Relevant items in the top `k`: the convention of cross-modal retrieval code. A query without relevant
    /// items in the top `k` scores 0.
    #[default]
    Hits,
    /// `min(k, R)`, where `R` items are relevant: the largest possible number of relevant items in the top
    /// `k`.
    Min,
    /// All relevant items: the convention of trec_eval's `map_cut`.
    All,
}

impl std::fmt::Display for Normaliser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Normaliser::Hits => "hits",
            Normaliser::Min => "min",
            Normaliser::All => "all",
        })
    }
}

/// A ranking with the relevance of each item, for a query with at least one relevant item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgedRanking {
    flags: Vec<bool>,
    total: usize,
}

impl JudgedRanking {
    /// Judges a ranking, best item first. `None` if no item is relevant.
    pub fn new<T: Eq + Hash>(ranked: &[T], relevant: &[T]) -> Option<JudgedRanking> {
        let relevant: HashSet<&T> = relevant.iter().collect();
        let mut seen = HashSet::new();
        let first = ranked.iter().filter(|item| seen.insert(*item));
        JudgedRanking::from_flags(first.map(|item| relevant.contains(item)).collect(), relevant.len())
    }

    /// The top of a ranking without duplicates: `flags[r]` states whether the item at rank `r + 1` is
    /// relevant, `total` is `R`. `None` if `R` is 0.
    ///
    /// # Panics
    /// If `flags` has more relevant items than `total`.
    pub fn from_flags(flags: Vec<bool>, total: usize) -> Option<JudgedRanking> {
        assert!(flags.iter().filter(|flag| **flag).count() <= total, "at most `total` relevant items");
        (total > 0).then_some(JudgedRanking { flags, total })
    }

    fn top(&self, k: usize) -> &[bool] {
        &self.flags[..k.min(self.flags.len())]
    }

    /// Number of relevant items in the top `k`.
    pub fn hits(&self, k: usize) -> usize {
        self.top(k).iter().filter(|flag| **flag).count()
    }

    /// Rank of the first relevant item, from 1; `None` if the ranking has none.
    pub fn first_rank(&self) -> Option<usize> {
        Some(self.flags.iter().position(|flag| *flag)? + 1)
    }
}

/// AP@k `= 1/N Σ_{r ≤ k, relevant at r} hits(r) / r`, with `N` by the [`Normaliser`]; 0 without a relevant
/// item in the top `k`.
///
/// ```
/// use reelseek::research::eval::metrics::{average_precision, JudgedRanking, Normaliser};
/// let judged = JudgedRanking::new(&["a", "x", "b"], &["a", "b", "c", "d"]).unwrap();
/// let sum = 1.0 + 2.0 / 3.0;
/// assert_eq!(average_precision(&judged, 3, Normaliser::Hits), sum / 2.0);
/// assert_eq!(average_precision(&judged, 3, Normaliser::Min), sum / 3.0);
/// assert_eq!(average_precision(&judged, 3, Normaliser::All), sum / 4.0);
/// ```
pub fn average_precision(judged: &JudgedRanking, k: usize, normaliser: Normaliser) -> f64 {
    let (mut hits, mut sum) = (0usize, 0.0);
    for (rank, _) in judged.top(k).iter().enumerate().filter(|(_, relevant)| **relevant) {
        hits += 1;
        sum += hits as f64 / (rank + 1) as f64;
    }
    let divisor = match normaliser {
        Normaliser::Hits => hits,
        Normaliser::Min => k.min(judged.total),
        Normaliser::All => judged.total,
    };
    if hits == 0 { 0.0 } else { sum / divisor as f64 }
}

/// Precision@k: `hits(k) / k`, also if the list is shorter than `k`; 0 for `k = 0`.
pub fn precision(judged: &JudgedRanking, k: usize) -> f64 {
    if k == 0 { 0.0 } else { judged.hits(k) as f64 / k as f64 }
}

/// Recall@k: `hits(k) / R`, the share of relevant items in the top `k`. Different from [`ann_recall`].
pub fn recall(judged: &JudgedRanking, k: usize) -> f64 {
    judged.hits(k) as f64 / judged.total as f64
}

/// `1 / rank` of the first relevant item ([`JudgedRanking::first_rank`], or its rank in a longer list); 0
/// without one. The mean over queries is the MRR.
pub fn reciprocal_rank(first: Option<usize>) -> f64 {
    first.map_or(0.0, |rank| 1.0 / rank as f64)
}

/// nDCG@k with gains of 0 or 1: `Σ_{r ≤ k, relevant at r} 1 / log2(r + 1)`, divided by the value of the
/// best ranking (relevant at the first `min(k, R)` ranks); 0 for `k = 0`.
pub fn ndcg(judged: &JudgedRanking, k: usize) -> f64 {
    let gain = |rank: usize| 1.0 / ((rank + 2) as f64).log2();
    let found: f64 =
        judged.top(k).iter().enumerate().filter(|(_, relevant)| **relevant).map(|(rank, _)| gain(rank)).sum();
    let best: f64 = (0..k.min(judged.total)).map(gain).sum();
    if best == 0.0 { 0.0 } else { found / best }
}

/// Mean; `None` without values.
pub fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (mut n, mut sum) = (0usize, 0.0);
    for value in values {
        n += 1;
        sum += value;
    }
    (n > 0).then(|| sum / n as f64)
}

/// Median of the first relevant ranks; the mean of the middle two for an even number. A query without a
/// relevant item (`None`) counts as the largest rank. `None` if the median is such a query, or without
/// queries.
pub fn median_rank(ranks: &[Option<usize>]) -> Option<f64> {
    let mut sorted: Vec<f64> = ranks.iter().map(|rank| rank.map_or(f64::INFINITY, |rank| rank as f64)).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    let median = (lower + upper) / 2.0;
    median.is_finite().then_some(median)
}

/// ann_recall@k: the share of the exact answer's top `k` that the approximate answer's top `k` contains,
/// regardless of relevance and order. 1 if the exact answer is empty.
pub fn ann_recall<T: Eq + Hash>(found: &[T], exact: &[T], k: usize) -> f64 {
    let exact: HashSet<&T> = exact.iter().take(k).collect();
    let found: HashSet<&T> = found.iter().take(k).collect();
    if exact.is_empty() { 1.0 } else { exact.intersection(&found).count() as f64 / exact.len() as f64 }
}

#[cfg(test)]
mod tests {
    use super::super::ranking::{Gallery, Pooling};
    use super::*;

    #[test]
    fn handles_k_beyond_the_list_k_zero_and_empty_lists() {
        let judged = JudgedRanking::new(&[3, 1, 2], &[1, 9]).unwrap();
        for normaliser in [Normaliser::Hits, Normaliser::Min, Normaliser::All] {
            assert_eq!(average_precision(&judged, 0, normaliser), 0.0);
        }
        assert_eq!(average_precision(&judged, 50, Normaliser::Min), 0.25);
        assert_eq!((precision(&judged, 0), precision(&judged, 50), recall(&judged, 50)), (0.0, 0.02, 0.5));
        assert_eq!((ndcg(&judged, 0), reciprocal_rank(judged.first_rank())), (0.0, 0.5));
        let empty = JudgedRanking::new(&[], &[1]).unwrap();
        assert_eq!(
            (average_precision(&empty, 5, Normaliser::Hits), ndcg(&empty, 5), empty.first_rank()),
            (0.0, 0.0, None)
        );
        assert_eq!(JudgedRanking::new(&[1, 2], &[]), None);
    }

    /// The values come from independent tools on hand-made and seeded cases (`tests/reference/metrics.py`).
    #[test]
    fn metrics_match_independent_tools() {
        let reference: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/reference/metrics.json")).expect("the script's output");
        let cases = reference["cases"].as_array().expect("a list");
        let numbers = |value: &serde_json::Value| -> Vec<u64> {
            value.as_array().into_iter().flatten().filter_map(serde_json::Value::as_u64).collect()
        };
        let (mut compared, mut without, mut duplicates, mut firsts) = (0, 0, 0, Vec::new());
        for case in cases {
            let (ranked, relevant) = (numbers(&case["ranked"]), numbers(&case["relevant"]));
            let scores: Vec<f32> =
                case["scores"].as_array().into_iter().flatten().filter_map(|s| Some(s.as_f64()? as f32)).collect();
            duplicates += usize::from(ranked.len() > scores.len());
            // The engine ranks the scores, ties included, like the script.
            let n = scores.len();
            let gallery = Gallery::new(scores, 1, (0..n as u32).collect(), n, Pooling::Best);
            let ours = gallery.rank(&[1.0], n, |_| Vec::new(), |_, found| found.top).swap_remove(0);
            let mut seen = HashSet::new();
            assert!(ours.into_iter().map(u64::from).eq(ranked.iter().copied().filter(|item| seen.insert(*item))));
            let Some(judged) = JudgedRanking::new(&ranked, &relevant) else {
                assert!(relevant.is_empty() && case.get("ap_all").is_none());
                without += 1;
                continue;
            };
            firsts.push(judged.first_rank());
            let mut check = |name: &str, k: Option<usize>, found: f64| {
                let wanted = k.map_or(&case[name], |k| &case[name][k.to_string()]).as_f64().expect("a number");
                assert!((found - wanted).abs() < 1e-9, "{} {name} {k:?}: {found}, not {wanted}", case["name"]);
                compared += 1;
            };
            check("reciprocal_rank", None, reciprocal_rank(judged.first_rank()));
            for k in [1, 2, 5, 10, 20, 50, 100] {
                for (name, normaliser) in
                    [("ap_hits", Normaliser::Hits), ("ap_min", Normaliser::Min), ("ap_all", Normaliser::All)]
                {
                    check(name, Some(k), average_precision(&judged, k, normaliser));
                }
                check("precision", Some(k), precision(&judged, k));
                check("recall", Some(k), recall(&judged, k));
                check("ndcg", Some(k), ndcg(&judged, k));
            }
        }
        let median = median_rank(&firsts).expect("most find something");
        assert!((median - reference["median_rank"].as_f64().expect("a number")).abs() < 1e-9, "{median}");
        for case in reference["approximate"].as_array().expect("a list") {
            let (found, exact) = (numbers(&case["found"]), numbers(&case["exact"]));
            for (k, wanted) in case["recall"].as_object().expect("numbers by k") {
                let recall = ann_recall(&found, &exact, k.parse().expect("a rank"));
                assert!((recall - wanted.as_f64().expect("a number")).abs() < 1e-9, "{k}: {recall}, not {wanted}");
                compared += 1;
            }
        }
        assert!(compared > 2000 && without > 5 && duplicates > 3, "{compared} {without} {duplicates}");
    }

    #[test]
    fn counts_duplicates_once() {
        assert_eq!(JudgedRanking::new(&[5, 5, 1, 5, 1, 2], &[1, 1, 2]), JudgedRanking::new(&[5, 1, 2], &[1, 2]));
    }

    #[test]
    fn median_rank_of_even_and_missing_ranks() {
        assert_eq!(median_rank(&[]), None);
        assert_eq!(median_rank(&[Some(7)]), Some(7.0));
        assert_eq!(median_rank(&[Some(9), Some(1), Some(4), Some(2)]), Some(3.0));
        assert_eq!(median_rank(&[None, Some(1), Some(4)]), Some(4.0));
        assert_eq!(median_rank(&[None, Some(1)]), None);
    }

    #[test]
    fn ann_recall_is_the_overlap() {
        assert_eq!(ann_recall(&[1, 2, 3, 4], &[4, 2, 9, 1], 3), 1.0 / 3.0);
        assert_eq!(ann_recall(&[1], &[], 3), 1.0);
    }

    proptest::proptest! {
        #[test]
        fn metrics_are_between_zero_and_one_and_normalisers_are_ordered(
            ranked in proptest::collection::vec(0u8..40, 0..60),
            relevant in proptest::collection::vec(0u8..40, 1..20),
            k in 0usize..80,
        ) {
            let judged = JudgedRanking::new(&ranked, &relevant).unwrap();
            let ap = |normaliser| average_precision(&judged, k, normaliser);
            let [hits, min, all] = [Normaliser::Hits, Normaliser::Min, Normaliser::All].map(ap);
            for value in [hits, min, all, precision(&judged, k), recall(&judged, k), ndcg(&judged, k)] {
                assert!((0.0..=1.0 + 1e-12).contains(&value), "{value}");
            }
            // Fewer hits than min(k, R), and min(k, R) is at most R.
            assert!(hits >= min && min >= all);
        }

        #[test]
        fn ties_rank_by_index(scores in proptest::collection::vec(-3i8..3, 1..50)) {
            let rows: Vec<f32> = scores.iter().map(|score| f32::from(*score)).collect();
            let n = rows.len();
            let gallery = Gallery::new(rows.clone(), 1, (0..n as u32).collect(), n, Pooling::Best);
            let top = gallery.rank(&[1.0], n, |_| Vec::new(), |_, ranked| ranked.top).swap_remove(0);
            for pair in top.windows(2) {
                let (a, b) = (rows[pair[0] as usize], rows[pair[1] as usize]);
                assert!(a > b || (a == b && pair[0] < pair[1]));
            }
        }
    }
}
