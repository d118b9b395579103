//! Reads a folded checkpoint and an archive of features, both safetensors files, from arbitrary bytes: the
//! first in memory, the second on disk. Errors are expected, panics are not.

#![no_main]

use std::fs;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use reelseek::features::archive::FeatureArchive;
use reelseek::gmf::Folded;

fuzz_target!(|bytes: &[u8]| {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let path = FOLDER.get_or_init(|| tempfile::tempdir().unwrap()).path().join("a.safetensors");
    let _ = Folded::parse(bytes, "input");
    fs::write(&path, bytes).unwrap();
    if let Ok(archive) = FeatureArchive::open(&path) {
        archive.videos().take(4).for_each(|video| drop(archive.read(video)));
    }
});
