//! Cosine of mapped features: images are mapped to the videos' length by least squares over the training pairs, and compared about the training pairs'
//! mean. The paper (Table 3, first row) does not say how its features were mapped; this reading is ours. Where both have one length nothing is mapped
//! or learned: features are compared as they are, about the origin, as those of one encoder are meant to be.

use super::{Fitted, Lengths, Method, Training};
use crate::research::eval::retrieval::Error;

pub(super) struct Cosine;

impl Method for Cosine {
    fn name(&self) -> &'static str {
        "cosine of mapped features"
    }

    fn fit(&self, training: &Training<'_>, _seed: u64) -> Result<Fitted, Error> {
        Ok(Fitted::compared(training.mapped(Lengths::Video)?))
    }
}
