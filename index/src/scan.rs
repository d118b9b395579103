//! The exact scan: every live row against the query, the best k kept.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use rayon::prelude::*;

use crate::segment::Segment;
use crate::simd::Halves;
use crate::types::{RowRef, VideoNumber};

/// Neighbouring live rows of one video.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) segment: u32,
    pub(crate) first: u32,
    pub(crate) rows: u32,
    pub(crate) video: VideoNumber,
}

/// Longer videos are several runs, so that threads can share them.
pub(crate) const RUN_ROWS: u32 = 4096;

/// Rows scored between two looks at the heap.
const BLOCK: usize = 128;

/// Above this many floats the scan uses all of rayon's threads.
const PARALLEL_FLOATS: usize = 1 << 20;

/// A row and its score; the greatest is the worst.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) score: f32,
    pub(crate) row: RowRef,
    pub(crate) video: VideoNumber,
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
    pub(crate) fn new(k: usize) -> Top {
        Top { k, heap: BinaryHeap::new() }
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

    pub(crate) fn merge(mut self, other: Top) -> Top {
        other.heap.into_iter().for_each(|candidate| self.push(candidate));
        self
    }
}

/// A score that can be ordered: NaN (of overflow) is the lowest, and there is one zero.
pub(crate) fn tidy(score: f32) -> f32 {
    if score.is_nan() { f32::NEG_INFINITY } else { score + 0.0 }
}

/// Visits the rows of a run with their scores.
pub(crate) fn score_run(segments: &[Segment], run: &Run, query: &[f32], mut visit: impl FnMut(RowRef, f32)) {
    let vectors = segments[run.segment as usize].vectors(run.first, run.rows);
    let mut scores = [0.0; BLOCK];
    let mut row = run.first;
    let block = BLOCK * query.len();
    for (high, low) in vectors.high.chunks(block).zip(vectors.low.chunks(block)) {
        let scores = &mut scores[..high.len() / query.len()];
        Halves { high, low }.dots(query, scores);
        for score in scores {
            visit(RowRef { segment: run.segment, row }, tidy(*score));
            row += 1;
        }
    }
}

/// The best `k` rows of `runs`.
pub(crate) fn exact(segments: &[Segment], runs: &[Run], query: &[f32], k: usize) -> Top {
    let rows: usize = runs.iter().map(|run| run.rows as usize).sum();
    if k == 0 || rows == 0 {
        return Top::new(k);
    }
    let best_of = |runs: &[Run]| {
        let mut top = Top::new(k);
        let mut floor = top.floor();
        for run in runs {
            score_run(segments, run, query, |row, score| {
                if score >= floor {
                    top.push(Candidate { score, row, video: run.video });
                    floor = top.floor();
                }
            });
        }
        top
    };
    if rows.saturating_mul(query.len()) > PARALLEL_FLOATS {
        let tasks = rayon::current_num_threads() * 8;
        let parts = runs.par_chunks(runs.len().div_ceil(tasks)).map(best_of);
        parts.reduce(|| Top::new(k), Top::merge)
    } else {
        best_of(runs)
    }
}
