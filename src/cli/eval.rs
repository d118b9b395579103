use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Args;
use reelseek_index::Effort;

use super::{FOUND_NOTHING, INTERRUPTED, talk};
use crate::eval::methods::{self, Fitted, Training};
use crate::eval::metrics::Normaliser;
use crate::eval::ranking::Pooling;
use crate::eval::report::{self, Media};
use crate::eval::retrieval::{Answer, Error, Summary, Task};
use crate::eval::table::{self, Plan, Table};
use crate::eval::trec;
use crate::features::activitynet::Annotations;
use crate::features::{Set, Split};
use crate::gmf::{Config, Data, Folded, Options, Record, Weights};
use crate::media::Cancel;

/// Videos of a run that trec_eval reads, at least.
const TREC_DEPTH: usize = 1000;
/// Queries named that are left out.
const MAX_NAMED: usize = 5;
/// Share of the training rows held out for validation, if there is no split `val`.
const HELD_OUT: f32 = 0.1;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Folder with images.npy, videos.npy, images.jsonl and videos.jsonl
    #[arg(long, value_name = "DIR")]
    features: PathBuf,
    /// Measure this checkpoint, with all layers or folded
    #[arg(long, value_name = "CKPT", conflicts_with = "method")]
    checkpoint: Option<PathBuf>,
    /// Fit this method to the split train and measure it: cosine, ridge, ridge-image, cca, cca-image, gmf, gmf-image, gmf-video
    #[arg(long, value_name = "NAME", default_value = "cosine")]
    method: String,
    /// Fit and measure all methods, and set them beside the paper's Table 3
    #[arg(long, conflicts_with_all = ["checkpoint", "method", "trec_run", "trec_qrels", "pools", "ann"])]
    table: bool,
    /// With --table: only these methods
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "table")]
    methods: Vec<String>,
    /// Print LaTeX in place of Markdown
    #[arg(long, requires = "table", conflicts_with = "json")]
    latex: bool,
    /// Which rows are asked and searched among
    #[arg(long, value_enum, default_value_t = Split::Test)]
    split: Split,
    /// Labels and splits come from annotations of ActivityNet, by `video` or `id`
    #[arg(long, value_name = "JSON")]
    activitynet: Option<PathBuf>,
    /// Ranks of the metrics
    #[arg(long, value_name = "K", value_delimiter = ',', default_value = "10,20,50,100")]
    at: Vec<usize>,
    /// What average precision is divided by: the relevant videos found in the top k, min(k, R), or R
    #[arg(long, value_enum, default_value_t = Normaliser::Hits)]
    normaliser: Normaliser,
    /// How clips' scores become their video's: best, or mean:N of the N best
    #[arg(long, value_name = "HOW", default_value = "best")]
    pooling: Pooling,
    /// Also read mAP@n as: each query against a seeded pool of n videos
    #[arg(long)]
    pools: bool,
    /// Also ask through the HNSW index
    #[arg(long)]
    ann: bool,
    /// Breadth of search of --ann
    #[arg(long, value_name = "N", requires = "ann")]
    ef: Option<usize>,
    /// Epochs of GMF
    #[arg(long, value_name = "N", default_value_t = Options::default().epochs)]
    epochs: usize,
    /// Learning rate of GMF
    #[arg(long, value_name = "RATE", default_value_t = Options::default().rate)]
    learning_rate: f64,
    /// Seeds of GMF, and of pools and intervals (the first)
    #[arg(long, value_name = "SEEDS", value_delimiter = ',', default_value = "1")]
    seeds: Vec<u64>,
    /// Write the ranked videos as trec_eval reads them
    #[arg(long, value_name = "FILE")]
    trec_run: Option<PathBuf>,
    /// Write which videos are relevant, likewise
    #[arg(long, value_name = "FILE")]
    trec_qrels: Option<PathBuf>,
    /// Write a page to look at into this folder
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Folder of the videos, for pictures in the report
    #[arg(long, value_name = "DIR", requires = "report")]
    media: Option<PathBuf>,
    /// End with status 1 if mAP at the first rank of --at is lower
    #[arg(long, value_name = "MAP")]
    floor: Option<f64>,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    check(arguments)?;
    let cancel = talk::cancel_on_interrupt()?;
    let annotations = arguments.activitynet.as_deref().map(Annotations::read).transpose()?;
    let set = Set::open_with(&arguments.features, annotations.as_ref())?;
    set.check()?;
    let task = Task::new(&set, arguments.split)?;
    if task.own() > 0 {
        eprintln!(
            "warning: the own video of {} queries is among the videos: it counts as relevant, and is easily found",
            task.own()
        );
    }
    if task.skipped() > 0 {
        let named = |(image, video): (&str, &str)| match image == video {
            true => talk::printable(image),
            false => format!("{} (of {})", talk::printable(image), talk::printable(video)),
        };
        let some: Vec<String> = task.unanswerable().take(MAX_NAMED).map(named).collect();
        let more = if task.skipped() > MAX_NAMED { ", ..." } else { "" };
        eprintln!("{} queries have no relevant video and are left out: {}{more}", task.skipped(), some.join(", "));
    }
    if task.skipped() == task.queries.len() {
        bail!("none of the {} queries has a relevant video among {}", task.queries.len(), task.videos.len());
    }
    let done = if arguments.table { whole_table(arguments, &task, &cancel) } else { one(arguments, &task, &cancel) };
    match done {
        Err(error) if matches!(error.downcast_ref(), Some(Error::Interrupted)) => {
            eprintln!("stopped; nothing was written");
            Ok(ExitCode::from(INTERRUPTED))
        }
        done => done,
    }
}

/// Refuses what cannot be, before any work is done.
fn check(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.at.is_empty() || arguments.at.contains(&0) {
        bail!("--at takes ranks of at least 1");
    }
    if arguments.seeds.is_empty() {
        bail!("--seeds takes at least one");
    }
    if arguments.epochs == 0 {
        bail!("--epochs takes at least 1");
    }
    if arguments.trec_run.is_some() && arguments.trec_run == arguments.trec_qrels {
        bail!("--trec-run and --trec-qrels name the same file");
    }
    let outs = [&arguments.trec_run, &arguments.trec_qrels].into_iter().flatten().cloned();
    for out in outs.chain(arguments.report.as_ref().map(|folder| folder.join(report::PAGE))) {
        if out.exists() && !arguments.force {
            bail!("{} exists; --force replaces it", out.display());
        }
        // Where nothing can be written nothing need be computed.
        let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        tempfile::NamedTempFile::new_in(folder)
            .with_context(|| format!("nothing can be written to {}", folder.display()))?;
    }
    Ok(())
}

fn options(arguments: &Arguments) -> Options {
    Options { epochs: arguments.epochs, rate: arguments.learning_rate, seed: arguments.seeds[0], ..Options::default() }
}

/// Calls `work` with what methods are fitted to.
fn with_training<T>(
    arguments: &Arguments,
    set: &Set,
    cancel: &Cancel,
    work: impl FnOnce(&Training<'_>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let data = Data::new(set, HELD_OUT, arguments.seeds[0])?;
    let stop = || cancel.is_set();
    let tell = |what: &str| eprintln!("{what}");
    work(&Training { set, data, options: options(arguments), stop: &stop, tell: &tell })
}

fn whole_table(arguments: &Arguments, task: &Task<'_>, cancel: &Cancel) -> anyhow::Result<ExitCode> {
    let plan = Plan {
        methods: arguments.methods.clone(),
        seeds: arguments.seeds.clone(),
        at: arguments.at.clone(),
        normaliser: arguments.normaliser,
        pooling: arguments.pooling,
    };
    let media = media(arguments)?;
    let (table, best) = with_training(arguments, task.set, cancel, |training| Ok(table::make(task, training, &plan)?))?;
    let mut out = std::io::stdout();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string(&table)?)?;
    } else if arguments.latex {
        write!(out, "{}", table.latex())?;
    } else {
        write!(out, "{}", table.markdown())?;
    }
    let pictures = (Some(&table), media.as_ref());
    write_report(arguments, task, (best.method, &best.answers, &best.summary), pictures, cancel)?;
    Ok(verdict(arguments, best.summary.map.first().map_or(0.0, |(_, map)| *map)))
}

/// The videos for pictures in the report, if they are asked for.
fn media(arguments: &Arguments) -> anyhow::Result<Option<Media>> {
    let media = arguments.media.as_deref().map(Media::find).transpose()?;
    if media.as_ref().is_some_and(Media::is_empty) {
        eprintln!("warning: no videos are found for pictures in the report");
    }
    Ok(media)
}

fn write_report(
    arguments: &Arguments,
    task: &Task<'_>,
    (method, answers, summary): (&str, &[Answer], &Summary),
    pictures: (Option<&Table>, Option<&Media>),
    cancel: &Cancel,
) -> anyhow::Result<()> {
    if let Some(folder) = &arguments.report {
        report::write(folder, task, method, answers, (summary, arguments.normaliser), pictures, cancel)?;
        eprintln!("report: {}", folder.join(report::PAGE).display());
    }
    Ok(())
}

fn verdict(arguments: &Arguments, map: f64) -> ExitCode {
    match arguments.floor {
        Some(floor) if map < floor => {
            eprintln!("mAP@{} is {map:.4}, below the floor of {floor}", arguments.at[0]);
            ExitCode::from(FOUND_NOTHING)
        }
        _ => ExitCode::SUCCESS,
    }
}

/// A checkpoint of either kind, and what its whole model costs.
fn open_checkpoint(path: &Path) -> anyhow::Result<Fitted> {
    let record = Record::open(path)?;
    let folded = match Weights::open(path) {
        Ok((weights, record)) => weights.fold(&record)?,
        Err(all) => Folded::open(path).map_err(|folded| {
            // Neither: what is wrong is told by the kind that it says it is.
            anyhow::Error::from(folded).context(all.to_string())
        })?,
    };
    let maps = (&folded).into();
    let plain = Fitted::of(maps);
    Ok(match Config::new(record.modalities, record.multiple, record.boundary) {
        Ok(config) => Fitted { parameters: config.parameters(), flops: config.flops(), ..plain },
        Err(_) => plain,
    })
}

fn one(arguments: &Arguments, task: &Task<'_>, cancel: &Cancel) -> anyhow::Result<ExitCode> {
    let media = media(arguments)?;
    let (name, fitted) = match &arguments.checkpoint {
        Some(path) => ("gmf".to_owned(), open_checkpoint(path).with_context(|| path.display().to_string())?),
        None => (arguments.method.clone(), fit(arguments, task.set, cancel)?),
    };
    let start = Instant::now();
    let deepest = arguments.at.iter().copied().max().unwrap_or(0);
    let depth = if arguments.trec_run.is_some() { deepest.max(TREC_DEPTH) } else { deepest };
    let answers = task.answers(&fitted.maps, arguments.pooling, depth)?;
    let summary = Summary::new(&answers, &arguments.at, arguments.normaliser).context("no query was answered")?;
    let seconds = start.elapsed().as_secs_f64();
    let by_rank = |values: &[(usize, f64)]| -> serde_json::Map<String, serde_json::Value> {
        values.iter().map(|(k, value)| (k.to_string(), (*value).into())).collect()
    };
    let mut json = serde_json::json!({
        "method": name,
        "split": arguments.split,
        "seed": arguments.seeds[0],
        "queries": answers.len(),
        "skipped_queries": task.skipped(),
        "gallery": task.videos.len(),
        "rows": task.rows.len(),
        "normaliser": arguments.normaliser,
        "pooling": arguments.pooling.to_string(),
        "map": by_rank(&summary.map),
        "recall": by_rank(&summary.recall),
        "precision": by_rank(&summary.precision),
        "ndcg": by_rank(&summary.ndcg),
        "mrr": summary.mrr,
        "median_rank": summary.median_rank,
        "params": fitted.parameters,
        "flops": fitted.flops,
        "seconds": seconds,
    });
    if arguments.pools {
        let pools = task.pool_maps(&fitted.maps, arguments.pooling, &arguments.at, arguments.seeds[0])?;
        json["map_in_pools"] = by_rank(&pools).into();
    }
    if arguments.ann {
        let effort = arguments.ef.map_or(Effort::Default, Effort::Ef);
        let ann = task.ann(&fitted.maps, arguments.pooling, &answers, (&arguments.at, deepest), effort)?;
        let found = Summary::new(&ann.answers, &arguments.at, arguments.normaliser).context("no query was answered")?;
        json["ann"] = serde_json::json!({
            "map": by_rank(&found.map), "ann_recall": by_rank(&ann.recall), "least_rows_kept": ann.rows_kept,
        });
    }
    // Before anything is written: what was measured is not lost if a file cannot be.
    if arguments.json {
        writeln!(std::io::stdout(), "{json}")?;
    } else {
        print(&json, &arguments.at)?;
    }
    if let Some(path) = &arguments.trec_run {
        trec::write_run(path, task, &answers)?;
    }
    if let Some(path) = &arguments.trec_qrels {
        trec::write_qrels(path, task)?;
    }
    write_report(arguments, task, (&name, &answers, &summary), (None, media.as_ref()), cancel)?;
    Ok(verdict(arguments, summary.map.first().map_or(0.0, |(_, map)| *map)))
}

fn fit(arguments: &Arguments, set: &Set, cancel: &Cancel) -> anyhow::Result<Fitted> {
    let all = methods::all();
    let Some((_, method)) = all.iter().find(|(name, _)| *name == arguments.method) else {
        let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
        bail!("there is no method {}; there are {}", arguments.method, names.join(", "));
    };
    if let Some(plain) = methods::without_training(&arguments.method, set) {
        return Ok(plain);
    }
    with_training(arguments, set, cancel, |training| {
        Ok(methods::run(method.as_ref(), training, arguments.seeds[0])?.fitted)
    })
    .with_context(|| format!("fitting {} to the split train", arguments.method))
}

fn print(json: &serde_json::Value, at: &[usize]) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{}: {} queries ({} without a relevant video left out) against {} videos, {} rows, pooled by {}",
        json["method"].as_str().unwrap_or_default(),
        json["queries"],
        json["skipped_queries"],
        json["gallery"],
        json["rows"],
        json["pooling"].as_str().unwrap_or_default()
    )?;
    writeln!(out, "{:<22}{}", "", at.iter().map(|k| format!("{:>9}", format!("@{k}"))).collect::<String>())?;
    let map = format!("mAP ({})", json["normaliser"].as_str().unwrap_or_default());
    let mut line = |name: &str, values: &serde_json::Value| -> std::io::Result<()> {
        if values.is_null() {
            return Ok(());
        }
        let cell = |k: &usize| format!("{:>9.4}", values[k.to_string()].as_f64().unwrap_or_default());
        writeln!(out, "{name:<22}{}", at.iter().map(cell).collect::<String>())
    };
    line(&map, &json["map"])?;
    for name in ["recall", "precision", "ndcg"] {
        line(name, &json[name])?;
    }
    line("mAP in pools of k", &json["map_in_pools"])?;
    line("mAP through HNSW", &json["ann"]["map"])?;
    line("ann_recall", &json["ann"]["ann_recall"])?;
    let median = json["median_rank"].as_f64().map_or("-".to_owned(), |rank| rank.to_string());
    writeln!(
        out,
        "MRR {:.4}, median rank {median}; {} parameters, {:.3} GFLOP, {:.2} s",
        json["mrr"].as_f64().unwrap_or_default(),
        json["params"],
        json["flops"].as_f64().unwrap_or_default() / 1e9,
        json["seconds"].as_f64().unwrap_or_default()
    )?;
    Ok(())
}
