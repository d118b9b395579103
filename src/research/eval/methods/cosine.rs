//! Cosine of mapped features: images are mapped to the videos' length by least squares over the training
//! pairs, and compared about the mean of the training pairs. The paper (Table 3, first row) does not define
//! its map; this one is our choice. If both lengths are equal, nothing is mapped or fitted: features of one
//! encoder are compared as they are, about the origin.

use super::{FittedMethod, LengthPolicy, Method, TrainingContext};
use crate::research::eval::Error;

pub(super) struct CosineMethod;

impl Method for CosineMethod {
    fn name(&self) -> &'static str {
        "cosine of mapped features"
    }

    fn fit(&self, training: &TrainingContext<'_>, _seed: u64) -> Result<FittedMethod, Error> {
        Ok(FittedMethod::compared(training.preceding_maps(LengthPolicy::Video)?))
    }
}
