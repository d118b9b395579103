//! One file: what is known of it from outside, and how it becomes rows.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use reelseek_index::Video;
use thiserror::Error as ThisError;

use super::{ClipBuilder, Rows, sidecar};
use crate::base::Cancel;
use crate::encode::{self, Descriptor, Encoder};
use crate::gmf::{self, Folded};
use crate::media::{self, Limits, Tools};
use crate::search::align;

/// Why one file gave no rows.
#[derive(Debug, ThisError)]
pub enum Error {
    /// It cannot be decoded.
    #[error(transparent)]
    Media(#[from] media::Error),
    /// Encoder and checkpoint do not fit together.
    #[error(transparent)]
    Checkpoint(#[from] gmf::Error),
    /// The encoder failed.
    #[error(transparent)]
    Encoder(#[from] encode::Error),
}

impl Error {
    /// Whether the same file would fail again in the same way.
    pub(super) fn is_lasting(&self) -> bool {
        matches!(self, Error::Media(error) if error.is_lasting())
    }
}

/// Frames that are described together.
pub(crate) const BATCH: usize = 16;

/// What `Video::sampling` says of a video that was decoded by its keyframes.
const KEYFRAMES: &str = "keyframes";

/// An absolute path whose folder is resolved and whose name is kept: a linked file is known by its own name.
pub(super) fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if path.is_dir() {
        return path.canonicalize().unwrap_or(path);
    }
    match (path.parent().and_then(|p| p.canonicalize().ok()), path.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => path,
    }
}

/// A file to be looked at.
#[derive(Debug)]
pub(super) struct Task {
    /// Absolute.
    pub(super) path: PathBuf,
    /// Names the video in the index: 16 hex digits of BLAKE3 of the path.
    pub(super) id: String,
    pub(super) size_bytes: u64,
    pub(super) modified_ns: i64,
    sidecar_modified_ns: Option<i64>,
}

impl Task {
    /// Size and times of a file.
    pub(super) fn look(path: &Path) -> Result<Task, media::Error> {
        let stat = |path: &Path| std::fs::metadata(path).map_err(|source| media::Error::io(path, source));
        let meta = stat(path)?;
        let path = resolved(path);
        let id = blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex()[..16].to_owned();
        let sidecar_modified_ns = std::fs::metadata(sidecar::beside(&path)).ok().map(|m| modified_ns(&m));
        Ok(Task { id, size_bytes: meta.len(), modified_ns: modified_ns(&meta), sidecar_modified_ns, path })
    }

    /// Whether the file is what the index has. Rows from keyframes will do only where no more is asked for.
    pub(super) fn same_media(&self, video: &Video, keyframes: bool) -> bool {
        let fine_enough = keyframes || video.sampling != KEYFRAMES;
        self.size_bytes == video.size_bytes && self.modified_ns == video.modified_ns && fine_enough
    }

    pub(super) fn same_sidecar(&self, video: &Video) -> bool {
        self.sidecar_modified_ns == video.sidecar_modified_ns
    }

    /// The video's entry in the index, without rows and probe, and a warning about its sidecar.
    pub(super) fn describe(&self, duration_ms: u64, note: Option<String>) -> (Video, Option<String>) {
        let (sidecar, warning) = match sidecar::read(&self.path) {
            Ok(sidecar) => (sidecar.unwrap_or_default(), None),
            Err(warning) => (sidecar::Sidecar::default(), Some(warning)),
        };
        let stem = self.path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let video = Video {
            id: self.id.clone(),
            path: self.path.to_string_lossy().into_owned(),
            path_bytes: self.path.to_str().is_none().then(|| self.path.as_os_str().as_encoded_bytes().to_vec()),
            title: sidecar.title.unwrap_or(stem),
            labels: sidecar.labels,
            duration_ms,
            size_bytes: self.size_bytes,
            modified_ns: self.modified_ns,
            sidecar_modified_ns: self.sidecar_modified_ns,
            rows: 0,
            note: note.clone(),
            extra: sidecar.extra,
            sampling: String::new(),
            probe: Vec::new(),
        };
        let warnings: Vec<String> = note.into_iter().chain(warning).collect();
        (video, (!warnings.is_empty()).then(|| warnings.join("; ")))
    }
}

fn modified_ns(meta: &std::fs::Metadata) -> i64 {
    let since = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    since.and_then(|d| i64::try_from(d.as_nanos()).ok()).unwrap_or(0)
}

/// A file that became rows.
pub(super) struct Done {
    pub(super) video: Video,
    pub(super) rows: Rows,
    pub(super) warning: Option<String>,
}

/// A file that a worker has done with.
pub(super) struct Finished {
    pub(super) task: Task,
    pub(super) done: Result<Done, Error>,
    /// Bytes of the file that were added to those under way.
    pub(super) counted_bytes: u64,
}

/// How much of a file has been read, added to the bytes of all files that are being read.
struct Reading<'a> {
    under_way: &'a AtomicU64,
    size_bytes: u64,
    counted_bytes: u64,
}

impl Reading<'_> {
    /// Takes note of a place in the video. A file that is decoded again does not go back.
    fn reached(&mut self, at_ms: u32, duration_ms: u64) {
        let share = (f64::from(at_ms) / duration_ms.max(1) as f64).min(1.0);
        let bytes = (self.size_bytes as f64 * share) as u64;
        self.under_way.fetch_add(bytes.saturating_sub(self.counted_bytes), Ordering::Relaxed);
        self.counted_bytes = self.counted_bytes.max(bytes);
    }
}

/// Whether ffmpeg spoke of a failed read or of missing memory, be it after some frames.
fn is_doubtful(done: &Result<Done, Error>) -> bool {
    let said = match done {
        Ok(done) => done.video.note.as_deref(),
        Err(Error::Media(media::Error::Undecodable { reason, .. })) => Some(reason.as_str()),
        Err(_) => None,
    };
    said.is_some_and(|said| ["Input/output error", "Cannot allocate memory"].iter().any(|words| said.contains(words)))
}

/// What every worker needs.
pub(super) struct Context<'a> {
    pub(super) tools: &'a Tools,
    pub(super) encoder: &'a dyn Encoder,
    pub(super) checkpoint: &'a Folded,
    pub(super) keyframes: bool,
    /// Whether the index keeps sketches.
    pub(super) sketches: bool,
    pub(super) limits: Limits,
    pub(super) cancel: &'a Cancel,
    /// Bytes read of files that are not done.
    pub(super) under_way: &'a AtomicU64,
}

impl Context<'_> {
    /// Decodes and embeds one file.
    pub(super) fn index(&self, task: Task) -> Finished {
        let mut reading = Reading { under_way: self.under_way, size_bytes: task.size_bytes, counted_bytes: 0 };
        let done = self.attempt(&task, &mut reading);
        Finished { task, done, counted_bytes: reading.counted_bytes }
    }

    fn attempt(&self, task: &Task, reading: &mut Reading<'_>) -> Result<Done, Error> {
        let mut done = self.decode_as_asked(task, reading);
        if is_doubtful(&done) {
            // ffmpeg says this of a drive that fails for a moment, and of some damaged files. The system knows which:
            // if it can read every byte, what ffmpeg says of them a second time is true of the file.
            media::read_through(&task.path, self.cancel)?;
            done = self.decode_as_asked(task, reading);
        }
        if done.as_ref().err().is_none_or(Error::is_lasting) {
            // ffmpeg takes a drive that is gone for the end of the file: neither rows nor failure would be the file's own.
            media::readable(&task.path)?;
            let now = Task::look(&task.path)?;
            if (now.size_bytes, now.modified_ns) != (task.size_bytes, task.modified_ns) {
                return Err(media::Error::Changed { path: task.path.clone() }.into());
            }
        }
        done
    }

    fn decode_as_asked(&self, task: &Task, reading: &mut Reading<'_>) -> Result<Done, Error> {
        match self.decode(task, self.keyframes, reading) {
            // The only keyframe may be one that an edit list hides, or a damaged one: the other frames can still be good.
            Err(error) if self.keyframes && error.is_lasting() => self.decode(task, false, reading),
            done => done,
        }
    }

    fn decode(&self, task: &Task, keyframes: bool, reading: &mut Reading<'_>) -> Result<Done, Error> {
        let plan = self.encoder.about().sampling.plan(keyframes);
        let mut frames = media::frames(self.tools, &task.path, &plan, &self.limits, self.cancel)?;
        let mut builder = if keyframes {
            ClipBuilder::keyframes(self.encoder, self.checkpoint)
        } else {
            ClipBuilder::regular(self.encoder, self.checkpoint)
        };
        let mut probe = Probe::default();
        let (mut times, mut pictures) = (Vec::new(), Vec::new());
        loop {
            let frame = frames.next_frame()?;
            let ended = frame.is_none();
            frame.into_iter().for_each(|frame| {
                times.push(frame.at_ms);
                pictures.push(frame.picture);
            });
            if pictures.len() == BATCH || ended {
                if let (Some(at_ms), Some(duration_ms)) = (times.last(), frames.announced_ms()) {
                    reading.reached(*at_ms, duration_ms);
                }
                let described = self.encoder.describe(&pictures)?;
                for ((at_ms, descriptor), picture) in times.drain(..).zip(described).zip(&pictures) {
                    probe.offer(&descriptor);
                    let sketch = if self.sketches { align::sketch(picture) } else { Vec::new() };
                    builder.push(at_ms, descriptor, sketch)?;
                }
                pictures.clear();
            }
            if ended {
                break;
            }
        }
        let summary = frames.finish()?;
        let rows = builder.finish(summary.duration_ms)?;
        let (mut video, warning) = task.describe(summary.duration_ms, summary.warnings);
        video.rows = rows.spans.len() as u32;
        video.sampling = if keyframes { KEYFRAMES.to_owned() } else { String::new() };
        video.probe = probe.embed(self.encoder, self.checkpoint)?;
        Ok(Done { video, rows, warning })
    }
}

/// One frame of the video, about the middle of it, kept to calibrate the index: the frame whose number is
/// the last (1.5^k) not flat.
#[derive(Default)]
struct Probe {
    seen: u32,
    next: u32,
    kept: Option<Descriptor>,
}

impl Probe {
    fn offer(&mut self, descriptor: &Descriptor) {
        if self.seen >= self.next && !descriptor.is_flat() {
            self.kept = Some(descriptor.clone());
            self.next = self.seen + self.seen / 2 + 1;
        }
        self.seen += 1;
    }

    /// The frame's image embedding, plain and (where the encoder tells them apart) mirrored, one after the other; empty if all frames were flat.
    fn embed(&self, encoder: &dyn Encoder, checkpoint: &Folded) -> Result<Vec<f32>, Error> {
        let Some(kept) = &self.kept else { return Ok(Vec::new()) };
        let mut views = checkpoint.embed_image(&encoder.image(kept)?)?;
        if let Some(mirrored) = encoder.mirrored(kept) {
            views.extend(checkpoint.embed_image(&encoder.image(&mirrored)?)?);
        }
        Ok(views)
    }
}
