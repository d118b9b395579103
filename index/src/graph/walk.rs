//! The walk: greedy down the upper levels, then best first with a pool of `ef` on the ground.

use super::{Layer, Plane};

/// Rows asked for ahead of their scores.
const AHEAD: usize = 4;

/// A score and a node as one number: smaller is better, ties by node. The lowest bit says that the node's links were looked at.
pub(crate) fn key(score: f32, node: u32) -> u64 {
    let score = if score.is_nan() { f32::NEG_INFINITY } else { score + 0.0 };
    let bits = (-score).to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(ordered) << 32 | u64::from(node) << 1
}

/// The node of a key.
#[inline(always)]
pub(crate) fn node(key: u64) -> u32 {
    key as u32 >> 1
}

/// The score of a key.
pub(crate) fn score(key: u64) -> f32 {
    let ordered = (key >> 32) as u32;
    -f32::from_bits(if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered })
}

/// What a walk needs for itself, kept between walks so that none is allocated.
#[derive(Default)]
pub(crate) struct Scratch {
    /// Nodes seen in walk number `epoch`.
    seen: Vec<u8>,
    epoch: u8,
    /// The best nodes so far as keys, best first.
    pub(crate) pool: Vec<u64>,
    fresh: Vec<u32>,
    rows: Vec<u32>,
    scores: Vec<f32>,
}

impl Scratch {
    fn start(&mut self, nodes: usize) {
        if self.seen.len() < nodes {
            self.seen.resize(nodes, 0);
        }
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            self.seen.fill(0);
            self.epoch = 1;
        }
        self.pool.clear();
    }

    /// Marks a node; whether it was not marked before.
    #[inline(always)]
    fn mark(&mut self, node: u32) -> bool {
        match self.seen.get_mut(node as usize) {
            Some(seen) if *seen != self.epoch => {
                *seen = self.epoch;
                true
            }
            _ => false,
        }
    }

    /// Scores of the nodes in `fresh`.
    #[inline(always)]
    fn score(&mut self, layer: &impl Layer, plane: Plane<'_>, query: &[f32]) {
        self.rows.clear();
        self.rows.extend(self.fresh.iter().map(|node| layer.row(*node)));
        self.rows.iter().take(AHEAD).for_each(|row| plane.prefetch(*row));
        self.scores.resize(self.rows.len(), 0.0);
        plane.dots(query, &self.rows, &mut self.scores);
    }
}

/// From `from`, to the neighbour nearest the query as long as one is nearer.
pub(crate) fn descend(layer: &impl Layer, plane: Plane<'_>, query: &[f32], from: u32, scratch: &mut Scratch) -> u32 {
    scratch.fresh.clear();
    scratch.fresh.push(from);
    scratch.score(layer, plane, query);
    let mut best = key(scratch.scores[0], from);
    loop {
        scratch.fresh.clear();
        let fresh = &mut scratch.fresh;
        layer.each(node(best), |neighbour| fresh.push(neighbour));
        scratch.score(layer, plane, query);
        let found = scratch.scores.iter().zip(&scratch.fresh).map(|(score, node)| key(*score, *node)).min();
        match found {
            Some(found) if found < best => best = found,
            _ => return node(best),
        }
    }
}

/// Best first from `from`: leaves the `ef` best nodes found in the scratch's pool, best first.
pub(crate) fn walk(layer: &impl Layer, plane: Plane<'_>, query: &[f32], from: &[u32], ef: usize, w: &mut Scratch) {
    w.start(layer.nodes());
    w.fresh.clear();
    for node in from {
        if w.mark(*node) {
            w.fresh.push(*node);
        }
    }
    w.score(layer, plane, query);
    w.pool.extend(w.scores.iter().zip(&w.fresh).map(|(score, node)| key(*score, *node)));
    w.pool.sort_unstable();
    w.pool.truncate(ef);
    let mut current = 0;
    while current < w.pool.len() {
        let at = node(w.pool[current]);
        w.pool[current] |= 1;
        let mut fresh = std::mem::take(&mut w.fresh);
        fresh.clear();
        layer.each(at, |neighbour| {
            if w.mark(neighbour) {
                fresh.push(neighbour);
            }
        });
        w.fresh = fresh;
        w.score(layer, plane, query);
        let mut next = current + 1;
        for i in 0..w.fresh.len() {
            let key = key(w.scores[i], w.fresh[i]);
            if w.pool.len() >= ef {
                if key >= w.pool[ef - 1] {
                    continue;
                }
                w.pool.pop();
            }
            let place = w.pool.partition_point(|other| *other < key);
            w.pool.insert(place, key);
            next = next.min(place);
        }
        current = next;
        while w.pool.get(current).is_some_and(|key| key & 1 == 1) {
            current += 1;
        }
        if let Some(key) = w.pool.get(current) {
            layer.prefetch(node(*key));
        }
    }
}
