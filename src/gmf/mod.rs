//! Generalized Multimodal Fusion (GMF): maps features of unequal lengths into one shared, invariant space
//! (Xiong et al., "Generalized Multimodal Fusion via Poisson-Nernst-Planck Equation").
//!
//! | item | contents |
//! |---|---|
//! | [`GmfConfig`] | lengths, magnification, boundary; number of parameters and operations |
//! | [`Folded`] | one affine map for each modality, for indexing and searching |
//!
//! Training needs the Cargo feature `research`:
//!
//! | item | contents |
//! |---|---|
//! | `GmfWeights` | the weights of all layers, their file, folding |
//! | `GmfModel` | the model as candle modules: parts, exchange, reconstruction |
//! | `Objective` | the losses |
//! | `Stepper` | one training step: `CpuStepper` (gradients by hand), `AutogradStepper` (candle) |
//! | `train` | epochs, validation, learning rate schedule, resuming |
//!
//! All layers are affine, so dissociation and concentration fold exactly into one matrix and one bias for
//! each modality: `inv(f) = W f + c`, `W = P_cinv · P_dis[0..b]` of shape `l* x l`, `l* = min l`.

mod checkpoint;
mod config;
#[cfg(feature = "research")]
mod training;

pub use checkpoint::{Affine, CheckpointRecord, Error, Folded};
pub use config::{ConfigError, GmfConfig, GmfLayer, Modality};
#[cfg(feature = "research")]
pub use training::*;
