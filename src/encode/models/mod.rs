//! Learned image and clip networks, one file each, over [candle](candle_core).

mod attention;
pub(in crate::encode) mod c3d;
mod c3d_weights;
pub(in crate::encode) mod clip;
mod conv;
pub(in crate::encode) mod dinov2;
pub(in crate::encode) mod mobileclip;
pub(in crate::encode) mod mobilenet_v2;
mod pickle;
pub(in crate::encode) mod pooled;
#[cfg(test)]
mod reference;
pub(in crate::encode) mod siglip;
mod weights;
