//! Reading: a snapshot of one commit.

use std::path::Path;
use std::time::Duration;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::index::SEGMENTS;
use crate::manifest::Manifest;
use crate::nearest::{self, Part};
use crate::scan::{self, RUN_ROWS, Run};
use crate::segment::{Entry, Segment};
use crate::simd;
use crate::text::{Text, TextReader};
use crate::types::{Effort, Hit, RowRef, Settings, Span, Video, VideoNumber, VideoSet};

/// Attempts to open a snapshot while commits swap files below it.
const ATTEMPTS: u32 = 20;

/// A snapshot of the index: later commits do not change it, nor take its files away (on Unix).
///
/// A search walks the graphs of large segments and scans the others; what a walk finds is scored exactly. It can be shared
/// between threads, and its answers do not depend on them.
pub struct Searcher {
    text: TextReader,
    pub(crate) manifest: Manifest,
    pub(crate) segments: Vec<Segment>,
    /// Live rows in order, segment after segment.
    runs: Vec<Run>,
    parts: Vec<Part>,
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
            if text.manifest()?.commit == commit || attempt == ATTEMPTS {
                return searcher;
            }
            std::thread::sleep(Duration::from_millis(u64::from(attempt)));
            attempt += 1;
        }
    }

    fn assemble(dir: &Path, text: &Text, manifest: Manifest) -> Result<Searcher> {
        let text = text.reader()?;
        let folder = dir.join(SEGMENTS);
        let dim = manifest.settings.dim;
        let opened = manifest.segments.iter().map(|meta| Segment::open(folder.join(&meta.name), dim, meta));
        let segments = opened.collect::<Result<Vec<_>>>()?;
        let mut runs = Vec::new();
        for (i, (segment, meta)) in segments.iter().zip(&manifest.segments).enumerate() {
            let dead = manifest.dead(&meta.name);
            for entry in segment.entries().filter(|entry| dead.binary_search(&entry.number).is_err()) {
                let mut done = 0;
                // A video without rows is one empty run: it is live all the same.
                while done < entry.rows || (done == 0 && entry.rows == 0) {
                    let rows = (entry.rows - done).min(RUN_ROWS);
                    let video = VideoNumber(entry.number);
                    runs.push(Run { segment: i as u32, first: entry.first_row + done, rows, video });
                    if rows == 0 {
                        break;
                    }
                    done += rows;
                }
            }
        }
        let parts = nearest::parts(&runs);
        let rows = parts.iter().map(|part| part.rows).sum();
        Ok(Searcher { text, manifest, segments, runs, parts, rows })
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
        let mut numbers: Vec<_> = self.runs.iter().map(|run| run.video).collect();
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

    /// The spans and the vectors (row after row) of a live video; `None` for any other number.
    pub fn rows_of(&self, number: VideoNumber) -> Option<(Vec<Span>, Vec<f32>)> {
        let (i, Entry { first_row, rows, .. }) = self.place(number)?;
        let segment = &self.segments[i];
        Some((segment.spans(first_row, rows).collect(), segment.vectors(first_row, rows).to_vec()))
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
        let best = match filter {
            None => nearest::top(&self.segments, &self.runs, &self.parts, query, k, effort.ef()),
            Some(set) => {
                let runs: Vec<Run> = self.runs.iter().filter(|run| set.contains(run.video)).copied().collect();
                nearest::top(&self.segments, &runs, &nearest::parts(&runs), query, k, effort.ef())
            }
        };
        let hit = |found: scan::Candidate| Hit {
            row: found.row,
            video: found.video,
            span: self.segments[found.row.segment as usize].spans(found.row.row, 1).next().unwrap_or_default(),
            score: found.score,
        };
        let hits = best.into_iter().map(hit).collect();
        self.check_files()?;
        Ok(hits)
    }

    /// Whether the files are still whole: if one was cut short meanwhile, what was read beyond its end were zeros.
    fn check_files(&self) -> Result<()> {
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
        queries.par_chunks(self.manifest.settings.dim).map(|query| self.search(query, k, filter, effort)).collect()
    }

    /// recall@k of walks against the exact answer: the share of the `k` best other rows that is found, over about `sample` of
    /// the index's own rows as queries, evenly spread. 1 if there is nothing to find. Foreign queries are somewhat harder: no walk
    /// towards them was ever made.
    pub fn ann_recall(&self, sample: usize, k: usize, effort: Effort) -> Result<f64> {
        let dim = self.manifest.settings.dim;
        let step = (self.rows / sample.max(1)).max(1);
        let mut queries = Vec::new();
        let mut before = 0usize;
        for run in &self.runs {
            let rows = run.rows as usize;
            let first = before.next_multiple_of(step) - before;
            for row in (first..rows).step_by(step) {
                queries.extend(self.segments[run.segment as usize].vectors(run.first + row as u32, 1).to_vec());
            }
            before += rows;
        }
        // One more than asked for: the row itself.
        let found = self.search_batch(&queries, k + 1, None, effort)?;
        let exact = self.search_batch(&queries, k + 1, None, Effort::Exact)?;
        let (mut hits, mut all) = (0, 0);
        for ((query, found), exact) in queries.chunks(dim).zip(&found).zip(&exact) {
            // Any row with the score of the last one is as good: still pictures repeat.
            let own = simd::dot(query, query);
            let last = exact.last().map_or(f32::INFINITY, |hit| hit.score);
            let others = |hits: &[Hit]| hits.len() - usize::from(hits.iter().any(|hit| hit.score >= own));
            all += others(exact);
            hits += others(found).min(others(exact)) - found.iter().filter(|hit| hit.score < last).count();
        }
        Ok(if all == 0 { 1.0 } else { hits as f64 / all as f64 })
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
        self.runs.iter().for_each(|run| scan::score_run(&self.segments, run, query, &mut visit));
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
