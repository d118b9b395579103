//! Learned image and clip networks, one file each, over [candle](candle_core).

mod attention;
pub(super) mod c3d;
mod c3d_weights;
pub(super) mod clip;
mod conv;
pub(super) mod dinov2;
pub(super) mod mobileclip;
pub(super) mod mobilenet_v2;
mod pickle;
pub(super) mod pooled;
#[cfg(test)]
mod reference;
pub(super) mod siglip;
mod weights;
