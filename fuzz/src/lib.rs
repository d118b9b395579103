//! What the fuzz targets share.

use std::thread;

/// Runs `work` on a stack of 1 MB, so that unbounded recursion is found soon.
///
/// libFuzzer cannot save the input after an overflow of the stack. So it is first written to a file, which
/// `scripts/fuzz` keeps if the process ends.
///
/// # Panics
/// If `work` panics.
pub fn on_small_stack(input: &[u8], work: impl FnOnce() + Send) {
    std::fs::write(std::env::temp_dir().join("input"), input).expect("a folder for temporary files");
    thread::scope(|scope| {
        let worker = thread::Builder::new().stack_size(1 << 20).spawn_scoped(scope, work).expect("a thread");
        worker.join().expect("no panic");
    });
}
