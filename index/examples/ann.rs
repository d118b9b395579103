//! Measures the index on vectors of a file: one JSON line for the build, a fresh open, the exact scan, and each `--ef`.
//!
//! ```text
//! cargo run --release -p reelseek-index --example ann -- --base base.npy --queries queries.npy --ef 16,32,64
//! ```

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Parser;
use reelseek_index::{Builder, Effort, Hit, Hnsw, Index, Searcher, Settings, Span, Video};

#[derive(Parser)]
#[command(about = "Measure build, open and search on vectors of a file, by cosine")]
struct Arguments {
    /// Vectors to index: .npy, two-dimensional, float32
    #[arg(long, required_unless_present = "open")]
    base: Option<PathBuf>,
    /// Vectors to search for, likewise
    #[arg(long, required_unless_present = "open")]
    queries: Option<PathBuf>,
    /// Neighbours asked for
    #[arg(long, default_value_t = 10)]
    k: usize,
    /// Links a row is given on each level
    #[arg(long, default_value_t = 16)]
    m: u32,
    /// Candidates looked at for them
    #[arg(long, default_value_t = 200)]
    ef_construction: u32,
    /// Breadths of search
    #[arg(long, value_delimiter = ',', default_value = "16,32,64,128,256")]
    ef: Vec<usize>,
    /// Threads that build; searches are measured on one
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Who builds the graph: `own`, or `hnsw_rs` with the Cargo feature of that name
    #[arg(long, default_value = "own", value_parser = builder)]
    builder: Builder,
    /// Runs of each search, of which the fastest counts
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Folder for the index, new or empty, which is kept [default: a temporary one]
    #[arg(long)]
    index: Option<PathBuf>,
    /// Lines are JSON in any case
    #[arg(long)]
    json: bool,
    /// Only open this index, and say what that took
    #[arg(long, hide = true)]
    open: Option<PathBuf>,
}

fn builder(text: &str) -> Result<Builder, String> {
    match text {
        "own" => Ok(Builder::Own),
        "hnsw_rs" => Ok(Builder::HnswRs),
        _ => Err("expected own or hnsw_rs".to_owned()),
    }
}

/// Rows of unit norm from a .npy file, and their length.
fn read(path: &Path) -> anyhow::Result<(Vec<f32>, usize)> {
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    let file = npyz::NpyFile::new(std::io::BufReader::new(file)).with_context(|| path.display().to_string())?;
    let &[_, dim] = file.shape() else {
        bail!("{}: expected two dimensions, found {:?}", path.display(), file.shape())
    };
    let (dim, order) = (usize::try_from(dim)?, file.order());
    if order != npyz::Order::C {
        bail!("{}: expected rows one after another (C order), found Fortran order", path.display());
    }
    let mut values: Vec<f32> = file.into_vec().with_context(|| format!("{}: not float32", path.display()))?;
    for row in values.chunks_exact_mut(dim.max(1)) {
        let norm = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        row.iter_mut().for_each(|x| *x = (f64::from(*x) / norm.max(f64::MIN_POSITIVE)) as f32);
    }
    Ok((values, dim))
}

fn say(line: serde_json::Value) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

/// Resident memory in MB, where the system tells.
fn resident() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? / 1024.0)
}

/// In a process of its own: what opening takes, for the first time in it.
fn open(folder: &Path) -> anyhow::Result<()> {
    let before = resident();
    let start = Instant::now();
    let searcher = Index::open(folder)?.searcher()?;
    let ms = start.elapsed().as_secs_f64() * 1e3;
    let grown = resident().zip(before).map(|(after, before)| after - before);
    say(serde_json::json!({"event": "open", "ms": ms, "rss_mb": grown, "rows": searcher.rows()}))
}

fn build(folder: &Path, base: &[f32], dim: usize, arguments: &Arguments) -> anyhow::Result<()> {
    let hnsw = Hnsw {
        m: arguments.m,
        ef_construction: arguments.ef_construction,
        builder: arguments.builder,
        ..Hnsw::default()
    };
    let index = Index::create(folder, &Settings { hnsw, ..Settings::new(dim) })?;
    let spans: Vec<Span> =
        (0..(base.len() / dim) as u32).map(|i| Span { start_ms: i, end_ms: i + 1, at_ms: i }).collect();
    let mut writer = index.writer()?;
    writer.put(Video { id: "base".into(), ..Video::default() }, &spans, base)?;
    writer.commit()?;
    Ok(writer.close()?)
}

fn bytes(folder: &Path) -> std::io::Result<u64> {
    std::fs::read_dir(folder)?.map(|entry| entry?.metadata().map(|data| data.len())).sum()
}

struct Timed {
    rows: Vec<Vec<u32>>,
    seconds: f64,
    each: Vec<f64>,
}

/// Every query in turn on this thread, and the time that each took.
fn search(searcher: &Searcher, queries: &[f32], dim: usize, k: usize, effort: Effort) -> anyhow::Result<Timed> {
    let mut timed = Timed { rows: Vec::new(), seconds: 0.0, each: Vec::new() };
    let start = Instant::now();
    for query in queries.chunks_exact(dim) {
        let start = Instant::now();
        let hits = searcher.search(query, k, None, effort)?;
        timed.each.push(start.elapsed().as_secs_f64() * 1e6);
        timed.rows.push(hits.iter().map(|hit: &Hit| hit.row.row).collect());
    }
    timed.seconds = start.elapsed().as_secs_f64();
    timed.each.sort_unstable_by(f64::total_cmp);
    Ok(timed)
}

fn event(name: &str, timed: &Timed) -> serde_json::Value {
    let at = |share: f64| timed.each.get((timed.each.len() as f64 * share) as usize).copied();
    let qps = timed.each.len() as f64 / timed.seconds;
    serde_json::json!({"event": name, "qps": qps, "p50_us": at(0.5), "p99_us": at(0.99)})
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(folder) = &arguments.open {
        return open(folder);
    }
    let (Some(base), Some(queries)) = (&arguments.base, &arguments.queries) else { bail!("--base and --queries") };
    let ((base, dim), (queries, query_dim)) = (read(base)?, read(queries)?);
    if dim != query_dim || dim == 0 {
        bail!("expected queries as long as the base's {dim} values, found {query_dim}");
    }
    let place = tempfile::tempdir()?;
    let folder = arguments.index.clone().unwrap_or_else(|| place.path().join("index"));
    let pool = |threads: usize| rayon::ThreadPoolBuilder::new().num_threads(threads).build();

    let start = Instant::now();
    pool(arguments.threads)?.install(|| build(&folder, &base, dim, &arguments))?;
    let seconds = start.elapsed().as_secs_f64();
    say(serde_json::json!({
        "event": "build", "seconds": seconds, "rows": base.len() / dim, "dim": dim,
        "bytes": bytes(&folder.join("segments"))?, "threads": arguments.threads,
    }))?;
    drop(base);

    let status = std::process::Command::new(std::env::current_exe()?).arg("--open").arg(&folder).status()?;
    if !status.success() {
        bail!("a fresh process could not open the index");
    }

    let searcher = Index::open(&folder)?.searcher()?;
    let truth = searcher.search_batch(&queries, arguments.k, None, Effort::Exact)?;
    pool(1)?.install(|| -> anyhow::Result<()> {
        let some = &queries[..queries.len().min(100 * dim)];
        say(event("exact", &search(&searcher, some, dim, arguments.k, Effort::Exact)?))?;
        for ef in &arguments.ef {
            let effort = Effort::Ef(*ef);
            let mut best = search(&searcher, &queries, dim, arguments.k, effort)?;
            for _ in 1..arguments.runs {
                let again = search(&searcher, &queries, dim, arguments.k, effort)?;
                if again.seconds < best.seconds {
                    best = again;
                }
            }
            let (mut hits, mut all) = (0, 0);
            for (found, exact) in best.rows.iter().zip(&truth) {
                all += exact.len();
                hits += exact.iter().filter(|hit| found.contains(&hit.row.row)).count();
            }
            let mut line = event("search", &best);
            line["ef"] = (*ef).into();
            line["recall"] = (hits as f64 / all.max(1) as f64).into();
            say(line)?;
        }
        Ok(())
    })
}
