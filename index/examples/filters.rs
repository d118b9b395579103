//! Measures the most expensive filters that the limits admit, on an index of 10,000 videos whose metadata
//! have many words and fields in common. Prints the mean processor time of each filter in milliseconds, and
//! fails if one takes more than 50.
//!
//! ```text
//! cargo run --release -p reelseek-index --example filters
//! ```

use std::io::Write;

use anyhow::Context;
use reelseek_index::{Error, Index, IndexSettings, Searcher, Span, Video};
use serde_json::json;

const VIDEOS: usize = 10_000;
const RUNS: u32 = 50;
/// Most processor time of a filter.
const LIMIT_MS: f64 = 50.0;

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
        if i % 1500 == 0 {
            writer.commit()?; // several segments, as after several runs
        }
    }
    writer.commit()?;
    writer.close()?;
    let searcher = index.searcher()?;
    let mut out = std::io::stdout().lock();
    let mut worst = 0.0f64;
    for (name, filter) in filters() {
        let (ms, outcome) = measure(&searcher, &filter)?;
        writeln!(out, "{ms:8.2} ms  {name}: {outcome}")?;
        worst = worst.max(ms);
    }
    writeln!(out, "{worst:8.2} ms at most")?;
    anyhow::ensure!(worst <= LIMIT_MS, "a filter takes longer than {LIMIT_MS} ms");
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
        ("2 phrases with a prefix", list(2, " OR ", |i| format!("\"video w{i} w\"*"))),
        ("2 ranges of words", list(2, " OR ", |i| format!("title:[{i} TO z]"))),
        ("2 ranges of paths", list(2, " OR ", |i| format!("path:[{i} TO z]"))),
        ("128 ranges of numbers", list(128, " OR ", |i| format!("duration:[{i} TO 900]"))),
        ("128 ranges of a field", list(128, " OR ", |i| format!("extra.year:[{i} TO 900]"))),
        ("2 fields with any value", "extra:* OR extra.fields:*".to_owned()),
        ("128 ids", format!("id: IN [{}]", list(128, " ", |i| format!("id{i}")))),
        ("128 words in a set", format!("title: IN [{}]", list(128, " ", |i| format!("w{i}")))),
        ("tabs", format!("{}{}", "a\t".repeat(32), "b".repeat(8000))),
        ("100 words, 4 phrases and 2 ranges", {
            let (words, phrases) =
                (list(100, " OR ", |i| format!("w{i}")), list(4, " OR ", |i| format!("\"w{i} w9\"")));
            format!("{words} OR {phrases} OR title:[0 TO z] OR path:[0 TO z]")
        }),
        ("100 words, 4 phrases and 2 prefixes", {
            let (words, phrases) =
                (list(100, " OR ", |i| format!("w{i}")), list(4, " OR ", |i| format!("\"w{i} w9\"")));
            format!("{words} OR {phrases} OR \"video w1 w\"* OR \"video w2 w\"*")
        }),
        (
            "64 levels of clauses",
            format!("{}{}{}", "(".repeat(64), list(448, " ", |i| format!("w{i}")), ") a".repeat(64)),
        ),
        ("64 negations of clauses", format!("{}({})", "NOT ".repeat(63), list(448, " ", |i| format!("w{i}")))),
        ("500 parts without blanks", format!("a {}", list(500, "^2", |i| format!("w{i}")))),
        ("a field of many clauses", format!("{}:({})", "b".repeat(5000), list(500, " ", |i| format!("w{i}")))),
        ("4000 words", "a ".repeat(4000)),
        ("1900 negations", format!("{}a", "NOT ".repeat(1900))),
    ]
}

/// Processor time of this thread so far in nanoseconds.
fn processor_ns() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").context("this example needs Linux")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}

/// The mean processor time in milliseconds, and the number of videos or why the filter is refused. One run is
/// too short for the clock of the system.
fn measure(searcher: &Searcher, filter: &str) -> anyhow::Result<(f64, String)> {
    let start = processor_ns()?;
    let mut outcome = String::new();
    for _ in 0..RUNS {
        outcome = match searcher.filter(filter) {
            Ok(found) => format!("{} videos", found.len()),
            Err(Error::Filter { reason, .. }) => reason,
            Err(error) => return Err(error.into()),
        };
    }
    Ok(((processor_ns()? - start) as f64 / 1e6 / f64::from(RUNS), outcome))
}
