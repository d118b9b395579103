use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Args;
use reelseek_index::Effort;
use serde_json::Value;

use super::{FOUND_NOTHING, INTERRUPTED, talk};
use crate::base::Cancel;
use crate::features::activitynet::Annotations;
use crate::features::{Set, Split};
use crate::gmf::{Config, Data, Folded, Options, Record, Weights};
use crate::research::eval::methods::{self, Fitted, Training};
use crate::research::eval::metrics::Normaliser;
use crate::research::eval::ranking::Pooling;
use crate::research::eval::report::{self, Content, Media};
use crate::research::eval::retrieval::{Error, Relevance, Task};
use crate::research::eval::summary::Summary;
use crate::research::eval::table::{self, Plan};
use crate::research::eval::trec;

/// Videos of a run that trec_eval reads, at least.
const TREC_DEPTH: usize = 1000;
/// Queries, rows or videos named in a warning.
const MAX_NAMED: usize = 5;
/// Share of the training rows held out for validation, if there is no split `val`.
const HELD_OUT: f32 = 0.1;

#[derive(Debug, Clone, Args)]
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
    /// Epochs of GMF, 20 if nothing is said
    #[arg(long, value_name = "N", conflicts_with = "checkpoint")]
    epochs: Option<usize>,
    /// Learning rate of GMF, 0.0003 if nothing is said: it starts from a closed form
    #[arg(long, value_name = "RATE", conflicts_with = "checkpoint")]
    learning_rate: Option<f64>,
    /// Seeds of GMF (several with --table), and of pools, intervals and what is held out (the first)
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
    let mut seen = HashSet::new();
    let at = arguments.at.iter().copied().filter(|k| seen.insert(*k)).collect();
    let arguments = &Arguments { at, ..arguments.clone() };
    check(arguments)?;
    let cancel = talk::cancel_saying("stopping: nothing more is written (again to stop at once)")?;
    let annotations = arguments.activitynet.as_deref().map(Annotations::read).transpose()?;
    let set = Set::open_with(&arguments.features, annotations.as_ref())?;
    let zeros = set.check()?;
    let task = Task::new(&set, arguments.split)?;
    warn(arguments, &task, &zeros);
    if task.skipped() == task.queries.len() {
        bail!(
            "none of the {} queries has a relevant video among {}; {}",
            task.queries.len(),
            task.videos.len(),
            talk::printable(&task.compared())
        );
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
    match arguments.seeds.as_slice() {
        [] => bail!("--seeds takes at least one"),
        [_, _, ..] if !arguments.table => bail!("--seeds takes several with --table only; name one"),
        _ => {}
    }
    if arguments.epochs == Some(0) {
        bail!("--epochs takes at least 1");
    }
    for name in &arguments.methods {
        methods::named(name)?;
    }
    if !arguments.table && arguments.checkpoint.is_none() {
        let seeded = methods::named(&arguments.method)?.is_seeded();
        if !seeded && (arguments.epochs.is_some() || arguments.learning_rate.is_some()) {
            bail!("{} has no --epochs and no --learning-rate: they are GMF's", arguments.method);
        }
    }
    if let Some(floor) = arguments.floor.filter(|floor| !(0.0..=1.0).contains(floor)) {
        bail!("--floor is {floor}; it is a mAP, from 0 to 1");
    }
    if let Some(media) = arguments.media.as_deref().filter(|media| !media.is_dir()) {
        bail!("--media {} is no folder", media.display());
    }
    if arguments.trec_run.is_some() && arguments.trec_run == arguments.trec_qrels {
        bail!("--trec-run and --trec-qrels name the same file");
    }
    let outs = [&arguments.trec_run, &arguments.trec_qrels].into_iter().flatten().cloned();
    for out in outs.chain(arguments.report.as_ref().map(|folder| folder.join(report::PAGE))) {
        if out.is_dir() {
            bail!("{} is a folder; name a file", out.display());
        }
        if out.exists() && !arguments.force {
            bail!("{} exists; --force replaces it", out.display());
        }
        // Where nothing can be written nothing need be computed. Folders are made when there is something to put into them.
        let folder = out.ancestors().skip(1).find(|folder| folder.exists()).unwrap_or(Path::new("."));
        tempfile::NamedTempFile::new_in(folder)
            .with_context(|| format!("nothing can be written to {}", folder.display()))?;
    }
    Ok(())
}

/// Some of the names, for people.
fn some(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.take(MAX_NAMED + 1).map(|name| talk::printable(&name)).collect();
    if names.len() > MAX_NAMED {
        names[MAX_NAMED] = "...".to_owned();
    }
    names.join(", ")
}

/// Tells what makes the numbers worth less than they look.
fn warn(arguments: &Arguments, task: &Task<'_>, zeros: &[Vec<usize>; 2]) {
    let plain = arguments.checkpoint.is_none() && methods::without_training(&arguments.method, task.set).is_some();
    let fitted = arguments.table || !plain;
    if fitted && arguments.split != Split::Test {
        eprintln!(
            "warning: methods learn from the split {0} or are chosen by it: measured with it they look better than they are",
            arguments.split
        );
    }
    if let Some(bare) = task.without_labels() {
        eprintln!(
            "warning: no {bare} of the split {} have labels: relevant is the own video, not a shared label",
            task.split
        );
    }
    let shared = task.shared_sources();
    if fitted && !shared.is_empty() {
        eprintln!(
            "warning: {} videos of the split {} are among those that methods learn from or are chosen by: {}",
            shared.len(),
            task.split,
            some(shared.iter().map(|name| (*name).to_owned()))
        );
    }
    for (rows, table, name) in [(&zeros[0], &task.set.images, "images"), (&zeros[1], &task.set.videos, "videos")] {
        if !rows.is_empty() {
            let named = some(rows.iter().map(|row| table.rows[*row].id.clone()));
            eprintln!("warning: the features of {} {name} are all zero: {named}", rows.len());
        }
    }
    if task.own() > 0 {
        eprintln!(
            "warning: the own video of {} queries is among the videos: it counts as relevant, and is easily found",
            task.own()
        );
    }
    if task.skipped() > 0 {
        let named = |(image, video): (&str, &str)| match image == video {
            true => image.to_owned(),
            false => format!("{image} (of {video})"),
        };
        let named = some(task.unanswerable().map(named));
        eprintln!("{} queries have no relevant video and are left out: {named}", task.skipped());
    }
}

fn options(arguments: &Arguments) -> Options {
    let plain = Options::default();
    Options {
        epochs: arguments.epochs.unwrap_or(plain.epochs),
        rate: arguments.learning_rate.unwrap_or(methods::GMF_RATE),
        seed: arguments.seeds[0],
        ..plain
    }
}

/// Calls `work` with what methods are fitted to.
fn with_training<T>(
    arguments: &Arguments,
    task: &Task<'_>,
    cancel: &Cancel,
    work: impl FnOnce(&Training<'_>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let data = Data::new(task.set, HELD_OUT, arguments.seeds[0])?;
    let learned = if data.by_label() { Relevance::Label } else { Relevance::Video };
    if learned != task.relevance {
        eprintln!(
            "warning: in the split train {learned} says what belongs together, in the split {} relevant is {}",
            task.split, task.relevance
        );
    }
    let stop = || cancel.is_set();
    let tell = |what: &str| eprintln!("{what}");
    work(&Training { set: task.set, data, options: options(arguments), stop: &stop, tell: &tell })
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
    let (table, best) = with_training(arguments, task, cancel, |training| Ok(table::make(task, training, &plan)?))?;
    let mut out = std::io::stdout();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string(&table)?)?;
    } else if arguments.latex {
        write!(out, "{}", table.latex())?;
    } else {
        write!(out, "{}", table.markdown())?;
    }
    let content = Content {
        task,
        method: best.method,
        answers: &best.answers,
        summary: &best.summary,
        normaliser: arguments.normaliser,
        pooling: arguments.pooling,
        table: Some(&table),
        media: media.as_ref(),
    };
    write_report(arguments, &content, cancel)?;
    Ok(verdict(arguments, best.map))
}

/// The videos for pictures in the report, if they are asked for.
fn media(arguments: &Arguments) -> anyhow::Result<Option<Media>> {
    let media = arguments.media.as_deref().map(Media::find).transpose()?;
    if media.as_ref().is_some_and(Media::is_empty) {
        eprintln!("warning: no videos are found for pictures in the report");
    }
    Ok(media)
}

fn write_report(arguments: &Arguments, content: &Content<'_>, cancel: &Cancel) -> anyhow::Result<()> {
    if let Some(folder) = &arguments.report {
        report::write(folder, content, cancel)?;
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
    let lengths = (folded.image.inputs(), folded.video.inputs());
    let plain = Fitted::of((&folded).into(), lengths);
    Ok(match Config::new(record.modalities, record.multiple, record.boundary) {
        Ok(config) => Fitted { parameters: config.parameters(), flops: config.flops(), ..plain },
        Err(_) => plain,
    })
}

fn one(arguments: &Arguments, task: &Task<'_>, cancel: &Cancel) -> anyhow::Result<ExitCode> {
    let media = media(arguments)?;
    let (name, fitted) = match &arguments.checkpoint {
        Some(path) => ("gmf".to_owned(), open_checkpoint(path).with_context(|| path.display().to_string())?),
        None => (arguments.method.clone(), fit(arguments, task, cancel)?),
    };
    let go_on = || if cancel.is_set() { Err(Error::Interrupted) } else { Ok(()) };
    go_on()?;
    let start = Instant::now();
    let deepest = arguments.at.iter().copied().max().unwrap_or(0);
    let depth = if arguments.trec_run.is_some() { deepest.max(TREC_DEPTH) } else { deepest };
    let answers = task.answers(&fitted.maps, arguments.pooling, depth)?;
    let summary = Summary::new(&answers, &arguments.at, arguments.normaliser).context("no query was answered")?;
    let seconds = start.elapsed().as_secs_f64();
    let by_rank = |values: &[(usize, f64)]| -> serde_json::Map<String, Value> {
        values.iter().map(|(k, value)| (k.to_string(), (*value).into())).collect()
    };
    let mut json = serde_json::json!({
        "method": name,
        "split": arguments.split,
        "relevant": task.relevance,
        "shared_sources": task.shared_sources().len(),
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
    if seeded(arguments, task.set)? {
        json["seed"] = arguments.seeds[0].into();
    }
    if let Some(epoch) = fitted.epoch {
        json["epoch"] = epoch.into();
    }
    if arguments.pools {
        go_on()?;
        let pools = task.pool_maps(&fitted.maps, arguments.pooling, &arguments.at, arguments.seeds[0])?;
        json["map_in_pools"] = by_rank(&pools).into();
    }
    if arguments.ann {
        go_on()?;
        let effort = arguments.ef.map_or(Effort::Default, Effort::Ef);
        let ann = task.ann(&fitted.maps, arguments.pooling, &answers, (&arguments.at, deepest), effort)?;
        let found = Summary::new(&ann.answers, &arguments.at, arguments.normaliser).context("no query was answered")?;
        json["ann"] = serde_json::json!({
            "map": by_rank(&found.map), "ann_recall": by_rank(&ann.recall), "least_rows_kept": ann.rows_kept,
        });
    }
    go_on()?;
    // Before anything is written: what was measured is not lost if a file cannot be.
    if arguments.json {
        writeln!(std::io::stdout(), "{json}")?;
    } else {
        print(&json, task, &arguments.at)?;
    }
    if let Some(path) = &arguments.trec_run {
        trec::write_run(path, task, &answers)?;
    }
    if let Some(path) = &arguments.trec_qrels {
        trec::write_qrels(path, task)?;
    }
    let content = Content {
        task,
        method: &name,
        answers: &answers,
        summary: &summary,
        normaliser: arguments.normaliser,
        pooling: arguments.pooling,
        table: None,
        media: media.as_ref(),
    };
    write_report(arguments, &content, cancel)?;
    Ok(verdict(arguments, summary.map.first().map_or(0.0, |(_, map)| *map)))
}

/// Whether the seed has a say: in pools, in training, or in what is held out to choose by.
fn seeded(arguments: &Arguments, set: &Set) -> anyhow::Result<bool> {
    let plain = arguments.checkpoint.is_some() || methods::without_training(&arguments.method, set).is_some();
    if arguments.pools || plain {
        return Ok(arguments.pools);
    }
    let given = [&set.images, &set.videos].iter().any(|table| table.rows.iter().any(|row| row.split == Split::Val));
    Ok(!given || methods::named(&arguments.method)?.is_seeded())
}

fn fit(arguments: &Arguments, task: &Task<'_>, cancel: &Cancel) -> anyhow::Result<Fitted> {
    let method = methods::named(&arguments.method)?;
    if let Some(plain) = methods::without_training(&arguments.method, task.set) {
        return Ok(plain);
    }
    with_training(arguments, task, cancel, |training| {
        Ok(methods::run(method.as_ref(), training, arguments.seeds[0])?.fitted)
    })
    .with_context(|| format!("fitting {} to the split train", arguments.method))
}

fn print(json: &Value, task: &Task<'_>, at: &[usize]) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{}, split {}: {} queries ({} without a relevant video left out) against {} videos, {} rows, pooled by {}; relevant is {}",
        json["method"].as_str().unwrap_or_default(),
        task.split,
        json["queries"],
        json["skipped_queries"],
        json["gallery"],
        json["rows"],
        json["pooling"].as_str().unwrap_or_default(),
        task.relevance
    )?;
    writeln!(out, "{:<22}{}", "", at.iter().map(|k| format!("{:>9}", format!("@{k}"))).collect::<String>())?;
    let map = format!("mAP ({})", json["normaliser"].as_str().unwrap_or_default());
    let mut line = |name: &str, values: &Value| -> std::io::Result<()> {
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
        "MRR {:.4}, median rank {median}; {} parameters, {}FLOP, {:.2} s",
        json["mrr"].as_f64().unwrap_or_default(),
        json["params"],
        table::amount(json["flops"].as_u64().unwrap_or_default() as usize),
        json["seconds"].as_f64().unwrap_or_default()
    )?;
    Ok(())
}
