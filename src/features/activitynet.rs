//! The annotations of ActivityNet (Caba Heilbron et al., CVPR 2015), versions 1.2 and 1.3: activities in
//! videos and their times.
//!
//! ```json
//! {"version": "VERSION 1.3", "database": {"<id of 11 characters>": {"subset": "training|validation|testing",
//!   "duration": 82.73, "annotations": [{"segment": [7.1, 20.5], "label": "Archery"}]}}}
//! ```
//!
//! Times are seconds from the start of the video. Other fields (`taxonomy`, `url`, `resolution`) are ignored.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use serde::Deserialize;

use super::{Error, Split};
use crate::base::files;

/// Size of the largest annotation file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 30;
/// Least length in seconds of a segment within its video; a shorter segment is degenerate.
const SHORTEST_S: f64 = 1e-3;

/// Subset of ActivityNet that a video belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subset {
    /// Training subset.
    Training,
    /// Validation subset. Its annotations are public.
    Validation,
    /// Testing subset. Its annotations are withheld.
    Testing,
}

/// A span of a video that shows one activity.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledSegment {
    /// Start in seconds.
    pub start_s: f64,
    /// End in seconds, at most the end of the video.
    pub end_s: f64,
    /// Name of the activity.
    pub label: String,
}

/// Annotations of one video.
#[derive(Debug, Clone, PartialEq)]
pub struct AnnotatedVideo {
    /// Subset of the video.
    pub subset: Subset,
    /// Length in seconds.
    pub duration_s: f64,
    /// Segments that are not degenerate, in the file's order.
    pub segments: Vec<LabelledSegment>,
    /// Distinct labels of all segments, degenerate ones included.
    pub labels: Vec<String>,
}

/// An annotation file.
#[derive(Debug, Clone)]
pub struct Annotations {
    /// Version that the file states.
    pub version: String,
    /// Videos by id, without the prefix `v_`.
    pub videos: BTreeMap<String, AnnotatedVideo>,
    /// Degenerate segments: the video and the recorded times in seconds.
    pub degenerate: Vec<(String, [f64; 2])>,
    /// First 16 hexadecimal digits of the file's BLAKE3 hash.
    pub fingerprint: String,
}

#[derive(Deserialize)]
struct AnnotationFile {
    #[serde(default)]
    version: String,
    database: BTreeMap<String, AnnotationEntry>,
}

#[derive(Deserialize)]
struct AnnotationEntry {
    subset: Subset,
    duration: f64,
    #[serde(default)]
    annotations: Vec<SegmentAnnotation>,
}

#[derive(Deserialize)]
struct SegmentAnnotation {
    segment: [f64; 2],
    label: String,
}

/// The video id in the name of a file or an array: the name without the prefix `v_` of ActivityNet's own
/// files. A name of 11 characters is an id already; some ids start with `v_`.
pub fn video_id(name: &str) -> &str {
    if name.len() == 11 { name } else { name.strip_prefix("v_").unwrap_or(name) }
}

/// The video id in a path: [`video_id`] of the file's stem.
pub fn video_name(path: &Path) -> String {
    video_id(&path.file_stem().unwrap_or_default().to_string_lossy()).to_owned()
}

impl Annotations {
    /// Reads an annotation file. Segments are clamped to their video; a segment that is then shorter than a
    /// millisecond is degenerate.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Annotations`] if it is not an annotation file, or has a video twice (`a`
    /// and `v_a`).
    pub fn read(path: &Path) -> Result<Annotations, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let bytes = files::read(path, MAX_FILE_BYTES).map_err(io)?;
        let wrong = |found: String| Error::Annotations { path: path.to_owned(), found };
        let file: AnnotationFile = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        if file.database.is_empty() {
            return Err(wrong("no videos".to_owned()));
        }
        let mut degenerate = Vec::new();
        let mut videos = BTreeMap::new();
        for (id, entry) in file.database {
            let id = video_id(&id).to_owned();
            if !(entry.duration.is_finite() && entry.duration >= 0.0) {
                return Err(wrong(format!("video {id} with a duration of {}", entry.duration)));
            }
            let mut video = AnnotatedVideo {
                subset: entry.subset,
                duration_s: entry.duration,
                segments: Vec::new(),
                labels: Vec::new(),
            };
            let mut known = HashSet::new();
            for SegmentAnnotation { segment, label } in entry.annotations {
                if known.insert(label.clone()) {
                    video.labels.push(label.clone());
                }
                let (start_s, end_s) = (segment[0].max(0.0), segment[1].min(entry.duration));
                if end_s - start_s >= SHORTEST_S {
                    video.segments.push(LabelledSegment { start_s, end_s, label });
                } else {
                    degenerate.push((id.clone(), segment));
                }
            }
            if videos.insert(id.clone(), video).is_some() {
                return Err(wrong(format!("it has the video {id} twice, with and without the prefix v_")));
            }
        }
        let fingerprint = blake3::hash(&bytes).to_hex()[..16].to_owned();
        Ok(Annotations { version: file.version, videos, degenerate, fingerprint })
    }

    /// All labels, in alphabetical order.
    pub fn labels(&self) -> Vec<&str> {
        let all: BTreeSet<&str> = self.videos.values().flat_map(|v| v.labels.iter().map(String::as_str)).collect();
        all.into_iter().collect()
    }

    /// The video of a name: an id with or without the prefix `v_`, a path ([`video_name`]), or the name of a
    /// frame or a clip (`id@12.5`, `id:3-9`).
    pub fn video(&self, name: &str) -> Option<&AnnotatedVideo> {
        // Ids contain `-` and `_`, also at the start, so no other prefix can be removed. Folders may contain
        // `@` and `:`.
        let file = name.rsplit('/').next().unwrap_or(name);
        let video = file.split(['@', ':']).next().unwrap_or(file);
        let names = [name, video].map(|name| self.videos.get(video_id(name)));
        let stems = [file, video].map(|file| self.videos.get(&video_name(Path::new(file))));
        names.into_iter().chain(stems).flatten().next()
    }
}

impl AnnotatedVideo {
    /// The default split of the video's rows. `None` if its annotations are withheld.
    pub fn split(&self) -> Option<Split> {
        match self.subset {
            Subset::Training => Some(Split::Train),
            Subset::Validation => Some(Split::Test),
            Subset::Testing => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Annotations, Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Annotations::read(file.path())
    }

    #[test]
    fn reads_the_original_layout() {
        let text = r#"{"taxonomy": [{"nodeName": "x"}], "version": "VERSION 1.3", "database": {
            "a": {"duration": 10.0, "subset": "training", "url": "http", "resolution": "320x240",
                  "annotations": [{"segment": [1.0, 3.0], "label": "Surfing"}, {"segment": [4, 11.5], "label": "Archery"},
                                  {"segment": [5, 5], "label": "Rowing"}, {"segment": [12, 14], "label": "Surfing"}]},
            "v_-b": {"duration": 5, "subset": "validation", "annotations": [{"segment": [-1, 2], "label": "Archery"}]},
            "c": {"duration": 7, "subset": "testing", "annotations": []}}}"#;
        let found = read(text).unwrap();
        assert_eq!(found.labels(), ["Archery", "Rowing", "Surfing"]);
        let a = &found.videos["a"];
        assert_eq!((a.segments.len(), a.segments[1].end_s, a.labels.len()), (2, 10.0, 3));
        assert_eq!(found.degenerate.len(), 2);
        assert_eq!(found.videos["-b"].segments[0].start_s, 0.0);
        assert_eq!(found.video("v_-b@1.5").and_then(AnnotatedVideo::split), Some(Split::Test));
        assert_eq!(found.video("c").unwrap().split(), None);
        assert!(found.video("d").is_none());
        for path in ["a.mp4", "/my@videos:2/v_a.webm", "videos/a.mkv:1.000-3.000", "videos/v_a.mp4@2.500"] {
            assert_eq!(found.video(path), Some(a), "{path}");
        }
        assert!(found.video("a/d.mp4").is_none());
        let twice = read(&text.replace("\"c\":", "\"v_a\":")).unwrap_err().to_string();
        assert!(twice.contains("it has the video a twice"), "{twice}");
    }

    #[test]
    fn keeps_ids_that_start_with_the_prefix() {
        for (name, id) in [
            ("v_UmAH95xls", "v_UmAH95xls"),
            ("v_v_UmAH95xls", "v_UmAH95xls"),
            ("v_abcdefghijk", "abcdefghijk"),
            ("v_a", "a"),
        ] {
            assert_eq!(video_id(name), id);
        }
        let text = r#"{"version": "VERSION 1.2", "database": {"v_UmAH95xls": {"duration": 5, "subset": "training",
            "annotations": [{"segment": [0, 2], "label": "Archery"}]}}}"#;
        let found = read(text).unwrap();
        for name in ["v_UmAH95xls", "v_v_UmAH95xls", "v_UmAH95xls@1.000", "v_UmAH95xls:0.000-2.000"] {
            assert!(found.video(name).is_some(), "{name}");
        }
        assert_eq!(found.version, "VERSION 1.2");
    }

    #[test]
    fn rejects_other_files_by_name() {
        for text in ["", "[]", "{\"database\": {}}", r#"{"database": {"a": {"duration": 1, "subset": "sometimes"}}}"#] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("annotations"), "{error}");
        }
    }

    #[test]
    fn reads_the_file_of_version_1_3() {
        let path = Path::new("../shared/activitynet/activity_net.v1-3.reconstructed.min.json");
        let Ok(found) = Annotations::read(path) else {
            return crate::base::skip::skip(format_args!("{} is missing", path.display()));
        };
        let count = |subset| found.videos.values().filter(|v| v.subset == subset).count();
        assert_eq!([Subset::Training, Subset::Validation, Subset::Testing].map(count), [9649, 4728, 4851]);
        assert_eq!((found.labels().len(), found.version.as_str()), (200, "VERSION 1.3"));
        assert_eq!(found.videos.values().filter(|v| v.labels.len() > 1).count(), 11);
        // The file's README counts 13 degenerate segments. Here 12 have equal ends, and none is outside its
        // video.
        assert_eq!(found.degenerate.len(), 12, "{:?}", found.degenerate);
        let segments: usize = found.videos.values().map(|v| v.segments.len()).sum();
        assert_eq!(segments + found.degenerate.len(), 14_859 + 7293);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_rejected(text in ".{0,200}") {
            let _ = read(&text);
        }

        #[test]
        fn segments_are_inside_their_video(duration in 0.0..1e4f64, start in -1e4..2e4f64, end in -1e4..2e4f64) {
            let text = serde_json::json!({"database": {"a": {"subset": "training", "duration": duration,
                "annotations": [{"segment": [start, end], "label": "x"}]}}});
            let found = read(&text.to_string()).unwrap();
            let video = &found.videos["a"];
            assert_eq!(video.segments.len() + found.degenerate.len(), 1);
            for segment in &video.segments {
                assert!(0.0 <= segment.start_s && segment.start_s < segment.end_s && segment.end_s <= duration);
            }
        }
    }
}
