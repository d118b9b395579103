//! Cosine of mapped features: images are mapped to the videos' length by least squares over the training pairs, and compared about the training pairs'
//! mean. The paper (Table 3, first row) does not say how its features were mapped; this reading is ours. Where both have one length nothing is
//! mapped: each side is centred by its own mean.

use super::{Fitted, Lengths, Method, Training, about};
use crate::eval::embedding::Maps;
use crate::eval::retrieval::Error;

pub(super) struct Cosine;

impl Method for Cosine {
    fn name(&self) -> &'static str {
        "cosine of mapped features"
    }

    fn fit(&self, training: &Training<'_>, _seed: u64) -> Result<Fitted, Error> {
        let (image, video) = training.lengths();
        if image != video {
            return Ok(Fitted::compared(training.mapped(Lengths::Video)?));
        }
        let moments = training.moments(&training.plain())?;
        Ok(Fitted::compared(Maps { image: about(&moments.image.mean), video: about(&moments.video.mean) }))
    }
}
