//! Reads a feature set and archives of features from arbitrary bytes: `.npy`, `.npz` and `.jsonl`. Errors are
//! expected, panics and large allocations are not.
//!
//! The first byte selects the file that the rest becomes. All others are intact.

#![no_main]

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use reelseek::features::FeatureSet;
use reelseek::features::archive::FeatureArchive;

const NPY: &[u8] = include_bytes!("../../tests/golden/features/images.npy");
const LINES: &[u8] = include_bytes!("../../tests/golden/features/images.jsonl");

fn read_set(folder: &Path, npy: &[u8], lines: &[u8]) {
    for name in ["images", "videos"] {
        fs::write(folder.join(name).with_extension("npy"), npy).unwrap();
        fs::write(folder.join(name).with_extension("jsonl"), lines).unwrap();
    }
    if let Ok(set) = FeatureSet::open(folder) {
        let _ = set.check();
        let _ = set.fingerprint();
    }
}

fn read_archive(path: &Path) {
    let Ok(archive) = FeatureArchive::open(path) else { return };
    for video in archive.videos().take(4) {
        if let Ok(array) = archive.read(video) {
            let mean = array.mean(1.0, 7.5, 10.0);
            assert!(mean.len() == array.length && mean.iter().all(|value| value.is_finite()));
        }
    }
}

fuzz_target!(|input: &[u8]| {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().unwrap()).path();
    let Some((kind, bytes)) = input.split_first() else { return };
    match kind % 4 {
        0 => read_set(folder, bytes, LINES),
        1 => read_set(folder, NPY, bytes),
        2 => {
            fs::create_dir_all(folder.join("arrays")).unwrap();
            fs::write(folder.join("arrays/v_a.npy"), bytes).unwrap();
            read_archive(&folder.join("arrays"));
        }
        _ => {
            fs::write(folder.join("arrays.npz"), bytes).unwrap();
            read_archive(&folder.join("arrays.npz"));
        }
    }
});
