//! A retrieval benchmark as a list of rows: the frames that are queries, the clips of the gallery, and the
//! training rows.
//!
//! The list can be published and read back. Its first line is a JSON header, each other line is a row.
//!
//! ```json
//! {"benchmark":"activitynet","version":1,"annotations":"VERSION 1.3","fingerprint":"90c1...","seed":1,"query_share":0.2,"val_share":0.1}
//! {"kind":"image","id":"abc@12.345","video":"abc","duration":60.1,"from":12.345,"to":12.345,"label":["Surfing"],"split":"test"}
//! {"kind":"clip","id":"xyz:3.000-9.500","video":"xyz","duration":31.0,"from":3.0,"to":9.5,"label":["Surfing"],"split":"test"}
//! ```
//!
//! The role of a video and the times of its frames depend on the seed and the video's id only, so the list
//! for a subset of the videos is a subset of the full list. One exception: if the split `val` becomes too
//! small to choose an epoch, its rows move to the split `train` ([`Benchmark::merge_small_val`]). The split
//! `test` always remains a subset.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::activitynet::{Annotations, Subset};
use super::{Error, Split};
use crate::base::files;
use crate::base::seeded::Random;

/// How a benchmark is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BenchmarkPlan {
    /// Seed of all draws.
    pub seed: u64,
    /// Share of the held-out videos whose frames are queries; the others are the gallery.
    pub query_share: f32,
    /// Share of the training videos that form the split `val`.
    pub val_share: f32,
}

impl Default for BenchmarkPlan {
    fn default() -> BenchmarkPlan {
        BenchmarkPlan { seed: 1, query_share: 0.2, val_share: 0.1 }
    }
}

/// Whether a row is a frame or a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowKind {
    /// A frame.
    Image,
    /// A span of a video.
    Clip,
}

/// One row of a benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BenchmarkRow {
    /// Frame or clip.
    pub kind: RowKind,
    /// Unique identifier.
    pub id: String,
    /// Id of the video.
    pub video: String,
    /// Length of the video in seconds.
    pub duration: f64,
    /// Start in seconds; the time of a frame.
    pub from: f64,
    /// End in seconds; the time of a frame.
    pub to: f64,
    /// Labels.
    pub label: Vec<String>,
    /// Purpose of the row.
    pub split: Split,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct BenchmarkHeader {
    benchmark: String,
    version: u32,
    annotations: String,
    fingerprint: String,
    #[serde(flatten)]
    plan: BenchmarkPlan,
}

/// A list of rows with its origin.
#[derive(Debug, Clone, PartialEq)]
pub struct Benchmark {
    header: BenchmarkHeader,
    /// The rows, grouped by video.
    pub items: Vec<BenchmarkRow>,
}

const VERSION: u32 = 1;

impl Benchmark {
    /// Draws the benchmark of these annotations. Videos of the subset validation become the split `test`: a
    /// share of them are query videos, with one frame of each labelled segment; the clips of the others are
    /// the gallery. Videos of the subset training become the split `train`, except for a share that is
    /// divided in the same way into images and clips of the split `val`. Videos with withheld annotations, or
    /// without a segment that has a length, are left out.
    pub fn draw(annotations: &Annotations, plan: BenchmarkPlan) -> Benchmark {
        let share = |video: &str, what: &str| Random::new(plan.seed, &format!("{what} {video}")).between(0.0, 1.0);
        let mut items = Vec::new();
        for (id, video) in &annotations.videos {
            let split = match video.subset {
                Subset::Training if share(id, "val") < plan.val_share => Split::Val,
                Subset::Training => Split::Train,
                Subset::Validation => Split::Test,
                Subset::Testing => continue,
            };
            let is_query = share(id, "query") < plan.query_share;
            for (i, segment) in video.segments.iter().enumerate() {
                let mut add = |kind, name: String, from: f64, to: f64| {
                    let label = vec![segment.label.clone()];
                    let (video, duration) = (id.clone(), video.duration_s);
                    items.push(BenchmarkRow { kind, id: name, video, duration, from, to, label, split });
                };
                if split == Split::Train || is_query {
                    // Not near the ends, where an activity may not be visible. Whole milliseconds.
                    let at = f64::from(Random::new(plan.seed, &format!("frame {i} {id}")).between(0.1, 0.9));
                    let at = ((segment.start_s + at * (segment.end_s - segment.start_s)) * 1e3).round() / 1e3;
                    add(RowKind::Image, format!("{id}@{at:.3}"), at, at);
                }
                if split == Split::Train || !is_query {
                    let name = format!("{id}:{:.3}-{:.3}", segment.start_s, segment.end_s);
                    add(RowKind::Clip, name, segment.start_s, segment.end_s);
                }
            }
        }
        // A segment may be annotated twice, with the same or another label.
        let mut merged: Vec<BenchmarkRow> = Vec::new();
        let (mut rows, mut labels) = (HashMap::new(), HashSet::new());
        for mut item in items {
            let row = *rows.entry((item.video.clone(), item.id.clone())).or_insert(merged.len());
            item.label.retain(|label| labels.insert((row, label.clone())));
            match merged.get_mut(row) {
                Some(other) => other.label.append(&mut item.label),
                None => merged.push(item),
            }
        }
        let header = BenchmarkHeader {
            benchmark: "activitynet".to_owned(),
            version: VERSION,
            annotations: annotations.version.clone(),
            fingerprint: annotations.fingerprint.clone(),
            plan,
        };
        Benchmark { header, items: merged }
    }

    /// Removes the rows of videos for which `is_available` returns false. Returns their names.
    pub fn retain_videos(&mut self, is_available: impl Fn(&str) -> bool) -> Vec<String> {
        let missing: BTreeSet<String> =
            self.items.iter().filter(|item| !is_available(&item.video)).map(|item| item.video.clone()).collect();
        self.items.retain(|item| !missing.contains(&item.video));
        missing.into_iter().collect()
    }

    /// Moves the rows of the split `val` to the split `train` if none of its images shares a label with one
    /// of its clips, so that they could not choose an epoch. Returns whether it did.
    pub fn merge_small_val(&mut self) -> bool {
        merge_small_val(self.items.iter_mut())
    }

    /// Number of rows of a kind and a split.
    pub fn count(&self, kind: RowKind, split: Split) -> usize {
        self.items.iter().filter(|item| item.kind == kind && item.split == split).count()
    }

    /// Reads a list.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Benchmark`] with the invalid line.
    pub fn read(path: &Path) -> Result<Benchmark, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let wrong = |line, found: String| Error::Benchmark { path: path.to_owned(), line, found };
        let mut lines = BufReader::new(files::open(path).map_err(io)?).lines();
        let first = lines.next().transpose().map_err(io)?.unwrap_or_default();
        let header: BenchmarkHeader = serde_json::from_str(&first).map_err(|error| wrong(1, error.to_string()))?;
        if header.version != VERSION {
            return Err(wrong(1, format!("version {} (this program reads version {VERSION})", header.version)));
        }
        let mut items = Vec::new();
        for (i, line) in lines.enumerate() {
            let line = line.map_err(io)?;
            let item: BenchmarkRow = serde_json::from_str(&line).map_err(|error| wrong(i + 2, error.to_string()))?;
            if !(item.from >= 0.0 && item.to >= item.from && item.duration >= 0.0 && item.to + item.duration < 1e9) {
                return Err(wrong(i + 2, format!("times from {} to {}", item.from, item.to)));
            }
            items.push(item);
        }
        Ok(Benchmark { header, items })
    }

    /// Writes the list.
    ///
    /// # Errors
    /// Any error of `out`.
    pub fn write(&self, mut out: impl Write) -> std::io::Result<()> {
        writeln!(out, "{}", serde_json::to_string(&self.header)?)?;
        self.items.iter().try_for_each(|item| writeln!(out, "{}", serde_json::to_string(item)?))?;
        out.flush()
    }
}

/// [`Benchmark::merge_small_val`] of any rows. Rows without labels stay.
pub(crate) fn merge_small_val<'a>(rows: impl Iterator<Item = &'a mut BenchmarkRow>) -> bool {
    let val: Vec<&mut BenchmarkRow> = rows.filter(|row| row.split == Split::Val).collect();
    let labels =
        |kind| -> BTreeSet<&String> { val.iter().filter(|row| row.kind == kind).flat_map(|row| &row.label).collect() };
    let (images, clips) = (labels(RowKind::Image), labels(RowKind::Clip));
    // Without labels, images match the clips of their own video.
    if images.is_empty() && clips.is_empty() || !images.is_disjoint(&clips) {
        return false;
    }
    val.into_iter().for_each(|row| row.split = Split::Train);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations() -> Annotations {
        let mut database = serde_json::Map::new();
        for i in 0..1500 {
            let subset = ["training", "validation", "testing"][i % 3];
            let segments = serde_json::json!([{"segment": [2.0, 8.0], "label": format!("l{}", i % 7)}, {"segment": [9.5, 9.9], "label": "x"}]);
            database.insert(
                format!("id{i}"),
                serde_json::json!({"subset": subset, "duration": 10.0, "annotations": segments}),
            );
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), serde_json::json!({"version": "t", "database": database}).to_string()).unwrap();
        Annotations::read(file.path()).unwrap()
    }

    #[test]
    fn a_video_may_have_many_segments_and_labels() {
        let segment = |i: usize| serde_json::json!({"segment": [(i % 2) as f64, 9.0], "label": format!("l{}", i / 2)});
        let segments: Vec<_> = (0..200_000).map(segment).chain((0..10).map(segment)).collect();
        let video = serde_json::json!({"subset": "validation", "duration": 10.0, "annotations": segments});
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), serde_json::json!({"database": {"a": video}}).to_string()).unwrap();
        let annotations = Annotations::read(file.path()).unwrap();
        assert_eq!(annotations.videos["a"].labels.len(), 100_000);
        let benchmark = Benchmark::draw(&annotations, BenchmarkPlan { query_share: 0.0, ..BenchmarkPlan::default() });
        let labels: Vec<usize> = benchmark.items.iter().map(|item| item.label.len()).collect();
        assert_eq!(labels, [100_000, 100_000]);
    }

    #[test]
    fn no_video_is_both_query_and_gallery() {
        let benchmark = Benchmark::draw(&annotations(), BenchmarkPlan::default());
        for split in [Split::Val, Split::Test] {
            let videos = |kind| -> BTreeSet<&str> {
                let of = benchmark.items.iter().filter(|item| item.kind == kind && item.split == split);
                of.map(|item| item.video.as_str()).collect()
            };
            let (queries, gallery) = (videos(RowKind::Image), videos(RowKind::Clip));
            assert!(
                !queries.is_empty() && gallery.len() > 2 * queries.len(),
                "{split:?}: {} {}",
                queries.len(),
                gallery.len()
            );
            assert!(queries.is_disjoint(&gallery));
        }
        let of = |item: &&BenchmarkRow| item.split == Split::Train;
        assert!(benchmark.items.iter().filter(of).all(|item| item.video[2..].parse::<u32>().unwrap() % 3 == 0));
        for item in benchmark.items.iter().filter(|item| item.kind == RowKind::Image) {
            assert!((item.from > 2.0 && item.to < 8.0) || (item.from > 9.5 && item.to < 9.9), "{item:?}");
        }
    }

    /// Whether the video is a query video of the split `val`.
    fn is_val_query(benchmark: &Benchmark, video: &str) -> bool {
        let mut of = benchmark.items.iter().filter(|item| item.video == video);
        of.any(|item| item.split == Split::Val && item.kind == RowKind::Image)
    }

    #[test]
    fn fewer_videos_give_a_subset_and_the_file_round_trips() {
        let annotations = annotations();
        let full = Benchmark::draw(&annotations, BenchmarkPlan::default());
        assert_eq!(full, Benchmark::draw(&annotations, BenchmarkPlan::default()));
        assert_ne!(
            full.items,
            Benchmark::draw(&annotations, BenchmarkPlan { seed: 2, ..BenchmarkPlan::default() }).items
        );
        let mut part = full.clone();
        let missing = part.retain_videos(|video| !video.ends_with('5'));
        assert!(missing.iter().all(|video| video.ends_with('5')) && missing.len() > 20);
        assert!(part.items.len() < full.items.len() && part.items.iter().all(|item| full.items.contains(item)));
        let mut few = full.clone();
        few.retain_videos(|video| !is_val_query(&full, video));
        assert!(few.merge_small_val() && few.count(RowKind::Clip, Split::Val) == 0 && !few.merge_small_val());
        assert!(!full.clone().merge_small_val());
        // Without labels, images match the clips of their own video.
        let mut unlabelled = full.clone();
        unlabelled.items.iter_mut().for_each(|item| item.label.clear());
        assert!(!unlabelled.merge_small_val() && unlabelled.count(RowKind::Clip, Split::Val) > 0);
        let file = tempfile::NamedTempFile::new().unwrap();
        part.write(std::fs::File::create(file.path()).unwrap()).unwrap();
        assert_eq!(Benchmark::read(file.path()).unwrap(), part);
        let text = std::fs::read_to_string(file.path()).unwrap();
        std::fs::write(file.path(), text.replacen("\"from\":", "\"form\":", 1)).unwrap();
        let error = Benchmark::read(file.path()).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
    }
}
