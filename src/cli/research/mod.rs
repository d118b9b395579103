//! Commands that train and measure.

mod dataset;
mod eval;
mod extract;
mod fold;
mod kinds;
mod looks;
mod quality;
mod train;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use globset::GlobSet;

use crate::base::Cancel;
use crate::cli::terminal::note;
use crate::cli::{advice, terminal};
use crate::ingest::{FileOutcome, IndexEvent, IndexSummary, Indexer};
use crate::media;

#[derive(Debug, Subcommand)]
pub(super) enum ResearchCommand {
    /// Measure search: distorted frames of the indexed videos as queries
    Quality(quality::QualityArgs),
    /// Measure search: photographs of the same kind of scene as queries
    Kinds(kinds::KindsArgs),
    /// Train a checkpoint on a feature set, or on your own videos without labels
    Train(train::TrainArgs),
    /// Write a feature set from videos, or from features that another program extracted
    Extract(extract::ExtractArgs),
    /// Write the list of a retrieval benchmark: which frames are queries, and which clips they are to find
    #[command(subcommand)]
    Dataset(dataset::DatasetCommand),
    /// Measure image-to-video retrieval on a feature set: mAP@k, and the table of the GMF paper
    Eval(eval::EvalArgs),
    /// Fold a trained checkpoint into the small one that `index` and `search` use
    Fold(fold::FoldArgs),
}

pub(super) fn run(command: &ResearchCommand) -> anyhow::Result<ExitCode> {
    match command {
        ResearchCommand::Quality(args) => quality::run(args),
        ResearchCommand::Kinds(args) => kinds::run(args),
        ResearchCommand::Train(args) => train::run(args),
        ResearchCommand::Extract(args) => extract::run(args),
        ResearchCommand::Dataset(command) => dataset::run(command),
        ResearchCommand::Eval(args) => eval::run(args),
        ResearchCommand::Fold(args) => fold::run(args),
    }
}

/// The videos in files and folders. Prints why other paths are skipped.
fn find_videos(paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut videos = Vec::new();
    for found in media::walk::videos(paths, &GlobSet::empty()) {
        match found {
            Ok(path) => videos.push(path),
            Err((_, error)) => note!("skipped: {error}"),
        }
    }
    videos
}

/// Indexes the videos, and prints which of them failed.
fn index_videos(indexer: &Indexer, cancel: &Cancel) -> anyhow::Result<IndexSummary> {
    let mut failures = Vec::new();
    let summary = indexer.run(cancel, |event| {
        if let IndexEvent::File { outcome: FileOutcome::Failed { error, kept }, .. } = &event {
            failures.push(advice::failed_file(error, *kept));
        }
    })?;
    terminal::print_failures(&failures);
    Ok(summary)
}

/// Refuses to overwrite a file.
fn check_absent(path: &Path, force: bool) -> anyhow::Result<()> {
    if path.exists() && !force {
        bail!("{} exists; --force replaces it", path.display());
    }
    Ok(())
}

/// Refuses a folder that cannot be written, before anything is computed.
fn check_writable(folder: &Path) -> anyhow::Result<()> {
    tempfile::NamedTempFile::new_in(folder).with_context(|| format!("{} cannot be written", folder.display()))?;
    Ok(())
}

/// Refuses a share outside its range: below 1, and above 0 or, if `zero` is set, at least 0.
fn check_share(option: &str, share: f32, zero: bool) -> anyhow::Result<()> {
    let inside = share < 1.0 && (share > 0.0 || zero && share == 0.0);
    anyhow::ensure!(
        inside,
        "{option} is {share}: expected a number {} 0 and below 1",
        if zero { "from" } else { "above" }
    );
    Ok(())
}
