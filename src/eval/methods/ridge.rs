//! Ridge regression (Hoerl and Kennard, 1970) of the one modality on the other: `W = C (S + λ s I)⁻¹` with S the covariance of what is mapped, s its mean
//! eigenvalue and C the covariance with what it is mapped to, over the training pairs. λ is chosen on the validation rows.

use super::{Fitted, Lengths, Method, Training, regression};
use crate::eval::embedding::Maps;
use crate::eval::retrieval::Error;

pub(super) struct Ridge {
    /// Images are mapped to the videos' length, or videos to the images'.
    pub(super) from_image: bool,
}

impl Method for Ridge {
    fn name(&self) -> &'static str {
        "ridge regression"
    }

    fn lengths(&self) -> Lengths {
        if self.from_image { Lengths::Video } else { Lengths::Image }
    }

    fn fit(&self, training: &Training<'_>, _seed: u64) -> Result<Fitted, Error> {
        let plain = training.mapped(Lengths::Both)?;
        let moments = training.moments(&plain)?;
        let fit = |ridge| {
            let map = regression(&moments, self.from_image, ridge)?;
            Ok(match self.from_image {
                true => Maps { image: map, ..plain.clone() },
                false => Maps { video: map, ..plain.clone() },
            })
        };
        Ok(Fitted::of(training.best_ridge(fit)?))
    }
}
