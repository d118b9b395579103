//! Searches with graphs: recall, filters, and equal results in every run.

use std::path::Path;

use reelseek_index::{
    Effort, HnswSettings, Index, IndexSettings, Searcher, SegmentCounts, Span, Video, VideoNumber, VideoSet,
};

use crate::support::{DIM, vectors};

const ONE_GRAPH: SegmentCounts = SegmentCounts { segments: 1, graphs: 1 };

fn settings() -> IndexSettings {
    IndexSettings { hnsw: HnswSettings { min_rows: 100, ..HnswSettings::default() }, ..IndexSettings::new(DIM) }
}

/// Runs on one thread, so that the graph is equal in every run.
fn on_one_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(work)
}

/// An index of `videos` videos with 50 rows each, in one commit.
fn build(dir: &Path, videos: u64) -> Index {
    on_one_thread(|| {
        let index = Index::create(dir, &settings()).unwrap();
        let mut writer = index.writer().unwrap();
        for i in 0..videos {
            let video = Video { id: format!("v{i}"), ..Video::default() };
            writer.put(video, &[Span::default(); 50], &vectors(50, i + 1), &[]).unwrap();
        }
        writer.commit().unwrap();
        writer.close().unwrap();
        index
    })
}

/// Fraction of the exact hits that a search finds, over 50 queries. Checks every hit.
fn recall(searcher: &Searcher, k: usize, filter: Option<&VideoSet>, effort: Effort) -> f64 {
    let (mut hits, mut all) = (0, 0);
    for query in vectors(50, 99_999).chunks(DIM) {
        let found = searcher.search(query, k, filter, effort).unwrap();
        let exact = searcher.search(query, k, filter, Effort::Exact).unwrap();
        assert_eq!(found.len(), exact.len());
        assert!(found.is_sorted_by(|a, b| (b.score, a.row) <= (a.score, b.row)), "{found:?}");
        for hit in &found {
            assert!(filter.is_none_or(|set| set.contains(hit.video)));
            // The score is exact, and the row belongs to the video.
            let (_, rows) = searcher.rows_of(hit.video).unwrap().unwrap();
            assert!(rows.chunks(DIM).any(|row| reelseek_index::dot(row, query) == hit.score), "{hit:?}");
            hits += usize::from(exact.iter().any(|e| e.row == hit.row));
        }
        all += exact.len();
    }
    hits as f64 / all as f64
}

#[test]
fn recall_of_walks_grows_with_effort() {
    let keep = tempfile::tempdir().unwrap();
    let index = build(&keep.path().join("index"), 100);
    let searcher = index.searcher().unwrap();
    assert_eq!(searcher.segment_counts(), ONE_GRAPH);
    let found = [5, 10, 20, 40, 70].map(|ef| recall(&searcher, 5, None, Effort::Ef(ef)));
    assert!(found.is_sorted() && found[0] < 0.95 && found[4] > 0.99, "{found:?}");
    assert_eq!(recall(&searcher, 5, None, Effort::Exact), 1.0);
    let own = searcher.ann_recall(500, 5, &[Effort::Ef(6), Effort::Ef(70)]).unwrap();
    assert!(own[0] < own[1] && own[1] > 0.99 && own[1] <= 1.0, "{found:?} {own:?}");
    assert_eq!(searcher.ann_recall(50, 5, &[Effort::Exact]).unwrap(), [1.0]);
    assert!(Index::verify(keep.path().join("index")).unwrap().is_sound());
}

#[test]
fn filters_of_any_selectivity_find_the_right_rows() {
    let keep = tempfile::tempdir().unwrap();
    let index = build(&keep.path().join("index"), 200);
    let searcher = index.searcher().unwrap();
    for share in [1, 2, 20, 100, 180, 199] {
        let some: VideoSet = searcher.video_numbers().into_iter().filter(|n| n.0 * 7 % 200 < share).collect();
        assert_eq!(some.len(), share as usize);
        for (k, effort) in [(10, Effort::Default), (10, Effort::Ef(64)), (200, Effort::Default)] {
            let recall = recall(&searcher, k, Some(&some), effort);
            assert!(recall >= 0.99, "{share} of 200 videos, k {k}, {effort:?}: {recall}");
        }
        // The pool is so small that most searches walk the graph.
        assert!(recall(&searcher, 2, Some(&some), Effort::Ef(8)) > 0.8, "{share}");
    }
    assert!(searcher.search(&[1.0; DIM], 5, Some(&VideoSet::default()), Effort::Ef(10)).unwrap().is_empty());
    let half: VideoSet = searcher.video_numbers().into_iter().filter(|n| n.0 % 2 == 0).collect();
    for ef in [0, 1, 1 << 58, usize::MAX] {
        let found = recall(&searcher, 1, Some(&half), Effort::Ef(ef));
        assert!(found == 1.0 || ef < 2, "{ef}: {found}");
    }
}

#[test]
fn dead_rows_are_never_found() {
    let keep = tempfile::tempdir().unwrap();
    let index = build(&keep.path().join("index"), 100);
    let mut writer = index.writer().unwrap();
    for i in 0..10 {
        writer.remove(&format!("v{}", i * 9)).unwrap();
    }
    writer.commit().unwrap();
    let searcher = index.searcher().unwrap();
    assert_eq!((searcher.rows(), searcher.segment_counts()), (4500, ONE_GRAPH));
    assert!((searcher.deleted_share() - 0.1).abs() < 1e-9);
    assert!(recall(&searcher, 5, None, Effort::Ef(40)) > 0.95);
    writer.compact().unwrap();
    let searcher = index.searcher().unwrap();
    assert_eq!((searcher.segment_counts(), searcher.deleted_share()), (ONE_GRAPH, 0.0));
    assert!(recall(&searcher, 5, None, Effort::Ef(40)) > 0.95);
    assert!(Index::verify(keep.path().join("index")).unwrap().is_sound());
}

#[test]
fn a_scan_finds_selected_rows_that_a_walk_misses() {
    // Nine rows of ten are selected and opposite to the query. All rows near the query are not selected.
    let keep = tempfile::tempdir().unwrap();
    let index = Index::create(keep.path().join("index"), &settings()).unwrap();
    let mut writer = index.writer().unwrap();
    let towards = |rows: usize, seed, side: f32| -> Vec<f32> {
        let mut all = vectors(rows, seed);
        all.chunks_exact_mut(DIM).for_each(|row| row[0] += side);
        all
    };
    writer
        .put(Video { id: "near".into(), ..Video::default() }, &[Span::default(); 300], &towards(300, 1, 9.0), &[])
        .unwrap();
    writer
        .put(Video { id: "far".into(), ..Video::default() }, &[Span::default(); 2700], &towards(2700, 2, -9.0), &[])
        .unwrap();
    writer.commit().unwrap();
    let searcher = index.searcher().unwrap();
    let far: VideoSet = [VideoNumber(2)].into_iter().collect();
    let mut query = [0.0; DIM];
    query[0] = 1.0;
    let search = |effort| searcher.search(&query, 10, Some(&far), effort).unwrap();
    assert_eq!(search(Effort::Ef(20)), search(Effort::Exact));
}

#[test]
fn searches_handle_equal_rows_and_extreme_queries() {
    let keep = tempfile::tempdir().unwrap();
    let index = Index::create(keep.path().join("index"), &settings()).unwrap();
    let mut writer = index.writer().unwrap();
    writer
        .put(Video { id: "still".into(), ..Video::default() }, &[Span::default(); 3000], &[0.25; 3000 * DIM], &[])
        .unwrap();
    writer.commit().unwrap();
    let searcher = index.searcher().unwrap();
    for query in [[1.0; DIM], [0.0; DIM], [-1.0; DIM], [f32::MAX; DIM]] {
        for k in [0, 1, 10, 3000, 5000] {
            let hits = searcher.search(&query, k, None, Effort::Ef(1)).unwrap();
            assert_eq!(hits.len(), k.min(3000));
        }
    }
    assert!(searcher.search(&[f32::NAN; DIM], 1, None, Effort::Ef(10)).is_err());
}

#[test]
fn equal_rows_give_equal_files_and_equal_hits() {
    let keep = tempfile::tempdir().unwrap();
    let (one, two) = (keep.path().join("one"), keep.path().join("two"));
    let (index, _) = (build(&one, 60), build(&two, 60));
    for name in ["000001.vec", "000001.hnsw"] {
        let read = |dir: &Path| std::fs::read(dir.join("segments").join(name)).unwrap();
        assert!(read(&one) == read(&two), "{name}");
    }
    let searcher = index.searcher().unwrap();
    let queries = vectors(40, 5);
    let batch = searcher.search_batch(&queries, 7, None, Effort::Ef(30)).unwrap();
    let single: Vec<_> =
        queries.chunks(DIM).map(|query| searcher.search(query, 7, None, Effort::Ef(30)).unwrap()).collect();
    assert_eq!(batch, single);
    assert!(searcher.search_batch(&queries[1..], 7, None, Effort::Default).is_err());
}

#[test]
fn settings_out_of_range_are_rejected() {
    let keep = tempfile::tempdir().unwrap();
    for hnsw in [
        HnswSettings { m: 1, ..HnswSettings::default() },
        HnswSettings { m: 257, ..HnswSettings::default() },
        HnswSettings { ef_construction: 0, ..HnswSettings::default() },
    ] {
        assert!(Index::create(keep.path().join("x"), &IndexSettings { hnsw, ..IndexSettings::new(DIM) }).is_err());
    }
}

#[cfg(feature = "hnsw_rs")]
#[test]
fn recall_equals_that_of_hnsw_rs() {
    use reelseek_index::GraphBuilder;
    let keep = tempfile::tempdir().unwrap();
    let recall = |builder, name: &str| {
        let hnsw = HnswSettings { builder, min_rows: 100, ..HnswSettings::default() };
        let index = Index::create(keep.path().join(name), &IndexSettings { hnsw, ..IndexSettings::new(DIM) }).unwrap();
        let mut writer = index.writer().unwrap();
        let video = Video { id: "a".into(), ..Video::default() };
        writer.put(video, &vec![Span::default(); 4000], &vectors(4000, 3), &[]).unwrap();
        on_one_thread(|| writer.commit()).unwrap();
        assert!(Index::verify(keep.path().join(name)).unwrap().is_sound());
        recall(&index.searcher().unwrap(), 10, None, Effort::Ef(30))
    };
    let (ours, theirs) = (recall(GraphBuilder::Own, "ours"), recall(GraphBuilder::HnswRs, "theirs"));
    assert!(theirs > 0.9, "recall with a graph of hnsw_rs: {theirs}");
    assert!(ours > theirs - 0.02, "{ours}, theirs {theirs}");
}

#[cfg(not(feature = "hnsw_rs"))]
#[test]
fn a_builder_that_is_not_compiled_in_is_rejected() {
    let keep = tempfile::tempdir().unwrap();
    let hnsw = HnswSettings { builder: reelseek_index::GraphBuilder::HnswRs, ..HnswSettings::default() };
    let error = Index::create(keep.path().join("x"), &IndexSettings { hnsw, ..IndexSettings::new(DIM) }).unwrap_err();
    assert!(error.to_string().contains("hnsw_rs"), "{error}");
}
