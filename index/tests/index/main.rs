//! The index through its public door.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use reelseek_index::{Effort, Error, Hit, Index, Precision, RowRef, Settings, Span, Video, VideoNumber, VideoSet, dot};
use serde_json::json;

mod rows;
mod sketches;

const DIM: usize = 12;

struct Place {
    _keep: tempfile::TempDir,
    dir: PathBuf,
}

fn settings() -> Settings {
    Settings { attributes: BTreeMap::from([("encoder".into(), "test-1".into())]), ..Settings::new(DIM) }
}

fn fresh() -> (Place, Index) {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("index");
    let index = Index::create(&dir, &settings()).unwrap();
    (Place { _keep: keep, dir }, index)
}

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

fn spans(rows: usize) -> Vec<Span> {
    (0..rows as u32).map(|i| Span { start_ms: i * 1000, end_ms: i * 1000 + 2000, at_ms: i * 1000 + 500 }).collect()
}

fn video(id: &str) -> Video {
    Video { id: id.into(), path: format!("/films/{id}.mp4"), ..Video::default() }
}

fn put(writer: &mut reelseek_index::Writer, id: &str, rows: usize, seed: u64) {
    writer.put(video(id), &spans(rows), &vectors(rows, seed), &[]).unwrap();
}

fn ids(index: &Index) -> Vec<String> {
    index.searcher().unwrap().videos().unwrap().into_iter().map(|video| video.id).collect()
}

fn segment_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir.join("segments")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[track_caller]
fn sound(dir: &Path) {
    let report = Index::verify(dir).unwrap();
    assert!(report.is_sound(), "{:?}", report.problems);
}

#[test]
fn round_trip_keeps_everything() {
    let (place, index) = fresh();
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
    assert!(writer.videos().unwrap().is_empty());
    writer.commit().unwrap();
    assert_eq!(writer.videos().unwrap().len(), 2);
    writer.close().unwrap();
    drop(index);

    assert!(Index::exists(&place.dir));
    let index = Index::open(&place.dir).unwrap();
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
    sound(&place.dir);
}

#[test]
fn create_refuses_an_index_and_foreign_files() {
    let (place, _index) = fresh();
    assert!(matches!(Index::create(&place.dir, &settings()), Err(Error::Exists { .. })));
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("holiday.jpg"), "x").unwrap();
    assert!(
        matches!(Index::create(other.path(), &settings()), Err(Error::Foreign { found, .. }) if found == "holiday.jpg")
    );
    assert!(!Index::exists(other.path()));
    assert!(matches!(Index::open(other.path()), Err(Error::Missing { .. })));
    assert!(matches!(Index::verify(other.path()), Err(Error::Missing { .. })));
    for dim in [0, 65_537] {
        let settings = Settings { dim, ..settings() };
        assert!(matches!(Index::create(other.path().join("x"), &settings), Err(Error::Argument { what: "dim", .. })));
    }
}

#[test]
fn create_goes_on_after_a_creation_cut_short() {
    let keep = tempfile::tempdir().unwrap();
    fs::create_dir_all(keep.path().join("segments")).unwrap();
    fs::create_dir_all(keep.path().join("text.new.1")).unwrap();
    let index = Index::create(keep.path(), &settings()).unwrap();
    index.writer().unwrap();
    assert!(!keep.path().join("text.new.1").exists());
}

#[test]
fn replace_and_remove() {
    let (place, index) = fresh();
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
        "but for the last bits of small values"
    );
    assert!(searcher.rows_of(VideoNumber(2)).unwrap().is_none());
    assert_eq!(segment_files(&place.dir).len(), 1, "a segment without live video is dropped");

    assert!(writer.remove("b").unwrap());
    writer.commit().unwrap();
    put(&mut writer, "b", 1, 7);
    writer.commit().unwrap();
    assert!(index.searcher().unwrap().video_numbers()[0] > VideoNumber(5), "numbers are never used again");
    sound(&place.dir);
}

#[test]
fn put_refuses_bad_arguments_and_stays_usable() {
    let (_place, index) = fresh();
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
fn filters() {
    let (_place, index) = fresh();
    let mut writer = index.writer().unwrap();
    let all = [
        Video {
            path: "/films/Holiday-2024/beach_01.mp4".into(),
            title: "Surfing at dawn".into(),
            labels: vec!["surfing".into(), "sea".into()],
            duration_ms: 15_000,
            size_bytes: 1000,
            extra: json!({"camera": "GoPro", "year": 2024, "place": {"town": "Biarritz"}}),
            ..video("a")
        },
        Video {
            title: "The wall".into(),
            labels: vec!["rock climbing".into()],
            duration_ms: 90_000,
            size_bytes: 5000,
            extra: json!({"camera": "sony", "year": 2019, "long": "x".repeat(200_000) + " needle"}),
            ..video("b")
        },
        Video {
            labels: vec!["rock".into(), "climbing".into()],
            duration_ms: 30_000,
            extra: json!("loose words"),
            ..video("c")
        },
    ];
    for (i, video) in all.into_iter().enumerate() {
        writer.put(video, &spans(2), &vectors(2, i as u64), &[]).unwrap();
    }
    writer.commit().unwrap();
    let searcher = index.searcher().unwrap();
    let matches = |query: &str| -> String {
        let set = searcher.filter(query).unwrap_or_else(|error| panic!("{query}: {error}"));
        assert_eq!(set.iter().count(), set.len());
        set.iter().map(|number| searcher.video(number).unwrap().id).collect()
    };
    for (query, wanted) in [
        ("", "abc"),
        ("  ", "abc"),
        ("*", "abc"),
        ("path:holiday", "a"),
        ("path:films", "abc"),
        ("path:beach", "a"),
        ("title:\"at dawn\"", "a"),
        ("surfing", "a"),
        ("SURFING dawn", "a"),
        ("surfing wall", ""),
        ("surfing OR wall", "ab"),
        ("films -wall", "ac"),
        ("label:surfing", "a"),
        ("label:\"rock climbing\"", "b"),
        ("label:rock", "bc"),
        ("label_exact:\"rock climbing\"", "b"),
        ("id:c", "c"),
        ("duration:[10 TO 60]", "ac"),
        ("duration:>30", "b"),
        ("duration:>=30", "bc"),
        ("duration:<15.5", "a"),
        ("size:>=1000 AND NOT size:5000", "a"),
        ("NOT surfing", "bc"),
        ("-surfing", "bc"),
        ("surfing OR NOT films", "a"),
        ("surfing OR (NOT wall)", "ac"),
        ("extra.camera:gopro", "a"),
        ("extra.place.town:biarritz", "a"),
        ("extra.year:2019", "b"),
        ("extra.year:[2020 TO 2030]", "a"),
        ("biarritz", "a"),
        ("needle", "b"),
        ("loose", "c"),
    ] {
        assert_eq!(matches(query), wanted, "{query}");
    }
    let too_deep = "(".repeat(5000);
    let too_long = "a ".repeat(9000);
    for query in
        ["colour:red", "duration:[a TO b]", "duration:long", "title:\"open", "(", ")", "AND", &too_deep, &too_long]
    {
        if let Err(error) = searcher.filter(query) {
            let text = error.to_string();
            assert!(matches!(error, Error::Filter { .. }) && text.contains("duration:[10 TO 60]"), "{query}: {text}");
        }
    }
    assert!(searcher.filter("colour:red").unwrap_err().to_string().contains("colour"));
    assert!(searcher.filter(&too_deep).is_err() && searcher.filter(&too_long).is_err());

    let only = searcher.filter("label:surfing").unwrap();
    let hits = searcher.search(&vectors(1, 9), 10, Some(&only), Effort::Default).unwrap();
    assert_eq!(hits.len(), 2);
    assert!(hits.iter().all(|hit| only.contains(hit.video)));
}

fn naive(
    searcher: &reelseek_index::Searcher,
    query: &[f32],
    k: usize,
    filter: Option<&VideoSet>,
) -> Vec<(u64, u32, f32)> {
    let mut all = Vec::new();
    for number in searcher.video_numbers() {
        if filter.is_none_or(|set| set.contains(number)) {
            let (spans, vectors) = searcher.rows_of(number).unwrap().unwrap();
            let rows = vectors.chunks(query.len()).zip(spans);
            all.extend(rows.map(|(row, span)| (number.0, span.start_ms, dot(row, query))));
        }
    }
    all.sort_by(|a, b| b.2.total_cmp(&a.2));
    all.truncate(k);
    all
}

fn plain(hits: &[Hit]) -> Vec<(u64, u32, f32)> {
    hits.iter().map(|hit| (hit.video.0, hit.span.start_ms, hit.score)).collect()
}

#[test]
fn search_equals_naive_sort() {
    let (_place, index) = fresh();
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
    let mut rows = Vec::new();
    searcher.scores(&query, |row, score| rows.push((row, score))).unwrap();
    assert_eq!(rows.len(), searcher.rows());
    assert!(rows.is_sorted_by(|a, b| a.0 < b.0));
    let best = searcher.search(&query, 1, None, Effort::Default).unwrap()[0];
    assert!(rows.contains(&(best.row, best.score)));
}

#[test]
fn a_large_scan_on_many_threads_equals_naive_sort() {
    let (_place, index) = fresh();
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
fn queries_at_the_edges() {
    let (_place, index) = fresh();
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
    assert!(searcher.scores(&[f32::NAN; DIM], |_, _| ()).is_err());
    let ties = searcher.search(&[0.0; DIM], 4, None, Effort::Default).unwrap();
    let rows: Vec<_> = ties.iter().map(|hit| hit.row).collect();
    assert_eq!(rows, [(0, 0), (0, 1), (0, 2), (1, 0)].map(|(segment, row)| RowRef { segment, row }));
    assert!(ties.iter().all(|hit| hit.score == 0.0));
    assert_eq!(searcher.search(&[f32::MAX; DIM], 6, None, Effort::Default).unwrap().len(), 6);
}

#[test]
fn a_snapshot_survives_commit_and_compact() {
    let (place, index) = fresh();
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
    assert_eq!(segment_files(&place.dir).len(), 1);
    writer.close().unwrap();
    assert_eq!(snapshot.search(&query, 100, None, Effort::Default).unwrap(), before);
    assert_eq!(snapshot.videos().unwrap(), videos);
    assert_eq!(snapshot.filter("path:v1").unwrap().len(), 1);
    assert_eq!(snapshot.state(), None);

    let now = index.searcher().unwrap();
    assert_eq!((now.rows(), now.videos().unwrap().len(), now.state()), (11, 3, Some(&json!(1))));
    assert_eq!(plain(&now.search(&query, 100, None, Effort::Default).unwrap()), naive(&now, &query, 100, None));
    sound(&place.dir);
}

#[test]
fn dropping_a_writer_loses_only_the_uncommitted() {
    let (place, index) = fresh();
    let mut writer = index.writer().unwrap();
    put(&mut writer, "a", 2, 1);
    writer.commit().unwrap();
    put(&mut writer, "b", 2, 2);
    writer.remove("a").unwrap();
    drop(writer);
    drop(index);
    let index = Index::open(&place.dir).unwrap();
    assert_eq!(ids(&index), ["a"]);
    let mut writer = index.writer().unwrap();
    put(&mut writer, "c", 2, 3);
    writer.commit().unwrap();
    assert_eq!(ids(&index), ["a", "c"]);
    sound(&place.dir);
}

#[test]
fn the_next_writer_removes_orphans_and_nothing_else() {
    let (place, index) = fresh();
    let mut writer = index.writer().unwrap();
    put(&mut writer, "a", 2, 1);
    writer.commit().unwrap();
    drop(writer);
    let folder = place.dir.join("segments");
    for name in ["000007.vec", "000008.vec.tmp", "7.vec", "notes.txt", "holiday.vec", "000001.vec.bak"] {
        fs::write(folder.join(name), "x").unwrap();
    }
    index.searcher().unwrap();
    assert!(folder.join("000007.vec").exists());
    index.writer().unwrap();
    let left: Vec<_> = segment_files(&place.dir).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(left, ["000001.vec", "000001.vec.bak", "7.vec", "holiday.vec", "notes.txt"]);
    assert_eq!(ids(&index), ["a"]);
}

#[test]
fn a_second_writer_is_locked_out() {
    let (place, index) = fresh();
    let writer = index.writer().unwrap();
    assert!(matches!(index.writer(), Err(Error::Locked { .. })));
    assert!(matches!(Index::open(&place.dir).unwrap().writer(), Err(Error::Locked { .. })));
    drop(writer);
    index.writer().unwrap().close().unwrap();
    index.writer().unwrap();
}

#[test]
fn many_commits_keep_few_segments() {
    let (place, index) = fresh();
    let mut writer = index.writer().unwrap();
    for i in 0..40 {
        put(&mut writer, &format!("v{i}"), 3, i);
        if i % 4 == 3 {
            assert!(writer.remove(&format!("v{}", i - 2)).unwrap());
        }
        writer.commit().unwrap();
        assert!(segment_files(&place.dir).len() <= 8, "{} segments after commit {i}", segment_files(&place.dir).len());
    }
    // A row is written anew about as often as the binary logarithm of the commits: log2 150 = 7.2.
    let (mut written, mut before) = (0, std::collections::BTreeSet::new());
    for i in 0..150 {
        put(&mut writer, &format!("u{i}"), 1, i);
        writer.commit().unwrap();
        let now: std::collections::BTreeSet<_> = segment_files(&place.dir).into_iter().collect();
        let bytes = |path: &PathBuf| fs::metadata(path).unwrap().len() / (DIM as u64 * 4);
        written += now.difference(&before).map(bytes).sum::<u64>();
        before = now;
    }
    let least = before.iter().map(|path| fs::metadata(path).unwrap().len() / (DIM as u64 * 4)).sum::<u64>();
    assert!(written < 9 * least, "{written} rows' room written for {least}");
    (0..150).for_each(|i| assert!(writer.remove(&format!("u{i}")).unwrap()));
    writer.commit().unwrap();
    // What is large is left alone as long as smaller ones can be merged.
    put(&mut writer, "large", 900, 77);
    writer.commit().unwrap();
    let large = segment_files(&place.dir).into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    for i in 0..12 {
        put(&mut writer, &format!("w{i}"), 3, i);
        writer.commit().unwrap();
        assert!(segment_files(&place.dir).len() <= 8 && large.exists(), "commit {i}");
    }
    (0..12).for_each(|i| assert!(writer.remove(&format!("w{i}")).unwrap()));
    writer.remove("large").unwrap();
    writer.commit().unwrap();
    writer.close().unwrap();
    let searcher = index.searcher().unwrap();
    assert_eq!((searcher.rows(), searcher.video_numbers().len()), (90, 30));
    let query = vectors(1, 99);
    assert_eq!(plain(&searcher.search(&query, 90, None, Effort::Default).unwrap()), naive(&searcher, &query, 90, None));
    sound(&place.dir);
}

#[test]
fn readers_open_while_commits_swap_files() {
    let (place, index) = fresh();
    let mut writer = index.writer().unwrap();
    put(&mut writer, "v", 1, 0);
    writer.commit().unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let index = Index::open(&place.dir).unwrap();
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
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
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
