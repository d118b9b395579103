//! HNSW graphs (Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using
//! Hierarchical Navigable Small World graphs", IEEE TPAMI 2020, arXiv:1603.09320) over the rows of one
//! segment.
//!
//! [`mod@build`] builds a graph, [`mod@file`] stores it as flat arrays in a file, and [`walk`] searches it,
//! both while it is built and afterwards. A walk reads only the codes of the vectors (see [`crate::packed`]);
//! the caller scores the rows that it finds.
//!
//! All rows are on level 0, the base level. A row with more levels is an *upper node*; upper nodes are
//! numbered by ascending row.

pub(crate) mod build;
pub(crate) mod file;
#[cfg(feature = "hnsw_rs")]
mod reference;
pub(crate) mod walk;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, Ordering};

use crate::packed::RowCodes;
use crate::simd::prefetch;
#[cfg(feature = "hnsw_rs")]
use crate::types::GraphBuilder;
use crate::types::HnswSettings;

/// Fills the end of a list that is not full. No row has this number.
pub(crate) const NONE: u32 = u32::MAX;

/// Upper limit of the number of rows: row numbers must fit the keys of a walk.
pub(crate) const MAX_ROWS: u32 = 1 << 31;

/// Highest level.
const MAX_LEVEL: u32 = 15;

/// Builds the graph of `rows` rows, at least one and fewer than [`MAX_ROWS`], on the current rayon pool.
pub(crate) fn build(codes: RowCodes<'_>, rows: u32, settings: &HnswSettings) -> build::BuiltGraph {
    match settings.builder {
        #[cfg(feature = "hnsw_rs")]
        GraphBuilder::HnswRs => reference::build(codes, rows, settings),
        _ => build::build(codes, rows, settings),
    }
}

/// A link of a graph under construction (atomic) or of a finished graph.
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

/// One level of a graph. Its nodes are rows on the base level and upper nodes on the others.
pub(crate) trait GraphLayer {
    /// Upper limit of the node numbers.
    fn nodes(&self) -> usize;
    /// The row of a node. It can be out of range in a damaged file.
    fn row(&self, node: u32) -> u32;
    /// Calls `visit` with the neighbours of a node, all of them below [`GraphLayer::nodes`].
    fn each(&self, node: u32, visit: impl FnMut(u32));
    /// Prefetches the links of a node.
    fn prefetch(&self, node: u32);
}

fn each_of<L: Link>(list: &[L], nodes: usize, mut visit: impl FnMut(u32)) {
    for link in list {
        let node = link.get();
        if node as usize >= nodes {
            break; // the end of the list, or damage
        }
        visit(node);
    }
}

/// The base level: `stride` links for each row.
pub(crate) struct BaseLayer<'a, L> {
    links: &'a [L],
    stride: usize,
}

impl<L: Link> BaseLayer<'_, L> {
    fn list(&self, row: u32) -> &[L] {
        let at = row as usize * self.stride;
        self.links.get(at..at + self.stride).unwrap_or(&[])
    }
}

impl<L: Link> GraphLayer for BaseLayer<'_, L> {
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

/// The rows of the upper nodes, ascending, and the position of the first list of each, counted in lists.
#[derive(Clone, Copy)]
pub(crate) struct UpperNodes<'a> {
    pub(crate) rows: &'a [u32],
    pub(crate) first: &'a [u32],
}

/// A level above the base. Each node has a list of `stride` links for each of its levels, lowest level first.
pub(crate) struct UpperLayer<'a, L> {
    upper_nodes: UpperNodes<'a>,
    links: &'a [L],
    stride: usize,
    level: u32,
}

impl<L: Link> UpperLayer<'_, L> {
    fn list(&self, node: u32) -> &[L] {
        let ends = (self.upper_nodes.first.get(node as usize), self.upper_nodes.first.get(node as usize + 1));
        let (Some(first), Some(end)) = ends else { return &[] };
        let list = u64::from(*first) + u64::from(self.level) - 1;
        if list >= u64::from(*end) {
            return &[]; // damage: a link to a node that is not on this level
        }
        let at = list as usize * self.stride;
        self.links.get(at..at + self.stride).unwrap_or(&[])
    }
}

impl<L: Link> GraphLayer for UpperLayer<'_, L> {
    fn nodes(&self) -> usize {
        self.upper_nodes.rows.len()
    }

    fn row(&self, node: u32) -> u32 {
        self.upper_nodes.rows.get(node as usize).copied().unwrap_or(NONE)
    }

    fn each(&self, node: u32, visit: impl FnMut(u32)) {
        each_of(self.list(node), self.nodes(), visit);
    }

    fn prefetch(&self, node: u32) {
        prefetch(self.list(node).as_ptr());
    }
}
