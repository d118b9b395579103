//! HNSW graphs (Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using
//! Hierarchical Navigable Small World graphs", IEEE TPAMI 2020, arXiv:1603.09320) over the rows of one segment.
//!
//! [`mod@build`] makes one, [`mod@file`] freezes it as flat arrays in a file of its own, [`walk`] searches it, while it
//! is built and afterwards alike. A walk reads the codes of the vectors only (see [`crate::packed`]); what it finds is
//! scored exactly by its caller.

pub(crate) mod build;
pub(crate) mod file;
#[cfg(feature = "hnsw_rs")]
mod reference;
pub(crate) mod walk;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, Ordering};

use crate::packed::Codes;
use crate::simd::prefetch;
#[cfg(feature = "hnsw_rs")]
use crate::types::Builder;
use crate::types::Hnsw;

/// Ends a list that is not full. No row has this number.
pub(crate) const NONE: u32 = u32::MAX;

/// Rows whose numbers fit a key of the walk's pool.
pub(crate) const MAX_ROWS: u32 = 1 << 31;

/// Levels above the ground, at most.
const MAX_LEVEL: u32 = 15;

/// Builds the graph of `rows` rows, at least one and fewer than [`MAX_ROWS`], on the current rayon pool.
pub(crate) fn build(codes: Codes<'_>, rows: u32, settings: &Hnsw) -> build::Graph {
    match settings.builder {
        #[cfg(feature = "hnsw_rs")]
        Builder::HnswRs => reference::build(codes, rows, settings),
        _ => build::build(codes, rows, settings),
    }
}

/// A link, of a graph that is being built or of a frozen one.
pub(crate) trait Link {
    fn get(&self) -> u32;
}

impl Link for u32 {
    #[inline(always)]
    fn get(&self) -> u32 {
        *self
    }
}

impl Link for AtomicU32 {
    #[inline(always)]
    fn get(&self) -> u32 {
        self.load(Ordering::Relaxed)
    }
}

/// One level of a graph. Nodes of the ground level are rows; those above are numbered among themselves.
pub(crate) trait Layer {
    /// Nodes are below this.
    fn nodes(&self) -> usize;
    /// The row of a node, which a damaged file may put anywhere.
    fn row(&self, node: u32) -> u32;
    /// Calls `visit` with the node's neighbours, all of them below [`Layer::nodes`].
    fn each(&self, node: u32, visit: impl FnMut(u32));
    /// Asks for the node's list to be brought near.
    fn prefetch(&self, node: u32);
}

fn each_of<L: Link>(list: &[L], nodes: usize, mut visit: impl FnMut(u32)) {
    for link in list {
        let node = link.get();
        if node as usize >= nodes {
            break; // the end; or damage, which must not be followed
        }
        visit(node);
    }
}

/// The ground level: lists of `stride` links, row after row.
pub(crate) struct Ground<'a, L> {
    links: &'a [L],
    stride: usize,
}

impl<L: Link> Ground<'_, L> {
    fn list(&self, row: u32) -> &[L] {
        let at = row as usize * self.stride;
        self.links.get(at..at + self.stride).unwrap_or(&[])
    }
}

impl<L: Link> Layer for Ground<'_, L> {
    fn nodes(&self) -> usize {
        self.links.len() / self.stride
    }

    #[inline(always)]
    fn row(&self, node: u32) -> u32 {
        node
    }

    #[inline(always)]
    fn each(&self, node: u32, visit: impl FnMut(u32)) {
        each_of(self.list(node), self.nodes(), visit);
    }

    #[inline(always)]
    fn prefetch(&self, node: u32) {
        self.list(node).chunks(16).for_each(|line| prefetch(line.as_ptr()));
    }
}

/// The rows that have levels above the ground, ascending, and where their lists begin, counted in lists.
#[derive(Clone, Copy)]
pub(crate) struct Towers<'a> {
    pub(crate) rows: &'a [u32],
    pub(crate) first: &'a [u32],
}

/// A level above the ground: the lists of `stride` links of a node lie one after another, lowest level first.
pub(crate) struct Upper<'a, L> {
    towers: Towers<'a>,
    links: &'a [L],
    stride: usize,
    level: u32,
}

impl<L: Link> Upper<'_, L> {
    fn list(&self, node: u32) -> &[L] {
        let ends = (self.towers.first.get(node as usize), self.towers.first.get(node as usize + 1));
        let (Some(first), Some(end)) = ends else { return &[] };
        let list = u64::from(*first) + u64::from(self.level) - 1;
        if list >= u64::from(*end) {
            return &[]; // damage: nodes of a level link to nodes of that level
        }
        let at = list as usize * self.stride;
        self.links.get(at..at + self.stride).unwrap_or(&[])
    }
}

impl<L: Link> Layer for Upper<'_, L> {
    fn nodes(&self) -> usize {
        self.towers.rows.len()
    }

    fn row(&self, node: u32) -> u32 {
        self.towers.rows.get(node as usize).copied().unwrap_or(NONE)
    }

    fn each(&self, node: u32, visit: impl FnMut(u32)) {
        each_of(self.list(node), self.nodes(), visit);
    }

    fn prefetch(&self, node: u32) {
        prefetch(self.list(node).as_ptr());
    }
}
