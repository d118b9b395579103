//! One file: its size and times, and its conversion to rows.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::kind::KindBuilder;
use super::{ClipBuilder, FileError, VideoRows, sidecar};
use crate::base::Cancel;
use crate::collection::{Model, link_target, modified_ns};
use crate::encode::{Descriptor, Encoder};
use crate::gmf::Folded;
use crate::media::{self, DecodeSummary, Frame, Gaps, Limits, Picture, Tools};
use crate::search::align;
use reelseek_index::Video;

/// Number of frames that the encoder describes in one call.
pub(crate) const BATCH: usize = 16;

/// Value of `Video::sampling` for a video of which only keyframes were decoded.
const KEYFRAMES: &str = "keyframes";

/// The absolute path under which the index stores a file. Links in the folder are resolved; the file name is
/// kept, so that a linked file keeps its own name. If folders of the path do not exist, those above them are
/// resolved.
pub fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if path.is_dir() {
        return path.canonicalize().unwrap_or(path);
    }
    for folder in path.ancestors().skip(1) {
        if let (Ok(real), Ok(rest)) = (folder.canonicalize(), path.strip_prefix(folder)) {
            return real.join(rest);
        }
    }
    path
}

/// A video file to index.
#[derive(Debug)]
pub(super) struct FileTask {
    /// Absolute path.
    pub(super) path: PathBuf,
    /// Id of the video in the index: the first 16 hex digits of the BLAKE3 hash of the path.
    pub(super) id: String,
    pub(super) size_bytes: u64,
    pub(super) modified_ns: i64,
    /// What the file leads to if it is a link: see [`link_target`].
    pub(super) link: Option<String>,
    sidecar_modified_ns: Option<i64>,
    /// The spaces that lack the current rows of the file.
    pub(super) lacking: LackingSpaces,
}

/// The spaces that a file is decoded for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LackingSpaces {
    pub(super) scene: bool,
    pub(super) kind: bool,
}

impl FileTask {
    /// Reads size and times of a file.
    pub(super) fn new(path: &Path) -> Result<FileTask, media::Error> {
        let stat = |path: &Path| std::fs::metadata(path).map_err(|source| media::Error::io(path, source));
        let meta = stat(path)?;
        let path = resolved(path);
        let id = blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex()[..16].to_owned();
        let sidecar_modified_ns = std::fs::metadata(sidecar::beside(&path)).ok().map(|m| modified_ns(&m));
        let link = link_target(&path).map_err(|source| media::Error::io(&path, source))?;
        Ok(FileTask {
            id,
            size_bytes: meta.len(),
            modified_ns: modified_ns(&meta),
            link,
            sidecar_modified_ns,
            path,
            lacking: LackingSpaces::default(),
        })
    }

    /// Whether the indexed version of the file is current. If all frames are to be decoded, rows of keyframes
    /// only are not.
    pub(super) fn same_media(&self, video: &Video, keyframes: bool) -> bool {
        let same_sampling = keyframes || video.sampling != KEYFRAMES;
        self.size_bytes == video.size_bytes && self.modified_ns == video.modified_ns && same_sampling
    }

    pub(super) fn same_sidecar(&self, video: &Video) -> bool {
        self.sidecar_modified_ns == video.sidecar_modified_ns
    }

    /// The video's entry in the index, without rows and probe, and a warning that joins `note` and the errors
    /// of the sidecar.
    pub(super) fn describe(&self, duration_ms: u64, note: Option<String>) -> (Video, Option<String>) {
        let (sidecar, warning) = match sidecar::read(&self.path) {
            Ok(None) => (sidecar::Sidecar::default(), None),
            Ok(Some(sidecar)) => {
                let warning = self.left_out(&sidecar.left_out);
                (sidecar, warning)
            }
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
        (video, joined(note, warning))
    }

    /// A warning about parts of the sidecar that are not used.
    pub(super) fn left_out(&self, parts: &[String]) -> Option<String> {
        let path = sidecar::beside(&self.path);
        (!parts.is_empty()).then(|| format!("its sidecar {} is used in part: {}", path.display(), parts.join(", ")))
    }
}

/// Two warnings as one.
pub(super) fn joined(first: Option<String>, second: Option<String>) -> Option<String> {
    let warnings: Vec<String> = first.into_iter().chain(second).collect();
    (!warnings.is_empty()).then(|| warnings.join("; "))
}

/// The rows of a file in one space.
pub(super) struct SpaceRows {
    pub(super) rows: VideoRows,
    /// See `Video::probe`.
    pub(super) probe: Vec<f32>,
}

/// A decoded file, with its rows in each space that lacks them.
pub(super) struct IndexedFile {
    /// The video without rows and probe.
    pub(super) video: Video,
    pub(super) scene: Option<SpaceRows>,
    pub(super) kind: Option<SpaceRows>,
    pub(super) warning: Option<String>,
}

/// The result of a worker for one file.
pub(super) struct FinishedTask {
    pub(super) task: FileTask,
    pub(super) result: Result<IndexedFile, FileError>,
    /// Bytes of the file that were added to [`WorkerContext::reading_bytes`].
    pub(super) counted_bytes: u64,
}

/// Progress within a file.
struct ReadProgress<'a> {
    reading_bytes: &'a AtomicU64,
    size_bytes: u64,
    counted_bytes: u64,
}

impl ReadProgress<'_> {
    /// Counts the bytes up to a time of the video. Decoding a file again does not lower the count.
    fn reached(&mut self, at_ms: u32, duration_ms: u64) {
        let share = (f64::from(at_ms) / duration_ms.max(1) as f64).min(1.0);
        let bytes = (self.size_bytes as f64 * share) as u64;
        self.reading_bytes.fetch_add(bytes.saturating_sub(self.counted_bytes), Ordering::Relaxed);
        self.counted_bytes = self.counted_bytes.max(bytes);
    }
}

/// Whether ffmpeg reported a failed read or missing memory, even after some frames.
fn is_doubtful(result: &Result<IndexedFile, FileError>) -> bool {
    let message = match result {
        Ok(file) => file.video.note.as_deref(),
        Err(FileError::Media(media::Error::Undecodable { reason, .. })) => Some(reason.as_str()),
        Err(_) => None,
    };
    message
        .is_some_and(|text| ["Input/output error", "Cannot allocate memory"].iter().any(|cause| text.contains(cause)))
}

/// Data that all workers share.
pub(super) struct WorkerContext<'a> {
    pub(super) tools: &'a Tools,
    pub(super) encoder: &'a dyn Encoder,
    pub(super) checkpoint: &'a Folded,
    /// The model of the kind space, if rows are added to it.
    pub(super) kind: Option<&'a Model>,
    pub(super) keyframes: bool,
    /// Whether the index stores sketches.
    pub(super) sketches: bool,
    pub(super) limits: Limits,
    pub(super) cancel: &'a Cancel,
    /// Decoded bytes of unfinished files.
    pub(super) reading_bytes: &'a AtomicU64,
}

impl WorkerContext<'_> {
    /// Decodes and embeds one file.
    pub(super) fn index(&self, task: FileTask) -> FinishedTask {
        let mut progress =
            ReadProgress { reading_bytes: self.reading_bytes, size_bytes: task.size_bytes, counted_bytes: 0 };
        let result = self.attempt(&task, &mut progress);
        FinishedTask { task, result, counted_bytes: progress.counted_bytes }
    }

    fn attempt(&self, task: &FileTask, progress: &mut ReadProgress<'_>) -> Result<IndexedFile, FileError> {
        let mut result = self.decode_with_fallback(task, progress);
        if is_doubtful(&result) {
            // ffmpeg reports the same error for a temporary fault of a drive and for some damaged files. If
            // every byte can be read, the file is the cause of a second failure.
            media::read_through(&task.path, self.cancel)?;
            result = self.decode_with_fallback(task, progress);
        }
        if result.as_ref().err().is_none_or(FileError::is_lasting) {
            // If a drive disappears, ffmpeg treats that as the end of the file, and neither rows nor errors
            // are valid.
            media::readable(&task.path)?;
            let now = FileTask::new(&task.path)?;
            if (now.size_bytes, now.modified_ns) != (task.size_bytes, task.modified_ns) {
                return Err(media::Error::Changed { path: task.path.clone() }.into());
            }
        }
        result
    }

    /// Decodes keyframes or all frames, depending on the options. If no keyframe can be decoded, decodes all
    /// frames.
    fn decode_with_fallback(&self, task: &FileTask, progress: &mut ReadProgress<'_>) -> Result<IndexedFile, FileError> {
        match self.decode(task, self.keyframes, progress) {
            // The only keyframe may be damaged, or an edit list may hide it, while other frames are good.
            Err(error) if self.keyframes && error.is_lasting() => self.decode(task, false, progress),
            result => result,
        }
    }

    fn decode(
        &self,
        task: &FileTask,
        keyframes: bool,
        progress: &mut ReadProgress<'_>,
    ) -> Result<IndexedFile, FileError> {
        let kind = self.kind.filter(|_| task.lacking.kind);
        let size = kind.map(|model| model.encoder.info().sampling.size());
        let plan = self.encoder.info().sampling.plan(keyframes).second(size);
        let mut frames = media::frames_without_gaps(self.tools, &task.path, &plan, &self.limits, self.cancel)?;
        let mut scene = task.lacking.scene.then(|| self.scene_builder(keyframes));
        let mut kind = kind.map(|model| Ok(KindBuilder::new(model)));
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let next = frames.next_pictures()?;
            let ended = next.is_none();
            if let Some((frame, second)) = next {
                if let (Some(Ok(builder)), Some(second)) = (&mut kind, second)
                    && let Err(error) = builder.push(frame.at_ms, &frame.picture, second)
                {
                    kind = Some(Err(error));
                }
                batch.push(frame);
            }
            if batch.len() == BATCH || ended {
                if let (Some(last), Some(duration_ms)) = (batch.last(), frames.announced_ms()) {
                    progress.reached(last.at_ms, duration_ms);
                }
                match &mut scene {
                    Some(builder) => builder.push(std::mem::take(&mut batch))?,
                    None => batch.clear(),
                }
            }
            if ended {
                break;
            }
        }
        let DecodeSummary { duration_ms, warnings, gaps, .. } = frames.finish()?;
        let (mut video, warning) = task.describe(duration_ms, warnings);
        video.sampling = if keyframes { KEYFRAMES.to_owned() } else { String::new() };
        let scene = scene.map(|builder| builder.finish(&gaps, duration_ms)).transpose()?;
        match kind.map(|kind| kind.and_then(|builder| builder.finish(&gaps, duration_ms))) {
            // The rows of the scene space are good. The next run tries the other space again.
            Some(Err(error)) if scene.is_some() => {
                let warning = joined(warning, Some(format!("it has no row in the kind space: {error}")));
                Ok(IndexedFile { video, scene, kind: None, warning })
            }
            kind => Ok(IndexedFile { video, scene, kind: kind.transpose()?, warning }),
        }
    }

    fn scene_builder(&self, keyframes: bool) -> SceneBuilder<'_> {
        let clips = match keyframes {
            true => ClipBuilder::keyframes(self.encoder, self.checkpoint),
            false => ClipBuilder::regular(self.encoder, self.checkpoint),
        };
        let (encoder, checkpoint, sketches) = (self.encoder, self.checkpoint, self.sketches);
        SceneBuilder { encoder, checkpoint, sketches, clips, probe: ProbeFrame::default() }
    }
}

/// Makes the rows of one video from all its frames.
struct SceneBuilder<'a> {
    encoder: &'a dyn Encoder,
    checkpoint: &'a Folded,
    sketches: bool,
    clips: ClipBuilder<'a>,
    probe: ProbeFrame,
}

impl SceneBuilder<'_> {
    fn push(&mut self, frames: Vec<Frame>) -> Result<(), FileError> {
        let (times, pictures): (Vec<u32>, Vec<Picture>) =
            frames.into_iter().map(|frame| (frame.at_ms, frame.picture)).unzip();
        let described = self.encoder.describe(&pictures)?;
        for ((at_ms, descriptor), picture) in times.into_iter().zip(described).zip(&pictures) {
            self.probe.offer(&descriptor);
            let sketch = if self.sketches { align::sketch(picture) } else { Vec::new() };
            self.clips.push(at_ms, descriptor, sketch)?;
        }
        Ok(())
    }

    fn finish(mut self, gaps: &Gaps, duration_ms: u64) -> Result<SpaceRows, FileError> {
        self.clips.restore_gaps(gaps);
        let rows = self.clips.finish(duration_ms)?;
        Ok(SpaceRows { rows, probe: self.probe.embed(self.encoder, self.checkpoint)? })
    }
}

/// One frame from about the middle of the video, stored to calibrate the index. The number of frames is not
/// known in advance, so the frame is replaced at frame numbers that grow by half each time. Flat frames are
/// not used.
#[derive(Default)]
pub(super) struct ProbeFrame {
    offered: u32,
    next: u32,
    kept: Option<Descriptor>,
}

impl ProbeFrame {
    pub(super) fn offer(&mut self, descriptor: &Descriptor) {
        if self.offered >= self.next && !descriptor.is_flat() {
            self.kept = Some(descriptor.clone());
            self.next = self.offered + self.offered / 2 + 1;
        }
        self.offered += 1;
    }

    /// The image embeddings of the frame, concatenated: as it is and, for encoders that distinguish the two,
    /// mirrored. Empty if all frames are flat.
    pub(super) fn embed(&self, encoder: &dyn Encoder, checkpoint: &Folded) -> Result<Vec<f32>, FileError> {
        let Some(kept) = &self.kept else { return Ok(Vec::new()) };
        let mut views = checkpoint.embed_image(&encoder.image(kept)?)?;
        if let Some(mirrored) = encoder.mirrored(kept) {
            views.extend(checkpoint.embed_image(&encoder.image(&mirrored)?)?);
        }
        Ok(views)
    }
}
