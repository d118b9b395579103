//! Helpers: temporary indexes, random unit vectors, and an independent search to compare with.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use reelseek_index::{Hit, Index, IndexSettings, Searcher, Span, Video, VideoSet, Writer, dot};

pub(crate) const DIM: usize = 12;

/// A temporary folder with an index.
pub(crate) struct TestIndex {
    _keep: tempfile::TempDir,
    pub(crate) dir: PathBuf,
}

pub(crate) fn settings() -> IndexSettings {
    IndexSettings { attributes: BTreeMap::from([("encoder".into(), "test-1".into())]), ..IndexSettings::new(DIM) }
}

pub(crate) fn fresh() -> (TestIndex, Index) {
    fresh_with(&settings())
}

pub(crate) fn fresh_with(settings: &IndexSettings) -> (TestIndex, Index) {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("index");
    let index = Index::create(&dir, settings).unwrap();
    (TestIndex { _keep: keep, dir }, index)
}

/// Random unit vectors (xorshift), row after row.
pub(crate) fn vectors(rows: usize, seed: u64) -> Vec<f32> {
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

pub(crate) fn spans(rows: usize) -> Vec<Span> {
    (0..rows as u32).map(|i| Span { start_ms: i * 1000, end_ms: i * 1000 + 2000, at_ms: i * 1000 + 500 }).collect()
}

pub(crate) fn video(id: &str) -> Video {
    Video { id: id.into(), path: format!("/films/{id}.mp4"), ..Video::default() }
}

pub(crate) fn put(writer: &mut Writer, id: &str, rows: usize, seed: u64) {
    writer.put(video(id), &spans(rows), &vectors(rows, seed), &[]).unwrap();
}

pub(crate) fn ids(index: &Index) -> Vec<String> {
    index.searcher().unwrap().videos().unwrap().into_iter().map(|video| video.id).collect()
}

pub(crate) fn segment_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir.join("segments")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[track_caller]
pub(crate) fn assert_sound(dir: &Path) {
    let report = Index::verify(dir).unwrap();
    assert!(report.is_sound(), "{:?}", report.problems);
}

/// The best rows by a sort of all scores, in the form of [`plain`].
pub(crate) fn naive(searcher: &Searcher, query: &[f32], k: usize, filter: Option<&VideoSet>) -> Vec<(u64, u32, f32)> {
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

/// Video number, start of the span and score of each hit.
pub(crate) fn plain(hits: &[Hit]) -> Vec<(u64, u32, f32)> {
    hits.iter().map(|hit| (hit.video.0, hit.span.start_ms, hit.score)).collect()
}
