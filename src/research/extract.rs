//! Feature sets out of videos, or out of features that others extracted.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use thiserror::Error;

use super::pairs::{self, Described};
use crate::base::Cancel;
use crate::encode::{Descriptor, Encoder};
use crate::features::activitynet::video_name;
use crate::features::benchmark::{Benchmark, Item, Kind};
use crate::features::sources::Source;
use crate::features::{self, Labels, Line, Split, Writer};
use crate::media::{self, Tools};

/// Why no feature set could be made.
#[derive(Debug, Error)]
pub enum Error {
    /// ffmpeg is missing.
    #[error(transparent)]
    Media(#[from] media::Error),
    /// A feature set cannot be read or written.
    #[error(transparent)]
    Features(#[from] features::Error),
    /// Nothing came of it.
    #[error("{0}")]
    Nothing(String),
    /// Stopped by wish.
    #[error("stopped; nothing was written")]
    Interrupted,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Rows of images.
    pub images: usize,
    /// Rows of clips.
    pub clips: usize,
    /// Whether rows of the split `val` were made rows to learn from, since no image of it belonged to a clip of it.
    pub val_given_up: bool,
    /// Rows left out, and why: flat pictures, times beyond the end, videos that are not there or cannot be decoded.
    pub left_out: Vec<(String, String)>,
}

/// One row, made or not.
type Made = Result<(Kind, Line, Vec<f32>), (String, String)>;

/// Makes the rows of a benchmark out of video files, by an encoder. Frames are taken from its grid, clips are of its length around the middle of
/// their span. Files are found by their name, see [`video_name`].
///
/// # Errors
/// [`enum@Error`]. A video that cannot be decoded is told of in the [`Summary`].
pub fn benchmark_from_videos(
    encoder: &dyn Encoder,
    benchmark: &Benchmark,
    files: &[PathBuf],
    out: &Path,
    cancel: &Cancel,
    tell: impl Fn(usize, usize) + Sync,
) -> Result<Summary, Error> {
    let tools = Tools::find()?;
    let files = by_name(files)?;
    // Where nothing can be written nothing need be decoded.
    let writers = writers(out)?;
    let by_video: Vec<&[Item]> = benchmark.items.chunk_by(|a, b| a.video == b.video).collect();
    let done = AtomicUsize::new(0);
    let made: Vec<Vec<Made>> = by_video
        .par_iter()
        .map(|items| {
            let rows = match files.get(&items[0].video) {
                _ if cancel.is_set() => Vec::new(),
                None => vec![Err((items[0].video.clone(), "no such video here".to_owned()))],
                Some(path) => match pairs::describe(&tools, encoder, path, cancel) {
                    Ok(described) => items.iter().map(|item| row(encoder, &described, item)).collect(),
                    Err(error) => vec![Err((items[0].video.clone(), error.to_string()))],
                },
            };
            tell(done.fetch_add(1, Ordering::Relaxed) + 1, by_video.len());
            rows
        })
        .collect();
    write(writers, made.into_iter().flatten(), cancel)
}

/// The files by their videos' names.
fn by_name(files: &[PathBuf]) -> Result<BTreeMap<String, &PathBuf>, Error> {
    let mut named: BTreeMap<String, &PathBuf> = BTreeMap::new();
    for path in files {
        let name = video_name(path);
        if let Some(other) = named.get(&name) {
            let (one, two) = (other.display(), path.display());
            return Err(Error::Nothing(format!("{one} and {two} are both of the video {name}; keep one of them")));
        }
        named.insert(name, path);
    }
    Ok(named)
}

/// Makes the rows of a benchmark out of arrays of features: images are the vector at their time, clips the mean over their span.
///
/// # Errors
/// [`enum@Error`]: an array that cannot be used ends it, for the others of its source are likely no better.
pub fn benchmark_from_arrays(
    benchmark: &Benchmark,
    (images, videos): (&Source, &Source),
    out: &Path,
    cancel: &Cancel,
) -> Result<Summary, Error> {
    let writers = writers(out)?;
    let by_video: Vec<&[Item]> = benchmark.items.chunk_by(|a, b| a.video == b.video).collect();
    let made: Vec<Vec<Made>> = by_video
        .par_iter()
        .map(|items| {
            let mut rows = Vec::with_capacity(items.len());
            for (kind, source) in [(Kind::Image, images), (Kind::Clip, videos)] {
                let mut of_kind = items.iter().filter(|item| item.kind == kind).peekable();
                if of_kind.peek().is_none() || cancel.is_set() {
                    continue;
                }
                let video = &items[0].video;
                if !source.has(video) {
                    rows.extend(of_kind.map(|item| Err((item.id.clone(), "no features of its video".to_owned()))));
                    continue;
                }
                let array = source.read(video)?;
                rows.extend(of_kind.map(|item| Ok((kind, line(item), array.mean(item.from, item.to, item.duration)))));
            }
            Ok(rows)
        })
        .collect::<Result<_, features::Error>>()?;
    write(writers, made.into_iter().flatten(), cancel)
}

/// Makes a feature set of whole videos: a row for each clip of the encoder's grid, and an image for the frame in its middle, all of one split. Labels are
/// those of the JSON beside a video.
///
/// # Errors
/// [`enum@Error`]. A video that cannot be decoded is told of in the [`Summary`].
pub fn videos(
    encoder: &dyn Encoder,
    files: &[PathBuf],
    split: Split,
    out: &Path,
    cancel: &Cancel,
    tell: impl Fn(usize, usize) + Sync,
) -> Result<Summary, Error> {
    let tools = Tools::find()?;
    let writers = writers(out)?;
    let done = AtomicUsize::new(0);
    let made: Vec<Vec<Made>> = files
        .par_iter()
        .map(|path| {
            let name = path.to_string_lossy().into_owned();
            let rows = match pairs::describe(&tools, encoder, path, cancel) {
                _ if cancel.is_set() => Vec::new(),
                Ok(described) => {
                    let label = crate::ingest::sidecar::labels(path);
                    clips(encoder, &described)
                        .flat_map(|item| rows_of(encoder, &described, &name, item, split, &label))
                        .collect()
                }
                Err(error) => vec![Err((name, error.to_string()))],
            };
            tell(done.fetch_add(1, Ordering::Relaxed) + 1, files.len());
            rows
        })
        .collect();
    write(writers, made.into_iter().flatten(), cancel)
}

/// Spans of the encoder's grid over a video, in seconds.
fn clips(encoder: &dyn Encoder, described: &Described) -> impl Iterator<Item = (f64, f64)> {
    let sampling = encoder.about().sampling;
    let (length, stride) =
        (sampling.frames_per_clip as f64 / sampling.rate_hz, sampling.stride_frames as f64 / sampling.rate_hz);
    let end = described.duration_ms as f64 / 1e3;
    (0u32..)
        .map(move |i| f64::from(i) * stride)
        .take_while(move |from| *from == 0.0 || from + length <= end)
        .map(move |from| (from, (from + length).min(end.max(from))))
}

/// The clip and the image of one span.
fn rows_of(
    encoder: &dyn Encoder,
    described: &Described,
    name: &str,
    (from, to): (f64, f64),
    split: Split,
    label: &[String],
) -> Vec<Made> {
    let at = (from + to) / 2.0;
    let duration = described.duration_ms as f64 / 1e3;
    let item = |kind, id, from, to| Item {
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
        item(Kind::Clip, format!("{name}:{from:.3}-{to:.3}"), from, to),
        item(Kind::Image, format!("{name}@{at:.3}"), at, at),
    ]
    .iter()
    .map(|item| row(encoder, described, item))
    .collect()
}

fn line(item: &Item) -> Line {
    Line {
        id: item.id.clone(),
        label: (!item.label.is_empty()).then(|| Labels::Many(item.label.clone())),
        split: Some(item.split),
        video: Some(item.video.clone()),
        from: Some(item.from),
        to: Some(item.to),
    }
}

/// The features of one row.
fn row(encoder: &dyn Encoder, described: &Described, item: &Item) -> Made {
    let left_out = |why: &str| Err((item.id.clone(), why.to_owned()));
    let (Some(last), frames) = (described.at_ms.last(), &described.frames) else {
        return left_out("its video has no frames");
    };
    // Annotations may be of another cut of the video; one second is forgiven.
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
        Kind::Image => {
            let frame = &frames[nearest(item.from)];
            if frame.is_flat() {
                return left_out("its picture is flat");
            }
            match encoder.image(frame) {
                Ok(features) => Ok((item.kind, line(item), features)),
                Err(error) => left_out(&error.to_string()),
            }
        }
        Kind::Clip => {
            let n = encoder.about().sampling.frames_per_clip;
            let middle = nearest((item.from + item.to) / 2.0);
            let first = middle.saturating_sub(n / 2).min(frames.len().saturating_sub(n));
            let clip: Vec<&Descriptor> = frames[first..].iter().take(n).collect();
            match encoder.clip(&clip) {
                Ok(Some(features)) => Ok((item.kind, line(item), features)),
                Ok(None) => left_out("its pictures are flat"),
                Err(error) => left_out(&error.to_string()),
            }
        }
    }
}

/// Makes rows of the split `val` rows to learn from, if none of its images shares a label with one of its clips (rows that were left out may be the
/// reason); whether that was so.
fn give_up_val(made: &mut [Made]) -> bool {
    let val = |kind: Kind| -> Vec<&Line> {
        let of = made.iter().flatten().filter(|(other, line, _)| *other == kind && line.split == Some(Split::Val));
        of.map(|(_, line, _)| line).collect()
    };
    let (images, clips) = (val(Kind::Image), val(Kind::Clip));
    if images.len() + clips.len() == 0 {
        return false;
    }
    let labels: HashSet<&str> = clips.iter().flat_map(|line| line.labels()).collect();
    if images.iter().flat_map(|line| line.labels()).any(|label| labels.contains(label)) {
        return false;
    }
    if images.iter().chain(&clips).all(|line| line.labels().is_empty()) {
        // Without labels, images belong to the clips of their own video.
        return false;
    }
    for (_, line, _) in made.iter_mut().flatten().filter(|(_, line, _)| line.split == Some(Split::Val)) {
        line.split = Some(Split::Train);
    }
    true
}

fn writers(out: &Path) -> Result<[Writer; 2], Error> {
    Ok([Writer::create(out, "images")?, Writer::create(out, "videos")?])
}

fn write(writers: [Writer; 2], made: impl Iterator<Item = Made>, cancel: &Cancel) -> Result<Summary, Error> {
    if cancel.is_set() {
        return Err(Error::Interrupted);
    }
    let [mut images, mut videos] = writers;
    let mut summary = Summary::default();
    let mut made: Vec<Made> = made.collect();
    summary.val_given_up = give_up_val(&mut made);
    for made in made {
        match made {
            Ok((Kind::Image, line, values)) => images.push(&line, &values)?,
            Ok((Kind::Clip, line, values)) => videos.push(&line, &values)?,
            Err(left_out) => summary.left_out.push(left_out),
        }
    }
    (summary.images, summary.clips) = (images.rows(), videos.rows());
    if summary.images == 0 || summary.clips == 0 {
        let first = summary.left_out.first();
        let why = first.map_or(String::new(), |(id, why)| format!("; the first left out is {id}: {why}"));
        return Err(Error::Nothing(format!(
            "{} images and {} clips came of it, and a feature set needs both{why}",
            summary.images, summary.clips
        )));
    }
    Writer::finish([images, videos])?;
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_of_one_video_are_named() {
        let files = ["a/v_x.mp4", "b/y.webm", "b/x.mkv"].map(PathBuf::from);
        let error = by_name(&files).unwrap_err().to_string();
        assert!(error.contains("a/v_x.mp4 and b/x.mkv") && error.contains("video x"), "{error}");
        assert_eq!(by_name(&files[1..]).unwrap().len(), 2);
    }
}
