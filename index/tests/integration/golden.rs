//! Golden files: indexes of earlier versions, which every later version must open, verify and search.
//!
//! `tests/golden` has one index for each feature of the format. They were written once, by
//! [`write_golden_indexes`], and never change. A new format version gets new golden indexes next to these:
//!
//! ```text
//! cargo test --release -p reelseek-index --test integration write_golden_indexes -- --ignored
//! ```
//!
//! All values are multiples of 1/8, so that scores are exact on every processor.

use std::fs;
use std::path::{Path, PathBuf};

use reelseek_index::{
    Effort, HnswSettings, Index, IndexSettings, RowPrecision, SegmentCounts, Span, Video, VideoNumber, Writer,
};
use serde_json::json;

const DIM: usize = 4;

/// Row `row` of video `n`: multiples of 1/8 between -1 and 1.
fn vector(n: usize, row: usize) -> [f32; DIM] {
    std::array::from_fn(|i| ((n * 37 + row * 11 + i * (3 + n + row) * 5) % 17) as f32 / 8.0 - 1.0)
}

fn sketch(n: usize, row: usize) -> [u8; 3] {
    [n as u8, row as u8, 0xa5]
}

fn put(writer: &mut Writer, n: usize, golden: &GoldenIndex) {
    let rows = golden.rows;
    let video = Video {
        id: format!("v{n}"),
        path: format!("/films/{n}.mp4"),
        title: ["surfing at dawn", "the wall", "snow day"][n % 3].into(),
        labels: vec![format!("label {n}")],
        duration_ms: 24_000,
        size_bytes: 1000 + n as u64,
        extra: json!({"camera": "gopro", "n": n}),
        probe: vec![0.5, -0.25],
        ..Video::default()
    };
    let spans: Vec<_> =
        (0..rows as u32).map(|i| Span { start_ms: i * 1000, end_ms: i * 1000 + 2000, at_ms: i * 1000 + 500 }).collect();
    let vectors: Vec<f32> = golden.vectors(n);
    let sketches = golden.sketches(n);
    writer.put(video, &spans, &vectors, &sketches).unwrap();
}

/// A golden index: videos v0 to v8 in one commit. A second commit removes v4.
struct GoldenIndex {
    name: &'static str,
    settings: IndexSettings,
    /// Rows of each video.
    rows: usize,
}

impl GoldenIndex {
    fn dir(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(self.name)
    }

    fn vectors(&self, n: usize) -> Vec<f32> {
        (0..self.rows).flat_map(|row| vector(n, row)).collect()
    }

    fn sketches(&self, n: usize) -> Vec<u8> {
        (0..self.rows).flat_map(|row| sketch(n, row)).take(self.rows * self.settings.sketch as usize).collect()
    }

    /// The best rows by a sort of all scores: id, row and score.
    fn expected(&self, query: &[f32; DIM], k: usize) -> Vec<(String, u32, f32)> {
        let mut all = Vec::new();
        for n in (0..9).filter(|n| *n != 4) {
            for row in 0..self.rows {
                let score = vector(n, row).iter().zip(query).map(|(a, b)| a * b).sum::<f32>();
                all.push((format!("v{n}"), row as u32, score));
            }
        }
        all.sort_by(|a, b| b.2.total_cmp(&a.2));
        all.truncate(k);
        all
    }
}

fn golden_indexes() -> [GoldenIndex; 3] {
    let hnsw = HnswSettings { m: 3, ef_construction: 16, min_rows: 50, ..HnswSettings::default() };
    let attributes = [("encoder".to_owned(), "golden".to_owned())].into();
    let new = IndexSettings { attributes, ..IndexSettings::new(DIM) };
    [
        GoldenIndex { name: "graph-v3", settings: IndexSettings { hnsw, ..new.clone() }, rows: 40 },
        GoldenIndex { name: "sketches-v3", settings: IndexSettings { sketch: 3, ..new.clone() }, rows: 12 },
        GoldenIndex { name: "half-v3", settings: IndexSettings { precision: RowPrecision::Half, ..new }, rows: 12 },
    ]
}

#[test]
#[ignore = "writes tests/golden, which never changes"]
fn write_golden_indexes() {
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    one_thread.install(|| {
        for golden in golden_indexes() {
            let dir = golden.dir();
            if Index::exists(&dir) {
                continue;
            }
            let mut writer = Index::create(&dir, &golden.settings).unwrap().writer().unwrap();
            (0..9).for_each(|n| put(&mut writer, n, &golden));
            writer.set_state(json!({"calibrated": 0.25}));
            writer.commit().unwrap();
            writer.remove("v4").unwrap();
            writer.commit().unwrap();
            writer.close().unwrap();
            for entry in fs::read_dir(dir.join("text")).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|end| end == "lock") {
                    fs::remove_file(path).unwrap();
                }
            }
        }
    });
}

#[test]
fn golden_indexes_open_verify_and_search() {
    let keep = tempfile::tempdir().unwrap();
    for golden in golden_indexes() {
        let (name, rows) = (golden.name, golden.rows);
        // A copy, because the folder of the sources can be read-only.
        let dir = keep.path().join(name);
        for part in ["segments", "text"] {
            fs::create_dir_all(dir.join(part)).unwrap();
            for entry in fs::read_dir(golden.dir().join(part)).unwrap() {
                let path = entry.unwrap().path();
                fs::copy(&path, dir.join(part).join(path.file_name().unwrap())).unwrap();
            }
        }
        let report = Index::verify(&dir).unwrap();
        assert!(report.is_sound() && report.files > 5, "{name}: {report:?}");
        let index = Index::open(&dir).unwrap();
        assert_eq!(index.settings(), &golden.settings, "{name}");
        let searcher = index.searcher().unwrap();
        assert_eq!((searcher.rows(), searcher.state()), (8 * rows, Some(&json!({"calibrated": 0.25}))), "{name}");
        let graphs = usize::from(name == "graph-v3");
        assert_eq!(searcher.segment_counts(), SegmentCounts { segments: 1, graphs }, "{name}");
        for query in [[1.0, 0.5, -0.25, 0.0], [-0.5, 1.0, 1.0, 0.125], [0.0, 0.0, 0.0, 1.0]] {
            let hits = searcher.search(&query, 3, None, Effort::Exact).unwrap();
            let found: Vec<_> =
                hits.iter().map(|hit| (searcher.video(hit.video).unwrap().id, hit.nth, hit.score)).collect();
            assert_eq!(found, golden.expected(&query, 3), "{name}");
            assert!(hits.iter().all(|hit| hit.span.start_ms == hit.nth * 1000), "{name}");
            // The effort is so low that the search walks the graph. Rows with equal scores are as good.
            let walked = searcher.search(&query, 3, None, Effort::Ef(6)).unwrap();
            assert!(walked.iter().map(|hit| hit.score).eq(hits.iter().map(|hit| hit.score)), "{name}: {walked:?}");
        }
        let surfing: Vec<_> = searcher.filter("title:surfing AND extra.camera:gopro").unwrap().iter().collect();
        assert_eq!(surfing, [1, 4, 7].map(VideoNumber), "{name}");
        let number = searcher.number_of("v7").unwrap().unwrap();
        let (_, vectors) = searcher.rows_of(number).unwrap().unwrap();
        assert_eq!(vectors, golden.vectors(7), "{name}");
        assert_eq!(searcher.sketches_of(number).unwrap().unwrap(), golden.sketches(7), "{name}");
        assert_eq!(searcher.rounding_recall().is_some(), name == "half-v3", "{name}");

        // A golden index is also writable.
        let mut writer = index.writer().unwrap();
        put(&mut writer, 4, &golden);
        writer.compact().unwrap();
        writer.close().unwrap();
        assert_eq!(index.searcher().unwrap().rows(), 9 * rows, "{name}");
        assert!(Index::verify(&dir).unwrap().is_sound(), "{name}");
    }
}
