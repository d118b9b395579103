//! Reading: a snapshot of one commit.

use std::path::Path;
use std::time::Duration;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::index::SEGMENTS;
use crate::manifest::{Manifest, Rounding};
use crate::nearest::{self, Part};
use crate::scan::{self, Run, push_run};
use crate::segment::{Entry, Segment};
use crate::simd;
use crate::text::{Text, TextReader};
use crate::types::{Effort, Hit, RowRef, Settings, Span, Video, VideoNumber, VideoSet};

/// Among so many times more videos, those of a set are looked up one by one.
const SEEK: usize = 16;

/// Attempts to open a snapshot while commits swap files below it.
const ATTEMPTS: u32 = 100;

/// A snapshot of the index: later commits do not change it, nor take its files away (on Unix).
///
/// A search walks the graphs of large segments and scans the others; what a walk finds is scored exactly. It can be shared
/// between threads, and its answers do not depend on them.
pub struct Searcher {
    text: TextReader,
    pub(crate) manifest: Manifest,
    pub(crate) segments: Vec<Segment>,
    /// The live rows.
    live: Vec<Part>,
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
    /// Opens the last commit. A commit may swap files between two of our reads: then try again.
    pub(crate) fn open(dir: &Path, text: &Text) -> Result<Searcher> {
        let mut attempt = 1;
        loop {
            let manifest = text.manifest()?;
            let commit = manifest.commit;
            let searcher = Searcher::assemble(dir, text, manifest);
            if text.manifest()?.commit == commit {
                return searcher;
            }
            if attempt == ATTEMPTS {
                return Err(Error::Busy { path: dir.to_owned() });
            }
            std::thread::sleep(Duration::from_millis(u64::from(attempt)));
            attempt += 1;
        }
    }

    fn assemble(dir: &Path, text: &Text, manifest: Manifest) -> Result<Searcher> {
        let text = text.reader()?;
        let folder = dir.join(SEGMENTS);
        let opened =
            manifest.segments.iter().map(|meta| Segment::open(folder.join(&meta.name), &manifest.settings, meta));
        let segments = opened.collect::<Result<Vec<_>>>()?;
        let mut live = Vec::new();
        for (i, (segment, meta)) in (0..).zip(segments.iter().zip(&manifest.segments)) {
            let (mut runs, mut next) = (Vec::new(), 0);
            // Tombstones ascend, and rows with them: what lies between is live.
            for entry in manifest.dead(&meta.name).iter().filter_map(|number| segment.find(*number)) {
                push_run(&mut runs, Run { segment: i, first: next, rows: entry.first_row.saturating_sub(next) });
                next = next.max(entry.first_row + entry.rows);
            }
            push_run(&mut runs, Run { segment: i, first: next, rows: segment.rows() - next });
            live.extend(Part::new(runs));
        }
        let rows = live.iter().map(|part| part.rows).sum();
        Ok(Searcher { text, manifest, segments, live, rows })
    }

    /// The live rows of the videos in `set`.
    fn select(&self, set: &VideoSet) -> Vec<Part> {
        let mut parts = Vec::new();
        for (i, (segment, meta)) in (0..).zip(self.segments.iter().zip(&self.manifest.segments)) {
            let dead = self.manifest.dead(&meta.name);
            let mut runs = Vec::new();
            let mut add = |entry: Entry| {
                if dead.binary_search(&entry.number).is_err() {
                    push_run(&mut runs, Run { segment: i, first: entry.first_row, rows: entry.rows });
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
            parts.extend(Part::new(runs));
        }
        parts
    }

    /// Live rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The settings recorded at creation.
    pub fn settings(&self) -> &Settings {
        &self.manifest.settings
    }

    /// What [`Writer::set_state`](crate::Writer::set_state) published.
    pub fn state(&self) -> Option<&serde_json::Value> {
        self.manifest.state.as_ref()
    }

    /// All live videos by ascending number.
    pub fn videos(&self) -> Result<Vec<Video>> {
        Ok(self.text.videos()?.into_iter().map(|(_, video)| video).collect())
    }

    pub(crate) fn numbered_videos(&self) -> Result<Vec<(VideoNumber, Video)>> {
        self.text.videos()
    }

    /// The metadata of a live video.
    pub fn video(&self, number: VideoNumber) -> Result<Video> {
        self.text.video(number)
    }

    /// Numbers of live videos, ascending.
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

    /// The number of the live video with this id.
    pub fn number_of(&self, id: &str) -> Result<Option<VideoNumber>> {
        self.text.number_of(id)
    }

    /// The videos that a filter matches; a blank filter matches all.
    ///
    /// # Errors
    ///
    /// [`Error::Filter`], whose text lists the fields and the syntax.
    pub fn filter(&self, query: &str) -> Result<VideoSet> {
        self.text.filter(query)
    }

    /// Where a live video's rows lie.
    pub(crate) fn place(&self, number: VideoNumber) -> Option<(usize, Entry)> {
        let mut segments = self.segments.iter().zip(&self.manifest.segments).enumerate();
        segments.find_map(|(i, (segment, meta))| {
            let entry = segment.find(number.0)?;
            self.manifest.dead(&meta.name).binary_search(&number.0).is_err().then_some((i, entry))
        })
    }

    /// The spans and the vectors (row after row, as the index's [`Precision`](crate::Precision) keeps them) of a live video; `None` for any other
    /// number.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a file was cut short since it was opened.
    pub fn rows_of(&self, number: VideoNumber) -> Result<Option<(Vec<Span>, Vec<f32>)>> {
        let Some((i, Entry { first_row, rows, .. })) = self.place(number) else {
            self.check_files()?;
            return Ok(None);
        };
        let segment = &self.segments[i];
        let found = (segment.spans(first_row, rows).collect(), segment.vectors(first_row, rows).to_vec());
        segment.check_file()?;
        Ok(Some(found))
    }

    /// The sketches of a live video's rows, [`Settings::sketch`] bytes each, in the order of [`Searcher::rows_of`]; `None` for any other number.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a file was cut short since it was opened.
    pub fn sketches_of(&self, number: VideoNumber) -> Result<Option<Vec<u8>>> {
        let Some((i, Entry { first_row, rows, .. })) = self.place(number) else {
            self.check_files()?;
            return Ok(None);
        };
        let segment = &self.segments[i];
        let found = segment.sketches(first_row, rows).to_vec();
        segment.check_file()?;
        Ok(Some(found))
    }

    /// The sketch of a row that this snapshot found; `None` for any other.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a file was cut short since it was opened.
    pub fn sketch_of(&self, hit: &Hit) -> Result<Option<Vec<u8>>> {
        let Some((i, entry)) = self.place(hit.video).filter(|(_, entry)| hit.nth < entry.rows) else {
            self.check_files()?;
            return Ok(None);
        };
        let segment = &self.segments[i];
        let found = segment.sketches(entry.first_row + hit.nth, 1).to_vec();
        segment.check_file()?;
        Ok(Some(found))
    }

    /// The `k` live rows with the highest dot product, best first, ties by row; only those of the
    /// videos in `filter`, if there is one. Fewer than `k` only if there are fewer.
    ///
    /// With [`Effort::Exact`], and wherever scanning is as fast as walking, these are the best there are; else some
    /// may be missed, as [`Searcher::ann_recall`] measures.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] or [`Error::NotFinite`] for a query that is not `dim` finite values; [`Error::Damaged`] if a file was
    /// cut short since it was opened.
    pub fn search(&self, query: &[f32], k: usize, filter: Option<&VideoSet>, effort: Effort) -> Result<Vec<Hit>> {
        self.check(query)?;
        match filter {
            None => self.nearest(query, k, &self.live, effort),
            Some(set) => self.nearest(query, k, &self.select(set), effort),
        }
    }

    /// The answer to a query that was checked.
    fn nearest(&self, query: &[f32], k: usize, parts: &[Part], effort: Effort) -> Result<Vec<Hit>> {
        let mut lost = false;
        let mut hits = nearest::top(&self.segments, parts, query, k, effort.ef(), |found| {
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
            // A damaged table names no video for the row.
            hits.retain(|hit| hit.video.0 > 0);
        }
        Ok(hits)
    }

    /// Whether the files are still whole: if one was cut short meanwhile, what was read beyond its end were zeros.
    pub(crate) fn check_files(&self) -> Result<()> {
        self.segments.iter().try_for_each(Segment::check_file)
    }

    /// [`Searcher::search`] for many queries, `dim` values each, on all of rayon's threads.
    ///
    /// # Errors
    ///
    /// As [`Searcher::search`]; [`Error::Length`] also if the last query is cut short.
    pub fn search_batch(
        &self,
        queries: &[f32],
        k: usize,
        filter: Option<&VideoSet>,
        effort: Effort,
    ) -> Result<Vec<Vec<Hit>>> {
        let selected = filter.map(|set| self.select(set));
        let parts = selected.as_deref().unwrap_or(&self.live);
        let answers = queries.par_chunks(self.manifest.settings.dim).map(|query| {
            self.check(query)?;
            self.nearest(query, k, parts, effort)
        });
        answers.collect()
    }

    /// recall@k of walks against the exact answer, for each of `efforts`: the share of the `k` best other rows that is found, over about `sample` of
    /// the index's own rows as queries, evenly spread. 1 if there is nothing to find. Foreign queries are somewhat harder: no walk
    /// towards them was ever made.
    pub fn ann_recall(&self, sample: usize, k: usize, efforts: &[Effort]) -> Result<Vec<f64>> {
        let step = self.rows.div_ceil(sample.max(1)).max(1);
        let (mut queries, mut own) = (Vec::new(), Vec::new());
        let mut before = 0usize;
        for run in self.live.iter().flat_map(|part| &part.runs) {
            let first = before.next_multiple_of(step) - before;
            for row in (first..run.rows as usize).step_by(step).map(|i| run.first + i as u32) {
                queries.extend(self.segments[run.segment as usize].vectors(row, 1).to_vec());
                own.push(RowRef { segment: run.segment, row });
            }
            before += run.rows as usize;
        }
        // One more than asked for: the row itself.
        let search = |effort| self.search_batch(&queries, k.saturating_add(1), None, effort);
        let exact = search(Effort::Exact)?;
        let mut recalls = Vec::with_capacity(efforts.len());
        for effort in efforts {
            let (mut hits, mut all) = (0, 0);
            for ((own, found), exact) in own.iter().zip(search(*effort)?).zip(&exact) {
                let others = exact.iter().filter(|hit| hit.row != *own).take(k);
                // Any row with the score of the last one is as good: still pictures repeat.
                let (wanted, least) = others.fold((0, f32::INFINITY), |(n, _), hit| (n + 1, hit.score));
                all += wanted;
                hits += found.iter().filter(|hit| hit.row != *own && hit.score >= least).count().min(wanted);
            }
            recalls.push(if all == 0 { 1.0 } else { hits as f64 / all as f64 });
        }
        Ok(recalls)
    }

    /// What rounding to half precision has cost: recall@10 of rounded rows against what was put, measured within what each commit put (up to 16,384 rows of
    /// it, every row compared) and averaged. Within a whole index neighbours lie closer, and it costs somewhat more. `None` at full precision, and if
    /// no commit put enough rows for a measurement.
    pub fn rounding_recall(&self) -> Option<f64> {
        let measured = self.manifest.segments.iter().filter_map(|segment| segment.rounding);
        let sum = measured.reduce(Rounding::plus)?;
        (sum.of > 0).then(|| sum.found as f64 / sum.of as f64)
    }

    /// Share of the rows in segment files that are dead: [`Writer::compact`](crate::Writer::compact) removes them.
    pub fn deleted_share(&self) -> f64 {
        let all: u64 = self.segments.iter().map(|segment| u64::from(segment.rows())).sum();
        if all == 0 { 0.0 } else { 1.0 - self.rows as f64 / all as f64 }
    }

    /// The segments, and how many of them have a graph.
    pub fn segments(&self) -> (usize, usize) {
        (self.segments.len(), self.segments.iter().filter(|segment| segment.graph.is_some()).count())
    }

    /// Bytes of the segments' files, which searches map: what they read often stays in memory while there is room.
    pub fn mapped_bytes(&self) -> u64 {
        self.segments.iter().map(Segment::bytes).sum()
    }

    /// Visits every live row, in order, with its dot product.
    ///
    /// # Errors
    ///
    /// As [`Searcher::search`].
    pub fn scores(&self, query: &[f32], mut visit: impl FnMut(RowRef, f32)) -> Result<()> {
        self.check(query)?;
        let mut scaled = Vec::new();
        let power = simd::scale_into(query, &mut scaled);
        let runs = self.live.iter().flat_map(|part| &part.runs);
        let mut told = |row, score| visit(row, simd::times_power(score, power));
        runs.for_each(|run| scan::each_score(&self.segments, run, &scaled, &mut told));
        self.check_files()
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
