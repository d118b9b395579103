use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use tempfile::TempDir;

use super::{index_videos, looks};
use crate::base::Cancel;
use crate::cli::args::{ModelArgs, check_exist};
use crate::cli::terminal::{self, count, note, print_line};
use crate::cli::{FOUND_NOTHING, INTERRUPTED, advice};
use crate::collection::{Collection, Model};
use crate::ingest::{IndexOptions, Indexer};
use crate::media::looks::Look;
use crate::research::eval::quality::{self, EquivalentVideos, QualityReport, QualitySuite};
use crate::search::Engine;

#[derive(Debug, Args)]
pub(in crate::cli) struct QualityArgs {
    /// Videos or folders of videos. They are indexed into a temporary folder, and their frames are the
    /// queries
    #[arg(value_name = "PATH", required_unless_present = "index")]
    paths: Vec<PathBuf>,
    /// Measure this index instead of PATH
    #[arg(long, value_name = "DIR", conflicts_with = "paths")]
    index: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    /// Number of frames of each video
    #[arg(long, value_name = "N", default_value_t = 5)]
    frames: usize,
    /// Seed of the frames' times and of the distortions
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Take queries only from videos that the checkpoint was not trained on; the others stay in the gallery
    #[arg(long)]
    held_out: bool,
    /// JSON list of videos that show the same scene: [{"videos": ["a.mp4", "b.mp4"], "reason": "..."}]
    #[arg(long, value_name = "FILE")]
    equivalents: Option<PathBuf>,
    /// Exit with status 1 if the share of correct videos is lower, or if frames could not be decoded
    #[arg(long, value_name = "SHARE")]
    pub(super) floor: Option<f64>,
    /// Search for frames as people have them: on a phone, in an application, on a page, in a photograph of a
    /// screen, rotated, damaged
    #[arg(long)]
    looks: bool,
    /// Only these looks, separated by commas, such as `player,web-page`
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = look, requires = "looks")]
    pub(super) only: Vec<Look>,
    /// Write the pictures that were searched for into this folder, to see them
    #[arg(long, value_name = "DIR", requires = "looks")]
    pub(super) save: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

fn look(name: &str) -> Result<Look, String> {
    let names = Look::ALL.map(Look::name);
    Look::ALL.into_iter().find(|look| look.name() == name).ok_or_else(|| format!("the looks are {}", names.join(", ")))
}

pub(super) fn run(args: &QualityArgs) -> anyhow::Result<ExitCode> {
    check_exist(&args.paths)?;
    let cancel = terminal::cancel_on_interrupt()?;
    let interrupted = Ok(ExitCode::from(INTERRUPTED));
    let temporary = tempfile::tempdir()?;
    let (suite, engine, failed) = match open(args, &temporary, &cancel) {
        // After an interruption the gallery is incomplete, so its figures would be wrong.
        _ if cancel.is_set() => return interrupted,
        opened => opened?,
    };
    if args.looks {
        return looks::run(args, &engine, &suite, failed, &cancel);
    }
    let report = match quality::run(&engine, &suite, &cancel, |path| note!("{path}")) {
        _ if cancel.is_set() => return interrupted,
        report => report?,
    };
    let correct = report.overall.share(report.overall.correct);
    conclude(args.floor, correct, report.undecodable_frames, || match args.json {
        true => print_json(&report, failed, suite.seed),
        false => print(&report, failed),
    })
}

/// Prints a report. The status says whether the share of right answers reaches the floor and all frames were
/// measured.
pub(super) fn conclude(
    floor: Option<f64>,
    correct: f64,
    undecodable_frames: usize,
    print: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    // Decided before printing, so that a closed standard output does not hide a failed measurement.
    let passed = floor.is_none_or(|floor| correct >= floor && undecodable_frames == 0);
    let printed = print();
    if passed {
        printed?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(floor) = floor {
        note!("below --floor {floor}, or not all frames were measured: {correct:.3} of the answers are right");
    }
    Ok(ExitCode::from(FOUND_NOTHING))
}

/// The suite, an engine on the videos, and how many of them could not be indexed.
fn open(args: &QualityArgs, temporary: &TempDir, cancel: &Cancel) -> anyhow::Result<(QualitySuite, Engine, usize)> {
    if let Some(folder) = &args.index {
        let collection = Collection::open(folder)?;
        let model = collection.model(&args.model.choice())?;
        return Ok((suite(args, &model)?, Engine::new(&collection, model)?, 0));
    }
    let options = IndexOptions::new(&args.paths).model(args.model.choice()).scene_only(true);
    let indexer =
        Indexer::open(&temporary.path().join("index"), options, cancel, |event| note!("{}", advice::fit_note(event)))?;
    let suite = suite(args, indexer.model())?;
    let summary = index_videos(&indexer, cancel)?;
    anyhow::ensure!(summary.videos > 0, "no video was found under these paths, or none could be indexed");
    Ok((suite, indexer.into_engine()?, summary.failed))
}

fn suite(args: &QualityArgs, model: &Model) -> anyhow::Result<QualitySuite> {
    let leave_out: Vec<String> = match (args.held_out, model.checkpoint.record.training.get("videos")) {
        (true, Some(videos)) => serde_json::from_value(videos.clone()).context("the checkpoint's list of videos")?,
        _ => Vec::new(),
    };
    let equivalents = args.equivalents.as_deref().map(EquivalentVideos::read).transpose()?.unwrap_or_default();
    Ok(QualitySuite { frames: args.frames, seed: args.seed, leave_out, equivalents })
}

fn print_json(report: &QualityReport, failed: usize, seed: u64) -> anyhow::Result<()> {
    let rows = report.distortions.iter().map(|(name, row)| json(name, row));
    let value = serde_json::json!({
        "gallery": report.gallery, "failed": failed, "asked": report.queried_videos, "flat_frames": report.flat_frames, "undecodable_frames": report.undecodable_frames,
        "seed": seed, "median_query_ms": report.median_query_ms,
        "distortions": rows.collect::<Vec<_>>(), "overall": json("overall", &report.overall),
    });
    terminal::print_json(&value)
}

fn json(name: &str, row: &quality::DistortionCounts) -> serde_json::Value {
    serde_json::json!({
        "distortion": name, "queries": row.queries, "video": row.share(row.correct), "moment": row.share(row.moment),
        "confident": row.share(row.confident), "falsely_confident": row.share(row.falsely_confident),
    })
}

fn print(report: &QualityReport, failed: usize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    print_line!(
        out,
        "{:<22} {:>7} {:>7} {:>7} {:>9} {:>9}",
        "distortion",
        "queries",
        "video",
        "moment",
        "confident",
        "falsely"
    )?;
    for (name, row) in report.distortions.iter().chain([&("overall", report.overall)]) {
        print_line!(
            out,
            "{name:<22} {:>7} {:>7.3} {:>7.3} {:>9.3} {:>9.3}",
            row.queries,
            row.share(row.correct),
            row.share(row.moment),
            row.share(row.confident),
            row.share(row.falsely_confident)
        )?;
    }
    print_line!(
        out,
        "{} in the gallery, {} of them queried, {} skipped, {:.2} ms a query (median)",
        count(report.gallery, "video"),
        report.queried_videos,
        count(report.flat_frames, "flat frame"),
        report.median_query_ms
    )?;
    print_left_out(&mut out, failed, report.undecodable_frames)?;
    print_line!(
        out,
        "video: the correct video is first; moment: the same, with `at` within 2 s; confident: the same as video, with a confidence of at least 0.95;"
    )?;
    print_line!(out, "falsely: an answer with such a confidence after the correct video was removed from the gallery")?;
    Ok(())
}

/// Videos and frames that the figures do not cover.
pub(super) fn print_left_out(out: &mut impl Write, failed: usize, undecodable_frames: usize) -> std::io::Result<()> {
    if failed > 0 {
        print_line!(out, "not in the gallery: {} that could not be indexed", count(failed, "video"))?;
    }
    if undecodable_frames > 0 {
        print_line!(
            out,
            "{} could not be decoded and measured, so any --floor fails",
            count(undecodable_frames, "frame")
        )?;
    }
    Ok(())
}
