//! Learned image and clip networks, one file each.
//!
//! [`pooled`] makes an encoder of any image network and needs no tensor library. The networks themselves
//! compute with [candle](candle_core) and exist with the feature `encoders`.

#[cfg(feature = "encoders")]
mod attention;
#[cfg(feature = "encoders")]
pub(super) mod c3d;
#[cfg(feature = "encoders")]
pub(super) mod clip;
#[cfg(feature = "encoders")]
mod conv;
#[cfg(feature = "encoders")]
pub(super) mod dinov2;
#[cfg(feature = "encoders")]
pub(super) mod mobileclip;
#[cfg(feature = "encoders")]
pub(super) mod mobilenet_v2;
pub(super) mod pooled;
#[cfg(all(test, feature = "encoders"))]
mod reference;
#[cfg(feature = "encoders")]
pub(super) mod siglip;
#[cfg(feature = "encoders")]
mod vit;
#[cfg(feature = "encoders")]
mod weights;
