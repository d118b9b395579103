//! Feature sets on disk: what encoders have made of images and clips, with labels and splits.
//!
//! A folder holds `images.npy` (n, d_image) and `videos.npy` (m, d_video), float32 or float16 in C order, and `images.jsonl` and
//! `videos.jsonl` with one object a row: `{"id": "...", "label": "...", "split": "train|val|test"}`; `label` may be a list
//! or missing, `video` names the source video of an image or a clip where there is one. Rows of numbers are read from the file when they are needed.

pub mod activitynet;
pub mod benchmark;
mod matrix;
pub mod sources;
mod writer;

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use matrix::Matrix;
pub use writer::{Labels, Line, Writer};

/// Why a feature set cannot be used.
#[derive(Debug, Error)]
pub enum Error {
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A `.npy` file of another form.
    #[error("{}: {found}; expected a 2-d .npy file of little-endian float32 or float16 in C order", path.display())]
    Npy {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// A line of a `.jsonl` file that is no row.
    #[error("{}, line {line}: {found}; expected {{\"id\": \"...\", \"label\": \"...\", \"split\": \"train|val|test\"}}", path.display())]
    Row {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        found: String,
    },
    /// A row of a `.jsonl` file that cannot be used, though its line is well formed.
    #[error("{}, line {line}: {found}", path.display())]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Why.
        found: String,
    },
    /// Numbers and rows do not match.
    #[error("{}: {rows} rows of numbers, but {lines} lines in the .jsonl beside it; {first}", path.display())]
    Count {
        /// The `.npy` file.
        path: PathBuf,
        /// Rows in it.
        rows: usize,
        /// Lines beside it.
        lines: usize,
        /// The first that has nothing beside it.
        first: String,
    },
    /// A row of another length than those before.
    #[error("{}: {id} has {found} numbers, where the rows before have {expected}", path.display())]
    Ragged {
        /// The folder that was to be written.
        path: PathBuf,
        /// The row.
        id: String,
        /// Its length.
        found: usize,
        /// Theirs.
        expected: usize,
    },
    /// A file that holds no annotations of ActivityNet.
    #[error("{}: {found}; expected the annotations of ActivityNet, {{\"database\": {{\"<id>\": {{\"subset\", \"duration\", \"annotations\"}}}}}}", path.display())]
    Annotations {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// A line of a benchmark that is none.
    #[error("{}, line {line}: {found}; expected a list as `reelseek dataset` writes it", path.display())]
    Benchmark {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        found: String,
    },
    /// Features of others that cannot be used.
    #[error("{}: {found}; expected a folder of .npy files, or one .npz, .safetensors or .h5, with an array for each video", path.display())]
    Source {
        /// Which file or folder.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// A feature that is NaN or infinite.
    #[error("{}: row {row} holds a value that is not finite; extract it anew or leave it out", path.display())]
    NotFinite {
        /// Which file.
        path: PathBuf,
        /// From 0.
        row: usize,
    },
}

/// What a row is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// To learn from.
    Train,
    /// To choose the best epoch by.
    Val,
    /// To measure with.
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

/// What is known of one row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its name.
    pub id: String,
    /// Labels, as places in [`Set::labels`].
    pub labels: Vec<u32>,
    /// What it is for.
    pub split: Split,
    /// The video it comes from.
    pub video: Option<String>,
    /// The moment of the video that it shows, where that is known; not in files.
    pub moment: Option<String>,
    /// Its time in the video, in seconds, where the file says it: `from` and `to`, equal for a frame.
    pub span_s: Option<(f64, f64)>,
}

impl Row {
    /// The source video if named, else the id.
    pub fn source(&self) -> &str {
        self.video.as_deref().unwrap_or(&self.id)
    }

    /// What an image and its own clip have in common when there are no labels: the moment if known, else the source.
    pub fn instance(&self) -> &str {
        self.moment.as_deref().unwrap_or_else(|| self.source())
    }

    /// Whether two rows share a label.
    pub fn shares_label(&self, other: &Row) -> bool {
        self.labels.iter().any(|l| other.labels.contains(l))
    }
}

/// Rows of one modality.
#[derive(Debug)]
pub struct Table {
    /// The numbers, (rows, length).
    pub matrix: Matrix,
    /// What is known of each row.
    pub rows: Vec<Row>,
}

/// Images and videos with their features.
#[derive(Debug)]
pub struct Set {
    /// The images.
    pub images: Table,
    /// The videos, or clips of them.
    pub videos: Table,
    /// The names of the labels.
    pub labels: Vec<String>,
}

impl Set {
    /// Opens a folder.
    ///
    /// # Errors
    /// An [`enum@Error`] that names the file, and the line where there is one.
    pub fn open(folder: &Path) -> Result<Set, Error> {
        Set::open_with(folder, None)
    }

    /// [`Set::open`], with labels and splits by `video` or `id` from annotations of ActivityNet, whatever the lines say.
    ///
    /// # Errors
    /// As [`Set::open`]; [`Error::Unusable`] also for a row that the annotations do not know, or whose labels are withheld.
    pub fn open_with(folder: &Path, annotations: Option<&activitynet::Annotations>) -> Result<Set, Error> {
        let mut names = HashMap::new();
        let images = table(folder, "images", annotations, &mut names)?;
        let videos = table(folder, "videos", annotations, &mut names)?;
        let mut labels = vec![String::new(); names.len()];
        for (name, at) in names {
            labels[at as usize] = name;
        }
        Ok(Set { images, videos, labels })
    }

    /// Reads every number once, so that what is not finite is known before any work is done. Gives the rows of images and of videos that hold nothing but
    /// zeros: as they are they have no direction, and a cosine of 0 with everything.
    ///
    /// # Errors
    /// [`Error::NotFinite`] with the row, or [`Error::Io`].
    pub fn check(&self) -> Result<[Vec<usize>; 2], Error> {
        let zeros = |table: &Table| -> Result<Vec<usize>, Error> {
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

    /// A short name for exactly these rows and numbers.
    ///
    /// # Errors
    /// If the numbers cannot be read.
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
) -> Result<Table, Error> {
    let matrix = Matrix::open(&folder.join(format!("{name}.npy")))?;
    let rows = rows(&folder.join(format!("{name}.jsonl")), annotations, names)?;
    if rows.len() != matrix.rows() {
        let path = folder.join(format!("{name}.npy"));
        let first = match rows.get(matrix.rows()) {
            Some(row) => format!("the first without numbers is {}", row.id),
            None => format!("the first without a line is row {}, from 0", rows.len()),
        };
        return Err(Error::Count { path, rows: matrix.rows(), lines: rows.len(), first });
    }
    Ok(Table { matrix, rows })
}

fn rows(
    path: &Path,
    annotations: Option<&activitynet::Annotations>,
    names: &mut HashMap<String, u32>,
) -> Result<Vec<Row>, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut rows = Vec::new();
    let mut lines: HashMap<String, usize> = HashMap::new();
    for (i, text) in BufReader::new(std::fs::File::open(path).map_err(io)?).lines().enumerate() {
        let text = text.map_err(io)?;
        if text.trim().is_empty() {
            continue;
        }
        let wrong = |found: String| Error::Row { path: path.to_owned(), line: i + 1, found };
        let unusable = |found: String| Error::Unusable { path: path.to_owned(), line: i + 1, found };
        let line: Line = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        if line.id.is_empty() {
            return Err(wrong("an empty id".to_owned()));
        }
        if let Some(first) = lines.insert(line.id.clone(), i + 1) {
            return Err(unusable(format!("id {} is that of line {first} already", line.id)));
        }
        let (labels, split): (Vec<String>, Split) = match annotations {
            None => {
                let split = line.split.ok_or_else(|| wrong("no split".to_owned()))?;
                (line.label.map_or(Vec::new(), Labels::into_vec), split)
            }
            Some(annotations) => {
                let named = line.video.as_deref().unwrap_or(&line.id);
                let video = annotations.video(named).or_else(|| annotations.video(&line.id));
                let video = video.ok_or_else(|| unusable(format!("video {named} is not in the annotations")))?;
                let split = video.split().ok_or_else(|| unusable(format!("the labels of {named} are withheld")))?;
                (video.labels.clone(), split)
            }
        };
        let mut places: Vec<u32> = Vec::with_capacity(labels.len());
        for label in labels {
            let next = names.len() as u32;
            let place = *names.entry(label).or_insert(next);
            if !places.contains(&place) {
                places.push(place);
            }
        }
        let span_s = line.from.map(|from| (from, line.to.unwrap_or(from)));
        rows.push(Row { id: line.id, labels: places, split, video: line.video, moment: None, span_s });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, rows: usize, columns: usize, lines: &str) {
        let values: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
        let values: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let bytes = sources::tests::npy_bytes("<f4", false, &format!("({rows}, {columns})"), &values);
        std::fs::write(folder.join(format!("{name}.npy")), bytes).unwrap();
        std::fs::write(folder.join(format!("{name}.jsonl")), lines).unwrap();
    }

    const IMAGES: &str = "{\"id\":\"a\",\"label\":\"x\",\"split\":\"train\"}\n{\"id\":\"b\",\"label\":[\"x\",\"y\"],\"split\":\"val\",\"video\":\"v\"}\n";
    const VIDEOS: &str = "{\"id\":\"v\",\"label\":\"y\",\"split\":\"test\"}\n";

    #[test]
    fn a_folder_of_the_contract_is_read() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "images", 2, 3, IMAGES);
        write(dir.path(), "videos", 1, 5, VIDEOS);
        let set = Set::open(dir.path()).unwrap();
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
        assert_ne!(Set::open(dir.path()).unwrap().fingerprint().unwrap(), before);
    }

    #[test]
    fn what_is_wrong_is_named_with_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let error = |dir: &Path| Set::open(dir).unwrap_err().to_string();
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
        assert!(error(dir.path()).ends_with("line 2: id v is that of line 1 already"), "{}", error(dir.path()));
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
    fn a_label_that_stands_twice_is_one_and_rows_of_zeros_are_found() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "images", 2, 1, &IMAGES.replace("[\"x\",\"y\"]", "[\"x\",\"y\",\"x\"]"));
        write(dir.path(), "videos", 1, 5, VIDEOS);
        let set = Set::open(dir.path()).unwrap();
        assert_eq!(set.images.rows[1].labels, [0, 1]);
        assert_eq!(set.check().unwrap(), [vec![0], vec![]]);
    }

    #[test]
    fn a_value_that_is_not_finite_is_named_with_its_row() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "images", 2, 3, IMAGES);
        let path = dir.path().join("images.npy");
        let mut bytes = std::fs::read(&path).unwrap();
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        let error = Matrix::open(&path).unwrap().read(1, &mut [0.0; 3]).unwrap_err().to_string();
        assert!(error.contains("row 1"), "{error}");
    }
}
