use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use reelseek_index::{Effort, VideoSet};

use crate::base::Cancel;
use crate::base::files::read_at_most;
use crate::cli::args::{IndexFolderArgs, StoredModelArgs, positive, share};
use crate::cli::output::{FailureOutput, SearchOutput};
use crate::cli::terminal::{self, clock, count, json_line, note, print_line};
use crate::cli::{FAILED, FOUND_NOTHING};
use crate::collection::video_path;
use crate::media::image::MAX_FILE_BYTES;
use crate::media::{self, Frame, PictureLimits, QueryFrames};
use crate::search::{Engine, SearchAnswer, SearchOptions};

/// Lowest confidence of a sure match.
const SURE: f32 = 0.95;

#[derive(Debug, Args)]
pub(crate) struct SearchArgs {
    /// Pictures, animations or short videos; `-` reads one from standard input
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    #[command(flatten)]
    folder: IndexFolderArgs,
    #[command(flatten)]
    model: StoredModelArgs,
    /// Largest number of results
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = positive)]
    top: usize,
    /// Search only videos that match, such as `path:holiday label:surfing duration:[10 TO 60]`
    #[arg(long, value_name = "QUERY")]
    filter: Option<String>,
    /// Compare all rows: misses nothing, slower in large indexes
    #[arg(long, conflicts_with = "ef")]
    exact: bool,
    /// Breadth of the graph search in large indexes: a higher value finds more and is slower (`info` measures
    /// it) [default: 256]
    #[arg(long, value_name = "N", value_parser = positive)]
    ef: Option<usize>,
    /// Print only results of at least this confidence, from 0 to 1
    #[arg(long, value_name = "C", default_value_t = 0.0, value_parser = share)]
    min_confidence: f32,
    /// Print one JSON object for each picture
    #[arg(long, conflicts_with = "paths")]
    json: bool,
    /// Print only the paths of the videos
    #[arg(long)]
    paths: bool,
    /// With --paths: end each path with a NUL character instead of a line end, and print it as it is, without
    /// escapes (for `xargs -0`)
    #[arg(short = '0', long, requires = "paths")]
    null: bool,
}

impl SearchArgs {
    fn options(&self) -> SearchOptions {
        let effort = match self.ef {
            _ if self.exact => Effort::Exact,
            Some(ef) => Effort::Ef(ef),
            None => Effort::Default,
        };
        SearchOptions { top: self.top, min_confidence: self.min_confidence, effort, ..SearchOptions::default() }
    }
}

pub(crate) fn run(args: &SearchArgs) -> anyhow::Result<ExitCode> {
    let engine = Engine::open(&args.folder.index, &args.model.choice())?;
    let options = args.options();
    // Parsed once, so that a wrong filter is one error and not one for each picture.
    let filter = args.filter.as_deref().map(|filter| engine.searcher().filter(filter)).transpose()?;
    let (mut found, mut failed) = (false, false);
    let mut out = std::io::stdout().lock();
    for image in &args.images {
        let name = image.to_string_lossy();
        let search = |frames: Vec<Frame>| engine.search_frames(&frames, &options, filter.as_ref(), &Cancel::default());
        let answer = open(image).and_then(|frames| Ok(search(frames)?));
        match answer {
            Ok(answer) => {
                found |= !answer.results.is_empty();
                print(&mut out, args, &name, &answer)?;
                if answer.results.is_empty() && !args.json && !args.paths {
                    note!("{name}: {}", why_nothing(args, &engine, filter.as_ref(), &answer));
                }
            }
            Err(error) => {
                failed = true;
                if args.json {
                    let failure = FailureOutput { query: &name, error: terminal::error_text(&error) };
                    out.write_all(json_line(&failure)?.as_bytes())?;
                } else {
                    terminal::print_error(&error);
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

fn open(path: &Path) -> anyhow::Result<Vec<Frame>> {
    if path == Path::new("-") {
        let bytes = read_at_most(std::io::stdin().lock(), MAX_FILE_BYTES).context("reading standard input")?;
        let limits = PictureLimits::default();
        let limits = PictureLimits { bytes: limits.bytes.saturating_sub(bytes.len() as u64), ..limits };
        return Ok(with_warning(media::read_frames(&bytes, "standard input", &limits, &Cancel::default())?, path));
    }
    if let Some(url) = path.to_str().filter(|text| is_url(text)).filter(|_| !path.exists()) {
        bail!("{url}: URLs are not downloaded; save the picture and name the file");
    }
    Ok(with_warning(media::open_frames(path)?, path))
}

/// Whether a text begins like a URL, such as `https://`.
fn is_url(text: &str) -> bool {
    text.split_once("://")
        .is_some_and(|(scheme, _)| scheme.len() > 1 && scheme.bytes().all(|b| b.is_ascii_alphanumeric()))
}

fn with_warning(opened: QueryFrames, path: &Path) -> Vec<Frame> {
    if let Some(warning) = opened.warning {
        note!("warning: {}: {warning}", path.display());
    }
    opened.frames
}

/// Why a search has no results.
fn why_nothing(args: &SearchArgs, engine: &Engine, filter: Option<&VideoSet>, answer: &SearchAnswer) -> String {
    if engine.searcher().video_numbers().is_empty() {
        return "the index holds no videos".to_owned();
    }
    if filter.is_some_and(VideoSet::is_empty) {
        let no_field = args.filter.as_deref().is_some_and(|filter| !filter.contains(':'));
        let hint = if no_field { "; fields are written like label:surfing or duration:[10 TO 60]" } else { "" };
        return format!("no video matches the filter{hint}");
    }
    if answer.flat {
        return "the picture is one flat colour, which matches no video".to_owned();
    }
    match args.min_confidence > 0.0 {
        true => format!("no video shows this with a confidence of at least {}", args.min_confidence),
        false => "no video shows anything like this".to_owned(),
    }
}

fn print(out: &mut impl Write, args: &SearchArgs, name: &str, answer: &SearchAnswer) -> anyhow::Result<()> {
    if args.json {
        out.write_all(json_line(&SearchOutput::new(name, answer))?.as_bytes())?;
        return Ok(());
    }
    if args.paths {
        for found in &answer.results {
            match args.null {
                true => {
                    out.write_all(video_path(&found.video).as_os_str().as_encoded_bytes())?;
                    out.write_all(b"\0")?;
                }
                false => print_line!(out, "{}", found.video.path)?,
            }
        }
        return Ok(());
    }
    if args.images.len() > 1 {
        print_line!(out, "{name}:")?;
    }
    if answer.results.is_empty() {
        return Ok(());
    }
    print_line!(out, "rank  at        moment             confidence  video")?;
    for (i, found) in answer.results.iter().enumerate() {
        let [from, at, to] =
            [found.moment.from_ms, found.moment.at_ms, found.moment.to_ms].map(|ms| clock(u64::from(ms)));
        let (moment, confidence) = (format!("{from} - {to}"), found.confidence * 100.0);
        let path = &found.video.path;
        print_line!(out, "{:>4}  {at:<8}  {moment:<17}  {confidence:>9.1}%  {path}", i + 1)?;
    }
    let gone = answer.results.iter().filter(|found| matches!(video_path(&found.video).try_exists(), Ok(false))).count();
    if gone > 0 {
        note!(
            "{} not at this path any more; `reelseek remove PATH` removes a video or a folder from the index",
            if gone == 1 { "1 video is".to_owned() } else { format!("{} are", count(gone, "video")) }
        );
    }
    if answer.results.iter().all(|f| f.confidence < SURE) {
        note!("no sure match: more than 1 in 20 unrelated pictures score as high as these results");
    }
    Ok(())
}
