//! Generalized Multimodal Fusion: features of unequal lengths into one shared, invariant space (Xiong et al., "Generalized
//! Multimodal Fusion via Poisson-Nernst-Planck Equation").
//!
//! | part | what it holds |
//! |---|---|
//! | [`Config`] | lengths, magnification, boundary; what the model costs |
//! | [`Weights`] | the numbers, their file, folding |
//! | [`Folded`] | what indexing and searching use: one affine map for each modality |
//! | [`Gmf`] | the model as candle modules: parts, exchange, reconstruction |
//! | [`Objective`] | the losses |
//! | [`Stepper`] | one step of training: [`Cpu`] by hand, [`Autograd`] through candle |
//! | [`train()`] | epochs, validation, schedule, resuming |
//! | [`fit`] | the closed-form fit from which training on one's own videos starts |
//!
//! All maps are affine, so dissociation and concentration fold exactly into one matrix and one bias for each modality:
//! `inv(f) = W f + c`, `W = P_cinv · P_dis[0..b]` of shape `l* x l`, `l* = min l`.

mod checkpoint;
mod config;
mod curve;
mod data;
pub mod fit;
mod loss;
mod model;
mod options;
mod resume;
mod step;
mod train;
mod weights;

pub use checkpoint::{Affine, Error, Folded, Record};
pub use config::{Config, ConfigError, Map, Modality};
pub use curve::{Curve, Point};
pub use data::Data;
pub use loss::{Losses, Objective, Relation, Relations, Task};
pub use model::{Autograd, Fused, Gmf, Parts, dissociation_loss, task_loss};
pub use options::{Device, Options, Plateau};
pub use step::{Batch, Cpu, Descent, StepError, Stepper, gradients, step_flops};
pub use train::{Outcome, Progress, Run, TrainError, train};
pub use weights::Weights;
