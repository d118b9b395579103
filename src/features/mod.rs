//! Feature sets on disk: encoders' features of images and clips, with labels and splits.
//!
//! A folder contains `images.npy` (n, d_image) and `videos.npy` (m, d_video), float32 or float16 in C order,
//! and `images.jsonl` and `videos.jsonl` with one object per row: `{"id": "...", "label": "...", "split":
//! "train|val|test"}`. `label` may be a list or absent; the optional `video` names the source video of an
//! image or a clip. Features are read from the file when they are needed.

pub mod activitynet;
pub mod archive;
pub mod benchmark;
mod matrix;
mod writer;

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::base::files;

pub use matrix::FeatureMatrix;
pub use writer::{FeatureLine, FeatureWriter};

/// Why a feature set cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A `.npy` file has an unsupported form.
    #[error("{}: {found}; expected a 2-d .npy file of little-endian float32 or float16 in C order", path.display())]
    Npy {
        /// Path of the file.
        path: PathBuf,
        /// The fault.
        found: String,
    },
    /// A line of a `.jsonl` file is not a row.
    #[error("{}, line {line}: {found}; expected {{\"id\": \"...\", \"label\": \"...\", \"split\": \"train|val|test\"}}", path.display())]
    Row {
        /// Path of the file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// The fault.
        found: String,
    },
    /// A well-formed row of a `.jsonl` file cannot be used.
    #[error("{}, line {line}: {found}", path.display())]
    Unusable {
        /// Path of the file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// The reason.
        found: String,
    },
    /// A `.npy` file and its `.jsonl` file have different numbers of rows.
    #[error("{}: {rows} rows of numbers, but {lines} lines in its .jsonl file; {first}", path.display())]
    Count {
        /// The `.npy` file.
        path: PathBuf,
        /// Rows of the `.npy` file.
        rows: usize,
        /// Lines of the `.jsonl` file.
        lines: usize,
        /// Description of the first row without a counterpart.
        first: String,
    },
    /// A row has another length than the previous rows.
    #[error("{}: {id} has {found} numbers, the previous rows have {expected}", path.display())]
    Ragged {
        /// Folder of the feature set.
        path: PathBuf,
        /// Identifier of the row.
        id: String,
        /// Length of the row.
        found: usize,
        /// Length of the previous rows.
        expected: usize,
    },
    /// A file does not contain annotations of ActivityNet.
    #[error("{}: {found}; expected the annotations of ActivityNet, {{\"database\": {{\"<id>\": {{\"subset\", \"duration\", \"annotations\"}}}}}}", path.display())]
    Annotations {
        /// Path of the file.
        path: PathBuf,
        /// The fault.
        found: String,
    },
    /// A line of a benchmark list is invalid.
    #[error("{}, line {line}: {found}; expected a line of a benchmark list", path.display())]
    Benchmark {
        /// Path of the file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// The fault.
        found: String,
    },
    /// An archive of features cannot be used.
    #[error("{}: {found}; expected a folder of .npy files, or one .npz, .safetensors or .h5, with an array for each video", path.display())]
    Archive {
        /// Path of the file or folder.
        path: PathBuf,
        /// The fault.
        found: String,
    },
    /// The archive is an HDF5 file, and this build lacks support for HDF5.
    #[error("{}: this program was built without support for HDF5", path.display())]
    NoHdf5 {
        /// Path of the file.
        path: PathBuf,
    },
    /// A feature is NaN or infinite.
    #[error("{}: row {row} holds a value that is not finite", path.display())]
    NotFinite {
        /// Path of the file.
        path: PathBuf,
        /// Row, from 0.
        row: usize,
    },
}

/// Purpose of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Rows for training.
    Train,
    /// Rows for validation: the best epoch is chosen on them.
    Val,
    /// Rows for tests: results are measured on them.
    Test,
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Split::Train => "train",
            Split::Val => "val",
            Split::Test => "test",
        })
    }
}

/// Metadata of one row.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureRow {
    /// Unique identifier.
    pub id: String,
    /// Labels, as indices into [`FeatureSet::labels`].
    pub labels: Vec<u32>,
    /// Purpose of the row.
    pub split: Split,
    /// Name of the source video, if known.
    pub video: Option<String>,
    /// Name of the moment of the video, if known; files do not contain it.
    pub moment: Option<String>,
    /// Span in the video in seconds, if the file contains it: `from` and `to`, equal for a frame.
    pub span_s: Option<(f64, f64)>,
}

impl FeatureRow {
    /// A row without labels, video, moment and span.
    pub fn new(id: impl Into<String>, split: Split) -> FeatureRow {
        FeatureRow { id: id.into(), labels: Vec::new(), split, video: None, moment: None, span_s: None }
    }

    /// The source video if it is known, else the id.
    pub fn source(&self) -> &str {
        self.video.as_deref().unwrap_or(&self.id)
    }

    /// The name that matches an image to its own clip without labels: the moment if it is known, else the
    /// source.
    pub fn instance(&self) -> &str {
        self.moment.as_deref().unwrap_or_else(|| self.source())
    }

    /// Whether two rows share a label.
    pub fn shares_label(&self, other: &FeatureRow) -> bool {
        self.labels.iter().any(|l| other.labels.contains(l))
    }
}

/// Rows of one modality.
#[derive(Debug)]
pub struct FeatureTable {
    /// Features, of shape (rows, length).
    pub matrix: FeatureMatrix,
    /// Metadata of each row.
    pub rows: Vec<FeatureRow>,
}

/// Images and videos with their features.
#[derive(Debug)]
pub struct FeatureSet {
    /// Images.
    pub images: FeatureTable,
    /// Videos, or clips of videos.
    pub videos: FeatureTable,
    /// Names of the labels.
    pub labels: Vec<String>,
}

impl FeatureSet {
    /// Opens a feature set.
    ///
    /// # Errors
    /// An [`enum@Error`] that names the file, and the line of a `.jsonl` file.
    pub fn open(folder: &Path) -> Result<FeatureSet, Error> {
        FeatureSet::open_with(folder, None)
    }

    /// Opens a feature set. With annotations of ActivityNet, labels and splits come from the annotations, by
    /// `video` or `id`, instead of the lines.
    ///
    /// # Errors
    /// As [`FeatureSet::open`]; [`Error::Unusable`] for a row that the annotations do not contain, or whose
    /// labels are withheld.
    pub fn open_with(folder: &Path, annotations: Option<&activitynet::Annotations>) -> Result<FeatureSet, Error> {
        let mut names = HashMap::new();
        let images = table(folder, "images", annotations, &mut names)?;
        let videos = table(folder, "videos", annotations, &mut names)?;
        let mut labels = vec![String::new(); names.len()];
        for (name, at) in names {
            labels[at as usize] = name;
        }
        Ok(FeatureSet { images, videos, labels })
    }

    /// Reads all features once, to find values that are not finite before any work. Returns the rows of
    /// images and the rows of videos whose features are all zero: they have a cosine of 0 with everything.
    ///
    /// # Errors
    /// [`Error::NotFinite`] with the row, or [`Error::Io`].
    pub fn check(&self) -> Result<[Vec<usize>; 2], Error> {
        let zeros = |table: &FeatureTable| -> Result<Vec<usize>, Error> {
            let rows = (0..table.rows.len()).into_par_iter();
            let found = rows.map_init(
                || vec![0f32; table.matrix.columns()],
                |row, i| {
                    table.matrix.read(i, row)?;
                    Ok(row.iter().all(|x| *x == 0.0).then_some(i))
                },
            );
            Ok(found.collect::<Result<Vec<Option<usize>>, Error>>()?.into_iter().flatten().collect())
        };
        Ok([zeros(&self.images)?, zeros(&self.videos)?])
    }

    /// First 16 hexadecimal digits of a hash over rows and features.
    ///
    /// # Errors
    /// If the features cannot be read.
    pub fn fingerprint(&self) -> Result<String, Error> {
        let mut hash = blake3::Hasher::new();
        for table in [&self.images, &self.videos] {
            let mut row = vec![0f32; table.matrix.columns()];
            for (i, about) in table.rows.iter().enumerate() {
                table.matrix.read(i, &mut row)?;
                hash.update(bytemuck::cast_slice(&row));
                let labels: Vec<&String> = about.labels.iter().map(|l| &self.labels[*l as usize]).collect();
                hash.update(format!("{:?}", (&about.id, labels, about.split, &about.video)).as_bytes());
            }
        }
        Ok(hash.finalize().to_hex()[..16].to_owned())
    }
}

fn table(
    folder: &Path,
    name: &str,
    annotations: Option<&activitynet::Annotations>,
    names: &mut HashMap<String, u32>,
) -> Result<FeatureTable, Error> {
    let matrix = FeatureMatrix::open(&folder.join(format!("{name}.npy")))?;
    let rows = rows(&folder.join(format!("{name}.jsonl")), annotations, names)?;
    if rows.len() != matrix.rows() {
        let path = folder.join(format!("{name}.npy"));
        let first = match rows.get(matrix.rows()) {
            Some(row) => format!("the first without numbers is {}", row.id),
            None => format!("the first without a line is row {}, from 0", rows.len()),
        };
        return Err(Error::Count { path, rows: matrix.rows(), lines: rows.len(), first });
    }
    Ok(FeatureTable { matrix, rows })
}

fn rows(
    path: &Path,
    annotations: Option<&activitynet::Annotations>,
    names: &mut HashMap<String, u32>,
) -> Result<Vec<FeatureRow>, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut rows = Vec::new();
    let mut lines: HashMap<String, usize> = HashMap::new();
    for (i, text) in BufReader::new(files::open(path).map_err(io)?).lines().enumerate() {
        let text = text.map_err(io)?;
        if text.trim().is_empty() {
            continue;
        }
        let wrong = |found: String| Error::Row { path: path.to_owned(), line: i + 1, found };
        let unusable = |found: String| Error::Unusable { path: path.to_owned(), line: i + 1, found };
        let line: FeatureLine = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        if line.id.is_empty() {
            return Err(wrong("an empty id".to_owned()));
        }
        if let Some(first) = lines.insert(line.id.clone(), i + 1) {
            return Err(unusable(format!("id {} repeats the id of line {first}", line.id)));
        }
        let (labels, split): (Vec<String>, Split) = match annotations {
            None => {
                let split = line.split.ok_or_else(|| wrong("no split".to_owned()))?;
                (line.labels, split)
            }
            Some(annotations) => {
                let named = line.video.as_deref().unwrap_or(&line.id);
                let video = annotations.video(named).or_else(|| annotations.video(&line.id));
                let video = video.ok_or_else(|| unusable(format!("video {named} is not in the annotations")))?;
                let split = video.split().ok_or_else(|| unusable(format!("the labels of {named} are withheld")))?;
                (video.labels.clone(), split)
            }
        };
        let mut indices: Vec<u32> = Vec::with_capacity(labels.len());
        for label in labels {
            let next = names.len() as u32;
            let index = *names.entry(label).or_insert(next);
            if !indices.contains(&index) {
                indices.push(index);
            }
        }
        let span_s = line.from.map(|from| (from, line.to.unwrap_or(from)));
        rows.push(FeatureRow { id: line.id, labels: indices, split, video: line.video, moment: None, span_s });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, rows: usize, columns: usize, lines: &str) {
        let values: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
        let values: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let bytes = archive::tests::npy_bytes("<f4", false, &format!("({rows}, {columns})"), &values);
        std::fs::write(folder.join(format!("{name}.npy")), bytes).unwrap();
        std::fs::write(folder.join(format!("{name}.jsonl")), lines).unwrap();
    }

    const IMAGES: &str = "{\"id\":\"a\",\"label\":\"x\",\"split\":\"train\"}\n{\"id\":\"b\",\"label\":[\"x\",\"y\"],\"split\":\"val\",\"video\":\"v\"}\n";
    const VIDEOS: &str = "{\"id\":\"v\",\"label\":\"y\",\"split\":\"test\"}\n";

    #[test]
    fn reads_a_feature_set() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "images", 2, 3, IMAGES);
        write(dir.path(), "videos", 1, 5, VIDEOS);
        let set = FeatureSet::open(dir.path()).unwrap();
        let mut row = [0f32; 3];
        set.images.matrix.read(1, &mut row).unwrap();
        assert_eq!(row, [3.0, 4.0, 5.0]);
        assert_eq!(set.labels, ["x", "y"]);
        assert!(set.images.rows[1].shares_label(&set.videos.rows[0]));
        assert!(!set.images.rows[0].shares_label(&set.videos.rows[0]));
        assert_eq!(set.images.rows[1].instance(), "v");
        assert_eq!(set.videos.rows[0].split, Split::Test);
        let before = set.fingerprint().unwrap();
        write(dir.path(), "videos", 1, 5, &VIDEOS.replace("\"y\"", "\"z\""));
        assert_ne!(FeatureSet::open(dir.path()).unwrap().fingerprint().unwrap(), before);
    }

    #[test]
    fn names_the_file_and_line_of_a_fault() {
        let dir = tempfile::tempdir().unwrap();
        let error = |dir: &Path| FeatureSet::open(dir).unwrap_err().to_string();
        assert!(error(dir.path()).contains("images.npy"));
        write(dir.path(), "images", 2, 3, IMAGES);
        write(dir.path(), "videos", 2, 5, VIDEOS);
        assert!(error(dir.path()).contains("2 rows of numbers, but 1 lines"), "{}", error(dir.path()));
        assert!(error(dir.path()).contains("row 1, from 0"), "{}", error(dir.path()));
        write(dir.path(), "videos", 1, 5, &format!("{VIDEOS}{{\"id\":\"w\",\"split\":\"test\"}}\n"));
        assert!(error(dir.path()).contains("the first without numbers is w"), "{}", error(dir.path()));
        write(dir.path(), "videos", 1, 5, "{\"id\":\"\",\"split\":\"test\"}\n");
        assert!(error(dir.path()).contains("line 1: an empty id"), "{}", error(dir.path()));
        write(dir.path(), "videos", 2, 5, &VIDEOS.repeat(2));
        assert!(error(dir.path()).ends_with("line 2: id v repeats the id of line 1"), "{}", error(dir.path()));
        write(dir.path(), "videos", 1, 5, "{\"id\":\"v\",\"split\":\"sometimes\"}\n");
        assert!(error(dir.path()).contains("videos.jsonl, line 1"), "{}", error(dir.path()));
        write(dir.path(), "videos", 1, 5, VIDEOS);
        let path = dir.path().join("videos.npy");
        let bytes = std::fs::read(&path).unwrap();
        for cut in [0, 5, 20, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            assert!(error(dir.path()).contains("videos.npy"), "{cut}");
        }
    }

    #[test]
    fn merges_repeated_labels_and_finds_rows_of_zeros() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "images", 2, 1, &IMAGES.replace("[\"x\",\"y\"]", "[\"x\",\"y\",\"x\"]"));
        write(dir.path(), "videos", 1, 5, VIDEOS);
        let set = FeatureSet::open(dir.path()).unwrap();
        assert_eq!(set.images.rows[1].labels, [0, 1]);
        assert_eq!(set.check().unwrap(), [vec![0], vec![]]);
    }

    #[test]
    fn names_the_row_of_a_value_that_is_not_finite() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "images", 2, 3, IMAGES);
        let path = dir.path().join("images.npy");
        let mut bytes = std::fs::read(&path).unwrap();
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        let error = FeatureMatrix::open(&path).unwrap().read(1, &mut [0.0; 3]).unwrap_err().to_string();
        assert!(error.contains("row 1"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn any_damage_is_read_or_rejected(at in 0usize..200, byte: u8, line in ".{0,80}") {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), "images", 2, 3, IMAGES);
            write(dir.path(), "videos", 1, 5, &line);
            let _ = FeatureSet::open(dir.path());
            write(dir.path(), "videos", 1, 5, VIDEOS);
            let path = dir.path().join("videos.npy");
            let mut bytes = std::fs::read(&path).unwrap();
            let at = at % bytes.len();
            bytes[at] = byte;
            std::fs::write(&path, bytes).unwrap();
            let _ = FeatureSet::open(dir.path()).and_then(|set| set.check());
        }
    }
}
