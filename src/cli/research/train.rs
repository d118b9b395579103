use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use super::{check_absent, check_share, check_writable, find_videos};
use crate::base::{Cancel, files};
use crate::cli::INTERRUPTED;
use crate::cli::args::check_exist;
use crate::cli::terminal::{self, count, note, print_line};
use crate::encode::registry::LAYOUT;
use crate::encode::{self, Encoder, Projection, layout};
use crate::features::FeatureSet;
use crate::features::activitynet::Annotations;
use crate::gmf::{
    self, Affine, Folded, GmfConfig, GmfWeights, Modality, Objective, TaskLoss, TrainDevice, TrainOptions,
    TrainOutcome, TrainProgress, TrainingData, TrainingRun,
};
use crate::ingest::FileError;
use crate::media::{self, Tools};
use crate::research::eval::retrieval;
use crate::research::fit::licences::LicenceManifest;
use crate::research::fit::{self, pairs};

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["features", "videos"]))]
pub(in crate::cli) struct TrainArgs {
    /// Folder with images.npy, videos.npy, images.jsonl and videos.jsonl
    #[arg(long, value_name = "DIR")]
    features: Option<PathBuf>,
    /// Take labels and splits of --features from ActivityNet annotations; rows are matched by `video`, or
    /// else by `id`
    #[arg(long, value_name = "JSON", requires = "features")]
    activitynet: Option<PathBuf>,
    /// Videos or folders to learn from; no labels are needed
    #[arg(long, num_args = 1.., value_name = "PATH")]
    videos: Vec<PathBuf>,
    /// Checkpoint to write. The learning curve is written beside it as .csv and .svg
    #[arg(long, value_name = "CKPT")]
    out: PathBuf,
    /// Replace the checkpoint if it exists, and start from the beginning
    #[arg(long)]
    force: bool,
    /// Resume an interrupted run with the same options
    #[arg(long, conflicts_with = "force")]
    resume: bool,
    /// Passes over the training images; with --videos, 0 keeps the closed-form fit
    #[arg(long, value_name = "N", default_value_t = 20)]
    epochs: usize,
    /// Pairs in a batch
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch: usize,
    /// Learning rate of stochastic gradient descent
    #[arg(long, value_name = "RATE", default_value_t = 0.01)]
    learning_rate: f64,
    /// Momentum
    #[arg(long, default_value_t = 0.9)]
    momentum: f64,
    /// Weight decay
    #[arg(long, value_name = "DECAY", default_value_t = 1e-4)]
    weight_decay: f64,
    /// Factor that lowers the learning rate when the loss stops falling
    #[arg(long, value_name = "FACTOR", default_value_t = 0.1)]
    plateau_factor: f64,
    /// Steps without a lower loss before --plateau-factor lowers the learning rate
    #[arg(long, value_name = "STEPS", default_value_t = 1000)]
    plateau_patience: usize,
    /// Retrieval loss (the paper does not define one)
    #[arg(long, value_enum, default_value_t = LossArg::Contrastive)]
    loss: LossArg,
    /// Temperature of the contrastive loss
    #[arg(long, default_value_t = 0.07)]
    temperature: f64,
    /// Margin of the triplet loss, as a cosine
    #[arg(long, default_value_t = 0.2)]
    margin: f64,
    /// Weight of the dissociation loss
    #[arg(long, value_name = "WEIGHT", default_value_t = 1.0)]
    lambda_dissociation: f64,
    /// Weight of the retrieval loss
    #[arg(long, value_name = "WEIGHT", default_value_t = 1.0)]
    lambda_task: f64,
    /// Magnification of the dissociation: a whole number above 2
    #[arg(long, value_name = "N", default_value_t = GmfConfig::MULTIPLE)]
    multiple: u32,
    /// Invariant share of the dissociated length, between 0 and 1
    #[arg(long, value_name = "SHARE", default_value_t = GmfConfig::BOUNDARY)]
    boundary: f64,
    /// Share of the videos held out to choose the best epoch, if the features have no split `val`
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    held_out: f32,
    /// Seed of initial weights, order, pairs, frames and distortions
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Device to compute on; cuda and metal need a build with that Cargo feature
    #[arg(long, value_enum, default_value_t = TrainDevice::Cpu)]
    device: TrainDevice,
    /// With --videos: the encoder to train for [default: layout]. With --features: the encoder of the
    /// features
    #[arg(long, value_name = "NAME")]
    encoder: Option<String>,
    /// With --videos: weights of the encoder [default: the downloaded ones]
    #[arg(long, value_name = "FILE", requires = "videos")]
    weights: Option<PathBuf>,
    /// Manifest of licences: one JSON object a line with `path` and `license_of_repo`. Videos in it are used
    /// only if their licence is permissive (MIT, BSD, Apache, CC-BY)
    #[arg(long, value_name = "FILE", requires = "videos")]
    permissive: Option<PathBuf>,
    /// Also fit a new projection of the encoder, and write it to this file (for maintainers: this changes the
    /// encoder)
    #[arg(long, value_name = "FILE", requires = "videos")]
    refit_encoder: Option<PathBuf>,
}

impl TrainArgs {
    fn encoder_of_videos(&self) -> &str {
        self.encoder.as_deref().unwrap_or(LAYOUT)
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LossArg {
    Contrastive,
    Triplet,
}

pub(super) fn run(args: &TrainArgs) -> anyhow::Result<ExitCode> {
    check_outputs(args)?;
    check_exist(&args.videos)?;
    options(args).check()?;
    let cancel = terminal::cancel_on_interrupt()?;
    match &args.features {
        Some(folder) => train_on_features(args, folder, &cancel),
        None => train_on_videos(args, &cancel),
    }
}

fn train_on_features(args: &TrainArgs, folder: &Path, cancel: &Cancel) -> anyhow::Result<ExitCode> {
    if args.epochs == 0 {
        bail!("--epochs 0 would train nothing with --features; expected at least 1");
    }
    let annotations = args.activitynet.as_deref().map(Annotations::read).transpose()?;
    let set = FeatureSet::open_with(folder, annotations.as_ref())?;
    let encoder = args.encoder.as_deref().unwrap_or("unknown").to_owned();
    let record = serde_json::json!({});
    train(args, TrainingInput { set, start: None, gallery: None, encoder, projection: None, record }, cancel)
}

fn train_on_videos(args: &TrainArgs, cancel: &Cancel) -> anyhow::Result<ExitCode> {
    let encoder = encode::open(args.encoder_of_videos(), args.weights.as_deref())?;
    let encoder = encoder.as_ref();
    let about = encoder.info();
    anyhow::ensure!(
        about.descriptor_len <= about.clip_len,
        "{} encodes whole clips, and training on videos needs features of their frames; use --features with a set that `reelseek extract` wrote",
        about.name
    );
    // Checked before any video is decoded.
    GmfWeights::check_room(&config(args, fit::image_len(encoder), about.clip_len)?)?;
    let Some(examples) = collect(args, encoder, cancel)? else {
        return Ok(ExitCode::from(INTERRUPTED));
    };
    let refitted = args.refit_encoder.as_deref().filter(|_| about.id == layout::ID);
    let refitted = refitted.map(|out| refit_layout(args, out, &examples, encoder)).transpose()?;
    let start = fit::start(&examples, encoder, refitted.as_ref(), args.held_out, args.seed)?;
    let names: Vec<&String> = examples.iter().map(|(name, _)| name).collect();
    let input = TrainingInput {
        gallery: Some((0..start.set.videos.rows.len() as u32).collect()),
        set: start.set,
        start: Some(start.folded),
        encoder: about.id.clone(),
        projection: start.projection,
        record: serde_json::json!({ "start": "closed-form", "videos": names }),
    };
    train(args, input, cancel)
}

/// Refuses outputs that exist or cannot be written, before any work is done.
fn check_outputs(args: &TrainArgs) -> anyhow::Result<()> {
    let out = &args.out;
    check_share("--held-out", args.held_out, true)?;
    if out.extension().is_some_and(|e| e == "csv" || e == "svg") {
        bail!("{}: the learning curve has this name; end the checkpoint's name in .safetensors", out.display());
    }
    if out.is_dir() {
        bail!("{} is a folder; name the checkpoint's file", out.display());
    }
    check_writable(out.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
    let state = gmf::resume_path(out);
    if args.resume {
        anyhow::ensure!(
            state.exists(),
            "{} does not exist: there is no interrupted run; start without --resume",
            state.display()
        );
        return Ok(());
    }
    if args.force {
        return Ok(());
    }
    if state.exists() {
        bail!(
            "{} exists: a run was interrupted; --resume continues it, --force starts from the beginning",
            state.display()
        );
    }
    let curve = ["csv", "svg"].map(|ending| out.with_extension(ending));
    curve.iter().chain([out]).chain(&args.refit_encoder).try_for_each(|out| check_absent(out, false))
}

/// Input of a training run.
struct TrainingInput {
    set: FeatureSet,
    /// The closed-form fit to start from.
    start: Option<Folded>,
    /// Rows of the videos that are the validation gallery; by default those of the split `val`.
    gallery: Option<Vec<u32>>,
    /// Name or id of the encoder.
    encoder: String,
    /// Projection of descriptors to image features, to be stored in the checkpoint.
    projection: Option<Affine>,
    /// Entries that the checkpoint records about its training.
    record: serde_json::Value,
}

fn train(args: &TrainArgs, input: TrainingInput, cancel: &Cancel) -> anyhow::Result<ExitCode> {
    let set = &input.set;
    let config = config(args, set.images.matrix.columns(), set.videos.matrix.columns())?;
    let options = options(args);
    let mut data = TrainingData::new(set, args.held_out, args.seed)?;
    if let Some(gallery) = input.gallery.filter(|_| !data.queries.is_empty()) {
        data.gallery = gallery;
    }
    let start = match (input.start, args.resume) {
        (Some(folded), false) => Some(GmfWeights::from_folded(&config, &folded, args.seed)?),
        _ => None,
    };
    print_data(&data, &config);
    let mut validate = |maps: &Folded| Ok(retrieval::validate(&maps.into(), &data)?.ok_or("no image matches a video")?);
    let mut bar = TrainingBar::new(data.pairs(), options.epochs)?;
    let run = TrainingRun {
        data: &data,
        config: &config,
        start,
        options: &options,
        resume: args.resume,
        encoder: &input.encoder,
        projection: input.projection,
        record: input.record,
        out: &args.out,
    };
    let outcome = gmf::train(run, &mut validate, &|| cancel.is_set(), &mut |progress| bar.update(progress))?;
    bar.bar.finish_and_clear();
    match outcome {
        TrainOutcome::Interrupted => {
            note!("interrupted; run the same command with --resume to continue");
            Ok(ExitCode::from(INTERRUPTED))
        }
        TrainOutcome::Finished { epoch, map10 } => {
            let map = map10.map_or(String::new(), |m| format!(", validation mAP@10 {m:.4}"));
            print_line!(std::io::stdout(), "{}: epoch {epoch}{map}", args.out.display())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn print_data(data: &TrainingData<'_>, config: &GmfConfig) {
    note!(
        "{}; validation with {} against {}; {} parameters, {:.2} GFLOP a pair",
        count(data.pairs(), "training pair"),
        count(data.queries.len(), "image"),
        count(data.gallery.len(), "video"),
        config.parameters(),
        config.flops() as f64 / 1e9
    );
    if data.unmatched_images > 0 {
        note!("skipped: {} without a training video", count(data.unmatched_images, "training image"));
    }
    if data.queries.is_empty() {
        note!("no validation: no held-out image belongs to a held-out video; the last epoch is kept");
    }
}

/// Prints the progress of a training run.
struct TrainingBar {
    bar: ProgressBar,
    pairs: usize,
    epochs: usize,
    losses: gmf::Losses,
    started: bool,
}

impl TrainingBar {
    fn new(pairs: usize, epochs: usize) -> anyhow::Result<TrainingBar> {
        let bar = ProgressBar::new((epochs * pairs) as u64);
        let style = "{elapsed_precise} [{wide_bar}] {pos}/{len} pairs, {per_sec}, ETA {eta}, {msg}";
        bar.set_style(ProgressStyle::with_template(style)?.progress_chars("=> "));
        Ok(TrainingBar { bar, pairs, epochs, losses: gmf::Losses::default(), started: false })
    }

    fn update(&mut self, progress: TrainProgress) {
        match progress {
            TrainProgress::Step { done, of, pairs, losses } => {
                if !self.started {
                    // A resumed run starts in the middle. Earlier steps do not count towards the speed.
                    self.bar.set_position(((done - 1) * self.pairs / (of / self.epochs.max(1))) as u64);
                    self.bar.reset_eta();
                    self.started = true;
                }
                self.losses = losses;
                self.bar.inc(pairs as u64);
                self.bar.set_message(format!("loss {:.4}", losses.total));
            }
            TrainProgress::Epoch { epoch, map10, best } => self.bar.suspend(|| {
                let map = map10.map_or("no validation".to_owned(), |m| format!("validation mAP@10 {m:.4}"));
                let best = if best { ", kept" } else { "" };
                let gmf::Losses { total, dissociation, task } = self.losses;
                note!(
                    "epoch {epoch:>3}: loss {total:.4} (dissociation {dissociation:.4}, task {task:.4}), {map}{best}"
                );
            }),
        }
    }
}

fn config(args: &TrainArgs, image: usize, video: usize) -> Result<GmfConfig, gmf::ConfigError> {
    let modality = |name: &str, length| Modality { name: name.to_owned(), length };
    GmfConfig::new(vec![modality("image", image), modality("video", video)], args.multiple, args.boundary)
}

fn options(args: &TrainArgs) -> TrainOptions {
    TrainOptions {
        epochs: args.epochs,
        batch: args.batch,
        rate: args.learning_rate,
        momentum: args.momentum,
        decay: args.weight_decay,
        plateau_factor: args.plateau_factor,
        plateau_patience: args.plateau_patience,
        seed: args.seed,
        objective: Objective {
            lambda_dissociation: args.lambda_dissociation,
            lambda_task: args.lambda_task,
            task: match args.loss {
                LossArg::Contrastive => TaskLoss::Contrastive { temperature: args.temperature },
                LossArg::Triplet => TaskLoss::Triplet { margin: args.margin },
            },
        },
        device: args.device,
    }
}

/// Training examples of every video that can be decoded; `None` after Ctrl-C.
fn collect(
    args: &TrainArgs,
    encoder: &dyn Encoder,
    cancel: &Cancel,
) -> anyhow::Result<Option<Vec<(String, pairs::TrainingExample)>>> {
    let tools = Tools::find()?;
    let licences = args.permissive.as_deref().map(LicenceManifest::read).transpose()?;
    let mut examples = Vec::new();
    for path in find_videos(&args.videos) {
        if licences.as_ref().is_some_and(|licences| !licences.allows(&path)) {
            continue;
        }
        match pairs::example(&tools, encoder, &path, args.seed, cancel) {
            Ok(example) => {
                let queries: usize = example.moments.iter().map(|m| m.queries.len()).sum();
                note!("{queries:>5} distorted frames  {}", path.display());
                examples.push((pairs::seed_name(&path), example));
            }
            Err(FileError::Media(media::Error::Cancelled { .. })) => return Ok(None),
            Err(error) => note!("skipped: {error}"),
        }
    }
    Ok(Some(examples))
}

/// Fits a new projection of the encoder `layout`, and writes it.
fn refit_layout(
    args: &TrainArgs,
    out: &Path,
    examples: &[(String, pairs::TrainingExample)],
    encoder: &dyn Encoder,
) -> anyhow::Result<Projection> {
    let bytes = fit::layout_projection(examples, encoder)?.to_bytes();
    // A resumed run finds the file that it wrote before.
    let same = std::fs::read(out).is_ok_and(|found| found == bytes);
    if !same && out.exists() && !args.force {
        bail!("{} exists with other contents; --force replaces it", out.display());
    }
    files::replace(out, |part| std::fs::write(part, &bytes)).with_context(|| format!("writing {}", out.display()))?;
    // The file has rounded values. Training continues with them.
    Ok(Projection::parse(&bytes, &out.to_string_lossy())?)
}
