use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use reelseek_index::Effort;

use crate::base::Cancel;
use crate::base::files::read_at_most;
use crate::cli::args::{IndexFolderArgs, SearchMatch, StoredModelArgs, positive, share};
use crate::cli::output::{FailureOutput, SearchOutput};
use crate::cli::terminal::{self, clock, count, json_line, note, print_line};
use crate::cli::{FAILED, FOUND_NOTHING};
use crate::collection::{Space, video_path};
use crate::media::image::MAX_FILE_BYTES;
use crate::media::{self, CropBox, Frame, PictureLimits, QueryFrames};
use crate::search::{EmptyReason, Engine, QueryRegion, ReasonRecord, SearchAnswer, SearchOptions, SearchResult};

/// Lowest confidence of a sure match.
const SURE: f32 = 0.95;
/// Smallest share of the searched picture that counts as the whole of it.
const WHOLE: f32 = 0.9;

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
    /// What results are: the same scene, the same kind of scene, or both
    #[arg(long = "match", value_name = "MATCH", value_enum, default_value_t)]
    matching: SearchMatch,
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
    /// Search only with this part of each picture: the left and upper edge, the width and the height, in
    /// pixels, or with % in per cent of the picture, such as 10%,20%,80%,50%
    #[arg(long, value_name = "X,Y,W,H")]
    crop: Option<CropBox>,
    /// Search with the whole picture, and without plain borders: not with other parts of it, and not rotated
    #[arg(long)]
    whole: bool,
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
        let (top, min_confidence, whole) = (self.top, self.min_confidence, self.whole);
        let matching = self.matching.into();
        SearchOptions { top, min_confidence, effort, whole, matching, ..SearchOptions::default() }
    }
}

pub(crate) fn run(args: &SearchArgs) -> anyhow::Result<ExitCode> {
    let options = args.options();
    let engine = Engine::open_matching(&args.folder.index, &args.model.choices(), options.matching)?;
    // Parsed once, so that a wrong filter is one error and not one for each picture.
    let filter = args.filter.as_deref().map(|filter| engine.filter(filter)).transpose()?;
    let (mut found, mut failed) = (false, false);
    let mut out = std::io::stdout().lock();
    for image in &args.images {
        let name = image.to_string_lossy();
        let answer = QueryPicture::open(image, args.crop).and_then(|query| {
            let answer = engine.search_frames(&query.frames, &options, filter.as_ref(), &Cancel::default())?;
            Ok((answer.within_larger_picture(query.at), query))
        });
        match answer {
            Ok((answer, query)) => {
                found |= !answer.results.is_empty();
                if args.json {
                    out.write_all(json_line(&SearchOutput::new(&name, query.size, &answer, &options))?.as_bytes())?;
                } else {
                    print(&mut out, args, &name, &query, &answer)?;
                }
                if let Some(reason) = answer.reason.filter(|_| !args.json && !args.paths) {
                    note!("{name}: {}", reason_text(args, reason, &options));
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

/// A picture to search with.
struct QueryPicture {
    /// The picture or the frames of a clip, or the part of each that is searched.
    frames: Vec<Frame>,
    /// Position of the part in the file's picture.
    at: [u32; 2],
    /// Width and height of the file's picture.
    size: [u32; 2],
}

impl QueryPicture {
    fn open(path: &Path, crop: Option<CropBox>) -> anyhow::Result<QueryPicture> {
        let query = open(path)?;
        let size = query.size();
        let (query, at) = match crop {
            Some(crop) => query.cut(crop).with_context(|| path.display().to_string())?,
            None => (query, [0, 0]),
        };
        Ok(QueryPicture { frames: query.frames, at, size })
    }

    /// For the table: where in the picture the video is seen, unless it is nearly all of what was searched.
    fn note(&self, region: Option<QueryRegion>) -> String {
        let (Some(region), [Frame { picture, .. }]) = (region, &self.frames[..]) else { return String::new() };
        let [left, top, right, bottom] = region.bounds().map(f32::round);
        let (width, height) = (right - left, bottom - top);
        let mut words = Vec::new();
        if width * height < WHOLE * picture.width as f32 * picture.height as f32 {
            words.push(format!("in the part {left},{top} {width}x{height} of the picture"));
        }
        if region.turn != 0 {
            words.push(format!("rotated by {} degrees", region.turn));
        }
        if region.mirrored && !words.is_empty() {
            words.push("mirrored".to_owned());
        }
        if words.is_empty() { String::new() } else { format!("  ({})", words.join(", ")) }
    }
}

fn open(path: &Path) -> anyhow::Result<QueryFrames> {
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

fn with_warning(opened: QueryFrames, path: &Path) -> QueryFrames {
    if let Some(warning) = opened.warning {
        note!("warning: {}: {warning}", path.display());
    }
    opened
}

/// Why a search has no results.
fn reason_text(args: &SearchArgs, reason: EmptyReason, options: &SearchOptions) -> String {
    let text = ReasonRecord::new(reason, options).message;
    let has_no_field = args.filter.as_deref().is_some_and(|filter| !filter.contains(':'));
    match reason {
        EmptyReason::NoMatchForFilter if has_no_field => {
            format!("{text}; fields are written like label:surfing or duration:[10 TO 60]")
        }
        _ => text,
    }
}

fn print(
    out: &mut impl Write,
    args: &SearchArgs,
    name: &str,
    query: &QueryPicture,
    answer: &SearchAnswer,
) -> anyhow::Result<()> {
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
        let (path, note) = (&found.video.path, note_of(query, found));
        print_line!(out, "{:>4}  {at:<8}  {moment:<17}  {confidence:>9.1}%  {path}{note}", i + 1)?;
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

/// For the table: what the result is, or where in the picture it is seen.
fn note_of(query: &QueryPicture, found: &SearchResult) -> String {
    match found.space {
        Space::Scene => query.note(found.region),
        Space::Kind => "  (same kind of scene)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_a_part_of_what_was_searched_and_its_rotation() {
        let picture = media::Picture::new(100, 50, vec![0; 100 * 50 * 3]).unwrap();
        // A crop of a picture of 300 x 200 pixels.
        let query = QueryPicture { frames: vec![Frame { at_ms: 0, picture }], at: [40, 60], size: [300, 200] };
        let corners = |[l, t, r, b]: [f32; 4]| [[l, t], [r, t], [r, b], [l, b]];
        let note =
            |rectangle, turn, mirrored| query.note(Some(QueryRegion { corners: corners(rectangle), turn, mirrored }));
        assert_eq!(query.note(None), "");
        assert_eq!(note([40.0, 60.0, 140.0, 110.0], 0, false), "");
        assert_eq!(note([41.0, 60.0, 139.0, 109.0], 0, true), "");
        assert_eq!(note([40.0, 60.0, 140.0, 110.0], 90, true), "  (rotated by 90 degrees, mirrored)");
        assert_eq!(note([49.6, 60.4, 90.0, 100.0], 0, false), "  (in the part 50,60 40x40 of the picture)");
        let region =
            QueryRegion { corners: [[60.0, 61.0], [99.0, 65.0], [98.0, 90.0], [58.5, 88.0]], turn: 0, mirrored: true };
        assert_eq!(query.note(Some(region)), "  (in the part 59,61 40x29 of the picture, mirrored)");
    }
}
