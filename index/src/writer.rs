//! Writing: videos are gathered in memory, written as one segment and published by a commit.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use tantivy::TantivyError;

use crate::error::{Error, Result};
use crate::graph::{self, MAX_ROWS};
use crate::index::{SEGMENTS, TEXT_NEW};
use crate::manifest::{self, Manifest, Rounding, SegmentMeta};
use crate::packed::Packed;
use crate::rounding;
use crate::searcher::{Searcher, check_finite};
use crate::segment::{self, Entry, Part, Segment};
use crate::text::{self, TEXT, Text};
use crate::types::{Precision, Settings, Span, Video, VideoNumber};

/// More segments than this and the smallest are merged.
const MAX_SEGMENTS: usize = 8;
/// A segment of more than so many times the rows of all smaller ones is left alone.
const TIER: u64 = 3;
/// Longest id: it is a term of the text index, which must be able to find it again.
const MAX_ID_BYTES: usize = 4096;
const TEXT_MEMORY: usize = 20_000_000;

/// Changes an index. There is one at a time; dropping it without [`Writer::commit`] loses what was put
/// since the last commit and nothing else.
pub struct Writer {
    dir: PathBuf,
    text: Text,
    inner: tantivy::IndexWriter,
    /// The last commit.
    committed: Searcher,
    /// Never goes back, so that a name is never used twice by this writer.
    next_video: u64,
    next_segment: u64,
    state: Option<serde_json::Value>,
    pending: BTreeMap<u64, Pending>,
    pending_ids: HashMap<String, u64>,
    /// Committed videos that the next commit kills.
    dead: HashSet<u64>,
    failed: bool,
}

struct Pending {
    /// start, end, at: three words a row.
    spans: Vec<u32>,
    /// At full precision.
    vectors: Packed,
    sketches: Vec<u8>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("dir", &self.dir).field("pending", &self.pending.len()).finish_non_exhaustive()
    }
}

/// tantivy's writer, which holds the lock.
pub(crate) fn text_writer(text: &Text, dir: &Path) -> Result<tantivy::IndexWriter> {
    text.index.writer_with_num_threads(1, TEXT_MEMORY).map_err(|error| match error {
        TantivyError::LockFailure(..) => Error::Locked { path: dir.to_owned() },
        error => Error::text(&text.path)(error),
    })
}

/// The one commit point: text and manifest become visible together.
pub(crate) fn publish(writer: &mut tantivy::IndexWriter, manifest: &Manifest, text: &Text) -> Result<()> {
    let payload = serde_json::to_string(manifest).map_err(|error| Error::Argument {
        what: "manifest",
        expected: "values that JSON can hold",
        found: error.to_string(),
    })?;
    let mut commit = writer.prepare_commit().map_err(Error::text(&text.path))?;
    commit.set_payload(&payload);
    commit.commit().map_err(Error::text(&text.path))?;
    Ok(())
}

impl Writer {
    pub(crate) fn open(dir: &Path, text: &Text) -> Result<Writer> {
        let inner = text_writer(text, dir)?;
        let committed = Searcher::open(dir, text)?;
        let manifest = &committed.manifest;
        remove_orphans(dir, manifest)?;
        // Likewise in the text index: what a killed writer left there stands in the way of files of the same name.
        inner.garbage_collect_files().wait().map_err(Error::text(&text.path))?;
        let mut writer = Writer {
            dir: dir.to_owned(),
            text: text.clone(),
            inner,
            next_video: manifest.next_video,
            next_segment: manifest.next_segment,
            state: None,
            pending: BTreeMap::new(),
            pending_ids: HashMap::new(),
            dead: HashSet::new(),
            failed: false,
            committed,
        };
        // Before this version of tantivy writes any file, a merge's among them.
        if !writer.committed.manifest.written_by.contains(&text::version()) {
            writer.commit_merging(Vec::new())?;
        }
        Ok(writer)
    }

    fn check_usable(&self) -> Result<()> {
        if self.failed {
            return Err(Error::WriterFailed { path: self.dir.clone() });
        }
        Ok(())
    }

    /// Adds a video with its rows, in place of any video of the same id. A video may have no rows.
    ///
    /// `vectors` holds `dim` values a span, row after row, meant to be of unit norm; `sketches` holds
    /// [`Settings::sketch`] bytes a span, likewise, and is empty in an index without.
    ///
    /// # Errors
    ///
    /// Wrong lengths, values that are not finite, an id that is empty or too long, a span that ends
    /// before it starts: then nothing has changed.
    pub fn put(&mut self, mut video: Video, spans: &[Span], vectors: &[f32], sketches: &[u8]) -> Result<()> {
        self.check_usable()?;
        let argument = |what, expected, found: String| Err(Error::Argument { what, expected, found });
        if video.id.is_empty() || video.id.len() > MAX_ID_BYTES {
            return argument("video id", "1 to 4096 bytes", format!("{} bytes", video.id.len()));
        }
        let Settings { dim, sketch, .. } = *self.committed.settings();
        for (what, each, found) in [("vectors", dim, vectors.len()), ("sketches", sketch as usize, sketches.len())] {
            if spans.len().checked_mul(each) != Some(found) {
                return Err(Error::Length { what, expected: spans.len().saturating_mul(each), found });
            }
        }
        check_finite("vectors", vectors)?;
        check_finite("probe", &video.probe)?; // JSON would hold null, and the record could not be read again
        if let Some(span) = spans.iter().find(|span| span.end_ms < span.start_ms) {
            return argument("span", "an end not before its start", format!("{} to {} ms", span.start_ms, span.end_ms));
        }
        let Ok(rows) = u32::try_from(spans.len()) else {
            return argument("spans", "fewer than 2^32", spans.len().to_string());
        };
        video.rows = rows;
        let number = self.next_video;
        let document = self.text.document(&video, VideoNumber(number))?;
        self.remove(&video.id)?;
        self.inner.add_document(document).map_err(|error| self.fail(error))?;
        self.next_video += 1;
        let spans = spans.iter().flat_map(|span| [span.start_ms, span.end_ms, span.at_ms]).collect();
        let (vectors, sketches) = (Packed::new(vectors, dim), sketches.to_vec());
        self.pending.insert(number, Pending { spans, vectors, sketches });
        self.pending_ids.insert(video.id, number);
        Ok(())
    }

    /// Removes the video with this id; whether there was one.
    pub fn remove(&mut self, id: &str) -> Result<bool> {
        self.check_usable()?;
        let pending = self.pending_ids.remove(id);
        if let Some(number) = pending {
            self.pending.remove(&number);
        }
        let committed = match pending {
            Some(_) => None, // a committed one was killed when the pending one was put
            None => self.committed.number_of(id)?.filter(|number| self.dead.insert(number.0)),
        };
        let found = pending.is_some() || committed.is_some();
        if found {
            self.inner.delete_term(self.text.id_term(id));
        }
        Ok(found)
    }

    /// Sets an opaque JSON value that the next commit publishes.
    pub fn set_state(&mut self, json: serde_json::Value) {
        self.state = Some(json);
    }

    /// The committed videos by ascending number.
    pub fn videos(&self) -> Result<Vec<Video>> {
        self.committed.videos()
    }

    /// Makes everything since the last commit visible and durable, all of it or nothing.
    ///
    /// # Errors
    ///
    /// After an error this writer is spent: drop it and open another. The index is the last commit.
    pub fn commit(&mut self) -> Result<()> {
        self.check_usable()?;
        if self.pending_is_empty() {
            return Ok(());
        }
        self.commit_merging(Vec::new())
    }

    /// Commits, then writes all segments as one without dead rows, and merges the text index.
    ///
    /// # Errors
    ///
    /// As [`Writer::commit`]. Damaged segments are found here too: their checksum is compared.
    pub fn compact(&mut self) -> Result<()> {
        self.commit()?;
        let manifest = &self.committed.manifest;
        if manifest.segments.len() > 1 || !manifest.tombstones.is_empty() {
            let all = manifest.segments.iter().map(|segment| segment.name.clone()).collect();
            self.commit_merging(all)?;
        }
        let ids = self.text.index.searchable_segment_ids().map_err(Error::text(&self.text.path))?;
        if ids.len() > 1 {
            // A merge of tantivy's own policy may have taken a segment first; then theirs is enough.
            let _ = self.inner.merge(&ids).wait();
        }
        self.inner.garbage_collect_files().wait().map_err(Error::text(&self.text.path))?;
        self.committed = Searcher::open(&self.dir, &self.text)?;
        Ok(())
    }

    /// Waits for merges of the text index and gives the lock back. Uncommitted changes are lost.
    pub fn close(self) -> Result<()> {
        let path = self.text.path.clone();
        self.inner.wait_merging_threads().map_err(Error::text(&path))
    }

    fn pending_is_empty(&self) -> bool {
        self.pending.is_empty()
            && self.dead.is_empty()
            && self.state.is_none()
            && self.next_video == self.committed.manifest.next_video
    }

    fn fail(&mut self, error: TantivyError) -> Error {
        self.failed = true;
        Error::text(&self.text.path)(error)
    }

    /// A commit that also merges the named segments, besides those that the rule names.
    fn commit_merging(&mut self, merge: Vec<String>) -> Result<()> {
        self.failed = true; // until the end is reached
        let manifest = self.next_manifest(merge)?;
        publish(&mut self.inner, &manifest, &self.text)?;
        let before = std::mem::replace(&mut self.committed, Searcher::open(&self.dir, &self.text)?);
        self.pending.clear();
        self.pending_ids.clear();
        self.dead.clear();
        self.state = None;
        for old in &before.manifest.segments {
            if !manifest.segments.iter().any(|segment| segment.name == old.name) {
                // Mapped files cannot be removed on some systems: the next writer tries again.
                old.names().for_each(|name| drop(fs::remove_file(self.dir.join(SEGMENTS).join(name))));
            }
        }
        self.failed = false;
        Ok(())
    }

    fn next_manifest(&mut self, merge: Vec<String>) -> Result<Manifest> {
        // What cannot be found because a file was cut short must not be taken for gone.
        self.committed.check_files()?;
        let mut next = self.committed.manifest.clone();
        next.commit += 1;
        if let Some(state) = &self.state {
            next.state = Some(state.clone());
        }
        for number in &self.dead {
            if let Some((i, _)) = self.committed.place(VideoNumber(*number)) {
                next.tombstones.entry(next.segments[i].name.clone()).or_default().push(*number);
            }
        }
        next.tombstones.values_mut().for_each(|dead| dead.sort_unstable());
        let all_dead = |segment: &SegmentMeta| next.dead(&segment.name).len() == segment.videos as usize;
        next.segments = next.segments.iter().filter(|segment| !all_dead(segment)).cloned().collect();
        if !self.pending.is_empty() {
            next.segments.push(self.write_pending(&next.settings)?);
            self.next_segment += 1;
        }
        let names = self.to_merge(&next, merge);
        if !names.is_empty() {
            self.merge(&mut next, &names)?;
        }
        self.build_graphs(&mut next)?;
        let live: HashSet<_> = next.segments.iter().map(|segment| segment.name.as_str()).collect();
        next.tombstones.retain(|name, dead| live.contains(name.as_str()) && !dead.is_empty());
        next.written_by.insert(text::version());
        next.next_video = self.next_video;
        next.next_segment = self.next_segment;
        Ok(next)
    }

    fn write_pending(&self, settings: &Settings) -> Result<SegmentMeta> {
        let halved: Vec<Packed> = match settings.precision {
            Precision::Full => Vec::new(),
            Precision::Half => self.pending.values().map(|video| video.vectors.halved()).collect(),
        };
        let parts: Vec<Part<'_>> = (self.pending.iter().enumerate())
            .map(|(i, (number, video))| {
                let vectors = halved.get(i).unwrap_or(&video.vectors).view();
                Part { number: *number, spans: &video.spans, vectors, sketches: &video.sketches }
            })
            .collect();
        let name = manifest::segment_name(self.next_segment);
        let mut meta = segment::write(&self.dir.join(SEGMENTS), &name, settings, &parts)?;
        if settings.precision == Precision::Half {
            let pairs: Vec<_> = self
                .pending
                .values()
                .map(|video| video.vectors.view())
                .zip(parts.iter().map(|part| part.vectors))
                .collect();
            meta.rounding = Some(rounding::measure(&pairs));
        }
        Ok(meta)
    }

    /// Gives a graph to every segment that is large enough for one.
    fn build_graphs(&self, next: &mut Manifest) -> Result<()> {
        let (folder, settings) = (self.dir.join(SEGMENTS), &next.settings);
        for meta in &mut next.segments {
            if meta.graph.is_none() && (settings.hnsw.min_rows.max(1)..MAX_ROWS).contains(&meta.rows) {
                manifest::check_builder(settings)?;
                let segment = Segment::open(folder.join(&meta.name), settings, meta)?;
                let built = graph::build(segment.all_vectors().codes(), meta.rows, &settings.hnsw);
                segment.check_file()?;
                meta.graph = Some(graph::file::write(&folder, &manifest::graph_name(&meta.name), &built, meta.crc)?);
            }
        }
        Ok(())
    }

    /// The rule: more than [`MAX_SEGMENTS`], and the smallest become one, up to the first that is more than [`TIER`] times as large as all before
    /// it. So a search never walks more than a few; with commits of like size a row is written anew about as often as the binary logarithm of
    /// their number, on average.
    fn to_merge(&self, next: &Manifest, mut names: Vec<String>) -> Vec<String> {
        if names.is_empty() && next.segments.len() > MAX_SEGMENTS {
            let mut sorted: Vec<_> = next.segments.iter().collect();
            sorted.sort_by_key(|segment| segment.rows);
            let mut rows = 0;
            for segment in sorted {
                if names.len() >= 2 && u64::from(segment.rows) > TIER * rows {
                    break;
                }
                rows += u64::from(segment.rows);
                names.push(segment.name.clone());
            }
        }
        names
    }

    /// Writes the live rows of the named segments as one new segment.
    fn merge(&mut self, next: &mut Manifest, names: &[String]) -> Result<()> {
        let folder = self.dir.join(SEGMENTS);
        let (old, kept): (Vec<_>, Vec<_>) = next.segments.drain(..).partition(|segment| names.contains(&segment.name));
        next.segments = kept;
        let open = |meta: &SegmentMeta| Segment::open(folder.join(&meta.name), &next.settings, meta);
        let opened = old.iter().map(open).collect::<Result<Vec<_>>>()?;
        let mut parts = Vec::new();
        for (segment, meta) in opened.iter().zip(&old) {
            segment.verify()?; // a merge must not give damage a new checksum
            let dead = next.dead(&meta.name);
            for entry in segment.entries().filter(|entry| dead.binary_search(&entry.number).is_err()) {
                let Entry { number, first_row, rows } = entry;
                let spans = segment.span_words(first_row, rows);
                let (vectors, sketches) = (segment.vectors(first_row, rows), segment.sketches(first_row, rows));
                parts.push(Part { number, spans, vectors, sketches });
            }
        }
        parts.sort_unstable_by_key(|part| part.number);
        if !parts.is_empty() {
            let name = manifest::segment_name(self.next_segment);
            let mut merged = segment::write(&folder, &name, &next.settings, &parts)?;
            merged.rounding = old.iter().filter_map(|meta| meta.rounding).reduce(Rounding::plus);
            self.next_segment += 1;
            next.segments.push(merged);
        }
        // Nor what was read of a file that was cut short meanwhile.
        opened.iter().try_for_each(Segment::check_file)?;
        for meta in &old {
            next.tombstones.remove(&meta.name);
            if !self.committed.manifest.segments.iter().any(|segment| segment.name == meta.name) {
                let _ = fs::remove_file(folder.join(&meta.name)); // written by this very commit
            }
        }
        Ok(())
    }
}

/// Removes files that no commit names; the lock is held. Names we do not know are left alone.
fn remove_orphans(dir: &Path, manifest: &Manifest) -> Result<()> {
    let folder = dir.join(SEGMENTS);
    for entry in fs::read_dir(&folder).map_err(Error::io("list", &folder))? {
        let entry = entry.map_err(Error::io("list", &folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let finished = name.strip_suffix(".tmp").unwrap_or(&name);
        let named = manifest.segments.iter().flat_map(SegmentMeta::names).any(|known| known == name);
        if manifest::is_ours(finished) && !named {
            fs::remove_file(entry.path()).map_err(Error::io("remove", &entry.path()))?;
        }
    }
    // Temporary files of tantivy, which it forgets: `.tmp` and six letters.
    for entry in fs::read_dir(dir.join(TEXT)).map_err(Error::io("list", dir))?.flatten() {
        if entry.file_name().to_string_lossy().strip_prefix(".tmp").is_some_and(|rest| rest.len() == 6) {
            let _ = fs::remove_file(entry.path());
        }
    }
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // A creation that was cut short; none can succeed now that the index exists.
        if name.strip_prefix(TEXT_NEW).is_some_and(|id| id.parse::<u32>().is_ok()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}
