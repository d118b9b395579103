use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use globset::GlobSet;
use indicatif::{ProgressBar, ProgressStyle};

use super::{INTERRUPTED, talk};
use crate::base::Cancel;
use crate::encode::registry::LAYOUT;
use crate::encode::{self, Encoder, Layout, Projection, layout};
use crate::features::Set;
use crate::features::activitynet::Annotations;
use crate::gmf::fit::{Covariances, Moments};
use crate::gmf::{self, Affine, Config, Data, Folded, Modality, Objective, Options, Outcome, Progress, Task, Weights};
use crate::ingest::{FileError, closed_form};
use crate::media::{self, Tools};
use crate::research::eval::retrieval;
use crate::research::pairs;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Folder with images.npy, videos.npy, images.jsonl and videos.jsonl
    #[arg(long, value_name = "DIR", required_unless_present = "videos")]
    features: Option<PathBuf>,
    /// Labels and splits of --features come from annotations of ActivityNet, by `video` or `id`
    #[arg(long, value_name = "JSON", requires = "features")]
    activitynet: Option<PathBuf>,
    /// Videos or folders to learn from; no labels are needed
    #[arg(long, num_args = 1.., value_name = "PATH", conflicts_with = "features")]
    videos: Vec<PathBuf>,
    /// Checkpoint to write; the learning curve is written beside it as .csv and .svg
    #[arg(long, value_name = "CKPT")]
    out: PathBuf,
    /// Replace the checkpoint if it exists, and start anew
    #[arg(long)]
    force: bool,
    /// Go on where a run with the same options was stopped
    #[arg(long, conflicts_with = "force")]
    resume: bool,
    /// Passes over the training images; 0 keeps the closed-form fit of --videos as it is
    #[arg(long, value_name = "N", default_value_t = 20)]
    epochs: usize,
    /// Pairs in a batch
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch: usize,
    /// Learning rate of the stochastic gradient descent
    #[arg(long, value_name = "RATE", default_value_t = 0.01)]
    learning_rate: f64,
    /// Momentum
    #[arg(long, default_value_t = 0.9)]
    momentum: f64,
    /// Weight decay
    #[arg(long, value_name = "DECAY", default_value_t = 1e-4)]
    weight_decay: f64,
    /// Factor of the learning rate when the loss stands still
    #[arg(long, value_name = "FACTOR", default_value_t = 0.1)]
    plateau_factor: f64,
    /// Steps without a lower loss until then
    #[arg(long, value_name = "STEPS", default_value_t = 1000)]
    plateau_patience: usize,
    /// Retrieval loss (the paper does not spell out its own; these are our choice)
    #[arg(long, value_enum, default_value_t = Loss::Contrastive)]
    loss: Loss,
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
    /// Magnification of the dissociation, a whole number above 2
    #[arg(long, value_name = "N", default_value_t = Config::MULTIPLE)]
    multiple: u32,
    /// Share of the dissociated length that is invariant, between 0 and 1
    #[arg(long, value_name = "SHARE", default_value_t = Config::BOUNDARY)]
    boundary: f64,
    /// Share held out to choose the best epoch by, if the features have no split `val` (all rows of a video together)
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    held_out: f32,
    /// Decides initial weights, order, pairs, frames and distortions
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to compute; cuda and metal need a build with that Cargo feature
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    device: Device,
    /// With --videos: the encoder to train for [default: layout]; with --features: the one that made them, for the record
    #[arg(long, value_name = "NAME")]
    encoder: Option<String>,
    /// With --videos: the encoder's weights, if not those that `encoders pull` fetched
    #[arg(long, value_name = "FILE", requires = "videos")]
    weights: Option<PathBuf>,
    /// Use the videos named in this manifest (one JSON object a line, with `path` below the manifest's folder and
    /// `license_of_repo`) only if their licence is permissive (MIT, BSD, Apache, CC-BY)
    #[arg(long, value_name = "FILE", requires = "videos")]
    permissive: Option<PathBuf>,
    /// Fit the encoder's projection anew too, and write it here (for maintainers: it changes the encoder)
    #[arg(long, value_name = "FILE", requires = "videos")]
    refit_encoder: Option<PathBuf>,
}

impl Arguments {
    fn encoder_of_videos(&self) -> &str {
        self.encoder.as_deref().unwrap_or(LAYOUT)
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Loss {
    Contrastive,
    Triplet,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Device {
    Cpu,
    Cuda,
    Metal,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    check_outputs(arguments)?;
    options(arguments).check()?;
    let cancel = talk::cancel_on_interrupt()?;
    match &arguments.features {
        Some(folder) => {
            if arguments.epochs == 0 {
                bail!("--epochs 0 leaves nothing to do with --features; give at least 1");
            }
            let annotations = arguments.activitynet.as_deref().map(Annotations::read).transpose()?;
            let set = Set::open_with(folder, annotations.as_ref())?;
            let encoder = arguments.encoder.as_deref().unwrap_or("unknown");
            fit(arguments, &set, (None, None), (encoder, None, serde_json::json!({})), &cancel)
        }
        None => {
            let encoder = encode::open(arguments.encoder_of_videos(), arguments.weights.as_deref())?;
            let about = encoder.about().clone();
            let image_len = about.image_len.min(closed_form::LENGTH);
            anyhow::ensure!(
                about.descriptor_len <= about.clip_len,
                "{} sees a clip as a whole: training on videos needs features of their frames; use --features with a set that `reelseek extract` made",
                about.name
            );
            // Known before any video is decoded.
            Weights::room(&config(arguments, image_len, about.clip_len)?)?;
            let Some(examples) = collect(arguments, encoder.as_ref(), &cancel)? else {
                return Ok(ExitCode::from(INTERRUPTED));
            };
            let mut moments = Moments::new(about.descriptor_len);
            examples.iter().for_each(|(_, example)| example.add_to(&mut moments));
            if about.id == layout::ID {
                // A mirror image is as likely as the picture itself.
                moments.symmetrise(layout::mirror_index);
            }
            let covariances = moments.covariances()?;
            let projection = match about.id == layout::ID {
                true => layout_projection(arguments, &covariances)?,
                false => closed_form::projection(&covariances, image_len)?,
            };
            let image = Affine {
                weight: covariances.through(&projection.weight).discriminant(image_len)?,
                bias: vec![0.0; image_len],
            };
            let start = closed_form::around(encoder.as_ref(), &image, &projection)?;
            let set = pairs::set(
                &examples,
                encoder.as_ref(),
                |descriptor| projection.apply(descriptor.values()),
                arguments.held_out,
                arguments.seed,
            )?;
            let names: Vec<&String> = examples.iter().map(|(name, _)| name).collect();
            let record = serde_json::json!({ "start": "closed-form", "videos": names });
            let every_clip = (0..set.videos.rows.len() as u32).collect();
            // `layout` projects by itself.
            let kept = (about.id != layout::ID).then_some(projection);
            fit(arguments, &set, (Some(start), Some(every_clip)), (&about.id, kept, record), &cancel)
        }
    }
}

/// Refuses what cannot be, before any work is done: nothing that exists is overwritten without being asked.
fn check_outputs(arguments: &Arguments) -> anyhow::Result<()> {
    let out = &arguments.out;
    if !(0.0..1.0).contains(&arguments.held_out) {
        bail!("--held-out is {}; it is a share, at least 0 and below 1", arguments.held_out);
    }
    if out.extension().is_some_and(|e| e == "csv" || e == "svg") {
        bail!("{}: the learning curve takes that name; end the checkpoint's in .safetensors", out.display());
    }
    if out.is_dir() {
        bail!("{} is a folder; name the checkpoint's file", out.display());
    }
    // Where nothing can be written nothing need be computed.
    let folder = out.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("nothing can be written to {}", folder.display()))?;
    let mut state = out.clone().into_os_string();
    state.push(".resume");
    let state = PathBuf::from(state);
    if arguments.resume {
        if !state.exists() {
            bail!("{} does not exist: no run was stopped there; start without --resume", state.display());
        }
        return Ok(());
    }
    if arguments.force {
        return Ok(());
    }
    if state.exists() {
        bail!("{} exists: a run was stopped there; --resume goes on with it, --force starts anew", state.display());
    }
    let curve = ["csv", "svg"].map(|ending| out.with_extension(ending));
    for out in curve.iter().chain([out]).chain(&arguments.refit_encoder) {
        if out.exists() {
            bail!("{} exists; --force replaces it", out.display());
        }
    }
    Ok(())
}

fn fit(
    arguments: &Arguments,
    set: &Set,
    (start, gallery): (Option<Folded>, Option<Vec<u32>>),
    (encoder, projection, about): (&str, Option<Affine>, serde_json::Value),
    cancel: &Cancel,
) -> anyhow::Result<ExitCode> {
    let config = config(arguments, set.images.matrix.columns(), set.videos.matrix.columns())?;
    let options = options(arguments);
    let mut data = Data::new(set, arguments.held_out, arguments.seed)?;
    if let Some(gallery) = gallery.filter(|_| !data.queries.is_empty()) {
        data.gallery = gallery;
    }
    let start = match (start, arguments.resume) {
        (Some(folded), false) => Some(Weights::around(&config, &folded, arguments.seed)?),
        _ => None,
    };
    eprintln!(
        "{} pairs to learn from, {} images asked for among {} videos to validate; {} parameters, {:.2} GFLOP a pair",
        data.pairs(),
        data.queries.len(),
        data.gallery.len(),
        config.parameters(),
        config.flops() as f64 / 1e9
    );
    if data.alone > 0 {
        eprintln!("{} training images belong to no training video and are left out", data.alone);
    }
    if data.queries.is_empty() {
        eprintln!("no validation: none of the images held out belongs to a video held out; the last epoch is kept");
    }
    let bar = ProgressBar::new((options.epochs * data.pairs()) as u64);
    let style = "{elapsed_precise} [{wide_bar}] {pos}/{len} pairs, {per_sec}, ETA {eta}, {msg}";
    bar.set_style(ProgressStyle::with_template(style)?.progress_chars("=> "));
    let mut validate = |maps: &Folded| {
        retrieval::validate(&maps.into(), &data)
            .map_err(|e| e.to_string())?
            .ok_or_else(|| "no image belongs to a video".to_owned())
    };
    let mut last = (gmf::Losses::default(), 0);
    let mut tell = |progress: Progress| match progress {
        Progress::Step { done, of, pairs, losses } => {
            if last.1 == 0 {
                // A resumed run begins in the middle; what was done before says nothing of its speed.
                bar.set_position(((done - 1) * data.pairs() / (of / options.epochs.max(1))) as u64);
                bar.reset_eta();
            }
            last = (losses, done);
            bar.inc(pairs as u64);
            bar.set_message(format!("loss {:.4}", losses.total));
        }
        Progress::Epoch { epoch, map10, best } => bar.suspend(|| {
            let map = map10.map_or("no validation".to_owned(), |m| format!("validation mAP@10 {m:.4}"));
            let best = if best { ", kept" } else { "" };
            let (losses, _) = last;
            eprintln!(
                "epoch {epoch:>3}: loss {:.4} (dissociation {:.4}, task {:.4}), {map}{best}",
                losses.total, losses.dissociation, losses.task
            );
        }),
    };
    let run = gmf::Run {
        data: &data,
        config: &config,
        start,
        options: &options,
        resume: arguments.resume,
        encoder,
        projection,
        about,
        out: &arguments.out,
    };
    let outcome = gmf::train(run, &mut validate, &|| cancel.is_set(), &mut tell)?;
    bar.finish_and_clear();
    match outcome {
        Outcome::Interrupted => {
            eprintln!("stopped; the same command with --resume goes on");
            Ok(ExitCode::from(INTERRUPTED))
        }
        Outcome::Finished { epoch, map10 } => {
            let map = map10.map_or(String::new(), |m| format!(", validation mAP@10 {m:.4}"));
            writeln!(std::io::stdout(), "{}: epoch {epoch}{map}", arguments.out.display())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn config(arguments: &Arguments, image: usize, video: usize) -> Result<Config, gmf::ConfigError> {
    let modality = |name: &str, length| Modality { name: name.to_owned(), length };
    Config::new(vec![modality("image", image), modality("video", video)], arguments.multiple, arguments.boundary)
}

fn options(arguments: &Arguments) -> Options {
    Options {
        epochs: arguments.epochs,
        batch: arguments.batch,
        rate: arguments.learning_rate,
        momentum: arguments.momentum,
        decay: arguments.weight_decay,
        plateau_factor: arguments.plateau_factor,
        plateau_patience: arguments.plateau_patience,
        seed: arguments.seed,
        objective: Objective {
            lambda_dissociation: arguments.lambda_dissociation,
            lambda_task: arguments.lambda_task,
            task: match arguments.loss {
                Loss::Contrastive => Task::Contrastive { temperature: arguments.temperature },
                Loss::Triplet => Task::Triplet { margin: arguments.margin },
            },
        },
        device: match arguments.device {
            Device::Cpu => gmf::Device::Cpu,
            Device::Cuda => gmf::Device::Cuda,
            Device::Metal => gmf::Device::Metal,
        },
    }
}

/// Moments of every video that can be decoded; `None` after Ctrl-C.
fn collect(
    arguments: &Arguments,
    encoder: &dyn Encoder,
    cancel: &Cancel,
) -> anyhow::Result<Option<Vec<(String, pairs::Example)>>> {
    let tools = Tools::find()?;
    let allowed = arguments.permissive.as_deref().map(permissive).transpose()?;
    let mut examples = Vec::new();
    for entry in media::walk::videos(&arguments.videos, &GlobSet::empty()) {
        let path = match entry {
            Ok(path) => path,
            Err((_, error)) => {
                eprintln!("left out: {error}");
                continue;
            }
        };
        if let Some((listed, good)) = &allowed {
            let real = path.canonicalize()?;
            if listed.contains(&real) && !good.contains(&real) {
                continue;
            }
        }
        match pairs::example(&tools, encoder, &path, arguments.seed, cancel) {
            Ok(example) => {
                let queries: usize = example.moments.iter().map(|m| m.queries.len()).sum();
                eprintln!("{queries:>5} distorted frames  {}", talk::printable(&path.to_string_lossy()));
                examples.push((pairs::name(&path), example));
            }
            Err(FileError::Media(media::Error::Cancelled { .. })) => return Ok(None),
            Err(error) => eprintln!("left out: {}", talk::printable(&error.to_string())),
        }
    }
    Ok(Some(examples))
}

/// The projection of the encoder `layout`: the embedded one, or one that is fitted anew and written.
fn layout_projection(arguments: &Arguments, covariances: &Covariances) -> anyhow::Result<Affine> {
    let Some(out) = &arguments.refit_encoder else { return Ok(affine(Layout::embedded().projection())) };
    let projection = Projection { mean: covariances.mean(), rows: covariances.basis(layout::IMAGE_LEN)? };
    let bytes = projection.to_bytes();
    // A resumed run finds what it wrote itself.
    let same = std::fs::read(out).is_ok_and(|found| found == bytes);
    if !same && out.exists() && !arguments.force {
        bail!("{} exists and holds something else; --force replaces it", out.display());
    }
    crate::base::files::replace(out, |part| std::fs::write(part, &bytes))
        .with_context(|| format!("writing {}", out.display()))?;
    // Go on with the numbers as they are on disk.
    Ok(affine(&Projection::parse(&bytes, &out.to_string_lossy())?))
}

/// `Q (f - mean)` as `Q f + c`.
fn affine(projection: &Projection) -> Affine {
    let rows = projection.rows.chunks_exact(projection.mean.len());
    let bias = rows.map(|row| -row.iter().zip(&projection.mean).map(|(q, m)| q * m).sum::<f32>()).collect();
    Affine { weight: projection.rows.clone(), bias }
}

/// All videos of a manifest, and those of them whose licence is permissive.
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
