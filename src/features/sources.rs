//! Features that others extracted, an array a video: a folder of `.npy` files, one `.npz`, one `.safetensors` or, with the Cargo
//! feature `hdf5`, one `.h5`.
//!
//! An array is named by its video (`v_` in front, and an ending such as `.npy`, are passed over). It holds one vector of the whole video, shape
//! (length), or vectors that are evenly spread over its time, (vectors, length); (1, vectors, length) is read as the latter.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::Error;
use super::activitynet::video_id;
use crate::base::tensors;

/// Vectors of one video, evenly spread over its time.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Row after row.
    pub values: Vec<f32>,
    /// Numbers of a vector.
    pub length: usize,
}

/// Where features are.
pub struct Source {
    path: PathBuf,
    /// What each video's array is called in the source, by the video's name.
    names: BTreeMap<String, String>,
    kind: Kind,
    /// The first array that was read, and the length of its vectors: all have the same.
    first: OnceLock<(String, usize)>,
}

enum Kind {
    Folder,
    Npz(std::sync::Mutex<npyz::npz::NpzArchive<BufReader<File>>>),
    Safetensors(tensors::File<'static>),
    #[cfg(feature = "hdf5")]
    Hdf5(hdf5_metno::File),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("path", &self.path).field("videos", &self.names.len()).finish_non_exhaustive()
    }
}

impl Source {
    /// Opens a source and lists its videos. Nothing else is read.
    ///
    /// # Errors
    /// [`Error::Io`], if it is not there too; [`Error::Source`] if it is none of the kinds, or two arrays are of the same video.
    pub fn open(path: &Path) -> Result<Source, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let wrong = |found: String| Error::Source { path: path.to_owned(), found };
        std::fs::metadata(path).map_err(io)?;
        let (kind, arrays) = if path.is_dir() {
            let mut arrays = Vec::new();
            for entry in std::fs::read_dir(path).map_err(io)? {
                let name = entry.map_err(io)?.file_name().to_string_lossy().into_owned();
                if name.ends_with(".npy") {
                    arrays.push(name);
                }
            }
            (Kind::Folder, arrays)
        } else {
            match path.extension().and_then(|end| end.to_str()) {
                Some("npz") => {
                    let archive = npyz::npz::NpzArchive::open(path).map_err(io)?;
                    let arrays = archive.array_names().map(str::to_owned).collect();
                    (Kind::Npz(std::sync::Mutex::new(archive)), arrays)
                }
                Some("safetensors") => {
                    let file = tensors::open(path).map_err(|error| wrong(error.to_string()))?;
                    let arrays = file.names();
                    (Kind::Safetensors(file), arrays)
                }
                Some("h5" | "hdf5") => hdf5(path)?,
                _ => return Err(wrong("neither a folder nor a file of a known ending".to_owned())),
            }
        };
        let mut names = BTreeMap::new();
        for array in arrays {
            let stem = array.strip_suffix(".npy").unwrap_or(&array);
            let video = video_id(stem).to_owned();
            if let Some(other) = names.insert(video.clone(), array.clone()) {
                return Err(wrong(format!("both {other} and {array} of video {video}")));
            }
        }
        if names.is_empty() {
            return Err(wrong("no arrays".to_owned()));
        }
        Ok(Source { path: path.to_owned(), names, kind, first: OnceLock::new() })
    }

    /// Whether there is something of this video.
    pub fn has(&self, video: &str) -> bool {
        self.names.contains_key(video)
    }

    /// The videos.
    pub fn videos(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// The array of a video that the source has.
    ///
    /// # Errors
    /// [`Error::Source`] with the array's name: another shape or kind of numbers, an empty array, NaN or infinity with its row,
    /// vectors of another length than those of the array that was read first.
    pub fn read(&self, video: &str) -> Result<Array, Error> {
        let wrong = |found: String| Error::Source { path: self.path.clone(), found };
        let name = self.names.get(video).ok_or_else(|| wrong(format!("no array of video {video}")))?;
        let told = |found: String| wrong(format!("array {name}: {found}"));
        let (values, shape) = match &self.kind {
            Kind::Folder => {
                let path = self.path.join(name);
                let file = File::open(&path).map_err(|source| Error::Io { path, source })?;
                npy(npyz::NpyFile::new(BufReader::new(file)).map_err(|e| told(e.to_string()))?).map_err(told)?
            }
            Kind::Npz(archive) => {
                let mut archive = archive.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let found = archive.by_name(name).map_err(|e| told(e.to_string()))?;
                npy(found.ok_or_else(|| told("it is gone".to_owned()))?).map_err(told)?
            }
            Kind::Safetensors(file) => {
                let shape = file.shape(name).map_err(|e| told(e.to_string()))?;
                (file.take(name, &shape).map_err(|e| told(e.to_string()))?, shape)
            }
            #[cfg(feature = "hdf5")]
            Kind::Hdf5(file) => read_hdf5(file, name).map_err(|e| told(e.to_string()))?,
        };
        let length = match shape.as_slice() {
            [length] | [_, length] | [1, _, length] => *length,
            _ => return Err(told(format!("shape {shape:?}; expected (length) or (vectors, length)"))),
        };
        if values.is_empty() || length == 0 {
            return Err(told("it is empty".to_owned()));
        }
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(told(format!("row {} holds {}", at / length, values[at])));
        }
        let (other, expected) = self.first.get_or_init(|| (name.clone(), length));
        if length != *expected {
            return Err(told(format!("vectors of {length} numbers, where those of array {other} have {expected}")));
        }
        Ok(Array { values, length })
    }
}

impl Array {
    /// The mean of the vectors between two times of a video that is `duration_s` long; the nearest one if there is none between. Vector `i` of `n` stands
    /// for the time from `i / n` to `(i + 1) / n` of the video.
    pub fn mean(&self, from_s: f64, to_s: f64, duration_s: f64) -> Vec<f32> {
        let n = self.values.len() / self.length;
        let place = |at: f64| if duration_s > 0.0 { (at / duration_s * n as f64).max(0.0) } else { 0.0 };
        let first = (place(from_s) as usize).min(n - 1);
        let last = (place(to_s).ceil() as usize).clamp(first + 1, n);
        // Summed in double precision: the sum of large numbers may be none of single precision, their mean is.
        let mut sums = vec![0f64; self.length];
        for row in self.values.chunks_exact(self.length).take(last).skip(first) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        sums.into_iter().map(|sum| (sum / (last - first) as f64) as f32).collect()
    }
}

/// Numbers and shape.
fn npy<R: Read>(file: npyz::NpyFile<R>) -> Result<(Vec<f32>, Vec<usize>), String> {
    if file.order() != npyz::Order::C {
        return Err("Fortran order; save it with numpy.ascontiguousarray".to_owned());
    }
    let shape =
        file.shape().iter().map(|n| usize::try_from(*n).map_err(|e| e.to_string())).collect::<Result<_, _>>()?;
    let kind = file.dtype().descr();
    let error = |e: std::io::Error| e.to_string();
    let values = match kind.trim_matches('\'') {
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

#[cfg(not(feature = "hdf5"))]
fn hdf5(path: &Path) -> Result<(Kind, Vec<String>), Error> {
    let found = "HDF5, which this program was built without: build it with `cargo build --release --features hdf5` (it needs libhdf5), or convert it to .npz";
    Err(Error::Source { path: path.to_owned(), found: found.to_owned() })
}

#[cfg(feature = "hdf5")]
fn hdf5(path: &Path) -> Result<(Kind, Vec<String>), Error> {
    let wrong = |error: hdf5_metno::Error| Error::Source { path: path.to_owned(), found: error.to_string() };
    let file = hdf5_metno::File::open(path).map_err(wrong)?;
    let arrays = file.member_names().map_err(wrong)?;
    Ok((Kind::Hdf5(file), arrays))
}

/// A dataset of that name; or, where the name is a group's (as in ActivityNet's own C3D features), its only member.
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
    Ok((dataset.read_raw::<f32>()?, dataset.shape()))
}

#[cfg(test)]
pub(super) mod tests {
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
    fn a_folder_of_arrays() {
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
        let source = Source::open(dir.path()).unwrap();
        assert_eq!(source.videos().count(), 8);
        let a = source.read("a").unwrap();
        assert_eq!((a.length, a.mean(0.0, 10.0, 10.0)), (3, vec![3.0, 4.0, 5.0]));
        assert_eq!(a.mean(6.0, 6.0, 10.0), [5.0, 6.0, 7.0]);
        assert_eq!((a.mean(0.0, 4.9, 10.0), a.mean(99.0, 99.0, 10.0)), (vec![1.0, 2.0, 3.0], vec![5.0, 6.0, 7.0]));
        // Each of another length: as others that were opened alone.
        let alone = |video: &str| Source::open(dir.path()).unwrap().read(video);
        assert_eq!(alone("b").unwrap().values, [1.5, 2.5]);
        assert_eq!(alone("c").unwrap().values, [0.5]);
        let error = source.read("b").unwrap_err().to_string();
        assert!(error.contains("array b.npy: vectors of 2 numbers, where those of array v_a.npy have 3"), "{error}");
        assert!(error.contains(&*dir.path().to_string_lossy()), "{error}");
        for (video, word) in [
            ("big", ">f4"),
            ("fortran", "Fortran"),
            ("nan", "row 1"),
            ("cube", "shape"),
            ("empty", "empty"),
            ("d", "no array"),
        ] {
            let error = source.read(video).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains(video), "{error}");
        }
        write("v_b.npy", npy_bytes("<f4", false, "(1,)", &[0; 4]));
        assert!(Source::open(dir.path()).unwrap_err().to_string().contains("video b"));
    }

    #[test]
    fn one_npz_and_one_safetensors() {
        let dir = tempfile::tempdir().unwrap();
        let npz = dir.path().join("all.npz");
        let mut writer = npyz::npz::NpzWriter::create(&npz).unwrap();
        {
            use npyz::WriterBuilder;
            let mut array =
                writer.array("v_a", Default::default()).unwrap().default_dtype().shape(&[2, 2]).begin_nd().unwrap();
            array.extend([1f32, 2.0, 3.0, 4.0]).unwrap();
            array.finish().unwrap();
        }
        drop(writer);
        let safetensors = dir.path().join("all.safetensors");
        let bytes =
            tensors::write(&[("a", &[2, 2], &[1.0, 2.0, 3.0, 4.0])], tensors::Precision::F16, Default::default());
        std::fs::write(&safetensors, bytes).unwrap();
        for path in [npz, safetensors] {
            let source = Source::open(&path).unwrap();
            assert!(source.has("a") && !source.has("v_a"));
            assert_eq!(source.read("a").unwrap(), Array { values: vec![1.0, 2.0, 3.0, 4.0], length: 2 });
        }
        let other = dir.path().join("x.zip");
        let error = || Source::open(&other).unwrap_err().to_string();
        assert!(error().contains("x.zip: No such file"), "{}", error());
        std::fs::write(&other, "x").unwrap();
        assert!(error().contains("x.zip: neither"), "{}", error());
    }

    #[test]
    fn the_mean_of_large_numbers_is_one() {
        let array = Array { values: vec![3e38; 4], length: 1 };
        assert_eq!(array.mean(0.0, 1.0, 1.0), [3e38]);
    }

    #[cfg(feature = "hdf5")]
    #[test]
    fn hdf5_datasets_and_groups_of_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("all.h5");
        let file = hdf5_metno::File::create(&path).unwrap();
        let group = file.create_group("v_b").unwrap();
        for (place, name) in [(&*file, "v_a"), (&group, "c3d_features")] {
            let dataset = place.new_dataset::<f32>().shape([2, 2]).create(name).unwrap();
            dataset.write_raw(&[1f32, 2.0, 3.0, 4.0][..]).unwrap();
        }
        drop((group, file));
        let source = Source::open(&path).unwrap();
        for video in ["a", "b"] {
            assert_eq!(source.read(video).unwrap(), Array { values: vec![1.0, 2.0, 3.0, 4.0], length: 2 });
        }
    }

    #[cfg(not(feature = "hdf5"))]
    #[test]
    fn hdf5_says_how_to_get_it() {
        let file = tempfile::Builder::new().suffix(".h5").tempfile().unwrap();
        let error = Source::open(file.path()).unwrap_err().to_string();
        assert!(error.contains("--features hdf5"), "{error}");
    }
}
