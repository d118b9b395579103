use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use reelseek_index::{Effort, RowPrecision, Searcher, SegmentCounts, Video};

use crate::cli::args::IndexFolderArgs;
use crate::cli::output::{InfoOutput, SpaceOutput, VideoOutput};
use crate::cli::terminal::{self, clock, count, print_line};
use crate::collection::{CHECKPOINT, Calibration, Collection, CollectionState, Space, limited};
use crate::encode::registry::LAYOUT;

#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    #[command(flatten)]
    folder: IndexFolderArgs,
    /// List the videos
    #[arg(long)]
    videos: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Number of rows whose vectors are the queries of the recall measurement.
const SAMPLE_ROWS: usize = 200;
/// Recall for which `info` reports the smallest sufficient breadth of search (`--ef`).
const TARGET_RECALL: f64 = 0.99;
/// Share of deleted rows from which compacting is suggested.
const MANY_DELETED: f64 = 0.2;

/// Recall of searches in the graphs of an index.
struct GraphRecall {
    /// ann_recall@10 of a search without options.
    default: f64,
    /// The smallest breadth that reaches [`TARGET_RECALL`], if one does.
    ef: Option<usize>,
}

/// Measures recall with rows of the index as queries. `None` without graphs, because every search is then
/// exact.
fn graph_recall(searcher: &Searcher) -> reelseek_index::Result<Option<GraphRecall>> {
    if searcher.segment_counts().graphs == 0 {
        return Ok(None);
    }
    let efs: Vec<usize> = (4..=12).map(|power| 1 << power).collect();
    let mut efforts = vec![Effort::Default];
    efforts.extend(efs.iter().map(|ef| Effort::Ef(*ef)));
    let recalls = searcher.ann_recall(SAMPLE_ROWS, 10, &efforts)?;
    let ef = efs.into_iter().zip(&recalls[1..]).find(|(_, recall)| **recall >= TARGET_RECALL).map(|(ef, _)| ef);
    Ok(Some(GraphRecall { default: recalls[0], ef }))
}

pub(crate) fn run(args: &InfoArgs) -> anyhow::Result<ExitCode> {
    let collection = Collection::open(&args.folder.index)?;
    let searcher = collection.searcher()?;
    let videos: Vec<Video> = searcher.videos()?.into_iter().map(limited).collect();
    let calibration = CollectionState::of(&searcher).calibration(collection.settings().sketch > 0);
    let recall = graph_recall(&searcher)?;
    let mut spaces = vec![space(collection.space(), &collection, &searcher, duration_ms(&videos))];
    if let Some(kind) = collection.kind()? {
        let searcher = kind.searcher()?;
        spaces.push(space(Space::Kind, &kind, &searcher, duration_ms(&searcher.videos()?)));
    }
    if args.json {
        terminal::print_json(&json(args, &searcher, &videos, calibration, recall.as_ref(), spaces))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = std::io::stdout().lock();
    print(&mut out, &collection, &searcher, &videos, recall.as_ref())?;
    spaces.iter().try_for_each(|space| print_space(&mut out, space))?;
    print_confidence(&mut out, &calibration)?;
    print_sketches(&mut out, &collection)?;
    if args.videos {
        for video in &videos {
            let (id, length, rows) = (&video.id, clock(video.duration_ms), count(video.rows as usize, "row"));
            print_line!(out, "{id}  {length:>8}  {rows:>11}  {}", video.path)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn duration_ms(videos: &[Video]) -> u64 {
    videos.iter().map(|v| v.duration_ms).sum()
}

fn bits(searcher: &Searcher) -> u32 {
    if searcher.settings().precision == RowPrecision::Half { 16 } else { 32 }
}

/// What a space consists of. `duration_ms` is the length of its videos.
fn space(space: Space, collection: &Collection, searcher: &Searcher, duration_ms: u64) -> SpaceOutput {
    let settings = searcher.settings();
    let (rows, bytes) = (searcher.rows(), searcher.mapped_bytes());
    let share = |of: f64| (of > 0.0).then(|| (bytes as f64 / of * 10.0).round() / 10.0);
    SpaceOutput {
        space,
        encoder: collection.encoder_id().to_owned(),
        checkpoint: settings.attributes.get(CHECKPOINT).cloned(),
        dim: settings.dim,
        bits: bits(searcher),
        videos: searcher.video_numbers().len(),
        rows,
        bytes,
        bytes_per_row: share(rows as f64),
        bytes_per_minute: share(duration_ms as f64 / 60_000.0),
        calibration: CollectionState::of(searcher).calibration(settings.sketch > 0),
    }
}

fn print_space(out: &mut impl Write, space: &SpaceOutput) -> std::io::Result<()> {
    let (rows, megabytes) = (count(space.rows, "row"), space.bytes as f64 / 1e6);
    let each = match (space.bytes_per_row, space.bytes_per_minute) {
        (Some(row), Some(minute)) => format!(": {row:.0} bytes a row, {:.1} KB a minute of video", minute / 1e3),
        _ => String::new(),
    };
    print_line!(out, "{:<11} {}, {rows}, {megabytes:.1} MB{each}", space.space.name(), space.encoder)
}

fn json<'a>(
    args: &InfoArgs,
    searcher: &'a Searcher,
    videos: &'a [Video],
    calibration: Calibration,
    recall: Option<&GraphRecall>,
    spaces: Vec<SpaceOutput>,
) -> InfoOutput<'a> {
    let settings = searcher.settings();
    let SegmentCounts { segments, graphs } = searcher.segment_counts();
    InfoOutput {
        index: args.folder.index.to_string_lossy().into_owned(),
        videos: videos.len(),
        rows: searcher.rows(),
        duration: duration_ms(videos) as f64 / 1000.0,
        dim: settings.dim,
        attributes: &settings.attributes,
        calibration,
        spaces,
        bytes: searcher.mapped_bytes(),
        segments,
        graphs,
        deleted_share: searcher.deleted_share(),
        ann_recall: recall.map_or(1.0, |r| r.default),
        ef: recall.and_then(|r| r.ef),
        bits: bits(searcher),
        sketch_bytes: settings.sketch,
        rounding_recall: searcher.rounding_recall(),
        list: args.videos.then(|| videos.iter().map(VideoOutput::new).collect()),
    }
}

fn print(
    out: &mut impl Write,
    collection: &Collection,
    searcher: &Searcher,
    videos: &[Video],
    recall: Option<&GraphRecall>,
) -> std::io::Result<()> {
    let settings = searcher.settings();
    let SegmentCounts { segments, graphs } = searcher.segment_counts();
    let (rows, bits) = (searcher.rows(), bits(searcher));
    print_line!(out, "index       {}", collection.folder().display())?;
    print_line!(out, "videos      {} (total length {})", videos.len(), clock(duration_ms(videos)))?;
    print_line!(out, "rows        {rows}, one for each clip: {} values of {bits} bits", settings.dim)?;
    if let Some(rounding) = searcher.rounding_recall() {
        print_line!(out, "rounding    recall@10 {rounding:.4} with 16-bit values, measured against 32-bit values")?;
    }
    let deleted = searcher.deleted_share();
    let advice = if deleted > MANY_DELETED { " (`reelseek compact` drops them)" } else { "" };
    let deleted = deleted * 100.0;
    print_line!(out, "segments    {segments}, {graphs} with a graph; {deleted:.1} % of the rows deleted{advice}")?;
    let megabytes = searcher.mapped_bytes() as f64 / 1e6;
    print_line!(out, "memory      {megabytes:.1} MB of vectors and graphs, memory-mapped; keep as much memory free")?;
    match recall {
        None => print_line!(out, "recall@10   1: without graphs every search compares all rows")?,
        Some(GraphRecall { default, ef: Some(ef) }) => {
            print_line!(out, "recall@10   {default:.3} by default; --ef {ef} reaches {TARGET_RECALL}")?;
        }
        Some(GraphRecall { default, ef: None }) => {
            print_line!(out, "recall@10   {default:.3} by default; only --exact reaches {TARGET_RECALL}")?;
        }
    }
    for (name, value) in &settings.attributes {
        print_line!(out, "{name:<11} {value}")?;
    }
    Ok(())
}

fn print_confidence(out: &mut impl Write, calibration: &Calibration) -> std::io::Result<()> {
    let ([low, high], median) = (calibration.central_range(), calibration.location);
    let source = match calibration.probes {
        0 => "assumed: too few videos to measure".to_owned(),
        n => count(n, "probe"),
    };
    print_line!(
        out,
        "confidence  evidence of unrelated pictures: median {median:.2}, 5th to 95th percentile {low:.2} to {high:.2} ({source})"
    )
}

fn print_sketches(out: &mut impl Write, collection: &Collection) -> std::io::Result<()> {
    let bytes = collection.settings().sketch;
    if bytes > 0 {
        return print_line!(out, "sketches    {bytes} bytes a row: the best candidates are compared a second time");
    }
    if collection.encoder_id().split('/').next() == Some(LAYOUT) {
        return print_line!(
            out,
            "sketches    none: an earlier version made this index; index into another folder to compare candidates a second time"
        );
    }
    Ok(())
}
