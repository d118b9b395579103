//! Builds a graph with the crate hnsw_rs, for comparison. hnsw_rs gets row numbers only, not vectors or
//! files.
//!
//! It draws levels without a seed, so that its graphs differ from run to run.

use std::cell::RefCell;

use hnsw_rs::prelude::{Distance, Hnsw as Theirs};

use super::build::BuiltGraph;
use super::{MAX_LEVEL, NONE};
use crate::packed::{CodedVector, RowCodes};
use crate::types::HnswSettings;

/// 1 - the dot product of two rows, at least 0 because hnsw_rs requires that. The arguments are row numbers.
struct RowDistance<'a>(RowCodes<'a>);

thread_local! {
    static ROW: RefCell<CodedVector> = RefCell::default();
}

impl Distance<u32> for RowDistance<'_> {
    fn eval(&self, a: &[u32], b: &[u32]) -> f32 {
        let mut dot = [0.0];
        ROW.with_borrow_mut(|row| {
            self.0.read(a[0], row);
            self.0.dots(row, b, &mut dot);
        });
        (1.0 - dot[0]).max(0.0)
    }
}

/// Builds the graph of `rows` rows, at least one, of unit norm.
pub(crate) fn build(codes: RowCodes<'_>, rows: u32, settings: &HnswSettings) -> BuiltGraph {
    let (m, ef) = (settings.m as usize, settings.ef_construction as usize);
    let theirs = Theirs::new(m, rows as usize, MAX_LEVEL as usize + 1, ef, RowDistance(codes));
    let numbers: Vec<u32> = (0..rows).collect();
    if rayon::current_num_threads() == 1 {
        numbers.chunks(1).enumerate().for_each(|(i, number)| theirs.insert_slice((number, i)));
    } else {
        theirs.parallel_insert_slice(&numbers.chunks(1).enumerate().map(|(i, number)| (number, i)).collect());
    }
    let mut levels = vec![0u32; rows as usize];
    for point in theirs.get_point_indexation() {
        levels[point.get_origin_id()] = u32::from(point.get_point_id().0).min(MAX_LEVEL);
    }
    let upper_rows: Vec<u32> = (0..rows).filter(|row| levels[*row as usize] > 0).collect();
    let mut upper_lists = vec![0];
    for row in &upper_rows {
        upper_lists.push(upper_lists[upper_lists.len() - 1] + levels[*row as usize]);
    }
    let lists = upper_lists[upper_rows.len()] as usize;
    let (mut base, mut upper) = (vec![NONE; rows as usize * 2 * m], vec![NONE; lists * m]);
    for point in theirs.get_point_indexation() {
        let row = point.get_origin_id();
        let neighbours = point.get_neighborhood_id();
        let fill = |slots: &mut [u32], links: &mut dyn Iterator<Item = u32>| {
            slots.iter_mut().zip(links).for_each(|(slot, link)| *slot = link);
        };
        if let Some(near) = neighbours.first() {
            let links = &mut near.iter().map(|n| n.d_id as u32).filter(|link| *link as usize != row);
            fill(&mut base[row * 2 * m..][..2 * m], links);
        }
        let Ok(node) = upper_rows.binary_search(&(row as u32)) else { continue };
        for (level, near) in neighbours.iter().enumerate().skip(1).take(levels[row] as usize) {
            let upper_nodes = near.iter().filter(|n| levels[n.d_id] as usize >= level && n.d_id != row);
            let links = &mut upper_nodes.filter_map(|n| Some(upper_rows.binary_search(&(n.d_id as u32)).ok()? as u32));
            let list = upper_lists[node] as usize + level - 1;
            fill(&mut upper[list * m..][..m], links);
        }
    }
    let top = levels.iter().copied().max().unwrap_or(0);
    let entry = upper_rows.iter().position(|row| levels[*row as usize] == top).unwrap_or(0) as u32;
    let mut graph = BuiltGraph { settings: *settings, base, upper_rows, upper_lists, upper, entry, top };
    graph.connect(codes);
    graph
}
