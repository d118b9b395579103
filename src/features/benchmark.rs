//! A retrieval benchmark as a list of rows: which frames are asked for, among which clips, and what is learned from.
//!
//! The list can be published and read back: a line of JSON about itself, then one a row.
//!
//! ```json
//! {"benchmark":"activitynet","version":1,"annotations":"VERSION 1.3","fingerprint":"90c1...","seed":1,"query_share":0.2,"val_share":0.1}
//! {"kind":"image","id":"abc@12.345","video":"abc","duration":60.1,"from":12.345,"to":12.345,"label":["Surfing"],"split":"test"}
//! {"kind":"clip","id":"xyz:3.000-9.500","video":"xyz","duration":31.0,"from":3.0,"to":9.5,"label":["Surfing"],"split":"test"}
//! ```
//!
//! Whether a video is asked for or searched among, and at which times, follows from the seed and its own id: the list of those who have
//! fewer videos is a part of the full one. One exception: where too few are left of the split `val` to choose by, its rows become rows of the split `train`
//! ([`Benchmark::give_up_val`]); what is asked and searched among, the split `test`, stays a part.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::activitynet::{Annotations, Subset};
use super::{Error, Split};
use crate::base::seeded::Random;

/// How a benchmark is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Decides everything that is drawn.
    pub seed: u64,
    /// Share of the held-out videos whose frames are the queries; the others are the gallery.
    pub query_share: f32,
    /// Share of the training videos that the best epoch is chosen by.
    pub val_share: f32,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan { seed: 1, query_share: 0.2, val_share: 0.1 }
    }
}

/// Whether a row is a frame or a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A frame.
    Image,
    /// A span of a video.
    Clip,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Frame or clip.
    pub kind: Kind,
    /// Its name.
    pub id: String,
    /// Its video's name.
    pub video: String,
    /// The video's length in seconds.
    pub duration: f64,
    /// First second; of a frame, its time.
    pub from: f64,
    /// First second after it; of a frame, its time.
    pub to: f64,
    /// What it shows.
    pub label: Vec<String>,
    /// What it is for.
    pub split: Split,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Head {
    benchmark: String,
    version: u32,
    annotations: String,
    fingerprint: String,
    #[serde(flatten)]
    plan: Plan,
}

/// A list of rows, and where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Benchmark {
    head: Head,
    /// The rows, by video.
    pub items: Vec<Item>,
}

const VERSION: u32 = 1;

impl Benchmark {
    /// Draws the benchmark of these annotations. Videos of the subset validation are measured with: a share is asked for, one frame of each
    /// labelled segment, among the clips of the others. Those of the subset training are learned from, but for a share that is parted likewise into
    /// images and clips of the split `val`. Videos whose annotations are withheld, or have no segment with a time, are left out.
    pub fn draw(annotations: &Annotations, plan: Plan) -> Benchmark {
        let share = |video: &str, what: &str| Random::new(plan.seed, &format!("{what} {video}")).between(0.0, 1.0);
        let mut items = Vec::new();
        for (id, video) in &annotations.videos {
            let split = match video.subset {
                Subset::Training if share(id, "val") < plan.val_share => Split::Val,
                Subset::Training => Split::Train,
                Subset::Validation => Split::Test,
                Subset::Testing => continue,
            };
            let asked = share(id, "query") < plan.query_share;
            for (i, segment) in video.segments.iter().enumerate() {
                let mut add = |kind, name: String, from: f64, to: f64| {
                    let label = vec![segment.label.clone()];
                    let (video, duration) = (id.clone(), video.duration_s);
                    items.push(Item { kind, id: name, video, duration, from, to, label, split });
                };
                if split == Split::Train || asked {
                    // Not at the very ends, where an activity has not begun or is over; whole milliseconds.
                    let at = f64::from(Random::new(plan.seed, &format!("frame {i} {id}")).between(0.1, 0.9));
                    let at = ((segment.start_s + at * (segment.end_s - segment.start_s)) * 1e3).round() / 1e3;
                    add(Kind::Image, format!("{id}@{at:.3}"), at, at);
                }
                if split == Split::Train || !asked {
                    let name = format!("{id}:{:.3}-{:.3}", segment.start_s, segment.end_s);
                    add(Kind::Clip, name, segment.start_s, segment.end_s);
                }
            }
        }
        // The same segment may be annotated twice, with another label or the same.
        let mut merged: Vec<Item> = Vec::new();
        for item in items {
            match merged
                .iter_mut()
                .rev()
                .take_while(|other| other.video == item.video)
                .find(|other| other.id == item.id)
            {
                Some(other) => other
                    .label
                    .extend(item.label.into_iter().filter(|label| !other.label.contains(label)).collect::<Vec<_>>()),
                None => merged.push(item),
            }
        }
        let head = Head {
            benchmark: "activitynet".to_owned(),
            version: VERSION,
            annotations: annotations.version.clone(),
            fingerprint: annotations.fingerprint.clone(),
            plan,
        };
        Benchmark { head, items: merged }
    }

    /// Takes out the rows of videos for which `have` is false; gives their names.
    pub fn keep(&mut self, have: impl Fn(&str) -> bool) -> Vec<String> {
        let missing: BTreeSet<String> =
            self.items.iter().filter(|item| !have(&item.video)).map(|item| item.video.clone()).collect();
        self.items.retain(|item| !missing.contains(&item.video));
        missing.into_iter().collect()
    }

    /// Makes rows of the split `val` rows to learn from, if none of its images shares a label with one of its clips, so that no epoch could be chosen by them;
    /// whether that was so.
    pub fn give_up_val(&mut self) -> bool {
        let labels = |kind| -> BTreeSet<&String> {
            let of = self.items.iter().filter(|item| item.kind == kind && item.split == Split::Val);
            of.flat_map(|item| &item.label).collect()
        };
        if !labels(Kind::Image).is_disjoint(&labels(Kind::Clip))
            || !self.items.iter().any(|item| item.split == Split::Val)
        {
            return false;
        }
        self.items.iter_mut().filter(|item| item.split == Split::Val).for_each(|item| item.split = Split::Train);
        true
    }

    /// Rows of a kind and a split.
    pub fn count(&self, kind: Kind, split: Split) -> usize {
        self.items.iter().filter(|item| item.kind == kind && item.split == split).count()
    }

    /// Reads a list back.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Benchmark`] with the line that is wrong.
    pub fn read(path: &Path) -> Result<Benchmark, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let wrong = |line, found: String| Error::Benchmark { path: path.to_owned(), line, found };
        let mut lines = BufReader::new(std::fs::File::open(path).map_err(io)?).lines();
        let first = lines.next().transpose().map_err(io)?.unwrap_or_default();
        let head: Head = serde_json::from_str(&first).map_err(|error| wrong(1, error.to_string()))?;
        if head.version != VERSION {
            return Err(wrong(1, format!("version {}, and this program reads version {VERSION}", head.version)));
        }
        let mut items = Vec::new();
        for (i, line) in lines.enumerate() {
            let line = line.map_err(io)?;
            let item: Item = serde_json::from_str(&line).map_err(|error| wrong(i + 2, error.to_string()))?;
            if !(item.from >= 0.0 && item.to >= item.from && item.duration >= 0.0 && item.to + item.duration < 1e9) {
                return Err(wrong(i + 2, format!("times from {} to {}", item.from, item.to)));
            }
            items.push(item);
        }
        Ok(Benchmark { head, items })
    }

    /// Writes the list.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, mut out: impl Write) -> std::io::Result<()> {
        writeln!(out, "{}", serde_json::to_string(&self.head)?)?;
        self.items.iter().try_for_each(|item| writeln!(out, "{}", serde_json::to_string(item)?))?;
        out.flush()
    }
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
    fn no_video_is_both_asked_for_and_searched_among() {
        let benchmark = Benchmark::draw(&annotations(), Plan::default());
        for split in [Split::Val, Split::Test] {
            let videos = |kind| -> BTreeSet<&str> {
                let of = benchmark.items.iter().filter(|item| item.kind == kind && item.split == split);
                of.map(|item| item.video.as_str()).collect()
            };
            let (asked, among) = (videos(Kind::Image), videos(Kind::Clip));
            assert!(!asked.is_empty() && among.len() > 2 * asked.len(), "{split:?}: {} {}", asked.len(), among.len());
            assert!(asked.is_disjoint(&among));
        }
        let of = |item: &&Item| item.split == Split::Train;
        assert!(benchmark.items.iter().filter(of).all(|item| item.video[2..].parse::<u32>().unwrap() % 3 == 0));
        for item in benchmark.items.iter().filter(|item| item.kind == Kind::Image) {
            assert!((item.from > 2.0 && item.to < 8.0) || (item.from > 9.5 && item.to < 9.9), "{item:?}");
        }
    }

    /// Whether the video is one of the split `val` that is asked for.
    fn few_val(benchmark: &Benchmark, video: &str) -> bool {
        let mut of = benchmark.items.iter().filter(|item| item.video == video);
        of.any(|item| item.split == Split::Val && item.kind == Kind::Image)
    }

    #[test]
    fn fewer_videos_give_a_part_of_the_list_and_what_is_written_is_read_back() {
        let annotations = annotations();
        let full = Benchmark::draw(&annotations, Plan::default());
        assert_eq!(full, Benchmark::draw(&annotations, Plan::default()));
        assert_ne!(full.items, Benchmark::draw(&annotations, Plan { seed: 2, ..Plan::default() }).items);
        let mut part = full.clone();
        let missing = part.keep(|video| !video.ends_with('5'));
        assert!(missing.iter().all(|video| video.ends_with('5')) && missing.len() > 20);
        assert!(part.items.len() < full.items.len() && part.items.iter().all(|item| full.items.contains(item)));
        let mut few = full.clone();
        few.keep(|video| !few_val(&full, video));
        assert!(few.give_up_val() && few.count(Kind::Clip, Split::Val) == 0 && !few.give_up_val());
        assert!(!full.clone().give_up_val());
        let file = tempfile::NamedTempFile::new().unwrap();
        part.write(std::fs::File::create(file.path()).unwrap()).unwrap();
        assert_eq!(Benchmark::read(file.path()).unwrap(), part);
        let text = std::fs::read_to_string(file.path()).unwrap();
        std::fs::write(file.path(), text.replacen("\"from\":", "\"form\":", 1)).unwrap();
        let error = Benchmark::read(file.path()).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
    }
}
