//! Indexes a folder of videos and searches it with a picture: `cargo run --example index_and_search -- FOLDER
//! PICTURE`.
//!
//! Needs no Cargo feature (`default-features = false`), but ffmpeg.

use std::path::Path;

use reelseek::Cancel;
use reelseek::ingest::{FileOutcome, IndexEvent, IndexOptions, Indexer};
use reelseek::media;
use reelseek::search::SearchOptions;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, picture] = &arguments[..] else { return Err("usage: index_and_search FOLDER PICTURE".into()) };
    // A later run with the same folder indexes only new and changed videos.
    let index = Path::new(folder).join(".reelseek");
    let cancel = Cancel::default();
    let indexer = Indexer::open(&index, IndexOptions::new([folder]), &cancel, |_| {})?;
    let summary = indexer.run(&cancel, |event| {
        if let IndexEvent::File { outcome: FileOutcome::Failed { error, .. }, .. } = &event {
            eprintln!("{error}");
        }
    })?;
    println!("{} videos with {} rows", summary.videos, summary.rows);

    let engine = indexer.into_engine()?;
    let answer = engine.search(&media::open(Path::new(picture))?.picture, &SearchOptions::default())?;
    for found in answer.results {
        let [from, to] = [found.moment.from_ms, found.moment.to_ms].map(|ms| f64::from(ms) / 1000.0);
        println!("{:3.0} %  {from:.1} s to {to:.1} s  {}", found.confidence * 100.0, found.video.path);
    }
    Ok(())
}
