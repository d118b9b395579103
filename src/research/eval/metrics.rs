//! Metrics of ranked lists, as pure functions.
//!
//! All look at one query at a time: a [`Judged`] list says of each rank whether what stands there is relevant, and how many relevant items there are in
//! all (`R`). What they have in common:
//!
//! - **ties** are settled before: by whoever ranked (the engine ranks by score, then by gallery order);
//! - **duplicates**: an item counts where it stands first; later ones are taken out, and the ranks close up;
//! - **k** larger than the list means the list; **n** is the length of the list;
//! - **empty truth** (`R = 0`): no metric is defined. [`Judged::new`] gives `None`, and such queries are left out of means, and counted.
//!
//! The values are checked against pytrec_eval, ranx and scikit-learn (`tests/reference/metrics.py`).

use std::collections::HashSet;
use std::hash::Hash;

use serde::Serialize;

/// What average precision is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Normaliser {
    /// The relevant items found in the top `k`: the convention of cross-modal retrieval code. A query without any scores 0.
    #[default]
    Hits,
    /// `min(k, R)`: the most that can be found in the top `k`.
    Min,
    /// `R`: as trec_eval's `map_cut` does.
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

/// A ranked list in which each item is judged, of a query to which something is relevant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    flags: Vec<bool>,
    total: usize,
}

impl Judged {
    /// Judges a ranking, best first. `None` if nothing is relevant.
    pub fn new<T: Eq + Hash>(ranked: &[T], relevant: &[T]) -> Option<Judged> {
        let relevant: HashSet<&T> = relevant.iter().collect();
        let mut seen = HashSet::new();
        let first = ranked.iter().filter(|item| seen.insert(*item));
        Judged::from_flags(first.map(|item| relevant.contains(item)).collect(), relevant.len())
    }

    /// The top of a list without duplicates: `flags[r]` tells whether what stands at rank `r + 1` is relevant, `total` is `R`. `None` if `R` is 0.
    ///
    /// # Panics
    /// If more items are relevant in the list than in all.
    pub fn from_flags(flags: Vec<bool>, total: usize) -> Option<Judged> {
        assert!(flags.iter().filter(|flag| **flag).count() <= total, "no more relevant items than there are");
        (total > 0).then_some(Judged { flags, total })
    }

    fn top(&self, k: usize) -> &[bool] {
        &self.flags[..k.min(self.flags.len())]
    }

    /// Relevant items in the top `k`.
    pub fn hits(&self, k: usize) -> usize {
        self.top(k).iter().filter(|flag| **flag).count()
    }

    /// Rank of the first relevant item, from 1; `None` if the list has none.
    pub fn first_rank(&self) -> Option<usize> {
        Some(self.flags.iter().position(|flag| *flag)? + 1)
    }
}

/// AP@k `= 1/N Σ_{r ≤ k, relevant at r} hits(r) / r`, `N` as the [`Normaliser`] says; 0 if nothing was found.
///
/// ```
/// use reelseek::research::eval::metrics::{average_precision, Judged, Normaliser};
/// let judged = Judged::new(&["a", "x", "b"], &["a", "b", "c", "d"]).unwrap();
/// let sum = 1.0 + 2.0 / 3.0;
/// assert_eq!(average_precision(&judged, 3, Normaliser::Hits), sum / 2.0);
/// assert_eq!(average_precision(&judged, 3, Normaliser::Min), sum / 3.0);
/// assert_eq!(average_precision(&judged, 3, Normaliser::All), sum / 4.0);
/// ```
pub fn average_precision(judged: &Judged, k: usize, normaliser: Normaliser) -> f64 {
    let (mut hits, mut sum) = (0usize, 0.0);
    for (rank, _) in judged.top(k).iter().enumerate().filter(|(_, relevant)| **relevant) {
        hits += 1;
        sum += hits as f64 / (rank + 1) as f64;
    }
    let by = match normaliser {
        Normaliser::Hits => hits,
        Normaliser::Min => k.min(judged.total),
        Normaliser::All => judged.total,
    };
    if hits == 0 { 0.0 } else { sum / by as f64 }
}

/// `hits(k) / k`, also where the list is shorter than `k`; 0 for `k = 0`.
pub fn precision(judged: &Judged, k: usize) -> f64 {
    if k == 0 { 0.0 } else { judged.hits(k) as f64 / k as f64 }
}

/// `hits(k) / R`: the share of the relevant items that is found. Not [`ann_recall`].
pub fn recall(judged: &Judged, k: usize) -> f64 {
    judged.hits(k) as f64 / judged.total as f64
}

/// `1 / rank` of the first relevant item ([`Judged::first_rank`], or its rank in a longer list); 0 if there is none. Its mean over queries is the MRR.
pub fn reciprocal_rank(first: Option<usize>) -> f64 {
    first.map_or(0.0, |rank| 1.0 / rank as f64)
}

/// nDCG@k with gains of 0 or 1: `Σ_{r ≤ k, relevant at r} 1 / log2(r + 1)`, divided by what the best list gives (the first `min(k, R)` ranks);
/// 0 for `k = 0`.
pub fn ndcg(judged: &Judged, k: usize) -> f64 {
    let gain = |rank: usize| 1.0 / ((rank + 2) as f64).log2();
    let found: f64 =
        judged.top(k).iter().enumerate().filter(|(_, relevant)| **relevant).map(|(rank, _)| gain(rank)).sum();
    let best: f64 = (0..k.min(judged.total)).map(gain).sum();
    if best == 0.0 { 0.0 } else { found / best }
}

/// The mean; `None` of nothing.
pub fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (mut n, mut sum) = (0usize, 0.0);
    for value in values {
        n += 1;
        sum += value;
    }
    (n > 0).then(|| sum / n as f64)
}

/// The median of the first relevant ranks, the mean of the middle two if they are even in number. A query that found nothing (`None`) ranks behind all
/// others; `None` if the median falls among those, or there are no queries.
pub fn median_rank(ranks: &[Option<usize>]) -> Option<f64> {
    let mut sorted: Vec<f64> = ranks.iter().map(|rank| rank.map_or(f64::INFINITY, |rank| rank as f64)).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    let median = (lower + upper) / 2.0;
    median.is_finite().then_some(median)
}

/// ann_recall@k: the share of the exact answer's top `k` that an approximate answer's top `k` holds, whatever is relevant; the order does not
/// matter. 1 if the exact answer is empty.
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
    fn k_beyond_the_list_k_zero_and_empty_lists() {
        let judged = Judged::new(&[3, 1, 2], &[1, 9]).unwrap();
        for normaliser in [Normaliser::Hits, Normaliser::Min, Normaliser::All] {
            assert_eq!(average_precision(&judged, 0, normaliser), 0.0);
        }
        assert_eq!(average_precision(&judged, 50, Normaliser::Min), 0.25);
        assert_eq!((precision(&judged, 0), precision(&judged, 50), recall(&judged, 50)), (0.0, 0.02, 0.5));
        assert_eq!((ndcg(&judged, 0), reciprocal_rank(judged.first_rank())), (0.0, 0.5));
        let nothing = Judged::new(&[], &[1]).unwrap();
        assert_eq!(
            (average_precision(&nothing, 5, Normaliser::Hits), ndcg(&nothing, 5), nothing.first_rank()),
            (0.0, 0.0, None)
        );
        assert_eq!(Judged::new(&[1, 2], &[]), None);
    }

    /// What independent tools make of hand cases and seeded ones (`tests/reference/metrics.py`).
    #[test]
    fn as_independent_tools_have_it() {
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
            // The engine's ranking of the scores, which settles ties, is the script's.
            let n = scores.len();
            let gallery = Gallery::new(scores, 1, (0..n as u32).collect(), n, Pooling::Best);
            let ours = gallery.rank(&[1.0], n, |_| Vec::new(), |_, found| found.top).swap_remove(0);
            let mut seen = HashSet::new();
            assert!(ours.into_iter().map(u64::from).eq(ranked.iter().copied().filter(|item| seen.insert(*item))));
            let Some(judged) = Judged::new(&ranked, &relevant) else {
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
    fn duplicates_count_once() {
        assert_eq!(Judged::new(&[5, 5, 1, 5, 1, 2], &[1, 1, 2]), Judged::new(&[5, 1, 2], &[1, 2]));
    }

    #[test]
    fn medians_of_even_and_missing() {
        assert_eq!(median_rank(&[]), None);
        assert_eq!(median_rank(&[Some(7)]), Some(7.0));
        assert_eq!(median_rank(&[Some(9), Some(1), Some(4), Some(2)]), Some(3.0));
        assert_eq!(median_rank(&[None, Some(1), Some(4)]), Some(4.0));
        assert_eq!(median_rank(&[None, Some(1)]), None);
    }

    #[test]
    fn ann_recall_is_overlap() {
        assert_eq!(ann_recall(&[1, 2, 3, 4], &[4, 2, 9, 1], 3), 1.0 / 3.0);
        assert_eq!(ann_recall(&[1], &[], 3), 1.0);
    }
}
