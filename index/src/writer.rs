//! Writes an index: gathers videos in memory, writes them as one segment, and publishes that with a commit.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use tantivy::TantivyError;

use crate::error::{Error, Result};
use crate::graph::{self, MAX_ROWS};
use crate::manifest::{self, Manifest, RoundingRecall, SegmentMeta};
use crate::names::{self, SEGMENTS_DIR, TEXT_DIR};
use crate::packed::PackedRows;
use crate::rounding;
use crate::searcher::{Searcher, check_finite};
use crate::segment::{self, SegmentFile, SegmentVideo, TableEntry};
use crate::text::{self, TextIndex};
use crate::types::{IndexSettings, RowPrecision, Span, Video, VideoNumber};

/// If a commit would publish more segments than this, it merges the smallest.
const MAX_SEGMENTS: usize = 8;
/// A merge stops before a segment with more than this many times the rows of all smaller ones.
const TIER: u64 = 3;
/// Largest size of an id. It is a term of the text index, which bounds the size of terms.
const MAX_ID_BYTES: usize = 4096;
/// Memory of tantivy's writer in bytes.
const TEXT_MEMORY_BYTES: usize = 20_000_000;

/// Changes an index. At most one writer is open at a time. Dropping it discards the changes since the last
/// [`Writer::commit`] and nothing else.
pub struct Writer {
    dir: PathBuf,
    text: TextIndex,
    inner: tantivy::IndexWriter,
    /// The last commit.
    committed: Searcher,
    /// Never decreases, so that this writer never reuses a name.
    next_video: u64,
    next_segment: u64,
    state: Option<serde_json::Value>,
    pending: BTreeMap<u64, PendingVideo>,
    pending_ids: HashMap<String, u64>,
    /// Committed videos that the next commit marks as dead.
    dead: HashSet<u64>,
    failed: bool,
}

struct PendingVideo {
    /// `start_ms`, `end_ms`, `at_ms` of each row.
    spans: Vec<u32>,
    /// At full precision.
    vectors: PackedRows,
    sketches: Vec<u8>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("dir", &self.dir).field("pending", &self.pending.len()).finish_non_exhaustive()
    }
}

/// Opens tantivy's writer, which holds the lock of the index.
pub(crate) fn text_writer(text: &TextIndex, dir: &Path) -> Result<tantivy::IndexWriter> {
    text.index.writer_with_num_threads(1, TEXT_MEMORY_BYTES).map_err(|error| match error {
        TantivyError::LockFailure(..) => Error::Locked { path: dir.to_owned() },
        error => Error::text(&text.path)(error),
    })
}

/// Commits: the text index and the manifest become visible together.
pub(crate) fn publish(writer: &mut tantivy::IndexWriter, manifest: &Manifest, text: &TextIndex) -> Result<()> {
    let payload = serde_json::to_string(manifest).map_err(|error| Error::Argument {
        what: "manifest",
        expected: "values that JSON can hold",
        found: error.to_string(),
    })?;
    let mut commit = writer.prepare_commit().map_err(|error| text.write_error(error))?;
    commit.set_payload(&payload);
    commit.commit().map_err(|error| text.write_error(error))?;
    Ok(())
}

impl Writer {
    pub(crate) fn open(dir: &Path, text: &TextIndex) -> Result<Writer> {
        let inner = text_writer(text, dir)?;
        let committed = Searcher::open(dir, text)?;
        let manifest = &committed.manifest;
        remove_orphans(dir, manifest)?;
        // Also in the text index: files of a killed writer would collide with new files of the same name.
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
        // The manifest must name this version of tantivy before it writes any file, also in a merge.
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

    /// Adds a video with its rows and replaces any video with the same id. A video can have no rows.
    ///
    /// `vectors` has `dim` values for each span, row after row, normally of unit norm. `sketches` has
    /// [`IndexSettings::sketch`] bytes for each span, row after row.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] or [`Error::NotFinite`] for vectors and sketches; [`Error::Argument`] for an id that
    /// is empty or too long, or a span that ends before it starts. None of these changes anything.
    pub fn put(&mut self, mut video: Video, spans: &[Span], vectors: &[f32], sketches: &[u8]) -> Result<()> {
        self.check_usable()?;
        let argument = |what, expected, found: String| Err(Error::Argument { what, expected, found });
        if video.id.is_empty() || video.id.len() > MAX_ID_BYTES {
            return argument("video id", "1 to 4096 bytes", format!("{} bytes", video.id.len()));
        }
        let IndexSettings { dim, sketch, .. } = *self.committed.settings();
        for (what, each, found) in [("vectors", dim, vectors.len()), ("sketches", sketch as usize, sketches.len())] {
            if spans.len().checked_mul(each) != Some(found) {
                return Err(Error::Length { what, expected: spans.len().saturating_mul(each), found });
            }
        }
        check_finite("vectors", vectors)?;
        check_finite("probe", &video.probe)?; // JSON would store null, which does not parse as a number
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
        let (vectors, sketches) = (PackedRows::new(vectors, dim), sketches.to_vec());
        self.pending.insert(number, PendingVideo { spans, vectors, sketches });
        self.pending_ids.insert(video.id, number);
        Ok(())
    }

    /// Removes the video with this id. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// [`Error::WriterFailed`], or [`Error::Text`] for a damaged text index.
    pub fn remove(&mut self, id: &str) -> Result<bool> {
        self.check_usable()?;
        let pending = self.pending_ids.remove(id);
        if let Some(number) = pending {
            self.pending.remove(&number);
        }
        let committed = match pending {
            Some(_) => None, // the pending video has already replaced a committed one
            None => self.committed.number_of(id)?.filter(|number| self.dead.insert(number.0)),
        };
        let found = pending.is_some() || committed.is_some();
        if found {
            self.inner.delete_term(self.text.id_term(id));
        }
        Ok(found)
    }

    /// Sets an opaque JSON value of the caller, which the next commit publishes.
    pub fn set_state(&mut self, json: serde_json::Value) {
        self.state = Some(json);
    }

    /// Publishes all changes since the last commit, durably, as a whole or not at all.
    ///
    /// # Errors
    ///
    /// Any error leaves the last commit in place. All later calls of this writer return
    /// [`Error::WriterFailed`].
    pub fn commit(&mut self) -> Result<()> {
        self.check_usable()?;
        if self.pending_is_empty() {
            return Ok(());
        }
        self.commit_merging(Vec::new())
    }

    /// Commits, then merges all segments into one without dead rows, and merges the text index.
    ///
    /// # Errors
    ///
    /// As [`Writer::commit`]; also [`Error::Damaged`], because a merge compares the checksums of its
    /// segments.
    pub fn compact(&mut self) -> Result<()> {
        self.commit()?;
        let manifest = &self.committed.manifest;
        if manifest.segments.len() > 1 || !manifest.tombstones.is_empty() {
            let all = manifest.segments.iter().map(|segment| segment.name.clone()).collect();
            self.commit_merging(all)?;
        }
        let ids = self.text.index.searchable_segment_ids().map_err(Error::text(&self.text.path))?;
        if ids.len() > 1 {
            // Fails if tantivy's own policy has just started to merge one of the segments, which is enough
            // too.
            let _ = self.inner.merge(&ids).wait();
        }
        self.inner.garbage_collect_files().wait().map_err(Error::text(&self.text.path))?;
        self.committed = Searcher::open(&self.dir, &self.text)?;
        Ok(())
    }

    /// Waits for merges of the text index and releases the lock. Discards uncommitted changes.
    ///
    /// # Errors
    ///
    /// [`Error::Text`] if a merge failed.
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
        self.text.write_error(error)
    }

    /// Commits. Merges the segments in `merge`, or those that [`Writer::to_merge`] selects if it is empty.
    fn commit_merging(&mut self, merge: Vec<String>) -> Result<()> {
        self.failed = true; // reset at the end
        let manifest = self.next_manifest(merge)?;
        publish(&mut self.inner, &manifest, &self.text)?;
        let before = std::mem::replace(&mut self.committed, Searcher::open(&self.dir, &self.text)?);
        self.pending.clear();
        self.pending_ids.clear();
        self.dead.clear();
        self.state = None;
        for old in &before.manifest.segments {
            if !manifest.segments.iter().any(|segment| segment.name == old.name) {
                // Windows does not remove mapped files. The next writer tries again.
                old.names().for_each(|name| drop(fs::remove_file(self.dir.join(SEGMENTS_DIR).join(name))));
            }
        }
        self.failed = false;
        Ok(())
    }

    fn next_manifest(&mut self, merge: Vec<String>) -> Result<Manifest> {
        // A lookup in a truncated file finds nothing, which must not count as a removed video.
        self.committed.check_files()?;
        let mut next = self.committed.manifest.clone();
        next.commit += 1;
        if let Some(state) = &self.state {
            next.state = Some(state.clone());
        }
        for number in &self.dead {
            if let Some((i, _)) = self.committed.locate(VideoNumber(*number)) {
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

    fn write_pending(&self, settings: &IndexSettings) -> Result<SegmentMeta> {
        let halved: Vec<PackedRows> = match settings.precision {
            RowPrecision::Full => Vec::new(),
            RowPrecision::Half => self.pending.values().map(|video| video.vectors.halved()).collect(),
        };
        let videos: Vec<SegmentVideo<'_>> = (self.pending.iter().enumerate())
            .map(|(i, (number, video))| {
                let vectors = halved.get(i).unwrap_or(&video.vectors).view();
                SegmentVideo { number: *number, spans: &video.spans, vectors, sketches: &video.sketches }
            })
            .collect();
        let name = names::segment_name(self.next_segment);
        let mut meta = segment::write(&self.dir.join(SEGMENTS_DIR), &name, settings, &videos)?;
        if settings.precision == RowPrecision::Half {
            let pairs: Vec<_> = self
                .pending
                .values()
                .map(|video| video.vectors.view())
                .zip(videos.iter().map(|video| video.vectors))
                .collect();
            meta.rounding = Some(rounding::measure(&pairs));
        }
        Ok(meta)
    }

    /// Builds a graph for every segment that is large enough and has none.
    fn build_graphs(&self, next: &mut Manifest) -> Result<()> {
        let (folder, settings) = (self.dir.join(SEGMENTS_DIR), &next.settings);
        for meta in &mut next.segments {
            if meta.graph.is_none() && (settings.hnsw.min_rows.max(1)..MAX_ROWS).contains(&meta.rows) {
                manifest::check_builder(settings)?;
                let segment = SegmentFile::open(folder.join(&meta.name), settings, meta)?;
                let built = graph::build(segment.all_vectors().codes(), meta.rows, &settings.hnsw);
                segment.check_file()?;
                meta.graph = Some(graph::file::write(&folder, &names::graph_name(&meta.name), &built, meta.crc)?);
            }
        }
        Ok(())
    }

    /// Names of the segments to merge: `names`, or by the merge policy if that is empty. With more than
    /// [`MAX_SEGMENTS`] segments the policy selects the smallest, up to the first that is more than [`TIER`]
    /// times as large as all before it. This bounds the graphs that a search walks. With n commits of similar
    /// size, a row is written about log2(n) times on average.
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

    /// Writes the live rows of the named segments as one new segment, and replaces them in `next`.
    fn merge(&mut self, next: &mut Manifest, names: &[String]) -> Result<()> {
        let folder = self.dir.join(SEGMENTS_DIR);
        let (old, kept): (Vec<_>, Vec<_>) = next.segments.drain(..).partition(|segment| names.contains(&segment.name));
        next.segments = kept;
        let open = |meta: &SegmentMeta| SegmentFile::open(folder.join(&meta.name), &next.settings, meta);
        let opened = old.iter().map(open).collect::<Result<Vec<_>>>()?;
        let mut videos = Vec::new();
        for (segment, meta) in opened.iter().zip(&old) {
            segment.verify()?; // the new checksum must not cover damaged rows
            let dead = next.dead(&meta.name);
            for entry in segment.entries().filter(|entry| dead.binary_search(&entry.number).is_err()) {
                let TableEntry { number, first_row, rows } = entry;
                let spans = segment.span_words(first_row, rows);
                let (vectors, sketches) = (segment.vectors(first_row, rows), segment.sketches(first_row, rows));
                videos.push(SegmentVideo { number, spans, vectors, sketches });
            }
        }
        videos.sort_unstable_by_key(|video| video.number);
        if !videos.is_empty() {
            let name = names::segment_name(self.next_segment);
            let mut merged = segment::write(&folder, &name, &next.settings, &videos)?;
            merged.rounding = old.iter().filter_map(|meta| meta.rounding).reduce(RoundingRecall::plus);
            self.next_segment += 1;
            next.segments.push(merged);
        }
        // Nor rows that were read from a file truncated meanwhile.
        opened.iter().try_for_each(SegmentFile::check_file)?;
        for meta in &old {
            next.tombstones.remove(&meta.name);
            if !self.committed.manifest.segments.iter().any(|segment| segment.name == meta.name) {
                let _ = fs::remove_file(folder.join(&meta.name)); // written by this commit
            }
        }
        Ok(())
    }
}

/// Removes files that the commit does not name. The caller holds the lock. Files with other names stay.
fn remove_orphans(dir: &Path, manifest: &Manifest) -> Result<()> {
    let folder = dir.join(SEGMENTS_DIR);
    for entry in fs::read_dir(&folder).map_err(Error::io("list", &folder))? {
        let entry = entry.map_err(Error::io("list", &folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let named = manifest.segments.iter().flat_map(SegmentMeta::names).any(|known| known == name);
        if names::is_segment_or_graph(&name) && !named {
            match fs::remove_file(entry.path()) {
                Err(error) if cfg!(unix) => return Err(Error::io("remove", &entry.path())(error)),
                _ => {} // Windows does not remove files that a searcher has mapped
            }
        }
    }
    // tantivy does not remove its temporary files after a crash.
    for entry in fs::read_dir(dir.join(TEXT_DIR)).map_err(Error::io("list", dir))?.flatten() {
        if names::is_tantivy_temporary(&entry.file_name().to_string_lossy()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))?.flatten() {
        // From an interrupted creation. None can succeed now that the index exists.
        let name = entry.file_name().to_string_lossy().into_owned();
        if names::is_new_text_dir(&name) {
            let _ = fs::remove_dir_all(entry.path());
        } else if name == names::CREATION_LOCK {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}
