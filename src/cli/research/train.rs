use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use globset::GlobSet;
use indicatif::{ProgressBar, ProgressStyle};

use super::{check_absent, check_share, check_writable};
use crate::base::{Cancel, files};
use crate::cli::INTERRUPTED;
use crate::cli::args::check_exist;
use crate::cli::terminal::{self, count, note, print_line};
use crate::encode::registry::LAYOUT;
use crate::encode::{self, Encoder, LayoutEncoder, Projection, layout};
use crate::features::FeatureSet;
use crate::features::activitynet::Annotations;
use crate::gmf::{
    self, Affine, Folded, GmfConfig, GmfWeights, Modality, Objective, TaskLoss, TrainDevice, TrainOptions,
    TrainOutcome, TrainProgress, TrainingData, TrainingRun,
};
use crate::ingest::{FileError, closed_form};
use crate::media::{self, Tools};
use crate::research::eval::retrieval;
use crate::research::fit::{self, PairCovariances, PairStatistics, pairs};

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
    #[arg(long, value_enum, default_value_t = DeviceArg::Cpu)]
    device: DeviceArg,
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

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DeviceArg {
    Cpu,
    Cuda,
    Metal,
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
    let about = encoder.info().clone();
    let image_len = about.image_len.min(closed_form::LENGTH);
    anyhow::ensure!(
        about.descriptor_len <= about.clip_len,
        "{} encodes whole clips, and training on videos needs features of their frames; use --features with a set that `reelseek extract` wrote",
        about.name
    );
    // Checked before any video is decoded.
    GmfWeights::check_room(&config(args, image_len, about.clip_len)?)?;
    let Some(examples) = collect(args, encoder.as_ref(), cancel)? else {
        return Ok(ExitCode::from(INTERRUPTED));
    };
    let mut statistics = PairStatistics::new(about.descriptor_len);
    examples.iter().for_each(|(_, example)| example.add_to(&mut statistics));
    if about.id == layout::ID {
        // A mirrored picture is as likely as the picture itself.
        statistics.symmetrise(layout::mirror_index);
    }
    let covariances = statistics.covariances()?;
    let projection = match about.id == layout::ID {
        true => layout_projection(args, &covariances)?,
        false => fit::projection(&covariances, image_len)?,
    };
    let image =
        Affine { weight: covariances.through(&projection.weight).discriminant(image_len)?, bias: vec![0.0; image_len] };
    let start = closed_form::around(encoder.as_ref(), &image, &projection)?;
    let features = |descriptor: &encode::Descriptor| projection.apply(descriptor.values());
    let set = pairs::set(&examples, encoder.as_ref(), features, args.held_out, args.seed)?;
    let names: Vec<&String> = examples.iter().map(|(name, _)| name).collect();
    let record = serde_json::json!({ "start": "closed-form", "videos": names });
    let gallery = Some((0..set.videos.rows.len() as u32).collect());
    // `layout` projects its features itself.
    let projection = (about.id != layout::ID).then_some(projection);
    train(args, TrainingInput { set, start: Some(start), gallery, encoder: about.id, projection, record }, cancel)
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
    let mut state = out.clone().into_os_string();
    state.push(".resume");
    let state = PathBuf::from(state);
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
        (Some(folded), false) => Some(GmfWeights::around(&config, &folded, args.seed)?),
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
        about: input.record,
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
        device: match args.device {
            DeviceArg::Cpu => TrainDevice::Cpu,
            DeviceArg::Cuda => TrainDevice::Cuda,
            DeviceArg::Metal => TrainDevice::Metal,
        },
    }
}

/// Training examples of every video that can be decoded; `None` after Ctrl-C.
fn collect(
    args: &TrainArgs,
    encoder: &dyn Encoder,
    cancel: &Cancel,
) -> anyhow::Result<Option<Vec<(String, pairs::TrainingExample)>>> {
    let tools = Tools::find()?;
    let allowed = args.permissive.as_deref().map(permissive).transpose()?;
    let mut examples = Vec::new();
    for entry in media::walk::videos(&args.videos, &GlobSet::empty()) {
        let path = match entry {
            Ok(path) => path,
            Err((_, error)) => {
                note!("skipped: {error}");
                continue;
            }
        };
        if let Some((listed, good)) = &allowed {
            let real = path.canonicalize()?;
            if listed.contains(&real) && !good.contains(&real) {
                continue;
            }
        }
        match pairs::example(&tools, encoder, &path, args.seed, cancel) {
            Ok(example) => {
                let queries: usize = example.moments.iter().map(|m| m.queries.len()).sum();
                note!("{queries:>5} distorted frames  {}", path.display());
                examples.push((pairs::name(&path), example));
            }
            Err(FileError::Media(media::Error::Cancelled { .. })) => return Ok(None),
            Err(error) => note!("skipped: {error}"),
        }
    }
    Ok(Some(examples))
}

/// The projection of the encoder `layout`: the embedded one, or a new one that is fitted and written.
fn layout_projection(args: &TrainArgs, covariances: &PairCovariances) -> anyhow::Result<Affine> {
    let Some(out) = &args.refit_encoder else { return Ok(affine(LayoutEncoder::embedded().projection())) };
    let projection = Projection { mean: covariances.mean(), rows: covariances.basis(layout::IMAGE_LEN)? };
    let bytes = projection.to_bytes();
    // A resumed run finds the file that it wrote before.
    let same = std::fs::read(out).is_ok_and(|found| found == bytes);
    if !same && out.exists() && !args.force {
        bail!("{} exists with other contents; --force replaces it", out.display());
    }
    files::replace(out, |part| std::fs::write(part, &bytes)).with_context(|| format!("writing {}", out.display()))?;
    // The file has rounded values. Training continues with them.
    Ok(affine(&Projection::parse(&bytes, &out.to_string_lossy())?))
}

/// `Q (f - mean)` as `Q f + c`.
fn affine(projection: &Projection) -> Affine {
    let rows = projection.rows.chunks_exact(projection.mean.len());
    let bias = rows.map(|row| -row.iter().zip(&projection.mean).map(|(q, m)| q * m).sum::<f32>()).collect();
    Affine { weight: projection.rows.clone(), bias }
}

/// All videos of a manifest, and the videos with a permissive licence.
fn permissive(manifest: &Path) -> anyhow::Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let text = std::fs::read_to_string(manifest).with_context(|| manifest.display().to_string())?;
    let folder = manifest.parent().unwrap_or(Path::new("."));
    let (mut listed, mut good) = (Vec::new(), Vec::new());
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let place = || format!("{}, line {}", manifest.display(), i + 1);
        let entry: serde_json::Value = serde_json::from_str(line).with_context(place)?;
        let path = entry["path"].as_str().with_context(|| format!("{}: no `path`", place()))?;
        let Ok(real) = folder.join(path).canonicalize() else { continue };
        let licence = entry["license_of_repo"].as_str().unwrap_or_default();
        let free = licence == "MIT"
            || licence.starts_with("Apache-2")
            || licence == "BSD"
            || licence.starts_with("BSD-")
            || licence.starts_with("CC-BY-") && licence[6..].starts_with(|c: char| c.is_ascii_digit());
        if free {
            good.push(real.clone());
        }
        listed.push(real);
    }
    Ok((listed, good))
}
