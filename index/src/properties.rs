//! Property tests of the parsers: any bytes give a value or an error, never a panic, and written files read
//! back equal.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::graph;
use crate::graph::file::GraphFile;
use crate::graph::walk::WalkScratch;
use crate::io::HEADER_BYTES;
use crate::manifest::{FileMeta, Manifest, RoundingRecall, SegmentMeta};
use crate::names;
use crate::packed::{CodedVector, PackedRows};
use crate::segment::{self, SegmentFile, SegmentVideo};
use crate::types::{GraphBuilder, HnswSettings, IndexSettings, RowPrecision};

fn settings() -> impl Strategy<Value = IndexSettings> {
    let hnsw = (2u32..=256, 1u32..=100_000, any::<u64>(), any::<u32>(), any::<bool>()).prop_map(
        |(m, ef_construction, seed, min_rows, own)| {
            let builder = if own { GraphBuilder::Own } else { GraphBuilder::HnswRs };
            HnswSettings { m, ef_construction, seed, min_rows, builder }
        },
    );
    let attributes = proptest::collection::btree_map(".{0,8}", ".{0,8}", 0..3);
    let precision = prop_oneof![Just(RowPrecision::Full), Just(RowPrecision::Half)];
    (1usize..=65_536, attributes, hnsw, precision, 0..=IndexSettings::MAX_SKETCH).prop_map(
        |(dim, attributes, hnsw, precision, sketch)| IndexSettings { dim, attributes, hnsw, precision, sketch },
    )
}

fn segment_meta() -> impl Strategy<Value = SegmentMeta> {
    let file = (any::<u64>(), any::<u32>()).prop_map(|(bytes, crc)| FileMeta { bytes, crc });
    let rounding = (any::<u64>(), any::<u64>()).prop_map(|(found, of)| RoundingRecall { found, of });
    let file = proptest::option::of(file);
    (any::<u64>(), any::<[u32; 3]>(), any::<u64>(), file, proptest::option::of(rounding)).prop_map(
        |(number, [rows, videos, crc], bytes, graph, rounding)| SegmentMeta {
            name: names::segment_name(number),
            rows,
            videos,
            bytes,
            crc,
            graph,
            rounding,
        },
    )
}

prop_compose! {
    fn manifest()(
        settings in settings(),
        [commit, next_video, next_segment] in any::<[u64; 3]>(),
        segments in vec(segment_meta(), 0..4),
        tombstones in proptest::collection::btree_map("[0-9]{6}\\.vec", vec(any::<u64>(), 0..4), 0..3),
        state in proptest::option::of(".{0,20}"),
    ) -> Manifest {
        let (state, written_by) = (state.map(serde_json::Value::from), BTreeSet::from(["tantivy".to_owned()]));
        let new = Manifest::new(settings);
        Manifest { commit, next_video, next_segment, segments, tombstones, state, written_by, ..new }
    }
}

/// A change of one byte: its position as a fraction of the length, and its new value.
type ByteChange = (f64, u8);

fn change(bytes: &mut [u8], changes: &[ByteChange]) {
    for (at, byte) in changes {
        let at = ((bytes.len() as f64 * at) as usize).min(bytes.len().saturating_sub(1));
        if let Some(old) = bytes.get_mut(at) {
            *old = *byte;
        }
    }
}

fn changes() -> impl Strategy<Value = Vec<ByteChange>> {
    vec((0.0..1.0f64, any::<u8>()), 0..12)
}

/// Makes the checksums of header and file match, so that the parser reaches the other changes.
fn seal(bytes: &mut [u8]) -> u32 {
    let crc = crc32fast::hash(&bytes[..HEADER_BYTES - 4]);
    bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    let end = bytes.len() - 4;
    let crc = crc32fast::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(&crc.to_le_bytes());
    crc
}

const DIM: usize = 3;

/// Writes a segment with videos of these numbers of rows, and returns its record.
fn write_segment(dir: &Path, settings: &IndexSettings, rows: &[usize]) -> SegmentMeta {
    let videos: Vec<_> = (rows.iter())
        .map(|rows| {
            let values: Vec<f32> = (0..rows * DIM).map(|i| (i % 17) as f32 / 8.0 - 1.0).collect();
            let vectors = PackedRows::new(&values, DIM);
            let vectors = if settings.precision == RowPrecision::Half { vectors.halved() } else { vectors };
            (vectors, (0..rows * 3).map(|i| i as u32).collect::<Vec<_>>(), vec![7u8; rows * settings.sketch as usize])
        })
        .collect();
    let videos: Vec<_> = (1..)
        .zip(&videos)
        .map(|(number, (vectors, spans, sketches))| SegmentVideo { number, spans, vectors: vectors.view(), sketches })
        .collect();
    segment::write(dir, &names::segment_name(1), settings, &videos).unwrap()
}

fn small_settings(half: bool, sketch: u32) -> IndexSettings {
    let precision = if half { RowPrecision::Half } else { RowPrecision::Full };
    let hnsw = HnswSettings { m: 2, ef_construction: 8, ..HnswSettings::default() };
    IndexSettings { precision, sketch, hnsw, ..IndexSettings::new(DIM) }
}

/// Reads everything that a segment offers.
fn read_all(segment: &SegmentFile) {
    let _ = segment.verify();
    for entry in segment.entries() {
        assert!(entry.first_row + entry.rows <= segment.rows());
        segment.find(entry.number);
        segment.spans(entry.first_row, entry.rows).for_each(drop);
        segment.sketches(entry.first_row, entry.rows);
        segment.vectors(entry.first_row, entry.rows).to_vec();
    }
    for row in 0..segment.rows() {
        segment.entry_of(row);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn manifests_round_trip(manifest in manifest()) {
        let json = serde_json::to_string(&manifest).unwrap();
        prop_assert_eq!(Manifest::parse(Some(&json), Path::new("meta.json")).unwrap(), manifest);
    }

    #[test]
    fn any_manifest_is_a_value_or_an_error(manifest in manifest(), changes in changes(), text in ".{0,60}") {
        let path = Path::new("meta.json");
        let _ = Manifest::parse(Some(&text), path);
        let mut bytes = serde_json::to_vec(&manifest).unwrap();
        change(&mut bytes, &changes);
        let _ = Manifest::parse(Some(&String::from_utf8_lossy(&bytes)), path);
    }

    #[test]
    fn segments_round_trip(rows in vec(0usize..6, 0..6), half: bool, sketch in 0u32..4) {
        let keep = tempfile::tempdir().unwrap();
        let settings = small_settings(half, sketch);
        let meta = write_segment(keep.path(), &settings, &rows);
        let segment = SegmentFile::open(keep.path().join(&meta.name), &settings, &meta).unwrap();
        segment.verify().unwrap();
        let found: Vec<_> = segment.entries().map(|entry| (entry.number, entry.rows as usize)).collect();
        prop_assert_eq!(found, (1..).zip(rows).collect::<Vec<_>>());
        read_all(&segment);
    }

    #[test]
    fn any_segment_is_readable_or_an_error(
        rows in vec(0usize..6, 0..6), half: bool, sketch in 0u32..4, changes in changes(), sealed: bool,
        words in any::<[u32; 2]>(), other: bool,
    ) {
        let keep = tempfile::tempdir().unwrap();
        let settings = small_settings(half, sketch);
        let mut meta = write_segment(keep.path(), &settings, &rows);
        let path = keep.path().join(&meta.name);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes, &changes);
        if sealed {
            meta.crc = seal(&mut bytes);
        }
        fs::write(&path, bytes).unwrap();
        if other {
            [meta.rows, meta.videos] = words;
        }
        if let Ok(segment) = SegmentFile::open(path, &settings, &meta) {
            read_all(&segment);
        }
    }

    #[test]
    fn any_graph_is_searchable_or_an_error(rows in 1usize..200, changes in changes(), sealed: bool, other: bool, crc: u32) {
        let keep = tempfile::tempdir().unwrap();
        let settings = small_settings(false, 0);
        let mut meta = write_segment(keep.path(), &settings, &[rows]);
        let segment = SegmentFile::open(keep.path().join(&meta.name), &settings, &meta).unwrap();
        let vectors = segment.all_vectors();
        let built = graph::build(vectors.codes(), meta.rows, &settings.hnsw);
        let name = names::graph_name(&meta.name);
        let mut file = graph::file::write(keep.path(), &name, &built, meta.crc).unwrap();
        let path = keep.path().join(&name);
        GraphFile::open(path.clone(), &meta, file).unwrap().verify().unwrap();

        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes, &changes);
        if sealed {
            file.crc = seal(&mut bytes);
        }
        fs::write(&path, bytes).unwrap();
        if other {
            meta.crc = crc;
        }
        if let Ok(graph) = GraphFile::open(path, &meta, file) {
            let _ = graph.verify();
            let (mut query, mut scratch) = (CodedVector::default(), WalkScratch::default());
            query.set_query(&[0.5, -0.25, 1.0]);
            graph.walk(vectors.codes(), &mut query, 8, &mut scratch);
            prop_assert!(scratch.pool.len() <= 8);
        }
    }

    #[test]
    fn names_of_segments_round_trip(number: u64, name in "[0-9a-z.]{0,12}") {
        let segment = names::segment_name(number);
        prop_assert_eq!(names::segment_number(&segment), Some(number));
        let graph = names::graph_name(&segment);
        prop_assert!([segment, graph.clone(), names::temporary_name(&graph)].iter().all(|name| names::is_segment_or_graph(name)));
        if let Some(number) = names::segment_number(&name) {
            prop_assert_eq!(names::segment_name(number), name);
        }
    }
}
