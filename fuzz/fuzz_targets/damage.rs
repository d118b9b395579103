//! Damages the files of a small index and uses the index in every way. Errors are expected, crashes are not.
//!
//! The input is a list of changes of six bytes each: the file; the position, as a fraction of its length (two
//! bytes); the operation (set, flip, truncate, or fill); and two bytes of arguments.

#![no_main]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use reelseek_index::{Effort, HnswSettings, Index, IndexSettings, Span, Video, VideoNumber, VideoSet};

const DIM: usize = 8;

struct IntactIndex {
    _keep: tempfile::TempDir,
    dir: PathBuf,
    files: Vec<(PathBuf, Vec<u8>)>,
}

fn build() -> IntactIndex {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("index");
    let hnsw = HnswSettings { m: 4, ef_construction: 20, min_rows: 1, ..HnswSettings::default() };
    let settings = IndexSettings { hnsw, sketch: 5, ..IndexSettings::new(DIM) };
    let mut writer = Index::create(&dir, &settings).unwrap().writer().unwrap();
    for i in 0..30u32 {
        let rows: Vec<f32> = (0..DIM as u32 * 20).map(|j| ((i * 977 + j * 13) % 101) as f32 - 50.0).collect();
        let video = Video { id: format!("v{i}"), title: format!("{i} snow days"), ..Video::default() };
        writer.put(video, &[Span::default(); 20], &rows, &[i as u8; 20 * 5]).unwrap();
        if i % 10 == 9 {
            writer.commit().unwrap();
            // Later segments are so large that searches walk their graphs.
            writer.remove(&format!("v{}", i - 5)).unwrap();
        }
    }
    writer.commit().unwrap();
    writer.close().unwrap();
    let folders = ["segments", "text"].map(|name| dir.join(name));
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let mut files: Vec<_> =
        entries.map(|entry| entry.unwrap().path()).map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    files.retain(|(_, bytes)| !bytes.is_empty());
    files.sort();
    IntactIndex { _keep: keep, dir, files }
}

fn use_all(dir: &Path) -> reelseek_index::Result<()> {
    let searcher = Index::open(dir)?.searcher()?;
    let some: VideoSet = (0..20).map(VideoNumber).collect();
    for axis in 0..DIM {
        let mut query = [0.1; DIM];
        query[axis] = 1.0;
        for effort in [Effort::Ef(1), Effort::Exact] {
            searcher.search(&query, 1, None, effort)?;
            searcher.search(&query, 700, Some(&some), effort)?;
        }
    }
    for number in searcher.video_numbers() {
        searcher.rows_of(number)?;
        searcher.sketches_of(number)?;
        searcher.video(number)?;
    }
    searcher.filter("title:snow AND NOT id:v3")?;
    Ok(())
}

fuzz_target!(|input: &[u8]| {
    static INTACT: OnceLock<IntactIndex> = OnceLock::new();
    let intact = INTACT.get_or_init(build);
    // The index catches panics of tantivy. The hook of libFuzzer would abort at each.
    std::panic::set_hook(Box::new(|_| ()));
    let mut changed = vec![];
    for change in input.chunks_exact(6).take(16) {
        let (path, whole) = &intact.files[change[0] as usize % intact.files.len()];
        let mut bytes = fs::read(path).unwrap();
        let at = whole.len() * (usize::from(change[1]) << 8 | usize::from(change[2])) / 65_536;
        match (change[3] % 4, bytes.get_mut(at)) {
            (0, Some(byte)) => *byte = change[4],
            (1, Some(byte)) => *byte ^= change[4],
            (2, Some(_)) => bytes.truncate(at),
            (3, Some(_)) => bytes[at..].iter_mut().take(1 + usize::from(change[5])).for_each(|byte| *byte = change[4]),
            _ => {}
        }
        fs::write(path, bytes).unwrap();
        changed.push((path, whole));
    }
    let used = std::panic::catch_unwind(|| use_all(&intact.dir));
    let verified = Index::verify(&intact.dir).map(|report| report.is_sound());
    let damaged = changed.iter().any(|(path, whole)| fs::read(path).unwrap() != **whole);
    changed.into_iter().for_each(|(path, whole)| fs::write(path, whole).unwrap());
    assert!(used.is_ok(), "a panic left the crate");
    assert!(!damaged || !matches!(verified, Ok(true)), "verify did not find the damage");
    assert!(damaged || matches!(verified, Ok(true)));
});
