//! The videos of a snapshot in order, so that a page of a list reads the records of that page and no others.
//!
//! A video's number is never used again, so what is known of a number stays true: a new commit costs the reading of what is new in it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use reelseek_index::{Searcher, Video, VideoNumber, VideoSet};

use crate::serve::api::search::name_of;
use crate::serve::error::ApiError;
use crate::serve::state::Snapshot;

/// Labels and folders that are told, the most frequent first.
const MAX_FACETS: usize = 1000;

/// The catalogue that was asked for last.
#[derive(Default)]
pub(crate) struct Library(Mutex<Option<Arc<Catalogue>>>);

/// How a list is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Name,
    Duration,
    Newest,
}

/// All videos of one snapshot.
pub(crate) struct Catalogue {
    generation: u64,
    /// By number.
    entries: Vec<Arc<Entry>>,
    /// Places in `entries`, in the three orders.
    orders: [Vec<u32>; 3],
    pub(crate) labels: Vec<(String, usize)>,
    pub(crate) folders: Vec<(String, usize)>,
}

/// What is kept of a video.
struct Entry {
    number: VideoNumber,
    /// Name, title and labels in small letters, a line each.
    text: String,
    folder: String,
    labels: Vec<String>,
    duration_ms: u64,
    modified_ns: i64,
}

impl Entry {
    fn new(number: VideoNumber, video: Video) -> Entry {
        let name = name_of(&video.path);
        let folder = name_of(video.path[..video.path.len() - name.len()].trim_end_matches(['/', '\\'])).to_owned();
        let lines: Vec<String> = [name, &video.title]
            .into_iter()
            .chain(video.labels.iter().map(String::as_str))
            .map(str::to_lowercase)
            .collect();
        let (duration_ms, modified_ns) = (video.duration_ms, video.modified_ns);
        Entry { number, text: lines.join("\n"), folder, labels: video.labels, duration_ms, modified_ns }
    }
}

impl Library {
    /// The catalogue of a snapshot. Takes a processor when the snapshot is new.
    pub(crate) fn of(&self, snapshot: &Snapshot) -> Result<Arc<Catalogue>, ApiError> {
        // Held meanwhile: who comes second would do the same.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(catalogue) = last.as_ref().filter(|last| last.generation == snapshot.generation) {
            return Ok(catalogue.clone());
        }
        let known: HashMap<VideoNumber, Arc<Entry>> =
            last.iter().flat_map(|last| &last.entries).map(|entry| (entry.number, entry.clone())).collect();
        let catalogue = Arc::new(Catalogue::new(snapshot.generation, snapshot.engine.searcher(), &known)?);
        // One who still holds an older snapshot must not set the newer ones back.
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
        known: &HashMap<VideoNumber, Arc<Entry>>,
    ) -> Result<Catalogue, ApiError> {
        let entries = searcher.video_numbers().into_par_iter().map(|number| match known.get(&number) {
            Some(entry) => Ok(entry.clone()),
            None => Ok(Arc::new(Entry::new(number, searcher.video(number)?))),
        });
        let entries: Vec<Arc<Entry>> = entries.collect::<Result<_, reelseek_index::Error>>()?;
        let sorted = |compare: &dyn Fn(&Entry, &Entry) -> std::cmp::Ordering| {
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

    /// The numbers of the videos that a text names, in order: it is a filter, or words that may be parts of words. All if it is blank.
    pub(crate) fn find(&self, searcher: &Searcher, text: &str, order: Order) -> Result<Vec<VideoNumber>, ApiError> {
        let order = match order {
            Order::Name => &self.orders[0],
            Order::Duration => &self.orders[1],
            Order::Newest => &self.orders[2],
        };
        let in_order = order.iter().map(|place| &self.entries[*place as usize]);
        if text.trim().is_empty() {
            return Ok(in_order.map(|entry| entry.number).collect());
        }
        let (set, is_filter) = match searcher.filter(text) {
            Ok(set) => (set, is_filter(text)),
            // What names no field was most likely not meant as a filter.
            Err(reelseek_index::Error::Filter { .. }) if !text.contains(':') => (VideoSet::default(), false),
            Err(error) => return Err(error.into()),
        };
        let small = text.to_lowercase();
        let words = small.split_whitespace().map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()));
        // What a filter's signs exclude must not come back as a part of a word.
        let words: Vec<&str> = words.filter(|word| !word.is_empty() && !is_filter).collect();
        let has_words = |entry: &Entry| !words.is_empty() && words.iter().all(|word| entry.text.contains(word));
        let found = in_order.filter(|entry| set.contains(entry.number) || has_words(entry));
        Ok(found.map(|entry| entry.number).collect())
    }
}

/// Whether a text says more than words.
fn is_filter(text: &str) -> bool {
    text.contains([':', '"', '(', '[', '{', '*', '^', '~', '<', '>', '+'])
        || text.split_whitespace().any(|word| word.starts_with('-') || ["AND", "OR", "NOT", "IN"].contains(&word))
}

/// How often each occurs, the most frequent first.
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

    /// Puts videos with these numbers in their names.
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

    fn known(catalogue: &Catalogue) -> HashMap<VideoNumber, Arc<Entry>> {
        catalogue.entries.iter().map(|entry| (entry.number, entry.clone())).collect()
    }

    #[test]
    fn a_new_commit_costs_the_reading_of_what_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::create(dir.path().join("index"), &IndexSettings::new(4)).unwrap();
        put(&index, 0..30, &[]);
        let first = Catalogue::new(1, &index.searcher().unwrap(), &HashMap::new()).unwrap();
        put(&index, 29..40, &["id3", "id4"]);
        let searcher = index.searcher().unwrap();
        let second = Catalogue::new(2, &searcher, &known(&first)).unwrap();
        assert_eq!(second.entries.len(), 38);
        let old = |entry: &&Arc<Entry>| first.entries.iter().any(|before| Arc::ptr_eq(before, entry));
        assert_eq!(second.entries.iter().filter(old).count(), 27, "all but what was new, put again or removed");
        let fresh = Catalogue::new(2, &searcher, &HashMap::new()).unwrap();
        for order in [Order::Name, Order::Duration, Order::Newest] {
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
    fn orders_and_facets_are_those_of_the_videos() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::create(dir.path().join("index"), &IndexSettings::new(4)).unwrap();
        put(&index, 0..12, &[]);
        let searcher = index.searcher().unwrap();
        let catalogue = Catalogue::new(1, &searcher, &HashMap::new()).unwrap();
        let ids = |text, order| {
            let found = catalogue.find(&searcher, text, order).unwrap();
            found.into_iter().map(|number| searcher.video(number).unwrap().id).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(ids("", Order::Newest), "id0 id1 id2 id3 id4 id5 id6 id7 id8 id9 id10 id11");
        assert_eq!(ids("", Order::Name), "id0 id1 id10 id11 id2 id3 id4 id5 id6 id7 id8 id9");
        assert_eq!(ids("", Order::Duration), "id6 id5 id11 id4 id10 id3 id2 id9 id1 id8 id0 id7");
        assert_eq!(ids("lip 11", Order::Name), "id11");
        assert_eq!(ids("label:\"mod 1\" -clip", Order::Name), "", "what is excluded is no part of a word");
        assert_eq!(catalogue.folders, [("0".to_owned(), 4), ("1".to_owned(), 4), ("2".to_owned(), 4)]);
    }
}
