use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use super::quality::{QualityArgs, conclude, print_left_out};
use crate::base::Cancel;
use crate::cli::INTERRUPTED;
use crate::cli::terminal::{self, count, note, print_line};
use crate::media::looks::Look;
use crate::research::eval::Error;
use crate::research::eval::looks::{self, LookCounts, LookQuery, LooksReport};
use crate::research::eval::quality::QualitySuite;
use crate::search::Engine;

/// Measures the looks and prints their table.
pub(super) fn run(
    args: &QualityArgs,
    engine: &Engine,
    suite: &QualitySuite,
    failed: usize,
    cancel: &Cancel,
) -> anyhow::Result<ExitCode> {
    if let Some(folder) = &args.save {
        std::fs::create_dir_all(folder).map_err(|source| Error::Io { path: folder.clone(), source })?;
    }
    let chosen = if args.only.is_empty() { Look::ALL.to_vec() } else { args.only.clone() };
    let save = |query: &LookQuery<'_>| args.save.as_deref().map_or(Ok(()), |folder| save(folder, query));
    let report = match looks::run(engine, suite, &chosen, cancel, |path| note!("{path}"), save) {
        _ if cancel.is_set() => return Ok(ExitCode::from(INTERRUPTED)),
        report => report?,
    };
    let correct = report.overall.share(report.overall.correct);
    conclude(args.floor, correct, report.undecodable_frames, || match args.json {
        true => print_json(&report, failed, suite.seed),
        false => print(&report, failed),
    })
}

/// Writes the picture of a query as PNG. Its name has the look, the video, the time and the outcome.
fn save(folder: &Path, query: &LookQuery<'_>) -> Result<(), Error> {
    let outcome = if query.correct { "right" } else { "wrong" };
    let video = Path::new(query.path).file_stem().unwrap_or_default().to_string_lossy();
    let path = folder.join(format!("{}-{video}-{}ms-{outcome}.png", query.look.name(), query.at_ms));
    let picture = &query.drawn.picture;
    image::save_buffer(&path, &picture.rgb, picture.width, picture.height, image::ColorType::Rgb8)
        .map_err(|error| Error::Io { path, source: std::io::Error::other(error) })
}

fn print_json(report: &LooksReport, failed: usize, seed: u64) -> anyhow::Result<()> {
    let rows = report.looks.iter().map(|(name, row)| json(name, row));
    let value = serde_json::json!({
        "gallery": report.gallery, "failed": failed, "asked": report.queried_videos,
        "flat_frames": report.flat_frames, "undecodable_frames": report.undecodable_frames, "seed": seed,
        "looks": rows.collect::<Vec<_>>(), "overall": json("overall", &report.overall),
    });
    terminal::print_json(&value)
}

fn json(name: &str, row: &LookCounts) -> serde_json::Value {
    serde_json::json!({
        "look": name, "queries": row.queries, "video": row.share(row.correct), "moment": row.share(row.moment),
        "confident": row.share(row.confident), "wrong": row.share(row.wrong),
        "falsely_confident": row.share(row.falsely_confident), "region": row.mean_overlap(),
        "mean_ms": row.mean_ms(), "p95_ms": row.p95_ms(),
    })
}

fn print(report: &LooksReport, failed: usize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    print_line!(
        out,
        "{:<14} {:>7} {:>6} {:>6} {:>9} {:>6} {:>7} {:>6} {:>7} {:>7}",
        "look",
        "queries",
        "video",
        "moment",
        "confident",
        "wrong",
        "falsely",
        "region",
        "ms",
        "p95 ms"
    )?;
    for (name, row) in report.looks.iter().map(|(name, row)| (*name, row)).chain([("overall", &report.overall)]) {
        print_line!(
            out,
            "{name:<14} {:>7} {:>6.3} {:>6.3} {:>9.3} {:>6.3} {:>7.3} {:>6.3} {:>7.2} {:>7.2}",
            row.queries,
            row.share(row.correct),
            row.share(row.moment),
            row.share(row.confident),
            row.share(row.wrong),
            row.share(row.falsely_confident),
            row.mean_overlap(),
            row.mean_ms(),
            row.p95_ms()
        )?;
    }
    print_line!(
        out,
        "{} in the gallery, {} of them queried, {} skipped",
        count(report.gallery, "video"),
        report.queried_videos,
        count(report.flat_frames, "flat frame")
    )?;
    print_left_out(&mut out, failed, report.undecodable_frames)?;
    for line in [
        "video: the correct video is first; moment: the same, with `at` within 2 s; confident: the same as video, with a confidence of at least 0.95;",
        "wrong: another video is first, with such a confidence; falsely: the same after the correct video was removed from the gallery;",
        "region: overlap of the region that the answer reports with the frame's visible part (intersection over union);",
        "ms, p95 ms: mean and 95th percentile of the time of a query, from picture to answer",
    ] {
        print_line!(out, "{line}")?;
    }
    Ok(())
}
