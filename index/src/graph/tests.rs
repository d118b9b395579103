use super::BaseLayer;
use super::build::{ReachableRows, build};
use super::walk::{key, node, score};
use crate::packed::PackedRows;
use crate::types::HnswSettings;

fn vectors(rows: usize, dim: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..rows * dim).map(|_| next()).collect()
}

fn reached(values: &[f32], dim: usize, settings: &HnswSettings) -> (usize, Vec<u32>) {
    let packed = PackedRows::new(values, dim);
    let rows = (values.len() / dim) as u32;
    let graph = build(packed.view().codes(), rows, settings);
    let base = BaseLayer { links: &graph.base, stride: 2 * settings.m as usize };
    (ReachableRows::from(&base, graph.start()).reached, graph.base.clone())
}

#[test]
fn keys_sort_by_score_then_node_and_contain_both() {
    let scores = [f32::INFINITY, 3.5, 1e-30, 0.0, -1e-30, -2.0, f32::NEG_INFINITY];
    let keys: Vec<u64> = scores.iter().flat_map(|s| [key(*s, 0), key(*s, (1 << 31) - 2)]).collect();
    assert!(keys.is_sorted(), "{keys:?}");
    for s in scores {
        assert_eq!((score(key(s, 77)), node(key(s, 77) | 1)), (s, 77));
    }
    assert_eq!(key(-0.0, 5), key(0.0, 5));
    assert_eq!(key(f32::NAN, 5), key(f32::NEG_INFINITY, 5));
}

#[test]
fn every_row_is_reachable_for_any_rows() {
    let mut two = vectors(900, 6, 1);
    two[..450 * 6].iter_mut().for_each(|x| *x += 40.0); // two clusters without links between them
    let cases = [vectors(1, 6, 1), vectors(2, 6, 1), vectors(900, 6, 2), vec![0.25; 900 * 6], vec![0.0; 900 * 6], two];
    for (i, values) in cases.iter().enumerate() {
        for (m, ef_construction) in [(2, 1), (2, 20), (16, 100)] {
            let settings = HnswSettings { m, ef_construction, ..HnswSettings::default() };
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let (reached, _) = pool.install(|| reached(values, 6, &settings));
                assert_eq!(reached, values.len() / 6, "case {i}, m {m}, ef {ef_construction}, {threads} threads");
            }
        }
    }
}

#[test]
fn one_thread_builds_the_same_graph_every_time() {
    let values = vectors(2000, 8, 3);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let build = |seed| pool.install(|| reached(&values, 8, &HnswSettings { seed, ..HnswSettings::default() })).1;
    assert_eq!(build(1), build(1));
    assert_ne!(build(1), build(2));
}
