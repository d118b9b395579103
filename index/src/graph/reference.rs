//! The crate hnsw_rs as a builder, for comparison: it knows nothing of our files, only row numbers.
//!
//! It draws levels from a generator of its own, without a seed, so that its graphs differ from run to run.

use std::cell::RefCell;

use hnsw_rs::prelude::{Distance, Hnsw as Theirs};

use super::build::Graph;
use super::{MAX_LEVEL, NONE};
use crate::packed::{Coded, Codes};
use crate::types::Hnsw;

/// 1 - the dot product of two rows, which are given as their numbers; not below 0, as hnsw_rs wants it.
struct RowDistance<'a>(Codes<'a>);

thread_local! {
    static ROW: RefCell<Coded> = RefCell::default();
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
pub(crate) fn build(codes: Codes<'_>, rows: u32, settings: &Hnsw) -> Graph {
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
    let tower_rows: Vec<u32> = (0..rows).filter(|row| levels[*row as usize] > 0).collect();
    let mut tower_first = vec![0];
    for row in &tower_rows {
        tower_first.push(tower_first[tower_first.len() - 1] + levels[*row as usize]);
    }
    let lists = tower_first[tower_rows.len()] as usize;
    let (mut ground, mut upper) = (vec![NONE; rows as usize * 2 * m], vec![NONE; lists * m]);
    for point in theirs.get_point_indexation() {
        let row = point.get_origin_id();
        let neighbours = point.get_neighborhood_id();
        let fill = |slots: &mut [u32], links: &mut dyn Iterator<Item = u32>| {
            slots.iter_mut().zip(links).for_each(|(slot, link)| *slot = link);
        };
        if let Some(near) = neighbours.first() {
            let links = &mut near.iter().map(|n| n.d_id as u32).filter(|link| *link as usize != row);
            fill(&mut ground[row * 2 * m..][..2 * m], links);
        }
        let Ok(tower) = tower_rows.binary_search(&(row as u32)) else { continue };
        for (level, near) in neighbours.iter().enumerate().skip(1).take(levels[row] as usize) {
            let towers = near.iter().filter(|n| levels[n.d_id] as usize >= level && n.d_id != row);
            let links = &mut towers.filter_map(|n| Some(tower_rows.binary_search(&(n.d_id as u32)).ok()? as u32));
            let list = tower_first[tower] as usize + level - 1;
            fill(&mut upper[list * m..][..m], links);
        }
    }
    let top = levels.iter().copied().max().unwrap_or(0);
    let entry = tower_rows.iter().position(|row| levels[*row as usize] == top).unwrap_or(0) as u32;
    let mut graph = Graph { settings: *settings, ground, tower_rows, tower_first, upper, entry, top };
    graph.connect(codes);
    graph
}
