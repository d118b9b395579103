//! Storage, selection and ranking of rows: precision, filters, magnitudes.

use std::collections::BTreeSet;
use std::fs;

use reelseek_index::{Effort, Index, IndexSettings, RowPrecision, VideoNumber, VideoSet};

use crate::support::*;

#[test]
fn half_precision_halves_the_file_and_reports_its_loss() {
    let keep = tempfile::tempdir().unwrap();
    let build = |name: &str, precision| {
        let dir = keep.path().join(name);
        let index = Index::create(&dir, &IndexSettings { precision, ..IndexSettings::new(DIM) }).unwrap();
        let mut writer = index.writer().unwrap();
        for i in 0..30 {
            put(&mut writer, &format!("v{i}"), 40, i);
        }
        writer.commit().unwrap();
        put(&mut writer, "last", 40, 99);
        writer.remove("v3").unwrap();
        writer.commit().unwrap();
        writer.compact().unwrap();
        writer.close().unwrap();
        assert_sound(&dir);
        let bytes: u64 = segment_files(&dir).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
        (Index::open(&dir).unwrap().searcher().unwrap(), bytes)
    };
    let ((full, full_bytes), (half, half_bytes)) =
        (build("full", RowPrecision::Full), build("half", RowPrecision::Half));
    assert_eq!(full_bytes - half_bytes, 30 * 40 * DIM as u64 * 2);
    assert_eq!((full.rounding_recall(), half.settings().precision), (None, RowPrecision::Half));
    let recall = half.rounding_recall().unwrap();
    assert!(recall > 0.98 && recall <= 1.0, "{recall}");
    for query in vectors(20, 1234).chunks(DIM) {
        let exact = full.search(query, 5, None, Effort::Exact).unwrap();
        for (a, b) in half.search(query, 5, None, Effort::Exact).unwrap().iter().zip(&exact) {
            assert!((a.score - b.score).abs() < 1e-4, "{a:?} {b:?}");
        }
    }
    let (_, rows) = half.rows_of(half.number_of("last").unwrap().unwrap()).unwrap().unwrap();
    assert!(rows.iter().zip(vectors(40, 99)).all(|(a, b)| (a - b).abs() <= 2f32.powi(-16)));
}

#[test]
fn filters_over_many_segments_and_dead_videos_select_the_right_rows() {
    let (_folder, index) = fresh();
    let mut writer = index.writer().unwrap();
    for i in 0..300 {
        put(&mut writer, &format!("v{i}"), (i % 5) as usize, i);
        if i % 60 == 59 {
            writer.commit().unwrap();
        }
    }
    (0..300).step_by(7).for_each(|i| assert!(writer.remove(&format!("v{i}")).unwrap()));
    writer.commit().unwrap();
    let searcher = index.searcher().unwrap();
    assert!(searcher.segment_counts().segments > 3);
    let numbers = searcher.video_numbers();
    let query = vectors(1, 77);
    for step in [1, 2, 5, 40, 250] {
        // Includes dead and unknown numbers.
        let some: VideoSet = (0..400).step_by(step).map(VideoNumber).collect();
        let hits = searcher.search(&query, 1000, Some(&some), Effort::Default).unwrap();
        assert_eq!(plain(&hits), naive(&searcher, &query, 1000, Some(&some)), "one of {step}");
        let videos: BTreeSet<_> = hits.iter().map(|hit| hit.video).collect();
        assert!(videos.iter().all(|video| some.contains(*video) && numbers.contains(video)));
        let batch = searcher.search_batch(&query.repeat(3), 1000, Some(&some), Effort::Default).unwrap();
        assert_eq!(batch, vec![hits; 3]);
    }
}

#[test]
fn rows_and_queries_of_any_magnitude_are_ranked_correctly() {
    let keep = tempfile::tempdir().unwrap();
    for (rows_by, query_by) in [(1.0, 1e-37), (1.0, 1e30), (1e-27, 1e-10), (1e25, 1e-30), (1.0, 1e-45)] {
        let dir = keep.path().join(format!("{rows_by} {query_by}"));
        let index = Index::create(&dir, &IndexSettings::new(DIM)).unwrap();
        let mut writer = index.writer().unwrap();
        let rows: Vec<f32> = vectors(900, 3).iter().map(|x| x * rows_by).collect();
        writer.put(video("a"), &spans(900), &rows, &[]).unwrap();
        writer.commit().unwrap();
        let query: Vec<f32> = vectors(1, 5).iter().map(|x| x * query_by).collect();
        let hits = index.searcher().unwrap().search(&query, 10, None, Effort::Exact).unwrap();
        let exact = |row: &[f32]| row.iter().zip(&query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let mut best: Vec<(f64, u32)> = rows.chunks(DIM).map(exact).zip(0..).collect();
        best.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (expected, found): (Vec<u32>, Vec<u32>) =
            (best[..10].iter().map(|b| b.1).collect(), hits.iter().map(|h| h.row.row).collect());
        assert_eq!(found, expected, "rows of {rows_by}, a query of {query_by}");
    }
}
