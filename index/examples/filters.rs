//! Measures the most expensive filters that the limits admit, on an index of 10,000 videos whose metadata
//! have many words and fields in common. Prints the least time of several runs of each filter in
//! milliseconds.
//!
//! ```text
//! cargo run --release -p reelseek-index --example filters
//! ```

use std::io::Write;
use std::time::Instant;

use reelseek_index::{Error, Index, IndexSettings, Searcher, Span, Video};
use serde_json::json;

const VIDEOS: usize = 10_000;
const RUNS: usize = 5;

fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let index = Index::create(folder.path().join("index"), &IndexSettings::new(4))?;
    let mut writer = index.writer()?;
    let common = list(128, " ", |i| format!("w{i}"));
    for i in 0..VIDEOS {
        let video = Video {
            id: format!("id{i}"),
            path: format!("/library/part {}/video {common} {i}.mp4", i % 100),
            title: format!("video {common} take {i} of day {}", i * 7 % 9973),
            labels: vec![common.clone(), format!("group {}", i % 50)],
            duration_ms: i as u64 * 100,
            size_bytes: i as u64 * 1000,
            extra: json!({ "note": common, "same": "video video video video video", "year": i % 70,
                "fields": { format!("name{}", i % 1000): i } }),
            ..Video::default()
        };
        writer.put(video, &[Span { start_ms: 0, end_ms: 1000, at_ms: 500 }], &[1.0, 0.0, 0.0, 0.0], &[])?;
    }
    writer.commit()?;
    writer.close()?;
    let searcher = index.searcher()?;
    let mut out = std::io::stdout().lock();
    let mut worst = 0.0f64;
    for (name, filter) in filters() {
        let (ms, found) = match measure(&searcher, &filter) {
            Ok(measured) => measured,
            Err(Error::Filter { reason, .. }) => {
                writeln!(out, "refused: {reason}  {name}")?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        writeln!(out, "{ms:8.2} ms {found:6} videos  {name}")?;
        worst = worst.max(ms);
    }
    writeln!(out, "{worst:8.2} ms at most")?;
    Ok(())
}

/// `count` pieces, joined.
fn list(count: usize, between: &str, piece: impl Fn(usize) -> String) -> String {
    (0..count).map(piece).collect::<Vec<_>>().join(between)
}

fn filters() -> Vec<(&'static str, String)> {
    vec![
        ("one word", "w5".to_owned()),
        ("128 words", list(128, " ", |i| format!("w{i}"))),
        ("128 words with OR", list(128, " OR ", |i| format!("w{i}"))),
        ("128 words, excluded", list(128, " ", |i| format!("-w{i}"))),
        ("128 words of one field", list(128, " ", |i| format!("title:w{i}"))),
        ("32 levels", format!("{}w9{}", "w1 -(".repeat(32), ")".repeat(32))),
        ("30 negations", format!("{}w1", "NOT ".repeat(30))),
        ("a phrase of 8 words", format!("\"{}\"", list(8, " ", |i| format!("w{i}")))),
        ("a phrase of one word 32 times in one field", format!("extra.same:\"{}\"", "video ".repeat(32))),
        ("a phrase of 32 words of one field", format!("title:\"{}\"", list(32, " ", |i| format!("w{i}")))),
        ("a phrase with a distance", format!("title:\"{}\"~32", list(32, " ", |i| format!("w{}", 127 - i)))),
        ("4 phrases", list(4, " OR ", |i| format!("\"w{i} w{}\"", i + 1))),
        ("16 phrases of one field", list(16, " OR ", |i| format!("title:\"w{i} w{}\"", i + 1))),
        ("64 phrases of rare words", list(64, " OR ", |i| format!("\"take {}\"", i * 31))),
        ("4 phrases with a prefix", list(4, " OR ", |i| format!("\"video w{i} w\"*"))),
        ("4 ranges of words", list(4, " OR ", |i| format!("title:[{i} TO z]"))),
        ("4 ranges of paths", list(4, " OR ", |i| format!("path:[{i} TO z]"))),
        ("128 ranges of numbers", list(128, " OR ", |i| format!("duration:[{i} TO 900]"))),
        ("128 ranges of a field", list(128, " OR ", |i| format!("extra.year:[{i} TO 900]"))),
        ("4 fields with any value", "extra:* OR extra.fields:* OR extra.note:* OR extra.year:*".to_owned()),
        ("128 ids", format!("id: IN [{}]", list(128, " ", |i| format!("id{i}")))),
        ("128 words in a set", format!("title: IN [{}]", list(128, " ", |i| format!("w{i}")))),
        ("tabs", format!("{}{}", "a\t".repeat(120), "b".repeat(7900))),
    ]
}

/// The least time in milliseconds, and the number of videos.
fn measure(searcher: &Searcher, filter: &str) -> Result<(f64, usize), Error> {
    let mut best = f64::INFINITY;
    let mut found = 0;
    for _ in 0..RUNS {
        let start = Instant::now();
        found = searcher.filter(filter)?.len();
        best = best.min(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok((best, found))
}
