use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use reelseek_index::Index;

use super::{FAILED, FOUND_NOTHING, IndexFolder, talk};
use crate::ingest;
use crate::search::State;

#[derive(Debug, Args)]
pub(super) struct Info {
    #[command(flatten)]
    folder: IndexFolder,
    /// List the videos too
    #[arg(long)]
    videos: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    #[command(flatten)]
    folder: IndexFolder,
}

#[derive(Debug, Args)]
pub(super) struct Remove {
    /// Videos, as files (also gone ones) or by their id
    #[arg(required = true, value_name = "VIDEO")]
    videos: Vec<PathBuf>,
    #[command(flatten)]
    folder: IndexFolder,
}

#[derive(Debug, Args)]
pub(super) struct Compact {
    #[command(flatten)]
    folder: IndexFolder,
}

pub(super) fn info(arguments: &Info) -> anyhow::Result<ExitCode> {
    let folder = &arguments.folder.index;
    let searcher = Index::open(folder)?.searcher()?;
    let mut videos = Vec::new();
    for number in searcher.video_numbers() {
        videos.push(searcher.video(number)?);
    }
    let state = State::of(&searcher);
    let calibration = &state.calibration;
    let duration_ms: u64 = videos.iter().map(|v| v.duration_ms).sum();
    let settings = searcher.settings();
    if arguments.json {
        let mut value = serde_json::json!({
            "index": folder.to_string_lossy(),
            "videos": videos.len(),
            "rows": searcher.rows(),
            "duration": duration_ms as f64 / 1000.0,
            "dim": settings.dim,
            "attributes": settings.attributes,
            "calibration": calibration,
        });
        if arguments.videos {
            let listed: Vec<_> = videos
                .iter()
                .map(|v| {
                    serde_json::json!({
                        "video": v.id, "path": v.path, "title": v.title, "labels": v.labels, "rows": v.rows,
                        "duration": v.duration_ms as f64 / 1000.0, "warning": v.note,
                    })
                })
                .collect();
            value["list"] = listed.into();
        }
        writeln!(std::io::stdout(), "{value}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(std::io::stdout(), "index       {}", folder.display())?;
    writeln!(std::io::stdout(), "videos      {} ({} long)", videos.len(), talk::clock(duration_ms))?;
    writeln!(std::io::stdout(), "rows        {} of {} numbers", searcher.rows(), settings.dim)?;
    for (name, value) in &settings.attributes {
        writeln!(std::io::stdout(), "{name:<11} {value}")?;
    }
    writeln!(
        std::io::stdout(),
        "confidence  a foreign picture scores {:.2} ± {:.2} here ({} probes)",
        calibration.location,
        calibration.scale,
        calibration.probes
    )?;
    if arguments.videos {
        for video in &videos {
            writeln!(
                std::io::stdout(),
                "{}  {:>8}  {:>6} rows  {}",
                video.id,
                talk::clock(video.duration_ms),
                video.rows,
                talk::printable(&video.path)
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn verify(arguments: &Verify) -> anyhow::Result<ExitCode> {
    let report = Index::verify(&arguments.folder.index)?;
    for problem in &report.problems {
        eprintln!("reelseek: {}: {}", problem.path.display(), problem.message);
    }
    if report.problems.is_empty() {
        writeln!(std::io::stdout(), "{} is sound", arguments.folder.index.display())?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::from(FAILED))
}

pub(super) fn remove(arguments: &Remove) -> anyhow::Result<ExitCode> {
    let index = Index::open(&arguments.folder.index)?;
    // Nobody else may write between what is read here and what is written.
    let mut writer = index.writer()?;
    let searcher = index.searcher()?;
    let mut known = Vec::new();
    for number in searcher.video_numbers() {
        known.push(searcher.video(number)?);
    }
    let mut removed = 0;
    for video in &arguments.videos {
        let text = video.to_string_lossy();
        let absolute = std::path::absolute(video).with_context(|| text.to_string())?;
        let full = match (absolute.parent().and_then(|p| p.canonicalize().ok()), absolute.file_name()) {
            (Some(folder), Some(name)) => folder.join(name),
            _ => absolute,
        };
        match known.iter().find(|v| v.id == text || v.path == full.to_string_lossy() || v.path == text) {
            Some(found) => {
                writer.remove(&found.id)?;
                removed += 1;
            }
            None => eprintln!("{}: not in the index (`reelseek info --videos` lists what is)", talk::printable(&text)),
        }
    }
    writer.commit()?;
    // What is foreign to the index has changed with it.
    ingest::calibrate(&index, &mut writer, State::of(&searcher))?;
    writer.close()?;
    writeln!(std::io::stdout(), "{removed} removed from the index; no video file was touched")?;
    Ok(if removed == 0 { ExitCode::from(FOUND_NOTHING) } else { ExitCode::SUCCESS })
}

pub(super) fn compact(arguments: &Compact) -> anyhow::Result<ExitCode> {
    let index = Index::open(&arguments.folder.index)?;
    let mut writer = index.writer()?;
    writer.compact()?;
    writer.close()?;
    writeln!(
        std::io::stdout(),
        "{}: {} rows in one segment",
        arguments.folder.index.display(),
        index.searcher()?.rows()
    )?;
    Ok(ExitCode::SUCCESS)
}
