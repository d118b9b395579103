//! The query string and the form of a search: any bytes are parsed or refused, without a panic.
//!
//! The first line is the query string, the second the Content-Type, and the rest is the body.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

fuzz_target!(|bytes: &[u8]| {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let mut lines = bytes.splitn(3, |byte| *byte == b'\n');
    let mut text = || lines.next().and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default();
    let (query, content_type) = (text(), text());
    let body = lines.next().unwrap_or_default().to_vec();
    let runtime = RUNTIME.get_or_init(|| Builder::new_current_thread().build().unwrap());
    runtime.block_on(reelseek::serve::is_search_form(query, content_type, body));
});
