use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use globset::GlobSet;

use super::{INTERRUPTED, talk};
use crate::encode::{Layout, Projection, layout};
use crate::gmf::fit::{Covariances, Moments};
use crate::gmf::{Affine, Folded, Modality, Record};
use crate::ingest::pairs;
use crate::media::{self, Tools};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Videos or folders to learn from; no labels are needed
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    videos: Vec<PathBuf>,
    /// Checkpoint to write
    #[arg(long, value_name = "CKPT")]
    out: PathBuf,
    /// Replace the checkpoint if it exists
    #[arg(long)]
    force: bool,
    /// Decides which frames are taken and how they are distorted
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Use the videos named in this manifest (one JSON object a line, with `path` below the manifest's folder and
    /// `license_of_repo`) only if their licence is permissive (MIT, BSD, Apache, CC-BY)
    #[arg(long, value_name = "FILE")]
    permissive: Option<PathBuf>,
    /// Fit the encoder's projection anew too, and write it here (for maintainers: it changes the encoder)
    #[arg(long, value_name = "FILE")]
    refit_encoder: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    for out in [Some(&arguments.out), arguments.refit_encoder.as_ref()].into_iter().flatten() {
        if out.exists() && !arguments.force {
            bail!("{} exists; --force replaces it", out.display());
        }
    }
    let tools = Tools::find()?;
    let cancel = talk::cancel_on_interrupt()?;
    let allowed = arguments.permissive.as_deref().map(permissive).transpose()?;
    let mut moments = Moments::new(layout::DESCRIPTOR_LEN);
    let mut used = Vec::new();
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
        match pairs::add(&mut moments, &tools, &path, arguments.seed, &cancel) {
            Ok(pairs) => {
                eprintln!("{pairs:>5} pairs  {}", talk::printable(&path.to_string_lossy()));
                used.push(pairs::name(&path));
            }
            Err(media::Error::Cancelled { .. }) => return Ok(ExitCode::from(INTERRUPTED)),
            Err(error) => eprintln!("left out: {}", talk::printable(&error.to_string())),
        }
    }
    // A mirror image is as likely as the picture itself.
    moments.symmetrise(layout::mirror_index);
    let covariances = moments.covariances()?;
    let encoder = match &arguments.refit_encoder {
        None => Layout::embedded(),
        Some(out) => {
            let projection = Projection { mean: covariances.mean(), rows: covariances.basis(layout::IMAGE_LEN)? };
            let bytes = projection.to_bytes();
            write(out, &bytes)?;
            // Go on with the numbers as they are on disk.
            Layout::with_projection(Projection::parse(&bytes, &out.to_string_lossy())?)
        }
    };
    let checkpoint = fold(&encoder, &covariances, &moments, arguments.seed, used)?;
    write(&arguments.out, &checkpoint.to_bytes())?;
    let (videos, pairs) = moments.counts();
    writeln!(std::io::stdout(), "{}: closed-form fit of {pairs} pairs from {videos} videos", arguments.out.display())?;
    Ok(ExitCode::SUCCESS)
}

/// The folded maps: whitening `A` for an image; for a clip the same after its frames are averaged and projected.
fn fold(
    encoder: &Layout,
    all: &Covariances,
    moments: &Moments,
    seed: u64,
    used: Vec<String>,
) -> anyhow::Result<Folded> {
    let projection = encoder.projection();
    let (n, d) = (layout::IMAGE_LEN, layout::DESCRIPTOR_LEN);
    let image = all.through(&projection.rows).discriminant(n)?;
    // A·Q, 128 x 512: from a descriptor to the shared space.
    let mut frame = vec![0f32; n * d];
    for (row, out) in image.chunks_exact(n).zip(frame.chunks_exact_mut(d)) {
        for (a, q) in row.iter().zip(projection.rows.chunks_exact(d)) {
            for (out, q) in out.iter_mut().zip(q) {
                *out += a * q;
            }
        }
    }
    let share = 1.0 / layout::CLIP_FRAMES as f32;
    let mut video = Vec::with_capacity(n * layout::CLIP_LEN);
    for row in frame.chunks_exact(d) {
        for _ in 0..layout::CLIP_FRAMES {
            video.extend(row.iter().map(|v| v * share));
        }
    }
    let bias =
        frame.chunks_exact(d).map(|row| -row.iter().zip(&projection.mean).map(|(a, m)| a * m).sum::<f32>()).collect();
    let (videos, pairs) = moments.counts();
    let checkpoint = Folded {
        image: Affine { weight: image, bias: vec![0.0; n] },
        video: Affine { weight: video, bias },
        record: Record {
            format: 1,
            encoder: layout::ID.to_owned(),
            modalities: vec![
                Modality { name: "image".to_owned(), length: n },
                Modality { name: "video".to_owned(), length: layout::CLIP_LEN },
            ],
            invariant: n,
            multiple: 0,
            boundary: 0.0,
            training: serde_json::json!({
                "method": "closed-form", "seed": seed, "pairs": pairs, "count": videos, "videos": used,
            }),
        },
    };
    Ok(Folded::parse(&checkpoint.to_bytes(), "the new checkpoint")?)
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

/// Writes a file such that it is either the old or the new one, never half of it.
fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut sibling = path.as_os_str().to_owned();
    sibling.push(".part");
    let put = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&sibling)?;
        std::io::Write::write_all(&mut file, bytes)?;
        file.sync_all()?;
        std::fs::rename(&sibling, path)
    };
    put().with_context(|| format!("writing {}", path.display()))
}
