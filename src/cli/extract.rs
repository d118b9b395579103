use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use globset::GlobSet;
use indicatif::{ProgressBar, ProgressStyle};

use super::{INTERRUPTED, talk};
use crate::encode::{self, registry::LAYOUT};
use crate::features::Split;
use crate::features::benchmark::Benchmark;
use crate::features::sources::Source;
use crate::media;
use crate::research::extract::{self, Error};

/// Rows left out that are told one by one.
const MAX_LISTED: usize = 20;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Videos, or folders of videos
    #[arg(value_name = "PATH", required_unless_present = "video_features")]
    paths: Vec<PathBuf>,
    /// Folder for images.npy, videos.npy, images.jsonl and videos.jsonl
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Make the rows of this list, as `dataset` writes it
    #[arg(long, value_name = "FILE")]
    benchmark: Option<PathBuf>,
    /// Take image features that others extracted: a folder of .npy files, one .npz, .safetensors or .h5, an array a video
    #[arg(long, value_name = "SOURCE", requires_all = ["benchmark", "video_features"], conflicts_with = "paths")]
    image_features: Option<PathBuf>,
    /// Take video features that others extracted, likewise
    #[arg(long, value_name = "SOURCE", requires_all = ["benchmark", "image_features"], conflicts_with = "paths")]
    video_features: Option<PathBuf>,
    /// Without --benchmark: what the rows are for
    #[arg(long, value_enum, default_value_t = Split::Train)]
    split: Split,
    /// Encoder of the features
    #[arg(long, value_name = "NAME", default_value = LAYOUT)]
    encoder: String,
    /// The encoder's weights, if not those that `encoders pull` fetched
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Replace features that are there
    #[arg(long)]
    force: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    for name in ["images.npy", "videos.npy", "images.jsonl", "videos.jsonl"] {
        let path = arguments.out.join(name);
        if path.exists() && !arguments.force {
            bail!("{} exists; --force replaces it", path.display());
        }
    }
    let cancel = talk::cancel_saying("stopping: nothing is written (again to stop at once)")?;
    let benchmark = arguments.benchmark.as_deref().map(Benchmark::read).transpose()?;
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template("{elapsed_precise} [{wide_bar}] {pos}/{len} videos, ETA {eta}")?);
    let tell = |done: usize, of: usize| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    };
    let done = match (&benchmark, &arguments.image_features, &arguments.video_features) {
        (Some(benchmark), Some(images), Some(videos)) => {
            let (images, videos) = (Source::open(images)?, Source::open(videos)?);
            extract::benchmark_from_arrays(benchmark, (&images, &videos), &arguments.out, &cancel)
        }
        _ => {
            let encoder = encode::open(&arguments.encoder, arguments.weights.as_deref())?;
            let mut files = Vec::new();
            for found in media::walk::videos(&arguments.paths, &GlobSet::empty()) {
                match found {
                    Ok(path) => files.push(path),
                    Err((_, error)) => eprintln!("left out: {error}"),
                }
            }
            match &benchmark {
                Some(benchmark) => {
                    extract::benchmark_from_videos(encoder.as_ref(), benchmark, &files, &arguments.out, &cancel, tell)
                }
                None => extract::videos(encoder.as_ref(), &files, arguments.split, &arguments.out, &cancel, tell),
            }
        }
    };
    bar.finish_and_clear();
    let summary = match done {
        Err(Error::Interrupted) => {
            eprintln!("{}", Error::Interrupted);
            return Ok(ExitCode::from(INTERRUPTED));
        }
        done => done?,
    };
    for (id, why) in summary.left_out.iter().take(MAX_LISTED) {
        eprintln!("left out: {}: {}", talk::printable(id), talk::printable(why));
    }
    if summary.left_out.len() > MAX_LISTED {
        eprintln!("left out: {} more", summary.left_out.len() - MAX_LISTED);
    }
    if summary.val_given_up {
        eprintln!(
            "no image of the split val belongs to one of its clips: its rows are learned from; `train` and `eval` hold out a share instead"
        );
    }
    let out = arguments.out.display();
    writeln!(std::io::stdout(), "{out}: {} images, {} clips", summary.images, summary.clips)?;
    Ok(ExitCode::SUCCESS)
}
