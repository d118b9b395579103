//! Reads an HDF5 archive of features from arbitrary bytes. Errors are expected, panics are not. libhdf5 is a
//! C library without instrumentation, so coverage counts the code around it only.

#![no_main]

use std::fs;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use reelseek::features::archive::FeatureArchive;

fuzz_target!(|bytes: &[u8]| {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let path = FOLDER.get_or_init(|| tempfile::tempdir().unwrap()).path().join("a.h5");
    fs::write(&path, bytes).unwrap();
    if let Ok(archive) = FeatureArchive::open(&path) {
        archive.videos().take(4).for_each(|video| drop(archive.read(video)));
    }
});
