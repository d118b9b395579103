//! The public interface: creating, writing, committing, reading, filters and exact search.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use reelseek_index::{Effort, Error, Index, IndexSettings, RowRef, Span, Video, VideoNumber, VideoSet};
use serde_json::json;

use crate::support::*;

#[test]
fn round_trip_keeps_everything() {
    let (folder, index) = fresh();
    let full = Video {
        id: "a".into(),
        path: "/films/a?.mp4".into(),
        path_bytes: Some(vec![0x66, 0xff]),
        title: "A title".into(),
        labels: vec!["one".into(), "two words".into()],
        duration_ms: 61_500,
        size_bytes: 1 << 40,
        modified_ns: -5,
        sidecar_modified_ns: Some(7),
        rows: 999,
        note: Some("cut short".into()),
        probe: vec![0.5, -0.25],
        sampling: "keyframes".into(),
        extra: json!({"camera": "gopro", "n": [1, 2.5, null, true]}),
    };
    let mut writer = index.writer().unwrap();
    writer.put(full.clone(), &spans(3), &vectors(3, 1), &[]).unwrap();
    put(&mut writer, "empty", 0, 0);
    writer.set_state(json!({"a": 0.25}));
    assert!(index.searcher().unwrap().videos().unwrap().is_empty());
    writer.commit().unwrap();
    assert_eq!(index.searcher().unwrap().videos().unwrap().len(), 2);
    writer.close().unwrap();
    drop(index);

    assert!(Index::exists(&folder.dir));
    let index = Index::open(&folder.dir).unwrap();
    assert_eq!(index.settings(), &settings());
    let searcher = index.searcher().unwrap();
    assert_eq!(searcher.settings(), &settings());
    assert_eq!(searcher.rows(), 3);
    assert_eq!(searcher.state(), Some(&json!({"a": 0.25})));
    assert_eq!(searcher.video_numbers(), [VideoNumber(1), VideoNumber(2)]);
    assert_eq!(searcher.number_of("empty").unwrap(), Some(VideoNumber(2)));
    assert_eq!(searcher.video(VideoNumber(1)).unwrap(), Video { rows: 3, ..full });
    let (found_spans, found_vectors) = searcher.rows_of(VideoNumber(1)).unwrap().unwrap();
    assert_eq!((found_spans, found_vectors), (spans(3), vectors(3, 1)));
    let (no_spans, no_vectors) = searcher.rows_of(VideoNumber(2)).unwrap().unwrap();
    assert!(no_spans.is_empty() && no_vectors.is_empty());
    assert!(searcher.rows_of(VideoNumber(3)).unwrap().is_none());
    assert!(matches!(searcher.video(VideoNumber(3)), Err(Error::UnknownVideo { number: 3 })));
    assert_sound(&folder.dir);
}

#[test]
fn create_rejects_an_existing_index_and_other_files() {
    let (folder, _index) = fresh();
    assert!(matches!(Index::create(&folder.dir, &settings()), Err(Error::AlreadyExists { .. })));
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("holiday.jpg"), "x").unwrap();
    assert!(
        matches!(Index::create(other.path(), &settings()), Err(Error::NotEmpty { found, .. }) if found == "holiday.jpg")
    );
    assert!(!Index::exists(other.path()));
    assert!(matches!(Index::open(other.path()), Err(Error::Missing { .. })));
    assert!(matches!(Index::verify(other.path()), Err(Error::Missing { .. })));
    let file = other.path().join("holiday.jpg");
    for path in [file.clone(), file.join("index/deep")] {
        let refused = [
            Index::create(&path, &settings()).unwrap_err(),
            Index::check_new(&path).unwrap_err(),
            Index::open(&path).unwrap_err(),
            Index::verify(&path).unwrap_err(),
        ];
        for error in refused {
            assert!(matches!(&error, Error::NotAFolder { path, found: "a file" } if *path == file), "{error}");
        }
    }
    assert!(matches!(Index::check_new(other.path()), Err(Error::NotEmpty { .. })));
    Index::check_new(other.path().join("new/deep")).unwrap();
    for dim in [0, 65_537] {
        let settings = IndexSettings { dim, ..settings() };
        assert!(matches!(Index::create(other.path().join("x"), &settings), Err(Error::Argument { what: "dim", .. })));
    }
}

#[test]
fn create_recovers_from_an_interrupted_creation() {
    let keep = tempfile::tempdir().unwrap();
    fs::create_dir_all(keep.path().join("segments")).unwrap();
    fs::create_dir_all(keep.path().join("text.new.1")).unwrap();
    let index = Index::create(keep.path(), &settings()).unwrap();
    index.writer().unwrap();
    assert!(!keep.path().join("text.new.1").exists());
}

#[test]
fn one_process_at_a_time_creates_an_index() {
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("text.new.lock");
    let creating = fs::File::create(&lock).unwrap();
    creating.lock().unwrap();
    let refused = Index::create(folder.path(), &settings()).unwrap_err();
    assert!(matches!(&refused, Error::Locked { path } if path == folder.path()), "{refused}");
    assert!(refused.to_string().contains("is being written by another process"), "{refused}");
    // The other process ends without an index.
    drop(creating);
    let prepared = |index: std::result::Result<Index, Error>| index.map(|_| ()).unwrap_err();
    let fault = || Err(Error::Missing { path: "checkpoint".into() });
    assert!(matches!(prepared(Index::create_after(folder.path(), &settings(), fault)), Error::Missing { .. }));
    assert!(!Index::exists(folder.path()) && !lock.exists());
    Index::create(folder.path(), &settings()).unwrap();
    assert!(!lock.exists());
    // A process that was killed leaves the file to the next writer.
    fs::write(&lock, "").unwrap();
    Index::open(folder.path()).unwrap().writer().unwrap().close().unwrap();
    assert!(!lock.exists());
}

#[test]
fn put_replaces_and_remove_removes() {
    let (folder, index) = fresh();
    let mut writer = index.writer().unwrap();
    put(&mut writer, "a", 2, 1);
    put(&mut writer, "b", 3, 2);
    put(&mut writer, "a", 4, 3);
    assert!(!writer.remove("none").unwrap());
    writer.commit().unwrap();
    let searcher = index.searcher().unwrap();
    assert_eq!((searcher.rows(), searcher.video_numbers()), (7, vec![VideoNumber(2), VideoNumber(3)]));

    put(&mut writer, "b", 1, 4);
    assert!(writer.remove("a").unwrap());
    assert!(!writer.remove("a").unwrap());
    put(&mut writer, "b", 2, 5);
    put(&mut writer, "c", 1, 6);
    assert!(writer.remove("c").unwrap());
    assert_eq!(ids(&index), ["b", "a"]);
    writer.commit().unwrap();
    let searcher = index.searcher().unwrap();
    assert_eq!((searcher.rows(), ids(&index)), (2, vec!["b".to_owned()]));
    let (_, rows) = searcher.rows_of(searcher.video_numbers()[0]).unwrap().unwrap();
    assert!(
        rows.iter().zip(vectors(2, 5)).all(|(a, b)| (a - b).abs() <= 2f32.powi(-32)),
        "exact except for the last bits of small values"
    );
    assert!(searcher.rows_of(VideoNumber(2)).unwrap().is_none());
    assert_eq!(segment_files(&folder.dir).len(), 1, "a segment without live videos is removed");

    assert!(writer.remove("b").unwrap());
    writer.commit().unwrap();
    put(&mut writer, "b", 1, 7);
    writer.commit().unwrap();
    assert!(index.searcher().unwrap().video_numbers()[0] > VideoNumber(5), "numbers are not reused");
    assert_sound(&folder.dir);
}

#[test]
fn put_rejects_bad_arguments_and_the_writer_stays_usable() {
    let (_folder, index) = fresh();
    let mut writer = index.writer().unwrap();
    let good = vectors(1, 1);
    assert!(matches!(writer.put(video(""), &spans(1), &good, &[]), Err(Error::Argument { .. })));
    assert!(matches!(writer.put(video(&"x".repeat(4097)), &spans(1), &good, &[]), Err(Error::Argument { .. })));
    assert!(matches!(
        writer.put(video("a"), &spans(2), &good, &[]),
        Err(Error::Length { expected: 24, found: 12, .. })
    ));
    for bad in [f32::NAN, f32::INFINITY] {
        let mut vector = good.clone();
        vector[5] = bad;
        assert!(matches!(writer.put(video("a"), &spans(1), &vector, &[]), Err(Error::NotFinite { position: 5, .. })));
    }
    let probe = Video { probe: vec![f32::NAN], ..video("a") };
    assert!(matches!(writer.put(probe, &spans(1), &good, &[]), Err(Error::NotFinite { what: "probe", .. })));
    let backwards = [Span { start_ms: 2, end_ms: 1, at_ms: 1 }];
    assert!(matches!(writer.put(video("a"), &backwards, &good, &[]), Err(Error::Argument { what: "span", .. })));
    put(&mut writer, "a", 1, 1);
    writer.commit().unwrap();
    assert_eq!(index.searcher().unwrap().rows(), 1);
}

#[test]
fn search_equals_naive_sort() {
    let (_folder, index) = fresh();
    let mut writer = index.writer().unwrap();
    for i in 0..30 {
        put(&mut writer, &format!("v{i}"), 1 + (i * 7) % 150, i as u64);
        if i % 5 == 4 {
            writer.commit().unwrap();
        }
    }
    writer.remove("v3").unwrap();
    writer.remove("v17").unwrap();
    writer.commit().unwrap();
    let searcher = index.searcher().unwrap();
    let query = vectors(1, 1000);
    let some: VideoSet = searcher.video_numbers().into_iter().step_by(3).collect();
    for k in [0, 1, 7, 500, usize::MAX] {
        for filter in [None, Some(&some), Some(&VideoSet::default())] {
            let hits = searcher.search(&query, k, filter, Effort::Default).unwrap();
            assert_eq!(plain(&hits), naive(&searcher, &query, k, filter));
        }
    }
}

#[test]
fn a_large_scan_on_many_threads_equals_naive_sort() {
    let (_folder, index) = fresh();
    let mut writer = index.writer().unwrap();
    for (i, rows) in [60_000, 1, 4096, 4097, 40_000].into_iter().enumerate() {
        put(&mut writer, &format!("v{i}"), rows, i as u64 + 1);
    }
    writer.commit().unwrap();
    let searcher = index.searcher().unwrap();
    let query = vectors(1, 1000);
    let hits = searcher.search(&query, 100, None, Effort::Exact).unwrap();
    assert_eq!(plain(&hits), naive(&searcher, &query, 100, None));
    assert_eq!(searcher.search(&query, 100, None, Effort::Exact).unwrap(), hits);
}

#[test]
fn search_handles_empty_indexes_ties_and_extreme_queries() {
    let (_folder, index) = fresh();
    assert!(index.searcher().unwrap().search(&[0.0; DIM], 5, None, Effort::Default).unwrap().is_empty());
    let mut writer = index.writer().unwrap();
    put(&mut writer, "a", 3, 1);
    writer.commit().unwrap();
    put(&mut writer, "b", 3, 2);
    writer.commit().unwrap();
    let searcher = index.searcher().unwrap();
    assert!(matches!(
        searcher.search(&[0.0; 3], 1, None, Effort::Default),
        Err(Error::Length { expected: DIM, found: 3, .. })
    ));
    assert!(matches!(
        searcher.search(&[f32::NAN; DIM], 1, None, Effort::Default),
        Err(Error::NotFinite { position: 0, .. })
    ));
    let ties = searcher.search(&[0.0; DIM], 4, None, Effort::Default).unwrap();
    let rows: Vec<_> = ties.iter().map(|hit| hit.row).collect();
    assert_eq!(rows, [(0, 0), (0, 1), (0, 2), (1, 0)].map(|(segment, row)| RowRef { segment, row }));
    assert!(ties.iter().all(|hit| hit.score == 0.0));
    assert_eq!(searcher.search(&[f32::MAX; DIM], 6, None, Effort::Default).unwrap().len(), 6);
}

#[test]
fn a_snapshot_is_unchanged_by_commit_and_compact() {
    let (folder, index) = fresh();
    let mut writer = index.writer().unwrap();
    for i in 0..4 {
        put(&mut writer, &format!("v{i}"), 5, i);
        writer.commit().unwrap();
    }
    let snapshot = index.searcher().unwrap();
    let query = vectors(1, 99);
    let before = snapshot.search(&query, 100, None, Effort::Default).unwrap();
    let videos = snapshot.videos().unwrap();
    writer.remove("v1").unwrap();
    put(&mut writer, "v2", 1, 50);
    writer.set_state(json!(1));
    writer.commit().unwrap();
    writer.compact().unwrap();
    assert_eq!(segment_files(&folder.dir).len(), 1);
    writer.close().unwrap();
    assert_eq!(snapshot.search(&query, 100, None, Effort::Default).unwrap(), before);
    assert_eq!(snapshot.videos().unwrap(), videos);
    assert_eq!(snapshot.filter("path:v1").unwrap().len(), 1);
    assert_eq!(snapshot.state(), None);

    let now = index.searcher().unwrap();
    assert_eq!((now.rows(), now.videos().unwrap().len(), now.state()), (11, 3, Some(&json!(1))));
    assert_eq!(plain(&now.search(&query, 100, None, Effort::Default).unwrap()), naive(&now, &query, 100, None));
    assert_sound(&folder.dir);
}

#[test]
fn dropping_a_writer_discards_only_uncommitted_changes() {
    let (folder, index) = fresh();
    let mut writer = index.writer().unwrap();
    put(&mut writer, "a", 2, 1);
    writer.commit().unwrap();
    put(&mut writer, "b", 2, 2);
    writer.remove("a").unwrap();
    drop(writer);
    drop(index);
    let index = Index::open(&folder.dir).unwrap();
    assert_eq!(ids(&index), ["a"]);
    let mut writer = index.writer().unwrap();
    put(&mut writer, "c", 2, 3);
    writer.commit().unwrap();
    assert_eq!(ids(&index), ["a", "c"]);
    assert_sound(&folder.dir);
}

#[test]
fn opening_a_writer_removes_only_orphaned_files() {
    let (folder, index) = fresh();
    let mut writer = index.writer().unwrap();
    put(&mut writer, "a", 2, 1);
    writer.commit().unwrap();
    drop(writer);
    let segments = folder.dir.join("segments");
    for name in ["000007.vec", "000008.vec.tmp", "7.vec", "notes.txt", "holiday.vec", "000001.vec.bak"] {
        fs::write(segments.join(name), "x").unwrap();
    }
    index.searcher().unwrap();
    assert!(segments.join("000007.vec").exists());
    index.writer().unwrap();
    let left: Vec<_> = segment_files(&folder.dir).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(left, ["000001.vec", "000001.vec.bak", "7.vec", "holiday.vec", "notes.txt"]);
    assert_eq!(ids(&index), ["a"]);
}

#[test]
fn a_second_writer_is_rejected() {
    let (folder, index) = fresh();
    let writer = index.writer().unwrap();
    assert!(matches!(index.writer(), Err(Error::Locked { .. })));
    assert!(matches!(Index::open(&folder.dir).unwrap().writer(), Err(Error::Locked { .. })));
    drop(writer);
    index.writer().unwrap().close().unwrap();
    index.writer().unwrap();
}

#[test]
fn many_commits_keep_few_segments() {
    let (folder, index) = fresh();
    let mut writer = index.writer().unwrap();
    for i in 0..40 {
        put(&mut writer, &format!("v{i}"), 3, i);
        if i % 4 == 3 {
            assert!(writer.remove(&format!("v{}", i - 2)).unwrap());
        }
        writer.commit().unwrap();
        assert!(
            segment_files(&folder.dir).len() <= 8,
            "{} segments after commit {i}",
            segment_files(&folder.dir).len()
        );
    }
    // A row is written about log2(commits) times: log2 150 = 7.2.
    let (mut written, mut before) = (0, BTreeSet::new());
    for i in 0..150 {
        put(&mut writer, &format!("u{i}"), 1, i);
        writer.commit().unwrap();
        let now: BTreeSet<_> = segment_files(&folder.dir).into_iter().collect();
        let bytes = |path: &PathBuf| fs::metadata(path).unwrap().len() / (DIM as u64 * 4);
        written += now.difference(&before).map(bytes).sum::<u64>();
        before = now;
    }
    let least = before.iter().map(|path| fs::metadata(path).unwrap().len() / (DIM as u64 * 4)).sum::<u64>();
    assert!(written < 9 * least, "space of {written} rows written for {least}");
    (0..150).for_each(|i| assert!(writer.remove(&format!("u{i}")).unwrap()));
    writer.commit().unwrap();
    // A large segment stays while smaller ones can be merged.
    put(&mut writer, "large", 900, 77);
    writer.commit().unwrap();
    let large = segment_files(&folder.dir).into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    for i in 0..12 {
        put(&mut writer, &format!("w{i}"), 3, i);
        writer.commit().unwrap();
        assert!(segment_files(&folder.dir).len() <= 8 && large.exists(), "commit {i}");
    }
    (0..12).for_each(|i| assert!(writer.remove(&format!("w{i}")).unwrap()));
    writer.remove("large").unwrap();
    writer.commit().unwrap();
    writer.close().unwrap();
    let searcher = index.searcher().unwrap();
    assert_eq!((searcher.rows(), searcher.video_numbers().len()), (90, 30));
    let query = vectors(1, 99);
    assert_eq!(plain(&searcher.search(&query, 90, None, Effort::Default).unwrap()), naive(&searcher, &query, 90, None));
    assert_sound(&folder.dir);
}

#[test]
fn searchers_open_while_commits_replace_files() {
    let (folder, index) = fresh();
    let mut writer = index.writer().unwrap();
    put(&mut writer, "v", 1, 0);
    writer.commit().unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let index = Index::open(&folder.dir).unwrap();
            while !done.load(Ordering::Relaxed) {
                let searcher = index.searcher().unwrap();
                assert_eq!(searcher.videos().unwrap().len(), searcher.video_numbers().len());
                assert_eq!(searcher.rows(), 1);
            }
        });
        for i in 1..25 {
            put(&mut writer, "v", 1, i);
            writer.commit().unwrap();
            if i % 5 == 0 {
                writer.compact().unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}
