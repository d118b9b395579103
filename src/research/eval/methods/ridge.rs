//! Ridge regression (Hoerl and Kennard, 1970) of one modality on the other: `W = C (S + λ s I)⁻¹`, with S the
//! covariance of the mapped side over the training pairs, s its mean eigenvalue and C its covariance with the
//! other side. Both sides are compared about the means of the training pairs. λ is chosen on the validation
//! rows.

use super::{FittedMethod, Method, TrainingContext, regression};
use crate::research::eval::Error;

pub(super) struct RidgeMethod {
    /// Whether images are mapped to the videos' length; otherwise videos are mapped to the images' length.
    pub(super) from_image: bool,
}

impl Method for RidgeMethod {
    fn name(&self) -> &'static str {
        if self.from_image { "ridge regression of videos on images" } else { "ridge regression of images on videos" }
    }

    fn fit(&self, training: &TrainingContext<'_>, _seed: u64) -> Result<FittedMethod, Error> {
        let statistics = training.statistics(&training.identity())?;
        let maps = training.best_ridge(|ridge| regression(&statistics, self.from_image, ridge))?;
        Ok(FittedMethod::compared(maps))
    }
}
