use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use reelseek_index::{Effort, Index};

use super::{FAILED, FOUND_NOTHING, IndexFolder, api, talk};
use crate::media::{self, Picture};
use crate::search::{SearchAnswer, Engine, SearchOptions};

/// The largest picture read from standard input.
const MAX_STDIN_BYTES: u64 = 512 << 20;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Pictures; `-` reads one from standard input
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    #[command(flatten)]
    folder: IndexFolder,
    /// Folded checkpoint that the index was made with [default: the one that lies with it]
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Weights of the index's encoder [default: where they were when it was made]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Videos to show at most
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// Only videos that match, as in `path:holiday label:surfing duration:[10 TO 60]`
    #[arg(long, value_name = "QUERY")]
    filter: Option<String>,
    /// Compare with every row, so that nothing is missed
    #[arg(long, conflicts_with = "ef")]
    exact: bool,
    /// Breadth of the search in large indexes: more finds more, and takes longer (256 if not given; `info` measures)
    #[arg(long, value_name = "N", value_parser = breadth)]
    ef: Option<usize>,
    /// Only answers of at least this confidence, 0 to 1
    #[arg(long, value_name = "C", default_value_t = 0.0, value_parser = share)]
    min_confidence: f32,
    /// Print one JSON object a picture
    #[arg(long, conflicts_with = "paths")]
    json: bool,
    /// Print the paths of the videos only
    #[arg(long)]
    paths: bool,
}

fn share(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("expected a number from 0 to 1".to_owned()),
    }
}

fn breadth(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|ef| *ef > 0).ok_or_else(|| "expected a whole number above 0".to_owned())
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let folder = &arguments.folder.index;
    if !Index::exists(folder) {
        bail!(
            "{} holds no index: make one with `reelseek index FOLDER`, or name another with --index",
            folder.display()
        );
    }
    let engine = Engine::open(folder, arguments.checkpoint.as_deref(), arguments.weights.as_deref())?;
    let effort = match arguments.ef {
        _ if arguments.exact => Effort::Exact,
        Some(ef) => Effort::Ef(ef),
        None => Effort::Default,
    };
    let options = SearchOptions {
        top: arguments.top,
        filter: arguments.filter.clone(),
        min_confidence: arguments.min_confidence,
        effort,
        ..SearchOptions::default()
    };
    if let Some(filter) = &options.filter {
        // A wrong filter is the person's mistake once, not one for each picture.
        engine.searcher().filter(filter)?;
    }
    let (mut found, mut failed) = (false, false);
    let mut out = std::io::stdout().lock();
    for image in &arguments.images {
        let name = image.to_string_lossy();
        let answer = picture(image).and_then(|p| Ok(engine.search(&p, &options)?));
        match answer {
            Ok(answer) => {
                found |= !answer.results.is_empty();
                show(&mut out, arguments, &name, &answer)?;
            }
            Err(error) => {
                failed = true;
                if arguments.json {
                    let failure = api::Failure { query: &name, error: format!("{error:#}") };
                    writeln!(out, "{}", serde_json::to_string(&failure)?)?;
                } else {
                    talk::error(&error);
                }
            }
        }
    }
    out.flush()?;
    Ok(match (failed, found) {
        (true, _) => ExitCode::from(FAILED),
        (false, true) => ExitCode::SUCCESS,
        (false, false) => ExitCode::from(FOUND_NOTHING),
    })
}

fn picture(path: &Path) -> anyhow::Result<Picture> {
    let opened = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().take(MAX_STDIN_BYTES).read_to_end(&mut bytes).context("reading standard input")?;
        media::read(&bytes, "standard input")?
    } else {
        media::open(path)?
    };
    if let Some(warning) = opened.warning {
        eprintln!("warning: {}: {warning}", talk::printable(&path.to_string_lossy()));
    }
    Ok(opened.picture)
}

fn show(out: &mut impl Write, arguments: &Arguments, name: &str, answer: &SearchAnswer) -> anyhow::Result<()> {
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string(&api::Reply::new(name, answer))?)?;
        return Ok(());
    }
    if arguments.paths {
        for found in &answer.results {
            writeln!(out, "{}", found.video.path)?;
        }
        return Ok(());
    }
    if arguments.images.len() > 1 {
        writeln!(out, "{}:", talk::printable(name))?;
    }
    if answer.results.is_empty() {
        eprintln!("{}: nothing like this was found", talk::printable(name));
        return Ok(());
    }
    writeln!(out, "rank  at        moment             confidence  video")?;
    for (i, found) in answer.results.iter().enumerate() {
        let clock = |ms: u32| talk::clock(u64::from(ms));
        let moment = format!("{} - {}", clock(found.moment.from_ms), clock(found.moment.to_ms));
        writeln!(
            out,
            "{:>4}  {:<8}  {:<17}  {:>9.1}%  {}",
            i + 1,
            clock(found.moment.at_ms),
            moment,
            found.confidence * 100.0,
            talk::printable(&found.video.path)
        )?;
    }
    if answer.results.iter().all(|f| f.confidence < 0.95) {
        eprintln!(
            "none of these is sure: a picture that is not in these videos scores so by chance more often than once in 20"
        );
    }
    Ok(())
}
