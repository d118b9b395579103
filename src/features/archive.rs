//! Archives of features that other programs extracted, with one array per video: a folder of `.npy` files,
//! one `.npz`, one `.safetensors` or, with the Cargo feature `hdf5`, one `.h5`.
//!
//! The name of an array is the id of its video, with an optional prefix `v_` and extension `.npy`. An array
//! has the shape (length): one vector of the whole video; or (vectors, length): vectors evenly spaced over
//! the video's time. The shape (1, vectors, length) is read as the latter.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::Error;
use super::activitynet::video_id;
use crate::base::{files, npy, tensors};

/// Most numbers in one array: a day of video with 1,000 numbers for each third of a second. A compressed
/// array may claim more than memory holds.
const MAX_NUMBERS: u64 = 1 << 28;

/// Feature vectors of one video, evenly spaced over its time.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureArray {
    /// The vectors, row-major.
    pub values: Vec<f32>,
    /// Length of a vector.
    pub length: usize,
}

/// An opened archive of features.
pub struct FeatureArchive {
    path: PathBuf,
    /// Name of the array of each video id.
    names: BTreeMap<String, String>,
    format: ArchiveFormat,
    /// The first array that was read and the length of its vectors, which all arrays share.
    first: OnceLock<(String, usize)>,
}

enum ArchiveFormat {
    Folder,
    Npz(std::sync::Mutex<zip::ZipArchive<BufReader<File>>>),
    Safetensors(tensors::TensorFile<'static>),
    #[cfg(feature = "hdf5")]
    Hdf5(hdf5_metno::File),
}

impl std::fmt::Debug for FeatureArchive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeatureArchive")
            .field("path", &self.path)
            .field("videos", &self.names.len())
            .finish_non_exhaustive()
    }
}

impl FeatureArchive {
    /// Opens an archive and lists its videos, without reading arrays.
    ///
    /// # Errors
    /// [`Error::Io`] if it does not exist or cannot be read; [`Error::NoHdf5`] for an HDF5 file in a build
    /// without HDF5; [`Error::Archive`] for another format, or two arrays of one video.
    pub fn open(path: &Path) -> Result<FeatureArchive, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let wrong = |found: String| Error::Archive { path: path.to_owned(), found };
        std::fs::metadata(path).map_err(io)?;
        let (format, arrays) = if path.is_dir() {
            let mut arrays = Vec::new();
            for entry in std::fs::read_dir(path).map_err(io)? {
                let name = entry.map_err(io)?.file_name().to_string_lossy().into_owned();
                if name.ends_with(".npy") {
                    arrays.push(name);
                }
            }
            (ArchiveFormat::Folder, arrays)
        } else {
            match path.extension().and_then(|end| end.to_str()) {
                Some("npz") => {
                    let file = BufReader::new(files::open(path).map_err(io)?);
                    let archive = zip::ZipArchive::new(file).map_err(|e| wrong(e.to_string()))?;
                    let names = archive.file_names().flatten();
                    let arrays = names.filter_map(|name| name.strip_suffix(".npy").map(str::to_owned)).collect();
                    (ArchiveFormat::Npz(std::sync::Mutex::new(archive)), arrays)
                }
                Some("safetensors") => {
                    let file = tensors::open(path).map_err(|error| wrong(error.to_string()))?;
                    let arrays = file.names();
                    (ArchiveFormat::Safetensors(file), arrays)
                }
                Some("h5" | "hdf5") => hdf5(path)?,
                _ => return Err(wrong("neither a folder nor a file with a known extension".to_owned())),
            }
        };
        let mut names = BTreeMap::new();
        for array in arrays {
            let stem = array.strip_suffix(".npy").unwrap_or(&array);
            let video = video_id(stem).to_owned();
            if let Some(other) = names.insert(video.clone(), array.clone()) {
                return Err(wrong(format!("the arrays {other} and {array} have the same video {video}")));
            }
        }
        if names.is_empty() {
            return Err(wrong("no arrays".to_owned()));
        }
        Ok(FeatureArchive { path: path.to_owned(), names, format, first: OnceLock::new() })
    }

    /// Whether the archive has an array of this video.
    pub fn has(&self, video: &str) -> bool {
        self.names.contains_key(video)
    }

    /// Ids of the videos.
    pub fn videos(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// Reads the array of a video.
    ///
    /// # Errors
    /// [`Error::Archive`] with the array's name: an unsupported shape or number type, an empty array, NaN or
    /// infinity with its row, or vectors of another length than those of the array that was read first.
    pub fn read(&self, video: &str) -> Result<FeatureArray, Error> {
        let wrong = |found: String| Error::Archive { path: self.path.clone(), found };
        let name = self.names.get(video).ok_or_else(|| wrong(format!("no array of video {video}")))?;
        let in_array = |found: String| wrong(format!("array {name}: {found}"));
        let (values, shape) = match &self.format {
            ArchiveFormat::Folder => {
                let path = self.path.join(name);
                let file = files::open(&path).map_err(|source| Error::Io { path, source })?;
                values(npy::open(BufReader::new(file)).map_err(|e| in_array(e.to_string()))?).map_err(in_array)?
            }
            ArchiveFormat::Npz(archive) => {
                let mut archive = archive.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let entry = archive.by_name(&format!("{name}.npy")).map_err(|e| in_array(e.to_string()))?;
                values(npy::open(entry).map_err(|e| in_array(e.to_string()))?).map_err(in_array)?
            }
            ArchiveFormat::Safetensors(file) => {
                let shape = file.shape(name).map_err(|e| in_array(e.to_string()))?;
                (file.take(name, &shape).map_err(|e| in_array(e.to_string()))?, shape)
            }
            #[cfg(feature = "hdf5")]
            ArchiveFormat::Hdf5(file) => read_hdf5(file, name).map_err(|e| in_array(e.to_string()))?,
        };
        let length = match shape.as_slice() {
            [length] | [_, length] | [1, _, length] => *length,
            _ => return Err(in_array(format!("shape {shape:?}; expected (length) or (vectors, length)"))),
        };
        if values.is_empty() || length == 0 {
            return Err(in_array("it is empty".to_owned()));
        }
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(in_array(format!("row {} holds {}", at / length, values[at])));
        }
        let (other, expected) = self.first.get_or_init(|| (name.clone(), length));
        if length != *expected {
            return Err(in_array(format!("vectors of {length} numbers, but array {other} has vectors of {expected}")));
        }
        Ok(FeatureArray { values, length })
    }
}

impl FeatureArray {
    /// Mean of the vectors between two times of a video of length `duration_s`; the nearest vector if there
    /// is none between them. Vector `i` of `n` covers the time from `i / n` to `(i + 1) / n` of the video.
    pub fn mean(&self, from_s: f64, to_s: f64, duration_s: f64) -> Vec<f32> {
        let n = self.values.len() / self.length;
        let index = |at: f64| if duration_s > 0.0 { (at / duration_s * n as f64).max(0.0) } else { 0.0 };
        let first = (index(from_s) as usize).min(n - 1);
        let last = (index(to_s).ceil() as usize).clamp(first + 1, n);
        // Summed in double precision: the sum of large numbers may exceed single precision, their mean does
        // not.
        let mut sums = vec![0f64; self.length];
        for row in self.values.chunks_exact(self.length).take(last).skip(first) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        sums.into_iter().map(|sum| (sum / (last - first) as f64) as f32).collect()
    }
}

/// Values and shape of an array.
fn values<R: Read>(file: npyz::NpyFile<R>) -> Result<(Vec<f32>, Vec<usize>), String> {
    if file.order() != npyz::Order::C {
        return Err("Fortran order; expected C order (numpy.ascontiguousarray)".to_owned());
    }
    let shape =
        file.shape().iter().map(|n| usize::try_from(*n).map_err(|e| e.to_string())).collect::<Result<_, _>>()?;
    check_size(file.shape().iter().product())?;
    let dtype = file.dtype().descr();
    let error = |e: std::io::Error| e.to_string();
    let values = match dtype.trim_matches('\'') {
        "<f2" => file.into_vec::<half::f16>().map_err(error)?.into_iter().map(half::f16::to_f32).collect(),
        "<f4" => file.into_vec::<f32>().map_err(error)?,
        "<f8" => file.into_vec::<f64>().map_err(error)?.into_iter().map(|x| x as f32).collect(),
        other => {
            return Err(format!(
                "numbers of type {other}; expected little-endian float16, float32 or float64 (numpy: astype('<f4'))"
            ));
        }
    };
    Ok((values, shape))
}

fn check_size(numbers: u64) -> Result<(), String> {
    if numbers <= MAX_NUMBERS { Ok(()) } else { Err(format!("{numbers} numbers; expected at most {MAX_NUMBERS}")) }
}

#[cfg(not(feature = "hdf5"))]
fn hdf5(path: &Path) -> Result<(ArchiveFormat, Vec<String>), Error> {
    Err(Error::NoHdf5 { path: path.to_owned() })
}

#[cfg(feature = "hdf5")]
fn hdf5(path: &Path) -> Result<(ArchiveFormat, Vec<String>), Error> {
    let wrong = |error: hdf5_metno::Error| Error::Archive { path: path.to_owned(), found: error.to_string() };
    drop(files::open(path).map_err(|source| Error::Io { path: path.to_owned(), source })?);
    let file = hdf5_metno::File::open(path).map_err(wrong)?;
    let arrays = file.member_names().map_err(wrong)?;
    Ok((ArchiveFormat::Hdf5(file), arrays))
}

/// Reads the dataset of this name. If the name is a group's (as in ActivityNet's own C3D features), reads its
/// only member.
#[cfg(feature = "hdf5")]
fn read_hdf5(file: &hdf5_metno::File, name: &str) -> Result<(Vec<f32>, Vec<usize>), hdf5_metno::Error> {
    let dataset = match file.group(name) {
        Ok(group) => {
            let members = group.member_names()?;
            let [only] = members.as_slice() else {
                return Err(format!("a group of {} datasets, expected one", members.len()).into());
            };
            group.dataset(only)?
        }
        Err(_) => file.dataset(name)?,
    };
    check_size(dataset.size() as u64)?;
    Ok((dataset.read_raw::<f32>()?, dataset.shape()))
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use super::*;

    pub(in crate::features) fn npy_bytes(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Vec<u8> {
        let fortran = if fortran { "True" } else { "False" };
        let mut header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}");
        while (10 + header.len() + 1) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn reads_a_folder_of_arrays() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: Vec<u8>| std::fs::write(dir.path().join(name), bytes).unwrap();
        write("v_a.npy", npy_bytes("<f4", false, "(2, 3)", &floats(&[1.0, 2.0, 3.0, 5.0, 6.0, 7.0])));
        let doubles: Vec<u8> = [1.5f64, 2.5].iter().flat_map(|v| v.to_le_bytes()).collect();
        write("b.npy", npy_bytes("<f8", false, "(2,)", &doubles));
        write("c.npy", npy_bytes("<f2", false, "(1, 1, 1)", &half::f16::from_f32(0.5).to_le_bytes()));
        write("big.npy", npy_bytes(">f4", false, "(1,)", &[0; 4]));
        write("fortran.npy", npy_bytes("<f4", true, "(2, 2)", &[0; 16]));
        write("nan.npy", npy_bytes("<f4", false, "(2, 1)", &floats(&[0.0, f32::NAN])));
        write("cube.npy", npy_bytes("<f4", false, "(2, 1, 1)", &[0; 8]));
        write("empty.npy", npy_bytes("<f4", false, "(0, 4)", &[]));
        write("notes.txt", vec![]);
        let archive = FeatureArchive::open(dir.path()).unwrap();
        assert_eq!(archive.videos().count(), 8);
        let a = archive.read("a").unwrap();
        assert_eq!((a.length, a.mean(0.0, 10.0, 10.0)), (3, vec![3.0, 4.0, 5.0]));
        assert_eq!(a.mean(6.0, 6.0, 10.0), [5.0, 6.0, 7.0]);
        assert_eq!((a.mean(0.0, 4.9, 10.0), a.mean(99.0, 99.0, 10.0)), (vec![1.0, 2.0, 3.0], vec![5.0, 6.0, 7.0]));
        // Arrays of other lengths are read through an archive of their own.
        let alone = |video: &str| FeatureArchive::open(dir.path()).unwrap().read(video);
        assert_eq!(alone("b").unwrap().values, [1.5, 2.5]);
        assert_eq!(alone("c").unwrap().values, [0.5]);
        let error = archive.read("b").unwrap_err().to_string();
        assert!(error.contains("array b.npy: vectors of 2 numbers, but array v_a.npy has vectors of 3"), "{error}");
        assert!(error.contains(&*dir.path().to_string_lossy()), "{error}");
        for (video, word) in [
            ("big", ">f4"),
            ("fortran", "Fortran"),
            ("nan", "row 1"),
            ("cube", "shape"),
            ("empty", "empty"),
            ("d", "no array"),
        ] {
            let error = archive.read(video).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains(video), "{error}");
        }
        write("v_b.npy", npy_bytes("<f4", false, "(1,)", &[0; 4]));
        assert!(FeatureArchive::open(dir.path()).unwrap_err().to_string().contains("video b"));
    }

    #[test]
    fn reads_npz_and_safetensors() {
        let dir = tempfile::tempdir().unwrap();
        let npz = dir.path().join("all.npz");
        let numbers: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut archive = zip::ZipWriter::new(File::create(&npz).unwrap());
        archive.start_file("v_a.npy", zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(&npy_bytes("<f4", false, "(2, 2)", &numbers)).unwrap();
        archive.finish().unwrap();
        let safetensors = dir.path().join("all.safetensors");
        let array = tensors::NamedTensor::new("a", &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
        let bytes = tensors::write(&[array], tensors::StoredPrecision::F16, Default::default());
        std::fs::write(&safetensors, bytes).unwrap();
        for path in [npz, safetensors] {
            let archive = FeatureArchive::open(&path).unwrap();
            assert!(archive.has("a") && !archive.has("v_a"));
            assert_eq!(archive.read("a").unwrap(), FeatureArray { values: vec![1.0, 2.0, 3.0, 4.0], length: 2 });
        }
        let other = dir.path().join("x.zip");
        let error = || FeatureArchive::open(&other).unwrap_err().to_string();
        assert!(error().contains("x.zip: No such file"), "{}", error());
        std::fs::write(&other, "x").unwrap();
        assert!(error().contains("x.zip: neither"), "{}", error());
    }

    #[test]
    fn mean_of_large_numbers_is_finite() {
        let array = FeatureArray { values: vec![3e38; 4], length: 1 };
        assert_eq!(array.mean(0.0, 1.0, 1.0), [3e38]);
    }

    #[cfg(feature = "hdf5")]
    #[test]
    fn reads_hdf5_datasets_and_groups() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("all.h5");
        let file = hdf5_metno::File::create(&path).unwrap();
        let group = file.create_group("v_b").unwrap();
        for (place, name) in [(&*file, "v_a"), (&group, "c3d_features")] {
            let dataset = place.new_dataset::<f32>().shape([2, 2]).create(name).unwrap();
            dataset.write_raw(&[1f32, 2.0, 3.0, 4.0][..]).unwrap();
        }
        drop((group, file));
        let archive = FeatureArchive::open(&path).unwrap();
        for video in ["a", "b"] {
            assert_eq!(archive.read(video).unwrap(), FeatureArray { values: vec![1.0, 2.0, 3.0, 4.0], length: 2 });
        }
    }

    #[cfg(not(feature = "hdf5"))]
    #[test]
    fn reports_missing_hdf5_support() {
        let file = tempfile::Builder::new().suffix(".h5").tempfile().unwrap();
        assert!(matches!(FeatureArchive::open(file.path()), Err(Error::NoHdf5 { .. })));
    }
}
