//! Cosine of mapped features: images are mapped to the videos' length by least squares over the training pairs, and compared as they are. The paper
//! (Table 3, first row) does not say how its features were mapped; this reading is ours. Where both have one length nothing is mapped
//! or learned.

use super::{Fitted, Lengths, Method, Training};
use crate::eval::retrieval::Error;

pub(super) struct Cosine;

impl Method for Cosine {
    fn name(&self) -> &'static str {
        "cosine of mapped features"
    }

    fn lengths(&self) -> Lengths {
        Lengths::Video
    }

    fn fit(&self, training: &Training<'_>, _seed: u64) -> Result<Fitted, Error> {
        Ok(Fitted::of(training.mapped(Lengths::Video)?))
    }
}
