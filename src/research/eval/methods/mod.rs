//! Methods that map images and videos into one space: the rows of the table. Each method has its own file and
//! fits a pair of maps.

mod cca;
mod cosine;
mod gmf;
mod linear;
mod ridge;

use super::Error;
use super::embedding::{FeatureMap, FeatureMaps};
use super::retrieval;
use crate::features::{FeatureMatrix, FeatureRow, FeatureSet, FeatureTable, Split};
use crate::gmf::{Affine, TrainOptions, TrainingData};
pub use gmf::RATE as GMF_RATE;
use linear::{CrossStatistics, DenseMatrix};

/// Ridges that validation chooses from, as shares of the mean eigenvalue. Without validation, the first is
/// used.
const RIDGES: [f64; 5] = [1e-1, 1e-3, 1e-2, 1.0, 10.0];

/// A method that maps images and videos into one space.
pub trait Method: Sync {
    /// Name that the table shows.
    fn name(&self) -> &'static str;

    /// Whether the table includes the method for images and videos of these lengths. A method is left out if
    /// it is impossible or equals another row.
    fn applies(&self, _image: usize, _video: usize) -> bool {
        true
    }

    /// Whether the method depends on the seed. If so, the table runs it with each seed.
    fn is_seeded(&self) -> bool {
        false
    }

    /// Fits the method to training data.
    ///
    /// # Errors
    /// If the features cannot be read or the fit is impossible; [`Error::Interrupted`].
    fn fit(&self, training: &TrainingContext<'_>, seed: u64) -> Result<FittedMethod, Error>;
}

/// Lengths in which features enter a method. If images and videos have different lengths and the method needs
/// one length, one side is mapped first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LengthPolicy {
    /// Both lengths stay as they are.
    Both,
    /// Videos are mapped to the images' length, which must be the shorter, by their first principal
    /// directions.
    Image,
    /// Images are mapped to the videos' length, by least squares over the training pairs.
    Video,
}

impl LengthPolicy {
    /// [`Method::applies`] for a method that accepts features of any length.
    fn apply(self, image: usize, video: usize) -> bool {
        match self {
            LengthPolicy::Both => true,
            LengthPolicy::Image => image < video,
            LengthPolicy::Video => image != video,
        }
    }
}

/// A fitted method.
#[derive(Debug, Clone)]
pub struct FittedMethod {
    /// The maps of images and videos.
    pub maps: FeatureMaps,
    /// Lengths of the image and video features that enter the method, after preceding maps. If the method
    /// only maps one side to the other, both are the length of the compared vectors.
    pub lengths: (usize, usize),
    /// Number of parameters of the whole model and of preceding maps.
    pub parameters: usize,
    /// Operations for one image and one video through the whole model and preceding maps; a multiply-add
    /// counts as two.
    pub flops: usize,
    /// Kept epoch of a method with epochs; 0 if its start was kept.
    pub epoch: Option<usize>,
}

impl FittedMethod {
    /// A method that consists of its maps.
    pub fn from_maps(maps: FeatureMaps, lengths: (usize, usize)) -> FittedMethod {
        let both = [&maps.image, &maps.video];
        let (parameters, flops) =
            (both.iter().map(|map| map.parameters()).sum(), both.iter().map(|map| map.flops()).sum());
        FittedMethod { maps, lengths, parameters, flops, epoch: None }
    }

    /// A method that compares features of one length.
    fn compared(maps: FeatureMaps) -> FittedMethod {
        let lengths = (maps.image.outputs(), maps.video.outputs());
        FittedMethod::from_maps(maps, lengths)
    }
}

/// Input of the methods' fits.
pub struct TrainingContext<'a> {
    /// The feature set.
    pub set: &'a FeatureSet,
    /// Rows for training and validation.
    pub data: TrainingData<'a>,
    /// Training options of GMF.
    pub options: TrainOptions,
    /// Returns true to stop the fit; called between steps.
    pub stop: &'a (dyn Fn() -> bool + Sync),
    /// Receives a description of each step.
    pub on_progress: &'a (dyn Fn(&str) + Sync),
}

impl<'a> TrainingContext<'a> {
    /// A context that is never stopped and reports no progress.
    pub fn new(data: TrainingData<'a>, options: TrainOptions) -> TrainingContext<'a> {
        TrainingContext { set: data.set(), data, options, stop: &|| false, on_progress: &|_| {} }
    }

    /// Feature lengths of images and videos.
    fn lengths(&self) -> (usize, usize) {
        (self.set.images.matrix.columns(), self.set.videos.matrix.columns())
    }

    /// Checks whether the fit was stopped.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if it was.
    pub fn check_stop(&self) -> Result<(), Error> {
        if (self.stop)() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// mAP@10 on the validation rows; `None` without validation rows.
    fn validate(&self, maps: &FeatureMaps) -> Result<Option<f64>, Error> {
        retrieval::validate(maps, &self.data)
    }

    /// Fits with each ridge and returns the maps with the best validation.
    fn best_ridge(&self, fit: impl Fn(f64) -> Result<FeatureMaps, Error>) -> Result<FeatureMaps, Error> {
        let (mut best, mut failed): (Option<(f64, FeatureMaps)>, Option<Error>) = (None, None);
        for ridge in RIDGES {
            self.check_stop()?;
            // With too small a ridge, a covariance may not be positive definite.
            let maps = match fit(ridge) {
                Ok(maps) => maps,
                Err(error @ Error::Singular { .. }) => {
                    failed = Some(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some(score) = self.validate(&maps)? else { return Ok(maps) };
            if best.as_ref().is_none_or(|(highest, _)| score > *highest) {
                best = Some((score, maps));
            }
        }
        match best {
            Some((_, maps)) => Ok(maps),
            None => Err(failed.expect("every ridge succeeds or fails, and there are ridges")),
        }
    }

    /// Maps that keep the features as they are.
    fn identity(&self) -> FeatureMaps {
        let (image, video) = self.lengths();
        FeatureMaps { image: FeatureMap::identity(image), video: FeatureMap::identity(video) }
    }

    /// Maps of the features to the lengths that a method needs.
    fn preceding_maps(&self, lengths: LengthPolicy) -> Result<FeatureMaps, Error> {
        let (image, video) = self.lengths();
        let identity = self.identity();
        Ok(match lengths {
            _ if image == video => identity,
            LengthPolicy::Both => identity,
            LengthPolicy::Video => {
                let statistics = self.statistics(&identity)?;
                // The smallest ridge with which the covariance can be factored.
                let mut small = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2].into_iter();
                let fitted = small.find_map(|ridge| regression(&statistics, true, ridge).ok());
                fitted.map_or_else(|| regression(&statistics, true, 1e-1), Ok)?
            }
            LengthPolicy::Image if image > video => {
                return Err(Error::ImagesLonger { image, video });
            }
            LengthPolicy::Image => {
                let statistics = self.statistics(&identity)?;
                let rows = statistics.video.principal(image);
                let bias = offset(&rows, &statistics.video.mean);
                FeatureMaps { video: Affine { weight: rows.values, bias }.into(), ..identity }
            }
        })
    }

    fn statistics(&self, maps: &FeatureMaps) -> Result<CrossStatistics, Error> {
        CrossStatistics::new(&self.data, (&self.set.images, &maps.image), (&self.set.videos, &maps.video))
    }

    /// The set with mapped features, centred and scaled to a mean squared norm of 1 over the rows of the
    /// split train, and the scalings of images and videos.
    fn mapped_set(&self, maps: &FeatureMaps) -> Result<(FeatureSet, [Scaling; 2]), Error> {
        let table = |table: &FeatureTable, map: &FeatureMap, name| -> Result<(FeatureTable, Scaling), Error> {
            let all: Vec<u32> = (0..table.rows.len() as u32).collect();
            let (mut values, length) = (map.apply(table, &all, name)?, map.outputs());
            let scaling = Scaling::new(values.chunks_exact(length).zip(&table.rows), length);
            for row in values.chunks_exact_mut(length) {
                row.iter_mut().zip(&scaling.mean).for_each(|(x, mean)| *x = (*x - mean) * scaling.factor);
            }
            Ok((FeatureTable { matrix: FeatureMatrix::new(values, length), rows: table.rows.clone() }, scaling))
        };
        let (images, image_scaling) = table(&self.set.images, &maps.image, "image")?;
        let (videos, video_scaling) = table(&self.set.videos, &maps.video, "video")?;
        Ok((FeatureSet { images, videos, labels: self.set.labels.clone() }, [image_scaling, video_scaling]))
    }
}

/// The map `(x - mean) factor`.
struct Scaling {
    mean: Vec<f32>,
    factor: f32,
}

impl Scaling {
    fn new<'a>(rows: impl Iterator<Item = (&'a [f32], &'a FeatureRow)> + Clone, length: usize) -> Scaling {
        let rows = rows.filter(|(_, about)| about.split == Split::Train).map(|(row, _)| row);
        let n = rows.clone().count().max(1) as f64;
        let mut mean = vec![0f64; length];
        rows.clone().for_each(|row| mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) / n));
        let square = |row: &[f32]| row.iter().zip(&mean).map(|(x, mean)| (f64::from(*x) - mean).powi(2)).sum::<f64>();
        let spread = rows.map(square).sum::<f64>() / n;
        let factor = if spread > 0.0 { 1.0 / spread.sqrt() } else { 1.0 };
        Scaling { mean: mean.into_iter().map(|x| x as f32).collect(), factor: factor as f32 }
    }

    /// Converts a map of scaled features to a map of features.
    fn unscale(&self, map: Affine) -> Affine {
        let weight =
            DenseMatrix { columns: map.inputs(), values: map.weight.iter().map(|w| w * self.factor).collect() };
        let bias = offset(&weight, &self.mean).iter().zip(&map.bias).map(|(shift, c)| c + shift).collect();
        Affine { weight: weight.values, bias }
    }
}

/// Regression of videos on images (`from_image`), or of images on videos: the affine map of least squared
/// error over the training pairs. The mean of the target side is subtracted from both sides, because
/// otherwise the cosine would depend on the distance of all features from the origin.
fn regression(statistics: &CrossStatistics, from_image: bool, ridge: f64) -> Result<FeatureMaps, Error> {
    let (from, to) =
        if from_image { (&statistics.image, &statistics.video) } else { (&statistics.video, &statistics.image) };
    let cross = if from_image { statistics.cross.clone() } else { statistics.cross.transposed() };
    let weight = from.factor(ridge)?.solve(&cross).transposed();
    let bias = offset(&weight, &from.mean);
    let (mapped, centred) = (Affine { weight: weight.values, bias }.into(), centring(&to.mean));
    Ok(if from_image {
        FeatureMaps { image: mapped, video: centred }
    } else {
        FeatureMaps { image: centred, video: mapped }
    })
}

/// The map `x - mean`.
fn centring(mean: &[f32]) -> FeatureMap {
    FeatureMap::shift(mean.iter().map(|x| -x).collect())
}

/// The vector `-W mean`.
fn offset(weight: &DenseMatrix, mean: &[f32]) -> Vec<f32> {
    weight
        .values
        .chunks_exact(weight.columns)
        .map(|row| -row.iter().zip(mean).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>() as f32)
        .collect()
}

/// One map that equals `second` after `first`.
fn chain(first: &FeatureMap, second: &FeatureMap) -> FeatureMap {
    let outer = DenseMatrix { values: second.weight.clone(), columns: second.inputs };
    let weight = match (first.weight.is_empty(), second.weight.is_empty()) {
        (_, true) => first.weight.clone(),
        (true, false) => second.weight.clone(),
        (false, false) => outer.times(&DenseMatrix { values: first.weight.clone(), columns: first.inputs }).values,
    };
    let bias = match (first.bias.is_empty(), second.bias.is_empty()) {
        (true, _) => second.bias.clone(),
        (false, true) => first.bias.clone(),
        (false, false) if second.weight.is_empty() => first.bias.iter().zip(&second.bias).map(|(a, b)| a + b).collect(),
        (false, false) => {
            let minus = offset(&outer, &first.bias);
            second.bias.iter().zip(minus).map(|(c, minus)| c - minus).collect()
        }
    };
    FeatureMap { inputs: first.inputs, weight, bias }
}

/// [`chain`] of both modalities.
fn chain_both(first: &FeatureMaps, second: &FeatureMaps) -> FeatureMaps {
    FeatureMaps { image: chain(&first.image, &second.image), video: chain(&first.video, &second.video) }
}

/// Names and methods, in the order of the table.
pub fn all() -> Vec<(&'static str, Box<dyn Method>)> {
    vec![
        ("cosine", Box::new(cosine::CosineMethod)),
        ("ridge", Box::new(ridge::RidgeMethod { from_image: true })),
        ("ridge-image", Box::new(ridge::RidgeMethod { from_image: false })),
        ("cca-image", Box::new(cca::CcaMethod { lengths: LengthPolicy::Image })),
        ("cca", Box::new(cca::CcaMethod { lengths: LengthPolicy::Both })),
        ("gmf-image", Box::new(gmf::GmfMethod { lengths: LengthPolicy::Image })),
        ("gmf-video", Box::new(gmf::GmfMethod { lengths: LengthPolicy::Video })),
        ("gmf", Box::new(gmf::GmfMethod { lengths: LengthPolicy::Both })),
    ]
}

/// The method of a name.
///
/// # Errors
/// [`Error::UnknownMethod`] with the names of all methods.
pub fn by_name(name: &str) -> Result<Box<dyn Method>, Error> {
    let mut all = all();
    match all.iter().position(|(known, _)| *known == name) {
        Some(at) => Ok(all.swap_remove(at).1),
        None => {
            let known: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
            Err(Error::UnknownMethod { name: name.to_owned(), known: known.join(", ") })
        }
    }
}

/// The fitted method if it needs no training data. This is the case for cosine with images and videos of one
/// length, which compares them as they are.
pub fn without_training(name: &str, set: &FeatureSet) -> Option<FittedMethod> {
    let (image, video) = (set.images.matrix.columns(), set.videos.matrix.columns());
    (name == "cosine" && image == video).then(|| {
        FittedMethod::compared(FeatureMaps { image: FeatureMap::identity(image), video: FeatureMap::identity(video) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_equals_one_map_after_the_other() {
        let row = FeatureRow::new("a", Split::Test);
        let table = |values: Vec<f32>| FeatureTable { matrix: FeatureMatrix::new(values, 2), rows: vec![row.clone()] };
        let affine =
            |weight: [f32; 4], bias: [f32; 2]| FeatureMap::from(Affine { weight: weight.into(), bias: bias.into() });
        let firsts =
            [FeatureMap::identity(2), FeatureMap::shift(vec![1.0, -2.0]), affine([1.0, 2.0, -1.0, 0.5], [0.25, 3.0])];
        let seconds =
            [FeatureMap::identity(2), FeatureMap::shift(vec![0.5, 4.0]), affine([0.0, 3.0, 2.0, -2.0], [1.0, -1.0])];
        for first in &firsts {
            for second in &seconds {
                let once = first.apply(&table(vec![0.75, -1.5]), &[0], "image").unwrap();
                let twice = second.apply(&table(once), &[0], "image").unwrap();
                let chained = chain(first, second).apply(&table(vec![0.75, -1.5]), &[0], "image").unwrap();
                assert_eq!(chained, twice, "{first:?} {second:?}");
            }
        }
    }
}
