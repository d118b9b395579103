//! Building: rows are inserted one by one, by as many threads as the current rayon pool has.
//!
//! Algorithm 1 of the paper, with its diversity heuristic (algorithm 4) for the links of a new row and for the
//! links back to it: of the nearest candidates, those that are nearer to the new row than to any chosen before.
//! A row's level is drawn from its number and the seed, so that the entry is known before the first insertion.
//! With one thread the graph depends on the rows and the settings alone.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use super::walk::{Scratch, descend, key, node, score, walk};
use super::{Ground, Layer, MAX_LEVEL, NONE, Towers, Upper};
use crate::packed::{Coded, Codes};
use crate::types::Hnsw;

/// Rows taken by a thread at a time.
const BLOCK: usize = 32;

/// A finished graph.
pub(crate) struct Graph {
    pub(crate) settings: Hnsw,
    /// `2 m` links a row.
    pub(crate) ground: Vec<u32>,
    /// Rows with levels above the ground, ascending.
    pub(crate) tower_rows: Vec<u32>,
    /// Where their lists begin, and the end.
    pub(crate) tower_first: Vec<u32>,
    /// `m` links a list, to towers.
    pub(crate) upper: Vec<u32>,
    /// The tower at which walks begin, if there is one.
    pub(crate) entry: u32,
    pub(crate) top: u32,
}

/// The highest level of a row: floor(-ln(u) / ln(m)), u uniform in (0, 1).
fn level(row: u32, settings: &Hnsw) -> u32 {
    // SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    let mut x = (u64::from(row) ^ settings.seed.rotate_left(32)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^= x >> 31;
    let uniform = ((x >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    ((-uniform.ln() / f64::from(settings.m).ln()) as u32).min(MAX_LEVEL)
}

struct Builder<'a> {
    codes: Codes<'a>,
    rows: u32,
    settings: Hnsw,
    ground: Vec<AtomicU32>,
    tower_rows: Vec<u32>,
    tower_first: Vec<u32>,
    upper: Vec<AtomicU32>,
    entry: u32,
    top: u32,
    /// One a row: its lists are written by one thread at a time, and read by all.
    locks: Vec<AtomicBool>,
}

/// What a thread needs for itself.
#[derive(Default)]
struct Hands {
    scratch: Scratch,
    query: Coded,
    other: Coded,
    chosen: Vec<u32>,
    again: Vec<u32>,
    candidates: Vec<u64>,
    rows: Vec<u32>,
    scores: Vec<f32>,
}

/// See [`super::build()`].
pub(super) fn build(codes: Codes<'_>, rows: u32, settings: &Hnsw) -> Graph {
    let builder = Builder::new(codes, rows, settings);
    let next = AtomicUsize::new(0);
    rayon::scope(|scope| {
        for _ in 0..rayon::current_num_threads() {
            scope.spawn(|_| {
                let mut hands = Hands::default();
                loop {
                    let first = next.fetch_add(BLOCK, Ordering::Relaxed);
                    if first >= rows as usize {
                        break;
                    }
                    (first..(first + BLOCK).min(rows as usize)).for_each(|row| builder.insert(row as u32, &mut hands));
                }
            });
        }
    });
    let mut graph = builder.freeze();
    graph.connect(codes);
    graph
}

impl<'a> Builder<'a> {
    fn new(codes: Codes<'a>, rows: u32, settings: &Hnsw) -> Builder<'a> {
        let none = |n: usize| (0..n).map(|_| AtomicU32::new(NONE)).collect::<Vec<_>>();
        let (mut tower_rows, mut tower_first, mut lists) = (Vec::new(), Vec::new(), 0);
        let (mut entry, mut top) = (0, 0);
        for row in 0..rows {
            let level = level(row, settings);
            if level > 0 {
                if level > top {
                    (entry, top) = (tower_rows.len() as u32, level);
                }
                tower_rows.push(row);
                tower_first.push(lists);
                lists += level;
            }
        }
        tower_first.push(lists);
        let m = settings.m as usize;
        Builder {
            ground: none(rows as usize * 2 * m),
            upper: none(lists as usize * m),
            locks: (0..rows).map(|_| AtomicBool::new(false)).collect(),
            settings: *settings,
            codes,
            rows,
            tower_rows,
            tower_first,
            entry,
            top,
        }
    }

    fn ground(&self) -> Ground<'_, AtomicU32> {
        Ground { links: &self.ground, stride: 2 * self.settings.m as usize }
    }

    fn upper(&self, level: u32) -> Upper<'_, AtomicU32> {
        let towers = Towers { rows: &self.tower_rows, first: &self.tower_first };
        Upper { towers, links: &self.upper, stride: self.settings.m as usize, level }
    }

    fn insert(&self, row: u32, hands: &mut Hands) {
        let entry_row = self.tower_rows.get(self.entry as usize).copied().unwrap_or(0);
        if row == entry_row {
            return;
        }
        let mut query = std::mem::take(&mut hands.query);
        self.codes.read(row, &mut query);
        let own = level(row, &self.settings);
        let tower = || self.tower_rows.binary_search(&row).unwrap_or(usize::MAX) as u32;
        let mut at = self.entry;
        for level in (1..=self.top).rev() {
            let layer = self.upper(level);
            if level > own {
                at = descend(&layer, self.codes, &mut query, at, &mut hands.scratch);
            } else {
                let found = self.link(&layer, |node| layer.list(node), tower(), row, at, &mut query, hands);
                at = found.unwrap_or(at);
            }
        }
        let ground = self.ground();
        let at = if self.top > 0 { self.tower_rows[at as usize] } else { 0 };
        self.link(&ground, |node| ground.list(node), row, row, at, &mut query, hands);
        hands.query = query;
    }

    /// Links `new`, the node of `row`, with the nodes near it on one level, both ways. Gives the nearest.
    #[allow(clippy::too_many_arguments, reason = "one place calls it")]
    fn link<'l>(
        &self,
        layer: &impl Layer,
        list: impl Fn(u32) -> &'l [AtomicU32],
        new: u32,
        row: u32,
        from: u32,
        query: &mut Coded,
        hands: &mut Hands,
    ) -> Option<u32> {
        walk(layer, self.codes, query, &[from], self.settings.ef_construction as usize, &mut hands.scratch);
        let mut found = std::mem::take(&mut hands.scratch.pool);
        // Another thread may have linked to this row before it links to others.
        found.retain(|key| node(*key) != new);
        let mut chosen = std::mem::take(&mut hands.chosen);
        self.choose(layer, &found, self.settings.m as usize, &mut chosen, hands);
        let nearest = found.first().map(|key| node(*key));
        hands.scratch.pool = found;
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
            self.locked(layer.row(*neighbour), || self.link_back(layer, list(*neighbour), *neighbour, new, hands));
        }
        hands.chosen = chosen;
        nearest
    }

    /// Adds `new` to the list of `owner`; if that is full, chooses anew which links to keep.
    fn link_back(&self, layer: &impl Layer, slots: &[AtomicU32], owner: u32, new: u32, hands: &mut Hands) {
        let mut rows = std::mem::take(&mut hands.rows);
        rows.clear();
        let linked = slots.iter().map(|slot| slot.load(Ordering::Relaxed)).take_while(|node| *node != NONE);
        let mut candidates = std::mem::take(&mut hands.candidates);
        candidates.clear();
        candidates.extend(linked.map(u64::from));
        if !candidates.contains(&u64::from(new)) {
            if let Some(free) = slots.get(candidates.len()) {
                free.store(new, Ordering::Relaxed);
            } else {
                candidates.push(u64::from(new));
                rows.extend(candidates.iter().map(|node| layer.row(*node as u32)));
                let mut other = std::mem::take(&mut hands.other);
                self.codes.read(layer.row(owner), &mut other);
                hands.scores.resize(rows.len(), 0.0);
                self.codes.dots(&mut other, &rows, &mut hands.scores);
                for (candidate, score) in candidates.iter_mut().zip(&hands.scores) {
                    *candidate = key(*score, *candidate as u32);
                }
                hands.other = other;
                candidates.sort_unstable();
                let mut kept = std::mem::take(&mut hands.again);
                self.choose(layer, &candidates, slots.len(), &mut kept, hands);
                let ends = std::iter::repeat(&NONE);
                slots.iter().zip(kept.iter().chain(ends)).for_each(|(slot, node)| slot.store(*node, Ordering::Relaxed));
                hands.again = kept;
            }
        }
        hands.candidates = candidates;
        hands.rows = rows;
    }

    /// Of candidates, nearest first, at most `most` that are nearer to the row itself than to any chosen before (algorithm 4).
    fn choose(&self, layer: &impl Layer, candidates: &[u64], most: usize, chosen: &mut Vec<u32>, hands: &mut Hands) {
        chosen.clear();
        let (mut other, mut rows) = (std::mem::take(&mut hands.other), Vec::new());
        std::mem::swap(&mut rows, &mut hands.rows);
        let before = rows.len();
        for candidate in candidates {
            if chosen.len() >= most {
                break;
            }
            let row = layer.row(node(*candidate));
            self.codes.read(row, &mut other);
            let own = score(*candidate);
            // In parts: most candidates fall at the first few.
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
        (hands.other, hands.rows) = (other, rows);
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

    fn freeze(self) -> Graph {
        debug_assert_eq!(self.locks.len(), self.rows as usize);
        let plain = |links: Vec<AtomicU32>| links.into_iter().map(AtomicU32::into_inner).collect();
        Graph {
            settings: self.settings,
            ground: plain(self.ground),
            tower_rows: self.tower_rows,
            tower_first: self.tower_first,
            upper: plain(self.upper),
            entry: self.entry,
            top: self.top,
        }
    }
}

/// The rows that are reached from `start` on the ground, each with the row it was first reached from.
pub(crate) struct Reach {
    pub(crate) parent: Vec<u32>,
    pub(crate) reached: usize,
}

impl Reach {
    pub(crate) fn from(ground: &Ground<'_, u32>, start: u32) -> Reach {
        let mut reach = Reach { parent: vec![NONE; ground.nodes()], reached: 0 };
        reach.spread(ground, start, start);
        reach
    }

    /// Marks `start`, reached from `parent`, and all that it reaches.
    fn spread(&mut self, ground: &Ground<'_, u32>, start: u32, parent: u32) {
        self.parent[start as usize] = parent;
        let mut waiting = vec![start];
        while let Some(row) = waiting.pop() {
            self.reached += 1;
            ground.each(row, |next| {
                if self.parent[next as usize] == NONE {
                    self.parent[next as usize] = row;
                    waiting.push(next);
                }
            });
        }
    }
}

impl Graph {
    /// The row at which walks on the ground begin if nothing better is known.
    pub(crate) fn start(&self) -> u32 {
        self.tower_rows.get(self.entry as usize).copied().unwrap_or(0)
    }

    fn view(&self) -> Ground<'_, u32> {
        Ground { links: &self.ground, stride: 2 * self.settings.m as usize }
    }

    /// Makes every row reachable from the entry on the ground: a row that is not becomes a neighbour of one near it that is,
    /// in a free place, or in place of a link by which nothing is reached first.
    pub(super) fn connect(&mut self, codes: Codes<'_>) {
        let rows = self.view().nodes();
        let mut reach = Reach::from(&self.view(), self.start());
        let (mut scratch, mut query) = (Scratch::default(), Coded::default());
        for row in 0..rows as u32 {
            if reach.parent[row as usize] != NONE {
                continue;
            }
            codes.read(row, &mut query);
            let ef = self.settings.ef_construction as usize;
            walk(&self.view(), codes, &mut query, &[self.start()], ef, &mut scratch);
            let near = || scratch.pool.iter().map(|key| node(*key));
            let others = || (0..rows as u32).filter(|row| reach.parent[*row as usize] != NONE);
            // A tree over n rows has n - 1 links: with two or more a row there is always a place.
            let place = near().find_map(|row| self.free(row));
            let place = place.or_else(|| near().find_map(|row| self.idle(row, &reach)));
            let place = place.or_else(|| others().find_map(|row| self.free(row).or_else(|| self.idle(row, &reach))));
            let Some(place) = place else { continue };
            self.ground[place] = row;
            let parent = (place / (2 * self.settings.m as usize)) as u32;
            reach.spread(&self.view(), row, parent);
        }
    }

    /// The first free place of a row.
    fn free(&self, row: u32) -> Option<usize> {
        let stride = 2 * self.settings.m as usize;
        let at = row as usize * stride;
        (at..at + stride).find(|place| self.ground[*place] == NONE)
    }

    /// The last place of a row whose link is not the one by which its row was first reached.
    fn idle(&self, row: u32, reach: &Reach) -> Option<usize> {
        let stride = 2 * self.settings.m as usize;
        let at = row as usize * stride;
        (at..at + stride).rev().find(|place| reach.parent[self.ground[*place] as usize] != row)
    }
}
