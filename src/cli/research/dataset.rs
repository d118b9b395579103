use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::{check_absent, check_share, find_videos};
use crate::base::files;
use crate::cli::terminal::{self, note, print_line};
use crate::features::Split;
use crate::features::activitynet::{Annotations, video_name};
use crate::features::archive::FeatureArchive;
use crate::features::benchmark::{Benchmark, BenchmarkPlan, RowKind};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum DatasetCommand {
    /// The ActivityNet retrieval benchmark: frames of held-out videos are the queries, clips of the others
    /// the gallery
    #[command(name = "activitynet")]
    ActivityNet(ActivityNetArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ActivityNetArgs {
    /// Annotation file of version 1.2 or 1.3
    #[arg(long, value_name = "JSON")]
    annotations: PathBuf,
    /// Use only videos that PATH contains. PATH is a folder of videos (`v_<id>.mp4`, `<id>.webm`, ...), or
    /// extracted features (a folder of .npy files, or one .npz, .safetensors or .h5 file)
    #[arg(long, value_name = "PATH")]
    have: Option<PathBuf>,
    /// List to write (.jsonl), for `extract --benchmark`
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Write the names of missing videos to this file, one a line
    #[arg(long, value_name = "FILE", requires = "have")]
    missing: Option<PathBuf>,
    /// Seed of the choice of query videos and of the times of their frames
    #[arg(long, default_value_t = BenchmarkPlan::default().seed)]
    seed: u64,
    /// Share of the validation videos whose frames are the queries; the others are the gallery
    #[arg(long, value_name = "SHARE", default_value_t = BenchmarkPlan::default().query_share)]
    query_share: f32,
    /// Share of the training videos used for validation
    #[arg(long, value_name = "SHARE", default_value_t = BenchmarkPlan::default().val_share)]
    val_share: f32,
    /// Replace the list if it exists
    #[arg(long)]
    force: bool,
}

pub(super) fn run(command: &DatasetCommand) -> anyhow::Result<ExitCode> {
    let DatasetCommand::ActivityNet(args) = command;
    check_share("--query-share", args.query_share, false)?;
    check_share("--val-share", args.val_share, true)?;
    for out in [Some(&args.out), args.missing.as_ref()].into_iter().flatten() {
        check_absent(out, args.force)?;
    }
    let annotations = Annotations::read(&args.annotations)?;
    let withheld = annotations.videos.values().filter(|video| video.labels.is_empty()).count();
    note!(
        "{}: {}, {}; {} without labels; {} of no length skipped",
        annotations.version,
        terminal::count(annotations.videos.len(), "video"),
        terminal::count(annotations.labels().len(), "label"),
        terminal::count(withheld, "video"),
        terminal::count(annotations.degenerate.len(), "segment")
    );
    let plan = BenchmarkPlan { seed: args.seed, query_share: args.query_share, val_share: args.val_share };
    let mut benchmark = Benchmark::draw(&annotations, plan);
    if let Some(path) = &args.have {
        let have = videos_in(path)?;
        let missing = benchmark.retain_videos(|video| have.contains(video));
        note!("{} lacks {} of the benchmark", path.display(), terminal::count(missing.len(), "video"));
        if let Some(out) = &args.missing {
            write(out, |file| missing.iter().try_for_each(|video| print_line!(file, "{video}")))?;
        }
    }
    if benchmark.merge_small_val() {
        note!(
            "too few videos for the split val: its rows are moved to the split train; `train` and `eval` hold out a share instead"
        );
    }
    let count = |kind, split| benchmark.count(kind, split);
    let splits = [Split::Train, Split::Test];
    for split in splits {
        if count(RowKind::Image, split) == 0 || count(RowKind::Clip, split) == 0 {
            note!("warning: the split {split} has no images or no clips");
        }
    }
    if benchmark.items.is_empty() {
        bail!("no video of the benchmark was found; name files by the video's id, with or without v_ before it");
    }
    write(&args.out, |file| benchmark.write(file))?;
    print_line!(
        std::io::stdout(),
        "{}: train {} and {}, val {} and {}, test {} against {}",
        args.out.display(),
        terminal::count(count(RowKind::Image, Split::Train), "image"),
        terminal::count(count(RowKind::Clip, Split::Train), "clip"),
        count(RowKind::Image, Split::Val),
        count(RowKind::Clip, Split::Val),
        terminal::count(count(RowKind::Image, Split::Test), "query"),
        terminal::count(count(RowKind::Clip, Split::Test), "clip")
    )?;
    Ok(ExitCode::SUCCESS)
}

fn write(
    out: &Path,
    fill: impl FnOnce(&mut std::io::BufWriter<std::fs::File>) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    files::replace_buffered(out, fill).with_context(|| format!("writing {}", out.display()))
}

/// The names of the videos in a folder, or in an archive of features.
fn videos_in(path: &Path) -> anyhow::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    if path.is_dir() {
        names.extend(find_videos(&[path.to_owned()]).iter().map(|path| video_name(path)));
        if !names.is_empty() {
            return Ok(names);
        }
    }
    names.extend(FeatureArchive::open(path)?.videos().map(str::to_owned));
    Ok(names)
}
