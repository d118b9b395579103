use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use globset::{Glob, GlobSet, GlobSetBuilder};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::model::Model;
use super::{FAILED, INTERRUPTED, IndexFolder, api, talk};
use crate::ingest::closed_form::Fitted;
use crate::ingest::{self, Event, Outcome, Plan};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Videos, or folders of videos (links are followed; hidden files are left out)
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    folder: IndexFolder,
    #[command(flatten)]
    model: Model,
    /// Leave out paths or file names like this (may be repeated)
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Videos decoded at once [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Decode keyframes only: faster, the more so the further apart they are, but moments are coarser
    #[arg(long)]
    keyframes: bool,
    /// Remove videos of these folders from the index if their files are gone (see that drives are mounted)
    #[arg(long)]
    prune: bool,
    /// Try files again that could not be decoded before, though they have not changed
    #[arg(long)]
    retry: bool,
    /// Keep vectors in 16 bits a value, 256 bytes a row less of some 660 (of 1.7 KB with the sketches of layout); only for a new index (`info` tells what it costs)
    #[arg(long)]
    half: bool,
    /// Print one JSON object a file, and one with the totals
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let plan = Plan {
        paths: arguments.paths.clone(),
        exclude: globs(&arguments.exclude)?,
        jobs: arguments.jobs.map_or(cores, usize::from),
        keyframes: arguments.keyframes,
        prune: arguments.prune,
        retry: arguments.retry,
        half: arguments.half,
        weights: arguments.model.weights(),
    };
    let cancel = talk::cancel_on_interrupt()?;
    let folder = &arguments.folder.index;
    let opened = arguments.model.open(folder, &arguments.paths, &plan.exclude, &cancel);
    if cancel.is_set() {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    let (encoder, checkpoint) = opened?;
    let bar = bar();
    let mut failures = Vec::new();
    let mut broken = None;
    let summary = ingest::run(folder, &plan, encoder.as_ref(), &checkpoint, &cancel, |event| {
        let (path, outcome) = match event {
            Event::File { path, outcome } => (path, outcome),
            Event::Progress { done_bytes, total_bytes } => {
                bar.set_length(*total_bytes);
                bar.set_position(*done_bytes);
                return;
            }
        };
        let name = talk::printable(&path.to_string_lossy());
        match outcome {
            Outcome::Failed { reason } => failures.push(reason.clone()),
            Outcome::Indexed { warning: Some(warning), .. } if !arguments.json => {
                bar.suspend(|| eprintln!("warning: {name}: {}", talk::printable(warning)));
            }
            Outcome::Skipped { reason } if !arguments.json => bar.suspend(|| eprintln!("{name}: {reason}")),
            Outcome::Removed if !arguments.json => bar.suspend(|| eprintln!("removed: {name}")),
            _ => {}
        }
        if arguments.json && broken.is_none() {
            broken = bar.suspend(|| line(&api::FileEvent::new(path, outcome))).err();
        }
    })
    .with_context(|| format!("indexing into {}", folder.display()))?;
    bar.finish_and_clear();
    if let Some(error) = broken {
        return Err(error);
    }
    if arguments.json {
        line(&api::SummaryEvent::new(&summary))?;
    } else {
        talk::failures(&failures);
        writeln!(
            std::io::stdout(),
            "{} indexed, {} unchanged, {} failed, {} skipped, {} removed in {:.1} s; {} videos with {} rows in {}",
            summary.indexed,
            summary.unchanged,
            summary.failed,
            summary.skipped,
            summary.removed,
            summary.took.as_secs_f64(),
            summary.videos,
            summary.rows,
            folder.display()
        )?;
    }
    if summary.cancelled {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    if let Some(fitted) = Fitted::of(&checkpoint.record).filter(|fitted| fitted.is_outgrown(summary.videos)) {
        eprintln!(
            "this index of {} videos maps features by what {} of its first {} showed: indexed anew into another folder, it will tell kinds apart better",
            summary.videos, fitted.videos, fitted.of
        );
    }
    if summary.videos == 0 {
        eprintln!("reelseek: no video is searchable: none was found under these paths, or none could be read");
        return Ok(ExitCode::from(FAILED));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn line(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value).map_err(std::io::Error::from)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

fn globs(patterns: &[String]) -> anyhow::Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern).with_context(|| format!("--exclude {pattern}"))?);
    }
    Ok(set.build()?)
}

/// A bar over bytes: files differ a thousandfold in size, so that a count of files would promise nonsense.
pub(super) fn bar() -> ProgressBar {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    let style = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}, {elapsed} gone, {eta} to go");
    bar.set_style(style.expect("the template is a constant"));
    bar.enable_steady_tick(std::time::Duration::from_millis(500));
    bar
}
