//! The exact scan: compares the query with every selected row and keeps the best k.
//!
//! The scan reads the codes first. It scores a row with all planes only if an upper bound of its score
//! reaches the worst score kept so far. The bound holds for every row, so that the result is exact.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use rayon::prelude::*;

use crate::packed::{CodedVector, RowPlanes, ScoreBound};
use crate::segment::SegmentFile;
use crate::types::RowRef;

/// Consecutive rows of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowRange {
    pub(crate) segment: u32,
    pub(crate) first: u32,
    pub(crate) rows: u32,
}

/// Largest length of a range. Longer ones are split, so that threads can share them.
const RANGE_ROWS: u32 = 4096;

/// Rows scored between two updates of the best rows.
const BLOCK: usize = 128;

/// Scans of more values than this use all threads of rayon.
const PARALLEL_VALUES: usize = 1 << 21;

/// Appends rows that come after all rows of the same segment in `ranges`.
pub(crate) fn push_range(ranges: &mut Vec<RowRange>, mut range: RowRange) {
    if let Some(last) =
        ranges.last_mut().filter(|last| last.segment == range.segment && last.first + last.rows == range.first)
    {
        let more = range.rows.min(RANGE_ROWS - last.rows);
        last.rows += more;
        (range.first, range.rows) = (range.first + more, range.rows - more);
    }
    while range.rows > 0 {
        let rows = range.rows.min(RANGE_ROWS);
        ranges.push(RowRange { rows, ..range });
        (range.first, range.rows) = (range.first + rows, range.rows - rows);
    }
}

/// A query, and the bound on the error of its products with codes.
pub(crate) struct ScanQuery<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) bound: ScoreBound,
}

/// A row and its score. The worst row is the greatest in the order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScoredRow {
    pub(crate) score: f32,
    pub(crate) row: RowRef,
}

impl Ord for ScoredRow {
    fn cmp(&self, other: &ScoredRow) -> Ordering {
        other.score.total_cmp(&self.score).then(self.row.cmp(&other.row))
    }
}

impl PartialOrd for ScoredRow {
    fn partial_cmp(&self, other: &ScoredRow) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ScoredRow {
    fn eq(&self, other: &ScoredRow) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for ScoredRow {}

/// The best k rows so far.
pub(crate) struct TopRows {
    k: usize,
    heap: BinaryHeap<ScoredRow>,
}

impl TopRows {
    fn new(k: usize) -> TopRows {
        TopRows::within(k, Vec::new())
    }

    /// [`TopRows::new`], reusing the memory of a vector.
    pub(crate) fn within(k: usize, mut memory: Vec<ScoredRow>) -> TopRows {
        memory.clear();
        TopRows { k, heap: memory.into() }
    }

    /// Rows with lower scores than this are not kept.
    fn floor(&self) -> f32 {
        match self.heap.peek() {
            Some(worst) if self.heap.len() >= self.k => worst.score,
            _ => f32::NEG_INFINITY,
        }
    }

    pub(crate) fn push(&mut self, candidate: ScoredRow) {
        if self.heap.len() < self.k {
            self.heap.push(candidate);
        } else if let Some(mut worst) = self.heap.peek_mut()
            && candidate < *worst
        {
            *worst = candidate;
        }
    }

    /// The rows kept, best first, ties by row.
    pub(crate) fn into_sorted(self) -> Vec<ScoredRow> {
        self.heap.into_sorted_vec()
    }

    fn merge(mut self, other: TopRows) -> TopRows {
        other.heap.into_iter().for_each(|candidate| self.push(candidate));
        self
    }
}

/// A score that can be ordered: NaN (after an overflow) becomes the lowest, and -0 becomes 0.
pub(crate) fn tidy(score: f32) -> f32 {
    if score.is_nan() { f32::NEG_INFINITY } else { score + 0.0 }
}

/// The score of one row.
pub(crate) fn score(planes: RowPlanes<'_>, row: usize, query: &[f32]) -> f32 {
    let mut score = [0.0];
    planes.rows(row, row + 1).dots(query, &mut score);
    tidy(score[0])
}

/// Adds the best rows of a range to `top`.
fn scan(segments: &[SegmentFile], range: &RowRange, query: &ScanQuery<'_>, coded: &CodedVector, top: &mut TopRows) {
    let planes = segments[range.segment as usize].vectors(range.first, range.rows);
    let (mut sums, mut products) = ([0; BLOCK], [0.0; BLOCK]);
    for from in (0..range.rows as usize).step_by(BLOCK) {
        let rows = BLOCK.min(range.rows as usize - from);
        let block = planes.rows(from, from + rows);
        let products = &mut products[..rows];
        let mut floor = top.floor();
        let all = floor == f32::NEG_INFINITY;
        if all {
            block.dots(query.values, products);
        } else {
            block.codes().all_dots(coded, &mut sums[..rows], products);
        }
        for (i, product) in products.iter().enumerate() {
            if !all && !query.bound.may_reach(floor, *product, block.exponents[i]) {
                continue;
            }
            let score = if all { tidy(*product) } else { score(block, i, query.values) };
            if score >= floor {
                top.push(ScoredRow {
                    score,
                    row: RowRef { segment: range.segment, row: range.first + (from + i) as u32 },
                });
                floor = top.floor();
            }
        }
    }
}

/// Adds the best rows of `ranges` to `top`.
pub(crate) fn exact(
    segments: &[SegmentFile],
    ranges: &[RowRange],
    query: &ScanQuery<'_>,
    coded: &CodedVector,
    mut top: TopRows,
) -> TopRows {
    let rows: usize = ranges.iter().map(|range| range.rows as usize).sum();
    let threads = rayon::current_num_threads();
    if threads == 1 || rows.saturating_mul(query.values.len()) <= PARALLEL_VALUES {
        ranges.iter().for_each(|range| scan(segments, range, query, coded, &mut top));
        return top;
    }
    let k = top.k;
    let best_of = |ranges: &[RowRange]| {
        let mut top = TopRows::new(k);
        ranges.iter().for_each(|range| scan(segments, range, query, coded, &mut top));
        top
    };
    let tops = ranges.par_chunks(ranges.len().div_ceil(threads * 8)).map(best_of);
    top.merge(tops.reduce(|| TopRows::new(k), TopRows::merge))
}
