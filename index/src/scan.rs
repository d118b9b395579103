//! The exact scan: every row asked for against the query, the best k kept.
//!
//! Codes are looked at first: a row is scored with all planes only if, by a bound that holds for every row, it may be among the best.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use rayon::prelude::*;

use crate::packed::{Coded, Planes, Slack};
use crate::segment::Segment;
use crate::types::RowRef;

/// Neighbouring rows of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) segment: u32,
    pub(crate) first: u32,
    pub(crate) rows: u32,
}

/// More rows are several runs, so that threads can share them.
const RUN_ROWS: u32 = 4096;

/// Rows between two looks at what is kept.
const BLOCK: usize = 128;

/// Above this many values the scan uses all of rayon's threads.
const PARALLEL_VALUES: usize = 1 << 21;

/// Adds rows that follow all rows of the segment that are there.
pub(crate) fn push_run(runs: &mut Vec<Run>, mut run: Run) {
    if let Some(last) =
        runs.last_mut().filter(|last| last.segment == run.segment && last.first + last.rows == run.first)
    {
        let more = run.rows.min(RUN_ROWS - last.rows);
        last.rows += more;
        (run.first, run.rows) = (run.first + more, run.rows - more);
    }
    while run.rows > 0 {
        let rows = run.rows.min(RUN_ROWS);
        runs.push(Run { rows, ..run });
        (run.first, run.rows) = (run.first + rows, run.rows - rows);
    }
}

/// A query, and how far its products with codes lie from its scores.
pub(crate) struct Query<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) slack: Slack,
}

/// A row and its score; the greatest is the worst.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) score: f32,
    pub(crate) row: RowRef,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Candidate) -> Ordering {
        other.score.total_cmp(&self.score).then(self.row.cmp(&other.row))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Candidate) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Candidate) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

/// The best k seen so far.
pub(crate) struct Top {
    k: usize,
    heap: BinaryHeap<Candidate>,
}

impl Top {
    fn new(k: usize) -> Top {
        Top::within(k, Vec::new())
    }

    /// [`Top::new`] in memory that is there already.
    pub(crate) fn within(k: usize, mut memory: Vec<Candidate>) -> Top {
        memory.clear();
        Top { k, heap: memory.into() }
    }

    /// Scores below this cannot enter.
    fn floor(&self) -> f32 {
        match self.heap.peek() {
            Some(worst) if self.heap.len() >= self.k => worst.score,
            _ => f32::NEG_INFINITY,
        }
    }

    pub(crate) fn push(&mut self, candidate: Candidate) {
        if self.heap.len() < self.k {
            self.heap.push(candidate);
        } else if let Some(mut worst) = self.heap.peek_mut()
            && candidate < *worst
        {
            *worst = candidate;
        }
    }

    /// What was kept, best first, ties by row.
    pub(crate) fn into_sorted(self) -> Vec<Candidate> {
        self.heap.into_sorted_vec()
    }

    fn merge(mut self, other: Top) -> Top {
        other.heap.into_iter().for_each(|candidate| self.push(candidate));
        self
    }
}

/// A score that can be ordered: NaN (of overflow) is the lowest, and there is one zero.
pub(crate) fn tidy(score: f32) -> f32 {
    if score.is_nan() { f32::NEG_INFINITY } else { score + 0.0 }
}

/// The score of one row.
pub(crate) fn score(planes: Planes<'_>, row: usize, query: &[f32]) -> f32 {
    let mut score = [0.0];
    planes.rows(row, row + 1).dots(query, &mut score);
    tidy(score[0])
}

/// Visits the rows of a run with their scores.
pub(crate) fn each_score(segments: &[Segment], run: &Run, query: &[f32], mut visit: impl FnMut(RowRef, f32)) {
    let planes = segments[run.segment as usize].vectors(run.first, run.rows);
    let mut scores = [0.0; BLOCK];
    for from in (0..run.rows as usize).step_by(BLOCK) {
        let scores = &mut scores[..BLOCK.min(run.rows as usize - from)];
        planes.rows(from, from + scores.len()).dots(query, scores);
        for (row, score) in (run.first + from as u32..).zip(scores) {
            visit(RowRef { segment: run.segment, row }, tidy(*score));
        }
    }
}

/// Adds the best rows of a run.
fn scan(segments: &[Segment], run: &Run, query: &Query<'_>, coded: &Coded, top: &mut Top) {
    let planes = segments[run.segment as usize].vectors(run.first, run.rows);
    let (mut sums, mut products) = ([0; BLOCK], [0.0; BLOCK]);
    for from in (0..run.rows as usize).step_by(BLOCK) {
        let rows = BLOCK.min(run.rows as usize - from);
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
            if !all && !query.slack.may_reach(floor, *product, block.exponents[i]) {
                continue;
            }
            let score = if all { tidy(*product) } else { score(block, i, query.values) };
            if score >= floor {
                top.push(Candidate { score, row: RowRef { segment: run.segment, row: run.first + (from + i) as u32 } });
                floor = top.floor();
            }
        }
    }
}

/// Adds the best rows of `runs` to `top`.
pub(crate) fn exact(segments: &[Segment], runs: &[Run], query: &Query<'_>, coded: &Coded, mut top: Top) -> Top {
    let rows: usize = runs.iter().map(|run| run.rows as usize).sum();
    let threads = rayon::current_num_threads();
    if threads == 1 || rows.saturating_mul(query.values.len()) <= PARALLEL_VALUES {
        runs.iter().for_each(|run| scan(segments, run, query, coded, &mut top));
        return top;
    }
    let k = top.k;
    let best_of = |runs: &[Run]| {
        let mut top = Top::new(k);
        runs.iter().for_each(|run| scan(segments, run, query, coded, &mut top));
        top
    };
    let parts = runs.par_chunks(runs.len().div_ceil(threads * 8)).map(best_of);
    top.merge(parts.reduce(|| Top::new(k), Top::merge))
}
