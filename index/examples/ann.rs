//! Measures the index on vectors from a file. Prints one JSON line for the build, for opening the index in a
//! new process, for the exact scan, and for each `--ef`.
//!
//! ```text
//! cargo run --release -p reelseek-index --example ann -- --base base.npy --queries queries.npy --ef 16,32,64
//! ```

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Parser;
use reelseek_index::{
    Effort, GraphBuilder, Hit, HnswSettings, Index, IndexSettings, RowPrecision, Searcher, Span, Video, VideoSet,
};

#[derive(Parser)]
#[command(about = "Measure building, opening and searching an index of vectors, by cosine")]
struct AnnArgs {
    /// Vectors to index: .npy, two-dimensional, float32
    #[arg(long, required_unless_present = "open")]
    base: Option<PathBuf>,
    /// Query vectors: .npy, two-dimensional, float32
    #[arg(long, required_unless_present = "open")]
    queries: Option<PathBuf>,
    /// Neighbours per query
    #[arg(long, default_value_t = 10)]
    k: usize,
    /// Links of a new row on each level
    #[arg(long, default_value_t = 16)]
    m: u32,
    /// Candidates for these links
    #[arg(long, default_value_t = 200)]
    ef_construction: u32,
    /// Pool sizes of the searches
    #[arg(long, value_delimiter = ',', default_value = "16,32,64,128,256")]
    ef: Vec<usize>,
    /// Threads of the build; searches use one
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Rows per video [default: one video with all rows]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    video_rows: Option<u32>,
    /// Also search among these fractions of the videos, selected at random
    #[arg(long, value_delimiter = ',', requires = "video_rows")]
    filter: Vec<f64>,
    /// Store values in 16 bits
    #[arg(long)]
    half: bool,
    /// Graph builder: `own`, or `hnsw_rs` with the Cargo feature of that name
    #[arg(long, default_value = "own", value_parser = builder)]
    builder: GraphBuilder,
    /// Runs of each search; the fastest is reported
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Folder for the index, new or empty; it is not deleted [default: a temporary folder]
    #[arg(long)]
    index: Option<PathBuf>,
    /// Has no effect: the output is always JSON
    #[arg(long)]
    json: bool,
    /// Only open this index and report time and memory
    #[arg(long, hide = true)]
    open: Option<PathBuf>,
}

fn builder(text: &str) -> Result<GraphBuilder, String> {
    match text {
        "own" => Ok(GraphBuilder::Own),
        "hnsw_rs" => Ok(GraphBuilder::HnswRs),
        _ => Err("expected own or hnsw_rs".to_owned()),
    }
}

/// Reads the rows of a .npy file, scaled to unit norm, and their length.
fn read(path: &Path) -> anyhow::Result<(Vec<f32>, usize)> {
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    let file = npyz::NpyFile::new(std::io::BufReader::new(file)).with_context(|| path.display().to_string())?;
    let &[_, dim] = file.shape() else {
        bail!("{}: expected two dimensions, found {:?}", path.display(), file.shape())
    };
    let (dim, order) = (usize::try_from(dim)?, file.order());
    if order != npyz::Order::C {
        bail!("{}: expected C order, found Fortran order", path.display());
    }
    let mut values: Vec<f32> = file.into_vec().with_context(|| format!("{}: not float32", path.display()))?;
    for row in values.chunks_exact_mut(dim.max(1)) {
        let norm = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        row.iter_mut().for_each(|x| *x = (f64::from(*x) / norm.max(f64::MIN_POSITIVE)) as f32);
    }
    Ok((values, dim))
}

fn print(line: serde_json::Value) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

/// Resident memory in MB, on Linux.
fn resident() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? / 1024.0)
}

/// Opens the index and reports time and memory. Runs in a new process.
fn open(folder: &Path) -> anyhow::Result<()> {
    let before = resident();
    let start = Instant::now();
    let searcher = Index::open(folder)?.searcher()?;
    let ms = start.elapsed().as_secs_f64() * 1e3;
    let grown = resident().zip(before).map(|(after, before)| after - before);
    print(serde_json::json!({"event": "open", "ms": ms, "rss_mb": grown, "rows": searcher.rows()}))
}

fn build(folder: &Path, base: &[f32], dim: usize, args: &AnnArgs) -> anyhow::Result<()> {
    let hnsw = HnswSettings {
        m: args.m,
        ef_construction: args.ef_construction,
        builder: args.builder,
        ..HnswSettings::default()
    };
    let precision = if args.half { RowPrecision::Half } else { RowPrecision::Full };
    let index = Index::create(folder, &IndexSettings { hnsw, precision, ..IndexSettings::new(dim) })?;
    let rows = args.video_rows.map_or(base.len() / dim, |rows| rows as usize).max(1);
    let spans: Vec<Span> = (0..rows as u32).map(|i| Span { start_ms: i, end_ms: i + 1, at_ms: i }).collect();
    let mut writer = index.writer()?;
    for (i, rows) in base.chunks(rows * dim).enumerate() {
        writer.put(Video { id: i.to_string(), ..Video::default() }, &spans[..rows.len() / dim], rows, &[])?;
    }
    writer.commit()?;
    Ok(writer.close()?)
}

fn bytes(folder: &Path) -> std::io::Result<u64> {
    std::fs::read_dir(folder)?.map(|entry| entry?.metadata().map(|data| data.len())).sum()
}

/// Results and times of a list of queries.
struct TimedSearch {
    rows: Vec<Vec<u32>>,
    seconds: f64,
    /// Time of each query in microseconds, ascending.
    each_us: Vec<f64>,
}

/// Runs the queries one after another on this thread.
fn search(
    searcher: &Searcher,
    queries: &[f32],
    k: usize,
    filter: Option<&VideoSet>,
    effort: Effort,
) -> anyhow::Result<TimedSearch> {
    let dim = searcher.settings().dim;
    let mut timed = TimedSearch { rows: Vec::new(), seconds: 0.0, each_us: Vec::new() };
    let start = Instant::now();
    for query in queries.chunks_exact(dim) {
        let start = Instant::now();
        let hits = searcher.search(query, k, filter, effort)?;
        timed.each_us.push(start.elapsed().as_secs_f64() * 1e6);
        timed.rows.push(hits.iter().map(|hit: &Hit| hit.row.row).collect());
    }
    timed.seconds = start.elapsed().as_secs_f64();
    timed.each_us.sort_unstable_by(f64::total_cmp);
    Ok(timed)
}

fn event(name: &str, timed: &TimedSearch) -> serde_json::Value {
    let at = |share: f64| timed.each_us.get((timed.each_us.len() as f64 * share) as usize).copied();
    let qps = timed.each_us.len() as f64 / timed.seconds;
    serde_json::json!({"event": name, "qps": qps, "p50_us": at(0.5), "p99_us": at(0.99)})
}

fn main() -> anyhow::Result<()> {
    let args = AnnArgs::parse();
    if let Some(folder) = &args.open {
        return open(folder);
    }
    let (Some(base), Some(queries)) = (&args.base, &args.queries) else { bail!("expected --base and --queries") };
    let ((base, dim), (queries, query_dim)) = (read(base)?, read(queries)?);
    if dim != query_dim || dim == 0 {
        bail!("expected queries as long as the base's {dim} values, found {query_dim}");
    }
    let temporary = tempfile::tempdir()?;
    let folder = args.index.clone().unwrap_or_else(|| temporary.path().join("index"));
    let pool = |threads: usize| rayon::ThreadPoolBuilder::new().num_threads(threads).build();

    let start = Instant::now();
    pool(args.threads)?.install(|| build(&folder, &base, dim, &args))?;
    let seconds = start.elapsed().as_secs_f64();
    print(serde_json::json!({
        "event": "build", "seconds": seconds, "rows": base.len() / dim, "dim": dim,
        "bytes": bytes(&folder.join("segments"))?, "threads": args.threads,
    }))?;
    drop(base);

    let status = std::process::Command::new(std::env::current_exe()?).arg("--open").arg(&folder).status()?;
    if !status.success() {
        bail!("a fresh process could not open the index");
    }

    let searcher = Index::open(&folder)?.searcher()?;
    let exact = searcher.search_batch(&queries, args.k, None, Effort::Exact)?;
    let truth: Vec<Vec<u32>> = exact.iter().map(|hits| hits.iter().map(|hit| hit.row.row).collect()).collect();
    pool(1)?.install(|| -> anyhow::Result<()> {
        let some = &queries[..queries.len().min(100 * dim)];
        print(event("exact", &search(&searcher, some, args.k, None, Effort::Exact)?))?;
        for ef in &args.ef {
            let effort = Effort::Ef(*ef);
            let mut best = search(&searcher, &queries, args.k, None, effort)?;
            for _ in 1..args.runs {
                let again = search(&searcher, &queries, args.k, None, effort)?;
                if again.seconds < best.seconds {
                    best = again;
                }
            }
            let mut line = event("search", &best);
            line["ef"] = (*ef).into();
            line["recall"] = recall(&best.rows, &truth).into();
            print(line)?;
        }
        let some = &queries[..queries.len().min(200 * dim)];
        for share in &args.filter {
            print(filtered(&searcher, some, args.k, *share)?)?;
            print(filtered_far(&searcher, &some[..some.len().min(20 * dim)], args.k, *share)?)?;
        }
        Ok(())
    })
}

/// Searches a random fraction of the videos, with the default effort and exactly.
fn filtered(searcher: &Searcher, queries: &[f32], k: usize, share: f64) -> anyhow::Result<serde_json::Value> {
    let drawn = |number: u64| (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11) as f64 / (1u64 << 53) as f64;
    let some: VideoSet = searcher.video_numbers().into_iter().filter(|number| drawn(number.0) < share).collect();
    let measure = |effort| -> anyhow::Result<TimedSearch> {
        let first = search(searcher, queries, k, Some(&some), effort)?;
        let again = search(searcher, queries, k, Some(&some), effort)?;
        Ok(if first.seconds < again.seconds { first } else { again })
    };
    let (exact, default) = (measure(Effort::Exact)?, measure(Effort::Default)?);
    let mut line = event("filter", &default);
    line["share"] = share.into();
    line["videos"] = some.len().into();
    line["recall"] = recall(&default.rows, &exact.rows).into();
    line["exact_qps"] = (exact.each_us.len() as f64 / exact.seconds).into();
    line["time_to_exact"] = (default.seconds / exact.seconds).into();
    Ok(line)
}

/// As [`filtered`], but selects the videos farthest from the query, which a walk reaches last.
fn filtered_far(searcher: &Searcher, queries: &[f32], k: usize, share: f64) -> anyhow::Result<serde_json::Value> {
    let dim = searcher.settings().dim;
    let (mut found, mut truth, mut times) = (Vec::new(), Vec::new(), [0.0; 2]);
    for query in queries.chunks_exact(dim) {
        let mut best = std::collections::BTreeMap::new();
        for hit in searcher.search(query, searcher.rows(), None, Effort::Exact)? {
            best.entry(hit.video).or_insert(hit.score);
        }
        let mut videos: Vec<_> = best.into_iter().collect();
        videos.sort_by(|a, b| a.1.total_cmp(&b.1));
        videos.truncate((videos.len() as f64 * share) as usize);
        let some: VideoSet = videos.into_iter().map(|(video, _)| video).collect();
        for (effort, rows, seconds) in [(Effort::Exact, &mut truth, 0), (Effort::Default, &mut found, 1)] {
            search(searcher, query, k, Some(&some), effort)?;
            let timed = search(searcher, &query.repeat(5), k, Some(&some), effort)?;
            times[seconds] += timed.seconds;
            rows.extend(timed.rows.into_iter().take(1));
        }
    }
    Ok(serde_json::json!({
        "event": "filter_far", "share": share, "recall": recall(&found, &truth), "time_to_exact": times[1] / times[0],
    }))
}

/// The fraction of `truth` that was found.
fn recall(found: &[Vec<u32>], truth: &[Vec<u32>]) -> f64 {
    let hits: usize = found.iter().zip(truth).map(|(f, t)| t.iter().filter(|row| f.contains(row)).count()).sum();
    hits as f64 / truth.iter().map(Vec::len).sum::<usize>().max(1) as f64
}
