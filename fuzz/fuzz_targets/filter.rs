//! Parses any text as a filter and applies it to a small index, on a small stack. Errors are expected;
//! panics and long searches are not.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use reelseek_index::{Index, IndexSettings, Searcher, Span, Video};

struct TextOnly {
    searcher: Searcher,
    _keep: tempfile::TempDir,
}

fn build() -> TextOnly {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("index");
    let mut writer = Index::create(&dir, &IndexSettings::new(2)).unwrap().writer().unwrap();
    for i in 0..40u32 {
        let video = Video {
            id: format!("v{i}"),
            path: format!("holiday {}/clip-{i}.mp4", i % 3),
            title: format!("{} days of snow", i % 5),
            labels: vec![["surfing", "rock climbing"][i as usize % 2].to_owned()],
            duration_ms: u64::from(i) * 3_000,
            size_bytes: u64::from(i) << 16,
            extra: serde_json::json!({"camera": "x100", "year": 1990 + i}),
            ..Video::default()
        };
        writer.put(video, &[Span::default()], &[0.6, 0.8], &[]).unwrap();
        if i % 20 == 19 {
            writer.commit().unwrap();
        }
    }
    writer.close().unwrap();
    TextOnly { searcher: Index::open(&dir).unwrap().searcher().unwrap(), _keep: keep }
}

fuzz_target!(|bytes: &[u8]| {
    static INDEX: OnceLock<TextOnly> = OnceLock::new();
    let Ok(filter) = std::str::from_utf8(bytes) else { return };
    let searcher = &INDEX.get_or_init(build).searcher;
    reelseek_fuzz::on_small_stack(bytes, || {
        let _ = searcher.filter(filter).map(|found| found.iter().count());
    });
});
