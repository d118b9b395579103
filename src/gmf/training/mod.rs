//! Training of GMF models.

mod autograd;
mod cpu;
mod curve;
mod data;
#[cfg(test)]
mod golden;
mod loss;
mod model;
mod options;
mod resume;
mod run;
mod step;
mod weights;

pub use autograd::AutogradStepper;
pub use cpu::{CpuStepper, gradients, step_flops};
pub use curve::{CurvePoint, LearningCurve};
pub use data::{PairGroup, TrainingData};
pub use loss::{Losses, Objective, Relation, Relations, TaskLoss};
pub use model::{Fused, GmfModel, ModalityParts, dissociation_loss, task_loss};
pub use options::{PlateauSchedule, TrainDevice, TrainOptions};
pub use resume::resume_path;
pub use run::{TrainError, TrainOutcome, TrainProgress, TrainingRun, train};
pub use step::{SgdOptions, StepError, Stepper, TrainingBatch};
pub use weights::GmfWeights;
