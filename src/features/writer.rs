//! Writing a feature set, row by row.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use super::{Error, Split};

/// One line of a `.jsonl` file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FeatureLine {
    /// Unique identifier of the row.
    pub id: String,
    /// The labels. A line contains one label or a list as `label`.
    #[serde(rename = "label", default, deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Purpose of the row; may be absent if annotations define it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// Name of the source video.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video: Option<String>,
    /// Start in the video in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<f64>,
    /// End in the video in seconds; equal to the start for a frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<f64>,
}

impl FeatureLine {
    /// A line without labels, split, video and span.
    pub fn new(id: impl Into<String>) -> FeatureLine {
        FeatureLine { id: id.into(), ..FeatureLine::default() }
    }
}

/// Reads a label, a list of labels, or `null`.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum LineLabels {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Option::deserialize(deserializer)? {
        None => Vec::new(),
        Some(LineLabels::One(label)) => vec![label],
        Some(LineLabels::Many(labels)) => labels,
    })
}

/// Length of the header of a `.npy` file in bytes, enough for any number of rows.
const HEADER: usize = 128;

/// Writes `NAME.npy` (float32) and `NAME.jsonl` under temporary names. [`FeatureWriter::finish`] renames
/// them; a writer that is dropped removes them.
#[derive(Debug)]
pub struct FeatureWriter {
    folder: PathBuf,
    name: &'static str,
    numbers: BufWriter<File>,
    lines: BufWriter<File>,
    rows: usize,
    length: Option<usize>,
}

impl FeatureWriter {
    /// Starts a table, `images` or `videos`, in a folder. Creates the folder if it is absent.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(folder: &Path, name: &'static str) -> Result<FeatureWriter, Error> {
        let io = |source| Error::Io { path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(io)?;
        let create = |ending: &str| File::create(folder.join(format!("{name}.{ending}.part"))).map(BufWriter::new);
        let (mut numbers, lines) = (create("npy").map_err(io)?, create("jsonl").map_err(io)?);
        numbers.write_all(&[0; HEADER]).map_err(io)?;
        Ok(FeatureWriter { folder: folder.to_owned(), name, numbers, lines, rows: 0, length: None })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Ragged`] if the row is empty or has another length than the previous rows.
    pub fn push(&mut self, line: &FeatureLine, values: &[f32]) -> Result<(), Error> {
        let length = *self.length.get_or_insert(values.len());
        if values.is_empty() || values.len() != length {
            let (path, id) = (self.folder.clone(), line.id.clone());
            return Err(Error::Ragged { path, id, found: values.len(), expected: length });
        }
        let io = |source| Error::Io { path: self.folder.clone(), source };
        let text = serde_json::to_string(line).map_err(|error| io(error.into()))?;
        values.iter().try_for_each(|value| self.numbers.write_all(&value.to_le_bytes())).map_err(io)?;
        writeln!(self.lines, "{text}").map_err(io)?;
        self.rows += 1;
        Ok(())
    }

    /// Number of rows so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Renames the files of all writers after all of them are synced to disk.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish<const N: usize>(mut writers: [FeatureWriter; N]) -> Result<(), Error> {
        writers.iter_mut().try_for_each(|writer| writer.close().map_err(|source| writer.error(source)))?;
        for writer in &writers {
            for ending in ["npy", "jsonl"] {
                let renamed =
                    std::fs::rename(writer.part(ending), writer.folder.join(format!("{}.{ending}", writer.name)));
                renamed.map_err(|source| writer.error(source))?;
            }
        }
        Ok(())
    }

    fn close(&mut self) -> std::io::Result<()> {
        self.lines.flush()?;
        self.lines.get_ref().sync_all()?;
        self.numbers.seek(SeekFrom::Start(0))?;
        self.numbers.write_all(&header(self.rows, self.length.unwrap_or(1)))?;
        self.numbers.flush()?;
        self.numbers.get_ref().sync_all()
    }

    fn part(&self, ending: &str) -> PathBuf {
        self.folder.join(format!("{}.{ending}.part", self.name))
    }

    fn error(&self, source: std::io::Error) -> Error {
        Error::Io { path: self.folder.clone(), source }
    }
}

impl Drop for FeatureWriter {
    fn drop(&mut self) {
        for ending in ["npy", "jsonl"] {
            // Absent after `finish`.
            let _ = std::fs::remove_file(self.part(ending));
        }
    }
}

/// The header of a `.npy` file, version 1.0.
fn header(rows: usize, length: usize) -> [u8; HEADER] {
    let mut bytes = [b' '; HEADER];
    bytes[..8].copy_from_slice(b"\x93NUMPY\x01\x00");
    bytes[8..10].copy_from_slice(&(HEADER as u16 - 10).to_le_bytes());
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {length}), }}");
    bytes[10..10 + text.len()].copy_from_slice(text.as_bytes());
    bytes[HEADER - 1] = b'\n';
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::FeatureSet;
    use super::*;

    #[test]
    fn a_line_has_one_label_several_or_none() {
        let labels = |json: &str| serde_json::from_str::<FeatureLine>(json).unwrap().labels;
        assert_eq!(labels(r#"{"id": "a", "label": "x"}"#), ["x"]);
        assert_eq!(labels(r#"{"id": "a", "label": ["x", "y"]}"#), ["x", "y"]);
        for none in [r#"{"id": "a"}"#, r#"{"id": "a", "label": null}"#, r#"{"id": "a", "label": []}"#] {
            assert!(labels(none).is_empty());
        }
        assert_eq!(serde_json::to_string(&FeatureLine::new("a")).unwrap(), r#"{"id":"a"}"#);
    }

    #[test]
    fn writes_a_feature_set() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("new");
        let make = |name: &'static str| {
            let mut writer = FeatureWriter::create(&folder, name).unwrap();
            for i in 0..3 {
                let line = FeatureLine {
                    labels: vec!["x".into()],
                    split: Some(Split::Test),
                    video: Some("v".into()),
                    from: Some(1.5),
                    ..FeatureLine::new(format!("{name}{i}"))
                };
                writer.push(&line, &[i as f32, 2.0]).unwrap();
            }
            let error = writer.push(&FeatureLine::new("short"), &[1.0]).unwrap_err().to_string();
            assert!(error.ends_with("short has 1 numbers, the previous rows have 2"), "{error}");
            assert_eq!(writer.rows(), 3);
            writer
        };
        drop(make("images"));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "unfinished files are removed");
        FeatureWriter::finish([make("images"), make("videos")]).unwrap();
        let set = FeatureSet::open(&folder).unwrap();
        set.check().unwrap();
        assert_eq!((set.images.matrix.rows(), set.videos.matrix.columns(), set.labels.len()), (3, 2, 1));
        assert_eq!(set.images.rows[2].span_s, Some((1.5, 1.5)));
        let mut row = [0.0; 2];
        set.videos.matrix.read(2, &mut row).unwrap();
        assert_eq!(row, [2.0, 2.0]);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 4, "no temporary files are left");
    }
}
