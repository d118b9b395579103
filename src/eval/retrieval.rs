//! Ranked lists and what they are worth.

use rayon::prelude::*;

use crate::features::{self, Table};
use crate::gmf::{self, Folded};

/// Average precision of the `k` best-ranked items, divided by the number of relevant items found among them (the convention of
/// cross-modal retrieval code; GMF.md calls it `hits`): `AP@k = 1/H Σ_{r ≤ k, relevant} (hits up to r) / r`, `H` the hits in the top `k`;
/// 0 if there is none. `relevant[r]` tells of rank `r + 1`; fewer than `k` items are all there are.
///
/// ```
/// use reelseek::eval::retrieval::average_precision;
/// assert_eq!(average_precision(&[true, false, true], 10), (1.0 + 2.0 / 3.0) / 2.0);
/// assert_eq!(average_precision(&[false, true], 1), 0.0);
/// ```
pub fn average_precision(relevant: &[bool], k: usize) -> f64 {
    let (mut hits, mut sum) = (0usize, 0.0);
    for (rank, _) in relevant.iter().take(k).enumerate().filter(|(_, relevant)| **relevant) {
        hits += 1;
        sum += hits as f64 / (rank + 1) as f64;
    }
    if hits == 0 { 0.0 } else { sum / hits as f64 }
}

/// mAP@k of images asked against videos by cosine of their embeddings, exact, ties in order of the gallery. Queries to which no video
/// belongs are left out; `None` if none is left.
///
/// # Errors
/// What is wrong with the features, or their lengths.
pub fn mean_average_precision(
    maps: &Folded,
    (images, queries): (&Table, &[u32]),
    (videos, gallery): (&Table, &[u32]),
    together: impl Fn(u32, u32) -> bool + Sync,
    k: usize,
) -> Result<Option<f64>, Error> {
    let row = |table: &Table, row: u32| -> Result<Vec<f32>, Error> {
        let mut features = vec![0f32; table.matrix.columns()];
        table.matrix.read(row as usize, &mut features)?;
        Ok(features)
    };
    let rows: Vec<Vec<f32>> =
        gallery.par_iter().map(|v| Ok(maps.embed_video(&row(videos, *v)?)?)).collect::<Result<_, Error>>()?;
    let rows = rows.concat();
    let precisions: Vec<Option<f64>> = queries
        .par_iter()
        .map(|image| {
            let query = maps.embed_image(&row(images, *image)?)?;
            let relevant: Vec<bool> = gallery.iter().map(|v| together(*image, *v)).collect();
            if !relevant.contains(&true) {
                return Ok(None);
            }
            let mut scores = vec![0f32; gallery.len()];
            reelseek_index::gemv(&rows, gallery.len(), query.len(), &query, &mut scores);
            let mut order: Vec<usize> = (0..gallery.len()).collect();
            let better = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
            if order.len() > k {
                order.select_nth_unstable_by(k, better);
                order.truncate(k);
            }
            order.sort_unstable_by(better);
            let ranked: Vec<bool> = order.into_iter().map(|i| relevant[i]).collect();
            Ok(Some(average_precision(&ranked, k)))
        })
        .collect::<Result<_, Error>>()?;
    let asked: Vec<f64> = precisions.into_iter().flatten().collect();
    Ok((!asked.is_empty()).then(|| asked.iter().sum::<f64>() / asked.len() as f64))
}

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The features cannot be read.
    #[error(transparent)]
    Features(#[from] features::Error),
    /// Features and checkpoint do not fit together.
    #[error(transparent)]
    Checkpoint(#[from] gmf::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        assert_eq!(average_precision(&[], 10), 0.0);
        assert_eq!(average_precision(&[true; 5], 3), 1.0);
        assert_eq!(average_precision(&[false, false, true, true], 4), (1.0 / 3.0 + 2.0 / 4.0) / 2.0);
    }
}
