//! Searches a graph: greedy descent through the upper levels, then a best-first walk on the base level with a
//! pool of `ef`.

use super::GraphLayer;
use crate::packed::{CodedVector, RowCodes};

/// Number of rows to prefetch before the first is scored.
const AHEAD: usize = 6;

/// A score and a node as one integer. Smaller is better, ties by node. The lowest bit marks a node whose
/// links were visited.
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

/// Buffers of a walk. They are reused, so that walks do not allocate.
#[derive(Default)]
pub(crate) struct WalkScratch {
    /// The last walk that visited each node, as its `epoch`.
    visited: Vec<u8>,
    epoch: u8,
    /// Keys of the best nodes so far, best first.
    pub(crate) pool: Vec<u64>,
    fresh: Vec<u32>,
    rows: Vec<u32>,
    scores: Vec<f32>,
}

impl WalkScratch {
    fn start(&mut self, nodes: usize) {
        if self.visited.len() < nodes {
            self.visited.resize(nodes, 0);
        }
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            self.visited.fill(0);
            self.epoch = 1;
        }
        self.pool.clear();
    }

    /// Puts the unvisited neighbours of a node into `fresh` and marks them as visited.
    #[inline(always)]
    fn gather(&mut self, layer: &impl GraphLayer, node: u32) {
        let (fresh, mut n) = (&mut self.fresh, 0);
        layer.each(node, |neighbour| {
            let Some(visited) = self.visited.get_mut(neighbour as usize) else { return };
            if fresh.len() == n {
                fresh.push(0);
            }
            // Without a branch: about half of the neighbours are new, in no order, so that a branch would
            // mispredict often.
            fresh[n] = neighbour;
            n += usize::from(*visited != self.epoch);
            *visited = self.epoch;
        });
        fresh.truncate(n);
    }

    /// Computes the scores of the nodes in `fresh`.
    #[inline(always)]
    fn score(&mut self, layer: &impl GraphLayer, codes: RowCodes<'_>, query: &mut CodedVector) {
        self.rows.clear();
        self.rows.extend(self.fresh.iter().map(|node| layer.row(*node)));
        self.rows.iter().take(AHEAD).for_each(|row| codes.prefetch(*row));
        self.scores.resize(self.rows.len(), 0.0);
        codes.dots(query, &self.rows, &mut self.scores);
    }
}

/// Moves from `from` to the neighbour nearest to the query until none is nearer. Returns the last node.
pub(crate) fn descend(
    layer: &impl GraphLayer,
    codes: RowCodes<'_>,
    query: &mut CodedVector,
    from: u32,
    scratch: &mut WalkScratch,
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

/// Walks best first from the nodes `from`. Leaves the `ef` best nodes found in the pool of `scratch`, best
/// first.
pub(crate) fn walk(
    layer: &impl GraphLayer,
    codes: RowCodes<'_>,
    query: &mut CodedVector,
    from: &[u32],
    ef: usize,
    scratch: &mut WalkScratch,
) {
    scratch.start(layer.nodes());
    scratch.fresh.clear();
    for node in from {
        // A damaged file can name any node.
        let in_range = (*node as usize) < layer.nodes();
        if let Some(visited) =
            scratch.visited.get_mut(*node as usize).filter(|visited| in_range && **visited != scratch.epoch)
        {
            *visited = scratch.epoch;
            scratch.fresh.push(*node);
        }
    }
    scratch.score(layer, codes, query);
    scratch.pool.extend(scratch.scores.iter().zip(&scratch.fresh).map(|(score, node)| key(*score, *node)));
    scratch.pool.sort_unstable();
    scratch.pool.truncate(ef);
    let mut current = 0;
    while current < scratch.pool.len() {
        let at = node(scratch.pool[current]);
        scratch.pool[current] |= 1;
        // Prefetch the links of the node that is next unless this one has a better neighbour.
        if let Some(key) = scratch.pool[current..].iter().find(|key| *key & 1 == 0) {
            layer.prefetch(node(*key));
        }
        scratch.gather(layer, at);
        scratch.score(layer, codes, query);
        let mut next = current + 1;
        for i in 0..scratch.fresh.len() {
            let key = key(scratch.scores[i], scratch.fresh[i]);
            if scratch.pool.len() >= ef {
                if key >= scratch.pool[ef - 1] {
                    continue;
                }
                scratch.pool.pop();
            }
            let position = scratch.pool.partition_point(|other| *other < key);
            scratch.pool.insert(position, key);
            if position < next {
                next = position;
                layer.prefetch(node(key));
            }
        }
        current = next;
        while scratch.pool.get(current).is_some_and(|key| key & 1 == 1) {
            current += 1;
        }
    }
}
