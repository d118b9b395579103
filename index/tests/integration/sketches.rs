//! Sketches: bytes of the caller for each row, returned unchanged.

use std::collections::BTreeMap;
use std::fs;

use reelseek_index::{Effort, Error, Index, IndexSettings, Video, VideoNumber};

use crate::support::*;

const SKETCH: usize = 5;

fn fresh_sketches(sketch: u32) -> (TestIndex, Index) {
    fresh_with(&IndexSettings { sketch, ..IndexSettings::new(DIM) })
}

/// Sketches of `rows` rows. No two rows of one seed have equal ones.
fn sketches(rows: usize, seed: u64) -> Vec<u8> {
    let row = |i: usize| [i as u8, (i >> 8) as u8, seed as u8, (seed >> 8) as u8, 0xa5];
    (0..rows).flat_map(row).collect()
}

fn put_with(writer: &mut reelseek_index::Writer, id: &str, rows: usize, seed: u64) {
    writer.put(video(id), &spans(rows), &vectors(rows, seed), &sketches(rows, seed)).unwrap();
}

/// Compares the rows and sketches of all videos with the expected ones: number of rows and seed, by id.
#[track_caller]
fn compare(index: &Index, expected: &BTreeMap<String, (usize, u64)>) {
    let searcher = index.searcher().unwrap();
    assert_eq!(searcher.video_numbers().len(), expected.len());
    for (id, (rows, seed)) in expected {
        let number = searcher.number_of(id).unwrap().unwrap();
        let (found_spans, found_vectors) = searcher.rows_of(number).unwrap().unwrap();
        assert_eq!(found_spans, spans(*rows), "{id}");
        let close = |(a, b): (&f32, f32)| (a - b).abs() <= 2f32.powi(-32);
        assert!(found_vectors.iter().zip(vectors(*rows, *seed)).all(close), "{id}");
        assert_eq!(searcher.sketches_of(number).unwrap().unwrap(), sketches(*rows, *seed), "{id}");
    }
}

#[test]
fn sketches_survive_commits_merges_and_compact() {
    let (folder, index) = fresh_sketches(SKETCH as u32);
    assert_eq!(index.settings().sketch, SKETCH as u32);
    let mut writer = index.writer().unwrap();
    let mut expected = BTreeMap::new();
    for i in 0..40u64 {
        // Some videos have no rows, some are replaced in the same or a later commit, some are removed.
        for (id, rows) in [(format!("v{i}"), (i * 7 % 30) as usize), (format!("w{}", i % 6), 1 + (i % 4) as usize)] {
            put_with(&mut writer, &id, 2, 7777);
            put_with(&mut writer, &id, rows, i);
            expected.insert(id, (rows, i));
        }
        if i % 5 == 4 {
            let id = format!("v{}", i - 3);
            assert!(writer.remove(&id).unwrap());
            expected.remove(&id);
        }
        writer.commit().unwrap();
        if i % 8 == 7 {
            compare(&index, &expected);
        }
    }
    assert!(index.searcher().unwrap().deleted_share() > 0.0);
    assert_sound(&folder.dir);
    // Replace the metadata of a video and keep its rows.
    let searcher = index.searcher().unwrap();
    let number = searcher.number_of("v39").unwrap().unwrap();
    let (found_spans, found_vectors) = searcher.rows_of(number).unwrap().unwrap();
    let found = searcher.sketches_of(number).unwrap().unwrap();
    writer.put(Video { title: "new".into(), ..video("v39") }, &found_spans, &found_vectors, &found).unwrap();
    writer.compact().unwrap();
    assert_eq!(segment_files(&folder.dir).len(), 1);
    compare(&index, &expected);
    let now = index.searcher().unwrap();
    assert_eq!((now.sketches_of(number).unwrap(), now.deleted_share()), (None, 0.0), "the old number has no video");
    assert_eq!(searcher.sketches_of(number).unwrap().unwrap(), found, "the earlier snapshot still has it");
    writer.close().unwrap();
    drop(index);
    compare(&Index::open(&folder.dir).unwrap(), &expected);
    assert_sound(&folder.dir);
}

#[test]
fn the_nth_row_of_a_video_has_the_nth_sketch() {
    let (_folder, index) = fresh_sketches(SKETCH as u32);
    let mut writer = index.writer().unwrap();
    for i in 0..30 {
        put_with(&mut writer, &format!("v{i}"), (i * 11 % 40) as usize, i);
        if i % 10 == 9 {
            writer.remove(&format!("v{}", i - 2)).unwrap();
            writer.commit().unwrap();
        }
    }
    let searcher = index.searcher().unwrap();
    let hits = searcher.search(&vectors(1, 1000), 400, None, Effort::Exact).unwrap();
    assert!(hits.iter().any(|hit| hit.row.segment > 0 && hit.nth > 0));
    for hit in hits {
        let nth = hit.nth as usize;
        assert_eq!(hit.span, searcher.rows_of(hit.video).unwrap().unwrap().0[nth]);
        let sketch = &searcher.sketches_of(hit.video).unwrap().unwrap()[nth * SKETCH..][..SKETCH];
        let seed: u64 = searcher.video(hit.video).unwrap().id[1..].parse().unwrap();
        assert_eq!(sketch, &sketches(nth + 1, seed)[nth * SKETCH..]);
    }
}

#[test]
fn an_index_without_sketches_rejects_sketches() {
    let (_folder, index) = fresh();
    let mut writer = index.writer().unwrap();
    put(&mut writer, "a", 3, 1);
    let wrong = writer.put(video("b"), &spans(1), &vectors(1, 1), &[0]);
    assert!(matches!(wrong, Err(Error::Length { what: "sketches", expected: 0, found: 1 })));
    writer.commit().unwrap();
    let searcher = index.searcher().unwrap();
    assert_eq!(searcher.sketches_of(VideoNumber(1)).unwrap(), Some(Vec::new()));
    assert_eq!(searcher.sketches_of(VideoNumber(2)).unwrap(), None);
}

#[test]
fn sketches_of_a_wrong_length_are_rejected_and_change_nothing() {
    let (_folder, index) = fresh_sketches(SKETCH as u32);
    let mut writer = index.writer().unwrap();
    put_with(&mut writer, "a", 2, 1);
    for (rows, bytes) in [(2, 0), (2, 9), (2, 11), (2, 5), (0, 5)] {
        match writer.put(video("a"), &spans(rows), &vectors(rows, 2), &vec![1; bytes]) {
            Err(Error::Length { what: "sketches", expected, found }) => {
                assert_eq!((expected, found), (rows * 5, bytes))
            }
            other => panic!("{rows} rows, {bytes} bytes: {other:?}"),
        }
    }
    put_with(&mut writer, "none", 0, 1);
    writer.commit().unwrap();
    compare(&index, &BTreeMap::from([("a".into(), (2, 1)), ("none".into(), (0, 1))]));
}

#[test]
fn sketches_have_a_maximum_size() {
    let keep = tempfile::tempdir().unwrap();
    let create = |sketch: u32| {
        let dir = keep.path().join(sketch.to_string());
        Index::create(&dir, &IndexSettings { sketch, ..IndexSettings::new(DIM) }).map(|index| (dir, index))
    };
    for sketch in [IndexSettings::MAX_SKETCH + 1, u32::MAX] {
        let error = create(sketch).unwrap_err();
        assert!(matches!(error, Error::Argument { what: "sketch", .. }));
        assert!(error.to_string().contains("4096") && error.to_string().contains(&sketch.to_string()), "{error}");
    }
    let (dir, index) = create(IndexSettings::MAX_SKETCH).unwrap();
    let mut writer = index.writer().unwrap();
    let bytes: Vec<u8> = (0..3 * 4096).map(|i| (i % 251) as u8).collect();
    writer.put(video("a"), &spans(3), &vectors(3, 1), &bytes).unwrap();
    writer.commit().unwrap();
    assert_eq!(index.searcher().unwrap().sketches_of(VideoNumber(1)).unwrap().unwrap(), bytes);
    assert_sound(&dir);
}

/// The segment file of a video with two rows and a video with one row, written by the description in the
/// README.
fn as_described(sketch: u32) -> Vec<u8> {
    let mut file = b"RSEEKVEC".to_vec();
    let word = |file: &mut Vec<u8>, word: u32| file.extend(word.to_le_bytes());
    [3, 2, 3, 2, 32, sketch].into_iter().for_each(|value| word(&mut file, value));
    // Planes of 24 bytes in all, 3 exponents and 5 zeros; spans of 36 bytes and 4 zeros; a table of 32.
    for offset in [96, 136, 136 + 32 + 3 * u64::from(sketch) + 4] {
        file.extend(u64::to_le_bytes(offset));
    }
    word(&mut file, 0);
    let crc = crc32fast::hash(&file);
    word(&mut file, crc);
    // 1/2 is 2^30 2^(100 - 131), and 2^30 is 64 2^24. For powers of two the other planes are zeros.
    file.extend([64, -64, 64, 0, -64, 32].map(i8::cast_unsigned));
    file.extend([0; 6 + 12]);
    file.extend([100, 98, 98]);
    file.extend([0; 5]);
    [0, 2000, 500, 1000, 3000, 1500, 0, 2000, 500, 0].into_iter().for_each(|value| word(&mut file, value));
    [1, 0, 0, 2, 2, 0, 2, 1].into_iter().for_each(|value| word(&mut file, value));
    file.extend((0..3 * sketch).map(|i| i as u8));
    let crc = crc32fast::hash(&file);
    word(&mut file, crc);
    file
}

#[test]
fn a_segment_file_matches_its_description_byte_for_byte() {
    let keep = tempfile::tempdir().unwrap();
    for sketch in [0, 1, 5] {
        let dir = keep.path().join(sketch.to_string());
        let index = Index::create(&dir, &IndexSettings { sketch, ..IndexSettings::new(2) }).unwrap();
        let mut writer = index.writer().unwrap();
        let bytes: Vec<u8> = (0..3 * sketch as u8).collect();
        let (first, second) = bytes.split_at(2 * sketch as usize);
        writer.put(video("a"), &spans(2), &[0.5, -0.5, 0.125, 0.0], first).unwrap();
        writer.put(video("b"), &spans(1), &[-0.125, 0.0625], second).unwrap();
        writer.commit().unwrap();
        assert_eq!(fs::read(&segment_files(&dir)[0]).unwrap(), as_described(sketch), "{sketch} bytes of sketch");
        // Without sketches the manifest does not mention them, so that earlier programs can read it.
        let root = fs::read_to_string(dir.join("text").join("meta.json")).unwrap();
        assert_eq!(root.contains("sketch"), sketch > 0);
    }
}
