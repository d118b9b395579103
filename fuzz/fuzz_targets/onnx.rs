//! Opens an ONNX encoder from arbitrary bytes: an input that begins with `{` is its description, any other is
//! the network. Errors are expected; panics that leave the crate are not.

#![no_main]

use std::fs;
use std::panic::{catch_unwind, set_hook};
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

const NETWORK: &[u8] = include_bytes!("../../tests/reference/tiny.onnx");

fuzz_target!(|bytes: &[u8]| {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().unwrap()).path();
    // The crate catches panics of rten. The hook of libFuzzer would abort at each.
    set_hook(Box::new(|_| ()));
    let (network, description): (&[u8], &[u8]) = match bytes.first() {
        Some(b'{') => (NETWORK, bytes),
        _ => (bytes, b"{}"),
    };
    fs::write(folder.join("a.onnx"), network).unwrap();
    fs::write(folder.join("a.json"), description).unwrap();
    let path = folder.join("a.onnx");
    let opened = catch_unwind(|| reelseek::encode::open(&format!("onnx:{}", path.display()), None).is_ok());
    assert!(opened.is_ok(), "a panic left the crate");
});
