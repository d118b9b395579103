//! The planner: each segment is walked or scanned, whichever costs less, and the best of all are kept.

use std::cell::Cell;

use crate::graph::file::Frozen;
use crate::graph::walk::{Scratch, node, score};
use crate::packed::{Coded, Slack};
use crate::scan::{self, Candidate, Query, Run, Top};
use crate::segment::Segment;
use crate::simd;
use crate::types::RowRef;

/// A walk that keeps `ef` rows takes about as long as a scan of this many times `ef` rows (measured at a million rows: 0.4 to 0.6 us for
/// each of `ef`, 13 ns a row; at 100,000 rows 0.3 us and 7 ns).
const ROWS_PER_EF: usize = 40;

/// Under a filter the walk must be cheaper by this factor: it may come back with too little, and then is followed by a scan, which
/// it must not delay by more than a fifth. Where nine rows of ten are wanted that is left to chance.
const MARGIN: usize = 5;

/// Rows scored exactly beyond those asked for: the walk's own order is that of codes. More are if the codes cannot tell.
const SPARE: usize = 24;

/// Standard deviations of a code's rounding within which the order of codes is not trusted.
const DOUBT: f32 = 3.0;

/// Rows to search among: those of one segment, in order.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) runs: Vec<Run>,
    /// Rows in them.
    pub(crate) rows: usize,
}

impl Part {
    /// `None` if there are no rows.
    pub(crate) fn new(runs: Vec<Run>) -> Option<Part> {
        let rows = runs.iter().map(|run| run.rows as usize).sum();
        (rows > 0).then_some(Part { runs, rows })
    }

    pub(crate) fn segment(&self) -> u32 {
        self.runs[0].segment
    }
}

/// What a search needs for itself, kept by each thread so that none is allocated.
#[derive(Default)]
struct Memory {
    scratch: Scratch,
    coded: Coded,
    /// The query, times a power of two.
    query: Vec<f32>,
    /// Keys of the walk's rows that are wanted.
    wanted: Vec<u64>,
    /// What a walk found.
    found: Vec<Candidate>,
    best: Vec<Candidate>,
}

thread_local! {
    // Taken and put back, not borrowed: a thread that waits for others may begin another search.
    static MEMORY: Cell<Memory> = Cell::default();
}

/// The best `k` rows of `parts`, best first, ties by row, each given to `visit`.
pub(crate) fn top<T>(
    segments: &[Segment],
    parts: &[Part],
    query: &[f32],
    k: usize,
    ef: Option<usize>,
    visit: impl FnMut(&Candidate) -> T,
) -> Vec<T> {
    let k = k.min(parts.iter().map(|part| part.rows).sum());
    if k == 0 {
        return Vec::new();
    }
    let mut memory = MEMORY.take();
    let mut scaled = std::mem::take(&mut memory.query);
    let power = simd::scale_into(query, &mut scaled);
    memory.coded.set_query(&scaled);
    let query = Query { values: &scaled, slack: Slack::new(&scaled, &memory.coded) };
    let mut best = Top::within(k, std::mem::take(&mut memory.best));
    for part in parts {
        let segment = &segments[part.segment() as usize];
        let graph = segment.graph.as_ref().zip(ef.map(|ef| ef.max(k)));
        let walked = graph.is_some_and(|(graph, ef)| walk(segment, graph, part, &query, k, ef, &mut memory, &mut best));
        if !walked {
            best = scan::exact(segments, &part.runs, &query, &memory.coded, best);
        }
    }
    let mut best = best.into_sorted();
    best.iter_mut().for_each(|found| found.score = simd::times_power(found.score, power));
    let found = best.iter().map(visit).collect();
    (memory.best, memory.query) = (best, scaled);
    MEMORY.set(memory);
    found
}

/// Adds the best `k` or more rows of a part, found by a walk; `false`, and nothing is added, if a scan is better.
#[allow(clippy::too_many_arguments, reason = "one place calls it")]
fn walk(
    segment: &Segment,
    graph: &Frozen,
    part: &Part,
    query: &Query<'_>,
    k: usize,
    ef: usize,
    memory: &mut Memory,
    best: &mut Top,
) -> bool {
    let (wanted, all) = (part.rows, segment.rows() as usize);
    // Of the rows that a walk keeps about wanted / all are wanted; it must keep so many more.
    let wide = if wanted == all { ef } else { (ef.saturating_mul(5) / 4).saturating_mul(all) / wanted.max(1) };
    let margin = if wanted >= all / 10 * 9 { 1 } else { MARGIN };
    if wide.saturating_mul(ROWS_PER_EF * margin) > wanted {
        return false;
    }
    let is_wanted = |row: u32| {
        let before = part.runs.partition_point(|run| run.first <= row);
        wanted == all || part.runs[..before].last().is_some_and(|run| row - run.first < run.rows)
    };
    let planes = segment.all_vectors();
    graph.walk(planes.codes(), &mut memory.coded, wide, &mut memory.scratch);
    memory.wanted.clear();
    memory.wanted.extend(memory.scratch.pool.iter().filter(|key| is_wanted(node(**key))));
    // The wanted rows lie far from the query, all others near: then the walk has seen too few of them.
    if memory.wanted.len() < (ef / 2).max(k) {
        return false;
    }
    let sure = k + k.max(SPARE);
    memory.wanted.iter().take(sure).for_each(|key| planes.prefetch(node(*key)));
    memory.found.clear();
    let mut floor = f32::NEG_INFINITY;
    for (i, key) in memory.wanted.iter().enumerate() {
        let row = node(*key);
        if i == sure {
            memory.found.sort_unstable();
            floor = memory.found[k - 1].score;
        }
        if i >= sure && !query.slack.may_well_reach(floor, score(*key), planes.exponents[row as usize], DOUBT) {
            continue; // not the last: steps differ from row to row
        }
        let score = scan::score(planes, row as usize, query.values);
        memory.found.push(Candidate { score, row: RowRef { segment: part.segment(), row } });
    }
    memory.found.iter().for_each(|found| best.push(*found));
    true
}
