//! Builds a graph: inserts the rows one by one, on all threads of the current rayon pool.
//!
//! This is algorithm 1 of the paper. The diversity heuristic (algorithm 4) selects the links of a new row and
//! the links back to it: of the nearest candidates, those that are nearer to the new row than to any
//! candidate selected before. The level of a row is a hash of its number and the seed, so that the entry is
//! known before the first insertion. With one thread the graph depends only on the rows and the settings.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use super::walk::{WalkScratch, descend, key, node, score, walk};
use super::{BaseLayer, GraphLayer, MAX_LEVEL, NONE, UpperLayer, UpperNodes};
use crate::packed::{CodedVector, RowCodes};
use crate::types::HnswSettings;

/// Number of rows that a thread takes at a time.
const BLOCK: usize = 32;

/// A finished graph.
pub(crate) struct BuiltGraph {
    pub(crate) settings: HnswSettings,
    /// `2 m` links for each row.
    pub(crate) base: Vec<u32>,
    /// Rows of the upper nodes, ascending.
    pub(crate) upper_rows: Vec<u32>,
    /// Position of the first list of each upper node, and the end.
    pub(crate) upper_lists: Vec<u32>,
    /// `m` links for each list, to upper nodes.
    pub(crate) upper: Vec<u32>,
    /// The upper node at which walks start, if there is one.
    pub(crate) entry: u32,
    pub(crate) top: u32,
}

/// The highest level of a row: floor(-ln(u) / ln(m)), u uniform in (0, 1).
fn level(row: u32, settings: &HnswSettings) -> u32 {
    // SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    let mut x = (u64::from(row) ^ settings.seed.rotate_left(32)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^= x >> 31;
    let uniform = ((x >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    ((-uniform.ln() / f64::from(settings.m).ln()) as u32).min(MAX_LEVEL)
}

struct GraphConstruction<'a> {
    codes: RowCodes<'a>,
    rows: u32,
    settings: HnswSettings,
    base: Vec<AtomicU32>,
    upper_rows: Vec<u32>,
    upper_lists: Vec<u32>,
    upper: Vec<AtomicU32>,
    entry: u32,
    top: u32,
    /// One lock for each row. A thread holds it to write the lists of the row; reads take no lock.
    locks: Vec<AtomicBool>,
}

/// Buffers of one thread.
#[derive(Default)]
struct BuildScratch {
    scratch: WalkScratch,
    query: CodedVector,
    other: CodedVector,
    chosen: Vec<u32>,
    again: Vec<u32>,
    candidates: Vec<u64>,
    rows: Vec<u32>,
    scores: Vec<f32>,
}

/// Builds a graph; see [`super::build()`].
pub(super) fn build(codes: RowCodes<'_>, rows: u32, settings: &HnswSettings) -> BuiltGraph {
    let builder = GraphConstruction::new(codes, rows, settings);
    let next = AtomicUsize::new(0);
    rayon::scope(|scope| {
        for _ in 0..rayon::current_num_threads() {
            scope.spawn(|_| {
                let mut scratch = BuildScratch::default();
                loop {
                    let first = next.fetch_add(BLOCK, Ordering::Relaxed);
                    if first >= rows as usize {
                        break;
                    }
                    (first..(first + BLOCK).min(rows as usize))
                        .for_each(|row| builder.insert(row as u32, &mut scratch));
                }
            });
        }
    });
    let mut graph = builder.freeze();
    graph.connect(codes);
    graph
}

impl<'a> GraphConstruction<'a> {
    fn new(codes: RowCodes<'a>, rows: u32, settings: &HnswSettings) -> GraphConstruction<'a> {
        let none = |n: usize| (0..n).map(|_| AtomicU32::new(NONE)).collect::<Vec<_>>();
        let (mut upper_rows, mut upper_lists, mut lists) = (Vec::new(), Vec::new(), 0);
        let (mut entry, mut top) = (0, 0);
        for row in 0..rows {
            let level = level(row, settings);
            if level > 0 {
                if level > top {
                    (entry, top) = (upper_rows.len() as u32, level);
                }
                upper_rows.push(row);
                upper_lists.push(lists);
                lists += level;
            }
        }
        upper_lists.push(lists);
        let m = settings.m as usize;
        GraphConstruction {
            base: none(rows as usize * 2 * m),
            upper: none(lists as usize * m),
            locks: (0..rows).map(|_| AtomicBool::new(false)).collect(),
            settings: *settings,
            codes,
            rows,
            upper_rows,
            upper_lists,
            entry,
            top,
        }
    }

    fn base(&self) -> BaseLayer<'_, AtomicU32> {
        BaseLayer { links: &self.base, stride: 2 * self.settings.m as usize }
    }

    fn upper(&self, level: u32) -> UpperLayer<'_, AtomicU32> {
        let upper_nodes = UpperNodes { rows: &self.upper_rows, first: &self.upper_lists };
        UpperLayer { upper_nodes, links: &self.upper, stride: self.settings.m as usize, level }
    }

    fn insert(&self, row: u32, scratch: &mut BuildScratch) {
        let entry_row = self.upper_rows.get(self.entry as usize).copied().unwrap_or(0);
        if row == entry_row {
            return;
        }
        let mut query = std::mem::take(&mut scratch.query);
        self.codes.read(row, &mut query);
        let own = level(row, &self.settings);
        let upper_node = || self.upper_rows.binary_search(&row).unwrap_or(usize::MAX) as u32;
        let mut at = self.entry;
        for level in (1..=self.top).rev() {
            let layer = self.upper(level);
            if level > own {
                at = descend(&layer, self.codes, &mut query, at, &mut scratch.scratch);
            } else {
                let found = self.link(&layer, |node| layer.list(node), upper_node(), row, at, &mut query, scratch);
                at = found.unwrap_or(at);
            }
        }
        let base = self.base();
        let at = if self.top > 0 { self.upper_rows[at as usize] } else { 0 };
        self.link(&base, |node| base.list(node), row, row, at, &mut query, scratch);
        scratch.query = query;
    }

    /// Links `new`, the node of `row`, with the nodes near it on one level, in both directions. Returns the
    /// nearest.
    #[allow(clippy::too_many_arguments, reason = "has one caller")]
    fn link<'l>(
        &self,
        layer: &impl GraphLayer,
        list: impl Fn(u32) -> &'l [AtomicU32],
        new: u32,
        row: u32,
        from: u32,
        query: &mut CodedVector,
        scratch: &mut BuildScratch,
    ) -> Option<u32> {
        walk(layer, self.codes, query, &[from], self.settings.ef_construction as usize, &mut scratch.scratch);
        let mut found = std::mem::take(&mut scratch.scratch.pool);
        // Another thread may have linked to this row already.
        found.retain(|key| node(*key) != new);
        let mut chosen = std::mem::take(&mut scratch.chosen);
        self.choose(layer, &found, self.settings.m as usize, &mut chosen, scratch);
        let nearest = found.first().map(|key| node(*key));
        scratch.scratch.pool = found;
        self.locked(row, || {
            let slots = list(new);
            let mut used = slots.iter().position(|slot| slot.load(Ordering::Relaxed) == NONE).unwrap_or(slots.len());
            for neighbour in &chosen {
                let known = slots[..used].iter().any(|slot| slot.load(Ordering::Relaxed) == *neighbour);
                if used < slots.len() && !known {
                    slots[used].store(*neighbour, Ordering::Relaxed);
                    used += 1;
                }
            }
        });
        for neighbour in &chosen {
            self.locked(layer.row(*neighbour), || self.link_back(layer, list(*neighbour), *neighbour, new, scratch));
        }
        scratch.chosen = chosen;
        nearest
    }

    /// Adds `new` to the list of `owner`. If the list is full, selects again which links to keep.
    fn link_back(
        &self,
        layer: &impl GraphLayer,
        slots: &[AtomicU32],
        owner: u32,
        new: u32,
        scratch: &mut BuildScratch,
    ) {
        let mut rows = std::mem::take(&mut scratch.rows);
        rows.clear();
        let linked = slots.iter().map(|slot| slot.load(Ordering::Relaxed)).take_while(|node| *node != NONE);
        let mut candidates = std::mem::take(&mut scratch.candidates);
        candidates.clear();
        candidates.extend(linked.map(u64::from));
        if !candidates.contains(&u64::from(new)) {
            if let Some(free) = slots.get(candidates.len()) {
                free.store(new, Ordering::Relaxed);
            } else {
                candidates.push(u64::from(new));
                rows.extend(candidates.iter().map(|node| layer.row(*node as u32)));
                let mut other = std::mem::take(&mut scratch.other);
                self.codes.read(layer.row(owner), &mut other);
                scratch.scores.resize(rows.len(), 0.0);
                self.codes.dots(&mut other, &rows, &mut scratch.scores);
                for (candidate, score) in candidates.iter_mut().zip(&scratch.scores) {
                    *candidate = key(*score, *candidate as u32);
                }
                scratch.other = other;
                candidates.sort_unstable();
                let mut kept = std::mem::take(&mut scratch.again);
                self.choose(layer, &candidates, slots.len(), &mut kept, scratch);
                let ends = std::iter::repeat(&NONE);
                slots.iter().zip(kept.iter().chain(ends)).for_each(|(slot, node)| slot.store(*node, Ordering::Relaxed));
                scratch.again = kept;
            }
        }
        scratch.candidates = candidates;
        scratch.rows = rows;
    }

    /// Selects at most `most` of the candidates, nearest first: those that are nearer to the row than to any
    /// candidate selected before (algorithm 4).
    fn choose(
        &self,
        layer: &impl GraphLayer,
        candidates: &[u64],
        most: usize,
        chosen: &mut Vec<u32>,
        scratch: &mut BuildScratch,
    ) {
        chosen.clear();
        let (mut other, mut rows) = (std::mem::take(&mut scratch.other), Vec::new());
        std::mem::swap(&mut rows, &mut scratch.rows);
        let before = rows.len();
        for candidate in candidates {
            if chosen.len() >= most {
                break;
            }
            let row = layer.row(node(*candidate));
            self.codes.read(row, &mut other);
            let own = score(*candidate);
            // In blocks: the first few selected rows rule most candidates out.
            let nearer = rows[before..].chunks(8).any(|part| {
                let mut scores = [0.0; 8];
                self.codes.dots(&mut other, part, &mut scores[..part.len()]);
                scores[..part.len()].iter().any(|score| *score >= own)
            });
            if !nearer {
                chosen.push(node(*candidate));
                rows.push(row);
            }
        }
        rows.truncate(before);
        (scratch.other, scratch.rows) = (other, rows);
    }

    fn locked(&self, row: u32, change: impl FnOnce()) {
        let lock = &self.locks[row as usize];
        let mut tries = 0u32;
        while lock.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            tries += 1;
            if tries.is_multiple_of(64) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        change();
        lock.store(false, Ordering::Release);
    }

    fn freeze(self) -> BuiltGraph {
        debug_assert_eq!(self.locks.len(), self.rows as usize);
        let plain = |links: Vec<AtomicU32>| links.into_iter().map(AtomicU32::into_inner).collect();
        BuiltGraph {
            settings: self.settings,
            base: plain(self.base),
            upper_rows: self.upper_rows,
            upper_lists: self.upper_lists,
            upper: plain(self.upper),
            entry: self.entry,
            top: self.top,
        }
    }
}

/// The rows that are reachable on the base level, each with the row from which it was reached first.
pub(crate) struct ReachableRows {
    pub(crate) parent: Vec<u32>,
    pub(crate) reached: usize,
}

impl ReachableRows {
    pub(crate) fn from(base: &BaseLayer<'_, u32>, start: u32) -> ReachableRows {
        let mut reach = ReachableRows { parent: vec![NONE; base.nodes()], reached: 0 };
        reach.spread(base, start, start);
        reach
    }

    /// Marks `start`, with `parent`, and all rows reachable from it.
    fn spread(&mut self, base: &BaseLayer<'_, u32>, start: u32, parent: u32) {
        self.parent[start as usize] = parent;
        let mut waiting = vec![start];
        while let Some(row) = waiting.pop() {
            self.reached += 1;
            base.each(row, |next| {
                if self.parent[next as usize] == NONE {
                    self.parent[next as usize] = row;
                    waiting.push(next);
                }
            });
        }
    }
}

impl BuiltGraph {
    /// The row of the entry, or row 0.
    pub(crate) fn start(&self) -> u32 {
        self.upper_rows.get(self.entry as usize).copied().unwrap_or(0)
    }

    fn view(&self) -> BaseLayer<'_, u32> {
        BaseLayer { links: &self.base, stride: 2 * self.settings.m as usize }
    }

    /// Makes every row reachable from the entry on the base level. Each unreachable row becomes a neighbour
    /// of a reachable row near it: in a free slot, or instead of a link that no row needs to be reachable.
    pub(super) fn connect(&mut self, codes: RowCodes<'_>) {
        let rows = self.view().nodes();
        let mut reach = ReachableRows::from(&self.view(), self.start());
        let (mut scratch, mut query) = (WalkScratch::default(), CodedVector::default());
        for row in 0..rows as u32 {
            if reach.parent[row as usize] != NONE {
                continue;
            }
            codes.read(row, &mut query);
            let ef = self.settings.ef_construction as usize;
            walk(&self.view(), codes, &mut query, &[self.start()], ef, &mut scratch);
            let near = || scratch.pool.iter().map(|key| node(*key));
            let others = || (0..rows as u32).filter(|row| reach.parent[*row as usize] != NONE);
            // A tree over n rows has n - 1 links. Each row has at least two slots, so that one is free or
            // idle.
            let slot = near().find_map(|row| self.free(row));
            let slot = slot.or_else(|| near().find_map(|row| self.idle(row, &reach)));
            let slot = slot.or_else(|| others().find_map(|row| self.free(row).or_else(|| self.idle(row, &reach))));
            let Some(slot) = slot else { continue };
            self.base[slot] = row;
            let parent = (slot / (2 * self.settings.m as usize)) as u32;
            reach.spread(&self.view(), row, parent);
        }
    }

    /// The first free slot of a row.
    fn free(&self, row: u32) -> Option<usize> {
        let stride = 2 * self.settings.m as usize;
        let at = row as usize * stride;
        (at..at + stride).find(|slot| self.base[*slot] == NONE)
    }

    /// The last slot of a row with a link through which no row was reached first.
    fn idle(&self, row: u32, reach: &ReachableRows) -> Option<usize> {
        let stride = 2 * self.settings.m as usize;
        let at = row as usize * stride;
        (at..at + stride).rev().find(|slot| reach.parent[self.base[*slot] as usize] != row)
    }
}
