use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use globset::GlobSet;
use reelseek_index::Index;

use super::{FAILED, INTERRUPTED, gallery, model, talk};
use crate::base::Cancel;
use crate::encode::registry::{ENTRIES, Entry, LAYOUT};
use crate::encode::{self, Encoder};
use crate::gmf::{Folded, Record};
use crate::ingest;
use crate::research::eval::kinds::{self, Report};
use crate::research::eval::metrics::Normaliser;
use crate::search::Engine;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Folder of videos with a manifest.jsonl: an object a line with `path`, `class` and `group`
    #[arg(value_name = "DIR")]
    videos: PathBuf,
    /// Folder of photographs with a manifest.jsonl likewise
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// Encoders to measure [default: all whose weights are at hand]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    encoders: Vec<String>,
    /// Weights of an encoder, if not those that `encoders pull` fetched (may be repeated)
    #[arg(long, value_name = "NAME=FILE", value_parser = pair)]
    weights: Vec<(String, PathBuf)>,
    /// Measure this folded checkpoint too, with the encoder it was made for (may be repeated)
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// What average precision is divided by: the relevant videos found in the top 10, min(10, R), or R
    #[arg(long, value_enum, default_value_t = Normaliser::Hits)]
    normaliser: Normaliser,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

fn pair(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or_else(|| "expected NAME=FILE".to_owned())?;
    Ok((name.to_owned(), file.into()))
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (videos, images) = (kinds::manifest(&arguments.videos)?, kinds::manifest(&arguments.images)?);
    let cancel = talk::cancel_on_interrupt()?;
    let weights = |name: &str| arguments.weights.iter().find(|(of, _)| of == name).map(|(_, file)| file.as_path());
    // Whether there is a file; if it is a broken one, that is told.
    let at_hand = |entry: &Entry| weights(entry.name).is_some() || entry.path().exists();
    let mut jobs: Vec<(&str, Vec<Option<&Path>>)> = match arguments.encoders.is_empty() {
        true => {
            let here = ENTRIES.iter().filter(|entry| at_hand(entry)).map(|entry| entry.name);
            std::iter::once(LAYOUT).chain(here).map(|name| (name, vec![None])).collect()
        }
        false => arguments.encoders.iter().map(|name| (name.as_str(), vec![None])).collect(),
    };
    let records: Vec<Record> = arguments.checkpoint.iter().map(|path| Record::open(path)).collect::<Result<_, _>>()?;
    for (path, record) in arguments.checkpoint.iter().zip(&records) {
        let name = record.encoder.split('/').next().unwrap_or_default();
        // With its encoder, which is then opened once.
        match jobs.iter_mut().find(|(job, _)| *job == name) {
            Some((_, checkpoints)) => checkpoints.push(Some(path)),
            None => jobs.push((name, vec![Some(path)])),
        }
    }
    if let Some((name, _)) = arguments.weights.iter().find(|(name, _)| !jobs.iter().any(|(job, _)| job == name)) {
        bail!("--weights {name}=...: no encoder {name} is measured; add it to --encoders");
    }
    let mut out = std::io::stdout();
    if !arguments.json {
        writeln!(
            out,
            "{:<16} {:<28} {:>8} {:>6} {:>6}   {:>8} {:>6} {:>6} {:>8} {:>7} {:>9} {:>8}",
            "encoder", "checkpoint", "class", "@1", "@5", "group", "@1", "@5", "gallery", "failed", "falsely", "ms"
        )?;
    }
    let mut broken = false;
    for (name, checkpoints) in jobs {
        // One that cannot be opened stops no other, and is not passed over in silence.
        let encoder = match encode::open(name, weights(name)) {
            Ok(encoder) => encoder,
            Err(error) => {
                talk::error(&anyhow::Error::new(error).context(format!("measuring {name}")));
                broken = true;
                continue;
            }
        };
        for checkpoint in checkpoints {
            let measured = measure(arguments, (&videos, &images), &encoder, checkpoint, &cancel);
            // Half a gallery, or half of the photographs, would be measured as if it were all.
            if cancel.is_set() {
                return Ok(ExitCode::from(INTERRUPTED));
            }
            let measured = measured.with_context(|| format!("measuring {name}"))?;
            print(&mut out, arguments, (&encoder.about().id, name), &measured)?;
        }
    }
    if !arguments.json {
        writeln!(
            out,
            "class, group: mAP@10 with normaliser `{}`; @1, @5: share with a right answer first, or among the first five;",
            arguments.normaliser
        )?;
        writeln!(
            out,
            "falsely: of the photographs that show no class and no group of the gallery, those answered with confidence of 0.95 or more"
        )?;
    }
    Ok(if broken { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

/// What came of one encoder and checkpoint.
struct Measured {
    report: Report,
    /// What the checkpoint is called.
    checkpoint: String,
    /// Videos that could not be indexed.
    failed: usize,
}

/// Indexes the videos into a temporary folder, and asks.
fn measure(
    arguments: &Arguments,
    (videos, images): (&[kinds::Shown], &[kinds::Shown]),
    encoder: &Arc<dyn Encoder>,
    checkpoint: Option<&Path>,
    cancel: &Cancel,
) -> anyhow::Result<Measured> {
    let paths: Vec<PathBuf> = videos.iter().map(|video| video.path.clone()).collect();
    let (folded, of) = match checkpoint {
        Some(path) => (Folded::open(path)?, path.file_stem().unwrap_or_default().to_string_lossy().into_owned()),
        None => ingest::default_checkpoint(encoder.as_ref(), (&paths, &GlobSet::empty()), cancel, model::say)?,
    };
    let folder = tempfile::tempdir()?;
    let folder = folder.path().join("index");
    let failed = gallery::make(&folder, &paths, encoder.as_ref(), &folded, cancel)?.failed;
    let engine = Engine::new(Index::open(&folder)?.searcher()?, encoder.clone(), folded);
    let report = kinds::run(&engine, videos, images, arguments.normaliser, cancel)?;
    Ok(Measured { report, checkpoint: of, failed })
}

fn print(
    out: &mut impl Write,
    arguments: &Arguments,
    (id, name): (&str, &str),
    measured: &Measured,
) -> anyhow::Result<()> {
    let Measured { report, checkpoint, failed } = measured;
    if arguments.json {
        let mut value = serde_json::json!({
            "encoder": id, "checkpoint": checkpoint, "normaliser": arguments.normaliser, "failed": failed,
        });
        if let (Some(value), serde_json::Value::Object(report)) = (value.as_object_mut(), serde_json::to_value(report)?)
        {
            value.extend(report);
        }
        writeln!(out, "{value}")?;
        return Ok(());
    }
    let (class, group) = (&report.class, &report.group);
    writeln!(
        out,
        "{name:<16} {checkpoint:<28} {:>8.3} {:>6.3} {:>6.3}   {:>8.3} {:>6.3} {:>6.3} {:>8} {:>7} {:>9} {:>8.1}",
        class.map10,
        class.success1,
        class.success5,
        group.map10,
        group.success1,
        group.success5,
        report.gallery,
        failed,
        format!("{}/{}", report.no_match.falsely, report.no_match.queries),
        report.median_query_ms
    )?;
    Ok(())
}
