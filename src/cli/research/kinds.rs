use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use globset::GlobSet;

use super::index_videos;
use crate::base::Cancel;
use crate::cli::args::SearchMatch;
use crate::cli::terminal::{json_line, note, print_line};
use crate::cli::{FAILED, INTERRUPTED, advice, terminal};
use crate::collection::{self, Model, ModelChoice};
use crate::encode::registry::{ENTRIES, EncoderEntry, LAYOUT};
use crate::encode::{self, Encoder};
use crate::gmf::{CheckpointRecord, Folded};
use crate::ingest::closed_form::FitEvent;
use crate::ingest::{self, IndexOptions, Indexer};
use crate::research::eval::kinds::{self, KindsReport};
use crate::research::eval::metrics::Normaliser;
use crate::search::MatchChoice;

#[derive(Debug, Args)]
pub(in crate::cli) struct KindsArgs {
    /// Folder of videos with a manifest.jsonl: one object a line with `path`, `class` and `group`
    #[arg(value_name = "DIR")]
    videos: PathBuf,
    /// Folder of photographs, with the same kind of manifest.jsonl
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// Encoders to measure [default: all whose weights are on this machine]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    encoders: Vec<String>,
    /// Weights of an encoder [default: the downloaded ones] (can be repeated)
    #[arg(long, value_name = "NAME=FILE", value_parser = pair)]
    weights: Vec<(String, PathBuf)>,
    /// Also measure this folded checkpoint, with the encoder it was made for (can be repeated)
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// Answers to measure: those of scenes (`layout` alone), of a kind space with each encoder, or of both as
    /// `search` joins them
    #[arg(long = "match", value_name = "MATCH", value_enum, default_value_t)]
    matching: SearchMatch,
    /// Divisor of average precision
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

impl KindsArgs {
    fn weights_of(&self, encoder: &str) -> Option<&Path> {
        self.weights.iter().find(|(name, _)| name == encoder).map(|(_, file)| file.as_path())
    }
}

/// An encoder to measure, and its checkpoints; `None` is the default checkpoint.
struct EncoderRun<'a> {
    encoder: &'a str,
    checkpoints: Vec<Option<&'a Path>>,
}

/// The encoders to measure. Each is listed once, so that it is opened once.
fn encoder_runs<'a>(args: &'a KindsArgs, records: &'a [CheckpointRecord]) -> anyhow::Result<Vec<EncoderRun<'a>>> {
    // A broken weights file counts as present, so that opening it reports the error.
    let is_present = |entry: &&EncoderEntry| args.weights_of(entry.name).is_some() || entry.path().exists();
    let names: Vec<&str> = match args.encoders.is_empty() {
        true if args.matching == SearchMatch::Scene => vec![LAYOUT],
        true => std::iter::once(LAYOUT).chain(ENTRIES.iter().filter(is_present).map(|entry| entry.name)).collect(),
        false => args.encoders.iter().map(String::as_str).collect(),
    };
    let run = |encoder| EncoderRun { encoder, checkpoints: vec![None] };
    let mut runs: Vec<EncoderRun<'_>> = names.into_iter().map(run).collect();
    for (path, record) in args.checkpoint.iter().zip(records) {
        let encoder = record.encoder.split('/').next().unwrap_or_default();
        match runs.iter_mut().find(|run| run.encoder == encoder) {
            Some(run) => run.checkpoints.push(Some(path)),
            None => runs.push(EncoderRun { encoder, checkpoints: vec![Some(path)] }),
        }
    }
    if let Some((name, _)) = args.weights.iter().find(|(name, _)| !runs.iter().any(|run| run.encoder == name)) {
        bail!("--weights {name}=...: the encoder {name} is not measured; add it to --encoders");
    }
    Ok(runs)
}

/// The videos and the photographs.
struct KindsData {
    videos: Vec<kinds::LabelledFile>,
    images: Vec<kinds::LabelledFile>,
}

pub(super) fn run(args: &KindsArgs) -> anyhow::Result<ExitCode> {
    let data = KindsData { videos: kinds::manifest(&args.videos)?, images: kinds::manifest(&args.images)? };
    let cancel = terminal::cancel_on_interrupt()?;
    let records: Vec<CheckpointRecord> =
        args.checkpoint.iter().map(|path| CheckpointRecord::open(path)).collect::<Result<_, _>>()?;
    let runs = encoder_runs(args, &records)?;
    let mut out = std::io::stdout();
    if !args.json {
        print_header(&mut out)?;
    }
    let mut failed = false;
    for EncoderRun { encoder: name, checkpoints } in runs {
        // An encoder that cannot be opened is reported, and the other encoders are measured.
        let encoder = match encode::open(name, args.weights_of(name)) {
            Ok(encoder) => encoder,
            Err(error) => {
                terminal::print_error(&anyhow::Error::new(error).context(format!("measuring {name}")));
                failed = true;
                continue;
            }
        };
        for checkpoint in checkpoints {
            let measured = measure(args, &data, &encoder, checkpoint, &cancel);
            // After an interruption the gallery is incomplete, so its figures would be wrong.
            if cancel.is_set() {
                return Ok(ExitCode::from(INTERRUPTED));
            }
            let measured = measured.with_context(|| format!("measuring {name}"))?;
            print(&mut out, args, (&encoder.info().id, name), &measured)?;
        }
    }
    if !args.json {
        print_legend(&mut out, args)?;
    }
    Ok(if failed { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

fn print_header(out: &mut impl Write) -> std::io::Result<()> {
    print_line!(
        out,
        "{:<16} {:<6} {:<28} {:>8} {:>6} {:>6}   {:>8} {:>6} {:>6} {:>8} {:>7} {:>9} {:>8}",
        "encoder",
        "match",
        "checkpoint",
        "class",
        "@1",
        "@5",
        "group",
        "@1",
        "@5",
        "gallery",
        "failed",
        "falsely",
        "ms"
    )
}

fn print_legend(out: &mut impl Write, args: &KindsArgs) -> std::io::Result<()> {
    let normaliser = args.normaliser;
    print_line!(
        out,
        "class, group: mAP@10 with normaliser `{normaliser}`; @1, @5: share of queries with a correct result at rank 1, or among the first 5;"
    )?;
    print_line!(
        out,
        "falsely: photographs that got an answer with a confidence of at least 0.95, of those whose class and group are not in the gallery"
    )
}

/// The measurement of an encoder with a checkpoint.
struct KindsMeasurement {
    report: KindsReport,
    /// Name of the checkpoint.
    checkpoint: String,
    /// Videos that could not be indexed.
    failed: usize,
    /// The answers that were measured.
    matching: MatchChoice,
}

/// Indexes the videos into a temporary folder, and searches for the photographs. A learned encoder makes the
/// kind space of an index of scenes, unless it needs whole clips.
fn measure(
    args: &KindsArgs,
    data: &KindsData,
    encoder: &Arc<dyn Encoder>,
    checkpoint: Option<&Path>,
    cancel: &Cancel,
) -> anyhow::Result<KindsMeasurement> {
    let paths: Vec<PathBuf> = data.videos.iter().map(|video| video.path.clone()).collect();
    let (folded, name) = match checkpoint {
        Some(path) => (Folded::open(path)?, path.file_stem().unwrap_or_default().to_string_lossy().into_owned()),
        None => {
            let note = |event: &FitEvent| note!("{}", advice::fit_note(event));
            let folded = ingest::default_checkpoint(encoder.as_ref(), &paths, &GlobSet::empty(), cancel, note)?;
            let start = folded.record.training["start"].as_str().unwrap_or_default().to_owned();
            (folded, if encoder.info().name == LAYOUT { "embedded GMF".to_owned() } else { start })
        }
    };
    let temporary = tempfile::tempdir()?;
    let (folder, options) = (temporary.path().join("index"), IndexOptions::new(paths));
    let model = Model { encoder: encoder.clone(), checkpoint: folded, weights: None };
    let indexer = match encoder.info().finds_kinds() {
        true => {
            let scenes = ModelChoice::default().open(|_| Ok::<_, collection::Error>(Folded::embedded()))?;
            Indexer::create(&folder, scenes, options)?.with_kind(model)?
        }
        false => Indexer::create(&folder, model, options)?,
    };
    let failed = index_videos(&indexer, cancel)?.failed;
    let engine = indexer.into_engine()?;
    // An encoder without a kind space is measured with what it finds.
    let matching = if encoder.info().finds_kinds() { args.matching.into() } else { MatchChoice::Both };
    let report = kinds::run(&engine, &data.videos, &data.images, matching, args.normaliser, cancel)?;
    Ok(KindsMeasurement { report, checkpoint: name, failed, matching })
}

fn print(
    out: &mut impl Write,
    args: &KindsArgs,
    (id, name): (&str, &str),
    measured: &KindsMeasurement,
) -> anyhow::Result<()> {
    let KindsMeasurement { report, checkpoint, failed, matching } = measured;
    let matching = matching.name();
    if args.json {
        let mut value = serde_json::json!({
            "encoder": id, "match": matching, "checkpoint": checkpoint, "normaliser": args.normaliser, "failed": failed,
        });
        if let (Some(value), serde_json::Value::Object(report)) = (value.as_object_mut(), serde_json::to_value(report)?)
        {
            value.extend(report);
        }
        out.write_all(json_line(&value)?.as_bytes())?;
        return Ok(());
    }
    let (class, group) = (&report.class, &report.group);
    print_line!(
        out,
        "{name:<16} {matching:<6} {checkpoint:<28} {:>8.3} {:>6.3} {:>6.3}   {:>8.3} {:>6.3} {:>6.3} {:>8} {:>7} {:>9} {:>8.1}",
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
