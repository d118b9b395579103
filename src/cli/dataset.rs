use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use globset::GlobSet;

use crate::base::files;
use crate::features::Split;
use crate::features::activitynet::{Annotations, video_name};
use crate::features::benchmark::{Benchmark, Kind, Plan};
use crate::features::sources::Source;
use crate::media;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The retrieval benchmark of ActivityNet: frames of held-out videos asked for among the clips of the others
    #[command(name = "activitynet")]
    ActivityNet(Arguments),
}

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Annotation file of version 1.2 or 1.3
    #[arg(long, value_name = "JSON")]
    annotations: PathBuf,
    /// Only of the videos that are here: a folder of videos (`v_<id>.mp4`, `<id>.webm`, ...), or features of others (a folder of .npy files, one .npz,
    /// .safetensors or .h5)
    #[arg(long, value_name = "PATH")]
    have: Option<PathBuf>,
    /// List to write (.jsonl); `extract` makes features of it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Write the names of videos that are missing here, one a line
    #[arg(long, value_name = "FILE", requires = "have")]
    missing: Option<PathBuf>,
    /// Decides which videos are asked for, and at which times
    #[arg(long, default_value_t = Plan::default().seed)]
    seed: u64,
    /// Share of the validation videos whose frames are the queries; the others are the gallery
    #[arg(long, value_name = "SHARE", default_value_t = Plan::default().query_share)]
    query_share: f32,
    /// Share of the training videos that the best epoch is chosen by
    #[arg(long, value_name = "SHARE", default_value_t = Plan::default().val_share)]
    val_share: f32,
    /// Replace the list if it exists
    #[arg(long)]
    force: bool,
}

pub(super) fn run(command: &Command) -> anyhow::Result<ExitCode> {
    let Command::ActivityNet(arguments) = command;
    if !(arguments.query_share > 0.0 && arguments.query_share < 1.0) {
        bail!("--query-share is {}; it is a share, above 0 and below 1", arguments.query_share);
    }
    if !(0.0..1.0).contains(&arguments.val_share) {
        bail!("--val-share is {}; it is a share, at least 0 and below 1", arguments.val_share);
    }
    for out in [Some(&arguments.out), arguments.missing.as_ref()].into_iter().flatten() {
        if out.exists() && !arguments.force {
            bail!("{} exists; --force replaces it", out.display());
        }
    }
    let annotations = Annotations::read(&arguments.annotations)?;
    let withheld = annotations.videos.values().filter(|video| video.labels.is_empty()).count();
    eprintln!(
        "{}: {} videos, {} labels; the labels of {withheld} videos are withheld; {} segments have no length and are left out",
        annotations.version,
        annotations.videos.len(),
        annotations.labels().len(),
        annotations.degenerate.len()
    );
    let plan = Plan { seed: arguments.seed, query_share: arguments.query_share, val_share: arguments.val_share };
    let mut benchmark = Benchmark::draw(&annotations, plan);
    if let Some(path) = &arguments.have {
        let have = videos_in(path)?;
        let missing = benchmark.keep(|video| have.contains(video));
        eprintln!("{} videos of the benchmark are missing in {}", missing.len(), path.display());
        if let Some(out) = &arguments.missing {
            write(out, |file| missing.iter().try_for_each(|video| writeln!(file, "{video}")))?;
        }
    }
    if benchmark.give_up_val() {
        eprintln!(
            "too few videos for a split val: its rows are learned from; `train` and `eval` hold out a share instead"
        );
    }
    let count = |kind, split| benchmark.count(kind, split);
    let splits = [Split::Train, Split::Test];
    for split in splits {
        if count(Kind::Image, split) == 0 || count(Kind::Clip, split) == 0 {
            eprintln!("warning: the split {split} lacks images or clips");
        }
    }
    if benchmark.items.is_empty() {
        bail!("none of the benchmark's videos is here: files are named by the video's id, with or without v_ in front");
    }
    write(&arguments.out, |file| benchmark.write(file))?;
    writeln!(
        std::io::stdout(),
        "{}: train {} images and {} clips, val {} and {}, test {} queries against {} clips",
        arguments.out.display(),
        count(Kind::Image, Split::Train),
        count(Kind::Clip, Split::Train),
        count(Kind::Image, Split::Val),
        count(Kind::Clip, Split::Val),
        count(Kind::Image, Split::Test),
        count(Kind::Clip, Split::Test)
    )?;
    Ok(ExitCode::SUCCESS)
}

fn write(
    out: &Path,
    fill: impl FnOnce(&mut std::io::BufWriter<std::fs::File>) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    files::replace(out, |part| {
        let mut file = std::io::BufWriter::new(std::fs::File::create(part)?);
        fill(&mut file)?;
        file.flush()
    })
    .with_context(|| format!("writing {}", out.display()))
}

/// The names of the videos at a place: of video files in a folder, or of arrays of features.
fn videos_in(path: &Path) -> anyhow::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    if path.is_dir() {
        for found in media::walk::videos(&[path.to_owned()], &GlobSet::empty()) {
            match found {
                Ok(path) => drop(names.insert(video_name(&path))),
                Err((_, error)) => eprintln!("left out: {error}"),
            }
        }
        if !names.is_empty() {
            return Ok(names);
        }
    }
    names.extend(Source::open(path)?.videos().map(str::to_owned));
    Ok(names)
}
