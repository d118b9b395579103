//! Searches through graphs: as good as asked for, among the right rows, and the same every time.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use reelseek_index::{Effort, Hnsw, Index, Searcher, Settings, Span, Video, VideoNumber, VideoSet};

const DIM: usize = 12;

fn vectors(rows: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut out = Vec::new();
    for _ in 0..rows {
        let row: Vec<f32> = (0..DIM).map(|_| next()).collect();
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        out.extend(row.iter().map(|x| x / norm));
    }
    out
}

fn settings() -> Settings {
    Settings { hnsw: Hnsw { min_rows: 100, ..Hnsw::default() }, ..Settings::new(DIM) }
}

/// One thread, so that the graph is the same in every run.
fn alone<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(work)
}

/// `videos` videos of 50 rows, committed as one.
fn build(dir: &Path, videos: u64) -> Index {
    alone(|| {
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

/// Share of the exact answers' rows that are found, over 50 queries; each answer is sound.
fn recall(searcher: &Searcher, k: usize, filter: Option<&VideoSet>, effort: Effort) -> f64 {
    let (mut hits, mut all) = (0, 0);
    for query in vectors(50, 99_999).chunks(DIM) {
        let found = searcher.search(query, k, filter, effort).unwrap();
        let exact = searcher.search(query, k, filter, Effort::Exact).unwrap();
        assert_eq!(found.len(), exact.len());
        assert!(found.is_sorted_by(|a, b| (b.score, a.row) <= (a.score, b.row)), "{found:?}");
        for hit in &found {
            assert!(filter.is_none_or(|set| set.contains(hit.video)));
            // Its score is the exact one, and its video is its row's.
            let (_, rows) = searcher.rows_of(hit.video).unwrap().unwrap();
            assert!(rows.chunks(DIM).any(|row| reelseek_index::dot(row, query) == hit.score), "{hit:?}");
            hits += usize::from(exact.iter().any(|e| e.row == hit.row));
        }
        all += exact.len();
    }
    hits as f64 / all as f64
}

#[test]
fn walks_find_what_scans_find_and_more_with_more_effort() {
    let keep = tempfile::tempdir().unwrap();
    let index = build(&keep.path().join("index"), 100);
    let searcher = index.searcher().unwrap();
    assert_eq!(searcher.segments(), (1, 1));
    let found = [5, 10, 20, 40, 70].map(|ef| recall(&searcher, 5, None, Effort::Ef(ef)));
    assert!(found.is_sorted() && found[0] < 0.95 && found[4] > 0.99, "{found:?}");
    assert_eq!(recall(&searcher, 5, None, Effort::Exact), 1.0);
    let own = searcher.ann_recall(500, 5, &[Effort::Ef(6), Effort::Ef(70)]).unwrap();
    assert!(own[0] < own[1] && own[1] > 0.99 && own[1] <= 1.0, "{found:?} {own:?}");
    assert_eq!(searcher.ann_recall(50, 5, &[Effort::Exact]).unwrap(), [1.0]);
    assert!(Index::verify(keep.path().join("index")).unwrap().is_sound());
}

#[test]
fn filters_of_any_width_give_the_right_rows() {
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
        // So narrow that most are walked.
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
fn dead_rows_are_walked_through_and_never_found() {
    let keep = tempfile::tempdir().unwrap();
    let index = build(&keep.path().join("index"), 100);
    let mut writer = index.writer().unwrap();
    for i in 0..10 {
        writer.remove(&format!("v{}", i * 9)).unwrap();
    }
    writer.commit().unwrap();
    let searcher = index.searcher().unwrap();
    assert_eq!((searcher.rows(), searcher.segments()), (4500, (1, 1)));
    assert!((searcher.deleted_share() - 0.1).abs() < 1e-9);
    assert!(recall(&searcher, 5, None, Effort::Ef(40)) > 0.95);
    writer.compact().unwrap();
    let searcher = index.searcher().unwrap();
    assert_eq!((searcher.segments(), searcher.deleted_share()), ((1, 1), 0.0));
    assert!(recall(&searcher, 5, None, Effort::Ef(40)) > 0.95);
    assert!(Index::verify(keep.path().join("index")).unwrap().is_sound());
}

#[test]
fn rows_that_are_wanted_but_far_are_found_by_a_scan() {
    // Nine rows of ten are wanted, and lie opposite to the query: all that is near is not wanted.
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
fn equal_rows_and_odd_queries_are_answered() {
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
fn the_same_rows_make_the_same_files_and_the_same_answers() {
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
fn settings_out_of_range_are_refused() {
    let keep = tempfile::tempdir().unwrap();
    for hnsw in [
        Hnsw { m: 1, ..Hnsw::default() },
        Hnsw { m: 257, ..Hnsw::default() },
        Hnsw { ef_construction: 0, ..Hnsw::default() },
    ] {
        assert!(Index::create(keep.path().join("x"), &Settings { hnsw, ..Settings::new(DIM) }).is_err());
    }
}

#[cfg(feature = "hnsw_rs")]
#[test]
fn our_graphs_find_as_much_as_those_of_hnsw_rs() {
    use reelseek_index::Builder;
    let keep = tempfile::tempdir().unwrap();
    let recall = |builder, name: &str| {
        let hnsw = Hnsw { builder, min_rows: 100, ..Hnsw::default() };
        let index = Index::create(keep.path().join(name), &Settings { hnsw, ..Settings::new(DIM) }).unwrap();
        let mut writer = index.writer().unwrap();
        let video = Video { id: "a".into(), ..Video::default() };
        writer.put(video, &vec![Span::default(); 4000], &vectors(4000, 3), &[]).unwrap();
        alone(|| writer.commit()).unwrap();
        assert!(Index::verify(keep.path().join(name)).unwrap().is_sound());
        recall(&index.searcher().unwrap(), 10, None, Effort::Ef(30))
    };
    let (ours, theirs) = (recall(Builder::Own, "ours"), recall(Builder::HnswRs, "theirs"));
    assert!(theirs > 0.9, "what they built is searched rightly: {theirs}");
    assert!(ours > theirs - 0.02, "{ours}, theirs {theirs}");
}

#[cfg(not(feature = "hnsw_rs"))]
#[test]
fn a_builder_that_is_not_there_is_refused() {
    let keep = tempfile::tempdir().unwrap();
    let hnsw = Hnsw { builder: reelseek_index::Builder::HnswRs, ..Hnsw::default() };
    let error = Index::create(keep.path().join("x"), &Settings { hnsw, ..Settings::new(DIM) }).unwrap_err();
    assert!(error.to_string().contains("feature hnsw_rs"), "{error}");
}
