//! Measures usearch on the vectors of the index bench. Prints one JSON line per event, as `ann` and
//! `peers.py` do.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Parser;
use usearch::{Index, IndexOptions, MetricKind, ScalarKind};

#[derive(Parser)]
struct Arguments {
    /// Vectors to index: .npy, two-dimensional, float32, of unit norm
    #[arg(long)]
    base: PathBuf,
    /// Query vectors, in the same format
    #[arg(long)]
    queries: PathBuf,
    #[arg(long, default_value_t = 10)]
    k: usize,
    #[arg(long, default_value_t = 16)]
    m: usize,
    #[arg(long, default_value_t = 200)]
    ef_construction: usize,
    #[arg(long, value_delimiter = ',', default_value = "16,32,64,128,256")]
    ef: Vec<usize>,
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn read(path: &Path) -> anyhow::Result<(Vec<f32>, usize)> {
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    let file = npyz::NpyFile::new(std::io::BufReader::new(file))?;
    let &[_, dim] = file.shape() else { bail!("{}: expected two dimensions", path.display()) };
    Ok((file.into_vec()?, usize::try_from(dim)?))
}

fn say(line: serde_json::Value) {
    println!("{line}");
}

fn main() -> anyhow::Result<()> {
    let a = Arguments::parse();
    let ((base, dim), (queries, _)) = (read(&a.base)?, read(&a.queries)?);
    let rows = base.len() / dim;
    let index = Index::new(&IndexOptions {
        dimensions: dim,
        metric: MetricKind::IP,
        quantization: ScalarKind::F32,
        connectivity: a.m,
        expansion_add: a.ef_construction,
        ..IndexOptions::default()
    })?;
    let start = Instant::now();
    index.reserve_capacity_and_threads(rows, a.threads)?;
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..a.threads)
            .map(|_| {
                scope.spawn(|| -> anyhow::Result<()> {
                    loop {
                        let row = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        if row >= rows {
                            return Ok(());
                        }
                        index.add(row as u64, &base[row * dim..(row + 1) * dim])?;
                    }
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker of ours does not panic"))
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let place = tempfile::tempdir()?;
    let path = place.path().join("index");
    index.save(path.to_str().context("a path that is text")?)?;
    say(serde_json::json!({
        "engine": "usearch", "event": "build", "seconds": seconds, "rows": rows, "dim": dim,
        "bytes": std::fs::metadata(&path)?.len(), "threads": a.threads,
    }));

    let mut truth = Vec::new();
    for query in queries.chunks_exact(dim) {
        truth.push(index.exact_search(query, a.k)?.keys);
    }
    for ef in a.ef {
        index.change_expansion_search(ef);
        let (mut best, mut found) = (f64::INFINITY, Vec::new());
        for _ in 0..3 {
            found.clear();
            let start = Instant::now();
            for query in queries.chunks_exact(dim) {
                found.push(index.search(query, a.k)?.keys);
            }
            best = best.min(start.elapsed().as_secs_f64());
        }
        let hits: usize = found.iter().zip(&truth).map(|(f, t)| f.iter().filter(|key| t.contains(key)).count()).sum();
        say(serde_json::json!({
            "engine": "usearch", "event": "search", "ef": ef, "recall": hits as f64 / (truth.len() * a.k) as f64,
            "qps": truth.len() as f64 / best,
        }));
    }
    Ok(())
}
