//! Builds feature sets from videos, or from features that other programs extracted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use thiserror::Error;

use super::fit::pairs::{self, DescribedVideo};
use crate::base::Cancel;
use crate::encode::{Descriptor, Encoder};
use crate::features::activitynet::video_name;
use crate::features::archive::FeatureArchive;
use crate::features::benchmark::{self, Benchmark, BenchmarkRow, RowKind};
use crate::features::{self, FeatureLine, FeatureWriter, Split};
use crate::ingest;
use crate::media::{self, Tools};

/// Why no feature set was written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// ffmpeg is missing.
    #[error(transparent)]
    Media(#[from] media::Error),
    /// Features cannot be read or written.
    #[error(transparent)]
    Features(#[from] features::Error),
    /// Two files have the name of one video.
    #[error("{} and {} are both files of the video {video}", first.display(), second.display())]
    SameVideo {
        /// Id of the video.
        video: String,
        /// A file of the video.
        first: PathBuf,
        /// Another file of the video.
        second: PathBuf,
    },
    /// The result has no image or no clip.
    #[error("the result has {images} images and {clips} clips; a feature set needs both{}", describe_first(left_out.as_ref()))]
    TooFewRows {
        /// Rows of images.
        images: usize,
        /// Rows of clips.
        clips: usize,
        /// First row or video that was left out.
        left_out: Option<LeftOut>,
    },
    /// Cancelled.
    #[error("stopped; nothing was written")]
    Interrupted,
}

fn describe_first(left_out: Option<&LeftOut>) -> String {
    left_out.map_or(String::new(), |first| format!("; the first left out is {}: {}", first.id, first.reason))
}

/// A row or a video that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Identifier of the row, or name of the video.
    pub id: String,
    /// The reason.
    pub reason: String,
}

impl LeftOut {
    fn new(id: &str, reason: impl Into<String>) -> LeftOut {
        LeftOut { id: id.to_owned(), reason: reason.into() }
    }
}

/// Result of an extraction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtractSummary {
    /// Rows of images.
    pub images: usize,
    /// Rows of clips.
    pub clips: usize,
    /// Whether the rows of the split `val` were moved to the split `train`, because none of its images
    /// matched a clip.
    pub val_merged: bool,
    /// Rows and videos that were left out: flat frames, times beyond the end, videos that are missing or
    /// cannot be decoded.
    pub left_out: Vec<LeftOut>,
}

/// A row with its features, or the reason for its absence.
type ExtractedRow = Result<(BenchmarkRow, Vec<f32>), LeftOut>;

/// Extracts the rows of a benchmark from video files with an encoder. Frames are taken from the encoder's
/// grid; clips have the encoder's length around the middle of their span. Files are found by name, see
/// [`video_name`]. `on_progress` receives the numbers of finished and of all videos.
///
/// # Errors
/// [`enum@Error`]. The [`ExtractSummary`] lists videos that cannot be decoded.
pub fn benchmark_from_videos(
    encoder: &dyn Encoder,
    benchmark: &Benchmark,
    files: &[PathBuf],
    out: &Path,
    cancel: &Cancel,
    on_progress: impl Fn(usize, usize) + Sync,
) -> Result<ExtractSummary, Error> {
    let tools = Tools::find()?;
    let files = by_name(files)?;
    // Created before decoding, so that an unwritable folder is reported at once.
    let writers = writers(out)?;
    let by_video: Vec<&[BenchmarkRow]> = benchmark.items.chunk_by(|a, b| a.video == b.video).collect();
    let rows = rows_of_each(&by_video, on_progress, |items| match files.get(&items[0].video) {
        _ if cancel.is_set() => Vec::new(),
        None => vec![Err(LeftOut::new(&items[0].video, "the video is missing"))],
        Some(path) => match pairs::describe(&tools, encoder, path, cancel) {
            Ok(described) => items.iter().map(|item| row(encoder, &described, item)).collect(),
            Err(error) => vec![Err(LeftOut::new(&items[0].video, error.to_string()))],
        },
    });
    write(writers, rows, cancel)
}

/// The rows of each video, computed on all threads.
fn rows_of_each<T: Sync>(
    videos: &[T],
    on_progress: impl Fn(usize, usize) + Sync,
    rows: impl Fn(&T) -> Vec<ExtractedRow> + Sync,
) -> Vec<ExtractedRow> {
    let done = AtomicUsize::new(0);
    let each = videos.par_iter().map(|video| {
        let rows = rows(video);
        on_progress(done.fetch_add(1, Ordering::Relaxed) + 1, videos.len());
        rows
    });
    each.collect::<Vec<_>>().into_iter().flatten().collect()
}

/// The files by the id of their video.
fn by_name(files: &[PathBuf]) -> Result<BTreeMap<String, &PathBuf>, Error> {
    let mut named: BTreeMap<String, &PathBuf> = BTreeMap::new();
    for path in files {
        let name = video_name(path);
        if let Some(other) = named.get(&name) {
            return Err(Error::SameVideo { video: name, first: other.to_path_buf(), second: path.clone() });
        }
        named.insert(name, path);
    }
    Ok(named)
}

/// Extracts the rows of a benchmark from archives of features: the features of an image are the vector at its
/// time, those of a clip the mean over its span.
///
/// # Errors
/// [`enum@Error`]. An unusable array is an error, because the archive's other arrays are likely unusable as
/// well.
pub fn benchmark_from_archives(
    benchmark: &Benchmark,
    images: &FeatureArchive,
    videos: &FeatureArchive,
    out: &Path,
    cancel: &Cancel,
) -> Result<ExtractSummary, Error> {
    let writers = writers(out)?;
    let by_video: Vec<&[BenchmarkRow]> = benchmark.items.chunk_by(|a, b| a.video == b.video).collect();
    let rows: Vec<Vec<ExtractedRow>> = by_video
        .par_iter()
        .map(|items| {
            let mut rows = Vec::with_capacity(items.len());
            for (kind, archive) in [(RowKind::Image, images), (RowKind::Clip, videos)] {
                let mut of_kind = items.iter().filter(|item| item.kind == kind).peekable();
                if of_kind.peek().is_none() || cancel.is_set() {
                    continue;
                }
                let video = &items[0].video;
                if !archive.has(video) {
                    rows.extend(
                        of_kind.map(|item| Err(LeftOut::new(&item.id, "the archive has no features of its video"))),
                    );
                    continue;
                }
                let array = archive.read(video)?;
                rows.extend(of_kind.map(|item| Ok((item.clone(), array.mean(item.from, item.to, item.duration)))));
            }
            Ok(rows)
        })
        .collect::<Result<_, features::Error>>()?;
    write(writers, rows.into_iter().flatten().collect(), cancel)
}

/// Extracts whole videos: one clip for each span of the encoder's grid and one image for its middle frame,
/// all in one split. Labels come from the video's JSON sidecar. `on_progress` receives the numbers of
/// finished and of all videos.
///
/// # Errors
/// [`enum@Error`]. The [`ExtractSummary`] lists videos that cannot be decoded.
pub fn videos(
    encoder: &dyn Encoder,
    files: &[PathBuf],
    split: Split,
    out: &Path,
    cancel: &Cancel,
    on_progress: impl Fn(usize, usize) + Sync,
) -> Result<ExtractSummary, Error> {
    let tools = Tools::find()?;
    let writers = writers(out)?;
    let rows = rows_of_each(files, on_progress, |path| {
        let name = path.to_string_lossy().into_owned();
        match pairs::describe(&tools, encoder, path, cancel) {
            _ if cancel.is_set() => Vec::new(),
            Ok(described) => {
                let label = ingest::sidecar_labels(path);
                clips(encoder, &described)
                    .flat_map(|span| span_rows(encoder, &described, &name, span, split, &label))
                    .collect()
            }
            Err(error) => vec![Err(LeftOut::new(&name, error.to_string()))],
        }
    });
    write(writers, rows, cancel)
}

/// Spans of the encoder's grid over a video, in seconds.
fn clips(encoder: &dyn Encoder, described: &DescribedVideo) -> impl Iterator<Item = (f64, f64)> {
    let sampling = encoder.info().sampling;
    let (length, stride) =
        (sampling.frames_per_clip as f64 / sampling.rate_hz, sampling.stride_frames as f64 / sampling.rate_hz);
    let end = described.duration_ms as f64 / 1e3;
    (0u32..)
        .map(move |i| f64::from(i) * stride)
        .take_while(move |from| *from == 0.0 || from + length <= end)
        .map(move |from| (from, (from + length).min(end.max(from))))
}

/// The clip and the image of one span.
fn span_rows(
    encoder: &dyn Encoder,
    described: &DescribedVideo,
    name: &str,
    (from, to): (f64, f64),
    split: Split,
    label: &[String],
) -> Vec<ExtractedRow> {
    let at = (from + to) / 2.0;
    let duration = described.duration_ms as f64 / 1e3;
    let item = |kind, id, from, to| BenchmarkRow {
        kind,
        id,
        video: name.to_owned(),
        duration,
        from,
        to,
        label: label.to_vec(),
        split,
    };
    [
        item(RowKind::Clip, format!("{name}:{from:.3}-{to:.3}"), from, to),
        item(RowKind::Image, format!("{name}@{at:.3}"), at, at),
    ]
    .iter()
    .map(|item| row(encoder, described, item))
    .collect()
}

/// The features of one row.
fn row(encoder: &dyn Encoder, described: &DescribedVideo, item: &BenchmarkRow) -> ExtractedRow {
    let left_out = |reason: &str| Err(LeftOut::new(&item.id, reason));
    let (Some(last), frames) = (described.at_ms.last(), &described.frames) else {
        return left_out("its video has no frames");
    };
    // Annotations may belong to another cut of the video, so one second beyond the end is accepted.
    if item.from * 1e3 > f64::from(*last) + 1000.0 {
        return left_out("its time is beyond the end of the video");
    }
    let nearest = |at_s: f64| {
        let at_ms = at_s * 1e3;
        let after = described.at_ms.partition_point(|at| f64::from(*at) < at_ms).min(frames.len() - 1);
        let before = after.saturating_sub(1);
        let distance = |i: usize| (f64::from(described.at_ms[i]) - at_ms).abs();
        if distance(before) <= distance(after) { before } else { after }
    };
    match item.kind {
        RowKind::Image => {
            let frame = &frames[nearest(item.from)];
            if frame.is_flat() {
                return left_out("its frame is flat");
            }
            match encoder.image(frame) {
                Ok(features) => Ok((item.clone(), features)),
                Err(error) => left_out(&error.to_string()),
            }
        }
        RowKind::Clip => {
            let n = encoder.info().sampling.frames_per_clip;
            let middle = nearest((item.from + item.to) / 2.0);
            let first = middle.saturating_sub(n / 2).min(frames.len().saturating_sub(n));
            let clip: Vec<&Descriptor> = frames[first..].iter().take(n).collect();
            match encoder.clip(&clip) {
                Ok(Some(features)) => Ok((item.clone(), features)),
                Ok(None) => left_out("its frames are flat"),
                Err(error) => left_out(&error.to_string()),
            }
        }
    }
}

fn writers(out: &Path) -> Result<[FeatureWriter; 2], Error> {
    Ok([FeatureWriter::create(out, "images")?, FeatureWriter::create(out, "videos")?])
}

fn write(
    writers: [FeatureWriter; 2],
    mut extracted: Vec<ExtractedRow>,
    cancel: &Cancel,
) -> Result<ExtractSummary, Error> {
    if cancel.is_set() {
        return Err(Error::Interrupted);
    }
    let [mut images, mut videos] = writers;
    // Rows that were left out may have been the ones with common labels.
    let val_merged = benchmark::merge_small_val(extracted.iter_mut().flatten().map(|(row, _)| row));
    let mut summary = ExtractSummary { val_merged, ..ExtractSummary::default() };
    for row in extracted {
        match row {
            Ok((BenchmarkRow { kind, id, label, split, video, from, to, .. }, values)) => {
                let (split, video, from, to) = (Some(split), Some(video), Some(from), Some(to));
                let writer = if kind == RowKind::Image { &mut images } else { &mut videos };
                writer.push(&FeatureLine { id, labels: label, split, video, from, to }, &values)?;
            }
            Err(left_out) => summary.left_out.push(left_out),
        }
    }
    (summary.images, summary.clips) = (images.rows(), videos.rows());
    if summary.images == 0 || summary.clips == 0 {
        let left_out = summary.left_out.into_iter().next();
        return Err(Error::TooFewRows { images: summary.images, clips: summary.clips, left_out });
    }
    FeatureWriter::finish([images, videos])?;
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_two_files_of_one_video() {
        let files = ["a/v_x.mp4", "b/y.webm", "b/x.mkv"].map(PathBuf::from);
        let error = by_name(&files).unwrap_err().to_string();
        assert!(error.contains("a/v_x.mp4 and b/x.mkv") && error.contains("video x"), "{error}");
        assert_eq!(by_name(&files[1..]).unwrap().len(), 2);
    }
}
