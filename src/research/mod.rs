//! Research on features: training pairs and feature sets from videos, and evaluation.

pub mod eval;
pub mod extract;
pub mod pairs;
