//! Damaged files are errors, never panics, and `verify` finds every one.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::{Path, PathBuf};

use reelseek_index::{Effort, Error, Hnsw, Index, Settings, Span, Video};

const DIM: usize = 8;

fn build(dir: &Path) -> PathBuf {
    let index = Index::create(dir, &Settings::new(DIM)).unwrap();
    let mut writer = index.writer().unwrap();
    for i in 0..5u16 {
        let video = Video { id: format!("v{i}"), ..Video::default() };
        let vectors: Vec<f32> = (0..DIM * 11).map(|j| f32::from(i) + j as f32 / 100.0).collect();
        writer.put(video, &[Span { start_ms: 1, end_ms: 2, at_ms: 1 }; 11], &vectors).unwrap();
    }
    writer.commit().unwrap();
    writer.close().unwrap();
    dir.join("segments").join("000001.vec")
}

/// Uses the index in every way; an error is fine, a panic is not.
fn use_all(dir: &Path) -> Result<(), Error> {
    let searcher = Index::open(dir)?.searcher()?;
    searcher.search(&[1.0; DIM], 10, None, Effort::Default)?;
    searcher.scores(&[1.0; DIM], |_, _| ())?;
    for number in searcher.video_numbers() {
        searcher.rows_of(number);
    }
    Ok(())
}

#[test]
fn truncated_segments() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("index");
    let path = build(&dir);
    let whole = fs::read(&path).unwrap();
    for length in (0..whole.len()).step_by(97).chain([whole.len() - 1, whole.len() + 1]) {
        let mut bytes = whole.clone();
        bytes.resize(length, 0);
        fs::write(&path, bytes).unwrap();
        let error = use_all(&dir).unwrap_err();
        assert!(matches!(&error, Error::Damaged { .. }), "{length}: {error}");
        assert!(error.to_string().contains("000001.vec"), "{error}");
        assert!(!Index::verify(&dir).unwrap().is_sound(), "{length}");
    }
    fs::remove_file(&path).unwrap();
    assert!(matches!(use_all(&dir), Err(Error::Io { .. })));
    assert!(!Index::verify(&dir).unwrap().is_sound());
    fs::write(&path, whole).unwrap();
    use_all(&dir).unwrap();
    assert!(Index::verify(&dir).unwrap().is_sound());
}

#[test]
fn flipped_bits_in_segments() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("index");
    let path = build(&dir);
    let whole = fs::read(&path).unwrap();
    let table_and_end = whole.len() - 90..whole.len();
    for at in (0..64).chain((64..whole.len()).step_by(41)).chain(table_and_end) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, bytes).unwrap();
        let used = use_all(&dir);
        assert!(at >= 64 || used.is_err(), "a flip in the header (byte {at}) is seen on open");
        assert!(!Index::verify(&dir).unwrap().is_sound(), "{at}");
    }
}

#[test]
fn compact_refuses_to_launder_damage() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("index");
    let path = build(&dir);
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();
    let index = Index::open(&dir).unwrap();
    let mut writer = index.writer().unwrap();
    writer.remove("v0").unwrap();
    assert!(matches!(writer.compact(), Err(Error::Damaged { .. })));
    assert!(matches!(writer.commit(), Err(Error::WriterFailed { .. })));
    drop(writer);
    assert_eq!(index.searcher().unwrap().rows(), 44, "the commit before the merge stands");
}

#[test]
fn damaged_text_is_found() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("index");
    build(&dir);
    let text = dir.join("text");
    let store = fs::read_dir(&text).unwrap().map(|entry| entry.unwrap().path());
    let store = store.into_iter().find(|path| path.extension().is_some_and(|name| name == "store")).unwrap();
    let whole = fs::read(&store).unwrap();
    let mut bytes = whole.clone();
    bytes[3] ^= 1;
    fs::write(&store, bytes).unwrap();
    assert!(!Index::verify(&dir).unwrap().is_sound());
    fs::write(&store, whole).unwrap();
    assert!(Index::verify(&dir).unwrap().is_sound());

    let meta = text.join("meta.json");
    let whole = fs::read_to_string(&meta).unwrap();
    for length in (0..whole.len()).step_by(97) {
        fs::write(&meta, &whole[..length]).unwrap();
        assert!(use_all(&dir).is_err(), "{length}");
        assert!(!Index::verify(&dir).unwrap().is_sound(), "{length}");
    }
    let newer = whole.replacen("{\\\"version\\\":2", "{\\\"version\\\":3", 1);
    assert_ne!(newer, whole);
    fs::write(&meta, newer).unwrap();
    assert!(matches!(use_all(&dir), Err(Error::Version { expected: 2, found: 3, .. })));
}

/// An index with a graph, and the paths of its two files.
fn build_graph(dir: &Path) -> [PathBuf; 2] {
    let hnsw = Hnsw { m: 4, ef_construction: 20, min_rows: 1, ..Hnsw::default() };
    let index = Index::create(dir, &Settings { hnsw, ..Settings::new(DIM) }).unwrap();
    let mut writer = index.writer().unwrap();
    for i in 0..20u32 {
        let vectors: Vec<f32> = (0..DIM as u32 * 20).map(|j| ((i * 977 + j * 13) % 101) as f32 - 50.0).collect();
        let video = Video { id: format!("v{i}"), ..Video::default() };
        writer.put(video, &[Span::default(); 20], &vectors).unwrap();
    }
    writer.commit().unwrap();
    writer.close().unwrap();
    ["000001.vec", "000001.hnsw"].map(|name| dir.join("segments").join(name))
}

/// Walks the graph, whatever it holds.
fn walk_all(dir: &Path) -> Result<(), Error> {
    let searcher = Index::open(dir)?.searcher()?;
    for axis in 0..DIM {
        let mut query = [0.0; DIM];
        query[axis] = 1.0;
        searcher.search(&query, 3, None, Effort::Ef(6))?;
    }
    Ok(())
}

#[test]
fn a_graph_cut_anywhere_is_refused() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("index");
    for path in build_graph(&dir) {
        let whole = fs::read(&path).unwrap();
        for i in 0..100 {
            fs::write(&path, &whole[..whole.len() * i / 100]).unwrap();
            assert!(matches!(walk_all(&dir), Err(Error::Damaged { .. })), "{i}");
            assert!(!Index::verify(&dir).unwrap().is_sound(), "{i}");
        }
        fs::remove_file(&path).unwrap();
        assert!(walk_all(&dir).is_err() && !Index::verify(&dir).unwrap().is_sound());
        fs::write(&path, whole).unwrap();
        walk_all(&dir).unwrap();
        assert!(Index::verify(&dir).unwrap().is_sound());
    }
}

#[test]
fn every_flipped_bit_is_found_and_none_is_followed_out_of_bounds() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("index");
    for path in build_graph(&dir) {
        let whole = fs::read(&path).unwrap();
        for i in 0..1000 {
            // All of the header, then evenly.
            let at = if i < 64 { i } else { 64 + (whole.len() - 64) * (i - 64) / 936 };
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (i % 8);
            fs::write(&path, bytes).unwrap();
            let walked = walk_all(&dir);
            assert!(at >= 64 || walked.is_err(), "a flip in the header (byte {at}) is seen on open");
            assert!(!Index::verify(&dir).unwrap().is_sound(), "byte {at}");
        }
        fs::write(&path, whole).unwrap();
    }
}

#[test]
fn links_to_anywhere_are_not_followed() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("index");
    let [_, path] = build_graph(&dir);
    let whole = fs::read(&path).unwrap();
    for seed in 0..50u32 {
        let mut bytes = whole.clone();
        let (mut state, end) = (seed | 1, whole.len() - 4);
        for word in bytes[64..end].chunks_exact_mut(4) {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = if seed % 2 == 0 { state } else { state % 500 }; // anywhere, or mostly in range
            word.copy_from_slice(&value.to_le_bytes());
        }
        fs::write(&path, bytes).unwrap();
        walk_all(&dir).unwrap();
        assert!(!Index::verify(&dir).unwrap().is_sound());
    }
}

#[test]
fn the_graph_of_other_vectors_is_refused() {
    let keep = tempfile::tempdir().unwrap();
    let (one, two) = (keep.path().join("one"), keep.path().join("two"));
    let [_, path] = build_graph(&one);
    let index = Index::create(&two, Index::open(&one).unwrap().settings()).unwrap();
    let mut writer = index.writer().unwrap();
    writer.put(Video { id: "a".into(), ..Video::default() }, &[Span::default(); 400], &[0.5; 400 * DIM]).unwrap();
    writer.commit().unwrap();
    fs::copy(path, two.join("segments").join("000001.hnsw")).unwrap();
    assert!(matches!(walk_all(&two), Err(Error::Damaged { .. })));
}

#[cfg(unix)]
#[test]
fn a_file_cut_short_while_it_is_searched_is_an_error_and_not_the_end() {
    let keep = tempfile::tempdir().unwrap();
    let other = keep.path().join("other");
    build_graph(&other);
    let sound = Index::open(&other).unwrap().searcher().unwrap();
    for i in 0..2 {
        let dir = keep.path().join(i.to_string());
        let path = build_graph(&dir)[i].clone();
        let searcher = Index::open(&dir).unwrap().searcher().unwrap();
        let search = |effort| searcher.search(&[1.0; DIM], 3, None, effort);
        assert_eq!(search(Effort::Ef(6)).unwrap().len(), 3);
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(64).unwrap();
        for _ in 0..2 {
            let error = search(Effort::Ef(6)).unwrap_err().to_string();
            assert!(error.contains("cut short") && error.contains(path.to_str().unwrap()), "{error}");
        }
        if i == 0 {
            assert!(searcher.scores(&[1.0; DIM], |_, _| ()).is_err());
        }
        // What is whole goes on.
        assert_eq!(sound.search(&[1.0; DIM], 3, None, Effort::Ef(6)).unwrap().len(), 3);
    }
}
