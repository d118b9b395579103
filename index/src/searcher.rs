//! Reading: a snapshot of one commit.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::index::SEGMENTS;
use crate::manifest::Manifest;
use crate::scan::{self, RUN_ROWS, Run};
use crate::segment::{Entry, Segment};
use crate::text::{Text, TextReader};
use crate::types::{Hit, RowRef, Settings, Span, Video, VideoNumber, VideoSet};

/// Attempts to open a snapshot while commits swap files below it.
const ATTEMPTS: u32 = 20;

/// A snapshot of the index: later commits do not change it, nor take its files away (on Unix).
///
/// Searches are exact: every live row is scored. A `Searcher` can be shared between threads.
pub struct Searcher {
    text: TextReader,
    pub(crate) manifest: Manifest,
    pub(crate) segments: Vec<Segment>,
    /// Live rows in order.
    runs: Vec<Run>,
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
        let rows = runs.iter().map(|run| run.rows as usize).sum();
        Ok(Searcher { text, manifest, segments, runs, rows })
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
    pub fn rows_of(&self, number: VideoNumber) -> Option<(Vec<Span>, &[f32])> {
        let (i, Entry { first_row, rows, .. }) = self.place(number)?;
        let segment = &self.segments[i];
        Some((segment.spans(first_row, rows).collect(), segment.vectors(first_row, rows)))
    }

    /// The `k` live rows with the highest dot product, best first, ties by row; only those of the
    /// videos in `filter`, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] or [`Error::NotFinite`] for a query that is not `dim` finite values.
    pub fn search(&self, query: &[f32], k: usize, filter: Option<&VideoSet>) -> Result<Vec<Hit>> {
        self.check(query)?;
        let runs = match filter {
            None => Cow::Borrowed(self.runs.as_slice()),
            Some(set) => Cow::Owned(self.runs.iter().filter(|run| set.contains(run.video)).copied().collect()),
        };
        let best = scan::top(&self.segments, &runs, query, k);
        let hit = |found: scan::Candidate| Hit {
            row: found.row,
            video: found.video,
            span: self.segments[found.row.segment as usize].spans(found.row.row, 1).next().unwrap_or_default(),
            score: found.score,
        };
        Ok(best.into_iter().map(hit).collect())
    }

    /// Visits every live row, in order, with its dot product.
    ///
    /// # Errors
    ///
    /// As [`Searcher::search`].
    pub fn scores(&self, query: &[f32], mut visit: impl FnMut(RowRef, f32)) -> Result<()> {
        self.check(query)?;
        self.runs.iter().for_each(|run| scan::score_run(&self.segments, run, query, &mut visit));
        Ok(())
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
