//! Reads and searches a snapshot of one commit.

use std::path::Path;
use std::time::Duration;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::manifest::{Manifest, RoundingRecall};
use crate::names::SEGMENTS_DIR;
use crate::nearest::{self, RowSelection};
use crate::scan::{RowRange, push_range};
use crate::segment::{SegmentFile, TableEntry};
use crate::text::{TextIndex, TextReader};
use crate::types::{Effort, Hit, IndexSettings, RowRef, SegmentCounts, Span, Video, VideoNumber, VideoSet};

/// The videos of a set are looked up one by one if the segment has at least this many times as many videos.
const SEEK: usize = 16;

/// Largest number of attempts to open a snapshot while commits replace files.
const ATTEMPTS: u32 = 100;

/// A snapshot of the index. Later commits do not change it and, on Unix, do not remove its files.
///
/// A search walks the graphs of large segments and scans the others. The scores of hits are always exact.
/// Threads can share a searcher, and the number of threads does not change its results.
pub struct Searcher {
    text: TextReader,
    pub(crate) manifest: Manifest,
    pub(crate) segments: Vec<SegmentFile>,
    /// The live rows.
    live: Vec<RowSelection>,
    rows: usize,
}

impl std::fmt::Debug for Searcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Searcher")
            .field("commit", &self.manifest.commit)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

impl Searcher {
    /// Opens the last commit, again if another commit replaces files meanwhile.
    pub(crate) fn open(dir: &Path, text: &TextIndex) -> Result<Searcher> {
        let mut attempt = 1;
        loop {
            let manifest = text.manifest()?;
            let commit = manifest.commit;
            let searcher = Searcher::assemble(dir, text, manifest);
            if text.manifest()?.commit == commit {
                return searcher;
            }
            if attempt == ATTEMPTS {
                return Err(Error::Busy { path: dir.to_owned(), attempts: ATTEMPTS });
            }
            std::thread::sleep(Duration::from_millis(u64::from(attempt)));
            attempt += 1;
        }
    }

    fn assemble(dir: &Path, text: &TextIndex, manifest: Manifest) -> Result<Searcher> {
        let text = text.reader()?;
        let folder = dir.join(SEGMENTS_DIR);
        let opened =
            manifest.segments.iter().map(|meta| SegmentFile::open(folder.join(&meta.name), &manifest.settings, meta));
        let segments = opened.collect::<Result<Vec<_>>>()?;
        let mut live = Vec::new();
        for (i, (segment, meta)) in (0..).zip(segments.iter().zip(&manifest.segments)) {
            let (mut ranges, mut next) = (Vec::new(), 0);
            // Tombstones ascend, and so do their rows. The rows between them are live.
            for entry in manifest.dead(&meta.name).iter().filter_map(|number| segment.find(*number)) {
                push_range(
                    &mut ranges,
                    RowRange { segment: i, first: next, rows: entry.first_row.saturating_sub(next) },
                );
                next = next.max(entry.first_row + entry.rows);
            }
            push_range(&mut ranges, RowRange { segment: i, first: next, rows: segment.rows() - next });
            live.extend(RowSelection::new(ranges));
        }
        let rows = live.iter().map(|selection| selection.rows).sum();
        Ok(Searcher { text, manifest, segments, live, rows })
    }

    /// The live rows of the videos in `set`.
    fn select(&self, set: &VideoSet) -> Vec<RowSelection> {
        let mut selections = Vec::new();
        for (i, (segment, meta)) in (0..).zip(self.segments.iter().zip(&self.manifest.segments)) {
            let dead = self.manifest.dead(&meta.name);
            let mut ranges = Vec::new();
            let mut add = |entry: TableEntry| {
                if dead.binary_search(&entry.number).is_err() {
                    push_range(&mut ranges, RowRange { segment: i, first: entry.first_row, rows: entry.rows });
                }
            };
            let Some((first, last)) = segment.numbers() else { continue };
            let among = set.between(VideoNumber(first), VideoNumber(last));
            if among.len() < segment.entries().len() / SEEK {
                among.iter().filter_map(|number| segment.find(number.0)).for_each(&mut add);
            } else {
                let mut among = among.iter().peekable();
                for entry in segment.entries() {
                    while among.next_if(|number| number.0 < entry.number).is_some() {}
                    if among.peek().is_some_and(|number| number.0 == entry.number) {
                        add(entry);
                    }
                }
            }
            selections.extend(RowSelection::new(ranges));
        }
        selections
    }

    /// Number of live rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The settings from the creation of the index.
    pub fn settings(&self) -> &IndexSettings {
        &self.manifest.settings
    }

    /// The last value that [`Writer::set_state`](crate::Writer::set_state) published.
    pub fn state(&self) -> Option<&serde_json::Value> {
        self.manifest.state.as_ref()
    }

    /// All live videos, by ascending number.
    ///
    /// # Errors
    ///
    /// [`Error::Text`] or [`Error::Damaged`] for a damaged text index.
    pub fn videos(&self) -> Result<Vec<Video>> {
        Ok(self.text.videos()?.into_iter().map(|(_, video)| video).collect())
    }

    pub(crate) fn numbered_videos(&self) -> Result<Vec<(VideoNumber, Video)>> {
        self.text.videos()
    }

    /// The metadata of a live video.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownVideo`] for any other number; [`Error::Text`] or [`Error::Damaged`] for a damaged text
    /// index.
    pub fn video(&self, number: VideoNumber) -> Result<Video> {
        self.text.video(number)
    }

    /// Numbers of the live videos, in ascending order.
    pub fn video_numbers(&self) -> Vec<VideoNumber> {
        let mut numbers = Vec::new();
        for (segment, meta) in self.segments.iter().zip(&self.manifest.segments) {
            let dead = self.manifest.dead(&meta.name);
            let live = segment.entries().filter(|entry| dead.binary_search(&entry.number).is_err());
            numbers.extend(live.map(|entry| VideoNumber(entry.number)));
        }
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// The number of the live video with this id; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Text`] or [`Error::Damaged`] for a damaged text index.
    pub fn number_of(&self, id: &str) -> Result<Option<VideoNumber>> {
        self.text.number_of(id)
    }

    /// The videos that a filter matches; a blank filter matches all.
    ///
    /// # Errors
    ///
    /// [`Error::Filter`] for a filter that does not parse. Its message contains
    /// [`FILTER_SYNTAX`](crate::FILTER_SYNTAX).
    pub fn filter(&self, query: &str) -> Result<VideoSet> {
        self.text.filter(query)
    }

    /// The segment and the rows of a live video.
    pub(crate) fn locate(&self, number: VideoNumber) -> Option<(usize, TableEntry)> {
        let mut segments = self.segments.iter().zip(&self.manifest.segments).enumerate();
        segments.find_map(|(i, (segment, meta))| {
            let entry = segment.find(number.0)?;
            self.manifest.dead(&meta.name).binary_search(&number.0).is_err().then_some((i, entry))
        })
    }

    /// Reads from a located video, then checks that no file was truncated.
    fn read<T>(
        &self,
        located: Option<(usize, TableEntry)>,
        read: impl FnOnce(&SegmentFile, TableEntry) -> T,
    ) -> Result<Option<T>> {
        let Some((i, entry)) = located else {
            self.check_files()?;
            return Ok(None);
        };
        let found = read(&self.segments[i], entry);
        self.segments[i].check_file()?;
        Ok(Some(found))
    }

    /// The spans and the vectors of a live video, row after row, at the index's
    /// [`RowPrecision`](crate::RowPrecision); `None` for any other number.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] if a file was truncated since it was opened.
    pub fn rows_of(&self, number: VideoNumber) -> Result<Option<(Vec<Span>, Vec<f32>)>> {
        self.read(self.locate(number), |segment, TableEntry { first_row, rows, .. }| {
            (segment.spans(first_row, rows).collect(), segment.vectors(first_row, rows).to_vec())
        })
    }

    /// The sketches of the rows of a live video, [`IndexSettings::sketch`] bytes each, in the order of
    /// [`Searcher::rows_of`]; `None` for any other number.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] if a file was truncated since it was opened.
    pub fn sketches_of(&self, number: VideoNumber) -> Result<Option<Vec<u8>>> {
        self.read(self.locate(number), |segment, entry| segment.sketches(entry.first_row, entry.rows).to_vec())
    }

    /// The sketch of a hit of this snapshot; `None` for any other hit.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] if a file was truncated since it was opened.
    pub fn sketch_of(&self, hit: &Hit) -> Result<Option<Vec<u8>>> {
        let located = self.locate(hit.video).filter(|(_, entry)| hit.nth < entry.rows);
        self.read(located, |segment, entry| segment.sketches(entry.first_row + hit.nth, 1).to_vec())
    }

    /// The `k` live rows with the highest dot product, best first, ties by row, among the videos of `filter`
    /// if there is one. Returns fewer than `k` only if there are fewer.
    ///
    /// The result is exact with [`Effort::Exact`], and where a scan is as fast as a walk. Otherwise some of
    /// the best rows can be missing; [`Searcher::ann_recall`] measures how many.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] or [`Error::NotFinite`] for a query that is not `dim` finite values;
    /// [`Error::Damaged`] if a file was truncated since it was opened.
    pub fn search(&self, query: &[f32], k: usize, filter: Option<&VideoSet>, effort: Effort) -> Result<Vec<Hit>> {
        self.check(query)?;
        match filter {
            None => self.nearest(query, k, &self.live, effort),
            Some(set) => self.nearest(query, k, &self.select(set), effort),
        }
    }

    /// [`Searcher::search`] for a valid query.
    fn nearest(&self, query: &[f32], k: usize, selections: &[RowSelection], effort: Effort) -> Result<Vec<Hit>> {
        let mut lost = false;
        let mut hits = nearest::top(&self.segments, selections, query, k, effort.ef(), |found| {
            let segment = &self.segments[found.row.segment as usize];
            let span = segment.spans(found.row.row, 1).next().unwrap_or_default();
            let entry = segment.entry_of(found.row.row);
            lost |= entry.is_none();
            let (video, first) = entry.map_or((0, 0), |entry| (entry.number, entry.first_row));
            let nth = found.row.row - first;
            Hit { row: found.row, video: VideoNumber(video), nth, span, score: found.score }
        });
        self.check_files()?;
        if lost {
            // A damaged table has no video for the row.
            hits.retain(|hit| hit.video.0 > 0);
        }
        Ok(hits)
    }

    /// Returns an error if a file was truncated since it was opened: then zeros may have been read.
    pub(crate) fn check_files(&self) -> Result<()> {
        self.segments.iter().try_for_each(SegmentFile::check_file)
    }

    /// [`Searcher::search`] for many queries of `dim` values each, on all threads of rayon.
    ///
    /// # Errors
    ///
    /// As [`Searcher::search`]; also [`Error::Length`] if the last query is incomplete.
    pub fn search_batch(
        &self,
        queries: &[f32],
        k: usize,
        filter: Option<&VideoSet>,
        effort: Effort,
    ) -> Result<Vec<Vec<Hit>>> {
        let selected = filter.map(|set| self.select(set));
        let selections = selected.as_deref().unwrap_or(&self.live);
        let answers = queries.par_chunks(self.manifest.settings.dim).map(|query| {
            self.check(query)?;
            self.nearest(query, k, selections, effort)
        });
        answers.collect()
    }

    /// ann_recall@k for each of `efforts`: the fraction of the exact `k` best rows that the search finds.
    /// About `sample` rows of the index, evenly spaced, are the queries; a query does not count itself as a
    /// result. 1 for an empty index.
    ///
    /// Queries from elsewhere are somewhat harder, because the graph was not built with them.
    ///
    /// # Errors
    ///
    /// As [`Searcher::search`].
    pub fn ann_recall(&self, sample: usize, k: usize, efforts: &[Effort]) -> Result<Vec<f64>> {
        let step = self.rows.div_ceil(sample.max(1)).max(1);
        let (mut queries, mut own) = (Vec::new(), Vec::new());
        let mut before = 0usize;
        for range in self.live.iter().flat_map(|selection| &selection.ranges) {
            let first = before.next_multiple_of(step) - before;
            for row in (first..range.rows as usize).step_by(step).map(|i| range.first + i as u32) {
                queries.extend(self.segments[range.segment as usize].vectors(row, 1).to_vec());
                own.push(RowRef { segment: range.segment, row });
            }
            before += range.rows as usize;
        }
        // One more, for the query row itself.
        let search = |effort| self.search_batch(&queries, k.saturating_add(1), None, effort);
        let exact = search(Effort::Exact)?;
        let mut recalls = Vec::with_capacity(efforts.len());
        for effort in efforts {
            let (mut hits, mut all) = (0, 0);
            for ((own, found), exact) in own.iter().zip(search(*effort)?).zip(&exact) {
                let others = exact.iter().filter(|hit| hit.row != *own).take(k);
                // Any row with the score of the last one is as good: rows of still pictures are equal.
                let (expected, least) = others.fold((0, f32::INFINITY), |(n, _), hit| (n + 1, hit.score));
                all += expected;
                hits += found.iter().filter(|hit| hit.row != *own && hit.score >= least).count().min(expected);
            }
            recalls.push(if all == 0 { 1.0 } else { hits as f64 / all as f64 });
        }
        Ok(recalls)
    }

    /// Loss of rounding to half precision: recall@10 of the rounded rows against the original ones. Each
    /// commit measures it among its own rows, at most 16,384 of them; this is the average. Among all rows of
    /// an index neighbours are closer, and the loss is somewhat larger. `None` at full precision, and if no
    /// commit had enough rows.
    pub fn rounding_recall(&self) -> Option<f64> {
        let measured = self.manifest.segments.iter().filter_map(|segment| segment.rounding);
        let sum = measured.reduce(RoundingRecall::plus)?;
        (sum.of > 0).then(|| sum.found as f64 / sum.of as f64)
    }

    /// Fraction of dead rows among the rows of the segments. [`Writer::compact`](crate::Writer::compact)
    /// removes them.
    pub fn deleted_share(&self) -> f64 {
        let all: u64 = self.segments.iter().map(|segment| u64::from(segment.rows())).sum();
        if all == 0 { 0.0 } else { 1.0 - self.rows as f64 / all as f64 }
    }

    /// Number of segments and graphs.
    pub fn segment_counts(&self) -> SegmentCounts {
        let graphs = self.segments.iter().filter(|segment| segment.graph.is_some()).count();
        SegmentCounts { segments: self.segments.len(), graphs }
    }

    /// Size of the segment and graph files in bytes. They are mapped: the system keeps the parts in use in
    /// memory.
    pub fn mapped_bytes(&self) -> u64 {
        self.segments.iter().map(SegmentFile::bytes).sum()
    }

    fn check(&self, query: &[f32]) -> Result<()> {
        let dim = self.manifest.settings.dim;
        if query.len() != dim {
            return Err(Error::Length { what: "query", expected: dim, found: query.len() });
        }
        check_finite("query", query)
    }
}

pub(crate) fn check_finite(what: &'static str, values: &[f32]) -> Result<()> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(position) => Err(Error::NotFinite { what, position, found: values[position] }),
        None => Ok(()),
    }
}
