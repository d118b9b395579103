use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use globset::GlobSet;
use reelseek_index::Index;

use super::model;
use super::talk;
use crate::encode::registry::{ENTRIES, LAYOUT};
use crate::encode::{self, Encoder};
use crate::eval::kinds::{self, Report};
use crate::eval::metrics::Normaliser;
use crate::gmf::{Folded, Record};
use crate::ingest::{self, Plan};
use crate::media::Cancel;
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
    let at_hand = |name: &str| weights(name).is_some() || encode::open(name, None).is_ok();
    let all = std::iter::once(LAYOUT).chain(ENTRIES.iter().map(|entry| entry.name));
    let names: Vec<&str> = match arguments.encoders.is_empty() {
        true => all.filter(|name| at_hand(name)).collect(),
        false => arguments.encoders.iter().map(String::as_str).collect(),
    };
    let mut jobs: Vec<(&str, Option<&Path>)> = names.iter().map(|name| (*name, None)).collect();
    let records: Vec<Record> = arguments.checkpoint.iter().map(|path| Record::open(path)).collect::<Result<_, _>>()?;
    for (path, record) in arguments.checkpoint.iter().zip(&records) {
        jobs.push((record.encoder.split('/').next().unwrap_or_default(), Some(path)));
    }
    if let Some((name, _)) = arguments.weights.iter().find(|(name, _)| !jobs.iter().any(|(job, _)| job == name)) {
        bail!("--weights {name}=...: no encoder {name} is measured; add it to --encoders");
    }
    let mut out = std::io::stdout();
    if !arguments.json {
        writeln!(
            out,
            "{:<16} {:<28} {:>8} {:>6} {:>6}   {:>8} {:>6} {:>6} {:>8}",
            "encoder", "checkpoint", "class", "@1", "@5", "group", "@1", "@5", "ms"
        )?;
    }
    for (name, checkpoint) in jobs {
        let encoder = encode::open(name, weights(name))?;
        let (report, of) = measure(arguments, (&videos, &images), &encoder, checkpoint, &cancel)
            .with_context(|| format!("measuring {name}"))?;
        print(&mut out, arguments, (&encoder.about().id, name, &of), &report)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Indexes the videos into a temporary folder, and asks. Gives the checkpoint's description too.
fn measure(
    arguments: &Arguments,
    (videos, images): (&[kinds::Shown], &[kinds::Shown]),
    encoder: &Arc<dyn Encoder>,
    checkpoint: Option<&Path>,
    cancel: &Cancel,
) -> anyhow::Result<(Report, String)> {
    let paths: Vec<PathBuf> = videos.iter().map(|video| video.path.clone()).collect();
    let (folded, of) = match checkpoint {
        Some(path) => (Folded::open(path)?, path.file_stem().unwrap_or_default().to_string_lossy().into_owned()),
        None => ingest::default_checkpoint(encoder.as_ref(), (&paths, &GlobSet::empty()), cancel, model::say)?,
    };
    let folder = tempfile::tempdir()?;
    let folder = folder.path().join("index");
    let plan = Plan {
        paths,
        exclude: GlobSet::empty(),
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
        keyframes: false,
        prune: false,
        retry: false,
        half: false,
        weights: None,
    };
    ingest::run(&folder, &plan, encoder.as_ref(), &folded, cancel, |_| {})?;
    let engine = Engine::new(Index::open(&folder)?.searcher()?, encoder.clone(), folded);
    Ok((kinds::run(&engine, videos, images, arguments.normaliser)?, of))
}

fn print(
    out: &mut impl Write,
    arguments: &Arguments,
    (id, name, checkpoint): (&str, &str, &str),
    report: &Report,
) -> anyhow::Result<()> {
    if arguments.json {
        let mut value = serde_json::json!({
            "encoder": id, "checkpoint": checkpoint, "normaliser": arguments.normaliser,
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
        "{name:<16} {checkpoint:<28} {:>8.3} {:>6.3} {:>6.3}   {:>8.3} {:>6.3} {:>6.3} {:>8.1}",
        class.map10,
        class.success1,
        class.success5,
        group.map10,
        group.success1,
        group.success5,
        report.median_query_ms
    )?;
    Ok(())
}
