//! The closed-form fit on videos from which training starts.

mod discriminant;
mod error;
pub mod licences;
pub mod pairs;

pub use error::Error;

use crate::encode::{Descriptor, Encoder, LayoutEncoder, Projection, layout};
use crate::features::FeatureSet;
use crate::gmf::{Affine, Folded};
use crate::ingest::closed_form;
use discriminant::{PairCovariances, PairStatistics};
use pairs::TrainingExample;

/// A closed-form fit to examples, from which training continues.
#[derive(Debug)]
pub struct FittedStart {
    /// The closed form as a checkpoint.
    pub folded: Folded,
    /// Features of the examples.
    pub set: FeatureSet,
    /// Projection of descriptors to image features, to be stored in a checkpoint. `None` for `layout`, which
    /// projects its features itself.
    pub projection: Option<Affine>,
}

/// Length of the image features to which a fit for this encoder projects.
pub fn image_len(encoder: &dyn Encoder) -> usize {
    encoder.info().image_len.min(closed_form::LENGTH)
}

/// Fits to named examples. `refitted` replaces the embedded projection of the encoder `layout`. A seeded
/// share `held_out` of the videos is the split `val` of the set.
///
/// # Errors
/// [`enum@Error`] if there are too few examples, or if the encoder fails.
pub fn start(
    examples: &[(String, TrainingExample)],
    encoder: &dyn Encoder,
    refitted: Option<&Projection>,
    held_out: f32,
    seed: u64,
) -> Result<FittedStart, Error> {
    let covariances = covariances(examples, encoder)?;
    let length = image_len(encoder);
    let is_layout = encoder.info().id == layout::ID;
    let projection = if is_layout {
        let embedded = LayoutEncoder::embedded();
        let Projection { mean, rows } = refitted.unwrap_or(embedded.projection());
        Affine::centred(rows.clone(), mean)
    } else {
        Affine::centred(covariances.basis(length)?, &covariances.mean())
    };
    let weight = covariances.through(&projection.weight).discriminant(length)?;
    let folded = closed_form::mean_of_frames(encoder, &Affine { weight, bias: vec![0.0; length] }, &projection)?;
    let features = |descriptor: &Descriptor| projection.apply(descriptor.values());
    let set = pairs::feature_set(examples, encoder, features, held_out, seed)?;
    Ok(FittedStart { folded, set, projection: (!is_layout).then_some(projection) })
}

/// A new projection of the encoder `layout`: the mean descriptor, and orthonormal rows that span the
/// directions that separate the videos best.
///
/// # Errors
/// [`enum@Error`] if there are too few examples.
pub fn layout_projection(examples: &[(String, TrainingExample)], encoder: &dyn Encoder) -> Result<Projection, Error> {
    let covariances = covariances(examples, encoder)?;
    Ok(Projection { mean: covariances.mean(), rows: covariances.basis(layout::IMAGE_LEN)? })
}

fn covariances(examples: &[(String, TrainingExample)], encoder: &dyn Encoder) -> Result<PairCovariances, Error> {
    let mut statistics = PairStatistics::new(encoder.info().descriptor_len);
    examples.iter().for_each(|(_, example)| example.add_to(&mut statistics));
    if encoder.info().id == layout::ID {
        // A mirrored picture is as likely as the picture itself.
        statistics.symmetrise(layout::mirror_index);
    }
    statistics.covariances()
}
