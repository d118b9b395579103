//! Measures the loss of rounding to half precision, while the original vectors are still in memory.

use crate::manifest::RoundingRecall;
use crate::packed::RowPlanes;
use crate::scan::tidy;

/// Largest number of queries.
const QUERIES: usize = 64;
/// Largest number of rows to search.
const GALLERY: usize = 16_384;
/// Neighbours per query.
const K: usize = 10;
/// Fewer rows than this give no useful measurement.
const LEAST: usize = 100;

/// Compares the `K` best rows before and after rounding, with rows of the same videos as queries. Each pair
/// is the rows of a video as they were put, and rounded. All rows are compared, or an even sample of them if
/// there are many.
pub(crate) fn measure(pairs: &[(RowPlanes<'_>, RowPlanes<'_>)]) -> RoundingRecall {
    let rows: usize = pairs.iter().map(|(full, _)| full.exponents.len()).sum();
    let step = rows.div_ceil(GALLERY).max(1);
    let (mut full, mut half, mut before) = (Vec::new(), Vec::new(), 0usize);
    for (exact, rounded) in pairs {
        let n = exact.exponents.len();
        for row in (before.next_multiple_of(step) - before..n).step_by(step) {
            full.push(exact.rows(row, row + 1));
            half.push(rounded.rows(row, row + 1));
        }
        before += n;
    }
    let mut total = RoundingRecall::default();
    if full.len() < LEAST {
        return total;
    }
    for query in (0..full.len()).step_by(full.len().div_ceil(QUERIES).max(1)) {
        let x = full[query].to_vec();
        let (exact, rounded) = (best(&full, &x, query), best(&half, &x, query));
        total.of += K as u64;
        total.found += rounded.iter().filter(|row| exact.contains(row)).count() as u64;
    }
    total
}

/// The `K` best rows except `own`, ties by row.
fn best(rows: &[RowPlanes<'_>], x: &[f32], own: usize) -> Vec<usize> {
    let mut scored = Vec::with_capacity(rows.len());
    for (i, row) in rows.iter().enumerate().filter(|(i, _)| *i != own) {
        let mut score = [0.0];
        row.dots(x, &mut score);
        scored.push((tidy(score[0]), i));
    }
    scored.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    scored.into_iter().take(K).map(|(_, i)| i).collect()
}
