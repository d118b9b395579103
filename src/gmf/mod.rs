//! Generalized Multimodal Fusion: features of unequal lengths into one shared, invariant space.
//!
//! This room holds what indexing and searching need: the folded maps ([`Folded`]), their file, and the closed-form fit
//! that makes the checkpoint shipped today ([`fit`]).
//!
//! With affine maps, dissociation and concentration fold exactly into one matrix and one bias for each modality
//! (Xiong et al., "Generalized Multimodal Fusion via Poisson-Nernst-Planck Equation", Algorithm 2):
//! `inv(f) = W f + c`, `W = P_cinv · P_dis[0..b]` of shape `l* x l`, `l* = min l`.

mod checkpoint;
pub mod fit;

pub use checkpoint::{Affine, Error, Folded, Modality, Record};
