use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{check_absent, find_videos};
use crate::cli::INTERRUPTED;
use crate::cli::args::check_exist;
use crate::cli::terminal::{self, count, note, print_line};
use crate::encode::{self, registry::LAYOUT};
use crate::features::Split;
use crate::features::archive::FeatureArchive;
use crate::features::benchmark::Benchmark;
use crate::research::extract::{self, Error};

/// Largest number of skipped rows that are listed.
const MAX_LISTED: usize = 20;

#[derive(Debug, Args)]
pub(in crate::cli) struct ExtractArgs {
    /// Videos, or folders of videos
    #[arg(value_name = "PATH", required_unless_present = "video_features")]
    paths: Vec<PathBuf>,
    /// Folder to write images.npy, videos.npy, images.jsonl and videos.jsonl to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Extract the rows of this list, which `dataset` wrote
    #[arg(long, value_name = "FILE")]
    benchmark: Option<PathBuf>,
    /// Read image features that another program extracted: a folder of .npy files, or one .npz, .safetensors
    /// or .h5 file, with one array for each video
    #[arg(long, value_name = "SOURCE", requires_all = ["benchmark", "video_features"], conflicts_with = "paths")]
    image_features: Option<PathBuf>,
    /// Read video features in the same form as --image-features
    #[arg(long, value_name = "SOURCE", requires_all = ["benchmark", "image_features"], conflicts_with = "paths")]
    video_features: Option<PathBuf>,
    /// Without --benchmark: split of the rows
    #[arg(long, value_enum, default_value_t = Split::Train)]
    split: Split,
    /// Encoder of the features
    #[arg(long, value_name = "NAME", default_value = LAYOUT)]
    encoder: String,
    /// Weights of the encoder [default: the downloaded ones]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Replace existing features
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &ExtractArgs) -> anyhow::Result<ExitCode> {
    for name in ["images.npy", "videos.npy", "images.jsonl", "videos.jsonl"] {
        check_absent(&args.out.join(name), args.force)?;
    }
    check_exist(&args.paths)?;
    let cancel = terminal::cancel_with_note("stopping; nothing is written (press Ctrl-C again to stop at once)")?;
    let benchmark = args.benchmark.as_deref().map(Benchmark::read).transpose()?;
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template("{elapsed_precise} [{wide_bar}] {pos}/{len} videos, ETA {eta}")?);
    let on_progress = |done: usize, of: usize| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    };
    let done = match (&benchmark, &args.image_features, &args.video_features) {
        (Some(benchmark), Some(images), Some(videos)) => {
            let (images, videos) = (FeatureArchive::open(images)?, FeatureArchive::open(videos)?);
            extract::benchmark_from_archives(benchmark, &images, &videos, &args.out, &cancel)
        }
        _ => {
            let encoder = encode::open(&args.encoder, args.weights.as_deref())?;
            let files = find_videos(&args.paths);
            match &benchmark {
                Some(benchmark) => {
                    extract::benchmark_from_videos(encoder.as_ref(), benchmark, &files, &args.out, &cancel, on_progress)
                }
                None => extract::videos(encoder.as_ref(), &files, args.split, &args.out, &cancel, on_progress),
            }
        }
    };
    bar.finish_and_clear();
    let summary = match done {
        Err(Error::Interrupted) => {
            note!("{}", Error::Interrupted);
            return Ok(ExitCode::from(INTERRUPTED));
        }
        done => done?,
    };
    for row in summary.left_out.iter().take(MAX_LISTED) {
        note!("skipped: {}: {}", row.id, row.reason);
    }
    if summary.left_out.len() > MAX_LISTED {
        note!("skipped: {} more", summary.left_out.len() - MAX_LISTED);
    }
    if summary.val_merged {
        note!(
            "no image of the split val belongs to one of its clips: its rows are moved to the split train; `train` and `eval` hold out a share instead"
        );
    }
    let out = args.out.display();
    print_line!(std::io::stdout(), "{out}: {}, {}", count(summary.images, "image"), count(summary.clips, "clip"))?;
    Ok(ExitCode::SUCCESS)
}
