//! Methods that make images and videos comparable: the rows of the table. Each is one file; what it gives is a pair of maps.

mod cca;
mod cosine;
mod gmf;
mod linear;
mod ridge;

use std::time::Instant;

use super::embedding::{Map, Maps};
use super::retrieval::{self, Error};
use crate::features::{Matrix, Row, Set, Split, Table};
use crate::gmf::{Affine, Data, Options};
pub use gmf::RATE as GMF_RATE;
use linear::{Dense, Moments};

/// Ridges that validation chooses from, as shares of the mean eigenvalue; the first without validation.
const RIDGES: [f64; 5] = [1e-1, 1e-3, 1e-2, 1.0, 10.0];

/// A way to make images and videos comparable.
pub trait Method: Sync {
    /// Its name in tables.
    fn name(&self) -> &'static str;

    /// Whether it stands in the table of a set whose images and videos have these lengths: not where it would be another row once more, or cannot be.
    fn applies(&self, _image: usize, _video: usize) -> bool {
        true
    }

    /// Whether it depends on the seed: then it is run for each.
    fn is_seeded(&self) -> bool {
        false
    }

    /// The method, fitted to training data.
    ///
    /// # Errors
    /// [`Error::Data`] if there is nothing to fit it to; what is wrong with the features; an interruption.
    fn fit(&self, training: &Training<'_>, seed: u64) -> Result<Fitted, Error>;
}

/// In which lengths features enter a method. Where images and videos differ and the method wants one length, features of the one are mapped first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lengths {
    /// Both as they are.
    Both,
    /// Videos mapped to the images' length, which must be the shorter: onto their first principal directions.
    Image,
    /// Images mapped to the videos' length: by least squares over the training pairs.
    Video,
}

impl Lengths {
    /// [`Method::applies`], of a method that takes features in any lengths.
    fn apply(self, image: usize, video: usize) -> bool {
        match self {
            Lengths::Both => true,
            Lengths::Image => image < video,
            Lengths::Video => image != video,
        }
    }
}

/// A fitted method.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// What makes features comparable.
    pub maps: Maps,
    /// Lengths of images and videos as they enter the method, after what maps them before it; of a mere map of one to the other, the length compared in.
    pub lengths: (usize, usize),
    /// Parameters, of the whole model where it has more than its maps, and of what maps features before it.
    pub parameters: usize,
    /// Operations for one image and one video through the whole model, a multiply-add as two.
    pub flops: usize,
    /// The epoch that was kept, of a method that has epochs; 0 is its start.
    pub epoch: Option<usize>,
}

impl Fitted {
    /// A method that is its maps and nothing else.
    pub fn of(maps: Maps, lengths: (usize, usize)) -> Fitted {
        let both = [&maps.image, &maps.video];
        let (parameters, flops) =
            (both.iter().map(|map| map.parameters()).sum(), both.iter().map(|map| map.flops()).sum());
        Fitted { maps, lengths, parameters, flops, epoch: None }
    }

    /// A method that compares in one length.
    fn compared(maps: Maps) -> Fitted {
        let lengths = (maps.image.outputs(), maps.video.outputs());
        Fitted::of(maps, lengths)
    }
}

/// What methods are fitted to.
pub struct Training<'a> {
    /// The features.
    pub set: &'a Set,
    /// Which rows are learned from, and which the best choice is made by.
    pub data: Data<'a>,
    /// How GMF is trained.
    pub options: Options,
    /// Asked in between: whether to stop.
    pub stop: &'a (dyn Fn() -> bool + Sync),
    /// Told what is being done.
    pub tell: &'a (dyn Fn(&str) + Sync),
}

impl Training<'_> {
    /// The lengths of images and videos.
    fn lengths(&self) -> (usize, usize) {
        (self.set.images.matrix.columns(), self.set.videos.matrix.columns())
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if not.
    pub fn go_on(&self) -> Result<(), Error> {
        if (self.stop)() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// mAP@10 on the validation rows; `None` if there are none.
    fn validate(&self, maps: &Maps) -> Result<Option<f64>, Error> {
        retrieval::validate(maps, &self.data)
    }

    /// Of the ridges, the one whose maps do best in validation.
    fn best_ridge(&self, fit: impl Fn(f64) -> Result<Maps, Error>) -> Result<Maps, Error> {
        let (mut best, mut failed): (Option<(f64, Maps)>, _) = (None, None);
        for ridge in RIDGES {
            self.go_on()?;
            // Too small a ridge may leave a covariance that cannot be factored.
            let maps = match fit(ridge) {
                Ok(maps) => maps,
                Err(error @ Error::Data(_)) => {
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
        match (best, failed) {
            (Some((_, maps)), _) => Ok(maps),
            (None, failed) => Err(failed.unwrap_or_else(|| Error::Data("no ridge was tried".to_owned()))),
        }
    }

    /// The features as they are.
    fn plain(&self) -> Maps {
        let (image, video) = self.lengths();
        Maps { image: Map::Identity(image), video: Map::Identity(video) }
    }

    /// The maps that bring features to the lengths that a method wants, before the method.
    fn mapped(&self, lengths: Lengths) -> Result<Maps, Error> {
        let (image, video) = self.lengths();
        let plain = self.plain();
        Ok(match lengths {
            _ if image == video => plain,
            Lengths::Both => plain,
            Lengths::Video => {
                let moments = self.moments(&plain)?;
                // As little of a ridge as lets the covariance be factored.
                let tried =
                    [1e-6, 1e-5, 1e-4, 1e-3, 1e-2].into_iter().find_map(|ridge| regression(&moments, true, ridge).ok());
                tried.map_or_else(|| regression(&moments, true, 1e-1), Ok)?
            }
            Lengths::Image if image > video => {
                return Err(Error::Data(format!(
                    "images have {image} numbers and videos {video}: videos cannot be mapped to the images' length by their principal directions; \
                     name the method without -image"
                )));
            }
            Lengths::Image => {
                let moments = self.moments(&plain)?;
                let rows = moments.video.principal(image);
                let bias = offset(&rows, &moments.video.mean);
                Maps { video: Map::Affine(Affine { weight: rows.values, bias }), ..plain }
            }
        })
    }

    fn moments(&self, maps: &Maps) -> Result<Moments, Error> {
        Moments::new(&self.data, (&self.set.images, &maps.image), (&self.set.videos, &maps.video))
    }

    /// The set with its features mapped, then centred and scaled to a mean squared norm of 1 over the rows of the split train; and what undoes the
    /// latter: the means and the factors of images and videos.
    fn mapped_set(&self, maps: &Maps) -> Result<(Set, [Scaling; 2]), Error> {
        let table = |table: &Table, map: &Map, name| -> Result<(Table, Scaling), Error> {
            let all: Vec<u32> = (0..table.rows.len() as u32).collect();
            let (mut values, length) = (map.apply(table, &all, name)?, map.outputs());
            let scaling = Scaling::of(values.chunks_exact(length).zip(&table.rows), length);
            for row in values.chunks_exact_mut(length) {
                row.iter_mut().zip(&scaling.mean).for_each(|(x, mean)| *x = (*x - mean) * scaling.factor);
            }
            Ok((Table { matrix: Matrix::new(values, length), rows: table.rows.clone() }, scaling))
        };
        let (images, of_images) = table(&self.set.images, &maps.image, "image")?;
        let (videos, of_videos) = table(&self.set.videos, &maps.video, "video")?;
        Ok((Set { images, videos, labels: self.set.labels.clone() }, [of_images, of_videos]))
    }
}

/// `(x - mean) factor`.
struct Scaling {
    mean: Vec<f32>,
    factor: f32,
}

impl Scaling {
    fn of<'a>(rows: impl Iterator<Item = (&'a [f32], &'a Row)> + Clone, length: usize) -> Scaling {
        let rows = rows.filter(|(_, about)| about.split == Split::Train).map(|(row, _)| row);
        let n = rows.clone().count().max(1) as f64;
        let mut mean = vec![0f64; length];
        rows.clone().for_each(|row| mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) / n));
        let square = |row: &[f32]| row.iter().zip(&mean).map(|(x, mean)| (f64::from(*x) - mean).powi(2)).sum::<f64>();
        let spread = rows.map(square).sum::<f64>() / n;
        let factor = if spread > 0.0 { 1.0 / spread.sqrt() } else { 1.0 };
        Scaling { mean: mean.into_iter().map(|x| x as f32).collect(), factor: factor as f32 }
    }

    /// The map of scaled features as one of features.
    fn under(&self, map: Affine) -> Affine {
        let weight = Dense { columns: map.inputs(), values: map.weight.iter().map(|w| w * self.factor).collect() };
        let bias = offset(&weight, &self.mean).iter().zip(&map.bias).map(|(shift, c)| c + shift).collect();
        Affine { weight: weight.values, bias }
    }
}

/// The regression of videos on images (`from_image`), or of images on videos: the affine map of least squared error over the training pairs, and what it is
/// compared with, both about the mean of the latter: a cosine about the origin would measure how far from it all features lie.
fn regression(moments: &Moments, from_image: bool, ridge: f64) -> Result<Maps, Error> {
    let (from, to) = if from_image { (&moments.image, &moments.video) } else { (&moments.video, &moments.image) };
    let cross = if from_image { moments.cross.clone() } else { moments.cross.transposed() };
    let weight = from.factor(ridge)?.solve(&cross).transposed();
    let bias = offset(&weight, &from.mean);
    let (mapped, plain) = (Map::Affine(Affine { weight: weight.values, bias }), about(&to.mean));
    Ok(if from_image { Maps { image: mapped, video: plain } } else { Maps { image: plain, video: mapped } })
}

/// `x - mean`.
fn about(mean: &[f32]) -> Map {
    Map::Shift(mean.iter().map(|x| -x).collect())
}

/// `-W mean`.
fn offset(weight: &Dense, mean: &[f32]) -> Vec<f32> {
    weight
        .values
        .chunks_exact(weight.columns)
        .map(|row| -row.iter().zip(mean).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>() as f32)
        .collect()
}

/// `second` after `first`, as one map.
fn chain(first: &Map, second: &Map) -> Map {
    let sum = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<f32>>();
    match (first, second) {
        (Map::Identity(_), map) | (map, Map::Identity(_)) => map.clone(),
        (Map::Shift(first), Map::Shift(second)) => Map::Shift(sum(first, second)),
        (Map::Affine(first), Map::Shift(second)) => {
            Map::Affine(Affine { weight: first.weight.clone(), bias: sum(&first.bias, second) })
        }
        (first, Map::Affine(second)) => {
            let outer = Dense { values: second.weight.clone(), columns: second.inputs() };
            let inside = |shift: &[f32]| {
                second.bias.iter().zip(offset(&outer, shift)).map(|(c, minus)| c - minus).collect::<Vec<f32>>()
            };
            Map::Affine(match first {
                Map::Affine(first) => {
                    let inner = Dense { values: first.weight.clone(), columns: first.inputs() };
                    Affine { weight: outer.times(&inner).values, bias: inside(&first.bias) }
                }
                Map::Shift(shift) => Affine { weight: second.weight.clone(), bias: inside(shift) },
                Map::Identity(_) => second.clone(),
            })
        }
    }
}

/// One map after another, for both modalities.
fn chain_both(first: &Maps, second: &Maps) -> Maps {
    Maps { image: chain(&first.image, &second.image), video: chain(&first.video, &second.video) }
}

/// All methods, in the order of the table: by the name that `--method` takes.
pub fn all() -> Vec<(&'static str, Box<dyn Method>)> {
    vec![
        ("cosine", Box::new(cosine::Cosine)),
        ("ridge", Box::new(ridge::Ridge { from_image: true })),
        ("ridge-image", Box::new(ridge::Ridge { from_image: false })),
        ("cca-image", Box::new(cca::Cca { lengths: Lengths::Image })),
        ("cca", Box::new(cca::Cca { lengths: Lengths::Both })),
        ("gmf-image", Box::new(gmf::Gmf { lengths: Lengths::Image })),
        ("gmf-video", Box::new(gmf::Gmf { lengths: Lengths::Video })),
        ("gmf", Box::new(gmf::Gmf { lengths: Lengths::Both })),
    ]
}

/// The method of that name.
///
/// # Errors
/// [`Error::Data`] with all names, if there is none.
pub fn named(name: &str) -> Result<Box<dyn Method>, Error> {
    let mut all = all();
    match all.iter().position(|(known, _)| *known == name) {
        Some(at) => Ok(all.swap_remove(at).1),
        None => {
            let known: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
            Err(Error::Data(format!("there is no method {name}; there are {}", known.join(", "))))
        }
    }
}

/// The method fitted without training data, if it needs none: features of one length are compared as they are.
pub fn without_training(name: &str, set: &Set) -> Option<Fitted> {
    let (image, video) = (set.images.matrix.columns(), set.videos.matrix.columns());
    (name == "cosine" && image == video)
        .then(|| Fitted::compared(Maps { image: Map::Identity(image), video: Map::Identity(video) }))
}

/// A method, and what it took.
#[derive(Debug)]
pub struct Run {
    /// The method, fitted.
    pub fitted: Fitted,
    /// Seconds to fit it.
    pub seconds: f64,
}

/// Fits a method and measures the time.
///
/// # Errors
/// As [`Method::fit`].
pub fn run(method: &dyn Method, training: &Training<'_>, seed: u64) -> Result<Run, Error> {
    let start = Instant::now();
    let fitted = method.fit(training, seed)?;
    Ok(Run { fitted, seconds: start.elapsed().as_secs_f64() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_one_map_after_the_other() {
        let row = Row { id: "a".into(), labels: vec![], split: Split::Test, video: None, moment: None, span_s: None };
        let table = |values: Vec<f32>| Table { matrix: Matrix::new(values, 2), rows: vec![row.clone()] };
        let affine =
            |weight: [f32; 4], bias: [f32; 2]| Map::Affine(Affine { weight: weight.into(), bias: bias.into() });
        let firsts = [Map::Identity(2), Map::Shift(vec![1.0, -2.0]), affine([1.0, 2.0, -1.0, 0.5], [0.25, 3.0])];
        let seconds = [Map::Identity(2), Map::Shift(vec![0.5, 4.0]), affine([0.0, 3.0, 2.0, -2.0], [1.0, -1.0])];
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
