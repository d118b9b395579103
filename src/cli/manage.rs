use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use reelseek_index::{Effort, Index, Precision, Searcher};

use super::{FAILED, FOUND_NOTHING, IndexFolder, talk};
use crate::encode::registry::LAYOUT;
use crate::ingest;
use crate::search::{ENCODER, State};

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

/// Rows that recall is measured on.
const SAMPLE: usize = 200;
/// Recall that the breadth of search is measured for.
const RECALL: f64 = 0.99;

/// What is known of searches in the graphs of an index.
#[derive(Debug, serde::Serialize)]
struct Recall {
    /// ann_recall@10 of a search as it is without options.
    default: f64,
    /// The smallest breadth that reaches [`RECALL`], if one does.
    ef: Option<usize>,
}

/// Measured on the index's own rows; `None` if every search is exact for want of graphs.
fn recall(searcher: &Searcher) -> reelseek_index::Result<Option<Recall>> {
    if searcher.segments().1 == 0 {
        return Ok(None);
    }
    let efs: Vec<usize> = (4..=12).map(|power| 1 << power).collect();
    let mut efforts = vec![Effort::Default];
    efforts.extend(efs.iter().map(|ef| Effort::Ef(*ef)));
    let recalls = searcher.ann_recall(SAMPLE, 10, &efforts)?;
    let ef = efs.into_iter().zip(&recalls[1..]).find(|(_, recall)| **recall >= RECALL).map(|(ef, _)| ef);
    Ok(Some(Recall { default: recalls[0], ef }))
}

pub(super) fn info(arguments: &Info) -> anyhow::Result<ExitCode> {
    let folder = &arguments.folder.index;
    let searcher = Index::open(folder)?.searcher()?;
    let mut videos = Vec::new();
    for number in searcher.video_numbers() {
        videos.push(searcher.video(number)?);
    }
    let state = State::of(&searcher);
    let (calibration, _) = state.calibrations(searcher.settings().sketch > 0);
    let encoder = searcher.settings().attributes.get(ENCODER);
    let same_scene = encoder.is_none_or(|id| id.split('/').next() == Some(LAYOUT));
    let duration_ms: u64 = videos.iter().map(|v| v.duration_ms).sum();
    let settings = searcher.settings();
    let recall = recall(&searcher)?;
    let (segments, graphs) = searcher.segments();
    let bits = if settings.precision == Precision::Half { 16 } else { 32 };
    let rounding = searcher.rounding_recall();
    let megabytes = searcher.mapped_bytes() as f64 / 1e6;
    if arguments.json {
        let mut value = serde_json::json!({
            "index": folder.to_string_lossy(),
            "videos": videos.len(),
            "rows": searcher.rows(),
            "duration": duration_ms as f64 / 1000.0,
            "dim": settings.dim,
            "attributes": settings.attributes,
            "calibration": calibration,
            "bytes": searcher.mapped_bytes(),
            "segments": segments,
            "graphs": graphs,
            "deleted_share": searcher.deleted_share(),
            "ann_recall@10": recall.as_ref().map_or(1.0, |r| r.default),
            "ef_for_0.99": recall.as_ref().and_then(|r| r.ef),
            "bits": bits,
            "sketch_bytes": settings.sketch,
            "rounding_recall@10": rounding,
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
    writeln!(std::io::stdout(), "rows        {} of {} numbers of {bits} bits", searcher.rows(), settings.dim)?;
    if let Some(rounding) = rounding {
        writeln!(
            std::io::stdout(),
            "rounding    recall@10 {rounding:.4} of 16 bits against what was put, within each batch as it was put"
        )?;
    }
    writeln!(
        std::io::stdout(),
        "segments    {segments}, {graphs} with a graph; {:.1} % of their rows deleted{}",
        searcher.deleted_share() * 100.0,
        if searcher.deleted_share() > 0.2 { " (`reelseek compact` removes them)" } else { "" }
    )?;
    writeln!(
        std::io::stdout(),
        "memory      {megabytes:.1} MB of vectors and graphs, mapped: searches are fastest with as much free"
    )?;
    match &recall {
        None => writeln!(std::io::stdout(), "recall      1: every search compares all rows")?,
        Some(recall) => {
            let ef = recall.ef.map_or("only --exact reaches".to_owned(), |ef| format!("--ef {ef} reaches"));
            writeln!(std::io::stdout(), "recall      ann_recall@10 {:.3} by default; {ef} {RECALL}", recall.default)?;
        }
    }
    for (name, value) in &settings.attributes {
        writeln!(std::io::stdout(), "{name:<11} {value}")?;
    }
    writeln!(
        std::io::stdout(),
        "confidence  a foreign picture gets to {:.2} - {:.2} + {:.2} here ({} probes)",
        calibration.location,
        calibration.scale,
        if calibration.upper > 0.0 { calibration.upper } else { calibration.scale },
        calibration.probes
    )?;
    if settings.sketch > 0 {
        writeln!(
            std::io::stdout(),
            "sketches    {} bytes a row: the best candidates get a second look",
            settings.sketch
        )?;
    } else if same_scene {
        writeln!(
            std::io::stdout(),
            "sketches    none: made by an earlier version; index into another folder for a second look at candidates"
        )?;
    }
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
