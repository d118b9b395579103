//! The walk: greedy down the upper levels, then best first with a pool of `ef` on the ground.

use super::Layer;
use crate::packed::{Coded, Codes};

/// Rows asked for ahead of their scores.
const AHEAD: usize = 6;

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

    /// Puts those of a node's neighbours into `fresh` that are not marked, and marks them.
    #[inline(always)]
    fn gather(&mut self, layer: &impl Layer, node: u32) {
        let (fresh, mut n) = (&mut self.fresh, 0);
        layer.each(node, |neighbour| {
            let Some(seen) = self.seen.get_mut(neighbour as usize) else { return };
            if fresh.len() == n {
                fresh.push(0);
            }
            // Half of them are marked, in no order: written first and counted after, for a branch would often be guessed wrong.
            fresh[n] = neighbour;
            n += usize::from(*seen != self.epoch);
            *seen = self.epoch;
        });
        fresh.truncate(n);
    }

    /// Scores of the nodes in `fresh`.
    #[inline(always)]
    fn score(&mut self, layer: &impl Layer, codes: Codes<'_>, query: &mut Coded) {
        self.rows.clear();
        self.rows.extend(self.fresh.iter().map(|node| layer.row(*node)));
        self.rows.iter().take(AHEAD).for_each(|row| codes.prefetch(*row));
        self.scores.resize(self.rows.len(), 0.0);
        codes.dots(query, &self.rows, &mut self.scores);
    }
}

/// From `from`, to the neighbour nearest the query as long as one is nearer.
pub(crate) fn descend(
    layer: &impl Layer,
    codes: Codes<'_>,
    query: &mut Coded,
    from: u32,
    scratch: &mut Scratch,
) -> u32 {
    scratch.fresh.clear();
    scratch.fresh.push(from);
    scratch.score(layer, codes, query);
    let mut best = key(scratch.scores[0], from);
    loop {
        scratch.fresh.clear();
        let fresh = &mut scratch.fresh;
        layer.each(node(best), |neighbour| fresh.push(neighbour));
        scratch.score(layer, codes, query);
        let found = scratch.scores.iter().zip(&scratch.fresh).map(|(score, node)| key(*score, *node)).min();
        match found {
            Some(found) if found < best => best = found,
            _ => return node(best),
        }
    }
}

/// Best first from `from`: leaves the `ef` best nodes found in the scratch's pool, best first.
pub(crate) fn walk(layer: &impl Layer, codes: Codes<'_>, query: &mut Coded, from: &[u32], ef: usize, w: &mut Scratch) {
    w.start(layer.nodes());
    w.fresh.clear();
    for node in from {
        // A damaged file may begin a walk anywhere.
        let place = (*node as usize) < layer.nodes();
        if let Some(seen) = w.seen.get_mut(*node as usize).filter(|seen| place && **seen != w.epoch) {
            *seen = w.epoch;
            w.fresh.push(*node);
        }
    }
    w.score(layer, codes, query);
    w.pool.extend(w.scores.iter().zip(&w.fresh).map(|(score, node)| key(*score, *node)));
    w.pool.sort_unstable();
    w.pool.truncate(ef);
    let mut current = 0;
    while current < w.pool.len() {
        let at = node(w.pool[current]);
        w.pool[current] |= 1;
        // Most likely the next, unless a better one is found now: its links arrive meanwhile.
        if let Some(key) = w.pool[current..].iter().find(|key| *key & 1 == 0) {
            layer.prefetch(node(*key));
        }
        w.gather(layer, at);
        w.score(layer, codes, query);
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
            if place < next {
                next = place;
                layer.prefetch(node(key));
            }
        }
        current = next;
        while w.pool.get(current).is_some_and(|key| key & 1 == 1) {
            current += 1;
        }
    }
}
