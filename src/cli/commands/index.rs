use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use crate::cli::args::{IndexFolderArgs, KindModelArgs, ModelArgs, globs};
use crate::cli::output::{FileOutput, IndexOutput};
use crate::cli::terminal::{self, ByteBar, count, note, print_line};
use crate::cli::{FAILED, INTERRUPTED, advice};
use crate::ingest::closed_form::FitSample;
use crate::ingest::{FileOutcome, IndexEvent, IndexOptions, IndexSummary, Indexer};

#[derive(Debug, Args)]
pub(crate) struct IndexArgs {
    /// Videos, or folders of videos; links are followed, hidden files are skipped
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    folder: IndexFolderArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    kind: KindModelArgs,
    /// Skip paths or file names that match (can be repeated)
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Number of videos decoded concurrently [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Decode keyframes only: faster, but moments are coarser
    #[arg(long)]
    keyframes: bool,
    /// Remove videos under PATH from the index if their files are gone. Mount all drives first
    #[arg(long)]
    prune: bool,
    /// Decode files again that could not be decoded before, even if they have not changed
    #[arg(long)]
    retry: bool,
    /// Store vectors of a new index with 16 bits a value, which saves 256 bytes for each row (`info` measures
    /// the loss)
    #[arg(long)]
    half: bool,
    /// Print one JSON object for each file, and one with the totals
    #[arg(long)]
    json: bool,
}

impl IndexArgs {
    fn options(&self) -> anyhow::Result<IndexOptions> {
        let options = IndexOptions::new(&self.paths)
            .exclude(globs(&self.exclude)?)
            .keyframes(self.keyframes)
            .prune(self.prune)
            .retry(self.retry)
            .half(self.half)
            .model(self.model.choice());
        let options = self.kind.apply(options)?;
        Ok(match self.jobs {
            Some(jobs) => options.jobs(jobs.into()),
            None => options,
        })
    }
}

pub(crate) fn run(args: &IndexArgs) -> anyhow::Result<ExitCode> {
    let options = args.options()?;
    let folder = &args.folder.index;
    let cancel = terminal::cancel_on_interrupt()?;
    let indexer = Indexer::open(folder, options, &cancel, |event| note!("{}", advice::fit_note(event)));
    if cancel.is_set() {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    let context = || format!("indexing into {}", folder.display());
    let indexer = indexer.with_context(context)?;
    let mut printer = EventPrinter { json: args.json, bar: ByteBar::new(), failures: Vec::new(), broken: None };
    let summary = indexer.run(&cancel, |event| printer.print(&event));
    printer.bar.finish();
    let summary = summary.with_context(context)?;
    if let Some(error) = printer.broken {
        return Err(error);
    }
    if args.json {
        terminal::print_json(&IndexOutput::new(&summary))?;
    } else {
        terminal::print_failures(&printer.failures);
        print_summary(&summary, folder)?;
    }
    if summary.cancelled {
        note!("interrupted; run the same command to continue");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    note_outgrown_fit(&indexer, &summary);
    note_kept(&summary);
    Ok(verdict(args, &summary))
}

/// Prints the outcome of each file, and the progress.
struct EventPrinter {
    json: bool,
    bar: ByteBar,
    failures: Vec<String>,
    /// The error after which standard output is no longer written.
    broken: Option<anyhow::Error>,
}

impl EventPrinter {
    fn print(&mut self, event: &IndexEvent) {
        let (path, outcome) = match event {
            IndexEvent::File { path, outcome } => (path, outcome),
            IndexEvent::Progress { done_bytes, total_bytes } => return self.bar.update(*done_bytes, *total_bytes),
        };
        if self.json {
            if self.broken.is_none() {
                self.broken = self.bar.suspend(|| terminal::print_json(&FileOutput::new(path, outcome))).err();
            }
            return;
        }
        let name = path.display();
        let note = match outcome {
            FileOutcome::Failed { error, kept } => return self.failures.push(advice::failed_file(error, *kept)),
            FileOutcome::Indexed { warning: Some(warning), .. } => format!("warning: {name}: {}", warning),
            FileOutcome::Missing => format!("{name}: {}", advice::MISSING_FILE),
            FileOutcome::Removed => format!("removed: {name}"),
            FileOutcome::Indexed { .. } | FileOutcome::Unchanged { .. } => return,
        };
        self.bar.suspend(|| note!("{note}"));
    }
}

fn print_summary(summary: &IndexSummary, folder: &Path) -> std::io::Result<()> {
    let IndexSummary { indexed, unchanged, failed, skipped, removed, .. } = summary;
    let seconds = summary.took.as_secs_f64();
    let (videos, mut rows) = (count(summary.videos, "video"), count(summary.rows, "row"));
    if let Some(kind_rows) = summary.kind_rows {
        rows.push_str(&format!(" and {} of the kind space", count(kind_rows, "row")));
    }
    print_line!(
        std::io::stdout(),
        "{indexed} indexed, {unchanged} unchanged, {failed} failed, {skipped} skipped, {removed} removed in {seconds:.1} s; {videos} with {rows} in {}",
        folder.display()
    )
}

/// Suggests a new index if this one holds many more videos than its checkpoint was fitted to.
fn note_outgrown_fit(indexer: &Indexer, summary: &IndexSummary) {
    let fitted = FitSample::recorded_in(&indexer.model().checkpoint.record);
    if let Some(fitted) = fitted.filter(|fitted| fitted.is_outgrown(summary.videos)) {
        note!(
            "note: the checkpoint of this index was fitted to {}, and the index now holds {}; index them again into another folder to separate them better",
            count(fitted.videos, "video"),
            summary.videos
        );
    }
}

/// Names the videos that the index keeps, although the caller may expect that they are gone.
fn note_kept(summary: &IndexSummary) {
    if summary.unreachable > 0 {
        note!(
            "the index keeps {} under paths that are not found; `reelseek remove PATH` removes a video or a folder from the index",
            count(summary.unreachable, "video")
        );
    }
    if summary.excluded > 0 {
        note!(
            "the index keeps {} that --exclude matches; `reelseek remove PATH` removes a video or a folder from the index",
            count(summary.excluded, "video")
        );
    }
}

/// The exit status, with a note if it is an error or if no video was found.
fn verdict(args: &IndexArgs, summary: &IndexSummary) -> ExitCode {
    if summary.found() == 0 && summary.not_found < args.paths.len() {
        let paths: Vec<String> = args.paths.iter().map(|path| path.display().to_string()).collect();
        note!("no video files were found in {}; a folder's videos are recognised by their extension", paths.join(", "));
    }
    if summary.not_found > 0 {
        note!("reelseek: {} not found or not readable", count(summary.not_found, "path"));
        return ExitCode::from(FAILED);
    }
    if summary.videos == 0 {
        let cause = if summary.found() == 0 { "" } else { ": no file could be decoded" };
        note!("reelseek: the index holds no videos{cause}");
        return ExitCode::from(FAILED);
    }
    ExitCode::SUCCESS
}
