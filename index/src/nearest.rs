//! The planner: walks the graph of each segment or scans its rows, whichever costs less, and keeps the best
//! rows of all.

use std::cell::Cell;

use crate::graph::file::GraphFile;
use crate::graph::walk::{WalkScratch, node, score};
use crate::packed::{CodedVector, ScoreBound};
use crate::scan::{self, RowRange, ScanQuery, ScoredRow, TopRows};
use crate::segment::SegmentFile;
use crate::simd;
use crate::types::RowRef;

/// A walk with a pool of `ef` rows takes about as long as a scan of this many times `ef` rows. Measured: at a
/// million rows 0.4 to 0.6 us for each row of the pool and 13 ns for each scanned row; at 100,000 rows 0.3 us
/// and 7 ns.
const ROWS_PER_EF: usize = 40;

/// Under a filter the walk must be cheaper by this factor. It may find too few rows, and then a scan follows,
/// which it must not delay by more than a fifth. The factor does not apply if the filter selects at least
/// nine rows of ten.
const MARGIN: usize = 5;

/// Least number of rows scored exactly beyond `k`, because a walk orders rows by the products of codes. More
/// rows are scored if these products are too close.
const SPARE: usize = 24;

/// Difference between products of codes, in standard deviations of their rounding, that decides the order of
/// two rows.
const DOUBT: f32 = 3.0;

/// The rows of one segment to search, in ascending order.
#[derive(Clone, Debug)]
pub(crate) struct RowSelection {
    pub(crate) ranges: Vec<RowRange>,
    /// Total number of rows.
    pub(crate) rows: usize,
}

impl RowSelection {
    /// `None` if there are no rows.
    pub(crate) fn new(ranges: Vec<RowRange>) -> Option<RowSelection> {
        let rows = ranges.iter().map(|range| range.rows as usize).sum();
        (rows > 0).then_some(RowSelection { ranges, rows })
    }

    pub(crate) fn segment(&self) -> u32 {
        self.ranges[0].segment
    }
}

/// Buffers of a search. Each thread keeps one, so that searches do not allocate.
#[derive(Default)]
struct SearchScratch {
    walk: WalkScratch,
    coded: CodedVector,
    /// The query, scaled by a power of two.
    query: Vec<f32>,
    /// Keys of the selected rows in the pool of the walk.
    selected: Vec<u64>,
    /// Rows that a walk found, with exact scores.
    found: Vec<ScoredRow>,
    best: Vec<ScoredRow>,
}

thread_local! {
    // Taken and returned, not borrowed: a thread of rayon that waits can start another search.
    static SCRATCH: Cell<SearchScratch> = Cell::default();
}

/// Calls `visit` with the best `k` rows of `selections`, best first, ties by row, and returns its results.
pub(crate) fn top<T>(
    segments: &[SegmentFile],
    selections: &[RowSelection],
    query: &[f32],
    k: usize,
    ef: Option<usize>,
    visit: impl FnMut(&ScoredRow) -> T,
) -> Vec<T> {
    let k = k.min(selections.iter().map(|selection| selection.rows).sum());
    if k == 0 {
        return Vec::new();
    }
    let mut scratch = SCRATCH.take();
    let mut scaled = std::mem::take(&mut scratch.query);
    let power = simd::scale_into(query, &mut scaled);
    scratch.coded.set_query(&scaled);
    let query = ScanQuery { values: &scaled, bound: ScoreBound::new(&scaled, &scratch.coded) };
    let mut best = TopRows::within(k, std::mem::take(&mut scratch.best));
    for selection in selections {
        let segment = &segments[selection.segment() as usize];
        let graph = segment.graph.as_ref().zip(ef.map(|ef| ef.max(k)));
        let walked =
            graph.is_some_and(|(graph, ef)| walk(segment, graph, selection, &query, k, ef, &mut scratch, &mut best));
        if !walked {
            best = scan::exact(segments, &selection.ranges, &query, &scratch.coded, best);
        }
    }
    let mut best = best.into_sorted();
    best.iter_mut().for_each(|found| found.score = simd::times_power(found.score, power));
    let found = best.iter().map(visit).collect();
    (scratch.best, scratch.query) = (best, scaled);
    SCRATCH.set(scratch);
    found
}

/// Walks the graph of a segment and adds at least the best `k` rows found to `best`. Returns `false`, without
/// a change, if a scan is better.
#[allow(clippy::too_many_arguments, reason = "has one caller")]
fn walk(
    segment: &SegmentFile,
    graph: &GraphFile,
    selection: &RowSelection,
    query: &ScanQuery<'_>,
    k: usize,
    ef: usize,
    scratch: &mut SearchScratch,
    best: &mut TopRows,
) -> bool {
    let (selected, all) = (selection.rows, segment.rows() as usize);
    // About selected / all of the rows in the pool are selected, so the pool must be larger by all /
    // selected.
    let wide = if selected == all { ef } else { (ef.saturating_mul(5) / 4).saturating_mul(all) / selected.max(1) };
    let margin = if selected >= all / 10 * 9 { 1 } else { MARGIN };
    if wide.saturating_mul(ROWS_PER_EF * margin) > selected {
        return false;
    }
    let is_selected = |row: u32| {
        let before = selection.ranges.partition_point(|range| range.first <= row);
        selected == all || selection.ranges[..before].last().is_some_and(|range| row - range.first < range.rows)
    };
    let planes = segment.all_vectors();
    graph.walk(planes.codes(), &mut scratch.coded, wide, &mut scratch.walk);
    scratch.selected.clear();
    scratch.selected.extend(scratch.walk.pool.iter().filter(|key| is_selected(node(**key))));
    // If the selected rows are far from the query and the others near, the walk has found too few of them.
    if scratch.selected.len() < (ef / 2).max(k) {
        return false;
    }
    let always = k + k.max(SPARE);
    scratch.selected.iter().take(always).for_each(|key| planes.prefetch(node(*key)));
    scratch.found.clear();
    let mut floor = f32::NEG_INFINITY;
    for (i, key) in scratch.selected.iter().enumerate() {
        let row = node(*key);
        if i == always {
            scratch.found.sort_unstable();
            floor = scratch.found[k - 1].score;
        }
        if i >= always && !query.bound.may_well_reach(floor, score(*key), planes.exponents[row as usize], DOUBT) {
            continue; // not `break`: the error of a product differs from row to row
        }
        let score = scan::score(planes, row as usize, query.values);
        scratch.found.push(ScoredRow { score, row: RowRef { segment: selection.segment(), row } });
    }
    scratch.found.iter().for_each(|found| best.push(*found));
    true
}
