//! Damaged files cause errors, never panics, and `verify` finds all damage.

use std::fs;
use std::path::{Path, PathBuf};

#[cfg(unix)]
use reelseek_index::install_sigbus_guard;
use reelseek_index::{Effort, Error, HnswSettings, Index, IndexSettings, Span, Video, VideoNumber};

const DIM: usize = 8;

fn build(dir: &Path) -> PathBuf {
    build_with(dir, 0)
}

/// As [`build`], with sketches of `sketch` bytes.
fn build_with(dir: &Path, sketch: u32) -> PathBuf {
    let index = Index::create(dir, &IndexSettings { sketch, ..IndexSettings::new(DIM) }).unwrap();
    let mut writer = index.writer().unwrap();
    for i in 0..5u16 {
        let video = Video { id: format!("v{i}"), ..Video::default() };
        let vectors: Vec<f32> = (0..DIM * 11).map(|j| f32::from(i) + j as f32 / 100.0).collect();
        let sketches: Vec<u8> = (0..11 * sketch).map(|j| (u32::from(i) * 50 + j) as u8).collect();
        writer.put(video, &[Span { start_ms: 1, end_ms: 2, at_ms: 1 }; 11], &vectors, &sketches).unwrap();
    }
    writer.commit().unwrap();
    writer.close().unwrap();
    dir.join("segments").join("000001.vec")
}

/// A file of an index, which a test damages.
struct Target {
    dir: PathBuf,
    path: PathBuf,
    whole: Vec<u8>,
}

impl Target {
    fn new(dir: &Path, path: PathBuf) -> Target {
        let whole = fs::read(&path).unwrap();
        Target { dir: dir.to_owned(), path, whole }
    }

    /// Writes the file with a change.
    fn change(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.whole.clone();
        change(&mut bytes);
        fs::write(&self.path, bytes).unwrap();
    }

    fn cut(&self, length: usize) {
        fs::write(&self.path, &self.whole[..length]).unwrap();
    }

    fn flip(&self, at: usize, bit: usize) {
        self.change(|bytes| bytes[at] ^= 1 << (bit % 8));
    }

    /// Asserts that `verify` finds damage.
    fn assert_damaged(&self, case: impl std::fmt::Debug) {
        assert!(!Index::verify(&self.dir).unwrap().is_sound(), "{} {case:?}", self.path.display());
    }

    /// Writes the whole file, and asserts that `verify` finds no damage.
    fn restore(&self) {
        fs::write(&self.path, &self.whole).unwrap();
        assert!(Index::verify(&self.dir).unwrap().is_sound());
    }
}

/// Uses the index in every way. It can return an error, but must not panic.
fn use_all(dir: &Path) -> Result<(), Error> {
    let searcher = Index::open(dir)?.searcher()?;
    searcher.search(&[1.0; DIM], 10, None, Effort::Default)?;
    searcher.search(&[1.0; DIM], 10, None, Effort::Exact)?;
    for number in searcher.video_numbers() {
        searcher.rows_of(number)?;
        searcher.sketches_of(number)?;
    }
    Ok(())
}

#[test]
fn rejects_truncated_segments() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("index");
    let file = Target::new(&dir, build(&dir));
    let length = file.whole.len();
    for length in (0..length).step_by(97).chain([length - 1, length + 1]) {
        file.change(|bytes| bytes.resize(length, 0));
        let error = use_all(&dir).unwrap_err();
        assert!(matches!(&error, Error::Damaged { .. }), "{length}: {error}");
        assert!(error.to_string().contains("000001.vec"), "{error}");
        file.assert_damaged(length);
    }
    fs::remove_file(&file.path).unwrap();
    assert!(matches!(use_all(&dir), Err(Error::Io { .. })));
    file.assert_damaged("missing");
    file.restore();
    use_all(&dir).unwrap();
}

#[test]
fn verify_finds_flipped_bits_in_segments() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("index");
    let file = Target::new(&dir, build(&dir));
    let length = file.whole.len();
    let table_and_end = length - 90..length;
    for at in (0..64).chain((64..length).step_by(41)).chain(table_and_end) {
        file.flip(at, at);
        let used = use_all(&dir);
        assert!(at >= 64 || used.is_err(), "a flip in the header (byte {at}) is found on open");
        file.assert_damaged(at);
    }
}

/// Size of a sketch in the tests below.
const SKETCH: usize = 7;

/// The bytes of the sketches in a file of [`build_with`].
fn sketches(whole: &[u8]) -> std::ops::Range<usize> {
    whole.len() - 4 - 5 * 11 * SKETCH..whole.len() - 4
}

#[test]
fn rejects_truncated_sketches_and_verify_finds_flipped_bits_in_them() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("index");
    let file = Target::new(&dir, build_with(&dir, SKETCH as u32));
    let range = sketches(&file.whole);
    assert!(file.whole[range.clone()].starts_with(&[0, 1, 2, 3]) && file.whole[..range.end].ends_with(&[20]));
    for at in (0..64).chain(range) {
        file.flip(at, at);
        let used = use_all(&dir);
        assert!(at >= 64 || used.is_err(), "a flip in the header (byte {at}) is found on open");
        file.assert_damaged(at);
        file.cut(at);
        let error = use_all(&dir).unwrap_err();
        assert!(matches!(&error, Error::Damaged { .. }) && error.to_string().contains("000001.vec"), "{at}: {error}");
        file.assert_damaged(at);
    }
    file.restore();
    use_all(&dir).unwrap();
}

#[test]
fn rejects_a_header_with_another_size_of_sketch() {
    let keep = tempfile::tempdir().unwrap();
    for sketch in [0, SKETCH as u32] {
        let dir = keep.path().join(sketch.to_string());
        let file = Target::new(&dir, build_with(&dir, sketch));
        for other in [0, 6, 7, 8, 4096, 4097, u32::MAX].into_iter().filter(|other| *other != sketch) {
            file.change(|bytes| {
                bytes[28..32].copy_from_slice(&other.to_le_bytes());
                let crc = crc32fast::hash(&bytes[..60]);
                bytes[60..64].copy_from_slice(&crc.to_le_bytes());
            });
            let error = use_all(&dir).unwrap_err().to_string();
            assert!(error.contains(&format!("{sketch} bytes of sketch")), "{error}");
            assert!(error.contains(&format!("{other} bytes of sketch")), "{error}");
            file.assert_damaged(other);
        }
    }
}

#[test]
fn compact_rejects_damaged_segments() {
    let keep = tempfile::tempdir().unwrap();
    for in_sketches in [false, true] {
        let dir = keep.path().join(in_sketches.to_string());
        let file = Target::new(&dir, build_with(&dir, SKETCH as u32));
        file.flip(if in_sketches { sketches(&file.whole).end - 1 } else { 100 }, 0);
        let index = Index::open(&dir).unwrap();
        let mut writer = index.writer().unwrap();
        writer.remove("v0").unwrap();
        assert!(matches!(writer.compact(), Err(Error::Damaged { .. })));
        assert!(matches!(writer.commit(), Err(Error::WriterFailed { .. })));
        drop(writer);
        assert_eq!(index.searcher().unwrap().rows(), 44, "the commit before the merge is unchanged");
    }
}

/// The non-empty files of the text index.
fn text_files(dir: &Path) -> Vec<Target> {
    let files = fs::read_dir(dir.join("text")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.map(|path| Target::new(dir, path)).collect();
    files.retain(|file| !file.whole.is_empty()); // locks
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// As [`build`], with searchable text and a removed video. Returns the files of the text index.
fn build_text(dir: &Path) -> Vec<Target> {
    build(dir);
    let mut writer = Index::open(dir).unwrap().writer().unwrap();
    let title = "snow day in the hills".to_owned();
    let video = Video { id: "t".into(), title, labels: vec!["skiing".into()], ..Video::default() };
    writer.put(video, &[Span::default(); 2], &[0.5; 2 * DIM], &[]).unwrap();
    writer.remove("v1").unwrap();
    writer.commit().unwrap();
    writer.close().unwrap();
    text_files(dir)
}

/// Uses the text index in every way. It can return an error, but must not panic.
fn use_text(dir: &Path) -> Result<(), Error> {
    let searcher = Index::open(dir)?.searcher()?;
    for filter in ["", "title:snow", "skiing", "\"snow day\"", "duration:[0 TO 9]", "NOT id:v0"] {
        searcher.filter(filter)?;
    }
    searcher.number_of("v2")?;
    searcher.videos()?;
    searcher.video_numbers().into_iter().try_for_each(|number| searcher.video(number).map(drop))
}

#[test]
fn verify_finds_a_truncated_text_index() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("index");
    let files = build_text(&dir);
    use_text(&dir).unwrap();
    assert!(files.len() > 8, "{} files", files.len());
    for file in files {
        for i in 0..100 {
            file.cut(file.whole.len() * i / 100);
            let _ = use_text(&dir);
            file.assert_damaged(i);
        }
        fs::remove_file(&file.path).unwrap();
        let _ = use_text(&dir);
        let verified = Index::verify(&dir);
        assert!(verified.is_err() || !verified.unwrap().is_sound(), "{} is missing", file.path.display());
        file.restore();
    }
    use_text(&dir).unwrap();
}

#[test]
fn verify_finds_flipped_bits_in_the_text_index() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("index");
    for file in build_text(&dir) {
        let is_root = file.path.extension().is_some_and(|end| end == "json");
        let length = file.whole.len();
        for i in 0..1000 {
            let at = if length <= 1000 { i % length } else { length * i / 1000 };
            file.flip(at, i + i / length);
            let used = use_text(&dir);
            assert!(!is_root || used.is_err(), "{}: a flip at {at} is found on open", file.path.display());
            file.assert_damaged(at);
        }
        file.restore();
    }
    use_text(&dir).unwrap();
}

#[test]
fn rejects_older_and_newer_versions() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("index");
    build(&dir);
    let meta = dir.join("text").join("meta.json");
    let whole = fs::read_to_string(&meta).unwrap();
    let body = &whole[..whole.len() - 16];
    let with_version = |version: &str| {
        let changed = body.replacen("{\\\"version\\\":3", &format!("{{\\\"version\\\":{version}"), 1);
        assert_ne!(changed, body);
        changed
    };
    // Versions 1 and 2 had no checksum line.
    fs::write(&meta, with_version("2")).unwrap();
    assert!(matches!(use_all(&dir), Err(Error::Version { expected: 3, found: 2, .. })));
    assert!(!Index::verify(&dir).unwrap().is_sound());
    let newer = with_version("4");
    let line = format!("\ncrc32 {:08x}\n", crc32fast::hash(newer.as_bytes()));
    fs::write(&meta, newer + &line).unwrap();
    assert!(matches!(use_all(&dir), Err(Error::Version { expected: 3, found: 4, .. })));
    // A commit file of this version without its checksum line is damaged, not old.
    fs::write(&meta, body).unwrap();
    assert!(matches!(use_all(&dir), Err(Error::Text { .. })));
}

/// An index with a graph. Returns its two files.
fn build_graph(dir: &Path) -> [Target; 2] {
    let hnsw = HnswSettings { m: 4, ef_construction: 20, min_rows: 1, ..HnswSettings::default() };
    let index = Index::create(dir, &IndexSettings { hnsw, ..IndexSettings::new(DIM) }).unwrap();
    let mut writer = index.writer().unwrap();
    for i in 0..20u32 {
        let vectors: Vec<f32> = (0..DIM as u32 * 20).map(|j| ((i * 977 + j * 13) % 101) as f32 - 50.0).collect();
        let video = Video { id: format!("v{i}"), ..Video::default() };
        writer.put(video, &[Span::default(); 20], &vectors, &[]).unwrap();
    }
    writer.commit().unwrap();
    writer.close().unwrap();
    ["000001.vec", "000001.hnsw"].map(|name| Target::new(dir, dir.join("segments").join(name)))
}

/// Searches with the graph.
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
fn rejects_truncated_graphs() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("index");
    for file in build_graph(&dir) {
        for i in 0..100 {
            file.cut(file.whole.len() * i / 100);
            assert!(matches!(walk_all(&dir), Err(Error::Damaged { .. })), "{i}");
            file.assert_damaged(i);
        }
        fs::remove_file(&file.path).unwrap();
        assert!(walk_all(&dir).is_err());
        file.assert_damaged("missing");
        file.restore();
        walk_all(&dir).unwrap();
    }
}

#[test]
fn verify_finds_flipped_bits_in_graphs_and_walks_stay_in_bounds() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("index");
    for file in build_graph(&dir) {
        for i in 0..1000 {
            // Every byte of the header, then evenly spaced bytes.
            let at = if i < 64 { i } else { 64 + (file.whole.len() - 64) * (i - 64) / 936 };
            file.flip(at, i);
            let walked = walk_all(&dir);
            assert!(at >= 64 || walked.is_err(), "a flip in the header (byte {at}) is found on open");
            file.assert_damaged(at);
        }
        file.restore();
    }
}

#[test]
fn walks_stay_in_bounds_with_random_links() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("index");
    let [_, file] = build_graph(&dir);
    for seed in 0..50u32 {
        file.change(|bytes| {
            let (mut state, end) = (seed | 1, bytes.len() - 4);
            for word in bytes[64..end].chunks_exact_mut(4) {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let value = if seed % 2 == 0 { state } else { state % 500 }; // any value, or mostly in range
                word.copy_from_slice(&value.to_le_bytes());
            }
        });
        walk_all(&dir).unwrap();
        file.assert_damaged(seed);
    }
}

#[test]
fn rejects_the_graph_of_another_segment() {
    let keep = tempfile::tempdir().unwrap();
    let (one, two) = (keep.path().join("one"), keep.path().join("two"));
    let [_, file] = build_graph(&one);
    let index = Index::create(&two, Index::open(&one).unwrap().settings()).unwrap();
    let mut writer = index.writer().unwrap();
    writer.put(Video { id: "a".into(), ..Video::default() }, &[Span::default(); 400], &[0.5; 400 * DIM], &[]).unwrap();
    writer.commit().unwrap();
    fs::copy(file.path, two.join("segments").join("000001.hnsw")).unwrap();
    assert!(matches!(walk_all(&two), Err(Error::Damaged { .. })));
}

#[cfg(unix)]
#[test]
fn truncation_within_a_page_is_an_error_without_the_guard() {
    let keep = tempfile::tempdir().unwrap();
    let path = build(keep.path());
    let searcher = Index::open(keep.path()).unwrap().searcher().unwrap();
    let bytes = fs::metadata(&path).unwrap().len();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes - 1).unwrap();
    let error = searcher.search(&[1.0; DIM], 3, None, Effort::Exact).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
}

#[cfg(unix)]
#[test]
fn with_the_guard_a_segment_truncated_during_searches_is_an_error() {
    assert!(install_sigbus_guard());
    let keep = tempfile::tempdir().unwrap();
    let other = keep.path().join("other");
    build_graph(&other);
    let sound = Index::open(&other).unwrap().searcher().unwrap();
    for i in 0..2 {
        let dir = keep.path().join(i.to_string());
        let path = build_graph(&dir)[i].path.clone();
        let searcher = Index::open(&dir).unwrap().searcher().unwrap();
        let search = |effort| searcher.search(&[1.0; DIM], 3, None, effort);
        assert_eq!(search(Effort::Ef(6)).unwrap().len(), 3);
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(64).unwrap();
        for _ in 0..2 {
            let error = search(Effort::Ef(6)).unwrap_err().to_string();
            assert!(error.contains("cut short") && error.contains(path.to_str().unwrap()), "{error}");
        }
        if i == 0 {
            assert!(search(Effort::Exact).is_err());
        }
        // Other indexes are not affected.
        assert_eq!(sound.search(&[1.0; DIM], 3, None, Effort::Ef(6)).unwrap().len(), 3);
    }
}

#[cfg(unix)]
#[test]
fn with_the_guard_sketches_truncated_during_reads_are_an_error() {
    assert!(install_sigbus_guard());
    let keep = tempfile::tempdir().unwrap();
    for (name, keeps) in [("header", 64), ("half a page", 5000)] {
        let dir = keep.path().join(name);
        let path = build_with(&dir, 300);
        let searcher = Index::open(&dir).unwrap().searcher().unwrap();
        let numbers = searcher.video_numbers();
        let of = |number| searcher.sketches_of(number);
        assert_eq!(of(numbers[4]).unwrap().unwrap().len(), 11 * 300);
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(keeps).unwrap();
        for number in [numbers[4], numbers[0], VideoNumber(99)] {
            let error = of(number).unwrap_err().to_string();
            assert!(error.contains("cut short") && error.contains(path.to_str().unwrap()), "{error}");
        }
    }
}

#[cfg(unix)]
#[test]
fn with_the_guard_a_text_index_truncated_during_reads_is_an_error() {
    assert!(install_sigbus_guard());
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("index");
    build(&dir);
    let mut writer = Index::open(&dir).unwrap().writer().unwrap();
    for i in 0..3000 {
        let video = Video { id: format!("w{i}"), title: format!("{i} days"), ..Video::default() };
        writer.put(video, &[], &[], &[]).unwrap();
    }
    writer.commit().unwrap();
    writer.close().unwrap();
    let searcher = Index::open(&dir).unwrap().searcher().unwrap();
    assert_eq!(searcher.videos().unwrap().len(), 3005);
    let stores = text_files(&dir).into_iter().filter(|file| file.path.extension().is_some_and(|end| end == "store"));
    let path = stores.max_by_key(|file| file.whole.len()).unwrap().path;
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    for _ in 0..2 {
        let error = searcher.videos().unwrap_err().to_string();
        assert!(error.contains("cut short") && error.contains(path.to_str().unwrap()), "{error}");
    }
}
