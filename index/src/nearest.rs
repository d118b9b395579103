//! The planner: each segment is walked or scanned, whichever costs less, and the best of all are kept.

use std::cell::RefCell;
use std::ops::Range;

use crate::graph::file::Frozen;
use crate::graph::walk::{Scratch, node};
use crate::scan::{self, Candidate, Run, Top, tidy};
use crate::segment::Segment;
use crate::types::{RowRef, VideoNumber};

/// A walk that keeps `ef` rows costs about as much as a scan of this many times `ef` rows: it scores some 4 to 16 times
/// `ef`, at about four times the price, for they lie apart. It is chosen only where it is cheaper by a margin, so that one
/// that comes back with too little, and is followed by a scan, is not missed.
const ROWS_PER_EF: usize = 64;

/// Rows scored exactly beyond those asked for: the walk's own order is that of cut-off values.
const SPARE: usize = 16;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Runs of one segment.
#[derive(Debug)]
pub(crate) struct Part {
    runs: Range<usize>,
    /// Rows in them.
    pub(crate) rows: usize,
}

/// Runs, which lie segment after segment, by segment.
pub(crate) fn parts(runs: &[Run]) -> Vec<Part> {
    let mut end = 0;
    let part = |runs: &[Run]| {
        let start = end;
        end += runs.len();
        Part { runs: start..end, rows: runs.iter().map(|run| run.rows as usize).sum() }
    };
    runs.chunk_by(|a, b| a.segment == b.segment).map(part).collect()
}

/// The best `k` rows of `runs`, best first, ties by row. `runs` are all live rows, or those of some of the videos, in order.
pub(crate) fn top(
    segments: &[Segment],
    runs: &[Run],
    parts: &[Part],
    query: &[f32],
    k: usize,
    ef: Option<usize>,
) -> Vec<Candidate> {
    let k = k.min(parts.iter().map(|part| part.rows).sum());
    if k == 0 {
        return Vec::new();
    }
    let mut best = Top::new(k);
    for part in parts {
        let (rows, runs) = (part.rows, &runs[part.runs.clone()]);
        let segment = &segments[runs[0].segment as usize];
        let graph = segment.graph.as_ref().zip(ef.map(|ef| ef.max(k)));
        match graph.and_then(|(graph, ef)| walk(segment, graph, runs, rows, query, k, ef)) {
            Some(found) => found.into_iter().for_each(|candidate| best.push(candidate)),
            None => best = best.merge(scan::exact(segments, runs, query, k)),
        }
    }
    best.into_sorted()
}

/// The best `k` or more of the `wanted` rows in `runs`, found by a walk; `None` if a scan is better.
fn walk(
    segment: &Segment,
    graph: &Frozen,
    runs: &[Run],
    wanted: usize,
    query: &[f32],
    k: usize,
    ef: usize,
) -> Option<Vec<Candidate>> {
    let all = segment.rows() as usize;
    // Of the rows that a walk keeps about wanted / all are wanted; it must keep so many more.
    let wide = if wanted == all { ef } else { (ef as u64 * 5 / 4 * all as u64 / wanted.max(1) as u64) as usize };
    if wide.saturating_mul(ROWS_PER_EF) > wanted {
        return None;
    }
    let is_wanted = |row: u32| {
        // Runs lie in the order of the segment's rows.
        let before = runs.partition_point(|run| run.first <= row);
        wanted == all || runs[..before].iter().rfind(|run| run.rows > 0).is_some_and(|run| row - run.first < run.rows)
    };
    SCRATCH.with_borrow_mut(|scratch| {
        graph.walk(segment.plane(), query, wide, scratch);
        let rows = scratch.pool.iter().map(|key| node(*key));
        let most = k + k.max(SPARE);
        let mut found = Vec::with_capacity(most);
        let mut kept = 0;
        for row in rows {
            if !is_wanted(row) {
                continue;
            }
            kept += 1;
            if found.len() < most {
                let mut score = [0.0];
                segment.vectors(row, 1).dots(query, &mut score);
                let Some(entry) = segment.entry_of(row) else { continue };
                let video = VideoNumber(entry.number);
                let row = RowRef { segment: runs[0].segment, row };
                found.push(Candidate { score: tidy(score[0]), row, video });
            }
        }
        // The wanted rows lie far from the query, all others near: then the walk has seen too few of them.
        (kept >= (ef / 2).max(k)).then_some(found)
    })
}
