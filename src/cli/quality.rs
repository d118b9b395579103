use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use globset::GlobSet;
use reelseek_index::Index;

use super::model::Model;
use super::{FOUND_NOTHING, INTERRUPTED, gallery, talk};
use crate::research::eval::quality::{self, Equivalent, Report, Suite};
use crate::search::Engine;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Videos or folders: indexed into a temporary folder, then asked for
    #[arg(value_name = "PATH", required_unless_present = "index")]
    paths: Vec<PathBuf>,
    /// Measure this index as it is, in place of PATH
    #[arg(long, value_name = "DIR", conflicts_with = "paths")]
    index: Option<PathBuf>,
    #[command(flatten)]
    model: Model,
    /// Frames of each video
    #[arg(long, value_name = "N", default_value_t = 5)]
    frames: usize,
    /// Decides times and distortions
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Ask only for videos that the checkpoint was not trained on (the others stay in the gallery)
    #[arg(long)]
    held_out: bool,
    /// JSON list of videos that show the same scene: [{"videos": ["a.mp4", "b.mp4"], "reason": "..."}]
    #[arg(long, value_name = "FILE")]
    equivalents: Option<PathBuf>,
    /// End with status 1 if the share of right videos is lower, or frames could not be decoded
    #[arg(long, value_name = "SHARE")]
    floor: Option<f64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let cancel = talk::cancel_on_interrupt()?;
    let temporary = tempfile::tempdir()?;
    let folder = arguments.index.clone().unwrap_or_else(|| temporary.path().join("index"));
    let opened = arguments.model.open(&folder, &arguments.paths, &GlobSet::empty(), &cancel);
    if cancel.is_set() {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    let (encoder, checkpoint) = opened?;
    let trained: Vec<String> = match (arguments.held_out, checkpoint.record.training.get("videos")) {
        (true, Some(videos)) => serde_json::from_value(videos.clone()).context("the checkpoint's list of videos")?,
        _ => Vec::new(),
    };
    let suite = Suite {
        frames: arguments.frames,
        seed: arguments.seed,
        leave_out: trained,
        equivalents: arguments.equivalents.as_deref().map(Equivalent::read).transpose()?.unwrap_or_default(),
    };
    let mut failed = 0;
    if arguments.index.is_none() {
        failed = gallery::make(&folder, &arguments.paths, encoder.as_ref(), &checkpoint, &cancel)?.failed;
    }
    // A gallery that is half there would be measured as if it were whole.
    if cancel.is_set() {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    let engine = Engine::new(Index::open(&folder)?.searcher()?, encoder, checkpoint);
    let report = quality::run(&engine, &suite, &cancel, |path| eprintln!("{}", talk::printable(path)));
    if cancel.is_set() {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    let report = report?;
    // Before anything is printed: a reader that goes away does not make a measure pass.
    let passed = passes(arguments.floor, &report);
    let printed = if arguments.json { print_json(&report, failed, suite.seed) } else { print(&report, failed) };
    if passed {
        printed?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::from(FOUND_NOTHING))
}

/// Below the floor is a failure; so is a measure that lost frames, since it says nothing of those.
fn passes(floor: Option<f64>, report: &Report) -> bool {
    let right = report.overall.share(report.overall.right);
    floor.is_none_or(|floor| right >= floor && report.undecodable_frames == 0)
}

fn print_json(report: &Report, failed: usize, seed: u64) -> std::io::Result<()> {
    let rows = report.distortions.iter().map(|(name, row)| json(name, row));
    let value = serde_json::json!({
        "gallery": report.gallery, "failed": failed, "asked": report.asked, "flat_frames": report.flat_frames, "undecodable_frames": report.undecodable_frames,
        "seed": seed, "median_query_ms": report.median_query_ms,
        "distortions": rows.collect::<Vec<_>>(), "overall": json("overall", &report.overall),
    });
    writeln!(std::io::stdout(), "{value}")
}

fn json(name: &str, row: &quality::Row) -> serde_json::Value {
    serde_json::json!({
        "distortion": name, "queries": row.queries, "video": row.share(row.right), "moment": row.share(row.moment),
        "confident": row.share(row.sure), "falsely_confident": row.share(row.falsely_sure),
    })
}

fn print(report: &Report, failed: usize) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<22} {:>7} {:>7} {:>7} {:>9} {:>9}",
        "distortion", "queries", "video", "moment", "confident", "falsely"
    )?;
    for (name, row) in report.distortions.iter().chain([&("overall", report.overall)]) {
        writeln!(
            out,
            "{name:<22} {:>7} {:>7.3} {:>7.3} {:>9.3} {:>9.3}",
            row.queries,
            row.share(row.right),
            row.share(row.moment),
            row.share(row.sure),
            row.share(row.falsely_sure)
        )?;
    }
    writeln!(
        out,
        "{} videos in the gallery, {} asked for, {} flat frames left out, {:.2} ms a query (median)",
        report.gallery, report.asked, report.flat_frames, report.median_query_ms
    )?;
    if failed > 0 {
        writeln!(out, "{failed} videos could not be indexed and are not in the gallery")?;
    }
    if report.undecodable_frames > 0 {
        writeln!(
            out,
            "{} frames could not be decoded and say nothing; no floor is passed without them",
            report.undecodable_frames
        )?;
    }
    writeln!(
        out,
        "video: the right one first; moment: also `at` within 2 s; confident: right with confidence of 0.95 or more;"
    )?;
    writeln!(out, "falsely: as confident with the right video taken out of the gallery")
}
