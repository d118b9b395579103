//! The videos of a snapshot, sorted in each order of the list, so that a page of the list reads only its own
//! records from the index.
//! The number of a video is never used for another video, so the entry of a number stays valid. After a
//! commit, only the new videos are read.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use rayon::prelude::*;
use reelseek_index::{MAX_FILTER_BYTES, MAX_FILTER_WORDS, Searcher, Video, VideoNumber, VideoSet};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::collection::limited_video;
use crate::serve::api::links::file_name;
use crate::serve::error::ApiError;
use crate::serve::limits::MAX_FACETS;
use crate::serve::snapshot::Snapshot;

/// Keeps the catalogue of the newest snapshot.
#[derive(Default)]
pub(crate) struct CatalogueCache(Mutex<Option<Arc<Catalogue>>>);

/// Order of the list of videos.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum VideoOrder {
    /// By the file's name.
    #[default]
    Name,
    /// The longest first.
    Duration,
    /// The most recently changed file first.
    Newest,
}

/// All videos of one snapshot.
pub(crate) struct Catalogue {
    generation: u64,
    /// In the order of the videos' numbers.
    entries: Vec<Arc<CatalogueEntry>>,
    /// Positions in `entries`, in each order of [`VideoOrder`].
    orders: [Vec<u32>; 3],
    pub(crate) labels: Vec<(String, usize)>,
    pub(crate) folders: Vec<(String, usize)>,
}

/// The fields of a video that the list needs.
struct CatalogueEntry {
    number: VideoNumber,
    /// Name, title and labels in lower case, one a line.
    text: String,
    folder: String,
    labels: Vec<String>,
    duration_ms: u64,
    modified_ns: i64,
}

impl CatalogueEntry {
    fn new(number: VideoNumber, video: Video) -> CatalogueEntry {
        let name = file_name(&video.path);
        let folder = file_name(video.path[..video.path.len() - name.len()].trim_end_matches(['/', '\\'])).to_owned();
        let lines: Vec<String> = [name, &video.title]
            .into_iter()
            .chain(video.labels.iter().map(String::as_str))
            .map(str::to_lowercase)
            .collect();
        let (duration_ms, modified_ns) = (video.duration_ms, video.modified_ns);
        CatalogueEntry { number, text: lines.join("\n"), folder, labels: video.labels, duration_ms, modified_ns }
    }
}

impl CatalogueCache {
    /// The catalogue of a snapshot. This computes if the snapshot is new, so it needs a worker.
    pub(crate) fn of(&self, snapshot: &Snapshot) -> Result<Arc<Catalogue>, ApiError> {
        // Locked while the catalogue is made, so that it is made once.
        let mut last = self.0.lock();
        if let Some(catalogue) = last.as_ref().filter(|last| last.generation == snapshot.generation) {
            return Ok(catalogue.clone());
        }
        let known: HashMap<VideoNumber, Arc<CatalogueEntry>> =
            last.iter().flat_map(|last| &last.entries).map(|entry| (entry.number, entry.clone())).collect();
        let catalogue = Arc::new(Catalogue::new(snapshot.generation, snapshot.engine.searcher(), &known)?);
        // A request with an older snapshot must not replace the catalogue of a newer one.
        if last.as_ref().is_none_or(|last| last.generation < snapshot.generation) {
            *last = Some(catalogue.clone());
        }
        Ok(catalogue)
    }
}

impl Catalogue {
    fn new(
        generation: u64,
        searcher: &Searcher,
        known: &HashMap<VideoNumber, Arc<CatalogueEntry>>,
    ) -> Result<Catalogue, ApiError> {
        let entries = searcher.video_numbers().into_par_iter().map(|number| match known.get(&number) {
            Some(entry) => Ok(entry.clone()),
            None => Ok(Arc::new(CatalogueEntry::new(number, limited_video(searcher, number)?))),
        });
        let entries: Vec<Arc<CatalogueEntry>> = entries.collect::<Result<_, reelseek_index::Error>>()?;
        let sorted = |compare: &dyn Fn(&CatalogueEntry, &CatalogueEntry) -> std::cmp::Ordering| {
            let mut places: Vec<u32> = (0..entries.len() as u32).collect();
            let at = |place: &u32| &entries[*place as usize];
            places.sort_by(|a, b| compare(at(a), at(b)).then_with(|| at(a).text.cmp(&at(b).text)).then(a.cmp(b)));
            places
        };
        let orders = [
            sorted(&|_, _| std::cmp::Ordering::Equal),
            sorted(&|a, b| b.duration_ms.cmp(&a.duration_ms)),
            sorted(&|a, b| b.modified_ns.cmp(&a.modified_ns)),
        ];
        let labels = counted(entries.iter().flat_map(|entry| {
            let mut labels: Vec<&str> = entry.labels.iter().map(String::as_str).collect();
            labels.sort_unstable();
            labels.dedup();
            labels
        }));
        let folders = counted(entries.iter().map(|entry| entry.folder.as_str()));
        Ok(Catalogue { generation, entries, orders, labels, folders })
    }

    /// The numbers of the videos that match a text, in order. The text is a filter, or words or parts of
    /// words; a blank one matches all videos.
    pub(crate) fn find(
        &self,
        searcher: &Searcher,
        text: &str,
        order: VideoOrder,
    ) -> Result<Vec<VideoNumber>, ApiError> {
        let in_order = self.orders[order as usize].iter().map(|place| &self.entries[*place as usize]);
        if text.trim().is_empty() {
            return Ok(in_order.map(|entry| entry.number).collect());
        }
        let is_short = text.len() <= MAX_FILTER_BYTES && text.split_whitespace().count() <= MAX_FILTER_WORDS;
        let (set, is_filter) = match searcher.filter(text) {
            Ok(set) => (set, is_filter(text)),
            // A text without a field was most likely not meant as a filter.
            Err(reelseek_index::Error::Filter { .. }) if is_short && !text.contains(':') => {
                (VideoSet::default(), false)
            }
            Err(error) => return Err(error.into()),
        };
        let lower = text.to_lowercase();
        let words = lower.split_whitespace().map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()));
        // A video that a filter excludes must not match by a part of a word.
        let words: HashSet<&str> = words.filter(|word| !word.is_empty() && !is_filter).collect();
        let has_words =
            |entry: &CatalogueEntry| !words.is_empty() && words.iter().all(|word| entry.text.contains(word));
        let found = in_order.filter(|entry| set.contains(entry.number) || has_words(entry));
        Ok(found.map(|entry| entry.number).collect())
    }
}

/// Whether a text has more than words: a field, an operator, or a special character of the filter language.
fn is_filter(text: &str) -> bool {
    text.contains([':', '"', '(', '[', '{', '*', '^', '~', '<', '>', '+'])
        || text.split_whitespace().any(|word| word.starts_with('-') || ["AND", "OR", "NOT", "IN"].contains(&word))
}

/// Counts each name; the most frequent first.
fn counted<'a>(names: impl Iterator<Item = &'a str>) -> Vec<(String, usize)> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    names.filter(|name| !name.is_empty()).for_each(|name| *counts.entry(name).or_default() += 1);
    let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
    counts.sort_unstable_by(|(a, m), (b, n)| n.cmp(m).then_with(|| a.cmp(b)));
    counts.into_iter().take(MAX_FACETS).map(|(name, count)| (name.to_owned(), count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reelseek_index::{Index, IndexSettings, Span};

    /// Adds videos with these numbers in their names.
    fn put(index: &Index, numbers: std::ops::Range<usize>, gone: &[&str]) {
        let mut writer = index.writer().unwrap();
        let span = Span { start_ms: 0, end_ms: 1000, at_ms: 500 };
        for number in numbers {
            let video = Video {
                id: format!("id{number}"),
                path: format!("/films/{}/Clip {number}.mp4", number % 3),
                title: format!("The {number}th"),
                labels: vec!["all".to_owned(), "all".to_owned(), format!("mod {}", number % 2)],
                duration_ms: 1000 * (number as u64 % 7),
                modified_ns: -(number as i64),
                ..Video::default()
            };
            writer.put(video, &[span], &[1.0, 0.0, 0.0, 0.0], &[]).unwrap();
        }
        for id in gone {
            writer.remove(id).unwrap();
        }
        writer.commit().unwrap();
        writer.close().unwrap();
    }

    fn known(catalogue: &Catalogue) -> HashMap<VideoNumber, Arc<CatalogueEntry>> {
        catalogue.entries.iter().map(|entry| (entry.number, entry.clone())).collect()
    }

    #[test]
    fn a_new_commit_reads_only_new_videos() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::create(dir.path().join("index"), &IndexSettings::new(4)).unwrap();
        put(&index, 0..30, &[]);
        let first = Catalogue::new(1, &index.searcher().unwrap(), &HashMap::new()).unwrap();
        put(&index, 29..40, &["id3", "id4"]);
        let searcher = index.searcher().unwrap();
        let second = Catalogue::new(2, &searcher, &known(&first)).unwrap();
        assert_eq!(second.entries.len(), 38);
        let old = |entry: &&Arc<CatalogueEntry>| first.entries.iter().any(|before| Arc::ptr_eq(before, entry));
        assert_eq!(second.entries.iter().filter(old).count(), 27, "all but the new, replaced and removed ones");
        let fresh = Catalogue::new(2, &searcher, &HashMap::new()).unwrap();
        for order in [VideoOrder::Name, VideoOrder::Duration, VideoOrder::Newest] {
            for text in ["", "clip 1", "label:\"mod 1\"", "3"] {
                let found = second.find(&searcher, text, order).unwrap();
                assert_eq!(found, fresh.find(&searcher, text, order).unwrap());
                assert!(found.iter().all(|number| searcher.video(*number).is_ok()));
            }
        }
        assert_eq!((&second.labels, &second.folders), (&fresh.labels, &fresh.folders));
        assert_eq!(second.labels[0], ("all".to_owned(), 38), "a label counts once for a video");
    }

    #[test]
    fn sorts_and_counts_the_videos() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::create(dir.path().join("index"), &IndexSettings::new(4)).unwrap();
        put(&index, 0..12, &[]);
        let searcher = index.searcher().unwrap();
        let catalogue = Catalogue::new(1, &searcher, &HashMap::new()).unwrap();
        let ids = |text, order| {
            let found = catalogue.find(&searcher, text, order).unwrap();
            found.into_iter().map(|number| searcher.video(number).unwrap().id).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(ids("", VideoOrder::Newest), "id0 id1 id2 id3 id4 id5 id6 id7 id8 id9 id10 id11");
        assert_eq!(ids("", VideoOrder::Name), "id0 id1 id10 id11 id2 id3 id4 id5 id6 id7 id8 id9");
        assert_eq!(ids("", VideoOrder::Duration), "id6 id5 id11 id4 id10 id3 id2 id9 id1 id8 id0 id7");
        assert_eq!(ids("lip 11", VideoOrder::Name), "id11");
        assert_eq!(
            ids("label:\"mod 1\" -clip", VideoOrder::Name),
            "",
            "an excluded video does not match by a part of a word"
        );
        assert_eq!(ids("11 lip 11 lip", VideoOrder::Name), "id11");
        for long in [
            "NOT ".repeat(1900) + "a",
            (0..129).map(|i| format!("lip{i} ")).collect(),
            "(".repeat(9000),
            "é ".repeat(4000),
        ] {
            let error = catalogue.find(&searcher, &long, VideoOrder::Name).unwrap_err();
            assert_eq!(error.status, axum::http::StatusCode::BAD_REQUEST);
            assert!(error.message.contains("expected at most "), "{}", error.message);
        }
        assert_eq!(catalogue.folders, [("0".to_owned(), 4), ("1".to_owned(), 4), ("2".to_owned(), 4)]);
    }
}
