use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Args;
use reelseek_index::Effort;
use serde_json::Value;

use super::{check_absent, check_writable};
use crate::base::Cancel;
use crate::cli::terminal::{self, count, note, print_line};
use crate::cli::{FOUND_NOTHING, INTERRUPTED};
use crate::features::activitynet::Annotations;
use crate::features::{FeatureRow, FeatureSet, Split};
use crate::gmf::{CheckpointRecord, Folded, GmfConfig, GmfWeights, TrainOptions, TrainingData};
use crate::research::eval::Error;
use crate::research::eval::ann::AnnOptions;
use crate::research::eval::methods::{self, FittedMethod, TrainingContext};
use crate::research::eval::metrics::Normaliser;
use crate::research::eval::ranking::Pooling;
use crate::research::eval::report::{self, ReportContent, ReportMedia};
use crate::research::eval::summary::MetricSummary;
use crate::research::eval::table::{self, TablePlan};
use crate::research::eval::task::{Relevance, RetrievalTask};
use crate::research::eval::trec;

/// Smallest depth of a trec_eval run.
const TREC_DEPTH: usize = 1000;
/// Largest number of queries, rows or videos that a warning names.
const MAX_NAMED: usize = 5;
/// Share of the training rows held out for validation, if there is no split `val`.
const HELD_OUT: f32 = 0.1;

#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct EvalArgs {
    /// Folder with images.npy, videos.npy, images.jsonl and videos.jsonl
    #[arg(long, value_name = "DIR")]
    features: PathBuf,
    /// Measure this checkpoint (with all layers, or folded)
    #[arg(long, value_name = "CKPT", conflicts_with = "method")]
    checkpoint: Option<PathBuf>,
    /// Method to fit to the split train and to measure: cosine, ridge, ridge-image, cca, cca-image, gmf,
    /// gmf-image, gmf-video
    #[arg(long, value_name = "NAME", default_value = "cosine")]
    method: String,
    /// Fit and measure all methods, and compare them with Table 3 of the GMF paper
    #[arg(long, conflicts_with_all = ["checkpoint", "method", "trec_run", "trec_qrels", "pools", "ann"])]
    table: bool,
    /// With --table: only these methods
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "table")]
    methods: Vec<String>,
    /// Print LaTeX instead of Markdown
    #[arg(long, requires = "table", conflicts_with = "json")]
    latex: bool,
    /// Split of the queries and of the gallery
    #[arg(long, value_enum, default_value_t = Split::Test)]
    split: Split,
    /// Take labels and splits from ActivityNet annotations; rows are matched by `video`, or else by `id`
    #[arg(long, value_name = "JSON")]
    activitynet: Option<PathBuf>,
    /// Ranks of the metrics
    #[arg(long, value_name = "K", value_delimiter = ',', default_value = "10,20,50,100")]
    at: Vec<usize>,
    /// Divisor of average precision
    #[arg(long, value_enum, default_value_t = Normaliser::Hits)]
    normaliser: Normaliser,
    /// Score of a video: the score of its best clip (best), or the mean of its N best clips (mean:N)
    #[arg(long, value_name = "HOW", default_value = "best")]
    pooling: Pooling,
    /// Also measure mAP@n in pools: each query against n random videos
    #[arg(long)]
    pools: bool,
    /// Also search with the HNSW index
    #[arg(long)]
    ann: bool,
    /// Breadth of the search of --ann
    #[arg(long, value_name = "N", requires = "ann")]
    ef: Option<usize>,
    /// Epochs of GMF [default: 20]
    #[arg(long, value_name = "N", conflicts_with = "checkpoint")]
    epochs: Option<usize>,
    /// Learning rate of GMF, which starts from a closed-form fit [default: 0.0003]
    #[arg(long, value_name = "RATE", conflicts_with = "checkpoint")]
    learning_rate: Option<f64>,
    /// Seeds of GMF; several seeds need --table. The first also seeds pools, intervals and the validation
    /// share
    #[arg(long, value_name = "SEEDS", value_delimiter = ',', default_value = "1")]
    seeds: Vec<u64>,
    /// Write the ranked videos as a trec_eval run
    #[arg(long, value_name = "FILE")]
    trec_run: Option<PathBuf>,
    /// Write the relevant videos as trec_eval qrels
    #[arg(long, value_name = "FILE")]
    trec_qrels: Option<PathBuf>,
    /// Write an HTML report to this folder
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Folder of the videos, for the pictures in the report
    #[arg(long, value_name = "DIR", requires = "report")]
    media: Option<PathBuf>,
    /// Exit with status 1 if mAP at the first rank of --at is lower
    #[arg(long, value_name = "MAP")]
    floor: Option<f64>,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &EvalArgs) -> anyhow::Result<ExitCode> {
    let mut seen = HashSet::new();
    let at = args.at.iter().copied().filter(|k| seen.insert(*k)).collect();
    let args = &EvalArgs { at, ..args.clone() };
    check(args)?;
    let cancel = terminal::cancel_with_note("stopping; nothing more is written (press Ctrl-C again to stop at once)")?;
    let annotations = args.activitynet.as_deref().map(Annotations::read).transpose()?;
    let set = FeatureSet::open_with(&args.features, annotations.as_ref())?;
    let zeros = set.check()?;
    let task = RetrievalTask::new(&set, args.split)?;
    warn(args, &task, &zeros);
    task.check_relevant()?;
    let done = if args.table { table(args, &task, &cancel) } else { single(args, &task, &cancel) };
    match done {
        Err(error) if matches!(error.downcast_ref(), Some(Error::Interrupted)) => {
            note!("interrupted; nothing was written");
            Ok(ExitCode::from(INTERRUPTED))
        }
        done => done,
    }
}

/// Refuses options that do not fit together, before any work is done.
fn check(args: &EvalArgs) -> anyhow::Result<()> {
    if args.at.is_empty() || args.at.contains(&0) {
        bail!("--at: expected ranks of at least 1");
    }
    match args.seeds.as_slice() {
        [] => bail!("--seeds: expected at least one seed"),
        [_, _, ..] if !args.table => bail!("--seeds: several seeds need --table"),
        _ => {}
    }
    if args.epochs == Some(0) {
        bail!("--epochs: expected at least 1");
    }
    for name in &args.methods {
        methods::by_name(name)?;
    }
    if !args.table && args.checkpoint.is_none() {
        let seeded = methods::by_name(&args.method)?.is_seeded();
        if !seeded && (args.epochs.is_some() || args.learning_rate.is_some()) {
            bail!("--epochs and --learning-rate do not apply to {}: they are options of GMF", args.method);
        }
    }
    if let Some(floor) = args.floor.filter(|floor| !(0.0..=1.0).contains(floor)) {
        bail!("--floor is {floor}: expected a mAP from 0 to 1");
    }
    if let Some(media) = args.media.as_deref().filter(|media| !media.is_dir()) {
        bail!("--media: {} is not a folder", media.display());
    }
    if args.trec_run.is_some() && args.trec_run == args.trec_qrels {
        bail!("--trec-run and --trec-qrels name the same file");
    }
    let outs = [&args.trec_run, &args.trec_qrels].into_iter().flatten().cloned();
    for out in outs.chain(args.report.as_ref().map(|folder| folder.join(report::PAGE))) {
        if out.is_dir() {
            bail!("{} is a folder; name a file", out.display());
        }
        check_absent(&out, args.force)?;
        // Missing folders are created later.
        check_writable(out.ancestors().skip(1).find(|folder| folder.exists()).unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

/// The first names of a list.
fn some(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.take(MAX_NAMED + 1).collect();
    if names.len() > MAX_NAMED {
        names[MAX_NAMED] = "...".to_owned();
    }
    names.join(", ")
}

/// Prints warnings about conditions that inflate the figures.
fn warn(args: &EvalArgs, task: &RetrievalTask<'_>, zeros: &[Vec<usize>; 2]) {
    let plain = args.checkpoint.is_none() && methods::without_training(&args.method, task.set).is_some();
    let fitted = args.table || !plain;
    if fitted && task.split != Split::Test {
        note!(
            "warning: methods are trained on the split {} or chosen by it, which inflates their results on this split",
            task.split
        );
    }
    if let Some(bare) = task.unlabelled_side {
        note!(
            "warning: no {bare} of the split {} have labels: only the query's own video counts as relevant, not a shared label",
            task.split
        );
    }
    let shared = task.shared_sources();
    if fitted && !shared.is_empty() {
        note!(
            "warning: {} of the split {} {} also in the splits that methods are trained on or chosen by: {}",
            count(shared.len(), "video"),
            task.split,
            if shared.len() == 1 { "is" } else { "are" },
            some(shared.iter().map(|name| (*name).to_owned()))
        );
    }
    for (rows, table, name) in [(&zeros[0], &task.set.images, "image"), (&zeros[1], &task.set.videos, "video")] {
        if !rows.is_empty() {
            let named = some(rows.iter().map(|row| table.rows[*row].id.clone()));
            note!("warning: all features are zero of {}: {named}", count(rows.len(), name));
        }
    }
    if task.queries_with_own_video() > 0 {
        note!(
            "warning: the own video of {} is in the gallery: it counts as relevant and is easy to find",
            count(task.queries_with_own_video(), "query")
        );
    }
    if task.skipped() > 0 {
        let named = |row: &FeatureRow| match row.id == row.source() {
            true => row.id.clone(),
            false => format!("{} (of {})", row.id, row.source()),
        };
        let named = some(task.skipped_queries().map(named));
        note!("skipped: {} without a relevant video: {named}", count(task.skipped(), "query"));
    }
}

fn options(args: &EvalArgs) -> TrainOptions {
    let plain = TrainOptions::default();
    TrainOptions {
        epochs: args.epochs.unwrap_or(plain.epochs),
        rate: args.learning_rate.unwrap_or(methods::GMF_RATE),
        seed: args.seeds[0],
        ..plain
    }
}

/// Calls `work` with the training data.
fn with_training<T>(
    args: &EvalArgs,
    task: &RetrievalTask<'_>,
    cancel: &Cancel,
    work: impl FnOnce(&TrainingContext<'_>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let data = TrainingData::new(task.set, HELD_OUT, args.seeds[0])?;
    let learned = if data.by_label() { Relevance::Label } else { Relevance::Video };
    if learned != task.relevance {
        note!(
            "warning: in the split train {learned} makes a pair, but in the split {} relevant is {}",
            task.split,
            task.relevance
        );
    }
    let stop = || cancel.is_set();
    let on_progress = |step: &str| note!("{step}");
    work(&TrainingContext { set: task.set, data, options: options(args), stop: &stop, on_progress: &on_progress })
}

fn table(args: &EvalArgs, task: &RetrievalTask<'_>, cancel: &Cancel) -> anyhow::Result<ExitCode> {
    let plan = TablePlan {
        methods: args.methods.clone(),
        seeds: args.seeds.clone(),
        at: args.at.clone(),
        normaliser: args.normaliser,
        pooling: args.pooling,
    };
    let media = media(args)?;
    let (table, best) = with_training(args, task, cancel, |training| Ok(table::make(task, training, &plan)?))?;
    let mut out = std::io::stdout();
    if args.json {
        terminal::print_json(&table)?;
    } else {
        let text = if args.latex { table.latex() } else { table.markdown() };
        text.lines().try_for_each(|line| print_line!(out, "{line}"))?;
    }
    let content = ReportContent {
        task,
        method: best.method,
        answers: &best.answers,
        summary: &best.summary,
        normaliser: args.normaliser,
        pooling: args.pooling,
        table: Some(&table),
        media: media.as_ref(),
    };
    write_report(args, &content, cancel)?;
    Ok(verdict(args, best.map))
}

/// The videos for the pictures in the report, if requested.
fn media(args: &EvalArgs) -> anyhow::Result<Option<ReportMedia>> {
    let media = args.media.as_deref().map(ReportMedia::find).transpose()?;
    if media.as_ref().is_some_and(ReportMedia::is_empty) {
        note!("warning: no videos were found for the pictures in the report");
    }
    Ok(media)
}

fn write_report(args: &EvalArgs, content: &ReportContent<'_>, cancel: &Cancel) -> anyhow::Result<()> {
    if let Some(folder) = &args.report {
        report::write(folder, content, cancel)?;
        note!("report: {}", folder.join(report::PAGE).display());
    }
    Ok(())
}

fn verdict(args: &EvalArgs, map: f64) -> ExitCode {
    match args.floor {
        Some(floor) if map < floor => {
            note!("mAP@{} is {map:.4}, below the floor of {floor}", args.at[0]);
            ExitCode::from(FOUND_NOTHING)
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Opens a checkpoint with all layers, or a folded one.
fn open_checkpoint(path: &Path) -> anyhow::Result<FittedMethod> {
    let record = CheckpointRecord::open(path)?;
    let folded = match GmfWeights::open(path) {
        Ok((weights, record)) => weights.fold(&record)?,
        Err(all) => Folded::open(path).map_err(|folded| {
            // The file is neither kind of checkpoint: both errors are reported.
            anyhow::Error::from(folded).context(all.to_string())
        })?,
    };
    let lengths = (folded.image.inputs(), folded.video.inputs());
    let plain = FittedMethod::from_maps((&folded).into(), lengths);
    Ok(match GmfConfig::new(record.modalities, record.multiple, record.boundary) {
        Ok(config) => FittedMethod { parameters: config.parameters(), flops: config.flops(), ..plain },
        Err(_) => plain,
    })
}

fn single(args: &EvalArgs, task: &RetrievalTask<'_>, cancel: &Cancel) -> anyhow::Result<ExitCode> {
    let media = media(args)?;
    let (name, fitted) = match &args.checkpoint {
        Some(path) => ("gmf".to_owned(), open_checkpoint(path).with_context(|| path.display().to_string())?),
        None => (args.method.clone(), fit(args, task, cancel)?),
    };
    let check_cancel = || if cancel.is_set() { Err(Error::Interrupted) } else { Ok(()) };
    check_cancel()?;
    let start = Instant::now();
    let deepest = args.at.iter().copied().max().unwrap_or(0);
    let depth = if args.trec_run.is_some() { deepest.max(TREC_DEPTH) } else { deepest };
    let answers = task.answers(&fitted.maps, args.pooling, depth)?;
    let normaliser = args.normaliser;
    let summary = MetricSummary::new(&answers, &args.at, normaliser).context("no query was answered")?;
    let mut json = json(args, task, (&name, &fitted), &summary, answers.len());
    json["seconds"] = start.elapsed().as_secs_f64().into();
    if seeded(args, task.set)? {
        json["seed"] = args.seeds[0].into();
    }
    if args.pools {
        check_cancel()?;
        let pools = task.pool_maps(&fitted.maps, args.pooling, &args.at, args.seeds[0])?;
        json["map_in_pools"] = by_rank(&pools);
    }
    if args.ann {
        check_cancel()?;
        let effort = args.ef.map_or(Effort::Default, Effort::Ef);
        let options = AnnOptions { at: args.at.clone(), depth: deepest, effort };
        let ann = task.answers_through_index(&fitted.maps, args.pooling, &answers, &options)?;
        let found = MetricSummary::new(&ann.answers, &args.at, normaliser).context("no query was answered")?;
        json["ann"] = serde_json::json!({
            "map": by_rank(&found.map), "ann_recall": by_rank(&ann.recall), "least_rows_kept": ann.rows_kept,
        });
    }
    check_cancel()?;
    // Printed before files are written, so that the figures are not lost if a file cannot be written.
    if args.json {
        terminal::print_json(&json)?;
    } else {
        print(&json, task, &args.at)?;
    }
    if let Some(path) = &args.trec_run {
        trec::write_run(path, task, &answers)?;
    }
    if let Some(path) = &args.trec_qrels {
        trec::write_qrels(path, task)?;
    }
    let content = ReportContent {
        task,
        method: &name,
        answers: &answers,
        summary: &summary,
        normaliser,
        pooling: args.pooling,
        table: None,
        media: media.as_ref(),
    };
    write_report(args, &content, cancel)?;
    Ok(verdict(args, summary.map.first().map_or(0.0, |(_, map)| *map)))
}

/// Values by their rank.
fn by_rank(values: &[(usize, f64)]) -> Value {
    values.iter().map(|(k, value)| (k.to_string(), Value::from(*value))).collect::<serde_json::Map<_, _>>().into()
}

fn json(
    args: &EvalArgs,
    task: &RetrievalTask<'_>,
    (name, fitted): (&str, &FittedMethod),
    summary: &MetricSummary,
    queries: usize,
) -> Value {
    let mut json = serde_json::json!({
        "method": name,
        "split": task.split,
        "relevant": task.relevance,
        "shared_sources": task.shared_sources().len(),
        "queries": queries,
        "skipped_queries": task.skipped(),
        "gallery": task.videos.len(),
        "rows": task.rows.len(),
        "normaliser": args.normaliser,
        "pooling": args.pooling.to_string(),
        "map": by_rank(&summary.map),
        "recall": by_rank(&summary.recall),
        "precision": by_rank(&summary.precision),
        "ndcg": by_rank(&summary.ndcg),
        "mrr": summary.mrr,
        "median_rank": summary.median_rank,
        "params": fitted.parameters,
        "flops": fitted.flops,
    });
    if let Some(epoch) = fitted.epoch {
        json["epoch"] = epoch.into();
    }
    json
}

/// Whether the figures depend on the seed: through pools, training, or the validation share.
fn seeded(args: &EvalArgs, set: &FeatureSet) -> anyhow::Result<bool> {
    let plain = args.checkpoint.is_some() || methods::without_training(&args.method, set).is_some();
    if args.pools || plain {
        return Ok(args.pools);
    }
    let given = [&set.images, &set.videos].iter().any(|table| table.rows.iter().any(|row| row.split == Split::Val));
    Ok(!given || methods::by_name(&args.method)?.is_seeded())
}

fn fit(args: &EvalArgs, task: &RetrievalTask<'_>, cancel: &Cancel) -> anyhow::Result<FittedMethod> {
    let method = methods::by_name(&args.method)?;
    if let Some(plain) = methods::without_training(&args.method, task.set) {
        return Ok(plain);
    }
    with_training(args, task, cancel, |training| Ok(method.fit(training, args.seeds[0])?))
        .with_context(|| format!("fitting {} to the split train", args.method))
}

fn print(json: &Value, task: &RetrievalTask<'_>, at: &[usize]) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let counted = |name: &str, noun: &str| count(json[name].as_u64().unwrap_or_default() as usize, noun);
    print_line!(
        out,
        "{}, split {}: {} ({} without a relevant video skipped) against {}, {}, pooled by {}; relevant is {}",
        json["method"].as_str().unwrap_or_default(),
        task.split,
        counted("queries", "query"),
        json["skipped_queries"],
        counted("gallery", "video"),
        counted("rows", "row"),
        json["pooling"].as_str().unwrap_or_default(),
        task.relevance
    )?;
    print_line!(out, "{:<22}{}", "", at.iter().map(|k| format!("{:>9}", format!("@{k}"))).collect::<String>())?;
    let map = format!("mAP ({})", json["normaliser"].as_str().unwrap_or_default());
    let mut line = |name: &str, values: &Value| -> std::io::Result<()> {
        if values.is_null() {
            return Ok(());
        }
        let cell = |k: &usize| format!("{:>9.4}", values[k.to_string()].as_f64().unwrap_or_default());
        print_line!(out, "{name:<22}{}", at.iter().map(cell).collect::<String>())
    };
    line(&map, &json["map"])?;
    for name in ["recall", "precision", "ndcg"] {
        line(name, &json[name])?;
    }
    line("mAP in pools of k", &json["map_in_pools"])?;
    line("mAP through HNSW", &json["ann"]["map"])?;
    line("ann_recall", &json["ann"]["ann_recall"])?;
    let median = json["median_rank"].as_f64().map_or("-".to_owned(), |rank| rank.to_string());
    print_line!(
        out,
        "MRR {:.4}, median rank {median}; {} parameters, {}FLOP, {:.2} s",
        json["mrr"].as_f64().unwrap_or_default(),
        json["params"],
        table::amount(json["flops"].as_u64().unwrap_or_default() as usize),
        json["seconds"].as_f64().unwrap_or_default()
    )?;
    Ok(())
}
