//! Ridge regression (Hoerl and Kennard, 1970) of the one modality on the other: `W = C (S + λ s I)⁻¹` with S the covariance of what is mapped, s its mean
//! eigenvalue and C the covariance with what it is mapped to, over the training pairs; both sides are
//! centred by the training pairs' means, and compared about those. λ is chosen on the validation rows.

use super::{Fitted, Method, Training, regression};
use crate::research::eval::retrieval::Error;

pub(super) struct Ridge {
    /// Images are mapped to the videos' length, or videos to the images'.
    pub(super) from_image: bool,
}

impl Method for Ridge {
    fn name(&self) -> &'static str {
        if self.from_image { "ridge regression of videos on images" } else { "ridge regression of images on videos" }
    }

    fn fit(&self, training: &Training<'_>, _seed: u64) -> Result<Fitted, Error> {
        let moments = training.moments(&training.plain())?;
        let maps = training.best_ridge(|ridge| regression(&moments, self.from_image, ridge))?;
        Ok(Fitted::compared(maps))
    }
}
